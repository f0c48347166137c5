//! Part of a file as memory that is shared with it: what is stored there is in the file at once, and survives this
//! process however it ends. When the filesystem can no longer take it (its server is gone, its device fails, somebody
//! shortened the file), the kernel answers a store with SIGBUS, which ends a process by default; here it is an error.

use std::fs::File;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst, compiler_fence,
};

use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};
use nix::errno::Errno;

use super::errno_of;

/// Mapped pages of a file.
#[derive(Debug)]
pub struct SharedMemory(MmapRaw);

impl SharedMemory {
    /// Maps `length` bytes from `offset` on, both multiples of the page size. The blocks should have been
    /// allocated: a full filesystem is told from other failures only then. Nothing is read around the page
    /// that is stored to: the rest belongs to others.
    ///
    /// # Errors
    /// The errno of mmap(2); `ENODEV` where the filesystem cannot.
    pub fn map(file: &File, offset: u64, length: usize) -> Result<Self, Errno> {
        BEFORE.get_or_init(catch_bus_errors);
        let mapping =
            MmapOptions::new().offset(offset).len(length).map_raw(file).map_err(errno_of)?;
        let _ = mapping.advise(Advice::Random); // advice only
        Ok(Self(mapping))
    }

    /// Takes its pages out of this process's memory, for when nothing more is stored for a while.
    pub fn rest(&self) {
        // SAFETY: the mapping is shared, so that what was stored is in the file's pages, not in the process's; they are
        // found there again when somebody stores. After a failed store there is nothing to lose.
        let rested = unsafe { self.0.unchecked_advise(UncheckedAdvice::DontNeed) };
        drop(rested); // advice only
    }

    /// Stores bytes.
    ///
    /// # Errors
    /// `EIO` when the file does not take them. Nothing that is stored afterwards reaches it.
    ///
    /// # Panics
    /// When they do not fit in at `at`.
    pub fn store(&mut self, at: usize, bytes: &[u8]) -> Result<(), Errno> {
        let room = self.0.len().checked_sub(at).expect("the place lies in the mapping");
        assert!(bytes.len() <= room, "the bytes fit into the mapping");
        // SAFETY: `at` is at most the mapping's length, as checked above.
        let place = unsafe { self.0.as_mut_ptr().add(at) };
        STORING.with(|storing| {
            storing.lost.store(false, Relaxed);
            storing.start.store(self.0.as_ptr().expose_provenance(), Relaxed);
            storing.length.store(self.0.len(), Relaxed);
            compiler_fence(SeqCst);
            // SAFETY: `place` has room for that many bytes, as checked above; nobody has a reference into
            // the mapping, so nothing of ours overlaps it.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len()) };
            compiler_fence(SeqCst);
            storing.length.store(0, Relaxed);
            if storing.lost.load(Relaxed) { Err(Errno::EIO) } else { Ok(()) }
        })
    }
}

/// What a thread is storing to, for the handler.
struct Storing {
    start: AtomicUsize,
    /// 0 while nothing is stored.
    length: AtomicUsize,
    lost: AtomicBool,
}

thread_local! {
    // Needs no setting up and no dropping, so that a handler may use it.
    static STORING: Storing = const {
        Storing { start: AtomicUsize::new(0), length: AtomicUsize::new(0), lost: AtomicBool::new(false) }
    };
}

/// What the process did about SIGBUS before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Has [`on_bus_error`] called from now on, and returns what was done before.
fn catch_bus_errors() -> libc::sigaction {
    let mut before = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: all zeros are a value of this type: the default action, no flags.
    let mut action = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_bus_error;
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for and does only what a handler may; both
    // structures are ours.
    let set = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, before.as_mut_ptr()) };
    debug_assert_eq!(set, 0, "SIGBUS can be caught");
    // SAFETY: zeros before, and what the kernel has put there since.
    unsafe { before.assume_init() }
}

