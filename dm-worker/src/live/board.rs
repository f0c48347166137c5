//! What is known of the filesystems that this worker mounts: which are wanted, which can be used, by how
//! many copies they are used, and what is to be said about them. It mounts nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tokio::sync::watch;

/// One mount point. It is on the board as long as it is wanted or something may be mounted there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Point {
    /// What is to be mounted there; none when nothing is to be there any more.
    wanted: Option<String>,
    /// Copies may start: what is wanted is mounted, and is not about to go.
    open: bool,
    /// How many copies use it.
    uses: usize,
    /// Those that use it are to end.
    clearing: bool,
    /// A child process mounts or unmounts it.
    pending: bool,
    /// What is wrong.
    reason: Option<String>,
}

impl Point {
    pub(crate) fn is_pending(&self) -> bool {
        self.pending
    }

    pub(crate) fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// The version of the list that they are from; none before there was one.
    pub(crate) version: Option<String>,
    pub(crate) points: BTreeMap<PathBuf, Point>,
}

impl State {
    /// What is to be mounted at a point.
    pub(super) fn wanted(&self, point: &Path) -> Option<&String> {
        self.points.get(point)?.wanted.as_ref()
    }

    /// How many copies use what is mounted at a point.
    pub(super) fn uses(&self, point: &Path) -> usize {
        self.points.get(point).map_or(0, |point| point.uses)
    }

    /// The mount point that a path is at or below.
    fn above(&self, path: &Path) -> Option<(&PathBuf, &Point)> {
        let above = self.points.iter().filter(|(point, _)| path.starts_with(point));
        above.max_by_key(|(point, _)| point.components().count())
    }
}

/// The board. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    state: watch::Sender<State>,
    /// The type that the filesystems have in the kernel's table.
    kind: String,
}

impl Board {
    pub(crate) fn new(kind: String) -> Self {
        Self { state: watch::channel(State::default()).0, kind }
    }

    pub(crate) fn kind(&self) -> &str {
        &self.kind
    }

    /// As it is now.
    pub(crate) fn snapshot(&self) -> State {
        self.state.borrow().clone()
    }

    /// Sees what changes from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Takes over a list. Nothing is admitted any more to what is not on it, or is now something else.
    /// Returns the mount points that were not on the board.
    pub(crate) fn set(&self, version: String, list: BTreeMap<PathBuf, String>) -> Vec<PathBuf> {
        let mut new = Vec::new();
        self.state.send_modify(|state| {
            state.version = Some(version);
            for (path, point) in &mut state.points {
                let wanted = list.get(path).cloned();
                if point.wanted != wanted {
                    *point = Point { uses: point.uses, pending: point.pending, ..Point::default() };
                    point.wanted = wanted;
                }
            }
            for (path, source) in list {
                if !state.points.contains_key(&path) {
                    let point = Point { wanted: Some(source), ..Point::default() };
                    state.points.insert(path.clone(), point);
                    new.push(path);
                }
            }
        });
        new
    }

    /// What is to be mounted at a point.
    pub(super) fn wanted(&self, point: &Path) -> Option<String> {
        self.state.borrow().wanted(point).cloned()
    }

    /// How many copies use what is mounted at a point.
    pub(super) fn uses(&self, point: &Path) -> usize {
        self.state.borrow().uses(point)
    }

    /// Lets copies start on what is mounted at a point, if that is what is wanted there.
    pub(crate) fn open(&self, point: &Path, source: &str) {
        self.change(point, |point| {
            if point.wanted.as_deref() == Some(source) {
                point.open = true;
                point.clearing = false;
                point.reason = None;
            }
        });
    }

    /// Lets none start any more.
    pub(super) fn close(&self, point: &Path) {
        self.change(point, |point| point.open = false);
    }

    /// Has those end that use it.
    pub(super) fn clear(&self, point: &Path) {
        self.change(point, |point| point.clearing = !point.open);
    }

    /// Says that a child begins to mount a filesystem, if it is still wanted. Whether it is.
    pub(super) fn begin(&self, point: &Path, source: &str) -> bool {
        let mut wanted = false;
        self.change(point, |point| {
            wanted = point.wanted.as_deref() == Some(source);
            point.pending |= wanted;
        });
        wanted
    }

    /// Says whether a child mounts or unmounts something at a point.
    pub(super) fn set_pending(&self, point: &Path, pending: bool) {
        self.change(point, |point| point.pending = pending);
    }

    /// Says what is wrong, or that nothing is.
    pub(super) fn say(&self, point: &Path, reason: Option<String>) {
        self.change(point, |point| point.reason = reason);
    }

    /// Forgets a point at which nothing is any more, unless it is wanted again. Whether it did.
    pub(super) fn forget(&self, point: &Path) -> bool {
        self.state.send_if_modified(|state| {
            let unwanted = state.points.get(point).is_none_or(|point| point.wanted.is_none());
            unwanted && state.points.remove(point).is_some()
        })
    }

