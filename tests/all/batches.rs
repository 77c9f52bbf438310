//! Sequences that are continued together come out as each does alone: bit by bit on backends that
//! promise it, and otherwise but for how the products of a few rows are added up.

use burn::tensor::{Int, Tensor, TensorData};
use emberlm::backend::GptBackend;
use emberlm::config::{self, Architecture, ModelConfig, Source};
use emberlm::generate::{
    Choice, LogProbabilities, Next, NextToken, Overflow, Penalties, Sampler, Sampling, Sequence,
    SequenceError, Slots, Ticket,
};
use emberlm::model::{Gpt, Initializer, Model, ModelError, load_parameters, parameter_shapes};
use serde_json::{Value, json};
use std::collections::BTreeMap;

use crate::on_each_backend;
use crate::support::{Inner, assert_close, floats, numbers};

const PLAIN: Sampling = Sampling { temperature: 1.0, top_k: None, top_p: None, min_p: None };
const GREEDY: Sampling = Sampling { temperature: 0.0, ..PLAIN };

/// A sequence that is asked for at a step, and is left after so many tokens.
#[derive(Debug, Clone)]
struct Visit {
    source: Vec<u32>,
    prompt: Vec<u32>,
    seed: u64,
    overflow: Overflow,
    enters: usize,
    tokens: usize,
}

impl Visit {
    /// Every other one is greedy. All logits are asked for, so that not only choices are compared.
    fn sequence(&self, vocab_size: usize) -> Sequence {
        let sampling = if self.seed.is_multiple_of(2) { GREEDY } else { PLAIN };
        let penalties = Penalties { repetition: 1.1, ..Penalties::NONE };
        let sampler = Sampler::new(sampling, self.seed).unwrap().with_penalties(penalties).unwrap();
        Sequence {
            source: self.source.clone(),
            prompt: self.prompt.clone(),
            sampler,
            overflow: self.overflow,
            alternatives: Some(vocab_size),
        }
    }
}

/// Visits of all kinds, more of them at a time than go through the model together.
fn visits(
    vocab_size: usize,
    context_length: usize,
    reads_source: bool,
    count: usize,
) -> Vec<Visit> {
    let ids = |seed: u64, length: usize| -> Vec<u32> {
        let numbers = numbers(length, seed).into_iter();
        numbers.map(|x| ((x + 1.0) / 2.0 * (vocab_size as f32 - 0.01)) as u32).collect()
    };
    (0..count)
        .map(|number| {
            let seed = number as u64;
            let length = |most: usize| 1 + number * 7 % most;
            let overflow = match number % 3 {
                0 => Overflow::Stop,
                1 => Overflow::Slide { kept: 0 },
                _ => Overflow::Slide { kept: 1 },
            };
            Visit {
                source: if reads_source { ids(seed + 50, length(7)) } else { Vec::new() },
                prompt: ids(seed + 90, length(context_length)),
                seed,
                overflow,
                enters: number / 4,
                tokens: 2 + number * 5 % (context_length + 3),
            }
        })
        .collect()
}

/// What each visit is told, all of them in one place.
fn together<B: GptBackend>(model: &impl NextToken<B>, visits: &[Visit]) -> Vec<Vec<Choice>> {
    let vocab_size = model.vocab_size();
    let mut slots = Slots::new(model, vocab_size);
    let mut told = vec![Vec::new(); visits.len()];
    let mut there: BTreeMap<Ticket, usize> = BTreeMap::new();
    let mut step = 0;
    while step == 0 || !there.is_empty() {
        for (number, visit) in visits.iter().enumerate().filter(|(_, it)| it.enters == step) {
            there.insert(slots.enter(visit.sequence(vocab_size)).unwrap(), number);
        }
        let nexts = slots.step();
        assert!(nexts.is_sorted_by_key(|(ticket, _)| *ticket), "in their order");
        for (ticket, next) in nexts {
            let number = there[&ticket];
            match next {
                Next::Token(choice) => told[number].push(choice),
                Next::Full => {
                    assert_eq!(visits[number].overflow, Overflow::Stop);
                    there.remove(&ticket);
                    assert!(!slots.leave(ticket), "it has left");
                }
            }
            if told[number].len() == visits[number].tokens && there.remove(&ticket).is_some() {
                assert!(slots.leave(ticket));
            }
        }
        assert_eq!(slots.len(), there.len());
        step += 1;
    }
    told
}

