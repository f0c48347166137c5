//! Extended attributes and ACLs: which are copied, by namespace, and how they are read and written.
//! When they are set is decided in `attributes`.

use std::ffi::{CStr, CString};

use nix::errno::Errno;

use super::attributes::Attributes;
use super::tally::Warning;
use crate::error::{Step, StepError};
use crate::options::XattrPolicy;
use crate::sys::{self, XattrTarget};

/// Name of the access ACL among the extended attributes (`linux/xattr.h`).
pub(crate) const ACCESS_ACL: &CStr = c"system.posix_acl_access";
/// Name of a directory's default ACL.
pub(crate) const DEFAULT_ACL: &CStr = c"system.posix_acl_default";

/// Names and values of extended attributes that are to be set on the copy.
#[derive(Debug, Default)]
pub(crate) struct Xattrs(Vec<(CString, Vec<u8>)>);

impl Xattrs {
    /// Whether there is an access ACL.
    pub(crate) fn has_acl(&self) -> bool {
        self.has(ACCESS_ACL)
    }

    /// The names of those that only one side has, or with another value.
    pub(crate) fn differing(&self, other: &Self) -> Vec<String> {
        let sides = [(&self.0, &other.0), (&other.0, &self.0)];
        let names = sides.into_iter().flat_map(|(own, others)| {
            own.iter().filter(|attribute| !others.contains(attribute)).map(|(name, _)| name)
        });
        let names: std::collections::BTreeSet<_> = names.collect();
        names.into_iter().map(|name| name.to_string_lossy().into_owned()).collect()
    }

    fn has(&self, name: &CStr) -> bool {
        self.0.iter().any(|(own, _)| own.as_c_str() == name)
    }
}

impl Attributes<'_> {
    /// Reads the extended attributes that the policy lets through.
    ///
    /// # Errors
    /// Step `Xattr`, with the errno of listing or reading.
    pub(crate) fn read_xattrs(&self, source: XattrTarget<'_>) -> Result<Option<Xattrs>, StepError> {
        let preserve = self.preserve();
        if self.options.xattrs == XattrPolicy::None || !(preserve.xattr || preserve.acl) {
            return Ok(Some(Xattrs::default()));
        }
        let mut names = Vec::new();
        match sys::list_xattrs(source, &mut names) {
            Ok(()) => {}
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => return Ok(None),
            Err(errno) => return Err(StepError::os(Step::Xattr, errno)),
        }
        let mut found = Vec::new();
        for name in names.split_inclusive(|byte| *byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
            if !self.is_copied(name.to_bytes()) {
                continue;
            }
            let mut value = Vec::new();
            match sys::get_xattr(source, name, &mut value) {
                Ok(()) => found.push((name.to_owned(), value)),
                Err(Errno::ENODATA) => {} // removed since it was listed
                Err(errno) => return Err(StepError::os(Step::Xattr, errno)),
            }
        }
        Ok(Some(Xattrs(found)))
    }

    /// The policy, by name. The Lustre internals are those that dcp leaves out too; `SGI_ACL_*` is how
    /// XFS shows root its ACLs a second time, which elsewhere would be litter.
    pub(crate) fn is_copied(&self, name: &[u8]) -> bool {
        const INTERNAL_TRUSTED: [&[u8]; 17] = [
            b"som",
            b"lov",
            b"lma",
            b"lmv",
            b"dmv",
            b"link",
            b"fid",
            b"version",
            b"hsm",
            b"lfsck_bitmap",
            b"lfsck_ns",
            b"dummy",
            b"dataver",
            b"inodefl",
            b"projid",
            b"SGI_ACL_FILE",
            b"SGI_ACL_DEFAULT",
        ];
        if name == ACCESS_ACL.to_bytes() || name == DEFAULT_ACL.to_bytes() {
            return self.preserve().acl;
        }
        if !self.preserve().xattr {
            return false;
        }
        let policy = self.options.xattrs;
        if name.starts_with(b"user.") {
            return true;
        }
        if policy == XattrPolicy::User {
            return false;
        }
        if let Some(rest) = name.strip_prefix(b"trusted.") {
            return self.root && !INTERNAL_TRUSTED.contains(&rest);
        }
        match name {
            b"security.capability" => {
                if !self.root {
                    self.tally.warn(Warning::CapabilityNotKept);
                }
                self.root
            }
            // The last one is a key of Lustre's encryption, which is worth nothing on another file.
            b"security.ima" | b"security.evm" | b"security.c" => false,
            b"security.selinux" => {
                if policy == XattrPolicy::Auto {
                    self.tally.warn(Warning::SecurityLabel);
                }
                policy == XattrPolicy::All
            }
            _ if name.starts_with(b"security.") || name.starts_with(b"system.") => {
                policy == XattrPolicy::All
            }
            _ => false, // lustre.* and namespaces that we do not know
        }
    }

    /// Removes ACLs that an item inherited and the source has not.
    pub(crate) fn remove_foreign_acls(&self, target: XattrTarget<'_>, wanted: &Xattrs) {
        if !self.preserve().acl {
            return;
        }
        for name in [ACCESS_ACL, DEFAULT_ACL] {
            if !wanted.has(name) {
                let _ = sys::remove_xattr(target, name); // usually there is none: no error
            }
        }
    }

    /// Sets the extended attributes. Returns the permission bits that the mode may have: without the
    /// ACL, the group bits of the source's mode (the ACL's mask) would be the owning group's.
    pub(crate) fn write_xattrs(
        &self,
        target: XattrTarget<'_>,
        xattrs: &Xattrs,
    ) -> Result<u32, StepError> {
        let mut allowed = 0o7777;
        for (name, value) in &xattrs.0 {
            match sys::set_xattr(target, name, value) {
                Ok(()) => {}
                Err(Errno::EOPNOTSUPP) => {
                    if name.as_c_str() == ACCESS_ACL {
                        allowed = !0o070 & 0o7777 | owning_group(value) << 3;
                    }
                    let acl = name.as_c_str() == ACCESS_ACL || name.as_c_str() == DEFAULT_ACL;
                    self.tally.warn(if acl {
                        Warning::AclUnsupported
                    } else {
                        Warning::XattrUnsupported
                    });
                }
                Err(errno) => return Err(StepError::os(Step::Xattr, errno)),
            }
        }
        Ok(allowed)
    }
}

