//! From a request to a plan: which source becomes which destination path, by cp's rules, and every
//! refusal that can be known before the first byte. It creates nothing.

use std::path::PathBuf;

use crate::error::Refusal;
use crate::options::{CopyOptions, CopyRequest};

/// What will be copied to where. Printing it is the dry run's first lines.
#[derive(Debug, Clone)]
pub struct Plan {
    /// One entry for each source.
    pub roots: Vec<Root>,
    /// How.
    pub options: CopyOptions,
}

/// One source and the path that it gets.
#[derive(Debug, Clone)]
pub struct Root {
    /// The source as the engine opens it.
    pub source: PathBuf,
    /// The full destination path of the source itself (or, for contents, of its directory).
    pub destination: PathBuf,
}

impl Plan {
    /// Checks the request against the filesystems and resolves destination paths.
    ///
    /// # Errors
    /// A [`Refusal`] that says what to do; nothing has been written.
    pub fn new(request: &CopyRequest) -> Result<Self, Refusal> {
        let _ = request;
        unimplemented!("written next")
    }
}
