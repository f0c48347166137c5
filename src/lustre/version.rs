//! The data version of a Lustre file: a number that changes whenever its data does, also when somebody
//! sets its times back. Equal numbers mean equal data, nothing else.

use std::os::fd::AsFd;

use crate::sys;

/// `LL_IOC_DATA_VERSION` of `lustre_user.h`: 16 bytes, version at 0, flags at 12.
const DATA_VERSION: u32 = 0x8010_66da;
/// `LL_DV_RD_FLUSH`: what other clients have not written yet is written first.
const READ_FLUSH: u32 = 1;

/// The data version of an open file on Lustre, what other clients hold back included. Must not be
/// called for files of other filesystems. `None` where there is none: no objects (an empty or a
/// released file), a server that does not answer, an old client.
pub fn data_version(file: impl AsFd) -> Option<u64> {
    let mut value = [0_u8; 16];
    value[12..].copy_from_slice(&READ_FLUSH.to_ne_bytes());
    sys::read_ioctl(file.as_fd(), DATA_VERSION, &mut value).ok()?;
    let (version, _) = value.split_first_chunk()?;
    Some(u64::from_ne_bytes(*version)).filter(|version| *version != 0)
}
