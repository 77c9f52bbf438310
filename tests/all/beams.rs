//! Beam search against transformers', and against all continuations that there are.

use burn::tensor::{Int, Tensor, TensorData};
use emberlm::config;
use emberlm::generate::{BeamSearch, Hypothesis, SequenceError, beam_search};
use emberlm::model::{Gpt, Initializer, Model, load_parameters, parameter_shapes};
use serde_json::{Value, json};

use crate::golden::Golden;
use crate::on_each_backend;
use crate::support::{Inner, floats, golden, numbers};

#[test]
fn beams_are_those_of_transformers() {
    on_each_backend!(|device: B| {
        let cases = std::fs::read(golden("beams.json")).unwrap();
        let cases: Vec<Value> = serde_json::from_slice(&cases).unwrap();
        assert_eq!(cases.len(), 14);
        for case in cases {
            let name = case["model"].as_str().unwrap();
            let name = ["mistral-tiny", "qwen3-tiny"].into_iter().find(|it| *it == name).unwrap();
            let golden = Golden::open(name);
            let model = golden.model::<Inner<B>>(&device);
            let ids = |ids: &Value| -> Vec<u32> { serde_json::from_value(ids.clone()).unwrap() };
            let search = BeamSearch {
                beams: case["beams"].as_u64().unwrap() as usize,
                length_penalty: case["length_penalty"].as_f64().unwrap(),
                max_tokens: case["max_tokens"].as_u64().unwrap() as usize,
                stop_tokens: ids(&case["stop_tokens"]),
            };
            let found =
                beam_search(&model, 97, &[], &ids(&case["prompt"]), &search, &mut || true).unwrap();
            let expected = case["found"].as_array().unwrap();
            assert_eq!(found.len(), expected.len(), "{case}");
            for (found, expected) in found.iter().zip(expected) {
                assert_eq!(found.tokens, ids(&expected["tokens"]), "{case}");
                let expected = expected["score"].as_f64().unwrap();
                // transformers adds up in f32.
                assert!((found.score - expected).abs() < 2e-6 * (10.0 + expected.abs()), "{case}");
            }
        }
    });
}

/// Every text of at most so many tokens after the prompt: those that end early and the longest.
fn all_texts(vocab_size: u32, longest: usize, stop: u32) -> Vec<Vec<u32>> {
    let (mut open, mut whole) = (vec![Vec::new()], Vec::new());
    for length in 1..=longest {
        let mut next = Vec::new();
        for text in &open {
            for token in 0..vocab_size {
                let longer = [&text[..], &[token]].concat();
                if token == stop || length == longest {
                    whole.push(longer)
                } else {
                    next.push(longer)
                }
            }
        }
        open = next;
    }
    whole
}

/// With as many beams as there are texts, nothing is missed.
#[test]
fn enough_beams_find_the_likeliest_of_all_texts() {
    on_each_backend!(|device: B| {
        let (vocab_size, longest, stop) = (5, 4, 3);
        for architecture in ["decoder", "encoder-decoder"] {
            let model = json!({ "architecture": architecture, "d_model": 8, "n_layers": 1,
                "n_heads": 2, "context_length": 6, "vocab_size": vocab_size });
            let config = config::resolve(json!({ "name": "beams", "model": model })).unwrap().model;
            let blank =
                Model::<Inner<B>>::new("a", &config, vocab_size, Initializer::Zeros, &device);
            let shapes = parameter_shapes(&config, vocab_size);
            let find = |name: &str| {
                let place = shapes.iter().position(|(known, _)| known == name)?;
                let shape = shapes[place].1.clone();
                let values = numbers(shape.iter().product(), place as u64 + 5);
                Some(TensorData::new(values, shape))
            };
            let model = load_parameters(blank, find).unwrap();
            let (prompt, source) = ([1, 2], [4, 0, 2]);
            let tensor = |ids: &[u32]| {
                let ids: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
                let shape = [1, ids.len()];
                Tensor::<Inner<B>, 2, Int>::from_data(TensorData::new(ids, shape), &device)
            };
            // The whole text at once, without a cache.
            let log_probability = |text: &[u32]| -> f64 {
                let whole = tensor(&[&prompt[..], text].concat());
                let logits = match &model {
                    Model::Gpt(model) => model.forward(whole),
                    Model::Seq2Seq(model) => model.forward(tensor(&source), &[3], whole),
                    Model::Encoder(_) => panic!(),
                };
                let logits = floats(logits.into_data());
                let rows = logits.chunks(vocab_size).skip(prompt.len() - 1);
                text.iter()
                    .zip(rows)
                    .map(|(token, row)| {
                        let total: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
                        (f64::from(row[*token as usize]).exp() / total).ln()
                    })
                    .sum()
            };
            for length_penalty in [0.0, 1.0, -0.5] {
                let mut expected: Vec<Hypothesis> = all_texts(vocab_size as u32, longest, stop)
                    .into_iter()
                    .map(|tokens| Hypothesis {
                        score: log_probability(&tokens)
                            / (tokens.len() as f64).powf(length_penalty),
                        tokens,
                    })
                    .collect();
                expected.sort_by(|a, b| b.score.total_cmp(&a.score));
                let search = BeamSearch {
                    beams: expected.len(),
                    length_penalty,
                    max_tokens: longest,
                    stop_tokens: vec![stop],
                };
                let found = match &model {
                    Model::Gpt(model) => {
                        beam_search(model, vocab_size, &[], &prompt, &search, &mut || true)
                    }
                    Model::Seq2Seq(model) => {
                        beam_search(model, vocab_size, &source, &prompt, &search, &mut || true)
                    }
                    Model::Encoder(_) => panic!(),
                };
                let found = found.unwrap();
                assert_eq!(found.len(), expected.len());
                for (found, expected) in found.iter().zip(&expected) {
                    // Sums of another blocking.
                    assert!((found.score - expected.score).abs() < 1e-5, "{architecture}");
                }
                assert_eq!(found[0].tokens, expected[0].tokens);
            }
        }
    });
}

