//! The control plane itself: which servers it has, how they are started, stopped and spoken to. It
//! installs nothing of its own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, Config};

use crate::credentials::Credentials;
use crate::place::Place;
use crate::port::Port;
use crate::process::Server;
use crate::programs::{self, Programs};
use crate::skip;

/// How long the API server may take to be ready, on a machine that is busy with other tests.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// The controllers that run: what makes pods from DaemonSets and Deployments, binds volumes, and
/// removes what nobody owns any more.
const CONTROLLERS: [&str; 9] = [
    "daemonset-controller",
    "deployment-controller",
    "replicaset-controller",
    "namespace-controller",
    "garbage-collector-controller",
    "serviceaccount-controller",
    "persistentvolume-binder-controller",
    "persistentvolume-protection-controller",
    "persistentvolumeclaim-protection-controller",
];

/// What a control plane is to have.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Run kube-controller-manager too. Without it a namespace that is deleted stays, nothing is
    /// collected and no DaemonSet makes a pod, but it starts sooner.
    pub controllers: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { controllers: true }
    }
}

#[derive(Default)]
struct Servers {
    // In the order in which they are dropped: nobody loses what it talks to.
    controllers: Option<Server>,
    api_server: Option<Server>,
    etcd: Option<Server>,
}

/// A running control plane. Dropped, or with the end of this process, everything of it is gone; its
/// directory stays when a test failed, for the logs in it.
pub struct ControlPlane {
    servers: Mutex<Servers>,
    programs: PathBuf,
    credentials: Credentials,
    api_port: Port,
    etcd_port: Port,
    peer_port: Port,
    namespaces: AtomicU32,
    settings: Settings,
    place: Place,
}

