//! What a mover has done so far, as the shard's status and the metrics have it. It writes nothing.

use longshore::api::data_movement_shard::Counters;
use longshore::api::shard_progress::ShardProgress;

use crate::metrics::Metrics;
use crate::time::now;
use crate::wire::{Done, Progress};

/// The counts of one shard, over all attempts of this worker.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Which attempt the mover that runs is.
    attempt: i32,
    /// Absent before the first news.
    counters: Option<Counters>,
    percent: Option<i32>,
    /// What is run, and the destination that it came to.
    place: Option<(String, String)>,
    /// What the metrics have of the mover that runs.
    told: Told,
}

#[derive(Debug, Default)]
struct Told {
    bytes: u64,
    files: u64,
    resumed_bytes: u64,
    failed: u64,
}

impl Tally {
    /// Another mover starts: its counters begin at nothing.
    pub(super) fn begin(&mut self, attempt: i32) {
        self.attempt = attempt;
        self.told = Told::default();
    }

    /// The mover has prepared the destination.
    pub(super) fn came_to(&mut self, command: String, destination: String) {
        self.place = Some((command, destination));
    }

    /// What is run, and the destination, once it is prepared.
    pub(super) fn place(&self) -> Option<(&str, &str)> {
        self.place.as_ref().map(|(command, destination)| (command.as_str(), destination.as_str()))
    }

    /// The mover says how far it is.
    pub(super) fn progress(&mut self, progress: &Progress, metrics: &Metrics) {
        self.tell(
            metrics,
            &Told {
                bytes: progress.bytes_done.saturating_sub(progress.bytes_resumed),
                files: progress.files_done.saturating_sub(progress.files_resumed),
                resumed_bytes: progress.bytes_resumed,
                failed: progress.failed,
            },
        );
        self.counters = Some(Counters {
            bytes: signed(progress.bytes_done),
            total_bytes: signed(progress.bytes_found.max(progress.bytes_done)),
            files: signed(progress.files_done),
            total_files: signed(progress.files_found.max(progress.files_done)),
            directories: signed(progress.directories_done),
            links: signed(progress.links_done),
            resumed_bytes: signed(progress.bytes_resumed),
            resumed_files: signed(progress.files_resumed),
            failed: signed(progress.failed),
        });
        if progress.walk_done {
            let part = if progress.bytes_found > 0 {
                percent(progress.bytes_done, progress.bytes_found)
            } else {
                percent(progress.files_done, progress.files_found)
            };
            self.percent = self.percent.max(Some(part));
        }
    }

    /// The mover says what it did.
    pub(super) fn done(&mut self, done: &Done, metrics: &Metrics) {
        let (copied, resumed) = (&done.copied, &done.resumed);
        let failed = done.errors.values().sum();
        self.tell(
            metrics,
            &Told {
                bytes: copied.bytes.saturating_sub(resumed.ranges),
                files: copied.files,
                resumed_bytes: resumed.bytes,
                failed,
            },
        );
        let before = self.counters.take().unwrap_or_default();
        // Parts that were there are in both.
        let bytes = signed((copied.bytes + resumed.bytes).saturating_sub(resumed.ranges));
        let files = signed(copied.files + resumed.files);
        self.counters = Some(Counters {
            bytes,
            total_bytes: before.total_bytes.max(bytes),
            files,
            total_files: before.total_files.max(files),
            directories: signed(copied.directories),
            links: signed(copied.symlinks + copied.hard_links + copied.special + resumed.links),
            resumed_bytes: signed(resumed.bytes),
            resumed_files: signed(resumed.files),
            failed: signed(failed),
        });
    }

    fn tell(&mut self, metrics: &Metrics, now: &Told) {
        let more = |now: u64, told: &mut u64| {
            let more = now.saturating_sub(*told);
            *told += more;
            more
        };
        let told = &mut self.told;
        metrics.copied(
            more(now.bytes, &mut told.bytes),
            more(now.files, &mut told.files),
            more(now.resumed_bytes, &mut told.resumed_bytes),
            more(now.failed, &mut told.failed),
        );
    }

    /// Everything was copied.
    pub(super) fn complete(&mut self) {
        self.percent = Some(100);
    }

    /// How far it is, for those who watch; none before the first news.
    pub(super) fn report(&self, uid: &str) -> Option<ShardProgress> {
        Some(ShardProgress {
            uid: uid.to_owned(),
            attempt: self.attempt,
            time: now(),
            percent: self.percent,
            counters: self.counters.clone()?,
        })
    }

    pub(super) fn counters(&self) -> Option<&Counters> {
        self.counters.as_ref()
    }

    /// How much is done; below 100 as long as it is not complete.
    pub(super) fn percent(&self) -> Option<i32> {
        self.percent
    }
}

fn percent(done: u64, all: u64) -> i32 {
    let part = u128::from(done) * 100 / u128::from(all.max(1));
    i32::try_from(part.min(99)).unwrap_or(99)
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(metrics: &Metrics, name: &str) -> u64 {
        let text = metrics.text().unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    #[test]
    fn metrics_have_what_was_copied_and_no_byte_twice() {
        let metrics = Metrics::new().unwrap();
        let mut tally = Tally::default();
        let mut progress = Progress { bytes_found: 10, ..Progress::default() };
        for bytes in [3, 3, 7] {
            progress.bytes_done = bytes;
            tally.progress(&progress, &metrics);
        }
        assert_eq!(tally.percent(), None, "nobody knows how much there is");
        // It was killed; the next one goes on with what is there.
        tally.begin(2);
        progress = Progress { bytes_done: 8, bytes_resumed: 6, walk_done: true, ..progress };
        tally.progress(&progress, &metrics);
        assert_eq!(tally.percent(), Some(80));
        let mut done = Done::default();
        // A file of 4 was there, and 2 of the 6 bytes of another.
        (done.copied.bytes, done.resumed.bytes, done.resumed.ranges) = (6, 6, 2);
        tally.done(&done, &metrics);
        assert_eq!(metric(&metrics, "longshore_worker_copied_bytes_total"), 7 + 4);
        assert_eq!(metric(&metrics, "longshore_worker_resumed_bytes_total"), 6);
        assert_eq!(tally.counters().unwrap().bytes, 10);
        // More is found while it runs: what was said is not taken back.
        tally.progress(&Progress { bytes_found: 100, ..progress }, &metrics);
        assert_eq!(tally.percent(), Some(80));
    }
}
