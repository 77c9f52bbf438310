//! Kernels, forward and backward, against loops in f64 and against the compositions that
//! `ndarray` computes, over shapes that fit no block and no vector.

use burn::tensor::{DType, Int, Tensor, TensorData, TensorPrimitive};
use emberlm::backend::{
    AdamwStep, AdamwUpdate, AttentionOptions, BackendKind, Dropout, GptBackend, Job, KeyRanges,
    LossTerms, Rotation, TrainBackend, factor,
};
use emberlm::config::{NormKind, Precision, RotaryPairing};
use half::bf16;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::on_each_backend;
use crate::reference::alibi_slopes;
use crate::support::{
    ACTIVATIONS, Inner, LOSS_TERMS, floats, is_cuda_on_cpu, numbers, on_all_backends,
};

/// What a backend computes; and how far apart two may be, relative to the largest number.
type Results = Vec<(String, Vec<f32>)>;

/// Compares what all backends make of a job.
#[track_caller]
fn agree<J: Job<Output = Results> + Clone>(job: J, tolerance: f32) {
    let all = on_all_backends(job);
    let (reference, others): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|(name, _)| name == BackendKind::Ndarray.name());
    let Some((_, reference)) = reference.into_iter().next() else {
        println!("skipped: ndarray is not compiled in");
        return;
    };
    if others.is_empty() {
        println!("skipped: no backend beside ndarray is compiled in");
    }
    assert!(!others.is_empty() || !cfg!(feature = "flex"), "ndarray is compared with nothing");
    for (backend, found) in others {
        assert_eq!(found.len(), reference.len());
        for ((name, found), (_, expected)) in found.iter().zip(&reference) {
            assert_eq!(found.len(), expected.len(), "{backend}: {name}");
            let scale = expected.iter().fold(1.0f32, |scale, x| scale.max(x.abs()));
            for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
                assert!(
                    (found - expected).abs() <= tolerance * scale,
                    "{backend}: {name}[{index}] is {found}, not {expected}, of at most {scale}"
                );
            }
        }
    }
}

fn leaf<B: TrainBackend, const D: usize>(
    shape: [usize; D],
    seed: u64,
    device: &B::Device,
) -> Tensor<B, D> {
    let count = shape.iter().product();
    Tensor::from_data(TensorData::new(numbers(count, seed), shape), device).require_grad()
}

/// The numbers of a result, and the gradients of a sum of them with weights of all kinds.
struct Observed<B: TrainBackend> {
    results: Results,
    gradients: B::Gradients,
    name: String,
}

impl<B: TrainBackend> Observed<B> {
    fn new<const D: usize>(name: String, output: Tensor<B, D>) -> Self {
        let name = format!("{}: {name}", B::name(&output.device()));
        let shape = output.dims();
        let weights = TensorData::new(numbers(shape.iter().product(), 77), shape);
        let weights = Tensor::<B, D>::from_data(weights, &output.device());
        let gradients = (output.clone() * weights).sum().backward();
        let results = vec![(format!("{name}: output"), floats(output.into_data()))];
        Self { results, gradients, name }
    }

    fn gradient<const D: usize>(&mut self, of: &str, leaf: &Tensor<B, D>) {
        let gradient = leaf.grad(&self.gradients).unwrap();
        self.results
            .push((format!("{}: gradient of {of}", self.name), floats(gradient.into_data())));
    }
}

#[derive(Clone)]
struct Dense;

impl Job for Dense {
    type Output = Results;

    fn run<B: TrainBackend>(self, device: B::Device) -> Results {
        let mut results = Vec::new();
        let few = [[1, 1, 1], [3, 5, 7], [1, 21, 4100], [1, 300, 1000], [5, 19, 530], [16, 70, 33]];
        // In parts by rows, of which the last has none; and by rows and columns.
        let parts = [[1, 392, 400], [2, 100, 4200]];
        let many = [[17, 33, 40], [130, 33, 17], [65, 129, 200], [200, 300, 70], [1300, 2, 40]];
        for [n, i, o] in few.into_iter().chain(parts).chain(many) {
            results.extend(dense_layers::<B>("dense", [n, i, o], &device, B::dense));
        }
        results
    }
}

/// Products in bf16 with a bias, which a factor of the next ones is made of: rounded once themselves,
/// and once with the bias.
#[test]
fn products_in_bf16_are_rounded_with_their_bias() {
    on_each_backend!(|device: B| {
        if !rounds_to_nearest::<B>(&device) {
            println!("skipped: {} has no kernels in bf16", B::name(&device));
            return;
        }
        let rounded = |shape: [usize; 2], seed| -> Vec<f64> {
            let values = numbers(shape[0] * shape[1], seed);
            values.into_iter().map(|x| in_precision(x, Precision::Bf16).into()).collect()
        };
        for [n, i, o] in [[2, 8, 3], [70, 16, 33], [300, 24, 1028]] {
            let (input, weight) = (leaf::<B, 2>([n, i], 4, &device), leaf([i, o], 5, &device));
            let bias = leaf::<B, 1>([o], 6, &device);
            let [x, w] = [input, weight].map(|leaf| factor(leaf, Precision::Bf16));
            let output = B::product(x, w, Some(bias.clone()));
            assert_eq!(output.dtype(), DType::BF16);
            let mut observed = Observed::new(format!("{n} {i} {o}"), output.cast(DType::F32));
            observed.gradient("bias", &bias);
            let (x, w, b) = (rounded([n, i], 4), rounded([i, o], 5), wide(o, 6));
            let place = |row: usize, column: usize| -> f64 {
                let products = (0..i).map(|k| x[row * i + k] * w[k * o + column]);
                products.sum::<f64>() + b[column]
            };
            let expected: Vec<f64> =
                (0..n * o).map(|number| place(number / o, number % o)).collect();
            let slopes = rounded([n, o], 77);
            let of_bias: Vec<f64> =
                (0..o).map(|column| (0..n).map(|row| slopes[row * o + column]).sum()).collect();
            let [(output, found), (gradient, of)] = &observed.results[..] else {
                unreachable!("there are two results");
            };
            check(output, found, &expected, 2.0 / 256.0 + TOLERANCE);
            check(gradient, of, &of_bias, TOLERANCE);
        }
    });
}

/// With and without a bias, and with weights that lie either way.
fn dense_layers<B: TrainBackend>(
    name: &str,
    [n, i, o]: [usize; 3],
    device: &B::Device,
    compute: impl Fn(Tensor<B, 3>, Tensor<B, 2>, Option<Tensor<B, 1>>) -> Tensor<B, 3>,
) -> Results {
    let mut results = Vec::new();
    for with_bias in [false, true] {
        for turned in [false, true] {
            let input = leaf::<B, 3>([1, n, i], 1, device);
            let stored = leaf::<B, 2>(if turned { [o, i] } else { [i, o] }, 2, device);
            let weight = if turned { stored.clone().transpose() } else { stored.clone() };
            let bias = with_bias.then(|| leaf::<B, 1>([o], 3, device));
            let output = compute(input.clone(), weight, bias.clone());
            let name = format!("{name} {n} {i} {o} {with_bias} {turned}");
            let mut observed = Observed::new(name, output);
            observed.gradient("input", &input);
            observed.gradient("weight", &stored);
            if let Some(bias) = &bias {
                observed.gradient("bias", bias);
            }
            results.extend(observed.results);
        }
    }
    results
}

#[test]
fn dense_layers_agree() {
    // Sums of up to 400 products, in other orders.
    agree(Dense, 3e-6);
}

