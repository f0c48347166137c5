//! `#DW` lines: parsed, checked by the cluster's rules, and resolved to storage and global paths.
//! Pure: nothing here opens a file, so that an admission webhook can use it as it is.

pub mod filesystems;
pub mod parse;
pub mod resolve;
pub mod rules;

/// One thing that is wrong with a script. A script is always checked to its end, so that its
/// author sees all of them at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct Fault {
    /// The line in the script, from 1.
    pub line: usize,
    /// What is wrong and what to write instead.
    pub problem: String,
}

impl Fault {
    /// A fault of one line.
    pub fn new(line: usize, problem: impl Into<String>) -> Self {
        Self { line, problem: problem.into() }
    }
}
