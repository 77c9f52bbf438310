//! Activations and their derivatives, written so that the compiler can vectorise the loops: no
//! branches and no calls.

use multiversion::multiversion;
use multiversion::target::target_cfg_f;
use std::borrow::Cow;
use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, LN_2, LOG2_E};
use std::mem::MaybeUninit;

use super::{TASK, team, written};
use crate::config::Activation;

/// `1 / sqrt(2 π)`
const FRAC_1_SQRT_2PI: f32 = 0.5 * SQRT_2_OVER_PI;
/// `sqrt(2 / π)`
const SQRT_2_OVER_PI: f32 = FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
/// Of the cubic term in the tanh form.
const CUBIC: f32 = 0.044_715;

/// `activation(x)`
pub(super) fn forward(kind: Activation, x: &[f32]) -> Vec<f32> {
    // SAFETY: every part is written.
    unsafe {
        written(x.len(), |output| {
            let parts = output.chunks_mut(TASK).zip(x.chunks(TASK));
            team::for_each(parts, |(output, x)| forward_part(kind, x, output));
        })
    }
}

/// The gradient of the output becomes that of `x`, in its place.
pub(super) fn backward(kind: Activation, x: &[f32], gradient: &mut [f32]) {
    assert_eq!(x.len(), gradient.len());
    team::for_each(gradient.chunks_mut(TASK).zip(x.chunks(TASK)), |(gradient, x)| {
        backward_part(kind, x, gradient);
    });
}

/// `activation(gate) * up`
pub(super) fn gated(kind: Activation, gate: &[f32], up: &[f32]) -> Vec<f32> {
    assert_eq!(gate.len(), up.len());
    // SAFETY: every part is written.
    unsafe {
        written(gate.len(), |output| {
            let inputs = gate.chunks(TASK).zip(up.chunks(TASK));
            team::for_each(output.chunks_mut(TASK).zip(inputs), |(output, (gate, up))| {
                gated_part(kind, gate, up, output);
            });
        })
    }
}

/// The gradient of [`gated`] becomes that of the gate, in its place; also that of `up`.
pub(super) fn gated_backward(
    kind: Activation,
    gate: &[f32],
    up: &[f32],
    gradient: &mut [f32],
) -> Vec<f32> {
    let count = gate.len();
    assert_eq!([up.len(), gradient.len()], [count; 2]);
    // SAFETY: every part is written.
    unsafe {
        written(count, |of_up| {
            let inputs = gate.chunks(TASK).zip(up.chunks(TASK));
            let outputs = gradient.chunks_mut(TASK).zip(of_up.chunks_mut(TASK));
            team::for_each(outputs.zip(inputs), |((gradient, of_up), (gate, up))| {
                gated_backward_part(kind, [gate, up], gradient, of_up);
            });
        })
    }
}

/// `activation(x + bias)` of rows of `x`, in whose place the activation's slopes come.
pub(super) fn forward_keeping_slopes(
    kind: Activation,
    x: &mut [f32],
    width: usize,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let bias = bias.map_or_else(|| Cow::Owned(vec![0.0; width]), Cow::Borrowed);
    assert!(bias.len() == width && x.len().is_multiple_of(width));
    let task = (TASK / width).max(1) * width;
    // SAFETY: every row is written.
    unsafe {
        written(x.len(), |output| {
            let parts = output.chunks_mut(task).zip(x.chunks_mut(task));
            team::for_each(parts, |(output, x)| slopes_part(kind, x, &bias, output));
        })
    }
}

#[multiversion(targets = "simd")]
fn forward_part(kind: Activation, x: &[f32], output: &mut [MaybeUninit<f32>]) {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    of_kind::<FUSED>(kind, Forward { x, output });
}

#[multiversion(targets = "simd")]
fn backward_part(kind: Activation, x: &[f32], gradient: &mut [f32]) {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    of_kind::<FUSED>(kind, Backward { x, gradient });
}

#[multiversion(targets = "simd")]
fn slopes_part(kind: Activation, x: &mut [f32], bias: &[f32], output: &mut [MaybeUninit<f32>]) {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    let width = bias.len();
    for (x, output) in x.chunks_exact_mut(width).zip(output.chunks_exact_mut(width)) {
        of_kind::<FUSED>(kind, KeepSlopes { x, bias, output });
    }
}

#[multiversion(targets = "simd")]
fn gated_part(kind: Activation, gate: &[f32], up: &[f32], output: &mut [MaybeUninit<f32>]) {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    gated_blocks::<FUSED>(kind, gate, up, output);
}

/// A loop over numbers, given the value and the slope of the activation.
trait Loop {
    fn run(self, activation: impl Fn(f32) -> (f32, f32));
}