/// That tokens are the same, and their logarithms as sums of f32 in another order are.
fn assert_alike(found: &[Choice], expected: &[Choice], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found.token, expected.token, "{what}");
        let by_token = |choice: &Choice| {
            let mut top = choice.log_probabilities.clone().unwrap().top;
            top.sort_by_key(|(token, _)| *token);
            top
        };
        for ((_, found), (_, expected)) in by_token(found).into_iter().zip(by_token(expected)) {
            // Logits of some ten, times some ten roundings.
            assert!((found - expected).abs() < 1e-5, "{what}: {found}, not {expected}");
        }
    }
}

/// Holds visits together to each of them alone.
pub fn check<B: GptBackend>(model: &impl NextToken<B>, count: usize, what: &str) {
    let visits = visits(model.vocab_size(), model.context_length(), model.reads_source(), count);
    let told = together(model, &visits);
    for (number, (visit, told)) in visits.iter().zip(told).enumerate() {
        let alone = Visit { enters: 0, ..visit.clone() };
        let (expected, what) =
            (&together(model, &[alone])[0], format!("{what}: {number}, {visit:?}"));
        match B::equal_rows() {
            Some(_) => assert_eq!(&told, expected, "{what}"),
            None => assert_alike(&told, expected, &what),
        }
    }
}

fn resolve(model: Value) -> ModelConfig {
    config::resolve(json!({ "name": "batches", "model": model })).unwrap().model
}

/// Products large enough to be shared among threads, and a window that is narrower than the text.
#[test]
fn sequences_together_are_as_they_are_alone() {
    on_each_backend!(|device: B| {
        for (model, count) in [
            (
                json!({ "d_model": 128, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_ff": 384,
                "context_length": 100, "vocab_size": 515, "position": { "kind": "rotary" },
                "attention": { "window": 20, "full_every": 2 } }),
                12,
            ),
            (
                json!({ "d_model": 72, "n_layers": 1, "n_heads": 2, "context_length": 70,
                "vocab_size": 301, "tied_head": false, "head_bias": true }),
                20,
            ),
        ] {
            let config = resolve(model);
            let vocab_size = config.vocab_size.unwrap();
            let model: Gpt<Inner<B>> =
                Gpt::new("a", &config, vocab_size, Initializer::seeded(3), &device);
            check(&model, count, "floats");
            let device = model.device();
            if emberlm::backend::check_int8::<Inner<B>>(
                emberlm::backend::BackendKind::Flex,
                &device,
            )
            .is_ok()
            {
                check(&model.quantize_int8(), count, "bytes");
            }
        }
    });
}

/// Every shipped configuration, made small: its model says the same to a text in parts as to the
/// whole of it, and the same to texts together as to each alone.
#[test]
fn shipped_configurations_decode_as_they_read() {
    on_each_backend!(|device: B| {
        let load = |name| config::load(&Source::Builtin(name), &[]);
        // One is of no model of its own, and encoders continue nothing.
        let configs = config::builtin_names().filter_map(|name| load(name).ok());
        let mut checked = 0;
        for config in configs.filter(|it| it.model.architecture != Architecture::Encoder) {
            let (name, mut model) = (config.name, config.model);
            model.n_layers = 3;
            model.n_encoder_layers = model.n_encoder_layers.map(|_| 2);
            model.d_model = 8 * model.n_heads;
            model.head_dim = model.head_dim.map(|_| 12);
            model.d_ff = Some(24);
            (model.context_length, model.vocab_size) = (20, Some(31));
            model.attention.window = model.attention.window.map(|_| 5);
            let blank = Model::<Inner<B>>::new(&name, &model, 31, Initializer::Zeros, &device);
            let shapes = parameter_shapes(&model, 31);
            let find = |name: &str| {
                let place = shapes.iter().position(|(known, _)| known == name)?;
                let shape = shapes[place].1.clone();
                let centre = if name.ends_with("norm.weight") { 1.0 } else { 0.0 };
                let values = numbers(shape.iter().product(), place as u64 + 7);
                let values: Vec<f32> = values.iter().map(|x| centre + 0.3 * x).collect();
                Some(TensorData::new(values, shape))
            };
            let text: Vec<u32> = (0..20).map(|i| i * 11 % 31).collect();
            match load_parameters(blank, find).unwrap() {
                Model::Gpt(gpt) => {
                    let all = gpt.forward(tensor::<Inner<B>>(&text, &device));
                    check_parts(&gpt, &[], &text, &floats(all.into_data()), &name);
                    check(&gpt, 5, &name);
                }
                Model::Seq2Seq(seq2seq) => {
                    let source = [4, 9, 2, 30];
                    let read = tensor::<Inner<B>>(&source, &device);
                    let all = seq2seq.forward(read, &[4], tensor::<Inner<B>>(&text, &device));
                    check_parts(&seq2seq, &source, &text, &floats(all.into_data()), &name);
                    check(&seq2seq, 5, &name);
                }
                Model::Encoder(_) => panic!(),
            }
            checked += 1;
        }
        assert_eq!(checked, config::builtin_names().count() - 2);
    });
}

