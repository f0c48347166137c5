//! What is written to the objects of filesystems: that they are kept, that the workers need a volume, and
//! how it is with them. Letting them go is in `release`.

use anyhow::Context as _;
use kube::{Resource, ResourceExt};
use longshore::api::LustreFileSystem;
use serde_json::{Value, json};

use super::step::Keeper;
use super::view::View;
use super::{Mounts, live, rollout};
use crate::lustre_file_system::{FINALIZER, FileSystem, Judgement, MODE};

/// The annotation of a LustreFileSystem that says how it is with the workers, as a condition in JSON: its
/// status belongs to lustre-fs-operator and has no place for one.
pub(crate) const CONDITION: &str = "longshore.dev/condition";

impl Keeper {
    /// Adopts filesystems that are new, and says of each how it is, in at most one write for each.
    pub(super) async fn speak(&mut self, view: &View, judgement: &Judgement) -> anyhow::Result<()> {
        let namespace = self.context.namespace.clone();
        let (set, pods) = (view.daemon_set(), view.pods());
        let failures = rollout::failures(view, &judgement.accepted, &namespace);
        for one in &judgement.accepted {
            let condition = if one.is_deleted() {
                Some(rollout::unmounting(&pods, &one.claim, &live::still_there(view, one)))
            } else if self.args.mounts == Mounts::Live {
                live::condition(one, view, &failures)
            } else {
                let bound = view.is_bound(&one.claim);
                rollout::condition(one, bound, set.as_deref(), &pods, &failures)
            };
            self.write_file_system(one, condition, !one.is_deleted()).await?;
        }
        for (one, reason) in &judgement.refused {
            self.write_file_system(one, Some(rollout::refused(reason)), false).await?;
            let uid = one.object.uid().unwrap_or_default();
            if self.told.insert(uid, reason.clone()).as_ref() != Some(reason) {
                tracing::warn!(file_system = one.name, reason, "refused");
                self.warn(&one.object, "Refused", format!("It is not mounted: {reason}"));
            }
        }
        for (name, nodes) in failures {
            let Some(one) = judgement.accepted.iter().find(|one| one.name == name) else {
                continue;
            };
            for (node, reason) in nodes {
                let key = format!("{} {node}", one.object.uid().unwrap_or_default());
                if self.told.insert(key, reason.clone()).as_ref() != Some(&reason) {
                    let what = if one.is_deleted() { "UnmountFailed" } else { "MountFailed" };
                    self.warn(&one.object, what, format!("On {node}: {reason}"));
                }
            }
        }
        Ok(())
    }

    /// Writes an Event about a filesystem.
    pub(super) fn warn(&self, about: &LustreFileSystem, reason: &str, note: String) {
        if let Some(version) = &self.context.versions.lustre_file_system {
            self.context.events.warning(about.object_ref(version), reason, "Mount", note);
        }
    }

    async fn write_file_system(
        &mut self,
        one: &FileSystem,
        condition: Option<Value>,
        adopt: bool,
    ) -> anyhow::Result<()> {
        let object = &one.object;
        let mut patch = json!({"metadata": {"resourceVersion": object.metadata.resource_version}});
        let condition = condition.map(|condition| condition.to_string());
        let said = object.annotations().get(CONDITION);
        let news = condition.filter(|condition| said != Some(condition));
        if let Some(condition) = &news {
            patch["metadata"]["annotations"] = json!({CONDITION: condition});
        }
        let namespaces = object.spec.namespaces.clone().unwrap_or_default();
        let entry = namespaces.get(&self.context.namespace).cloned().unwrap_or_default();
        let mut modes = entry.modes.unwrap_or_default();
        // An entry that lacks the mode would leave the workers without a claim, for ever.
        let lacks = adopt && !modes.iter().any(|mode| mode == MODE);
        if lacks {
            modes.push(MODE.to_owned());
            let entry = json!({"modes": modes});
            patch["spec"] = json!({"namespaces": {self.context.namespace.as_str(): entry}});
        }
        let unkept = adopt && !one.is_kept();
        if unkept {
            let mut finalizers = object.finalizers().to_vec();
            finalizers.push(FINALIZER.to_owned());
            patch["metadata"]["finalizers"] = json!(finalizers);
        }
        if news.is_none() && !lacks && !unkept {
            return Ok(());
        }
        let written = self.patch_file_system(object, &patch).await;
        let written = written.with_context(|| format!("failed to write to {}", one.name))?;
        self.wrote(&written);
        Ok(())
    }
}