impl ControlPlane {
    /// The control plane that the tests of this process share, started by the first of them. None when
    /// this machine cannot have one, which is recorded as a skip of the calling test.
    ///
    /// # Panics
    ///
    /// When it can have one, and that does not start.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Result<ControlPlane, String>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| Self::find(Settings::default()));
        shared.as_ref().map_err(|reason| skip(reason)).ok()
    }

    /// A control plane of the calling test's own. None when this machine cannot have one, which is
    /// recorded as a skip.
    ///
    /// # Panics
    ///
    /// When it can have one, and that does not start.
    pub fn own(settings: Settings) -> Option<Self> {
        Self::find(settings).map_err(|reason| skip(&reason)).ok()
    }

    /// As [`Self::own`], with the API server alone.
    ///
    /// # Panics
    ///
    /// As that.
    pub fn bare() -> Option<Self> {
        Self::own(Settings { controllers: false })
    }

    /// A running control plane, or why this machine cannot have one.
    fn find(settings: Settings) -> Result<Self, String> {
        match programs::find() {
            Ok(Programs::In(folder)) => {
                let started = Self::start(&folder, settings);
                Ok(started
                    .unwrap_or_else(|error| panic!("the control plane did not start: {error:#}")))
            }
            Ok(Programs::Missing(reason)) => Err(reason),
            Err(error) => panic!("{error:#}"),
        }
    }

    /// Starts one with the programs of a folder, and returns when it is ready.
    ///
    /// # Errors
    ///
    /// When a server ends or does not become ready; the end of its log is in the error.
    pub fn start(programs: &Path, settings: Settings) -> anyhow::Result<Self> {
        let place = Place::create().context("failed to make a directory for the control plane")?;
        let plane = Self {
            servers: Mutex::default(),
            programs: programs.to_owned(),
            credentials: Credentials::create(place.path(), &[], &[])?,
            api_port: Port::hold()?,
            etcd_port: Port::hold()?,
            peer_port: Port::hold()?,
            namespaces: AtomicU32::new(0),
            settings,
            place,
        };
        plane.write_kubeconfig(&plane.kubeconfig(), &plane.credentials.admin_token)?;
        plane.start_etcd()?;
        plane.start_api_server()?;
        if settings.controllers {
            plane.start_controllers()?;
        }
        Ok(plane)
    }

    fn servers(&self) -> MutexGuard<'_, Servers> {
        // A test that failed while it held the lock has left servers that can still be stopped.
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_etcd(&self) -> anyhow::Result<()> {
        let client = format!("http://127.0.0.1:{}", self.etcd_port.number());
        let peer = format!("http://127.0.0.1:{}", self.peer_port.number());
        let arguments = [
            format!("--data-dir={}", self.place.path().join("etcd").display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            "--socket-reuse-port=true".to_owned(),
            // The data is worth nothing after the test.
            "--unsafe-no-fsync".to_owned(),
        ];
        self.servers().etcd = Some(self.run("etcd", &arguments)?);
        Ok(())
    }

    /// Starts the API server, on the port that it had before, and returns when it is ready.
    ///
    /// # Errors
    ///
    /// When it, or etcd, ends or it does not become ready.
    pub fn start_api_server(&self) -> anyhow::Result<()> {
        let mut arguments = vec![
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port.number()),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.api_port.number()),
            "--permit-port-sharing".to_owned(),
            format!("--tls-cert-file={}", self.credentials.certificate().display()),
            format!("--tls-private-key-file={}", self.credentials.key().display()),
            format!("--token-auth-file={}", self.credentials.tokens().display()),
            "--authorization-mode=RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", self.credentials.token_check().display()),
            format!(
                "--service-account-signing-key-file={}",
                self.credentials.token_key().display()
            ),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            // There is no Service for the API server itself: its address is the loopback's.
            "--endpoint-reconciler-type=none".to_owned(),
            "--allow-privileged=true".to_owned(),
        ];
        if !self.settings.controllers {
            // Nobody makes the service accounts that it would wait for.
            arguments.push("--disable-admission-plugins=ServiceAccount".to_owned());
        }
        self.servers().api_server = Some(self.run("kube-apiserver", &arguments)?);
        self.wait_until_ready()
    }

    /// Stops the API server, as an upgrade or a crash would. Its port stays ours, so connections are
    /// refused until it is started again.
    ///
    /// # Errors
    ///
    /// When it cannot be asked to end.
    pub fn stop_api_server(&self) -> anyhow::Result<()> {
        let server = self.servers().api_server.take();
        server.map_or(Ok(()), Server::stop).context("failed to stop the API server")
    }

    fn start_controllers(&self) -> anyhow::Result<()> {
        let arguments = [
            format!("--kubeconfig={}", self.kubeconfig().display()),
            format!("--controllers={}", CONTROLLERS.join(",")),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
            // The API server may be stopped by a test; the controllers come back with it.
            "--kube-api-qps=200".to_owned(),
            "--kube-api-burst=400".to_owned(),
        ];
        self.servers().controllers = Some(self.run("kube-controller-manager", &arguments)?);
        Ok(())
    }

    fn run(&self, name: &'static str, arguments: &[String]) -> anyhow::Result<Server> {
        let log = self.place.path().join(format!("{name}.log"));
        Server::start(name, &self.programs.join(name), arguments, log)
    }

    /// Asks until the API server says that it is ready, from a thread with a runtime of its own, since
    /// the caller may be on one.
    fn wait_until_ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        let wait = async {
            let client = Client::try_from(self.config()).context("failed to make a client")?;
            loop {
                let request = http::Request::get("/readyz").body(Vec::new())?;
                let answer = client.request_text(request).await;
                let Err(error) = answer else { return anyhow::Ok(()) };
                self.check_servers()?;
                if Instant::now() > deadline {
                    let log = self.servers().api_server.as_ref().map(Server::end_of_log);
                    bail!("not ready after {READY_WITHIN:?}: {error}\n{}", log.unwrap_or_default());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("failed to make a runtime")?;
        std::thread::scope(|scope| {
            let waiting = scope.spawn(move || runtime.block_on(wait));
            waiting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Fails, with the end of its log, if a server has ended by itself.
    fn check_servers(&self) -> anyhow::Result<()> {
        let servers = &mut *self.servers();
        let all = [&mut servers.etcd, &mut servers.api_server, &mut servers.controllers];
        all.into_iter().flatten().try_for_each(Server::check)
    }

    /// The process ids of the servers that run.
    pub fn pids(&self) -> Vec<u32> {
        let servers = self.servers();
        let all = [&servers.etcd, &servers.api_server, &servers.controllers];
        all.into_iter().flatten().map(Server::pid).collect()
    }

    /// The address of the API server.
    pub fn address(&self) -> String {
        format!("https://127.0.0.1:{}", self.api_port.number())
    }

    /// The certificate of the authority that vouches for the API server, as PEM.
    pub fn authority(&self) -> &str {
        &self.credentials.authority_pem
    }

    /// The directory with the logs.
    pub fn directory(&self) -> &Path {
        self.place.path()
    }

    /// A kubeconfig of an administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.place.path().join("kubeconfig")
    }

    /// Writes a kubeconfig for a token, as for a program under test.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write_kubeconfig(&self, file: &Path, token: &str) -> anyhow::Result<()> {
        self.credentials.write_kubeconfig(file, &self.address(), token)
    }

    /// Writes a kubeconfig of an administrator who takes another way.
    pub(crate) fn write_kubeconfig_by(&self, file: &Path, address: &str) -> anyhow::Result<()> {
        self.credentials.write_kubeconfig(file, address, &self.credentials.admin_token)
    }

    /// How a client of an administrator connects.
    pub fn config(&self) -> Config {
        self.credentials.config(&self.address())
    }

    /// A client of an administrator. It belongs to the runtime that it is made on.
    ///
    /// # Panics
    ///
    /// Outside a runtime.
    pub fn client(&self) -> Client {
        Client::try_from(self.config()).expect("the configuration is complete")
    }

    /// A client that acts as a user with groups, and has that user's rights.
    ///
    /// # Panics
    ///
    /// Outside a runtime.
    pub fn client_as(&self, user: &str, groups: &[&str]) -> Client {
        let mut config = self.config();
        config.auth_info.impersonate = Some(user.to_owned());
        config.auth_info.impersonate_groups =
            Some(groups.iter().map(|&group| group.to_owned()).collect());
        Client::try_from(config).expect("the configuration is complete")
    }

    /// A token of a service account, which is made if there is none. It holds for an hour.
    ///
    /// # Errors
    ///
    /// When the API server refuses.
    pub async fn service_account_token(
        &self,
        namespace: &str,
        name: &str,
    ) -> anyhow::Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        let account = ServiceAccount {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            ..ServiceAccount::default()
        };
        match accounts.create(&PostParams::default(), &account).await {
            Err(kube::Error::Api(refusal)) if refusal.code == 409 => {}
            made => drop(made.context("failed to make a service account")?),
        }
        let request = TokenRequest {
            spec: Some(TokenRequestSpec { expiration_seconds: Some(3600), ..Default::default() }),
            ..TokenRequest::default()
        };
        let answer = accounts.create_token_request(name, &PostParams::default(), &request).await;
        let answer = answer.context("failed to ask for a token")?;
        answer.status.and_then(|status| status.token).context("the answer has no token")
    }

    /// What most tests begin with: definitions are installed, and there is a namespace for it alone.
    ///
    /// # Panics
    ///
    /// When the API server refuses.
    pub async fn scene(
        &self,
        definitions: &[CustomResourceDefinition],
        about: &str,
    ) -> (Client, String) {
        let installed = self.install(definitions).await;
        installed.unwrap_or_else(|error| panic!("the definitions are not installed: {error:#}"));
        let namespace = self.namespace(about).await;
        (self.client(), namespace.unwrap_or_else(|error| panic!("{error:#}")))
    }

    /// Makes a namespace for a test, with a name of its own.
    ///
    /// # Errors
    ///
    /// When the API server refuses.
    pub async fn namespace(&self, about: &str) -> anyhow::Result<String> {
        let name = format!("{about}-{}", self.namespaces.fetch_add(1, Ordering::Relaxed));
        let namespace = Namespace {
            metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
            ..Namespace::default()
        };
        let namespaces: Api<Namespace> = Api::all(self.client());
        namespaces
            .create(&PostParams::default(), &namespace)
            .await
            .context("failed to make a namespace")?;
        Ok(name)
    }
}
