//! Counts of what was done, by kind and by mechanism, for the report. It decides nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::backend::Mechanism;
use crate::report::Copied;

/// An attribute that could not be kept and is no error by policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Warning {
    /// Only root can give files away.
    OwnerNotKept,
    /// The group is none of ours.
    GroupNotKept,
    /// The destination has no such extended attributes.
    XattrUnsupported,
    /// The destination has no ACLs.
    AclUnsupported,
    /// The destination has no inode flags or projects.
    FlagsUnsupported,
    /// `security.selinux` was left to the destination's policy.
    SecurityLabel,
    /// Only root can give a file capabilities.
    CapabilityNotKept,
    /// The destination takes no (further) hard link; the name was copied as a file of its own.
    HardLinkNotKept,
    /// The destination's filesystem has no such time: too early, too late, or too many digits.
    TimeNotKept,
    /// The file's data is only in an archive, and it was left out by `--hsm skip`.
    ReleasedSkipped,
    /// The servers did not give a file the layout that was chosen, but their default or another one.
    LayoutNotApplied,
    /// The servers gave a file fewer stripes than were asked for.
    LayoutFewerStripes,
    /// Objects come from another pool than the one asked for.
    LayoutChangedPool,
    /// The part of a file on the metadata server is smaller than asked for, or missing.
    LayoutCutOnMdt,
}

impl Warning {
    const ALL: [Self; 14] = [
        Self::OwnerNotKept,
        Self::GroupNotKept,
        Self::XattrUnsupported,
        Self::AclUnsupported,
        Self::FlagsUnsupported,
        Self::SecurityLabel,
        Self::CapabilityNotKept,
        Self::HardLinkNotKept,
        Self::TimeNotKept,
        Self::ReleasedSkipped,
        Self::LayoutNotApplied,
        Self::LayoutFewerStripes,
        Self::LayoutChangedPool,
        Self::LayoutCutOnMdt,
    ];

    /// Key of the report; stable.
    fn word(self) -> &'static str {
        match self {
            Self::OwnerNotKept => "owner-not-kept",
            Self::GroupNotKept => "group-not-kept",
            Self::XattrUnsupported => "xattr-unsupported",
            Self::AclUnsupported => "acl-unsupported",
            Self::FlagsUnsupported => "flags-unsupported",
            Self::SecurityLabel => "security-label-left-to-destination",
            Self::CapabilityNotKept => "capability-not-kept",
            Self::HardLinkNotKept => "hard-link-not-kept",
            Self::TimeNotKept => "time-not-kept",
            Self::ReleasedSkipped => "released-skipped",
            Self::LayoutNotApplied => "layout-not-applied",
            Self::LayoutFewerStripes => "layout-granted-fewer-stripes",
            Self::LayoutChangedPool => "layout-changed-pool",
            Self::LayoutCutOnMdt => "layout-cut-on-mdt",
        }
    }
}

/// Shared counters of one copy.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    warnings: [AtomicU64; Warning::ALL.len()],
    mechanisms: [AtomicU64; Mechanism::ALL.len()],
    pub(crate) files: AtomicU64,
    /// Directories entered; each must also be finished.
    pub(crate) entered: AtomicU64,
    pub(crate) directories: AtomicU64,
    pub(crate) symlinks: AtomicU64,
    pub(crate) hard_links: AtomicU64,
    pub(crate) special: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) bytes_moved: AtomicU64,
    pub(crate) excluded: AtomicU64,
    pub(crate) deleted: AtomicU64,
    /// Files whose data reading brought back from the archive.
    pub(crate) released_restored: AtomicU64,
    /// Links and special files that an earlier run had made.
    pub(crate) links_resumed: AtomicU64,
}

impl Tally {
    /// Counts a warning.
    pub(crate) fn warn(&self, warning: Warning) {
        self.warnings[warning as usize].fetch_add(1, Relaxed);
    }

    /// Counts a file's content by the mechanism that moved it.
    pub(crate) fn moved(&self, mechanism: Mechanism, bytes: u64) {
        self.mechanisms[mechanism as usize].fetch_add(1, Relaxed);
        self.bytes_moved.fetch_add(bytes, Relaxed);
    }

    /// Warnings that occurred, by word.
    pub(crate) fn warnings(&self) -> BTreeMap<&'static str, u64> {
        let counts =
            Warning::ALL.map(|kind| (kind.word(), self.warnings[kind as usize].load(Relaxed)));
        counts.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// Mechanisms that were used, by word.
    pub(crate) fn mechanisms(&self) -> BTreeMap<&'static str, u64> {
        let counts =
            Mechanism::ALL.map(|kind| (kind.word(), self.mechanisms[kind as usize].load(Relaxed)));
        counts.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// What was copied.
    pub(crate) fn copied(&self) -> Copied {
        Copied {
            files: self.files.load(Relaxed),
            directories: self.directories.load(Relaxed),
            symlinks: self.symlinks.load(Relaxed),
            hard_links: self.hard_links.load(Relaxed),
            special: self.special.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            bytes_moved: self.bytes_moved.load(Relaxed),
        }
    }
}
