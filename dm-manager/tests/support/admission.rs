//! The webhook of the manager as the API server meets it: the manifests of `deploy/`, a played Service in
//! front of the managers, and requests whose warnings are seen.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind};
use kube::client::Body;
use kube::{Api, Client};
use longshore::api::Defined;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

const NAME: &str = "longshore-admission";

/// The objects of `deploy/40-admission.yaml`.
pub fn manifests() -> Vec<Value> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/40-admission.yaml");
    let text = std::fs::read_to_string(file).unwrap();
    text.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

/// Has a configuration ask at an address, in the only field in which a cluster without a network of
/// Services differs.
pub fn ask_at(configuration: &mut Value, address: SocketAddr) {
    for webhook in configuration["webhooks"].as_array_mut().unwrap() {
        let path = webhook["clientConfig"]["service"]["path"].as_str().unwrap().to_owned();
        webhook["clientConfig"] = json!({"url": format!("https://{address}{path}")});
    }
}

/// The configuration as it is.
pub async fn configuration(client: &Client) -> Value {
    serde_json::to_value(configurations(client).get(NAME).await.unwrap()).unwrap()
}

/// Has nobody asked any more.
pub async fn unregister(client: &Client) {
    drop(configurations(client).delete(NAME, &DeleteParams::default()).await.unwrap());
}

fn configurations(client: &Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk(
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingWebhookConfiguration",
    );
    Api::all_with(client.clone(), &ApiResource::from_gvk(&kind))
}

/// What a Service does: connections go to one of its replicas after the other, and not to those that take
/// none.
pub struct Service {
    pub address: SocketAddr,
    replicas: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Service {
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let replicas = Arc::new(Mutex::new(Vec::new()));
        let behind = Arc::clone(&replicas);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let replicas: Vec<SocketAddr> = {
                    let mut all = behind.lock().unwrap();
                    if !all.is_empty() {
                        all.rotate_left(1);
                    }
                    all.clone()
                };
                tokio::spawn(forward(client, replicas));
            }
        });
        Self { address, replicas }
    }

    /// Puts a replica behind it.
    pub fn add(&self, replica: SocketAddr) {
        self.replicas.lock().unwrap().push(replica);
    }
}

async fn forward(mut client: TcpStream, replicas: Vec<SocketAddr>) {
    for replica in replicas {
        if let Ok(mut server) = TcpStream::connect(replica).await {
            for side in [&client, &server] {
                side.set_nodelay(true).unwrap();
            }
            // Whatever ends it: both sides see the end of their connection.
            drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
            return;
        }
    }
}

/// What a client sees of a request.
#[derive(Debug)]
pub struct Seen {
    pub code: u16,
    pub message: String,
    pub warnings: Vec<String>,
}

impl Seen {
    /// The text of the refusal of the webhook, if that is what it is.
    pub fn refusal(&self) -> Option<&str> {
        let denied = self.message.split_once(".longshore.dev\" denied the request: ");
        denied.filter(|_| self.code == 403).map(|(_, text)| text)
    }
}

/// Creates an object in a namespace by one version of its kind; with `dry`, all but that.
pub async fn create<K: Defined>(
    client: &Client,
    namespace: &str,
    version: &str,
    mut object: Value,
    dry: bool,
) -> Seen {
    let definition = K::DEFINITION;
    let (group, plural) = (definition.group, definition.plural);
    object["apiVersion"] = json!(format!("{group}/{version}"));
    object["kind"] = json!(definition.kind);
    let dry = if dry { "?dryRun=All" } else { "" };
    let path = format!("/apis/{group}/{version}/namespaces/{namespace}/{plural}{dry}");
    send(client, "POST", &path, "application/json", &object).await
}

/// Merges fields into an object.
pub async fn merge<K: Defined>(
    client: &Client,
    namespace: &str,
    name: &str,
    fields: &Value,
) -> Seen {
    let definition = K::DEFINITION;
    let (group, plural) = (definition.group, definition.plural);
    let version = definition.storage_version();
    let path = format!("/apis/{group}/{version}/namespaces/{namespace}/{plural}/{name}");
    send(client, "PATCH", &path, "application/merge-patch+json", fields).await
}

async fn send(client: &Client, method: &str, path: &str, form: &str, content: &Value) -> Seen {
    let request = http::Request::builder().method(method).uri(path).header("content-type", form);
    let request = request.body(Body::from(content.to_string().into_bytes())).unwrap();
    let answer = client.send(request).await.unwrap();
    let code = answer.status().as_u16();
    let warnings = answer.headers().get_all("warning").iter().map(|value| {
        // 299 - "the text"
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        let text = value.split_once(" - \"").map_or(value.as_str(), |(_, text)| text);
        text.trim_end_matches('"').replace("\\\"", "\"")
    });
    let warnings = warnings.collect();
    let content = answer.into_body().collect_bytes().await.unwrap();
    let content: Value = serde_json::from_slice(&content).unwrap();
    let message = content["message"].as_str().unwrap_or_default().to_owned();
    Seen { code, message, warnings }
}

/// Connects as the API server does: by a name, trusting what it was told to trust.
pub async fn shake_hands(address: SocketAddr, name: &str, bundle: &str) -> std::io::Result<()> {
    let mut trusted = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        trusted.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(trusted).with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map(drop)
}

/// Waits until a condition holds.
pub async fn eventually(what: &str, limit: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds().await {
        assert!(Instant::now() < deadline, "waited {limit:?} in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
