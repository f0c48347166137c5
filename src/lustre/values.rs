//! The values behind the words of a layout: counts, sizes, OSTs, pools, flags. Each error says which
//! values there are; how they go together is in `spec`.

use super::fields::{Count, Extent, Flags, MAX_STRIPES, Pool, UNIT_BYTES};
use super::size;
use super::spec::{SpecError, wrong};

/// Highest index of an OST that the 16 bits of a layout can say.
const MAX_OST: u16 = 0xfffe;

/// A number of stripes, or up to `per_ost` on each OST.
pub(super) fn count(word: &str, value: &str, per_ost: u16) -> Result<Count, SpecError> {
    let count = match value.strip_prefix('-') {
        Some(times) => number(times).filter(|times| *times <= per_ost).and_then(Count::per_ost),
        None => number(value).filter(|number| *number <= MAX_STRIPES).map(Count),
    };
    match count {
        Some(count) => Ok(count),
        None if per_ost == 1 => wrong(
            word,
            "a stripe count is 1 to 2000, 0 for the default or -1 for all OSTs; write -c 4 or, for \
             several stripes on each OST, -C -2",
        ),
        None => {
            let problem = "a count is 1 to 2000, 0 for the default, or -1 to -32 for so many \
                           stripes on each OST; write -C -2";
            wrong(word, problem)
        }
    }
}

/// Digits alone: no sign, no blank.
fn number(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// Bytes on one object before the next.
pub(super) fn stripe_size(word: &str, value: &str) -> Result<u32, SpecError> {
    let bytes = size::parse(value).filter(|bytes| bytes.is_multiple_of(UNIT_BYTES));
    match bytes.and_then(|bytes| u32::try_from(bytes).ok()) {
        Some(size) => Ok(size),
        None => wrong(word, "a stripe size is a multiple of 64K below 4G, or 0; write -S 4M"),
    }
}

/// The first OST; `None` for any.
pub(super) fn index(word: &str, value: &str) -> Result<Option<u16>, SpecError> {
    match number(value) {
        _ if value == "-1" => Ok(None),
        Some(ost) if ost <= MAX_OST => Ok(Some(ost)),
        _ => {
            wrong(word, "an OST is 0 to 65534, or -1 for whichever the servers choose; write -i -1")
        }
    }
}

/// Adds the OSTs of a list such as `1,4-7,0xb`.
pub(super) fn osts(word: &str, value: &str, list: &mut Vec<u16>) -> Result<(), SpecError> {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u16::from_str_radix(hex, 16).ok(),
        None => number(text),
    };
    for item in value.split(',') {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let (Some(first), Some(last)) = (number(first), number(last)) else {
            return wrong(word, "a list of OSTs is numbers and ranges; write -o 1,4-7");
        };
        if first > last || last > MAX_OST {
            return wrong(word, "a range of OSTs goes up, at most to 65534; write -o 4-7");
        }
        if list.len() + usize::from(last - first) >= usize::from(MAX_STRIPES) {
            return wrong(word, "a file has at most 2000 stripes; list fewer OSTs");
        }
        list.extend(first..=last);
    }
    Ok(())
}

/// A pool's name, also with the filesystem's before it; `None` for taking the parent directory's.
pub(super) fn pool(word: &str, value: &str) -> Result<Option<Pool>, SpecError> {
    let value = value.trim_matches(['\'', '"']);
    let name = value.split_once('.').map_or(value, |(_, name)| name);
    if matches!(name, "" | "inherit") {
        return Ok(None);
    }
    let fits = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    match Pool::new(name.as_bytes()).filter(|_| fits) {
        Some(pool) => Ok(Some(pool)),
        None => {
            wrong(word, "a pool's name has at most 15 letters, digits, - and _; write -p flash")
        }
    }
}

/// Marks that a new component can have.
pub(super) fn flags(word: &str, value: &str) -> Result<Flags, SpecError> {
    value.split(',').try_fold(Flags::default(), |flags, name| match name {
        "prefer" => Ok(flags.and(Flags::PREFER)),
        "prefrd" => Ok(flags.and(Flags::PREFER_READ)),
        "prefwr" => Ok(flags.and(Flags::PREFER_WRITE)),
        "nosync" => Ok(flags.and(Flags::NO_SYNC)),
        _ => wrong(word, "flags of a new file are prefer, prefrd, prefwr and nosync; write one"),
    })
}

/// Where a component ends.
pub(super) fn end(word: &str, value: &str) -> Result<u64, SpecError> {
    if matches!(value, "-1" | "eof" | "EOF") {
        return Ok(Extent::EOF);
    }
    match size::parse(value) {
        Some(end) if end > 0 && end.is_multiple_of(UNIT_BYTES) => Ok(end),
        _ => {
            let problem = "a component ends at a multiple of 64K, or at -1 for the end of the file; \
                           write -E 256M";
            wrong(word, problem)
        }
    }
}

/// By how many bytes a component grows.
pub(super) fn extension(word: &str, value: &str) -> Result<u64, SpecError> {
    let fits = |bytes: &u64| {
        *bytes > 0 && bytes.is_multiple_of(UNIT_BYTES) && u32::try_from(*bytes / 1024).is_ok()
    };
    match size::parse(value).filter(fits) {
        Some(bytes) => Ok(bytes),
        None => wrong(word, "an extension size is a multiple of 64K; write -z 64M"),
    }
}
