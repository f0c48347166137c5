//! Single situations of a movement. Whole lives are in `lives`.

mod lives;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use longshore::api::DataMovementShard;
use longshore::api::Defined;
use longshore::api::data_movement::Outcome;
use longshore::api::data_movement_shard::Counters;
use longshore::api::resource_error::Severity;

use super::super::plan::tests::{facts, movement};
use super::super::plan::{NoProfile, Storage};
use super::*;

const PATIENCE: Duration = Duration::from_secs(600);

const MANAGER: &str = "nnf-dm-system";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

/// A movement, its shard and what surrounds them, as the API server has them.
#[derive(Clone)]
struct Scene {
    movement: NnfDataMovement,
    shard: Option<DataMovementShard>,
    /// What the worker's Lease says of the shard.
    progress: Option<ShardProgress>,
    /// What a shard of it has said.
    inside: Option<bool>,
    facts: Facts,
    site: Site,
    silent: Option<Duration>,
    /// Seconds since the scene began.
    time: i64,
    /// What the manager has written so far.
    writes: Vec<&'static str>,
    /// Whether a mover may be writing to the destination.
    mover: bool,
}

impl Scene {
    fn new() -> Self {
        Self {
            movement: movement(),
            shard: None,
            progress: None,
            inside: None,
            facts: facts(),
            site: Site::Node("rabbit-1".to_owned()),
            silent: None,
            time: 0,
            writes: Vec::new(),
            mover: false,
        }
    }

    /// One between filesystems that every worker has.
    fn anywhere() -> Self {
        let mut scene = Self::new();
        scene.site = Site::Anywhere;
        (scene.facts.source, scene.facts.destination) =
            (Storage::GlobalLustre, Storage::GlobalLustre);
        scene
    }

    fn decide(&self) -> Decision {
        decide(&View {
            movement: &self.movement,
            shard: self.shard.as_ref(),
            progress: self.progress.as_ref(),
            inside: self.inside,
            silent: self.silent,
            site: self.site.clone(),
            manager: MANAGER,
            facts: &self.facts,
            patience: PATIENCE,
            now: at(self.time),
        })
    }

    fn status(&self) -> NnfDataMovementStatus {
        self.movement.status.clone().unwrap_or_default()
    }

    fn shard_status(&mut self) -> &mut DataMovementShardStatus {
        self.shard.as_mut().unwrap().status.get_or_insert_default()
    }

    /// Does what the executor does. Returns whether the movement is gone.
    fn carry_out(&mut self, action: Action) -> bool {
        match action {
            Action::Hold => {
                self.movement.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
                self.writes.push("hold");
            }
            Action::LetGo => {
                self.movement.metadata.finalizers = None;
                self.writes.push("let go");
                return self.movement.metadata.deletion_timestamp.is_some();
            }
            Action::CreateShard(plan) => {
                assert!(self.shard.is_none(), "one shard at a time");
                let version = DataMovementShard::DEFINITION.storage_version();
                let mut shard = DataMovementShard::new(&version, "fluffy-1-0");
                shard.metadata.labels =
                    Some([(MANAGER_LABEL.to_owned(), MANAGER.to_owned())].into());
                shard.spec = plan.shard;
                self.shard = Some(shard);
                self.writes.push("create shard");
            }
            Action::DeleteShard => {
                assert!(!self.mover, "a shard that somebody works on is not deleted");
                self.shard = None;
                self.writes.push("delete shard");
            }
            Action::CancelShard => {
                self.shard.as_mut().unwrap().spec.cancel = Some(true);
                self.writes.push("cancel shard");
            }
            Action::PutBackShard => {
                let attempts = self.shard_status().attempts;
                *self.shard_status() = DataMovementShardStatus { attempts, ..Default::default() };
                self.silent = None;
                self.mover = false;
                self.writes.push("put back");
            }
            Action::Write(status) => {
                assert_ne!(
                    self.movement.status.as_ref(),
                    Some(&*status),
                    "a write that changes nothing"
                );
                assert!(
                    !is_finished(&self.movement) || *status == self.status(),
                    "the end is the end"
                );
                let percent = |status: &NnfDataMovementStatus| {
                    status.command_status.as_ref().and_then(|command| command.progress)
                };
                let same = self.status().start_time == status.start_time;
                let goes_on = percent(&self.status()) <= percent(&status);
                assert!(!same || is_finished(&self.movement) || goes_on, "progress goes back");
                self.movement.status = Some(*status);
                self.writes.push("status");
            }
            Action::Warn { .. } => {}
        }
        false
    }

    /// Everything that the manager does until there is nothing left to do. Returns whether the movement
    /// is gone.
    fn settle(&mut self) -> bool {
        for _ in 0..10 {
            let decision = self.decide();
            if decision.actions.is_empty() {
                return false;
            }
            for action in decision.actions {
                if self.carry_out(action) {
                    return true;
                }
            }
        }
        panic!("it never settles: {:?}", self.decide());
    }

