//! How many threads, how much in flight, how many descriptors: decided once before the copy, from
//! the cores, the filesystems and the limits of this process. It changes nothing but the soft limit
//! of open files.

use std::num::NonZeroUsize;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::filesystem::Filesystem;
use crate::error::Refusal;
use crate::lustre::parameters;
use crate::options::{BackendChoice, ConcurrencyChoice, CopyOptions};
use crate::sys::{processors::cores, ring};

/// Reads of small files in flight per worker: measured, more gains nothing.
const DEPTH: usize = 64;
/// Memory for buffers of small files, of all workers together: 64 files for each of 4 workers.
const SMALL_BUFFERS_BYTES: usize = 64 << 20;
/// Memory for buffers of large files, of all workers together.
const LARGE_BUFFERS_BYTES: usize = 48 << 20;
/// Chunk of a large file: two huge pages.
const CHUNK_BYTES: usize = 4 << 20;
/// Smallest chunk, when many threads share the memory.
const CHUNK_MIN_BYTES: usize = 1 << 20;
/// Chunks of a large file in flight on one ring.
const LARGE_SLOTS: usize = 4;
/// Threads per core where threads have to hide the latency of the device or server.
const THREADS_PER_CORE: usize = 4;
/// Workers to begin with where every request goes to a server and back: few for any server, three
/// doublings less to wait for, and two for each of eight data servers, so that none of them idles while
/// the tuner looks.
const REMOTE_BEGIN: usize = 16;
/// More threads than this gain nothing without adapting to the filesystem.
const THREADS_MAX: usize = 32;
/// More threads than this are never tried: they hide 1 ms for 100,000 operations a second.
const ADAPTIVE_MAX: usize = 128;
/// As long as FUSE lets a request be: 256 pages (`fs.fuse.max_pages_limit`). Of a longer one the parts are asked for one
/// by one.
const REQUEST_BYTES: usize = 1 << 20;
/// Ancestors whose descriptors stay open give way to more workers down to so many.
const KEEP_WITH_EXTRAS: usize = 8;
/// Smallest unit of O_DIRECT.
const EXTRA_UNIT_MIN: usize = 256 << 10;
/// Ancestors of the current directory whose descriptors stay open, per worker.
const KEEP_MAX: usize = 256;
/// A chain shorter than this would be opened again at every step.
const KEEP_MIN: usize = 2;
/// Descriptors for what belongs to no worker: the directory that a root hangs in, on both sides, and
/// what a step opens for a moment.
const SPARE_DESCRIPTORS: usize = 5;
/// Striped files that may wait for servers with room: so far the walk gets ahead of a slow server.
const PARKED_MAX: usize = 64;
/// They get this part of all descriptors.
const PARKED_SHARE: usize = 4;
/// What a Lustre client sends to a server at once, where it does not say.
const RPC_BYTES: u64 = 4 << 20;
/// Longest piece of a striped file, however long requests are: memory.
const PIECE_MAX_BYTES: u64 = 16 << 20;

/// What moves the bytes, before anything is known about single files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mover {
    /// Rings, with plain system calls beside them.
    Uring,
    /// Plain system calls.
    Plain,
    /// `copy_file_range`, with plain system calls behind it.
    Range,
    /// `splice`, with plain system calls behind it.
    Splice,
}

/// The sizes of one copy.
#[derive(Debug, Clone)]
pub(crate) struct Sizing {
    pub(crate) mover: Mover,
    /// Whether cloning is tried first.
    pub(crate) clone: bool,
    /// The most workers that there may be.
    pub(crate) threads: usize,
    /// Workers to begin with.
    pub(crate) starters: usize,
    /// Unit of O_DIRECT, in bytes, of workers that the copy begins with.
    pub(crate) unit: usize,
    /// The same of workers that come later.
    pub(crate) extra_unit: usize,
    /// Workers that a directory is cut up for, even before they are there.
    pub(crate) expected: usize,
    /// Small files in flight per worker.
    pub(crate) depth: usize,
    /// Chunks of large files in flight per worker.
    pub(crate) large_slots: usize,
    pub(crate) chunk_bytes: usize,
    /// Longest piece of a striped file.
    pub(crate) piece_bytes: usize,
    /// Striped files that may wait for servers with room.
    pub(crate) parked: usize,
    /// Ancestors whose descriptors stay open, per worker.
    pub(crate) keep: usize,
    /// Fast paths that were not to be had, for the report.
    pub(crate) notes: Vec<String>,
}

