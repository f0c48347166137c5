//! The objects of one kind as last seen: by a watch, or in the answer to a write of our own that the
//! watch has not shown yet. Without the second each write would be repeated until its echo arrives, and
//! be refused. It writes nothing.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::utils::{Backoff, WatchStreamExt};
use kube::runtime::watcher::{self, Event};
use kube::{Resource, ResourceExt};

/// What this program has written, by namespace and name.
type Written<K> = HashMap<(String, String), Own<K>>;

/// One thing that this program has written.
enum Own<K> {
    /// The object as it was answered.
    Object(Arc<K>),
    /// The identity of an object that is deleted.
    Gone(Option<String>),
}

/// The objects of one kind. A clone is the same.
pub(crate) struct Cache<K: Resource + Clone + 'static>
where
    K::DynamicType: Eq + Hash + Clone,
{
    store: Store<K>,
    version: K::DynamicType,
    written: Arc<Mutex<Written<K>>>,
}

impl<K: Resource + Clone + 'static> Clone for Cache<K>
where
    K::DynamicType: Eq + Hash + Clone,
{
    fn clone(&self) -> Self {
        let written = Arc::clone(&self.written);
        Self { store: self.store.clone(), version: self.version.clone(), written }
    }
}

impl<K> Cache<K>
where
    K: Resource + Clone + Debug + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone + Send + Sync + Debug + Unpin,
{
    /// A cache that is filled by a watch, and the objects as the watch shows that they changed. Nothing
    /// arrives unless somebody takes them.
    pub(crate) fn new(
        version: K::DynamicType,
        events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    ) -> (Self, impl Stream<Item = watcher::Result<K>> + Send + 'static) {
        let writer = reflector::store::Writer::new(version.clone());
        let cache = Self { store: writer.as_reader(), version, written: Arc::default() };
        let seen = cache.clone();
        let changed = reflector::reflector(writer, events.backoff(Retry::default()))
            .inspect_ok(move |event| seen.seen(event))
            .touched_objects();
        (cache, changed)
    }

    /// The watch has shown something: what it shows later than a write replaces that.
    fn seen(&self, event: &Event<K>) {
        let mut written = self.lock();
        match event {
            Event::Apply(object) => {
                let key = key(object);
                let newer = match written.get(&key) {
                    Some(Own::Object(own)) => revision(object) >= revision(own.as_ref()),
                    Some(Own::Gone(uid)) => *uid != object.uid(),
                    None => false,
                };
                if newer {
                    written.remove(&key);
                }
            }
            Event::Delete(object) => {
                let key = key(object);
                let same = match written.get(&key) {
                    Some(Own::Object(own)) => own.uid() == object.uid(),
                    Some(Own::Gone(uid)) => *uid == object.uid(),
                    None => false,
                };
                if same {
                    written.remove(&key);
                }
            }
            // The whole list was read anew. What was deleted meanwhile is not shown as such.
            Event::InitDone => written.clear(),
            Event::Init | Event::InitApply(_) => {}
        }
    }

    /// An object as last seen. What is in no namespace has an empty one.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let mut reference = ObjectRef::new_with(name, self.version.clone());
        if !namespace.is_empty() {
            reference = reference.within(namespace);
        }
        // In this order: what is forgotten here because the watch has shown it is in the store by then.
        let written = self.lock();
        let watched = self.store.get(&reference);
        match written.get(&(namespace.to_owned(), name.to_owned())) {
            None => watched,
            Some(Own::Gone(uid)) => watched.filter(|object| object.uid() != *uid),
            Some(Own::Object(own)) => watched
                .filter(|object| revision(object.as_ref()) > revision(own.as_ref()))
                .or(Some(Arc::clone(own))),
        }
    }

    /// Remembers the answer to a write.
    pub(crate) fn wrote(&self, object: K) -> Arc<K> {
        let object = Arc::new(object);
        self.lock().insert(key(object.as_ref()), Own::Object(Arc::clone(&object)));
        object
    }

    /// Remembers that an object is deleted.
    pub(crate) fn deleted(&self, object: &K) {
        self.lock().insert(key(object), Own::Gone(object.uid()));
    }

    /// What the watch shows.
    pub(crate) fn store(&self) -> &Store<K> {
        &self.store
    }

    /// Returns when the watch has shown everything once.
    pub(crate) async fn ready(&self) {
        // The writer is dropped with all that could ask.
        drop(self.store.wait_until_ready().await);
    }

    fn lock(&self) -> MutexGuard<'_, Written<K>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes what a watch shows for as long as it is polled, and says only what went wrong.
pub(crate) async fn drain<K>(changed: impl Stream<Item = watcher::Result<K>>) {
    changed.for_each(|change| async { drop(logged(change)) }).await;
}

/// A change, or a line in the log.
pub(crate) fn logged<K>(change: watcher::Result<K>) -> Option<K> {
    change.inspect_err(|error| tracing::warn!(%error, "a watch failed and begins again")).ok()
}

fn key<K: Resource>(object: &K) -> (String, String) {
    let metadata = object.meta();
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

/// Revisions are numbers that grow, by the contract of the API since Kubernetes 1.35 and in fact always.
fn revision<K: Resource>(object: &K) -> u64 {
    let version = object.meta().resource_version.as_deref().unwrap_or_default();
    version.parse().unwrap_or(0)
}

/// When a watch that failed begins again: soon, for all else waits for it, and not more often than once
/// in 2 s for long.
#[derive(Default)]
struct Retry {
    failures: u32,
}

impl Iterator for Retry {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let delay = Duration::from_millis(100) * 2_u32.pow(self.failures.min(8));
        self.failures = self.failures.saturating_add(1);
        Some(delay.min(Duration::from_secs(2)))
    }
}

impl Backoff for Retry {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use futures::channel::mpsc::unbounded;
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(revision: u64) -> ConfigMap {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "one", "namespace": "some", "resourceVersion": revision.to_string()},
        }))
        .unwrap()
    }

    /// While watch and writer speak at once, as they do.
    #[test]
    fn what_was_known_once_is_never_forgotten_again() {
        const REVISIONS: u64 = 20_000;
        let (watch, events) = unbounded();
        let (cache, changes) = Cache::<ConfigMap>::new((), events);
        let send = |event| watch.unbounded_send(Ok(event)).unwrap();
        for event in [Event::Init, Event::InitDone, Event::Apply(object(1))] {
            send(event);
        }
        let watching = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(drain(changes));
        });
        let (written, writes) = mpsc::channel();
        let reading = {
            let cache = cache.clone();
            thread::spawn(move || {
                let mut least = 0;
                while least < REVISIONS {
                    least = writes.try_iter().last().unwrap_or(least);
                    let known = cache.get("some", "one").map_or(0, |one| revision(one.as_ref()));
                    assert!(known >= least, "{known} after {least}");
                    least = known;
                }
            })
        };
        while cache.get("some", "one").is_none() {
            thread::yield_now();
        }
        for revision in 2..=REVISIONS {
            cache.wrote(object(revision));
            written.send(revision).unwrap();
            send(Event::Apply(object(revision)));
            while !cache.lock().is_empty() {
                thread::yield_now();
            }
        }
        drop(watch);
        reading.join().unwrap();
        watching.join().unwrap();
    }
}
