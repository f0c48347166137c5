//! What a choice of layouts needs to know of the destination. Values; `probe` finds some of them out.

use super::layout::{Layout, Plain};

/// What is known of the directory that the file is created in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Site {
    /// OSTs that take objects; `None` when nobody says.
    pub osts: Option<u32>,
    /// Bytes that one request to an OST holds; `None` when nobody says.
    pub rpc_bytes: Option<u64>,
    /// Names of the pools that were seen there.
    pub pools: Vec<Vec<u8>>,
    /// Whether the source lies on the same filesystem, so that its pools are there.
    pub same_filesystem: bool,
    /// The default of the directory, its own or the filesystem's; `None` when it could not be read.
    pub default: Option<Layout>,
}

impl Site {
    /// Whether a pool can be asked for.
    #[must_use]
    pub fn knows_pool(&self, name: &[u8]) -> bool {
        self.same_filesystem || self.pools.iter().any(|known| known == name)
    }

    /// Notes the pools that a layout of the destination names.
    pub fn learn_pools(&mut self, layout: &Layout) {
        for pool in layout.plains().filter_map(Plain::pool) {
            if !self.knows_pool(pool.name()) {
                self.pools.push(pool.name().to_vec());
            }
        }
    }
}
