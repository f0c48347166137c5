//! The life of a movement as one function: what is seen goes in, what is to be done next comes out. It
//! asks nobody and writes nothing, so that every situation can be tried without a cluster.
//!
//! A movement gets a finalizer and a shard, is shown as running when a worker has claimed the shard, and
//! as finished when the shard is. Nothing is remembered between two looks: the two objects say it all.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use longshore::api::data_movement::{FINALIZER, NnfDataMovement, NnfDataMovementStatus, State};
use longshore::api::data_movement_shard::{
    DataMovementShard, DataMovementShardStatus, MANAGER_LABEL, ShardState,
};
use longshore::api::shard_progress::ShardProgress;

use super::plan::{Facts, Plan, Site, plan};
use super::status;

/// How often a movement is looked at again while its worker may fall silent, or may come back.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// After how long the administrators are told of a shard that nobody has claimed.
const UNCLAIMED: Duration = Duration::from_secs(60);

/// The names of movements that the copy-offload server makes begin with this. It copies by itself, and a
/// movement that is carried out by two is copied twice.
const COPY_OFFLOAD: &str = "nnf-copy-offload-";

/// What is seen of a movement.
pub(crate) struct View<'a> {
    pub(crate) movement: &'a NnfDataMovement,
    /// The shard of that name, if there is one.
    pub(crate) shard: Option<&'a DataMovementShard>,
    /// How far its worker says that it is.
    pub(crate) progress: Option<&'a ShardProgress>,
    /// Whether the source goes inside the destination, where a shard of it has said so, be it gone or not.
    pub(crate) inside: Option<bool>,
    /// For how long the worker that has claimed the shard, or is the only one that can, has been without a
    /// valid Lease.
    pub(crate) silent: Option<Duration>,
    /// Where the movements of its namespace are done.
    pub(crate) site: Site,
    /// The namespace of this manager.
    pub(crate) manager: &'a str,
    /// What is known of the objects that it names.
    pub(crate) facts: &'a Facts,
    /// After how long without its worker a movement is given up.
    pub(crate) patience: Duration,
    pub(crate) now: Timestamp,
}

/// One thing to do. Each is conditional on what was seen, and those after one that fails are not done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Put the finalizer on the movement.
    Hold,
    /// Take the finalizer from the movement.
    LetGo,
    /// Make its shard.
    CreateShard(Box<Plan>),
    /// Delete the shard as it was seen: one that was claimed since then stays.
    DeleteShard,
    /// Have the shard's mover stopped.
    CancelShard,
    /// Take the shard from its worker, so that another one can claim it.
    PutBackShard,
    /// Write the movement's status.
    Write(Box<NnfDataMovementStatus>),
    /// Tell the administrators.
    Warn { reason: &'static str, note: String },
}

/// What is to be done, and when to look again if nothing changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Decision {
    pub(crate) actions: Vec<Action>,
    pub(crate) again: Option<Duration>,
}

impl Decision {
    fn of(actions: impl Into<Vec<Action>>) -> Self {
        Self { actions: actions.into(), again: None }
    }

    fn look_again(self) -> Self {
        Self { again: Some(LOOK_AGAIN), ..self }
    }
}

/// The shard as it concerns the movement.
enum Shard<'a> {
    None,
    /// It belongs to an earlier movement of the same name.
    OfAnother,
    /// Nobody has claimed it.
    Free,
    Running(&'a DataMovementShard, &'a DataMovementShardStatus),
    Finished(&'a DataMovementShardStatus),
}

/// Whether what a movement refers to matters to the decision, so that it has to be known.
pub(crate) fn starts(movement: &NnfDataMovement, shard: Option<&DataMovementShard>) -> bool {
    movement.metadata.deletion_timestamp.is_none()
        && !is_finished(movement)
        && matches!(classify(movement, shard), Shard::None)
}

/// What is to be done next.
pub(crate) fn decide(view: &View<'_>) -> Decision {
    let movement = view.movement;
    let shard = classify(movement, view.shard);
    // What we have begun is ours to the end, also where its node has gone or has lost its label.
    let begun = matches!(shard, Shard::Free | Shard::Running(..) | Shard::Finished(_))
        && view.shard.is_some_and(|shard| is_made_by(shard, view.manager));
    if view.site == Site::Foreign && !begun || is_of_copy_offload(movement) {
        return leave(view);
    }
    let before = movement.status.clone().unwrap_or_default();
    if movement.metadata.deletion_timestamp.is_some() {
        return delete(view, &before, &shard);
    }
    if is_finished(movement) {
        return Decision::default();
    }
    let hold = (!is_held(movement)).then_some(Action::Hold);
    let mut decision = live(view, &before, &shard);
    decision.actions.splice(0..0, hold);
    decision
}

/// Whether a movement that nobody has begun yet is planned, and refused where it cannot be.
pub(crate) fn is_planned(movement: &NnfDataMovement, site: &Site) -> bool {
    let ours = *site != Site::Foreign && !is_of_copy_offload(movement);
    ours && starts(movement, None) && !is_cancelled(movement)
}