#[derive(Clone)]
struct DenseActivated;

impl Job for DenseActivated {
    type Output = Results;

    fn run<B: TrainBackend>(self, device: B::Device) -> Results {
        let mut results = Vec::new();
        for kind in ACTIVATIONS {
            // One row, rows of two threads, and rows that are longer than a thread's share.
            let few = [[1, 1, 1], [3, 5, 7], [65, 129, 200], [2, 3, 17_000], [300, 3, 33]];
            // Several slabs of rows of whole vectors.
            for shape in few.into_iter().chain([[150, 3, 36]]) {
                let name = format!("{kind:?} of dense");
                let compute = |input, weight, bias| B::dense_activated(input, weight, bias, kind);
                results.extend(dense_layers::<B>(&name, shape, &device, compute));
            }
        }
        results
    }
}

#[test]
fn activated_dense_layers_agree() {
    // As for activations alone, below.
    agree(DenseActivated, 1e-5);
}

#[derive(Clone)]
struct Gated;

impl Job for Gated {
    type Output = Results;

    fn run<B: TrainBackend>(self, device: B::Device) -> Results {
        let mut results = Vec::new();
        for kind in ACTIVATIONS {
            for shape in [[1, 1], [3, 85], [17, 1001]] {
                let (gate, up) =
                    (leaf::<B, 2>(shape, 61, &device), leaf::<B, 2>(shape, 62, &device));
                let output = B::gated(gate.clone(), up.clone(), kind);
                let mut observed = Observed::new(format!("gated {kind:?} {shape:?}"), output);
                observed.gradient("gate", &gate);
                observed.gradient("up", &up);
                results.extend(observed.results);
            }
        }
        results
    }
}

#[test]
fn gates_agree() {
    // What activations alone are off by: ndarray's error function has seven digits, too.
    agree(Gated, 1e-5);
}

/// What dropout multiplies a number by: zero where its word of Philox4x32-10, as its authors' paper
/// has it, is below the share of 2^32 that is dropped.
fn factor_by_hand(probability: f64, seed: u64, row: usize, column: usize) -> f64 {
    let mut counter = [(column / 64 * 16 + column % 16) as u64, row as u64, 0, 0];
    let mut key = [seed % (1 << 32), seed >> 32];
    for _ in 0..10 {
        let [low, high] = [0xD251_1F53 * counter[0], 0xCD9E_8D57 * counter[2]];
        let [below, above] = [|x: u64| x % (1 << 32), |x: u64| x >> 32];
        counter = [
            above(high) ^ counter[1] ^ key[0],
            below(high),
            above(low) ^ counter[3] ^ key[1],
            below(low),
        ];
        key = [below(key[0] + 0x9E37_79B9), below(key[1] + 0xBB67_AE85)];
    }
    let word = counter[column / 16 % 4] as f64;
    if word < probability * 2.0f64.powi(32) { 0.0 } else { 1.0 / (1.0 - probability) }
}

#[test]
fn what_is_dropped_follows_from_seed_and_place() {
    on_each_backend!(|device: B| {
        let seed = 0x0123_4567_89AB_CDEF;
        for shape in [[1, 1, 1], [2, 3, 5], [1, 300, 65], [3, 70, 200], [2, 2, 9000]] {
            for probability in [0.0, 0.1, 0.5] {
                let dropout = Dropout::new(probability, seed);
                let input = leaf::<B, 3>(shape, 21, &device);
                let output = B::apply_dropout(input.clone(), dropout);
                let mut observed = Observed::new(format!("{shape:?} {probability}"), output);
                observed.gradient("input", &input);
                let places = (0..shape.iter().product()).map(|at| (at / shape[2], at % shape[2]));
                let factors: Vec<f64> = places
                    .map(|(row, column)| factor_by_hand(probability, seed, row, column))
                    .collect();
                for ((name, found), seed) in observed.results.iter().zip([21, 77]) {
                    let numbers = wide(factors.len(), seed);
                    let expected: Vec<f64> =
                        numbers.iter().zip(&factors).map(|(x, factor)| x * factor).collect();
                    // A rounding of the factor, and one of the product.
                    check(name, found, &expected, 2e-7);
                }
                // Of what others hold, nothing is changed.
                assert_eq!(floats(input.into_data()), numbers(factors.len(), 21));
            }
        }
    });
}

#[derive(Clone)]
struct Rotated;

impl Job for Rotated {
    type Output = Results;

    fn run<B: TrainBackend>(self, device: B::Device) -> Results {
        let mut results = Vec::new();
        // The last numbers are how many heads are turned, and how many pairs of each.
        for [b, h, t, k, heads, half] in
            [[1, 1, 1, 2, 1, 1], [2, 3, 5, 8, 2, 4], [3, 5, 70, 13, 5, 4], [2, 6, 33, 9, 4, 3]]
        {
            for pairing in [RotaryPairing::Half, RotaryPairing::Interleaved] {
                let angles = Tensor::<B, 1>::from_floats(&*numbers(t * half, 63), &device);
                let angles = (angles * 3.0).reshape([t, half]);
                let rotation =
                    Rotation { cosines: angles.clone().cos(), sines: angles.sin(), pairing };
                let input = leaf::<B, 4>([b, t, h, k], 64, &device);
                let turned = |precision| {
                    B::rotate(input.clone().swap_dims(1, 2), heads, &rotation, precision)
                };
                let output = turned(Precision::F32);
                let name = format!("rotated {b} {h} {t} {k} {heads} {half} {pairing:?}");
                if B::supports_dtype(&device, DType::BF16) {
                    rounded_as_turned(&output, turned(Precision::Bf16), &input, &rotation, heads);
                }
                let mut observed = Observed::new(name, output);
                observed.gradient("input", &input);
                results.extend(observed.results);
            }
        }
        results
    }
}

/// What is turned and rounded is what is turned, rounded; and its gradient is what rounded slopes are,
/// turned back.
fn rounded_as_turned<B: TrainBackend>(
    turned: &Tensor<B, 4>,
    rounded: Tensor<B, 4>,
    input: &Tensor<B, 4>,
    rotation: &Rotation<B>,
    heads: usize,
) {
    let expected = factor(turned.clone(), Precision::Bf16);
    let exact = |tensor: Tensor<B, 4>| floats(tensor.cast(DType::F32).into_data());
    assert_eq!(exact(rounded.clone()), exact(expected));
    let [b, h, t, k] = turned.dims();
    let slopes: Vec<f32> = numbers(b * h * t * k, 77);
    let slopes: Vec<f32> =
        slopes.into_iter().map(|slope| in_precision(slope, Precision::Bf16)).collect();
    let slopes = Tensor::<B, 4>::from_data(TensorData::new(slopes, [b, h, t, k]), &input.device());
    let gradients = (rounded.cast(DType::F32) * slopes.clone()).sum().backward();
    let found = Tensor::from_inner(input.grad(&gradients).unwrap());
    let back = Rotation { sines: -rotation.sines.clone(), ..rotation.clone() };
    let expected = B::rotate(slopes, heads, &back, Precision::F32).swap_dims(1, 2);
    assert_eq!(exact(found), exact(expected));
}

#[test]
fn rotations_agree() {
    // Two products and a sum, with cosines and sines that are the backends' own.
    agree(Rotated, 1e-6);
}

