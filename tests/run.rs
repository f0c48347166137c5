//! `longshore run` as people use it: the real binary, real scripts, real kills. What single modules
//! promise is tested beside them.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // a test's panic is its report

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Nothing here takes this long unless it hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// A directory with a job script in it; `@` in the script stands for the directory.
struct Bench {
    root: PathBuf,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        let bench = Self { root, _dir: dir };
        bench.script("job.sh", script);
        bench
    }

    fn script(&self, name: &str, text: &str) {
        fs::write(self.at(name), text.replace('@', self.root.to_str().unwrap())).unwrap();
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn put(&self, path: &str, text: &str) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
        command
            .env_remove("LONGSHORE_STORAGE")
            .current_dir(&self.root)
            .args(["run", "--storage"])
            .arg(self.at("storage"))
            .args(args)
            .stdin(Stdio::null())
            // A terminal's own signals stay away, and signals sent to it count as sent.
            .process_group(0);
        command
    }

    fn run(&self, args: &[&str]) -> End {
        let output = self.command(args).output().unwrap();
        End::of(&output)
    }

    fn start(&self, args: &[&str]) -> Child {
        let log = fs::File::options().create(true).append(true).open(self.at("log")).unwrap();
        self.command(args).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    fn wait_for(&self, path: &str) {
        let path = self.at(path);
        until(&format!("{} exists", path.display()), || path.exists());
    }

    /// The directories of job storage that are there now.
    fn job_storage(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.at("storage")) else {
            return Vec::new();
        };
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| !path.ends_with("runs") && !path.ends_with("persistent")).collect()
    }
}

#[derive(Debug)]
struct End {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl End {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        Self { code: output.status.code(), stdout, stderr }
    }

