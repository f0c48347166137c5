//! What Longshore knows about Lustre, without its library: the layouts of files as the extended
//! attribute `lustre.lov` has them, where their bytes are by these, and which filesystems are Lustre.
//! It copies nothing.

pub mod choose;
mod compose;
pub mod fields;
mod format;
mod json;
pub mod layout;
mod normalise;
mod parse;
pub mod reason;
pub mod site;
mod size;
pub mod spec;
pub mod stripes;
pub mod table;
mod text;
mod values;
mod words;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;
