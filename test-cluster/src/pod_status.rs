//! What the kubelet says about a pod: its status, its events and, in the end, that it is gone. It
//! starts and ends nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::kubelet::AGAIN;

/// What a container does.
#[derive(Clone, Debug)]
pub(crate) enum ContainerState {
    /// It was not started yet: the reason, in a word and in a sentence.
    Waiting(&'static str, String),
    /// It runs.
    Running,
}

#[derive(Clone, Debug)]
struct Told {
    state: Value,
    last: Value,
    ready: bool,
    restarts: u32,
    image: String,
}

struct Said {
    containers: BTreeMap<String, Told>,
    volumes: bool,
    /// The complaint that was made last; it is made once.
    complaint: String,
}

/// Tells the API server about one pod. What is set is written as soon as the API server can be reached,
/// the newest only.
pub(crate) struct Reporter {
    client: Client,
    pod: Pod,
    said: Arc<Mutex<Said>>,
    changed: Arc<Notify>,
    writer: AbortHandle,
}

impl Reporter {
    /// For a pod with an address, on the current runtime.
    pub(crate) fn new(client: Client, pod: &Pod, address: IpAddr) -> Self {
        let before = pod.status.as_ref().and_then(|status| status.container_statuses.clone());
        let restarts = |name: &str| {
            let known = before.iter().flatten().find(|container| container.name == name);
            // It was there before, so its node was off: that is a restart too.
            known
                .filter(|known| known.started == Some(true))
                .map_or(0, |known| known.restart_count.unsigned_abs() + 1)
        };
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| {
            let told = Told {
                state: json!({"waiting": {"reason": "ContainerCreating"}}),
                last: json!({}),
                ready: false,
                restarts: restarts(&container.name),
                image: container.image.clone().unwrap_or_default(),
            };
            (container.name.clone(), told)
        });
        let said =
            Said { containers: containers.collect(), volumes: false, complaint: String::new() };
        let said = Arc::new(Mutex::new(said));
        let changed = Arc::new(Notify::new());
        changed.notify_one();
        let started = Timestamp::now();
        let writer = tokio::spawn(write(
            pods(&client, pod),
            pod.clone(),
            Arc::clone(&said),
            Arc::clone(&changed),
            (address, started),
        ));
        Self { client, pod: pod.clone(), said, changed, writer: writer.abort_handle() }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Told)) {
        if let Some(told) = self.said().containers.get_mut(name) {
            change(told);
        }
        self.changed.notify_one();
    }

    /// All volumes are mounted.
    pub(crate) fn volumes_are_there(&self) {
        self.said().volumes = true;
        self.changed.notify_one();
    }

    /// What a container does now.
    pub(crate) fn set(&self, name: &str, state: ContainerState, ready: bool) {
        self.change(name, |told| {
            told.ready = ready;
            told.state = match state {
                ContainerState::Waiting(reason, message) => {
                    json!({"waiting": {"reason": reason, "message": message}})
                }
                ContainerState::Running => json!({"running": {"startedAt": Timestamp::now()}}),
            };
        });
    }

    /// Whether a container is ready.
    pub(crate) fn ready(&self, name: &str, ready: bool) {
        if self.said().containers.get(name).is_some_and(|told| told.ready != ready) {
            self.change(name, |told| told.ready = ready);
        }
    }

    /// A container has ended, and will be started again.
    pub(crate) fn ended(&self, name: &str, how: ExitStatus) {
        use std::os::unix::process::ExitStatusExt;
        let code = how.code().or_else(|| how.signal().map(|signal| 128 + signal)).unwrap_or(255);
        let reason = if code == 0 { "Completed" } else { "Error" };
        self.change(name, |told| {
            told.ready = false;
            told.restarts += 1;
            told.last = json!({"terminated": {
                "exitCode": code, "reason": reason, "finishedAt": Timestamp::now(),
            }});
            told.state = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        });
    }

    /// How often a container was started again.
    pub(crate) fn restarts(&self, name: &str) -> u32 {
        self.said().containers.get(name).map_or(0, |told| told.restarts)
    }

    /// The pod cannot be started yet; said once for each reason, as an event.
    pub(crate) async fn cannot_start(&self, why: &str) {
        if std::mem::replace(&mut self.said().complaint, why.to_owned()) == why {
            return;
        }
        let namespace = self.pod.namespace().unwrap_or_default();
        let now = Some(Time(Timestamp::now()));
        let reason = if why.starts_with("MountVolume") || why.starts_with("persistentvolumeclaim") {
            "FailedMount"
        } else {
            "Failed"
        };
        let event = Event {
            metadata: kube::api::ObjectMeta {
                generate_name: Some(format!("{}.", self.pod.name_any())),
                ..Default::default()
            },
            involved_object: k8s_openapi::api::core::v1::ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                namespace: Some(namespace.clone()),
                name: self.pod.metadata.name.clone(),
                uid: self.pod.metadata.uid.clone(),
                ..Default::default()
            },
            reason: Some(reason.to_owned()),
            message: Some(why.to_owned()),
            type_: Some("Warning".to_owned()),
            first_timestamp: now.clone(),
            last_timestamp: now,
            count: Some(1),
            ..Event::default()
        };
        let events: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        // An event that is refused is lost, as a kubelet's are.
        drop(events.create(&PostParams::default(), &event).await);
    }

    /// The pod is over: has it removed.
    pub(crate) async fn delete(&self) {
        self.writer.abort();
        let now = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: self.pod.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let pods = pods(&self.client, &self.pod);
        loop {
            match pods.delete(&self.pod.name_any(), &now).await {
                Ok(_) => return,
                Err(kube::Error::Api(refusal)) if [404, 409].contains(&refusal.code) => return,
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

fn pods(client: &Client, pod: &Pod) -> Api<Pod> {
    Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default())
}

/// Writes the status whenever it has changed.
async fn write(
    pods: Api<Pod>,
    pod: Pod,
    said: Arc<Mutex<Said>>,
    changed: Arc<Notify>,
    since: (IpAddr, Timestamp),
) {
    let mut became_ready = None;
    loop {
        changed.notified().await;
        loop {
            let status = status(
                &said.lock().unwrap_or_else(PoisonError::into_inner),
                since,
                &mut became_ready,
            );
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
            let how = PatchParams::default();
            match pods.patch_status(&pod.name_any(), &how, &Patch::Merge(patch)).await {
                Ok(_) => break,
                Err(kube::Error::Api(refusal)) if [404, 409].contains(&refusal.code) => return,
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }
}

fn status(said: &Said, since: (IpAddr, Timestamp), became_ready: &mut Option<Timestamp>) -> Value {
    let (address, started) = since;
    let all_ready = said.volumes && said.containers.values().all(|told| told.ready);
    let runs = said.containers.values().any(|told| told.state.get("waiting").is_none());
    let ran = said.containers.values().any(|told| told.restarts > 0);
    *became_ready = all_ready.then(|| became_ready.unwrap_or_else(Timestamp::now));
    let condition = |name: &str, holds: bool, when: Timestamp| {
        let word = if holds { "True" } else { "False" };
        json!({"type": name, "status": word, "lastTransitionTime": when})
    };
    let changed = became_ready.unwrap_or(started);
    let containers = said.containers.iter().map(|(name, told)| {
        json!({
            "name": name,
            "state": told.state,
            "lastState": told.last,
            "ready": told.ready,
            "started": told.state.get("running").is_some(),
            "restartCount": told.restarts,
            "image": told.image,
            "imageID": told.image,
        })
    });
    json!({
        "phase": if runs || ran { "Running" } else { "Pending" },
        "hostIP": "127.0.0.1",
        "podIP": address.to_string(),
        "podIPs": [{"ip": address.to_string()}],
        "startTime": started,
        "conditions": [
            condition("PodScheduled", true, started),
            condition("PodReadyToStartContainers", said.volumes, started),
            condition("Initialized", true, started),
            condition("ContainersReady", all_ready, changed),
            condition("Ready", all_ready, changed),
        ],
        "containerStatuses": containers.collect::<Vec<_>>(),
    })
}
