//! What models are asked beside the next token: masked tokens and translations.

use burn::module::AutodiffModule;
use burn::optim::Optimizer;
use burn_train::TrainStep;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::PathBuf;

use emberlm::config::{
    self, Architecture, DataConfig, ModelConfig, OptimizerConfig, Packing, TokenizerConfig,
};
use emberlm::data::{
    Corpus, DataError, DocumentOrder, Example, ExamplePlace, Pair, Place, Split, SplitText,
    SplitTokens, Task, TokenBatch, TokenStream, Window,
};
use emberlm::generate::{Guess, Sampler, Sampling};
use emberlm::model::{Initializer, Model};
use emberlm::train::{LanguageModel, ModelOptimizer};

use crate::on_each_backend;

const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: None, top_p: None, min_p: None };

fn window(start: usize, length: usize, number: u64) -> ExamplePlace {
    ExamplePlace { place: Place::Window(Window { start, length }), number }
}

#[test]
fn masks_fall_as_in_bert() {
    let (count, mask) = (200_000u32, 50u32);
    let split = Split::text((0..count).map(|id| id % mask).collect::<Vec<_>>(), 0);
    let task = Task::new(Architecture::Encoder, mask as usize, 3);
    assert_eq!(task, Task::MaskedTokens { mask, seed: 3 });
    let example = Example::read(&split, task, window(0, count as usize, 7));
    let asked = example.asked.clone().unwrap();
    let (mut masked, mut replaced) = (0, 0);
    for place in &asked {
        assert_eq!(example.target[*place], *place as u32 % mask);
        match example.input[*place] {
            input if input == mask => masked += 1,
            input if input != example.target[*place] => replaced += 1,
            _ => {}
        }
    }
    let near = |found: usize, of: usize, share: f64| {
        let deviation = (of as f64 * share * (1.0 - share)).sqrt();
        let expected = of as f64 * share;
        assert!((found as f64 - expected).abs() < 6.0 * deviation, "{found}, not {expected}");
    };
    near(asked.len(), count as usize, 0.15);
    near(masked, asked.len(), 0.8);
    // A tenth get any token, which one time in fifty is the true one.
    near(replaced, asked.len(), 0.1 * 49.0 / 50.0);
    let asked: BTreeSet<usize> = asked.into_iter().collect();
    let untouched = (0..count as usize).filter(|place| !asked.contains(place));
    assert!(untouched.into_iter().all(|place| example.input[place] == example.target[place]));

    assert_eq!(Example::read(&split, task, window(0, count as usize, 7)), example);
    assert_ne!(Example::read(&split, task, window(0, count as usize, 8)), example);
    // However short, something is asked.
    for number in 0..50 {
        assert!(Example::read(&split, task, window(9, 1, number)).targets() > 0);
    }
}

#[test]
fn translations_are_framed_and_texts_are_cut_in_two() {
    let task = Task::new(Architecture::EncoderDecoder, 50, 0);
    let split = Split::text((0..50).collect::<Vec<u32>>(), 50);
    let example = Example::read(&split, task, window(10, 5, 0));
    assert_eq!(example.source, Some(vec![10, 11, 12]));
    assert_eq!(example.input, [50, 13, 14]);
    assert_eq!(example.target, [13, 14, 51]);

    let pairs = vec![Pair { source: vec![1, 2], target: vec![3] }];
    let split = Split::pairs(pairs, 4);
    let example = Example::read(&split, task, ExamplePlace { place: Place::Pair(0), number: 0 });
    assert_eq!(example.source, Some(vec![1, 2]));
    assert_eq!((example.input, example.target), (vec![50, 3], vec![3, 51]));
    // Four bytes over a token and the one that ends it.
    assert_eq!(split.bytes_per_target(task), Some(2.0));
    assert_eq!(split.bytes_per_target(Task::NextToken), None);
}

