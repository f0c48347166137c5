//! Whether a directory goes inside its destination or becomes it, where nobody has prepared that: by cp's
//! rule it depends on what is there, and so an attempt after the first byte would decide otherwise. What
//! the first one found is noted by the worker before the copy begins, and holds for all that follow.

use std::path::Path;

use longshore::options::{CopyRequest, Target};

use super::leash::Go;
use super::say;
use crate::wire::{Assignment, News};

/// Settles the target of the request. None when the worker has gone before it was noted.
pub(super) fn place(copy: &Assignment, request: &mut CopyRequest, go: &Go) -> Option<()> {
    let prepared =
        copy.preparation.as_ref().is_some_and(|wanted| wanted.create_destination_directory);
    let source = Path::new(&copy.source);
    let contents = copy.source.ends_with('/') || copy.source.ends_with("/.");
    if prepared || request.target != Target::Guess || contents || !source.is_dir() {
        return Some(());
    }
    let inside = match copy.inside {
        Some(inside) => inside,
        None => {
            let inside = Path::new(&copy.destination).is_dir();
            say(&News::Placed { inside });
            go.recv().ok()?;
            inside
        }
    };
    request.target = if inside { Target::Directory } else { Target::Exact };
    Some(())
}
