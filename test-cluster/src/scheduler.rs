//! The scheduler: binds each pod to the node that it names, or to the first one whose labels it wants.
//! It knows neither resources nor taints; pods of DaemonSets name their node.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

/// The labels of each node.
pub(crate) type Labels = Arc<Mutex<BTreeMap<String, BTreeMap<String, String>>>>;

/// Binds pods as long as it is polled.
pub(crate) async fn run(client: Client, nodes: Labels) {
    let unbound = watcher::Config::default().fields("spec.nodeName=,status.phase=Pending");
    let all: Api<Pod> = Api::all(client.clone());
    let mut pods = watcher(all, unbound).default_backoff().applied_objects().boxed();
    // A node may come later than the pod that wants it.
    let mut waiting: BTreeMap<String, Pod> = BTreeMap::new();
    let mut again = tokio::time::interval(std::time::Duration::from_millis(200));
    loop {
        tokio::select! {
            Some(pod) = pods.next() => {
                if let Ok(pod) = pod {
                    waiting.insert(pod.uid().unwrap_or_default(), pod);
                }
            }
            _ = again.tick(), if !waiting.is_empty() => {}
        }
        let mut left = BTreeMap::new();
        for (uid, pod) in std::mem::take(&mut waiting) {
            match place_for(&pod, &nodes) {
                Some(node) => bind(&client, &pod, &node).await,
                None => drop(left.insert(uid, pod)),
            }
        }
        waiting = left;
    }
}

fn place_for(pod: &Pod, nodes: &Labels) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let nodes = nodes.lock().unwrap_or_else(PoisonError::into_inner);
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let terms = required.iter().flat_map(|required| &required.node_selector_terms);
    let mut fields = terms.flat_map(|term| term.match_fields.iter().flatten()).peekable();
    if fields.peek().is_some() {
        let name = fields.find(|field| field.key == "metadata.name")?.values.as_ref()?.first()?;
        return nodes.contains_key(name).then(|| name.clone());
    }
    let wanted = spec.node_selector.clone().unwrap_or_default();
    let fits = |labels: &BTreeMap<String, String>| {
        wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
    };
    nodes.iter().find(|(_, labels)| fits(labels)).map(|(name, _)| name.clone())
}

async fn bind(client: &Client, pod: &Pod, node: &str) {
    let name = pod.name_any();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    // A pod that is gone, or was bound in the meantime, is refused, and nothing is lost.
    let how = PostParams::default();
    drop(pods.create_subresource::<_, Value>("binding", &name, &how, &binding).await);
}
