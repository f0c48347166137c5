//! Images: made by the script that users have, and given to containerd.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use super::{PAUSE, containerd};

/// Makes the image of a program, and hands it to containerd.
pub(super) fn import(
    folder: &Path,
    programs: &Path,
    name: &str,
    program: &Path,
) -> anyhow::Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/image.sh");
    let archive = folder.join("image.tar");
    let output = Command::new("bash").arg(script).arg(&archive).arg(name).arg(program).output();
    let output = output.context("failed to run bash")?;
    if !output.status.success() {
        bail!("image.sh failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let file = archive.to_str().context("the folder's name is not UTF-8")?;
    containerd::ctr(programs, &["images", "import", "--local", file])?;
    std::fs::remove_file(&archive).context("failed to remove an archive")?;
    if name == PAUSE {
        // A kubelet that tidies up is to leave it.
        containerd::ctr(programs, &["images", "label", name, "io.cri-containerd.pinned=pinned"])?;
    }
    Ok(())
}
