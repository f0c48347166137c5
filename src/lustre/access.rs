//! Reads the layout of an open file or directory, and asks for one. What the servers then gave is
//! compared with what was asked for: they say "done" when they gave something else, or nothing.
//! It chooses no layout.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;

use super::fields::{Pattern, Stripes};
use super::layout::{Body, Composite, Layout, LayoutError, Of, Plain, Problem};
use crate::sys::{self, XattrTarget};

/// The extended attribute that is the layout, for every user.
pub const NAME: &CStr = c"lustre.lov";

/// What an inode says of its layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It has this one.
    Layout(Layout),
    /// It has none: a file that nobody has written to yet, a directory without a default.
    None,
    /// It has one that Longshore cannot read; that is no reason not to copy the file.
    Unknown(LayoutError),
    /// The filesystem has no layouts.
    NotLustre,
}

impl Found {
    /// The layout, when there is one that Longshore can read.
    #[must_use]
    pub fn layout(self) -> Option<Layout> {
        if let Self::Layout(layout) = self { Some(layout) } else { None }
    }
}

/// Reads the layout of an open file, or the default of an open directory. It does not restore a
/// released file, and it takes no lock on its objects.
///
/// # Errors
/// The errno of fgetxattr(2), unless it means that there is no layout: `EACCES` for a file that this
/// user may not read, `EIO` and `ENOTCONN` from a server that is gone.
pub fn read(file: impl AsFd, of: Of) -> Result<Found, Errno> {
    let mut value = Vec::new();
    // A value that grew while it was read is read again, with room for the longest that there can be.
    match sys::get_xattr(XattrTarget::Fd(file.as_fd()), NAME, &mut value) {
        Ok(()) => Ok(Layout::parse(&value, of).map_or_else(Found::Unknown, Found::Layout)),
        Err(Errno::ENODATA) => Ok(Found::None),
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(Found::NotLustre),
        // A magic number that the client does not know (since 2.17; EINVAL before).
        Err(Errno::EPROTO | Errno::EINVAL) => {
            Ok(Found::Unknown(LayoutError { offset: 0, problem: Problem::Magic(0) }))
        }
        Err(errno) => Err(errno),
    }
}

/// Asks for a layout of an open file that has none yet, or for a default of an open directory.
///
/// Success says only that the request was understood: a file that has a layout keeps it.
///
/// # Errors
/// The errno of fsetxattr(2): `EINVAL` for a layout that breaks the rules, `ENOSPC` when no OST can give
/// an object, `EFBIG`, `EREMOTEIO` and others (see the table in `docs/lustre.md`).
pub fn set(file: impl AsFd, wanted: &Layout) -> Result<(), Errno> {
    sys::set_xattr(XattrTarget::Fd(file.as_fd()), NAME, &wanted.request())
}

/// Removes the default of an open directory.
///
/// # Errors
/// The errno of fremovexattr(2).
pub fn remove_default(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    match sys::remove_xattr(XattrTarget::Fd(directory), NAME) {
        Err(Errno::ENODATA) => Ok(()),
        other => other,
    }
}

/// How a layout that was given differs from the one that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// It has another shape: the request was not heeded at all.
    NotApplied,
    /// Some component has fewer stripes.
    FewerStripes,
    /// Objects come from another pool, or from none.
    ChangedPool,
    /// The part on the metadata server is smaller or missing.
    CutOnMdt,
}

/// Compares what was given with what was asked for; nothing where only defaults were filled in.
#[must_use]
pub fn differences(wanted: &Layout, given: &Layout) -> Vec<Difference> {
    let mut found = match (wanted, given) {
        (Layout::Plain(wanted), Layout::Plain(given)) => of_plain(wanted, given),
        (Layout::Composite(wanted), Layout::Composite(given)) => of_composite(wanted, given),
        // When the part on the metadata server is dropped, one component may be left.
        (Layout::Composite(wanted), Layout::Plain(_)) if begins_on_mdt(wanted) => {
            vec![Difference::CutOnMdt]
        }
        (Layout::Foreign(wanted), Layout::Foreign(given)) if wanted == given => Vec::new(),
        _ => vec![Difference::NotApplied],
    };
    found.sort_unstable();
    found.dedup();
    found
}

fn of_plain(wanted: &Plain, given: &Plain) -> Vec<Difference> {
    let mut found = Vec::new();
    let shape = |pattern: Pattern| match pattern.plain() {
        Pattern::DEFAULT => Pattern::RAID0,
        pattern => pattern,
    };
    let other_size = wanted.stripe_size != 0 && wanted.stripe_size != given.stripe_size;
    if shape(wanted.pattern) != shape(given.pattern) || other_size {
        found.push(Difference::NotApplied);
    }
    // How many "all" are is the servers' business, and so is a default.
    if let (Stripes::Number(wanted), Stripes::Number(given)) =
        (wanted.count.stripes(), given.count.stripes())
        && wanted != given
    {
        found.push(if given < wanted { Difference::FewerStripes } else { Difference::NotApplied });
    }
    if let Some(pool) = wanted.pool()
        && given.pool().is_none_or(|own| own.name() != pool.name())
    {
        found.push(Difference::ChangedPool);
    }
    found
}

