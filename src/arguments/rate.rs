//! Rates as people type them. Units of 1024 unless `B` follows without `i`, as rsync has it.

/// Bytes per second: `500K`, `1.5GiB`, `100MB`; a bare number is bytes.
pub fn bytes(text: &str) -> Result<u64, String> {
    let problem = || {
        format!(
            "{text:?} is no rate: a number of bytes per second, with K, M, G or T (100M, 1.5GiB)"
        )
    };
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| problem())?;
    let unit = unit.strip_suffix("/s").unwrap_or(unit).to_ascii_lowercase();
    let (base, prefix) = match unit.as_str() {
        "" | "b" => (1.0, ""),
        unit => match (unit.strip_suffix("ib"), unit.strip_suffix('b')) {
            (Some(prefix), _) => (1024.0, prefix),
            (None, Some(prefix)) => (1000.0, prefix),
            (None, None) => (1024.0, unit),
        },
    };
    let power = match prefix {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(problem()),
    };
    let rate = number * f64::powi(base, power);
    if !(1.0..9e18).contains(&rate) {
        return Err(problem());
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // in range, see above
    Ok(rate as u64)
}

/// As [`bytes`], and `none`, which is 0.
pub fn bytes_or_none(text: &str) -> Result<u64, String> {
    if text == "none" { Ok(0) } else { bytes(text) }
}

/// A number per second, at least 1, or `none`, which is 0.
pub fn count_or_none(text: &str) -> Result<u64, String> {
    if text == "none" {
        return Ok(0);
    }
    let count = text.parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| format!("{text:?} is neither a number above 0 nor none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1024_unless_written_in_thousands() {
        for (text, rate) in [
            ("1", 1),
            ("100M", 100 << 20),
            ("1.5GiB", 3 << 29),
            ("2k", 2048),
            ("2kB", 2000),
            ("3MB/s", 3_000_000),
            ("7b", 7),
        ] {
            assert_eq!(bytes(text), Ok(rate), "{text}");
        }
        for text in ["", "0", "M", "-5M", "5Q", "5Mb5", "1e9", "none"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert_eq!(bytes_or_none("none"), Ok(0));
        assert!(count_or_none("0").is_err());
    }
}
