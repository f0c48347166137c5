//! `longshore layout show`: the layout of a file, or the default of a directory and whose it is. It
//! opens what it is asked about and reads attributes; no data is read, and nothing is restored.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use serde::Serialize;

use super::access::{self, Found};
use super::layout::{Layout, Of};
use super::probe::{Client, Sources};
use crate::error::{Refusal, show as shown};
use crate::report::path_or_base64;

/// What one path has.
#[derive(Debug, Clone, Serialize)]
pub struct Shown {
    /// The path as given.
    #[serde(serialize_with = "path_or_base64")]
    pub path: PathBuf,
    /// What it is, and whose layout it has.
    pub origin: Origin,
    /// The layout; `None` when there is none, or one that Longshore cannot read.
    pub layout: Option<Layout>,
    /// Why it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
    /// The layout in the words of `lfs setstripe`.
    pub spec: Option<String>,
    /// Objects that each OST holds.
    pub objects_per_ost: BTreeMap<u32, u32>,
    /// The filesystem.
    pub filesystem: Client,
}

/// Whose layout it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// A file's own.
    File,
    /// A directory's own default.
    Directory,
    /// The filesystem's default, which a directory without an own one shows.
    Filesystem,
}

impl Shown {
    /// Looks at one path, following symbolic links.
    ///
    /// # Errors
    /// A [`Refusal`] for a path that cannot be opened, is neither file nor directory, or does not lie on
    /// Lustre.
    pub fn of(path: &Path, sources: &Sources) -> Result<Self, Refusal> {
        let (file, of) = open(path)?;
        let system = |action| move |errno: Errno| Refusal::system(path, action, errno);
        let real = path.canonicalize().map_err(|source| Refusal::System {
            path: path.to_owned(),
            action: "find the path",
            source,
        })?;
        let Some(filesystem) = Client::of(&file, &real, sources) else {
            return Err(Refusal::path(
                path,
                "it does not lie on Lustre; only files and directories there have layouts",
            ));
        };
        let found = access::read(&file, of).map_err(system("read its layout"))?;
        let root = real == filesystem.mount_point;
        let origin = match of {
            Of::File => Origin::File,
            Of::Directory if !root && is_filesystems(&found, &filesystem) => Origin::Filesystem,
            Of::Directory => Origin::Directory,
        };
        let unknown =
            if let Found::Unknown(error) = &found { Some(error.to_string()) } else { None };
        let layout = found.layout();
        let mut objects_per_ost = BTreeMap::new();
        for object in layout.iter().flat_map(Layout::plains).flat_map(|plain| &plain.objects) {
            if of == Of::File {
                *objects_per_ost.entry(object.ost).or_default() += 1;
            }
        }
        let spec = layout.as_ref().map(Layout::to_spec).filter(|words| !words.is_empty());
        let path = path.to_owned();
        Ok(Self { path, origin, layout, unknown, spec, objects_per_ost, filesystem })
    }

