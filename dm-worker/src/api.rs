//! Writes to a shard's status that are safe beside other writers: each names the version of the object
//! that it is based on. It decides nothing about what is written.

use std::sync::Arc;
use std::time::Duration;

use dm_service::{Step, Turn, Turns};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use longshore::api::data_movement_shard::{DataMovementShardStatus, ShardState};
use longshore::api::{DataMovementShard, Defined};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::metrics::Metrics;

/// How long the API server may take for one answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// The first pause after a write that failed, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// What the watch last showed of a shard; none when it is deleted.
pub(crate) type Seen = watch::Receiver<Option<DataMovementShard>>;

/// Who this worker is, as statuses name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The pod.
    pub(crate) worker: String,
    /// The namespace and the name of the Lease.
    pub(crate) lease: String,
}

impl Identity {
    /// Whether a status says that this worker has claimed the shard.
    pub(crate) fn has(&self, status: Option<&DataMovementShardStatus>) -> bool {
        self.has_lease(status)
            && status.is_some_and(|status| status.worker.as_deref() == Some(&self.worker))
    }

    /// Whether a status says that this worker has claimed the shard, or one before it on this node, in
    /// whatever pod that was.
    pub(crate) fn has_lease(&self, status: Option<&DataMovementShardStatus>) -> bool {
        status.is_some_and(|status| {
            let running = status.state.as_ref().is_some_and(|state| *state == ShardState::Running);
            running && status.lease.as_deref() == Some(&self.lease)
        })
    }
}

/// Why a shard cannot be written any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Somebody else has it.
    Lost,
    /// It is deleted.
    Gone,
}

/// What a failed write means.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The object is another version than the one the write is based on.
    Conflict,
    /// It is deleted.
    Gone,
    /// The API server does not take it, however often it is sent.
    Invalid(String),
    /// The API server is away, or not well.
    Transient(String),
}

/// The way to one shard.
#[derive(Clone, Debug)]
pub(crate) struct Shard {
    api: Api<DataMovementShard>,
    name: String,
    uid: String,
    turns: Arc<Turns>,
    metrics: Metrics,
}

impl Shard {
    pub(crate) fn new(
        client: &Client,
        shard: &DataMovementShard,
        turns: Arc<Turns>,
        metrics: Metrics,
    ) -> Self {
        let version = DataMovementShard::DEFINITION.storage_version();
        let namespace = shard.metadata.namespace.as_deref().unwrap_or("default");
        Self {
            api: Api::namespaced_with(client.clone(), namespace, &version),
            name: shard.metadata.name.clone().unwrap_or_default(),
            uid: shard.metadata.uid.clone().unwrap_or_default(),
            turns,
            metrics,
        }
    }

    /// Waits for the turn to write. What is known of the object is to be looked at afterwards: after a long wait the
    /// version of before is an old one.
    pub(crate) async fn turn(&self, step: Step) -> Turn<'_> {
        self.turns.next(step).await
    }

    /// Changes fields of the status of exactly this version of the object; null takes a field away. For
    /// whoever has the [turn](Self::turn). Returns the version that the object has then.
    ///
    /// # Errors
    /// When nothing was changed, or nobody knows.
    pub(crate) async fn write(&self, version: &str, status: &Value) -> Result<String, Failure> {
        let patch = json!({
            // A shard that was made anew under the same name is another one.
            "metadata": {"resourceVersion": version, "uid": self.uid},
            "status": status,
        });
        let how = PatchParams::default();
        let patch = Patch::Merge(&patch);
        let request = self.api.patch_status(&self.name, &how, &patch);
        let result = match timeout(ANSWERS_WITHIN, request).await {
            Ok(Ok(written)) => Ok(written.metadata.resource_version.unwrap_or_default()),
            Ok(Err(error)) => Err(meaning(&error)),
            Err(_) => Err(Failure::Transient("no answer".to_owned())),
        };
        self.metrics.wrote(match &result {
            Ok(_) => "done",
            Err(Failure::Conflict) => "conflict",
            Err(_) => "failed",
        });
        result
    }

    /// The object as it is.
    ///
    /// # Errors
    /// When it is deleted, or nobody says.
    pub(crate) async fn read(&self) -> Result<DataMovementShard, Failure> {
        match timeout(ANSWERS_WITHIN, self.api.get(&self.name)).await {
            Ok(Ok(shard)) if shard.metadata.uid.as_deref() != Some(&self.uid) => Err(Failure::Gone),
            Ok(Ok(shard)) => Ok(shard),
            Ok(Err(error)) => Err(meaning(&error)),
            Err(_) => Err(Failure::Transient("no answer".to_owned())),
        }
    }
}

