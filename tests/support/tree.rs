//! A seeded tree with everything a user can see: sizes, holes, modes, owners, times, links,
//! attributes, special files, strange names, depth. It only makes trees, it compares nothing.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::{SFlag, makedev};

pub use super::items::*;
use super::{Rng, is_root};

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct TreeOptions {
    /// Entries of the one directory with many.
    pub many: usize,
    /// Sizes of megabytes as well.
    pub big: bool,
    /// Depth of the chain of directories with names of 200 bytes; over 20 it is beyond `PATH_MAX`.
    pub deep: usize,
    /// What only root may make: foreign owners, devices, `trusted.*`, capabilities, unreadable files.
    pub privileged: bool,
}

impl Default for TreeOptions {
    fn default() -> Self {
        Self { many: 200, big: true, deep: 24, privileged: is_root() }
    }
}

impl TreeOptions {
    /// Little of everything: for tests that make many trees.
    pub fn small() -> Self {
        Self { many: 20, big: false, ..Self::default() }
    }

    /// Nothing that only root could make or read.
    pub fn unprivileged(self) -> Self {
        Self { privileged: false, ..self }
    }
}

/// A tree that was made, and its seed.
pub struct Tree {
    /// Its top.
    pub root: PathBuf,
    rng: Rng,
    options: TreeOptions,
}

impl Tree {
    /// Makes the tree at a path that does not exist yet.
    pub fn make(root: impl Into<PathBuf>, seed: u64, options: TreeOptions) -> Self {
        let mut tree = Self { root: root.into(), rng: Rng::new(seed), options };
        fs::create_dir(&tree.root).expect("failed to make the top of the tree");
        tree.sizes();
        tree.holes();
        tree.modes();
        tree.links();
        tree.attributes();
        tree.special();
        tree.names();
        tree.many();
        tree.deep();
        if tree.options.privileged {
            tree.owners();
        }
        tree.times();
        tree
    }

    fn dir(&self, name: &str) -> PathBuf {
        let dir = self.root.join(name);
        fs::create_dir(&dir).expect("failed to make a directory");
        dir
    }

    fn file(&mut self, path: impl AsRef<Path>, bytes: usize) {
        fs::write(path, self.rng.bytes(bytes)).expect("failed to write a file");
    }

    fn sizes(&mut self) {
        let dir = self.dir("sizes");
        const KIB: usize = 1024;
        const MIB: usize = 1024 * KIB;
        let mut sizes =
            vec![0, 1, 4095, 4096, 4097, 65_536, 128 * KIB - 1, 128 * KIB, 128 * KIB + 1];
        if self.options.big {
            sizes.extend([MIB - 1, MIB, MIB + 1, 3 * MIB, 9 * MIB + 5]);
        }
        for bytes in sizes {
            self.file(dir.join(format!("of-{bytes}")), bytes);
        }
    }

    fn holes(&mut self) {
        let dir = self.dir("holes");
        const BLOCK: u64 = 256 * 1024;
        // name, size in blocks of 256 KiB, which blocks hold data
        let table: [(&str, u64, &[u64]); 7] = [
            ("leading", 6, &[5]),
            ("middle", 8, &[0, 7]),
            ("trailing", 6, &[0]),
            ("everything", 12, &[]),
            ("alternating", 9, &[0, 2, 4, 6, 8]),
            ("gigabyte", 4096, &[0, 2000]),
            ("both-ends", 9, &[4]),
        ];
        for (name, blocks, data) in table {
            let file = File::create(dir.join(name)).expect("failed to make a sparse file");
            file.set_len(blocks * BLOCK).expect("failed to make a sparse file");
            for block in data {
                let bytes = self.rng.bytes(64 * 1024);
                file.write_all_at(&bytes, block * BLOCK)
                    .expect("failed to write into a sparse file");
            }
        }
        File::create(dir.join("small"))
            .and_then(|file| file.set_len(700))
            .expect("failed to make a sparse file");
        let odd = File::create(dir.join("odd-end")).expect("failed to make a sparse file");
        odd.write_all_at(b"end", 3 * BLOCK + 77).expect("failed to write into a sparse file");
        odd.set_len(5 * BLOCK + 13).expect("failed to make a sparse file");
    }

