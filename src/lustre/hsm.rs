//! Released files: those whose data is only in an archive. Reading one, asking for its holes or making
//! it longer brings the data back, which can take hours and fill the filesystem; looking at it and at
//! its layout does not. This tells them; it restores none.

use std::os::fd::AsFd;

use nix::sys::stat::FileStat;

use super::access::{self, Found};
use super::layout::Of;
use super::told;
use crate::error::{AtStep, FailureKind, Step, StepError};

/// Bytes of a block of stat(2).
const BLOCK_BYTES: i64 = 512;

/// Whether the data of an open regular file is only in an archive. Files whose blocks hold all of their
/// bytes cost nothing; of others the layout is read where they lie on Lustre. A layout that cannot be
/// understood may be that of a released file, and is taken for one.
///
/// # Errors
/// With the given step, when the layout cannot be read: the file may be released.
pub fn is_released(file: impl AsFd, stat: &FileStat, step: Step) -> Result<bool, StepError> {
    if !may_be_released(stat) || !told::is_lustre(&file) {
        return Ok(false);
    }
    Ok(match access::read(file, Of::File).at(step)? {
        Found::Layout(layout) => layout.is_released(),
        Found::Unknown(_) => true,
        Found::None | Found::NotLustre => false,
    })
}

/// Refuses to read a file that is released.
///
/// # Errors
/// `Released`, with the given step; and those of [`is_released`].
pub fn refuse_released(file: impl AsFd, stat: &FileStat, step: Step) -> Result<(), StepError> {
    if is_released(file, stat, step)? {
        return Err(StepError::found(step, FailureKind::Released));
    }
    Ok(())
}

/// Released files keep their size and have no blocks, or one, so that no program takes them for
/// nothing but a hole. So do files with holes, and files that are short or were written just now.
fn may_be_released(stat: &FileStat) -> bool {
    stat.st_size > 0 && (stat.st_blocks <= 1 || stat.st_blocks * BLOCK_BYTES < stat.st_size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_with_few_blocks_are_looked_at() {
        let file = tempfile::tempfile().unwrap();
        let stat = |size, blocks| {
            let mut stat = nix::sys::stat::fstat(&file).unwrap();
            (stat.st_size, stat.st_blocks) = (size, blocks);
            stat
        };
        for (size, blocks) in [(100, 0), (100, 1), (1 << 30, 1), (1 << 20, 8)] {
            assert!(may_be_released(&stat(size, blocks)), "{size} in {blocks}");
        }
        for (size, blocks) in [(0, 0), (100, 8), (1 << 20, 2048)] {
            assert!(!may_be_released(&stat(size, blocks)), "{size} in {blocks}");
        }
    }
}
