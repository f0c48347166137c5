//! A real Kubernetes control plane for tests: etcd, kube-apiserver and kube-controller-manager, started
//! in seconds on free ports of the loopback address, and nodes without machines ([`Nodes`]), whose pods
//! are real processes of this machine with real mounts. It knows nothing of Longshore.
//!
//! One control plane for each test binary ([`ControlPlane::shared`]) and a namespace for each test
//! ([`ControlPlane::namespace`]) is cheap; a test that stops the API server starts a control plane of
//! its own ([`ControlPlane::start`]). The programs are built once by `control-plane/build.sh`, into a
//! cache outside the checkout.

mod container;
mod control_plane;
mod credentials;
mod environment;
mod eventually;
mod install;
mod kubelet;
mod loopback;
mod mount_namespace;
mod node;
mod nodes;
mod place;
mod pod_life;
mod pod_status;
mod port;
mod probe;
mod process;
pub mod programs;
mod proxy;
pub mod real_node;
mod scheduler;
mod skip;
mod volume;

pub use control_plane::{ControlPlane, Settings};
pub use eventually::{eventually, until, until_within};
pub use node::Node;
pub use nodes::{NodeSettings, Nodes};
pub use proxy::{Link, Way};
pub use skip::skip;
