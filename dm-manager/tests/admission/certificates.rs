//! The certificates that the manager answers with: shared by replicas, exchanged while they run, and taken
//! from somebody else.

use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use test_cluster::{ControlPlane, Settings};

use crate::Scene;
use crate::support::admission::{configuration, eventually};
use crate::support::rabbit::{PATIENCE, Rabbit};

const NAME: &str = "longshore-admission";

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_agree_on_an_authority_and_one_is_enough() {
    let Some(scene) = Scene::new("replicas").await else { return };
    let replicas = ["one", "other"].map(|name| scene.start(name, &[]));
    scene.wait_until_asked().await;
    // Both of them: connections go to one after the other.
    for _ in 0..4 {
        assert!(scene.is_asked().await);
    }
    let told = bundles(&scene).await;
    assert!(told.iter().all(|bundle| *bundle == told[0] && !bundle.is_empty()), "{told:?}");
    let stored = authorities(&scene).await;
    assert_eq!(stored.as_array().unwrap().len(), 1, "one authority for both");
    let configured = configuration(&scene.rabbit.client).await;
    // Applying the manifests again changes nothing of it.
    scene.register(|_| {}).await;
    assert_eq!(configuration(&scene.rabbit.client).await["webhooks"], configured["webhooks"]);
    let [one, other] = replicas;
    one.end("KILL");
    scene.wait_until_asked().await;
    assert!(other.metric("longshore_admission_requests_total{kind=\"NnfDataMovementProfile\",outcome=\"refused\"}") > 0.5);
    assert_eq!(bundles(&scene).await, told, "nothing had to be made anew");
    scene.end().await;
}

/// What the API server is told to trust, by each webhook.
async fn bundles(scene: &Scene) -> Vec<String> {
    let configuration = configuration(&scene.rabbit.client).await;
    let webhooks = configuration["webhooks"].as_array().unwrap().iter().map(|webhook| {
        let bundle = webhook["clientConfig"]["caBundle"].clone();
        let bundle: Option<ByteString> = serde_json::from_value(bundle).unwrap();
        String::from_utf8(bundle.map(|bytes| bytes.0).unwrap_or_default()).unwrap()
    });
    webhooks.collect()
}

fn secrets(scene: &Scene) -> Api<Secret> {
    Api::namespaced(scene.rabbit.client.clone(), &scene.rabbit.namespace)
}

async fn authorities(scene: &Scene) -> Value {
    let secret = secrets(scene).get(NAME).await.unwrap();
    serde_json::from_slice(&secret.data.unwrap()["authorities.json"].0).unwrap()
}

async fn set_authorities(scene: &Scene, authorities: &Value) {
    let stored = ByteString(authorities.to_string().into_bytes());
    let patch = Patch::Merge(json!({"data": {"authorities.json": stored}}));
    secrets(scene).patch(NAME, &PatchParams::default(), &patch).await.unwrap();
}

/// The authority is made to look old, so that two replicas make another one and go over to it, and then the
/// old one is taken away. An impossible profile is refused every time meanwhile, by whichever of them.
#[tokio::test(flavor = "multi_thread")]
async fn another_authority_takes_over_and_no_question_is_left_unanswered() {
    let Some(plane) = ControlPlane::own(Settings::default()) else { return };
    let scene = Scene::of(Rabbit::on(&plane, "takes-over").await, None).await;
    let replicas = ["one", "other"].map(|name| scene.start(name, &[]));
    scene.wait_until_asked().await;
    for replica in &replicas {
        replica.wait_for("presents a new certificate").await;
    }
    let mut old = authorities(&scene).await;
    let days = Duration::from_secs(24 * 60 * 60);
    old[0]["made"] = json!(jiff::Timestamp::now() - days * 3400);
    set_authorities(&scene, &old).await;
    let certificates = async || bundles(&scene).await[0].matches("BEGIN CERTIFICATE").count();
    let mut asked = 0;
    let asking = async {
        loop {
            assert!(scene.is_asked().await, "question {asked} was left unanswered");
            asked += 1;
        }
    };
    let taking_over = async {
        let both = "the API server to trust both";
        eventually(both, PATIENCE, async || certificates().await == 2).await;
        for replica in &replicas {
            replica.wait_for("presents a new certificate").await;
        }
        let new = authorities(&scene).await[1].clone();
        set_authorities(&scene, &json!([new])).await;
        let one = "the API server to trust the new one only";
        eventually(one, PATIENCE, async || certificates().await == 1).await;
        assert_eq!(bundles(&scene).await[0], new["certificate"].as_str().unwrap());
        // The API server has heard of it by now.
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    tokio::select! {
        () = asking => {}
        () = taking_over => {}
    }
    assert!(asked > 50, "{asked} questions");
    for replica in replicas {
        assert!(!replica.rest_of_log().contains("PRIVATE KEY"));
    }
}

/// What cert-manager does: it renews the files, and tells the API server whom to trust.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_somebody_else_renews_are_taken_from_a_directory() {
    let Some(scene) = Scene::new("directory").await else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let manager = scene.start("manager-0", &["--admission-certificates", path]);
    let first = renew(directory.path());
    trust(&scene, &first).await;
    scene.wait_until_asked().await;
    let second = renew(directory.path());
    trust(&scene, &(first + &second)).await;
    manager.wait_for("took a certificate").await;
    manager.wait_for("took a certificate").await;
    trust(&scene, &second).await;
    scene.wait_until_asked().await;
    // What cannot be used is not taken.
    std::fs::write(directory.path().join("tls.crt"), "damaged").unwrap();
    manager.wait_for("no certificate could be taken").await;
    assert!(scene.is_asked().await);
    assert_eq!(secrets(&scene).get(NAME).await.unwrap().data, None, "nothing was written there");
    scene.end().await;
}

/// Writes a new certificate and its key, and returns the certificate of the authority.
fn renew(directory: &std::path::Path) -> String {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    std::fs::write(directory.join("tls.crt"), certificate.pem()).unwrap();
    std::fs::write(directory.join("tls.key"), key.serialize_pem()).unwrap();
    authority.pem()
}

/// Tells the API server whom to trust.
async fn trust(scene: &Scene, bundle: &str) {
    let bundle = ByteString(bundle.as_bytes().to_vec());
    scene
        .register(|object| {
            for webhook in object["webhooks"].as_array_mut().unwrap() {
                webhook["clientConfig"]["caBundle"] = serde_json::to_value(&bundle).unwrap();
            }
        })
        .await;
}