fn meaning(error: &kube::Error) -> Failure {
    match error {
        kube::Error::Api(answer) => match answer.code {
            404 => Failure::Gone,
            409 => Failure::Conflict,
            // Too many requests is the only refusal of this kind that goes away.
            400..=499 if ![401, 403, 408, 429].contains(&answer.code) => {
                Failure::Invalid(answer.to_string())
            }
            _ => Failure::Transient(answer.to_string()),
        },
        other => Failure::Transient(other.to_string()),
    }
}

/// What a shard's status is to be, from now on.
#[derive(Clone, Debug)]
enum Wanted {
    /// As it is.
    Nothing,
    /// This, if nothing newer comes.
    For(Value),
    /// This, and nothing after it.
    Last(Value),
}

impl Wanted {
    /// What was wanted, and these fields on top of it.
    fn with(&self, fields: Value) -> Value {
        let (
            Self::For(Value::Object(before)) | Self::Last(Value::Object(before)),
            Value::Object(now),
        ) = (self, &fields)
        else {
            return fields;
        };
        let mut all = before.clone();
        all.extend(now.clone());
        Value::Object(all)
    }
}

/// Writes what a shard's status is to be, the newest only, as often as it takes.
#[derive(Debug)]
pub(crate) struct Status {
    wanted: watch::Sender<Wanted>,
    written: watch::Receiver<Value>,
    task: JoinHandle<Result<String, Refused>>,
}

impl Status {
    /// For a shard that this worker has claimed, as `version` of the object says.
    pub(crate) fn start(shard: Shard, own: Identity, version: String, seen: Seen) -> Self {
        let (wanted, wants) = watch::channel(Wanted::Nothing);
        let (wrote, written) = watch::channel(Value::Null);
        let task = tokio::spawn(keep(shard, own, version, seen, wants, wrote));
        Self { wanted, written, task }
    }

    /// The fields that were written last.
    pub(crate) fn written(&self) -> watch::Receiver<Value> {
        self.written.clone()
    }

    /// Has fields changed, beside those of earlier calls, which may not be written yet.
    pub(crate) fn set(&self, status: Value) {
        self.wanted.send_modify(|wanted| *wanted = Wanted::For(wanted.with(status)));
    }

    /// Returns when the shard cannot be written any more. It may be dropped and called again.
    pub(crate) async fn refused(&mut self) -> Refused {
        match (&mut self.task).await {
            Ok(Err(refused)) => refused,
            // It ends by itself only then, or after what `finish` sends.
            Ok(Ok(_)) | Err(_) => Refused::Lost,
        }
    }

    /// Changes fields for the last time, and waits until that is written. Returns the version that the
    /// object has then.
    ///
    /// # Errors
    /// When the shard cannot be written any more.
    pub(crate) async fn finish(self, status: Value) -> Result<String, Refused> {
        self.wanted.send_modify(|wanted| *wanted = Wanted::Last(wanted.with(status)));
        self.task.await.unwrap_or(Err(Refused::Lost))
    }
}

