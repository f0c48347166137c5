//! Where a large file lies: asks both sides for their layouts, once per file, and prepares handing out
//! objects instead of chunks. It sets no layouts.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::file::{Pending, is_sparse};
use super::job::Filesystems;
use super::sizing::Mover;
use super::worker::Worker;
use crate::backend::objects::{ObjectSupply, Placement, Side};
use crate::lanes::{self, Lane};
use crate::lustre::access;
use crate::lustre::layout::Of;
use crate::lustre::stripes::Striping;
use crate::options::StripeChoice;

impl Worker<'_> {
    /// Whether large files are moved object by object between these filesystems.
    pub(super) fn is_stripe_aware(&self, filesystems: Filesystems) -> bool {
        (filesystems.destination.layouts || filesystems.source.layouts)
            && self.job.options().stripes == StripeChoice::Aware
            && self.job.sizing.mover != Mover::Range
    }

    /// The objects of a file that was just given its size. `None` where they cannot be told: the file
    /// is then copied by chunks, as anywhere else.
    pub(super) fn objects(
        &self,
        source: &OwnedFd,
        destination: &OwnedFd,
        pending: &Pending,
        filesystems: Filesystems,
        written: &[Range<u64>],
    ) -> Option<ObjectSupply> {
        let size = pending.stat.st_size.cast_unsigned();
        let device = pending.dir.destination_stat.as_ref()?.st_dev;
        let to = filesystems.destination.layouts.then(|| {
            let _pass = lanes::enter(Lane::DestinationCreate);
            self.placement(destination, device, size)
        });
        let from = filesystems.source.layouts.then(|| {
            let _pass = lanes::enter(Lane::SourceMetadata);
            self.placement(source, pending.stat.st_dev, size)
        });
        let (by, from) = match (to.flatten(), from.flatten()) {
            (Some(to), from) => ((Side::Destination, to), from),
            (None, Some(from)) => ((Side::Source, from), None),
            (None, None) => return None,
        };
        let sparse = is_sparse(&pending.stat) && filesystems.source.tells_holes;
        let buffers = Arc::clone(&self.job.buffers);
        ObjectSupply::new(by, from, size, sparse, written.to_vec(), buffers)
    }

    fn placement(&self, file: impl AsFd, device: u64, size: u64) -> Option<Placement> {
        let striping = Striping::of(&access::read(file, Of::File).ok()?.layout()?, size)?;
        let loads = self.job.servers.of(device, &striping);
        Some(Placement { striping, loads })
    }
}
