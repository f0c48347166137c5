//! What Longshore knows about Lustre, without its library: the layouts of files as the extended
//! attribute `lustre.lov` has them, where their bytes are by these, and which filesystems are Lustre.
//! It copies nothing.

pub mod access;
pub mod choose;
mod compose;
pub mod expect;
pub mod fields;
pub mod forecast;
mod format;
pub mod full;
pub mod hsm;
pub mod job_id;
mod json;
pub mod layout;
mod normalise;
pub mod parameters;
mod parse;
pub mod probe;
pub mod ready;
pub mod reason;
pub mod report;
pub mod show;
pub mod site;
mod size;
pub mod spec;
pub mod stripes;
pub mod table;
mod text;
pub mod told;
mod values;
pub mod version;
mod words;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;
