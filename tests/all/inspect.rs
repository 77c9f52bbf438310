//! What is said of a model from inside, against what the model does and against other ways of
//! computing it.

use burn::module::Module as _;
use burn::tensor::{Int, Tensor, TensorData};
use burn_train::TrainStep;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::HashMap;

use emberlm::backend::GptBackend;
use emberlm::config::{Architecture, ModelConfig};
use emberlm::data::{Example, Task, TokenBatch};
use emberlm::model::{
    Initializer, Model, Observer, Output, Part, load_parameters, parameter_count, parameter_shapes,
    parameters, tensors,
};
use emberlm::report::inside::{
    self, Activity, Module, Passage, Sizes, spectral_norm, summarize, write_gradients,
    write_outline, write_surprise, write_weights,
};
use emberlm::report::terminal::{Style, visible, wrapped};
use emberlm::tokenizer::{CharacterTokenizer, IdTokenizer, Tokenizer};
use emberlm::train::LanguageModel;

use crate::on_each_backend;
use crate::options::{SEQUENCES, SOURCES, VOCAB_SIZE, ids, logits, model, single_options, with};
use crate::support::{Inner, assert_close, floats, numbers};

/// Every option of a decoder, and what there is of the two other architectures.
pub fn all_options() -> Vec<Value> {
    let mut all: Vec<Value> = single_options().into_iter().map(|(change, _)| change).collect();
    for architecture in ["encoder", "encoder-decoder"] {
        for mut change in [
            json!({}),
            json!({ "norm_placement": "post", "position": { "kind": "sinusoidal" } }),
            json!({ "norm_placement": "output", "position": { "kind": "rotary" }, "n_kv_heads": 1 }),
            json!({ "position": { "kind": "alibi" }, "attention": { "soft_cap": 1.5 } }),
            json!({ "attention": { "window": 3, "full_every": 2, "qk_norm": { "kind": "rms" } } }),
            json!({ "embedding_norm": true, "lora": { "rank": 2, "alpha": 1.0 } }),
            json!({ "feed_forward": { "experts": { "count": 3, "per_token": 1 } } }),
        ] {
            change["architecture"] = architecture.into();
            all.push(change);
        }
    }
    all
}

/// The path of a part, and the shapes of what goes in and what comes out.
type Found = (String, Vec<usize>, Vec<usize>);

/// Writes down names and shapes, in a way of its own.
#[derive(Default)]
struct Shapes {
    open: RefCell<Vec<(String, Vec<usize>)>>,
    found: RefCell<Vec<Found>>,
}

impl<B: GptBackend> Observer<B> for Shapes {
    fn enter(&self, part: Part, input: &[usize]) {
        let mut open = self.open.borrow_mut();
        let path = open.iter().map(|(name, _)| format!("{name}.")).collect::<String>();
        open.push((part.to_string(), input.to_vec()));
        // In the order in which they begin; what comes out is filled in later.
        let input = input.to_vec();
        self.found.borrow_mut().push((format!("{path}{part}"), input, Vec::new()));
    }

    fn leave(&self, output: Output<B>) -> Tensor<B, 2> {
        let mut open = self.open.borrow_mut();
        let path = open.iter().map(|(name, _)| &name[..]).collect::<Vec<_>>().join(".");
        open.pop();
        let mut found = self.found.borrow_mut();
        let own = found.iter_mut().rfind(|(name, _, output)| *name == path && output.is_empty());
        own.unwrap().2 = output.shape;
        output.rows
    }
}

fn observed<B: GptBackend>(
    model: &Model<B>,
    device: &B::Device,
    observer: &dyn Observer<B>,
) -> Vec<f32> {
    let rows = |rows: Vec<&[u32]>| Tensor::<B, 2, Int>::from_data(ids(&rows), device);
    let source = match model {
        Model::Seq2Seq(_) => {
            Some((rows(SOURCES.iter().map(|row| &row[..]).collect()), &[SOURCES[0].len(); 2][..]))
        }
        _ => None,
    };
    let tokens = rows(SEQUENCES.iter().map(|row| &row[..]).collect());
    floats(model.observe(tokens, source, observer).into_data())
}

const SIZES: Sizes =
    Sizes { batch: 2, time: SEQUENCES[0].len(), source: SOURCES[0].len(), vocab_size: VOCAB_SIZE };