    /// What a worker does that ends in order.
    fn put_back(&mut self) {
        self.time += 1;
        let now = at(self.time);
        let attempts = self.shard_status().attempts;
        let end_time = Some(MicroTime(now));
        *self.shard_status() = DataMovementShardStatus { attempts, end_time, ..Default::default() };
        self.mover = false;
    }

    fn claim(&mut self) {
        self.time += 1;
        let now = at(self.time);
        self.silent = None;
        let status = self.shard_status();
        status.state = Some(ShardState::Running.into());
        status.worker = Some("worker-1".to_owned());
        status.lease = Some("nnf-dm-system/longshore-worker-rabbit-1".to_owned());
        status.attempts = Some(status.attempts.unwrap_or(0) + 1);
        status.start_time = Some(MicroTime(now));
        status.end_time = None;
        self.progress = None;
        self.mover = true;
    }

    fn progress(&mut self) {
        self.time += 1;
        let now = at(self.time);
        let bytes = 10 + self.progress.as_ref().map_or(0, |before| before.counters.bytes);
        self.progress = Some(ShardProgress {
            uid: "1".to_owned(),
            attempt: self.shard_status().attempts.unwrap(),
            time: MicroTime(now),
            percent: Some(i32::try_from(bytes / 10).unwrap()),
            counters: Counters { bytes, total_bytes: 1000, ..Counters::default() },
        });
    }

    fn finish(&mut self, outcome: Outcome, exit_code: i32) {
        self.time += 1;
        let now = at(self.time);
        // The end brings what the Lease said last.
        let last = self.progress.clone();
        let status = self.shard_status();
        status.percent = last.as_ref().and_then(|last| last.percent);
        status.counters = last.map(|last| last.counters);
        status.state = Some(ShardState::Finished.into());
        status.outcome = Some(outcome.into());
        status.exit_code = Some(exit_code);
        status.end_time = Some(MicroTime(now));
        self.mover = false;
    }

    fn delete(&mut self) {
        self.movement.metadata.deletion_timestamp = Some(Time(at(self.time)));
    }

    fn is_claimed(&self) -> bool {
        let status = self.shard.as_ref().and_then(|shard| shard.status.as_ref());
        status.is_some_and(|status| status.state == Some(ShardState::Running.into()))
    }

    fn outcome(&self) -> Option<Outcome> {
        self.status().status.and_then(|outcome| outcome.known().copied())
    }
}

#[test]
fn a_copy_takes_four_writes_of_the_manager() {
    let mut scene = Scene::new();
    assert!(!scene.settle());
    assert_eq!(scene.writes, ["hold", "create shard"]);
    assert_eq!(scene.movement.status, None, "nothing runs yet");
    scene.claim();
    scene.settle();
    assert_eq!(scene.status().state, Some(State::Running.into()));
    scene.finish(Outcome::Success, 0);
    scene.settle();
    assert_eq!(scene.outcome(), Some(Outcome::Success));
    assert_eq!(scene.writes, ["hold", "create shard", "status", "status"]);
    assert!(scene.status().start_time <= scene.status().end_time);
    assert!(is_held(&scene.movement), "until it is deleted");
    scene.delete();
    assert!(scene.settle());
    assert_eq!(scene.writes[4..], ["let go"], "what is finished stays as it is");
}

#[test]
fn what_cannot_be_started_is_invalid_and_ends() {
    let mut scene = Scene::new();
    scene.facts.profile = Err(NoProfile::Missing("no such profile".to_owned()));
    scene.settle();
    assert_eq!(scene.outcome(), Some(Outcome::Invalid));
    assert_eq!(scene.status().error.unwrap().severity, Severity::Major);
    assert!(scene.status().end_time.is_some());
    assert_eq!(scene.writes, ["hold", "status"]);
    scene.delete();
    assert!(scene.settle());
    assert_eq!(scene.outcome(), Some(Outcome::Invalid), "deletion does not rewrite it");
}

#[test]
fn cancel_before_the_start_ends_it() {
    for claimable in [false, true] {
        let mut scene = Scene::new();
        if claimable {
            scene.settle();
        }
        scene.movement.spec.cancel = Some(true);
        scene.settle();
        assert_eq!(scene.outcome(), Some(Outcome::Cancelled));
        assert_eq!(scene.status().message, None);
        assert_eq!(scene.status().start_time, scene.status().end_time);
        assert!(scene.shard.is_none(), "nobody starts it");
    }
}

