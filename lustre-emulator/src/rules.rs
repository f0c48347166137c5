//! Which requests for a layout a metadata server refuses. What it grants instead of what was asked is
//! decided in `mds`.

use fuser::Errno;

use crate::layout::{ANY, Component, DOM, EOF, EXTENSION, Layout, OVERSTRIPED, RAID0, SPECIFIC};

/// Alignment of stripe sizes and extents, in bytes.
const ALIGNMENT: u64 = 65536;

/// Most mirrors (`lod.*.mirror_count_max`).
const MOST_MIRRORS: usize = 16;

/// What the rules need to know of the servers.
pub(crate) struct Known<'a> {
    /// How many OSTs there are.
    pub(crate) osts: usize,
    /// Whether an OST takes new objects.
    pub(crate) active: &'a dyn Fn(u32) -> bool,
    /// The OSTs of a pool, if there is one of this name.
    pub(crate) pool: &'a dyn Fn(&str) -> Option<Vec<u32>>,
}

/// `EINVAL` when a rule is broken, `EREMOTEIO` when an OST is asked for by number that is not active.
pub(crate) fn check(request: &Layout, known: &Known<'_>) -> Result<(), Errno> {
    if request.foreign.is_some() {
        return Ok(());
    }
    if request.composite {
        extents(request)?;
    }
    for (at, component) in request.components.iter().enumerate() {
        let first = request.composite && component.start == 0 && at == 0;
        let mirror_start = request.composite && component.start == 0;
        part(component, known)?;
        if component.pattern & DOM != 0 {
            dom(component, first || mirror_start)?;
        }
    }
    Ok(())
}

fn part(component: &Component, known: &Known<'_>) -> Result<(), Errno> {
    if !matches!(component.pattern & !OVERSTRIPED, RAID0 | DOM) {
        return Err(Errno::EINVAL);
    }
    let extension = component.flags & EXTENSION != 0;
    if !extension && u64::from(component.stripe_size) % ALIGNMENT != 0 {
        return Err(Errno::EINVAL);
    }
    let pool = (known.pool)(&component.pool_name());
    if component.magic == SPECIFIC {
        for object in &component.objects {
            named(object.ost, known)?;
        }
    } else if component.first != ANY {
        named(u32::from(component.first), known)?;
        if pool.is_some_and(|pool| !pool.contains(&u32::from(component.first))) {
            return Err(Errno::EINVAL);
        }
    }
    Ok(())
}

fn named(ost: u32, known: &Known<'_>) -> Result<(), Errno> {
    if usize::try_from(ost).map_or(true, |ost| ost >= known.osts) {
        return Err(Errno::EINVAL);
    }
    if (known.active)(ost) { Ok(()) } else { Err(Errno::from_i32(nix::libc::EREMOTEIO)) }
}

fn dom(component: &Component, first: bool) -> Result<(), Errno> {
    let whole = component.stripe_size == 0 || u64::from(component.stripe_size) == component.end;
    let plain = component.stripe_count <= 1 && component.pool == [0; 16];
    if first && whole && plain && component.end != EOF { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Every mirror begins at 0, neighbours touch, and everything is aligned.
fn extents(request: &Layout) -> Result<(), Errno> {
    let mut mirrors: usize = 0;
    let mut reached = None;
    for component in &request.components {
        let (start, end) = (component.start, component.end);
        if start == 0 && reached != Some(0) {
            mirrors += 1;
        } else if reached != Some(start) {
            return Err(Errno::EINVAL);
        }
        let aligned = |at: u64| at == EOF || at.is_multiple_of(ALIGNMENT);
        if end < start || !aligned(start) || !aligned(end) {
            return Err(Errno::EINVAL);
        }
        let stripe = u64::from(component.stripe_size);
        let extension = component.flags & EXTENSION != 0;
        if end == start && extension {
            return Err(Errno::EINVAL);
        }
        if !extension && end != EOF && stripe > 0 && !end.is_multiple_of(stripe) {
            return Err(Errno::EINVAL);
        }
        reached = Some(end);
    }
    // Components of no length make sense before an extension only.
    let pairs = request.components.windows(2);
    let lonely =
        pairs.clone().any(|pair| pair[0].start == pair[0].end && (pair[1].flags & EXTENSION == 0))
            || request.components.last().is_some_and(|last| last.start == last.end);
    let counted = mirrors == usize::from(request.mirrors) + 1 && mirrors <= MOST_MIRRORS;
    if lonely || !counted { Err(Errno::EINVAL) } else { Ok(()) }
}