impl Sizing {
    /// Decides for a copy between two filesystems.
    ///
    /// # Errors
    /// A refusal when the ring was asked for and is not to be had, or when the limit of open files
    /// is too low for even one worker.
    pub(crate) fn new(
        options: &CopyOptions,
        source: Filesystem,
        destination: Filesystem,
    ) -> Result<Self, Refusal> {
        let mut notes = Vec::new();
        let mover = choose_mover(options.backend, source, destination, &mut notes)?;
        let cores = cores();
        let in_memory = source.in_memory && destination.in_memory;
        let adaptive = options.concurrency == ConcurrencyChoice::Adaptive;
        let waiting = (cores * THREADS_PER_CORE).min(THREADS_MAX);
        let typed = options.threads.map(NonZeroUsize::get);
        let wanted = match typed {
            Some(threads) => threads,
            None if adaptive => ADAPTIVE_MAX,
            None if in_memory || mover == Mover::Uring => cores,
            None => waiting,
        };
        let remote = source.remote || destination.remote;
        let begin = match (adaptive, remote) {
            (false, _) => wanted,
            // Plain reads of a disk wait, each for itself, and a short copy would be over before the tuner
            // has found that out. Where all is in memory already, more threads are no loss.
            (true, false) if mover == Mover::Plain && !source.in_memory => waiting.min(wanted),
            (true, false) => cores.min(wanted),
            (true, true) => cores.max(REMOTE_BEGIN).min(wanted),
        };
        let descriptors = descriptors();
        let layouts = source.layouts || destination.layouts;
        let for_parked = if layouts { descriptors / PARKED_SHARE } else { 0 };
        let descriptors = descriptors - for_parked;
        let (starters, depth, keep) = share_descriptors(descriptors, begin, mover)?;
        let usable = descriptors.saturating_sub(SPARE_DESCRIPTORS);
        let (extras, keep) =
            room_for_extras(usable, (starters, depth, keep), wanted - begin, mover);
        // Each holds both files, and a chain of directories on both sides.
        let parked = PARKED_MAX.min(for_parked / (2 + 2 * (keep + 1)));
        let threads = starters + extras;
        let wanted = typed.unwrap_or(begin);
        if threads < wanted {
            notes.push(format!(
                "only {threads} of {wanted} threads: the limit of open files leaves {descriptors}; \
                 raise it with ulimit -n"
            ));
        }
        let per_worker = LARGE_BUFFERS_BYTES / starters;
        let chunk_bytes =
            per_worker.clamp(CHUNK_MIN_BYTES, CHUNK_BYTES) / CHUNK_MIN_BYTES * CHUNK_MIN_BYTES;
        Ok(Self {
            mover,
            clone: matches!(options.backend, BackendChoice::Auto | BackendChoice::Clone),
            threads,
            starters,
            unit: if remote { chunk_bytes.min(REQUEST_BYTES) } else { chunk_bytes },
            extra_unit: (LARGE_BUFFERS_BYTES / threads).clamp(EXTRA_UNIT_MIN, CHUNK_MIN_BYTES),
            expected: if remote { threads.min(THREADS_MAX) } else { 1 },
            depth,
            large_slots: (per_worker / chunk_bytes).clamp(1, LARGE_SLOTS),
            chunk_bytes,
            piece_bytes: piece_bytes(source, destination),
            parked,
            keep,
            notes,
        })
    }

    /// The backend's name in the report.
    pub(crate) fn backend_word(&self, choice: BackendChoice) -> &'static str {
        match (self.mover, choice) {
            (_, BackendChoice::Clone) => "clone",
            (Mover::Uring, _) => "uring",
            (Mover::Plain | Mover::Range | Mover::Splice, _) => "threads",
        }
    }
}

/// Pieces of striped files are as long as the client's requests to its servers.
fn piece_bytes(source: Filesystem, destination: Filesystem) -> usize {
    let known = (source.layouts || destination.layouts)
        .then(|| parameters::rpc_bytes(&parameters::root()))
        .flatten();
    let bytes = known.unwrap_or(RPC_BYTES).clamp(CHUNK_MIN_BYTES as u64, PIECE_MAX_BYTES);
    usize::try_from(bytes).expect("at most 16 MiB")
}

