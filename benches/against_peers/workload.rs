//! What one table is about. Which ones there are is `workloads.rs`.

use crate::aims::Aim;
use crate::arena::Place;
use crate::rows::Row;
use crate::trees::Tree;

/// One column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// Until the command returns.
    Wall,
    /// And until the target is flushed.
    Flushed,
    /// Core-seconds.
    Cpu,
}

/// What CPU time is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Thousands of files.
    ThousandFiles,
    /// GiB of data.
    Gib,
}

impl Unit {
    /// The word for tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::ThousandFiles => "1,000 files",
            Self::Gib => "GiB",
        }
    }
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
    /// What CPU time is divided by.
    pub unit: Unit,
    /// A run of another tool that takes longer, in seconds, is the last of that tool: waiting
    /// for it again says little and costs much. Besides this, a tool of five times `cp -a` runs once.
    pub patience: f64,
    /// Seconds that all of it took in a quiet run on two cores, for the budget.
    pub usual: f64,
    /// Whether times count; otherwise only what is lost.
    pub timed: bool,
}

impl Workload {
    /// A timed one on tmpfs; the rest is for the caller to set.
    pub fn new(name: &'static str, about: String, tree: Tree, rows: &[Row]) -> Self {
        Self {
            name,
            about,
            tree,
            place: Place::Tmpfs,
            cold: false,
            rows: rows.to_vec(),
            aims: Vec::new(),
            unit: Unit::ThousandFiles,
            patience: 30.0,
            usual: 30.0,
            timed: true,
        }
    }

    /// The same elsewhere.
    pub fn on(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    /// The same with cold caches.
    pub fn cold(mut self) -> Self {
        self.cold = true;
        self
    }

    /// The same with aims.
    pub fn aims(mut self, aims: &[Aim]) -> Self {
        self.aims = aims.to_vec();
        self
    }

    /// The same with CPU time by GiB.
    pub fn by_gib(mut self) -> Self {
        self.unit = Unit::Gib;
        self
    }

    /// The same with another limit of patience.
    pub fn patient(mut self, seconds: f64) -> Self {
        self.patience = seconds;
        self
    }

    /// The same with what it usually takes, in seconds.
    pub fn usually(mut self, seconds: f64) -> Self {
        self.usual = seconds;
        self
    }

    /// Whether it mounts or drops caches.
    pub fn needs_root(&self) -> bool {
        self.cold || self.place != Place::Tmpfs
    }
}
