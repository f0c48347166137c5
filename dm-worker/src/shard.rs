//! The life of one shard at this worker: claim, mover, progress, end. It chooses no shards.
//!
//! ```text
//! mover started, waiting ─► claim (compare and swap) ─► order ─► progress … ─► end ─► last status
//!                             lost: mover killed                    accident: another mover
//! ```

mod outcome;
mod stall;
mod supervision;
mod tally;

use std::sync::Arc;
use std::time::{Duration, Instant};

use dm_service::{Step, Turns};
use kube::Client;
use longshore::api::DataMovementShard;
use longshore::api::data_movement::Outcome;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::sleep;

use crate::api::{Failure, Identity, Refused, Seen, Shard, Status};
use crate::lease::Held;
use crate::leftover::RunDirectory;
use crate::live::Stay;
use crate::metrics::Metrics;
use crate::process::{Mover, why_it_stays};
use crate::reports::Reports;
use outcome::Verdict;
use tally::Tally;

/// Movers end so long before the Lease runs out: their own grace, and some more.
pub(crate) const BEFORE_THE_LEASE: Duration = Duration::from_secs(2);

/// The pause before a mover is started again.
const AFTER_AN_ACCIDENT: Duration = Duration::from_secs(1);

/// What all shards of this worker share.
pub(crate) struct Worker {
    pub(crate) client: Client,
    pub(crate) turns: Arc<Turns>,
    pub(crate) own: Identity,
    /// The node's name, as a salt.
    pub(crate) node: String,
    pub(crate) directory: RunDirectory,
    pub(crate) reports: Reports,
    pub(crate) metrics: Metrics,
    pub(crate) limits: Limits,
}

/// What movers may do.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Memory of its own, in bytes.
    pub(crate) memory_bytes: u64,
    /// How long nothing may move.
    pub(crate) stall: Duration,
    /// How long a mover that was killed may stay before its shard is given up.
    pub(crate) give_up: Duration,
    /// How many movers of one shard may end by accident, one after the other.
    pub(crate) accidents: u32,
    /// Whether this worker mounts filesystems, which its movers are not to be able to.
    pub(crate) mounts: bool,
}

/// Whether shards go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conduct {
    GoOn,
    /// Put back what runs.
    PutBack,
}

/// One shard and its surroundings.
pub(crate) struct Life {
    pub(crate) worker: Arc<Worker>,
    pub(crate) shard: DataMovementShard,
    pub(crate) seen: Seen,
    pub(crate) conduct: watch::Receiver<Conduct>,
    pub(crate) held: watch::Receiver<Held>,
    /// Whether the source goes inside the destination, once that is decided and noted.
    pub(crate) inside: Option<bool>,
    /// Of the copy on filesystems that this worker has mounted.
    pub(crate) stay: Option<Stay>,
}

/// What is left to do.
#[derive(Debug)]
pub(crate) enum Left {
    /// What this version of the object says, and newer ones.
    Known(String),
    /// What versions after this one say.
    Tried(String),
    /// It could not even be tried: later again.
    Later,
}

