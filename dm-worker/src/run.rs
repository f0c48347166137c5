//! `dm-worker run`: options, and what is started from them and ended. It claims nothing itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use dm_service::{Ends, LogFormat, Readiness, host_name, since_boot};
use kube::Client;
use longshore::api::data_movement_shard::worker_lease;
use tokio::sync::watch;

use crate::agent::{Agent, Settings};
use crate::api::Identity;
use crate::lease::Claimant;
use crate::leftover::RunDirectory;
use crate::live::{self, Board};
use crate::metrics::Metrics;
use crate::mounts::Mounts;
use crate::reports::Reports;
use crate::shard::{BEFORE_THE_LEASE, Limits, Worker};

/// Claim the shards of this node and have them copied
///
/// It finds the API server as kubectl does ($KUBECONFIG, ~/.kube/config) or, in a pod, by the pod's service
/// account. As root it runs each copy as the user that the shard names. SIGTERM ends it in order: running
/// copies may finish for a while, the rest is put back and goes on where it stopped. What it logs is
/// chosen by $RUST_LOG (default info).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The node that this worker is on; in a pod from spec.nodeName
    #[arg(long, env = "NNF_NODE_NAME", value_name = "NAME")]
    node: String,

    /// The pod that this worker is; by default the name of the host, which is that of the pod
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pod: Option<String>,

    /// The namespace of the workers, where their Leases are
    #[arg(long, env = "LONGSHORE_NAMESPACE", value_name = "NAME", default_value = "nnf-dm-system")]
    namespace: String,

    /// Claim shards in this namespace only; may be repeated; all namespaces without it
    #[arg(long, value_name = "NAMESPACE")]
    shards_in: Vec<String>,

    /// A filesystem that this node is to have: its mount point. May be repeated, or separated by commas.
    /// Whether they are mounted is on the worker's Lease; a shard that names no node is claimed only when
    /// both of its paths are on ones that are. Without any, every shard that names no node is claimed
    #[arg(long, env = "LONGSHORE_MOUNTS", value_name = "PATH", value_delimiter = ',')]
    mount: Vec<PathBuf>,

    /// Mount and unmount filesystems in place: the name of the ConfigMap, in the workers' namespace, with
    /// the list of what is to be mounted, which the manager writes. It needs CAP_SYS_ADMIN, a container of
    /// its own, and mount.TYPE on its $PATH
    #[arg(long, env = "LONGSHORE_MOUNTS_FROM", value_name = "NAME")]
    mounts_from: Option<String>,

    /// The type of the filesystems on that list
    #[arg(long, value_name = "TYPE", default_value = "lustre")]
    mount_type: String,

    /// How long mounting or unmounting one of them may take before it is ended and reported as hanging
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = clap::value_parser!(u32).range(1..))]
    mount_seconds: u32,

    /// Where storage of jobs is mounted, each below it. A shard that has a path there is claimed only while
    /// that storage is mounted
    #[arg(long, env = "LONGSHORE_JOB_STORAGE", value_name = "PATH", default_value = "/mnt/nnf")]
    job_storage: PathBuf,

    /// Storage of this node's jobs may be plain directories, on which nothing is mounted. Then an empty
    /// directory is copied with success where storage that should be there is not
    #[arg(long)]
    plain_job_storage: bool,

    /// The most copies at the same time
    #[arg(long, value_name = "N", default_value = "64", value_parser = clap::value_parser!(u16).range(1..))]
    movers: u16,

    /// The most memory of its own that one copy may have, in MiB
    #[arg(long, value_name = "MIB", default_value = "2048", value_parser = clap::value_parser!(u32).range(64..))]
    mover_memory: u32,

    /// Stop a copy with an error when nothing moved for this long
    #[arg(long, value_name = "SECONDS", default_value = "900", value_parser = clap::value_parser!(u32).range(1..))]
    stall_seconds: u32,

    /// Finish a shard with an error when its copy was killed and is still there after this long, as on a
    /// filesystem that does not answer
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    give_up_seconds: u32,

    /// How often a copy may be ended by accident (no memory, a crash) before its shard has failed
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..))]
    attempts: u32,

    /// For how long the Lease holds. Copies end before it runs out, when it cannot be renewed; so long
    /// an API server may be away. As long as the kubelet's by default
    #[arg(long, value_name = "SECONDS", default_value = "40", value_parser = clap::value_parser!(u16).range(4..))]
    lease_seconds: u16,

    /// How long running copies may go on after SIGTERM, or after a filesystem that they use was taken off
    /// the list of --mounts-from
    #[arg(long, value_name = "SECONDS", default_value = "15")]
    drain_seconds: u32,

    /// Where it is noted which movers run, for a worker after this one
    #[arg(long, value_name = "DIR", default_value = "/run/longshore")]
    run_dir: PathBuf,

    /// Where /healthz, /readyz and /metrics are answered
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,

    /// How the log is written, to standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Json)]
    log_format: LogFormat,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
