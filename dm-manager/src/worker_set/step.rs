//! One look at everything, and the writes that follow from it: the DaemonSet is brought up to date, and
//! the manager object says whether it is. How filesystems are adopted and let go is in `adoption` and
//! `release`.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use longshore::api::{
    LustreFileSystem, NnfDataMovementManager, Version, data_movement_manager as manager_object,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::view::View;
use super::{Args, Mounts, daemon_set, live, rollout};
use crate::context::Context;
use crate::lustre_file_system::{FileSystem, Judgement, Pods, judge};

/// How long the filesystems must have stayed as they are before the workers are replaced, so that several
/// that are added and removed lead to one rollout.
const SETTLED: Duration = Duration::from_millis(500);

/// How long a rollout waits for a claim that is not bound, for the same reason.
const CLAIM_PATIENCE: Duration = Duration::from_secs(10);

/// The same after the API server was away: those who bind claims have to find it again first, which took
/// them 25 s on a busy machine.
const CLAIM_PATIENCE_AFTERWARDS: Duration = Duration::from_secs(40);

/// How long own writes may take to be seen, before it is assumed that they are undone.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// When a view that is behind is looked at again, if nothing comes into it before.
const BEHIND: Duration = Duration::from_millis(100);

/// When to look again.
pub(crate) enum Next {
    /// When something changes.
    Wait,
    /// Then too, or at this time.
    At(Instant),
}

/// Keeps the workers.
pub(crate) struct Keeper {
    pub(super) context: Context,
    pub(super) args: Args,
    /// The refusals that were told, by the object's uid.
    pub(super) told: HashMap<String, String>,
    /// Until when claims are waited for, by the object's uid.
    unbound: HashMap<String, Instant>,
    /// When the API server was last known to be away.
    away: Option<Instant>,
    /// The filesystems that were wanted last, and since when.
    wanted: (Vec<(String, bool)>, Option<Instant>),
    /// The versions of objects after own writes, and when they were made: until they are seen, what is
    /// known is older than what was done.
    written: HashMap<String, (u64, Instant)>,
    /// The DaemonSet with the defaults of the API server, as it was written last or would be.
    filled: Option<DaemonSet>,
    /// The last sign of life of workers that are waited for, by the pod's uid, and when it was noticed.
    pub(super) heard: HashMap<String, (Option<String>, Instant)>,
    pub(super) next: Option<Instant>,
}

impl Keeper {
    /// One that has done nothing yet; `returned` when the API server was away just now.
    pub(crate) fn new(context: Context, args: Args, returned: bool) -> Self {
        Self {
            context,
            args,
            told: HashMap::new(),
            unbound: HashMap::new(),
            away: returned.then(Instant::now),
            wanted: (Vec::new(), None),
            written: HashMap::new(),
            filled: None,
            heard: HashMap::new(),
            next: None,
        }
    }

    /// Takes note of a look that failed. While the API server is away nobody can bind a claim either: the patience
    /// with those that are not bound begins anew.
    pub(crate) fn failed(&mut self, error: &anyhow::Error) {
        if !matches!(error.downcast_ref(), Some(kube::Error::Api(_))) {
            self.away = Some(Instant::now());
            self.unbound.clear();
        }
        self.context.metrics.reconcile_failures.with_label_values(&["worker_set"]).inc();
    }

    /// Looks at everything once.
    ///
    /// # Errors
    ///
    /// When the API server refuses a write, which is tried again from what is known then.
    pub(crate) async fn step(&mut self, view: &View) -> anyhow::Result<Next> {
        if let Some(behind) = self.behind(view) {
            return Ok(Next::At(behind));
        }
        self.context.metrics.reconciles.with_label_values(&["worker_set"]).inc();
        self.next = None;
        let manager = view.manager();
        let pods = manager.as_ref().map(|manager| {
            let spec = &manager.spec;
            Pods::of(&spec.pod_spec, &spec.mount_path)
        });
        let all = view.file_systems();
        let workers = self.context.namespace.clone();
        let judgement = judge(&all, &workers, &pods.unwrap_or_default());
        let Some(manager) = manager else {
            // Without workers nothing needs to be kept.
            self.release(view, &judgement, true).await?;
            return Ok(self.next());
        };
        self.speak(view, &judgement).await?;
        if let Some(driver) = self.args.create_volumes_for {
            self.make_volumes(view, &judgement, driver).await?;
        }
        self.publish(view, &manager, &judgement).await?;
        let set = self.roll_out(view, &manager, &judgement).await?;
        self.release(view, &judgement, false).await?;
        self.say_ready(&manager, set.as_ref(), view, &judgement).await?;
        Ok(self.next())
    }

