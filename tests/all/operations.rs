//! The default operations against plain loops over f64.

use burn::tensor::{Int, Tensor, TensorData};
use emberlm::backend::{AttentionOptions, Dropout, GptBackend, seed_draws};
use emberlm::config::{Activation, NormKind, Precision};

use crate::on_each_backend;
use crate::reference::alibi_slopes;
use crate::support::{ACTIVATIONS, Inner, assert_close, floats, numbers};

fn tensor<B: GptBackend, const D: usize>(
    values: &[f32],
    shape: [usize; D],
    device: &B::Device,
) -> Tensor<B, D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

/// The error function to double precision, by its Maclaurin series; |x| stays below 4 here.
fn erf(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    for n in 1..200 {
        term *= -x * x / n as f64;
        sum += term / (2 * n + 1) as f64;
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

#[test]
fn dense_is_a_matrix_product_with_bias() {
    on_each_backend!(|device: B| {
        for (rows, d_input, d_output, bias) in
            [(1, 1, 1, true), (6, 5, 7, false), (33, 17, 19, true)]
        {
            let (x, w, b) =
                (numbers(rows * d_input, 1), numbers(d_input * d_output, 2), numbers(d_output, 3));
            let output = Inner::<B>::dense(
                tensor(&x, [1, rows, d_input], &device),
                tensor(&w, [d_input, d_output], &device),
                bias.then(|| tensor(&b, [d_output], &device)),
            );
            assert_eq!(output.dims(), [1, rows, d_output]);
            let mut expected = Vec::new();
            for row in 0..rows {
                for column in 0..d_output {
                    let product: f64 = (0..d_input)
                        .map(|i| {
                            f64::from(x[row * d_input + i]) * f64::from(w[i * d_output + column])
                        })
                        .sum();
                    expected.push(product + if bias { f64::from(b[column]) } else { 0.0 });
                }
            }
            // f32 sums of at most 17 products of numbers below one.
            assert_close(&floats(output.into_data()), &expected, 2e-6, "dense");
        }
    });
}

#[test]
fn layer_normalization_has_mean_zero_and_variance_one_before_its_weights() {
    on_each_backend!(|device: B| {
        for (rows, width) in [(1, 2), (5, 33), (7, 128)] {
            let (x, w, b) = (numbers(rows * width, 4), numbers(width, 5), numbers(width, 6));
            let epsilon = 1e-5;
            let output = Inner::<B>::normalization(
                tensor(&x, [rows, width], &device),
                Some(tensor(&w, [width], &device)),
                Some(tensor(&b, [width], &device)),
                NormKind::Layer,
                epsilon,
                Precision::F32,
            );
            let mut expected = Vec::new();
            for row in x.chunks(width) {
                let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / width as f64;
                let variance =
                    row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / width as f64;
                expected.extend(row.iter().zip(&w).zip(&b).map(|((x, w), b)| {
                    (f64::from(*x) - mean) / (variance + epsilon).sqrt() * f64::from(*w)
                        + f64::from(*b)
                }));
            }
            // A few roundings of numbers below three.
            assert_close(&floats(output.into_data()), &expected, 3e-6, "layer norm");
        }
    });
}

#[test]
fn activations_are_their_formulas() {
    on_each_backend!(|device: B| {
        let x: Vec<f32> = numbers(257, 7).into_iter().map(|x| 4.0 * x).collect();
        let gelu = |x: f64| 0.5 * x * (1.0 + erf(x / 2f64.sqrt()));
        let tanh_gelu = |x: f64| {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        };
        let formulas: [(Activation, &dyn Fn(f64) -> f64); 6] = [
            (Activation::Gelu, &gelu),
            (Activation::GeluTanh, &tanh_gelu),
            (Activation::Relu, &|x| x.max(0.0)),
            (Activation::ReluSquared, &|x| x.max(0.0).powi(2)),
            (Activation::Silu, &|x| x / (1.0 + (-x).exp())),
            (Activation::Mish, &|x| x * x.exp().ln_1p().tanh()),
        ];
        for (kind, formula) in formulas {
            let output = Inner::<B>::activation(tensor::<_, 1>(&x, [257], &device), kind);
            let expected: Vec<f64> = x.iter().map(|x| formula(f64::from(*x))).collect();
            // Backends approximate erf, exp and tanh to about 1e-7 of values up to sixteen.
            assert_close(&floats(output.into_data()), &expected, 2e-6, "activation");
        }
    });
}

#[test]
fn gradients_of_activations_are_their_derivatives() {
    on_each_backend!(|device: B| {
        // Long enough for several tasks of a parallel kernel, with an odd rest.
        let count = 40_001;
        let x: Vec<f32> = numbers(count, 15).into_iter().map(|x| 4.0 * x).collect();
        let upstream = numbers(count, 16);
        let gelu = |x: f64| {
            let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
            0.5 * (1.0 + erf(x / 2f64.sqrt())) + x * density
        };
        let tanh_gelu = |x: f64| {
            let scale = (2.0 / std::f64::consts::PI).sqrt();
            let tanh = (scale * (x + 0.044715 * x.powi(3))).tanh();
            let slope = scale * (1.0 + 3.0 * 0.044715 * x * x);
            0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * slope
        };
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let mish = |x: f64| {
            let tanh = x.exp().ln_1p().tanh();
            tanh + x * (1.0 - tanh * tanh) * sigmoid(x)
        };
        let derivatives: [(Activation, &dyn Fn(f64) -> f64); 6] = [
            (Activation::Gelu, &gelu),
            (Activation::GeluTanh, &tanh_gelu),
            (Activation::Relu, &|x| if x > 0.0 { 1.0 } else { 0.0 }),
            (Activation::ReluSquared, &|x| 2.0 * x.max(0.0)),
            (Activation::Silu, &|x| sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x)))),
            (Activation::Mish, &mish),
        ];
        for (kind, derivative) in derivatives {
            let input = tensor::<B, 1>(&x, [count], &device).require_grad();
            let output = B::activation(input.clone(), kind) * tensor(&upstream, [count], &device);
            let gradients = output.sum().backward();
            let found = floats(input.grad(&gradients).unwrap().into_data());
            let expected: Vec<f64> = x
                .iter()
                .zip(&upstream)
                .map(|(x, upstream)| derivative(f64::from(*x)) * f64::from(*upstream))
                .collect();
            // As for the activations themselves.
            assert_close(&found, &expected, 2e-6, "gradient");
        }
    });
}