/// A movement that is not ours to carry out and has no shard of ours. Only our finalizer is ours, which a program
/// before this one may have put there, or this one when there was a node of that name.
fn leave(view: &View<'_>) -> Decision {
    let Some(deleted) = &view.movement.metadata.deletion_timestamp else {
        return Decision::default();
    };
    if !is_held(view.movement) {
        return Decision::default();
    }
    if is_of_copy_offload(view.movement) {
        return Decision::of([Action::LetGo]);
    }
    let age = Duration::try_from(view.now.duration_since(deleted.0)).unwrap_or_default();
    if age < view.patience {
        return Decision { actions: Vec::new(), again: Some(view.patience - age) };
    }
    let note = format!("deleted {} s ago, and there is no such node any more", age.as_secs());
    Decision::of([Action::Warn { reason: "Abandoned", note }, Action::LetGo])
}

/// A shard that nobody has claimed, or not again since it was put back. It may wait for others to end;
/// after a while the administrators are told once, for there may be nobody who could. Where only one
/// worker can do it, and that one is not heard of, it is given up as if that worker had claimed it.
fn unclaimed(view: &View<'_>, before: &NnfDataMovementStatus) -> Decision {
    let Some(shard) = view.shard else { return Decision::default() };
    let node = shard.spec.node.as_deref();
    if let (Some(node), Some(silent)) = (node, view.silent)
        && silent >= view.patience
    {
        let who = format!("the worker of node {node}");
        let (status, warning) = lost(view, before, &who, silent);
        return Decision::of([Action::DeleteShard, status, warning]);
    }
    // Whether the only one lives is asked again and again.
    let later = node.map(|_| view.silent.map_or(UNCLAIMED, |silent| view.patience - silent));
    let within = |other: Duration| Some(later.map_or(other, |later| later.min(other)));
    let put_back = shard.status.as_ref().and_then(|status| status.end_time.as_ref());
    let created = shard.metadata.creation_timestamp.as_ref();
    let Some(since) = put_back.map(|time| time.0).max(created.map(|time| time.0)) else {
        return Decision { actions: Vec::new(), again: later };
    };
    let age = Duration::try_from(view.now.duration_since(since)).unwrap_or_default();
    if age < UNCLAIMED {
        return Decision { actions: Vec::new(), again: within(UNCLAIMED - age) };
    }
    if age > 2 * UNCLAIMED {
        return Decision { actions: Vec::new(), again: later }; // they were told
    }
    let who = match node {
        Some(node) => format!("the worker of node {node}"),
        None => "a worker that has both filesystems".to_owned(),
    };
    let note = format!(
        "{who} has not claimed it for {} s: is there one, is it busy, and is the storage mounted there?",
        age.as_secs()
    );
    let actions = vec![Action::Warn { reason: "Waiting", note }];
    Decision { actions, again: within(2 * UNCLAIMED) }
}

/// The end of a movement whose worker is not heard of, and what is said of it.
fn lost(
    view: &View<'_>,
    before: &NnfDataMovementStatus,
    who: &str,
    silent: Duration,
) -> (Action, Action) {
    let problem = format!(
        "{who} has not been heard of for {} s, and nobody else can do its work",
        silent.as_secs()
    );
    let status = status::lost(before, &problem, view.now);
    (Action::Write(Box::new(status)), Action::Warn { reason: "WorkerLost", note: problem })
}

/// A movement that is to be carried out.
fn live(view: &View<'_>, before: &NnfDataMovementStatus, shard: &Shard<'_>) -> Decision {
    let cancel = is_cancelled(view.movement);
    let write = |status: NnfDataMovementStatus| Action::Write(Box::new(status));
    match *shard {
        Shard::None if cancel => Decision::of([write(status::cancelled(before, view.now))]),
        Shard::None => match plan(view.movement, &view.site, view.facts) {
            Ok(mut plan) => {
                plan.shard.inside = view.inside;
                Decision::of([Action::CreateShard(Box::new(plan))])
            }
            Err(refusal) => {
                let status = status::invalid(before, refusal.severity, &refusal.problem, view.now);
                let warning = Action::Warn { reason: "Invalid", note: refusal.problem };
                Decision::of([write(status), warning])
            }
        },
        Shard::OfAnother => Decision::of([Action::DeleteShard]),
        Shard::Free if cancel => {
            Decision::of([Action::DeleteShard, write(status::cancelled(before, view.now))])
        }
        Shard::Free => unclaimed(view, before),
        Shard::Running(object, shard) => running(view, before, object, shard).look_again(),
        Shard::Finished(shard) => {
            let status = status::finished(before, shard, stores_output(view), view.now);
            let failed = status.error.as_ref().map(|error| Action::Warn {
                reason: "Failed",
                note: error.user_message.clone().unwrap_or_else(|| error.debug_message.clone()),
            });
            let mut decision = Decision::of([write(status)]);
            decision.actions.extend(failed);
            decision
        }
    }
}

