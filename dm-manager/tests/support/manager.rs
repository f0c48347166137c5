//! The real `dm-manager run` as a process of a test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::rabbit::PATIENCE;

/// A running manager. It is killed when this is dropped.
pub struct Manager {
    child: Child,
    address: SocketAddr,
    /// Every line of its log that was not taken yet.
    log: Receiver<Value>,
}

/// How one is started.
#[derive(Clone)]
pub struct Settings<'a> {
    pub kubeconfig: &'a Path,
    pub namespace: &'a str,
    pub identity: &'a str,
    /// `KEY=VALUE` of the nodes whose movements it takes.
    pub node_selector: &'a str,
    /// Further arguments.
    pub arguments: &'a [&'a str],
}

impl Manager {
    /// Starts one, and returns when it answers over HTTP.
    pub fn start(settings: &Settings) -> Self {
        // The kernel kills it with the thread of the test, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_dm-manager"), "run"]);
        command.args(["--namespace", settings.namespace, "--identity", settings.identity]);
        command.args(["--node-selector", settings.node_selector, "--listen", "127.0.0.1:0"]);
        command.args(settings.arguments).env("KUBECONFIG", settings.kubeconfig);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stderr.take().unwrap());
        let (lines, log) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if std::env::var_os("LONGSHORE_SHOW_LOGS").is_some() {
                    eprintln!("{line}");
                }
                // Whoever no longer wants the log has dropped it.
                drop(lines.send(line));
            }
        });
        let mut seen = Vec::new();
        let address = loop {
            let line = log.recv_timeout(Duration::from_secs(60));
            let line = line.unwrap_or_else(|_| panic!("the manager does not listen: {seen:?}"));
            if line["message"] == "listening" {
                break line["address"].as_str().unwrap().parse().unwrap();
            }
            seen.push(line);
        };
        Self { child, address, log }
    }

    /// Waits for a line of its log with a message.
    pub async fn wait_for(&self, message: &str) {
        while !self.log.try_iter().any(|line| line["message"] == message) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Where it answers what the API server asks before it stores an object.
    pub fn admission(&self) -> SocketAddr {
        loop {
            let line = self.log.recv_timeout(Duration::from_secs(60)).unwrap();
            if line["message"] == "listening for the API server" {
                return line["address"].as_str().unwrap().parse().unwrap();
            }
        }
    }

    /// All that it has logged and that was not taken yet.
    pub fn rest_of_log(&self) -> String {
        self.log.try_iter().map(|line| line.to_string() + "\n").collect()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it by a signal of that name, and returns its exit code; none after SIGKILL.
    pub fn end(mut self, signal: &str) -> Option<i32> {
        self.signal(signal);
        self.child.wait().unwrap().code()
    }

    /// Sends it a signal by its name.
    pub fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// The most memory that it has had, in KiB.
    pub fn memory_peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// What it answers to a GET: the status and the body.
    pub fn get(&self, path: &str) -> (u16, String) {
        get(self.address, path)
    }

    /// The value of a metric with its labels, 0 where it was never counted.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").1;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Asserts that a counter comes to `wanted`, and not beyond it. It is waited for: whoever looks at the
    /// API server may see what was written before the manager has its answer and counts it.
    pub async fn counts(&self, name: &str, wanted: u32) {
        let wanted = f64::from(wanted);
        let deadline = Instant::now() + PATIENCE;
        let mut counted = self.metric(name);
        while counted < wanted - 0.5 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
            counted = self.metric(name);
        }
        assert!((counted - wanted).abs() < 0.5, "{name} is {counted} and not {wanted}");
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // It may have ended already, and then there is nothing to kill.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The answer to a GET: the status and the body.
pub fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut connection = TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// The sum of the metrics whose lines begin so and have that among their labels.
pub fn value(text: &str, begins: &str, has: &str) -> f64 {
    let lines = text.lines().filter(|line| {
        let named = line
            .strip_prefix(begins)
            .is_some_and(|rest| begins.ends_with(['{', ' ']) || rest.starts_with(' '));
        named && line.contains(has)
    });
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}
