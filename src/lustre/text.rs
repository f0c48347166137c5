//! Layouts for people: a line for what it is, and a table of its components, in the words of
//! `lfs getstripe`. Machines read `json`.

use std::fmt;

use super::fields::{Count, Extent, Flags, Start, Stripes};
use super::layout::{Body, Component, Composite, Foreign, Form, Layout, MirrorState, Plain};
use super::size;
use super::words::ranges;

impl fmt::Display for Layout {
    /// Several lines without a newline at the end. A file's objects are named by their OSTs in the order
    /// of the stripes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(plain) => {
                f.write_str("plain")?;
                table(f, &[row_of_plain(plain)], &["pattern", COUNT, SIZE, "pool", OSTS])
            }
            Self::Composite(composite) => composite.fmt(f),
            Self::Foreign(foreign) => write!(f, "{}", describe(foreign)),
        }
    }
}

const COUNT: &str = "stripe_count";
const SIZE: &str = "stripe_size";
const OSTS: &str = "OSTs";

impl fmt::Display for Composite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let components = self.components.len();
        let plural = if components == 1 { "" } else { "s" };
        write!(f, "composite, {components} component{plural}")?;
        let mirrors = self.mirrors().count();
        if mirrors > 1 {
            write!(f, ", {mirrors} mirrors")?;
        }
        if let Some(state) = self.state().words() {
            write!(f, " ({state})")?;
        }
        if self.generation != 0 {
            write!(f, ", generation {}", self.generation)?;
        }
        let numbered = self.components.iter().any(|component| component.id != 0);
        let rows: Vec<Vec<String>> = self.components.iter().map(|c| row(c, numbered)).collect();
        let mut names = vec!["extent", "flags", "pattern", COUNT, SIZE, "pool", OSTS];
        if numbered {
            names.insert(0, if mirrors > 1 { "mirror:id" } else { "id" });
        }
        table(f, &rows, &names)
    }
}

impl MirrorState {
    /// In the words of `lfs`; nothing where there are no mirrors.
    #[must_use]
    pub fn words(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::InSync => Some("in sync"),
            Self::WritePending => Some("written to, not in sync"),
            Self::SyncPending => Some("being synchronised"),
        }
    }
}

/// Foreign data in one line.
fn describe(foreign: &Foreign) -> String {
    let kind = foreign.kind_word().map_or_else(|| format!("{:#x}", foreign.kind), str::to_owned);
    format!("foreign, type {kind}, flags {:#x}, {} bytes", foreign.flags, foreign.value.len())
}

impl Foreign {
    /// The name of the type (`lustre_user.h`), if it is known.
    #[must_use]
    pub fn kind_word(&self) -> Option<&'static str> {
        match self.kind {
            0 => Some("none"),
            1 => Some("posix"),
            2 => Some("pcc-rw"),
            3 => Some("pcc-ro"),
            4 => Some("s3"),
            0xda05 => Some("symlink"),
            _ => None,
        }
    }
}

/// `[4M, EOF)`.
pub(super) fn extent(extent: Extent) -> String {
    let end = if extent.end == Extent::EOF { "EOF".to_owned() } else { size::text(extent.end) };
    format!("[{}, {end})", size::text(extent.start))
}

fn row(component: &Component, numbered: bool) -> Vec<String> {
    let mut row = Vec::new();
    if numbered {
        let sequence = component.id & 0xffff;
        row.push(match component.mirror() {
            0 => sequence.to_string(),
            mirror => format!("{mirror}:{sequence}"),
        });
    }
    row.extend([extent(component.extent), dash(component.flags.to_string())]);
    match &component.body {
        Body::Foreign(foreign) => row.push(describe(foreign)),
        Body::Striped(plain) => {
            let mut cells = row_of_plain(plain);
            if let Some(bytes) = component.extension_bytes() {
                cells[2] = format!("grows by {}", size::text(bytes));
            }
            let made = component.flags.has(Flags::INIT);
            if !made && plain.objects.is_empty() && numbered {
                cells[4] = "not made yet".to_owned();
            }
            row.extend(cells);
        }
    }
    row
}

fn row_of_plain(plain: &Plain) -> Vec<String> {
    let mdt = plain.pattern.is_mdt();
    let size = match plain.stripe_size {
        0 => "default".to_owned(),
        bytes => size::text(bytes.into()),
    };
    vec![
        plain.pattern.to_string(),
        if mdt { "-".to_owned() } else { count(plain.count) },
        size,
        plain.pool().map_or("-".to_owned(), |pool| pool.to_string()),
        if mdt { "on the MDT".to_owned() } else { osts(plain) },
    ]
}

