//! `--include` and `--exclude`: which items of the tree are copied. Pure.

/// Ordered rules; the first that matches decides, and what no rule matches is copied.
#[derive(Debug, Default)]
pub struct Filter {}