fn tensor<B: GptBackend>(ids: &[u32], device: &B::Device) -> Tensor<B, 2, Int> {
    let ids: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
    let shape = [1, ids.len()];
    Tensor::from_data(TensorData::new(ids, shape), device)
}

/// Holds what a text in parts leads to against the logits of all of it, `[T, V]`.
fn check_parts<B: GptBackend>(
    model: &impl NextToken<B>,
    source: &[u32],
    text: &[u32],
    all: &[f32],
    what: &str,
) {
    let vocab_size = model.vocab_size();
    for parts in [&[1; 20][..], &[20], &[3, 1, 1, 7, 1, 6, 1], &[12, 8]] {
        let (mut cache, mut end) = (model.new_cache(source), 0);
        for length in parts {
            let part = tensor::<B>(&text[end..end + length], &model.device());
            end += length;
            let logits = floats(model.decode(part, &mut cache).unwrap().into_data());
            let expected = &all[(end - 1) * vocab_size..end * vocab_size];
            let expected: Vec<f64> = expected.iter().map(|x| f64::from(*x)).collect();
            // What is promised of cached decoding.
            assert_close(&logits, &expected, 1e-4, &format!("{what}, {parts:?}, after {end}"));
        }
    }
}

/// Reads rows of their own lengths into one cache, forgets some, doubles others, goes on with all
/// of them at once, and holds that to what each text gives without a cache.
#[test]
fn rows_of_a_cache_come_and_go() {
    on_each_backend!(|device: B| {
        for more in [
            json!({ "position": { "kind": "rotary" } }),
            json!({ "position": { "kind": "alibi" }, "attention": { "window": 9 } }),
            json!({ "position": { "kind": "sinusoidal" }, "attention": { "window": 70 } }),
            json!({}),
        ] {
            let mut model = json!({ "d_model": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2,
                "context_length": 150, "vocab_size": 17 });
            model.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let config = resolve(model);
            let model: Gpt<Inner<B>> = Gpt::new("a", &config, 17, Initializer::seeded(3), &device);
            let ids = |seed: u64, length: usize| -> Vec<i32> {
                numbers(length, seed).iter().map(|x| ((x + 1.0) * 8.49) as i32).collect()
            };
            let tensor = |ids: &[i32], rows: usize| {
                let data = TensorData::new(ids.to_vec(), [rows, ids.len() / rows]);
                Tensor::<Inner<B>, 2, Int>::from_data(data, &device)
            };
            let mut texts: Vec<Vec<i32>> = Vec::new();
            let mut cache = Gpt::new_cache(&model);
            let go_on = |texts: &mut Vec<Vec<i32>>, cache: &mut _, steps: u64| {
                for step in 0..steps {
                    let new = ids(1000 + step, texts.len());
                    texts.iter_mut().zip(&new).for_each(|(text, id)| text.push(*id));
                    let logits = model.decode(tensor(&new, texts.len()), cache).unwrap();
                    let logits = floats(logits.into_data());
                    for (row, text) in texts.iter().enumerate() {
                        let all = model.forward(tensor(text, 1)); // [1, S, V]
                        let last = floats(all.narrow(1, text.len() - 1, 1).into_data());
                        let last: Vec<f64> = last.into_iter().map(f64::from).collect();
                        // Sums of another blocking; logits here are below one.
                        let found = &logits[row * 17..][..17];
                        assert_close(found, &last, 1e-5, &format!("{more}, row {row}"));
                    }
                }
            };
            for (number, length) in [3, 80, 1, 64, 30].into_iter().enumerate() {
                let text = ids(number as u64, length);
                let mut own = Gpt::new_cache(&model);
                model.decode(tensor(&text, 1), &mut own).unwrap();
                cache.append(own);
                texts.push(text);
                assert_eq!(cache.rows(), texts.len());
                go_on(&mut texts, &mut cache, 2);
            }
            let clone = cache.clone();
            for row in [1, 3, 0] {
                cache.swap_remove(row);
                texts.swap_remove(row);
                go_on(&mut texts, &mut cache, 1);
            }
            let selected = [1, 0, 1];
            cache.select(&selected);
            let mut texts: Vec<Vec<i32>> = selected.iter().map(|row| texts[*row].clone()).collect();
            go_on(&mut texts, &mut cache, 3);
            assert_eq!((clone.rows(), clone.len()), (5, 88));
            while cache.rows() > 0 {
                cache.swap_remove(0);
            }
            assert!(cache.is_empty());
        }
    });
}

