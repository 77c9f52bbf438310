//! Byte-pair encoding that is learned here, against Hugging Face's and against plain recounting.

use emberlm::config::{SplitPattern, TokenizerConfig};
use emberlm::data::Stories;
use emberlm::tokenizer::{
    SavedTokenizer, TiktokenTokenizer, Tokenizer, TokenizerError, TrainedTokenizer, Trainer, build,
    byte_level_text, known_vocab_size,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer as HuggingFace};

use crate::support;

const SPECIAL: [&str; 4] = ["<|bos|>", "<|eos|>", "<|pad|>", "<|unk|>"];

/// As OpenAI wrote it for GPT-4 in Hugging Face's tokenizers.
const GPT4: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";

fn strings(tokens: &[&str]) -> Vec<String> {
    tokens.iter().map(|token| token.to_string()).collect()
}

fn train(
    split: &SplitPattern,
    special: &[&str],
    texts: &[&str],
    vocab_size: usize,
) -> TrainedTokenizer {
    let mut trainer = Trainer::new(split, &strings(special)).unwrap();
    trainer.feed(texts).unwrap();
    trainer.train(vocab_size, |_| ()).unwrap()
}

fn json_of(saved: &SavedTokenizer) -> &str {
    match saved {
        SavedTokenizer::HuggingFace { json, .. } => json,
        other => panic!("{other:?}"),
    }
}

fn model_of(saved: &SavedTokenizer) -> Value {
    serde_json::from_str::<Value>(json_of(saved)).unwrap()["model"].take()
}

/// What Hugging Face's trainer makes of the same text.
fn hugging_face(regex: Option<&str>, special: &[&str], texts: &[&str], size: usize) -> Value {
    let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let split = regex.map(|regex| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false}));
    let steps: Vec<Value> = split.into_iter().chain([byte_level(false)]).collect();
    let empty = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "post_processor": null, "decoder": byte_level(true),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    });
    let mut tokenizer: HuggingFace = empty.to_string().parse().unwrap();
    let trainer = BpeTrainer::builder()
        .vocab_size(size)
        .min_frequency(0)
        .show_progress(false)
        .special_tokens(special.iter().map(|token| AddedToken::from(*token, true)).collect())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer.train(&mut TrainerWrapper::BpeTrainer(trainer), texts.iter()).unwrap();
    serde_json::to_value(&tokenizer).unwrap()["model"].take()
}

#[track_caller]
fn assert_as_hugging_face(
    split: &SplitPattern,
    regex: Option<&str>,
    special: &[&str],
    texts: &[&str],
    size: usize,
) {
    let trained = train(split, special, texts, size);
    let (found, expected) = (model_of(&trained.saved), hugging_face(regex, special, texts, size));
    let merges = |model: &Value| model["merges"].as_array().unwrap().clone();
    for (number, pair) in merges(&found).iter().zip(&merges(&expected)).enumerate() {
        assert_eq!(pair.0, pair.1, "merge {number} of {split:?}");
    }
    assert_eq!(merges(&found).len(), merges(&expected).len(), "{split:?}");
    assert_eq!(found["vocab"], expected["vocab"], "{split:?}");
    assert_eq!(trained.vocab_size, found["vocab"].as_object().unwrap().len());
}

fn gpt2_regex() -> &'static str {
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
}

#[test]
fn merges_are_those_of_hugging_face_on_the_stories() {
    let stories = Stories::new().unwrap().generate(400, 1, 0);
    let texts: Vec<&str> = stories.split_inclusive('\n').collect();
    assert_as_hugging_face(&SplitPattern::Gpt4, Some(GPT4), &SPECIAL, &texts, 700);
    assert_as_hugging_face(&SplitPattern::Gpt2, Some(gpt2_regex()), &[], &texts, 700);
    let custom = r"[aeiou]+|\s";
    assert_as_hugging_face(
        &SplitPattern::Custom(custom.into()),
        Some(custom),
        &["<a>"],
        &texts,
        500,
    );
    // A whole text is a word.
    assert_as_hugging_face(&SplitPattern::None, None, &SPECIAL, &texts[..60], 700);
}