#[test]
fn rows_of_several_threads_at_a_time_agree() {
    on_each_backend!(|device: B| {
        // Large enough to be shared among threads, which one caller alone gets at a time.
        let (i, o) = (150, 1000);
        let weight = numbers(i * o, 1);
        let read = |shape: [usize; 2], values: &[f32]| {
            Tensor::<Inner<B>, 2>::from_data(TensorData::new(values.to_vec(), shape), &device)
        };
        let multiply = |caller: u64| {
            let (x, tensor) = (numbers(i, 10 + caller), read([i, o], &weight));
            let column = |column: usize| {
                let products = x.iter().zip(weight.iter().skip(column).step_by(o));
                products.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum()
            };
            let expected: Vec<f64> = (0..o).map(column).collect();
            for _ in 0..20 {
                let output = Inner::<B>::dense(read([1, i], &x), tensor.clone(), None);
                // As for all sums of up to 300 products.
                check("a row", &floats(output.into_data()), &expected, 3e-6);
            }
        };
        std::thread::scope(|scope| {
            for caller in 0..4 {
                let multiply = &multiply;
                scope.spawn(move || multiply(caller));
            }
        });
    });
}

/// Each number of a result against what f64 makes of it.
#[track_caller]
fn check(name: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let scale = expected.iter().fold(1.0f64, |scale, x| scale.max(x.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            (f64::from(*found) - expected).abs() <= tolerance * scale,
            "{name}[{index}] is {found}, not {expected}, of at most {scale}"
        );
    }
}

/// Some ten roundings, sums of up to 201, and a division by what they come to.
const TOLERANCE: f64 = 1e-5;

fn wide(count: usize, seed: u64) -> Vec<f64> {
    numbers(count, seed).into_iter().map(f64::from).collect()
}

/// A norm in f64, and its gradients with respect to input, weight and bias from one of its output that
/// comes in a precision.
fn norm_by_hand(
    [rows, width]: [usize; 2],
    kind: NormKind,
    epsilon: f64,
    precision: Precision,
    weight: &[f64],
    bias: &[f64],
) -> [Vec<f64>; 4] {
    let (input, slopes) = (wide(rows * width, 4), numbers(rows * width, 77));
    let slopes: Vec<f64> =
        slopes.into_iter().map(|slope| in_precision(slope, precision).into()).collect();
    let d = width as f64;
    let (mut output, mut of_input) = (Vec::new(), Vec::new());
    let (mut of_weight, mut of_bias) = (vec![0.0; width], vec![0.0; width]);
    for (x, slopes) in input.chunks(width).zip(slopes.chunks(width)) {
        let mean = if kind == NormKind::Layer { x.iter().sum::<f64>() / d } else { 0.0 };
        let centered: Vec<f64> = x.iter().map(|x| x - mean).collect();
        let square = centered.iter().map(|x| x * x).sum::<f64>();
        // What a row is divided by, and its derivative by half the sum of squares.
        let (length, slope) = match kind {
            NormKind::Cosine => (square.sqrt(), 1.0 / square.sqrt()),
            _ => ((square / d + epsilon).sqrt(), 1.0 / (d * (square / d + epsilon).sqrt())),
        };
        let inner: Vec<f64> = slopes.iter().zip(weight).map(|(slope, w)| slope * w).collect();
        let along: f64 = inner.iter().zip(&centered).map(|(a, b)| a * b).sum();
        let of_centered: Vec<f64> = (0..width)
            .map(|i| inner[i] / length - along / (length * length) * slope * centered[i])
            .collect();
        let level = if kind == NormKind::Layer { of_centered.iter().sum::<f64>() / d } else { 0.0 };
        of_input.extend(of_centered.iter().map(|x| x - level));
        for i in 0..width {
            output.push(centered[i] / length * weight[i] + bias[i]);
            of_weight[i] += slopes[i] * centered[i] / length;
            of_bias[i] += slopes[i];
        }
    }
    [output, of_input, of_weight, of_bias]
}

#[test]
fn norms_are_their_formulas() {
    on_each_backend!(|device: B| {
        let in_bf16 = rounds_to_nearest::<B>(&device).then_some(Precision::Bf16);
        let precisions: Vec<_> = [Precision::F32].into_iter().chain(in_bf16).collect();
        let kinds = [NormKind::Layer, NormKind::Rms, NormKind::Cosine];
        let kinds = kinds.map(|kind| precisions.iter().map(move |precision| (kind, *precision)));
        for [rows, width] in [[1, 2], [2, 3], [67, 33], [130, 128], [3, 1028]] {
            for (kind, precision) in kinds.clone().into_iter().flatten() {
                for (with_weight, with_bias) in
                    [(true, true), (true, false), (false, true), (false, false)]
                {
                    let input = leaf::<B, 2>([rows, width], 4, &device);
                    let weight = with_weight.then(|| leaf::<B, 1>([width], 5, &device));
                    let bias = with_bias.then(|| leaf::<B, 1>([width], 6, &device));
                    let epsilon = 1e-2;
                    let output = B::normalization(
                        input.clone(),
                        weight.clone(),
                        bias.clone(),
                        kind,
                        epsilon,
                        precision,
                    );
                    let name =
                        format!("{kind:?} {precision:?} {rows} {width} {with_weight} {with_bias}");
                    let mut observed = Observed::new(name, output.cast(DType::F32));
                    observed.gradient("input", &input);
                    let w = if with_weight { wide(width, 5) } else { vec![1.0; width] };
                    let b = if with_bias { wide(width, 6) } else { vec![0.0; width] };
                    let [out, of_input, of_weight, of_bias] =
                        norm_by_hand([rows, width], kind, epsilon, precision, &w, &b);
                    let mut expected = vec![out, of_input];
                    if let Some(weight) = &weight {
                        observed.gradient("weight", weight);
                        expected.push(of_weight);
                    }
                    if let Some(bias) = &bias {
                        observed.gradient("bias", bias);
                        expected.push(of_bias);
                    }
                    // The output is rounded once more, to 8 bits; the gradients are not.
                    let rounding = if precision == Precision::F32 { 0.0 } else { 1.0 / 256.0 };
                    let tolerances = std::iter::once(TOLERANCE + rounding);
                    let tolerances = tolerances.chain(std::iter::repeat(TOLERANCE));
                    let found = observed.results.iter().zip(&expected).zip(tolerances);
                    for (((name, found), expected), tolerance) in found {
                        check(name, found, expected, tolerance);
                    }
                }
            }
        }
    });
}

/// Batch, query heads, key heads, queries, keys, widths of keys and values.
const ATTENTION: [[usize; 7]; 10] = [
    [1, 1, 1, 1, 1, 1, 1],
    [2, 3, 3, 5, 5, 7, 7],
    [1, 4, 2, 65, 65, 8, 8],
    [2, 6, 1, 33, 33, 5, 9],
    [1, 2, 2, 3, 150, 16, 16],
    [1, 2, 1, 130, 201, 16, 16],
    [1, 1, 1, 1, 70, 32, 32],
    [1, 2, 2, 150, 150, 16, 80],
    [2, 2, 1, 70, 70, 32, 48],
    [1, 2, 1, 40, 23, 16, 20],
];

