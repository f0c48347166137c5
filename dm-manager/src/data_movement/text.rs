//! The texts in a movement's status, in the forms that dcp and Go have given them so far: programs and
//! people read them. It reads none.

use std::fmt::Write as _;
use std::time::Duration;

/// The longest text that is put into a status, in bytes. An object may have 1.5 MiB, and a status has up to
/// four of these.
pub(crate) const LONGEST: usize = 32 * 1024;

/// A duration as Go writes it: `1m0.5s`, `85.481ms`, `0s`.
pub(crate) fn go_duration(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    let mut number = |value: u128, unit: u128, name: &str| {
        let digits = unit.checked_ilog10().unwrap_or(0) as usize;
        let fraction = format!("{:0digits$}", value % unit);
        let fraction = fraction.trim_end_matches('0');
        // Writing to a String cannot fail.
        let _ = match fraction.is_empty() || digits == 0 {
            true => write!(text, "{}{name}", value / unit),
            false => write!(text, "{}.{fraction}{name}", value / unit),
        };
    };
    match nanoseconds {
        0..1_000 => number(nanoseconds, 1, "ns"),
        1_000..1_000_000 => number(nanoseconds, 1_000, "µs"),
        1_000_000..1_000_000_000 => number(nanoseconds, 1_000_000, "ms"),
        _ => {
            let (minutes, rest) = (nanoseconds / 60_000_000_000, nanoseconds % 60_000_000_000);
            if minutes >= 60 {
                number(minutes / 60, 1, "h");
            }
            if minutes > 0 {
                number(minutes % 60, 1, "m");
            }
            number(rest, 1_000_000_000, "s");
        }
    }
    text
}

/// Seconds as dcp writes them.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.3}", duration.as_secs_f64())
}

/// A number of bytes as dcp writes it in its summary.
pub(crate) fn data(bytes: u64) -> String {
    format!("{} ({bytes} bytes)", scaled(as_float(bytes), ""))
}

/// A rate as dcp writes it in its summary.
pub(crate) fn rate(bytes: u64, duration: Duration) -> String {
    let scaled = scaled(per_second(bytes, duration), "/s");
    format!("{scaled} ({bytes} bytes in {} seconds)", seconds(duration))
}

/// dcp's line of progress, with the end of the line.
pub(crate) fn progress(bytes: u64, total: u64, percent: Option<i32>, duration: Duration) -> String {
    let rate = per_second(bytes, duration);
    let left = if rate > 0.0 { as_float(total.saturating_sub(bytes)) / rate } else { 0.0 };
    let end =
        if percent == Some(100) { "done".to_owned() } else { format!("{left:.0} secs left ...") };
    let percent = percent.map(|percent| format!(" ({percent}%)")).unwrap_or_default();
    format!(
        "Copied {}{percent} in {} secs ({}) {end}\n",
        scaled(as_float(bytes), ""),
        seconds(duration),
        scaled(rate, "/s"),
    )
}

fn scaled(value: f64, per: &str) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut value, mut unit) = (value, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.3} {}{per}", UNITS[unit])
}

fn per_second(bytes: u64, duration: Duration) -> f64 {
    match duration.is_zero() {
        true => 0.0,
        false => as_float(bytes) / duration.as_secs_f64(),
    }
}

#[allow(clippy::cast_precision_loss, reason = "three digits of it are shown")]
fn as_float(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (7, "7ns"),
            (47_028, "47.028µs"),
            (85_481_709, "85.481709ms"),
            (1_000_517_115, "1.000517115s"),
            (60_500_000_000, "1m0.5s"),
            (3_600_000_000_000, "1h0m0s"),
            (90_061_000_000_000, "25h1m1s"),
            (100_000_000, "100ms"),
            (10_000_000_000, "10s"),
        ] {
            assert_eq!(go_duration(Duration::from_nanos(nanoseconds)), text);
        }
    }

    #[test]
    fn the_summary_is_written_as_dcp_writes_it() {
        let five = Duration::from_secs(5);
        let bytes = 10 << 30;
        assert_eq!(seconds(five), "5.000");
        assert_eq!(data(bytes), "10.000 GiB (10737418240 bytes)");
        assert_eq!(rate(bytes, five), "2.000 GiB/s (10737418240 bytes in 5.000 seconds)");
        assert_eq!(data(0), "0.000 B (0 bytes)");
        assert_eq!(rate(0, Duration::ZERO), "0.000 B/s (0 bytes in 0.000 seconds)");
        assert_eq!(
            progress(bytes / 2, bytes, Some(50), five),
            "Copied 5.000 GiB (50%) in 5.000 secs (1.000 GiB/s) 5 secs left ...\n"
        );
        assert_eq!(
            progress(bytes, bytes, Some(100), five),
            "Copied 10.000 GiB (100%) in 5.000 secs (2.000 GiB/s) done\n"
        );
    }
}
