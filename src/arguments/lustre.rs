//! The options of a copy that concern Lustre. What they mean is elsewhere.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};

use crate::lustre::choose::Policy;
use crate::lustre::expect::Expected;
use crate::lustre::job_id;
use crate::lustre::table::Table;
use crate::options::{CopyOptions, HsmPolicy};

/// Options that concern Lustre.
#[derive(Debug, Args)]
#[command(next_help_heading = "Lustre")]
pub struct LustreArgs {
    /// Which layout new files get: inherit (their directory's), preserve (the source's, as far as the
    /// destination has it), auto (by size), or options of lfs setstripe ("-c 4 -S 4M")
    #[arg(long, value_name = "LAYOUT", default_value = "inherit", allow_hyphen_values = true)]
    pub layout: Policy,
    /// The site's table of layouts by size for --layout auto (docs/lustre.md)
    #[arg(long, value_name = "FILE")]
    pub layout_table: Option<PathBuf>,
    /// What becomes of source files whose data is only in an archive (released)
    #[arg(long, value_name = "POLICY", default_value = "refuse")]
    pub hsm: HsmArg,
    /// Refuse to begin unless a Lustre filesystem (of this name) is mounted on PATH; may be repeated
    #[arg(long, value_name = "PATH[:FSNAME]")]
    pub expect_mount: Vec<OsString>,
    /// How long a Lustre filesystem may take to answer before the copy begins, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10")]
    pub mount_timeout: f64,
    /// The id of the job under which the servers count this copy (jobstats), where their clients take
    /// it from an environment variable
    #[arg(long, value_name = "ID", env = "LONGSHORE_JOB_ID", value_parser = job_id::check)]
    pub job_id: Option<String>,
}

/// What becomes of released files.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum HsmArg {
    /// Each is a failed item; none is brought back
    Refuse,
    /// Each is left out, and counted
    Skip,
    /// They are brought back by reading them, which may take long
    Restore,
}

impl LustreArgs {
    /// Fills in the options.
    ///
    /// # Errors
    /// What was typed makes no sense.
    pub(super) fn apply(&self, options: &mut CopyOptions) -> anyhow::Result<()> {
        options.layout = self.layout.clone();
        if let Some(path) = &self.layout_table {
            anyhow::ensure!(
                self.layout == Policy::Auto,
                "--layout-table is used by --layout auto only; add it"
            );
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("failed to read the layout table {}", path.display()))?;
            let table = Table::parse(&text)
                .with_context(|| format!("the layout table {}", path.display()))?;
            options.layout_table = Some(Arc::new(table));
        }
        options.hsm = match self.hsm {
            HsmArg::Refuse => HsmPolicy::Refuse,
            HsmArg::Skip => HsmPolicy::Skip,
            HsmArg::Restore => HsmPolicy::Restore,
        };
        let parse = |text: &OsString| Expected::parse(text).map_err(anyhow::Error::msg);
        options.expected_mounts = self
            .expect_mount
            .iter()
            .map(parse)
            .collect::<Result<_, _>>()
            .context("--expect-mount")?;
        let timeout = Duration::try_from_secs_f64(self.mount_timeout)
            .context("--mount-timeout needs a number of seconds")?;
        options.mount_timeout = Some(timeout);
        Ok(())
    }
}