/// Attention in f64, over `[B, T, H, K]` and the like, and its gradients with respect to queries,
/// keys and values.
fn attention_by_hand(
    [b, h, g, t, s, k, w]: [usize; 7],
    [query, key, value]: [&[f64]; 3],
    slopes: &[f64],
    (scale, cap): (f64, Option<f64>),
    (sees, loss): (impl Fn(usize, usize, usize) -> bool, impl Fn(usize, usize, usize) -> f64),
    factor: impl Fn(usize, usize) -> f64,
) -> [Vec<f64>; 4] {
    let mut output = vec![0.0; b * t * h * w];
    let mut gradients =
        [vec![0.0; b * t * h * k], vec![0.0; b * s * g * k], vec![0.0; b * s * g * w]];
    for (entry, head) in (0..b).flat_map(|entry| (0..h).map(move |head| (entry, head))) {
        let of_key = head / (h / g);
        let q = |row: usize, i: usize| ((entry * t + row) * h + head) * k + i;
        let o = |row: usize, i: usize| ((entry * t + row) * h + head) * w + i;
        let ks = |row: usize, i: usize| ((entry * s + row) * g + of_key) * k + i;
        let vs = |row: usize, i: usize| ((entry * s + row) * g + of_key) * w + i;
        for row in 0..t {
            let seen: Vec<usize> = (0..s).filter(|other| sees(entry, row, *other)).collect();
            // And the derivative of each.
            let score = |other: &usize| {
                let products = (0..k).map(|i| query[q(row, i)] * key[ks(*other, i)]);
                let score = scale * products.sum::<f64>();
                let (score, derivative) = cap.map_or((score, scale), |cap| {
                    let height = (score / cap).tanh();
                    (cap * height, scale * (1.0 - height * height))
                });
                (score - loss(head, row, *other), derivative)
            };
            let (scores, derivatives): (Vec<f64>, Vec<f64>) = seen.iter().map(score).unzip();
            let highest = scores.iter().copied().fold(f64::MIN, f64::max);
            let total: f64 = scores.iter().map(|x| (x - highest).exp()).sum();
            let shares: Vec<f64> = scores.iter().map(|x| (x - highest).exp() / total).collect();
            let factors: Vec<f64> =
                seen.iter().map(|other| factor((entry * h + head) * t + row, *other)).collect();
            let along = |other: usize| -> f64 {
                (0..w).map(|i| slopes[o(row, i)] * value[vs(other, i)]).sum()
            };
            let of_share: Vec<f64> =
                seen.iter().zip(&factors).map(|(other, factor)| factor * along(*other)).collect();
            let mean: f64 = shares.iter().zip(&of_share).map(|(a, b)| a * b).sum();
            for (place, other) in seen.iter().enumerate() {
                let (share, factor) = (shares[place], factors[place]);
                let of_score = share * (of_share[place] - mean) * derivatives[place];
                for i in 0..w {
                    output[o(row, i)] += share * factor * value[vs(*other, i)];
                    gradients[2][vs(*other, i)] += share * factor * slopes[o(row, i)];
                }
                for i in 0..k {
                    gradients[0][q(row, i)] += of_score * key[ks(*other, i)];
                    gradients[1][ks(*other, i)] += of_score * query[q(row, i)];
                }
            }
        }
    }
    let [of_query, of_key, of_value] = gradients;
    [output, of_query, of_key, of_value]
}

/// What the rows of a batch hold.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Filled {
    Whole,
    /// The first ones less than they could.
    InPart,
    /// Several documents, and all but the first something that fills them up.
    ByDocuments,
}

impl Filled {
    fn length(keys: usize, entry: usize) -> usize {
        (keys / 2 + 11 * entry + 1).min(keys)
    }

    /// Of each position of an entry that is not filled up.
    fn documents(keys: usize, entry: usize) -> Vec<u32> {
        (0..keys - (5 * entry).min(keys)).map(|key| ((key + 13 * entry) / 29) as u32).collect()
    }

    fn ranges(self, [entries, keys]: [usize; 2]) -> Option<KeyRanges> {
        let lengths: Vec<usize> = (0..entries).map(|entry| Self::length(keys, entry)).collect();
        let documents: Vec<Vec<u32>> =
            (0..entries).map(|entry| Self::documents(keys, entry)).collect();
        match self {
            Self::Whole => None,
            Self::InPart => Some(KeyRanges::of_lengths(&lengths)),
            Self::ByDocuments => Some(KeyRanges::of_documents(&documents, keys)),
        }
    }

    fn has(self, keys: usize, entry: usize, query: usize, key: usize) -> bool {
        let documents = || Self::documents(keys, entry);
        match self {
            Self::Whole => true,
            Self::InPart => key < Self::length(keys, entry),
            Self::ByDocuments => documents().get(query) == documents().get(key),
        }
    }
}

/// How queries see keys.
#[derive(Debug, Clone, Copy, PartialEq)]
struct View {
    window: Option<usize>,
    dropped: Option<f64>,
    cap: Option<f64>,
    alibi: bool,
    rows: Filled,
}

const WHOLE: View =
    View { window: None, dropped: None, cap: None, alibi: false, rows: Filled::Whole };

const VIEWS: [View; 16] = [
    WHOLE,
    View { window: Some(1), ..WHOLE },
    View { window: Some(3), ..WHOLE },
    View { window: Some(64), ..WHOLE },
    View { window: Some(500), ..WHOLE },
    View { dropped: Some(0.3), ..WHOLE },
    // Scores are some units high.
    View { cap: Some(1.5), ..WHOLE },
    View { window: Some(64), dropped: Some(0.1), cap: Some(0.02), ..WHOLE },
    View { alibi: true, ..WHOLE },
    View { window: Some(64), dropped: Some(0.1), cap: Some(1.5), alibi: true, ..WHOLE },
    View { rows: Filled::InPart, ..WHOLE },
    View { window: Some(3), rows: Filled::InPart, ..WHOLE },
    View { dropped: Some(0.1), cap: Some(1.5), alibi: true, rows: Filled::InPart, ..WHOLE },
    View { rows: Filled::ByDocuments, ..WHOLE },
    View { window: Some(3), rows: Filled::ByDocuments, ..WHOLE },
    View {
        window: Some(64),
        dropped: Some(0.1),
        cap: Some(1.5),
        alibi: true,
        rows: Filled::ByDocuments,
    },
];

impl View {
    /// Whether there is such a thing among tensors of this shape.
    fn is_of(self, [_, _, _, t, s, k, _]: [usize; 7], causal: bool) -> bool {
        // A window has no middle, and no query a document, where queries are not keys.
        let has_middle = causal || self.window.is_none() || t == s;
        let has_documents = self.rows != Filled::ByDocuments || t == s;
        // The first queries would see no key.
        let sees = !causal || t <= s;
        // Scores are rounded to more than the tolerance of the cap.
        let is_rough = self.cap.is_some_and(|cap| cap < 0.1) && k > 16 && t > 1;
        has_middle && has_documents && sees && !is_rough
    }
}

/// Whether a backend rounds f32 to bf16 to the nearest. Burn's flex, which has no kernels in it, does so by
/// way of f64, of which the crate half 2.7 looks at the upper 32 bits: what is a little above the middle
/// between two numbers is to it the middle.
fn rounds_to_nearest<B: TrainBackend>(device: &B::Device) -> bool {
    B::has_kernels_in(Precision::Bf16) && B::supports_dtype(device, DType::BF16)
}

/// A number as products in this precision take it.
fn in_precision(x: f32, precision: Precision) -> f32 {
    match precision {
        Precision::F32 => x,
        Precision::Bf16 => bf16::from_f32(x).to_f32(),
    }
}

