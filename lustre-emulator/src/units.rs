//! Sizes and times as people write them on a command line.

use std::time::Duration;

/// Bytes such as `4096`, `64K`, `100M`, `1T`; units are powers of 1024.
///
/// # Errors
/// A sentence about what is wrong with the text.
pub fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let shift = match text[digits.len()..].trim_end_matches(['i', 'B']) {
        "" => 0,
        "k" | "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        unit => return Err(format!("unknown unit {unit}: use K, M, G or T")),
    };
    let number: u64 = digits.parse().map_err(|error| format!("{error}"))?;
    let size = number.checked_shl(shift).filter(|size| size >> shift == number);
    size.ok_or_else(|| "too large".to_owned())
}

/// Times such as `200us`, `1.5ms`, `2s`.
///
/// # Errors
/// A sentence about what is wrong with the text.
pub fn time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: f64 = digits.parse().map_err(|error| format!("{error}"))?;
    let seconds = match &text[digits.len()..] {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        _ => return Err("a time needs a unit: us, ms or s".to_owned()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|error| format!("{error}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{bytes, time};

    #[test]
    fn sizes_and_times_are_read_and_nonsense_is_refused() {
        assert_eq!(bytes("4096"), Ok(4096));
        assert_eq!(bytes("64K"), Ok(65536));
        assert_eq!(bytes("100MiB"), Ok(100 << 20));
        assert_eq!(time("1.5ms"), Ok(Duration::from_micros(1500)));
        for wrong in ["", "x", "1X", "99999999999T"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "1", "-1s", "1h"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
