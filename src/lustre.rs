//! What Longshore knows about Lustre, without its library: the layouts of files as the extended
//! attribute `lustre.lov` has them, where their bytes are by these, and which filesystems are Lustre.
//! It copies nothing.

mod compose;
pub mod fields;
mod format;
pub mod layout;
mod parse;
pub mod stripes;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;