async fn keep(
    shard: Shard,
    own: Identity,
    mut version: String,
    seen: Seen,
    mut wants: watch::Receiver<Wanted>,
    wrote: watch::Sender<Value>,
) -> Result<String, Refused> {
    let mut pause = PAUSES.0;
    let mut shortly = false;
    loop {
        let wanted = wants.borrow_and_update().clone();
        let (status, last) = match wanted {
            Wanted::Nothing => {
                if wants.changed().await.is_err() {
                    return Ok(version);
                }
                continue;
            }
            Wanted::For(status) => (status, false),
            Wanted::Last(status) if shortly => (short(status), true),
            Wanted::Last(status) => (status, true),
        };
        let turn = shard.turn(if last { Step::End } else { Step::GoOn }).await;
        let newer = seen.borrow().as_ref().and_then(|seen| newer(seen, &version, &own));
        version = newer.unwrap_or(version);
        let written = loop {
            match shard.write(&version, &status).await {
                // Somebody has changed the object: what it is now decides. The turn is kept meanwhile: where many
                // wait and somebody changes all the objects, each would be another one again after the next wait.
                Err(Failure::Conflict) => match shard.read().await {
                    Ok(now) if own.has(now.status.as_ref()) => {
                        version = now.metadata.resource_version.unwrap_or_default();
                    }
                    Ok(_) => return Err(Refused::Lost),
                    Err(failure) => break Err(failure),
                },
                written => break written,
            }
        };
        drop(turn);
        let failure = match written {
            Ok(written) => {
                version = written;
                pause = PAUSES.0;
                wrote.send_replace(status);
                if last || wants.changed().await.is_err() {
                    return Ok(version);
                }
                continue;
            }
            Err(failure) => failure,
        };
        match failure {
            Failure::Gone => return Err(Refused::Gone),
            Failure::Invalid(error) => {
                // It would be a mistake of ours; the shard must not stay as it is because of it.
                tracing::error!(shard = shard.name, error, "a status was refused");
                if last && !shortly {
                    shortly = true;
                    continue;
                }
            }
            Failure::Conflict => {}
            Failure::Transient(error) => {
                tracing::warn!(shard = shard.name, error, "a status is not written yet");
            }
        }
        tokio::select! {
            () = sleep(pause) => {}
            changed = wants.changed() => {
                if changed.is_err() {
                    return Ok(version);
                }
            }
        }
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// A status without anything that could be refused for what it says.
fn short(mut status: Value) -> Value {
    const NEEDED: [&str; 7] =
        ["state", "worker", "lease", "outcome", "exitCode", "startTime", "endTime"];
    const WHY: &str = "the status was refused by the API server; the worker's log has its words";
    if let Value::Object(fields) = &mut status {
        let mut said = false;
        fields.retain(|name, value| {
            let keep = value.is_null() || value.is_boolean() || value.is_i64();
            let keep = keep || NEEDED.contains(&name.as_str());
            said |= !keep;
            keep
        });
        if said {
            fields.insert("message".to_owned(), json!(WHY));
        }
    }
    status
}

/// The version of what the watch has shown, when it is newer than the one that is known.
fn newer(seen: &DataMovementShard, version: &str, own: &Identity) -> Option<String> {
    let shown = seen.metadata.resource_version.as_ref()?;
    let number = |text: &str| text.parse::<u128>().ok();
    (own.has(seen.status.as_ref()) && number(shown)? > number(version)?).then(|| shown.clone())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn what_is_not_written_yet_is_not_lost() {
        let first = Wanted::For(Wanted::Nothing.with(json!({"attempts": 2, "message": "again"})));
        let second = Wanted::For(first.with(json!({"percent": 5})));
        let last = second.with(json!({"state": "Finished", "message": null}));
        let expected = json!({"attempts": 2, "percent": 5, "state": "Finished", "message": null});
        assert_eq!(last, expected);
    }

    /// Answers patches as the API server does: those with an error are too much for it. Returns where.
    async fn picky_server() -> (String, mpsc::UnboundedReceiver<Value>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (heard, patches) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = BufReader::new(stream);
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    stream.read_line(&mut line).await.unwrap();
                    let line = line.to_lowercase();
                    if let Some(value) = line.strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    if line.trim().is_empty() {
                        break;
                    }
                }
                let mut body = vec![0; length];
                stream.read_exact(&mut body).await.unwrap();
                let patch: Value = serde_json::from_slice(&body).unwrap();
                let (code, answer) = match patch["status"]["error"].is_null() {
                    true => (200, json!({"metadata": {"resourceVersion": "2"}, "spec": {}})),
                    false => (422, json!({"status": "Failure", "message": "no", "code": 422})),
                };
                heard.send(patch["status"].clone()).unwrap();
                let (answer, end) = (answer.to_string(), "Connection: close\r\n\r\n");
                let length = answer.len();
                let head = format!("HTTP/1.1 {code} x\r\nContent-Length: {length}\r\n{end}");
                stream.write_all((head + &answer).as_bytes()).await.unwrap();
            }
        });
        (address, patches)
    }

    #[tokio::test]
    async fn an_end_that_is_refused_is_said_shortly() {
        let (address, mut patches) = picky_server().await;
        let client = Client::try_from(kube::Config::new(address.parse().unwrap())).unwrap();
        let version = DataMovementShard::DEFINITION.storage_version();
        let object = DataMovementShard::new(&version, "copy");
        let shard = Shard::new(&client, &object, Arc::default(), Metrics::new().unwrap());
        let own = Identity { worker: "pod".to_owned(), lease: "some/lease".to_owned() };
        let (_shown, seen) = watch::channel(None);
        let status = Status::start(shard, own, "1".to_owned(), seen);
        let full = json!({
            "state": "Finished", "outcome": "Failed", "exitCode": 1, "endTime": "now",
            "message": "long", "error": {"debugMessage": "too long"}, "percent": null,
        });
        let written = timeout(ANSWERS_WITHIN, status.finish(full.clone())).await;
        assert_eq!(written.expect("it has an end"), Ok("2".to_owned()));
        assert_eq!(patches.recv().await, Some(full));
        let last = patches.recv().await.unwrap();
        assert_eq!((&last["state"], &last["exitCode"]), (&json!("Finished"), &json!(1)));
        assert!(last["message"].as_str().unwrap().contains("refused"), "{last}");
    }
}
