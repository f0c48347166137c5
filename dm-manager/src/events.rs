//! Kubernetes Events: what `kubectl describe` shows of what happened. Nothing waits for them, and
//! nothing fails when they cannot be written.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use crate::bounded::bounded;

/// The longest note that the API server takes is 1 KiB.
const LONGEST_NOTE: usize = 1000;

/// Writes Events. A clone is the same.
#[derive(Clone)]
pub(crate) struct Events {
    recorder: Recorder,
}

impl Events {
    /// For this program, by the name of its pod.
    pub(crate) fn new(client: Client, instance: String) -> Self {
        let reporter = Reporter {
            controller: "longshore.dev/dm-manager".to_owned(),
            instance: Some(instance),
        };
        Self { recorder: Recorder::new(client, reporter) }
    }

    /// Something that an administrator should know and need not act on.
    pub(crate) fn normal(&self, about: ObjectReference, reason: &str, action: &str, note: String) {
        self.publish(EventType::Normal, about, reason, action, note);
    }

    /// Something that went wrong.
    pub(crate) fn warning(&self, about: ObjectReference, reason: &str, action: &str, note: String) {
        self.publish(EventType::Warning, about, reason, action, note);
    }

    fn publish(
        &self,
        type_: EventType,
        about: ObjectReference,
        reason: &str,
        action: &str,
        note: String,
    ) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(bounded(&note, LONGEST_NOTE)),
            action: action.to_owned(),
            secondary: None,
        };
        let recorder = self.recorder.clone();
        tokio::spawn(async move {
            if let Err(error) = recorder.publish(&event, &about).await {
                tracing::warn!(%error, reason = event.reason, "failed to write an Event");
            }
        });
    }
}
