//! Sizes as `lfs` writes and reads them: a number with K, M, G, T, P or E for powers of 1024. Only the
//! text; which sizes are allowed is said elsewhere.

const UNITS: [(char, u32); 6] = [('E', 60), ('P', 50), ('T', 40), ('G', 30), ('M', 20), ('K', 10)];

/// The shortest exact text of a number of bytes.
pub(super) fn text(bytes: u64) -> String {
    for (unit, shift) in UNITS {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// The number of bytes that a text says; `None` when it is none, or does not fit. A number below 4096
/// without a unit is in KiB, as `lfs` has it, since fewer bytes than that are never meant.
pub(super) fn parse(text: &str) -> Option<u64> {
    let last = text.chars().next_back()?;
    let unit = UNITS.iter().find(|(unit, _)| unit.eq_ignore_ascii_case(&last));
    let digits = if unit.is_some() { &text[..text.len() - 1] } else { text };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    let shift = match unit {
        Some((_, shift)) => *shift,
        None if number < 4096 => 10,
        None => 0,
    };
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_exact_and_come_back() {
        for (bytes, expected) in [
            (65_536, "64K"),
            (4 << 20, "4M"),
            (5 << 19, "2560K"),
            (3 << 30, "3G"),
            (1 << 40, "1T"),
            (0, "0"),
            (65_537, "65537"),
        ] {
            assert_eq!(text(bytes), expected);
            assert_eq!(parse(expected), Some(bytes));
        }
    }

    #[test]
    fn small_numbers_without_a_unit_are_kibibytes() {
        assert_eq!(parse("64"), Some(65_536));
        assert_eq!(parse("4096"), Some(4096));
        assert_eq!(parse("1m"), Some(1 << 20));
        for wrong in ["", "M", "-1", "1.5M", "1MB", "16E", "99999999999999999999", "+1", "1\u{e9}"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
