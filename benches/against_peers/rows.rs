//! Who takes part: Longshore's own rows, the peers with the commands that keep the most, the limits.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::limit;

/// One row of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    /// `longshore copy` in one of its ways.
    Longshore(Way),
    /// One of the other tools.
    Peer(Peer),
    /// A bare loop: its kind and its threads.
    Limit(&'static str, usize),
}

/// How `longshore copy` is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As it comes: flushed before it returns.
    Plain,
    /// Without the flush, as every peer is.
    Unflushed,
    /// By a backend, flushed.
    Backend(&'static str),
    /// As it comes, with one option more, which an older binary may not have.
    With(&'static str),
    /// With so many workers and no other number.
    Fixed(usize),
}

/// The other tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// `cp -a`: what everything is divided by.
    Cp,
    /// rsync with everything it can keep; sparse files stay sparse on demand.
    Rsync {
        /// `-S`.
        sparse: bool,
    },
    /// rsyncs side by side, one for each directory at the top.
    Rsyncs(usize),
    /// Two tars and a pipe, with everything they can keep.
    Tar,
    /// xcp.
    Xcp,
    /// rclone.
    Rclone,
    /// fpsync: rsyncs side by side, each with a part of the files.
    Fpsync {
        /// How many at once.
        jobs: usize,
        /// Files of one part, at most.
        files: usize,
    },
    /// dcp of mpifileutils, with so many ranks.
    Dcp(usize),
}

/// The row that every aim is about.
pub const MAIN: Row = Row::Longshore(Way::Plain);

/// What everything is divided by.
pub const CP: Row = Row::Peer(Peer::Cp);

const LONGSHORE: &str = env!("CARGO_BIN_EXE_longshore");

impl Row {
    /// How it is called in tables.
    pub fn name(self) -> String {
        match self {
            MAIN => "**longshore**".to_owned(),
            Self::Longshore(_) => self.plain_name(),
            Self::Peer(Peer::Tar) => "tar \\| tar".to_owned(),
            Self::Peer(_) => self.plain_name(),
            Self::Limit(..) => format!("_{}_", self.plain_name()),
        }
    }

    /// The name without markup.
    pub fn plain_name(self) -> String {
        match self {
            Self::Longshore(Way::Plain) => "longshore".to_owned(),
            Self::Longshore(Way::Unflushed) => "longshore --sync none".to_owned(),
            Self::Longshore(Way::Backend(backend)) => format!("longshore --backend {backend}"),
            Self::Longshore(Way::With(option)) => format!("longshore {option}"),
            Self::Longshore(Way::Fixed(threads)) => format!("longshore --threads {threads}"),
            Self::Peer(Peer::Cp) => "cp -a".to_owned(),
            Self::Peer(Peer::Rsync { sparse: false }) => "rsync -aHAX".to_owned(),
            Self::Peer(Peer::Rsync { sparse: true }) => "rsync -aHAXS".to_owned(),
            Self::Peer(Peer::Rsyncs(count)) => format!("{count} x rsync -aHAX"),
            Self::Peer(Peer::Tar) => "tar | tar".to_owned(),
            Self::Peer(Peer::Xcp) => "xcp -r -o".to_owned(),
            Self::Peer(Peer::Rclone) => "rclone".to_owned(),
            Self::Peer(Peer::Fpsync { jobs, .. }) => format!("fpsync -n {jobs}"),
            Self::Peer(Peer::Dcp(ranks)) => format!("dcp -p, {ranks} ranks"),
            Self::Limit("splice", threads) => format!("limit: splicing loop, {threads} threads"),
            Self::Limit(_, threads) => format!("limit: bare loop, {threads} threads"),
        }
    }

    /// Whether the result is a copy that is to be compared.
    pub fn is_tool(self) -> bool {
        !matches!(self, Self::Limit(..))
    }

    /// Whether it is one of the other tools.
    pub fn is_peer(self) -> bool {
        matches!(self, Self::Peer(_))
    }

    /// Whether it is one of the other tools, and not the one that everything is divided by.
    pub fn is_guest(self) -> bool {
        self.is_peer() && self != CP
    }

    /// Whether it has several rsyncs at work.
    pub fn is_parallel_rsync(self) -> bool {
        matches!(self, Self::Peer(Peer::Fpsync { .. } | Peer::Rsyncs(_)))
    }

