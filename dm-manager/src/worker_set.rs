//! The controller of the workers: brings every global Lustre filesystem to each of them, takes it away
//! before its object may go, and keeps their DaemonSet and the manager object true. One change leads to
//! one rollout, also when it comes in several pieces.

mod adoption;
mod daemon_set;
mod live;
mod release;
mod rollout;
mod step;
mod view;
mod volume_maker;

use std::sync::Arc;
use std::time::Duration;

use clap::{ArgAction, ValueEnum};
use futures::future::join_all;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::context::Context;
use crate::lustre_file_system::volumes::Driver;
use step::{Keeper, Next};

/// Changes that come within this time are one.
const TOGETHER: Duration = Duration::from_millis(25);

/// How long is waited after a failure, such as a write that was refused because of another one.
const AGAIN: Duration = Duration::from_millis(100);

/// How filesystems come to the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mounts {
    /// As volumes of their pods, which are replaced when one is added or removed
    Rolling,
    /// The workers mount and unmount them in place, and no pod is restarted
    Live,
}

/// How the workers are kept.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "workers")]
pub(crate) struct Args {
    /// The service account of the workers
    #[arg(long, value_name = "NAME", default_value = "nnf-dm-node-controller")]
    worker_service_account: String,

    /// How filesystems come to the workers
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Mounts::Rolling)]
    mounts: Mounts,

    /// Make the PersistentVolumes and claims of LustreFileSystems for this CSI driver, on clusters
    /// without lustre-fs-operator, which otherwise makes them
    #[arg(long, value_name = "DRIVER", value_enum)]
    create_volumes_for: Option<Driver>,

    /// Leave the workers alone: no DaemonSet, no LustreFileSystems
    #[arg(long, action = ArgAction::SetTrue)]
    without_workers: bool,
}

impl Args {
    /// Whether there are workers to be kept.
    pub(crate) fn keep_workers(&self) -> bool {
        !self.without_workers
    }
}

/// Runs until dropped; `returned` when this replica has led before and lost the API server meanwhile.
pub(crate) async fn run(context: Context, args: Args, returned: bool) {
    let wake = Arc::new(Notify::new());
    let makes = args.create_volumes_for.is_some();
    let watched = args.keep_workers().then(|| view::View::new(&context, makes, &wake)).flatten();
    let Some((view, watches)) = watched else {
        tracing::info!("no workers are kept");
        return std::future::pending().await;
    };
    let mut keeper = Keeper::new(context, args, returned);
    let keep = async {
        view.complete().await;
        loop {
            let due = match keeper.step(&view).await {
                Ok(Next::Wait) => None,
                Ok(Next::At(time)) => Some(time),
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "the workers are looked at again");
                    keeper.failed(&error);
                    Some(Instant::now() + AGAIN)
                }
            };
            tokio::select! {
                () = wake.notified() => {}
                () = until(due) => {}
            }
            tokio::time::sleep(TOGETHER).await;
        }
    };
    tokio::select! {
        () = keep => {}
        _ = join_all(watches) => {}
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
