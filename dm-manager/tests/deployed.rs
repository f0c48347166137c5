//! The manifests in `deploy/` as they are: applied to a real control plane, with the real manager and the
//! real workers in the pods that they make, under the rights that they give and no others.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)] // tests

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod, Taint};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use longshore::api::{
    Defined, LustreFileSystem, NnfDataMovement, NnfDataMovementManager, NnfDataMovementProfile,
};
use serde_json::{Value, json};
use support::admission::{self, create};
use support::cluster::{Movement, apply, are_mounted, refusals};
use support::printed;
use test_cluster::{ControlPlane, NodeSettings, Nodes, Settings, eventually};

const WORKERS: &str = "nnf-dm-system";
const FINALIZER: &str = "dm.cray.hpe.com";

/// The user and group of the jobs.
const USER: u32 = 4711;

/// The worker's program, which lies beside the manager's when the whole workspace was built.
fn worker() -> Option<PathBuf> {
    let program = Path::new(env!("CARGO_BIN_EXE_dm-manager")).with_file_name("dm-worker");
    if !program.exists() {
        test_cluster::skip("dm-worker is not built: `cargo build -p dm-worker`");
    }
    program.exists().then_some(program)
}

/// A cluster onto which the manifests were applied.
struct Deployed {
    client: Client,
    nodes: Nodes,
    /// A directory for each filesystem.
    lustre: tempfile::TempDir,
    // Dropped last: the nodes speak to it.
    plane: ControlPlane,
}