#[test]
fn cancel_while_it_runs_waits_for_the_mover() {
    let mut scene = Scene::new();
    scene.settle();
    scene.claim();
    scene.settle();
    scene.movement.spec.cancel = Some(true);
    scene.settle();
    assert_eq!(scene.writes[3..], ["cancel shard"]);
    assert_eq!(scene.outcome(), None, "the mover has not stopped yet");
    scene.finish(Outcome::Cancelled, 143);
    scene.settle();
    assert_eq!(scene.outcome(), Some(Outcome::Cancelled));
    assert_eq!(scene.status().message, None);
}

#[test]
fn cancel_after_the_end_changes_nothing() {
    let mut scene = Scene::new();
    scene.settle();
    scene.claim();
    scene.finish(Outcome::Success, 0);
    scene.settle();
    scene.movement.spec.cancel = Some(true);
    scene.settle();
    assert_eq!(scene.outcome(), Some(Outcome::Success));
}

#[test]
fn deletion_waits_for_the_mover_and_writes_no_end() {
    let mut scene = Scene::new();
    scene.settle();
    scene.claim();
    scene.settle();
    scene.delete();
    assert!(!scene.settle());
    assert!(is_held(&scene.movement));
    scene.finish(Outcome::Cancelled, 143);
    assert!(scene.settle());
    assert_eq!(scene.status().state, Some(State::Running.into()), "its creator makes it anew");
}

#[test]
fn deletion_before_the_start_is_a_cancellation() {
    let mut scene = Scene::new();
    scene.movement.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    scene.delete();
    assert!(scene.settle());
    assert_eq!(scene.outcome(), Some(Outcome::Cancelled));
    assert_eq!(scene.status().start_time, scene.status().end_time);
}

#[test]
fn what_is_deleted_without_our_finalizer_is_left_alone() {
    let mut scene = Scene::new();
    scene.delete();
    assert!(!scene.settle());
    assert!(scene.writes.is_empty());
}

#[test]
fn a_running_movement_without_a_shard_is_started_again() {
    // The program before this one had started it.
    let mut scene = Scene::new();
    scene.movement.status = Some(NnfDataMovementStatus {
        state: Some(State::Running.into()),
        start_time: Some(MicroTime(at(-100))),
        message: Some("old".to_owned()),
        ..NnfDataMovementStatus::default()
    });
    scene.settle();
    scene.claim();
    scene.settle();
    assert_eq!(scene.status().restarts, Some(1));
    assert_eq!(scene.status().message, None);
    assert_eq!(scene.status().start_time, Some(MicroTime(at(1))));
}

#[test]
fn what_is_not_ours_is_not_touched() {
    let mut foreign = Scene::new();
    foreign.site = Site::Foreign;
    let mut offload = Scene::new();
    offload.movement.metadata.name = Some("nnf-copy-offload-node-x7".to_owned());
    offload.movement.status =
        Some(NnfDataMovementStatus { state: Some(State::Running.into()), ..Default::default() });
    // Another manager, of other nodes, has begun it.
    let mut of_another = Scene::new();
    of_another.settle();
    of_another.claim();
    of_another.writes.clear();
    of_another.site = Site::Foreign;
    of_another.shard.as_mut().unwrap().metadata.labels =
        Some([(MANAGER_LABEL.to_owned(), "other".to_owned())].into());
    for mut scene in [foreign, offload, of_another] {
        scene.settle();
        assert!(scene.writes.is_empty());
    }
}

#[test]
fn what_is_not_ours_is_let_go_of_where_it_has_our_finalizer() {
    let mut offload = Scene::new();
    offload.movement.metadata.name = Some("nnf-copy-offload-node-x7".to_owned());
    offload.movement.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    offload.delete();
    assert!(offload.settle(), "the program before this one put it there");

    let mut nowhere = Scene::new();
    nowhere.movement.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    nowhere.site = Site::Foreign;
    nowhere.delete();
    assert!(!nowhere.settle(), "the node may come back");
    assert_eq!(nowhere.decide().again, Some(PATIENCE));
    nowhere.time += 600;
    assert!(nowhere.settle(), "deletion is bounded");
}

#[test]
fn a_shard_that_nobody_claims_is_told_of_once() {
    let mut scene = Scene::new();
    scene.settle();
    let created = Some(Time(at(scene.time)));
    scene.shard.as_mut().unwrap().metadata.creation_timestamp = created;
    let first = scene.decide();
    assert_eq!((first.actions.len(), first.again), (0, Some(UNCLAIMED)));
    scene.time += 61;
    let decision = scene.decide();
    assert!(matches!(&decision.actions[..], [Action::Warn { reason: "Waiting", .. }]));
    scene.time += 120;
    let told = scene.decide();
    assert!(told.actions.is_empty() && told.again.is_some(), "whether its worker lives is asked");

    scene.claim();
    scene.settle();
    scene.time += 300;
    scene.put_back();
    assert!(scene.decide().actions.is_empty());
    scene.time += 61;
    let decision = scene.decide();
    assert!(matches!(&decision.actions[..], [Action::Warn { reason: "Waiting", .. }]));
}

