//! Byte-pair encoding against the libraries whose vocabularies it uses.

use emberlm::config::TokenizerConfig;
use emberlm::tokenizer::{
    self, BytePairEncoder, ByteTokenizer, CharacterTokenizer, HuggingFaceTokenizer,
    MergesTokenizer, SavedTokenizer, Splitter, TiktokenTokenizer, Tokenizer, TokenizerError,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;
use std::sync::LazyLock;
use tiktoken_rs::CoreBPE;

type Load = fn() -> &'static CoreBPE;

const ENCODINGS: [(&str, Load); 6] = [
    ("gpt2", tiktoken_rs::r50k_base_singleton),
    ("p50k_base", tiktoken_rs::p50k_base_singleton),
    ("p50k_edit", tiktoken_rs::p50k_edit_singleton),
    ("cl100k_base", tiktoken_rs::cl100k_base_singleton),
    ("o200k_base", tiktoken_rs::o200k_base_singleton),
    ("o200k_harmony", tiktoken_rs::o200k_harmony_singleton),
];

/// Texts with what is hard to encode: long words, repeated words, special tokens, all of Unicode.
fn texts() -> impl Strategy<Value = String> {
    let pieces = [
        " the",
        " of",
        "ing",
        "tion",
        "Zürich",
        "\u{958}\n",
        " Über",
        "字",
        "漢字仮名",
        "🦀",
        "👩\u{200d}🚀",
        "a",
        "aaa",
        "b",
        "'s",
        "'LL",
        " ",
        "    ",
        "\t",
        "\n",
        "\r\n\r\n",
        "\u{a0}",
        "0",
        "2024",
        "<|endoftext|>",
        "<|fim_prefix|>",
        "<|end",
        "<|eos|>",
        "|>",
        "<|",
        "the",
        "Zürich",
        "word ",
        "\u{3000}",
        "é",
        "e\u{301}",
        "!!",
        "==",
        "\0",
        "_x",
        "://",
    ];
    let piece = prop::sample::select(pieces.to_vec());
    let run = (piece.clone(), 1usize..200).prop_map(|(piece, times)| piece.repeat(times));
    prop_oneof![
        2 => prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat()),
        1 => prop::collection::vec(run, 0..3).prop_map(|runs| runs.concat()),
        1 => any::<String>(),
        1 => "[a-z]{0,300}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn ids_are_tiktokens(text in texts()) {
        for (name, load) in ENCODINGS {
            let tokenizer = TiktokenTokenizer::new(name).unwrap();
            let expected = load().encode_ordinary(&text);
            // Once to learn the words, and once to remember them.
            for _ in 0..2 {
                prop_assert_eq!(&tokenizer.encode(&text).unwrap(), &expected, "{}", name);
            }
            let part = &expected[expected.len() / 3..];
            prop_assert_eq!(tokenizer.decode_bytes(part), load().decode_bytes(part).unwrap());
        }
    }
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn byte_level(use_regex: bool) -> Value {
    json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": use_regex,
    })
}

fn split(pattern: &str) -> Value {
    let split = json!({
        "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false,
    });
    json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]})
}

fn added(id: u32, content: &str, normalized: bool) -> Value {
    json!({
        "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": normalized, "special": !normalized,
    })
}

/// GPT-2's first merges as a `tokenizer.json`, with some more of what such files have.
fn description() -> Value {
    let gpt2 = SavedTokenizer::Tiktoken { encoding: "gpt2".into() };
    let json = tokenizer::to_hugging_face(&gpt2).unwrap().json;
    let mut description: Value = serde_json::from_str(&json).unwrap();
    let model = &mut description["model"];
    model["merges"].as_array_mut().unwrap().truncate(2000);
    model["vocab"].as_object_mut().unwrap().retain(|_, id| id.as_u64().unwrap() < 2256);
    // No merges lead to these.
    for (id, word) in (2256..).zip(["Zürich", " Über", "漢字仮名", "://xyz", "qqqq"]) {
        model["vocab"][tokenizer::byte_level_text(word.as_bytes())] = json!(id);
    }
    let tokens = ["<|endoftext|>", "<|end", "<|eos|>", "<|fim_prefix|>"];
    let mut special: Vec<Value> =
        (2261..).zip(tokens).map(|(id, token)| added(id, token, false)).collect();
    special.push(added(2265, "the", true));
    special.push(added(2266, "theory|>", true));
    description["added_tokens"] = special.into();
    description
}

