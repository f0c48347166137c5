//! From options as typed to a request. Reads the files that options name, and nothing else.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};

use super::{Attribute, BackendArg, ConcurrencyArg, CopyArgs, StripesArg, SyncArg, XattrArg};
use crate::filter::{Filter, Verdict};
use crate::options::{
    BackendChoice, ConcurrencyChoice, CopyOptions, CopyRequest, ExistingJournal, JournalChoice,
    JournalPlace, Preserve, StripeChoice, SyncPolicy, Target, XattrPolicy,
};
use crate::selection::Selection;

/// Options of the command itself, by their names here: where it reads and writes files of its own, and
/// what it shows. Whoever else runs a copy decides these, and not who wrote the options.
const OF_THE_COMMAND: [&str; 13] = [
    "target_directory",
    "no_target_directory",
    "parents",
    "control",
    "files_from",
    "manifest",
    "journal",
    "resume",
    "fresh",
    "job_id",
    "dry_run",
    "progress",
    "report",
];

/// Options that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(String);

/// A request from options that came as words without paths, as shards have them.
///
/// # Errors
/// A sentence about a word that is no option, or is one of the command `longshore copy` itself.
pub fn parse(words: &[String], source: &Path, destination: &Path) -> Result<CopyRequest, Unusable> {
    let command = CopyArgs::augment_args(Command::new("longshore copy").no_binary_name(true));
    let paths = [Path::new("--"), source, destination].map(Path::as_os_str);
    let all = words.iter().map(AsRef::as_ref).chain(paths);
    // The first line says it; usage and tips are for a terminal.
    let first_line = |error: &dyn std::fmt::Display| {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        Unusable(format!("options of the copy: {}", line.trim_start_matches("error: ")))
    };
    let matches = command.try_get_matches_from(all).map_err(|error| first_line(&error))?;
    let given = |name: &str| matches.value_source(name) == Some(ValueSource::CommandLine);
    let mut names = OF_THE_COMMAND.into_iter().chain(["failed_list"]);
    if let Some(name) = names.find(|name| given(name)) {
        let name = name.replace('_', "-");
        return Err(Unusable(format!("options of the copy: --{name} cannot be chosen here")));
    }
    let args = CopyArgs::from_arg_matches(&matches).map_err(|error| first_line(&error))?;
    if let [word, _, _, ..] = args.paths.as_slice() {
        let word = crate::error::show(word);
        return Err(Unusable(format!("options of the copy: {word} is no option")));
    }
    args.request(&matches).map_err(|error| Unusable(format!("options of the copy: {error:#}")))
}

impl CopyArgs {
    /// What was typed, as a request. `matches` knows the order of `--include` and `--exclude`.
    ///
    /// # Errors
    /// What was typed makes no sense, or a file that it names cannot be read.
    pub fn request(&self, matches: &ArgMatches) -> anyhow::Result<CopyRequest> {
        request(self, matches)
    }
}

fn request(args: &CopyArgs, matches: &ArgMatches) -> anyhow::Result<CopyRequest> {
    let (sources, destination, target) = paths(args)?;
    let selection = match &args.files_from {
        Some(path) => Some(Arc::new(Selection::parse(&read_list(path)?, &sources)?)),
        None => None,
    };
    let mut options = CopyOptions {
        preserve: preserve(args),
        xattrs: match args.xattrs {
            XattrArg::Auto => XattrPolicy::Auto,
            XattrArg::None => XattrPolicy::None,
            XattrArg::User => XattrPolicy::User,
            XattrArg::All => XattrPolicy::All,
        },
        backend: match args.backend {
            BackendArg::Auto => BackendChoice::Auto,
            BackendArg::Uring => BackendChoice::Uring,
            BackendArg::Threads => BackendChoice::Threads,
            BackendArg::Clone => BackendChoice::Clone,
        },
        threads: args.threads,
        concurrency: match args.concurrency {
            ConcurrencyArg::Adaptive => ConcurrencyChoice::Adaptive,
            ConcurrencyArg::Fixed => ConcurrencyChoice::Fixed,
        },
        stripes: match args.stripes {
            StripesArg::Aware => StripeChoice::Aware,
            StripesArg::Ignore => StripeChoice::Ignore,
        },
        bandwidth_limit: args.bandwidth_limit,
        ops_limit: args.ops_limit.map(std::num::NonZeroU64::get),
        filter: Arc::new(filter(&args.include, &args.exclude, matches)?),
        selection,
        update: args.update,
        delete: args.delete,
        one_file_system: args.one_file_system,
        sync: match args.sync {
            SyncArg::End => SyncPolicy::End,
            SyncArg::File => SyncPolicy::File,
            SyncArg::None => SyncPolicy::None,
        },
        verify: args.verify.is_some(),
        checksum: args.verify.flatten().unwrap_or(args.checksum).into(),
        dry_run: args.dry_run,
        journal: journal_choice(args),
        ..CopyOptions::default()
    };
    args.lustre.apply(&mut options)?;
    Ok(CopyRequest { sources, destination, target, parents: args.parents, options })
}