#[test]
fn merges_are_those_of_hugging_face_where_characters_repeat_and_are_wide() {
    let texts = [
        "aaa aaaa aaaaa aaaaaaaa aaaaaaaaa aab baa abab ababab aabaabaa",
        "Grüße, 世界世界! 🦀🦀🦀\n\n  def f(x):\n\treturn  x   \r\n",
        "no no no nono nonono o n on onon 1 12 123 1234 12345 don't DON'T we'll",
        "------------ ============ ............ \u{a0}\u{3000} e\u{301}e\u{301}",
        "",
    ];
    for size in [261, 300, 340, 100_000] {
        assert_as_hugging_face(&SplitPattern::Gpt4, Some(GPT4), &SPECIAL, &texts, size);
        assert_as_hugging_face(&SplitPattern::None, None, &SPECIAL, &texts, size);
    }
}

#[test]
fn merges_are_those_of_hugging_face_on_shakespeare() {
    let Some(path) = support::shared("datasets/tinyshakespeare.txt") else { return };
    let text = std::fs::read_to_string(path).unwrap();
    assert_as_hugging_face(&SplitPattern::Gpt4, Some(GPT4), &SPECIAL, &[&text], 2000);
}

/// Recounts everything before each merge.
fn recounted(
    words: &mut [Vec<u32>],
    known: &[((u32, u32), u32)],
    first: u32,
    merges: usize,
) -> Vec<(u32, u32)> {
    let merge = |words: &mut [Vec<u32>], pair: (u32, u32), id: u32| {
        for word in words {
            let mut at = 0;
            while at + 1 < word.len() {
                if (word[at], word[at + 1]) == pair {
                    word[at] = id;
                    word.remove(at + 1);
                }
                at += 1;
            }
        }
    };
    for (pair, id) in known {
        merge(words, *pair, *id);
    }
    let mut found = Vec::new();
    for id in (first..).take(merges) {
        let mut counts: HashMap<(u32, u32), u64> = HashMap::new();
        for word in words.iter() {
            for pair in word.windows(2) {
                *counts.entry((pair[0], pair[1])).or_default() += 1;
            }
        }
        let best =
            counts.into_iter().max_by_key(|(pair, count)| (*count, std::cmp::Reverse(*pair)));
        let Some((pair, _)) = best else { break };
        merge(words, pair, id);
        found.push(pair);
    }
    found
}

