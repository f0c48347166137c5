//! Why a file gets the layout that it gets: each reason has a stable word, to be counted by, and a
//! sentence. Nothing is decided here.

use std::fmt;

use super::fields::{Pattern, Pool};

/// One reason for a layout, or for a change to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The policy says so: the directory's default.
    DirectoryDefault,
    /// What would be asked for is the directory's default.
    SameAsDefault,
    /// The source has no layout that could be kept.
    NoSourceLayout,
    /// The directory's default has components, which somebody chose for files of all sizes.
    CompositeDefault,
    /// The file is too small for its layout to matter.
    SmallFile,
    /// The directory's default is wide enough for the size.
    WideEnough,
    /// The layout was asked for.
    AsAsked,
    /// The source's layout is kept.
    AsSource,
    /// So many stripes for the size.
    BySize {
        /// Stripes.
        stripes: u16,
    },
    /// The site's table says so.
    BySiteTable,
    /// More stripes than there are OSTs.
    FewerOsts {
        /// Stripes that were asked for.
        asked: u16,
        /// OSTs that there are.
        osts: u16,
    },
    /// Some of the stripes would stay empty.
    Narrowed {
        /// Stripes that were asked for; `None` for one on every OST.
        from: Option<u16>,
        /// Stripes that the file fills.
        to: u16,
    },
    /// No such pool was seen at the destination.
    PoolUnknown(Pool),
    /// The servers choose the first OST.
    StartRemoved,
    /// The servers choose all OSTs.
    OstListRemoved,
    /// A mirror that was out of date.
    StaleMirrorDropped,
    /// Mirrors that were in sync: a copy writes one.
    MirrorsDropped {
        /// How many.
        mirrors: u16,
    },
    /// Parity of erasure coding.
    ParityDropped,
    /// Compression by clients.
    CompressionDropped,
    /// Data that is not Lustre's.
    ForeignDropped,
    /// A pattern that Longshore does not know.
    UnknownPattern(Pattern),
    /// Data on the MDT, where the destination's default has none.
    MdtDropped,
    /// The last component was to end before the file does.
    Extended,
}

impl Reason {
    /// The word that it is counted by in reports; stable.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::DirectoryDefault => "directory-default",
            Self::SameAsDefault => "same-as-default",
            Self::NoSourceLayout => "no-source-layout",
            Self::CompositeDefault => "composite-default",
            Self::SmallFile => "small-file",
            Self::WideEnough => "wide-enough",
            Self::AsAsked => "as-asked",
            Self::AsSource => "as-source",
            Self::BySize { .. } => "by-size",
            Self::BySiteTable => "by-site-table",
            Self::FewerOsts { .. } => "fewer-osts",
            Self::Narrowed { .. } => "narrowed",
            Self::PoolUnknown(_) => "pool-unknown",
            Self::StartRemoved => "start-removed",
            Self::OstListRemoved => "ost-list-removed",
            Self::StaleMirrorDropped => "stale-mirror-dropped",
            Self::MirrorsDropped { .. } => "mirrors-dropped",
            Self::ParityDropped => "parity-dropped",
            Self::CompressionDropped => "compression-dropped",
            Self::ForeignDropped => "foreign-dropped",
            Self::UnknownPattern(_) => "unknown-pattern",
            Self::MdtDropped => "mdt-dropped",
            Self::Extended => "extended",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DirectoryDefault => f.write_str("the directory's default"),
            Self::SameAsDefault => f.write_str("the directory's default says the same"),
            Self::NoSourceLayout => {
                f.write_str("the source has no layout: the directory's default")
            }
            Self::CompositeDefault => {
                f.write_str("the directory's default has components for every size")
            }
            Self::SmallFile => f.write_str("too small for a layout of its own"),
            Self::WideEnough => f.write_str("the directory's default is wide enough"),
            Self::AsAsked => f.write_str("as asked"),
            Self::AsSource => f.write_str("as the source has it"),
            Self::BySize { stripes: 1 } => f.write_str("1 stripe for its size"),
            Self::BySize { stripes } => write!(f, "{stripes} stripes for its size"),
            Self::BySiteTable => f.write_str("the site's table"),
            Self::FewerOsts { asked, osts } => {
                write!(f, "{asked} stripes asked, {osts} OSTs: {osts}")
            }
            Self::Narrowed { from: Some(from), to } => {
                write!(f, "the file is smaller than its {from} stripes: {to}")
            }
            Self::Narrowed { from: None, to } => {
                write!(f, "the file is smaller than a stripe on every OST: {to}")
            }
            Self::PoolUnknown(pool) => write!(f, "pool {pool} is not known there: left out"),
            Self::StartRemoved => f.write_str("start OST removed"),
            Self::OstListRemoved => f.write_str("list of OSTs removed"),
            Self::StaleMirrorDropped => f.write_str("stale mirror dropped"),
            Self::MirrorsDropped { mirrors: 1 } => f.write_str("1 further mirror dropped"),
            Self::MirrorsDropped { mirrors } => write!(f, "{mirrors} further mirrors dropped"),
            Self::ParityDropped => f.write_str("parity dropped"),
            Self::CompressionDropped => f.write_str("compression dropped"),
            Self::ForeignDropped => f.write_str("foreign data: layout dropped"),
            Self::UnknownPattern(pattern) => {
                write!(f, "unknown pattern {pattern}: the directory's default")
            }
            Self::MdtDropped => {
                f.write_str("no data on the MDT, as the directory's default has none there")
            }
            Self::Extended => f.write_str("last component extended to the end of the file"),
        }
    }
}
