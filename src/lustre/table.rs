//! A site's table of layouts by file size: a small text file, described in docs/lustre.md. Pure.

use thiserror::Error;

use super::fields::UNIT_BYTES;
use super::layout::Layout;
use super::size;

/// What a site wants for files of each size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Largest size in bytes (`None`: all that are larger) and the layout (`None`: the directory's
    /// default), in ascending order.
    rows: Vec<(Option<u64>, Option<Layout>)>,
}

/// Why a text is no table.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}: {problem}")]
pub struct TableError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it, and what to write instead.
    pub problem: String,
}

impl Table {
    /// Reads a table: in each line a size up to which it holds (`1M`, `100G`; `-` for everything
    /// larger) and `inherit` or the words of `lfs setstripe`. Empty lines and what follows a `#` do
    /// not count.
    ///
    /// # Errors
    /// [`TableError`] with the line.
    pub fn parse(text: &str) -> Result<Self, TableError> {
        let mut table = Self::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or("").trim();
            if line.is_empty() {
                continue;
            }
            let row = table.row(line);
            let row = row.map_err(|problem| TableError { line: number + 1, problem })?;
            table.rows.push(row);
        }
        Ok(table)
    }

    fn row(&self, line: &str) -> Result<(Option<u64>, Option<Layout>), String> {
        let (limit, spec) = line
            .split_once(char::is_whitespace)
            .ok_or("a size and a layout are needed; write 1G -c 1, or 1M inherit")?;
        let limit =
            match limit {
                "-" => None,
                limit => Some(size::parse(limit).filter(|bytes| *bytes >= UNIT_BYTES).ok_or_else(
                    || format!("{limit}: no size; write 1M, 100G, or - for the rest"),
                )?),
            };
        match (self.rows.last(), limit) {
            (Some((None, _)), _) => {
                return Err("the line with - is the last one; move it down".to_owned());
            }
            (Some((Some(before), _)), Some(limit)) if limit <= *before => {
                return Err(format!("sizes go up; this one is not above {}", size::text(*before)));
            }
            _ => {}
        }
        match spec.trim() {
            "inherit" => Ok((limit, None)),
            spec => match Layout::from_spec(spec) {
                Ok(layout) => Ok((limit, Some(layout))),
                Err(error) => Err(error.to_string()),
            },
        }
    }

    /// What the table says for a file of so many bytes: outer `None` nothing, inner `None` the
    /// directory's default.
    #[must_use]
    pub fn layout(&self, bytes: u64) -> Option<Option<&Layout>> {
        let fits = |limit: &Option<u64>| limit.is_none_or(|limit| bytes <= limit);
        self.rows.iter().find(|(limit, _)| fits(limit)).map(|(_, layout)| layout.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_row_that_is_large_enough_holds() {
        let text = "\
# for files written by one node
1M    inherit
1G    -c 1   # one OST

100G  -c 8 -S 4M
-     -c -1
";
        let table = Table::parse(text).unwrap();
        let words = |bytes| match table.layout(bytes) {
            None => "nothing".to_owned(),
            Some(None) => "inherit".to_owned(),
            Some(Some(layout)) => layout.to_spec(),
        };
        assert_eq!(words(0), "inherit");
        assert_eq!(words(1 << 20), "inherit");
        assert_eq!(words((1 << 20) + 1), "-c 1");
        assert_eq!(words(100 << 30), "-c 8 -S 4M");
        assert_eq!(words((100 << 30) + 1), "-c -1");
        assert_eq!(Table::parse("1M inherit").unwrap().layout(2 << 20), None);
    }

    #[test]
    fn a_wrong_line_is_named_with_advice() {
        for (text, line, advice) in [
            ("1M", 1, "write 1G -c 1"),
            ("\n# x\n1X -c 1", 3, "no size"),
            ("1G -c 1\n1M inherit", 2, "not above 1G"),
            ("- -c 1\n1G -c 4", 2, "move it down"),
            ("1G -c 1\n10G -S 5", 2, "-S 5: a stripe size is a multiple of 64K"),
        ] {
            let error = Table::parse(text).unwrap_err();
            assert_eq!(error.line, line, "{error}");
            assert!(error.problem.contains(advice), "{error}");
        }
    }
}