fn of_composite(wanted: &Composite, given: &Composite) -> Vec<Difference> {
    let ends = |composite: &Composite| -> Vec<u64> {
        composite.components.iter().map(|component| component.extent.end).collect()
    };
    if ends(wanted) != ends(given) {
        let cut = begins_on_mdt(wanted) && ends(wanted).get(1..) == last(&ends(given), wanted);
        return vec![if cut { Difference::CutOnMdt } else { Difference::NotApplied }];
    }
    let pairs = wanted.components.iter().zip(&given.components);
    pairs
        .flat_map(|(wanted, given)| match (&wanted.body, &given.body) {
            (Body::Striped(wanted), Body::Striped(given)) => of_plain(wanted, given),
            (Body::Foreign(wanted), Body::Foreign(given)) if wanted == given => Vec::new(),
            _ => vec![Difference::NotApplied],
        })
        .collect()
}

/// The ends of the components behind the first of the wanted ones, as far as the given one has them: the
/// part on the metadata server is either shrunk, so that all others stay, or dropped.
fn last<'e>(ends: &'e [u64], wanted: &Composite) -> Option<&'e [u64]> {
    let behind = wanted.components.len().checked_sub(1)?;
    ends.get(ends.len().checked_sub(behind)?..)
}

fn begins_on_mdt(composite: &Composite) -> bool {
    let first = composite.components.first().and_then(|component| component.striped());
    first.is_some_and(|plain| plain.pattern.is_mdt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lustre::fields::{Count, Extent, Pool};
    use crate::lustre::fixtures::{self, bytes};
    use crate::lustre::layout::Component;

    fn plain(stripes: u16, size: u32) -> Plain {
        Plain::new(Count(stripes), size)
    }

    fn composite(parts: &[(u64, Plain)]) -> Layout {
        let mut start = 0;
        let components = parts.iter().map(|(end, plain)| {
            let extent = Extent { start, end: *end };
            start = *end;
            Component::new(extent, plain.clone())
        });
        Layout::Composite(Composite { components: components.collect(), ..Composite::default() })
    }

    fn on_mdt(size: u32) -> Plain {
        Plain { pattern: Pattern::MDT, ..plain(0, size) }
    }

    fn compare(wanted: &Layout, given: &Layout) -> Vec<Difference> {
        differences(wanted, given)
    }

    #[test]
    fn a_layout_is_no_different_from_its_own_template() {
        for (name, hex) in fixtures::ALL {
            let value = bytes(hex);
            let default = matches!(name, "directory" | "smallest-request");
            let of = if default { Of::Directory } else { Of::File };
            let layout = Layout::parse(&value, of).unwrap();
            assert_eq!(compare(&layout.template(), &layout), [], "{name}");
        }
    }

    #[test]
    fn defaults_may_be_filled_in() {
        let given = Layout::Plain(plain(3, 1 << 22));
        for wanted in [plain(0, 0), plain(3, 0), plain(0xffff, 1 << 22)] {
            let wanted = Plain { pattern: Pattern::DEFAULT, ..wanted };
            assert_eq!(compare(&Layout::Plain(wanted), &given), []);
        }
    }

    #[test]
    fn fewer_stripes_another_size_and_another_pool_are_told_apart() {
        let given = Layout::Plain(plain(3, 1 << 22));
        let wanted = |plain| compare(&Layout::Plain(plain), &given);
        assert_eq!(wanted(plain(4, 1 << 22)), [Difference::FewerStripes]);
        assert_eq!(wanted(plain(2, 1 << 22)), [Difference::NotApplied]);
        assert_eq!(wanted(plain(3, 1 << 20)), [Difference::NotApplied]);
        let mut pooled = plain(4, 1 << 22);
        pooled.set_pool(Pool::new(b"flash"));
        assert_eq!(wanted(pooled), [Difference::FewerStripes, Difference::ChangedPool]);
    }

    #[test]
    fn components_are_compared_one_by_one() {
        let wanted = composite(&[(1 << 22, plain(1, 1 << 20)), (u64::MAX, plain(8, 1 << 20))]);
        let given = composite(&[(1 << 22, plain(1, 1 << 20)), (u64::MAX, plain(4, 1 << 20))]);
        assert_eq!(compare(&wanted, &given), [Difference::FewerStripes]);
        let other = composite(&[(1 << 23, plain(1, 1 << 20)), (u64::MAX, plain(8, 1 << 20))]);
        assert_eq!(compare(&wanted, &other), [Difference::NotApplied]);
        assert_eq!(compare(&wanted, &Layout::Plain(plain(1, 1 << 20))), [Difference::NotApplied]);
    }

    #[test]
    fn a_part_on_the_metadata_server_may_be_cut_or_dropped() {
        let wanted = composite(&[(1 << 20, on_mdt(1 << 20)), (u64::MAX, plain(1, 1 << 22))]);
        let cut = composite(&[(1 << 16, on_mdt(1 << 16)), (u64::MAX, plain(1, 1 << 22))]);
        let dropped = composite(&[(u64::MAX, plain(1, 1 << 22))]);
        for given in [cut, dropped, Layout::Plain(plain(1, 1 << 22))] {
            assert_eq!(compare(&wanted, &given), [Difference::CutOnMdt]);
        }
    }

    #[test]
    fn a_filesystem_without_layouts_says_so() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(read(&file, Of::File), Ok(Found::NotLustre));
        let wanted = Layout::Plain(plain(4, 1 << 22));
        assert_eq!(set(&file, &wanted), Err(Errno::EOPNOTSUPP));
    }
}
