//! What is known of a file's content while it is copied and checked: one digest, or one for each cell.
//! It reads nothing.

use std::sync::{Arc, OnceLock};

use crate::checksum::{Algorithm, CELL_BYTES, Cells, Digest};

/// What is known of a file's content.
#[derive(Debug)]
pub(crate) enum Content {
    /// At most one cell: its digest, once it is known.
    Whole(OnceLock<Digest>),
    /// Several cells, or one with holes.
    Cells(Arc<Cells>),
}

impl Content {
    /// Nothing is known yet.
    pub(super) fn unknown(algorithm: Algorithm, size_bytes: u64) -> Self {
        if size_bytes <= CELL_BYTES {
            Self::Whole(OnceLock::new())
        } else {
            Self::Cells(Arc::new(Cells::unknown(algorithm, size_bytes)))
        }
    }

    /// The content of a small file.
    pub(crate) fn whole(digest: Digest) -> Self {
        Self::Whole(OnceLock::from(digest))
    }

    /// The digest of a cell, when it is known.
    pub(super) fn cell(&self, cell: u64) -> Option<Digest> {
        match self {
            Self::Whole(digest) => digest.get().copied(),
            Self::Cells(cells) => cells.get(cell),
        }
    }

    pub(super) fn set(&self, cell: u64, digest: Digest) {
        match self {
            Self::Whole(whole) => drop(whole.set(digest)),
            Self::Cells(cells) => cells.set(cell, digest),
        }
    }

    /// The digest of the file, when all of it is known.
    pub(super) fn file(&self) -> Option<Digest> {
        match self {
            Self::Whole(digest) => digest.get().copied(),
            Self::Cells(cells) => cells.file_digest(),
        }
    }
}
