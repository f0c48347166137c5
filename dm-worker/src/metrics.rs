//! The numbers of a worker, for Prometheus. Labels are from small closed sets: no paths, no names of
//! objects. It counts and decides nothing.

use std::sync::Arc;

use anyhow::Context;
use longshore::api::data_movement::Outcome;
use prometheus::core::Collector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

/// Upper bounds of the durations from starting a mover until its shard is claimed.
const CLAIM_SECONDS: [f64; 8] = [0.005, 0.01, 0.02, 0.04, 0.08, 0.2, 1.0, 10.0];

/// Upper bounds of the durations of copies.
const COPY_SECONDS: [f64; 10] = [0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 36000.0];

/// All numbers. Clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(Arc<Numbers>);

#[derive(Debug)]
struct Numbers {
    registry: Registry,
    bytes: IntCounter,
    files: IntCounter,
    resumed_bytes: IntCounter,
    failed_items: IntCounter,
    claims: IntCounterVec,
    finished: IntCounterVec,
    released: IntCounter,
    crashes: IntCounter,
    stalls: IntCounter,
    writes: IntCounterVec,
    renewals: IntCounterVec,
    lease_losses: IntCounter,
    movers: IntGauge,
    waiting: IntGauge,
    mounts_missing: IntGauge,
    claim_seconds: Histogram,
    copy_seconds: Histogram,
}

