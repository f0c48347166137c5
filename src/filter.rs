//! `--include` and `--exclude`: which items of the tree are copied. Pure.
//!
//! Rules are tried in the order given; the first that matches decides, and what no rule matches is
//! copied. A directory that is left out is not descended into. A pattern without a slash matches the
//! name at any depth; with a slash it matches the path below the source; a slash at its end makes it
//! match directories only; `*` stops at slashes, `**` does not. (These are rsync's rules.)

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};

use crate::error::Refusal;

/// Ordered rules.
#[derive(Debug, Default)]
pub struct Filter {
    rules: Vec<Rule>,
}

/// Whether matching items are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// `--include`
    Include,
    /// `--exclude`
    Exclude,
}

#[derive(Debug)]
struct Rule {
    verdict: Verdict,
    matcher: GlobMatcher,
    directories_only: bool,
    /// Matches the whole path below the source instead of the last name.
    whole_path: bool,
}

impl Filter {
    /// Compiles rules in the order in which they were given.
    ///
    /// # Errors
    /// A refusal that shows the pattern that is no glob.
    pub fn new<'a>(rules: impl IntoIterator<Item = (Verdict, &'a str)>) -> Result<Self, Refusal> {
        let rules = rules.into_iter().map(|(verdict, pattern)| Rule::new(verdict, pattern));
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }

    /// Whether there are no rules, so that nobody needs to build paths for them.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Calls `each` with what tells this filter from any other, part by part.
    pub(crate) fn describe(&self, mut each: impl FnMut(&[u8])) {
        for rule in &self.rules {
            let flags = [rule.verdict as u8, rule.directories_only.into(), rule.whole_path.into()];
            each(&flags);
            each(rule.matcher.glob().glob().as_bytes());
        }
    }

    /// As [`Filter::admits`], for an item that was not reached through its directories: none of those may
    /// be left out either. A path that is empty or a dot is the root, which is always there.
    #[must_use]
    pub fn admits_with_parents(&self, relative: &Path, is_directory: bool) -> bool {
        let root = |path: &Path| path.as_os_str().is_empty() || path == Path::new(".");
        self.is_empty()
            || root(relative)
            || (self.admits(relative, is_directory)
                && relative
                    .ancestors()
                    .skip(1)
                    .all(|above| root(above) || self.admits(above, true)))
    }

    /// Whether an item is copied, by its path below the source.
    #[must_use]
    pub fn admits(&self, relative: &Path, is_directory: bool) -> bool {
        let name = relative.file_name().unwrap_or(OsStr::from_bytes(b""));
        let rule = self.rules.iter().find(|rule| {
            (is_directory || !rule.directories_only)
                && if rule.whole_path {
                    rule.matcher.is_match(relative)
                } else {
                    rule.matcher.is_match(Path::new(name))
                }
        });
        rule.is_none_or(|rule| rule.verdict == Verdict::Include)
    }
}

impl Rule {
    fn new(verdict: Verdict, pattern: &str) -> Result<Self, Refusal> {
        let refuse = |why: &str| Refusal::Request(format!("pattern '{pattern}': {why}"));
        let directories_only = pattern.len() > 1 && pattern.ends_with('/');
        let body = if directories_only { &pattern[..pattern.len() - 1] } else { pattern };
        if body.is_empty() || body == "/" {
            return Err(refuse("is empty; name what to include or exclude"));
        }
        let whole_path = body.contains('/') || body.contains("**");
        let glob = GlobBuilder::new(&crossing(body.strip_prefix('/').unwrap_or(body)))
            .literal_separator(true)
            .backslash_escape(true)
            .build()
            .map_err(|error| refuse(&error.kind().to_string()))?;
        Ok(Self { verdict, matcher: glob.compile_matcher(), directories_only, whole_path })
    }
}

/// Lets `**` cross slashes wherever it stands, as rsync does; `globset` knows it only as a whole
/// component.
fn crossing(pattern: &str) -> String {
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(character) = rest.chars().next() {
        let stars = rest.len() - rest.trim_start_matches('*').len();
        let length = if character == '\\' {
            // An escaped character stands for itself.
            1 + rest[1..].chars().next().map_or(0, char::len_utf8)
        } else {
            stars.max(character.len_utf8())
        };
        let (token, after) = rest.split_at(length);
        let component =
            (out.is_empty() || out.ends_with('/')) && (after.is_empty() || after.starts_with('/'));
        out.push_str(if stars >= 2 && !component { "{*,*/**/*}" } else { token });
        rest = after;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(rules: &[(Verdict, &str)], path: &str, is_directory: bool) -> bool {
        let filter = Filter::new(rules.iter().copied()).expect("valid patterns");
        filter.admits(Path::new(path), is_directory)
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let rules = [(Verdict::Include, "keep.o"), (Verdict::Exclude, "*.o")];
        assert!(admits(&rules, "a/keep.o", false));
        assert!(!admits(&rules, "a/b.o", false));
        assert!(admits(&rules, "a/b.c", false));
    }

    #[test]
    fn a_slash_anchors_and_a_trailing_slash_means_directories() {
        assert!(!admits(&[(Verdict::Exclude, "/tmp")], "tmp", false));
        assert!(admits(&[(Verdict::Exclude, "/tmp")], "a/tmp", false));
        assert!(admits(&[(Verdict::Exclude, "a/*.o")], "a/b/c.o", false));
        assert!(!admits(&[(Verdict::Exclude, "a/**/*.o")], "a/b/d/c.o", false));
        assert!(!admits(&[(Verdict::Exclude, "cache/")], "x/cache", true));
        assert!(admits(&[(Verdict::Exclude, "cache/")], "x/cache", false));
    }

    #[test]
    fn two_stars_cross_slashes_wherever_they_stand() {
        let rules = [(Verdict::Exclude, "sub/**.log")];
        assert!(!admits(&rules, "sub/a.log", false));
        assert!(!admits(&rules, "sub/b/c/a.log", false));
        assert!(admits(&rules, "a.log", false));
        assert!(admits(&[(Verdict::Exclude, r"a\**b")], "axb", false), "escaped stars are stars");
    }

    #[test]
    fn a_broken_pattern_is_refused_with_its_text() {
        let refusal = Filter::new([(Verdict::Exclude, "a[")]).expect_err("refused").to_string();
        assert!(refusal.contains("'a['"), "{refusal}");
    }
}
