//! Label smoothing and the z-loss: against f64 loops, against PyTorch, and in a whole step.

use burn::tensor::{Int, Tensor, TensorData};
use burn_train::{InferenceStep, TrainStep};
use emberlm::backend::{LossTerms, TrainBackend};
use emberlm::config::{ModelConfig, Precision, TrainConfig};
use emberlm::data::{Example, TokenBatch};
use emberlm::model::{Initializer, Model, parameters};
use emberlm::train::LanguageModel;

use crate::on_each_backend;
use crate::support::{Inner, LOSS_TERMS, assert_close, floats, numbers};

/// Of logits, and of the product that is the same: plain cross-entropy, what is minimised, and its
/// gradient by the logits.
fn both<B: TrainBackend>(
    logits: &[f32],
    targets: &[i32],
    terms: LossTerms,
    device: &B::Device,
) -> [(f32, f32, Vec<f32>); 2] {
    let (n, v) = (targets.len(), logits.len() / targets.len());
    let targets = TensorData::new(targets.to_vec(), [n]);
    let targets = Tensor::<B, 1, Int>::from_data(targets, device);
    let leaf = || {
        let logits = TensorData::new(logits.to_vec(), [n, v]);
        Tensor::<B, 2>::from_data(logits, device).require_grad()
    };
    let [logits, input] = [leaf(), leaf()];
    let unit = Tensor::eye(v, device);
    let precision = Precision::F32;
    let product =
        B::linear_training_loss(input.clone(), unit, None, targets.clone(), precision, terms);
    let found = [(B::training_loss(logits.clone(), targets, terms), logits), (product, input)];
    found.map(|([loss, minimised], leaf)| {
        let gradient = leaf.grad(&minimised.clone().backward()).unwrap();
        let [loss, minimised] = [loss, minimised].map(|loss| floats(loss.into_data())[0]);
        (loss, minimised, floats(gradient.into_data()))
    })
}

/// Plain cross-entropy, what is minimised, and its gradient by the logits.
fn by_hand(logits: &[f64], targets: &[usize], terms: LossTerms) -> (f64, f64, Vec<f64>) {
    let (n, v) = (targets.len() as f64, logits.len() / targets.len());
    let (smoothing, weight) = (terms.label_smoothing, terms.z_loss);
    let (mut loss, mut minimised, mut gradient) = (0.0, 0.0, Vec::new());
    for (row, target) in logits.chunks(v).zip(targets) {
        let highest = row.iter().copied().fold(f64::MIN, f64::max);
        let log_z = highest + row.iter().map(|x| (x - highest).exp()).sum::<f64>().ln();
        let nll = log_z - row[*target];
        let uniform = log_z - row.iter().sum::<f64>() / v as f64;
        loss += nll / n;
        minimised += ((1.0 - smoothing) * nll + smoothing * uniform + weight * log_z * log_z) / n;
        for (token, x) in row.iter().enumerate() {
            let wanted =
                smoothing / v as f64 + if token == *target { 1.0 - smoothing } else { 0.0 };
            let p = (x - log_z).exp();
            gradient.push((p * (1.0 + 2.0 * weight * log_z) - wanted) / n);
        }
    }
    (loss, minimised, gradient)
}

#[test]
fn the_terms_are_their_formulas() {
    on_each_backend!(|device: B| {
        let (n, v) = (11, 65);
        let logits: Vec<f32> = numbers(n * v, 31).iter().map(|x| 10.0 * x).collect();
        let targets: Vec<i32> = (0..n).map(|row| (row * 29 % v) as i32).collect();
        let wide: Vec<f64> = logits.iter().map(|x| f64::from(*x)).collect();
        let places: Vec<usize> = targets.iter().map(|target| *target as usize).collect();
        for terms in LOSS_TERMS {
            let expected = by_hand(&wide, &places, terms);
            for (loss, minimised, gradient) in both::<B>(&logits, &targets, terms, &device) {
                // Relative to losses of about ten.
                assert_close(&[loss], &[expected.0], 1e-5, "loss");
                assert_close(&[minimised], &[expected.1], 1e-5, "minimised");
                // A gradient by a logit is at most 1 / 11.
                assert_close(&gradient, &expected.2, 1e-6, "gradient");
            }
        }
    });
}

