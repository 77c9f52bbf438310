use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData};
use emberlm::config::{self, ModelConfig, Source};
use emberlm::model::{
    Gpt, Initializer, ModelError, Positions, load_parameters, parameter_count, tensors,
};

use crate::on_each_backend;
use crate::support::{Inner, floats};

fn small(tied_head: bool) -> ModelConfig {
    let json = format!(
        r#"{{"name": "small", "model": {{"d_model": 24, "n_layers": 2, "n_heads": 3,
        "context_length": 16, "tied_head": {tied_head}, "dropout": 0.1}}}}"#
    );
    config::resolve(serde_json::from_str(&json).unwrap()).unwrap().model
}

fn ids<B: burn::tensor::backend::Backend>(ids: &[i32], device: &B::Device) -> Tensor<B, 2, Int> {
    Tensor::from_data(TensorData::new(ids.to_vec(), [1, ids.len()]), device)
}

#[test]
fn parameter_counts_are_those_of_the_originals() {
    let model = |name, assignments: &[&str]| {
        let assignments: Vec<String> = assignments.iter().map(|text| text.to_string()).collect();
        config::load(&Source::Builtin(name), &assignments).unwrap().model
    };
    let count = |config: &ModelConfig, vocab_size| parameter_count(config, vocab_size);
    let positions = |config: &ModelConfig| config.context_length * config.d_model;
    // OpenAI's four, as Hugging Face counts them.
    for (name, expected) in [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ] {
        assert_eq!(count(&model(name, &[]), 50257), expected, "{name}");
    }
    let gpt2 = model("gpt2", &[]);
    assert_eq!(count(&gpt2, 50257) - positions(&gpt2), 123_653_376);
    // nanoGPT counts without positions.
    let nano = model("gpt2", &["model.bias=false", "model.vocab_size=50304"]);
    assert_eq!(count(&nano, 50304) - positions(&nano), 123_587_328);
    let shakespeare = model("shakespeare-char", &[]);
    assert_eq!(count(&shakespeare, 65) - positions(&shakespeare), 10_646_784);
}

#[test]
fn the_count_is_that_of_a_model_that_was_built() {
    on_each_backend!(|device: B| {
        for tied_head in [true, false] {
            for bias in [true, false] {
                let config = ModelConfig { bias, ..small(tied_head) };
                let model: Gpt<Inner<B>> =
                    Gpt::new("small", &config, 13, Initializer::Zeros, &device);
                assert_eq!(model.num_params(), parameter_count(&config, 13));
            }
        }
    });
}

#[test]
fn a_seed_gives_the_same_model_on_every_backend() {
    let values = std::sync::Mutex::new(Vec::new());
    for kind in crate::support::cpu_backends() {
        struct Build;
        impl emberlm::backend::Job for Build {
            type Output = Vec<(String, TensorData)>;
            fn run<B: emberlm::backend::TrainBackend>(self, device: B::Device) -> Self::Output {
                let initializer = Initializer::seeded(5);
                tensors(&Gpt::<Inner<B>>::new("a", &small(false), 13, initializer, &device))
            }
        }
        values.lock().unwrap().push(emberlm::backend::dispatch(kind, Build).unwrap());
    }
    let values = values.into_inner().unwrap();
    for other in &values[1..] {
        assert_eq!(&values[0], other);
    }
    let names: Vec<&str> = values[0].iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        &names[..5],
        [
            "embedding.token",
            "embedding.position",
            "decoder.blocks.0.attention_norm.weight",
            "decoder.blocks.0.attention_norm.bias",
            "decoder.blocks.0.attention.qkv.weight",
        ]
    );
}

#[test]
fn initial_weights_have_gpt2s_deviations() {
    on_each_backend!(|device: B| {
        let config = ModelConfig { d_model: 96, ..small(true) };
        let model: Gpt<Inner<B>> = Gpt::new("a", &config, 500, Initializer::seeded(1), &device);
        for (name, data) in tensors(&model) {
            let values = floats(data);
            let count = values.len() as f64;
            let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
            let square = values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / count;
            let deviation = (square - mean * mean).max(0.0).sqrt();
            let residual = name.ends_with("output.weight") || name.ends_with("down.weight");
            let expected = match name.rsplit('.').next().unwrap() {
                "bias" => 0.0,
                _ if name.contains("norm") => {
                    assert_eq!(mean, 1.0, "{name}");
                    0.0
                }
                _ if residual => 0.02 / 4f64.sqrt(), // two layers of two branches
                _ => 0.02,
            };
            // The deviation of a deviation is its value over the root of twice the count.
            let tolerance = 6.0 * expected / (2.0 * count).sqrt();
            assert!((deviation - expected).abs() <= tolerance, "{name}: {deviation}");
        }
    });
}

