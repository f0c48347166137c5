//! What Prometheus reads of the manager and of the worker: promtool finds nothing wrong with it, and the
//! values are those of the objects, of the API server and of the filesystem.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)] // tests

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kube::api::ListParams;
use longshore::api::data_movement::Outcome;
use longshore::api::data_movement_shard::Counters;
use serde_json::json;
use support::ledger::Ledger;
use support::manager::{Manager, value};
use support::rabbit::{COPY, Rabbit, outcome};
use support::real_worker::{Place, RealWorker};
use support::scenes::place;
use test_cluster::{ControlPlane, skip, until};

/// Prometheus' linter: in the path, or where `tests/all.sh` puts it.
fn promtool() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    let own = cache.unwrap_or_else(home).join("longshore/promtool");
    let mut programs = std::env::split_paths(&path).chain([own]).map(|at| at.join("promtool"));
    programs.find(|program| program.exists())
}

/// What promtool finds in what is scraped; nothing when all is well.
fn lint(promtool: &Path, text: &str) -> String {
    let mut command = Command::new(promtool);
    command.args(["check", "metrics"]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.success(), said.is_empty(), "{said}");
    said.into_owned()
}

fn lint_both(promtool: Option<&PathBuf>, manager: &Manager, worker: &RealWorker) {
    if let Some(promtool) = promtool {
        assert_eq!(lint(promtool, &manager.get("/metrics").1), "");
        assert_eq!(lint(promtool, &worker.metrics()), "");
        let wrong = lint(promtool, "# TYPE wrong counter\nwrong 1\n");
        assert!(wrong.contains("_total"), "it finds what is wrong: {wrong}");
    }
}

/// How many files there are in a folder, and how many bytes are in them.
fn found(folder: &Path) -> (u64, u64) {
    let (mut files, mut bytes) = (0, 0);
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        let (more_files, more_bytes) = match metadata.is_dir() {
            true => found(&entry.path()),
            // What is being made has another name, and so has the journal.
            false if entry.file_name().to_string_lossy().starts_with('.') => (0, 0),
            false => (1, metadata.len()),
        };
        (files, bytes) = (files + more_files, bytes + more_bytes);
    }
    (files, bytes)
}

/// A tree of the user with so many files, the first of them with so many bytes, each other with one more.
fn tree(place: &Place, name: &str, files: usize, bytes: usize) {
    place.directory(&format!("in/{name}"));
    for file in 0..files {
        place.file(&format!("in/{name}/{file}"), bytes + file);
    }
}

