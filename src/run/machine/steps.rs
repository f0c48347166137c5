//! What is done in each state. Every step can be repeated; in which order they come, and when a run
//! stops between them, is the machine's business.

use std::fs::File;
use std::sync::PoisonError;

use nix::fcntl::Flock;

use super::{Machine, Step};
use crate::directive::resolve::Direction;
use crate::exit::Outcome;
use crate::lustre::job_id;
use crate::run::journal::{Job, Journal};
use crate::run::leg::Leg;
use crate::run::persistent::Instance;
use crate::run::proposal::Proposal;
use crate::run::report::CopyReport;
use crate::run::stage::Stage;
use crate::run::{RunError, body, environment, storage};

impl Machine<'_> {
    pub(super) fn setup(&self) -> Result<Step, RunError> {
        let journal = self.note(|_| {})?;
        for volume in self.proposal.volumes.jobs.values() {
            volume.make()?;
        }
        for create in &self.proposal.workflow.creates {
            let instance = Instance {
                storage_type: create.storage_type,
                allocations: journal.allocations,
                node: journal.node.clone(),
                uid: journal.uid.clone(),
            };
            self.instances.create(&create.name, &instance)?;
        }
        for mention in &self.proposal.workflow.persistents {
            self.instances.retain(&mention.name, &journal.uid, &journal.script)?;
        }
        Ok(Step::Next)
    }

    pub(super) fn stage(
        &self,
        direction: Direction,
        copies: &mut Vec<CopyReport>,
    ) -> Result<Step, RunError> {
        let Journal { state, complete, uid, .. } = self.note(|_| {})?;
        let legs: Vec<_> =
            self.proposal.legs_of(direction).filter(|leg| !complete.contains(&leg.key())).collect();
        let completed = |leg: &Leg| self.note(|journal| journal.complete.push(leg.key())).map(drop);
        let stage = Stage {
            legs,
            journals: storage::copy_journals(&self.request.storage, &uid),
            copier: self.copier,
            observer: self.observer,
            signals: self.signals,
            completed: &completed,
        };
        let done = stage.run()?;
        let outcome = done.iter().map(CopyReport::outcome).fold(Outcome::Complete, Outcome::worst);
        let mut lines: Vec<_> = done
            .iter()
            .filter(|copy| matches!(copy.outcome(), Outcome::Partial | Outcome::Fatal))
            .map(CopyReport::explain)
            .collect();
        copies.extend(done);
        if outcome == Outcome::Complete {
            return Ok(Step::Next);
        }
        let how = if outcome.code() > 128 { "was cancelled" } else { "failed" };
        lines.push(self.stopped(state, how));
        Ok(Step::Stop(outcome.code(), lines.join("\n")))
    }

    pub(super) fn job(&self, lock: &Flock<File>) -> Result<Step, RunError> {
        let known = self.note(|_| {})?;
        if matches!(known.job, Job::Ended { .. }) {
            self.observer.message("the job has already ended and is not started again");
            return Ok(Step::Next);
        }
        let Proposal { interpreter, workflow, volumes, .. } = &self.proposal;
        let mut command = interpreter.command(&self.request.script, &self.request.args);
        command.envs(environment::variables(&self.request.script, workflow, volumes));
        if let Some(variable) = std::env::var_os(job_id::MARK) {
            // It is set for this process's own copies; no batch system gave it to the job.
            command.env_remove(variable).env_remove(job_id::MARK);
        }
        // Durable before the body exists: from here on nobody may take it for not started.
        self.note(|journal| journal.job = Job::Started { pid: None })?;
        let started = |pid| {
            // Only for a message; that it was started is durable already.
            let _ = self.note(|journal| journal.job = Job::Started { pid: Some(pid) });
        };
        self.open_files.restore();
        let code = match body::run(command, lock, self.signals, started) {
            Ok(code) => code,
            Err(error) => {
                let job = self.journal.lock().unwrap_or_else(PoisonError::into_inner).job;
                if job == (Job::Started { pid: None }) {
                    self.note(|journal| journal.job = Job::NotStarted)?;
                }
                return Err(RunError::system(&self.request.script, "run the job")(error));
            }
        };
        self.note(|journal| journal.job = Job::Ended { code })?;
        if code != 0 {
            self.observer.message(&format!("the job ended with exit code {code}"));
        }
        Ok(Step::Next)
    }

    pub(super) fn teardown(&self) -> Result<Step, RunError> {
        let uid = self.uid();
        self.remove_storage(&uid)?;
        for destroy in &self.proposal.workflow.destroys {
            self.instances.destroy(&destroy.name, &uid)?;
        }
        Ok(Step::Next)
    }

    fn remove_storage(&self, uid: &str) -> Result<(), RunError> {
        for root in storage::job_roots(&self.request.storage, uid)? {
            storage::remove(&root)?;
        }
        storage::remove(&storage::copy_journals(&self.request.storage, uid))?;
        self.instances.release(uid)
    }

    /// Forgets an earlier run.
    pub(super) fn discard(&self, earlier: &Journal) -> Result<(), RunError> {
        self.observer.message(&format!(
            "discarding the job storage of the run that stopped in {}",
            earlier.state
        ));
        self.remove_storage(&earlier.uid)?;
        for name in self.instances.discard_empty(&earlier.uid)? {
            self.observer.message(&format!("persistent storage '{name}' is in use and stays"));
        }
        Ok(())
    }
}
