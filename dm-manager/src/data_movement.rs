//! The controller of NnfDataMovement: whenever a movement or its shard changes it looks at both, decides,
//! and carries out what was decided.

mod cache;
pub(crate) mod command;
pub(crate) mod decide;
mod execute;
mod heard;
mod placed;
pub(crate) mod plan;
mod progress;
pub(crate) mod reference;
mod status;
mod text;
mod words;
mod world;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dm_service::{Readiness, Step};
use futures::StreamExt;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::Controller;
use kube::runtime::controller::Action as Next;
use kube::runtime::reflector::ObjectRef;
use longshore::api::NnfDataMovement;
use longshore::api::data_movement::State;

use self::cache::logged;
use self::decide::{View, decide, starts};
use self::execute::{Error, Executor, is};
use self::world::World;
use crate::context::Context;

/// How often a movement that keeps changing under our hands is looked at again at once.
const ATTEMPTS: usize = 8;

/// After how long a look that failed is repeated, the first time and at most: twice as long each time.
const RETRY: Duration = Duration::from_millis(250);
const RETRY_AT_MOST: Duration = Duration::from_secs(4);

/// How often the movements that there are are counted.
const COUNT: Duration = Duration::from_secs(5);

struct Manager {
    context: Context,
    world: Arc<World>,
    /// How often looks at a movement have failed in a row.
    failures: Mutex<HashMap<ObjectRef<NnfDataMovement>, u32>>,
}

impl Manager {
    fn failures(&self) -> MutexGuard<'_, HashMap<ObjectRef<NnfDataMovement>, u32>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reference(&self, movement: &NnfDataMovement) -> ObjectRef<NnfDataMovement> {
        ObjectRef::from_obj_with(movement, self.context.versions.movement.clone())
    }
}

/// Runs the controller until it is dropped.
pub(crate) async fn run(context: Context, readiness: Readiness) {
    let (world, sources) = World::new(&context);
    let version = context.versions.movement.clone();
    let store = world.movements.store().clone();
    let movements =
        sources.movements.filter_map(|change| std::future::ready(logged(change).map(Ok)));
    let of_shards = {
        let (world, version) = (Arc::clone(&world), version.clone());
        sources.shards.filter_map(move |change| {
            let movement = logged(change).map(|shard| {
                world.placed.heed(&shard);
                let name = &shard.spec.movement.name;
                let namespace = shard.namespace().unwrap_or_default();
                ObjectRef::new_with(name, version.clone()).within(&namespace)
            });
            std::future::ready(movement)
        })
    };
    // A node that joins makes the movements of its namespace ours.
    let of_nodes = {
        let (store, version) = (store.clone(), version.clone());
        sources.nodes.flat_map(move |change| {
            let node = logged(change).and_then(|node| node.metadata.name);
            let there = node.map(|node| {
                store.state_filter(|movement| movement.namespace().as_ref() == Some(&node))
            });
            let there = there.into_iter().flatten();
            let version = version.clone();
            let there = there.map(move |one| ObjectRef::from_obj_with(&*one, version.clone()));
            futures::stream::iter(there.collect::<Vec<_>>())
        })
    };
    // What a worker says of its shards.
    let of_leases = {
        let (world, version) = (Arc::clone(&world), version.clone());
        sources.leases.flat_map(move |change| {
            let news = logged(change).map(|lease| world.progress.heed(&lease)).unwrap_or_default();
            let movements = news.into_iter().filter_map(|(namespace, name)| {
                let movement = &world.shards.get(&namespace, &name)?.spec.movement.name;
                Some(ObjectRef::new_with(movement, version.clone()).within(&namespace))
            });
            futures::stream::iter(movements.collect::<Vec<_>>())
        })
    };
    let manager = Arc::new(Manager {
        context: context.clone(),
        world: Arc::clone(&world),
        failures: Mutex::default(),
    });
    let counted = Arc::clone(&manager);
    let looking = Controller::for_stream_with(movements, store, version)
        .reconcile_on(of_shards)
        .reconcile_on(of_nodes)
        .reconcile_on(of_leases)
        .run(look, again_after_failure, manager)
        // A movement that is gone is one of the changes; there is nothing to look at.
        .for_each(|_| std::future::ready(()));
    let counting = async {
        world.fill().await;
        readiness.set(true);
        loop {
            count(&context, &world);
            counted
                .failures()
                .retain(|movement, _| world.movements.store().get(movement).is_some());
            let is_there =
                |namespace: &str, name: &str| world.shards.get(namespace, name).is_some();
            world.progress.retain(is_there);
            let movements = world.movements.store().state();
            let uids: HashSet<_> = movements.iter().filter_map(|movement| movement.uid()).collect();
            world.placed.retain(|movement| uids.contains(movement));
            tokio::time::sleep(COUNT).await;
        }
    };
    tokio::join!(looking, sources.others, counting);
}