#[test]
fn activations_survive_extremes() {
    on_each_backend!(|device: B| {
        // What is not a number stays that, so that a run that diverges shows.
        for kind in [Activation::Relu, Activation::ReluSquared, Activation::Silu] {
            let nan = tensor::<_, 1>(&[f32::NAN], [1], &device);
            let gated = Inner::<B>::gated(nan.clone(), nan.ones_like(), kind);
            assert!(floats(gated.into_data())[0].is_nan(), "{kind:?} as a gate");
            assert!(floats(Inner::<B>::activation(nan, kind).into_data())[0].is_nan(), "{kind:?}");
        }
        let x = [-1e4f32, -100.0, -14.0, -0.0, 0.0, 14.0, 100.0, 1e4];
        for kind in ACTIVATIONS {
            let found = floats(Inner::<B>::activation(tensor(&x, [8], &device), kind).into_data());
            let power = if kind == Activation::ReluSquared { 2 } else { 1 };
            for (x, found) in x.iter().zip(found) {
                let expected = x.max(0.0).powi(power);
                // At ±14 the smooth ones are 1e-5 from their limits.
                assert!((found - expected).abs() < 2e-5, "{kind:?} of {x} is {found}");
            }
        }
    });
}

#[test]
fn causal_attention_sees_the_past_only() {
    on_each_backend!(|device: B| {
        // [batch, heads, new positions, all positions, head width]
        for [b, h, t, s, k] in [[1, 1, 1, 1, 1], [2, 3, 5, 5, 4], [1, 2, 3, 7, 5], [2, 1, 1, 9, 3]]
        {
            let q = numbers(b * h * t * k, 8);
            let (key, value) = (numbers(b * h * s * k, 9), numbers(b * h * s * k, 10));
            let scale = (k as f64).powf(-0.5);
            let options = AttentionOptions::causal(scale);
            let output = Inner::<B>::attend(
                tensor(&q, [b, h, t, k], &device),
                tensor(&key, [b, h, s, k], &device),
                tensor(&value, [b, h, s, k], &device),
                &options,
            );
            let mut expected = Vec::new();
            for head in 0..b * h {
                for row in 0..t {
                    let q = &q[(head * t + row) * k..][..k];
                    let visible = s - t + row + 1;
                    let at = |tensor: &[f32], position: usize, i: usize| {
                        f64::from(tensor[(head * s + position) * k + i])
                    };
                    let weights: Vec<f64> = (0..visible)
                        .map(|p| {
                            let dot: f64 = (0..k).map(|i| f64::from(q[i]) * at(&key, p, i)).sum();
                            (dot * scale).exp()
                        })
                        .collect();
                    let total: f64 = weights.iter().sum();
                    expected.extend((0..k).map(|i| {
                        (0..visible).map(|p| weights[p] / total * at(&value, p, i)).sum::<f64>()
                    }));
                }
            }
            // Means of numbers below one.
            assert_close(&floats(output.into_data()), &expected, 1e-6, "attention");
        }
    });
}

