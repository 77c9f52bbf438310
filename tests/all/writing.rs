//! How tokens are chosen and how they become text, against definitions written out in f64 and
//! character by character.

use burn::tensor::{Int, Tensor};
use emberlm::backend::GptBackend;
use emberlm::config;
use emberlm::generate::{
    Batch, Choice, Finish, LogProbabilities, NextToken, Overflow, Penalties, Progress, Request,
    RequestError, Sampler, Sampling, SequenceError, TextStream,
};
use emberlm::model::{Cache, Gpt, Initializer, ModelError};
use emberlm::tokenizer::{ByteTokenizer, Tokenizer};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use crate::on_each_backend;
use crate::support::{Inner, numbers};

const PLAIN: Sampling = Sampling { temperature: 1.0, top_k: None, top_p: None, min_p: None };

fn logits(count: usize, seed: u64) -> Vec<f32> {
    numbers(count, seed).into_iter().map(|x| 6.0 * x).collect()
}

/// The filters, one after the other, on a sorted list.
fn filtered(sampling: Sampling, logits: &[f32]) -> Vec<(u32, f64)> {
    let weight = |logit: &f32| (f64::from(*logit) / sampling.temperature).exp();
    let mut all: Vec<(u32, f64)> =
        (0..).zip(logits).map(|(id, logit)| (id, weight(logit))).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let total = |all: &[(u32, f64)]| -> f64 { all.iter().map(|(_, weight)| weight).sum() };
    all.truncate(sampling.top_k.unwrap_or(usize::MAX));
    if let Some(top_p) = sampling.top_p {
        let whole = total(&all);
        let few = (1..=all.len()).find(|count| total(&all[..*count]) / whole >= top_p);
        all.truncate(few.unwrap_or(all.len()));
    }
    if let Some(min_p) = sampling.min_p {
        let most = all[0].1;
        all.retain(|(_, weight)| *weight >= min_p * most);
    }
    let whole = total(&all);
    all.into_iter().map(|(id, weight)| (id, weight / whole)).collect()
}

#[test]
fn distributions_are_those_of_the_filters() {
    // Fewer tokens and more than are sorted at a time, and more than twice as many.
    for (seed, count) in [5, 200, 1000, 9000].into_iter().enumerate() {
        let logits = logits(count, seed as u64);
        for temperature in [0.3, 1.0, 3.0] {
            for top_k in [None, Some(1), Some(40), Some(700), Some(20_000)] {
                for (top_p, min_p) in
                    [(None, None), (Some(0.9), None), (None, Some(0.05)), (Some(0.99), Some(0.2))]
                {
                    let sampling = Sampling { temperature, top_k, top_p, min_p };
                    let (found, expected) =
                        (sampling.distribution(&logits), filtered(sampling, &logits));
                    let ids = |all: &[(u32, f64)]| all.iter().map(|it| it.0).collect::<Vec<_>>();
                    assert_eq!(ids(&found), ids(&expected), "{sampling:?}");
                    for ((_, found), (_, expected)) in found.iter().zip(&expected) {
                        // Both in f64, of sums in another order.
                        assert!((found - expected).abs() < 1e-12, "{sampling:?}");
                    }
                }
            }
        }
    }
    let greedy = Sampling { temperature: 0.0, ..PLAIN };
    assert_eq!(greedy.distribution(&[0.0, 3.0, 3.0]), [(1, 1.0)]);
}

/// A uniform number picks the token that it falls on, where they stand by their probabilities.
#[test]
fn choices_are_drawn_from_the_distribution() {
    for (seed, sampling) in [
        PLAIN,
        Sampling { temperature: 5.0, ..PLAIN },
        Sampling { top_k: Some(300), ..PLAIN },
        Sampling { temperature: 2.0, top_p: Some(0.95), min_p: Some(0.001), ..PLAIN },
    ]
    .into_iter()
    .enumerate()
    {
        let seed = seed as u64;
        let mut sampler = Sampler::new(sampling, seed).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for step in 0..300 {
            let logits = logits(3000, 7 + step);
            let chosen = sampler.choose(&logits);
            let (uniform, mut sum) = (rng.random::<f64>(), 0.0);
            let near = filtered(sampling, &logits).into_iter().find(|(_, probability)| {
                sum += probability;
                sum > uniform
            });
            // A draw within a rounding of the border between two tokens has not been met.
            assert_eq!(Some(chosen), near.map(|(id, _)| id), "{sampling:?}, step {step}");
        }
    }
}

