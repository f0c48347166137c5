//! Where the sources of movements go that nobody has prepared a destination for, as the shards say: what
//! the first attempt decided holds also where its shard is deleted by somebody and made anew, for by then
//! the destination is there. It writes nothing.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use longshore::api::DataMovementShard;

/// Whether the source goes inside the destination, by the uid of the movement.
#[derive(Default)]
pub(crate) struct Placed(Mutex<HashMap<String, bool>>);

impl Placed {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a shard.
    pub(crate) fn heed(&self, shard: &DataMovementShard) {
        let said = shard.status.as_ref().and_then(|status| status.inside);
        if let Some(inside) = said.or(shard.spec.inside) {
            self.lock().insert(shard.spec.movement.uid.clone(), inside);
        }
    }

    /// What was decided for a movement.
    pub(crate) fn of(&self, movement: &str) -> Option<bool> {
        self.lock().get(movement).copied()
    }

    /// Forgets movements that are not there any more.
    pub(crate) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.lock().retain(|movement, _| is_there(movement));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn shard(movement: &str, spec: Value, status: Value) -> DataMovementShard {
        let mut shard = json!({
            "apiVersion": "longshore.dev/v1alpha1", "kind": "DataMovementShard",
            "metadata": {"name": "copy"}, "spec": spec, "status": status,
        });
        shard["spec"]["movement"] = json!({"name": "copy", "uid": movement});
        serde_json::from_value(shard).unwrap()
    }

    #[test]
    fn what_a_shard_said_is_known_after_it() {
        let placed = Placed::default();
        placed.heed(&shard("1", json!({}), json!({"inside": false})));
        placed.heed(&shard("1", json!({}), json!({"state": "Running"})));
        placed.heed(&shard("2", json!({"inside": true}), json!({})));
        assert_eq!(
            (placed.of("1"), placed.of("2"), placed.of("3")),
            (Some(false), Some(true), None)
        );
        placed.retain(|movement| movement == "2");
        assert_eq!((placed.of("1"), placed.of("2")), (None, Some(true)));
    }
}