#[test]
fn examples_have_as_many_targets_as_is_expected() {
    let text = || Split::text((0..2001).map(|place| place % 50).collect::<Vec<u32>>(), 2001);
    let pair = |length: u32| Pair { source: vec![1], target: (0..length).collect() };
    let pairs = Split::pairs((0..7).map(|number| pair(number * number)).collect::<Vec<_>>(), 1);
    for (architecture, split, tolerance) in [
        (Architecture::Decoder, text(), 0.0),
        // 2,000 draws of 15%: five deviations of 16.
        (Architecture::Encoder, text(), 80.0 / 2000.0),
        (Architecture::EncoderDecoder, text(), 0.0),
        (Architecture::EncoderDecoder, pairs, 0.0),
    ] {
        let task = Task::new(architecture, 50, 3);
        let places = split.all(20);
        let targets: usize =
            places.iter().map(|place| Example::read(&split, task, *place).targets()).sum();
        let found = targets as f64 / places.len() as f64;
        let expected = split.targets_per_example(architecture, 20);
        assert!((found - expected).abs() <= tolerance * 20.0, "{architecture:?}: {found}");
    }
    // Documents, some of one token, instead of which the next is read, and some beyond the context.
    let ids: Vec<u32> = (0..90).collect();
    let starts = vec![0, 1, 2, 9, 10, 40, 45, 89];
    let stream = TokenStream::of_documents(ids, starts).without_ends();
    let order = DocumentOrder::new(stream.clone(), 20, 3);
    let targets: usize = (0..8).map(|index| order.window(index).length).sum();
    let tokens = SplitTokens::Text(stream);
    let split = Split { tokens, packing: Packing::Documents, bytes: 90 };
    assert_eq!(split.targets_per_example(Architecture::Decoder, 20), targets as f64 / 8.0);
}

fn pairs(path: PathBuf) -> DataConfig {
    serde_json::from_value(json!({ "kind": "pairs", "path": path, "validation_fraction": 0.4 }))
        .unwrap()
}

fn read_pairs(name: &str, text: &str) -> Result<Corpus, DataError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    let mut model = ModelConfig::new(8, 1, 1, 6);
    model.architecture = Architecture::EncoderDecoder;
    let text = SplitText::read(&pairs(path), 1)?;
    Corpus::encode(&text, text.tokenizer(&TokenizerConfig::Character {})?, &model, 1)
}

#[test]
fn pairs_are_read_from_both_formats() {
    let tabs = read_pairs("pairs.tsv", "ab\tba\ncd\t\"d\nef\tfe\ngh\thg\nij\tji\n").unwrap();
    let lines = read_pairs(
        "pairs.jsonl",
        "{\"source\": \"ab\", \"target\": \"ba\"}\n\n{\"source\": \"cd\", \"target\": \"\\\"d\"}\n\
         {\"source\": \"ef\", \"target\": \"fe\"}\n{\"source\": \"gh\", \"target\": \"hg\"}\n\
         {\"source\": \"ij\", \"target\": \"ji\", \"more\": 1}\n",
    )
    .unwrap();
    for corpus in [tabs, lines] {
        let text = |split: &Split| match &split.tokens {
            SplitTokens::Pairs(pairs) => pairs
                .iter()
                .map(|pair| {
                    let decode = |ids: &[u32]| corpus.tokenizer.decode(ids);
                    format!("{}>{}", decode(&pair.source), decode(&pair.target))
                })
                .collect::<Vec<_>>(),
            SplitTokens::Text(_) => panic!("pairs became a text"),
        };
        assert_eq!(text(&corpus.train), ["ab>ba", "cd>\"d", "ef>fe"]);
        assert_eq!(text(&corpus.validation), ["gh>hg", "ij>ji"]);
        let places: BTreeSet<usize> = (0..3)
            .map(|index| match corpus.train.order(6, 1).at(index).place {
                Place::Pair(place) => place,
                Place::Window(_) => panic!("pairs have no windows"),
            })
            .collect();
        assert_eq!(places, BTreeSet::from([0, 1, 2]));
    }
}