impl Metrics {
    /// # Errors
    /// When two of them have one name.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| register(&registry, IntCounter::new(name, help)?);
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help)?);
        let by = |name: &str, help: &str, label: &str, words: &[&str]| {
            let counter =
                register(&registry, IntCounterVec::new(Opts::new(name, help), &[label])?)?;
            // A series that appears with its first event hides that event from rates.
            words.iter().for_each(|word| drop(counter.with_label_values(&[word])));
            anyhow::Ok(counter)
        };
        let seconds = |name: &str, help: &str, bounds: &[f64]| {
            let options = HistogramOpts::new(name, help).buckets(bounds.to_vec());
            register(&registry, Histogram::with_opts(options)?)
        };
        let numbers = Numbers {
            bytes: counter(
                "longshore_worker_copied_bytes_total",
                "Bytes of content that movers of this worker put in place.",
            )?,
            files: counter(
                "longshore_worker_copied_files_total",
                "Regular files that movers of this worker completed.",
            )?,
            resumed_bytes: counter(
                "longshore_worker_resumed_bytes_total",
                "Bytes of content that were in place from an earlier attempt, and not copied again.",
            )?,
            failed_items: counter(
                "longshore_worker_failed_items_total",
                "Items that could not be copied, or not completely.",
            )?,
            claims: by(
                "longshore_worker_claims_total",
                "Attempts to claim a shard, by result.",
                "result",
                &["won", "lost", "failed"],
            )?,
            finished: by(
                "longshore_worker_finished_shards_total",
                "Shards that this worker finished, by outcome.",
                "outcome",
                &["Success", "Failed", "Invalid", "Cancelled"],
            )?,
            released: counter(
                "longshore_worker_released_shards_total",
                "Shards that this worker put back for another attempt.",
            )?,
            crashes: counter(
                "longshore_worker_mover_crashes_total",
                "Movers that ended without having been asked and without a result.",
            )?,
            stalls: counter(
                "longshore_worker_mover_stalls_total",
                "Movers that were ended because nothing moved for too long.",
            )?,
            writes: by(
                "longshore_worker_shard_writes_total",
                "Writes to the status of shards, by result.",
                "result",
                &["done", "conflict", "failed"],
            )?,
            renewals: by(
                "longshore_worker_lease_renewals_total",
                "Renewals of this worker's Lease, by result.",
                "result",
                &["done", "failed"],
            )?,
            lease_losses: counter(
                "longshore_worker_lease_losses_total",
                "How often this worker's Lease ran out, which ends all of its movers.",
            )?,
            movers: gauge("longshore_worker_movers", "Movers that run.")?,
            waiting: gauge(
                "longshore_worker_waiting_shards",
                "Shards that this worker could claim and that wait for a mover.",
            )?,
            mounts_missing: gauge(
                "longshore_worker_missing_mounts",
                "Filesystems that this node is to have and that are not mounted.",
            )?,
            claim_seconds: seconds(
                "longshore_worker_claim_seconds",
                "Time from starting a mover until its shard was claimed.",
                &CLAIM_SECONDS,
            )?,
            copy_seconds: seconds(
                "longshore_worker_mover_seconds",
                "Time from the claim of a shard until its mover had ended.",
                &COPY_SECONDS,
            )?,
            registry: registry.clone(),
        };
        Ok(Self(Arc::new(numbers)))
    }

    /// As Prometheus reads it.
    ///
    /// # Errors
    /// When they cannot be written down.
    pub(crate) fn text(&self) -> anyhow::Result<String> {
        let mut text = Vec::new();
        let gathered = self.0.registry.gather();
        TextEncoder::new().encode(&gathered, &mut text).context("failed to write the metrics")?;
        String::from_utf8(text).context("metrics are not text")
    }

    /// So much more was copied.
    pub(crate) fn copied(&self, bytes: u64, files: u64, resumed_bytes: u64, failed: u64) {
        self.0.bytes.inc_by(bytes);
        self.0.files.inc_by(files);
        self.0.resumed_bytes.inc_by(resumed_bytes);
        self.0.failed_items.inc_by(failed);
    }

    pub(crate) fn claimed(&self, result: &str) {
        self.0.claims.with_label_values(&[result]).inc();
    }

    pub(crate) fn claim_took(&self, seconds: f64) {
        self.0.claim_seconds.observe(seconds);
    }

    pub(crate) fn mover_took(&self, seconds: f64) {
        self.0.copy_seconds.observe(seconds);
    }

    pub(crate) fn finished(&self, outcome: Outcome) {
        let word = match outcome {
            Outcome::Success => "Success",
            Outcome::Failed => "Failed",
            Outcome::Invalid => "Invalid",
            Outcome::Cancelled => "Cancelled",
        };
        self.0.finished.with_label_values(&[word]).inc();
    }

    pub(crate) fn released(&self) {
        self.0.released.inc();
    }

    pub(crate) fn crashed(&self) {
        self.0.crashes.inc();
    }

    pub(crate) fn stalled(&self) {
        self.0.stalls.inc();
    }

    pub(crate) fn wrote(&self, result: &str) {
        self.0.writes.with_label_values(&[result]).inc();
    }

    pub(crate) fn renewed(&self, result: &str) {
        self.0.renewals.with_label_values(&[result]).inc();
    }

    pub(crate) fn lease_lost(&self) {
        self.0.lease_losses.inc();
    }

    /// How many movers there are and how many shards wait, and mounts that miss.
    pub(crate) fn now(&self, movers: usize, waiting: usize, missing: usize) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.0.movers.set(number(movers));
        self.0.waiting.set(number(waiting));
        self.0.mounts_missing.set(number(missing));
    }
}

fn register<M: Collector + Clone + 'static>(registry: &Registry, metric: M) -> anyhow::Result<M> {
    registry.register(Box::new(metric.clone())).context("failed to register a metric")?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_documented_and_named_as_prometheus_has_it() {
        let page = include_str!("../../docs/worker.md");
        let gathered = Metrics::new().unwrap().0.registry.gather();
        assert!(gathered.len() > 15);
        for family in gathered {
            let name = family.name();
            let documented = [format!("`{name}`"), format!("`{name}{{")];
            assert!(documented.iter().any(|text| page.contains(text)), "{name} is not documented");
            assert!(family.help().ends_with('.'), "{name} has no sentence");
            let counter = family.get_field_type() == prometheus::proto::MetricType::COUNTER;
            assert_eq!(name.ends_with("_total"), counter, "{name}");
            assert!(!name.contains("milli") && !name.contains("mib"), "{name} has no base unit");
        }
    }
}