#[test]
fn what_a_cache_cannot_continue_is_refused() {
    on_each_backend!(|device: B| {
        let config = resolve(json!({ "d_model": 8, "n_layers": 1, "n_heads": 2,
            "context_length": 6, "vocab_size": 5 }));
        let model: Gpt<Inner<B>> = Gpt::new("a", &config, 5, Initializer::seeded(3), &device);
        let tokens = |rows: usize, t: usize| Tensor::<Inner<B>, 2, Int>::zeros([rows, t], &device);
        let mut cache = Gpt::new_cache(&model);
        model.decode(tokens(1, 3), &mut cache).unwrap();
        let error = model.decode(tokens(2, 1), &mut cache).unwrap_err();
        assert!(matches!(error, ModelError::OtherRows { held: 1, rows: 2 }));
        let mut other = Gpt::new_cache(&model);
        model.decode(tokens(2, 1), &mut other).unwrap();
        cache.append(other);
        let error = model.decode(tokens(3, 2), &mut cache).unwrap_err();
        assert!(matches!(error, ModelError::DifferentLengths { new: 2 }));
        for _ in 0..3 {
            model.decode(tokens(3, 1), &mut cache).unwrap();
        }
        let error = model.decode(tokens(3, 1), &mut cache).unwrap_err();
        let expected = ModelError::ContextOverflow { seen: 6, new: 1, context_length: 6 };
        assert_eq!(error.to_string(), expected.to_string());
        assert_eq!(cache.len(), 6);
    });
}

#[test]
fn sequences_that_cannot_be_read_are_refused() {
    on_each_backend!(|device: B| {
        let model = json!({ "d_model": 8, "n_layers": 1, "n_heads": 2, "context_length": 6,
            "vocab_size": 5 });
        let gpt: Gpt<Inner<B>> =
            Gpt::new("a", &resolve(model.clone()), 5, Initializer::seeded(3), &device);
        let sampler = || Sampler::new(GREEDY, 0).unwrap();
        let mut slots = Slots::new(&gpt, 5);
        let mut refused = |sequence| slots.enter(sequence).unwrap_err();
        assert_eq!(refused(Sequence::new(&[], sampler())), SequenceError::EmptyPrompt);
        let unknown = SequenceError::UnknownToken { id: 5, vocab_size: 5 };
        assert_eq!(refused(Sequence::new(&[1, 5], sampler())), unknown);
        let long = Sequence { overflow: Overflow::Stop, ..Sequence::new(&[1; 7], sampler()) };
        let too_long = SequenceError::LongPrompt { length: 7, context_length: 6 };
        assert_eq!(refused(long), too_long);
        let source = refused(Sequence::translation(&[1], 0, sampler()));
        assert_eq!(source, SequenceError::Source { length: 1, most: 0 });
        assert!(slots.is_empty() && slots.step().is_empty());

        let mut translator = model;
        translator["architecture"] = json!("encoder-decoder");
        let config = resolve(translator);
        let built = Model::<Inner<B>>::new("a", &config, 5, Initializer::seeded(3), &device);
        let Model::Seq2Seq(seq2seq) = built else { panic!() };
        let mut slots = Slots::new(&seq2seq, 5);
        for source in [&[][..], &[1; 7]] {
            let error = slots.enter(Sequence::translation(source, 0, sampler())).unwrap_err();
            assert_eq!(error, SequenceError::Source { length: source.len(), most: 6 });
        }
    });
}