impl Life {
    fn uid(&self) -> &str {
        self.shard.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The name for people.
    fn name(&self) -> String {
        let metadata = &self.shard.metadata;
        let part = |text: &Option<String>| text.clone().unwrap_or_default();
        format!("{}/{}", part(&metadata.namespace), part(&metadata.name))
    }

    fn version(&self) -> String {
        self.shard.metadata.resource_version.clone().unwrap_or_default()
    }

    fn is_to_be_cancelled(&self) -> bool {
        self.seen.borrow().as_ref().is_some_and(|shard| {
            shard.spec.cancel == Some(true) || shard.metadata.deletion_timestamp.is_some()
        })
    }

    /// Puts back a shard that an earlier process of this worker had, and whose mover is gone.
    pub(crate) async fn put_back(self) -> Left {
        let status = if self.is_to_be_cancelled() {
            self.worker.metrics.finished(Outcome::Cancelled);
            // Its mover is gone, unless a filesystem holds it in the kernel: then that is said.
            let stays = self.worker.directory.still_there(self.uid());
            let cancelled = outcome::cancelled_and(stays.map(why_it_stays).as_deref());
            outcome::over(&cancelled, &Tally::default())
        } else {
            self.worker.metrics.released();
            outcome::released()
        };
        let version = self.version();
        tracing::info!(shard = self.name(), "putting back what an earlier worker had");
        left(self.status(version.clone()).finish(status).await, version)
    }

    fn target(&self) -> Shard {
        let Worker { client, turns, metrics, .. } = &*self.worker;
        Shard::new(client, &self.shard, Arc::clone(turns), metrics.clone())
    }

    fn status(&self, version: String) -> Status {
        Status::start(self.target(), self.worker.own.clone(), version, self.seen.clone())
    }

    /// Claims the shard and carries it out. The permit is given back when no mover runs any more.
    pub(crate) async fn carry_out(mut self, permit: OwnedSemaphorePermit) -> Left {
        if let Some(pid) = self.worker.directory.still_there(self.uid()) {
            tracing::error!(shard = self.name(), "of an earlier attempt: {}", why_it_stays(pid));
            return Left::Later;
        }
        self.let_others_begin().await;
        if !self.is_free() || *self.conduct.borrow() == Conduct::PutBack {
            return Left::Tried(self.version());
        }
        let started = Instant::now();
        if let Some(text) = self.refusal() {
            return self.end_unstarted(&outcome::refused(&text)).await;
        }
        let mover = match self.start() {
            Ok(mover) => mover,
            Err(error) => {
                let text = format!("failed to start a mover: {error}");
                return self.end_unstarted(&outcome::failed(None, &text)).await;
            }
        };
        let claimed = self.claim().await;
        self.worker.metrics.claim_took(started.elapsed().as_secs_f64());
        match claimed {
            Ok(version) => {
                tracing::info!(shard = self.name(), pid = mover.pid(), "claimed");
                self.run_claimed(mover, version, permit).await
            }
            Err(left) => {
                self.end_unneeded(mover).await;
                left
            }
        }
    }

    /// Whether nobody has it, as far as is known, and somebody may.
    fn is_free(&self) -> bool {
        self.seen.borrow().as_ref().is_some_and(is_free)
    }

    /// Of several workers that could claim a shard, the others hear of it soonest when not all of them
    /// begin at once.
    async fn let_others_begin(&self) {
        const SPREAD_MILLISECONDS: u64 = 20;
        if self.shard.spec.node.is_some() {
            return;
        }
        let mut hash = 0xcbf2_9ce4_8422_2325_u64; // FNV-1a
        for byte in self.uid().bytes().chain(self.worker.node.bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        sleep(Duration::from_millis(hash % SPREAD_MILLISECONDS)).await;
    }

    /// Why this program cannot carry it out.
    fn refusal(&self) -> Option<String> {
        let spec = &self.shard.spec;
        let parts = spec.directories.is_some() || spec.ranges.is_some();
        parts.then(|| {
            "the shard is a part of a copy (directories or ranges), which this version of the worker \
             cannot carry out"
                .to_owned()
        })
    }

    fn start(&self) -> std::io::Result<Mover> {
        let spec = &self.shard.spec;
        let limits = &self.worker.limits;
        let mover = Mover::start(spec.user_id, spec.group_id, limits.memory_bytes, limits.mounts)?;
        self.worker.directory.note(self.uid(), mover.pid(), &self.name())?;
        Ok(mover)
    }

    /// Ends a mover that has opened nothing yet.
    async fn end_unneeded(&self, mut mover: Mover) {
        mover.signal(Signal::SIGKILL);
        drop(mover.ended().await);
        self.worker.directory.forget(self.uid());
    }

    /// What is run, for people.
    fn command(&self, destination: &str) -> String {
        let spec = &self.shard.spec;
        let mut words = vec!["longshore".to_owned(), "copy".to_owned()];
        if spec.dry_run == Some(true) {
            words.push("--dry-run".to_owned());
        }
        words.extend(spec.options.iter().flatten().cloned());
        words.extend([spec.source.clone(), destination.to_owned()]);
        words.join(" ")
    }

    fn attempts(&self) -> i32 {
        let status = self.shard.status.as_ref();
        status.and_then(|status| status.attempts).unwrap_or_default()
    }

    /// Writes this worker's name into the status, if nobody has changed the shard.
    async fn claim(&mut self) -> Result<String, Left> {
        let target = self.target();
        let turn = target.turn(Step::Begin).await;
        // The newest that is known, which is still free.
        if let Some(newest) = self.seen.borrow().clone().filter(is_free) {
            self.shard = newest;
        }
        let noted = self.shard.status.as_ref().and_then(|status| status.inside);
        self.inside = noted.or(self.shard.spec.inside);
        let command = self.command(&self.shard.spec.destination);
        let status = outcome::claimed(&self.worker.own, self.attempts() + 1, &command);
        let version = self.version();
        let result = match target.write(&version, &status).await {
            // It may have been done all the same, and only the answer was lost.
            Err(Failure::Transient(error)) => {
                self.claimed_unheard().await.ok_or(Failure::Transient(error))
            }
            result => result,
        };
        drop(turn);
        let (word, result) = match result {
            Ok(version) => ("won", Ok(version)),
            // The watch brings what it is now.
            Err(Failure::Conflict | Failure::Gone) => ("lost", Err(Left::Tried(version))),
            Err(Failure::Invalid(error) | Failure::Transient(error)) => {
                tracing::warn!(shard = self.name(), error, "failed to claim a shard");
                ("failed", Err(Left::Later))
            }
        };
        self.worker.metrics.claimed(word);
        result
    }

    /// The version that the claim made of the object, if it did.
    async fn claimed_unheard(&self) -> Option<String> {
        let now = self.target().read().await.ok()?;
        let status = now.status.as_ref();
        let ours = self.worker.own.has(status)
            && status.and_then(|status| status.attempts) == Some(self.attempts() + 1);
        now.metadata.resource_version.filter(|_| ours)
    }

    /// Claims a shard and finishes it at once, without a mover.
    async fn end_unstarted(mut self, result: &outcome::Result) -> Left {
        match self.claim().await {
            Ok(version) => {
                self.worker.metrics.finished(result.outcome);
                let last = outcome::over(result, &Tally::default());
                left(self.status(version.clone()).finish(last).await, version)
            }
            Err(left) => left,
        }
    }

    async fn run_claimed(
        mut self,
        mover: Mover,
        version: String,
        permit: OwnedSemaphorePermit,
    ) -> Left {
        let mut status = self.status(version.clone());
        let mut tally = Tally::default();
        let mut attempts = self.attempts() + 1;
        let mut accidents = 0;
        let mut mover = Ok(mover);
        let last = loop {
            let begun = Instant::now();
            let verdict = match (mover, self.reason()) {
                (Ok(mover), _) => self.supervise(mover, attempts, &mut status, &mut tally).await,
                (Err(_), Some(reason)) => outcome::unstarted(reason),
                (Err(error), None) => {
                    let text = format!("failed to start a mover: {error}");
                    Verdict::Over(outcome::failed(None, &text))
                }
            };
            self.worker.metrics.mover_took(begun.elapsed().as_secs_f64());
            let how = match verdict {
                Verdict::Over(result) => {
                    if result.outcome == Outcome::Success {
                        tally.complete();
                    }
                    self.worker.metrics.finished(result.outcome);
                    tracing::info!(shard = self.name(), outcome = ?result.outcome, "finished");
                    break Some(outcome::over(&result, &tally));
                }
                Verdict::Release => {
                    self.worker.metrics.released();
                    tracing::info!(shard = self.name(), "put back");
                    break Some(outcome::released());
                }
                Verdict::Nothing => break None,
                Verdict::Again(how) => how,
            };
            self.worker.metrics.crashed();
            accidents += 1;
            tracing::warn!(shard = self.name(), accidents, how, "a mover ended by accident");
            if accidents >= self.worker.limits.accidents {
                let text = format!("{how}; that was attempt {accidents}, and there is no other");
                let result = outcome::failed(None, &text);
                self.worker.metrics.finished(result.outcome);
                break Some(outcome::over(&result, &tally));
            }
            attempts += 1;
            let text = format!("attempt {attempts} goes on after an accident: {how}");
            status.set(json!({"attempts": attempts, "message": text}));
            sleep(AFTER_AN_ACCIDENT).await;
            mover = match self.reason() {
                None => self.start(),
                Some(_) => Err(std::io::Error::other("not started")),
            };
        };
        // Nothing of it runs any more: what is left is to say so, however long that takes.
        drop(permit);
        self.stay = None;
        let left = match last {
            Some(last) => left(status.finish(last).await, version),
            None => Left::Tried(version),
        };
        // What the Lease said of it was true until now.
        self.worker.reports.forget(&self.name());
        left
    }
}

/// After the last write of a shard whose claim made `version` of it.
fn left(written: Result<String, Refused>, version: String) -> Left {
    match written {
        Ok(written) => Left::Known(written),
        Err(refused) => {
            tracing::warn!(?refused, "nobody is told how a shard ended");
            Left::Tried(version)
        }
    }
}

/// Whether a shard waits for a worker.
pub(crate) fn is_free(shard: &DataMovementShard) -> bool {
    let state = shard.status.as_ref().and_then(|status| status.state.as_ref());
    state.is_none()
        && shard.spec.cancel != Some(true)
        && shard.metadata.deletion_timestamp.is_none()
}
