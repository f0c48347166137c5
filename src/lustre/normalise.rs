//! A layout of one filesystem as a request to another: without what belongs to the file or the
//! filesystem that it was read from. Pure; which layout is wanted at all is decided in `choose`.

use super::fields::{Count, Extent, Flags, Pattern, Start, Stripes};
use super::layout::{Body, Component, Composite, Form, Layout, Plain};
use super::reason::Reason;
use super::site::Site;

/// Most stripes that are filled with a number of OSTs that is not known.
const FILLED_WITHOUT_COUNT: u64 = 8;

impl Layout {
    /// What of this layout can be asked for at `site`, and what was left out; `None` when nothing is.
    pub(super) fn normalised(&self, site: &Site, reasons: &mut Vec<Reason>) -> Option<Self> {
        let mut layout = match self {
            Self::Foreign(_) => {
                reasons.push(Reason::ForeignDropped);
                return None;
            }
            Self::Plain(plain) => Self::Plain(plain.template()),
            Self::Composite(composite) => one_mirror(composite, reasons)?,
        };
        for plain in layout.plains_mut() {
            if plain.pattern.is_compressed() {
                plain.pattern = plain.pattern.uncompressed();
                note(reasons, Reason::CompressionDropped);
            }
            unpinned(plain, reasons);
        }
        let unknown = |plain: &&Plain| !plain.pattern.is_striped() && !plain.pattern.is_mdt();
        if let Some(plain) = layout.plains().find(unknown) {
            reasons.push(Reason::UnknownPattern(plain.pattern));
            return None;
        }
        if let Self::Composite(composite) = &mut layout {
            without_compression(composite, reasons);
            off_the_mdt(composite, site, reasons);
            if composite.components.is_empty() {
                return None;
            }
        }
        layout.pools_of(site, reasons);
        Some(layout)
    }

    /// Takes pools away that are not known at `site`. Those for "none" and "the parent's" stay.
    fn pools_of(&mut self, site: &Site, reasons: &mut Vec<Reason>) {
        for plain in self.plains_mut() {
            let Some(pool) = plain.pool() else { continue };
            let reserved = matches!(pool.name(), b"ignore" | b"inherit" | b"none");
            if !reserved && !site.knows_pool(pool.name()) {
                plain.set_pool(None);
                note(reasons, Reason::PoolUnknown(pool));
            }
        }
    }

    /// At most as many stripes as there are OSTs, where each stripe needs one of its own.
    pub(super) fn limit_to_osts(&mut self, site: &Site, reasons: &mut Vec<Reason>) {
        let Some(osts) = site.osts.and_then(|osts| u16::try_from(osts).ok()).filter(|n| *n > 0)
        else {
            return;
        };
        for plain in self.plains_mut() {
            let single = plain.pattern != Pattern::OVERSTRIPED
                && matches!(plain.form, Form::V1 | Form::V3(_));
            if let Stripes::Number(asked) = plain.count.stripes()
                && single
                && asked > osts
            {
                plain.count = Count(osts);
                note(reasons, Reason::FewerOsts { asked, osts });
            }
        }
    }

    /// As many stripes of a plain layout as the file fills: objects that stay empty cost every stat of
    /// the file. Components are left as they are, for they were made for files of all sizes.
    pub(super) fn narrow(&mut self, bytes: u64, site: &Site, reasons: &mut Vec<Reason>) {
        let Self::Plain(plain) = self else { return };
        if plain.stripe_size == 0 || !plain.pattern.is_striped() {
            return;
        }
        let stripe = u64::from(plain.stripe_size);
        let filled = bytes.div_ceil(stripe).max(1);
        let (from, there_are) = match plain.count.stripes() {
            Stripes::Default => return,
            Stripes::Number(number) => (Some(number), u64::from(number)),
            Stripes::EveryOst(times) => {
                let osts = site.osts.map_or(FILLED_WITHOUT_COUNT, u64::from);
                (None, osts * u64::from(times))
            }
        };
        // A size below (stripes - 1) stripes leaves more than the last one empty.
        if bytes < stripe * there_are.saturating_sub(1)
            && let Ok(to) = u16::try_from(filled)
            && u64::from(to) < there_are
        {
            plain.count = Count(to);
            note(reasons, Reason::Narrowed { from, to });
        }
    }

    /// Has every mirror reach `bytes`, by extending its last component to the end of all files:
    /// writing beyond the last component fails.
    pub(super) fn extend_to(&mut self, bytes: u64, reasons: &mut Vec<Reason>) {
        let Self::Composite(composite) = self else { return };
        let components = &mut composite.components;
        for at in 0..components.len() {
            let last =
                components.get(at + 1).is_none_or(|next| next.begins_mirror(&components[at]));
            if last && components[at].extent.end < bytes {
                components[at].extent.end = Extent::EOF;
                note(reasons, Reason::Extended);
            }
        }
        // Extension space that became longer than one extension begins with one.
        *composite = composite.template();
    }

    /// Whether it is one stripe on any OST.
    pub(super) fn is_single(&self) -> bool {
        matches!(self, Self::Plain(plain) if plain.count == Count(1) && plain.pool().is_none()
            && plain.pattern == Pattern::RAID0)
    }