/// Prompts that are read in several pieces, beside sequences that go on meanwhile.
#[test]
fn long_prompts_are_read_in_pieces_as_they_are_read_whole() {
    on_each_backend!(|device: B| {
        let base = json!({ "d_model": 32, "n_layers": 2, "n_heads": 2, "context_length": 620 });
        for (name, options) in [
            ("learned", json!({})),
            (
                "rotary, window",
                json!({ "position": { "kind": "rotary" }, "n_kv_heads": 1, "attention": { "window": 100 } }),
            ),
            (
                "alibi, window",
                json!({ "position": { "kind": "alibi" }, "attention": { "window": 300 } }),
            ),
        ] {
            let mut model = base.clone();
            model.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
            let model: Gpt<Inner<B>> =
                Gpt::new("long", &resolve(model), 97, Initializer::seeded(5), &device);
            let ids = |length: usize| -> Vec<u32> {
                (0..length as u32).map(|at| (at * at / 3 + 7 * at) % 97).collect()
            };
            let sequence = |length: usize| Sequence {
                overflow: Overflow::Stop,
                alternatives: Some(97),
                ..Sequence::new(&ids(length), Sampler::new(GREEDY, 0).unwrap())
            };
            let mut slots = Slots::new(&model, 97);
            let running = slots.enter(sequence(3)).unwrap();
            slots.step();
            for (length, pieces) in [(255, 1), (256, 2), (383, 2), (384, 3), (600, 4)] {
                let long = slots.enter(sequence(length)).unwrap();
                // Another one that has to wait, and is left before its turn.
                let waiting = slots.enter(sequence(500)).unwrap();
                let mut first = None;
                for step in 1..=pieces {
                    let nexts = slots.step();
                    assert_eq!(nexts[0].0, running, "it is not held up");
                    let found = nexts.into_iter().find(|(ticket, _)| *ticket == long);
                    assert_eq!(found.is_some(), step == pieces, "{length}: step {step}");
                    first = found.map(|(_, next)| next);
                }
                assert!(slots.leave(waiting) && slots.leave(long) && slots.len() == 1);
                let Some(Next::Token(first)) = first else { panic!("{length}") };
                let whole: Vec<i32> = ids(length).into_iter().map(|id| id as i32).collect();
                let whole = Tensor::from_data(TensorData::new(whole, [1, length]), &device);
                let logits = model.decode(whole, &mut model.new_cache()).unwrap();
                let logits = floats(logits.into_data());
                let expected = LogProbabilities::new(&logits, first.token, 97);
                let found = first.log_probabilities.unwrap();
                // A window keeps other keys beside those of a piece than of the whole.
                if name == "learned" && <Inner<B> as GptBackend>::equal_rows().is_some() {
                    assert_eq!(found, expected, "{name}, {length} tokens");
                }
                let by_id = |mut top: Vec<(u32, f64)>| {
                    top.sort_by_key(|(id, _)| *id);
                    top.into_iter().map(|(_, log_probability)| log_probability)
                };
                let difference = by_id(found.top).zip(by_id(expected.top));
                let difference = difference.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(difference < 1e-4, "{name}, {length} tokens: {difference}");
            }
        }
    });
}