#[test]
fn looking_on_changes_nothing_and_sees_every_shape() {
    on_each_backend!(|device: B| {
        for change in all_options() {
            let config = with(change.clone());
            let model = model::<Inner<B>>(&config, &device);
            let shapes = Shapes::default();
            assert_eq!(
                observed(&model, &device, &shapes),
                logits(&model, &device),
                "{change}: somebody looked"
            );
            let tree = inside::outline(&model, &config, SIZES);
            let mut found = Vec::new();
            tree.walk(&mut |module| found.push(module));
            let root = found.remove(0);
            // Experts may be given other tokens, since the ids of the outline are others.
            let is_expert = |path: &str| path.contains(".experts.");
            let of_tree: Vec<_> = found
                .iter()
                .filter(|module| !is_expert(&module.path))
                .map(|module| {
                    let sizes = |axes: &Option<Vec<inside::Axis>>| -> Vec<usize> {
                        axes.iter().flatten().map(|axis| axis.size).collect()
                    };
                    (module.path.clone(), sizes(&module.input), sizes(&module.output))
                })
                .collect();
            let mut of_pass = shapes.found.into_inner();
            of_pass.retain(|(path, ..)| !is_expert(path));
            assert_eq!(of_tree, of_pass, "{change}");
            for module in &found {
                for axis in module.input.iter().chain(&module.output).flatten() {
                    let expected = letter(axis.symbol, &config, &module.path);
                    let what = format!("{change}: {} of {}", axis.symbol, module.path);
                    assert!(expected.is_none_or(|size| size == axis.size), "{what}: {axis:?}");
                }
                assert_ne!(module.does, "a part of the model", "{change}: {}", module.path);
            }

            let own = found.iter().flat_map(|module| {
                module
                    .parameters
                    .iter()
                    .map(|it| (format!("{}.{}", module.path, it.name), it.shape.clone()))
            });
            let mut own: Vec<(String, Vec<usize>)> = own.collect();
            let mut expected = parameter_shapes(&config, VOCAB_SIZE);
            own.sort();
            expected.sort();
            assert_eq!(own, expected, "{change}");
            assert_eq!(root.parameter_count, model.num_params(), "{change}");
        }
    });
}

/// What a letter stands for, by the configuration alone; none for what hangs on the tokens.
fn letter(letter: &str, config: &ModelConfig, path: &str) -> Option<usize> {
    let (h, g, k) = (config.n_heads, config.n_kv_heads(), config.head_dim());
    let experts = config.feed_forward.experts;
    let is_source =
        config.architecture == Architecture::EncoderDecoder && path.starts_with("encoder");
    Some(match letter {
        "B" => 2,
        "T" if is_source => panic!("{path} has the time of a target"),
        "T" => SIZES.time,
        "S" => SIZES.source,
        "N" => 2 * if is_source { SIZES.source } else { SIZES.time },
        "D" => config.d_model,
        "V" => VOCAB_SIZE,
        "H" => h,
        "G" => g,
        "K" => k,
        "H+2G" => h + 2 * g,
        "(H+2G)K" => (h + 2 * g) * k,
        "HK" => h * k,
        "2GK" => 2 * g * k,
        "F" => config.d_ff(),
        "F'" => experts?.shared_d_ff?,
        "E" => experts?.count,
        "n" => return None,
        other => panic!("{path}: {other}"),
    })
}

#[test]
fn experts_that_no_token_came_to_are_in_the_tree() {
    on_each_backend!(|device: B| {
        let experts = json!({ "count": 6, "per_token": 1 });
        let config = with(json!({ "feed_forward": { "experts": experts } }));
        let sizes = Sizes { batch: 1, time: 2, ..SIZES };
        let tree = inside::outline(&model::<Inner<B>>(&config, &device), &config, sizes);
        assert_eq!(tree.parameter_count, parameter_count(&config, VOCAB_SIZE));
        let mut idle = 0;
        tree.walk(&mut |module| {
            if module.name == "feed_forward" {
                let names: Vec<&str> = module.modules.iter().map(|inner| &inner.name[..]).collect();
                let experts = ["0", "1", "2", "3", "4", "5"].map(|n| format!("experts.{n}"));
                assert_eq!(names[0], "router");
                assert_eq!(names[1..], experts);
                idle += module.modules.iter().filter(|inner| inner.input.is_none()).count();
            }
        });
        assert!((8..12).contains(&idle), "{idle} of 12 experts were idle for two tokens");
        let mut text = Vec::new();
        write_outline(&mut text, &tree, Style::PLAIN).unwrap();
        assert!(String::from_utf8(text).unwrap().contains("no token came here"));
    });
}