/// With `path` of a description set to something else.
fn with(path: &str, value: Value) -> Value {
    let mut description = description();
    *description.pointer_mut(path).unwrap() = value;
    description
}

/// Tokenizers with what the library says of the same file; and whether their texts can be cut.
static HUGGING_FACE: LazyLock<Vec<(HuggingFaceTokenizer, tokenizers::Tokenizer, bool)>> =
    LazyLock::new(|| {
        let mut llama3 = with("/pre_tokenizer", split(LLAMA3));
        llama3["model"]["ignore_merges"] = json!(true);
        let mut nfc = with("/pre_tokenizer", split(LLAMA3));
        nfc["normalizer"] = json!({"type": "NFC"});
        let mut blank = description();
        blank["added_tokens"].as_array_mut().unwrap().push(added(2267, "of the", false));
        let mut strip = description();
        strip["added_tokens"][0]["lstrip"] = json!(true);
        // Bytes without a token are left out.
        let mut holes = description();
        let lost = tokenizer::byte_level_text(&[0, 0xF0, b'Z']);
        let has = |text: &str| text.chars().any(|it| lost.contains(it));
        let model = &mut holes["model"];
        model["vocab"].as_object_mut().unwrap().retain(|token, _| !has(token));
        let no_loss =
            |merge: &Value| !has(merge[0].as_str().unwrap()) && !has(merge[1].as_str().unwrap());
        model["merges"].as_array_mut().unwrap().retain(no_loss);
        holes["added_tokens"] = json!([]);
        [
            (description(), true),
            (llama3, true),
            (with("/pre_tokenizer", byte_level(false)), false),
            (with("/pre_tokenizer", split(r"\w+|[^\w\s]")), false),
            (nfc, true),
            (blank, false),
            (strip, false),
            (holes, true),
        ]
        .into_iter()
        .map(|(description, can_cut)| {
            let json = description.to_string();
            let ours = HuggingFaceTokenizer::new(&json, None).unwrap();
            (ours, json.parse().unwrap(), can_cut)
        })
        .collect()
    });

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn ids_are_hugging_faces(text in texts()) {
        for (number, (tokenizer, library, _)) in HUGGING_FACE.iter().enumerate() {
            let expected = library.encode_fast(text.as_str(), false).unwrap().get_ids().to_vec();
            for _ in 0..2 {
                prop_assert_eq!(&tokenizer.encode(&text).unwrap(), &expected, "{}", number);
            }
        }
    }

    #[test]
    fn the_ids_of_a_cut_text_are_those_of_the_whole(
        before in texts(), text in texts(), after in texts(),
    ) {
        let whole = [before.as_str(), &text, &after].concat();
        let characters = CharacterTokenizer::train([&whole]);
        let published = PUBLISHED.iter().map(|tokenizer| tokenizer as &dyn Tokenizer);
        let hugging_face = HUGGING_FACE.iter().map(|(tokenizer, ..)| tokenizer as &dyn Tokenizer);
        let others: [&dyn Tokenizer; 2] = [&characters, &ByteTokenizer];
        for tokenizer in published.chain(hugging_face).chain(others) {
            let Some(cut) = tokenizer.cut(&text) else { continue };
            prop_assert!(0 < cut && cut < text.len());
            let (left, right) = whole.split_at(before.len() + cut);
            let parts = [tokenizer.encode(left).unwrap(), tokenizer.encode(right).unwrap()];
            prop_assert_eq!(parts.concat(), tokenizer.encode(&whole).unwrap(), "{:?}", tokenizer);
        }
    }

    /// Bytes come back, whole or in any part; what is not UTF-8 is shown and kept.
    #[test]
    fn decoding_is_exact(text in texts(), ids in prop::collection::vec(0u32..60_000, 0..20)) {
        let merges = MergesTokenizer::new(vec![(97, 97), (256, 97)]).unwrap();
        let others: [&dyn Tokenizer; 2] = [&merges, &ByteTokenizer];
        let published = PUBLISHED.iter().map(|tokenizer| tokenizer as &dyn Tokenizer);
        let hugging_face = HUGGING_FACE.iter().map(|(tokenizer, ..)| tokenizer as &dyn Tokenizer);
        // The fifth normalizes, and the last leaves bytes out.
        for (number, tokenizer) in others.into_iter().chain(published).chain(hugging_face.take(4)).enumerate() {
            let found = tokenizer.encode(&text).unwrap();
            prop_assert!(tokenizer.decode_bytes(&found) == text.as_bytes(), "{number}");
            prop_assert_eq!(tokenizer.decode(&found), text.as_str());
            let part = &found[found.len() / 3..];
            let bytes = tokenizer.decode_bytes(part);
            prop_assert!(text.as_bytes().ends_with(&bytes));
            prop_assert_eq!(tokenizer.decode(part), String::from_utf8_lossy(&bytes));
            // Any ids are something.
            let bytes = tokenizer.decode_bytes(&ids);
            prop_assert_eq!(tokenizer.decode(&ids), String::from_utf8_lossy(&bytes));
        }
        for tokenizer in [
            &CharacterTokenizer::train([&text]) as &dyn Tokenizer,
            &*SavedTokenizer::Ids { vocab_size: 9 }.restore().unwrap(),
        ] {
            let bytes = tokenizer.decode_bytes(&ids);
            prop_assert_eq!(tokenizer.decode(&ids), String::from_utf8_lossy(&bytes));
        }
    }

    /// Whatever tokens there are: every step takes the pair of the lowest rank, the leftmost first.
    #[test]
    fn merging_is_what_it_is_defined_as(
        tokens in prop::collection::btree_set("[ab]{2,5}", 0..12),
        order in any::<prop::sample::Selector>(),
        words in prop::collection::vec("[ab]{1,12}|[ab]{90,130}", 1..5),
    ) {
        let mut ranks: Vec<(Vec<u8>, u32)> = vec![(b"a".to_vec(), 0), (b"b".to_vec(), 1)];
        let mut rest: Vec<String> = tokens.into_iter().collect();
        while !rest.is_empty() {
            let index = order.select(0..rest.len());
            ranks.push((rest.swap_remove(index).into_bytes(), ranks.len() as u32));
        }
        let whole = Splitter::new(&emberlm::config::SplitPattern::None).unwrap();
        let encoder = BytePairEncoder::from_ranks(whole, &ranks);
        let rank = |bytes: &[u8]| ranks.iter().find(|(token, _)| token == bytes).map(|(_, id)| *id);
        for word in words {
            let mut parts: Vec<Vec<u8>> = word.bytes().map(|byte| vec![byte]).collect();
            if rank(word.as_bytes()).is_some() {
                parts = vec![word.clone().into_bytes()];
            }
            while let Some((_, at)) = (1..parts.len())
                .filter_map(|at| Some((rank(&parts[at - 1..=at].concat())?, at)))
                .min()
            {
                let right = parts.remove(at);
                parts[at - 1].extend(right);
            }
            let expected: Vec<u32> = parts.iter().filter_map(|part| rank(part)).collect();
            let mut ids = Vec::new();
            encoder.encode(&word, &mut ids).unwrap();
            prop_assert_eq!(ids, expected);
        }
    }
}

