//! Byte-pair encoding against the libraries whose vocabularies it uses.

use emberlm::tokenizer::{TiktokenTokenizer, Tokenizer};
use proptest::prelude::*;
use tiktoken_rs::CoreBPE;

const ENCODINGS: [(&str, fn() -> &'static CoreBPE); 5] = [
    ("gpt2", tiktoken_rs::r50k_base_singleton),
    ("p50k_base", tiktoken_rs::p50k_base_singleton),
    ("cl100k_base", tiktoken_rs::cl100k_base_singleton),
    ("o200k_base", tiktoken_rs::o200k_base_singleton),
    ("o200k_harmony", tiktoken_rs::o200k_harmony_singleton),
];

/// Texts with what is hard to encode: long words, repeated words, special tokens, all of Unicode.
fn texts() -> impl Strategy<Value = String> {
    let pieces = [
        " the", " of", "ing", "tion", "Zürich", " Über", "字", "漢字仮名", "🦀", "👩\u{200d}🚀", "a", "aaa", "b",
        "'s", "'LL", " ", "    ", "\t", "\n", "\r\n\r\n", "\u{a0}", "0", "2024", "<|endoftext|>",
        "<|fim_prefix|>", "é", "e\u{301}", "!!", "==", "\0", "_x", "://",
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
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn ids_are_tiktokens(text in texts()) {
        for (name, load) in ENCODINGS {
            let tokenizer = TiktokenTokenizer::new(name).unwrap();
            let expected = load().encode_ordinary(&text);
            // Once to learn the words, and once to remember them.
            for _ in 0..2 {
                prop_assert_eq!(&tokenizer.encode(&text).unwrap(), &expected, "{}", name);
            }
        }
    }
}