#[test]
fn penalties_are_those_of_their_papers() {
    let logits = [2.0f32, -1.0, 0.5, 3.0, -4.0];
    // 0 is of the prompt, 1 was chosen twice, 3 is of the prompt and was chosen once.
    let count = [0.0, 2.0, 0.0, 1.0, 0.0];
    let there = [true, true, false, true, false];
    for penalties in [
        Penalties { repetition: 1.3, ..Penalties::NONE },
        Penalties { repetition: 0.5, ..Penalties::NONE },
        Penalties { frequency: 0.7, ..Penalties::NONE },
        Penalties { presence: -0.4, ..Penalties::NONE },
        Penalties { repetition: 1.2, frequency: 0.3, presence: 1.5 },
    ] {
        // To make it choose what is to have been chosen, whatever it prefers.
        let only = |token: usize| {
            let mut logits = [-1e4f32; 5];
            logits[token] = 1e4;
            logits
        };
        let expected: Vec<f64> = (0..5)
            .map(|id| {
                let mut logit = f64::from(logits[id]);
                if there[id] {
                    // Keskar et al. divide; transformers multiplies what is below zero.
                    logit = if logit > 0.0 {
                        logit / penalties.repetition
                    } else {
                        logit * penalties.repetition
                    };
                }
                // OpenAI: mu[j] - c[j] * alpha_frequency - float(c[j] > 0) * alpha_presence.
                let chosen = f64::from(count[id] > 0.0);
                logit - count[id] * penalties.frequency - chosen * penalties.presence
            })
            .collect();
        let total: f64 = expected.iter().map(|logit| logit.exp()).sum();
        let draws = 4000;
        let mut found = [0.0; 5];
        for seed in 0..draws {
            let mut sampler = Sampler::new(PLAIN, seed).unwrap().with_penalties(penalties).unwrap();
            sampler.read(&[0, 3, 0, 77]);
            for token in [1, 3, 1] {
                assert_eq!(sampler.choose(&only(token)), token as u32);
            }
            found[sampler.choose(&logits) as usize] += 1.0 / draws as f64;
        }
        for (found, expected) in found.iter().zip(&expected) {
            let p = expected.exp() / total;
            let deviation = (p * (1.0 - p) / draws as f64).sqrt();
            assert!((found - p).abs() < 5.0 * deviation + 1e-9, "{found}, expected {p}");
        }
    }
    for (penalties, expected) in [
        (Penalties { repetition: 0.0, ..Penalties::NONE }, "repetition-penalty = 0 is out of"),
        (Penalties { frequency: f64::NAN, ..Penalties::NONE }, "frequency-penalty = NaN"),
        (Penalties { presence: f64::INFINITY, ..Penalties::NONE }, "presence-penalty = inf"),
    ] {
        let error = Sampler::new(PLAIN, 0).unwrap().with_penalties(penalties).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn log_probabilities_are_those_of_the_softmax() {
    let mut logits = logits(700, 5);
    logits[30] = logits[10]; // of two the first is before the other
    let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    let of = |id: usize| (f64::from(logits[id]).exp() / total).ln();
    let mut order: Vec<usize> = (0..700).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    for token in [0, 10, 30, 699] {
        for count in [0, 1, 20, 700, 900] {
            let found = LogProbabilities::new(&logits, token as u32, count);
            assert!((found.token - of(token)).abs() < 1e-12);
            assert_eq!(found.rank, 1 + order.iter().position(|id| *id == token).unwrap());
            assert_eq!(found.top.len(), count.min(700));
            for ((id, log_probability), expected) in found.top.iter().zip(&order) {
                assert_eq!(*id as usize, *expected);
                assert!((log_probability - of(*expected)).abs() < 1e-12);
            }
        }
    }
    // What is not a number is behind all others, and nothing is likely beside it.
    logits[3] = f32::NAN;
    for token in [0, 3, 10] {
        let found = LogProbabilities::new(&logits, token, 700);
        assert!(found.token.is_nan() && found.rank == 700, "{token}");
        assert_eq!(found.top[699].0, 3);
        assert_eq!(found.top[0].0 as usize, order[0]);
    }
    let found = LogProbabilities::new(&[f32::NAN; 5], 0, 2);
    assert!(found.token.is_nan() && found.rank == 5);
}

/// The first place where a stop string is complete, and what stands before the longest of them.
fn cut<'a>(text: &'a str, stops: &[&str]) -> (&'a str, bool) {
    for (place, character) in text.char_indices() {
        let read = &text[..place + character.len_utf8()];
        let longest =
            stops.iter().filter(|stop| read.ends_with(**stop)).map(|stop| stop.len()).max();
        if let Some(length) = longest {
            return (&read[..read.len() - length], true);
        }
    }
    (text, false)
}

#[test]
fn texts_end_before_the_first_stop_string_however_they_come() {
    let alphabet = ['a', 'b', 'é', '🦀'];
    let sets: [&[&str]; 7] = [
        &["ab"],
        &["aab", "b🦀"],
        &["é", "aé"],
        &["abab", "aba🦀"],
        &["🦀🦀🦀"],
        &["aaaa", "ba", "ééb"],
        &[],
    ];
    for seed in 0..600u64 {
        let stops = sets[seed as usize % sets.len()];
        let text: String =
            numbers(30, seed).iter().map(|x| alphabet[((x + 1.0) * 1.999) as usize]).collect();
        let (expected, stopped) = cut(&text, stops);
        let owned: Vec<String> = stops.iter().map(|stop| (*stop).into()).collect();
        for size in [1, 2, 3, 5, 8, 200] {
            let mut stream = TextStream::new(&owned);
            let mut found = String::new();
            for part in text.as_bytes().chunks(size) {
                found += &stream.push(part);
                // So that no part of a stop string has been passed on, nor of a character.
                assert!(expected.starts_with(&found), "{text} {stops:?} by {size}: {found}");
            }
            found += &stream.finish();
            assert_eq!(found, expected, "{text} {stops:?} by {size}");
            assert_eq!(stream.stopped_by().is_some(), stopped);
            if let Some(stop) = stream.stopped_by() {
                assert!(text[expected.len()..].starts_with(stop));
            }
        }
    }
    // Nothing is held longer than it need be.
    let mut stream = TextStream::new(&["abc".into(), String::new()]);
    assert_eq!(stream.push(b"xa"), "x");
    assert_eq!(stream.push(b"b"), "");
    assert_eq!(stream.push(b"ab"), "ab");
    assert_eq!(stream.push(b"d"), "abd");
}

/// A model that says what it is told to, whatever it reads.
struct Scripted<B: GptBackend> {
    gpt: Gpt<B>,
    script: Vec<u32>,
}

impl<B: GptBackend> NextToken<B> for Scripted<B> {
    fn device(&self) -> B::Device {
        self.gpt.device()
    }

    fn vocab_size(&self) -> usize {
        self.gpt.vocab_size()
    }

    fn context_length(&self) -> usize {
        self.gpt.context_length()
    }

    fn reads_source(&self) -> bool {
        false
    }

    fn new_cache(&self, _source: &[u32]) -> Cache<B> {
        self.gpt.new_cache()
    }

    /// Prompts are of one token here, and sequences enter together.
    fn decode(
        &self,
        tokens: Tensor<B, 2, Int>,
        cache: &mut Cache<B>,
    ) -> Result<Tensor<B, 2>, ModelError> {
        let next = self.script[cache.len() % self.script.len()] as usize;
        let logits = self.gpt.decode(tokens, cache)?;
        let [b, v] = logits.dims();
        let one = Tensor::<B, 2>::ones([b, 1], &self.device()) * 100.0;
        Ok(Tensor::zeros([b, v], &self.device()).slice_assign([0..b, next..next + 1], one))
    }
}

fn scripted<B: GptBackend>(script: &str, device: &B::Device) -> Scripted<B> {
    let config = json!({ "name": "a", "model": { "d_model": 4, "n_layers": 1, "n_heads": 1,
        "context_length": 64, "vocab_size": 257 } });
    let config = config::resolve(config).unwrap().model;
    let script = ByteTokenizer.encode(script).unwrap();
    Scripted { gpt: Gpt::new("a", &config, 257, Initializer::seeded(1), device), script }
}

fn written<B: GptBackend>(model: &Scripted<B>, request: Request) -> Vec<Progress> {
    let mut batch = Batch::new(model, &ByteTokenizer, ByteTokenizer.end_of_text());
    let ticket = batch.enter(request).unwrap();
    let mut all = Vec::new();
    while !batch.is_empty() {
        for (whose, progress) in batch.step() {
            assert_eq!(whose, ticket);
            all.push(progress);
        }
    }
    assert!(all[..all.len() - 1].iter().all(|progress| progress.finish.is_none()));
    all
}

fn text(all: &[Progress]) -> String {
    all.iter().map(|progress| &progress.text[..]).collect()
}

#[test]
fn requests_end_for_the_reason_that_they_say() {
    on_each_backend!(|device: B| {
        let script = "aß€🦀 世界 stop here";
        let model: Scripted<Inner<B>> = scripted(script, &device);
        let request = |max_tokens| Request::new(vec![0], PLAIN, 1, max_tokens);
        let last = |all: &[Progress]| all.last().unwrap().finish.clone().unwrap();

        let all = written(&model, request(script.len()));
        assert_eq!(text(&all), script);
        assert_eq!((all.len(), last(&all)), (script.len(), Finish::MaxTokens));
        let mut so_far = String::new();
        for progress in &all {
            so_far += &progress.text;
            assert!(script.starts_with(&so_far), "whole characters only: {so_far}");
        }
        // In the middle of a character there is nothing better to say.
        assert_eq!(text(&written(&model, request(2))), "a\u{FFFD}");
        let none = written(&model, request(0));
        assert_eq!((text(&none), last(&none), none.len()), ("".into(), Finish::MaxTokens, 1));

        let stop = |stops: &[&str]| Request {
            stop_strings: stops.iter().map(|stop| (*stop).into()).collect(),
            ..request(100)
        };
        let all = written(&model, stop(&["top", "界 s"]));
        assert_eq!(
            (text(&all), last(&all)),
            ("aß€🦀 世".into(), Finish::StopString("界 s".into()))
        );
        assert_eq!(last(&all).name(), "stop");
        // A beginning of a stop string that comes to nothing is text, at the end too.
        let all = written(&model, Request { max_tokens: script.len(), ..stop(&["here!"]) });
        assert_eq!((text(&all), last(&all)), (script.into(), Finish::MaxTokens));
        assert_eq!(last(&all).name(), "length");

        let token = ByteTokenizer.encode("t").unwrap()[0];
        let all = written(&model, Request { stop_tokens: vec![token], ..request(100) });
        assert_eq!((text(&all), last(&all)), ("aß€🦀 世界 s".into(), Finish::StopToken(token)));
        assert_eq!(all.last().unwrap().choice.as_ref().unwrap().token, token);
        let all = written(&model, Request { overflow: Overflow::Stop, ..request(1000) });
        assert_eq!((all.len(), last(&all)), (65, Finish::Context));
        assert!(all[64].choice.is_none());

        let mut batch = Batch::new(&model, &ByteTokenizer, None);
        let error = batch.enter(Request::new(Vec::new(), PLAIN, 1, 5)).unwrap_err();
        assert_eq!(error, RequestError::Sequence(SequenceError::EmptyPrompt));
        let hot = Sampling { temperature: -1.0, ..PLAIN };
        let error = batch.enter(Request::new(vec![0], hot, 1, 5)).unwrap_err();
        assert!(error.to_string().contains("temperature = -1"), "{error}");
        assert!(batch.is_empty() && batch.step().is_empty());
    });
}

/// What others ask for, and that they hang up, is nothing to a request.
#[test]
fn requests_come_and_go_without_a_trace() {
    on_each_backend!(|device: B| {
        let model: Scripted<Inner<B>> = scripted("unused", &device);
        let gpt = &model.gpt;
        let request = |number: u64| Request {
            penalties: Penalties { frequency: 0.2, ..Penalties::NONE },
            alternatives: Some(2),
            ..Request::new(vec![number as u32; 1 + number as usize], PLAIN, number, 30)
        };
        let alone = |number: u64| -> Vec<Progress> {
            let mut batch = Batch::new(gpt, &ByteTokenizer, None);
            batch.enter(request(number)).unwrap();
            let mut all = Vec::new();
            while !batch.is_empty() {
                all.extend(batch.step().into_iter().map(|(_, progress)| progress));
            }
            all
        };
        let mut batch = Batch::new(gpt, &ByteTokenizer, None);
        let mut told: Vec<(_, Vec<Progress>)> = Vec::new();
        let mut gone = Vec::new();
        for step in 0..60 {
            if step < 20 {
                told.push((batch.enter(request(step)).unwrap(), Vec::new()));
            }
            for (ticket, progress) in batch.step() {
                told.iter_mut().find(|(known, _)| *known == ticket).unwrap().1.push(progress);
            }
            // Every third hangs up in the middle.
            if step % 3 == 2 && (10..30).contains(&step) {
                let ticket = told[step as usize - 10].0;
                assert!(batch.leave(ticket) && !batch.leave(ticket));
                gone.push(ticket);
            }
        }
        assert!(batch.is_empty() && gone.len() == 7);
        for (number, (ticket, told)) in told.into_iter().enumerate() {
            let expected = alone(number as u64);
            let count = if gone.contains(&ticket) { told.len() } else { expected.len() };
            assert_eq!(told, expected[..count], "{number}");
            assert!(gone.contains(&ticket) || told.len() == 30);
            let choices: Vec<&Choice> = told.iter().flat_map(|it| &it.choice).collect();
            assert!(choices.iter().all(|it| it.log_probabilities.as_ref().unwrap().top.len() == 2));
        }
    });
}