static PUBLISHED: LazyLock<Vec<TiktokenTokenizer>> = LazyLock::new(|| {
    ENCODINGS.iter().map(|(name, _)| TiktokenTokenizer::new(name).unwrap()).collect()
});

/// That it can says that the library is not asked.
#[test]
fn plain_byte_level_files_can_be_cut() {
    for (number, (tokenizer, _, can_cut)) in HUGGING_FACE.iter().enumerate() {
        assert_eq!(tokenizer.cut("two words").is_some(), *can_cut, "{number}");
    }
}

#[test]
fn long_texts_are_encoded_in_parallel_pieces() {
    let gpt2 = TiktokenTokenizer::new("gpt2").unwrap();
    let lines: Vec<String> =
        (0..90_000).map(|n| format!("{n} little  pieces,\n\nof №{n} 字")).collect();
    let text = lines.concat();
    assert!(text.len() > 2 << 20);
    let two = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let ids = two.install(|| gpt2.encode(&text)).unwrap();
    assert!(ids == tiktoken_rs::r50k_base_singleton().encode_ordinary(&text));
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert!(ids == one.install(|| gpt2.encode(&text)).unwrap());
    let lines: Vec<&str> = lines.iter().map(String::as_str).take(100).collect();
    let batch: Vec<_> = gpt2.encode_batch(&lines);
    assert_eq!(batch, lines.iter().map(|line| gpt2.encode(line)).collect::<Vec<_>>());
}