fn example(config: &ModelConfig, length: usize) -> Example {
    let mut target = SEQUENCES[0][..length].to_vec();
    target.rotate_left(1);
    Example {
        source: (config.architecture == Architecture::EncoderDecoder).then(|| SOURCES[0].to_vec()),
        input: SEQUENCES[0][..length].to_vec(),
        target,
        asked: None,
        documents: None,
    }
}

fn activities(tree: &Module<Activity>) -> Vec<&Module<Activity>> {
    let mut found = Vec::new();
    tree.walk(&mut |module| found.push(module));
    found.retain(|module| module.kept.is_some());
    found
}

#[test]
fn gradients_are_those_of_a_training_step() {
    on_each_backend!(|device: B| {
        for change in all_options() {
            let config = with(change.clone());
            let model = LanguageModel::new(model::<B>(&config, &device), &config);
            let batch = TokenBatch::new(&[example(&config, 9), example(&config, 5)], 1.0);
            let report = inside::gradients(&model, &config, &batch);
            let step = TrainStep::step(&model, batch);
            assert!((report.loss - step.item.loss.read()).abs() < 1e-6, "{change}");
            let mut squares = 0.0;
            for (parameter, found) in parameters(&model.model).iter().zip(&report.parameters) {
                assert_eq!(found.name, parameter.name, "{change}");
                let gradient = match parameter.shape.len() {
                    1 => {
                        step.grads.get::<Inner<B>, 1>(parameter.id).map(|it| floats(it.into_data()))
                    }
                    _ => {
                        step.grads.get::<Inner<B>, 2>(parameter.id).map(|it| floats(it.into_data()))
                    }
                };
                assert_eq!(
                    found.gradient_norm.is_some(),
                    gradient.is_some(),
                    "{change}: {}",
                    found.name
                );
                let gradient = gradient.unwrap_or_default();
                let square: f64 = gradient.iter().map(|x| f64::from(*x).powi(2)).sum();
                squares += square;
                let norm = found.gradient_norm.unwrap_or(0.0);
                // What is added for the gradients of activations is zero, and no sum is another.
                assert_close(
                    &[norm as f32],
                    &[square.sqrt()],
                    1e-5 * (1.0 + square.sqrt()),
                    &found.name,
                );
                // What is added to all keys changes no attention: that part of a bias has a gradient
                // of mere rounding, and a sum is rounded another way where the activation is looked
                // at. Keys are at most a third of what is projected, beside a query half.
                let of_keys = match found.name.rsplit('.').nth(1) {
                    Some("qkv") if parameter.shape.len() == 1 => 1.0 / 3.0,
                    Some("key_value") if parameter.shape.len() == 1 => 0.5,
                    _ => 0.0,
                };
                let zeros = gradient.iter().filter(|x| **x == 0.0).count() as f64
                    / gradient.len().max(1) as f64;
                assert!(
                    found.zeros.is_none_or(|share| (share - zeros).abs() < 1e-3 + of_keys),
                    "{change}: {}",
                    found.name
                );
            }
            assert!(
                (report.gradient_norm - squares.sqrt()).abs() < 1e-5 * (1.0 + squares.sqrt()),
                "{change}"
            );
        }
    });
}

/// Of one token a bias has the very gradient of the output that it is added to.
#[test]
fn gradients_of_outputs_are_those_of_their_biases() {
    on_each_backend!(|device: B| {
        for change in
            [json!({}), json!({ "norm_placement": "sandwich" }), json!({ "residual": "parallel" })]
        {
            let config = with(change.clone());
            let model = LanguageModel::new(model::<B>(&config, &device), &config);
            let batch = TokenBatch::new(&[example(&config, 1)], 1.0);
            let report = inside::gradients(&model, &config, &batch);
            let parameters: HashMap<&str, f64> = report
                .parameters
                .iter()
                .map(|it| (&it.name[..], it.gradient_norm.unwrap()))
                .collect();
            let mut compared = 0;
            for module in activities(&report.model) {
                let name = match &module.path[..] {
                    "embedding" => "embedding.position".into(),
                    path => format!("{path}.bias"),
                };
                let Some(expected) = parameters.get(&name[..]) else { continue };
                let found = module.kept.as_ref().unwrap().gradient_norm;
                assert!(
                    (found - expected).abs() <= 1e-5 * expected + 1e-7,
                    "{change}: {name}: {found}, {expected}"
                );
                compared += usize::from(found > 1e-3);
            }
            assert!(compared >= 8, "{change}: {compared}");
        }
    });
}

