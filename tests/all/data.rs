use burn::data::dataloader::DataLoader;
use emberlm::config::{DataConfig, ModelConfig, TokenizerConfig};
use emberlm::data::{
    BatchPlan, Corpus, DataError, EvaluationLoader, LoaderPosition, Permutation, Split, SplitText,
    SplitTokens, Task, TokenBatch, TrainLoader, Window, WindowOrder, disjoint_windows, read_text,
    spread_windows,
};
use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::on_each_backend;
use crate::support::{shared, window_batch};

fn text(path: PathBuf) -> DataConfig {
    DataConfig::Text { path: Some(path), validation_path: None, validation_fraction: 0.1 }
}

fn prepare(
    data: &DataConfig,
    tokenizer: &TokenizerConfig,
    context_length: usize,
) -> Result<Corpus, DataError> {
    let text = SplitText::read(data, 1)?;
    let model = ModelConfig::new(8, 1, 1, context_length);
    Corpus::encode(&text, text.tokenizer(tokenizer)?, &model, 1)
}

fn counting(count: u32) -> Split {
    Split::text((0..count).collect::<Vec<u32>>(), count as usize)
}

#[test]
fn a_permutation_takes_every_place_once() {
    for len in [1, 2, 3, 4, 5, 16, 17, 1000, 4097] {
        for key in [0, 1, u64::MAX] {
            let permutation = Permutation::new(len, key);
            let places: BTreeSet<u64> = (0..len).map(|index| permutation.at(index)).collect();
            assert_eq!(places, (0..len).collect(), "length {len}, key {key}");
        }
    }
}

#[test]
fn permutations_look_random() {
    // Over many keys, every element is equally likely in every place: chi-square with 63 degrees
    // of freedom has mean 63 and deviation 11.2; six deviations are allowed.
    let (len, keys) = (8u64, 8000u64);
    let mut counts = vec![0f64; 64];
    for key in 0..keys {
        let permutation = Permutation::new(len, key);
        for index in 0..len {
            counts[(index * len + permutation.at(index)) as usize] += 1.0;
        }
    }
    let expected = (keys / len) as f64;
    let chi_square: f64 = counts.iter().map(|n| (n - expected).powi(2) / expected).sum();
    assert!(chi_square < 130.0, "{chi_square}");
}

#[test]
fn a_pass_reads_each_of_its_windows_once() {
    for (tokens, context_length) in [(2, 1), (11, 10), (20, 10), (100, 10), (1003, 16)] {
        let order = WindowOrder::new(tokens, context_length, 3);
        let count = order.windows_per_pass();
        let mut phases = BTreeSet::new();
        for pass in 0..20 {
            let starts: BTreeSet<usize> =
                (0..count).map(|place| order.window((pass * count + place) as u64).start).collect();
            assert_eq!(starts.len(), count);
            let (first, last) = (starts.first().unwrap(), starts.last().unwrap());
            assert_eq!(last - first, (count - 1) * context_length, "windows touch");
            assert!(last + context_length < tokens, "the last target is in the stream");
            assert!(starts.iter().all(|start| (start - first) % context_length == 0));
            phases.insert(*first);
        }
        if tokens > 3 * context_length && context_length > 1 {
            assert!(phases.len() > 3, "every pass cuts elsewhere: {phases:?}");
        }
    }
}

#[test]
fn disjoint_windows_have_every_target_once() {
    for (tokens, context_length) in [(2, 4), (9, 4), (10, 4), (111_540, 64)] {
        let mut targets = Vec::new();
        for window in disjoint_windows(tokens, context_length) {
            assert!((1..=context_length).contains(&window.length));
            targets.extend(window.start + 1..window.start + 1 + window.length);
        }
        assert_eq!(targets, (1..tokens).collect::<Vec<_>>());
    }
    assert!(disjoint_windows(1, 4).is_empty());
}

#[test]
fn spread_windows_are_full_and_apart() {
    for (tokens, count) in [(100, 3), (100, 9), (100, 50), (11, 1)] {
        let windows = spread_windows(tokens, 10, count);
        assert_eq!(windows.len(), count.min((tokens - 1) / 10));
        for pair in windows.windows(2) {
            assert!(pair[0].start + 10 <= pair[1].start);
        }
        assert!(windows.iter().all(|w| w.length == 10 && w.start + 10 < tokens));
    }
}

#[test]
fn targets_are_the_next_tokens() {
    let windows = [Window { start: 3, length: 4 }, Window { start: 0, length: 4 }];
    let batch = window_batch(&(10..30).collect::<Vec<u32>>(), &windows, 1.0);
    assert_eq!(batch.tokens(), 8);
    on_each_backend!(|device: B| {
        let windows = [Window { start: 3, length: 4 }, Window { start: 0, length: 4 }];
        let batch = window_batch(&(10..30).collect::<Vec<u32>>(), &windows, 1.0);
        let inputs: Vec<i64> = batch.inputs::<B>(&device).into_data().iter().collect();
        let targets: Vec<i64> = batch.targets::<B>(&device).into_data().iter().collect();
        assert_eq!(inputs, [13, 14, 15, 16, 10, 11, 12, 13]);
        assert_eq!(targets, [14, 15, 16, 17, 11, 12, 13, 14]);
    });
}

