//! Carries out what was decided about a movement: each action is one conditional request. It decides
//! nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use dm_service::Step;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use longshore::api::data_movement::{FINALIZER, NnfDataMovement, NnfDataMovementStatus, State};
use longshore::api::data_movement_shard::{
    DataMovementShard, MANAGER_LABEL, MOVEMENT_LABEL, NODE_LABEL,
};
use longshore::api::resource_error::Severity;
use serde_json::{Value, json};

use super::command;
use super::decide::Action;
use super::plan::Plan;
use super::status;
use super::world::World;
use crate::context::Context;

/// Why an action was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// What was seen is not so any more.
    #[error("it has changed meanwhile")]
    Changed,
    /// The API server refused, or could not be reached.
    #[error(transparent)]
    Request(#[from] kube::Error),
}

/// Carries out actions on one movement.
pub(crate) struct Executor<'a> {
    pub(crate) context: &'a Context,
    pub(crate) world: &'a World,
    /// As it was seen, and then as it was answered.
    pub(crate) movement: Arc<NnfDataMovement>,
    pub(crate) shard: Option<Arc<DataMovementShard>>,
    /// What the request is for that is made.
    pub(crate) step: Step,
}

impl Executor<'_> {
    /// Carries out one action.
    ///
    /// # Errors
    ///
    /// When it was not done.
    pub(crate) async fn carry_out(&mut self, action: Action) -> Result<(), Error> {
        self.step = step(&action, &self.movement);
        match action {
            Action::Hold => self.set_finalizers(true).await,
            Action::LetGo => self.set_finalizers(false).await,
            Action::CreateShard(plan) => self.create_shard(*plan).await,
            Action::DeleteShard => self.delete_shard().await,
            Action::CancelShard => {
                let cancel = json!({"spec": {"cancel": true}});
                self.patch_shard(cancel, false).await
            }
            Action::PutBackShard => {
                let before = self.shard.as_ref().and_then(|shard| shard.status.as_ref());
                let (attempts, inside) =
                    before.map_or((None, None), |status| (status.attempts, status.inside));
                let mut free = status::cleared(self.shard.as_deref());
                free["attempts"] = json!(attempts);
                free["inside"] = json!(inside);
                free["endTime"] = json!(MicroTime(Timestamp::now()));
                self.patch_shard(json!({"status": free}), true).await?;
                self.context.metrics.shards_put_back.inc();
                Ok(())
            }
            Action::Write(status) => self.write(&status).await,
            Action::Warn { reason, note } => {
                tracing::warn!(movement = self.name(), reason, note);
                self.context.events.warning(self.reference(), reason, "DataMovement", note);
                Ok(())
            }
        }
    }

    fn name(&self) -> String {
        format!("{}/{}", self.movement.namespace().unwrap_or_default(), self.movement.name_any())
    }

    fn reference(&self) -> ObjectReference {
        self.movement.object_ref(&self.context.versions.movement)
    }

    fn movements(&self) -> Api<NnfDataMovement> {
        let namespace = self.movement.namespace().unwrap_or_default();
        let version = &self.context.versions.movement;
        Api::namespaced_with(self.context.client.clone(), &namespace, version)
    }

    fn shards(&self) -> Api<DataMovementShard> {
        let namespace = self.movement.namespace().unwrap_or_default();
        let version = &self.context.versions.shard;
        Api::namespaced_with(self.context.client.clone(), &namespace, version)
    }

    async fn set_finalizers(&mut self, held: bool) -> Result<(), Error> {
        let others = self.movement.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER);
        let mut finalizers: Vec<&str> = others.map(String::as_str).collect();
        if held {
            finalizers.push(FINALIZER);
        }
        let patch = json!({"metadata": {
            "resourceVersion": self.movement.resource_version(),
            "uid": self.movement.uid(),
            "finalizers": finalizers,
        }});
        let (api, name) = (self.movements(), self.movement.name_any());
        let params = PatchParams::default();
        let patch = Patch::Merge(patch);
        let answer =
            self.request("nnfdatamovements", "patch", api.patch(&name, &params, &patch)).await;
        match answer {
            // Letting go of the last finalizer of a deleted object is its end.
            Ok(answer) if !held => {
                self.movement = self.world.movements.wrote(answer);
                self.world.movements.deleted(&self.movement);
                Ok(())
            }
            Ok(answer) => {
                self.movement = self.world.movements.wrote(answer);
                Ok(())
            }
            Err(error) if !held && is(&error, 404) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn create_shard(&mut self, plan: Plan) -> Result<(), Error> {
        let name = self.movement.name_any();
        if let Some(note) = command::without_meaning(&plan.ignored_of_user) {
            self.context.events.normal(self.reference(), "OptionsIgnored", "DataMovement", note);
        }
        tracing::info!(
            movement = self.name(),
            ignored = plan.ignored.join(", "),
            ignored_of_user = plan.ignored_of_user.join(", "),
            "starting"
        );
        let mut shard = DataMovementShard::new(&self.context.versions.shard, &name);
        let mut labels =
            BTreeMap::from([(MANAGER_LABEL.to_owned(), self.context.namespace.clone())]);
        // A label's value is shorter than a name may be; whoever selects by it selects none then.
        if name.len() <= 63 {
            labels.insert(MOVEMENT_LABEL.to_owned(), name.clone());
        }
        if let Some(node) = &plan.shard.node {
            labels.insert(NODE_LABEL.to_owned(), node.clone());
        }
        shard.metadata.labels = Some(labels);
        let version = &self.context.versions.movement;
        shard.metadata.owner_references = Some(vec![OwnerReference {
            api_version: NnfDataMovement::api_version(version).into_owned(),
            kind: NnfDataMovement::kind(version).into_owned(),
            name,
            uid: self.movement.uid().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: None,
        }]);
        shard.spec = plan.shard;
        let (api, params) = (self.shards(), PostParams::default());
        match self.request("datamovementshards", "create", api.create(&params, &shard)).await {
            Ok(answer) => {
                self.shard = Some(self.world.shards.wrote(answer));
                Ok(())
            }
            // It is in the way, and was not seen yet.
            Err(error) if is(&error, 409) => {
                let api = self.shards();
                let name = self.movement.name_any();
                let found = self.request("datamovementshards", "get", api.get_opt(&name)).await?;
                if let Some(found) = found {
                    self.world.shards.wrote(found);
                }
                Err(Error::Changed)
            }
            // What was asked for does not fit into a shard, and never will.
            Err(Error::Request(kube::Error::Api(refused))) if refused.code == 422 => {
                let before = self.movement.status.clone().unwrap_or_default();
                let now = Timestamp::now();
                let problem =
                    format!("could not make a shard of the data movement: {}", refused.message);
                self.write(&status::invalid(&before, Severity::Major, &problem, now)).await
            }
            Err(error) => Err(error),
        }
    }

    async fn delete_shard(&mut self) -> Result<(), Error> {
        let Some(shard) = self.shard.clone() else { return Ok(()) };
        let preconditions =
            Preconditions { uid: shard.uid(), resource_version: shard.resource_version() };
        let params = DeleteParams::background().preconditions(preconditions);
        let (api, name) = (self.shards(), shard.name_any());
        match self.request("datamovementshards", "delete", api.delete(&name, &params)).await {
            Ok(_) => {}
            Err(error) if is(&error, 404) => {}
            Err(error) => return Err(self.changed_shard(error).await),
        }
        self.world.shards.deleted(&shard);
        self.shard = None;
        Ok(())
    }

    /// Changes the shard as it was seen.
    async fn patch_shard(&mut self, mut patch: Value, status: bool) -> Result<(), Error> {
        let Some(shard) = self.shard.clone() else { return Ok(()) };
        patch["metadata"] =
            json!({"resourceVersion": shard.resource_version(), "uid": shard.uid()});
        let (api, name, params) = (self.shards(), shard.name_any(), PatchParams::default());
        let patch = Patch::Merge(patch);
        let answer = match status {
            true => {
                let request = api.patch_status(&name, &params, &patch);
                self.request("datamovementshards", "patch_status", request).await
            }
            false => {
                self.request("datamovementshards", "patch", api.patch(&name, &params, &patch)).await
            }
        };
        match answer {
            Ok(answer) => {
                self.shard = Some(self.world.shards.wrote(answer));
                Ok(())
            }
            Err(error) => Err(self.changed_shard(error).await),
        }
    }

    /// Reads the shard anew if a request was refused because it is not what it was.
    async fn changed_shard(&mut self, error: Error) -> Error {
        if !is(&error, 409) && !is(&error, 404) {
            return error;
        }
        let (api, name) = (self.shards(), self.movement.name_any());
        match self.request("datamovementshards", "get", api.get_opt(&name)).await {
            Ok(Some(found)) => drop(self.world.shards.wrote(found)),
            Ok(None) => {
                if let Some(shard) = &self.shard {
                    self.world.shards.deleted(shard);
                }
            }
            Err(error) => return error,
        }
        Error::Changed
    }

    async fn write(&mut self, status: &NnfDataMovementStatus) -> Result<(), Error> {
        let before = self.movement.status.clone();
        match self.write_once(status).await {
            // A status that the API server finds too large is worth more short than not at all.
            Err(Error::Request(kube::Error::Api(refused))) if is_too_large(&refused) => {
                tracing::warn!(movement = self.name(), refused.message, "the status was refused");
                self.write_once(&status::shortened(status)).await
            }
            written => written,
        }?;
        self.count(before.as_ref(), status);
        Ok(())
    }

    async fn write_once(&mut self, status: &NnfDataMovementStatus) -> Result<(), Error> {
        let Some(changes) = status::changes(self.movement.status.as_ref(), status) else {
            return Ok(());
        };
        let patch = Patch::Merge(json!({
            "metadata": {
                "resourceVersion": self.movement.resource_version(),
                "uid": self.movement.uid(),
            },
            "status": changes,
        }));
        let (api, name, params) =
            (self.movements(), self.movement.name_any(), PatchParams::default());
        let request = api.patch_status(&name, &params, &patch);
        let answer = self.request("nnfdatamovements", "patch_status", request).await?;
        self.movement = self.world.movements.wrote(answer);
        Ok(())
    }

    /// Counts what a status that was written says, and the one before did not.
    fn count(&self, before: Option<&NnfDataMovementStatus>, status: &NnfDataMovementStatus) {
        let metrics = &self.context.metrics;
        let seconds = |from: k8s_openapi::jiff::Timestamp, to: k8s_openapi::jiff::Timestamp| {
            to.duration_since(from).as_secs_f64().max(0.0)
        };
        let start = status.start_time.as_ref();
        let first = before.is_none_or(|before| before.start_time.is_none());
        // What no worker had has not started.
        if first
            && status.command_status.is_some()
            && let (Some(created), Some(start)) = (self.movement.creation_timestamp(), start)
        {
            metrics.movement_start.observe(seconds(created.0, start.0));
        }
        if is_finished(status) {
            let outcome = status.status.as_ref().map(ToString::to_string).unwrap_or_default();
            tracing::info!(movement = self.name(), outcome, message = status.message, "finished");
            metrics.movements_finished.with_label_values(&[outcome.as_str()]).inc();
            if let (Some(start), Some(end)) = (start, status.end_time.as_ref()) {
                metrics.movement_duration.observe(seconds(start.0, end.0));
            }
        }
    }

    /// Reads the movement anew after a refusal, and says whether it is still there.
    ///
    /// # Errors
    ///
    /// When the API server does not say.
    pub(crate) async fn refresh(&self) -> Result<bool, Error> {
        let (api, name) = (self.movements(), self.movement.name_any());
        let found = self.request("nnfdatamovements", "get", api.get_opt(&name)).await?;
        let there = found.is_some();
        match found {
            Some(found) => drop(self.world.movements.wrote(found)),
            None => self.world.movements.deleted(&self.movement),
        }
        Ok(there)
    }

    /// Makes a request when it is its turn, and counts it.
    async fn request<T>(
        &self,
        resource: &str,
        verb: &str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        let _turn = self.world.turns.next(self.step).await;
        let answer = request.await;
        self.context.metrics.request(resource, verb, &answer);
        answer.map_err(Error::Request)
    }
}

/// What an action does for the copy of a movement.
fn step(action: &Action, movement: &NnfDataMovement) -> Step {
    match action {
        Action::Hold | Action::LetGo | Action::DeleteShard => Step::Enter,
        Action::CreateShard(_) => Step::Begin,
        // The end of one that nobody has seen running is also the news that it ran.
        Action::Write(status) if is_finished(status) && movement.status.is_some() => Step::End,
        Action::Write(_) | Action::CancelShard | Action::PutBackShard | Action::Warn { .. } => {
            Step::GoOn
        }
    }
}

fn is_finished(status: &NnfDataMovementStatus) -> bool {
    status.state.as_ref().is_some_and(|state| *state == State::Finished)
}

/// Whether the API server gave this answer.
pub(crate) fn is(error: &Error, code: u16) -> bool {
    matches!(error, Error::Request(kube::Error::Api(refused)) if refused.code == code)
}

fn is_too_large(refused: &kube::core::Status) -> bool {
    refused.code == 413
        || refused.message.contains("too large")
        || refused.message.contains("Too long")
}