#[test]
fn units_that_never_fire_are_counted() {
    on_each_backend!(|device: B| {
        let config = with(json!({ "feed_forward": { "activation": "relu" } }));
        let mut values: HashMap<String, TensorData> =
            tensors(&model::<Inner<B>>(&config, &device)).into_iter().collect();
        let dead = [2, 5, 11];
        let name = "decoder.blocks.1.feed_forward.up.bias";
        let mut bias = floats(values[name].clone());
        dead.iter().for_each(|unit| bias[*unit] = -1e4);
        values.insert(name.into(), TensorData::new(bias, [20]));
        let blank = Model::<B>::new("dead", &config, VOCAB_SIZE, Initializer::Zeros, &device);
        let model = load_parameters(blank, |name| values.get(name).cloned()).unwrap();
        let model = LanguageModel::new(model, &config);
        let batch = TokenBatch::new(&[example(&config, 9)], 1.0);
        let report = inside::gradients(&model, &config, &batch);
        let found = activities(&report.model);
        let path = "decoder.blocks.1.feed_forward.activation";
        let hidden = found.iter().find(|module| module.path == path).unwrap();
        let kept = hidden.kept.as_ref().unwrap();
        let units = kept.dead.unwrap();
        assert!((3..12).contains(&units.count) && units.of == 20, "{units:?}");
        assert!(kept.zeros >= 3.0 / 20.0, "{}", kept.zeros);
        // What never fires learns nothing.
        let up = report.by_name()["decoder.blocks.1.feed_forward.up.weight"].dead.unwrap();
        assert_eq!(up, units);
        let attention = report.by_name()["decoder.blocks.1.attention.qkv.weight"].dead.unwrap();
        assert_eq!(attention.count, 0);

        let mut text = Vec::new();
        write_gradients(&mut text, &report, Style::PLAIN).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains(&format!("{} of 20", units.count)), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    });
}

#[test]
fn what_is_not_trained_has_no_gradient() {
    on_each_backend!(|device: B| {
        let config = with(json!({ "lora": { "rank": 2, "alpha": 1.0 } }));
        let run = emberlm::config::resolve(json!({ "name": "lora", "model": config })).unwrap();
        let model = LanguageModel::for_training(model::<B>(&config, &device), &run).unwrap();
        let batch = TokenBatch::new(&[example(&config, 9)], 1.0);
        let report = inside::gradients(&model, &config, &batch);
        for parameter in &report.parameters {
            let is_adapter = parameter.name.contains(".lora.");
            assert_eq!(parameter.gradient_norm.is_some(), is_adapter, "{}", parameter.name);
        }
        assert!(report.gradient_norm > 0.0);
    });
}

/// The largest singular value by one-sided Jacobi rotations (Hestenes 1958), in f64.
fn jacobi(matrix: &[f32], columns: usize) -> f64 {
    let rows = matrix.len() / columns;
    let mut vectors: Vec<Vec<f64>> = (0..columns)
        .map(|column| (0..rows).map(|row| f64::from(matrix[row * columns + column])).collect())
        .collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for _ in 0..60 {
        for i in 0..columns {
            for j in i + 1..columns {
                let (a, b) = (dot(&vectors[i], &vectors[i]), dot(&vectors[j], &vectors[j]));
                let c = dot(&vectors[i], &vectors[j]);
                if c.abs() <= 1e-15 * (a * b).sqrt() {
                    continue;
                }
                let zeta = (b - a) / (2.0 * c);
                let t = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
                let cos = 1.0 / (1.0 + t * t).sqrt();
                let (left, right) = vectors.split_at_mut(j);
                for (x, y) in left[i].iter_mut().zip(&mut right[0]) {
                    (*x, *y) = (cos * (*x - t * *y), cos * (t * *x + *y));
                }
            }
        }
    }
    vectors.iter().map(|vector| dot(vector, vector).sqrt()).fold(0.0, f64::max)
}