#[test]
fn loaders_go_on_from_a_cursor_and_end_with_an_uneven_batch() {
    on_each_backend!(|_device: B| {
        let take = |cursor, skip| -> Vec<TokenBatch> {
            let split = counting(1000);
            let order = split.order(10, 1);
            let loader = TrainLoader::new(
                split,
                Task::NextToken,
                order,
                BatchPlan::new(4, 2),
                LoaderPosition { step: 0, cursor },
            );
            DataLoader::<B, _>::iter(&loader).skip(skip).take(30).collect()
        };
        assert_eq!(take(8, 0), take(0, 2));
        assert_eq!(take(0, 0)[0].share, 0.5);
    });

    let split = counting(96);
    let all = split.all(10); // nine full windows and one of five
    let loader = EvaluationLoader::new(split, Task::NextToken, all, 4);
    let sizes: Vec<usize> = loader.batches().map(|batch| batch.tokens()).collect();
    assert_eq!(sizes, [40, 40, 15]);
    assert_eq!(sizes.iter().sum::<usize>(), 95);
}

#[test]
fn ranks_share_the_order_among_them() {
    on_each_backend!(|_device: B| {
        let take = |rank, ranks, count| -> Vec<TokenBatch> {
            let split = counting(1000);
            let order = split.order(10, 1);
            let loader = TrainLoader::new(
                split,
                Task::NextToken,
                order,
                BatchPlan::new(4, 2),
                LoaderPosition::default(),
            );
            DataLoader::<B, _>::iter(&loader.for_rank(rank, ranks)).take(count).collect()
        };
        let whole = take(0, 1, 24);
        let parts = [0, 1, 2].map(|rank| take(rank, 3, 8));
        for (number, batch) in whole.iter().enumerate() {
            assert_eq!(*batch, parts[number % 3][number / 3], "batch {number}");
        }
    });
}

#[test]
fn tinyshakespeare_has_its_known_counts() {
    let Some(path) = shared("datasets/tinyshakespeare.txt") else {
        return;
    };
    let corpus = prepare(&text(path.clone()), &TokenizerConfig::Character {}, 64).unwrap();
    assert_eq!(corpus.tokenizer.vocab_size(), 65);
    assert_eq!(corpus.train.token_count(), 1_003_854);
    assert_eq!(corpus.validation.token_count(), 111_540);
    let gpt2 = TokenizerConfig::Tiktoken { encoding: "gpt2".into() };
    let corpus = prepare(&text(path), &gpt2, 64).unwrap();
    assert_eq!(corpus.train.token_count(), 301_966);
    assert_eq!(corpus.validation.token_count(), 36_059);
}

#[test]
fn the_split_is_by_characters_and_loses_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text");
    let written = "äöü€ abc ".repeat(12); // 108 characters
    std::fs::write(&path, &written).unwrap();
    let corpus = prepare(&text(path.clone()), &TokenizerConfig::Character {}, 4).unwrap();
    assert_eq!(corpus.train.token_count(), 97);
    assert_eq!(corpus.validation.token_count(), 11);
    assert_eq!(corpus.train.bytes + corpus.validation.bytes, written.len());
    let ids = |split: &Split| match &split.tokens {
        SplitTokens::Text(tokens) => tokens.read(0..tokens.len()),
        SplitTokens::Pairs(_) => panic!("a text has no pairs"),
    };
    let both = [ids(&corpus.train), ids(&corpus.validation)].concat();
    assert_eq!(corpus.tokenizer.decode(&both), written);

    let other = folder.path().join("other");
    std::fs::write(&other, "abc abc ü").unwrap();
    let own = DataConfig::Text {
        path: Some(path),
        validation_path: Some(other),
        validation_fraction: 0.1,
    };
    let corpus = prepare(&own, &TokenizerConfig::Character {}, 4).unwrap();
    assert_eq!(corpus.train.token_count(), 108);
    assert_eq!(corpus.validation.token_count(), 9);
}

#[test]
fn bad_files_are_named_with_their_fault() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let missing = folder.path().join("missing");
    assert!(matches!(read_text(&missing), Err(DataError::NotFound { .. })));
    assert!(matches!(read_text(folder.path()), Err(DataError::IsFolder { .. })));
    for nothing in [&b""[..], b"\xEF\xBB\xBF"] {
        assert!(matches!(read_text(&write("empty", nothing)), Err(DataError::Empty { .. })));
    }
    // The mark that says that a file is UTF-8 is no part of its text; one further on is.
    let marked = read_text(&write("marked", "\u{feff}text\u{feff}".as_bytes())).unwrap();
    assert_eq!(marked, "text\u{feff}");
    let latin1 = read_text(&write("latin1", b"na\xEFve"));
    assert!(matches!(latin1, Err(DataError::NotUtf8 { offset: 2, .. })));
    let short = text(write("short", b"too short"));
    let error = prepare(&short, &TokenizerConfig::Character {}, 8).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the training text has 8 tokens, but a window of model.context_length = 8 needs 9; give a longer text or lower the context length"
    );
}