/// Attention in some precision of the products, and of what goes in and comes out, against its formula.
fn attention_is_by_hand<B: TrainBackend>(
    device: &B::Device,
    shape: [usize; 7],
    causal: bool,
    view: View,
    [precision, given]: [Precision; 2],
    tolerance: f64,
) {
    let View { window, dropped, cap, alibi, rows } = view;
    let [b, h, g, t, s, k, w] = shape;
    // As in a model: the heads of a token stand side by side.
    let shapes = [[b, t, h, k], [b, s, g, k], [b, s, g, w]];
    let values = [0, 1, 2].map(|i| {
        let values = numbers(shapes[i].iter().product(), 7 + i as u64);
        values.into_iter().map(|x| in_precision(x, precision)).collect::<Vec<f32>>()
    });
    let leaves = [0, 1, 2].map(|i| {
        let data = TensorData::new(values[i].clone(), shapes[i]);
        Tensor::<B, 4>::from_data(data, device).require_grad()
    });
    let heads = |leaf: Tensor<B, 4>| factor(leaf.swap_dims(1, 2), given);
    let [query, key, value] = leaves.clone().map(heads);
    let scale = 3.0;
    let options = AttentionOptions {
        causal,
        window,
        soft_cap: cap,
        alibi,
        ranges: rows.ranges([b, s]),
        dropout: dropped.map(|probability| Dropout::new(probability, 9)),
        precision,
        ..AttentionOptions::full(scale)
    };
    let place = |query: usize| if causal { query + s - t } else { query };
    let sees = |entry: usize, query: usize, key: usize| {
        let place = place(query);
        let near = window.is_none_or(|window| place.abs_diff(key) < window);
        near && (!causal || key <= place) && rows.has(s, entry, query, key)
    };
    // What a query gets that sees nothing is left open.
    let queries = (0..b).flat_map(|entry| (0..t).map(move |query| (entry, query)));
    let sight =
        queries.map(|(entry, query)| (0..s).any(|key| sees(entry, query, key)) as u8 as f32);
    let sight = TensorData::new(sight.collect::<Vec<_>>(), [b, t, 1, 1]);
    let sight = Tensor::<B, 4>::from_data(sight, device);
    let output = B::attend(query, key, value, &options).swap_dims(1, 2);
    assert_eq!(output.dtype() == DType::BF16, given == Precision::Bf16);
    let name = format!(
        "attend {shape:?} {causal} {window:?} {dropped:?} {cap:?} {alibi} {rows:?} {given:?}"
    );
    let mut observed = Observed::new(name, output.cast(DType::F32) * sight);
    for (of, leaf) in ["query", "key", "value"].into_iter().zip(&leaves) {
        observed.gradient(of, leaf);
    }
    let values = values.map(|values| values.into_iter().map(f64::from).collect::<Vec<f64>>());
    let penalties = alibi_slopes(h);
    let loss = |head: usize, query: usize, key: usize| match alibi {
        true => penalties[head] * place(query).abs_diff(key) as f64,
        false => 0.0,
    };
    let slopes = wide(b * t * h * w, 77);
    let values = values.each_ref().map(Vec::as_slice);
    let factor = |row, key| dropped.map_or(1.0, |share| factor_by_hand(share, 9, row, key));
    let expected = attention_by_hand(shape, values, &slopes, (scale, cap), (sees, loss), factor);
    for ((name, found), expected) in observed.results.iter().zip(&expected) {
        check(name, found, expected, tolerance);
    }
}

#[test]
fn attention_is_its_formula() {
    on_each_backend!(|device: B| {
        for shape in ATTENTION {
            for causal in [false, true] {
                for view in VIEWS.into_iter().filter(|view| view.is_of(shape, causal)) {
                    let precision = [Precision::F32; 2];
                    attention_is_by_hand::<B>(&device, shape, causal, view, precision, TOLERANCE);
                }
            }
        }
    });
}

/// The weights, by way of the output those in the sum that gradients of scores are made of, these and
/// the output's gradient are rounded once each, to 8 bits, and what is added up is in all up to twice
/// as large as the largest sum.
const TOLERANCE_BF16: f64 = 8.0 / 512.0;

#[test]
fn attention_of_products_in_bf16_is_its_formula() {
    let computed = on_each_backend!(|device: B| -> bool {
        let kernels = Inner::<B>::kernels();
        let kernels = kernels.filter(|kernels| kernels.computes_in(Precision::Bf16));
        if kernels.is_none() || !B::supports_dtype(&device, DType::BF16) {
            return false;
        }
        // By tensor cores where nothing is dropped, and by blocks of scores where something is.
        let longer = [false, true].map(|causal| ([1, 2, 1, 130, 201, 16, 16], causal));
        let grouped = ([2, 4, 2, 70, 70, 32, 48], true);
        // As wide as heads mostly are, and as wide as they may be, without all views.
        let wide = [64, 128].map(|width| ([1, 2, 1, 70, 130, width, width], true));
        for (shape, causal) in longer.into_iter().chain([grouped]).chain(wide) {
            let count = if shape[5] < 64 { VIEWS.len() } else { 1 };
            for view in VIEWS.into_iter().take(count).filter(|view| view.is_of(shape, causal)) {
                // What goes in and comes out is written alike, whatever is seen.
                let givens = [Precision::F32, Precision::Bf16];
                for given in &givens[..if view == WHOLE { 2 } else { 1 }] {
                    let precision = [Precision::Bf16, *given];
                    attention_is_by_hand::<B>(
                        &device,
                        shape,
                        causal,
                        view,
                        precision,
                        TOLERANCE_BF16,
                    );
                }
            }
        }
        // Documents of which no query among many sees whole blocks of keys.
        let rows = [Filled::InPart, Filled::ByDocuments];
        for (rows, causal) in rows.into_iter().flat_map(|rows| [(rows, false), (rows, true)]) {
            let (shape, view) = ([2, 4, 2, 200, 200, 16, 16], View { rows, ..WHOLE });
            let precision = [Precision::Bf16, Precision::F32];
            attention_is_by_hand::<B>(&device, shape, causal, view, precision, TOLERANCE_BF16);
        }
        true
    });
    for (backend, _) in computed.iter().filter(|(_, computed)| !computed) {
        println!("skipped: {backend} has no kernels in bf16");
    }
}

#[test]
fn attention_in_many_blocks_is_that_of_its_queries_alone() {
    on_each_backend!(|device: B| {
        if is_cuda_on_cpu::<B>(&device) {
            return;
        }
        // More scores than kernels for GPUs have at a time; compositions have them all.
        let [h, g, t, s, k] = match Inner::<B>::kernels() {
            Some(_) => [32, 16, 260, 8192, 2],
            None => [4, 2, 260, 300, 2],
        };
        let leaves = [([1, h, t, k], 20), ([1, g, s, k], 21), ([1, g, s, k], 22)]
            .map(|(shape, seed)| leaf::<B, 4>(shape, seed, &device));
        // The last of the queries see as many keys less.
        let length = s - 3;
        let options = AttentionOptions {
            window: Some(s - 10),
            alibi: true,
            ranges: Some(KeyRanges::of_lengths(&[length])),
            ..AttentionOptions::causal(0.9)
        };
        let observe = |parts: &[Range<usize>]| {
            let outputs = parts.iter().map(|queries| {
                let [query, key, value] = leaves.clone();
                let keys = s - t + queries.end;
                let query = query.narrow(2, queries.start, queries.len());
                let [key, value] = [key, value].map(|heads| heads.narrow(2, 0, keys));
                B::attend(query, key, value, &options)
            });
            // Burn's `cat` lets go of its parts before it has recorded what it made of them; until
            // then the end of another thread's backward pass forgets a graph nobody holds a part of.
            let outputs: Vec<_> = outputs.collect();
            let output = Tensor::cat(outputs.clone(), 2);
            let mut observed = Observed::new(format!("{} parts", parts.len()), output);
            drop(outputs);
            for (of, leaf) in ["query", "key", "value"].into_iter().zip(&leaves) {
                observed.gradient(of, leaf);
            }
            observed.results
        };
        let whole = observe(std::slice::from_ref(&(0..t)));
        let parts = observe(&[0..100, 100..200, 200..t]);
        for ((name, found), (_, expected)) in whole.iter().zip(&parts) {
            let expected: Vec<f64> = expected.iter().map(|x| f64::from(*x)).collect();
            check(name, found, &expected, TOLERANCE);
        }
    });
}