#[test]
fn a_shard_that_only_a_lost_worker_could_claim_is_given_up() {
    for claimed in [false, true] {
        let mut scene = Scene::new();
        scene.settle();
        if claimed {
            scene.claim();
            scene.settle();
            scene.put_back();
        }
        scene.silent = Some(PATIENCE - Duration::from_secs(1));
        scene.settle();
        assert_eq!(scene.outcome(), None);
        assert_eq!(scene.decide().again, Some(Duration::from_secs(1)));
        scene.silent = Some(PATIENCE);
        scene.settle();
        assert_eq!(scene.outcome(), Some(Outcome::Failed), "{claimed}");
        assert!(scene.status().message.unwrap().contains("worker of node rabbit-1"));
        assert!(scene.shard.is_none(), "nobody starts it");
    }
}

#[test]
fn a_shard_of_an_earlier_movement_makes_room() {
    let mut scene = Scene::new();
    scene.settle();
    scene.movement.metadata.uid = Some("5678".to_owned());
    scene.settle();
    assert_eq!(scene.writes[2..], ["delete shard", "create shard"]);
    assert_eq!(scene.shard.unwrap().spec.movement.uid, "5678");
}

#[test]
fn a_shard_that_is_made_anew_goes_where_the_one_before_it_went() {
    let mut scene = Scene::new();
    scene.settle();
    assert_eq!(scene.shard.as_ref().unwrap().spec.inside, None);
    scene.claim();
    scene.settle();
    // Somebody deletes it after it has begun.
    scene.inside = Some(false);
    scene.shard = None;
    scene.settle();
    assert_eq!(scene.shard.unwrap().spec.inside, Some(false));
}

#[test]
fn a_lost_worker_is_replaced_where_others_can_go_on() {
    let mut scene = Scene::anywhere();
    scene.settle();
    scene.claim();
    scene.settle();
    scene.silent = Some(Duration::ZERO);
    scene.settle();
    assert_eq!(scene.writes[3..], ["put back"]);
    scene.claim();
    scene.settle();
    assert_eq!(scene.status().restarts, Some(1));
}

#[test]
fn a_deletion_waits_for_no_more_than_the_lease_where_others_could_go_on() {
    let mut scene = Scene::anywhere();
    scene.settle();
    scene.claim();
    scene.settle();
    scene.delete();
    assert!(!scene.settle(), "its mover writes");
    scene.silent = Some(Duration::ZERO);
    scene.mover = false;
    assert!(scene.settle());
    assert_eq!(scene.writes[scene.writes.len() - 2..], ["delete shard", "let go"]);
}

#[test]
fn a_lost_worker_of_a_node_is_waited_for_and_then_given_up() {
    let mut scene = Scene::new();
    scene.settle();
    scene.claim();
    scene.settle();
    let before = scene.clone();
    scene.silent = Some(PATIENCE - Duration::from_secs(1));
    scene.settle();
    assert_eq!(scene.writes, before.writes);
    scene.silent = Some(PATIENCE);
    scene.settle();
    assert_eq!(scene.outcome(), Some(Outcome::Failed));
    assert_eq!(scene.shard.unwrap().spec.cancel, Some(true), "should it come back");

    let mut deleted = before;
    deleted.delete();
    deleted.silent = Some(PATIENCE);
    let decision = deleted.decide();
    assert!(matches!(
        &decision.actions[..],
        [Action::Warn { reason: "Abandoned", .. }, Action::LetGo]
    ));
    assert!(deleted.settle(), "deletion is bounded");
}

#[test]
fn what_has_begun_ends_although_its_node_is_gone() {
    let mut begun = Scene::new();
    begun.settle();
    begun.claim();
    begun.settle();
    begun.site = Site::Foreign;

    let mut finished = begun.clone();
    finished.finish(Outcome::Success, 0);
    finished.settle();
    assert_eq!(finished.outcome(), Some(Outcome::Success), "its worker has said so");

    let mut lost = begun.clone();
    assert_eq!(lost.decide().again, Some(LOOK_AGAIN));
    lost.silent = Some(PATIENCE);
    lost.settle();
    assert_eq!(lost.outcome(), Some(Outcome::Failed));

    let mut deleted = begun;
    deleted.delete();
    assert!(!deleted.settle(), "its mover still writes");
    assert_eq!(deleted.writes.last(), Some(&"cancel shard"));
    deleted.finish(Outcome::Cancelled, 143);
    assert!(deleted.settle());

    let mut unclaimed = Scene::new();
    unclaimed.settle();
    unclaimed.site = Site::Foreign;
    unclaimed.delete();
    assert!(unclaimed.settle(), "nobody has anything of it");
}