/// A movement whose shard a worker has claimed.
fn running(
    view: &View<'_>,
    before: &NnfDataMovementStatus,
    object: &DataMovementShard,
    shard: &DataMovementShardStatus,
) -> Decision {
    let mut actions = Vec::new();
    if let Some(silent) = view.silent {
        let worker = shard.worker.as_deref().unwrap_or("unknown");
        // Storage on a node can be written from that node only, so nobody else could go on.
        if object.spec.node.is_none() {
            let note = format!("worker {worker} has lost its Lease; its work goes to another one");
            return Decision::of([
                Action::PutBackShard,
                Action::Warn { reason: "WorkerLost", note },
            ]);
        }
        if silent >= view.patience {
            let (status, warning) = lost(view, before, &format!("worker {worker}"), silent);
            actions.extend(cancel_once(object));
            actions.extend([status, warning]);
            return Decision::of(actions);
        }
    }
    if is_cancelled(view.movement) {
        actions.extend(cancel_once(object));
    }
    let status = status::running(before, shard, view.progress);
    if status != *before {
        actions.push(Action::Write(Box::new(status)));
    }
    Decision::of(actions)
}

/// A movement that is to go away. It stays until nothing writes for it any more: the storage that it
/// writes to is taken down next.
fn delete(view: &View<'_>, before: &NnfDataMovementStatus, shard: &Shard<'_>) -> Decision {
    if !is_held(view.movement) {
        return Decision::default();
    }
    let mut actions = Vec::new();
    match *shard {
        // Its movers ended before its Lease did, which is enough for another worker to go on, too.
        Shard::Running(object, _) if view.silent.is_some() && object.spec.node.is_none() => {
            actions.push(Action::DeleteShard);
        }
        Shard::Running(object, shard) => {
            let abandoned = view.silent.is_some_and(|silent| silent >= view.patience);
            if !abandoned {
                return Decision::of(Vec::from_iter(cancel_once(object))).look_again();
            }
            let worker = shard.worker.as_deref().unwrap_or("unknown");
            let note = format!(
                "deleted although worker {worker}, which has not been heard of for {} s, may still \
                 write to the destination",
                view.silent.unwrap_or_default().as_secs()
            );
            actions.push(Action::Warn { reason: "Abandoned", note });
        }
        Shard::Free => actions.push(Action::DeleteShard),
        Shard::None | Shard::OfAnother | Shard::Finished(_) => {}
    }
    // One that was running gets no last status: its creator would take that for the movement's end, where
    // it makes a new one when this is gone.
    if before.start_time.is_none() && !is_finished(view.movement) {
        actions.push(Action::Write(Box::new(status::cancelled(before, view.now))));
    }
    actions.push(Action::LetGo);
    Decision::of(actions)
}

fn cancel_once(shard: &DataMovementShard) -> Option<Action> {
    (shard.spec.cancel != Some(true)).then_some(Action::CancelShard)
}

fn classify<'a>(movement: &NnfDataMovement, shard: Option<&'a DataMovementShard>) -> Shard<'a> {
    let Some(object) = shard else { return Shard::None };
    if Some(&object.spec.movement.uid) != movement.metadata.uid.as_ref() {
        return Shard::OfAnother;
    }
    let Some(status) = &object.status else { return Shard::Free };
    match status.state.as_ref() {
        None => Shard::Free,
        Some(state) if *state == ShardState::Finished => Shard::Finished(status),
        // A state that is not known is that of a worker that has it.
        Some(_) => Shard::Running(object, status),
    }
}

/// Whether the manager of a namespace has made a shard.
fn is_made_by(shard: &DataMovementShard, manager: &str) -> bool {
    let labels = shard.metadata.labels.iter().flatten();
    labels.into_iter().any(|(name, value)| name == MANAGER_LABEL && value == manager)
}

fn stores_output(view: &View<'_>) -> bool {
    let user = view.movement.spec.user_config.as_ref().and_then(|user| user.store_stdout);
    let profile = view.facts.profile.as_ref().ok().and_then(|profile| profile.store_stdout);
    user == Some(true) || profile == Some(true)
}

fn is_cancelled(movement: &NnfDataMovement) -> bool {
    movement.spec.cancel == Some(true)
}

fn is_held(movement: &NnfDataMovement) -> bool {
    movement.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

fn is_finished(movement: &NnfDataMovement) -> bool {
    let state = movement.status.as_ref().and_then(|status| status.state.as_ref());
    state.is_some_and(|state| *state == State::Finished)
}

fn is_of_copy_offload(movement: &NnfDataMovement) -> bool {
    let name = movement.metadata.name.as_deref().unwrap_or_default();
    name.starts_with(COPY_OFFLOAD)
}

#[cfg(test)]
mod tests;