fn journal_choice(args: &CopyArgs) -> JournalChoice {
    JournalChoice {
        place: match &args.journal {
            None => JournalPlace::Beside,
            Some(path) if path == Path::new("none") => JournalPlace::None,
            Some(path) => JournalPlace::At(path.clone()),
        },
        existing: match (args.resume, args.fresh) {
            (true, _) => ExistingJournal::Require,
            (_, true) => ExistingJournal::Replace,
            _ => ExistingJournal::Continue,
        },
    }
}

/// The last path is the destination, unless `-t` names it.
fn paths(args: &CopyArgs) -> anyhow::Result<(Vec<PathBuf>, PathBuf, Target)> {
    let mut sources = args.paths.clone();
    if let Some(directory) = &args.target_directory {
        return Ok((sources, directory.clone(), Target::Directory));
    }
    let destination = sources
        .pop()
        .filter(|_| !sources.is_empty())
        .context("no destination: name it after the source, or with -t (longshore copy SRC DST)")?;
    let target = if args.no_target_directory { Target::Exact } else { Target::Guess };
    Ok((sources, destination, target))
}

fn read_list(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut list = Vec::new();
    if path == Path::new("-") {
        std::io::stdin()
            .read_to_end(&mut list)
            .context("failed to read the list on standard input")?;
        return Ok(list);
    }
    std::fs::read(path).with_context(|| format!("failed to read the list {}", path.display()))
}

/// The rules in the order in which they were typed: the first that matches decides.
///
/// # Errors
/// One of them is no pattern.
pub fn filter(
    include: &[String],
    exclude: &[String],
    matches: &ArgMatches,
) -> anyhow::Result<Filter> {
    let indices = |id: &str| matches.indices_of(id).into_iter().flatten().collect::<Vec<_>>();
    let includes = indices("include").into_iter().zip(include);
    let excludes = indices("exclude").into_iter().zip(exclude);
    let mut rules: Vec<_> = includes
        .map(|(index, pattern)| (index, Verdict::Include, pattern))
        .chain(excludes.map(|(index, pattern)| (index, Verdict::Exclude, pattern)))
        .collect();
    rules.sort_by_key(|(index, ..)| *index);
    Ok(Filter::new(rules.into_iter().map(|(_, verdict, pattern)| (verdict, pattern.as_str())))?)
}

/// `--preserve` replaces the default set, `--no-preserve` takes away from what there is.
fn preserve(args: &CopyArgs) -> Preserve {
    let none = Preserve {
        mode: false,
        ownership: false,
        timestamps: false,
        links: false,
        xattr: false,
        acl: false,
        project: false,
        flags: false,
    };
    let mut kept = if args.preserve.is_empty() { Preserve::default() } else { none };
    let changes = args.preserve.iter().map(|attribute| (attribute, true));
    for (attribute, keep) in
        changes.chain(args.no_preserve.iter().map(|attribute| (attribute, false)))
    {
        match attribute {
            Attribute::Mode => kept.mode = keep,
            Attribute::Ownership => kept.ownership = keep,
            Attribute::Timestamps => kept.timestamps = keep,
            Attribute::Links => kept.links = keep,
            Attribute::Xattr => kept.xattr = keep,
            Attribute::Acl => kept.acl = keep,
            Attribute::Project => kept.project = keep,
            Attribute::Flags => kept.flags = keep,
            Attribute::All => {
                kept = if keep {
                    Preserve { project: true, flags: true, ..Preserve::default() }
                } else {
                    none
                };
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Result<CopyRequest, Unusable> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        parse(&words, Path::new("-a/b/"), Path::new("/c"))
    }

    #[test]
    fn options_without_paths_become_a_request() {
        let request = words(&["--no-preserve", "timestamps,acl", "--threads=3"]).unwrap();
        assert_eq!(request.sources, [PathBuf::from("-a/b/")]);
        assert_eq!(request.destination, PathBuf::from("/c"));
        let options = request.options;
        assert!(!options.preserve.timestamps && !options.preserve.acl && options.preserve.mode);
        assert_eq!(options.threads.map(usize::from), Some(3));
    }

    #[test]
    fn words_that_are_not_theirs_are_refused_by_name() {
        for (given, named) in [
            (vec!["--nonsense"], "--nonsense"),
            (vec!["/etc/shadow"], "/etc/shadow"),
            (vec!["--report", "/x"], "--report"),
            (vec!["--failed-list=/x"], "--failed-list"),
            (vec!["-t", "/x"], "--target-directory"),
            (vec!["-n"], "--dry-run"),
            (vec!["--bandwidth-limit", "fast"], "fast"),
        ] {
            let refused = words(&given).unwrap_err().to_string();
            assert!(refused.contains(named) && !refused.contains('\n'), "{given:?}: {refused}");
        }
    }
}