/// `torch.nn.functional.cross_entropy(x, t, label_smoothing=e) + w * (logsumexp(x, 1)**2).mean()`,
/// PyTorch 2.15 in f64.
#[test]
fn pytorch_says_the_same() {
    on_each_backend!(|device: B| {
        let logits =
            [1.5, -2.0, 0.25, 3.0, 0.0, -1.0, 0.5, 4.0, -3.5, 2.0, 0.1, 0.2, 0.3, 0.4, -6.0];
        let cases = [
            (
                0.1,
                0.0,
                4.234256412355484,
                [
                    0.048690328783,
                    -0.00499503025,
                    0.009193378069,
                    -0.058573825195,
                    0.005685148593,
                    -0.304751645392,
                    0.001915863249,
                    0.277547690439,
                    -0.006509472148,
                    0.031797563852,
                    0.064578570134,
                    0.072071497097,
                    0.080352462067,
                    0.089504343727,
                    -0.306506873025,
                ],
            ),
            (
                0.0,
                0.01,
                4.468788048203418,
                [
                    0.059005397825,
                    0.001781808622,
                    0.016905329518,
                    -0.068889486809,
                    0.013165883866,
                    -0.331259004723,
                    0.009296495862,
                    0.307857662093,
                    0.000170271261,
                    0.041664003896,
                    0.073586376692,
                    0.081325523486,
                    0.089878603454,
                    0.099331218695,
                    -0.333168288824,
                ],
            ),
            (
                0.3,
                0.02,
                4.176653017384685,
                [
                    0.042653800201,
                    -0.018108019172,
                    -0.002049385701,
                    0.027461518245,
                    -0.006020047527,
                    -0.251099697387,
                    -0.009989538192,
                    0.31150096708,
                    -0.019816651996,
                    0.024863777273,
                    0.055927516583,
                    0.063912883209,
                    0.072738078174,
                    0.082491426996,
                    -0.253163037957,
                ],
            ),
        ];
        for (label_smoothing, z_loss, expected, gradients) in cases {
            let terms = LossTerms { label_smoothing, z_loss };
            for (_, minimised, gradient) in both::<B>(&logits, &[3, 0, 4], terms, &device) {
                // f32 beside f64.
                assert_close(&[minimised], &[expected], 1e-6, "minimised");
                assert_close(&gradient, &gradients, 1e-7, "gradient");
            }
        }
    });
}

/// Rows of other lengths, of which some places are asked only: padding has no part in the terms.
/// The gradient of the head's bias is the sum of those of the logits, so it shows them.
#[test]
fn padding_and_masks_have_no_part_and_the_reported_loss_is_plain() {
    on_each_backend!(|device: B| {
        let (v, smoothing, z_loss) = (13, 0.2, 0.05);
        let config = ModelConfig { head_bias: true, ..ModelConfig::new(12, 1, 3, 12) };
        let example = |length: u32, asked: Option<Vec<usize>>| Example {
            source: None,
            input: (0..length).map(|i| i * i % 13).collect(),
            target: (0..length).map(|i| (i * 5 + length) % 13).collect(),
            asked,
            documents: None,
        };
        let batches = [
            vec![example(9, None), example(4, None)],
            vec![example(9, Some(vec![1, 5])), example(4, Some(vec![0, 3]))],
        ];
        for examples in batches {
            let model = || {
                let initializer = Initializer::seeded(3);
                Model::<B>::new("terms", &config, v, initializer, &device)
            };
            let train =
                TrainConfig { label_smoothing: smoothing, z_loss, ..TrainConfig::default() };
            let plain = LanguageModel::new(model(), &config);
            let model = LanguageModel::new(model(), &config).trained_as(&train);
            let (mut rows, mut targets) = (Vec::new(), Vec::new());
            for example in &examples {
                let ids: Vec<i32> = example.input.iter().map(|id| *id as i32).collect();
                let ids =
                    Tensor::from_data(TensorData::new(ids, [1, example.input.len()]), &device);
                let Model::Gpt(gpt) = &model.model else { panic!() };
                let logits = floats(gpt.forward(ids).into_data());
                let all = (0..example.input.len()).collect();
                for place in example.asked.clone().unwrap_or(all) {
                    rows.extend(logits[place * v..][..v].iter().map(|x| f64::from(*x)));
                    targets.push(example.target[place] as usize);
                }
            }
            let terms = LossTerms { label_smoothing: smoothing, z_loss };
            let (loss, _, gradient) = by_hand(&rows, &targets, terms);
            let mut expected = vec![0.0; v];
            for (index, gradient) in gradient.iter().enumerate() {
                expected[index % v] += gradient;
            }
            let batch = || TokenBatch::new(&examples, 1.0);
            let output = TrainStep::step(&model, batch());
            assert!((output.item.loss.read() - loss).abs() < 1e-5);
            let bias =
                parameters(&model.model).into_iter().find(|p| p.name == "head.bias").unwrap();
            let found = output.grads.get::<Inner<B>, 1>(bias.id).unwrap();
            assert_close(&floats(found.into_data()), &expected, 1e-6, "gradient of the bias");
            let [evaluated, plain] =
                [&model, &plain].map(|model| InferenceStep::step(model, batch()).loss.read());
            assert_eq!(evaluated, plain);
        }
    });
}