#[test]
fn attention_of_joined_heads_is_that_of_its_parts() {
    on_each_backend!(|device: B| {
        let shapes = [[1, 1, 1, 1, 1], [2, 4, 4, 70, 6], [3, 6, 2, 33, 5], [2, 6, 2, 70, 16]];
        let in_f32 = shapes.map(|shape| (shape, Precision::F32, Precision::F32));
        let has_bf16 = B::supports_dtype(&device, DType::BF16);
        // Of products in bf16, what goes in is in f32, or already in bf16.
        let givens = if has_bf16 { &[Precision::F32, Precision::Bf16][..] } else { &[] };
        let in_bf16 = givens.iter().map(|given| (shapes[3], Precision::Bf16, *given));
        for ([b, h, g, t, k], precision, given) in in_f32.into_iter().chain(in_bf16) {
            let leaf = leaf::<B, 4>([b, t, h + 2 * g, k], 10, &device);
            let in_joined = || factor(leaf.clone().swap_dims(1, 2), given);
            let out = |attended: Tensor<B, 4>| attended.swap_dims(1, 2).cast(DType::F32);
            // Without and with ranges, which every entry has its own of.
            for rows in [Filled::Whole, Filled::InPart, Filled::ByDocuments] {
                let options = AttentionOptions {
                    ranges: rows.ranges([b, t]),
                    precision,
                    ..AttentionOptions::causal(0.7)
                };
                let output = out(B::attend_joined(in_joined(), [h, g], &options));
                let name = format!("joined {b} {h} {g} {t} {k}");
                let mut found = Observed::new(name.clone(), output);
                found.gradient("all", &leaf);
                let observe = |[query, key, value]: [Tensor<B, 4>; 3]| {
                    let output = out(B::attend(query, key, value, &options));
                    let mut observed = Observed::new(name.clone(), output);
                    observed.gradient("all", &leaf);
                    observed.results
                };
                let part = |first, count| in_joined().narrow(1, first, count);
                // The same sums in the same order.
                assert_eq!(found.results, observe([part(0, h), part(h, g), part(h + g, g)]));
                assert_eq!(found.results, observe(B::separate(in_joined(), [h, g])));
            }
        }
    });
}

#[test]
fn ranges_of_another_batch_are_refused() {
    on_each_backend!(|device: B| {
        let heads = |t: usize| leaf::<B, 4>([2, 1, t, 4], 1, &device);
        let attend = |ranges: KeyRanges, keys: usize| {
            let options = AttentionOptions { ranges: Some(ranges), ..AttentionOptions::full(1.0) };
            // Nothing that it might leave behind is used again.
            let attend = AssertUnwindSafe(|| {
                B::attend(heads(3), heads(keys), heads(keys), &options);
            });
            catch_unwind(attend).map_err(|cause| *cause.downcast::<String>().expect("a message"))
        };
        let documents =
            |rows: usize, positions| KeyRanges::of_documents(&vec![vec![0]; rows], positions);
        assert!(attend(KeyRanges::of_lengths(&[3, 1]), 5).is_ok());
        assert!(attend(documents(2, 3), 3).is_ok());
        let refused = [
            (KeyRanges::of_lengths(&[3]), 3),
            (KeyRanges::of_lengths(&[3, 1, 2]), 3),
            (documents(1, 3), 3),
            (documents(2, 4), 3),
            (documents(2, 3), 4),
        ];
        for (ranges, keys) in refused {
            let message = attend(ranges, keys).expect_err("of another batch");
            assert!(
                message.contains("ranges of another batch") || message.contains("documents of"),
                "{message}"
            );
        }
    });
}

#[derive(Clone)]
struct CrossEntropy;

impl Job for CrossEntropy {
    type Output = Results;

    fn run<B: TrainBackend>(self, device: B::Device) -> Results {
        let mut results = Vec::new();
        for [n, v] in [[1, 1], [3, 5], [67, 65], [20, 1003]] {
            for (scale, terms) in
                [1.0, 30.0].into_iter().flat_map(|it| LOSS_TERMS.map(|terms| (it, terms)))
            {
                let leaf = leaf::<B, 2>([n, v], 11, &device);
                let targets: Vec<i32> = (0..n).map(|row| (row * 31 % v) as i32).collect();
                let targets =
                    Tensor::<B, 1, Int>::from_data(TensorData::new(targets, [n]), &device);
                let logits = leaf.clone() * scale;
                let [loss, minimised] = B::training_loss(logits, targets.clone(), terms);
                let name = format!("loss {n} {v} {scale} {terms:?}");
                results.push((name.clone(), floats(loss.into_data())));
                let mut observed = Observed::new(name, minimised);
                observed.gradient("logits", &leaf);
                results.extend(observed.results);
            }
        }
        results
    }
}

#[test]
fn losses_agree() {
    // Logits of up to 30 are rounded to 2e-6 in either, which is what exponentials are off by.
    agree(CrossEntropy, 1e-5);
}

/// The means of the loss of `input weight + bias` and of what is minimised, in f64, and N times the
/// gradients of the latter with respect to input, weight and bias.
fn linear_loss_by_hand(
    [n, d, v]: [usize; 3],
    [input, weight, bias]: [&[f64]; 3],
    target: impl Fn(usize) -> usize,
    terms: LossTerms,
) -> ([f64; 2], [Vec<f64>; 3]) {
    let LossTerms { label_smoothing: smoothing, z_loss } = terms;
    let (mut losses, uniform) = ([0.0; 2], 1.0 / v as f64);
    let (mut of_input, mut of_weight) = (vec![0.0; n * d], vec![0.0; d * v]);
    let mut of_bias = vec![0.0; v];
    for row in 0..n {
        let mut logits = bias.to_vec();
        for i in 0..d {
            for (logit, w) in logits.iter_mut().zip(&weight[i * v..]) {
                *logit += input[row * d + i] * w;
            }
        }
        let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|x| (x - highest).exp()).sum();
        let log_z = highest + sum.ln();
        let loss = log_z - logits[target(row)];
        let of_all = log_z - logits.iter().sum::<f64>() * uniform;
        let minimised = (1.0 - smoothing) * loss + smoothing * of_all + z_loss * log_z * log_z;
        losses[0] += loss / n as f64;
        losses[1] += minimised / n as f64;
        for (token, logit) in logits.into_iter().enumerate() {
            let asked = if token == target(row) { 1.0 - smoothing } else { 0.0 };
            let probability = (logit - highest).exp() / sum;
            let slope = (1.0 + 2.0 * z_loss * log_z) * probability - asked - smoothing * uniform;
            of_bias[token] += slope;
            for i in 0..d {
                of_input[row * d + i] += slope * weight[i * v + token];
                of_weight[i * v + token] += slope * input[row * d + i];
            }
        }
    }
    (losses, [of_input, of_weight, of_bias])
}

