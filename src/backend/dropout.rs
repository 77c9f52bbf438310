//! What dropout drops.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

use super::random::{draw_seed, philox};

/// Columns whose fates are drawn together: words of so many counters side by side.
pub const LANES: usize = 16;
/// Words of a counter.
const WORDS: usize = 4;
/// Columns of all words of [`LANES`] counters.
pub const GROUP: usize = WORDS * LANES;

/// Which numbers of a tensor are dropped (Srivastava et al. 2014).
///
/// It follows from their places: no mask has to be kept for the gradients, and it is the same on all
/// backends, threads and devices. The number in row `r`, counted through all dimensions but the
/// last, and column `c` has word `c / 16 % 4` of what Philox4x32-10 (Salmon et al. 2011) makes of the
/// counter `[c / 64 * 16 + c % 16, r % 2³², 0, 0]`. It is dropped where that is below the threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// The seed, its lower half first.
    pub key: [u32; 2],
    /// The probability, times 2³².
    pub threshold: u32,
    /// What is kept is multiplied by this.
    pub scale: f32,
}

impl Dropout {
    /// # Panics
    /// Where the probability is below zero, or one or more.
    pub fn new(probability: f64, seed: u64) -> Self {
        assert!((0.0..1.0).contains(&probability), "a probability of {probability}");
        Self {
            key: [seed as u32, (seed >> 32) as u32],
            threshold: (probability * 2.0f64.powi(32)).round() as u32,
            scale: (1.0 / (1.0 - probability)) as f32,
        }
    }

    /// With a new seed; none where nothing is dropped, as everywhere outside training.
    pub fn draw<B: Backend>(probability: f64, device: &B::Device) -> Option<Self> {
        let drops = probability > 0.0 && B::ad_enabled(device);
        drops.then(|| Self::new(probability, draw_seed()))
    }

    /// Multiplies a part of a row, which begins at a column, by zero or by the scale.
    #[inline(always)]
    pub fn apply(&self, row: usize, first: usize, mut numbers: &mut [f32]) {
        let mut column = first;
        while !numbers.is_empty() {
            let start = column % GROUP;
            let (part, rest) = numbers.split_at_mut(numbers.len().min(GROUP - start));
            let factors = self.factors(row as u32, column / GROUP);
            part.iter_mut()
                .zip(&factors.as_flattened()[start..])
                .for_each(|(x, factor)| *x *= factor);
            column += part.len();
            numbers = rest;
        }
    }

    /// Of all columns of a group.
    #[inline(always)]
    fn factors(&self, row: u32, group: usize) -> [[f32; LANES]; WORDS] {
        let counters = std::array::from_fn(|lane| (group * LANES + lane) as u32);
        self.of_words(counters, [row; LANES])
    }

    /// What the numbers in these rows are multiplied by, in those columns of a group whose counters
    /// have this place: the columns `group * 64 + 16 word + place`.
    #[inline(always)]
    pub fn factors_down(
        &self,
        rows: [usize; LANES],
        group: usize,
        place: usize,
    ) -> [[f32; LANES]; WORDS] {
        let counter = (group * LANES + place) as u32;
        self.of_words([counter; LANES], rows.map(|row| row as u32))
    }

    /// For each word of counters.
    #[inline(always)]
    fn of_words(&self, counters: [u32; LANES], rows: [u32; LANES]) -> [[f32; LANES]; WORDS] {
        let words = philox([counters, rows, [0; LANES], [0; LANES]], self.key);
        words.map(|words| words.map(|word| if word < self.threshold { 0.0 } else { self.scale }))
    }

    /// What all numbers of a tensor are multiplied by.
    ///
    /// # Shapes
    /// - `shape`, of any rank above zero
    pub(super) fn mask<B: Backend, const D: usize>(
        &self,
        shape: [usize; D],
        device: &B::Device,
    ) -> Tensor<B, D> {
        let mut factors = vec![1.0; shape.iter().product()];
        for (row, factors) in factors.chunks_mut(shape[D - 1].max(1)).enumerate() {
            self.apply(row, 0, factors);
        }
        Tensor::from_data(TensorData::new(factors, shape), device)
    }
}
