//! Moves the pieces of a striped file that an [`ObjectSupply`] hands out: the same for every backend, for
//! a server's client takes data by plain calls (`lustre-layouts` section 4.4: it has no non-blocking ones).

use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::objects::{ObjectSupply, Piece, Role, Side};
use super::plain::{account, read_up_to, shrunk, to_usize, write_all};
use super::{LargeFile, Mechanism};
use crate::error::{AtStep, Step, StepError};
use crate::lanes;

/// Zeros are looked for in units of this size where holes are to stay holes.
const HOLE_UNIT: usize = 256 << 10;

/// Takes part in moving a striped file until there is nothing left for one more worker. `buffer` is the
/// worker's own, for when those of the copy are all in use.
///
/// # Errors
/// The step that failed; `SourceChanged` when the source ended early.
pub(super) fn move_pieces(
    file: &LargeFile,
    supply: &ObjectSupply,
    buffer: &mut [u8],
    progress: &dyn Fn(Range<u64>),
) -> Result<Mechanism, StepError> {
    let mut part = Part { supply, whole: false };
    take_roles(file, supply, buffer, progress)?;
    part.whole = true;
    Ok(Mechanism::Striped)
}

/// One worker's part. Whoever waits for what it was to read is sent home when it fails or panics.
struct Part<'s> {
    supply: &'s ObjectSupply,
    whole: bool,
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        if !self.whole {
            self.supply.fail();
        }
    }
}

fn take_roles(
    file: &LargeFile,
    supply: &ObjectSupply,
    own: &mut [u8],
    progress: &dyn Fn(Range<u64>),
) -> Result<(), StepError> {
    let stopped = || file.stop.load(Relaxed);
    let anyway = file.anyway.load(Relaxed);
    loop {
        match supply.role(&file.source, stopped, anyway).at(Step::Read)? {
            Role::Leave => return Ok(()),
            Role::Read(object, piece, mut buffer) => {
                let mut start = piece.start;
                while start < piece.end {
                    let part = start..piece.end.min(start + lanes::piece(piece.end - start));
                    let place = to_usize(start - piece.start)..to_usize(part.end - piece.start);
                    read_piece(file, supply, object, &part, &mut buffer[place])?;
                    start = part.end;
                }
                supply.deliver(object, piece, buffer);
            }
            Role::Write(object) => write_object(file, supply, object, own, progress)?,
        }
    }
}

/// Is the writer of an object until it is done, or another needs this worker more.
fn write_object(
    file: &LargeFile,
    supply: &ObjectSupply,
    object: usize,
    own: &mut [u8],
    progress: &dyn Fn(Range<u64>),
) -> Result<(), StepError> {
    let written = write_pieces(file, supply, object, own, progress);
    if written.is_err() {
        supply.give_back(object);
    }
    written
}

fn write_pieces(
    file: &LargeFile,
    supply: &ObjectSupply,
    object: usize,
    own: &mut [u8],
    progress: &dyn Fn(Range<u64>),
) -> Result<(), StepError> {
    let stopped = || file.stop.load(Relaxed);
    let write = |piece: Range<u64>, bytes: &[u8]| {
        let begun = Instant::now();
        write_piece(file, &piece, bytes)?;
        supply.took(Side::Destination, object, bytes.len() as u64, begun.elapsed());
        account(file, piece, progress);
        Ok(())
    };
    loop {
        match supply.next_to_write(object, &file.source, stopped).at(Step::Read)? {
            Piece::None => return Ok(()),
            Piece::Ready(piece, buffer) => {
                let length = to_usize(piece.end - piece.start);
                write(piece, &buffer[..length])?;
            }
            Piece::Unread(piece) => {
                let mut pooled = supply.buffer();
                let buffer = pooled.as_deref_mut().unwrap_or(&mut *own);
                let mut start = piece.start;
                while start < piece.end {
                    let most = lanes::piece(buffer.len() as u64).min(buffer.len() as u64);
                    let part = start..piece.end.min(start + most);
                    read_piece(file, supply, object, &part, buffer)?;
                    start = part.end;
                    let length = to_usize(part.end - part.start);
                    write(part, &buffer[..length])?;
                }
            }
        }
    }
}

fn read_piece(
    file: &LargeFile,
    supply: &ObjectSupply,
    object: usize,
    piece: &Range<u64>,
    buffer: &mut [u8],
) -> Result<(), StepError> {
    let length = to_usize(piece.end - piece.start);
    lanes::take_bytes(length as u64);
    let _reading = supply.source_load(piece).map(|load| load.reading());
    let part = &mut buffer[..length];
    let begun = Instant::now();
    if read_up_to(file.source.as_fd(), part, piece.start).at(Step::Read)? < length {
        return Err(shrunk());
    }
    supply.took(Side::Source, object, length as u64, begun.elapsed());
    file.see(piece.start, part);
    Ok(())
}

