//! The control plane of a real node: all controllers, a scheduler, and an API server that pods reach.
//! Its ports are the usual ones, since the network is its own.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use kube::{Client, Config};

use super::NODE;
use super::machine::{ADDRESS, SERVICE};
use crate::credentials::Credentials;
use crate::process::Server;

const READY_WITHIN: Duration = Duration::from_secs(120);

/// Who speaks to the API server beside the administrator, and their groups.
const USERS: [(&str, &str); 3] = [
    (KUBELET, "system:nodes"),
    ("system:kube-controller-manager", "system:authenticated"),
    ("system:kube-scheduler", "system:authenticated"),
];
const KUBELET: &str = "system:node:rabbit-1";

/// The servers.
pub(super) struct Servers {
    // In the order in which they are dropped.
    _scheduler: Server,
    _controllers: Server,
    api_server: Server,
    _etcd: Server,
    credentials: Credentials,
}

impl Servers {
    /// Starts them; they are not ready yet.
    pub(super) fn start(folder: &Path, programs: &Path) -> anyhow::Result<Self> {
        debug_assert!(KUBELET.ends_with(NODE));
        let credentials = Credentials::create(folder, &[ADDRESS, SERVICE], &USERS)?;
        let run = |name: &'static str, arguments: &[String]| {
            Server::start(name, &programs.join(name), arguments, folder.join(format!("{name}.log")))
        };
        let etcd = run(
            "etcd",
            &[
                // Of memory, as everything that is worth nothing after the test.
                "--data-dir=/var/lib/etcd".to_owned(),
                "--unsafe-no-fsync".to_owned(),
            ],
        )?;
        let api_server = run("kube-apiserver", &api_server_arguments(&credentials))?;
        let address = address();
        let kubeconfig = |file: &str, user: usize| {
            let file = folder.join(file);
            credentials.write_kubeconfig(&file, &address, &credentials.user_tokens[user])?;
            anyhow::Ok(format!("--kubeconfig={}", file.display()))
        };
        let controllers = run(
            "kube-controller-manager",
            &[
                kubeconfig("controllers.kubeconfig", 1)?,
                "--use-service-account-credentials=true".to_owned(),
                format!("--service-account-private-key-file={}", credentials.token_key().display()),
                format!("--root-ca-file={}", credentials.authority_file().display()),
                "--leader-elect=false".to_owned(),
                "--secure-port=0".to_owned(),
            ],
        )?;
        let scheduler = run(
            "kube-scheduler",
            &[
                kubeconfig("scheduler.kubeconfig", 2)?,
                "--leader-elect=false".to_owned(),
                "--secure-port=0".to_owned(),
            ],
        )?;
        kubeconfig("kubelet.kubeconfig", 0)?;
        Ok(Self {
            _scheduler: scheduler,
            _controllers: controllers,
            api_server,
            _etcd: etcd,
            credentials,
        })
    }

    /// How a client of an administrator connects.
    pub(super) fn config(&self) -> Config {
        self.credentials.config(&address())
    }

    /// Waits until the API server says that it is ready.
    pub(super) async fn wait_until_ready(&self) -> anyhow::Result<()> {
        let client = Client::try_from(self.config()).context("failed to make a client")?;
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            let Err(error) = client.request_text(request).await else { return Ok(()) };
            if Instant::now() > deadline {
                bail!("not ready: {error}\n{}", self.api_server.end_of_log());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn address() -> String {
    format!("https://{SERVICE}:443")
}

fn api_server_arguments(credentials: &Credentials) -> Vec<String> {
    let check = credentials.token_check();
    vec![
        "--etcd-servers=http://127.0.0.1:2379".to_owned(),
        "--bind-address=0.0.0.0".to_owned(),
        format!("--advertise-address={ADDRESS}"),
        // That of the Service, so that its address needs no translation.
        "--secure-port=443".to_owned(),
        format!("--tls-cert-file={}", credentials.certificate().display()),
        format!("--tls-private-key-file={}", credentials.key().display()),
        format!("--token-auth-file={}", credentials.tokens().display()),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", check.display()),
        format!("--service-account-signing-key-file={}", credentials.token_key().display()),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        // Webhooks are reached in their pods: nobody translates addresses of Services here.
        "--enable-aggregator-routing=true".to_owned(),
    ]
}