    /// For people, with a newline at the end.
    #[must_use]
    pub fn text(&self) -> String {
        let what = match self.origin {
            Origin::File => "file",
            Origin::Directory => "directory's own default",
            Origin::Filesystem => "directory, the filesystem's default",
        };
        let mut out = format!("{} ({what}): ", shown(&self.path));
        // Writing to a String cannot fail.
        let _ = match (&self.layout, &self.unknown) {
            (Some(layout), _) => writeln!(out, "{layout}"),
            (None, Some(error)) => writeln!(out, "{error}"),
            (None, None) if self.origin == Origin::File => {
                writeln!(out, "no layout yet, as nobody has written to it")
            }
            (None, None) => writeln!(out, "none; the servers decide"),
        };
        let objects: u32 = self.objects_per_ost.values().sum();
        if objects > 0 {
            let (osts, most) = (self.objects_per_ost.len(), self.objects_per_ost.values().max());
            let _ = write!(out, "  objects: {objects} on {osts} OST{}", plural(osts));
            match most {
                Some(most) if *most > 1 => {
                    let full = self.objects_per_ost.iter().filter(|(_, count)| *count == most);
                    let list = super::words::ranges(full.map(|(ost, _)| *ost));
                    let _ = writeln!(out, ", {most} on OST{} {list}", plural(full_count(&list)));
                }
                _ => out.push('\n'),
            }
        }
        if self.layout.as_ref().is_some_and(Layout::is_released) {
            out.push_str(
                "  released: its data is only in the archive, and reading it brings it back\n",
            );
        }
        if let Some(spec) = &self.spec {
            let _ = writeln!(out, "  the same again: {spec}");
        }
        out
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// One when a list names one number.
fn full_count(list: &str) -> usize {
    if list.bytes().all(|byte| byte.is_ascii_digit()) { 1 } else { 2 }
}

/// Opens what has a layout, and nothing else: opening a device or a pipe can do things.
fn open(path: &Path) -> Result<(File, Of), Refusal> {
    let failed = |action| move |source| Refusal::System { path: path.to_owned(), action, source };
    let metadata = std::fs::metadata(path).map_err(failed("look at it"))?;
    let of = match metadata.file_type() {
        kind if kind.is_dir() => Of::Directory,
        kind if kind.is_file() => Of::File,
        _ => return Err(Refusal::path(path, "it is neither a file nor a directory: no layout")),
    };
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
    Ok((file.map_err(failed("open it"))?, of))
}

/// Whether a directory's default is what the root of its filesystem has: clients answer with that for a
/// directory without an own one.
fn is_filesystems(found: &Found, filesystem: &Client) -> bool {
    let root = default_of(&filesystem.mount_point);
    match found {
        Found::Layout(layout) => root.map(|root| root.template()) == Some(layout.template()),
        Found::None => true,
        Found::Unknown(_) | Found::NotLustre => false,
    }
}

/// The default of a directory, its own or its filesystem's; `None` also when it cannot be read.
pub(super) fn default_of(directory: &Path) -> Option<Layout> {
    let directory = File::open(directory).ok()?;
    access::read(&directory, Of::Directory).ok()?.layout()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lustre::fixtures::{self, bytes};

    fn shown_as(layout: Option<Layout>, origin: Origin) -> String {
        let mut objects_per_ost = BTreeMap::new();
        for object in layout.iter().flat_map(Layout::plains).flat_map(|plain| &plain.objects) {
            *objects_per_ost.entry(object.ost).or_default() += 1;
        }
        let spec = layout.as_ref().map(Layout::to_spec);
        let (path, filesystem) = (PathBuf::from("/lus/a\nb"), Client::default());
        let unknown = None;
        Shown { path, origin, layout, unknown, spec, objects_per_ost, filesystem }.text()
    }

    #[test]
    fn files_name_their_objects_and_the_words_for_the_same() {
        let mut layout = Layout::parse(&bytes(fixtures::V3_POOL), Of::File).unwrap();
        let text = shown_as(Some(layout.clone()), Origin::File);
        assert!(text.starts_with("/lus/a\\nb (file): plain\n  pattern"), "{text}");
        assert!(text.ends_with("  objects: 4 on 4 OSTs\n  the same again: -c 4 -S 4M -p flash\n"));
        for plain in layout.plains_mut() {
            plain.objects[1].ost = 4;
        }
        let text = shown_as(Some(layout), Origin::File);
        assert!(text.contains("  objects: 4 on 3 OSTs, 2 on OST 4\n"), "{text}");
    }

    #[test]
    fn nothing_is_said_as_well() {
        let text = shown_as(None, Origin::File);
        assert_eq!(text, "/lus/a\\nb (file): no layout yet, as nobody has written to it\n");
        let text = shown_as(None, Origin::Filesystem);
        assert_eq!(
            text,
            "/lus/a\\nb (directory, the filesystem's default): none; the servers decide\n"
        );
    }

    #[test]
    fn what_has_no_layout_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let sources = Sources::of_this_system();
        let refusal = |path: &Path| Shown::of(path, &sources).unwrap_err().to_string();
        assert!(refusal(dir.path()).contains("does not lie on Lustre"));
        assert!(refusal(Path::new("/dev/null")).contains("neither a file nor a directory"));
        assert!(refusal(&dir.path().join("missing")).contains("failed to look at it"));
    }
}
