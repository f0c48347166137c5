//! How far the running shards of this worker are, for its Lease, which is renewed anyway: so progress costs
//! no write of a shard. It writes nothing itself.
//!
//! A shard has news when its counters have changed and another of its intervals has begun. Intervals are
//! counted from the start of the machine, not of the shard, so that shards with the same interval have their news
//! at the same time, which one renewal takes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dm_service::since_boot;
use longshore::api::shard_progress::{ShardProgress, write_reports};
use tokio::time::sleep;

/// What is known of the running shards, by namespace and name. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reports(Arc<Mutex<BTreeMap<String, Entry>>>);

#[derive(Debug)]
struct Entry {
    interval: Duration,
    /// The number of the interval that was reported last, or in which it began.
    reported_in: u128,
    now: ShardProgress,
    reported: Option<ShardProgress>,
}

impl Entry {
    fn has_news(&self, time: Duration) -> bool {
        number(time, self.interval) > self.reported_in
            && self.reported.as_ref().is_none_or(|reported| {
                (&reported.counters, reported.attempt) != (&self.now.counters, self.now.attempt)
            })
    }
}

/// The number of the interval that a time is in.
fn number(time: Duration, interval: Duration) -> u128 {
    time.as_millis() / interval.as_millis().max(1)
}

impl Reports {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A shard is so far. It is reported once in an interval.
    pub(crate) fn say(&self, shard: &str, interval: Duration, progress: ShardProgress) {
        self.say_at(since_boot(), shard, interval, progress);
    }

    fn say_at(&self, time: Duration, shard: &str, interval: Duration, progress: ShardProgress) {
        let mut entries = self.entries();
        match entries.get_mut(shard) {
            Some(entry) if entry.now.uid == progress.uid => entry.now = progress,
            _ => {
                let reported_in = number(time, interval);
                let entry = Entry { interval, reported_in, now: progress, reported: None };
                entries.insert(shard.to_owned(), entry);
            }
        }
    }

    /// A shard is over, or is no more this worker's.
    pub(crate) fn forget(&self, shard: &str) {
        self.entries().remove(shard);
    }

    /// Returns when one has news. It looks once a second, when intervals begin.
    pub(crate) async fn due(&self) {
        loop {
            let now = since_boot();
            sleep(Duration::from_secs(now.as_secs() + 1) - now).await;
            let now = since_boot();
            if self.entries().values().any(|entry| entry.has_news(now)) {
                return;
            }
        }
    }

    /// What the Lease says from now on, if there is something to say: of each shard what it said before, or its news.
    pub(crate) fn text(&self) -> Option<String> {
        self.text_at(since_boot())
    }

    fn text_at(&self, time: Duration) -> Option<String> {
        let mut entries = self.entries();
        for entry in entries.values_mut().filter(|entry| entry.has_news(time)) {
            entry.reported_in = number(time, entry.interval);
            entry.reported = Some(entry.now.clone());
        }
        let reported =
            entries.iter().filter_map(|(shard, entry)| Some((shard, entry.reported.as_ref()?)));
        write_reports(reported)
    }
}

#[cfg(test)]
mod tests {
    use longshore::api::data_movement_shard::Counters;
    use longshore::api::shard_progress;

    use super::*;

    fn progress(uid: &str, attempt: i32, bytes: i64) -> ShardProgress {
        ShardProgress {
            uid: uid.to_owned(),
            attempt,
            time: crate::time::now(),
            percent: None,
            counters: Counters { bytes, ..Counters::default() },
        }
    }

    /// What is reported at a time: the bytes of each shard.
    fn reported(reports: &Reports, milliseconds: u64) -> Vec<i64> {
        let text = reports.text_at(Duration::from_millis(milliseconds)).unwrap_or("{}".to_owned());
        let read: shard_progress::Reports = serde_json::from_str(&text).unwrap();
        read.values().map(|progress| progress.counters.bytes).collect()
    }

    #[test]
    fn each_shard_is_reported_once_in_its_interval_and_all_at_the_same_time() {
        let reports = Reports::default();
        let at = |milliseconds, shard: &str, seconds, bytes| {
            let interval = Duration::from_secs(seconds);
            let time = Duration::from_millis(milliseconds);
            reports.say_at(time, shard, interval, progress(shard, 1, bytes));
        };
        at(10_200, "a", 5, 1);
        at(12_700, "b", 5, 2);
        at(12_800, "c", 1, 3);
        assert_eq!(reported(&reports, 12_900), [0_i64; 0], "their intervals have not passed");
        assert_eq!(reported(&reports, 13_000), [3]);
        at(13_500, "c", 1, 4);
        at(13_600, "a", 5, 10);
        assert_eq!(reported(&reports, 13_900), [3]);
        assert_eq!(reported(&reports, 14_000), [4]);
        assert_eq!(reported(&reports, 15_001), [10, 2, 4], "one write for both");
        at(17_000, "a", 5, 20);
        assert_eq!(reported(&reports, 19_999), [10, 2, 4]);
        let now = Duration::from_millis(20_000);
        let with_news = |reports: &Reports| {
            let entries = reports.entries();
            entries.values().filter(|entry| entry.has_news(now)).count()
        };
        assert_eq!(with_news(&reports), 1, "what has not moved is no news");
        assert_eq!(reported(&reports, 20_000), [20, 2, 4]);
        assert_eq!(with_news(&reports), 0);
        reports.forget("a");
        assert_eq!(reported(&reports, 20_001), [2, 4]);
    }

    #[test]
    fn another_shard_of_the_same_name_begins_anew() {
        let reports = Reports::default();
        let second = Duration::from_secs(1);
        reports.say_at(second, "a", second, progress("old", 1, 5));
        assert_eq!(reported(&reports, 2_000), [5]);
        reports.say_at(2 * second, "a", second, progress("new", 1, 1));
        assert_eq!(reported(&reports, 2_500), [0_i64; 0]);
        assert_eq!(reported(&reports, 3_000), [1]);
    }
}