    /// Whether a file of so many bytes gets the same stripes from both: those components that it
    /// reaches are the same.
    pub(crate) fn serves_as(&self, other: &Self, bytes: u64) -> bool {
        let (Some(ours), Some(theirs)) = (self.reached(bytes), other.reached(bytes)) else {
            return false;
        };
        ours.len() == theirs.len()
            && ours.iter().zip(&theirs).all(|(ours, theirs)| {
                let ends = (ours.extent.end, theirs.extent.end);
                ours.extent.start == theirs.extent.start
                    && ours.flags == theirs.flags
                    // The last one that it reaches may end anywhere behind the file.
                    && (ends.0 == ends.1 || (ends.0 >= bytes && ends.1 >= bytes))
                    && same_stripes(ours, theirs)
            })
    }

    /// The components that a file of so many bytes reaches; `None` with mirrors and foreign data.
    fn reached(&self, bytes: u64) -> Option<Vec<Component>> {
        let components = match self {
            Self::Foreign(_) => return None,
            Self::Plain(plain) => vec![Component::new(Extent::WHOLE, plain.template())],
            Self::Composite(composite) if composite.further_mirrors > 0 => return None,
            Self::Composite(composite) => composite.template().components,
        };
        let reached = |component: &Component| {
            component.extent.start < bytes.max(1) && component.striped().is_some()
        };
        Some(components.into_iter().take_while(reached).collect())
    }
}

fn same_stripes(ours: &Component, theirs: &Component) -> bool {
    let (Some(ours), Some(theirs)) = (ours.striped(), theirs.striped()) else { return false };
    // The size of a single stripe does not say where anything lies.
    let size = ours.stripe_size == theirs.stripe_size
        || (ours.count == Count(1) && ours.pattern == Pattern::RAID0);
    size && Plain { stripe_size: 0, ..ours.clone() } == Plain { stripe_size: 0, ..theirs.clone() }
}

/// Adds a reason once.
fn note(reasons: &mut Vec<Reason>, reason: Reason) {
    if !reasons.contains(&reason) {
        reasons.push(reason);
    }
}

/// Leaves the OSTs to the servers.
fn unpinned(plain: &mut Plain, reasons: &mut Vec<Reason>) {
    if let Form::Specific(_) = plain.form {
        let pool = plain.pool();
        plain.form = Form::V1;
        plain.set_pool(pool);
        plain.objects = Vec::new();
        plain.start = Start::Any;
        note(reasons, Reason::OstListRemoved);
    } else if let Start::Ost(_) = plain.start {
        plain.start = Start::Any;
        note(reasons, Reason::StartRemoved);
    }
}

/// The mirror that is kept: up to date, of known patterns, preferred ones first. A copy writes one
/// mirror, and any other would be stale at once.
fn one_mirror(composite: &Composite, reasons: &mut Vec<Reason>) -> Option<Layout> {
    let (mut stale, mut further) = (0_u16, 0_u16);
    let mut best: Option<(bool, &[Component])> = None;
    for mirror in composite.mirrors() {
        let any = |test: fn(&Component) -> bool| mirror.iter().any(test);
        if any(Component::is_parity) {
            note(reasons, Reason::ParityDropped);
        } else if any(|component| matches!(component.body, Body::Foreign(_))) {
            note(reasons, Reason::ForeignDropped);
        } else if any(|component| component.flags.has(Flags::STALE)) {
            stale += 1;
        } else {
            let preferred = any(|component| component.flags.only(Flags::PREFER) != Flags(0));
            further += 1;
            if best.is_none_or(|(before, _)| preferred && !before) {
                best = Some((preferred, mirror));
            }
        }
    }
    if stale > 0 {
        note(reasons, Reason::StaleMirrorDropped);
    }
    let (_, mirror) = best?;
    if further > 1 {
        note(reasons, Reason::MirrorsDropped { mirrors: further - 1 });
    }
    let components = mirror.to_vec();
    let mut one = Composite { components, ..Composite::default() }.template();
    if composite.further_mirrors > 0 {
        // What mirrors are marked with means nothing to one; and one for the whole file is plain.
        for component in &mut one.components {
            component.flags = component.flags.only(Flags::EXTENSION.and(Flags::COMPRESS));
        }
        if let [component] = one.components.as_slice()
            && component.extent == Extent::WHOLE
            && let Some(plain) = component.striped().filter(|plain| !plain.pattern.is_mdt())
        {
            return Some(Layout::Plain(plain.clone()));
        }
    }
    Some(Layout::Composite(one))
}

fn without_compression(composite: &mut Composite, reasons: &mut Vec<Reason>) {
    let marks = Flags::COMPRESS.and(Flags::NO_COMPRESS);
    for component in &mut composite.components {
        if component.flags.has(Flags::COMPRESS) {
            note(reasons, Reason::CompressionDropped);
        }
        component.flags = Flags(component.flags.0 & !marks.0);
        component.compression = [0; 2];
    }
}

/// Gives the place of a component on the MDT to the one behind it, unless the destination's default has
/// data on the MDT as well: such space is scarce.
fn off_the_mdt(composite: &mut Composite, site: &Site, reasons: &mut Vec<Reason>) {
    let on_mdt = |component: &Component| component.striped().is_some_and(|p| p.pattern.is_mdt());
    let wanted = site
        .default
        .as_ref()
        .is_some_and(|default| default.plains().any(|plain| plain.pattern.is_mdt()));
    if wanted || !composite.components.iter().any(on_mdt) {
        return;
    }
    composite.components.retain(|component| !on_mdt(component));
    let mut start = 0;
    for component in &mut composite.components {
        component.extent.start = start;
        start = component.extent.end;
    }
    note(reasons, Reason::MdtDropped);
}
