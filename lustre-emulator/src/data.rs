//! Reads and writes, done at once on the file behind, if there are objects and room for them. What they
//! cost and when they are answered is in `charge`.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use fuser::{Errno, FileHandle, INodeNo, ReplyData, ReplyWrite};

use crate::charge::Charge;
use crate::client::Client;
use crate::inode::{Inode, State};
use crate::layout::Layout;
use crate::passthrough::{Asked, Give, errno};
use crate::shared::Shared;
use crate::striping::Piece;

/// A write that may go on.
struct Admitted {
    pieces: Vec<Piece>,
    /// When the data is there.
    ready: Instant,
    /// Whether the metadata server had to make objects for it.
    laid_out: bool,
}

impl Client {
    pub(crate) fn write_data(
        &self,
        asked: Asked,
        handle: FileHandle,
        at: u64,
        data: &[u8],
        reply: ReplyWrite,
    ) {
        let shared = &self.0;
        let (client, length) = (shared.client(asked.thread), data.len() as u64);
        let opened = self.opened(handle);
        let path =
            opened.as_ref().ok().and_then(|(open, _)| open.own.path.get().cloned().flatten());
        let slot = shared.log.begin(&asked, client, path, (at, length));
        let written = opened.and_then(|(open, inode)| {
            let admitted = self.admit(&asked, &inode, &(at..at + length))?;
            open.file()?.write_all_at(data, at)?;
            open.own.wrote.store(true, Relaxed);
            Ok((inode, admitted))
        });
        let log = shared.log.clone();
        let bytes = u32::try_from(length).unwrap_or(u32::MAX);
        match written {
            Ok((inode, Admitted { pieces, ready, laid_out })) => {
                let arrived = asked.arrived;
                let mut charge = Charge { asked, client, slot, write: true, pieces, ready };
                let give: Give = Box::new(move || {
                    log.end(slot, None);
                    reply.written(bytes);
                });
                if !laid_out {
                    return shared.charge(&inode, charge, give);
                }
                // The metadata server has made objects first.
                let shared = shared.clone();
                let charged = move || {
                    charge.asked.arrived = Instant::now(); // at the OSTs
                    shared.charge(&inode, charge, give);
                };
                self.0.mdt.serve(arrived, Box::new(charged));
            }
            Err(error) => {
                log.end(slot, error.raw_os_error());
                reply.error(error.into());
            }
        }
    }

    /// Whether a write may go on: with objects and room for it. Returns where it goes.
    fn admit(&self, asked: &Asked, inode: &Arc<Inode>, range: &Range<u64>) -> io::Result<Admitted> {
        let shared = &self.0;
        let mut state = inode.state();
        let restored = shared.restore(inode, &mut state);
        let laid_out = shared.ensure(inode, &mut state, range)?;
        state.writes += 1;
        if shared.settings().misbehave.migrate_after == Some(state.writes) {
            shared.migrate_found(&mut state, &shared.behind.find(INodeNo(inode.ino))?)?;
        }
        let pieces = pieces(&state, true, range)?;
        self.refuse(&pieces)?;
        self.take_room(&mut state, range)?;
        Shared::changed(&mut state);
        Ok(Admitted { pieces, ready: restored.unwrap_or(asked.arrived), laid_out })
    }

    /// `EIO` of an OST that fails.
    fn refuse(&self, pieces: &[Piece]) -> io::Result<()> {
        for piece in pieces {
            let ost = piece.object.map(|(_, object)| object.ost);
            if ost.is_some_and(|ost| self.0.osts[ost as usize].fails()) {
                return Err(errno(Errno::EIO));
            }
        }
        Ok(())
    }

    /// Takes the room that a range of a file needs on its OSTs, all of it or none: `ENOSPC`.
    pub(crate) fn take_room(&self, state: &mut State, range: &Range<u64>) -> io::Result<()> {
        let pieces = pieces(state, true, range)?;
        let span = |piece: &Piece| piece.object_offset..piece.object_offset + piece.length;
        let mut taken: Vec<(u32, u64)> = Vec::new();
        for piece in &pieces {
            let Some((_, object)) = piece.object else { continue };
            let known = state.objects.entry(object).or_default();
            let missing = known.extents.missing(&span(piece));
            if !self.0.osts[object.ost as usize].reserve(missing) {
                for (ost, bytes) in taken {
                    self.0.osts[ost as usize].give_back(bytes);
                }
                return Err(errno(Errno::ENOSPC));
            }
            taken.push((object.ost, missing));
        }
        for piece in &pieces {
            if let Some((_, object)) = piece.object {
                state.objects.entry(object).or_default().extents.insert(span(piece));
            }
        }
        Ok(())
    }

    /// Gives the room of a hole back.
    pub(crate) fn free_room(&self, state: &mut State, range: &Range<u64>) {
        for piece in pieces(state, true, range).unwrap_or_default() {
            let Some((_, object)) = piece.object else { continue };
            let span = piece.object_offset..piece.object_offset + piece.length;
            let known = state.objects.entry(object).or_default();
            self.0.osts[object.ost as usize].give_back(known.extents.remove(&span));
        }
    }

    pub(crate) fn read_data(
        &self,
        asked: Asked,
        handle: FileHandle,
        (at, size): (u64, u32),
        reply: ReplyData,
    ) {
        let shared = &self.0;
        let client = shared.client(asked.thread);
        let opened = self.opened(handle);
        let path =
            opened.as_ref().ok().and_then(|(open, _)| open.own.path.get().cloned().flatten());
        let read = opened.and_then(|(open, inode)| {
            let mut data = shared.buffers.take(size as usize);
            let length = open.read_into(at, &mut data[..size as usize])?;
            Ok((data, length, inode))
        });
        let length = read.as_ref().map_or(0, |(_, length, _)| *length as u64);
        let slot = shared.log.begin(&asked, client, path, (at, length));
        let log = shared.log.clone();
        let read = read.and_then(|(data, used, inode)| {
            let mut state = inode.state();
            let ready = shared.restore(&inode, &mut state).unwrap_or(asked.arrived);
            let pieces = pieces(&state, false, &(at..at + length)).unwrap_or_default();
            drop(state);
            self.refuse(&pieces)?;
            Ok(((data, used), inode, pieces, ready))
        });
        match read {
            Ok(((data, used), inode, pieces, ready)) => {
                let keeper = shared.clone();
                let charge = Charge { asked, client, slot, write: false, pieces, ready };
                let give: Give = Box::new(move || {
                    log.end(slot, None);
                    reply.data(&data[..used]);
                    keeper.buffers.give_back(data);
                });
                shared.charge(&inode, charge, give);
            }
            Err(error) => {
                log.end(slot, error.raw_os_error());
                reply.error(error.into());
            }
        }
    }
}

fn pieces(state: &State, write: bool, range: &Range<u64>) -> io::Result<Vec<Piece>> {
    let none = Layout::default();
    let layout = state.layout.as_ref().unwrap_or(&none);
    layout.pieces(write, range.clone()).map_err(|_| errno(Errno::ENODATA))
}
