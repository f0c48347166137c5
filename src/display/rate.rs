//! The recent rate of a copy and what is left of it, from successive snapshots. Pure; the clock is
//! the snapshot's.

use std::time::Duration;

use crate::progress::Snapshot;

/// Time over which the rate is smoothed: long enough to even out single large files, short enough
/// that a stall shows.
const SMOOTHED_OVER_SECS: f64 = 5.0;

/// Bytes and files per second, smoothed exponentially over the last seconds.
#[derive(Debug, Default)]
pub(super) struct Rate {
    last_elapsed: Duration,
    last_bytes: u64,
    last_files: u64,
    bytes: f64,
    files: f64,
}

impl Rate {
    /// Takes in what was done since the last snapshot.
    pub(super) fn update(&mut self, snapshot: &Snapshot) {
        let passed = snapshot.elapsed.saturating_sub(self.last_elapsed).as_secs_f64();
        if passed <= 0.0 {
            return;
        }
        let weight = 1.0 - (-passed / SMOOTHED_OVER_SECS).exp();
        // What an earlier run did says nothing about how fast this one is.
        let files_done =
            (snapshot.files_done + snapshot.files_skipped).saturating_sub(snapshot.files_resumed);
        let bytes_done = snapshot.bytes_done.saturating_sub(snapshot.bytes_resumed);
        self.bytes += weight * (per(bytes_done, self.last_bytes, passed) - self.bytes);
        self.files += weight * (per(files_done, self.last_files, passed) - self.files);
        self.last_elapsed = snapshot.elapsed;
        self.last_bytes = bytes_done;
        self.last_files = files_done;
    }

    /// Bytes and files per second. The average began at zero; dividing by the weight seen so far
    /// makes the first seconds right as well.
    pub(super) fn per_second(&self, elapsed: Duration) -> (f64, f64) {
        let seen = 1.0 - (-elapsed.as_secs_f64() / SMOOTHED_OVER_SECS).exp();
        if seen <= 0.0 { (0.0, 0.0) } else { (self.bytes / seen, self.files / seen) }
    }
}

#[allow(clippy::cast_precision_loss)] // a rate that is only shown
fn per(now: u64, before: u64, seconds: f64) -> f64 {
    now.saturating_sub(before) as f64 / seconds
}

/// How much longer a copy takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Eta {
    /// Nothing is known yet, or nothing moves.
    Unknown,
    /// The walk still finds files: at least this.
    AtLeast(Duration),
    /// What is left at the recent rate.
    About(Duration),
}

impl Eta {
    /// From the recent rates. Large files are bound by bytes, small ones by their number; the
    /// slower of both decides.
    pub(super) fn of(snapshot: &Snapshot, bytes_per_second: f64, files_per_second: f64) -> Self {
        let done = snapshot.files_done + snapshot.files_skipped;
        let files_left = snapshot.files_found.saturating_sub(done);
        let bytes_left = snapshot.bytes_found.saturating_sub(snapshot.bytes_done);
        // Skipped and failed files leave bytes behind that nobody will copy.
        let bytes_left = if files_left == 0 { 0 } else { bytes_left };
        let by_bytes = needed(bytes_left, bytes_per_second);
        let by_files = needed(files_left, files_per_second);
        // While one large file is copied no file is finished, which says nothing about the rest.
        let seconds = match (by_bytes, by_files) {
            (Some(bytes), Some(files)) => bytes.max(files),
            (Some(bytes), None) if bytes_left > 0 => bytes,
            (None, Some(files)) if files_left > 0 => files,
            _ => return Self::Unknown,
        };
        match Duration::try_from_secs_f64(seconds) {
            Ok(left) if snapshot.walk_done => Self::About(left),
            Ok(left) => Self::AtLeast(left),
            Err(_) => Self::Unknown,
        }
    }

    /// Whole seconds, when they are more than a lower bound.
    pub(super) fn seconds(self) -> Option<u64> {
        match self {
            Self::About(left) => Some(left.as_secs()),
            Self::Unknown | Self::AtLeast(_) => None,
        }
    }
}

/// Seconds for what is left; `None` when nothing moves.
#[allow(clippy::cast_precision_loss)] // an estimate
fn needed(left: u64, per_second: f64) -> Option<f64> {
    if left == 0 {
        Some(0.0)
    } else if per_second >= 0.01 {
        Some(left as f64 / per_second)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::display::tests::snapshot;

    fn after(seconds: u64, bytes_done: u64, files_done: u64) -> Snapshot {
        let elapsed = Duration::from_secs(seconds);
        Snapshot { elapsed, bytes_done, files_done, ..snapshot() }
    }

    #[test]
    fn a_steady_rate_is_right_from_the_first_snapshot() {
        let mut rate = Rate::default();
        for second in 1..20 {
            rate.update(&after(second, second * 1000, second * 10));
            let (bytes, files) = rate.per_second(Duration::from_secs(second));
            assert!((bytes - 1000.0).abs() < 0.1, "{bytes} after {second} s");
            assert!((files - 10.0).abs() < 0.1, "{files} after {second} s");
        }
    }

    #[test]
    fn a_stall_shows_within_seconds() {
        let mut rate = Rate::default();
        rate.update(&after(60, 60_000, 60));
        rate.update(&after(75, 60_000, 60));
        assert!(rate.per_second(Duration::from_secs(75)).0 < 100.0);
    }

    #[test]
    fn the_slower_of_bytes_and_files_decides_and_an_open_walk_gives_a_lower_bound() {
        let mut snapshot = snapshot();
        assert_eq!((snapshot.files_found, snapshot.files_done), (5678, 1234));
        snapshot.walk_done = true;
        assert_eq!(Eta::of(&snapshot, 1e12, 44.44), Eta::About(Duration::from_secs_f64(100.0)));
        snapshot.walk_done = false;
        assert!(matches!(Eta::of(&snapshot, 1e12, 44.44), Eta::AtLeast(_)));
        assert_eq!(Eta::of(&snapshot, 0.0, 0.0), Eta::Unknown);
        assert_eq!(Eta::of(&snapshot, 0.0, 0.0).seconds(), None);
    }
}
