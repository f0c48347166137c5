//! What the emulator's log says of one copy, and the lines of a table.

use std::time::Duration;

use crate::support::lustre::{Lustre, data_writes};

/// One copy of a large file.
#[derive(Debug, Clone, Default)]
pub struct Judgement {
    seconds: f64,
    /// Until all OSTs but the slow one had their last byte.
    others: f64,
    slow: bool,
    revocations: usize,
    concurrent: usize,
    crossing: usize,
    /// Longest time in which an OST had nothing to do, as a part of the time in which data was written.
    idle: f64,
}

impl Judgement {
    /// Of everything that was written since the mount.
    pub fn of(lustre: &Lustre, seconds: f64, slow: Option<usize>) -> Self {
        let log = lustre.emulator().log();
        let writes = data_writes(lustre);
        let slow = slow.and_then(|ost| u32::try_from(ost).ok());
        let begin = writes.iter().map(|write| write.start).min().unwrap_or_default();
        let ends = |all: bool| {
            let parts = writes.iter().flat_map(|write| &write.parts);
            parts
                .filter(|part| all || part.object.map(|object| object.ost) != slow)
                .filter_map(|part| part.end)
                .max()
                .unwrap_or_default()
        };
        let (end, others) = (ends(true), ends(false));
        let run = (end.saturating_sub(begin)).as_secs_f64();
        let osts = u32::try_from(lustre.emulator().osts().len()).unwrap_or(u32::MAX);
        let gaps = (0..osts).flat_map(|ost| log.idle_gaps(ost, begin..end));
        let longest = gaps.map(|gap| gap.end - gap.start).max().unwrap_or(Duration::ZERO);
        Self {
            seconds,
            others: others.saturating_sub(begin).as_secs_f64(),
            slow: slow.is_some(),
            revocations: writes
                .iter()
                .flat_map(|write| &write.parts)
                .map(|part| part.revoked)
                .sum(),
            concurrent: log.concurrent_writers().len(),
            crossing: log.crossing().len(),
            idle: longest.as_secs_f64() / run.max(f64::MIN_POSITIVE),
        }
    }

    /// The head of the table.
    pub fn head(slow: bool) -> String {
        let (first, last) = if slow {
            ("others done after | times their share", "")
        } else {
            ("of the sum", " longest idle gap |")
        };
        let columns = format!(
            "| | seconds | {first} | locks taken away | two writers at once | requests across stripes |{last}"
        );
        let rules = "---:|".repeat(columns.matches('|').count() - 2);
        format!("{columns}\n|---|{rules}\n")
    }

    /// One row: medians of its rounds, the largest of what should not be.
    pub fn line(name: &str, all: &[Self], least: f64) -> String {
        let mid = |value: fn(&Self) -> f64| median(&mut all.iter().map(value).collect::<Vec<_>>());
        let most = |value: fn(&Self) -> usize| all.iter().map(value).max().unwrap_or_default();
        let (seconds, others) = (mid(|one| one.seconds), mid(|one| one.others));
        let locks = most(|one| one.revocations);
        let (concurrent, crossing) = (most(|one| one.concurrent), most(|one| one.crossing));
        let slow = all.iter().any(|one| one.slow);
        if slow {
            let times = others / least;
            return format!(
                "| {name} | {seconds:.2} | {others:.2} s | {times:.2} | {locks} | {concurrent} | {crossing} |\n"
            );
        }
        let share = 100.0 * least / seconds;
        let idle = 100.0 * mid(|one| one.idle);
        format!(
            "| {name} | {seconds:.2} | {share:.0} % | {locks} | {concurrent} | {crossing} | {idle:.1} % |\n"
        )
    }
}

/// The middle one, or the mean of the two.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}