fn write_piece(file: &LargeFile, piece: &Range<u64>, bytes: &[u8]) -> Result<(), StepError> {
    let destination = file.destination.as_fd();
    if file.zeros_are_holes {
        let mut offset = piece.start;
        for unit in bytes.chunks(HOLE_UNIT) {
            if unit.iter().any(|byte| *byte != 0) {
                write_all(destination, unit, offset)?;
            }
            offset += unit.len() as u64;
        }
    } else {
        write_all(destination, bytes, piece.start)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::{AtomicBool, AtomicU64};
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;

    use super::*;
    use crate::backend::chunk::ChunkSupply;
    use crate::backend::objects::Placement;
    use crate::backend::piece_buffers::PieceBuffers;
    use crate::backend::servers::Servers;
    use crate::lustre::stripes::{Part, Server, Striping};

    const PIECE: usize = 4096;

    /// A file to copy, and what is there of it.
    #[derive(Debug, Clone)]
    struct Case {
        /// Stripe size in units of 1 KiB and number of objects of each component, and its length in
        /// rows of stripes.
        components: Vec<(u64, usize, u64)>,
        size: u64,
        /// Data in the source, as starts and lengths; everything else is a hole.
        data: Vec<(u64, u64)>,
        written: Vec<Range<u64>>,
        workers: usize,
        buffers: usize,
    }

    fn cases() -> impl Strategy<Value = Case> {
        let component = (1_u64..12, 1_usize..6, 1_u64..4);
        let data = prop::collection::vec((0_u64..200_000, 1_u64..30_000), 0..6);
        let bounds = prop::collection::btree_set(0_u64..200_000, 0..6);
        let components = prop::collection::vec(component, 1..4);
        (components, 1_u64..200_000, data, bounds, 1_usize..7, 0_usize..5).prop_map(
            |(components, size, data, bounds, workers, buffers)| {
                let bounds: Vec<_> = bounds.into_iter().filter(|bound| *bound <= size).collect();
                let written = bounds.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect();
                Case { components, size, data, written, workers, buffers }
            },
        )
    }

    impl Case {
        fn striping(&self) -> Striping {
            let last = self.components.len() - 1;
            let mut start = 0;
            let parts = self.components.iter().enumerate().map(|(index, (kib, count, rows))| {
                let stripe_bytes = kib << 10;
                let end =
                    (start + rows * stripe_bytes * *count as u64).next_multiple_of(stripe_bytes);
                let extent = start..if index == last { u64::MAX } else { end };
                start = extent.end;
                let osts = (0..*count).map(|ost| Server::Ost(u32::try_from(ost).expect("few")));
                Part { extent, stripe_bytes, servers: osts.collect() }
            });
            Striping::new(parts).expect("components that touch")
        }
    }

    /// Who writes which object now; told of by the progress of each piece.
    #[derive(Debug, Default)]
    struct Watch {
        pieces: Mutex<Vec<Range<u64>>>,
    }

    /// Copies with several threads; returns the pieces that were written.
    fn copy(case: &Case, source: &File, destination: &File) -> Vec<Range<u64>> {
        let striping = case.striping();
        let servers = Servers::default();
        let placement = |device| {
            let loads = servers.of(device, &striping);
            Placement { striping: striping.clone(), loads }
        };
        let buffers = Arc::new(PieceBuffers::new(PIECE, case.buffers * PIECE));
        let written = case.written.clone();
        let by = (Side::Destination, placement(1));
        let supply = ObjectSupply::new(by, Some(placement(2)), case.size, true, written, buffers);
        let keep = [source, destination];
        let [from, to] = keep.map(|file| Arc::new(file.try_clone().expect("a descriptor").into()));
        let file = LargeFile {
            source: from,
            destination: to,
            chunks: ChunkSupply::new(case.size, 4 << 20, true, 1),
            objects: supply,
            anyway: AtomicBool::new(true),
            zeros_are_holes: false,
            in_memory: false,
            direct: None,
            stop: AtomicBool::new(false),
            moved: AtomicU64::new(0),
            cells: None,
        };
        let supply = file.objects.as_ref().expect("a layout without an end");
        let watch = Watch::default();
        std::thread::scope(|scope| {
            for _ in 0..case.workers {
                scope.spawn(|| {
                    let mut own = vec![0; 1000];
                    let progress = |piece| watch.pieces.lock().expect("no panic").push(piece);
                    move_pieces(&file, supply, &mut own, &progress).expect("moved");
                });
            }
        });
        assert!(file.is_handed_out());
        assert!(servers.of(1, &striping).iter().all(|load| load.writers() == 0));
        watch.pieces.into_inner().expect("no panic")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        #[test]
        fn striped_files_are_copied_exactly_and_no_piece_is_on_two_objects(case in cases()) {
            let [source, destination] = [(); 2].map(|()| tempfile::tempfile().expect("a file"));
            for file in [&source, &destination] {
                file.set_len(case.size).expect("extended");
            }
            for (start, length) in &case.data {
                let end = (start + length).min(case.size);
                let bytes: Vec<u8> = (*start..end).map(|at| (at % 251) as u8 + 1).collect();
                source.write_all_at(&bytes, *start).expect("written");
            }
            let mut expected = vec![0; usize::try_from(case.size).expect("small")];
            source.read_exact_at(&mut expected, 0).expect("read");
            for range in &case.written {
                let part = usize::try_from(range.start).expect("small")
                    ..usize::try_from(range.end).expect("small");
                destination.write_all_at(&expected[part], range.start).expect("written");
            }
            let pieces = copy(&case, &source, &destination);
            let mut copied = vec![0; expected.len()];
            destination.read_exact_at(&mut copied, 0).expect("read");
            prop_assert!(copied == expected, "the copy differs");
            let striping = case.striping();
            let mut seen = HashMap::new();
            for piece in &pieces {
                let run = striping.run_at(piece.start).expect("a run");
                prop_assert!(piece.end <= run.range.end, "{piece:?} crosses {run:?}");
                prop_assert!(case.written.iter().all(|done| done.end <= piece.start || piece.end <= done.start));
                prop_assert!(seen.insert(piece.start, piece.end).is_none(), "{piece:?} twice");
            }
        }
    }

    #[test]
    fn an_object_has_one_writer_until_it_is_done_when_there_are_enough_workers() {
        let case = Case {
            components: vec![(4, 4, 1)],
            size: 2 << 20,
            data: vec![(0, 2 << 20)],
            written: Vec::new(),
            workers: 8,
            buffers: 16,
        };
        let [source, destination] = [(); 2].map(|()| tempfile::tempfile().expect("a file"));
        let content: Vec<u8> = (0..case.size).map(|at| (at % 249) as u8).collect();
        source.write_all_at(&content, 0).expect("written");
        destination.set_len(case.size).expect("extended");
        let pieces = copy(&case, &source, &destination);
        assert_eq!(pieces.len(), 512, "pieces of one stripe each");
    }

    #[test]
    fn a_source_that_ends_early_stops_everybody() {
        let case = Case {
            components: vec![(4, 3, 1)],
            size: 1 << 20,
            data: Vec::new(),
            written: Vec::new(),
            workers: 1,
            buffers: 2,
        };
        let [source, destination] = [(); 2].map(|()| tempfile::tempfile().expect("a file"));
        source.write_all_at(&[1; 9000], 0).expect("written");
        let striping = case.striping();
        let servers = Servers::default();
        let loads = servers.of(1, &striping);
        let buffers = Arc::new(PieceBuffers::new(PIECE, 2 * PIECE));
        let placement = Placement { striping, loads };
        let objects = ObjectSupply::new(
            (Side::Destination, placement),
            None,
            case.size,
            false,
            Vec::new(),
            buffers,
        );
        let file = LargeFile {
            source: Arc::new(source.into()),
            destination: Arc::new(destination.into()),
            chunks: ChunkSupply::new(case.size, 4 << 20, false, 1),
            objects,
            anyway: AtomicBool::new(false),
            zeros_are_holes: false,
            in_memory: false,
            direct: None,
            stop: AtomicBool::new(false),
            moved: AtomicU64::new(0),
            cells: None,
        };
        let supply = file.objects.as_ref().expect("a layout without an end");
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| move_pieces(&file, supply, &mut [0; 4096], &|_| {})))
                .collect();
            let results = workers.into_iter().map(|worker| worker.join().expect("no panic"));
            let kinds: Vec<_> = results.filter_map(Result::err).map(|error| error.kind).collect();
            assert!(kinds.contains(&crate::error::FailureKind::SourceChanged), "{kinds:?}");
        });
        assert!(supply.load(0).writers() == 0, "a writer that failed is still counted");
    }
}