/// Creates the movement of a tree.
async fn create(rabbit: &Rabbit, place: &Place, name: &str, profile: &str) {
    let mut movement = rabbit.movement(name, profile);
    movement.spec.source.as_mut().unwrap().path = Some(place.text(&format!("in/{name}/")));
    movement.spec.destination.as_mut().unwrap().path = Some(place.text(&format!("out/{name}")));
    rabbit.create(&movement).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_scraped_passes_promtool_and_is_what_was_done() {
    let promtool = promtool();
    if promtool.is_none() {
        skip("the lint of what is scraped needs promtool (Debian's package prometheus)");
    }
    let Some(place) = place("metrics") else { return };
    let Some(plane) = ControlPlane::bare() else { return };
    let rabbit = Rabbit::on(&plane, "metrics").await;
    let manager = rabbit.manager();
    let worker = RealWorker::start(&rabbit, &place, &[]);
    worker.ready().await;
    lint_both(promtool.as_ref(), &manager, &worker);
    rabbit.profile("copy", json!({"command": COPY})).await;
    let slow = "longshore copy --ops-limit 60 $SRC $DEST";
    rabbit.profile("slow", json!({"command": slow, "progressIntervalSeconds": 1})).await;
    let renewed_before =
        value(&worker.metrics(), "longshore_worker_lease_renewals_total{", "result=\"done\"");
    let ledger = Ledger::open(&rabbit.client, &rabbit.namespace).await;

    // Five that succeed, one of which a file cannot be read, one without a source, one without a
    // profile, and one that is cancelled while it runs.
    for copy in 0..5 {
        let name = format!("good-{copy}");
        tree(&place, &name, 3 + copy, 1000 * copy);
        create(&rabbit, &place, &name, "copy").await;
    }
    tree(&place, "failed", 4, 500);
    let unreadable = place.path("in/failed/2");
    std::os::unix::fs::chown(&unreadable, Some(0), Some(0)).unwrap();
    fs::set_permissions(&unreadable, fs::Permissions::from_mode(0o600)).unwrap();
    create(&rabbit, &place, "failed", "copy").await;
    create(&rabbit, &place, "no-source", "copy").await;
    create(&rabbit, &place, "no-profile", "none").await;
    tree(&place, "cancelled", 900, 100);
    create(&rabbit, &place, "cancelled", "slow").await;

    let (running, finished) =
        ("longshore_movements{state=\"running\"}", "longshore_movements{state=\"finished\"}");
    until("one to run and the others to be finished", async || {
        let text = manager.get("/metrics").1;
        (value(&text, running, ""), value(&text, finished, "")) == (1.0, 8.0)
    })
    .await;
    rabbit
        .until("cancelled", |movement| {
            let command =
                movement.status.as_ref().and_then(|status| status.command_status.as_ref());
            command.is_some_and(|command| command.last_message.is_some())
        })
        .await;
    lint_both(promtool.as_ref(), &manager, &worker);
    assert_eq!(value(&worker.metrics(), "longshore_worker_movers", ""), 1.0);
    rabbit.cancel("cancelled").await;
    let status = rabbit.finished("cancelled").await;
    assert_eq!(outcome(&status), Some(Outcome::Cancelled), "{status:?}");

    let mut done = Counters::default();
    for shard in rabbit.shards.list(&ListParams::default()).await.unwrap() {
        let counters = shard.status.unwrap().counters.unwrap_or_default();
        done.bytes += counters.bytes;
        done.files += counters.files;
        done.resumed_bytes += counters.resumed_bytes;
        done.failed += counters.failed;
    }
    let (files, bytes) = found(&place.path("out"));
    assert_eq!((done.files.unsigned_abs(), done.bytes.unsigned_abs()), (files, bytes));
    assert_eq!((done.failed, done.resumed_bytes), (1, 0));
    assert!(files > 3 + 4 + 5 + 6 + 7 + 3, "some were copied before it was cancelled");

    let no_movers = async || value(&worker.metrics(), "longshore_worker_movers", "") == 0.0;
    until("the end of all movers", no_movers).await;
    let all_counted = async || value(&manager.get("/metrics").1, finished, "") == 9.0;
    until("all to be counted", all_counted).await;
    lint_both(promtool.as_ref(), &manager, &worker);
    let written = ledger.so_far().await;
    eprintln!("{written:?}");
    let text = worker.metrics();
    let said = |name: &str, has: &str| value(&text, &format!("longshore_worker_{name}"), has);
    let agree = |what: &str, said: f64, true_value: u64| {
        #[allow(clippy::cast_precision_loss)] // they are few
        let true_value = true_value as f64;
        assert!((said - true_value).abs() < 0.5, "{what}: {said} instead of {true_value}\n{text}");
    };
    agree("files", said("copied_files_total", ""), files);
    agree("bytes", said("copied_bytes_total", ""), bytes);
    agree("failed items", said("failed_items_total", ""), 1);
    agree("resumed bytes", said("resumed_bytes_total", ""), 0);
    agree("claims", said("claims_total{", "\"won\""), 8);
    agree("claims", said("claims_total{", ""), 8);
    agree("claims that were timed", said("claim_seconds_count", ""), 8);
    agree("copies that were timed", said("mover_seconds_count", ""), 8);
    for (outcome, number) in [("Success", 5), ("Failed", 1), ("Invalid", 1), ("Cancelled", 1)] {
        agree(outcome, said("finished_shards_total{", &format!("\"{outcome}\"")), number);
    }
    for nothing in ["released_shards_total", "mover_crashes_total", "mover_stalls_total"] {
        agree(nothing, said(nothing, ""), 0);
    }
    let renewals = said("lease_renewals_total{", "\"done\"") - renewed_before;
    let renewed = written.renewals..=written.renewals + 1; // there may be one more since
    #[allow(clippy::cast_precision_loss)] // they are few
    let renewed = *renewed.start() as f64..=*renewed.end() as f64;
    assert!(renewed.contains(&renewals), "{renewals} renewals instead of {renewed:?}");

    let of_worker = said("shard_writes_total{", "\"done\"");
    let text = manager.get("/metrics").1;
    let said = |name: &str, has: &str| value(&text, &format!("longshore_{name}"), has);
    for (outcome, number) in [("Success", 5), ("Failed", 1), ("Invalid", 2), ("Cancelled", 1)] {
        agree(outcome, said("movements_finished_total{", &format!("\"{outcome}\"")), number);
    }
    agree("starts", said("movement_start_seconds_count", ""), 8);
    agree("durations", said("movement_duration_seconds_count", ""), 9);
    let requests = |resource: &str, verb: &str| {
        let labels = format!("outcome=\"done\",resource=\"{resource}\",verb=\"{verb}\"");
        said("api_requests_total{", &labels)
    };
    let of_movements =
        requests("nnfdatamovements", "patch") + requests("nnfdatamovements", "patch_status");
    // One was the test's, which has cancelled it.
    agree("writes to movements", of_movements, written.done["nnfdatamovements PATCH"] - 1);
    let created = requests("datamovementshards", "create");
    agree("shards that were created", created, written.done["datamovementshards POST"]);
    let of_manager =
        requests("datamovementshards", "patch") + requests("datamovementshards", "patch_status");
    agree("the order to cancel", of_manager, 1);
    let patched = written.done["datamovementshards PATCH"];
    agree("writes to shards", of_manager + of_worker, patched);
    assert_eq!((written.unchanged, written.refused.len()), (0, 0), "{written:?}");
}
