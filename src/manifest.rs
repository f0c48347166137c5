//! The manifest: what a copy put in place, with the digest of every file and of the chunks of long
//! ones, to be checked later or elsewhere (docs/manifest.md). Writing it; reading is in `reader`.

mod reader;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::stat::{FileStat, SFlag, major, minor};
use serde::{Deserialize, Serialize, Serializer};

use crate::checksum::{CELL_BYTES, Cells, Digest, Hasher};
use crate::error::Refusal;
use crate::plan::{Plan, Root};
use crate::report::path_or_base64;
pub use reader::{Chunks, Kind, Line, Reader};

/// Version of the format; raised when a key changes its meaning.
pub const MANIFEST_VERSION: u32 = 1;

/// The word by which a manifest is known.
pub const FORMAT: &str = "longshore-manifest";

/// First line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`].
    pub format: String,
    /// [`MANIFEST_VERSION`].
    pub version: u32,
    /// Word of the checksum.
    pub algorithm: String,
    /// [`CELL_BYTES`].
    pub chunk_bytes: u64,
    /// The directory that all paths are relative to, where it was when the manifest was written.
    #[serde(serialize_with = "path_or_base64", deserialize_with = "reader::path")]
    pub root: PathBuf,
}

/// Last line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Footer {
    /// Always `end`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Lines between the first and this one.
    pub entries: u64,
    /// Of which regular files.
    pub files: u64,
    /// Bytes of those files.
    pub bytes: u64,
    /// Whether everything was copied; otherwise what failed is not in the manifest.
    pub complete: bool,
    /// Digest of all bytes before this line.
    pub digest: String,
}

/// What is written about one item; the attributes are the source's.
#[derive(Debug)]
pub(crate) enum Entry<'a> {
    /// A regular file.
    File {
        /// The source.
        stat: &'a FileStat,
        /// Its digest.
        digest: Digest,
        /// Its chunks, when it has several.
        chunks: Option<&'a Cells>,
    },
    /// A further name of a file that has a line of its own.
    HardLink {
        /// That file's path.
        to: &'a Path,
    },
    /// A symbolic link.
    Symlink {
        /// The link.
        stat: &'a FileStat,
        /// Where it points.
        target: &'a Path,
    },
    /// A directory, FIFO, socket or device.
    Other {
        /// The source.
        stat: &'a FileStat,
    },
}

/// One line as it is written; keys that do not apply are left out.
#[derive(Debug, Serialize)]
struct Written<'a> {
    #[serde(serialize_with = "path_or_base64")]
    path: &'a Path,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtime: Option<(i64, i64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<(u64, u64)>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_path")]
    target: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_path")]
    to: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunks: Option<&'a Cells>,
}

#[allow(clippy::ref_option)] // the signature that serde calls
fn some_path<S: Serializer>(path: &Option<&Path>, serializer: S) -> Result<S::Ok, S::Error> {
    path_or_base64(path.unwrap_or(Path::new("")), serializer)
}

impl<'a> Written<'a> {
    fn new(path: &'a Path, kind: &'static str) -> Self {
        Self {
            path,
            kind,
            size: None,
            mtime: None,
            mode: None,
            uid: None,
            gid: None,
            device: None,
            target: None,
            to: None,
            digest: None,
            chunks: None,
        }
    }

    fn with_stat(path: &'a Path, stat: &FileStat) -> Self {
        Self {
            mtime: Some((stat.st_mtime, stat.st_mtime_nsec)),
            mode: Some(format!("{:04o}", stat.st_mode & 0o7777)),
            uid: Some(stat.st_uid),
            gid: Some(stat.st_gid),
            ..Self::new(path, kind_of(stat.st_mode))
        }
    }

    fn of(path: &'a Path, entry: &Entry<'a>) -> Self {
        match entry {
            Entry::File { stat, digest, chunks } => {
                let size = stat.st_size.cast_unsigned();
                Self {
                    kind: "file",
                    size: Some(size),
                    digest: Some(*digest),
                    chunks: chunks.filter(|_| size > CELL_BYTES),
                    ..Self::with_stat(path, stat)
                }
            }
            Entry::HardLink { to } => Self { to: Some(to), ..Self::new(path, "hard-link") },
            Entry::Symlink { stat, target } => {
                Self { target: Some(target), mode: None, ..Self::with_stat(path, stat) }
            }
            Entry::Other { stat } => {
                let device = matches!(kind_of(stat.st_mode), "block-device" | "char-device")
                    .then(|| (major(stat.st_rdev), minor(stat.st_rdev)));
                Self { device, ..Self::with_stat(path, stat) }
            }
        }
    }
}

/// The word for the type in a mode; stable.
pub(crate) fn kind_of(mode: u32) -> &'static str {
    match SFlag::from_bits_truncate(mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => "file",
        SFlag::S_IFDIR => "directory",
        SFlag::S_IFLNK => "symlink",
        SFlag::S_IFIFO => "fifo",
        SFlag::S_IFSOCK => "socket",
        SFlag::S_IFBLK => "block-device",
        _ => "char-device",
    }
}

