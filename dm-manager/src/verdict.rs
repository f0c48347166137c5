//! What is said about an object before it is stored: why it would be refused later, and what its author
//! may want to know. It judges nothing itself.

/// All that is said about one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Why the controllers would refuse it, in their words.
    pub(crate) refusals: Vec<String>,
    /// What is doubtful, and refused by nobody.
    pub(crate) warnings: Vec<String>,
}
