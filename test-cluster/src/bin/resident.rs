//! The program in the pods of this crate's own tests. It serves HTTP on the pod's address: `/readyz` is
//! good while the file named by `READY` exists, `/whoami` says who the API server takes it for. On
//! SIGTERM it ends, unless `STUBBORN` is set.

use std::path::Path;

use anyhow::Context;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut end = signal(SignalKind::terminate())?;
    let address = std::env::args().nth(1).context("the first argument is an address")?;
    let listener = TcpListener::bind(address).await?;
    loop {
        tokio::select! {
            _ = end.recv() => if std::env::var_os("STUBBORN").is_none() { return Ok(()) },
            asked = listener.accept() => drop(tokio::spawn(answer(asked?.0))),
        }
    }
}

async fn answer(mut stream: TcpStream) -> anyhow::Result<()> {
    let mut request = vec![0; 4096];
    let length = stream.read(&mut request).await?;
    let request = String::from_utf8_lossy(&request[..length]).into_owned();
    let path = request.split(' ').nth(1).unwrap_or("/");
    let ready = std::env::var("READY").is_ok_and(|file| Path::new(&file).exists());
    let (status, body) = match path {
        "/readyz" if ready => ("200 OK", "ok".to_owned()),
        "/readyz" => ("503 Service Unavailable", "not yet".to_owned()),
        "/whoami" => match whoami().await {
            Ok(user) => ("200 OK", user),
            Err(error) => ("502 Bad Gateway", format!("{error:#}")),
        },
        _ => ("404 Not Found", String::new()),
    };
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await?;
    Ok(())
}

async fn whoami() -> anyhow::Result<String> {
    let client = Client::try_from(kube::Config::incluster()?)?;
    let reviews: Api<SelfSubjectReview> = Api::all(client);
    let review = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await?;
    let user = review.status.and_then(|status| status.user_info);
    user.and_then(|user| user.username).context("the API server does not say")
}