    fn change(&self, point: &Path, change: impl FnOnce(&mut Point)) {
        self.state.send_if_modified(|state| {
            let Some(point) = state.points.get_mut(point) else { return false };
            let before = point.clone();
            change(point);
            *point != before
        });
    }

    /// Whether copies may start on the filesystem that a path is on. None when it is on none of these.
    pub(crate) fn is_open(&self, path: &Path) -> Option<bool> {
        self.state.borrow().above(path).map(|(_, point)| point.open)
    }

    /// Counts a copy that uses some paths, until what is returned is dropped. None when one of the
    /// filesystems may not be used.
    pub(crate) fn enter(&self, paths: &[&Path]) -> Option<Stay> {
        let mut stay = Stay { board: self.clone(), points: Vec::new() };
        let mut entered = false;
        self.state.send_modify(|state| {
            let points: Vec<_> = paths.iter().filter_map(|path| state.above(path)).collect();
            entered = points.iter().all(|(_, point)| point.open);
            let points: Vec<PathBuf> = points.into_iter().map(|(path, _)| path.clone()).collect();
            for path in points.into_iter().filter(|_| entered) {
                if let Some(point) = state.points.get_mut(&path) {
                    point.uses += 1;
                    stay.points.push(path);
                }
            }
        });
        entered.then_some(stay)
    }
}

/// A copy that uses filesystems.
#[derive(Debug)]
pub(crate) struct Stay {
    board: Board,
    points: Vec<PathBuf>,
}

impl Stay {
    /// Whether the copy is to end, because one of its filesystems is to be unmounted.
    pub(crate) fn is_over(&self) -> bool {
        let state = self.board.state.borrow();
        let mut points = self.points.iter().filter_map(|path| state.points.get(path));
        points.any(|point| point.clearing)
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        for path in &self.points {
            self.board.change(path, |point| point.uses = point.uses.saturating_sub(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(all: &[(&str, &str)]) -> BTreeMap<PathBuf, String> {
        all.iter().map(|(point, source)| ((*point).into(), (*source).to_owned())).collect()
    }

    fn board() -> Board {
        let board = Board::new("lustre".to_owned());
        let new = board.set("1".to_owned(), list(&[("/lus/a", "m:/a"), ("/lus/b", "m:/b")]));
        assert_eq!(new.len(), 2);
        board
    }

    #[test]
    fn copies_start_only_where_everything_is_open() {
        let board = board();
        let (a, b) = (Path::new("/lus/a/x"), Path::new("/lus/b"));
        assert!(board.enter(&[a]).is_none());
        board.open(Path::new("/lus/a"), "m:/a");
        assert!(board.enter(&[a, b]).is_none());
        assert_eq!(board.uses(Path::new("/lus/a")), 0, "one that could not start uses nothing");
        board.open(b, "m:/b");
        let stay = board.enter(&[a, b, Path::new("/elsewhere")]).unwrap();
        assert_eq!((board.uses(Path::new("/lus/a")), board.uses(b)), (1, 1));
        drop(stay);
        assert_eq!((board.uses(Path::new("/lus/a")), board.uses(b)), (0, 0));
        assert_eq!(board.is_open(Path::new("/lus/ab")), None, "a longer name is another one");
    }

    #[test]
    fn what_is_taken_off_the_list_admits_nothing_and_waits_for_those_that_use_it() {
        let board = board();
        let a = Path::new("/lus/a");
        board.open(a, "m:/a");
        let stay = board.enter(&[a]).unwrap();
        assert!(board.set("2".to_owned(), list(&[("/lus/b", "m:/b")])).is_empty());
        assert_eq!(board.is_open(a), Some(false));
        board.open(a, "m:/a");
        assert_eq!(board.is_open(a), Some(false), "what came too late opens nothing");
        assert_eq!((board.uses(a), stay.is_over()), (1, false));
        board.clear(a);
        assert!(stay.is_over());
        // It comes back before it was unmounted: those that use it may stay.
        assert!(board.set("3".to_owned(), list(&[("/lus/a", "m:/a")])).is_empty());
        assert_eq!((board.uses(a), stay.is_over()), (1, false));
        assert!(!board.forget(a), "it is wanted");
        drop(stay);
        board.set("4".to_owned(), list(&[]));
        assert!(board.forget(a) && !board.forget(a));
    }

    #[test]
    fn another_filesystem_at_the_same_place_is_not_open() {
        let board = board();
        let a = Path::new("/lus/a");
        board.open(a, "m:/a");
        board.set("2".to_owned(), list(&[("/lus/a", "m:/other"), ("/lus/b", "m:/b")]));
        assert_eq!(board.is_open(a), Some(false));
        board.open(a, "m:/a");
        assert_eq!(board.is_open(a), Some(false));
        board.open(a, "m:/other");
        assert_eq!(board.is_open(a), Some(true));
    }
}
