//! What `emberlm eval` computes: against plain f64 loops, transformers, and values by hand.

use burn::tensor::{Int, Tensor, TensorData};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::HashMap;

use emberlm::backend::GptBackend;
use emberlm::config::{self, ModelConfig, Packing};
use emberlm::data::{Split, SplitTokens, Task, TokenStream, Window, disjoint_windows};
use emberlm::eval::{
    ChoiceScore, Context, Continuation, ContinuationError, ContinuationScore, HeldOut,
    HeldOutError, LastWordScore, Measure, Outcome, Question, Report, Stopped, StoryWriter,
    log_likelihoods, sliding_windows, write_stories,
};
use emberlm::model::{Gpt, Initializer, Model, load_parameters};
use emberlm::tokenizer::{ByteTokenizer, CharacterTokenizer, TiktokenTokenizer, Tokenizer};
use emberlm::train::LanguageModel;

use crate::golden::Golden;
use crate::on_each_backend;
use crate::support::{Inner, floats, golden, numbers};

const CONTEXT_LENGTH: usize = 12;
const VOCAB_SIZE: usize = 11;

fn config(vocab_size: usize, change: Value) -> ModelConfig {
    let mut model = json!({
        "d_model": 16, "n_layers": 2, "n_heads": 2, "context_length": CONTEXT_LENGTH,
        "vocab_size": vocab_size,
    });
    for (key, value) in change.as_object().unwrap() {
        model[key] = value.clone();
    }
    config::resolve(json!({ "name": "evaluation", "model": model })).unwrap().model
}

/// With random weights, large enough that tokens differ.
fn random_model<B: GptBackend>(vocab_size: usize, device: &B::Device) -> LanguageModel<B> {
    let config = config(vocab_size, json!({}));
    let blank = Model::new("a", &config, vocab_size, Initializer::Zeros, device);
    let shapes = emberlm::model::parameter_shapes(&config, vocab_size);
    let find = |name: &str| {
        let place = shapes.iter().position(|(known, _)| known == name)?;
        let shape = shapes[place].1.clone();
        Some(TensorData::new(numbers(shape.iter().product(), place as u64 + 3), shape))
    };
    LanguageModel::new(load_parameters(blank, find).unwrap(), &config)
}

fn go_on(_: usize) -> Result<(), Stopped> {
    Ok(())
}

fn gpt<B: GptBackend>(model: &LanguageModel<B>) -> &Gpt<B> {
    let Model::Gpt(model) = &model.model else { panic!("a decoder") };
    model
}

/// The log-probability of each token but the first, and how many are likelier.
fn by_loops<B: GptBackend>(model: &Gpt<B>, tokens: &[u32]) -> Vec<(f64, usize)> {
    let ids: Vec<i32> = tokens[..tokens.len() - 1].iter().map(|id| *id as i32).collect();
    let ids = TensorData::new(ids, [1, tokens.len() - 1]);
    let logits = model.forward(Tensor::<B, 2, Int>::from_data(ids, &model.device()));
    let logits = floats(logits.into_data());
    let rows = logits.chunks(model.vocab_size());
    let score = |(row, token): (&[f32], &u32)| {
        let own = f64::from(row[*token as usize]);
        let sum: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
        let likelier = row.iter().filter(|logit| f64::from(**logit) > own).count();
        ((own.exp() / sum).ln(), likelier)
    };
    rows.zip(&tokens[1..]).map(score).collect()
}

fn tokens(count: usize, vocab_size: usize, seed: u64) -> Vec<u32> {
    let token = |number: f32| ((number + 1.0) / 2.0 * vocab_size as f32) as u32;
    numbers(count, seed).into_iter().map(|it| token(it).min(vocab_size as u32 - 1)).collect()
}