#[test]
fn losses_of_products_are_their_formula() {
    on_each_backend!(|device: B| {
        let small = [[1, 1, 1], [3, 5, 7], [67, 33, 65], [20, 48, 1003]];
        for shape in small {
            for terms in LOSS_TERMS {
                for layout in [(false, false), (true, false), (true, true)] {
                    linear_loss_is_its_formula::<B>(shape, layout, terms, &device);
                }
            }
        }
        if is_cuda_on_cpu::<B>(&device) {
            return;
        }
        // The logits of no more than 33 rows are made at a time.
        let blocks = [40, 2, 500_000];
        for layout in [(false, false), (true, false), (true, true)] {
            linear_loss_is_its_formula::<B>(blocks, layout, LossTerms::default(), &device);
        }
        // Compositions add up what smoothing takes from so many slopes one by one.
        if Inner::<B>::kernels().is_some() {
            linear_loss_is_its_formula::<B>(blocks, (true, true), LOSS_TERMS[3], &device);
        }
    });
}

/// With a bias or without one, and with a weight that lies either way.
fn linear_loss_is_its_formula<B: TrainBackend>(
    [n, d, v]: [usize; 3],
    (with_bias, turned): (bool, bool),
    terms: LossTerms,
    device: &B::Device,
) {
    let input = leaf::<B, 2>([n, d], 31, device);
    let stored = leaf::<B, 2>(if turned { [v, d] } else { [d, v] }, 32, device);
    let weight = if turned { stored.clone().transpose() } else { stored.clone() };
    let bias = with_bias.then(|| leaf::<B, 1>([v], 33, device));
    let target = |row: usize| row * 31 % v;
    let targets: Vec<i32> = (0..n).map(|row| target(row) as i32).collect();
    let targets = Tensor::from_data(TensorData::new(targets, [n]), device);
    let [loss, minimised] = B::linear_training_loss(
        input.clone(),
        weight.clone(),
        bias.clone(),
        targets.clone(),
        Precision::F32,
        terms,
    );
    let untracked = <Inner<B> as GptBackend>::linear_training_loss(
        input.clone().inner(),
        weight.clone().inner(),
        bias.clone().map(Tensor::inner),
        targets.inner(),
        Precision::F32,
        terms,
    );
    let w: Vec<f64> = floats(weight.into_data()).into_iter().map(f64::from).collect();
    let b = if with_bias { wide(v, 33) } else { vec![0.0; v] };
    let inputs = [&wide(n * d, 31)[..], &w, &b];
    let (expected, [of_input, of_weight, of_bias]) =
        linear_loss_by_hand([n, d, v], inputs, target, terms);
    let name = format!("{n} {d} {v} {with_bias} {turned} {terms:?}");
    let untracked = untracked.map(|loss| floats(loss.into_data())[0]);
    // A mean of a few rows, whose exponentials are right to some units in the last place.
    check(&format!("{name}: untracked"), &untracked, &expected, 1e-6);
    check(&format!("{name}: loss"), &floats(loss.into_data()), &expected[..1], TOLERANCE);
    let mut observed = Observed::new(name, minimised);
    // By the weight that a sum has there.
    let factor = f64::from(numbers(1, 77)[0]) / n as f64;
    let of_stored = match turned {
        true => (0..v * d).map(|place| of_weight[place % d * v + place / d]).collect(),
        false => of_weight,
    };
    observed.gradient("input", &input);
    observed.gradient("weight", &stored);
    if let Some(bias) = &bias {
        observed.gradient("bias", bias);
    }
    let all = [expected[1..].to_vec(), of_input, of_stored, of_bias];
    for (number, ((name, found), expected)) in observed.results.iter().zip(&all).enumerate() {
        let scale = if number == 0 { 1.0 } else { 1.0 / factor };
        let found: Vec<f32> = found.iter().map(|x| (f64::from(*x) * scale) as f32).collect();
        // Roundings of a sum of so many numbers wander off by the root of their number.
        let wander = (v as f64).sqrt() * f64::from(f32::EPSILON);
        check(name, &found, expected, TOLERANCE.max(wander));
    }
}

#[test]
fn only_gradients_that_are_wanted_are_made() {
    on_each_backend!(|device: B| {
        let Some(kernels) = Inner::<B>::kernels() else { return };
        let float = |count: usize, seed: u64| {
            let data = TensorData::new(numbers(count, seed), [count]);
            Tensor::<Inner<B>, 1>::from_data(data, &device)
        };
        let run = |wanted: [bool; 3]| {
            let input = float(45, 34).reshape([9, 5]).into_primitive().tensor();
            let weight = float(65, 35).reshape([5, 13]).into_primitive().tensor();
            let bias = float(13, 36).into_primitive().tensor();
            let targets = TensorData::new(vec![3; 9], [9]);
            let targets = Tensor::<Inner<B>, 1, Int>::from_data(targets, &device).into_primitive();
            let (_, gradients) = kernels.linear_cross_entropy(
                [input, weight],
                Some(bias),
                targets,
                Precision::F32,
                LOSS_TERMS[3],
                wanted,
            );
            gradients.map(|gradient| {
                let gradient = TensorPrimitive::Float(gradient?);
                let gradient = Tensor::<Inner<B>, 2>::from_primitive(gradient);
                Some(floats(gradient.into_data()))
            })
        };
        let all = run([true; 3]);
        for number in 0..8 {
            let wanted = [0, 1, 2].map(|place| number >> place & 1 == 1);
            let found = run(wanted);
            for ((found, all), wanted) in found.iter().zip(&all).zip(wanted) {
                assert_eq!(found.as_ref(), all.as_ref().filter(|_| wanted));
            }
        }
    });
}

#[derive(Clone)]
struct Embedded;

impl Job for Embedded {
    type Output = Results;

    fn run<B: TrainBackend>(self, device: B::Device) -> Results {
        let mut results = Vec::new();
        for [b, t, d, v] in [[1, 1, 1, 1], [2, 7, 5, 3], [3, 70, 33, 131], [2, 40, 7, 9001]] {
            let weight = leaf::<B, 2>([v, d], 41, &device);
            let tokens: Vec<i32> = (0..b * t).map(|place| (place * place % v) as i32).collect();
            let tokens = Tensor::from_data(TensorData::new(tokens, [b, t]), &device);
            let embedded = B::embed(weight.clone(), tokens);
            let mut observed = Observed::new(format!("embedding {b} {t} {d} {v}"), embedded);
            observed.gradient("weight", &weight);
            results.extend(observed.results);
        }
        results
    }
}

#[test]
fn embeddings_agree() {
    // Sums of at most 105 numbers.
    agree(Embedded, 1e-6);
}

/// Parameters of many sizes, updated together.
#[derive(Clone)]
struct Adamw;

impl Job for Adamw {
    type Output = Results;