#[test]
fn cached_logits_are_the_uncached_ones() {
    on_each_backend!(|device: B| {
        for tied_head in [true, false] {
            let model: Gpt<Inner<B>> =
                Gpt::new("a", &small(tied_head), 13, Initializer::seeded(3), &device);
            let sequence: Vec<i32> = (0..16).map(|i| i * 5 % 13).collect();
            let all = floats(model.forward(ids(&sequence, &device)).into_data());
            for cut in [&[16][..], &[1; 16], &[5, 1, 1, 9], &[15, 1]] {
                let mut cache = model.new_cache();
                let mut end = 0;
                for length in cut {
                    let part = &sequence[end..end + length];
                    end += length;
                    let logits = model.decode(ids(part, &device), &mut cache).unwrap();
                    let expected: Vec<f64> =
                        all[(end - 1) * 13..end * 13].iter().map(|x| f64::from(*x)).collect();
                    // Sums of another blocking; logits here are below one.
                    crate::support::assert_close(
                        &floats(logits.into_data()),
                        &expected,
                        1e-6,
                        "cached logits",
                    );
                }
                assert_eq!(cache.len(), 16);
                let overflow = model.decode(ids(&[1], &device), &mut cache).unwrap_err();
                assert!(matches!(
                    overflow,
                    ModelError::ContextOverflow { seen: 16, new: 1, context_length: 16 }
                ));
                assert_eq!(cache.len(), 16);
            }
        }
    });
}

#[test]
fn the_future_does_not_change_the_past() {
    on_each_backend!(|device: B| {
        let model: Gpt<Inner<B>> = Gpt::new("a", &small(true), 13, Initializer::seeded(3), &device);
        let run = |sequence: &[i32]| floats(model.forward(ids(sequence, &device)).into_data());
        let (a, b) = (run(&[1, 2, 3, 4, 5, 6]), run(&[1, 2, 3, 9, 9, 9]));
        assert_eq!(a[..3 * 13], b[..3 * 13]);
        assert_ne!(a[3 * 13..], b[3 * 13..]);
        let last = model.predict(ids(&[1, 2, 3, 4, 5, 6], &device), Positions::Last);
        assert_eq!(last.dims(), [1, 1, 13]);
        let all = model.predict(ids(&[1, 2, 3, 4, 5, 6], &device), Positions::All);
        assert_eq!(floats(all.into_data()), a);
        let expected: Vec<f64> = a[5 * 13..].iter().map(|x| f64::from(*x)).collect();
        crate::support::assert_close(&floats(last.into_data()), &expected, 1e-6, "last");
    });
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    on_each_backend!(|device: B| {
        let model: Gpt<Inner<B>> = Gpt::new("a", &small(true), 13, Initializer::seeded(3), &device);
        let saved = tensors(&model);
        let blank = || Gpt::<Inner<B>>::new("a", &small(true), 13, Initializer::Zeros, &device);
        let find = |name: &str| {
            saved.iter().find(|(saved, _)| saved == name).map(|(_, data)| data.clone())
        };
        let restored = load_parameters(blank(), find).unwrap();
        assert_eq!(tensors(&restored), saved);

        let missing = |name: &str| if name.contains("1.feed") { None } else { find(name) };
        let error = load_parameters(blank(), missing).unwrap_err().to_string();
        assert_eq!(
            error,
            "tensor `decoder.blocks.1.feed_forward_norm.weight` is missing; the configuration says it has shape [24]"
        );
        let other = |name: &str| find(name.split('.').next().map_or(name, |_| "embedding.token"));
        let error = load_parameters(blank(), other).unwrap_err().to_string();
        assert_eq!(
            error,
            "tensor `embedding.position` is [13, 24], the configuration says [16, 24]"
        );
    });
}