fn choose_mover(
    choice: BackendChoice,
    source: Filesystem,
    destination: Filesystem,
    notes: &mut Vec<String>,
) -> Result<Mover, Refusal> {
    match choice {
        BackendChoice::Threads => Ok(Mover::Plain),
        BackendChoice::Clone => Ok(Mover::Range),
        BackendChoice::Uring => match ring::probe() {
            Ok(()) => Ok(Mover::Uring),
            Err(errno) => Err(Refusal::Request(format!(
                "--backend uring: this process may not use io_uring ({}); \
                 leave the choice to --backend auto, or see longshore doctor",
                why_no_ring(errno)
            ))),
        },
        BackendChoice::Auto if source.server_copies_to(destination) => Ok(Mover::Range),
        BackendChoice::Auto if source.in_memory && destination.in_memory => Ok(Mover::Splice),
        BackendChoice::Auto => match ring::probe() {
            Ok(()) if source.asynchronous => Ok(Mover::Uring),
            Ok(()) => Ok(Mover::Plain),
            Err(errno) => {
                notes.push(format!("io_uring: not used, {}", why_no_ring(errno)));
                Ok(Mover::Plain)
            }
        },
    }
}

/// The usual reason behind the errno of setting up a ring.
fn why_no_ring(errno: Errno) -> String {
    let reason = match errno {
        Errno::ENOSYS => "the kernel has none or a seccomp filter hides it",
        Errno::EPERM | Errno::EACCES => "kernel.io_uring_disabled or a seccomp filter refuses it",
        Errno::ENOMEM => "the locked-memory limit is too low",
        Errno::EOPNOTSUPP => "the kernel's is too old",
        _ => "setting it up failed",
    };
    format!("{reason} ({errno:?})")
}

/// Raises the soft limit of open files to the hard one and says how many more may be opened.
pub(crate) fn descriptors() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    let limit = if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    let open = std::fs::read_dir("/proc/self/fd").map_or(8, Iterator::count);
    usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(open)
}

/// Splits the descriptors among workers. Returns threads, small files in flight per worker, and
/// ancestors that stay open per worker.
fn share_descriptors(
    descriptors: usize,
    wanted: usize,
    mover: Mover,
) -> Result<(usize, usize, usize), Refusal> {
    let least = per_worker(1, KEEP_MIN, mover);
    let usable = descriptors.saturating_sub(SPARE_DESCRIPTORS);
    if usable < least {
        return Err(Refusal::Request(format!(
            "the limit of open files leaves {descriptors} descriptors, at least {} are needed; \
             raise it with ulimit -n",
            least + SPARE_DESCRIPTORS
        )));
    }
    // With few descriptors, half as many workers with room to move do better than twice as many.
    let threads = wanted.min(usable / (2 * least)).max(1);
    let share = usable / threads;
    let memory = SMALL_BUFFERS_BYTES / threads / crate::backend::uring::BYTES_IN_FLIGHT;
    let most = if mover == Mover::Uring { DEPTH.min(memory.max(1)) } else { 1 };
    let fits = |depth: &usize| per_worker(*depth, KEEP_MIN, mover) <= share;
    // Half for the files, the rest for long chains.
    let depth = (1..=most).rev().find(|depth| fits(&(2 * depth))).unwrap_or(1);
    let keep = (KEEP_MIN..=KEEP_MAX)
        .rev()
        .find(|keep| per_worker(depth, *keep, mover) <= share)
        .unwrap_or(KEEP_MIN);
    Ok((threads, depth, keep))
}

/// How many workers more than those that the copy begins with the descriptors allow, at most `wanted`,
/// and how many ancestors then stay open per worker.
fn room_for_extras(
    usable: usize,
    (starters, depth, keep): (usize, usize, usize),
    wanted: usize,
    mover: Mover,
) -> (usize, usize) {
    let room = |keep| {
        let rest = usable.saturating_sub(starters * per_worker(depth, keep, mover));
        rest / per_worker(1, keep, Mover::Plain)
    };
    let least = keep.min(KEEP_WITH_EXTRAS);
    let keep = (least..=keep).rev().find(|keep| room(*keep) >= wanted).unwrap_or(least);
    (room(keep).min(wanted), keep)
}

