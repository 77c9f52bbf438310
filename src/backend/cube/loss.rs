//! Cross-entropy and what is minimised in its place, a cube a row of logits. See
//! [`GptBackend::training_loss`](crate::backend::GptBackend::training_loss).
//!
//! N rows, I width of what is hidden, V vocabulary, K kinds of losses: one where there are no terms,
//! and two with them

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor};
use burn_cubecl::kernel::{cast, into_contiguous};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{BoolElement, CubeRuntime};
use cubecl::prelude::*;

use super::Cube;
use super::products::{element, long_product, product, transposed};
use super::rows::{LOWEST, ROW_UNITS, max_of_units, sum_of_units};
use super::sums;
use super::tensors::{
    UNITS, address, at_most, count, cubes, cubes_of_elements, empty, empty_of, rows,
};
use crate::backend::ops::{from_float, to_float};
use crate::backend::{GPU_LOGITS, GPU_LOGITS_ALIGNMENT, LossTerms, gpu_logits_rows};
use crate::config::Precision;

/// [`LossTerms`]
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Terms {
    label_smoothing: f32,
    z_loss: f32,
}

fn argument<R: CubeRuntime>(terms: LossTerms) -> TermsLaunch<R> {
    TermsLaunch::new(terms.label_smoothing as f32, terms.z_loss as f32)
}

/// `log Σ eˣ` of a row and, with terms, the mean of x.
#[cube]
fn log_sum_and_mean(
    logits: &Array<f32>,
    start: usize,
    width: u32,
    #[comptime] has_terms: bool,
) -> (f32, f32) {
    let mut highest = f32::new(LOWEST);
    let mut place = UNIT_POS;
    while place < width {
        highest = max(highest, logits[start + place as usize]);
        place += ROW_UNITS;
    }
    let highest = max_of_units(highest, ROW_UNITS);
    let mut sum = 0.0f32;
    let mut total = 0.0f32;
    let mut place = UNIT_POS;
    while place < width {
        let logit = logits[start + place as usize];
        sum += f32::exp(logit - highest);
        if has_terms {
            total += logit;
        }
        place += ROW_UNITS;
    }
    let log_sum = highest + f32::ln(sum_of_units(sum, ROW_UNITS));
    let mut mean = 0.0f32;
    if has_terms {
        mean = sum_of_units(total, ROW_UNITS) / f32::cast_from(width);
    }
    (log_sum, mean)
}

/// Writes the loss of a row, `log Z - x_target`, and, with terms, what is minimised beside it, to
/// which they add `ε (x_target - mean x) + w log² Z`.
#[cube]
fn write_losses(
    losses: &mut Array<f32>,
    row: usize,
    of_target: f32,
    log_sum: f32,
    mean: f32,
    terms: Terms,
    #[comptime] has_terms: bool,
) {
    let loss = log_sum - of_target;
    if comptime!(has_terms) {
        let share = terms.label_smoothing;
        // Zero times an infinite logit would be no number.
        let smoothing = select(share > 0.0f32, share * (of_target - mean), 0.0f32);
        losses[2 * row] = loss;
        losses[2 * row + 1] = loss + smoothing + terms.z_loss * log_sum * log_sum;
    } else {
        losses[row] = loss;
    }
}

/// The slope of what is minimised at a logit of this probability, and at the target:
/// `p - [target]`, to which terms add `2 w log Z p + ε ([target] - 1 / V)`.
#[cube]
fn slope(
    probability: f32,
    is_target: bool,
    log_sum: f32,
    width: u32,
    terms: Terms,
    #[comptime] has_terms: bool,
) -> f32 {
    let one = select(is_target, 1.0f32, 0.0f32);
    let mut slope = probability - one;
    if has_terms {
        let uniform = 1.0f32 / f32::cast_from(width);
        slope += 2.0f32 * terms.z_loss * log_sum * probability;
        slope += terms.label_smoothing * (one - uniform);
    }
    slope
}

#[cube(launch, address_type = "dynamic")]
fn forward_kernel(
    logits: &Array<f32>,
    targets: &Array<i32>,
    losses: &mut Array<f32>,
    log_sums: &mut Array<f32>,
    width: u32,
    pitch: u32,
    rows: u32,
    terms: Terms,
    #[comptime] has_terms: bool,
) {
    let row = CUBE_POS;
    if row >= rows as usize {
        terminate!();
    }
    let start = row * pitch as usize;
    let (log_sum, mean) = log_sum_and_mean(logits, start, width, has_terms);
    if UNIT_POS == 0 {
        let target = targets[row] as u32;
        let of_target = logits[start + target as usize];
        write_losses(losses, row, of_target, log_sum, mean, terms, has_terms);
        log_sums[row] = log_sum;
    }
}

