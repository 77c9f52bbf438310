//! Attention with linear biases.

/// Heads whose slopes are a sequence of their own: the greatest power of two that there are heads
/// for.
pub fn alibi_sequence(n_heads: usize) -> usize {
    match n_heads.is_power_of_two() {
        true => n_heads,
        false => n_heads.next_power_of_two() / 2,
    }
}

/// What a head's scores lose for each place between query and key in ALiBi (Press et al. 2022): a
/// geometric sequence over the heads, which ends at 2^-8; where the number of heads is no power of
/// two, every other one of the next longer sequence fills up.
pub fn alibi_slope(head: usize, n_heads: usize) -> f64 {
    let sequence = alibi_sequence(n_heads);
    let share = match head.checked_sub(sequence) {
        None => (head + 1) as f64 / sequence as f64,
        Some(beyond) => (2 * beyond + 1) as f64 / (2 * sequence) as f64,
    };
    (-8.0 * share).exp2()
}