#[test]
fn spectral_norms_are_the_largest_singular_values() {
    let close = |found: f64, expected: f64, what: &str| {
        assert!((found - expected).abs() <= 1e-9 * expected, "{what}: {found}, {expected}");
    };
    for (rows, columns) in [(1, 1), (1, 7), (7, 1), (5, 5), (12, 36), (40, 9), (64, 64), (600, 20)]
    {
        let matrix = numbers(rows * columns, (rows * 100 + columns) as u64);
        close(
            spectral_norm(&matrix, columns),
            jacobi(&matrix, columns),
            &format!("{rows} by {columns}"),
        );
    }
    // Closed forms: u vᵀ has |u| |v|, a diagonal its largest entry, and so has every rotation of it.
    let (u, v) = (numbers(31, 1), numbers(17, 2));
    let outer: Vec<f32> = u.iter().flat_map(|u| v.iter().map(move |v| u * v)).collect();
    let length = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let found = spectral_norm(&outer, 17);
    // The products are rounded to f32.
    assert!((found - length(&u) * length(&v)).abs() < 1e-6 * found);
    let mut diagonal = vec![0.0f32; 30 * 30];
    (0..30).for_each(|i| diagonal[i * 31] = if i == 13 { -7.5 } else { 7.4999 });
    close(spectral_norm(&diagonal, 30), 7.5, "nearly equal values");
    let huge: Vec<f32> = diagonal.iter().map(|x| x * 1e37).collect();
    close(spectral_norm(&huge, 30) / 1e37, f64::from(7.5f32 * 1e37) / 1e37, "huge");
    assert_eq!(spectral_norm(&[0.0; 12], 4), 0.0);
}

