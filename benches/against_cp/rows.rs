//! Who takes part: Longshore's own rows, the peers with the commands that keep the most, the limit.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::limit;
use crate::support::command::has_ring;

/// One row of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    /// `cp -a`: what everything is divided by.
    Cp,
    /// rsync with everything it can keep; sparse files stay sparse on demand.
    Rsync {
        /// `-S`.
        sparse: bool,
    },
    /// Two tars and a pipe, with everything they can keep.
    Tar,
    /// xcp, when it is installed.
    Xcp,
    /// `longshore copy`, without its flush, since no peer flushes.
    Longshore(&'static str),
    /// `longshore copy` as it comes: flushed before it returns.
    Flushed,
    /// A bare loop: its kind and its threads.
    Limit(&'static str, usize),
}

impl Row {
    /// How it is called in tables.
    pub fn name(self) -> String {
        match self {
            Self::Cp => "cp -a".to_owned(),
            Self::Rsync { sparse: false } => "rsync -aHAX".to_owned(),
            Self::Rsync { sparse: true } => "rsync -aHAXS".to_owned(),
            Self::Tar => "tar \\| tar".to_owned(),
            Self::Xcp => "xcp -r -o".to_owned(),
            Self::Longshore("auto") => "**longshore**".to_owned(),
            Self::Longshore(backend) => format!("longshore, {backend}"),
            Self::Flushed => "longshore, --sync end".to_owned(),
            Self::Limit(_, threads) => format!("_limit: bare loop, {threads} threads_"),
        }
    }

    /// The name without markup.
    pub fn plain_name(self) -> String {
        self.name().replace(['*', '_', '\\'], "")
    }

    /// Whether the result is a copy that is to be compared.
    pub fn is_tool(self) -> bool {
        !matches!(self, Self::Limit(..))
    }

    /// The command.
    pub fn argv(self, source: &Path, copy: &Path) -> Vec<OsString> {
        let paths = [source, copy].map(|path| path.as_os_str().to_owned());
        let with = |words: &[&str]| {
            words.iter().map(OsString::from).chain(paths.clone()).collect::<Vec<_>>()
        };
        let longshore = |backend: &str, sync: &str| {
            let own = env!("CARGO_BIN_EXE_longshore");
            let backend = ["--backend", backend, "--sync", sync, "--progress", "none", "-T"];
            with(&[&[own, "copy"][..], &backend].concat())
        };
        match self {
            Self::Cp => with(&["cp", "-a"]),
            Self::Rsync { sparse } => {
                let flags = if sparse { "-aHAXS" } else { "-aHAX" };
                let mut argv: Vec<_> = ["rsync", flags, "--whole-file"].map(OsString::from).into();
                argv.extend(paths.map(|mut path| {
                    path.push("/");
                    path
                }));
                argv
            }
            Self::Tar => {
                let script = "mkdir \"$2\" && \
                    tar -C \"$1\" --acls --xattrs --xattrs-include='*' -S -cf - . | \
                    tar -C \"$2\" --acls --xattrs --xattrs-include='*' -xpf -";
                with(&["sh", "-c", script, "sh"])
            }
            Self::Xcp => with(&["xcp", "-r", "--no-progress", "--ownership"]),
            Self::Longshore(backend) => longshore(backend, "none"),
            Self::Flushed => longshore("auto", "end"),
            Self::Limit(kind, threads) => limit::argv(kind, threads, source, copy),
        }
    }

    /// Why it cannot take part here, if it cannot.
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Longshore("uring") if !has_ring() => {
                Some("this machine gives no io_uring".to_owned())
            }
            Self::Longshore(_) | Self::Flushed | Self::Limit(..) => None,
            _ => version(self.program()).is_none().then(|| "not installed".to_owned()),
        }
    }

    /// Brings the program itself into the page cache, so that a cold run is cold for data only.
    pub fn load_program(self) {
        if self == Self::Tar {
            let _ = version("sh");
        }
        let _ = version(self.program());
    }

    fn program(self) -> &'static str {
        match self {
            Self::Cp => "cp",
            Self::Rsync { .. } => "rsync",
            Self::Tar => "tar",
            Self::Xcp => "xcp",
            Self::Longshore(_) | Self::Flushed => env!("CARGO_BIN_EXE_longshore"),
            Self::Limit(..) => "true", // the bench itself, which is running
        }
    }
}

/// First line of what a program says about itself; nothing when it is not installed.
pub fn version(program: &str) -> Option<String> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Some(text.lines().next().unwrap_or_default().to_owned())
}