    fn next(&self) -> Next {
        self.next.map_or(Next::Wait, Next::At)
    }

    /// Has the next look no later than then.
    pub(super) fn at(&mut self, time: Instant) {
        self.next = Some(self.next.map_or(time, |next| next.min(time)));
    }

    /// Remembers what was written.
    pub(super) fn wrote<K: Resource>(&mut self, object: &K) {
        let version = object.meta().resource_version.as_deref().and_then(|text| text.parse().ok());
        if let (Some(uid), Some(version)) = (object.meta().uid.clone(), version) {
            self.written.insert(uid, (version, Instant::now()));
        }
    }

    /// Whether there was a write to an object that has not come into view yet.
    pub(super) fn is_being_written<K: Resource>(&self, object: &K) -> bool {
        object.meta().uid.as_ref().is_some_and(|uid| self.written.contains_key(uid))
    }

    /// Until when own writes may still come into view, when there are such.
    fn behind(&mut self, view: &View) -> Option<Instant> {
        let mut seen = HashMap::new();
        let mut see = |meta: &kube::api::ObjectMeta| {
            let version = meta.resource_version.as_deref().and_then(|text| text.parse().ok());
            if let (Some(uid), Some(version)) = (meta.uid.clone(), version) {
                seen.insert(uid, version);
            }
        };
        view.file_systems().iter().for_each(|one| see(&one.metadata));
        view.daemon_set().iter().for_each(|one| see(&one.metadata));
        view.manager().iter().for_each(|one| see(&one.metadata));
        view.mount_list().iter().for_each(|one| see(&one.metadata));
        self.written.retain(|uid, (version, when)| {
            // What is not there at all was just made, or is gone.
            let old = seen.get(uid).is_none_or(|seen: &u64| *seen < *version);
            old && when.elapsed() < SEEN_WITHIN
        });
        let waits = self.written.values().map(|(_, when)| *when + SEEN_WITHIN);
        waits.min()
    }

    /// Patches a filesystem's object.
    pub(super) async fn patch_file_system(
        &self,
        object: &LustreFileSystem,
        patch: &Value,
    ) -> kube::Result<LustreFileSystem> {
        let api = self.file_systems(&object.namespace().unwrap_or_default());
        let how = PatchParams::default();
        self.counted(
            "lustrefilesystems",
            "patch",
            api.patch(&object.name_any(), &how, &Patch::Merge(patch)).await,
        )
    }

    /// The filesystems of a namespace.
    pub(super) fn file_systems(&self, namespace: &str) -> Api<LustreFileSystem> {
        let version = self.context.versions.lustre_file_system.clone();
        let version = version.unwrap_or_else(|| Version::new("v1beta1"));
        Api::namespaced_with(self.context.client.clone(), namespace, &version)
    }

    /// Counts a request.
    pub(super) fn counted<T>(
        &self,
        resource: &str,
        verb: &str,
        answer: kube::Result<T>,
    ) -> kube::Result<T> {
        self.context.metrics.request(resource, verb, &answer);
        answer
    }

