//! The copy's end of its control socket: a thread that starts listening when the copy has run for a
//! moment, serves one request after the other, and goes with the copy.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::place::Place;
use super::wire::{Reply, Request, obey};
use crate::lanes::Lanes;
use crate::progress::Progress;

/// A copy that is over by then needs no control, and does not pay for it.
const LISTEN_AFTER: Duration = Duration::from_millis(200);
/// How long somebody who has connected may be silent: others wait meanwhile.
const SILENCE: Duration = Duration::from_millis(500);
/// Longest request in bytes.
const REQUEST_MAX: usize = 64 << 10;

/// A control socket that is served, or will be. Dropped, it is closed and removed.
#[derive(Debug)]
pub struct Server {
    /// Closed to end the thread.
    wake: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
    note: Arc<Mutex<Option<String>>>,
}

/// What the thread works with.
struct Served {
    lanes: Arc<Lanes>,
    progress: Arc<Progress>,
    over: UnixStream,
    note: Arc<Mutex<Option<String>>>,
}

impl Server {
    /// Serves a copy. With an explicit path the socket is there at once, else a moment later. What
    /// goes wrong is a note, not an error.
    #[must_use]
    pub fn start(place: Place, lanes: &Arc<Lanes>, progress: &Arc<Progress>) -> Self {
        let note = Arc::new(Mutex::new(None));
        let mut server = Self { wake: None, thread: None, note: Arc::clone(&note) };
        if place == Place::None {
            return server;
        }
        let started = UnixStream::pair().and_then(|(wake, over)| {
            let (lanes, progress) = (Arc::clone(lanes), Arc::clone(progress));
            let served = Served { lanes, progress, over, note };
            let early = matches!(place, Place::At(_)).then(|| served.listen(&place));
            let thread = std::thread::Builder::new().name("control".to_owned());
            let thread = thread.spawn(move || served.run(&place, early))?;
            Ok((wake, thread))
        });
        match started {
            Ok((wake, thread)) => {
                server.wake = Some(wake);
                server.thread = Some(thread);
            }
            Err(error) => server.set_note(error.to_string()),
        }
        server
    }

    /// Why there is no control socket, when there is none although one was wanted.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        self.note.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_note(&self, problem: String) {
        set_note(&self.note, problem);
    }
}

fn set_note(note: &Mutex<Option<String>>, problem: String) {
    let text = format!("no control socket: {problem}");
    *note.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.wake.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic there is no reason to lose a copy's report
        }
    }
}

/// A listener with its path, which is removed when it goes.
struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Served {
    fn listen(&self, place: &Place) -> Option<Listener> {
        let bound = place.prepare().and_then(|path| {
            let Some(path) = path else { return Ok(None) };
            // Between binding and listening nobody answers, and another copy or a `ctl` that came just
            // then would take the socket for a dead process's: it gets its name when it listens.
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let early = path.with_file_name(format!(".{name}.{}.new", std::process::id()));
            let left = std::fs::symlink_metadata(&early); // by a killed process with our number
            if left.is_ok_and(|left| left.file_type().is_socket()) {
                let _ = std::fs::remove_file(&early);
            }
            let socket = UnixListener::bind(&early)
                // Whoever is waiting may have gone when he is let in: that must not be waited for.
                .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
                .and_then(|socket| std::fs::rename(&early, &path).map(|()| socket))
                .map_err(|error| format!("{}: {error}", path.display()))?;
            Ok(Some(Listener { socket, path }))
        });
        bound.unwrap_or_else(|problem| {
            set_note(&self.note, problem);
            None
        })
    }

    fn run(&self, place: &Place, early: Option<Option<Listener>>) {
        let listener = match early {
            Some(listener) => listener,
            None if self.waits_until_over(None, LISTEN_AFTER) => return,
            None => self.listen(place),
        };
        let Some(listener) = listener else { return };
        loop {
            if self.waits_until_over(Some(&listener.socket), Duration::MAX) {
                return;
            }
            match listener.socket.accept() {
                Ok((stream, _)) => self.serve(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // Out of descriptors, perhaps: the copy needs them more.
                Err(_) if self.waits_until_over(None, SILENCE) => return,
                Err(_) => {}
            }
        }
    }

    /// Waits until the copy is over (true), or something can be read (false), or the time is up (false).
    fn waits_until_over(&self, other: Option<&dyn AsFdDyn>, limit: Duration) -> bool {
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::NONE);
        let mut wanted = vec![PollFd::new(self.over.as_fd(), PollFlags::POLLIN)];
        wanted.extend(other.map(|fd| PollFd::new(fd.fd(), PollFlags::POLLIN)));
        let _ = poll(&mut wanted, timeout); // interrupted: looked at again by the caller
        wanted[0].any().unwrap_or(false)
    }

    /// Answers what one client asks, until it goes or falls silent.
    fn serve(&self, mut stream: UnixStream) {
        let peer = getsockopt(&stream, PeerCredentials).map(|peer| peer.uid());
        let own = nix::unistd::geteuid().as_raw();
        let allowed = peer.is_ok_and(|uid| uid == own || uid == 0);
        let _ = stream.set_write_timeout(Some(SILENCE));
        if !allowed {
            send(&mut stream, &Reply::refused("only the user who runs the copy may speak here"));
            return;
        }
        let mut pending = Vec::new();
        let mut last = Instant::now();
        while pending.len() < REQUEST_MAX && last.elapsed() < SILENCE {
            if self.waits_until_over(Some(&stream), SILENCE) {
                return;
            }
            let mut part = [0; 4096];
            if stream.set_nonblocking(true).is_err() {
                return;
            }
            match stream.read(&mut part) {
                Ok(0) => return,
                Ok(read) => pending.extend_from_slice(&part[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(_) => return,
            }
            let _ = stream.set_nonblocking(false);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                let reply = match serde_json::from_slice::<Request>(&line) {
                    Ok(request) => obey(&request, &self.lanes, &self.progress),
                    Err(error) => Reply::refused(format!("not understood: {error}")),
                };
                if !send(&mut stream, &reply) {
                    return;
                }
                last = Instant::now();
            }
        }
    }
}

/// Something with a descriptor, for a list of different things.
trait AsFdDyn {
    fn fd(&self) -> std::os::fd::BorrowedFd<'_>;
}

impl<T: AsFd> AsFdDyn for T {
    fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.as_fd()
    }
}

/// Sends one line; false when nobody is there any more.
fn send(stream: &mut UnixStream, reply: &Reply) -> bool {
    let Ok(mut text) = serde_json::to_vec(reply) else { return false };
    text.push(b'\n');
    stream.write_all(&text).is_ok()
}
