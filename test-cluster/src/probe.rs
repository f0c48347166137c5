//! Asking a container whether it is ready or alive: an HTTP request, as a kubelet sends it. Other
//! kinds of probes are not played.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A probe that can be asked.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    address: (IpAddr, u16),
    path: String,
    patience: Duration,
    /// Time between two questions.
    pub(crate) period: Duration,
    /// How many bad answers in a row count.
    pub(crate) failures: u32,
}

impl Question {
    /// The question that a probe of a container is.
    ///
    /// # Errors
    ///
    /// When the probe is of a kind that is not played.
    pub(crate) fn of(probe: &Probe, container: &Container, pod_ip: IpAddr) -> anyhow::Result<Self> {
        let Some(get) = &probe.http_get else { bail!("only probes by HTTP are played") };
        let port = match &get.port {
            IntOrString::Int(port) => *port,
            IntOrString::String(name) => {
                let mut ports = container.ports.iter().flatten();
                let named = ports.find(|port| port.name.as_ref() == Some(name));
                named.with_context(|| format!("no port is called {name}"))?.container_port
            }
        };
        let host = match &get.host {
            Some(host) => host.parse().context("the host of a probe is no address")?,
            None => pod_ip,
        };
        let seconds = |value: Option<i32>, default: u32| {
            Duration::from_secs(value.map_or(default, |value| value.unsigned_abs()).into())
        };
        Ok(Self {
            address: (host, u16::try_from(port).context("a port is too large")?),
            path: get.path.clone().unwrap_or_else(|| "/".to_owned()),
            patience: seconds(probe.timeout_seconds, 1),
            // A kubelet asks every 10 s by default; tests wait for each answer.
            period: seconds(probe.period_seconds, 1).min(Duration::from_millis(200)),
            failures: probe.failure_threshold.map_or(3, i32::unsigned_abs),
        })
    }

    /// Whether the answer is good: a status from 200 to 399 in time.
    pub(crate) async fn ask(&self) -> Result<(), String> {
        let asked = tokio::time::timeout(self.patience, self.status()).await;
        match asked {
            Ok(Ok(status)) if (200..400).contains(&status) => Ok(()),
            Ok(Ok(status)) => Err(format!("HTTP probe failed with statuscode: {status}")),
            Ok(Err(error)) => Err(format!("{error:#}")),
            Err(_) => Err(format!("no answer in {:?}", self.patience)),
        }
    }

    async fn status(&self) -> anyhow::Result<u16> {
        let mut stream = TcpStream::connect(self.address).await?;
        let (host, port) = self.address;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: kube-probe/test\r\nConnection: close\r\n\r\n",
            self.path
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(64 * 1024).read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.split(' ').nth(1).context("this is no HTTP answer")?;
        status.parse().with_context(|| format!("{status} is no HTTP status"))
    }
}