/// A store that the file does not take goes to memory of the process instead, and is told. Everything else
/// is what it would have been without this.
extern "C" fn on_bus_error(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel hands a valid structure to a handler that asked for one.
    let info = unsafe { &*info };
    // SAFETY: that of a fault has an address; where somebody sent the signal it is any number.
    let address = unsafe { info.si_addr() }.addr();
    let (start, length) =
        STORING.with(|storing| (storing.start.load(Relaxed), storing.length.load(Relaxed)));
    if address.wrapping_sub(start) < length {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let start = ptr::with_exposed_provenance_mut(start);
        // SAFETY: that is the mapping which this thread holds mutably, all of it and nothing else; to whom it
        // belongs stays as it is, he unmaps it in the end.
        let replaced = unsafe { libc::mmap(start, length, protection, flags, -1, 0) };
        if replaced != libc::MAP_FAILED {
            STORING.with(|storing| storing.lost.store(true, Relaxed));
            return;
        }
    }
    let default = MaybeUninit::<libc::sigaction>::zeroed();
    let before = BEFORE.get().map_or(default.as_ptr(), ptr::from_ref);
    // SAFETY: `before` is what the process had, or the default action. A fault comes again at once and meets it.
    unsafe { libc::sigaction(signal, before, ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_in_shared_memory_is_in_the_file() {
        use std::os::unix::fs::FileExt;
        let file = tempfile::tempfile().expect("a file");
        file.set_len(1 << 17).expect("extended");
        let mut memory = SharedMemory::map(&file, 1 << 16, 1 << 16).expect("mapped");
        memory.store((1 << 16) - 3, b"end").expect("stored");
        memory.rest();
        memory.store(0, b"begin").expect("stored");
        memory.rest();
        let mut read = [0; 5];
        file.read_exact_at(&mut read, 1 << 16).expect("read");
        assert_eq!(&read, b"begin");
        drop(memory);
        let mut read = [0; 3];
        file.read_exact_at(&mut read, (1 << 17) - 3).expect("read");
        assert_eq!(&read, b"end");
    }

    #[test]
    fn what_the_file_does_not_take_is_an_error_and_does_not_end_the_process() {
        let file = tempfile::tempfile().expect("a file");
        let whole = tempfile::tempfile().expect("a file");
        whole.set_len(1 << 16).expect("extended");
        for _ in 0..2 {
            file.set_len(1 << 16).expect("extended");
            let mut memory = SharedMemory::map(&file, 0, 1 << 16).expect("mapped");
            memory.store(5000, b"before").expect("stored");
            file.set_len(0).expect("shortened");
            assert_eq!(memory.store(5000, b"after"), Err(Errno::EIO));
            memory.rest();
            memory.store(5000, b"again").expect("memory of the process");
            let mut other = SharedMemory::map(&whole, 0, 1 << 16).expect("mapped");
            other.store(0, b"whole").expect("stored");
        }
        assert_eq!(file.metadata().expect("a size").len(), 0);
    }

    /// In a process of its own, which is this test once more.
    #[test]
    fn any_other_bus_error_ends_the_process_as_before() {
        use std::os::unix::process::ExitStatusExt;
        const AGAIN: &str = "LONGSHORE_TEST_BUS_ERROR";
        let name = "sys::shared_memory::tests::any_other_bus_error_ends_the_process_as_before";
        if std::env::var_os(AGAIN).is_none() {
            let test = std::env::current_exe().expect("a path");
            let ended =
                std::process::Command::new(test).args(["--exact", name]).env(AGAIN, "1").output();
            let ended = ended.expect("it starts").status;
            assert_eq!(ended.signal(), Some(libc::SIGBUS), "{ended}");
            return;
        }
        let file = tempfile::tempfile().expect("a file");
        file.set_len(1 << 16).expect("extended");
        let mut memory = SharedMemory::map(&file, 0, 1 << 16).expect("mapped");
        memory.store(0, b"stored").expect("stored");
        file.set_len(0).expect("shortened");
        // SAFETY: within the mapping.
        unsafe { memory.0.as_ptr().read_volatile() };
    }
}
