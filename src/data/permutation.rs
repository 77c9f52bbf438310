/// A pseudo-random order of `0..len` without a table: a Feistel network over the next power of
/// four, walked until it lands inside (Black and Rogaway 2002, "Ciphers with Arbitrary Finite
/// Domains").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permutation {
    len: u64,
    half_bits: u32,
    key: u64,
}

const ROUNDS: u64 = 6;

impl Permutation {
    /// An order of `0..len`, where `len` is at least one; every key gives another one.
    pub fn new(len: u64, key: u64) -> Self {
        let bits = u64::BITS - (len.max(2) - 1).leading_zeros();
        Self { len: len.max(1), half_bits: bits.div_ceil(2), key }
    }

    /// Where the `index`-th element stands; `index` is taken modulo the length.
    pub fn at(&self, index: u64) -> u64 {
        let mut value = self.encrypt(index % self.len);
        while value >= self.len {
            value = self.encrypt(value);
        }
        value
    }

    fn encrypt(&self, value: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for round in 0..ROUNDS {
            let mixed = mix(self.key ^ mix(right ^ (round << 56)));
            (left, right) = (right, left ^ (mixed & mask));
        }
        (left << self.half_bits) | right
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every input bit reaches every
/// output bit.
pub(super) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}
