//! Extended attributes and `ioctl` as a Lustre client answers them.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fuser::{Errno, INodeNo};

use crate::client::{Client, INHERIT};
use crate::control::COMMANDS;
use crate::inode::{HIDDEN, Inode};
use crate::layout::{COMPOSITE, FOREIGN, For, Layout, SPECIFIC, V1, V3};
use crate::passthrough::{Asked, TOP, errno};

/// Names of the layout.
const LAYOUTS: [&str; 2] = ["lustre.lov", "trusted.lov"];

/// What has been moved so far: an attribute of the top.
const REPORT: &str = "user.emulator.report";

/// What setting is silently ignored (`mdt_xattr.c`).
const IGNORED: [&str; 8] = [
    "trusted.lma",
    "trusted.link",
    "trusted.hsm",
    "trusted.lmv",
    "trusted.fid",
    "trusted.version",
    "trusted.som",
    "trusted.lfsck_ns",
];

const GETDTNAME: u32 = 0x8080_667F;
const GETUUID: u32 = 0x8028_667F;
const HSM_STATE_GET: u32 = 0x8020_66D3;
const GET_MDTIDX: u32 = 0x8004_66AF;
const DATA_VERSION: u32 = 0x8010_66DA;
const PROJECT: u32 = 0x4110_66FD;
const GETOBDCOUNT: u32 = 0x8008_66A8;
const FSGETXATTR: u32 = 0x801C_581F;
const FSSETXATTR: u32 = 0x401C_5820;

/// The archive that released files come back from.
const ARCHIVE: u32 = 1;

impl Client {
    /// Files and directories have layouts, other things do not.
    fn striped(&self, ino: INodeNo) -> io::Result<Option<(Arc<Inode>, bool)>> {
        let kind = self.0.behind.attr(ino)?.kind;
        let dir = kind == fuser::FileType::Directory;
        if !dir && kind != fuser::FileType::RegularFile {
            return Ok(None);
        }
        Ok(Some((self.0.inode(ino.0)?, dir)))
    }

    fn layout(&self, ino: INodeNo) -> io::Result<Vec<u8>> {
        let none = || errno(Errno::ENODATA);
        let (inode, dir) = self.striped(ino)?.ok_or_else(none)?;
        if !dir {
            let reader = For::Caller(self.0.settings().answers, ino.0);
            let mut state = inode.state();
            self.0.up_to_date(&inode, &mut state);
            return state.layout.as_ref().map(|known| known.encode(reader)).ok_or_else(none);
        }
        let own = inode.state().default.clone();
        let root = || self.0.inode(TOP).ok().and_then(|root| root.state().default.clone());
        own.or_else(root).map(|default| default.encode(For::Default)).ok_or_else(none)
    }

    pub(crate) fn attribute(&self, _: &Asked, ino: INodeNo, name: &OsStr) -> io::Result<Vec<u8>> {
        let text = name.to_string_lossy();
        if LAYOUTS.contains(&&*text) {
            return self.layout(ino);
        }
        if text.starts_with(HIDDEN) {
            return Err(errno(Errno::ENODATA));
        }
        if text.starts_with("lustre.") {
            return Err(errno(Errno::EOPNOTSUPP));
        }
        if ino.0 == TOP && text == REPORT {
            return Ok(self.report());
        }
        self.0.behind.find(ino)?.xattr(name)
    }

    pub(crate) fn attribute_names(&self, asked: &Asked, ino: INodeNo) -> io::Result<Vec<u8>> {
        let behind = self.0.behind.find(ino)?.xattr_names()?;
        let root = asked.user == 0;
        let mut names: Vec<u8> = behind
            .split_inclusive(|byte| *byte == 0)
            .filter(|name| !name.starts_with(HIDDEN.as_bytes()))
            .filter(|name| root || !name.starts_with(b"trusted."))
            .flatten()
            .copied()
            .collect();
        if self.layout(ino).is_ok() {
            names.extend(b"lustre.lov\0");
            if root {
                names.extend(b"trusted.lov\0");
            }
        }
        Ok(names)
    }

