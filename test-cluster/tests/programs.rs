//! The script that builds the programs: with a stand-in for Go that notes how often it was called, and
//! makes in a moment what the real one makes in ten minutes.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)] // tests

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use test_cluster::programs::{self, Programs};

const PROGRAMS: [&str; 3] = ["etcd", "kube-apiserver", "kube-controller-manager"];

/// A machine of its own to the script: its cache, and its Go.
struct Machine(TempDir);

impl Machine {
    fn new(go: Option<&str>) -> Self {
        let machine = Self(TempDir::new().unwrap());
        fs::create_dir(machine.path("bin")).unwrap();
        for program in [
            "bash",
            "cat",
            "cut",
            "dirname",
            "flock",
            "head",
            "mkdir",
            "mktemp",
            "mv",
            "nice",
            "rm",
            "sha256sum",
            "sleep",
            "touch",
        ] {
            let real = ["/bin", "/usr/bin"].map(|folder| Path::new(folder).join(program));
            let real = real.iter().find(|path| path.exists()).expect("a Linux has it");
            std::os::unix::fs::symlink(real, machine.path("bin").join(program)).unwrap();
        }
        if let Some(script) = go {
            executable(&machine.path("bin/go"), &format!("#!/bin/bash\n{script}\n"));
        }
        machine
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.path().join(below)
    }

    fn script(&self) -> Command {
        let mut script = Command::new(programs::script());
        script.env_clear().env("PATH", self.path("bin"));
        script.env("XDG_CACHE_HOME", self.path("cache")).env("CALLS", self.path("calls"));
        script
    }

    fn calls(&self) -> usize {
        fs::read_to_string(self.path("calls")).unwrap_or_default().lines().count()
    }
}

/// Go, as far as the script uses it: `go list -m`, and `go build … -o PATH PACKAGE…`.
const GO: &str = r#"
[ "$1" = list ] && exit 0
echo "$*" >> "$CALLS"
sleep 0.2
while [ "$1" != -o ]; do shift; done
out=$2
shift 2
case $out in
    */) for package; do touch "$out${package##*/}"; done; set -- "$out"* ;;
    *) touch "$out"; set -- "$out" ;;
esac
for program; do printf '#!/bin/bash\n' > "$program"; /bin/chmod +x "$program"; done
"#;

fn executable(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn folder_with_all(found: Programs) -> PathBuf {
    let Programs::In(folder) = found else { panic!("{found:?}") };
    for program in PROGRAMS {
        assert!(folder.join(program).is_file(), "{program} is not in {}", folder.display());
    }
    folder
}

#[test]
fn several_at_once_build_once() {
    let machine = Machine::new(Some(GO));
    let folders = std::thread::scope(|scope| {
        let builders: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| folder_with_all(programs::run(&mut machine.script()).unwrap())))
            .collect();
        builders.into_iter().map(|builder| builder.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(folders.iter().all(|folder| *folder == folders[0]), "{folders:?}");
    assert_eq!(machine.calls(), 2, "etcd once, the other two together once");
    // And nothing is built when it is there.
    folder_with_all(programs::run(&mut machine.script()).unwrap());
    assert_eq!(machine.calls(), 2);
    let left: Vec<_> =
        fs::read_dir(machine.path("cache/longshore/control-plane")).unwrap().collect();
    assert_eq!(left.len(), 2, "the build and its lock: {left:?}");
}

#[test]
fn a_build_that_failed_leaves_nothing_and_is_an_error() {
    let failing = Machine::new(Some(r#"[ "$1" = list ] || { echo "no space left" >&2; exit 1; }"#));
    let error = programs::run(&mut failing.script()).unwrap_err().to_string();
    assert!(error.contains("no space left"), "{error}");
    let left: Vec<_> =
        fs::read_dir(failing.path("cache/longshore/control-plane")).unwrap().collect();
    assert_eq!(left.len(), 1, "only the lock: {left:?}");
}

#[test]
fn without_go_or_with_one_that_is_too_old_they_are_missing() {
    let without = Machine::new(None);
    let Programs::Missing(reason) = programs::run(&mut without.script()).unwrap() else { panic!() };
    assert!(reason.contains("go is not installed"), "{reason}");

    let old = "echo 'go: go.mod requires go >= 1.26.0 (running go 1.19)' >&2; exit 1";
    let old = Machine::new(Some(old));
    let Programs::Missing(reason) = programs::run(&mut old.script()).unwrap() else { panic!() };
    assert!(reason.contains("requires go >= 1.26.0"), "{reason}");
}

#[test]
fn given_programs_are_taken_as_they_are() {
    let machine = Machine::new(None);
    let given = machine.path("given");
    fs::create_dir(&given).unwrap();
    let mut script = machine.script();
    script.env("KUBEBUILDER_ASSETS", &given);
    for program in PROGRAMS {
        let Programs::Missing(_) = programs::run(&mut script).unwrap() else {
            panic!("not all are there")
        };
        executable(&given.join(program), "#!/bin/bash\n");
    }
    assert_eq!(folder_with_all(programs::run(&mut script).unwrap()), given);
}