/// Looks at a movement, and forgets that looks at it have failed.
async fn look(movement: Arc<NnfDataMovement>, manager: Arc<Manager>) -> Result<Next, Error> {
    let reference = manager.reference(&movement);
    let next = look_and_act(movement, &manager).await?;
    manager.failures().remove(&reference);
    Ok(next)
}

/// Looks at a movement until there is nothing more to do at once.
async fn look_and_act(movement: Arc<NnfDataMovement>, manager: &Manager) -> Result<Next, Error> {
    let (context, world) = (&manager.context, &manager.world);
    world.ready().await;
    context.metrics.movement_reconciles.inc();
    context.metrics.reconciles.with_label_values(&["data_movement"]).inc();
    let namespace = movement.namespace().unwrap_or_default();
    let name = movement.name_any();
    for _ in 0..ATTEMPTS {
        let Some(movement) = world.movements.get(&namespace, &name) else {
            return Ok(Next::await_change());
        };
        let mut shard = world.shards.get(&namespace, &name);
        if shard.is_none() && movement.metadata.deletion_timestamp.is_some() {
            // What lets the movement go must not just be late.
            shard = world.ask_for_shard(&namespace, &name).await?;
        }
        let certain = starts(&movement, shard.as_deref());
        let facts = world.facts(&movement, certain).await?;
        let silent = match &shard {
            Some(shard) => world.silent(shard).await?,
            None => None,
        };
        let progress = shard.as_ref().and_then(|shard| world.progress.of(shard));
        let decision = decide(&View {
            movement: &movement,
            shard: shard.as_deref(),
            progress: progress.as_ref(),
            inside: movement.uid().and_then(|uid| world.placed.of(&uid)),
            silent,
            site: world.site(&namespace),
            manager: &context.namespace,
            facts: &facts,
            patience: context.patience.lost_worker,
            now: Timestamp::now(),
        });
        let mut executor = Executor { context, world, movement, shard, step: Step::Enter };
        let mut done = Ok(());
        for action in decision.actions {
            done = executor.carry_out(action).await;
            if done.is_err() {
                break;
            }
        }
        match done {
            Ok(()) => return Ok(decision.again.map_or_else(Next::await_change, Next::requeue)),
            Err(Error::Changed) => {}
            Err(error) if is(&error, 409) || is(&error, 404) => {
                if !executor.refresh().await? {
                    return Ok(Next::await_change());
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Next::requeue(RETRY))
}

fn again_after_failure(
    movement: Arc<NnfDataMovement>,
    error: &Error,
    manager: Arc<Manager>,
) -> Next {
    let name = format!("{}/{}", movement.namespace().unwrap_or_default(), movement.name_any());
    tracing::warn!(movement = name, %error, "looking again");
    manager.context.metrics.reconcile_failures.with_label_values(&["data_movement"]).inc();
    let mut failures = manager.failures();
    let before = failures.entry(manager.reference(&movement)).or_insert(0);
    let delay = (RETRY * 2_u32.pow((*before).min(8))).min(RETRY_AT_MOST);
    *before = before.saturating_add(1);
    Next::requeue(delay)
}

/// Counts the movements that there are, by state.
fn count(context: &Context, world: &World) {
    let (mut waiting, mut running, mut finished) = (0, 0, 0);
    for movement in world.movements.store().state() {
        let state = movement.status.as_ref().and_then(|status| status.state.as_ref());
        match state.and_then(|state| state.known()) {
            Some(State::Finished) => finished += 1,
            Some(State::Running) => running += 1,
            Some(State::Starting) | None => waiting += 1,
        }
    }
    for (state, number) in [("waiting", waiting), ("running", running), ("finished", finished)] {
        context.metrics.movements.with_label_values(&[state]).set(number);
    }
}
