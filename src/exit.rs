//! Exit codes of `longshore copy` and of a mover: an interface that scripts and the worker rely on.
//! It decides nothing; the report does.

use serde::Serialize;

/// How a copy ended. The numbers are a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Everything was copied.
    Complete,
    /// Some items failed; everything else is exact.
    Partial,
    /// Refused before anything was written (usage, impossible request).
    Refused,
    /// Stopped by a condition that concerns the whole copy (no space, quota, filesystem gone).
    /// Running the same command again goes on.
    Fatal,
    /// Cancelled by SIGINT. Running the same command again goes on.
    Interrupted,
    /// Cancelled by SIGTERM. Running the same command again goes on.
    Terminated,
}

impl Outcome {
    /// The process exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Complete => 0,
            Self::Partial => 1,
            Self::Refused => 2,
            Self::Fatal => 3,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }

    /// The worse of two outcomes, for a command that ran several copies: a cancellation hides a
    /// fatal end, which hides failed items.
    #[must_use]
    pub fn worst(self, other: Self) -> Self {
        if other.code() > self.code() { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::Outcome;

    #[test]
    fn codes_are_the_documented_ones() {
        let codes: Vec<u8> = [
            Outcome::Complete,
            Outcome::Partial,
            Outcome::Refused,
            Outcome::Fatal,
            Outcome::Interrupted,
            Outcome::Terminated,
        ]
        .map(Outcome::code)
        .to_vec();
        assert_eq!(codes, [0, 1, 2, 3, 130, 143]);
    }

    #[test]
    fn a_cancellation_is_worse_than_failed_items() {
        assert_eq!(Outcome::Partial.worst(Outcome::Interrupted), Outcome::Interrupted);
        assert_eq!(Outcome::Fatal.worst(Outcome::Partial), Outcome::Fatal);
    }
}