#[test]
fn each_row_attends_to_as_many_keys_as_it_has() {
    on_each_backend!(|device: B| {
        let many: Vec<usize> = (0..70).map(|row| row % 9 + 1).collect();
        let cases = [
            (1, 1, [3, 3], 9, None, vec![1]),
            (4, 2, [5, 5], 9, None, vec![9, 1, 4]),
            (2, 2, [32, 32], 9, None, vec![3, 9]),
            (6, 2, [7, 5], 600, None, vec![600, 1, 255, 256, 257, 513]),
            (2, 1, [16, 16], 400, Some(300), vec![400, 7, 299, 300, 301]),
            (3, 3, [4, 260], 20, None, vec![20, 3]),
            (2, 2, [8, 3], 9, Some(4), many),
        ];
        let of_all = |cap, alibi| cases.clone().map(|case| (case, cap, alibi));
        let cases = [of_all(None, false), of_all(Some(0.7), false), of_all(Some(0.7), true)];
        for ((h, g, [k, w], room, window, lengths), soft_cap, alibi) in cases.into_iter().flatten()
        {
            // Not all rows that there is room for are taken.
            let (b, rows) = (lengths.len(), lengths.len() + 1);
            let q = numbers(b * h * k, 8);
            let (key, value) = (numbers(rows * g * room * k, 9), numbers(rows * g * room * w, 10));
            let scale = (k as f64).powf(-0.5);
            let options =
                AttentionOptions { window, soft_cap, alibi, ..AttentionOptions::causal(scale) };
            let slopes = alibi_slopes(h);
            // As they come out of a projection: the heads of a position side by side.
            let query = tensor(&q, [b, 1, h, k], &device).swap_dims(1, 2);
            let keys = tensor(&key, [rows, g, room, k], &device);
            let values = tensor(&value, [rows, g, room, w], &device);
            let attend = |query, keys, values, lengths: &[usize]| {
                Inner::<B>::attend_rows(query, keys, values, lengths, &options)
            };
            let output = attend(query.clone(), keys.clone(), values.clone(), &lengths);
            assert_eq!(output.dims(), [b, h, 1, w]);
            let output = floats(output.into_data());
            let mut expected = Vec::new();
            for (row, head) in (0..b).flat_map(|row| (0..h).map(move |head| (row, head))) {
                let q = &q[(row * h + head) * k..][..k];
                let at = |tensor: &[f32], position: usize, width: usize, i: usize| {
                    let position = (row * g + head / (h / g)) * room + position;
                    f64::from(tensor[position * width + i])
                };
                let weight = |p: usize| {
                    let dot: f64 = (0..k).map(|i| f64::from(q[i]) * at(&key, p, k, i)).sum();
                    let score = dot * scale;
                    let score = soft_cap.map_or(score, |cap: f64| cap * (score / cap).tanh());
                    let distance = if alibi { lengths[row] - 1 - p } else { 0 };
                    (score - slopes[head] * distance as f64).exp()
                };
                let first = window.map_or(0, |window| lengths[row].saturating_sub(window));
                let weights: Vec<(usize, f64)> =
                    (first..lengths[row]).map(|p| (p, weight(p))).collect();
                let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
                let mean = |i: usize| {
                    let terms =
                        weights.iter().map(|(p, weight)| weight / total * at(&value, *p, w, i));
                    terms.sum::<f64>()
                };
                expected.extend((0..w).map(mean));
            }
            // Means of up to 600 numbers below one.
            assert_close(&output, &expected, 2e-6, "rows");
            for row in [0, b - 1] {
                let of_row = |tensor: &Tensor<Inner<B>, 4>| tensor.clone().narrow(0, row, 1);
                let alone = [&query, &keys, &values].map(of_row);
                let [query, keys, values] = alone;
                let alone = attend(query, keys, values, &lengths[row..=row]);
                assert_eq!(floats(alone.into_data()), output[row * h * w..][..h * w], "row {row}");
            }
        }
    });
}

#[test]
fn cross_entropy_is_the_mean_negative_log_likelihood() {
    on_each_backend!(|device: B| {
        let (rows, vocab_size) = (11, 65);
        let logits: Vec<f32> = numbers(rows * vocab_size, 11).iter().map(|x| 30.0 * x).collect();
        let targets: Vec<i32> = (0..rows).map(|row| (row * 29 % vocab_size) as i32).collect();
        let loss = Inner::<B>::cross_entropy(
            tensor(&logits, [rows, vocab_size], &device),
            Tensor::<_, 1, Int>::from_data(TensorData::new(targets.clone(), [rows]), &device),
        );
        let mut expected = 0.0;
        for (row, target) in logits.chunks(vocab_size).zip(&targets) {
            let highest = row.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = row.iter().map(|x| f64::from(x - highest).exp()).sum();
            expected -= f64::from(row[*target as usize] - highest) - sum.ln();
        }
        // Relative to a loss of about thirty.
        assert_close(&floats(loss.into_data()), &[expected / rows as f64], 1e-5, "loss");
    });
}

