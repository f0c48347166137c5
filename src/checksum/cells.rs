//! The digests of a file's cells while several workers move its pieces, in any order. Holes count as
//! zeros without being looked at. What cannot be told from the pieces is left unknown, to be read
//! again; it reads nothing itself.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Algorithm, CELL_BYTES, Digest, Hasher, cell_count, cell_range, digest_of_cells};

/// Cells of one file that may be known in part. Beyond this the first of them is taken to end in a
/// hole, and if it does not, it is read again.
const OPEN_MAX: usize = 256;

/// What is known of one cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Nothing of it has been moved: a hole, as far as one can tell.
    Hole,
    /// A part of it has been moved, and its hasher waits for more.
    Open,
    /// Somebody has its hasher.
    Busy,
    /// Its digest is in the table.
    Done,
    /// Its pieces came in an order that no hasher can follow, or unseen.
    Unknown,
}

/// The cells of one file.
#[derive(Debug)]
pub(crate) struct Cells {
    algorithm: Algorithm,
    size_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    known: Vec<Known>,
    /// Digests of all cells in a row; those of holes are left zero.
    table: Vec<u8>,
    open: BTreeMap<usize, Open>,
}

/// Memory for cells that is not asked about: that of a file of 1 TiB, about.
const CELLS_SURE_BYTES: u64 = 32 << 20;

/// A cell of which the first `length` bytes are known.
#[derive(Debug)]
struct Open {
    hasher: Hasher,
    length: u64,
}

impl Cells {
    /// A file of which nothing has been moved.
    pub(crate) fn new(algorithm: Algorithm, size_bytes: u64) -> Self {
        Self::with(algorithm, size_bytes, Known::Hole)
    }

    /// A file whose content goes by unseen.
    pub(crate) fn unknown(algorithm: Algorithm, size_bytes: u64) -> Self {
        Self::with(algorithm, size_bytes, Known::Unknown)
    }

    /// Whether those of a file, a byte and a digest for each mebibyte, holes included, take less than a quarter of the
    /// memory.
    pub(crate) fn fit(algorithm: Algorithm, size_bytes: u64) -> bool {
        let cells = cell_count(size_bytes);
        let bytes = cells.checked_mul(1 + algorithm.digest_bytes() as u64);
        let memory = || nix::sys::sysinfo::sysinfo().map_or(0, |system| system.ram_total());
        bytes.is_some_and(|bytes| bytes < CELLS_SURE_BYTES || bytes < memory() / 4)
    }

