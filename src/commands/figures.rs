//! Bytes, numbers and times as people read them.

use std::time::Duration;

const KIB: f64 = 1024.0;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Bytes as people read them.
pub(super) fn size(bytes: u64) -> String {
    let number = bytes as f64;
    if bytes < MIB {
        format!("{:.1} KiB", number / KIB)
    } else if bytes < GIB {
        format!("{:.1} MiB", number / MIB as f64)
    } else {
        format!("{:.2} GiB", number / GIB as f64)
    }
}

/// A large number in words that are read at a glance.
pub(super) fn count(number: u64) -> String {
    let units = [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M")];
    match units.iter().find(|(unit, _)| number >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", number as f64 / *unit as f64),
        None => number.to_string(),
    }
}

/// Seconds as people say them.
pub(super) fn time(seconds: f64) -> String {
    let whole = match seconds {
        ..10.0 => return format!("{seconds:.1}s"),
        _ => Duration::from_secs(seconds.round() as u64),
    };
    humantime::format_duration(whole).to_string()
}