/// The directory that the paths of a copy's manifest are relative to: the copy itself when it is one
/// directory, otherwise the directory that the copies lie in.
#[must_use]
pub fn base_of(plan: &Plan) -> PathBuf {
    match plan.roots.as_slice() {
        [root] if root.is_directory => root.destination.clone(),
        [root, ..] => root.destination_dir.clone(),
        [] => PathBuf::new(),
    }
}

/// The path of a root's copy in the manifest; empty for the base itself.
pub(crate) fn path_of_root(plan: &Plan, root: &Root) -> PathBuf {
    if (plan.roots.len() == 1 && root.is_directory) || root.destination_name == "." {
        PathBuf::new()
    } else {
        PathBuf::from(&root.destination_name)
    }
}

/// A manifest that is being written: to a temporary name beside its own, until it is finished.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    temporary: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: BufWriter<File>,
    hasher: Hasher,
    entries: u64,
    files: u64,
    bytes: u64,
    /// The first error of writing; nothing is written after it.
    error: Option<io::Error>,
    finished: bool,
}

/// The temporary name of a manifest: always the same, so that the next run removes what a killed one
/// left, and of the form that is reserved for unfinished files.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().as_bytes();
    path.with_file_name(format!(".longshore-{:016x}", xxhash_rust::xxh3::xxh3_64(name)))
}

/// Makes a file where none is, after removing what a killed run may have left there.
fn create(path: &Path) -> io::Result<File> {
    let make = || {
        let mut options = File::options();
        options.write(true).create_new(true);
        options.custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path)
    };
    match make() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::remove_file(path)?;
            make()
        }
        other => other,
    }
}

impl Writer {
    /// Begins the manifest of a copy.
    ///
    /// # Errors
    /// A refusal when it cannot be written there.
    pub fn create(path: &Path, plan: &Plan) -> Result<Self, Refusal> {
        let algorithm = plan.options.checksum;
        let base = std::path::absolute(base_of(plan)).unwrap_or_else(|_| base_of(plan));
        // It is renamed to its name when it is complete, which is no way to write to a device or through a link.
        if std::fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
            let text = "is there and is not a regular file; name another place for the manifest";
            return Err(Refusal::path(path, text));
        }
        let temporary = temporary(path);
        let file = create(&temporary).map_err(|source| Refusal::System {
            path: temporary.clone(),
            action: "create the manifest",
            source,
        })?;
        let writer = Self {
            path: path.to_owned(),
            temporary,
            state: Mutex::new(State {
                file: BufWriter::with_capacity(128 << 10, file),
                hasher: Hasher::new(algorithm),
                entries: 0,
                files: 0,
                bytes: 0,
                error: None,
                finished: false,
            }),
        };
        let header = Header {
            format: FORMAT.to_owned(),
            version: MANIFEST_VERSION,
            algorithm: algorithm.word().to_owned(),
            chunk_bytes: CELL_BYTES,
            root: base,
        };
        writer.lock().line(&header);
        Ok(writer)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one item, `relative` below the root that is at `root` in the manifest.
    pub(crate) fn add(&self, root: &Path, relative: &Path, entry: &Entry<'_>) {
        let path = join(root, relative);
        let written = Written::of(&path, entry);
        let mut line = serde_json::to_vec(&written).unwrap_or_default();
        line.push(b'\n');
        let mut state = self.lock();
        state.entries += 1;
        if let Entry::File { stat, .. } = entry {
            state.files += 1;
            state.bytes += stat.st_size.cast_unsigned();
        }
        state.write(&line);
    }

    /// Ends the manifest and gives it its name. `complete` says that everything was copied; a copy
    /// that was stopped has no manifest, `None`.
    ///
    /// # Errors
    /// The first error of writing it.
    pub fn finish(&self, complete: Option<bool>) -> io::Result<()> {
        let Some(complete) = complete else { return Ok(()) };
        let mut state = self.lock();
        let footer = Footer {
            kind: "end".to_owned(),
            entries: state.entries,
            files: state.files,
            bytes: state.bytes,
            complete,
            digest: state.hasher.finish().to_string(),
        };
        state.line(&footer);
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        state.file.flush()?;
        state.file.get_ref().sync_all()?;
        std::fs::rename(&self.temporary, &self.path)?;
        state.finished = true;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.lock().finished {
            // What there is says nothing; the next run would overwrite it anyway.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

impl State {
    fn line(&mut self, value: &impl Serialize) {
        let mut line = serde_json::to_vec(value).unwrap_or_default();
        line.push(b'\n');
        self.write(&line);
    }

    fn write(&mut self, line: &[u8]) {
        if self.error.is_none() {
            self.hasher.update(line);
            self.error = self.file.write_all(line).err();
        }
    }
}

/// Joins two relative paths of which either may be empty; both empty are the base itself, `.`.
pub(crate) fn join(root: &Path, relative: &Path) -> PathBuf {
    let mut path = root.as_os_str().to_owned().into_vec();
    if !path.is_empty() && !relative.as_os_str().is_empty() {
        path.push(b'/');
    }
    path.extend(relative.as_os_str().to_owned().into_vec());
    if path.is_empty() {
        path.push(b'.');
    }
    PathBuf::from(std::ffi::OsString::from_vec(path))
}

impl Serialize for Cells {
    /// A chunk of zeros, as a hole is, is `null`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.digests().map(|(digest, zeros)| (!zeros).then_some(digest)))
    }
}