/// The losses of each row, `[N, K]`, and `log Σ eˣ` of each, `[N]`. Beyond `width` there are no
/// logits.
pub fn forward<R: CubeRuntime>(
    logits: CubeTensor<R>,
    targets: CubeTensor<R>,
    width: usize,
    terms: LossTerms,
) -> [CubeTensor<R>; 2] {
    let has_terms = terms != LossTerms::default();
    let (logits, targets) = (into_contiguous(logits), into_contiguous(targets));
    let ([rows, pitch], client) = (rows(&logits), logits.client.clone());
    let losses = empty(&logits, [rows, 1 + usize::from(has_terms)]);
    let log_sums = empty(&logits, [rows]);
    forward_kernel::launch(
        &client,
        cubes(rows),
        CubeDim::new_1d(ROW_UNITS),
        address(&[&logits]),
        logits.into_array_arg(),
        targets.into_array_arg(),
        losses.clone().into_array_arg(),
        log_sums.clone().into_array_arg(),
        width as u32,
        pitch as u32,
        rows as u32,
        argument(terms),
        has_terms,
    );
    [losses, log_sums]
}

/// `gradient / N` times the slope of what is minimised, element by element.
#[cube(launch, address_type = "dynamic")]
fn backward_kernel(
    logits: &Array<f32>,
    targets: &Array<i32>,
    log_sums: &Array<f32>,
    gradient: &Array<f32>,
    output: &mut Array<f32>,
    width: u32,
    share: f32,
    terms: Terms,
    #[comptime] has_terms: bool,
) {
    if ABSOLUTE_POS < output.len() {
        let row = ABSOLUTE_POS / width as usize;
        let column = (ABSOLUTE_POS % width as usize) as u32;
        let is_target = column == targets[row] as u32;
        let log_sum = log_sums[row];
        let probability = f32::exp(logits[ABSOLUTE_POS] - log_sum);
        let slope = slope(probability, is_target, log_sum, width, terms, has_terms);
        output[ABSOLUTE_POS] = gradient[0] * share * slope;
    }
}

/// [`Kernels::cross_entropy_backward`](crate::backend::Kernels::cross_entropy_backward).
pub fn backward<R: CubeRuntime>(
    logits: CubeTensor<R>,
    targets: CubeTensor<R>,
    log_sums: CubeTensor<R>,
    gradient: CubeTensor<R>,
    terms: LossTerms,
) -> CubeTensor<R> {
    let inputs = [logits, targets, log_sums, gradient];
    let [logits, targets, log_sums, gradient] = inputs.map(into_contiguous);
    let ([rows, width], client) = (rows(&logits), logits.client.clone());
    let output = empty(&logits, logits.meta.shape().clone());
    backward_kernel::launch(
        &client,
        cubes_of_elements(count(&logits)),
        CubeDim::new_1d(UNITS),
        address(&[&logits]),
        logits.into_array_arg(),
        targets.into_array_arg(),
        log_sums.into_array_arg(),
        gradient.into_array_arg(),
        output.clone().into_array_arg(),
        width as u32,
        1.0 / rows as f32,
        argument(terms),
        terms != LossTerms::default(),
    );
    output
}

/// The losses of each row; logits are replaced by `share` times the slope of what is minimised, in
/// the type of the products that follow.
#[cube(launch, address_type = "dynamic")]
fn loss_and_gradient_kernel<E: Float>(
    logits: &Array<f32>,
    targets: &Array<i32>,
    losses: &mut Array<f32>,
    gradient: &mut Array<E>,
    width: u32,
    // From one row to the next: what is beyond the width is no logit.
    pitch: u32,
    rows: u32,
    share: f32,
    terms: Terms,
    #[comptime] has_terms: bool,
    #[define(E)] _element: StorageType,
) {
    let row = CUBE_POS;
    if row >= rows as usize {
        terminate!();
    }
    let start = row * pitch as usize;
    let (log_sum, mean) = log_sum_and_mean(logits, start, width, has_terms);
    let target = targets[row] as u32;
    let mut place = UNIT_POS;
    while place < pitch {
        let index = start + place as usize;
        let probability = f32::exp(logits[index] - log_sum);
        let slope = share * slope(probability, place == target, log_sum, width, terms, has_terms);
        gradient[index] = E::cast_from(select(place < width, slope, 0.0f32));
        place += ROW_UNITS;
    }
    if UNIT_POS == 0 {
        let of_target = logits[start + target as usize];
        write_losses(losses, row, of_target, log_sum, mean, terms, has_terms);
    }
}

