//! Attention with linear biases.

/// Heads whose slopes are a sequence of their own; the others' are between these.
pub fn alibi_sequence(n_heads: usize) -> usize {
    match n_heads.is_power_of_two() {
        true => n_heads,
        false => n_heads.next_power_of_two() / 2,
    }
}

/// The slopes of ALiBi (Press et al. 2022): a geometric sequence that ends at 2^-8; where the
/// number of heads is no power of two, every other one of the next longer sequence fills up.
pub fn alibi_slopes(n_heads: usize) -> Vec<f64> {
    let sequence =
        |count: usize| (1..=count).map(move |head| 2f64.powf(-8.0 * head as f64 / count as f64));
    let whole = alibi_sequence(n_heads);
    sequence(whole).chain(sequence(2 * whole).step_by(2)).take(n_heads).collect()
}