/// The value of each number.
struct Forward<'a> {
    x: &'a [f32],
    output: &'a mut [MaybeUninit<f32>],
}

/// Times the slope at each number.
struct Backward<'a> {
    x: &'a [f32],
    gradient: &'a mut [f32],
}

/// The value of each sum with the bias, and in its place the slope.
struct KeepSlopes<'a> {
    x: &'a mut [f32],
    bias: &'a [f32],
    output: &'a mut [MaybeUninit<f32>],
}

impl Loop for Forward<'_> {
    #[inline(always)]
    fn run(self, activation: impl Fn(f32) -> (f32, f32)) {
        for (output, x) in self.output.iter_mut().zip(self.x) {
            output.write(activation(*x).0);
        }
    }
}

impl Loop for Backward<'_> {
    #[inline(always)]
    fn run(self, activation: impl Fn(f32) -> (f32, f32)) {
        for (gradient, x) in self.gradient.iter_mut().zip(self.x) {
            *gradient *= activation(*x).1;
        }
    }
}

impl Loop for KeepSlopes<'_> {
    #[inline(always)]
    fn run(self, activation: impl Fn(f32) -> (f32, f32)) {
        for ((output, x), bias) in self.output.iter_mut().zip(self.x).zip(self.bias) {
            let (value, slope) = activation(*x + bias);
            output.write(value);
            *x = slope;
        }
    }
}

/// Runs a loop with an activation of that kind; where it asks for one of the two, the other is not
/// computed.
#[inline(always)]
fn of_kind<const FUSED: bool>(kind: Activation, numbers: impl Loop) {
    match kind {
        Activation::Gelu => numbers.run(|x| {
            let (cumulative, density) = normal::<FUSED>(x);
            (x * cumulative, multiply_add::<FUSED>(x, density, cumulative))
        }),
        Activation::GeluTanh => numbers.run(|x| {
            let gate = gate::<FUSED>(x);
            let slope = 2.0 * SQRT_2_OVER_PI * (1.0 + 3.0 * CUBIC * x * x);
            (x * gate, gate + x * gate * (1.0 - gate) * slope)
        }),
        Activation::Relu => numbers.run(|x| (relu(x), if x > 0.0 { 1.0 } else { 0.0 })),
        Activation::ReluSquared => numbers.run(|x| (relu(x) * relu(x), 2.0 * relu(x))),
        Activation::Silu => numbers.run(|x| {
            let gate = sigmoid::<FUSED>(x);
            (x * gate, gate + x * gate * (1.0 - gate))
        }),
        Activation::Mish => numbers.run(|x| {
            let gate = mish_gate::<FUSED>(x);
            (x * gate, gate + x * (1.0 - gate * gate) * sigmoid::<FUSED>(x))
        }),
    }
}

/// Numbers that are in registers and in the first cache between two loops.
const BLOCK: usize = 256;

#[inline(always)]
fn gated_blocks<const FUSED: bool>(
    kind: Activation,
    gate: &[f32],
    up: &[f32],
    output: &mut [MaybeUninit<f32>],
) {
    let blocks = gate.chunks(BLOCK).zip(up.chunks(BLOCK));
    for ((gate, up), output) in blocks.zip(output.chunks_mut(BLOCK)) {
        let mut activated = [MaybeUninit::uninit(); BLOCK];
        let activated = &mut activated[..gate.len()];
        of_kind::<FUSED>(kind, Forward { x: gate, output: &mut *activated });
        for ((output, activated), up) in output.iter_mut().zip(activated).zip(up) {
            // SAFETY: all of the block has just been written.
            output.write(unsafe { activated.assume_init() } * up);
        }
    }
}

#[multiversion(targets = "simd")]
fn gated_backward_part(
    kind: Activation,
    [gate, up]: [&[f32]; 2],
    gradient: &mut [f32],
    of_up: &mut [MaybeUninit<f32>],
) {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    let inputs = gate.chunks(BLOCK).zip(up.chunks(BLOCK));
    let outputs = gradient.chunks_mut(BLOCK).zip(of_up.chunks_mut(BLOCK));
    for ((gate, up), (gradient, of_up)) in inputs.zip(outputs) {
        gated_blocks::<FUSED>(kind, gate, gradient, of_up);
        gradient.iter_mut().zip(up).for_each(|(gradient, up)| *gradient *= up);
        of_kind::<FUSED>(kind, Backward { x: gate, gradient });
    }
}