proptest! {
    #[test]
    fn sliding_windows_predict_each_token_once_with_enough_before_it(
        start in 0usize..3, length in 0usize..90, context in 1usize..20, stride in 1usize..20,
    ) {
        prop_assume!(stride <= context);
        let text = Window { start, length };
        let mut next = start + 1;
        for (number, (window, scored)) in sliding_windows(text, context, stride).enumerate() {
            prop_assert!(1 <= window.length && window.length <= context);
            prop_assert_eq!(window.start, start + number * stride);
            let targets = window.start + 1..window.start + window.length + 1;
            prop_assert_eq!(targets.end - scored, next);
            next = targets.end;
            // Of the first token that counts, what stands before it in the window.
            let before = window.length - scored + 1;
            prop_assert!(number == 0 || before > context - stride);
        }
        prop_assert_eq!(next, start + 1 + length, "to the end");
        let disjoint: Vec<_> = sliding_windows(Window { start: 0, length }, context, context).collect();
        let expected = disjoint_windows(length + 1, context);
        prop_assert_eq!(disjoint, expected.iter().map(|it| (*it, it.length)).collect::<Vec<_>>());
    }
}

#[test]
fn the_loss_with_a_stride_is_that_of_transformers() {
    on_each_backend!(|device: B| {
        let cases = std::fs::read(golden("perplexity.json")).unwrap();
        let cases: Vec<Value> = serde_json::from_slice(&cases).unwrap();
        assert_eq!(cases.len(), 15);
        for case in cases {
            let name = case["model"].as_str().unwrap();
            let names = ["gpt2-tiny", "mistral-tiny", "qwen3-tiny"];
            let golden = Golden::open(names.into_iter().find(|it| *it == name).unwrap());
            let model = LanguageModel::new(golden.whole_model::<Inner<B>>(&device), &golden.config);
            let tokens: Vec<u32> = serde_json::from_value(case["tokens"].clone()).unwrap();
            let number = |key: &str| case[key].as_u64().unwrap() as usize;
            let split = Split::text(tokens, 1);
            let (context, stride) = (number("context_length"), Some(number("stride")));
            let held_out = HeldOut::new(split, Task::NextToken, context, stride).unwrap();
            for top_k in [&[][..], &[1]] {
                let found = held_out.score(&model, 3, top_k, &mut go_on).unwrap();
                assert_eq!(found.tokens, number("predicted"));
                let expected = case["loss"].as_f64().unwrap();
                // transformers computes the loss of a window in f32.
                assert!((found.loss - expected).abs() < 2e-5, "{found:?}, {expected}");
            }
        }
    });
}

/// The score of each token by a pass of its own through the model.
#[test]
fn loss_and_accuracy_with_a_stride_are_those_of_each_token_by_itself() {
    on_each_backend!(|device: B| {
        let model = random_model::<Inner<B>>(VOCAB_SIZE, &device);
        let tokens = tokens(53, VOCAB_SIZE, 9);
        for stride in [1, 5, 11, 12] {
            let (mut nats, mut hits) = (0.0, [0, 0, 0]);
            for place in 1..tokens.len() {
                // The last window that begins where the stride says and has not scored it before.
                let window = (place.saturating_sub(CONTEXT_LENGTH)).div_ceil(stride);
                let text = &tokens[window * stride..=place];
                let (log_probability, likelier) = *by_loops(gpt(&model), text).last().unwrap();
                nats -= log_probability;
                for (hits, k) in hits.iter_mut().zip([1, 3, VOCAB_SIZE]) {
                    *hits += usize::from(likelier < k);
                }
            }
            let split = Split::text(tokens.clone(), 100);
            let held_out =
                HeldOut::new(split, Task::NextToken, CONTEXT_LENGTH, Some(stride)).unwrap();
            let top_k = [1, 3, VOCAB_SIZE];
            let found = held_out.score(&model, 4, &top_k, &mut go_on).unwrap();
            assert_eq!(found.tokens, 52);
            let expected: Vec<(usize, usize)> = top_k.into_iter().zip(hits).collect();
            assert_eq!(found.hits, expected);
            assert_eq!(hits[2], 52);
            assert!(hits[0] > 0 && hits[0] < hits[1] && hits[1] < 52, "{hits:?}");
            // f32 logits of about ten, computed in batches and alone.
            assert!((found.loss - nats / 52.0).abs() < 2e-5, "{} {}", found.loss, nats / 52.0);
            let bits = nats / 2f64.ln() / 77.0;
            assert!((found.bits_per_byte(77) - bits).abs() < 1e-4);
            assert!((found.perplexity() / (nats / 52.0).exp() - 1.0).abs() < 1e-4);
        }
    });
}

