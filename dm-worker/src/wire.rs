//! What the worker and a mover tell each other, one JSON object per line: orders on the mover's standard
//! input, news on its standard output. The library's lines of progress (`docs/progress-json.md`) are
//! among the news. Nothing is sent here.

use longshore::api::data_movement_shard::Preparation;
use serde::{Deserialize, Serialize};

/// From the worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(crate) enum Order {
    /// The copy. It comes once, and first.
    Begin(Box<Assignment>),
    /// The mover must have ended by this time on the clock of [`dm_service::since_boot`], and no more by
    /// the one that it was told before.
    EndBy { milliseconds: u64 },
    /// What [`News::Placed`] said is noted, so the copy may begin.
    Go,
}

/// One copy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Assignment {
    /// The source's absolute path.
    pub(crate) source: String,
    /// The destination's absolute path, as it was asked for.
    pub(crate) destination: String,
    /// Options of `longshore copy`.
    pub(crate) options: Vec<String>,
    /// What is done at the destination first.
    pub(crate) preparation: Option<Preparation>,
    /// Only the preparation is done.
    pub(crate) dry_run: bool,
    /// Somebody wants to know how much there is to copy.
    pub(crate) count_ahead: bool,
    /// Whether the source goes inside the destination, where an earlier attempt has decided that.
    #[serde(default)]
    pub(crate) inside: Option<bool>,
    /// As [`Order::EndBy`]: a worker that is stopped after this order tells nothing more.
    pub(crate) end_by_milliseconds: u64,
}

/// From the mover.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(crate) enum News {
    /// The destination is ready; this is what it came to.
    Prepared { destination: String },
    /// Whether the source goes inside the destination, by what was there before the first byte. The mover
    /// waits until that is noted: an attempt after this one finds what this one has made.
    Placed { inside: bool },
    /// Another run of the same copy has to end first; without words, it has.
    Waits { text: Option<String> },
    /// The request cannot be carried out, and nothing was copied.
    Refused { text: String },
    /// Once a second while it copies, by the library.
    Progress(Progress),
    /// What the library reports at the end.
    Done(Done),
    /// The last line: how it went, for people.
    Summary { text: String },
    /// Something that is of no concern here.
    #[serde(other)]
    Other,
}

/// What is taken from the library's line of progress.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Progress {
    pub(crate) files_found: u64,
    pub(crate) bytes_found: u64,
    pub(crate) files_done: u64,
    pub(crate) bytes_done: u64,
    pub(crate) bytes_verified: u64,
    pub(crate) directories_done: u64,
    pub(crate) links_done: u64,
    pub(crate) files_skipped: u64,
    pub(crate) files_resumed: u64,
    pub(crate) bytes_resumed: u64,
    pub(crate) failed: u64,
    pub(crate) walk_done: bool,
}

/// What is taken from the library's report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Done {
    pub(crate) copied: Copied,
    pub(crate) resumed: Resumed,
    pub(crate) errors: std::collections::BTreeMap<String, u64>,
}

/// Counts of what this mover copied, in whole files: what was there of one already is in its bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Copied {
    pub(crate) files: u64,
    pub(crate) directories: u64,
    pub(crate) symlinks: u64,
    pub(crate) hard_links: u64,
    pub(crate) special: u64,
    pub(crate) bytes: u64,
}

/// Counts of what an earlier attempt had copied.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Resumed {
    pub(crate) files: u64,
    pub(crate) links: u64,
    /// In complete files, and in parts of files that this mover finished.
    pub(crate) bytes: u64,
    /// Of which in such parts.
    pub(crate) ranges: u64,
}

/// A line for the other side, with its newline.
pub(crate) fn line(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("lines are made of strings and numbers");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_library_are_understood() {
        let progress = r#"{"type":"progress","copy":"","state":null,"elapsed_seconds":1.0,"files_found":3,"bytes_found":10,"files_done":2,"bytes_done":8,"walk_done":true,"eta_seconds":null}"#;
        let News::Progress(read) = serde_json::from_str(progress).unwrap() else {
            panic!("{progress}")
        };
        assert_eq!((read.files_done, read.bytes_found, read.walk_done), (2, 10, true));
        let done = r#"{"type":"done","copy":"","version":1,"copied":{"files":2,"bytes":9,"symlinks":1},"errors":{"permission":3}}"#;
        let News::Done(read) = serde_json::from_str(done).unwrap() else { panic!("{done}") };
        assert_eq!((read.copied.files, read.copied.symlinks, read.errors["permission"]), (2, 1, 3));
        let other: News = serde_json::from_str(r#"{"type":"message","text":"x"}"#).unwrap();
        assert!(matches!(other, News::Other));
    }
}
