//! What is measured: trees, filesystems, who takes part, and what was aimed at.

use crate::arena::Place;
use crate::rows::Row;
use crate::trees::Tree;

/// One column of a table that can have an aim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// Until the command returns.
    Wall,
    /// And until the target is flushed.
    Synced,
    /// Core-seconds.
    Cpu,
}

impl Column {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Wall => "wall",
            Self::Synced => "wall + syncfs",
            Self::Cpu => "CPU",
        }
    }
}

/// `longshore` (auto) divided by `cp -a` should be at most this.
#[derive(Debug, Clone, Copy)]
pub struct Aim {
    /// Of which column.
    pub column: Column,
    /// The ratio.
    pub at_most: f64,
}

/// One table.
#[derive(Debug, Clone)]
pub struct Workload {
    /// For `--only`.
    pub name: &'static str,
    /// The tree in words.
    pub about: String,
    /// Its tree.
    pub tree: Tree,
    /// Where.
    pub place: Place,
    /// Whether the caches are dropped before every run.
    pub cold: bool,
    /// Who takes part.
    pub rows: Vec<Row>,
    /// What was aimed at.
    pub aims: Vec<Aim>,
    /// How long all rounds should take at most.
    pub budget_seconds: u64,
    /// Whether times count; otherwise only what is lost.
    pub timed: bool,
}

const AUTO: Row = Row::Longshore("auto");
const URING: Row = Row::Longshore("uring");
const THREADS: Row = Row::Longshore("threads");
const CLONE: Row = Row::Longshore("clone");
const RSYNC: Row = Row::Rsync { sparse: false };

fn aim(column: Column, at_most: f64) -> Aim {
    Aim { column, at_most }
}

impl Workload {
    /// Whether it mounts or drops caches.
    pub fn needs_root(&self) -> bool {
        self.cold || self.place != Place::Tmpfs
    }

    /// All of them, in the order in which they run.
    pub fn all(quick: bool) -> Vec<Self> {
        let mut all = vec![
            Self::fidelity(),
            Self::small_warm(quick),
            Self::small_cold(quick),
            Self::large_cold(quick),
            Self::clone_of("clone-64m", 64),
            Self::clone_of("clone-1g", 1024),
            Self::sparse(quick),
            Self::mixed(quick),
            Self::eight_large(quick),
            Self::metadata(quick),
        ];
        if quick {
            all.iter_mut().for_each(|workload| workload.budget_seconds /= 4);
        }
        all
    }

    fn fidelity() -> Self {
        Self {
            name: "fidelity",
            about: "one of everything that a file can have; not timed".to_owned(),
            tree: Tree::Everything,
            place: Place::Ext4 { mib: 1024, inodes: 20_000 },
            cold: false,
            rows: vec![Row::Cp, AUTO, Row::Rsync { sparse: true }, Row::Tar, Row::Xcp],
            aims: Vec::new(),
            budget_seconds: 40,
            timed: false,
        }
    }

    fn small_warm(quick: bool) -> Self {
        let dirs = if quick { 200 } else { 1000 };
        Self {
            name: "small-warm",
            about: format!("{} files of 4 KiB in {dirs} directories, warm", dirs * 100),
            tree: Tree::Small { dirs, files: 100, bytes: 4096 },
            place: Place::Tmpfs,
            cold: false,
            rows: vec![
                Row::Cp,
                AUTO,
                URING,
                THREADS,
                Row::Flushed,
                RSYNC,
                Row::Tar,
                Row::Xcp,
                Row::Limit("stream", 2),
            ],
            aims: vec![aim(Column::Wall, 0.50)],
            budget_seconds: 150,
            timed: true,
        }
    }

    fn small_cold(quick: bool) -> Self {
        let dirs = if quick { 80 } else { 300 };
        Self {
            name: "small-cold",
            about: format!("{} files of 4 KiB in {dirs} directories, cold", dirs * 100),
            tree: Tree::Small { dirs, files: 100, bytes: 4096 },
            place: Place::Ext4 { mib: 1024, inodes: 60_000 },
            cold: true,
            rows: vec![
                Row::Cp,
                AUTO,
                URING,
                THREADS,
                Row::Flushed,
                RSYNC,
                Row::Tar,
                Row::Xcp,
                Row::Limit("stream", 2),
                Row::Limit("stream", 32),
            ],
            aims: vec![aim(Column::Wall, 0.42)],
            budget_seconds: 200,
            timed: true,
        }
    }