    #[track_caller]
    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    #[track_caller]
    fn says(&self, part: &str) -> &Self {
        assert!(self.stderr.contains(part), "{part:?} is not in {}", self.stderr);
        self
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn node() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    name.trim().split('.').next().unwrap().to_owned()
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

/// Mode, modification time and content (or target) of every path below a directory.
type Tree = BTreeMap<PathBuf, (u32, i64, i64, Vec<u8>)>;

fn tree(root: &Path) -> Tree {
    let mut tree = BTreeMap::new();
    for entry in walkdir::WalkDir::new(root).min_depth(1) {
        let entry = entry.unwrap();
        let meta = entry.metadata().unwrap();
        let content = if meta.is_symlink() {
            fs::read_link(entry.path()).unwrap().into_os_string().into_encoded_bytes()
        } else if meta.is_file() {
            fs::read(entry.path()).unwrap()
        } else {
            Vec::new()
        };
        let path = entry.path().strip_prefix(root).unwrap().to_owned();
        tree.insert(path, (meta.mode(), meta.mtime(), meta.mtime_nsec(), content));
    }
    tree
}

/// The first path in which two trees differ.
fn difference(left: &Tree, right: &Tree) -> Option<PathBuf> {
    let paths = left.keys().chain(right.keys());
    paths.into_iter().find(|path| left.get(*path) != right.get(*path)).cloned()
}

/// A small generator, since the seed must be printed and can be given again.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = std::env::var("LONGSHORE_SEED").ok().and_then(|text| text.parse().ok());
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
        let seed = seed.unwrap_or_else(|| u64::from(now()) | 1);
        eprintln!("LONGSHORE_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

const WHOLE: &str = "#!/bin/sh
#DW jobdw type=xfs capacity=4GiB name=my-fs
#DW copy_in source=@/in/ destination=$DW_JOB_my_fs/data
#DW copy_out source=$DW_JOB_my_fs/out/ destination=@/res
";

#[test]
fn wrong_directives_are_all_listed_and_nothing_is_written() {
    let bench = Bench::new(
        "#!/bin/sh\n#DW stage_in a=b\n\n#DW copy_in source=@/in verify=yes destination=$DW_JOB_x\n\
         #DW jobdw type=ext4 capacity=1GiB name=fs\n#DW container name=con profile=red\n\
         touch @/ran\n",
    );
    let end = bench.run(&["job.sh"]).expect(2);
    end.says("line 2: unknown command 'stage_in'; known are jobdw, create_persistent")
        .says("line 4: copy_in has no argument 'verify'; it takes source, destination, profile")
        .says("line 5: jobdw: type=ext4 is not allowed")
        .says("line 6: containers run on a cluster only");
    assert!(!bench.at("ran").exists() && !bench.at("storage").exists());
}

#[test]
fn the_report_does_not_overwrite_the_script() {
    let bench = Bench::new("#!/bin/sh\ntouch @/ran\n");
    let script = bench.read("job.sh");
    bench.run(&["--report", "./job.sh", "job.sh"]).expect(2).says("would overwrite");
    assert_eq!(bench.read("job.sh"), script);
    assert!(!bench.at("ran").exists());
}

#[test]
fn a_missing_source_and_an_unfit_destination_are_found_before_anything_is_written() {
    let bench = Bench::new(
        "#DW jobdw type=xfs capacity=1GiB name=fs\n\
         #DW copy_in source=@/none destination=$DW_JOB_fs\n\
         #DW copy_in source=relative destination=$DW_JOB_fs\n\
         #DW copy_in source=@/job.sh destination=@/x\n\
         touch @/ran\n",
    );
    let end = bench.run(&["job.sh"]).expect(2);
    end.says("line 3: source=relative: the path must be absolute")
        .says("line 4: copy_in needs a destination= in job or persistent storage");
    bench.script(
        "job.sh",
        "#DW jobdw type=xfs capacity=1GiB name=fs\n\
         #DW copy_in source=@/none destination=$DW_JOB_fs\n\
         #DW copy_out source=$DW_JOB_fs destination=@/job.sh/below\ntouch @/ran\n",
    );
    let end = bench.run(&["job.sh"]).expect(2);
    end.says("line 2: source=").says("does not exist").says("line 3: destination=");
    bench.run(&["--dry-run", "job.sh"]).expect(2).says("line 2: source=");
    assert!(!bench.at("ran").exists() && !bench.at("storage").exists());
}

#[test]
fn the_job_gets_its_environment_arguments_and_streams_and_gives_its_exit_code() {
    let bench = Bench::new(
        "#DW jobdw type=lustre capacity=1GiB name=big-fs\n\
         #DW jobdw type=xfs capacity=1GiB name=fast\n\
         env | grep -E '^(DW_|LONGSHORE_ALLOC)' | sort\necho \"arguments: $1,$2\"\nexit 7\n",
    );
    let end = bench.run(&["--allocations", "2", "job.sh", "--", "a b", "--resume"]).expect(7);
    assert!(end.stdout.ends_with("arguments: a b,--resume\n"), "{end:#?}");
    let value = |name: &str| {
        let prefix = format!("{name}=");
        let line = end.stdout.lines().find_map(|line| line.strip_prefix(&prefix));
        line.unwrap_or_else(|| panic!("{name}: {end:#?}")).to_owned()
    };
    let (big, fast) = (value("DW_JOB_big_fs"), value("DW_JOB_fast"));
    assert!(big.ends_with("-0") && big.starts_with(bench.at("storage").to_str().unwrap()));
    assert!(fast.ends_with(&format!("-1/{}-0", node())), "{fast}");
    assert_eq!(value("DW_JOB_LUSTRE"), big);
    assert_eq!(value("DW_JOB_XFS"), fast);
    assert_eq!(value("DW_JOBS"), format!("big-fs:{big},fast:{fast}"));
    let second = fast.strip_suffix('0').unwrap();
    assert_eq!(value("LONGSHORE_ALLOCATIONS_fast"), format!("{fast}:{second}1"));
    assert_eq!(value("DW_WORKFLOW_NAME"), "job");
    assert_eq!(value("DW_WORKFLOW_NAMESPACE"), "default");
    assert!(bench.job_storage().is_empty());
}

#[test]
fn the_interpreter_of_the_first_line_is_used_and_signals_become_codes() {
    let bench = Bench::new("#!/usr/bin/env -S sh -u\necho $0 >@/name; kill -9 $$\n");
    bench.run(&["job.sh"]).expect(137);
    assert_eq!(bench.read("name"), "job.sh\n");
    bench.script("job.sh", "#!/no/such/interpreter\n");
    bench.run(&["job.sh"]).expect(2).says("line 1: the interpreter /no/such/interpreter");
}

#[test]
fn every_allocation_gets_the_input_and_its_results_an_index_directory() {
    let bench = Bench::new(
        "#DW jobdw type=gfs2 capacity=1GiB name=fs\n\
         #DW copy_in source=@/in destination=$DW_JOB_fs/\n\
         #DW copy_in source=@/in/ destination=$DW_JOB_fs/contents\n\
         #DW copy_in source=@/in/a destination=$DW_JOB_fs/renamed\n\
         #DW copy_out source=$DW_JOB_fs destination=@/bare\n\
         #DW copy_out source=$DW_JOB_fs/ destination=@/slash\n\
         #DW copy_out source=$DW_JOB_fs/in/ destination=@/dir\n\
         #DW copy_out source=$DW_JOB_fs/renamed destination=@/file/new\n\
         #DW copy_out source=$DW_JOB_fs/renamed destination=@/into/\n\
         IFS=:; for d in $LONGSHORE_ALLOCATIONS_fs; do echo \"$d\" > \"$d/who\"; done\n",
    );
    bench.put("in/a", "a");
    bench.put("in/sub/b", "b");
    bench.run(&["--allocations", "3", "job.sh"]).expect(0);
    for index in 0..3 {
        let n = format!("{}-{index}", node());
        for root in [format!("bare/{n}"), format!("slash/{n}")] {
            assert_eq!(bench.read(&format!("{root}/in/sub/b")), "b");
            assert_eq!(bench.read(&format!("{root}/contents/sub/b")), "b");
            assert_eq!(bench.read(&format!("{root}/renamed")), "a");
            assert!(bench.read(&format!("{root}/who")).ends_with(&format!("{n}\n")));
        }
        assert_eq!(bench.read(&format!("dir/{n}/sub/b")), "b");
        assert_eq!(bench.read(&format!("file/{n}/new")), "a");
        assert_eq!(bench.read(&format!("into/{n}/renamed")), "a");
    }
    assert_eq!(fs::read_dir(bench.at("bare")).unwrap().count(), 3);
}

#[test]
fn a_lustre_storage_is_one_place_without_index_directories() {
    let bench = Bench::new(
        "#DW jobdw type=lustre capacity=1GiB name=fs\n\
         #DW copy_in source=@/in/ destination=$DW_JOB_fs/in\n\
         #DW copy_out source=$DW_JOB_fs/in destination=@/res\n\
         test -f $DW_JOB_fs/in/a\n",
    );
    bench.put("in/a", "a");
    bench.run(&["--allocations", "3", "job.sh"]).expect(0);
    assert_eq!(bench.read("res/in/a"), "a");
}

#[test]
fn persistent_storage_is_created_used_by_another_job_and_destroyed() {
    let bench = Bench::new("#DW create_persistent type=xfs capacity=1GiB name=keep-it\n");
    bench.put("in/a", "a");
    bench.script(
        "use.sh",
        "#DW persistentdw name=keep-it\n\
         #DW copy_in source=@/in/ destination=$DW_PERSISTENT_keep_it/in\n\
         #DW copy_out source=$DW_PERSISTENT_keep_it/ destination=@/res\n\
         cp $DW_PERSISTENT_keep_it/in/a $DW_PERSISTENT_keep_it/copy\n\
         test \"$DW_PERSISTENTS\" = \"keep-it:$DW_PERSISTENT_keep_it\"\n",
    );
    bench.script("destroy.sh", "#DW destroy_persistent name=keep-it\n");
    bench.run(&["use.sh"]).expect(2).says("line 1: persistent storage 'keep-it' does not exist");
    bench.run(&["job.sh"]).expect(0);
    bench.run(&["job.sh"]).expect(2).says("exists already");
    bench.run(&["use.sh"]).expect(0);
    assert_eq!(bench.read(&format!("res/{}-0/copy", node())), "a");
    assert!(bench.at("storage/persistent/keep-it").exists());
    bench.run(&["destroy.sh"]).expect(0);
    assert!(!bench.at("storage/persistent/keep-it").exists());
    bench.run(&["destroy.sh"]).expect(2).says("does not exist");
}

#[test]
fn known_filesystems_decide_which_paths_are_global() {
    let bench = Bench::new(
        "#DW jobdw type=xfs capacity=1GiB name=fs\n\
         #DW copy_in source=@/lus10/a destination=$DW_JOB_fs\n",
    );
    bench.put("lus1/a", "a");
    bench.put("lus10/a", "a");
    bench.script(
        "filesystems.yaml",
        "apiVersion: lus.cray.hpe.com/v1beta1\nkind: LustreFileSystem\nmetadata:\n  name: one\n\
         spec:\n  name: lus1\n  mgsNids: 10.0.0.1\n  mountRoot: \"@/lus1\"\n",
    );
    let args = ["--filesystems", "filesystems.yaml", "job.sh"];
    bench.run(&args).expect(2).says("line 2: source=").says("no global filesystem contains");
    bench.run(&["job.sh"]).expect(0);
    bench.script("filesystems.yaml", "apiVersion: v1\nkind: Pod\n");
    bench.run(&args).expect(2).says("document 1 is a v1 Pod");
}

#[test]
fn a_dry_run_says_everything_and_writes_nothing() {
    let bench = Bench::new(&format!("{WHOLE}touch @/ran\n"));
    bench.put("in/a", "a");
    let before = tree(&bench.root);
    let end = bench.run(&["--dry-run", "--allocations", "2", "job.sh", "--", "x"]).expect(0);
    for part in
        ["DataIn", "line 3: copy_in", "line 4: copy_out", "DW_JOB_my_fs=", "/bin/sh job.sh x"]
    {
        assert!(end.stdout.contains(part), "{part}: {}", end.stdout);
    }
    assert_eq!(difference(&tree(&bench.root), &before), None);
}

#[test]
fn the_report_says_what_each_copy_did() {
    let bench = Bench::new(&format!("{WHOLE}mkdir $DW_JOB_my_fs/out\nexit 3\n"));
    bench.put("in/a", "abc");
    bench.run(&["--report", "report.json", "job.sh"]).expect(3);
    let report: serde_json::Value = serde_json::from_str(&bench.read("report.json")).unwrap();
    assert_eq!(report["exit_code"], 3);
    assert_eq!(report["job_exit_code"], 3);
    assert_eq!(report["state"], "Done");
    assert_eq!(report["copies"][0]["line"], 3);
    assert_eq!(report["copies"][0]["report"]["copied"]["files"], 1);
    assert_eq!(report["copies"][1]["direction"], "copy_out");
}

#[test]
fn a_failed_data_out_keeps_the_storage_until_resume_has_staged_it_out() {
    let bench = Bench::new(&format!("{WHOLE}echo ran >> @/count\n"));
    bench.put("in/a", "a");
    let end = bench.run(&["job.sh"]).expect(1);
    end.says("line 4 copy_out").says("does not exist").says("is kept in").says("--resume");
    let storage = bench.job_storage();
    assert_eq!(storage.len(), 1, "{storage:?}");
    bench.run(&["job.sh"]).expect(2).says("stopped in DataOut").says("--fresh");
    bench.run(&["--resume", "job.sh"]).expect(1);
    let out = storage[0].join(format!("{}-0/out", node()));
    fs::create_dir(&out).unwrap();
    fs::write(out.join("late"), "result").unwrap();
    bench.run(&["--resume", "job.sh"]).expect(0);
    assert_eq!(bench.read(&format!("res/{}-0/late", node())), "result");
    assert_eq!(bench.read("count"), "ran\n");
    assert!(bench.job_storage().is_empty());
    bench.run(&["--resume", "job.sh"]).expect(0).says("already ended");
    assert_eq!(bench.read("count"), "ran\n");
}

#[test]
fn a_changed_script_is_not_resumed_but_may_start_afresh() {
    let bench = Bench::new(WHOLE);
    bench.put("in/a", "a");
    bench.run(&["job.sh"]).expect(1);
    bench.script("job.sh", &format!("{WHOLE}mkdir $DW_JOB_my_fs/out\n"));
    bench.run(&["--resume", "job.sh"]).expect(2).says("the script has changed");
    bench.run(&["--fresh", "job.sh"]).expect(0);
    assert!(bench.job_storage().is_empty());
}

/// A job whose body waits until `go` exists.
fn waiting() -> String {
    format!(
        "{WHOLE}mkdir -p $DW_JOB_my_fs/out\necho ran >> $DW_JOB_my_fs/out/runs\n\
         echo ran >> @/count\necho $$ > @/pid.new; mv @/pid.new @/pid\n\
         while ! test -e @/go; do sleep 0.02; done\n"
    )
}

#[test]
fn a_body_that_lost_its_longshore_is_never_run_twice_unasked() {
    for (choice, code, runs) in [("--skip-job", 1, "ran\n"), ("--rerun-job", 0, "ran\nran\n")] {
        let bench = Bench::new(&waiting());
        bench.put("in/a", "a");
        let mut child = bench.start(&["job.sh"]);
        bench.wait_for("pid");
        kill(pid(&child), Signal::SIGKILL).unwrap();
        child.wait().unwrap();
        // It lives on; nobody may touch its storage.
        bench.run(&["--resume", choice, "job.sh"]).expect(2).says("already running");
        bench.put("go", "");
        until("the body has ended", || {
            let end = bench.run(&["--resume", "job.sh"]);
            !end.stderr.contains("already running")
        });
        let end = bench.run(&["--resume", "job.sh"]).expect(2);
        end.says("--skip-job").says("--rerun-job");
        assert_eq!(bench.read("count"), "ran\n");
        bench.run(&["--resume", choice, "job.sh"]).expect(code);
        assert_eq!(bench.read("count"), runs);
        assert_eq!(bench.read(&format!("res/{}-0/runs", node())), runs);
    }
}

#[test]
fn two_runs_of_one_script_cannot_meet_but_other_arguments_are_another_run() {
    let bench = Bench::new(&waiting());
    bench.put("in/a", "a");
    let mut child = bench.start(&["job.sh"]);
    bench.wait_for("pid");
    for start in
        [&["--resume"][..], &["--resume", "--rerun-job"], &["--fresh"], &["--dry-run"], &[]]
    {
        bench.run(&[start, &["job.sh"]].concat()).expect(2).says("already running");
    }
    bench.put("go", "");
    bench.run(&["job.sh", "--", "other"]).expect(0);
    assert!(child.wait().unwrap().success(), "{}", bench.read("log"));
}

#[test]
fn signals_stop_a_run_with_their_code_and_resume_goes_on_behind_the_body() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let bench = Bench::new(&waiting());
        bench.put("in/a", "a");
        let mut child = bench.start(&["job.sh"]);
        bench.wait_for("pid");
        kill(pid(&child), signal).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(code), "{}", bench.read("log"));
        assert!(bench.read("log").contains("--resume"), "{}", bench.read("log"));
        assert_eq!(bench.job_storage().len(), 1);
        // The job's own end is what remains of it.
        bench.run(&["--resume", "job.sh"]).expect(code);
        assert_eq!(bench.read("count"), "ran\n");
        assert_eq!(bench.read(&format!("res/{}-0/runs", node())), "ran\n");
    }
}

