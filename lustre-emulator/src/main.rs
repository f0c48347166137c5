//! Mounts an emulated Lustre filesystem until it is told to stop. Everything it can do is in the
//! library.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use lustre_emulator::units::{bytes, time};
use lustre_emulator::{Clients, Emulator, Log, MdtSettings, OstSettings, Settings};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Mounts a FUSE filesystem that behaves as a Lustre client does: files have layouts, their data is
/// charged to OSTs with a bandwidth and a latency, and clients fight for locks. Needs root and /dev/fuse.
///
/// It runs in the foreground until SIGTERM or SIGINT, then unmounts. While it runs, root changes it with
/// extended attributes of the mount point: `setfattr -n user.emulator.ost.3 -v 'slow 10' MOUNT` (README).
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where to mount it: an existing directory.
    mount: PathBuf,
    /// Where content and layouts lie: an existing directory on a filesystem with trusted attributes.
    backing: PathBuf,
    /// How many OSTs it has.
    #[arg(long, default_value_t = 8)]
    osts: usize,
    /// Bytes per second of each OST, such as 100M (1024-based); none: no limit.
    #[arg(long, value_parser = bytes)]
    bandwidth: Option<u64>,
    /// What each request to an OST takes beside its bytes, such as 1ms or 200us.
    #[arg(long, value_parser = time, default_value = "0ms")]
    latency: Duration,
    /// How many requests each OST serves at once.
    #[arg(long, default_value_t = 64)]
    queue: usize,
    /// Bytes that fit on each OST.
    #[arg(long, value_parser = bytes, default_value = "1T")]
    capacity: u64,
    /// What each request to the metadata server takes.
    #[arg(long, value_parser = time, default_value = "0ms")]
    mdt_latency: Duration,
    /// How many requests the metadata server serves at once; none: any number.
    #[arg(long)]
    mdt_at_once: Option<usize>,
    /// Bytes that one client may write ahead of one OST; 0: every write waits.
    #[arg(long, value_parser = bytes, default_value = "8M")]
    window: u64,
    /// Every process is a client; without it, every thread is.
    #[arg(long)]
    processes: bool,
    /// Stripes of a file for which nobody has said anything.
    #[arg(long, default_value_t = 1)]
    stripe_count: u16,
    /// Stripe size of such a file, a multiple of 64 KiB.
    #[arg(long, value_parser = bytes, default_value = "4M")]
    stripe_size: u64,
    /// A pool and its OSTs, such as flash:0,1,2; may be repeated.
    #[arg(long, value_parser = pool)]
    pool: Vec<(String, Vec<u32>)>,
    /// How many threads serve requests.
    #[arg(long, default_value_t = 4)]
    threads: usize,
    /// Reads go through the page cache only without this.
    #[arg(long)]
    direct_reads: bool,
    /// Writes every operation to this file, one JSON object a line.
    #[arg(long)]
    log: Option<PathBuf>,
}

fn pool(text: &str) -> Result<(String, Vec<u32>), String> {
    let (name, osts) = text.split_once(':').ok_or("a pool is NAME:OST,OST...")?;
    if name.is_empty() || name.len() > 15 {
        return Err("a pool's name has 1 to 15 characters".to_owned());
    }
    let osts = osts.split(',').map(|ost| ost.parse().map_err(|error| format!("{ost}: {error}")));
    Ok((name.to_owned(), osts.collect::<Result<_, _>>()?))
}

impl Arguments {
    fn settings(&self) -> anyhow::Result<Settings> {
        let stripe_size =
            u32::try_from(self.stripe_size).context("the stripe size is too large")?;
        if stripe_size == 0 || !stripe_size.is_multiple_of(65536) {
            bail!("the stripe size is not a multiple of 64 KiB");
        }
        let ost = OstSettings {
            bandwidth: self.bandwidth,
            latency: self.latency,
            queue: self.queue,
            capacity: self.capacity,
        };
        Ok(Settings {
            mdt: MdtSettings { latency: self.mdt_latency, at_once: self.mdt_at_once },
            window: self.window,
            clients: if self.processes { Clients::Process } else { Clients::Thread },
            stripe_count: self.stripe_count,
            stripe_size,
            pools: self.pool.clone(),
            threads: self.threads,
            cached_reads: !self.direct_reads,
            ..Settings::new(self.osts, &ost)
        })
    }
}

/// Writes down what has been answered since the last time. Without a file it is only forgotten.
fn write_down(log: &Log, to: Option<&mut BufWriter<File>>) -> anyhow::Result<()> {
    let records = log.take();
    let Some(to) = to else { return Ok(()) };
    for record in records {
        serde_json::to_writer(&mut *to, &record)?;
        to.write_all(b"\n")?;
    }
    to.flush()?;
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let mut to = match &arguments.log {
        Some(path) => {
            let file = File::create(path).with_context(|| format!("make {}", path.display()))?;
            Some(BufWriter::new(file))
        }
        None => None,
    };
    let settings = arguments.settings()?;
    let mounted = Emulator::mount(&arguments.mount, &arguments.backing, settings)
        .with_context(|| format!("mount it at {}", arguments.mount.display()))?;
    while signals.pending().next().is_none() {
        write_down(mounted.log(), to.as_mut())?;
        std::thread::sleep(Duration::from_millis(100));
    }
    write_down(mounted.log(), to.as_mut())?;
    mounted.unmount();
    Ok(())
}