    fn large_cold(quick: bool) -> Self {
        let mib = if quick { 384 } else { 1024 };
        Self {
            name: "large-cold",
            about: format!("one file of {mib} MiB, cold"),
            tree: Tree::Large { files: 1, mib },
            place: Place::Ext4 { mib: 1536, inodes: 1000 },
            cold: true,
            rows: vec![
                Row::Cp,
                AUTO,
                URING,
                THREADS,
                Row::Flushed,
                RSYNC,
                Row::Xcp,
                Row::Limit("stream", 1),
            ],
            aims: vec![aim(Column::Synced, 1.0), aim(Column::Cpu, 0.25)],
            budget_seconds: 150,
            timed: true,
        }
    }

    fn clone_of(name: &'static str, mib: usize) -> Self {
        Self {
            name,
            about: format!("one file of {mib} MiB that can be cloned, warm"),
            tree: Tree::Large { files: 1, mib },
            place: Place::Xfs { mib: 1024 + 2 * mib as u64 },
            cold: false,
            rows: vec![Row::Cp, AUTO, CLONE, Row::Flushed, Row::Xcp],
            aims: vec![aim(Column::Wall, 2.0)],
            budget_seconds: 40,
            timed: true,
        }
    }

    fn sparse(quick: bool) -> Self {
        let extents = if quick { 200 } else { 1000 };
        Self {
            name: "sparse",
            about: format!("one file of 64 GiB with {extents} extents of 1 MiB, cold"),
            tree: Tree::Sparse { extents },
            place: Place::Ext4 { mib: 1536, inodes: 1000 },
            cold: true,
            rows: vec![
                Row::Cp,
                AUTO,
                URING,
                THREADS,
                Row::Flushed,
                Row::Xcp,
                Row::Limit("segments", 1),
            ],
            aims: vec![aim(Column::Synced, 0.50)],
            budget_seconds: 150,
            timed: true,
        }
    }

    fn mixed(quick: bool) -> Self {
        let files = if quick { 1000 } else { 5000 };
        Self {
            name: "mixed",
            about: format!("{files} files, log-normal sizes, cold"),
            tree: Tree::Mixed { files },
            place: Place::Ext4 { mib: 3072, inodes: 20_000 },
            cold: true,
            rows: vec![
                Row::Cp,
                AUTO,
                URING,
                THREADS,
                Row::Flushed,
                RSYNC,
                Row::Tar,
                Row::Xcp,
                Row::Limit("stream", 8),
            ],
            aims: vec![aim(Column::Wall, 0.50)],
            budget_seconds: 250,
            timed: true,
        }
    }

    fn eight_large(quick: bool) -> Self {
        let mib = if quick { 64 } else { 192 };
        Self {
            name: "eight-large",
            about: format!("8 files of {mib} MiB, warm"),
            tree: Tree::Large { files: 8, mib },
            place: Place::Tmpfs,
            cold: false,
            rows: vec![
                Row::Cp,
                AUTO,
                URING,
                THREADS,
                Row::Flushed,
                RSYNC,
                Row::Xcp,
                Row::Limit("stream", 2),
            ],
            aims: vec![aim(Column::Wall, 0.60)],
            budget_seconds: 60,
            timed: true,
        }
    }

    fn metadata(quick: bool) -> Self {
        let dirs = if quick { 1000 } else { 5000 };
        Self {
            name: "metadata",
            about: format!(
                "{} empty files, {dirs} directories, {} symbolic links, {dirs} hard links, warm",
                dirs * 10,
                dirs / 2
            ),
            tree: Tree::Metadata { dirs },
            place: Place::Tmpfs,
            cold: false,
            rows: vec![
                Row::Cp,
                AUTO,
                URING,
                THREADS,
                Row::Flushed,
                RSYNC,
                Row::Tar,
                Row::Xcp,
                Row::Limit("stream", 2),
            ],
            aims: vec![aim(Column::Wall, 0.50)],
            budget_seconds: 90,
            timed: true,
        }
    }
}