/// Enough files of many sizes that a copy can be killed in its middle.
fn fill(root: &Path, random: &mut Random) {
    let mut content = Vec::new();
    while content.len() < 3 << 20 {
        content.extend(random.below(u64::MAX).to_le_bytes());
    }
    for directory in 0..20 {
        let directory = root.join(format!("d{directory}"));
        fs::create_dir_all(&directory).unwrap();
        for file in 0..100 {
            let limit = if file == 0 { content.len() } else { 6000 };
            let length = usize::try_from(random.below(u64::try_from(limit).unwrap())).unwrap();
            let path = directory.join(format!("f{file}"));
            fs::write(&path, &content[content.len() - length..]).unwrap();
            let mode = [0o644, 0o600, 0o755, 0o400][file % 4];
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        std::os::unix::fs::symlink("f1", directory.join("link")).unwrap();
        fs::hard_link(directory.join("f2"), directory.join("hard")).unwrap();
    }
}

/// Guards against what a kill could do: files left out or left half by the resumed run, copies
/// nested into earlier ones, a job that runs again.
#[test]
fn a_run_killed_at_random_moments_ends_exact_when_resumed() {
    let mut random = Random::new();
    let bench = Bench::new(
        "#DW jobdw type=lustre capacity=4GiB name=fs\n\
         #DW copy_in source=@/in/ destination=$DW_JOB_fs/in\n\
         #DW copy_in source=@/in destination=$DW_JOB_fs/again\n\
         #DW copy_out source=$DW_JOB_fs/ destination=@/res\n\
         echo ran >> @/count\n",
    );
    fill(&bench.at("in"), &mut random);
    let mut kills = 0;
    while kills < 12 {
        let mut child = bench.start(&["--resume", "--progress", "none", "job.sh"]);
        std::thread::sleep(Duration::from_millis(random.below(120)));
        let _ = kill(pid(&child), Signal::SIGKILL); // it fails when the run has just ended
        kills += 1;
        if child.wait().unwrap().success() {
            break;
        }
    }
    let mut reruns = 0;
    until("the run has ended", || {
        let mut end = bench.run(&["--resume", "job.sh"]);
        if end.code == Some(2) && end.stderr.contains("already running") {
            return false; // its body has outlived it
        }
        if end.code == Some(2) && end.stderr.contains("--rerun-job") {
            reruns += 1;
            end = bench.run(&["--resume", "--rerun-job", "job.sh"]);
        }
        end.expect(0);
        true
    });
    let source = tree(&bench.at("in"));
    assert_eq!(source.len(), 20 * 103);
    for copy in ["res/in", "res/again/in"] {
        let difference = difference(&tree(&bench.at(copy)), &source);
        assert_eq!(difference, None, "in {copy} after {kills} kills, seed in the output");
    }
    let ran = bench.read("count").lines().count();
    assert!((1..=1 + reruns).contains(&ran), "the body ran {ran} times, with {reruns} reruns");
    assert!(bench.job_storage().is_empty());
}

/// Symptom: a job that uses select(2) fails under `longshore run`. Cause: the engine raises the limit
/// of open files for itself and the job inherited it. Guarantee: the job has the limit that the
/// command was started with.
#[test]
fn the_job_keeps_the_limit_of_open_files_that_the_command_had() {
    let bench = Bench::new(
        "#!/bin/sh\n#DW jobdw type=xfs capacity=1GiB name=work\n\
         #DW copy_in source=@/in/ destination=$DW_JOB_work/in\nulimit -Sn > @/limit\n",
    );
    bench.put("in/file", "x");
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if hard <= 700 {
        println!("skipped: the hard limit of open files is {hard}");
        return;
    }
    let longshore = bench.command(&["job.sh"]);
    let mut limited = Command::new("/bin/sh");
    limited.args(["-c", "ulimit -Sn 700; exec \"$@\"", "sh"]).arg(longshore.get_program());
    limited
        .args(longshore.get_args())
        .envs(longshore.get_envs().filter_map(|(k, v)| Some((k, v?))));
    if let Some(dir) = longshore.get_current_dir() {
        limited.current_dir(dir);
    }
    End::of(&limited.output().unwrap()).expect(0);
    assert_eq!(bench.read("limit").trim(), "700");
}
