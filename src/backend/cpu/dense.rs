//! The gradients of a dense layer.

use super::matrix::{Base, Matrix, Product, Target, multiply_on_all_beside};
use super::rows::{self, ColumnSums};

/// The gradients of `input weight + bias` with respect to its parts, as far as they are wanted,
/// from blocks of rows that come one after the other.
#[derive(Debug)]
pub(super) struct Gradients {
    /// `[N, I]`, as far as blocks have come.
    of_input: Option<Vec<f32>>,
    /// `[I, O]`, of a weight that lies transposed `[O, I]`; empty before the first block.
    of_weight: Option<Vec<f32>>,
    /// `[O]`
    of_bias: Option<Vec<f32>>,
}

impl Gradients {
    /// Of so many rows in all.
    pub(super) fn new(
        rows: usize,
        weight: Matrix,
        [of_input, of_weight, of_bias]: [bool; 3],
    ) -> Self {
        let [d_input, d_output] = weight.shape();
        Self {
            of_input: of_input.then(|| Vec::with_capacity(rows * d_input)),
            of_weight: of_weight.then(|| Vec::with_capacity(d_input * d_output)),
            of_bias: of_bias.then(|| vec![0.0; d_output]),
        }
    }

    /// Adds what a block of rows brings, given the gradient of its output, row after row.
    ///
    /// # Shapes
    /// - `input` `[N, I]`, `weight` `[I, O]`, `gradient` `[N, O]`
    pub(super) fn add(&mut self, input: Matrix, weight: Matrix, gradient: &[f32]) {
        let width = weight.shape()[1];
        let sums = self.of_bias.as_ref().map(|_| ColumnSums::new(gradient.len(), width));
        self.add_products(input, weight, gradient, sums);
    }

    /// [`Gradients::add`] of a gradient that is multiplied by slopes first, in place.
    ///
    /// # Shapes
    /// - `slopes` `[N, O]`
    pub(super) fn add_activated(
        &mut self,
        input: Matrix,
        weight: Matrix,
        gradient: &mut [f32],
        slopes: &[f32],
    ) {
        match &mut self.of_bias {
            Some(of_bias) => {
                let width = weight.shape()[1];
                rows::add(of_bias, &rows::multiply_summing_columns(gradient, slopes, width));
            }
            None => rows::multiply(gradient, slopes),
        }
        self.add_products(input, weight, gradient, None);
    }

    /// With sums that are left to do beside the products.
    fn add_products(
        &mut self,
        input: Matrix,
        weight: Matrix,
        numbers: &[f32],
        mut sums: Option<ColumnSums>,
    ) {
        let ([rows, d_input], [_, d_output]) = (input.shape(), weight.shape());
        assert_eq!(numbers.len(), rows * d_output);
        let gradient = Matrix::of_rows(numbers, d_output);
        let mut products = Vec::with_capacity(2);
        if let Some(of_input) = &mut self.of_input {
            let room = &mut of_input.spare_capacity_mut()[..rows * d_input];
            let target = Target::of_room(room, d_input);
            let (a, b) = (gradient, weight.transposed());
            products.push(Product { target, base: Base::Nothing, a, b });
        }
        if let Some(of_weight) = &mut self.of_weight {
            let (a, b) = match weight.is_transposed() {
                true => (gradient.transposed(), input),
                false => (input.transposed(), gradient),
            };
            // The first block writes what the others add to.
            let base = if of_weight.is_empty() { Base::Nothing } else { Base::Target };
            of_weight.clear();
            let room = &mut of_weight.spare_capacity_mut()[..d_input * d_output];
            products.push(Product { target: Target::of_room(room, b.shape()[1]), base, a, b });
        }
        multiply_on_all_beside(products, sums.iter_mut().flat_map(|sums| sums.work(numbers)));
        if let (Some(of_bias), Some(sums)) = (&mut self.of_bias, sums) {
            rows::add(of_bias, &sums.finish());
        }
        if let Some(of_input) = &mut self.of_input {
            // SAFETY: a product has written these rows.
            unsafe { of_input.set_len(of_input.len() + rows * d_input) };
        }
        if let Some(of_weight) = &mut self.of_weight {
            // SAFETY: a product has written all of it.
            unsafe { of_weight.set_len(d_input * d_output) };
        }
    }

    /// With respect to the input, the weight and the bias.
    pub(super) fn into_parts(self) -> [Option<Vec<f32>>; 3] {
        [self.of_input, self.of_weight, self.of_bias]
    }
}
