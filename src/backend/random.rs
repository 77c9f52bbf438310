//! Random numbers: of a generator, from which seeds are drawn, and of places, which need none.

use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng, make_rng};
use std::cell::RefCell;

thread_local! {
    /// On the host, so that no device is waited for; of each thread, so that those of several
    /// devices draw the same however fast each of them is.
    static GENERATOR: RefCell<ChaCha8Rng> = RefCell::new(make_rng());
}

/// What [`draw_seed`] draws from now on, in this thread.
pub fn seed_draws(seed: u64) {
    GENERATOR.set(ChaCha8Rng::seed_from_u64(seed));
}

/// A number from this thread's generator.
pub fn draw_seed() -> u64 {
    GENERATOR.with_borrow_mut(Rng::next_u64)
}

/// Factors and increments of [`philox`], and how often it goes round (Salmon et al. 2011, table 2).
pub const PHILOX_FACTORS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
pub const PHILOX_INCREMENTS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
pub const PHILOX_ROUNDS: usize = 10;

/// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), which makes
/// four random numbers of a counter and a key, of so many counters side by side.
#[inline(always)]
pub fn philox<const N: usize>(mut counters: [[u32; N]; 4], mut key: [u32; 2]) -> [[u32; N]; 4] {
    let product = |a: u32, b: u32| u64::from(a) * u64::from(b);
    for _ in 0..PHILOX_ROUNDS {
        let [zeroth, first, second, third] = &mut counters;
        for lane in 0..N {
            let low = product(PHILOX_FACTORS[0], zeroth[lane]);
            let high = product(PHILOX_FACTORS[1], second[lane]);
            zeroth[lane] = (high >> 32) as u32 ^ first[lane] ^ key[0];
            second[lane] = (low >> 32) as u32 ^ third[lane] ^ key[1];
            (first[lane], third[lane]) = (high as u32, low as u32);
        }
        for (word, increment) in key.iter_mut().zip(PHILOX_INCREMENTS) {
            *word = word.wrapping_add(increment);
        }
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::philox;

    /// The known answers of Random123, its authors' own implementation.
    #[test]
    fn philox_is_that_of_its_authors() {
        let known = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, numbers) in known {
            assert_eq!(philox(counter.map(|word| [word]), key), numbers.map(|number| [number]));
        }
    }
}