/// This would take hours if every merge looked through the whole word.
#[test]
fn a_word_of_a_megabyte_is_no_trouble() {
    let text = "a".repeat(1 << 20);
    for tokenizer in PUBLISHED.iter() {
        let ids = tokenizer.encode(&text).unwrap();
        assert_eq!(tokenizer.decode_bytes(&ids), text.as_bytes());
    }
}

/// Nothing else is an answer: the library takes what is left of the text for one word.
#[test]
fn a_pattern_that_gives_up_is_an_error() {
    let json = with("/pre_tokenizer", split(r"\s+(?!\S)|\S+")).to_string();
    let tokenizer = HuggingFaceTokenizer::new(&json, None).unwrap();
    let text = format!("{}a b c", " ".repeat(1_100_000));
    let error = tokenizer.encode(&text).unwrap_err();
    assert!(matches!(error, TokenizerError::Split { .. }), "{error}");
    assert!(!error.to_string().contains('\n'), "{error}");
}

#[test]
fn merges_that_are_too_long_are_refused() {
    let doubled =
        |times: u32| (0..times).map(|n| if n == 0 { (97, 97) } else { (255 + n, 255 + n) });
    assert!(MergesTokenizer::new(doubled(16).collect()).is_ok());
    let long = MergesTokenizer::new(doubled(17).collect()).unwrap_err();
    assert!(
        matches!(long, TokenizerError::LongMerge { number: 16, length: 131_072, .. }),
        "{long}"
    );
    // 2^14 bytes and one more, of 50 kinds, and all pairs of these.
    let kinds = (0..50).map(|byte| (269, byte));
    let pairs = (270..320).flat_map(|left| (270..320).map(move |right| (left, right)));
    let many = MergesTokenizer::new(doubled(14).chain(kinds).chain(pairs).collect()).unwrap_err();
    assert!(matches!(many, TokenizerError::LongMerge { length: 32_770, .. }), "{many}");
}

/// A token that two files name is there once, so that the library need not be asked.
#[test]
fn special_tokens_may_be_named_twice() {
    let folder = tempfile::tempdir().unwrap();
    let mut vocabulary: serde_json::Map<String, Value> =
        (0..=u8::MAX).map(|byte| (tokenizer::byte_level_text(&[byte]), json!(byte))).collect();
    vocabulary.insert("<|endoftext|>".into(), json!(256));
    vocabulary.insert("<unk>".into(), json!(257));
    let special =
        json!({"bos_token": "<|endoftext|>", "unk_token": "<unk>", "pad_token": "<|endoftext|>"});
    for (name, text) in [
        ("vocab.json", Value::Object(vocabulary).to_string()),
        ("merges.txt", "#version: 0.2\n".into()),
        ("special_tokens_map.json", special.to_string()),
    ] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let tokenizer = tokenizer::read(folder.path()).unwrap().restore().unwrap();
    assert_eq!(tokenizer.encode("a<unk>").unwrap(), [97, 257]);
    assert_eq!(tokenizer.cut("two words"), Some(3));
}

