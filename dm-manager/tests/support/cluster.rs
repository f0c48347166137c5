//! What several tests do to a cluster, whichever it is.

use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use longshore::api::LustreFileSystem;
use serde_json::{Value, json};

/// What `kubectl apply --server-side` does.
pub async fn apply(client: &Client, object: Value) {
    let version = object["apiVersion"].as_str().unwrap();
    let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
    let kind = object["kind"].as_str().unwrap();
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    let api: Api<DynamicObject> = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let how = PatchParams::apply("deploy");
    let applied = api.patch(&name, &how, &Patch::Apply(&object)).await;
    applied.unwrap_or_else(|error| panic!("{kind} {name}: {error}"));
}

/// Whether all of these filesystems are said to be mounted.
pub async fn are_mounted(file_systems: &Api<LustreFileSystem>, names: &[&str]) -> Option<()> {
    for name in names {
        let object = file_systems.get(name).await.unwrap();
        let said = object.annotations().get("longshore.dev/condition")?;
        let said: Value = serde_json::from_str(said).unwrap();
        if said["reason"] != "Mounted" {
            return None;
        }
    }
    Some(())
}

/// A movement.
pub struct Movement<'a> {
    pub namespace: &'a str,
    /// Where the filesystems' objects are.
    pub file_systems: &'a str,
    pub name: &'a str,
    pub user: u32,
    /// Both are `/lus/FILESYSTEM/...`.
    pub source: &'a str,
    pub destination: &'a str,
}

impl Movement<'_> {
    /// Creates it, by a profile of its own with some fields.
    pub async fn create(&self, client: &Client, profile: Value) {
        let name = self.name;
        let profile = json!({
            "apiVersion": "nnf.cray.hpe.com/v1alpha11", "kind": "NnfDataMovementProfile",
            "metadata": {"name": name, "namespace": "default"},
            "data": profile,
        });
        apply(client, profile).await;
        let end = |path: &str| {
            let of = path.split('/').nth(2).unwrap();
            let reference = json!({
                "kind": "LustreFileSystem", "name": of, "namespace": self.file_systems,
            });
            json!({"path": path, "storageReference": reference})
        };
        let movement = json!({
            "apiVersion": "nnf.cray.hpe.com/v1alpha11", "kind": "NnfDataMovement",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "source": end(self.source), "destination": end(self.destination),
                "userId": self.user, "groupId": self.user,
                "profileReference": {
                    "kind": "NnfDataMovementProfile", "name": name, "namespace": "default",
                },
            },
        });
        apply(client, movement).await;
    }
}

/// How many requests the API server has refused for want of rights. They never reach what counts
/// requests by their answer.
pub async fn refusals(client: &Client) -> f64 {
    let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
    let text = client.request_text(request).await.unwrap();
    let mut attempts =
        text.lines().filter(|line| line.starts_with("authorization_attempts_total{"));
    assert!(attempts.clone().any(|line| line.contains("result=\"allowed\"")), "it counts");
    let denied = attempts.find(|line| line.contains("result=\"denied\""));
    denied.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}
