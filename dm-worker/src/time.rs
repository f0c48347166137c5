//! Times as the API server has them. It waits for nothing.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

/// The time of day, for an object.
pub(crate) fn now() -> MicroTime {
    MicroTime(Timestamp::now())
}
