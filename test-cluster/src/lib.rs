//! A real Kubernetes control plane for tests: etcd, kube-apiserver and kube-controller-manager, started
//! in seconds on free ports of the loopback address. There are no nodes: no scheduler and no kubelet
//! runs, the test plays both. It knows nothing of Longshore.
//!
//! One control plane for each test binary ([`ControlPlane::shared`]) and a namespace for each test
//! ([`ControlPlane::namespace`]) is cheap; a test that stops the API server starts a control plane of
//! its own ([`ControlPlane::start`]). The programs are built once by `control-plane/build.sh`, into a
//! cache outside the checkout.

mod control_plane;
mod credentials;
mod install;
mod place;
mod port;
mod process;
pub mod programs;
mod skip;

pub use control_plane::{ControlPlane, Settings};
pub use skip::skip;
