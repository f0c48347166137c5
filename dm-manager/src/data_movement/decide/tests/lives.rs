//! Whole lives of a movement under a random user, worker and API server.

use proptest::prelude::*;

use super::*;

/// What may happen to a movement.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The manager looks, and is stopped after so many actions.
    Look(usize),
    /// The manager acts on what it saw at the step before, and is refused where that is not so any more.
    LookLate,
    Claim,
    Progress,
    End(Outcome),
    Cancel,
    Delete,
    LoseWorker,
    PutBack,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4_usize).prop_map(Step::Look),
        2 => Just(Step::LookLate),
        4 => Just(Step::Claim),
        2 => Just(Step::Progress),
        1 => prop_oneof![Just(Outcome::Success), Just(Outcome::Failed), Just(Outcome::Invalid)]
            .prop_map(Step::End),
        1 => Just(Step::Cancel),
        1 => Just(Step::Delete),
        1 => Just(Step::LoseWorker),
        1 => Just(Step::PutBack),
    ]
}

/// Applies a step. Returns whether the movement is gone.
fn apply(scene: &mut Scene, earlier: &Scene, step: Step) -> bool {
    match step {
        Step::Look(most) => {
            for action in scene.decide().actions.into_iter().take(most) {
                if scene.carry_out(action) {
                    return true;
                }
            }
        }
        Step::LookLate => {
            for action in earlier.decide().actions {
                let on_shard = matches!(
                    action,
                    Action::DeleteShard | Action::CancelShard | Action::PutBackShard
                );
                let unchanged = match on_shard || matches!(action, Action::CreateShard(_)) {
                    true => scene.shard == earlier.shard,
                    false => scene.movement == earlier.movement,
                };
                if !unchanged {
                    return false;
                }
                if scene.carry_out(action) {
                    return true;
                }
            }
        }
        Step::Claim => {
            let free = scene.shard.is_some() && !scene.is_claimed();
            let over =
                scene.shard.as_ref().and_then(|shard| shard.status.as_ref()?.outcome.clone());
            if free && over.is_none() {
                scene.claim();
            }
        }
        Step::Progress if scene.is_claimed() && scene.silent.is_none() => scene.progress(),
        Step::End(outcome) if scene.is_claimed() && scene.silent.is_none() => {
            scene.finish(outcome, i32::from(outcome != Outcome::Success));
        }
        Step::Cancel => scene.movement.spec.cancel = Some(true),
        Step::Delete => {
            scene.delete();
            return !is_held(&scene.movement); // nothing keeps it
        }
        // What a worker that lost its Lease does first is to kill its mover.
        Step::LoseWorker if scene.is_claimed() => {
            scene.silent = Some(Duration::ZERO);
            scene.mover = false;
        }
        Step::LoseWorker if scene.shard.as_ref().is_some_and(|shard| shard.spec.node.is_some()) => {
            scene.silent = Some(Duration::ZERO);
        }
        Step::PutBack if scene.is_claimed() && scene.silent.is_none() => scene.put_back(),
        _ => {}
    }
    false
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_life_ends_with_what_is_true(
        steps in prop::collection::vec(step(), 0..40),
        pinned in any::<bool>(),
    ) {
        let mut scene = if pinned { Scene::new() } else { Scene::anywhere() };
        let mut earlier = scene.clone();
        let mut gone = false;
        for step in steps {
            let before = scene.clone();
            gone = apply(&mut scene, &earlier, step);
            earlier = before;
            if gone {
                break;
            }
        }
        // Then everybody does what they should, and it has to come to an end.
        for _ in 0..20 {
            if gone || is_finished(&scene.movement) && scene.movement.metadata.deletion_timestamp.is_none() {
                break;
            }
            gone = scene.settle();
            if gone {
                break;
            }
            if scene.silent.is_some() {
                scene.silent = Some(PATIENCE);
            } else if scene.is_claimed() {
                let cancelled = scene.shard.as_ref().unwrap().spec.cancel == Some(true);
                scene.finish(if cancelled { Outcome::Cancelled } else { Outcome::Success }, 0);
            } else if scene.shard.as_ref().is_some_and(|shard| shard.status.as_ref().is_none_or(|status| status.state.is_none())) {
                scene.claim();
            }
        }
        prop_assert!(gone || is_finished(&scene.movement), "it has no end: {:?}", scene.status());
        prop_assert!(!(gone && scene.mover), "its mover still writes");
        if scene.outcome() == Some(Outcome::Success) {
            let shard = scene.shard.as_ref().unwrap().status.as_ref().unwrap();
            prop_assert_eq!(&shard.outcome, &Some(Outcome::Success.into()), "nobody said so");
        }
        if !gone {
            prop_assert!(scene.decide().actions.is_empty(), "no write that changes nothing");
            let status = scene.status();
            prop_assert!(status.start_time.is_some() && status.start_time <= status.end_time);
        }
    }
}