#[test]
fn documents_are_measured_one_by_one() {
    on_each_backend!(|device: B| {
        let model = random_model::<Inner<B>>(VOCAB_SIZE, &device);
        let tokens = tokens(40, VOCAB_SIZE, 2);
        let starts = [0, 17, 18, 23];
        let stream = TokenStream::of_documents(tokens.clone(), starts.map(|at| at as u64).to_vec());
        for (stream, has_ends) in [(stream.clone(), true), (stream.without_ends(), false)] {
            let tokens_of = SplitTokens::Text(stream);
            let split = Split { tokens: tokens_of, packing: Packing::Documents, bytes: 40 };
            let stride = 5;
            let (mut nats, mut count) = (0.0, 0);
            for (number, start) in starts.into_iter().enumerate() {
                let end = *starts.get(number + 1).unwrap_or(&40);
                let start = if has_ends && start > 0 { start - 1 } else { start };
                let document = Split::text(&tokens[start..end], 1);
                let held_out =
                    HeldOut::new(document, Task::NextToken, CONTEXT_LENGTH, Some(stride)).unwrap();
                if !held_out.is_empty() {
                    let found = held_out.score(&model, 2, &[], &mut go_on).unwrap();
                    nats += found.loss * found.tokens as f64;
                    count += found.tokens;
                }
            }
            let held_out =
                HeldOut::new(split, Task::NextToken, CONTEXT_LENGTH, Some(stride)).unwrap();
            let found = held_out.score(&model, 3, &[], &mut go_on).unwrap();
            assert_eq!(found.tokens, count);
            assert_eq!(count, if has_ends { 39 } else { 36 });
            assert!((found.loss - nats / count as f64).abs() < 1e-5);
        }
    });
}

#[test]
fn the_bytes_are_those_of_the_tokens_that_are_predicted() {
    let held_out = |split| HeldOut::new(split, Task::NextToken, 8, None).unwrap();
    let text = "é, or a longer text";
    let characters = CharacterTokenizer::train([&text.to_string()]);
    let ids = characters.encode(text).unwrap();
    // The first character is two bytes long.
    let split = Split::text(ids, text.len());
    assert_eq!(held_out(split).bytes(&characters), Some(text.len() - 2));
    let split = Split::text(ByteTokenizer.encode(text).unwrap(), text.len());
    assert_eq!(held_out(split).bytes(&ByteTokenizer), Some(text.len() - 1));
    let twos = "éé ééeé éé aé éé";
    // Of the first windows of eight the bytes are counted token by token.
    let part = |text: &str, stride, windows| {
        let ids = characters.encode(text).unwrap();
        let split = Split::text(ids, text.len());
        let mut held_out = HeldOut::new(split, Task::NextToken, 8, stride).unwrap();
        held_out.limit(windows);
        held_out.bytes(&characters)
    };
    assert_eq!(part(twos, None, 1), Some(13));
    assert_eq!(part(twos, None, 2), Some(13 + 11));
    assert_eq!(part(twos, Some(3), 2), Some(13 + 4));
    assert_eq!(part(text, None, 100), Some(text.len() - 2));
    // Three documents of two bytes; of those without ends the first byte of each is not predicted.
    let end = ByteTokenizer.end_of_text().unwrap();
    let ended = TokenStream::of_documents(vec![7, 8, end, 7, 8, end, 7, 8, end], vec![0, 3, 6]);
    let bare = TokenStream::of_documents(vec![7, 8, 7, 8, 7, 8], vec![0, 2, 4]).without_ends();
    for (stream, packing, expected) in [
        (ended.clone(), Packing::Documents, 5),
        (ended, Packing::Stream, 5),
        (bare.clone(), Packing::Documents, 3),
        (bare, Packing::MaskedStream, 5),
    ] {
        let split = Split { tokens: SplitTokens::Text(stream), packing, bytes: 6 };
        assert_eq!(held_out(split).bytes(&ByteTokenizer), Some(expected), "{packing:?}");
    }
    let masked = Task::MaskedTokens { mask: 256, seed: 1 };
    let split = || Split::text(vec![1, 2, 3, 4], 4);
    assert_eq!(HeldOut::new(split(), masked, 3, None).unwrap().bytes(&ByteTokenizer), None);
    let refused = |task, stride| HeldOut::new(split(), task, 3, Some(stride)).unwrap_err();
    assert_eq!(refused(masked, 2), HeldOutError::NotNextToken);
    for stride in [0, 4] {
        let expected = HeldOutError::Stride { stride, context_length: 3 };
        assert_eq!(refused(Task::NextToken, stride), expected);
    }
}