#[test]
fn bytes_are_their_own_ids() {
    let text = "Grüße 🦀";
    let ids = ByteTokenizer.encode(text).unwrap();
    assert_eq!(ids, text.bytes().map(u32::from).collect::<Vec<_>>());
    assert_eq!((ByteTokenizer.vocab_size(), ByteTokenizer.end_of_text()), (257, Some(256)));
    assert_eq!(ByteTokenizer.decode(&[72, 0xFF, 256, 105]), "H\u{FFFD}i");
    let saved = serde_json::to_string(&ByteTokenizer.saved()).unwrap();
    assert_eq!(saved, r#"{"kind":"byte"}"#);
    let files = tokenizer::to_hugging_face(&serde_json::from_str(&saved).unwrap()).unwrap();
    let library: tokenizers::Tokenizer = files.json.parse().unwrap();
    for text in [text, "", "two words\n\t '\u{3000}", "\0\u{7f}"] {
        let expected = library.encode_fast(text, false).unwrap();
        assert_eq!(ByteTokenizer.encode(text).unwrap(), expected.get_ids());
    }
    assert_eq!((files.eos(), library.token_to_id("<|eos|>")), (Some(256), Some(256)));
}

#[test]
fn fingerprints_tell_vocabularies_apart() {
    let fingerprints = [
        &ByteTokenizer as &dyn Tokenizer,
        &CharacterTokenizer::train(["ab"]),
        &CharacterTokenizer::train(["ac"]),
        &PUBLISHED[0],
        &PUBLISHED[3],
        &MergesTokenizer::new(vec![(97, 98)]).unwrap(),
        &MergesTokenizer::new(vec![(98, 97)]).unwrap(),
    ]
    .map(tokenizer::fingerprint);
    for (index, one) in fingerprints.iter().enumerate() {
        assert_eq!(one.len(), 64);
        assert!(!fingerprints[..index].contains(one), "{index}");
    }
    // The same ids in another form.
    let gpt2 = tokenizer::to_hugging_face(&PUBLISHED[0].saved()).unwrap();
    let same = HuggingFaceTokenizer::new(&gpt2.json, gpt2.eos()).unwrap();
    assert_eq!(tokenizer::fingerprint(&same), fingerprints[3]);
    let no_end = HuggingFaceTokenizer::new(&gpt2.json, None).unwrap();
    assert_ne!(tokenizer::fingerprint(&no_end), fingerprints[3]);
}

#[test]
fn tokenizers_have_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    assert_eq!(tokenizer::named("character").unwrap(), TokenizerConfig::Character {});
    assert_eq!(tokenizer::named("byte").unwrap(), TokenizerConfig::Byte {});
    let gpt2 = TokenizerConfig::Tiktoken { encoding: "gpt2".into() };
    assert_eq!(tokenizer::named("gpt2").unwrap(), gpt2);
    assert_eq!(tokenizer::named(path).unwrap(), TokenizerConfig::File { path: path.into() });
    let error = tokenizer::named("gpt-2").unwrap_err().to_string();
    assert!(error.contains("`gpt-2`") && error.contains("byte, gpt2, r50k_base"), "{error}");
}

#[test]
fn tokenizers_are_read_from_folders_and_as_they_are_saved() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    for saved in [ByteTokenizer.saved(), CharacterTokenizer::train(["ab"]).saved()] {
        fs::write(&path, serde_json::to_string(&saved).unwrap()).unwrap();
        assert_eq!(tokenizer::read(folder.path()).unwrap(), saved);
        assert_eq!(tokenizer::read(&path).unwrap(), saved);
    }
    fs::write(&path, r#"{"kind": "words"}"#).unwrap();
    let error = tokenizer::read(&path).unwrap_err();
    assert!(matches!(error, TokenizerError::Unreadable { .. }), "{error}");

    fs::write(&path, description().to_string()).unwrap();
    let end = |folder| match tokenizer::read(folder).unwrap() {
        SavedTokenizer::HuggingFace { end_of_text, .. } => end_of_text,
        other => panic!("{other:?}"),
    };
    assert_eq!(end(folder.path()), None);
    fs::write(folder.path().join("config.json"), r#"{"eos_token_id": [7, 8]}"#).unwrap();
    assert_eq!(end(folder.path()), Some(7));
    let settings = folder.path().join("tokenizer_config.json");
    fs::write(&settings, r#"{"eos_token": {"content": "<|eos|>"}}"#).unwrap();
    assert_eq!(end(folder.path()), Some(2263));
    // What is there is not passed over.
    fs::write(&settings, r#"{"eos_token": "#).unwrap();
    let error = tokenizer::read(folder.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer_config.json"), "{error}");
}
