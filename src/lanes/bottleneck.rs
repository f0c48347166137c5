//! What held a copy up, from the times that its workers measured. It measures nothing itself.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::seat::Limited;
use super::{Lane, Lanes};

/// From this share of the processors' time on a copy is held up by them.
const CPU_BOUND: f64 = 0.85;

/// What held a copy up.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Bottleneck {
    /// `cpu`, a lane (`source-metadata`, `source-read`, `destination-create`, `destination-write`), or
    /// a limit (`bandwidth-limit`, `ops-limit`).
    pub name: &'static str,
    /// For a lane or a limit its share of all waiting, for `cpu` the share of the processors' time
    /// that the copy used or queued for; 0 to 1.
    pub share: f64,
    /// Seconds of waiting, all workers together, by lane and limit.
    pub waits: BTreeMap<&'static str, f64>,
    /// Share of the processors that the workers could use which they did use; 0 to 1.
    pub cpu_share: f64,
}

/// Sums of what all workers measured, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sums {
    pub(crate) waits: [f64; Lane::ALL.len()],
    pub(crate) limited: [f64; 2],
    /// On a processor.
    pub(crate) cpu: f64,
    /// Ready to run, without a processor.
    pub(crate) queued: f64,
}

impl Sums {
    /// The sums so far.
    pub(crate) fn of(lanes: &Lanes) -> Self {
        let mut sums = Self::default();
        let seconds = |nanos: u64| Duration::from_nanos(nanos).as_secs_f64();
        for seat in lanes.seats() {
            for lane in Lane::ALL {
                let waited = seat.cells[lane as usize].waited.load(super::Relaxed);
                sums.waits[lane as usize] += seconds(waited);
            }
            for by in [Limited::Bandwidth, Limited::Operations] {
                sums.limited[by as usize] += seconds(seat.limited_by(by));
            }
            let [cpu, queued] = seat.processor();
            sums.cpu += seconds(cpu);
            sums.queued += seconds(queued);
        }
        sums
    }
}

impl Bottleneck {
    /// What has held up `seconds` of work so far, done by so many workers.
    pub(crate) fn of(lanes: &Lanes, seconds: f64, workers: usize) -> Self {
        Self::judge(&Sums::of(lanes), seconds, workers)
    }

    /// Judges `seconds` of work by so many workers.
    pub(crate) fn judge(sums: &Sums, seconds: f64, workers: usize) -> Self {
        let cores = crate::sys::processors::cores();
        Self::judge_on(sums, seconds, workers.min(cores))
    }

    fn judge_on(sums: &Sums, seconds: f64, processors: usize) -> Self {
        #[allow(clippy::cast_precision_loss)] // a small number
        let room = (seconds * processors as f64).max(f64::MIN_POSITIVE);
        let mut waits: BTreeMap<&'static str, f64> =
            Lane::ALL.into_iter().map(|lane| (lane.word(), sums.waits[lane as usize])).collect();
        let [bandwidth, operations] = sums.limited;
        let limits = [("bandwidth-limit", bandwidth), ("ops-limit", operations)];
        waits.extend(limits.into_iter().filter(|(_, wait)| *wait > 0.0));
        let all: f64 = waits.values().sum();
        let cpu_share = (sums.cpu / room).min(1.0);
        let wanted = ((sums.cpu + sums.queued) / room).min(1.0);
        // On a machine that others keep busy a worker queues instead of running; but a hundred
        // workers who wait for a server queue a little, too.
        let queues = wanted >= CPU_BOUND && sums.cpu + sums.queued >= all;
        let longest =
            waits.iter().max_by(|a, b| a.1.total_cmp(b.1)).map(|(name, wait)| (*name, *wait));
        let (name, share) = match longest {
            Some((name, wait)) if cpu_share < CPU_BOUND && !queues && wait > 0.0 => {
                (name, wait / all)
            }
            _ => ("cpu", wanted),
        };
        Self { name, share, waits, cpu_share }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_wait_is_named_unless_the_processors_were_busy() {
        let mut sums = Sums { waits: [1.0, 2.0, 7.0, 0.0], cpu: 3.0, ..Sums::default() };
        let found = Bottleneck::judge_on(&sums, 10.0, 2);
        assert_eq!((found.name, found.share, found.cpu_share), ("destination-create", 0.7, 0.15));
        sums.cpu = 18.0;
        assert_eq!(Bottleneck::judge_on(&sums, 10.0, 2).name, "cpu");
    }

    #[test]
    fn queueing_for_a_processor_is_the_processors_fault_only_when_it_outweighs_the_waiting() {
        let busy_machine =
            Sums { waits: [0.1, 0.1, 0.5, 0.0], cpu: 8.0, queued: 11.0, ..Sums::default() };
        assert_eq!(Bottleneck::judge_on(&busy_machine, 10.0, 2).name, "cpu");
        let many_workers =
            Sums { waits: [400.0, 0.0, 100.0, 0.0], cpu: 8.0, queued: 11.0, ..Sums::default() };
        assert_eq!(Bottleneck::judge_on(&many_workers, 10.0, 2).name, "source-metadata");
    }

    #[test]
    fn a_limit_that_holds_up_is_named() {
        let sums = Sums { waits: [1.0; 4], limited: [9.0, 0.0], cpu: 1.0, ..Sums::default() };
        let found = Bottleneck::judge_on(&sums, 10.0, 2);
        assert_eq!(found.name, "bandwidth-limit");
        assert!(!found.waits.contains_key("ops-limit"));
    }
}