#[test]
fn summaries_are_what_they_say() {
    let values: Vec<f32> = (0..101).rev().map(|x| x as f32).collect();
    let found = summarize("w", &[101], &values);
    assert_eq!((found.mean, found.min, found.max), (50.0, 0.0, 100.0));
    assert!((found.std - 850f64.sqrt()).abs() < 1e-9);
    assert!((found.norm - 338_350f64.sqrt()).abs() < 1e-9);
    let quantiles: Vec<(f64, f64)> =
        found.quantiles.iter().map(|it| (it.share, it.value)).collect();
    for (share, value) in quantiles {
        assert!((value - 100.0 * share).abs() < 1e-9, "{share}: {value}");
    }
    assert_eq!(found.histogram.counts.iter().sum::<usize>(), 101);
    // Bins are 100 / 24 wide: the first has 0 to 4, the last 96 to 100.
    assert_eq!((found.histogram.counts[0], found.histogram.counts[23]), (5, 5));
    assert_eq!(found.spectral_norm, None);

    let two = summarize("w", &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    assert_eq!(two.quantiles[3].value, 2.5);
    assert!((two.spectral_norm.unwrap() - 5.4649857).abs() < 1e-6);
    let equal = summarize("w", &[3], &[0.5; 3]);
    assert_eq!((equal.std, equal.histogram.counts[12]), (0.0, 3));
    let broken = summarize("w", &[2, 2], &[1.0, f32::NAN, 3.0, f32::INFINITY]);
    assert_eq!((broken.not_finite, broken.mean, broken.spectral_norm), (2, 2.0, None));
    let none = summarize("w", &[1], &[f32::NAN]);
    assert!(none.mean.is_nan() && none.min.is_nan());

    let mut text = Vec::new();
    write_weights(&mut text, &[found, two, equal, broken, none], Style::PLAIN).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(!text.contains('\x1b'));
}

/// Minus the logarithm of each softmax, in f64.
fn nats(logits: &[f32], id: usize) -> f64 {
    let total: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
    total.ln() - f64::from(logits[id])
}

#[test]
fn surprise_is_that_of_the_models_own_logits() {
    on_each_backend!(|device: B| {
        let text = SEQUENCES[0];
        let row = |tokens: &[u32]| Tensor::<Inner<B>, 2, Int>::from_data(ids(&[tokens]), &device);
        for architecture in ["decoder", "encoder", "encoder-decoder"] {
            let config = with(json!({ "architecture": architecture }));
            let model = model::<Inner<B>>(&config, &device);
            let special = Task::special_tokens(config.architecture);
            let tokenizer = IdTokenizer::new(VOCAB_SIZE - special);
            let task = Task::new(config.architecture, tokenizer.vocab_size(), 0);
            // Below the ids of the task.
            let tokens: Vec<u32> = text.iter().map(|id| id % 11).collect();
            let mut source = None;
            let expected: Vec<f64> = match (&model, task) {
                (Model::Gpt(model), _) => {
                    let logits = floats(model.forward(row(&tokens)).into_data());
                    let rows = logits.chunks(VOCAB_SIZE).zip(&tokens[1..]);
                    rows.map(|(row, id)| nats(row, *id as usize)).collect()
                }
                (Model::Encoder(model), Task::MaskedTokens { mask, .. }) => (0..tokens.len())
                    .map(|place| {
                        let mut masked = tokens.clone();
                        masked[place] = mask;
                        let logits = floats(model.forward(row(&masked), None).into_data());
                        let row = &logits[place * VOCAB_SIZE..][..VOCAB_SIZE - 1];
                        nats(row, tokens[place] as usize)
                    })
                    .collect(),
                (Model::Seq2Seq(model), Task::Translation { begin, end }) => {
                    source = Some(vec![3, 1, 4]);
                    let input = [&[begin], &tokens[..]].concat();
                    let logits = model.forward(row(&[3, 1, 4]), &[3], row(&input));
                    let logits = floats(logits.into_data());
                    let targets = tokens.iter().chain([&end]);
                    let rows = logits.chunks(VOCAB_SIZE).zip(targets);
                    rows.map(|(row, id)| nats(row, *id as usize)).collect()
                }
                _ => unreachable!(),
            };
            let passage = Passage { source, tokens };
            let reading = inside::surprise(&model, &tokenizer, task, &passage);
            let found: Vec<f32> =
                reading.tokens.iter().filter_map(|it| it.surprise).map(|it| it as f32).collect();
            assert_close(&found, &expected, 1e-4, architecture);
            let mean = expected.iter().sum::<f64>() / expected.len() as f64;
            assert!((reading.loss.unwrap() - mean).abs() < 1e-4);
            let first = &reading.tokens[usize::from(architecture == "decoder")];
            assert!(
                first.expected.windows(2).all(|pair| pair[0].probability >= pair[1].probability)
            );
            for style in [Style::PLAIN, Style { color: true, width: 80 }] {
                let mut text = Vec::new();
                write_surprise(&mut text, &reading, style).unwrap();
                let text = String::from_utf8(text).unwrap();
                assert_eq!(text.contains('\x1b'), style.color);
                let plain = console::strip_ansi_codes(&text).into_owned();
                assert!(plain.lines().all(|line| line.chars().count() <= 80), "{plain}");
            }
        }
    });
}

#[test]
fn one_token_is_no_surprise() {
    on_each_backend!(|device: B| {
        let config = with(json!({ "vocab_size": VOCAB_SIZE }));
        let tokenizer = CharacterTokenizer::from_characters("abcdefghijklm").unwrap();
        let model = model::<Inner<B>>(&config, &device);
        let passage = Passage { source: None, tokens: vec![2] };
        let reading = inside::surprise(&model, &tokenizer, Task::NextToken, &passage);
        assert_eq!((reading.loss, reading.tokens[0].surprise), (None, None));
        write_surprise(&mut Vec::new(), &reading, Style::PLAIN).unwrap();
    });
}

#[test]
fn trees_fit_into_eighty_columns_and_fold_what_is_alike() {
    on_each_backend!(|device: B| {
        for change in all_options() {
            let config = with(change.clone());
            let tree = inside::outline(&model::<Inner<B>>(&config, &device), &config, SIZES);
            let mut text = Vec::new();
            write_outline(&mut text, &tree, Style::PLAIN).unwrap();
            let text = String::from_utf8(text).unwrap();
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{change}\n{text}");
            // Two layers are alike, unless only one of them has a window.
            let alike = change["attention"]["full_every"].is_null();
            let has_experts = !change["feed_forward"]["experts"].is_null();
            assert!(
                has_experts || text.contains("blocks.0 to blocks.1") == alike,
                "{change}\n{text}"
            );
        }
    });
}

#[test]
fn text_is_wrapped_at_words_and_bytes_are_visible() {
    assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
    assert_eq!(wrapped("longer than that", 3), ["longer", "than", "that"]);
    assert_eq!(visible("a\tb\n".as_bytes()), "a→b↵\n");
    assert_eq!(visible(&[b'a', 0xff, 0]), "a<0xFF><0x00>");
}