    /// Brings the DaemonSet up to date once what is wanted has settled, and returns it as it is then.
    async fn roll_out(
        &mut self,
        view: &View,
        manager: &NnfDataMovementManager,
        judgement: &Judgement,
    ) -> anyhow::Result<Option<DaemonSet>> {
        let live = view.daemon_set();
        if live.as_ref().is_some_and(|set| set.metadata.deletion_timestamp.is_some()) {
            return Ok(None);
        }
        let wanted: Vec<&FileSystem> =
            judgement.accepted.iter().filter(|one| !one.is_deleted()).collect();
        let (bound, unbound): (Vec<&FileSystem>, Vec<_>) =
            wanted.into_iter().partition(|one| view.is_bound(&one.claim));
        // A claim that is going is kept by those who have it, and is made anew only when it is gone: it has
        // to be taken from the workers, or none that starts could ever have it.
        let unbound: Vec<_> =
            unbound.into_iter().filter(|one| !view.is_going(&one.claim)).collect();
        let mounted: Vec<FileSystem> = judgement
            .accepted
            .iter()
            .filter(|one| daemon_set::mounts(live.as_deref(), &one.claim))
            .cloned()
            .collect();
        let mut target: Vec<FileSystem> = bound.into_iter().cloned().collect();
        // One whose claim was lost stays where it is: a worker that has it mounted keeps it.
        for one in unbound.iter().filter(|one| mounted.contains(one)) {
            target.push((*one).clone());
        }
        target.sort_by(|one, other| one.name.cmp(&other.name));
        let described = live.as_ref().and_then(|set| set.spec.as_ref());
        let in_place = daemon_set::is_live(described.and_then(|spec| spec.template.spec.as_ref()));
        let mounts = self.args.mounts;
        let (how, target) = match mounts {
            Mounts::Live => (Mounts::Live, Vec::new()),
            Mounts::Rolling if self.settled(&target, &unbound, live.is_some()) => {
                (Mounts::Rolling, target)
            }
            // They mount in place until it is known which volumes they are to have instead.
            Mounts::Rolling if in_place => (Mounts::Live, Vec::new()),
            Mounts::Rolling => (Mounts::Rolling, mounted),
        };

        let failures = rollout::failures(view, &judgement.accepted, &self.context.namespace);
        let status = live.as_ref().and_then(|set| set.status.as_ref());
        let version = self.context.versions.manager.clone();
        let beyond = rollout::stuck(&failures, &view.pods()) + self.overdue(&view.pods());
        let meant = daemon_set::make(
            manager,
            &version.context("the kind of the manager object is unknown")?,
            how,
            &target,
            &self.args.worker_service_account,
            beyond,
            status.map_or(0, |status| status.desired_number_scheduled),
        );
        let Some(written) = self.write_daemon_set(view, live.as_deref(), meant).await? else {
            return Ok(live.map(|live| (*live).clone()));
        };
        let volumes: Vec<&str> = target.iter().map(|one| one.name.as_str()).collect();
        tracing::info!(generation = written.metadata.generation, ?volumes, "workers rolled out");
        self.wrote(&written);
        Ok(Some(written))
    }

    /// Writes the DaemonSet, unless it is as it should be, or made of what is not so any more.
    async fn write_daemon_set(
        &mut self,
        view: &View,
        live: Option<&DaemonSet>,
        meant: DaemonSet,
    ) -> anyhow::Result<Option<DaemonSet>> {
        let api: Api<DaemonSet> =
            Api::namespaced(self.context.client.clone(), &self.context.namespace);
        let how = PostParams::default();
        let about = "failed to write the DaemonSet of the workers";
        let Some(live) = live else {
            let answer = self.counted("daemonsets", "create", api.create(&how, &meant).await);
            return answer.map(Some).context(about);
        };
        let next = daemon_set::merged(live, meant);
        if daemon_set::print(live) == daemon_set::print(&next) {
            // It was made of the same, but somebody may have changed it. What it is to be with the
            // defaults of the API server only that one can say.
            let known = self.filled.take();
            let filled =
                match known.filter(|one| daemon_set::print(one) == daemon_set::print(&next)) {
                    Some(filled) => filled,
                    None => {
                        let dry = PostParams { dry_run: true, ..PostParams::default() };
                        let answer = api.replace(daemon_set::NAME, &dry, &next).await;
                        self.counted("daemonsets", "dry-run", answer).context(about)?
                    }
                };
            let same = daemon_set::same(
                live,
                &DaemonSet { metadata: next.metadata.clone(), ..filled.clone() },
            );
            self.filled = Some(filled);
            if same {
                return Ok(None);
            }
        }
        if !self.is_up_to_date(view).await? {
            self.at(Instant::now() + BEHIND);
            return Ok(None);
        }
        let answer = api.replace(daemon_set::NAME, &how, &next).await;
        let written = self.counted("daemonsets", "update", answer).context(about)?;
        self.filled = Some(written.clone());
        Ok(Some(written))
    }

