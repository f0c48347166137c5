//! `dm-manager run`: starts what is needed, and the controllers as long as this replica leads. It
//! reconciles nothing itself.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use kube::{Client, Config};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::admission;
use crate::context::{Context, Patience, Versions};
use crate::data_movement;
use crate::events::Events;
use crate::leader::Election;
use crate::metrics::Metrics;
use crate::server::{self, Readiness};
use crate::worker_set;

/// Run the controllers
///
/// It finds the API server as kubectl does ($KUBECONFIG, ~/.kube/config) or, in a pod, by the pod's service
/// account. Several replicas may run: one leads, the others wait for it to end. SIGTERM ends it in order.
/// What it logs is chosen by $RUST_LOG (default info).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The namespace of the manager and of the workers
    #[arg(long, env = "LONGSHORE_NAMESPACE", value_name = "NAME", default_value = "nnf-dm-system")]
    namespace: String,

    /// The name of this replica, of which no two may run at once; in a pod that of the pod
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    identity: Option<String>,

    /// The nodes with workers: a data movement in a namespace with the name of such a node is done there
    #[arg(long, value_name = "KEY=VALUE", default_value = "cray.nnf.node=true")]
    node_selector: String,

    /// Where /healthz, /readyz and /metrics are answered
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8081")]
    listen: SocketAddr,

    /// Seconds without a sign of life of a worker after which its movement fails, and its deletion no
    /// longer waits
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    lost_worker_after: u64,

    #[command(flatten)]
    workers: worker_set::Args,

    #[command(flatten)]
    admission: admission::Args,

    /// How the log is written, to standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Json)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// One JSON object per line
    Json,
    /// For people
    Text,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
///
/// When there is no API server configured, or the address cannot be listened on.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    log_to_standard_error(args.log_format);
    // Two threads: the work is to wait for the API server, and memory counts.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("failed to start the runtime")?.block_on(serve(args))
}

fn log_to_standard_error(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.init(),
    }
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupted = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    let config = Config::infer().await.context("failed to find the API server")?;
    let client = Client::try_from(config).context("failed to make a client")?;
    let identity = args.identity.clone().unwrap_or_else(host_name);
    let metrics = Metrics::new().context("failed to make the metrics")?;
    let readiness = Readiness::default();
    server::start(args.listen, metrics.clone(), readiness.clone()).await?;
    let admission = admission::Server::bind(&args.admission).await?;

    let mut election = Election::new(client.clone(), &args.namespace, identity.clone());
    let leadership = election.leadership();
    let lead = async {
        let context = Context {
            versions: discovered(&client).await,
            events: Events::new(client.clone(), identity),
            client,
            namespace: args.namespace,
            node_selector: args.node_selector,
            leadership,
            metrics,
            patience: Patience { lost_worker: Duration::from_secs(args.lost_worker_after) },
        };
        // Every replica is asked, whether it leads or not.
        let answer = admission.run(&context, &args.workers);
        let lead = lead_again_and_again(&mut election, &context, &readiness, &args.workers);
        tokio::join!(answer, lead);
    };
    tokio::select! {
        () = lead => {}
        _ = terminated.recv() => tracing::info!("ending on SIGTERM"),
        _ = interrupted.recv() => tracing::info!("ending on SIGINT"),
    }
    election.release().await;
    Ok(())
}

/// Leads whenever this replica may. Losing the Lease ends the controllers, not the process: the API
/// server may just have been away, and comes back.
async fn lead_again_and_again(
    election: &mut Election,
    context: &Context,
    readiness: &Readiness,
    workers: &worker_set::Args,
) {
    loop {
        election.acquire(|| readiness.set(true)).await;
        tracing::info!("leading");
        context.metrics.leader.set(1);
        tokio::select! {
            () = controllers(context, readiness, workers) => {}
            () = election.keep() => {}
        }
        context.metrics.leader.set(0);
        tracing::warn!("leading no more");
    }
}

/// All controllers. They run until they are dropped.
async fn controllers(context: &Context, readiness: &Readiness, workers: &worker_set::Args) {
    tokio::join!(
        data_movement::run(context.clone(), readiness.clone()),
        worker_set::run(context.clone(), workers.clone()),
    );
}

/// The versions, as soon as the cluster has all that is needed.
async fn discovered(client: &Client) -> Versions {
    loop {
        match Versions::discover(client).await {
            Ok(versions) => {
                tracing::info!(?versions, "discovered");
                return versions;
            }
            Err(error) => tracing::warn!(error = format!("{error:#}"), "waiting for the cluster"),
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map_or_else(|_| "dm-manager".to_owned(), |name| name.trim().to_owned())
}