    fn modes(&mut self) {
        let dir = self.dir("modes");
        let mut modes =
            vec![0o644, 0o600, 0o444, 0o755, 0o777, 0o4755, 0o2755, 0o1644, 0o6711, 0o400];
        if self.options.privileged {
            modes.extend([0o000, 0o222, 0o111]);
        }
        for mode in modes {
            let path = dir.join(format!("file-{mode:04o}"));
            self.file(&path, 33);
            chmod(&path, mode);
        }
        let mut modes = vec![0o755, 0o555, 0o700, 0o1777, 0o2775, 0o500, 0o4755];
        if self.options.privileged {
            modes.extend([0o000, 0o333]);
        }
        for mode in modes {
            let path = dir.join(format!("dir-{mode:04o}"));
            fs::create_dir(&path).expect("failed to make a directory");
            self.file(path.join("inside"), 5);
            fs::create_dir(path.join("empty")).expect("failed to make a directory");
            chmod(&path, mode);
        }
    }

    fn links(&mut self) {
        let dir = self.dir("links");
        let other = self.dir("other-links");
        self.file(dir.join("target"), 100);
        for (text, name) in [
            ("target", "relative"),
            ("../links/target", "through-parent"),
            ("/nonexistent/absolute", "absolute"),
            ("missing", "dangling"),
            ("loop-b", "loop-a"),
            ("loop-a", "loop-b"),
            ("../sizes", "to-directory"),
            (".", "to-itself"),
        ] {
            symlink(text, dir.join(name)).expect("failed to make a symbolic link");
        }
        symlink("x".repeat(1023), dir.join("long-text")).expect("failed to make a symbolic link"); // XFS takes no more
        self.file(dir.join("two-a"), 7000);
        hard_link(&dir.join("two-a"), &dir.join("two-b"));
        self.file(dir.join("many-0"), 200_000);
        for n in 1..6 {
            let into = if n % 2 == 0 { &dir } else { &other };
            hard_link(&dir.join("many-0"), &into.join(format!("many-{n}")));
        }
        self.file(dir.join("empty-a"), 0);
        hard_link(&dir.join("empty-a"), &other.join("empty-b"));
        hard_link(&dir.join("dangling"), &other.join("dangling-again"));
        node(&dir.join("fifo-a"), SFlag::S_IFIFO, 0);
        hard_link(&dir.join("fifo-a"), &other.join("fifo-b"));
    }

    fn attributes(&mut self) {
        let dir = self.dir("attributes");
        let empty = dir.join("empty-directory");
        fs::create_dir(&empty).expect("failed to make a directory");
        let file = dir.join("file");
        self.file(&file, 12);
        let large = self.rng.bytes(2000);
        for path in [&file, &empty] {
            attribute(path, "user.empty", b"");
            attribute(path, "user.text", b"value");
            attribute(path, "user.binary", b"\0\xff\n\x80\0");
            attribute(path, "user.large", &large);
            if self.options.privileged {
                attribute(path, "trusted.longshore", b"root only");
            }
        }
        let many = dir.join("many");
        self.file(&many, 0);
        for n in 0..30 {
            attribute(&many, &format!("user.n{n}"), n.to_string().as_bytes());
        }
        let acl = dir.join("acl");
        self.file(&acl, 12);
        chmod(&acl, 0o640);
        attribute(&acl, "system.posix_acl_access", &posix_acl(7, 12345, 5));
        let dir_acl = dir.join("directory-acl");
        fs::create_dir(&dir_acl).expect("failed to make a directory");
        self.file(dir_acl.join("made-before-the-default"), 3);
        fs::create_dir(dir_acl.join("without")).expect("failed to make a directory");
        attribute(&dir_acl, "system.posix_acl_default", &posix_acl(6, 54321, 7));
        attribute(&dir_acl, "system.posix_acl_access", &posix_acl(7, 999, 7));
        self.file(dir_acl.join("made-after-the-default"), 3);
        if self.options.privileged {
            let capable = dir.join("capability");
            self.file(&capable, 64);
            chmod(&capable, 0o755);
            attribute(&capable, "security.capability", &CAP_NET_RAW);
            let both = dir.join("capability-of-another-user");
            self.file(&both, 64);
            chown(&both, 1234, 4321);
            chmod(&both, 0o4755);
            attribute(&both, "security.capability", &CAP_NET_RAW);
            symlink("file", dir.join("link")).expect("failed to make a symbolic link");
            attribute(&dir.join("link"), "trusted.of-a-link", b"l");
        }
    }

