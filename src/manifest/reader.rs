//! Reads a manifest, after checking that it is whole: first and last line, counts, and the digest over
//! all lines. It trusts no path in it, and looks at no file that it names.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use base64::Engine as _;
use serde::{Deserialize, Deserializer};

use super::{FORMAT, Footer, Header, MANIFEST_VERSION};
use crate::checksum::{
    Algorithm, CELL_BYTES, Digest, Hasher, cell_count, cell_range, digest_of_cells,
};
use crate::error::Refusal;

/// What a line says an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // the words of the format
pub enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    Fifo,
    Socket,
    BlockDevice,
    CharDevice,
}

/// One item of a manifest.
#[derive(Debug, Clone, Deserialize)]
pub struct Line {
    /// Relative to the root; `.` for the root itself.
    #[serde(deserialize_with = "path")]
    pub path: PathBuf,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Size of a file in bytes.
    #[serde(default)]
    pub size: u64,
    /// Modification time: seconds and nanoseconds.
    pub mtime: Option<(i64, i64)>,
    /// Permission bits, octal.
    pub mode: Option<String>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Major and minor number of a device.
    pub device: Option<(u64, u64)>,
    /// Where a symbolic link points.
    #[serde(default, deserialize_with = "some_path")]
    pub target: Option<PathBuf>,
    /// For a further name of a file, the path that has its line.
    #[serde(default, deserialize_with = "some_path")]
    pub to: Option<PathBuf>,
    /// Digest of a file.
    pub digest: Option<String>,
    /// Digests of its chunks; null for one of zeros.
    pub chunks: Option<Vec<Option<String>>>,
}

/// The digests of a file's chunks, as a manifest has them.
#[derive(Debug, Clone)]
pub struct Chunks(Vec<Digest>);

impl Chunks {
    /// The digest of one chunk.
    #[must_use]
    pub fn get(&self, chunk: u64) -> Option<Digest> {
        self.0.get(usize::try_from(chunk).ok()?).copied()
    }
}

impl Line {
    /// The digests of the file's chunks, checked against its own.
    ///
    /// # Errors
    /// What contradicts itself in the line.
    pub fn digests(&self, algorithm: Algorithm) -> Result<Chunks, String> {
        let whole = self.digest.as_deref().and_then(|text| Digest::parse(algorithm, text));
        let whole = whole.ok_or("has no digest of the manifest's algorithm")?;
        let chunks: Vec<Digest> = match &self.chunks {
            None if self.size <= CELL_BYTES => vec![whole],
            None => return Err("has no digests of its chunks".to_owned()),
            Some(chunks) if chunks.len() as u64 == cell_count(self.size) => (0..)
                .zip(chunks)
                .map(|(chunk, text)| match text {
                    Some(text) => Digest::parse(algorithm, text),
                    None => {
                        let range = cell_range(chunk, self.size);
                        Some(algorithm.of_zeros(range.end - range.start))
                    }
                })
                .collect::<Option<_>>()
                .ok_or("has a chunk without a digest of the manifest's algorithm")?,
            Some(_) => return Err("has not one digest for each chunk".to_owned()),
        };
        if self.size > CELL_BYTES && digest_of_cells(algorithm, chunks.iter().copied()) != whole {
            return Err("has chunks that do not belong to its digest".to_owned());
        }
        Ok(Chunks(chunks))
    }
}

/// A manifest that was found to be whole.
#[derive(Debug)]
pub struct Reader {
    file: BufReader<File>,
    left: u64,
    /// First line.
    pub header: Header,
    /// Last line.
    pub footer: Footer,
    /// The checksum.
    pub algorithm: Algorithm,
}

impl Reader {
    /// Opens a manifest and checks it from the first line to the last.
    ///
    /// # Errors
    /// A refusal that says what is wrong with it.
    pub fn open(path: &Path) -> Result<Self, Refusal> {
        let system =
            |action| move |source| Refusal::System { path: path.to_owned(), action, source };
        let bad = |problem: &str| Refusal::path(path, problem);
        let file = File::open(path).map_err(system("open the manifest"))?;
        let mut file = BufReader::with_capacity(128 << 10, file);
        let mut line = Vec::new();
        let read = |file: &mut BufReader<File>, line: &mut Vec<u8>| {
            line.clear();
            file.read_until(b'\n', line).map_err(system("read the manifest"))
        };
        read(&mut file, &mut line)?;
        let header: Header =
            serde_json::from_slice(&line).map_err(|_| bad("this is no manifest of Longshore"))?;
        if header.format != FORMAT {
            return Err(bad("this is no manifest of Longshore"));
        }
        if header.version != MANIFEST_VERSION || header.chunk_bytes != CELL_BYTES {
            return Err(bad("this manifest was written by another version of Longshore"));
        }
        let algorithm: Algorithm = header.algorithm.parse().map_err(|error: String| bad(&error))?;
        let body = line.len() as u64;
        let mut digest = Hasher::new(algorithm);
        digest.update(&line);
        let mut entries = 0;
        let mut next = Vec::new();
        read(&mut file, &mut line)?;
        let cut = || bad("the manifest is cut short: its last line is missing");
        loop {
            if line.is_empty() {
                return Err(cut());
            }
            if read(&mut file, &mut next)? == 0 {
                break;
            }
            digest.update(&line);
            entries += 1;
            std::mem::swap(&mut line, &mut next);
        }
        let footer: Footer = serde_json::from_slice(&line).map_err(|_| cut())?;
        if footer.kind != "end" || !line.ends_with(b"\n") {
            return Err(cut());
        }
        if footer.entries != entries || footer.digest != digest.finish().to_string() {
            return Err(bad("the manifest was changed after it was written: its digest is wrong"));
        }
        file.seek(SeekFrom::Start(body)).map_err(system("read the manifest"))?;
        Ok(Self { file, left: entries, header, footer, algorithm })
    }

    /// The next item; `None` after the last.
    ///
    /// # Errors
    /// A sentence: an item that makes no sense, or an error of reading.
    pub fn next_line(&mut self) -> Result<Option<Line>, String> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut line = Vec::new();
        if let Err(error) = self.file.read_until(b'\n', &mut line) {
            self.left = 0; // it would come again for ever
            return Err(error.to_string());
        }
        self.left -= 1;
        let line: Line = serde_json::from_slice(&line)
            .map_err(|error| format!("a line of the manifest cannot be understood: {error}"))?;
        for path in [Some(&line.path), line.to.as_ref()].into_iter().flatten() {
            if !is_below(path) {
                return Err(format!("the manifest names a path outside: {}", path.display()));
            }
        }
        Ok(Some(line))
    }
}

/// Whether a path stays below where it begins.
fn is_below(path: &Path) -> bool {
    !path.as_os_str().is_empty()
        && path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// A path as `path_or_base64` writes it.
pub(super) fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Text(String),
        Raw { base64: String },
    }
    match Written::deserialize(deserializer)? {
        Written::Text(text) => Ok(PathBuf::from(text)),
        Written::Raw { base64 } => base64::engine::general_purpose::STANDARD
            .decode(base64)
            .map(|bytes| PathBuf::from(OsString::from_vec(bytes)))
            .map_err(serde::de::Error::custom),
    }
}

fn some_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    path(deserializer).map(Some)
}
