//! What Longshore knows about Lustre, without its library: the layouts of files as the extended
//! attribute `lustre.lov` has them, and which filesystems are Lustre. It copies nothing.

mod compose;
pub mod fields;
mod format;
pub mod layout;
mod parse;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;
