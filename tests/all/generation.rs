use emberlm::config;
use emberlm::generate::{Sampler, Sampling, Sequence, Utf8Stream, tokens};
use emberlm::model::{Gpt, Initializer};
use std::collections::BTreeSet;

use crate::on_each_backend;
use crate::support::{Inner, numbers};

const PLAIN: Sampling = Sampling { temperature: 1.0, top_k: None, top_p: None, min_p: None };

fn chosen(sampling: Sampling, logits: &[f32], draws: u64) -> Vec<f64> {
    let mut sampler = Sampler::new(sampling, 3).unwrap();
    let mut shares = vec![0.0; logits.len()];
    for _ in 0..draws {
        shares[sampler.choose(logits) as usize] += 1.0 / draws as f64;
    }
    shares
}

#[test]
fn tokens_come_as_often_as_they_are_likely() {
    let logits = [1.0f32, 0.0, -1.0, 2.0];
    for temperature in [0.5, 1.0, 2.0] {
        let weights: Vec<f64> =
            logits.iter().map(|l| (f64::from(*l) / temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        let draws = 40_000;
        let sampling = Sampling { temperature, ..PLAIN };
        for (found, weight) in chosen(sampling, &logits, draws).iter().zip(weights) {
            let p = weight / total;
            let deviation = (p * (1.0 - p) / draws as f64).sqrt();
            assert!((found - p).abs() < 5.0 * deviation, "{found}, expected {p}");
        }
    }
}

#[test]
fn filters_leave_the_tokens_they_should() {
    // Probabilities 0.4, 0.3, 0.2, 0.1, out of order.
    let logits = [0.1f32, 0.4, 0.2, 0.3].map(f32::ln);
    let left = |sampling| -> BTreeSet<usize> {
        let shares = chosen(sampling, &logits, 2000);
        (0..4).filter(|id| shares[*id] > 0.0).collect()
    };
    let top_k = |k| Sampling { top_k: Some(k), ..PLAIN };
    let top_p = |p| Sampling { top_p: Some(p), ..PLAIN };
    let min_p = |p| Sampling { min_p: Some(p), ..PLAIN };
    assert_eq!(left(PLAIN), BTreeSet::from([0, 1, 2, 3]));
    assert_eq!(left(top_k(1)), BTreeSet::from([1]));
    assert_eq!(left(top_k(2)), BTreeSet::from([1, 3]));
    assert_eq!(left(top_k(9)), BTreeSet::from([0, 1, 2, 3]));
    assert_eq!(left(top_p(0.39)), BTreeSet::from([1]));
    assert_eq!(left(top_p(0.41)), BTreeSet::from([1, 3]));
    assert_eq!(left(top_p(0.89)), BTreeSet::from([1, 2, 3]));
    assert_eq!(left(top_p(1.0)), BTreeSet::from([0, 1, 2, 3]));
    assert_eq!(left(min_p(0.6)), BTreeSet::from([1, 3]));
    assert_eq!(left(min_p(0.0)), BTreeSet::from([0, 1, 2, 3]));
    let zero = Sampling { temperature: 0.0, ..PLAIN };
    assert_eq!(left(zero), BTreeSet::from([1]));
}

#[test]
fn settings_out_of_range_are_refused() {
    for (sampling, expected) in [
        (Sampling { temperature: -1.0, ..PLAIN }, "temperature = -1 is out of range"),
        (Sampling { temperature: f64::NAN, ..PLAIN }, "temperature = NaN"),
        (Sampling { top_k: Some(0), ..PLAIN }, "top-k = 0 is out of range: it must be at least 1"),
        (Sampling { top_p: Some(0.0), ..PLAIN }, "top-p = 0"),
        (Sampling { min_p: Some(1.5), ..PLAIN }, "min-p = 1.5"),
    ] {
        let error = Sampler::new(sampling, 0).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn strange_logits_are_survived() {
    let mut sampler = Sampler::new(PLAIN, 1).unwrap();
    assert_eq!(sampler.choose(&[f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY]), 1);
    assert!(sampler.choose(&[f32::NAN, f32::NAN]) < 2);
    assert_eq!(sampler.choose(&[-3.0]), 0);
}

#[test]
fn streams_never_split_a_character() {
    let text = "aß€🦀\u{FFFD}ende 世界";
    let bytes = text.as_bytes();
    for size in 1..=bytes.len() {
        let mut stream = Utf8Stream::new();
        let mut out = String::new();
        for part in bytes.chunks(size) {
            out += &stream.push(part);
            assert!(text.starts_with(&out));
        }
        assert_eq!(out + &stream.finish(), text);
    }
    // Whatever the bytes and the pieces, the result is what a lossy conversion of all gives.
    for seed in 0..500 {
        let bytes: Vec<u8> = numbers(24, seed)
            .iter()
            .map(|x| [b'a', 0xC3, 0x9F, 0xF0, 0x9F, 0xA6, 0x80, 0xFF][(x.abs() * 7.99) as usize])
            .collect();
        let mut stream = Utf8Stream::new();
        let size = 1 + seed as usize % 5;
        let mut out: String = bytes.chunks(size).map(|part| stream.push(part)).collect();
        out += &stream.finish();
        assert_eq!(out, String::from_utf8_lossy(&bytes), "{bytes:02x?} by {size}");
    }
}

#[test]
fn generation_repeats_with_its_seed_and_goes_on_beyond_the_context() {
    on_each_backend!(|device: B| {
        let json = r#"{"name": "small", "model": {"d_model": 16, "n_layers": 1, "n_heads": 2,
            "context_length": 8, "vocab_size": 24}}"#;
        let config = config::resolve(serde_json::from_str(json).unwrap()).unwrap();
        let model: Gpt<Inner<B>> =
            Gpt::new("small", &config.model, 24, Initializer::seeded(1), &device);
        let generate = |seed, prompt: &[u32]| {
            let sampler = Sampler::new(PLAIN, seed).unwrap();
            tokens(&model, 13, Sequence::new(prompt, sampler)).take(40).collect::<Vec<u32>>()
        };
        let first = generate(1, &[1, 2]);
        assert_eq!(first.len(), 40);
        assert!(first.iter().all(|id| *id < 13), "padding of the vocabulary is never chosen");
        assert_eq!(first, generate(1, &[1, 2]));
        assert_ne!(first, generate(2, &[1, 2]));
        // Of a prompt beyond the context the end counts.
        let long: Vec<u32> = (0..30).map(|i| i % 13).collect();
        assert_eq!(generate(1, &long), generate(1, &long[22..]));
    });
}
