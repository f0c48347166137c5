//! Which layout a new file is given: the policies of `--layout`. Pure: what is known of the
//! destination is handed in, and what is returned says why. Nothing is created here.

use std::str::FromStr;

use super::fields::{Count, Stripes};
use super::layout::{Layout, Plain};
use super::reason::Reason;
pub use super::site::Site;
use super::spec::SpecError;
use super::table::Table;

/// `--layout`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Policy {
    /// As the destination's directories say.
    #[default]
    Inherit,
    /// As the source has it, translated to the destination.
    Preserve,
    /// By size.
    Auto,
    /// This one for every file.
    Spec(Layout),
}

impl FromStr for Policy {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        match text.trim() {
            "inherit" => Ok(Self::Inherit),
            "preserve" => Ok(Self::Preserve),
            "auto" => Ok(Self::Auto),
            spec if !spec.is_empty() && !spec.starts_with('-') => Err(SpecError {
                word: spec.to_owned(),
                problem: "no layout; write inherit, preserve, auto, or options of lfs setstripe \
                          such as -c 4 -S 4M"
                    .to_owned(),
            }),
            spec => Layout::from_spec(spec).map(Self::Spec),
        }
    }
}

/// What is to be done, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The layout to set before anything is written; `None`: the directory's default decides, and no
    /// call is needed.
    pub request: Option<Layout>,
    /// The first one says where the layout is from, the others what was changed.
    pub reasons: Vec<Reason>,
}