    pub(crate) fn set_attribute(
        &self,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> io::Result<()> {
        let text = name.to_string_lossy();
        if LAYOUTS.contains(&&*text) {
            return self.set_layout(ino, value);
        }
        if IGNORED.contains(&&*text) {
            return Ok(());
        }
        if matches!(&*text, "lustre.lov.add" | "lustre.lov.del" | "lustre.lov.set") {
            return Err(errno(Errno::EOPNOTSUPP));
        }
        if text.starts_with("lustre.") {
            return Err(errno(Errno::EINVAL));
        }
        if text.starts_with(HIDDEN) {
            return Err(errno(Errno::EPERM));
        }
        if ino.0 == TOP && text.starts_with(COMMANDS) {
            return self.command(&text, value);
        }
        self.0.behind.find(ino)?.set_xattr(name, value, flags)
    }

    fn set_layout(&self, ino: INodeNo, value: &[u8]) -> io::Result<()> {
        let (inode, dir) = self.striped(ino)?.ok_or_else(|| errno(Errno::EOPNOTSUPP))?;
        if value.is_empty() {
            return if dir { self.drop_default(&inode) } else { Ok(()) };
        }
        let magic = value.get(..4).and_then(|magic| magic.try_into().ok()).map(u32::from_le_bytes);
        let known =
            magic.is_some_and(|magic| [V1, V3, SPECIFIC, COMPOSITE, FOREIGN].contains(&magic));
        if dir && value.len() >= 32 && !known {
            return Err(errno(Errno::EINVAL));
        }
        let request = Layout::decode(value).map_err(errno)?;
        let request = request.into_request(self.0.settings().answers);
        let mut state = inode.state();
        if !dir && state.layout.is_some() {
            return Ok(()); // as a client does, so that cp and rsync do not fail
        }
        let view = self.0.view();
        view.check(&request).map_err(errno)?;
        if dir {
            if request.foreign.is_some() {
                return Err(errno(Errno::EINVAL));
            }
            state.default = Some(request);
        } else {
            let (_, defaults) = self.0.default_of(self.0.parent(ino.0));
            let granted = self.0.mds.grant(request, &defaults, &view).map_err(errno)?;
            state.layout = Some(granted);
        }
        self.0.save(ino.0, &state)
    }

    fn drop_default(&self, inode: &Arc<Inode>) -> io::Result<()> {
        let mut state = inode.state();
        state.default = None;
        self.0.save(inode.ino, &state)
    }

    pub(crate) fn remove_attribute(&self, ino: INodeNo, name: &OsStr) -> io::Result<()> {
        let text = name.to_string_lossy();
        if LAYOUTS.contains(&&*text) {
            let (inode, dir) = self.striped(ino)?.ok_or_else(|| errno(Errno::ENODATA))?;
            return if dir { self.drop_default(&inode) } else { Err(errno(Errno::EOPNOTSUPP)) };
        }
        if text.starts_with(HIDDEN) {
            return Err(errno(Errno::ENODATA));
        }
        self.0.behind.find(ino)?.remove_xattr(name)
    }

    pub(crate) fn control(
        &self,
        _: &Asked,
        ino: INodeNo,
        number: u32,
        input: &[u8],
        room: usize,
    ) -> io::Result<Vec<u8>> {
        let settings = self.0.settings();
        let mut out = match number {
            GETDTNAME => format!("{}-clilov-{}", settings.name, settings.instance).into_bytes(),
            GETUUID => b"3f6d4c1e-5b0a-4d4e-9a51-2f6f4f6b1c77".to_vec(),
            GET_MDTIDX => vec![0; 4],
            GETOBDCOUNT => (self.0.osts.len() as u64).to_le_bytes().to_vec(),
            HSM_STATE_GET => {
                let inode = self.0.inode(ino.0)?;
                let mut state = inode.state();
                self.0.up_to_date(&inode, &mut state);
                let hsm = state.hsm;
                let archive = if hsm == 0 { 0 } else { ARCHIVE };
                [hsm.to_le_bytes(), archive.to_le_bytes()].concat()
            }
            DATA_VERSION => self.data_version(ino)?,
            FSGETXATTR => {
                let inode = self.0.inode(ino.0)?;
                let state = inode.state();
                let mut out = state.flags.to_le_bytes().to_vec();
                out.resize(12, 0);
                out.extend(state.project.to_le_bytes());
                out
            }
            FSSETXATTR => {
                let word = |at: usize| input.get(at..at + 4).and_then(|word| word.try_into().ok());
                let flags = word(0).map_or(0, u32::from_le_bytes);
                let project = word(12).map_or(0, u32::from_le_bytes);
                self.set_project(ino, project, flags)?;
                Vec::new()
            }
            PROJECT => {
                self.project(ino, input)?;
                Vec::new()
            }
            _ => return Err(errno(Errno::ENOTTY)),
        };
        out.resize(room, 0);
        Ok(out)
    }

    fn data_version(&self, ino: INodeNo) -> io::Result<Vec<u8>> {
        let inode = self.0.inode(ino.0)?;
        let mut state = inode.state();
        self.0.up_to_date(&inode, &mut state);
        let layout = state.layout.as_ref().filter(|layout| !layout.released);
        let version = if layout.is_some() { state.version + 1 } else { 0 };
        let generation = state.layout.as_ref().map_or(0, |layout| layout.generation);
        let mut out = version.to_le_bytes().to_vec();
        out.extend(generation.to_le_bytes());
        Ok(out)
    }

    /// `LL_IOC_PROJECT`: operation, id, flags, reserved, name of a child.
    fn project(&self, ino: INodeNo, input: &[u8]) -> io::Result<()> {
        let word = |at: usize| {
            let word = input.get(at..at + 4).and_then(|word| word.try_into().ok());
            word.map(u32::from_le_bytes).ok_or_else(|| errno(Errno::EINVAL))
        };
        if word(0)? != 1 {
            return Err(errno(Errno::EOPNOTSUPP)); // the answer could not be brought back
        }
        let name: &[u8] = input.get(16..).unwrap_or_default();
        let name: Vec<u8> = name.iter().copied().take_while(|byte| *byte != 0).collect();
        let target = match name.is_empty() {
            true => ino,
            false => {
                let path = self.0.behind.child(ino, OsStr::from_bytes(&name))?;
                let about = std::fs::symlink_metadata(&path)?;
                let number = std::os::unix::fs::MetadataExt::ino(&about);
                let found = crate::passthrough::Found { path, follow: false };
                let inode = self.0.inodes.get(number, || Ok(found))?;
                let mut state = inode.state();
                state.project = word(4)?;
                state.flags = word(8)? & INHERIT;
                let path = self.0.behind.child(ino, OsStr::from_bytes(&name))?;
                return state.save(&crate::passthrough::Found { path, follow: false });
            }
        };
        self.set_project(target, word(4)?, word(8)?)
    }

    fn set_project(&self, ino: INodeNo, project: u32, flags: u32) -> io::Result<()> {
        let inode = self.0.inode(ino.0)?;
        let mut state = inode.state();
        state.project = project;
        state.flags = flags & INHERIT;
        self.0.save(ino.0, &state)
    }
}