impl Deployed {
    /// Applies all manifests; the workers get further arguments.
    async fn new(nodes: &[&str], of_workers: &[&str]) -> Option<Self> {
        let plane = ControlPlane::own(Settings::default())?;
        let images = [
            ("dm-manager:0.1.0".to_owned(), PathBuf::from(env!("CARGO_BIN_EXE_dm-manager"))),
            ("dm-worker:0.1.0".to_owned(), worker()?),
        ];
        let settings = NodeSettings { images: images.into(), claims: BTreeMap::new() };
        let played = plane.nodes(settings).unwrap()?;
        plane.install(&printed(&["--all"])).await.unwrap();
        let client = plane.client();
        let lustre = tempfile::tempdir().unwrap();
        chown(lustre.path(), Some(USER), Some(USER)).unwrap();
        let deployed = Self { client, nodes: played, lustre, plane };
        deployed.nodes.add(&deployed.plane, "plain", &[], &[]).await.unwrap();
        for name in nodes {
            let taint = Taint {
                key: "cray.nnf.node".to_owned(),
                value: Some("true".to_owned()),
                effect: "NoSchedule".to_owned(),
                ..Taint::default()
            };
            let labels = [("cray.nnf.node", "true")];
            deployed.nodes.add(&deployed.plane, name, &labels, &[taint]).await.unwrap();
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        let mut files: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "yaml")) {
            for document in std::fs::read_to_string(file).unwrap().split("\n---\n") {
                let mut object: Value = serde_saphyr::from_str(document).unwrap();
                if object["kind"] == "Deployment" {
                    // What a site without lustre-fs-operator adds, as 15-volumes.yaml says.
                    let container = &mut object["spec"]["template"]["spec"]["containers"][0];
                    let arguments = container["args"].as_array_mut().unwrap();
                    arguments.push(json!("--create-volumes-for=hpe"));
                }
                if object["kind"] == "NnfDataMovementManager" {
                    let container = &mut object["spec"]["podSpec"]["containers"][0];
                    let arguments = container["args"].as_array_mut().unwrap();
                    arguments.extend(of_workers.iter().map(|argument| json!(argument)));
                }
                // Whom the API server is to ask has no address yet.
                if object["kind"] != "ValidatingWebhookConfiguration" {
                    apply(&deployed.client, object).await;
                }
            }
        }
        Some(deployed)
    }

    /// Has the API server ask a pod of the manager, by its address: there is no network of Services here.
    /// Returns the address and whom the API server then trusts.
    async fn ask_before_storing(&self) -> (SocketAddr, String) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), WORKERS);
        let managers = ListParams::default().labels("app.kubernetes.io/name=longshore-manager");
        let address = eventually("the manager to have an address", async || {
            let pods = pods.list(&managers).await.unwrap();
            let running = pods.iter().find_map(|pod| {
                let status = pod.status.as_ref()?;
                let ready = status.conditions.iter().flatten();
                let mut ready = ready.filter(|one| one.type_ == "Ready" && one.status == "True");
                ready.next().and(status.pod_ip.clone())
            });
            Some(SocketAddr::new(running?.parse().unwrap(), 9443))
        })
        .await;
        let mut all = admission::manifests().into_iter();
        let mut configuration =
            all.find(|object| object["kind"] == "ValidatingWebhookConfiguration").unwrap();
        admission::ask_at(&mut configuration, address);
        apply(&self.client, configuration).await;
        let bundle = eventually("the API server to be told whom to trust", async || {
            let configuration = admission::configuration(&self.client).await;
            let bundle = configuration["webhooks"][0]["clientConfig"]["caBundle"].clone();
            let bundle: Option<ByteString> = serde_json::from_value(bundle).unwrap();
            String::from_utf8(bundle?.0).ok()
        })
        .await;
        (address, bundle)
    }

    fn file_systems(&self) -> Api<LustreFileSystem> {
        let version = LustreFileSystem::DEFINITION.storage_version();
        Api::namespaced_with(self.client.clone(), "default", &version)
    }

    fn movements(&self, namespace: &str) -> Api<NnfDataMovement> {
        let version = NnfDataMovement::DEFINITION.storage_version();
        Api::namespaced_with(self.client.clone(), namespace, &version)
    }

    /// Creates a filesystem at `/lus/NAME` that all nodes can mount, writable by the jobs' user.
    async fn create_file_system(&self, name: &str) -> PathBuf {
        let directory = self.lustre.path().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        chown(&directory, Some(USER), Some(USER)).unwrap();
        self.nodes.provide(&format!("{name}-{WORKERS}-readwritemany-pvc"), directory.clone());
        let object = serde_json::from_value(json!({
            "apiVersion": "lus.cray.hpe.com/v1beta1",
            "kind": "LustreFileSystem",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "name": "lus", "mgsNids": "10.1.1.1@tcp", "mountRoot": format!("/lus/{name}"),
            },
        }));
        self.file_systems().create(&PostParams::default(), &object.unwrap()).await.unwrap();
        directory
    }

    async fn ready(&self) -> bool {
        let version = NnfDataMovementManager::DEFINITION.storage_version();
        let api: Api<NnfDataMovementManager> =
            Api::namespaced_with(self.client.clone(), WORKERS, &version);
        let object = api.get(longshore::api::data_movement_manager::NAME).await.unwrap();
        object.status.is_some_and(|status| status.ready)
    }

    async fn pods(&self) -> Vec<Pod> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), WORKERS);
        pods.list(&ListParams::default()).await.unwrap().items
    }

    /// A movement between two paths of global filesystems, by a profile with some fields.
    async fn create_movement(&self, name: &str, source: &str, destination: &str, profile: Value) {
        let (namespace, file_systems) = (WORKERS, "default");
        let movement = Movement { namespace, file_systems, name, user: USER, source, destination };
        movement.create(&self.client, profile).await;
    }

    /// Waits until filesystems are mounted on all nodes, and the workers are ready.
    async fn mounted(&self, names: &[&str]) {
        eventually("filesystems to be mounted", async || {
            are_mounted(&self.file_systems(), names).await?;
            self.ready().await.then_some(())
        })
        .await;
    }

    async fn status(&self, movement: &str) -> Value {
        let object = self.movements(WORKERS).get(movement).await.unwrap();
        serde_json::to_value(object.status).unwrap()
    }

    async fn finished(&self, movement: &str) -> Value {
        eventually(&format!("{movement} to be finished"), async || {
            let status = self.status(movement).await;
            (status["state"] == "Finished").then_some(status)
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deployed_works_with_the_rights_that_it_has() {
    let Some(deployed) = Deployed::new(&["rabbit-1", "rabbit-2"], &[]).await else { return };
    eventually("the workers to be ready", async || deployed.ready().await.then_some(())).await;
    what_is_impossible_is_refused(&deployed).await;

    let source = deployed.create_file_system("home").await;
    let destination = deployed.create_file_system("work").await;
    std::fs::create_dir(source.join("tree")).unwrap();
    std::fs::write(source.join("tree/file"), "content").unwrap();
    deployed.mounted(&["home", "work"]).await;
    deployed.create_movement("copy-0", "/lus/home/tree", "/lus/work/new/", json!({})).await;
    let status = deployed.finished("copy-0").await;
    assert_eq!(status["status"], "Success", "{status:#}");
    let copied = destination.join("new/tree/file");
    assert_eq!(std::fs::read_to_string(&copied).unwrap(), "content");
    assert_eq!(std::fs::metadata(&copied).unwrap().uid(), USER);
    deployed.movements(WORKERS).delete("copy-0", &DeleteParams::default()).await.unwrap();
    deployed.file_systems().delete("home", &DeleteParams::default()).await.unwrap();
    eventually("all to be gone", async || {
        let movement = deployed.movements(WORKERS).get_opt("copy-0").await.unwrap();
        let file_system = deployed.file_systems().get_opt("home").await.unwrap();
        let claims: Api<PersistentVolumeClaim> = Api::all(deployed.client.clone());
        let claims = claims.list(&ListParams::default()).await.unwrap();
        let claim = claims.iter().any(|claim| claim.name_any().starts_with("home-"));
        (movement.is_none() && file_system.is_none() && !claim && deployed.ready().await)
            .then_some(())
    })
    .await;
    assert_eq!(
        refusals(&deployed.client).await,
        0.0,
        "requests that were refused for want of rights"
    );
    let object = deployed.file_systems().get("work").await.unwrap();
    assert_eq!(object.finalizers(), [FINALIZER]);
}

/// What is impossible is refused when it is written; and who answers is the one whom the API server asks for by
/// the name of the Service, where there are Services.
async fn what_is_impossible_is_refused(deployed: &Deployed) {
    let (address, bundle) = deployed.ask_before_storing().await;
    let client = &deployed.client;
    let profile = json!({"metadata": {"name": "impossible"}, "data": {"command": "sleep 5"}});
    eventually("a profile to be refused", async || {
        let profile = profile.clone();
        let seen = create::<NnfDataMovementProfile>(client, "default", "v1alpha11", profile, true);
        seen.await.refusal().filter(|text| text.contains("`sleep` cannot be run")).map(drop)
    })
    .await;
    let spec = json!({"name": "lus", "mgsNids": "10.1.1.1@tcp", "mountRoot": "/mnt/nnf/lus"});
    let object = json!({"metadata": {"name": "inside"}, "spec": spec});
    let seen = create::<LustreFileSystem>(client, "default", "v1beta1", object, true).await;
    assert!(seen.refusal().unwrap().contains("overlaps /mnt/nnf"), "{seen:?}");
    for namespace in ["rabbit-1", WORKERS] {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        if namespaces.get_opt(namespace).await.unwrap().is_none() {
            apply(
                &deployed.client,
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
            )
            .await;
        }
        let storage = json!({"kind": "NnfStorage", "name": "none", "namespace": "default"});
        let profile =
            json!({"kind": "NnfDataMovementProfile", "name": "none", "namespace": "default"});
        let object = json!({"metadata": {"name": "relative"}, "spec": {
            "source": {"path": "lus", "storageReference": storage},
            "destination": {"path": "/lus", "storageReference": storage},
            "profileReference": profile,
        }});
        let seen = create::<NnfDataMovement>(client, namespace, "v1alpha11", object, true).await;
        assert!(seen.refusal().unwrap().contains("'lus' is not an absolute path"), "{seen:?}");
    }

    let all = admission::manifests();
    let [service, configuration] = ["Service", "ValidatingWebhookConfiguration"]
        .map(|kind| all.iter().find(|object| object["kind"] == kind).unwrap());
    for webhook in configuration["webhooks"].as_array().unwrap() {
        let asked = &webhook["clientConfig"]["service"];
        assert_eq!(asked["name"], service["metadata"]["name"]);
        assert_eq!(asked["namespace"], service["metadata"]["namespace"]);
    }
    let sets: Api<Deployment> = Api::namespaced(client.clone(), WORKERS);
    let template = sets.get("longshore-manager").await.unwrap().spec.unwrap().template;
    let labels = serde_json::to_value(template.metadata.unwrap().labels).unwrap();
    assert_eq!(service["spec"]["selector"], labels);
    let ports = template.spec.unwrap().containers.remove(0).ports.unwrap();
    let named = ports
        .iter()
        .find(|port| port.name.as_deref() == service["spec"]["ports"][0]["targetPort"].as_str());
    assert_eq!(named.unwrap().container_port, i32::from(address.port()));
    let name = format!("{}.{WORKERS}.svc", service["metadata"]["name"].as_str().unwrap());
    admission::shake_hands(address, &name, &bundle).await.unwrap();
    admission::shake_hands(address, "another.name.svc", &bundle).await.unwrap_err();
}

/// Ten copies run on two workers. Two filesystems are added and one is deleted meanwhile, so that all workers
/// are replaced, sooner than the copies could end. They all end in success, and what was copied before is
/// not copied again.
#[tokio::test(flavor = "multi_thread")]
async fn filesystems_come_and_go_while_copies_run() {
    const COPIES: usize = 10;
    const FILES: usize = 40;
    let Some(deployed) = Deployed::new(&["rabbit-1", "rabbit-2"], &["--drain-seconds=1"]).await
    else {
        return;
    };
    let source = deployed.create_file_system("home").await;
    let destination = deployed.create_file_system("work").await;
    let old = deployed.create_file_system("old").await;
    for copy in 0..COPIES {
        let tree = source.join(format!("tree-{copy}"));
        std::fs::create_dir(&tree).unwrap();
        for file in 0..FILES {
            let content = vec![u8::try_from((copy * FILES + file) & 0xff).unwrap(); 256 << 10];
            std::fs::write(tree.join(format!("file-{file}")), content).unwrap();
        }
    }
    deployed.mounted(&["home", "work", "old"]).await;
    drop(old);
    // 10 MiB at 1 MiB each second.
    let profile = json!({
        "command": "longshore copy --bandwidth-limit 1M $SRC $DEST",
        "progressIntervalSeconds": 1,
    });
    for copy in 0..COPIES {
        let (from, to) = (format!("/lus/home/tree-{copy}/"), format!("/lus/work/tree-{copy}/"));
        deployed.create_movement(&format!("copy-{copy}"), &from, &to, profile.clone()).await;
    }
    let copied = |copy: usize| {
        let folder = std::fs::read_dir(destination.join(format!("tree-{copy}")));
        let files = folder.into_iter().flatten().map(Result::unwrap);
        let named = files.filter(|file| file.file_name().to_string_lossy().starts_with("file-"));
        named.map(|file| (file.file_name(), file.metadata().unwrap())).collect::<Vec<_>>()
    };
    eventually("every copy to have copied something", async || {
        (0..COPIES).all(|copy| copied(copy).len() >= 12).then_some(())
    })
    .await;
    let workers = |pods: Vec<Pod>| -> std::collections::BTreeSet<String> {
        let workers = pods.into_iter().filter(|pod| pod.name_any().starts_with("nnf-dm-worker"));
        workers.map(|pod| pod.name_any()).collect()
    };
    let before = workers(deployed.pods().await);
    let (one, other) =
        tokio::join!(deployed.create_file_system("one"), deployed.create_file_system("other"));
    deployed.file_systems().delete("old", &DeleteParams::default()).await.unwrap();
    drop((one, other));
    // The times of a file are set last: those that have had theirs for a while are not touched again.
    let settled = SystemTime::now() - Duration::from_secs(1);
    let early: Vec<Vec<_>> = (0..COPIES)
        .map(|copy| {
            let mut files = copied(copy);
            files.retain(|(name, file)| {
                let from = source.join(format!("tree-{copy}")).join(name).metadata().unwrap();
                let changed = UNIX_EPOCH + Duration::from_secs(file.ctime().unsigned_abs());
                (file.mtime(), file.mtime_nsec()) == (from.mtime(), from.mtime_nsec())
                    && changed < settled
            });
            files
        })
        .collect();
    assert!(early.iter().map(Vec::len).sum::<usize>() > COPIES, "there is something to be kept");
    deployed.mounted(&["home", "work", "one", "other"]).await;
    assert!(before.is_disjoint(&workers(deployed.pods().await)), "every worker was replaced");
    for (copy, early) in early.iter().enumerate() {
        let status = deployed.finished(&format!("copy-{copy}")).await;
        assert_eq!(status["status"], "Success", "{status:#}");
        for file in 0..FILES {
            let name = format!("tree-{copy}/file-{file}");
            let [from, to] = [&source, &destination].map(|root| std::fs::read(root.join(&name)));
            assert!(from.unwrap() == to.unwrap(), "{name} differs");
        }
        let late = copied(copy);
        assert_eq!(late.len(), FILES);
        for (name, was) in early {
            let (_, is) = late.iter().find(|(other, _)| other == name).unwrap();
            let times = |file: &std::fs::Metadata| (file.ino(), file.ctime(), file.ctime_nsec());
            assert_eq!(times(is), times(was), "{name:?} of copy {copy} was copied again");
        }
    }
    eventually("the old one to be gone", async || {
        deployed.file_systems().get_opt("old").await.unwrap().is_none().then_some(())
    })
    .await;
    assert_eq!(
        refusals(&deployed.client).await,
        0.0,
        "requests that were refused for want of rights"
    );
}