/// A long source is read alone, and of short ones as many as make up a piece.
#[test]
fn sources_are_read_a_few_in_a_step() {
    on_each_backend!(|device: B| {
        let config = resolve(json!({ "architecture": "encoder-decoder", "d_model": 8,
            "n_layers": 1, "n_heads": 2, "context_length": 130, "vocab_size": 5 }));
        let built = Model::<Inner<B>>::new("a", &config, 5, Initializer::seeded(3), &device);
        let Model::Seq2Seq(model) = built else { panic!() };
        let enter = |slots: &mut Slots<_, _>, number: usize, length: usize| {
            let source: Vec<u32> = (0..length).map(|at| ((at + number) % 5) as u32).collect();
            let sampler = Sampler::new(GREEDY, 0).unwrap();
            slots.enter(Sequence::translation(&source, 0, sampler)).unwrap()
        };
        let lengths = [130, 130, 60, 60, 60, 60];
        let mut slots = Slots::new(&model, 5);
        let tickets: Vec<Ticket> =
            lengths.iter().enumerate().map(|(number, it)| enter(&mut slots, number, *it)).collect();
        let mut told: Vec<Vec<Next>> = vec![Vec::new(); lengths.len()];
        // A piece has 128 tokens, and each target begins with one.
        for read in [1, 2, 5, 6, 6] {
            let nexts = slots.step();
            let found: Vec<Ticket> = nexts.iter().map(|(ticket, _)| *ticket).collect();
            assert_eq!(found, tickets[..read]);
            told.iter_mut().zip(nexts).for_each(|(told, (_, next))| told.push(next));
        }
        for (number, told) in told.into_iter().enumerate() {
            let mut alone = Slots::new(&model, 5);
            enter(&mut alone, number, lengths[number]);
            for next in told {
                assert_eq!(alone.step()[0].1, next, "{number}");
            }
        }
    });
}

/// What a full context leads to, by reading all that is left of the text without a cache at every
/// step.
#[test]
fn a_full_context_stops_or_slides_as_it_is_told_to() {
    on_each_backend!(|device: B| {
        let context_length = 10;
        let config = resolve(json!({ "d_model": 16, "n_layers": 1, "n_heads": 2,
            "context_length": context_length, "vocab_size": 24 }));
        let model: Gpt<Inner<B>> = Gpt::new("a", &config, 24, Initializer::seeded(1), &device);
        let greedy = |view: &[u32]| -> u32 {
            let ids: Vec<i32> = view.iter().map(|id| *id as i32).collect();
            let ids = TensorData::new(ids, [1, view.len()]);
            let logits = model.forward(Tensor::<Inner<B>, 2, Int>::from_data(ids, &device));
            let last = floats(logits.narrow(1, view.len() - 1, 1).into_data());
            (0..24).max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap() as u32
        };
        let written = |prompt: &[u32], overflow| -> Vec<u32> {
            let mut slots = Slots::new(&model, 24);
            let sampler = Sampler::new(GREEDY, 0).unwrap();
            slots.enter(Sequence { overflow, ..Sequence::new(prompt, sampler) }).unwrap();
            let mut tokens = Vec::new();
            while tokens.len() < 35 {
                match slots.step().pop() {
                    Some((_, Next::Token(choice))) => tokens.push(choice.token),
                    Some((_, Next::Full)) | None => break,
                }
            }
            tokens
        };
        let long: Vec<u32> = (0..25).map(|i| i * 7 % 24).collect();
        for prompt in [&[3][..], &[3, 1, 4, 1, 5, 9], &long[..10], &long] {
            for kept in [0, 1, 3, 50] {
                let mut view = prompt.to_vec();
                let mut expected = Vec::new();
                // At most so many are read, and half as many once there is one too many.
                let mut most = context_length;
                while expected.len() < 35 {
                    if view.len() > context_length {
                        let first = kept.min(most - 1);
                        view = [&view[..first], &view[view.len() - (most - first)..]].concat();
                    }
                    most = context_length / 2;
                    expected.push(greedy(&view));
                    view.push(expected[expected.len() - 1]);
                }
                let found = written(prompt, Overflow::Slide { kept });
                assert_eq!(found, expected, "{} tokens, {kept} kept", prompt.len());
            }
            if prompt.len() <= context_length {
                // The last token need not be read.
                let found = written(prompt, Overflow::Stop);
                assert_eq!(found.len(), context_length - prompt.len() + 1);
                assert!(written(prompt, Overflow::Slide { kept: 0 }).starts_with(&found));
            }
        }
    });
}
