//! `dm-manager run`: starts what is needed, and the controllers as long as this replica leads. It
//! reconciles nothing itself.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use dm_service::{Ends, LogFormat, Readiness, host_name};
use kube::Client;

use crate::admission;
use crate::context::{Context, Patience, Versions};
use crate::data_movement;
use crate::events::Events;
use crate::fence;
use crate::leader::Election;
use crate::metrics::Metrics;
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

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
///
/// When there is no API server configured, or the address cannot be listened on.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    dm_service::log_to_standard_error(args.log_format, "info");
    dm_service::block_on(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let mut ends = Ends::listen()?;
    let config = dm_service::api_server().await?;
    let client = Client::try_from(config.clone()).context("failed to make a client")?;
    let identity = args.identity.clone().unwrap_or_else(|| host_name("dm-manager"));
    let metrics = Metrics::new().context("failed to make the metrics")?;
    let readiness = Readiness::default();
    let shown = metrics.clone();
    dm_service::serve(args.listen, move || shown.text(), readiness.clone()).await?;
    let admission = admission::Server::bind(&args.admission).await?;

    let mut election = Election::new(client.clone(), &args.namespace, identity.clone());
    let fenced = fence::client(config, election.leadership())?;
    let lead = async {
        let context = Context {
            versions: discovered(&fenced).await,
            events: Events::new(fenced.clone(), identity),
            client: fenced,
            namespace: args.namespace,
            node_selector: args.node_selector,
            metrics,
            patience: Patience { lost_worker: Duration::from_secs(args.lost_worker_after) },
        };
        // Every replica is asked, whether it leads or not, and may have to renew the certificates.
        let unfenced = Context { client, ..context.clone() };
        let answer = admission.run(&unfenced, &args.workers);
        let lead = lead_again_and_again(&mut election, &context, &readiness, &args.workers);
        tokio::join!(answer, lead);
    };
    tokio::select! {
        () = lead => {}
        () = ends.asked() => {}
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
    let mut returned = false;
    loop {
        election.acquire(|| readiness.set(true)).await;
        tracing::info!("leading");
        context.metrics.leader.set(1);
        tokio::select! {
            () = controllers(context, readiness, workers, returned) => {}
            () = election.keep() => {}
        }
        returned = true;
        context.metrics.leader.set(0);
        tracing::warn!("leading no more");
    }
}

/// All controllers. They run until they are dropped.
async fn controllers(
    context: &Context,
    readiness: &Readiness,
    workers: &worker_set::Args,
    returned: bool,
) {
    tokio::join!(
        data_movement::run(context.clone(), readiness.clone()),
        worker_set::run(context.clone(), workers.clone(), returned),
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