/// Cumulative distribution and density of the standard normal, to 1e-7 (Abramowitz and Stegun
/// 1964, 7.1.26, for the tail, so that small values keep their relative precision).
#[inline(always)]
fn normal<const FUSED: bool>(x: f32) -> (f32, f32) {
    let bell = exp::<FUSED>(-0.5 * x * x);
    let t = 1.0 / multiply_add::<FUSED>(0.327_591_1 * FRAC_1_SQRT_2, x.abs(), 1.0);
    let polynomial = 1.061_405_4_f32;
    let polynomial = multiply_add::<FUSED>(polynomial, t, -1.453_152);
    let polynomial = multiply_add::<FUSED>(polynomial, t, 1.421_413_7);
    let polynomial = multiply_add::<FUSED>(polynomial, t, -0.284_496_74);
    let polynomial = multiply_add::<FUSED>(polynomial, t, 0.254_829_6);
    let tail = 0.5 * polynomial * t * bell;
    let cumulative = if x < 0.0 { tail } else { 1.0 - tail };
    (cumulative, FRAC_1_SQRT_2PI * bell)
}

/// `(1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u))` of the tanh form's argument.
#[inline(always)]
fn gate<const FUSED: bool>(x: f32) -> f32 {
    sigmoid::<FUSED>(2.0 * SQRT_2_OVER_PI * (x + CUBIC * x * x * x))
}

/// Not `max`, which would hide what is not a number.
#[inline(always)]
fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// `1 / (1 + exp(-x))`, by the exponential of a negative number, which cannot overflow.
#[inline(always)]
fn sigmoid<const FUSED: bool>(x: f32) -> f32 {
    let e = exp::<FUSED>(-x.abs());
    let far = 1.0 / (1.0 + e);
    if x < 0.0 { e * far } else { far }
}

/// `(1 - e⁻²ˣ) / (1 + e⁻²ˣ)`, by the exponential of a negative number, which cannot overflow. Near
/// zero it has no more places after the point than numbers near one, whose difference it is.
#[inline(always)]
pub(super) fn tanh<const FUSED: bool>(x: f32) -> f32 {
    let e = exp::<FUSED>(-2.0 * x.abs());
    let far = (1.0 - e) / (1.0 + e);
    if x < 0.0 { -far } else { far }
}

/// `tanh(ln(1 + eˣ)) = a / (a + b)` with `(a, b)` as in the default operations.
#[inline(always)]
fn mish_gate<const FUSED: bool>(x: f32) -> f32 {
    let e = exp::<FUSED>(-x.abs());
    let (a, b) = if x > 0.0 { (1.0 + 2.0 * e, 2.0 * e * e) } else { (e * e + 2.0 * e, 2.0) };
    a / (a + b)
}

/// `a b + c`, rounded once where the processor does that in one instruction, and so in less time;
/// elsewhere it would be a call. Whether this one does is known where a function has a version for
/// each kind of processor, and nowhere else: each of these says it to those that it calls.
#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// A difference that only rounding can have brought above zero. What is not a number stays so.
#[inline(always)]
pub(super) fn not_positive(x: f32) -> f32 {
    if x > 0.0 { 0.0 } else { x }
}

/// `e^x` for `x` at most zero, to two units in the last place: `2^n e^r` with `|r| <= ln 2 / 2`
/// and the Taylor polynomial of `e^r`. Below -87, where floats end, that of -87.
#[inline(always)]
pub(super) fn exp<const FUSED: bool>(x: f32) -> f32 {
    // Adding it pushes the fraction out of a float, which rounds to the nearest integer and
    // leaves that integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const EXPONENT_BIAS: u32 = 127;
    // ln 2 in two parts, the first of few bits, so that its multiples are exact.
    const HIGH: f32 = 0.693_359_4;
    const LOW: f32 = -2.121_944_4e-4;
    debug_assert!((HIGH + LOW - LN_2).abs() < 1e-7);
    // Not `max`, which would hide what is not a number.
    let x = if x < -87.0 { -87.0 } else { x };
    let rounded = multiply_add::<FUSED>(x, LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = multiply_add::<FUSED>(n, -LOW, multiply_add::<FUSED>(n, -HIGH, x));
    let polynomial = 1.0 / 720.0;
    let polynomial = multiply_add::<FUSED>(polynomial, r, 1.0 / 120.0);
    let polynomial = multiply_add::<FUSED>(polynomial, r, 1.0 / 24.0);
    let polynomial = multiply_add::<FUSED>(polynomial, r, 1.0 / 6.0);
    let polynomial = multiply_add::<FUSED>(polynomial, r, 0.5);
    let polynomial = multiply_add::<FUSED>(polynomial * r, r, r) + 1.0;
    // n is in -126..=0, so this is a normal float.
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(EXPONENT_BIAS);
    polynomial * f32::from_bits(exponent << 23)
}
