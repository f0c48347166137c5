//! Many movements, and how long they took, how many writes and how much memory: for the tests, which judge
//! writes and memory, and for the bench, which prints times too. Every control plane is of one's own.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use longshore::api::data_movement::{Outcome, State};
use longshore::api::{Defined, NnfDataMovement};
use tokio::sync::watch;

use super::ledger::{Ledger, Written};
use super::manager::Manager;
use super::rabbit::{Rabbit, outcome, state};

/// Whatever takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(180);

/// Creations that are under way at the same time.
const CREATED_AT_ONCE: usize = 32;

/// When movements, by namespace and name, were first seen to run, and to be finished.
type Seen = HashMap<(String, State), Instant>;

fn key(movement: &NnfDataMovement) -> String {
    format!("{}/{}", movement.namespace().unwrap(), movement.name_any())
}

/// What a watch has seen; none before it sees everything that changes.
type Sight = watch::Sender<Option<Seen>>;

/// Watches until so many movements are finished.
async fn look(client: &Client, number: usize, sight: &Sight) {
    let version = NnfDataMovement::DEFINITION.storage_version();
    let movements: Api<NnfDataMovement> = Api::all_with(client.clone(), &version);
    let events = watcher(movements, watcher::Config::default());
    let mut events = std::pin::pin!(events.default_backoff());
    let mut finished = 0;
    while finished < number {
        let movement = match events.next().await {
            Some(Ok(Event::InitApply(movement) | Event::Apply(movement))) => movement,
            Some(Ok(Event::InitDone)) => {
                sight.send_modify(|seen| *seen = Some(seen.take().unwrap_or_default()));
                continue;
            }
            _ => continue,
        };
        let Some(state) = state(&movement) else { continue };
        sight.send_modify(|seen| {
            seen.get_or_insert_default().entry((key(&movement), state)).or_insert_with(|| {
                finished += usize::from(state == State::Finished);
                Instant::now()
            });
        });
    }
}

/// The one in the middle.
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// What movements that are created at once took.
#[derive(Debug)]
pub struct AtOnce {
    pub number: usize,
    /// Until the API server had answered the last creation.
    pub created: Duration,
    /// From the first creation until the last one was seen to be finished.
    pub finished: Duration,
    /// From the answer to a creation until the movement was seen to run: the longest and the median.
    pub longest_wait: Duration,
    pub median_wait: Duration,
    pub written: Written,
    /// Writes of manager and workers for each movement, but Leases.
    pub writes_each: f64,
    /// The most memory that the manager has had.
    pub memory_mib: f64,
    /// Seconds of processor time of each of the programs, with the processes that they have started.
    pub cpu: Vec<(&'static str, f64)>,
}

/// A program whose processor time is of interest.
pub type Program = (&'static str, u32);

/// The processor time of a process and of those that it has waited for, in seconds.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks =
        fields.split_whitespace().skip(11).take(4).map(|field| field.parse::<f64>().unwrap());
    ticks.sum::<f64>() / 100.0
}

impl std::fmt::Display for AtOnce {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            out,
            "{} movements: created within {:.2?}, finished within {:.2?}, waited {:.2?} at most and \
             {:.2?} in the median; {:.2} writes each, {} renewals of Leases; manager {:.1} MiB at most; \
             processor seconds {:.1?}",
            self.number,
            self.created,
            self.finished,
            self.longest_wait,
            self.median_wait,
            self.writes_each,
            self.written.renewals,
            self.memory_mib,
            self.cpu
        )
    }
}