    /// Whether the filesystems are as they are known. Watches come back one after the other when the API
    /// server was away, and what was decided between them would restart every worker once for each.
    async fn is_up_to_date(&self, view: &View) -> anyhow::Result<bool> {
        let Some(version) = &self.context.versions.lustre_file_system else { return Ok(true) };
        let api: Api<LustreFileSystem> = Api::all_with(self.context.client.clone(), version);
        let answer = api.list(&ListParams::default()).await;
        let there = self.counted("lustrefilesystems", "list", answer);
        let there = there.context("failed to list the filesystems")?;
        let what = |one: &LustreFileSystem| {
            (one.uid(), one.metadata.deletion_timestamp.is_some(), one.spec.clone())
        };
        let mut there: Vec<_> = there.iter().map(what).collect();
        let mut known: Vec<_> = view.file_systems().iter().map(what).collect();
        there.sort_by(|one, other| one.0.cmp(&other.0));
        known.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(there == known)
    }

    /// Whether what is wanted has not changed for a while, and nothing more is expected soon.
    fn settled(&mut self, target: &[FileSystem], unbound: &[&FileSystem], exists: bool) -> bool {
        let now = Instant::now();
        let name = |one: &FileSystem| one.object.uid().unwrap_or_default();
        self.unbound.retain(|uid, _| unbound.iter().any(|one| name(one) == *uid));
        let mut wanted: Vec<(String, bool)> = target.iter().map(|one| (name(one), true)).collect();
        wanted.extend(unbound.iter().map(|one| (name(one), false)));
        let since = match self.wanted.1 {
            Some(since) if self.wanted.0 == wanted => since,
            // Workers that do not run yet are not disturbed.
            None if !exists && unbound.is_empty() => now.checked_sub(SETTLED).unwrap_or(now),
            _ => now,
        };
        self.wanted = (wanted, Some(since));
        let mut wait = (now < since + SETTLED).then_some(since + SETTLED);
        for one in unbound {
            let afterwards = self.away.is_some_and(|away| now < away + CLAIM_PATIENCE);
            let patience = if afterwards { CLAIM_PATIENCE_AFTERWARDS } else { CLAIM_PATIENCE };
            let until = *self.unbound.entry(name(one)).or_insert(now + patience);
            if now < until {
                wait = wait.max(Some(until));
            }
        }
        if let Some(wait) = wait {
            self.at(wait);
        }
        wait.is_none()
    }

    /// Writes whether all workers are as they should be, when that changes.
    async fn say_ready(
        &mut self,
        manager: &NnfDataMovementManager,
        set: Option<&DaemonSet>,
        view: &View,
        judgement: &Judgement,
    ) -> anyhow::Result<()> {
        let failures = rollout::failures(view, &judgement.accepted, &self.context.namespace);
        let as_wanted = match self.args.mounts {
            Mounts::Live => live::is_as_wanted(view, judgement),
            Mounts::Rolling => judgement
                .accepted
                .iter()
                .all(|one| daemon_set::mounts(set, &one.claim) != one.is_deleted()),
        };
        let ready = set.is_some_and(rollout::is_complete) && as_wanted && failures.is_empty();
        if manager.status.as_ref().is_some_and(|status| status.ready == ready) {
            return Ok(());
        }
        let version = self.context.versions.manager.clone();
        let version = version.context("the kind of the manager object is unknown")?;
        let api: Api<NnfDataMovementManager> =
            Api::namespaced_with(self.context.client.clone(), &self.context.namespace, &version);
        let patch = Patch::Merge(json!({
            "metadata": {"resourceVersion": manager.resource_version(), "uid": manager.uid()},
            "status": {"ready": ready},
        }));
        let how = PatchParams::default();
        let answer = api.patch_status(manager_object::NAME, &how, &patch).await;
        let written = self.counted("nnfdatamovementmanagers", "patch", answer);
        let written = written.context("failed to write whether the workers are ready")?;
        tracing::info!(ready, "workers");
        self.wrote(&written);
        Ok(())
    }
}