    fn with(algorithm: Algorithm, size_bytes: u64, known: Known) -> Self {
        let count = index(cell_count(size_bytes));
        let state = State {
            known: vec![known; count],
            table: vec![0; count * algorithm.digest_bytes()],
            open: BTreeMap::new(),
        };
        Self { algorithm, size_bytes, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of bytes that are being moved; each byte once. What lies behind the size is left out.
    pub(crate) fn feed(&self, offset: u64, bytes: &[u8]) {
        let end = (offset + bytes.len() as u64).min(self.size_bytes);
        let mut at = offset;
        while at < end {
            let cell = at / CELL_BYTES;
            let range = cell_range(cell, self.size_bytes);
            let until = range.end.min(end);
            let part = &bytes[index(at - offset)..index(until - offset)];
            if at == range.start && until == range.end {
                self.whole(index(cell), part);
            } else {
                self.part(index(cell), at - range.start, part, range.end - range.start);
            }
            at = until;
        }
    }

    fn whole(&self, cell: usize, bytes: &[u8]) {
        let digest = self.algorithm.digest(bytes);
        let mut state = self.lock();
        match state.known[cell] {
            Known::Hole => state.set(cell, digest),
            _ => state.forget(cell),
        }
    }

    fn part(&self, cell: usize, from: u64, bytes: &[u8], cell_bytes: u64) {
        let mut open = {
            let mut state = self.lock();
            let open = match state.known[cell] {
                Known::Hole => Open { hasher: Hasher::new(self.algorithm), length: 0 },
                Known::Open => match state.open.remove(&cell) {
                    Some(open) if open.length <= from => open,
                    _ => return state.forget(cell),
                },
                Known::Busy | Known::Done | Known::Unknown => return state.forget(cell),
            };
            state.known[cell] = Known::Busy;
            open
        };
        open.hasher.zeros(from - open.length);
        open.hasher.update(bytes);
        open.length = from + bytes.len() as u64;
        let mut state = self.lock();
        // Another worker's piece of the same cell may have come meanwhile.
        if state.known[cell] != Known::Busy {
            return;
        }
        if open.length == cell_bytes {
            state.set(cell, open.hasher.finish());
            return;
        }
        state.known[cell] = Known::Open;
        state.open.insert(cell, open);
        if state.open.len() > OPEN_MAX
            && let Some((first, open)) = state.open.pop_first()
        {
            state.close(first, open, self.size_bytes);
        }
    }

    /// Takes note of a piece that is moved without being seen.
    pub(crate) fn unseen(&self, piece: Range<u64>) {
        let mut state = self.lock();
        for cell in piece.start / CELL_BYTES..cell_count(piece.end.min(self.size_bytes)) {
            state.forget(index(cell));
        }
    }

    /// Says that no more comes: what is open ends in a hole.
    pub(crate) fn all_moved(&self) {
        let mut state = self.lock();
        while let Some((cell, open)) = state.open.pop_first() {
            state.close(cell, open, self.size_bytes);
        }
    }

    /// The digest of a cell, or `None` when it must be read again. Ask after [`Cells::all_moved`].
    pub(crate) fn get(&self, cell: u64) -> Option<Digest> {
        let state = self.lock();
        self.digest(&state, index(cell))
    }

    fn digest(&self, state: &State, cell: usize) -> Option<Digest> {
        match state.known[cell] {
            Known::Hole => {
                let range = cell_range(cell as u64, self.size_bytes);
                Some(self.algorithm.of_zeros(range.end - range.start))
            }
            Known::Done => {
                let length = self.algorithm.digest_bytes();
                Some(Digest::new(&state.table[cell * length..(cell + 1) * length]))
            }
            Known::Open | Known::Busy | Known::Unknown => None,
        }
    }

    /// The digests of all cells, and whether each is that of zeros. An unknown one is given as zeros;
    /// ask [`Cells::file_digest`] before.
    pub(crate) fn digests(&self) -> impl Iterator<Item = (Digest, bool)> + '_ {
        (0..cell_count(self.size_bytes)).map(|cell| {
            let range = cell_range(cell, self.size_bytes);
            let zeros = self.algorithm.of_zeros(range.end - range.start);
            let digest = self.get(cell).unwrap_or(zeros);
            (digest, digest == zeros)
        })
    }

    /// Sets the digest of a cell that was read again.
    pub(crate) fn set(&self, cell: u64, digest: Digest) {
        self.lock().set(index(cell), digest);
    }

    /// The file's digest; `None` while a cell is unknown.
    pub(crate) fn file_digest(&self) -> Option<Digest> {
        let state = self.lock();
        let mut complete = true;
        let cells = (0..state.known.len()).map_while(|cell| {
            let digest = self.digest(&state, cell);
            complete &= digest.is_some();
            digest
        });
        let digest = digest_of_cells(self.algorithm, cells);
        complete.then_some(digest)
    }
}

impl State {
    fn set(&mut self, cell: usize, digest: Digest) {
        let bytes = digest.as_bytes();
        self.table[cell * bytes.len()..(cell + 1) * bytes.len()].copy_from_slice(bytes);
        self.known[cell] = Known::Done;
    }

    fn forget(&mut self, cell: usize) {
        self.open.remove(&cell);
        self.known[cell] = Known::Unknown;
    }

    fn close(&mut self, cell: usize, mut open: Open, size_bytes: u64) {
        let range = cell_range(cell as u64, size_bytes);
        open.hasher.zeros(range.end - range.start - open.length);
        self.set(cell, open.hasher.finish());
    }
}

/// The digests of a file whose size is not known beforehand, from its bytes in order.
#[derive(Debug)]
pub(crate) struct Growing {
    algorithm: Algorithm,
    digests: Vec<Digest>,
    hasher: Hasher,
    size_bytes: u64,
}

impl Growing {
    /// Nothing so far.
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        Self { algorithm, digests: Vec::new(), hasher: Hasher::new(algorithm), size_bytes: 0 }
    }

    /// Adds bytes.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = index(CELL_BYTES - self.size_bytes % CELL_BYTES);
            let (part, rest) = bytes.split_at(room.min(bytes.len()));
            self.hasher.update(part);
            self.size_bytes += part.len() as u64;
            if self.size_bytes.is_multiple_of(CELL_BYTES) {
                let full = std::mem::replace(&mut self.hasher, Hasher::new(self.algorithm));
                self.digests.push(full.finish());
            }
            bytes = rest;
        }
    }

    /// The digests of everything added.
    pub(crate) fn finish(mut self) -> Cells {
        if !self.size_bytes.is_multiple_of(CELL_BYTES) {
            self.digests.push(self.hasher.finish());
        }
        let cells = Cells::unknown(self.algorithm, self.size_bytes);
        for (cell, digest) in (0..).zip(self.digests) {
            cells.set(cell, digest);
        }
        cells
    }
}