#[test]
fn a_protocol_says_how_documents_are_kept_apart() {
    let ended = TokenStream::of_documents(vec![1, 2, 0, 3, 4, 0], vec![0, 3]);
    let bare = TokenStream::of_documents(vec![1, 2, 3, 4], vec![0, 2]).without_ends();
    let masked = Task::MaskedTokens { mask: 5, seed: 1 };
    let first = "each token but the first once, from those before it in windows of 2";
    for (stream, packing, task, stride, begin, end) in [
        (&ended, Packing::Stream, Task::NextToken, None, first, "that follow each other"),
        (
            &ended,
            Packing::Documents,
            Task::NextToken,
            None,
            first,
            "; each window is of one document",
        ),
        (
            &bare,
            Packing::Documents,
            Task::NextToken,
            Some(1),
            "each token but the first of each document once, ",
            "windows of 2, 1 apart; each window is of one document",
        ),
        (
            &bare,
            Packing::MaskedStream,
            Task::NextToken,
            Some(1),
            first,
            "windows of 2, 1 apart; attention does not leave a document",
        ),
        (
            &ended,
            Packing::Documents,
            masked,
            None,
            "15% of the tokens, ",
            "in windows of 2; each window is of one document",
        ),
    ] {
        let split = Split { tokens: SplitTokens::Text(stream.clone()), packing, bytes: 4 };
        let mut held_out = HeldOut::new(split, task, 2, stride).unwrap();
        let protocol = held_out.protocol();
        assert!(protocol.starts_with(begin) && protocol.ends_with(end), "{protocol}");
        held_out.limit(1);
        assert_eq!(held_out.protocol(), format!("{protocol}; the first 1 of them"));
    }
}

#[test]
fn whoever_watches_can_stop_everything() {
    on_each_backend!(|device: B| {
        let model = random_model::<Inner<B>>(VOCAB_SIZE, &device);
        let split = Split::text(tokens(60, VOCAB_SIZE, 1), 60);
        let held_out = HeldOut::new(split, Task::NextToken, CONTEXT_LENGTH, None).unwrap();
        let stop_at = |most: usize| {
            let mut seen = 0;
            move |done: usize| {
                seen += done;
                if seen > most { Err(Stopped) } else { Ok(()) }
            }
        };
        for top_k in [&[][..], &[1]] {
            assert_eq!(held_out.score(&model, 2, top_k, &mut stop_at(2)), Err(Stopped));
            assert!(held_out.score(&model, 2, top_k, &mut stop_at(5)).is_ok());
        }
        let one = Continuation { tokens: vec![1, 2, 3], scored: 1 };
        let all = vec![one; 6];
        assert_eq!(log_likelihoods(&model, &all, 2, &mut stop_at(3)), Err(Stopped));
        assert_eq!(log_likelihoods(&model, &all, 2, &mut stop_at(6)).unwrap().len(), 6);
    });
}