///
/// When there is no API server configured, the address cannot be listened on, or another worker has the
/// run directory.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    // What the client says of a request that failed, whoever sent it says too.
    dm_service::log_to_standard_error(args.log_format, "info,kube_client::client::builder=off");
    dm_service::block_on(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let mut ends = Ends::listen()?;
    // Before anything can be claimed, nothing of an earlier worker runs.
    let directory = RunDirectory::open(&args.run_dir)?;
    directory.end_all()?;
    let client =
        Client::try_from(dm_service::api_server().await?).context("failed to make a client")?;
    let metrics = Metrics::new().context("failed to make the metrics")?;
    let readiness = Readiness::default();
    let shown = metrics.clone();
    dm_service::serve(args.listen, move || shown.text(), readiness.clone()).await?;
    // An empty list in the environment is one empty word.
    let points = args.mount.into_iter().filter(|point| !point.as_os_str().is_empty()).collect();
    let list = args.mounts_from.filter(|name| !name.is_empty());
    let board = list.as_ref().map(|_| Board::new(args.mount_type));
    let mounts = Mounts::new(points, args.job_storage, board.clone())
        .with_plain_storage(args.plain_job_storage);
    tokio::spawn(mounts.clone().keep());
    let reports = Reports::default();
    let pod = args.pod.unwrap_or_else(|| host_name("worker"));
    let claimant = Claimant {
        client: client.clone(),
        namespace: args.namespace,
        name: worker_lease(&args.node),
        nonce: format!("{}-{}", std::process::id(), since_boot().as_millis()),
        pod: pod.clone(),
        duration: Duration::from_secs(args.lease_seconds.into()),
        mounts: mounts.clone(),
        reports: reports.clone(),
        metrics: metrics.clone(),
    };
    let (holding, held) = watch::channel(None);
    let lease = tokio::spawn(claimant.clone().hold(holding));
    let drain = Duration::from_secs(args.drain_seconds.into());
    if let (Some(name), Some(board)) = (list, board.clone()) {
        let limit = Duration::from_secs(args.mount_seconds.into());
        let namespace = claimant.namespace.clone();
        let source = live::Source { client: client.clone(), namespace, name };
        tokio::spawn(live::keep(source, board, live::Manner { limit, drain }, held.clone()));
    }
    let worker = Worker {
        client,
        turns: Arc::default(),
        own: Identity { worker: pod, lease: format!("{}/{}", claimant.namespace, claimant.name) },
        node: args.node.clone(),
        directory,
        reports,
        metrics,
        limits: Limits {
            memory_bytes: u64::from(args.mover_memory) << 20,
            stall: Duration::from_secs(args.stall_seconds.into()),
            give_up: Duration::from_secs(args.give_up_seconds.into()),
            accidents: args.attempts,
            mounts: board.is_some(),
        },
    };
    let settings =
        Settings { node: args.node, namespaces: args.shards_in, movers: args.movers.into(), drain };
    let worker = Arc::new(worker);
    let agent = Agent::new(settings, Arc::clone(&worker), mounts, readiness, held);
    agent.run(ends.asked()).await;
    lease.abort();
    drop(lease.await);
    if worker.directory.has_running() {
        // Held in the kernel: whoever comes next has to wait until the Lease has run out.
        tracing::error!("a mover has not ended, so the Lease is not given back");
    } else {
        claimant.give_back().await;
    }
    tracing::info!("ended");
    Ok(())
}

const _: () = assert!(BEFORE_THE_LEASE.as_secs() < 4, "the shortest Lease has time for work");