/// What an access ACL gives to the owning group (`struct posix_acl_xattr_entry`: behind 4 bytes of
/// version, for each entry tag, permissions, and an id of 4 bytes). Nothing, when it says nothing.
fn owning_group(acl: &[u8]) -> u32 {
    const GROUP_OBJ: u16 = 0x04;
    let entries = acl.get(4..).unwrap_or_default().chunks_exact(8);
    let number = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
    let mut group = entries.filter(|entry| number(entry) == GROUP_OBJ);
    group.next().map_or(0, |entry| u32::from(number(&entry[2..4])) & 7)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tally::Tally;
    use crate::options::CopyOptions;

    fn copied(policy: XattrPolicy, root: bool, name: &[u8]) -> bool {
        let options = CopyOptions { xattrs: policy, ..CopyOptions::default() };
        let tally = Tally::default();
        let attributes = Attributes { root, ..Attributes::new(&options, &tally) };
        attributes.is_copied(name)
    }

    #[test]
    fn lustre_internals_and_integrity_hashes_are_never_copied() {
        for name in [
            b"lustre.lov".as_slice(),
            b"lustre.pin",
            b"trusted.lov",
            b"trusted.lfsck_ns",
            b"security.ima",
            b"security.evm",
            b"security.c",
        ] {
            assert!(!copied(XattrPolicy::All, true, name), "{}", name.escape_ascii());
        }
    }

    #[test]
    fn the_label_of_the_destination_is_kept_unless_all_is_asked_for() {
        assert!(!copied(XattrPolicy::Auto, true, b"security.selinux"));
        assert!(copied(XattrPolicy::All, true, b"security.selinux"));
    }

    #[test]
    fn user_attributes_and_acls_are_copied_under_every_policy_but_none() {
        for policy in [XattrPolicy::Auto, XattrPolicy::User, XattrPolicy::All] {
            assert!(copied(policy, false, b"user.mine"));
            assert!(copied(policy, false, ACCESS_ACL.to_bytes()));
        }
        assert!(!copied(XattrPolicy::User, true, b"trusted.site"));
        assert!(copied(XattrPolicy::Auto, true, b"trusted.site"));
        assert!(!copied(XattrPolicy::Auto, false, b"trusted.site"));
    }
}