    fn run<B: TrainBackend>(self, device: B::Device) -> Results {
        let mut results = Vec::new();
        let sizes = [1, 17, 255, 4096, 4097, 40_001];
        let counts: Vec<usize> = (0..60).map(|number| sizes[number % 6] + number / 6).collect();
        let read = |count: usize, seed| {
            let data = TensorData::new(numbers(count, seed), [count]);
            Tensor::<Inner<B>, 1>::from_data(data, &device)
        };
        let mut values: Vec<_> = counts.iter().map(|count| read(*count, 12)).collect();
        let mut moments = vec![None; counts.len()];
        // Someone else has the first values, too, which must not change.
        let first = values.clone();
        for step in 1..=5 {
            let kept = read(counts[0], 20 + step as u64);
            let updates = (0..counts.len()).map(|number| AdamwUpdate {
                value: values[number].clone(),
                // A gradient that somebody else has must stay, too.
                gradient: match number {
                    0 => kept.clone(),
                    _ => read(counts[number], 20 + step as u64),
                },
                // One of those that have some begins anew.
                moments: moments[number].take().filter(|_| (number, step) != (5, 3)),
                step: AdamwStep {
                    learning_rate: 0.01 * (number % 7 + 1) as f64,
                    weight_decay: 0.1 * (number % 5) as f64,
                    beta1: 0.9,
                    beta2: 0.95,
                    epsilon: 1e-8,
                    step,
                    gradient_factor: [1.0, 0.3][step % 2],
                },
            });
            let updated = <Inner<B> as GptBackend>::adamw(updates.collect());
            for (number, [value, first, second]) in updated.into_iter().enumerate() {
                values[number] = value;
                moments[number] = Some([first, second]);
            }
            results.push((format!("adamw: kept {step}"), floats(kept.into_data())));
        }
        for (number, count) in counts.into_iter().enumerate() {
            let [mean, square] = moments[number].take().unwrap();
            let (value, first) = (values[number].clone(), first[number].clone());
            for (name, tensor) in
                [("value", value), ("mean", mean), ("square", square), ("untouched", first)]
            {
                results.push((format!("adamw {count}: {name}"), floats(tensor.into_data())));
            }
        }
        results
    }
}

#[test]
fn adamw_agrees() {
    // Five roundings a step.
    agree(Adamw, 1e-6);
}

#[test]
fn what_is_not_a_number_is_not_hidden() {
    on_each_backend!(|device: B| {
        let with = |number: f32, shape: [usize; 4]| {
            let mut values = numbers(shape.iter().product(), 13);
            values[5] = number;
            Tensor::<B, 4>::from_data(TensorData::new(values, shape), &device)
        };
        let shape = [1, 1, 6, 4];
        let has_bf16 = B::supports_dtype(&device, DType::BF16);
        let in_bf16 = has_bf16.then_some(([1, 1, 6, 16], Precision::Bf16));
        for (shape, precision) in [(shape, Precision::F32)].into_iter().chain(in_bf16) {
            for place in 0..3 {
                let [query, key, value] =
                    [0, 1, 2].map(|input| with(if input == place { f32::NAN } else { 0.5 }, shape));
                let options = AttentionOptions { precision, ..AttentionOptions::causal(0.5) };
                let output = B::attend(query, key, value, &options);
                assert!(floats(output.into_data()).iter().any(|x| x.is_nan()), "input {place}");
            }
        }
        for number in [f32::NAN, f32::INFINITY] {
            let input = with(number, shape);
            let scaled =
                B::normalization(input.clone(), None, None, NormKind::Layer, 1e-5, Precision::F32);
            assert!(floats(scaled.into_data()).iter().any(|x| x.is_nan()), "{number} in a norm");
            let targets = Tensor::<B, 1, Int>::from_data([0, 1, 2, 3, 0, 1], &device);
            let logits = input.reshape([6, 4]);
            let unit = Tensor::<B, 2>::eye(4, &device);
            for terms in LOSS_TERMS {
                let (logits, targets) = (logits.clone(), targets.clone());
                let plain = B::training_loss(logits.clone(), targets.clone(), terms);
                let logits = logits.require_grad();
                let linear = B::linear_training_loss(
                    logits,
                    unit.clone(),
                    None,
                    targets,
                    Precision::F32,
                    terms,
                );
                for loss in plain.into_iter().chain(linear) {
                    assert!(floats(loss.into_data())[0].is_nan(), "{number} in a loss: {terms:?}");
                }
            }
        }
    });
}

#[test]
fn sums_of_squares_are_those_of_f64() {
    on_each_backend!(|device: B| {
        let many: Vec<usize> = (0..150).map(|number| 1 + number * number * 5).collect();
        for counts in [&[1][..], &[3, 16_385, 200_003], &many] {
            let all = counts.iter().map(|count| numbers(*count, 51)).collect::<Vec<_>>();
            let tensors = all.iter().map(|numbers| {
                let data = TensorData::new(numbers.clone(), [numbers.len()]);
                Tensor::<Inner<B>, 1>::from_data(data, &device)
            });
            let sums = <Inner<B> as GptBackend>::sums_of_squares(tensors.collect()).into_data();
            let found: f64 = sums.iter::<f64>().sum();
            let expected: f64 = all.iter().flatten().map(|x| f64::from(*x).powi(2)).sum();
            // Sums of tasks in f32 on one backend, of everything on the other.
            assert!((found - expected).abs() < 1e-5 * expected, "{found}, not {expected}");
        }
    });
}

#[test]
fn sums_are_exact_and_leave_what_others_hold() {
    on_each_backend!(|device: B| {
        // One number, odd rows, and more than a thread has at a time.
        for [rows, width] in [[1, 1], [3, 7], [130, 129]] {
            let count = rows * width;
            let [x, y] = [81, 82].map(|seed| numbers(count, seed));
            // A sum of two is rounded once, whoever makes it.
            let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
            let tensor = |numbers: &[f32]| {
                let data = TensorData::new(numbers.to_vec(), [rows, width]);
                Tensor::<Inner<B>, 2>::from_data(data, &device)
            };
            let (one, other) = (tensor(&x), tensor(&y));
            let sum = Inner::<B>::add(one.clone(), other.clone());
            assert_eq!(floats(sum.into_data()), expected);
            // Each of them may be where the sum goes, but not while somebody else has it.
            let sum = Inner::<B>::add(one.clone(), tensor(&y));
            assert_eq!(floats(sum.into_data()), expected);
            let sum = Inner::<B>::add(tensor(&x), other.clone());
            assert_eq!(floats(sum.into_data()), expected);
            assert_eq!(
                (floats(one.clone().into_data()), floats(other.into_data())),
                (x, y.clone())
            );
            // In another order in memory.
            let columns: Vec<f32> = (0..count).map(|at| y[at % rows * width + at / rows]).collect();
            let data = TensorData::new(columns, [width, rows]);
            let turned = Tensor::<Inner<B>, 2>::from_data(data, &device).transpose();
            assert_eq!(floats(Inner::<B>::add(one, turned).into_data()), expected);

            // Gradients of one that is added twice are added up, too.
            let [a, b] = [83, 84].map(|seed| leaf::<B, 2>([rows, width], seed, &device));
            let weights = numbers(count, 85);
            let output = B::add(a.clone(), B::add(b.clone(), a.clone()));
            let weigh = Tensor::<B, 2>::from_inner(tensor(&weights));
            let gradients = (output * weigh).sum().backward();
            let gradient = |leaf: &Tensor<B, 2>| floats(leaf.grad(&gradients).unwrap().into_data());
            let twice: Vec<f32> = weights.iter().map(|weight| 2.0 * weight).collect();
            assert_eq!((gradient(&a), gradient(&b)), (twice, weights));
        }
    });
}

#[test]
fn sums_of_many_rows_are_those_of_f64() {
    on_each_backend!(|device: B| {
        for [n, o] in [[1, 1], [128, 5], [129, 300], [9000, 3]] {
            let rows: Tensor<B, 2> = leaf([n, o], 5, &device);
            let found = floats(<Inner<B>>::sum_rows(rows.inner()).into_data());
            let values = wide(n * o, 5);
            let sum = |column| values.iter().skip(column).step_by(o).sum::<f64>();
            let expected: Vec<f64> = (0..o).map(sum).collect();
            // Of up to 9,000 numbers below one.
            check(&format!("{n} rows of {o}"), &found, &expected, 1e-5);
        }
    });
}