/// Cells and parts of buffers are counted in memory that exists.
fn index(number: u64) -> usize {
    usize::try_from(number).expect("an index into memory fits into usize")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 3 * CELL_BYTES + 12_345;

    fn content() -> Vec<u8> {
        (0..SIZE).map(|n| u8::try_from((n * n + n / 77) % 251).unwrap()).collect()
    }

    /// What the digests must be, from the content as a whole.
    fn expected(algorithm: Algorithm, content: &[u8]) -> Vec<Digest> {
        content.chunks(index(CELL_BYTES)).map(|cell| algorithm.digest(cell)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Whatever the order of the pieces, a digest that is known is the right one.
        #[test]
        fn known_digests_are_right_in_any_order(
            cuts in proptest::collection::btree_set(1..SIZE, 0..12),
            holes in proptest::collection::vec(any::<bool>(), 13),
            order in Just((0..13_usize).collect::<Vec<_>>()).prop_shuffle(),
            in_order in any::<bool>(),
        ) {
            let mut content = content();
            let mut edges: Vec<u64> = cuts.into_iter().collect();
            edges.insert(0, 0);
            edges.push(SIZE);
            let mut pieces: Vec<_> = edges.windows(2).zip(&holes).map(|(e, hole)| (e[0]..e[1], *hole)).collect();
            for (range, hole) in &pieces {
                if *hole {
                    content[index(range.start)..index(range.end)].fill(0);
                }
            }
            pieces.retain(|(_, hole)| !hole);
            if !in_order {
                let mut order = order.iter().copied();
                pieces.sort_by_cached_key(|_| order.next());
            }
            let cells = Cells::new(Algorithm::Xxh3, SIZE);
            for (range, _) in &pieces {
                cells.feed(range.start, &content[index(range.start)..index(range.end)]);
            }
            cells.all_moved();
            let expected = expected(Algorithm::Xxh3, &content);
            for (cell, expected) in expected.iter().enumerate() {
                let known = cells.get(cell as u64);
                prop_assert!(known.is_none_or(|digest| digest == *expected), "cell {}", cell);
                prop_assert!(known.is_some() || !in_order, "cell {} is unknown", cell);
            }
        }
    }

    #[test]
    fn a_file_without_data_has_the_digests_of_zeros_and_unseen_cells_have_none() {
        let cells = Cells::new(Algorithm::Blake3, SIZE);
        let zeros = vec![0; index(SIZE)];
        let expected = expected(Algorithm::Blake3, &zeros);
        let found: Vec<_> = (0..4).map(|cell| cells.get(cell).expect("a hole is known")).collect();
        assert_eq!(found, expected);
        assert_eq!(
            cells.file_digest(),
            Some(digest_of_cells(Algorithm::Blake3, expected.into_iter()))
        );
        cells.unseen(CELL_BYTES + 5..CELL_BYTES + 6);
        assert_eq!((cells.get(1), cells.file_digest()), (None, None));
        cells.set(1, Algorithm::Blake3.of_zeros(CELL_BYTES));
        assert!(cells.file_digest().is_some());
    }

    #[test]
    fn a_file_that_grows_has_the_digests_of_its_bytes() {
        let content = content();
        for length in [0, 1, index(CELL_BYTES), content.len()] {
            let mut growing = Growing::new(Algorithm::Xxh3);
            content[..length].chunks(65_521).for_each(|part| growing.feed(part));
            let expected = expected(Algorithm::Xxh3, &content[..length]);
            let expected = digest_of_cells(Algorithm::Xxh3, expected.into_iter());
            assert_eq!(growing.finish().file_digest(), Some(expected));
        }
    }

    #[test]
    fn very_many_open_cells_are_closed_early_and_what_follows_makes_them_unknown() {
        let size = (OPEN_MAX as u64 + 10) * CELL_BYTES;
        let cells = Cells::new(Algorithm::Xxh3, size);
        for cell in 0..OPEN_MAX as u64 + 10 {
            cells.feed(cell * CELL_BYTES, &[7; 100]);
        }
        assert!(cells.lock().open.len() <= OPEN_MAX);
        cells.feed(500, &[7; 100]);
        cells.all_moved();
        assert_eq!(cells.get(0), None);
        assert!(cells.get(1).is_some());
    }
}