impl Choice {
    fn inherit(reason: Reason) -> Self {
        Self { request: None, reasons: vec![reason] }
    }
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Up to here a layout of its own costs more than it gains (*Lustre Striping Best Practices*).
const SMALL_BYTES: u64 = MIB;
/// Up to here one stripe is enough.
const SINGLE_BYTES: u64 = GIB;
/// Above, balance of space asks for more stripes than one client's speed does.
const HUGE_BYTES: u64 = 100 * GIB;
/// Most stripes that make one writing client faster.
const CLIENT_STRIPES: u64 = 8;
/// Stripe size that fills a request of the default size (4 MiB).
const STRIPE_BYTES: u64 = 4 * MIB;
/// Largest object that every kind of OST can hold: 16 TiB, the limit of ldiskfs.
const OBJECT_BYTES: u64 = 16 << 40;

/// Decides the layout of one new file of `bytes`. `source`: the layout of the file that it is copied
/// from, where there is one that could be read; only [`Policy::Preserve`] looks at it.
#[must_use]
pub fn choose(
    policy: &Policy,
    source: Option<&Layout>,
    bytes: u64,
    site: &Site,
    table: Option<&Table>,
) -> Choice {
    match policy {
        Policy::Inherit => Choice::inherit(Reason::DirectoryDefault),
        Policy::Spec(layout) => fitted(layout, Reason::AsAsked, bytes, site),
        Policy::Preserve => preserve(source, bytes, site),
        Policy::Auto => match table.and_then(|table| table.layout(bytes)) {
            Some(Some(layout)) => fitted(layout, Reason::BySiteTable, bytes, site),
            Some(None) => Choice::inherit(Reason::BySiteTable),
            None => by_size(bytes, site),
        },
    }
}

/// A layout that somebody wrote: as it is, as far as it can be.
fn fitted(layout: &Layout, reason: Reason, bytes: u64, site: &Site) -> Choice {
    let (mut layout, mut reasons) = (layout.template(), vec![reason]);
    layout.limit_to_osts(site, &mut reasons);
    layout.extend_to(bytes, &mut reasons);
    Choice { request: Some(layout), reasons }
}

fn preserve(source: Option<&Layout>, bytes: u64, site: &Site) -> Choice {
    let Some(source) = source else { return Choice::inherit(Reason::NoSourceLayout) };
    let mut reasons = vec![Reason::AsSource];
    let Some(mut layout) = source.normalised(site, &mut reasons) else {
        reasons[0] = Reason::NoSourceLayout;
        return Choice { request: None, reasons };
    };
    layout.limit_to_osts(site, &mut reasons);
    layout.narrow(bytes, site, &mut reasons);
    layout.extend_to(bytes, &mut reasons);
    if site.default.as_ref().is_some_and(|default| layout.serves_as(default, bytes)) {
        reasons[0] = Reason::SameAsDefault;
        return Choice { request: None, reasons };
    }
    if site.default.is_none() && bytes <= SMALL_BYTES && layout.is_single() {
        // Nobody configured a default: filesystems without one give one stripe, and two calls for
        // each small file would say no more.
        reasons[0] = Reason::SmallFile;
        return Choice { request: None, reasons };
    }
    Choice { request: Some(layout), reasons }
}

/// Our own table, for one client that writes.
fn by_size(bytes: u64, site: &Site) -> Choice {
    if bytes <= SMALL_BYTES {
        return Choice::inherit(Reason::SmallFile);
    }
    let default = match &site.default {
        Some(Layout::Plain(plain)) => plain.count.stripes(),
        Some(Layout::Composite(_)) => return Choice::inherit(Reason::CompositeDefault),
        Some(Layout::Foreign(_)) | None => Stripes::Default,
    };
    let stripes = stripes(bytes, site.osts);
    let enough = match default {
        // Where nobody says, one stripe is what a filesystem has that was not configured.
        Stripes::Default => stripes == 1,
        Stripes::Number(number) if bytes <= SINGLE_BYTES => number == 1,
        Stripes::Number(number) => number >= stripes,
        Stripes::EveryOst(_) => bytes > SINGLE_BYTES,
    };
    if enough {
        return Choice::inherit(Reason::WideEnough);
    }
    let rpc = site.rpc_bytes.filter(|rpc| rpc.is_multiple_of(MIB)).unwrap_or(STRIPE_BYTES);
    let stripe_size = u32::try_from(rpc.max(STRIPE_BYTES)).unwrap_or(4 << 20);
    let layout = Layout::Plain(Plain::new(Count(stripes), stripe_size));
    Choice { request: Some(layout), reasons: vec![Reason::BySize { stripes }] }
}

/// One stripe up to 1 GiB, then the square root of the size in GiB, plus one, as `lfs migrate -A`
/// does: at most eight up to 100 GiB, and never more than there are OSTs. Always as many as objects of
/// 16 TiB make necessary.
fn stripes(bytes: u64, osts: Option<u32>) -> u16 {
    let needed = bytes.div_ceil(OBJECT_BYTES).max(1);
    let wanted = if bytes <= SINGLE_BYTES { 1 } else { (bytes / GIB).isqrt() + 1 };
    let known = osts.filter(|osts| *osts > 0).map(u64::from);
    // With an unknown number of OSTs more are not asked for than one client can use.
    let capped = match known {
        _ if bytes <= HUGE_BYTES => wanted.min(CLIENT_STRIPES),
        Some(_) => wanted,
        None => wanted.min(CLIENT_STRIPES),
    };
    let most = known.unwrap_or(u64::MAX).min(super::fields::MAX_STRIPES.into());
    u16::try_from(capped.max(needed).min(most)).expect("at most 2000")
}

/// What a directory's default is to be at the destination, where the source's is its own and not only
/// the filesystem's, which reading a directory falls back to: copying that would turn a site's policy
/// into data. `own` is as read from the directory, `root` as read from the root of its filesystem.
#[must_use]
pub fn explicit_default(own: Option<&Layout>, root: Option<&Layout>) -> Option<Layout> {
    let own = own?.template();
    (root.map(Layout::template).as_ref() != Some(&own)).then_some(own)
}

/// As [`explicit_default`], translated to the destination as [`Policy::Preserve`] does with files.
#[must_use]
pub fn preserved_default(own: Option<&Layout>, root: Option<&Layout>, site: &Site) -> Choice {
    let Some(own) = explicit_default(own, root) else {
        return Choice::inherit(Reason::DirectoryDefault);
    };
    let mut reasons = vec![Reason::AsSource];
    let mut request = own.normalised(site, &mut reasons);
    match &mut request {
        Some(layout) => layout.limit_to_osts(site, &mut reasons),
        None => reasons[0] = Reason::NoSourceLayout,
    }
    if request.is_some() && request == site.default.as_ref().map(Layout::template) {
        reasons[0] = Reason::SameAsDefault;
        request = None;
    }
    Choice { request, reasons }
}

#[cfg(test)]
mod tests;
