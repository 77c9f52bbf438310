//! Bytes, numbers and times as people read them.

use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Bytes as people read them.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        ..MIB => format!("{:.1} KiB", bytes as f64 / KIB as f64),
        ..GIB => format!("{:.1} MiB", bytes as f64 / MIB as f64),
        _ => format!("{:.2} GiB", bytes as f64 / GIB as f64),
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
