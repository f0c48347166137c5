//! Numbers of the binary form of layouts, from `lustre_user.h` and `lustre_idl.h` of Lustre: magic
//! numbers and the sizes of structures. Reading and writing them is in `parse` and `compose`.

/// `lov_user_md_v1`.
pub(super) const MAGIC_V1: u32 = 0x0bd1_0bd0;
/// `lov_user_md_v3`: as V1, with a pool's name.
pub(super) const MAGIC_V3: u32 = 0x0bd3_0bd0;
/// As V3, with a list of the wanted OSTs; for setting.
pub(super) const MAGIC_SPECIFIC: u32 = 0x0bd5_0bd0;
/// `lov_comp_md_v1`.
pub(super) const MAGIC_COMPOSITE: u32 = 0x0bd6_0bd0;
/// `lov_foreign_md`.
pub(super) const MAGIC_FOREIGN: u32 = 0x0bd7_0bd0;
/// A composite with extension space, as servers mark it among themselves.
pub(super) const MAGIC_EXTENDED: u32 = 0x0bd8_0bd0;
/// Files joined out of others; obsolete.
pub(super) const MAGIC_JOINED: u32 = 0x0bd2_0bd0;
/// Used between servers.
pub(super) const MAGIC_MIGRATE: u32 = 0x0bd4_0bd0;
/// "Defined, but not stored": a server's mark on a magic number (`LOV_MAGIC_DEFINED`).
pub(super) const MARK_DEFINED: u32 = 0x1000_0000;

/// Bytes of the head of a V1 layout.
pub(super) const HEAD_V1: usize = 32;
/// Bytes of the head of a V3 or SPECIFIC layout.
pub(super) const HEAD_V3: usize = 48;
/// Bytes of one object.
pub(super) const OBJECT: usize = 24;
/// Bytes of the head of a composite layout.
pub(super) const HEAD_COMPOSITE: usize = 32;
/// Bytes of one entry of a composite layout.
pub(super) const ENTRY: usize = 48;
/// Bytes of the head of a foreign layout.
pub(super) const HEAD_FOREIGN: usize = 16;
