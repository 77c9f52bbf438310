//! The gradient of an embedding.

use super::{TASK, team, written};

/// Parts of the vocabulary that tasks sum up, each for itself.
const PARTS: usize = 64;

/// Sums of the gradient's rows, each where its token's row is; zeros where no token is.
pub(super) fn backward(
    tokens: &[usize],
    gradient: &[f32],
    width: usize,
    vocab_size: usize,
) -> Vec<f32> {
    assert_eq!(gradient.len(), tokens.len() * width);
    assert!(tokens.iter().all(|token| *token < vocab_size));
    // SAFETY: all of it is written.
    let mut sums = unsafe {
        written(vocab_size * width, |room| {
            team::for_each(room.chunks_mut(TASK), |part| {
                part.iter_mut().for_each(|sum| {
                    sum.write(0.0);
                });
            });
        })
    };
    let rows = vocab_size.div_ceil(PARTS);
    team::for_each(sums.chunks_mut(rows * width).enumerate(), |(number, part)| {
        let own = number * rows..number * rows + part.len() / width;
        for (token, gradient) in tokens.iter().zip(gradient.chunks_exact(width)) {
            if own.contains(token) {
                let sums = &mut part[(token - own.start) * width..][..width];
                sums.iter_mut().zip(gradient).for_each(|(sum, x)| *sum += x);
            }
        }
    });
    sums
}
