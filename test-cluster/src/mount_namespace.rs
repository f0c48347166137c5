//! A thread that lives in a mount namespace of its own and does there what it is told. It decides
//! nothing about what is mounted.

use std::io;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

type Job = Box<dyn FnOnce() + Send>;

/// What stands for "no source", "no type" or "no data" of a mount.
pub(crate) const NONE: Option<&str> = None;

/// A mount namespace. The kernel keeps it as long as this, or a process that was started in it, lives;
/// processes that were started with a death signal get it when this is dropped.
pub(crate) struct MountNamespace {
    jobs: Mutex<Sender<Job>>,
    id: u64,
}

impl MountNamespace {
    /// A copy of the calling thread's namespace. Nothing that is mounted in it reaches the original;
    /// with `following`, what is mounted in shared mounts of the original still arrives here.
    ///
    /// # Errors
    ///
    /// When this process may not have one.
    pub(crate) fn copy_of_callers(following: bool) -> io::Result<Self> {
        let (jobs, received) = channel::<Job>();
        let (say, said) = channel();
        std::thread::Builder::new().name("mount namespace".to_owned()).spawn(move || {
            let flag = if following { MsFlags::MS_SLAVE } else { MsFlags::MS_PRIVATE };
            let entered = unshare(CloneFlags::CLONE_NEWNS)
                .and_then(|()| mount(NONE, "/", NONE, MsFlags::MS_REC | flag, NONE))
                .map_err(io::Error::from)
                .and_then(|()| namespace_of("thread-self"));
            let go_on = entered.is_ok();
            if say.send(entered).is_ok() && go_on {
                received.into_iter().for_each(|job| job());
            }
        })?;
        let id = said.recv().map_err(io::Error::other)??;
        Ok(Self { jobs: Mutex::new(jobs), id })
    }

    /// A copy of this one, in which what is mounted later in shared mounts of this one arrives too.
    ///
    /// # Errors
    ///
    /// As [`MountNamespace::copy_of_callers`].
    pub(crate) fn follower(&self) -> io::Result<Self> {
        self.run(|| Self::copy_of_callers(true))
    }

    /// Does something inside.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, answered) = channel();
        let job: Job = Box::new(move || drop(answer.send(work())));
        let jobs = self.jobs.lock().expect("nothing panics while it holds this lock");
        jobs.send(job).expect("the thread lives as long as its channel");
        drop(jobs);
        answered.recv().expect("what is done inside does not panic")
    }

    /// The processes inside, leaders of their threads only.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let Ok(all) = std::fs::read_dir("/proc") else { return Vec::new() };
        let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid: &u32| namespace_of(&pid.to_string()).is_ok_and(|id| id == self.id))
            .collect()
    }
}

fn namespace_of(process: &str) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(format!("/proc/{process}/ns/mnt")).map(|namespace| namespace.ino())
}