/// Tokens by id, and merges as pairs of ids.
fn merge_ids(saved: &SavedTokenizer) -> Vec<((u32, u32), u32)> {
    let model = model_of(saved);
    let id = |token: &str| model["vocab"][token].as_u64().unwrap() as u32;
    let read = |pair: &Value| {
        let (left, right) = (pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
        ((id(left), id(right)), id(&format!("{left}{right}")))
    };
    model["merges"].as_array().unwrap().iter().map(read).collect()
}

/// Ids of bytes after so many special tokens.
fn byte_ids(text: &str, special: usize) -> Vec<u32> {
    let mut order: Vec<String> = (0..=u8::MAX).map(|byte| byte_level_text(&[byte])).collect();
    order.sort_unstable();
    let id = |byte: u8| order.iter().position(|text| *text == byte_level_text(&[byte])).unwrap();
    text.bytes().map(|byte| (id(byte) + special) as u32).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn merges_are_those_of_recounting(
        texts in prop::collection::vec("[abcé]{0,12}|[ab]{0,30}|a{0,20}", 0..8),
        merges in 0usize..40,
    ) {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let trained = train(&SplitPattern::None, &["<|eos|>"], &texts, 257 + merges);
        let mut words: Vec<Vec<u32>> = texts.iter().map(|text| byte_ids(text, 1)).collect();
        let expected = recounted(&mut words, &[], 257, merges);
        let found: Vec<(u32, u32)> =
            merge_ids(&trained.saved).into_iter().map(|(pair, _)| pair).collect();
        prop_assert_eq!(&found, &expected);
        prop_assert_eq!(trained.vocab_size, 257 + expected.len());
        // What is left of the words is how the tokenizer writes them.
        let tokenizer = trained.saved.restore().unwrap();
        for (text, word) in texts.iter().zip(words) {
            prop_assert_eq!(tokenizer.encode(text).unwrap(), word);
            prop_assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()), *text);
        }
    }

    #[test]
    fn growing_on_another_text_is_recounting_after_the_merges_that_are_there(
        first in prop::collection::vec("[abc]{0,12}|a{0,20}", 1..5),
        second in prop::collection::vec("[abcd]{0,12}|a{0,20}", 1..5),
        merges in 1usize..20,
    ) {
        let first: Vec<&str> = first.iter().map(String::as_str).collect();
        let second: Vec<&str> = second.iter().map(String::as_str).collect();
        let start = train(&SplitPattern::None, &[], &first, 270);
        let mut trainer = Trainer::grow(&start.saved, &[]).unwrap();
        trainer.feed(&second).unwrap();
        let size = start.vocab_size + merges;
        let grown = match trainer.train(size, |_| ()) {
            Ok(grown) => grown,
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        let known = merge_ids(&start.saved);
        let mut words: Vec<Vec<u32>> = second.iter().map(|text| byte_ids(text, 0)).collect();
        let expected = recounted(&mut words, &known, start.vocab_size as u32, merges);
        let all = merge_ids(&grown.saved);
        prop_assert_eq!(&all[..known.len()], &known[..]);
        let found: Vec<(u32, u32)> = all[known.len()..].iter().map(|(pair, _)| *pair).collect();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn growing_on_the_same_text_is_training_to_the_larger_size() {
    let stories = Stories::new().unwrap().generate(200, 2, 0);
    let whole = train(&SplitPattern::Gpt4, &SPECIAL, &[&stories], 600);
    let part = train(&SplitPattern::Gpt4, &SPECIAL, &[&stories], 400);
    assert_eq!((part.vocab_size, whole.vocab_size), (400, 600));
    let mut trainer = Trainer::grow(&part.saved, &[]).unwrap();
    trainer.feed(&[&stories]).unwrap();
    assert_eq!(trainer.train(600, |_| ()).unwrap().saved, whole.saved);
}

#[test]
fn growing_gpt2_keeps_its_ids_and_adds_special_tokens_before_merges() {
    let gpt2 = TiktokenTokenizer::new("gpt2").unwrap();
    let stories = Stories::new().unwrap().generate(100, 2, 0);
    let mut trainer = Trainer::grow(&gpt2.saved(), &strings(&["<|user|>"])).unwrap();
    assert_eq!(trainer.start_size(), 50258);
    trainer.feed(&[&stories]).unwrap();
    let grown = trainer.train(50270, |_| ()).unwrap();
    assert_eq!(grown.vocab_size, 50270);
    let tokenizer = grown.saved.restore().unwrap();
    assert_eq!(tokenizer.vocab_size(), 50270);
    assert_eq!(tokenizer.end_of_text(), Some(50256));
    for id in 0..50257 {
        assert_eq!(tokenizer.token_bytes(id), gpt2.token_bytes(id), "{id}");
    }
    assert_eq!(tokenizer.encode("<|user|>").unwrap(), [50257]);
    let ids = tokenizer.encode(&stories).unwrap();
    assert!(ids.len() < gpt2.encode(&stories).unwrap().len());
    assert!((50258..50270).all(|id| ids.contains(&id)), "a new token is never used");
    assert_eq!(tokenizer.decode(&ids), stories);
    // A text with none of the new pairs is as it was.
    let other = "Quartz, 12 jocks; éß 世界";
    assert_eq!(tokenizer.encode(other).unwrap(), gpt2.encode(other).unwrap());
}

#[test]
fn the_tokens_do_not_depend_on_threads_or_on_how_texts_are_cut() {
    let stories = Stories::new().unwrap().generate(3000, 3, 0);
    assert!(stories.len() > 1 << 20, "long enough to be cut for several threads");
    let expected = train(&SplitPattern::Gpt4, &SPECIAL, &[&stories], 500);
    let lines: Vec<&str> = stories.split_inclusive('\n').collect();
    // A story is a line, and before it the line break of the one before is a word of its own.
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut trainer = Trainer::new(&SplitPattern::Gpt4, &strings(&SPECIAL)).unwrap();
            for lines in lines.chunks(77) {
                trainer.feed(lines).unwrap();
            }
            let found = trainer.train(500, |_| ()).unwrap();
            assert_eq!(found.saved, expected.saved, "{threads} threads");
        });
    }
}

