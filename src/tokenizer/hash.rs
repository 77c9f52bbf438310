//! Hashing of short keys, quickly: the keys are words of texts and pairs of ids, and nobody gains
//! from making them collide.

use std::hash::{BuildHasherDefault, Hasher};

/// For `HashMap`.
pub(super) type QuickHash = BuildHasherDefault<QuickHasher>;

/// Multiplies and rotates eight bytes at a time, as rustc's own hash maps do.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct QuickHasher(u64);

/// 2^64 over the golden ratio, as an odd number (Knuth, The Art of Computer Programming, 6.4).
pub(super) const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

impl Hasher for QuickHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (chunks, rest) = bytes.as_chunks::<8>();
        for chunk in chunks {
            self.write_u64(u64::from_le_bytes(*chunk));
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.write_u64(u64::from_le_bytes(last));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(26) ^ value).wrapping_mul(GOLDEN);
    }

    /// The upper bits are the good ones; maps take the lower ones first.
    fn finish(&self) -> u64 {
        self.0.rotate_left(32)
    }
}
