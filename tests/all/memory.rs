//! The allocator of the program, which is also that of these tests: blocks around the size from
//! which it keeps them.

use proptest::prelude::*;
use std::thread;

/// Of the smallest block that is kept, and some more.
const SIZES: [usize; 8] =
    [1, 4096, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, 300_000, 1 << 20, (5 << 20) + 7];

fn fill(block: &mut [u8], seed: u8) {
    for (place, byte) in block.iter_mut().enumerate() {
        *byte = (place % 251) as u8 ^ seed;
    }
}

fn is_filled(block: &[u8], seed: u8) -> bool {
    block.iter().enumerate().all(|(place, byte)| *byte == (place % 251) as u8 ^ seed)
}

#[test]
fn zeros_are_zeros_where_something_else_was() {
    for size in SIZES {
        for _ in 0..3 {
            let mut block = vec![0u8; size];
            assert!(block.iter().all(|byte| *byte == 0), "{size} bytes");
            fill(&mut block, 3);
        }
    }
}

#[test]
fn large_blocks_begin_where_a_line_of_the_cache_does() {
    for size in SIZES.into_iter().filter(|size| *size >= 1 << 18) {
        let block = Vec::<u8>::with_capacity(size);
        assert_eq!(block.as_ptr().addr() % 64, 0, "{size} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]
    /// Blocks of several threads come, grow, shrink and go, and none ever holds another's bytes.
    #[test]
    fn blocks_are_apart(
        plans in prop::collection::vec(
            prop::collection::vec((0..6usize, 0..SIZES.len(), any::<u8>()), 1..30),
            3,
        ),
    ) {
        thread::scope(|scope| {
            for plan in plans {
                scope.spawn(move || {
                    let mut held: [(Vec<u8>, u8); 6] = Default::default();
                    for (place, size, seed) in plan {
                        let (block, old) = &mut held[place];
                        assert!(is_filled(block, *old));
                        if seed % 3 == 0 {
                            *block = vec![0; SIZES[size]];
                        } else {
                            let kept = block.len().min(SIZES[size]);
                            block.resize(SIZES[size], 0);
                            block.shrink_to_fit();
                            assert!(is_filled(&block[..kept], *old));
                        }
                        fill(block, seed);
                        *old = seed;
                    }
                });
            }
        });
    }
}