#[test]
fn bad_pairs_are_named() {
    for (name, text, expected) in [
        (
            "a.tsv",
            "a\tb\nc\nd\te\n",
            "a.tsv, line 2: expected a source, a tab and a target; it has 0 tabs",
        ),
        ("a.tsv", "a\tb\tc\n", "line 1: expected a source, a tab and a target; it has 2 tabs"),
        ("a.jsonl", "{\"source\": \"a\", \"target\": \"b\"}\n{\n", "a.jsonl, line 2: "),
        ("a.jsonl", "{\"source\": \"a\"}\n", "line 1: there is no `target`"),
        ("a.jsonl", "{\"source\": 1, \"target\": \"b\"}\n", "`source` is not a string"),
        ("a.tsv", "a\tb\n", "too few pairs"),
        ("a.tsv", "", "is empty"),
        (
            "a.tsv",
            "a\tb\nlonger!\tc\nd\te\nf\tg\nh\ti\n",
            "pair 2 of the file, in the training data, needs 7 positions",
        ),
        (
            "a.tsv",
            "a\tlonger\nb\tc\nd\te\n",
            "pair 1 of the file, in the training data, needs 7 positions",
        ),
        ("a.tsv", "b\tc\nd\te\n\tb\n", "pair 3 of the file, in the validation data, has an empty"),
        (
            "a.tsv",
            "\tb\nb\tc\nd\te\n",
            "pair 1 of the file, in the training data, has an empty source",
        ),
    ] {
        let error = read_pairs(name, text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    // A decoder has no place for a source.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tsv");
    std::fs::write(&path, "a\tb\nc\td\n").unwrap();
    let text = SplitText::read(&pairs(path), 1).unwrap();
    let tokenizer = text.tokenizer(&TokenizerConfig::Character {}).unwrap();
    let error = Corpus::encode(&text, tokenizer, &ModelConfig::new(8, 1, 1, 6), 1).unwrap_err();
    assert!(matches!(error, DataError::PairsWithoutSource));
}

fn small(architecture: &str, position: &str) -> ModelConfig {
    let config = json!({ "name": "small", "model": { "architecture": architecture, "d_model": 32,
        "n_layers": 1, "n_heads": 2, "context_length": 12, "position": { "kind": position } } });
    config::resolve(config).unwrap().model
}

#[test]
fn a_translator_learns_pairs_by_heart() {
    on_each_backend!(|device: B| {
        let config = small("encoder-decoder", "sinusoidal");
        let task = Task::new(config.architecture, 10, 0);
        let Task::Translation { begin, end } = task else { panic!() };
        // Sources of several lengths, each to be read backwards.
        let sources: [&[u32]; 4] = [&[1, 2, 3, 4], &[5], &[9, 8, 7, 0, 1, 2], &[4, 3, 5]];
        let pairs: Vec<Pair> = sources
            .iter()
            .map(|source| Pair {
                source: source.to_vec(),
                target: source.iter().rev().copied().collect(),
            })
            .collect();
        let split = Split::pairs(pairs.clone(), 1);
        let examples: Vec<Example> =
            split.all(12).into_iter().map(|place| Example::read(&split, task, place)).collect();
        let batch = TokenBatch::new(&examples, 1.0);
        let built = Model::new("small", &config, 12, Initializer::seeded(1), &device);
        let mut model = LanguageModel::<B>::new(built, &config);
        let mut optimizer = ModelOptimizer::<B>::new(&OptimizerConfig::default(), &model).unwrap();
        for _ in 0..120 {
            let output = TrainStep::step(&model, batch.clone());
            model = optimizer.step(1e-2, model, output.grads);
        }
        let Model::Seq2Seq(model) = model.valid().model else { panic!() };
        for pair in pairs {
            let sampler = Sampler::new(GREEDY, 0).unwrap();
            assert_eq!(model.translate(&pair.source, begin, end, sampler), pair.target);
        }
    });
}

#[test]
fn an_encoder_learns_to_fill_gaps_from_both_sides() {
    on_each_backend!(|device: B| {
        let config = small("encoder", "rotary");
        let task = Task::new(config.architecture, 10, 5);
        let Task::MaskedTokens { mask, .. } = task else { panic!() };
        let tokens: Vec<u32> = (0..200).map(|place| place % 10).collect();
        let split = Split::text(tokens, 200);
        let built = Model::new("small", &config, 11, Initializer::seeded(1), &device);
        let mut model = LanguageModel::<B>::new(built, &config);
        let mut optimizer = ModelOptimizer::<B>::new(&OptimizerConfig::default(), &model).unwrap();
        let order = split.order(12, 1);
        for step in 0..500 {
            let examples: Vec<Example> =
                (0..8).map(|row| Example::read(&split, task, order.at(step * 8 + row))).collect();
            let output = TrainStep::step(&model, TokenBatch::new(&examples, 1.0));
            model = optimizer.step(5e-3, model, output.grads);
        }
        let Model::Encoder(model) = model.valid().model else { panic!() };
        // Each place in turn; the first has nothing before it, the last nothing after it.
        let filled: Vec<Vec<Guess>> = (0..12)
            .map(|place| {
                let mut tokens = [3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4];
                tokens[place] = mask;
                model.fill(&tokens, mask, 3).remove(0)
            })
            .collect();
        let right = (0..12).filter(|place| filled[*place][0].token == (*place as u32 + 3) % 10);
        // By chance one or two would be.
        assert!(right.count() >= 10);
        for guesses in filled {
            assert_eq!(guesses.len(), 3);
            let sum: f64 = guesses.iter().map(|guess| guess.probability).sum();
            assert!(sum <= 1.0 && guesses[0].probability > 0.3);
            assert!(guesses.is_sorted_by(|a, b| a.probability >= b.probability));
        }
    });
}
