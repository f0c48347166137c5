//! What is done at the destination before a copy, as the job's user: by the rules of the data mover that
//! this one stands in for, and in its words. The rules themselves are in the library.

use std::fs;
use std::path::Path;

use longshore::arguments;
use longshore::lustre::ready;
use longshore::options::{CopyRequest, Target};
use longshore::run::naming::{index_directory, settle};

use super::{say, shown};
use crate::wire::{Assignment, News};

/// Makes the directory that the copy goes into, if it is to be made, and returns the request for the
/// engine.
///
/// # Errors
/// A sentence; nothing was copied then.
pub(super) fn prepare(copy: &Assignment) -> Result<CopyRequest, String> {
    let (source, destination) = (Path::new(&copy.source), Path::new(&copy.destination));
    for path in [source, destination] {
        if !path.is_absolute() {
            return Err(format!("{}: the path is not absolute", shown(path)));
        }
    }
    // Options are looked at before anything is made.
    let mut request = arguments::parse(&copy.options, source, destination)
        .map_err(|unusable| unusable.to_string())?;
    let preparation =
        copy.preparation.as_ref().filter(|wanted| wanted.create_destination_directory);
    let Some(preparation) = preparation else {
        say(&News::Prepared { destination: copy.destination.clone() });
        return Ok(request);
    };
    // Directories are not made where a filesystem is missing.
    let options = &request.options;
    let limit = options.mount_timeout.unwrap_or(ready::LIMIT);
    ready::check(&[source, destination], &options.expected_mounts, limit)
        .map_err(|refusal| refusal.to_string())?;
    if let Err(error) = fs::metadata(source) {
        return Err(format!(
            "could not determine source type: could not stat path ('{}'): {error}",
            shown(source)
        ));
    }
    let mut index = None;
    if let Some(wanted) = &preparation.index_mount {
        let prefix = &wanted.prefix;
        let (name, bare) = index_directory(source, prefix).ok_or_else(|| {
            format!(
                "could not extract index mount directory from source path: {}. Looking for pattern \
                 '({prefix}-\\d+)(/|$)'",
                shown(source)
            )
        })?;
        // The bare root of an allocation brings its directory as its own name.
        index = Some(name).filter(|_| !bare);
    }
    let settled = settle(source, destination, index.as_deref())
        .map_err(|problem| format!("could not prepare destination: {problem}"))?;
    let settled = settled
        .make_directory()
        .map_err(|problem| format!("could not create destination directory: {problem}"))?;
    say(&News::Prepared { destination: shown(&settled.named) });
    request.sources = vec![settled.source];
    request.destination = settled.destination;
    request.target = Target::Exact;
    Ok(request)
}