/// Descriptors that one worker may have open: its rings or its pipe; for each small file in flight the file and
/// its directory, on both sides; the file that is being opened; the current directory and the
/// ancestors that stay open, on both sides.
fn per_worker(depth: usize, keep: usize, mover: Mover) -> usize {
    let own = if matches!(mover, Mover::Uring | Mover::Splice) { 2 } else { 0 };
    own + 4 * depth + 3 + 2 * (keep + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_descriptors_never_exceed_what_there_is() {
        for descriptors in 24..3000 {
            for wanted in [1, 2, 8, 32] {
                for mover in [Mover::Uring, Mover::Plain] {
                    let (threads, depth, keep) =
                        share_descriptors(descriptors, wanted, mover).expect("enough for one");
                    let used = threads * per_worker(depth, keep, mover) + SPARE_DESCRIPTORS;
                    assert!(
                        used <= descriptors,
                        "{used} of {descriptors}: {threads} {depth} {keep}"
                    );
                }
            }
        }
    }

    #[test]
    fn extras_fit_into_what_the_others_leave() {
        for descriptors in (24..6000).step_by(7) {
            for mover in [Mover::Uring, Mover::Plain] {
                let shared = share_descriptors(descriptors, 2, mover).expect("enough for one");
                let usable = descriptors - SPARE_DESCRIPTORS;
                let (extras, keep) = room_for_extras(usable, shared, 126, mover);
                let (starters, depth, _) = shared;
                let used = starters * per_worker(depth, keep, mover)
                    + extras * per_worker(1, keep, Mover::Plain);
                assert!(used <= usable, "{used} of {usable}: {shared:?} {extras} {keep}");
                assert!(extras == 126 || descriptors < 5000, "{extras} of {descriptors}");
            }
        }
    }

    #[test]
    fn plain_calls_begin_with_threads_that_wait_for_a_disk_and_not_for_memory() {
        let cores = cores();
        let of = |path: &str| {
            Filesystem::of(std::fs::File::open(path).expect("opens")).expect("a filesystem")
        };
        // Nothing of /proc is known but that its files are not memory like those of tmpfs.
        let mut disk = of("/proc");
        (disk.in_memory, disk.remote, disk.layouts) = (false, false, false);
        let mut memory = disk;
        memory.in_memory = true;
        let begins = |backend, threads, source| {
            let threads = NonZeroUsize::new(threads);
            let options = CopyOptions { backend, threads, ..CopyOptions::default() };
            Sizing::new(&options, source, disk).map(|sizing| sizing.starters).ok()
        };
        let many = Some((cores * THREADS_PER_CORE).min(THREADS_MAX));
        assert_eq!(begins(BackendChoice::Threads, 0, disk), many);
        assert_eq!(begins(BackendChoice::Threads, 0, memory), Some(cores));
        assert_eq!(begins(BackendChoice::Threads, 1, disk), Some(1), "what is typed is the cap");
        if let Some(starters) = begins(BackendChoice::Uring, 0, disk) {
            assert_eq!(starters, cores);
        }
    }

    #[test]
    fn pages_are_spliced_where_both_sides_are_memory() {
        let mut memory = Filesystem::of(std::fs::File::open("/proc").expect("opens")).expect("one");
        memory.in_memory = true;
        let mut other = memory;
        other.in_memory = false;
        let mover = |backend, destination| {
            let options = CopyOptions { backend, ..CopyOptions::default() };
            Sizing::new(&options, memory, destination).map(|sizing| sizing.mover).ok()
        };
        assert_eq!(mover(BackendChoice::Auto, memory), Some(Mover::Splice));
        assert_eq!(mover(BackendChoice::Threads, memory), Some(Mover::Plain));
        assert_eq!(mover(BackendChoice::Auto, other), Some(Mover::Plain));
    }

    #[test]
    fn too_few_descriptors_are_refused_with_the_number_needed() {
        let refusal = share_descriptors(10, 2, Mover::Plain).expect_err("too few").to_string();
        assert!(refusal.contains("ulimit -n"), "{refusal}");
    }
}