#[test]
fn ids_are_special_tokens_then_bytes_then_merges() {
    let trained = train(&SplitPattern::Gpt4, &SPECIAL, &["ab ab ab"], 300);
    // "ab" first, as it is there three times; then " ab".
    assert_eq!(trained.vocab_size, 262);
    let vocab: BTreeMap<String, u32> =
        serde_json::from_value(model_of(&trained.saved)["vocab"].take()).unwrap();
    for (token, id) in [("<|bos|>", 0), ("<|unk|>", 3), ("!", 4), ("~", 97), ("¡", 98)] {
        assert_eq!(vocab[token], id, "{token}");
    }
    for (token, id) in [("ÿ", 191), ("Ā", 192), ("Ń", 259), ("ab", 260), ("Ġab", 261)] {
        assert_eq!(vocab[token], id, "{token}");
    }
    let tokenizer = trained.saved.restore().unwrap();
    assert_eq!(tokenizer.end_of_text(), Some(1));
    assert_eq!(tokenizer.encode("ab ab<|eos|>").unwrap(), [260, 261, 1]);
}

#[test]
fn a_pair_that_spells_a_special_token_is_never_merged() {
    let trained = train(&SplitPattern::None, &["ab"], &["xabxabxabx"], 300);
    let merges = merge_ids(&trained.saved);
    assert!(merges.iter().all(|(_, id)| *id > 256), "{merges:?}");
    let special = model_of(&trained.saved)["vocab"]["ab"].clone();
    assert_eq!(special, json!(0));
}

#[test]
fn a_configuration_builds_what_the_trainer_trains() {
    let stories = Stories::new().unwrap().generate(100, 4, 0);
    for (json, split, special) in [
        (json!({"kind": "bpe", "vocab_size": 320}), SplitPattern::Gpt4, &SPECIAL[..]),
        (
            json!({"kind": "bpe", "vocab_size": 320, "split": {"custom": "[a-z]+"}, "special_tokens": ["<|eos|>"]}),
            SplitPattern::Custom("[a-z]+".into()),
            &["<|eos|>"],
        ),
    ] {
        let config: TokenizerConfig = serde_json::from_value(json).unwrap();
        assert_eq!(known_vocab_size(&config), Some(320));
        let built = build(&config, [&stories]).unwrap();
        assert_eq!(built.saved(), train(&split, special, &[&stories], 320).saved);
    }
}

#[test]
fn progress_counts_tokens() {
    let mut trainer = Trainer::new(&SplitPattern::Gpt4, &[]).unwrap();
    trainer.feed(&["abc abc"]).unwrap();
    let mut seen = Vec::new();
    trainer.train(1000, |tokens| seen.push(tokens)).unwrap();
    assert_eq!(seen, [257, 258, 259]);
}

#[test]
fn an_end_of_text_that_growing_adds_ends_texts() {
    let start = train(&SplitPattern::Gpt4, &[], &["ab ab"], 258);
    assert_eq!(start.saved.restore().unwrap().end_of_text(), None);
    let mut trainer = Trainer::grow(&start.saved, &strings(&["<|eos|>"])).unwrap();
    trainer.feed(&["cd cd"]).unwrap();
    let grown = trainer.train(260, |_| ()).unwrap().saved.restore().unwrap();
    assert_eq!(grown.end_of_text(), Some(258));
}