fn count(count: Count) -> String {
    match count.stripes() {
        Stripes::Default => "default".to_owned(),
        Stripes::Number(number) => number.to_string(),
        Stripes::EveryOst(1) => "all OSTs".to_owned(),
        Stripes::EveryOst(times) => format!("all OSTs x {times}"),
    }
}

fn osts(plain: &Plain) -> String {
    let listed = ranges(plain.objects.iter().map(|object| object.ost));
    match (plain.form, plain.start) {
        _ if plain.pattern.is_released() => "released: in the archive".to_owned(),
        (Form::Specific(_), _) => format!("wanted: {listed}"),
        (_, Start::Ost(ost)) => format!("from {ost} on"),
        _ if plain.objects.is_empty() => "any".to_owned(),
        _ => listed,
    }
}

fn dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

/// Columns as wide as their longest cell; the last one as it is.
fn table(f: &mut fmt::Formatter<'_>, rows: &[Vec<String>], names: &[&str]) -> fmt::Result {
    let cell = |row: &Vec<String>, at: usize| row.get(at).map_or(0, |cell| cell.chars().count());
    let header = names.iter().map(|name| (*name).to_owned()).collect();
    let widths: Vec<usize> = (0..names.len())
        .map(|at| {
            // A row that ends early (foreign data) does not widen the column that it ends in.
            let whole = rows.iter().filter(|row| row.len() == names.len());
            whole.chain([&header]).map(|row| cell(row, at)).max().unwrap_or(0)
        })
        .collect();
    for row in std::iter::once(&header).chain(rows) {
        f.write_str("\n ")?;
        for (at, cell) in row.iter().enumerate() {
            if at + 1 == row.len() {
                write!(f, " {cell}")?;
            } else {
                write!(f, " {cell:<width$} ", width = widths[at])?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::lustre::fixtures::{self, bytes};
    use crate::lustre::layout::{Layout, Of};

    fn text(hex: &str, of: Of) -> String {
        Layout::parse(&bytes(hex), of).unwrap().to_string()
    }

    #[test]
    fn plain_layouts_are_one_row() {
        let expected = "\
plain
  pattern  stripe_count  stripe_size  pool   OSTs
  raid0    4             4M           flash  4-7";
        assert_eq!(text(fixtures::V3_POOL, Of::File), expected);
    }

    #[test]
    fn components_are_rows() {
        let expected = "\
composite, 3 components, generation 3
  id  extent      flags  pattern  stripe_count  stripe_size  pool  OSTs
  1   [0, 4M)     init   raid0    1             1M           -     0
  2   [4M, 64M)   init   raid0    2             4M           -     1,2
  3   [64M, EOF)  -      raid0    8             4M           -     not made yet";
        assert_eq!(text(fixtures::PROGRESSIVE, Of::File), expected);
        let expected = "\
composite, 2 components, generation 1
  id  extent     flags  pattern  stripe_count  stripe_size  pool  OSTs
  1   [0, 1M)    init   mdt      -             1M           -     on the MDT
  2   [1M, EOF)  -      raid0    4             4M           -     not made yet";
        assert_eq!(text(fixtures::ON_MDT, Of::File), expected);
    }

    #[test]
    fn mirrors_are_numbered_and_their_state_is_said() {
        let expected = "\
composite, 2 components, 2 mirrors (written to, not in sync), generation 4
  mirror:id  extent    flags       pattern  stripe_count  stripe_size  pool  OSTs
  1:1        [0, EOF)  init        raid0    1             1M           -     0
  2:2        [0, EOF)  init,stale  raid0    1             1M           -     5";
        assert_eq!(text(fixtures::MIRRORS, Of::File), expected);
    }

    #[test]
    fn requests_and_defaults_have_no_numbers() {
        let expected = "\
composite, 2 components
  extent       flags  pattern  stripe_count  stripe_size  pool   OSTs
  [0, 256M)    -      raid0    1             4M           flash  any
  [256M, EOF)  -      raid0    8             4M           flash  any";
        assert_eq!(text(fixtures::DIRECTORY, Of::Directory), expected);
        let spec = Layout::from_spec("-E 1G -z 64M -C -2 -S 4M -E -1 -o 3,4").unwrap();
        let expected = "\
composite, 3 components
  extent     flags      pattern            stripe_count  stripe_size   pool  OSTs
  [0, 64M)   -          raid0,overstriped  all OSTs x 2  4M            -     any
  [64M, 1G)  extension  raid0,overstriped  all OSTs x 2  grows by 64M  -     any
  [1G, EOF)  -          raid0              2             4M            -     wanted: 3,4";
        assert_eq!(spec.to_string(), expected);
    }
}
