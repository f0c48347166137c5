//! Where a directory goes that nobody prepared a destination for: by cp's rule it depends on what is there,
//! and an attempt after the first finds what that one has made.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // tests

mod support;

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use longshore::api::DataMovementShard;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use support::{Cluster, assert_same, cluster, outcome};
use test_cluster::Link;

/// A copy of a directory as it is asked for without `createDestDir`.
fn unprepared(cluster: &Cluster, name: &str, from: &Path, to: &Path) -> DataMovementShard {
    let mut shard = cluster.shard(name, Some("n1"), from, to);
    shard.spec.preparation = None;
    shard
}

/// The worker copies everything, cannot say so, and is killed: nothing is left of the copy but what it made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_whose_end_nobody_heard_of_is_repeated_in_its_place() {
    let Some(cluster) = cluster("unheard").await else { return };
    let way = cluster.plane.way().await.unwrap();
    let worker = cluster.start_worker_by("n1", &[], &way);
    worker.ready().await;
    let from = cluster.place.tree("in", 240);
    let to = cluster.place.directory("out");
    let there = cluster.place.directory("out/there");
    // One becomes its destination, the other goes inside one that is there.
    for (name, to, inside) in [("new", to.join("new"), false), ("old", there, true)] {
        let mut shard = unprepared(&cluster, name, &from, &to);
        shard.spec.options = Some(vec!["--ops-limit=60".to_owned()]);
        cluster.create(&shard).await;
        let status = cluster.until(name, "copying", |status| status.inside.is_some()).await;
        assert_eq!(status.inside, Some(inside), "noted before the first byte");
    }
    let movers = worker.movers();
    way.set(Link::Refused);
    for mover in movers {
        support::gone_within(mover, support::SOON).await;
    }
    worker.kill().await;
    let worker = cluster.worker("n1", &[]).await;
    for (name, copy) in [("new", to.join("new")), ("old", to.join("there/in"))] {
        let status = cluster.finished(name).await;
        assert_eq!(
            (outcome(&status).as_str(), status.attempts),
            ("Success", Some(2)),
            "{status:#?}"
        );
        assert_same(&from, &copy);
    }
    worker.end().await;
    assert_eq!(cluster.leases().await, 0);
}

/// Has the API server refuse statuses that say where the source goes.
async fn forbid_notes(cluster: &Cluster) {
    let how = PostParams::default();
    let (name, policies, bindings) = forbidding(cluster);
    let policy = json!({
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {
                "namespaceSelector": {
                    "matchLabels": {"kubernetes.io/metadata.name": cluster.namespace},
                },
                "resourceRules": [{
                    "apiGroups": ["longshore.dev"], "apiVersions": ["*"], "operations": ["UPDATE"],
                    "resources": ["datamovementshards/status"],
                }],
            },
            "validations": [{"expression": "!has(object.status.inside)"}],
        },
    });
    policies.create(&how, &serde_json::from_value(policy).unwrap()).await.unwrap();
    let binding = json!({
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    });
    bindings.create(&how, &serde_json::from_value(binding).unwrap()).await.unwrap();
    // It takes a while until the API server heeds it: one that nobody claims shows when.
    let mut probe = cluster.shard("probe", Some("nobody"), Path::new("/a"), Path::new("/b"));
    probe.spec.cancel = Some(true);
    cluster.create(&probe).await;
    let note = Patch::Merge(json!({"status": {"inside": true}}));
    let begin = Instant::now();
    while cluster.shards().patch_status("probe", &PatchParams::default(), &note).await.is_ok() {
        assert!(begin.elapsed() < support::SOON, "it is not heeded");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Has it take them again.
async fn allow_notes(cluster: &Cluster) {
    let how = DeleteParams::default();
    let (name, policies, bindings) = forbidding(cluster);
    bindings.delete(&name, &how).await.unwrap();
    policies.delete(&name, &how).await.unwrap();
}

fn forbidding(
    cluster: &Cluster,
) -> (String, Api<ValidatingAdmissionPolicy>, Api<ValidatingAdmissionPolicyBinding>) {
    let client = cluster.client.clone();
    (format!("no-notes-{}", cluster.namespace), Api::all(client.clone()), Api::all(client))
}

/// A mover that has said where the source goes is killed before that is noted. The next one must not begin
/// by it: whoever comes after that would find what it has made.
#[tokio::test]
async fn nothing_is_copied_before_it_is_noted_where_it_goes() {
    let Some(cluster) = cluster("unnoted").await else { return };
    let worker = cluster.worker("n1", &[]).await;
    let from = cluster.place.tree("in", 3);
    let to = cluster.place.directory("out").join("new");
    forbid_notes(&cluster).await;
    cluster.create(&unprepared(&cluster, "unnoted", &from, &to)).await;
    worker.until("refused", || worker.log().contains("a status was refused")).await;
    let first = worker.mover().await;
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    worker.until("another mover", || worker.movers().iter().any(|mover| *mover != first)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!to.exists(), "it is copied, and nobody knows where");
    allow_notes(&cluster).await;
    let status = cluster.finished("unnoted").await;
    assert_eq!((outcome(&status).as_str(), status.attempts), ("Success", Some(2)), "{status:#?}");
    assert_eq!(status.inside, Some(false));
    assert_same(&from, &to);
    worker.end().await;
}

/// A shard that was made in the place of one that somebody had deleted.
#[tokio::test]
async fn what_was_decided_before_a_shard_holds_for_it() {
    let Some(cluster) = cluster("decided").await else { return };
    let worker = cluster.worker("n1", &[]).await;
    let from = cluster.place.tree("in", 3);
    let to = cluster.place.directory("out");
    let mut shard = unprepared(&cluster, "again", &from, &to);
    shard.spec.inside = Some(false);
    cluster.create(&shard).await;
    let status = cluster.finished("again").await;
    assert_eq!(outcome(&status), "Success", "{status:#?}");
    assert_same(&from, &to); // and not inside it, although it is there
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_are_killed_at_any_moment_copy_to_one_place() {
    let Some(cluster) = cluster("killed-at-random").await else { return };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = now.as_secs() ^ u64::from(now.subsec_nanos());
    eprintln!("seed {seed}");
    let mut random = seed | 1;
    let from = cluster.place.tree("in", 30);
    let to = cluster.place.directory("out");
    let mut worker = cluster.worker("n1", &[]).await;
    for round in 0..10 {
        let name = format!("round-{round}");
        let copy = to.join(&name);
        let mut shard = unprepared(&cluster, &name, &from, &copy);
        shard.spec.options = Some(vec!["--ops-limit=400".to_owned()]);
        cluster.create(&shard).await;
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        tokio::time::sleep(Duration::from_millis(random % 300)).await;
        worker.kill().await;
        worker = cluster.worker("n1", &[]).await;
        let status = cluster.finished(&name).await;
        assert_eq!(outcome(&status), "Success", "{status:#?}");
        assert_same(&from, &copy); // and not a level deeper as well
    }
    worker.end().await;
    assert_eq!(std::fs::read_dir(&worker.run_dir).unwrap().count(), 1, "only the lock is left");
}
