const GIB: u64 = 1 << 30;

/// Bytes as people read them.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        ..GIB => format!("{:.1} MiB", bytes as f64 / (1u64 << 20) as f64),
        _ => format!("{:.2} GiB", bytes as f64 / GIB as f64),
    }
}
