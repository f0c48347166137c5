//! The numbers that `/metrics` shows, by name. Their labels are words from small closed sets, never
//! names of objects. It counts nothing itself.

use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::fence;

/// The numbers. A clone is the same.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Registry,
    /// Whether this replica leads.
    pub(crate) leader: IntGauge,
    /// Looks at a movement, by the name that the program before this one had for it.
    pub(crate) movement_reconciles: IntCounter,
    /// Looks at an object, by controller.
    pub(crate) reconciles: IntCounterVec,
    /// Looks that ended in an error and are repeated, by controller.
    pub(crate) reconcile_failures: IntCounterVec,
    /// Requests to the API server that the controllers made, by kind of object, verb and answer.
    requests: IntCounterVec,
    /// Questions of the API server about objects before they are stored, by kind and outcome.
    pub(crate) admission_requests: IntCounterVec,
    /// Movements that are there, by state.
    pub(crate) movements: IntGaugeVec,
    /// Movements that ended, by outcome.
    pub(crate) movements_finished: IntCounterVec,
    /// Seconds from the creation of a movement to its start.
    pub(crate) movement_start: Histogram,
    /// Seconds from the start of a movement to its end.
    pub(crate) movement_duration: Histogram,
    /// Shards that were taken from a worker that is gone.
    pub(crate) shards_put_back: IntCounter,
}

impl Metrics {
    /// All at zero.
    pub(crate) fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let metric = IntCounter::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let counters =
            |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
                let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
                registry.register(Box::new(metric.clone()))?;
                Ok(metric)
            };
        let histogram =
            |name: &str, help: &str, buckets: Vec<f64>| -> prometheus::Result<Histogram> {
                let metric = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
                registry.register(Box::new(metric.clone()))?;
                Ok(metric)
            };
        let leader = IntGauge::new("longshore_manager_leader", "Whether this replica leads.")?;
        registry.register(Box::new(leader.clone()))?;
        let movements = IntGaugeVec::new(
            Opts::new("longshore_movements", "Data movements that are there, by state."),
            &["state"],
        )?;
        registry.register(Box::new(movements.clone()))?;
        Ok(Self {
            leader,
            movements,
            movement_reconciles: counter(
                "nnfdm_datamovement_reconciles_total",
                "Number of total reconciles in NnfDataMovement controller.",
            )?,
            reconciles: counters(
                "longshore_reconciles_total",
                "Looks at an object, by controller.",
                &["controller"],
            )?,
            reconcile_failures: counters(
                "longshore_reconcile_failures_total",
                "Looks at an object that failed and are repeated, by controller.",
                &["controller"],
            )?,
            requests: counters(
                "longshore_api_requests_total",
                "Requests to the API server, by resource, verb and outcome.",
                &["resource", "verb", "outcome"],
            )?,
            admission_requests: counters(
                "longshore_admission_requests_total",
                "Objects that were looked at before they are stored, by kind and outcome.",
                &["kind", "outcome"],
            )?,
            movements_finished: counters(
                "longshore_movements_finished_total",
                "Data movements that ended, by outcome.",
                &["outcome"],
            )?,
            movement_start: histogram(
                "longshore_movement_start_seconds",
                "Time from the creation of a data movement, which is known to the second, to its start.",
                vec![1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 3600.0],
            )?,
            movement_duration: histogram(
                "longshore_movement_duration_seconds",
                "Time from the start of a data movement to its end.",
                vec![0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0],
            )?,
            shards_put_back: counter(
                "longshore_shards_put_back_total",
                "Shards that were taken from a worker that is gone.",
            )?,
            registry,
        })
    }

    /// Counts a request by how it was answered.
    pub(crate) fn request<T>(&self, resource: &str, verb: &str, answer: &kube::Result<T>) {
        let outcome = match answer {
            Ok(_) => "done",
            Err(kube::Error::Api(refused)) => match refused.code {
                404 => "not_found",
                409 => "conflict",
                _ => "refused",
            },
            Err(error) if fence::held_back(error) => "held_back",
            Err(_) => "unreachable",
        };
        self.requests.with_label_values(&[resource, verb, outcome]).inc();
    }

    /// The text that Prometheus reads.
    pub(crate) fn text(&self) -> anyhow::Result<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8(text)?)
    }
}