/// Creates movements all at once, each by its rabbit, and waits until all have succeeded.
pub async fn at_once(
    manager: &Manager,
    programs: &[Program],
    movements: &[(&Rabbit, NnfDataMovement)],
) -> AtOnce {
    let (first, _) = &movements[0];
    while manager.get("/readyz").0 != 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ledger = Ledger::open(&first.client, &first.namespace).await;
    let cpu: Vec<f64> = programs.iter().map(|(_, pid)| cpu_seconds(*pid)).collect();
    let sight = Sight::new(None);
    let mut looking = sight.subscribe();
    let create = async |(rabbit, movement): &(&Rabbit, NnfDataMovement)| {
        (key(&rabbit.create(movement).await), Instant::now())
    };
    // As a creator has them made that has one client: each request under way is a connection here.
    let creations = stream::iter(movements).map(create).buffer_unordered(CREATED_AT_ONCE);
    let creations = async {
        looking.wait_for(Option::is_some).await.unwrap();
        (Instant::now(), creations.collect::<Vec<_>>().await)
    };
    let all = async { tokio::join!(creations, look(&first.client, movements.len(), &sight)).0 };
    let (begin, created) =
        tokio::time::timeout(LIMIT, all).await.expect("all are finished in time");
    let finished = begin.elapsed();
    let seen = sight.send_replace(None).unwrap();
    let spent = |(index, (name, pid)): (usize, &Program)| (*name, cpu_seconds(*pid) - cpu[index]);
    let cpu = programs.iter().enumerate().map(spent).collect();
    let written = ledger.so_far().await;
    for (rabbit, movement) in movements {
        let status = rabbit.finished(&movement.name_any()).await;
        assert_eq!(outcome(&status), Some(Outcome::Success), "{status:?}");
        assert!(status.restarts.is_none() && status.start_time <= status.end_time);
    }
    let last_created = created.iter().map(|(_, at)| *at).max().unwrap();
    // Where the end was seen first, that it ran was not worth a write any more.
    let waits = created.into_iter().map(|(name, created)| {
        let at = |state| seen.get(&(name.clone(), state));
        let ran = at(State::Running).or(at(State::Finished)).unwrap();
        ran.saturating_duration_since(created)
    });
    let waits: Vec<Duration> = waits.collect();
    let number = movements.len();
    // The creation of the movement itself is not ours.
    let ours = written.total() - u64::try_from(number).unwrap();
    #[allow(clippy::cast_precision_loss)] // they are few
    let (writes_each, memory_mib) =
        (ours as f64 / number as f64, manager.memory_peak() as f64 / 1024.0);
    AtOnce {
        number,
        created: last_created.duration_since(begin),
        finished,
        longest_wait: *waits.iter().max().unwrap(),
        median_wait: median(waits),
        written,
        writes_each,
        memory_mib,
        cpu,
    }
}

impl AtOnce {
    /// Judges all but times.
    pub fn check(&self, most_memory_mib: f64) {
        let Written { refused, unchanged, .. } = &self.written;
        assert!(self.writes_each <= 6.0, "{self}: {:?}", self.written);
        assert_eq!(*unchanged, 0, "writes that changed nothing: {self:?}");
        // Where an answer did not come in time, the next attempt finds that it is too late, and reads.
        let conflicts = refused.keys().all(|what| what.ends_with("PATCH 409"));
        assert!(conflicts, "writes that were refused, but not because of others: {refused:?}");
        assert!(self.memory_mib < most_memory_mib, "{self}");
    }

    /// Judges that the manager has not been refused anything: it knows what it has written itself.
    pub fn check_manager(&self) {
        let refused = &self.written.refused;
        let of_manager = refused.keys().filter(|what| what.starts_with("nnfdatamovements"));
        assert_eq!(of_manager.count(), 0, "writes of the manager that were refused: {refused:?}");
    }
}

/// What movements took that were created one after the other: the medians from the answer to the creation
/// until they were seen to run, and to be finished.
#[derive(Debug)]
pub struct OneByOne {
    pub number: usize,
    pub running: Duration,
    pub finished: Duration,
}

/// Creates movements one after the other, each when the one before is finished.
pub async fn one_by_one(rabbit: &Rabbit, movements: &[NnfDataMovement]) -> OneByOne {
    let sight = Sight::new(None);
    let mut looking = sight.subscribe();
    let creations = async {
        let mut creations = Vec::new();
        looking.wait_for(Option::is_some).await.unwrap();
        for movement in movements {
            let name = key(&rabbit.create(movement).await);
            creations.push((name.clone(), Instant::now()));
            let end = (name, State::Finished);
            let ended = |seen: &Option<Seen>| seen.as_ref().unwrap().contains_key(&end);
            looking.wait_for(ended).await.unwrap();
        }
        creations
    };
    let creations = tokio::join!(creations, look(&rabbit.client, movements.len(), &sight)).0;
    let seen = sight.send_replace(None).unwrap();
    let since = |wanted: State| {
        let at = |(name, created): &(String, Instant)| {
            Some(seen.get(&(name.clone(), wanted))?.saturating_duration_since(*created))
        };
        creations.iter().filter_map(at).collect::<Vec<_>>()
    };
    let (running, finished) = (since(State::Running), since(State::Finished));
    let number = running.len();
    OneByOne { number, running: median(running), finished: median(finished) }
}