/// The losses of each row, `[N, K]`, and the gradient of the sum of what is minimised, times `share`.
/// Beyond `width` there are no logits, and their gradient is zero.
fn loss_and_gradient<R: CubeRuntime>(
    logits: CubeTensor<R>,
    targets: CubeTensor<R>,
    width: usize,
    element: DType,
    share: f32,
    terms: LossTerms,
) -> [CubeTensor<R>; 2] {
    let has_terms = terms != LossTerms::default();
    let ([rows, pitch], client) = (rows(&logits), logits.client.clone());
    let losses = empty(&logits, [rows, 1 + usize::from(has_terms)]);
    let gradient = empty_of(&logits, logits.meta.shape().clone(), element);
    loss_and_gradient_kernel::launch(
        &client,
        cubes(rows),
        CubeDim::new_1d(ROW_UNITS),
        address(&[&logits]),
        logits.into_array_arg(),
        targets.into_array_arg(),
        losses.clone().into_array_arg(),
        gradient.clone().into_array_arg(),
        width as u32,
        pitch as u32,
        rows as u32,
        share,
        argument(terms),
        has_terms,
        element.into(),
    );
    [losses, gradient]
}

/// The losses of all rows, `[N, K]`, and the gradients of the mean of what is minimised, as far as
/// they are wanted. See
/// [`Kernels::linear_cross_entropy`](crate::backend::Kernels::linear_cross_entropy).
pub fn of_product<R: CubeRuntime, BT: BoolElement>(
    [input, weight]: [CubeTensor<R>; 2],
    bias: Option<CubeTensor<R>>,
    targets: CubeTensor<R>,
    precision: Precision,
    terms: LossTerms,
    [of_input, of_weight, of_bias]: [bool; 3],
) -> (CubeTensor<R>, [Option<CubeTensor<R>>; 3]) {
    let element = element(precision);
    let matrix = |tensor: CubeTensor<R>| -> Tensor<Cube<R, BT>, 2> { from_float(tensor) };
    let ([n, d], [_, v]) = (rows(&input), rows(&weight));
    let columns = v.next_multiple_of(GPU_LOGITS_ALIGNMENT);
    let chunk = gpu_logits_rows(at_most(GPU_LOGITS, &input), columns).min(n);
    let beyond = columns - v;
    let input = matrix(cast(input, element));
    let weight = to_float(widened(matrix(cast(weight, element)), beyond));
    let bias: Option<Tensor<Cube<R, BT>, 1>> = bias.map(from_float);
    let bias = bias.map(|bias| widened(bias.unsqueeze(), beyond));
    let targets: Tensor<Cube<R, BT>, 1, Int> = Tensor::from_primitive(targets);
    let (mut losses, mut inputs) = (Vec::new(), Vec::new());
    let (mut weights, mut biases) = (None, None);
    for first in (0..n).step_by(chunk) {
        let range = first..(first + chunk).min(n);
        let part = to_float(input.clone().slice([range.clone()]));
        let mut logits = matrix(product(part.clone(), weight.clone()));
        if let Some(bias) = &bias {
            logits = logits + bias.clone();
        }
        let logits = into_contiguous(to_float(logits));
        let asked = into_contiguous(targets.clone().slice([range]).into_primitive());
        if !(of_input || of_weight || of_bias) {
            let [loss, _] = forward(logits, asked, v, terms);
            losses.push(from_float(loss));
            continue;
        }
        let share = 1.0 / n as f32;
        let [loss, gradient] = loss_and_gradient(logits, asked, v, element, share, terms);
        losses.push(from_float(loss));
        if of_input {
            let weight: Tensor<Cube<R, BT>, 2> = from_float(transposed(weight.clone()));
            inputs.push(long_product(matrix(gradient.clone()), weight));
        }
        if of_weight {
            let share = matrix(product(transposed(part), gradient.clone()));
            add(&mut weights, share);
        }
        if of_bias {
            let share: Tensor<Cube<R, BT>, 1> =
                from_float(sums::of_rows(cast(gradient, DType::F32)));
            add(&mut biases, share.unsqueeze());
        }
    }
    let losses: Tensor<Cube<R, BT>, 2> = Tensor::cat(losses, 0);
    let of_input = of_input.then(|| to_float(Tensor::cat(inputs, 0)));
    let of_weight = weights.map(|sum| to_float(sum.slice([0..d, 0..v])));
    let of_bias = biases.map(|sum| to_float::<_, 1>(sum.slice([0..1, 0..v]).reshape([v])));
    (to_float(losses), [of_input, of_weight, of_bias])
}

/// With so many columns of zeros more.
fn widened<B: Backend>(matrix: Tensor<B, 2>, more: usize) -> Tensor<B, 2> {
    if more == 0 {
        return matrix;
    }
    let options = (&matrix.device(), matrix.dtype());
    let zeros = Tensor::zeros([matrix.dims()[0], more], options);
    Tensor::cat(vec![matrix, zeros], 1)
}

fn add<B: Backend>(sum: &mut Option<Tensor<B, 2>>, share: Tensor<B, 2>) {
    *sum = Some(match sum.take() {
        Some(sum) => sum + share,
        None => share,
    });
}