/// Merges whose parts later merges make, two merges to one token, and words that are tokens without
/// any merges: pairs are counted in words as the tokenizer writes them.
#[test]
fn growing_counts_tokens_as_the_tokenizer_writes_them() {
    let start = train(&SplitPattern::None, &[], &["x"], 256);
    let mut description: Value = serde_json::from_str(json_of(&start.saved)).unwrap();
    for (id, token) in (256..).zip(["ab", "bc", "abc", "whole"]) {
        description["model"]["vocab"][token] = json!(id);
    }
    description["model"]["merges"] = json!([["a", "bc"], ["ab", "c"], ["b", "c"], ["a", "b"]]);
    for ignore_merges in [false, true] {
        description["model"]["ignore_merges"] = json!(ignore_merges);
        let json = description.to_string();
        let library: HuggingFace = json.parse().unwrap();
        let texts = ["abcabcab", "whole", "abcabc", "aabcbc"];
        let ids = texts.map(|text| library.encode_fast(text, false).unwrap().get_ids().to_vec());
        let mut words = ids.to_vec();
        let expected = recounted(&mut words, &[], 260, 2);
        let saved = SavedTokenizer::HuggingFace { json, end_of_text: None };
        let mut trainer = Trainer::grow(&saved, &[]).unwrap();
        trainer.feed(&texts).unwrap();
        let grown = trainer.train(262, |_| ()).unwrap();
        let all = merge_ids(&grown.saved);
        let found: Vec<(u32, u32)> = all[4..].iter().map(|(pair, _)| *pair).collect();
        assert_eq!(found, expected);
        assert_eq!(expected[0], (258, 258), "abc twice");
        assert_eq!(grown.tokens, words.iter().map(Vec::len).sum::<usize>() as u64);
    }
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let special = |tokens: &[&str]| {
        Trainer::new(&SplitPattern::Gpt4, &strings(tokens)).err().unwrap().to_string()
    };
    assert_eq!(
        special(&["a", "b"]),
        "`a` cannot be a special token: a single character of this kind stands for a byte"
    );
    assert_eq!(special(&[""]), "`` cannot be a special token: it is empty");
    assert_eq!(
        special(&["<a>", "<a>"]),
        "`<a>` cannot be a special token: there is a token of that text already"
    );
    let size = |size: usize| {
        let trainer = Trainer::new(&SplitPattern::Gpt4, &strings(&SPECIAL)).unwrap();
        trainer.train(size, |_| ()).map(|trained| trained.vocab_size)
    };
    assert_eq!(
        size(259).unwrap_err().to_string(),
        "a vocabulary of 259 tokens cannot be trained: 256 bytes and 4 special tokens are 260"
    );
    assert_eq!(size(260), Ok(260));
    assert!(size((1 << 24) + 1).is_err());
    let wrong = SplitPattern::Custom("(".into());
    assert!(matches!(Trainer::new(&wrong, &[]), Err(TokenizerError::SplitPattern { .. })));

    let part = train(&SplitPattern::Gpt4, &SPECIAL, &["ab ab"], 262);
    let again = Trainer::grow(&part.saved, &[]).unwrap().train(262, |_| ()).unwrap_err();
    assert!(again.to_string().contains("the tokenizer has 262 already"), "{again}");
    let repeated = Trainer::grow(&part.saved, &strings(&["<|eos|>"])).err().unwrap();
    assert!(repeated.to_string().contains("there is a token of that text already"), "{repeated}");

    let description: Value = serde_json::from_str(json_of(&part.saved)).unwrap();
    for (path, value, expected) in [
        ("/model/type", json!("Unigram"), "its model is no BPE"),
        ("/normalizer", json!({"type": "NFC"}), "it changes texts before it splits them"),
        ("/pre_tokenizer", json!({"type": "Metaspace"}), "its pre-tokenizer is Metaspace"),
        ("/pre_tokenizer/pretokenizers/0/behavior", json!("Removed"), "another way than Isolated"),
        ("/pre_tokenizer/pretokenizers/1/add_prefix_space", json!(true), "a space before a text"),
        ("/model/end_of_word_suffix", json!("</w>"), "it has a end_of_word_suffix"),
        ("/model/vocab/ab", json!(100), "have the same id 100"),
        ("/added_tokens/1/id", json!(7), "its token `<|eos|>` has two ids"),
    ] {
        let mut other = description.clone();
        *other.pointer_mut(path).unwrap() = value;
        let saved = SavedTokenizer::HuggingFace { json: other.to_string(), end_of_text: None };
        let error = Trainer::grow(&saved, &[]).err().unwrap().to_string();
        assert!(error.contains(expected), "{path}: {error}");
    }
}
