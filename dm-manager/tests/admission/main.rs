//! What is refused before it is stored, as a client sees it: the real API server asks the real manager, by the
//! manifests that are deployed. And whatever happens to the manager, nobody is kept from working.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)] // tests

mod certificates;
mod faults;
mod file_systems;
mod movements;
#[path = "../support/mod.rs"]
mod support;

use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use longshore::api::{Defined, LustreFileSystem, NnfDataMovement, NnfDataMovementProfile};
use serde_json::{Value, json};
use support::admission::{Seen, Service, ask_at, create, eventually, manifests, unregister};
use support::cluster::apply;
use support::manager::Manager;
use support::rabbit::{PATIENCE, Rabbit};
use tokio::sync::{Mutex, MutexGuard};

/// The API server asks about every object of the cluster, so one test has it at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A rabbit whose manager the API server asks.
struct Scene {
    rabbit: Rabbit,
    service: Service,
    _alone: Option<MutexGuard<'static, ()>>,
}

impl Scene {
    async fn new(about: &str) -> Option<Self> {
        let alone = ALONE.lock().await;
        let rabbit = Rabbit::new(about).await?;
        Some(Self::of(rabbit, Some(alone)).await)
    }

    async fn of(rabbit: Rabbit, alone: Option<MutexGuard<'static, ()>>) -> Self {
        let scene = Self { rabbit, service: Service::new().await, _alone: alone };
        scene.register(|_| {}).await;
        scene
    }

    /// Applies the manifests, with a change to the configuration.
    async fn register(&self, change: impl Fn(&mut Value)) {
        for mut object in manifests() {
            if object["kind"] == "ValidatingWebhookConfiguration" {
                ask_at(&mut object, self.service.address);
                change(&mut object);
            } else {
                object["metadata"]["namespace"] = json!(self.rabbit.namespace);
            }
            apply(&self.rabbit.client, object).await;
        }
    }

    /// Starts a replica.
    fn start(&self, identity: &str, arguments: &[&str]) -> Manager {
        let listen = ["--admission-listen", "127.0.0.1:0"];
        let manager = self.rabbit.manager_with(identity, &[&listen, arguments].concat());
        self.service.add(manager.admission());
        manager
    }

    /// Starts the only replica, and waits until it is asked.
    async fn manager(&self) -> Manager {
        let manager = self.start("manager-0", &[]);
        self.wait_until_asked().await;
        manager
    }

    async fn wait_until_asked(&self) {
        eventually("the manager to be asked", PATIENCE, async || self.is_asked().await).await;
    }

    /// Whether an impossible profile is refused.
    async fn is_asked(&self) -> bool {
        self.profile("probe", json!({"command": "sleep 5"}), true).await.refusal().is_some()
    }

    async fn profile(&self, name: &str, data: Value, dry: bool) -> Seen {
        let object = json!({"metadata": {"name": name}, "data": data});
        let (client, namespace) = (&self.rabbit.client, &self.rabbit.namespace);
        create::<NnfDataMovementProfile>(client, namespace, "v1alpha11", object, dry).await
    }

    async fn movement(&self, namespace: &str, object: Value, dry: bool) -> Seen {
        create::<NnfDataMovement>(&self.rabbit.client, namespace, "v1alpha11", object, dry).await
    }

    async fn file_system(&self, object: Value, dry: bool) -> Seen {
        let (client, namespace) = (&self.rabbit.client, &self.rabbit.namespace);
        create::<LustreFileSystem>(client, namespace, "v1beta1", object, dry).await
    }

    /// Takes away what other tests would see.
    async fn end(self) {
        unregister(&self.rabbit.client).await;
        let version = LustreFileSystem::DEFINITION.storage_version();
        let all: Api<LustreFileSystem> =
            Api::namespaced_with(self.rabbit.client.clone(), &self.rabbit.namespace, &version);
        for one in all.list(&Default::default()).await.unwrap() {
            let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
            drop(all.patch(&one.name_any(), &PatchParams::default(), &free).await);
            drop(all.delete(&one.name_any(), &DeleteParams::default()).await);
        }
    }
}

/// An object that nobody is asked about.
fn unasked(mut object: Value) -> Value {
    object["metadata"]["labels"]["longshore.dev/admission"] = json!("off");
    object
}

/// What is said of an object before it is stored.
#[derive(Clone, Copy, Debug)]
enum Said {
    Nothing,
    Warned(&'static str),
    Refused(&'static str),
}

impl Said {
    fn check(self, about: &str, seen: &Seen) {
        match self {
            Self::Nothing => {
                assert_eq!((seen.code, &seen.warnings), (201, &vec![]), "{about}: {seen:?}");
            }
            Self::Warned(text) => {
                assert_eq!(seen.code, 201, "{about}: {seen:?}");
                assert!(seen.warnings.iter().any(|one| one.contains(text)), "{about}: {seen:?}");
            }
            Self::Refused(text) => {
                let refusal = seen.refusal().unwrap_or_else(|| panic!("{about}: {seen:?}"));
                assert!(refusal.contains(text), "{about}: {refusal}");
            }
        }
    }
}