    /// The command.
    pub fn argv(self, source: &Path, copy: &Path) -> Vec<OsString> {
        let peer = match self {
            Self::Longshore(way) => return way.argv(source, copy),
            Self::Limit(kind, threads) => return limit::argv(kind, threads, source, copy),
            Self::Peer(peer) => peer,
        };
        let [from, to] = [source, copy].map(|path| path.as_os_str().to_owned());
        let [from_in, to_in] = [&from, &to].map(|path| {
            let mut path = path.clone();
            path.push("/");
            path
        });
        let with = |words: &[&str], paths: [OsString; 2]| {
            words.iter().map(OsString::from).chain(paths).collect::<Vec<_>>()
        };
        match peer {
            Peer::Cp => with(&["cp", "-a"], [from, to]),
            Peer::Rsync { sparse } => {
                let flags = if sparse { "-aHAXS" } else { "-aHAX" };
                with(&["rsync", flags, "--whole-file"], [from_in, to_in])
            }
            Peer::Rsyncs(count) => {
                let script = format!(
                    "rsync -aHAX --whole-file -f '- /*/*' \"$1\" \"$2\" && cd \"$1\" && \
                     find . -mindepth 1 -maxdepth 1 -type d -print0 | \
                     xargs -0 -P {count} -I@ rsync -aHAX --whole-file \"$1/@/\" \"$2/@/\""
                );
                with(&["sh", "-c", &script, "sh"], [from_in, to_in])
            }
            Peer::Tar => {
                let script = "mkdir \"$2\" && \
                    tar -C \"$1\" --acls --xattrs --xattrs-include='*' -S -cf - . | \
                    tar -C \"$2\" --acls --xattrs --xattrs-include='*' -xpf -";
                with(&["sh", "-c", script, "sh"], [from, to])
            }
            Peer::Xcp => with(&["xcp", "-r", "--no-progress", "--ownership"], [from, to]),
            Peer::Rclone => {
                let words = ["rclone", "copy", "--metadata", "--links", "--create-empty-src-dirs"];
                let jobs = ["--transfers", "8", "--checkers", "8"];
                with(&[&words[..], &jobs].concat(), [from, to])
            }
            // It refuses -a, -r and --whole-file in its options.
            Peer::Fpsync { jobs, files } => {
                let (jobs, files) = (jobs.to_string(), files.to_string());
                let parts = ["-n", &jobs, "-f", &files, "-s", "1000000000"];
                with(&[&["fpsync"][..], &parts, &["-o", FPSYNC_KEEPS]].concat(), [from_in, to_in])
            }
            Peer::Dcp(ranks) => {
                let ranks = ranks.to_string();
                let mpi = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none"];
                let words = [&mpi[..], &["-np", &ranks, "dcp", "-q", "-p", "-S"]].concat();
                with(&words, [from, to])
            }
        }
    }

    /// Why it cannot take part here, if it cannot.
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Longshore(Way::Backend("uring")) if !crate::support::command::has_ring() => {
                Some("this machine gives no io_uring".to_owned())
            }
            Self::Longshore(Way::With(option)) => {
                let name = option.split([' ', '=']).next().unwrap_or(option);
                (!knows(name)).then(|| format!("this longshore has no {name}"))
            }
            Self::Longshore(_) | Self::Limit(..) => None,
            Self::Peer(_) => {
                let absent = self.programs().iter().find(|program| !installed(program))?;
                Some(format!("{absent} is not installed"))
            }
        }
    }

    /// Brings the programs themselves into the page cache, so that a cold run is cold for data only.
    pub fn load_programs(self) {
        for program in self.programs() {
            let _ = version(program);
        }
    }

    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Longshore(_) => &[LONGSHORE],
            Self::Limit(..) => &["true"], // the bench itself, which is running
            Self::Peer(Peer::Cp) => &["cp"],
            Self::Peer(Peer::Rsync { .. }) => &["rsync"],
            Self::Peer(Peer::Rsyncs(_)) => &["rsync", "sh", "find", "xargs"],
            Self::Peer(Peer::Tar) => &["tar", "sh"],
            Self::Peer(Peer::Xcp) => &["xcp"],
            Self::Peer(Peer::Rclone) => &["rclone"],
            Self::Peer(Peer::Fpsync { .. }) => &["fpsync", "fpart", "rsync", "sh"],
            Self::Peer(Peer::Dcp(_)) => &["dcp", "mpirun"],
        }
    }
}

/// Everything that rsync -aHAX keeps, in the words that fpsync takes.
const FPSYNC_KEEPS: &str = "-lptgoDHAX --numeric-ids";

impl Way {
    fn argv(self, source: &Path, copy: &Path) -> Vec<OsString> {
        let mut argv: Vec<OsString> =
            [LONGSHORE, "copy", "--progress", "none"].map(OsString::from).into();
        let words = match self {
            Self::Plain => String::new(),
            Self::Unflushed => "--sync none".to_owned(),
            Self::Backend(backend) => format!("--backend {backend}"),
            Self::With(option) => option.to_owned(),
            Self::Fixed(count) if knows("--concurrency") => {
                format!("--concurrency fixed --threads {count}")
            }
            Self::Fixed(count) => format!("--threads {count}"),
        };
        argv.extend(words.split_whitespace().map(OsString::from));
        argv.push(OsString::from("-T"));
        argv.extend([source, copy].map(|path| path.as_os_str().to_owned()));
        argv
    }
}

/// Whether this longshore's `copy` has an option.
pub fn knows(option: &str) -> bool {
    static HELP: OnceLock<String> = OnceLock::new();
    let help = HELP.get_or_init(|| {
        let output = Command::new(LONGSHORE).args(["copy", "--help"]).output();
        output
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default()
    });
    help.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-')
        .any(|word| word == option)
}

/// Whether a program is in the path.
pub fn installed(program: &str) -> bool {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&dirs).any(|dir| dir.join(program).is_file())
}

/// First line of what a program says about itself; nothing when it is not installed.
pub fn version(program: &str) -> Option<String> {
    // fpsync has no such option; its help begins with the version.
    let option = if program == "fpsync" { "-h" } else { "--version" };
    let output = Command::new(program).arg(option).stdin(Stdio::null()).output().ok()?;
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    Some(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned())
}