    fn special(&mut self) {
        let dir = self.dir("special");
        node(&dir.join("fifo"), SFlag::S_IFIFO, 0);
        chmod(&dir.join("fifo"), 0o621);
        node(&dir.join("socket"), SFlag::S_IFSOCK, 0);
        if self.options.privileged {
            node(&dir.join("char"), SFlag::S_IFCHR, makedev(1, 3));
            node(&dir.join("block"), SFlag::S_IFBLK, makedev(259, 200_000)); // XFS takes minors of 18 bits
            node(&dir.join("whiteout"), SFlag::S_IFCHR, makedev(0, 0));
        }
    }

    fn names(&mut self) {
        let dir = self.dir("names");
        let long = "n".repeat(255);
        let names: [&[u8]; 14] = [
            b"new\nline",
            b"\xff\xfe not utf-8 \x80",
            b"-rf",
            b"--",
            b" spaces  ",
            b"*",
            b"'\"`$(x)",
            "\u{1f41f}\u{e9}".as_bytes(),
            long.as_bytes(),
            b"back\\slash",
            b"...",
            b".hidden",
            b"\x01\x1b[31m",
            b"{a,b}[c]?!",
        ];
        for name in names {
            let path = dir.join(OsStr::from_bytes(name));
            self.file(&path, name.len());
        }
        let odd = dir.join(OsStr::from_bytes(b"dir\n\xff"));
        fs::create_dir(&odd).expect("failed to make a directory");
        self.file(odd.join(OsStr::from_bytes(b"\n")), 3);
        symlink(OsStr::from_bytes(b"\xff\n"), odd.join("link"))
            .expect("failed to make a symbolic link");
    }

    fn many(&mut self) {
        let dir = self.dir("many");
        for n in 0..self.options.many {
            let bytes = if n % 10 == 0 { 5000 } else { n % 100 };
            self.file(dir.join(format!("entry-{n:06}")), bytes);
        }
        let nested = dir.join("a/b/c/d/e");
        fs::create_dir_all(&nested).expect("failed to make directories");
        fs::create_dir_all(dir.join("empty/also-empty")).expect("failed to make directories");
    }

    fn deep(&mut self) {
        let top = self.dir("deep");
        let name = "d".repeat(200);
        make_chain(&top, &name, self.options.deep);
    }

    fn owners(&mut self) {
        let dir = self.dir("owners");
        for (n, (uid, gid)) in
            [(1, 2), (65534, 65534), (0, 7), (100_000, 4_000_000), (0, 0)].into_iter().enumerate()
        {
            let file = dir.join(format!("file-{n}"));
            self.file(&file, 10);
            chown(&file, uid, gid);
            chmod(&file, 0o6755);
            let inner = dir.join(format!("dir-{n}"));
            fs::create_dir(&inner).expect("failed to make a directory");
            chown(&inner, uid, gid);
            let link = dir.join(format!("link-{n}"));
            symlink("anywhere", &link).expect("failed to make a symbolic link");
            chown(&link, uid, gid);
            let fifo = dir.join(format!("fifo-{n}"));
            node(&fifo, SFlag::S_IFIFO, 0);
            chown(&fifo, uid, gid);
        }
    }

    /// Last of all: making anything moves the time of its directory.
    fn times(&mut self) {
        let dir = self.dir("times");
        for (name, seconds, nanos) in TIMES {
            let file = dir.join(format!("file-{name}"));
            self.file(&file, 4);
            set_times(&file, seconds, nanos);
            let inner = dir.join(format!("dir-{name}"));
            fs::create_dir(&inner).expect("failed to make a directory");
            self.file(inner.join("inside"), 1);
            set_times(&inner, seconds, nanos);
            let link = dir.join(format!("link-{name}"));
            symlink("file", &link).expect("failed to make a symbolic link");
            set_times(&link, seconds, nanos);
        }
        for (n, name) in [
            "names",
            "links",
            "special",
            "many/a/b",
            "many/a",
            "many",
            "holes",
            "attributes/acl",
            "times",
        ]
        .iter()
        .enumerate()
        {
            set_times(
                &self.root.join(name),
                1_000_000_000 + i64::try_from(n).expect("few"),
                999_999_999,
            );
        }
        set_times(&self.root, 1_234_567_890, 123_456_789);
    }
}
