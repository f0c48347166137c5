//! Under which job the servers of Lustre count what this process does (jobstats). A client reads the
//! job's id from the environment with which a process was started, so it can only be set by starting
//! once more. This decides; the command starts itself again.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// What the client's parameter `jobid_var` says: where it takes the id from (`lustre/obdclass/jobid.c`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// There is no Lustre client on this machine, or it counts under no job.
    Off,
    /// By the name and user of the process; nothing to be done.
    Process,
    /// One name for the whole node; nothing to be done.
    Node,
    /// By session, which an administrator set; nothing to be done.
    Session,
    /// From the environment variable of this name.
    Variable(String),
}

/// The longest id that a client passes on: `LUSTRE_JOBID_SIZE` without the final NUL.
pub const MAX_BYTES: usize = 31;

/// Set to the variable's name in a process that was started again with that variable, so that it is
/// not started a third time, and so that a job's body can be started without it.
pub const MARK: &str = "LONGSHORE_JOB_ID_VARIABLE";

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The servers count under the right job, or under none because the site wants it so.
    Nothing,
    /// This process must be started again with this variable.
    Restart {
        /// The environment variable.
        variable: String,
        /// The job's id.
        id: OsString,
    },
    /// The servers count under no job; why, and what to do.
    Note(String),
}

impl Rule {
    /// The rule in the words of `jobid_var`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.trim() {
            "" | "disable" => Self::Off,
            "procname_uid" => Self::Process,
            "nodelocal" => Self::Node,
            "session" => Self::Session,
            name => Self::Variable(name.to_owned()),
        }
    }

    /// The rule of this machine's client. `parameters` is `/sys/fs/lustre`.
    #[must_use]
    pub fn of(parameters: &Path) -> Self {
        std::fs::read_to_string(parameters.join("jobid_var"))
            .map_or(Self::Off, |text| Self::parse(&text))
    }

    /// What to do for a job. `environment` is that of this process, as far as it was there when the
    /// process was started.
    ///
    /// An id that was `asked` for wins over the one that the variable has; what the batch system has set
    /// is right when nothing was asked for, and `fallback` where it has set nothing.
    #[must_use]
    pub fn decide(
        &self,
        asked: Option<&OsStr>,
        fallback: Option<&OsStr>,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Decision {
        let Self::Variable(variable) = self else { return Decision::Nothing };
        let set = environment(variable).filter(|value| !value.is_empty());
        let id = asked.or(fallback.filter(|_| set.is_none()));
        match (id, set) {
            (Some(id), Some(set)) if id == set => Decision::Nothing,
            // It was started again, and the variable has another value all the same.
            (Some(_), _) if environment(MARK).is_some() => Decision::Note(format!(
                "the servers count this copy under no job: {variable} did not survive the start"
            )),
            (Some(id), _) => Decision::Restart { variable: variable.clone(), id: id.to_owned() },
            (None, Some(_)) => Decision::Nothing,
            (None, None) => Decision::Note(format!(
                "the servers count this copy under no job: {variable} is not set; start it in the \
                 job, or with --job-id"
            )),
        }
    }
}

/// Checks an id that was asked for.
///
/// # Errors
/// A sentence that says what to write instead.
pub fn check(id: &str) -> Result<String, String> {
    if id.is_empty() || id.len() > MAX_BYTES {
        return Err(format!("a job's id has 1 to {MAX_BYTES} bytes: Lustre passes on no more"));
    }
    if id.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err("a job's id has letters, digits and signs only, and no spaces".to_owned());
    }
    Ok(id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(rule: &str, id: Option<&str>, environment: &[(&str, &str)]) -> Decision {
        let look = |name: &str| {
            let found = environment.iter().find(|(own, _)| *own == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Rule::parse(rule).decide(id.map(OsStr::new), None, look)
    }

    #[test]
    fn nothing_is_done_where_the_id_does_not_come_from_the_environment() {
        for rule in ["disable\n", "", "procname_uid\n", "nodelocal", "session"] {
            assert_eq!(decide(rule, Some("7"), &[]), Decision::Nothing, "{rule:?}");
        }
        assert_eq!(Rule::of(Path::new("/nonexistent")), Rule::Off);
    }

    #[test]
    fn the_batch_systems_own_id_is_left_alone() {
        assert_eq!(decide("SLURM_JOB_ID\n", None, &[("SLURM_JOB_ID", "7")]), Decision::Nothing);
        assert_eq!(decide("SLURM_JOB_ID", Some("7"), &[("SLURM_JOB_ID", "7")]), Decision::Nothing);
    }

    #[test]
    fn a_known_id_that_the_client_does_not_see_needs_one_start_and_not_two() {
        let restart = Decision::Restart { variable: "PBS_JOBID".into(), id: "copy-1".into() };
        assert_eq!(decide("PBS_JOBID\n", Some("copy-1"), &[]), restart);
        assert_eq!(decide("PBS_JOBID\n", Some("copy-1"), &[("PBS_JOBID", "")]), restart);
        assert_eq!(decide("PBS_JOBID\n", Some("copy-1"), &[("PBS_JOBID", "other")]), restart);
        let again = [("PBS_JOBID", "copy-1"), (MARK, "PBS_JOBID")];
        assert_eq!(decide("PBS_JOBID", Some("copy-1"), &again), Decision::Nothing);
        let lost = decide("PBS_JOBID", Some("copy-1"), &[(MARK, "PBS_JOBID")]);
        assert!(matches!(lost, Decision::Note(why) if why.contains("PBS_JOBID")));
    }

    #[test]
    fn a_fallback_does_not_replace_what_the_batch_system_has_set() {
        let rule = Rule::parse("SLURM_JOB_ID");
        let fallback = Some(OsStr::new("wordcount"));
        let restart = Decision::Restart { variable: "SLURM_JOB_ID".into(), id: "wordcount".into() };
        assert_eq!(rule.decide(None, fallback, |_| None), restart);
        assert_eq!(rule.decide(None, fallback, |_| Some("7".into())), Decision::Nothing);
    }

    #[test]
    fn an_unknown_id_is_told() {
        let told = decide("SLURM_JOB_ID", None, &[]);
        assert!(matches!(told, Decision::Note(why) if why.contains("--job-id")));
    }

    #[test]
    fn ids_that_lustre_would_cut_are_refused() {
        assert!(check("job-17").is_ok() && check(&"x".repeat(31)).is_ok());
        for id in ["", "a b", "a\n", &"x".repeat(32)] {
            assert!(check(id).is_err(), "{id:?}");
        }
    }
}