#[test]
fn continuations_together_score_what_each_does_alone() {
    on_each_backend!(|device: B| {
        let model = random_model::<Inner<B>>(VOCAB_SIZE, &device);
        let lengths = [(2, 1), (13, 3), (5, 4), (9, 2), (3, 1), (13, 12), (7, 7)];
        let continuations: Vec<Continuation> = (0..)
            .zip(lengths)
            .map(|(seed, (length, scored))| {
                let scored = scored.min(length - 1);
                let mut tokens = tokens(length, VOCAB_SIZE, seed + 20);
                // Every other one goes on with the likeliest tokens.
                for place in (length - scored..length).filter(|_| seed % 2 == 0) {
                    let is_likeliest = |token: &u32| {
                        let text = [&tokens[..place], &[*token]].concat();
                        by_loops(gpt(&model), &text).last().unwrap().1 == 0
                    };
                    tokens[place] = (0..VOCAB_SIZE as u32).find(is_likeliest).unwrap();
                }
                Continuation { tokens, scored }
            })
            .collect();
        let expected: Vec<(f64, bool)> = continuations
            .iter()
            .map(|Continuation { tokens, scored }| {
                let scores = by_loops(gpt(&model), tokens);
                let scores = &scores[scores.len() - scored..];
                let sum = scores.iter().map(|(log_probability, _)| log_probability).sum();
                (sum, scores.iter().all(|(_, likelier)| *likelier == 0))
            })
            .collect();
        for batch_size in [1, 2, 3, 100] {
            let found = log_likelihoods(&model, &continuations, batch_size, &mut go_on).unwrap();
            for (found, (sum, greedy)) in found.iter().zip(&expected) {
                // f32 logits of about ten, a dozen of them, with filled-up rows and without.
                assert!((found.log_likelihood - sum).abs() < 1e-4, "{found:?}, {sum}");
                assert_eq!(found.greedy, *greedy);
            }
        }
        let greedy = expected.iter().filter(|(_, greedy)| *greedy).count();
        assert!(0 < greedy && greedy < expected.len(), "{expected:?}");
    });
}

/// Powers of a half, by which each of the characters "␣abcd" is followed by each.
const BIGRAMS: [[i32; 5]; 5] = [
    [3, 2, 2, 2, 3], // after a space
    [1, 3, 3, 3, 3], // after a
    [3, 1, 3, 3, 3],
    [3, 3, 3, 3, 1], // after c
    [2, 3, 2, 3, 2],
];

/// A model whose distribution depends on nothing but the last character: each is a unit vector, of
/// which the norm makes `sqrt(5)` times itself, and layers of zeros add nothing.
fn bigrams<B: GptBackend>(device: &B::Device) -> LanguageModel<B> {
    let config = config(
        5,
        json!({
            "d_model": 5, "n_heads": 1, "n_layers": 1, "tied_head": false,
            "norm": { "kind": "rms", "epsilon": 1e-12 }, "position": { "kind": "none" },
        }),
    );
    let blank = Model::new("bigrams", &config, 5, Initializer::Zeros, device);
    let shapes = emberlm::model::parameter_shapes(&config, 5);
    let find = |name: &str| {
        let shape = shapes.iter().find(|(known, _)| known == name)?.1.clone();
        let unit = |row: usize, column: usize| f32::from(row == column);
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|place| match (name, shape.as_slice()) {
                ("embedding.token", _) => unit(place / 5, place % 5),
                // [D, V]
                ("head.weight", _) => {
                    let power = BIGRAMS[place / 5][place % 5];
                    -power as f32 * 2f32.ln() / 5f32.sqrt()
                }
                (_, [_]) if name.ends_with("norm.weight") => 1.0,
                _ => 0.0,
            })
            .collect();
        Some(TensorData::new(values, shape))
    };
    LanguageModel::new(load_parameters(blank, find).unwrap(), &config)
}