#[test]
fn dropout_keeps_the_mean_and_acts_in_training_only() {
    on_each_backend!(|device: B| {
        let ones = Tensor::<B, 1>::ones([20_000], &device);
        let dropped = floats(B::dropout(ones.clone(), 0.25).into_data());
        let zeros = dropped.iter().filter(|x| **x == 0.0).count();
        assert!(dropped.iter().all(|x| *x == 0.0 || (x - 4.0 / 3.0).abs() < 1e-6));
        // Binomial with a deviation of 61: six of them.
        assert!((zeros as i64 - 5000).abs() < 370, "{zeros} of 20000 dropped at 0.25");
        let kept = Inner::<B>::dropout(ones.inner(), 0.25);
        assert!(floats(kept.into_data()).iter().all(|x| *x == 1.0));
    });
}

#[test]
fn gradients_agree_with_finite_differences_of_the_f64_formula() {
    on_each_backend!(|device: B| {
        // Attention has the longest composition; its gradient with respect to the query.
        let [t, k] = [4, 3];
        let (q, key, value) = (numbers(t * k, 12), numbers(t * k, 13), numbers(t * k, 14));
        let options = AttentionOptions::causal(0.7);
        let query = tensor::<B, 4>(&q, [1, 1, t, k], &device).require_grad();
        let output = B::attend(
            query.clone(),
            tensor(&key, [1, 1, t, k], &device),
            tensor(&value, [1, 1, t, k], &device),
            &options,
        );
        let gradients = (output.clone() * output).sum().backward();
        let found = floats(query.grad(&gradients).unwrap().into_data());
        let objective = |q: &[f64]| -> f64 {
            let mut sum = 0.0;
            for row in 0..t {
                let weights: Vec<f64> = (0..=row)
                    .map(|p| {
                        let dot: f64 =
                            (0..k).map(|i| q[row * k + i] * f64::from(key[p * k + i])).sum();
                        (dot * 0.7).exp()
                    })
                    .collect();
                let total: f64 = weights.iter().sum();
                for i in 0..k {
                    let mean: f64 =
                        (0..=row).map(|p| weights[p] / total * f64::from(value[p * k + i])).sum();
                    sum += mean * mean;
                }
            }
            sum
        };
        let q: Vec<f64> = q.iter().map(|x| f64::from(*x)).collect();
        let step = 1e-5;
        let expected: Vec<f64> = (0..q.len())
            .map(|i| {
                let (mut up, mut down) = (q.clone(), q.clone());
                up[i] += step;
                down[i] -= step;
                (objective(&up) - objective(&down)) / (2.0 * step)
            })
            .collect();
        assert_close(&found, &expected, 1e-6, "gradient of the query");
    });
}

#[test]
fn a_seed_makes_what_is_dropped_repeat() {
    on_each_backend!(|device: B| {
        let ones = Tensor::<B, 1>::ones([64], &device);
        let drop = || floats(B::dropout(ones.clone(), 0.5).into_data());
        let drop_twice = || {
            seed_draws(7);
            [drop(), drop()]
        };
        let [first, second] = drop_twice();
        assert_ne!(first, second);
        assert_ne!(drop_twice()[1], drop());
        // Whatever other threads draw, and wherever.
        seed_draws(7);
        std::thread::scope(|scope| {
            scope.spawn(|| seed_draws(8));
            scope.spawn(|| assert_eq!(drop_twice()[0], first));
        });
        assert_eq!([drop(), drop()], [first, second]);
    });
}

#[test]
fn attention_weights_are_dropped_after_the_softmax() {
    on_each_backend!(|device: B| {
        // With the identity as values, the output is the matrix of weights.
        let t = 64;
        let scores_of_zero = Tensor::<B, 4>::zeros([1, 1, t, 2], &device);
        let identity = Tensor::<B, 2>::eye(t, &device).reshape([1, 1, t, t]);
        let dropout = Some(Dropout::new(0.25, 5));
        let options = AttentionOptions { dropout, ..AttentionOptions::full(1.0) };
        let (query, key) = (scores_of_zero.clone(), scores_of_zero);
        let weights = floats(B::attend(query, key, identity, &options).into_data());
        let kept = 1.0 / t as f32 / 0.75;
        let dropped = weights.iter().filter(|weight| **weight == 0.0).count();
        // Before the softmax, the kept ones would have grown by what was dropped.
        assert!(weights.iter().all(|weight| *weight == 0.0 || (weight - kept).abs() < 1e-7));
        // Binomial with a deviation of 28: six of them.
        assert!((dropped as i64 - 1024).abs() < 170, "{dropped} of 4096 dropped at 0.25");
    });
}
