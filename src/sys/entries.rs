//! Decodes the records of getdents64(2). Pure.

use std::ffi::CStr;

/// One entry of a directory, borrowed from the buffer that it was read into.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The name, never `.` or `..`.
    pub name: &'a CStr,
    /// `DT_REG`, `DT_DIR`, … or `DT_UNKNOWN`, as the filesystem says.
    pub kind: u8,
    /// Position behind this entry, for `lseek` on a descriptor of the same directory.
    pub next: i64,
}

/// Decodes what [`read_entries`] filled (`struct linux_dirent64`: `d_ino` 8 bytes, `d_off` 8,
/// `d_reclen` 2, `d_type` 1, then the NUL-terminated name). Stops at the first malformed record.
pub fn entries(mut filled: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    std::iter::from_fn(move || {
        loop {
            let length = usize::from(u16::from_ne_bytes(filled.get(16..18)?.try_into().ok()?));
            let record = filled.get(..length)?;
            filled = filled.get(length..)?;
            let name = CStr::from_bytes_until_nul(record.get(19..)?).ok()?;
            if name.to_bytes() != b"." && name.to_bytes() != b".." {
                let next = i64::from_ne_bytes(record.get(8..16)?.try_into().ok()?);
                return Some(Entry { name, kind: record[18], next });
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::read_entries;

    #[test]
    fn every_name_of_a_directory_is_decoded_once_and_dots_are_left_out() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut expected: Vec<String> = (0..500).map(|i| format!("name-{i}")).collect();
        for name in &expected {
            std::fs::write(dir.path().join(name), "").expect("a file");
        }
        let open = std::fs::File::open(dir.path()).expect("the directory opens");
        let mut buffer = vec![0; 4096];
        let mut found = Vec::new();
        loop {
            let filled = read_entries(open.as_fd(), &mut buffer).expect("entries");
            if filled == 0 {
                break;
            }
            found.extend(entries(&buffer[..filled]).map(|e| e.name.to_string_lossy().into_owned()));
        }
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_record_that_claims_more_than_there_is_ends_the_list() {
        let mut record = vec![0_u8; 24];
        record[16] = 200;
        assert_eq!(entries(&record).count(), 0);
        assert_eq!(entries(&[0; 40]).count(), 0); // a length of zero must not loop for ever
    }
}