#[test]
fn questions_are_answered_as_by_hand() {
    on_each_backend!(|device: B| {
        let model = bigrams::<Inner<B>>(&device);
        let tokenizer = CharacterTokenizer::from_characters(" abcd").unwrap();
        let question = |context: &str, choices: &[&str], answer| Question {
            line: 1,
            context: context.into(),
            choices: choices.iter().map(|choice| (*choice).into()).collect(),
            answer,
        };
        let questions = [
            // " b" has 1/2 1/4, " cd" 1/2 1/4 1/2: three halves a byte against two.
            question("da", &["b", "cd"], 1),
            question("da", &["cd", "b"], 1),
            // The space at the end belongs to what follows, and changes nothing: two spaces have
            // 1/2 1/8, and then as before.
            question("da ", &["d", "b", "cd"], 1),
        ];
        let powers = [3, 4, 4, 3, 7, 6, 7];
        let continuations: Vec<Continuation> = questions
            .iter()
            .flat_map(|question| {
                let context = Context::new(&tokenizer, &question.context).unwrap();
                let continued = |choice: &String| {
                    context.continued(&format!(" {choice}"), CONTEXT_LENGTH).unwrap()
                };
                question.choices.iter().map(continued).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(continuations[4].tokens, tokenizer.encode("da  d").unwrap());
        assert_eq!(continuations[4].scored, 3);
        let scores = log_likelihoods(&model, &continuations, 3, &mut go_on).unwrap();
        for (score, power) in scores.iter().zip(powers) {
            let expected = -f64::from(power) * 2f64.ln();
            assert!((score.log_likelihood - expected).abs() < 1e-5, "{score:?}, {expected}");
        }
        let found = ChoiceScore::new(&questions, &scores);
        let chance = (0.5 + 0.5 + 1.0 / 3.0) / 3.0;
        assert!((found.chance - chance).abs() < 1e-12);
        // By sums "b" is chosen three times, by bytes "cd".
        let expected = ChoiceScore { questions: 3, right: 2, right_normalised: 1, ..found };
        assert_eq!(found, expected);

        // After a space three are alike, of which one comes first at most; after "b" an "a" is the
        // likeliest, after "c" a "d", after "a" a space.
        let words = [("da", " a"), ("da", " b"), ("db", "a"), ("cc", "d"), ("cb", "a ")];
        let continuations = words.map(|(context, word)| {
            let context = Context::new(&tokenizer, context).unwrap();
            context.continued(word, CONTEXT_LENGTH).unwrap()
        });
        let scores = log_likelihoods(&model, &continuations, 2, &mut go_on).unwrap();
        let greedy: Vec<bool> = scores.iter().map(|score| score.greedy).collect();
        assert_eq!(greedy[2..], [true, true, true]);
        assert!(!(greedy[0] && greedy[1]), "one of equals at most");
        let found = LastWordScore::new(&scores[2..]);
        // Four halves over three words.
        assert_eq!((found.words, found.exact), (3, 3));
        let perplexity = 2f64.powf(4.0 / 3.0);
        assert!((found.perplexity - perplexity).abs() < 1e-4, "{found:?}");
    });
}

#[test]
fn choices_and_words_are_counted() {
    let score = |log_likelihood, greedy| ContinuationScore { log_likelihood, greedy };
    let question = |choices: &[&str], answer| Question {
        line: 1,
        context: "c".into(),
        choices: choices.iter().map(|choice| (*choice).into()).collect(),
        answer,
    };
    // Bytes, and not characters: "éé" has four.
    let questions =
        [question(&["ab", "éé"], 1), question(&["x", "y", "z"], 0), question(&["", "abc"], 0)];
    let sums = [-3.0, -4.0, -1.0, -1.0, -2.0, f64::NAN, -9.0];
    let scores = sums.map(|sum| score(sum, false));
    let found = ChoiceScore::new(&questions, &scores);
    // -3/2 against -4/4; of equals the first; what is not a number answers nothing.
    assert_eq!((found.right, found.right_normalised), (1, 2));
    assert!((found.chance - (0.5 + 1.0 / 3.0 + 0.5) / 3.0).abs() < 1e-12);

    let found = LastWordScore::new(&[score(-1.0, true), score(-4.0, false), score(-1.0, true)]);
    assert_eq!((found.words, found.exact), (3, 2));
    assert!((found.perplexity - 2f64.exp()).abs() < 1e-12);

    let share = Measure::share("accuracy", 3, 12);
    assert_eq!(share.value, 0.25);
    assert!((share.standard_error.unwrap() - 0.125).abs() < 1e-12, "sqrt(1/4 3/4 / 12)");
    let report = Report {
        run: "a, b".into(),
        step: 7,
        backend: "flex".into(),
        version: "1".into(),
        date: "today".into(),
        results: vec![Outcome {
            task: "piqa".into(),
            data: "d".into(),
            weights: "f32".into(),
            protocol: "a \"p\"".into(),
            examples: 12,
            measures: vec![share, Measure::new("chance", 0.5)],
        }],
    };
    let csv = report.csv();
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    // By the names of the head, as who reads the file does.
    let rows: Vec<HashMap<String, String>> = reader.deserialize().map(Result::unwrap).collect();
    let same = [
        ("run", "a, b"),
        ("step", "7"),
        ("date", "today"),
        ("task", "piqa"),
        ("data", "d"),
        ("weights", "f32"),
        ("protocol", "a \"p\""),
        ("examples", "12"),
    ];
    let first = [("measure", "accuracy"), ("value", "0.25"), ("standard_error", "0.125")];
    let second = [("measure", "chance"), ("value", "0.5"), ("standard_error", "")];
    for (row, own) in rows.iter().zip([first, second]) {
        let expected = same.into_iter().chain(own);
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(*row, expected.collect());
    }
    assert_eq!(rows.len(), 2);
}

#[test]
fn a_continuation_has_the_tokens_that_the_whole_text_has() {
    let gpt2 = TiktokenTokenizer::new("gpt2").unwrap();
    let new = |context: &str, continuation: &str, context_length| {
        Context::new(&gpt2, context)?.continued(continuation, context_length)
    };
    // 15496 is "Hello" and 995 " world".
    let whole = Continuation { tokens: vec![15496, 995], scored: 1 };
    assert_eq!(new("Hello", " world", 9), Ok(whole.clone()));
    assert_eq!(new("Hello ", "world", 9), Ok(whole));
    // A long context loses its beginning; the last token is only predicted.
    let found = new("one two three four", " five six", 3).unwrap();
    let all = gpt2.encode("one two three four five six").unwrap();
    assert_eq!(found, Continuation { tokens: all[2..].to_vec(), scored: 2 });
    let found = new("one two", " three four five six", 3).unwrap_err();
    let expected = ContinuationError::Long {
        continuation: "three four five six".into(),
        found: 4,
        context_length: 3,
    };
    assert_eq!(found, expected);
    for context in ["", " "] {
        assert!(matches!(new(context, "a", 9), Err(ContinuationError::NoContext { .. })));
    }
}

#[test]
fn stories_written_together_are_those_written_alone() {
    on_each_backend!(|device: B| {
        let Some(_) = Inner::<B>::equal_rows() else { return };
        let vocab_size = ByteTokenizer.vocab_size();
        let model = random_model::<Inner<B>>(vocab_size, &device);
        let write = |count, seed, batch_size| {
            let writer = StoryWriter::new(&ByteTokenizer, false, seed, 30, batch_size);
            write_stories(gpt(&model), &ByteTokenizer, &writer, count, &mut go_on).unwrap()
        };
        let expected = write(9, 4, 1);
        assert_eq!(write(9, 4, 4), expected);
        assert_eq!(write(3, 7, 2), expected[3..6], "a seed each");
        for story in &expected {
            let inner = story.strip_suffix('\n').unwrap_or(story);
            assert!(!inner.contains('\n'), "{story:?}");
            // What is no character becomes one of three bytes.
            assert!(inner.chars().count() <= 31);
        }
        let mut done = 0;
        let writer = StoryWriter::new(&ByteTokenizer, true, 1, 30, 4);
        let mut stop = |finished| {
            done += finished;
            if done > 2 { Err(Stopped) } else { Ok(()) }
        };
        let found = write_stories(gpt(&model), &ByteTokenizer, &writer, 9, &mut stop);
        assert_eq!(found, Err(Stopped.into()));
    });
}
