//! Starts a control plane and keeps it until its standard input ends: something to try things on. It
//! prints one line: the path of an administrator's kubeconfig.

use std::io::{self, Read, Write};

use anyhow::bail;
use test_cluster::programs::{self, Programs};
use test_cluster::{ControlPlane, Settings};

fn main() -> anyhow::Result<()> {
    let folder = match programs::find()? {
        Programs::In(folder) => folder,
        Programs::Missing(reason) => bail!(reason),
    };
    let plane = ControlPlane::start(&folder, Settings::default())?;
    let mut out = io::stdout();
    writeln!(out, "{}", plane.kubeconfig().display())?;
    out.flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