#[test]
fn beams_end_with_the_context_and_with_what_is_asked_for() {
    on_each_backend!(|device: B| {
        let model = json!({ "d_model": 8, "n_layers": 1, "n_heads": 2, "context_length": 6,
            "vocab_size": 7 });
        let config = config::resolve(json!({ "name": "beams", "model": model })).unwrap().model;
        let model: Gpt<Inner<B>> = Gpt::new("a", &config, 7, Initializer::seeded(1), &device);
        let search = |beams, max_tokens| BeamSearch {
            beams,
            length_penalty: 1.0,
            max_tokens,
            stop_tokens: Vec::new(),
        };
        let find =
            |prompt: &[u32], search| beam_search(&model, 5, &[], prompt, &search, &mut || true);
        let found = find(&[1, 2, 3, 4], search(3, 50)).unwrap();
        // The last token need not be read.
        assert!(found.len() == 3 && found.iter().all(|found| found.tokens.len() == 3));
        assert!(found.iter().flat_map(|found| &found.tokens).all(|token| *token < 5));
        assert_eq!(find(&[1], search(3, 0)).unwrap(), []);
        assert_eq!(find(&[1], search(0, 3)).unwrap(), []);
        assert_eq!(find(&[], search(3, 3)).unwrap_err(), SequenceError::EmptyPrompt);
        let long = SequenceError::LongPrompt { length: 7, context_length: 6 };
        assert_eq!(find(&[1; 7], search(3, 3)).unwrap_err(), long);
    });
}

/// It is asked before each pass whether to go on, and what is whole by then is what comes of it.
#[test]
fn a_search_ends_when_it_is_told_to() {
    on_each_backend!(|device: B| {
        let model = json!({ "d_model": 8, "n_layers": 1, "n_heads": 2, "context_length": 620,
            "vocab_size": 5 });
        let config = config::resolve(json!({ "name": "beams", "model": model })).unwrap().model;
        let model: Gpt<Inner<B>> = Gpt::new("a", &config, 5, Initializer::seeded(1), &device);
        let all: Vec<u32> = (0..5).collect();
        let search = BeamSearch { beams: 3, length_penalty: 9.0, max_tokens: 9, stop_tokens: all };
        let prompt: Vec<u32> = (0..600).map(|at| at * at % 5).collect();
        let after = |passes: usize| {
            let mut asked = 0;
            let found = beam_search(&model, 5, &[], &prompt, &search, &mut || {
                asked += 1;
                asked <= passes
            });
            (found.unwrap(), asked)
        };
        // The prompt takes four passes.
        for passes in 0..4 {
            assert_eq!(after(passes), (Vec::new(), passes + 1));
        }
        // Every token ends a text, so that nothing is left to go on with.
        let (found, asked) = after(4);
        assert_eq!((found.len(), asked), (3, 4));
        let stops = BeamSearch { stop_tokens: vec![4], beams: 2, ..search.clone() };
        let mut asked = 0;
        let found = beam_search(&model, 5, &[], &prompt, &stops, &mut || {
            asked += 1;
            asked <= 6
        });
        assert!(found.unwrap().iter().all(|found| found.tokens.len() <= 3), "two passes more");
        assert_eq!(asked, 7);
    });
}
