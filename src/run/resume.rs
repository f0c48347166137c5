//! What an earlier run of the same script means for this one. Pure: the journal is read and the
//! answer acted upon elsewhere.

use super::journal::{Job, Journal};
use super::{RunError, Start, StartedJob, State};

/// The exit code of a body whose end nobody saw, when the user says to go on.
const UNKNOWN_END: u8 = 1;

/// How a run begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beginning {
    /// From Setup, with a new identity.
    New,
    /// As `New`, after the storage of this earlier run is discarded.
    Discard(Journal),
    /// Where the journal says; it is already adapted to the choices about the job body.
    Continue(Journal),
    /// Not at all: it had ended with this journal.
    Ended(Journal),
}

/// Decides.
///
/// # Errors
/// [`RunError::Refused`] with the choices that there are.
pub fn decide(
    start: Start,
    earlier: Option<Journal>,
    content: &str,
    allocations: u32,
) -> Result<Beginning, RunError> {
    let Some(journal) = earlier else {
        return Ok(Beginning::New);
    };
    let job = match start {
        Start::New if journal.state == State::Done => return Ok(Beginning::New),
        Start::New => {
            return refuse(format!(
                "an earlier run of this script stopped in {}. Use --resume to go on there, or \
                 --fresh to discard its job storage and start again",
                journal.state
            ));
        }
        Start::Fresh if journal.state == State::Done => return Ok(Beginning::New),
        Start::Fresh => return Ok(Beginning::Discard(journal)),
        Start::Resume(_) if journal.state == State::Done => return Ok(Beginning::Ended(journal)),
        Start::Resume(job) => job,
    };
    if journal.content != content {
        return refuse(format!(
            "the script has changed since its run stopped in {}. Restore it and use --resume, or \
             use --fresh to discard the run's job storage and start again",
            journal.state
        ));
    }
    if journal.allocations != allocations {
        return refuse(format!(
            "the run was started with --allocations {}; resume it with the same number",
            journal.allocations
        ));
    }
    with_job(journal, job)
}

fn with_job(mut journal: Journal, choice: StartedJob) -> Result<Beginning, RunError> {
    let started = !matches!(journal.job, Job::NotStarted);
    match choice {
        StartedJob::Rerun if journal.state == State::Teardown => {
            return refuse(
                "the job's storage is already being removed; use --resume without --rerun-job to \
                 finish, or --fresh to start again"
                    .into(),
            );
        }
        StartedJob::Rerun if started => {
            journal.job = Job::NotStarted;
            journal.state = State::PreRun;
            journal.complete.clear();
        }
        StartedJob::Skip if matches!(journal.job, Job::Started { .. }) => {
            journal.job = Job::Ended { code: UNKNOWN_END };
        }
        StartedJob::Keep if matches!(journal.job, Job::Started { .. }) => {
            return refuse(
                "the job was started by an earlier run, which was killed before it saw the end. \
                 Use --resume --rerun-job to start the job again in the same storage, or --resume \
                 --skip-job to go on with DataOut as if the job had failed"
                    .into(),
            );
        }
        _ => {}
    }
    Ok(Beginning::Continue(journal))
}

fn refuse<T>(text: String) -> Result<T, RunError> {
    Err(RunError::Refused(text))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn journal(state: State, job: Job) -> Option<Journal> {
        let (uid, node) = ("u".to_owned(), "n".to_owned());
        let mut journal = Journal::new(uid, Path::new("/job.sh"), "mark".into(), node, 2);
        journal.state = state;
        journal.job = job;
        journal.complete = vec!["1".into()];
        Some(journal)
    }

    fn says(result: Result<Beginning, RunError>) -> String {
        result.unwrap_err().to_string()
    }

    const KEEP: Start = Start::Resume(StartedJob::Keep);
    const STARTED: Job = Job::Started { pid: Some(1) };

    #[test]
    fn an_unfinished_run_is_neither_forgotten_nor_mixed_up() {
        let unfinished = || journal(State::DataIn, Job::NotStarted);
        let text = says(decide(Start::New, unfinished(), "mark", 2));
        assert!(text.contains("--resume") && text.contains("--fresh"), "{text}");
        assert!(says(decide(KEEP, unfinished(), "other", 2)).contains("script has changed"));
        assert!(says(decide(KEEP, unfinished(), "mark", 3)).contains("--allocations 2"));
        let discarded = decide(Start::Fresh, unfinished(), "other", 3).unwrap();
        assert_eq!(discarded, Beginning::Discard(unfinished().unwrap()));
        let again = decide(KEEP, unfinished(), "mark", 2).unwrap();
        assert_eq!(again, Beginning::Continue(unfinished().unwrap()));
    }

    #[test]
    fn a_body_of_unknown_end_starts_again_only_when_told_to() {
        let text = says(decide(KEEP, journal(State::Job, STARTED), "mark", 2));
        assert!(text.contains("--rerun-job") && text.contains("--skip-job"), "{text}");
        let rerun = Start::Resume(StartedJob::Rerun);
        let Ok(Beginning::Continue(journal)) =
            decide(rerun, journal(State::Job, STARTED), "mark", 2)
        else {
            panic!("a rerun goes on");
        };
        assert_eq!((journal.state, journal.job), (State::PreRun, Job::NotStarted));
        assert!(journal.complete.is_empty());
        let skip = Start::Resume(StartedJob::Skip);
        let Ok(Beginning::Continue(journal)) =
            decide(skip, self::journal(State::Job, STARTED), "mark", 2)
        else {
            panic!("a skip goes on");
        };
        assert_eq!(journal.job, Job::Ended { code: 1 });
    }

    #[test]
    fn a_finished_run_is_not_run_again_by_resume() {
        let done = || journal(State::Done, Job::Ended { code: 4 });
        let ended = decide(KEEP, done(), "other", 9).unwrap();
        assert_eq!(ended, Beginning::Ended(done().unwrap()));
        assert_eq!(decide(Start::New, done(), "mark", 2).unwrap(), Beginning::New);
        assert_eq!(decide(KEEP, None, "mark", 2).unwrap(), Beginning::New);
        let rerun = Start::Resume(StartedJob::Rerun);
        let text = says(decide(rerun, journal(State::Teardown, Job::Ended { code: 0 }), "mark", 2));
        assert!(text.contains("already being removed"), "{text}");
    }
}
