//! Everything of `deploy/` on a real node: the programs in images of their own, started by a real kubelet
//! in real containers, with the rights, capabilities and filters that the manifests give them.
//!
//! It takes minutes where the programs of the node are not built yet, so it has a command of its own:
//! `bash tests/real-node.sh`.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)] // tests

#[path = "real_node/cluster.rs"]
mod cluster;
#[path = "real_node/processes.rs"]
mod processes;
#[path = "real_node/steps.rs"]
mod steps;
mod support;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use cluster::Cluster;
use test_cluster::real_node;

/// The variable that the command sets.
const WANTED: &str = "LONGSHORE_REAL_NODE";

fn main() -> ExitCode {
    if std::env::var_os(WANTED).is_none() {
        eprintln!("the real node has a command of its own: bash tests/real-node.sh");
        return ExitCode::SUCCESS;
    }
    real_node::alone(|folder| {
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(test(folder));
        Ok(())
    })
}

/// All steps on one node, since starting it is most of the time.
async fn test(folder: &Path) {
    let begin = Instant::now();
    let mut last = begin;
    let mut done = |step: &str| {
        eprintln!("{:6.1} s  {step}", last.elapsed().as_secs_f64());
        last = Instant::now();
    };
    let cluster = Cluster::start(folder).await;
    done("a node is ready");
    cluster.deploy().await;
    done("what deploy/ has is ready on it");
    steps::file_systems_are_mounted(&cluster).await;
    done("filesystems are mounted in the worker");
    steps::what_cannot_be_done_is_refused(&cluster).await;
    done("what cannot be done is refused before it is stored");
    steps::storage_of_a_job_comes_and_goes(&cluster).await;
    steps::a_copy_is_its_users(&cluster).await;
    done("a copy is done by its user, who may no more than that");
    steps::what_the_user_may_not_read_fails(&cluster).await;
    done("what the user may not read fails, and is named");
    steps::what_is_the_workers_is_out_of_reach(&cluster).await;
    done("links lead nobody to what is the worker's");
    steps::the_default_filter_refuses_io_uring(&cluster).await;
    done("under the default filter a copy does without io_uring");
    steps::a_killed_mover_is_started_again(&cluster).await;
    done("a mover that was killed goes on");
    steps::a_killed_container_is_started_again(&cluster).await;
    done("a worker that was killed goes on");
    steps::a_kubelet_that_is_restarted_stops_nothing(&cluster).await;
    done("a kubelet that is restarted stops nothing");
    steps::a_file_system_is_released_after_its_last_mount(&cluster).await;
    done("a filesystem that is deleted is released after its last mount");
    steps::our_filter_allows_io_uring(&cluster).await;
    done("under our filter a copy uses io_uring");
    eprintln!("{:6.1} s  together", begin.elapsed().as_secs_f64());
}
