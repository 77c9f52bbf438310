use emberlm::config::TokenizerConfig;
use emberlm::tokenizer::{
    CharacterTokenizer, SavedTokenizer, TiktokenTokenizer, Tokenizer, TokenizerError, build,
};

#[test]
fn characters_are_numbered_by_code_point() {
    let tokenizer = CharacterTokenizer::train(["hello, wörld\n"]);
    assert_eq!(tokenizer.vocab_size(), 11);
    let ids: Vec<u32> = (0..11).collect();
    assert_eq!(tokenizer.decode(&ids), "\n ,dehlorwö");
}

#[test]
fn character_text_survives_the_round_trip() {
    let text = "Grüße, 世界! 🦀\n\tEnd.";
    let tokenizer = CharacterTokenizer::train([text]);
    let ids = tokenizer.encode(text).unwrap();
    assert_eq!(ids.len(), text.chars().count());
    assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
    assert_eq!(tokenizer.decode(&ids), text);
    assert!(tokenizer.encode("").unwrap().is_empty());
}

#[test]
fn an_unknown_character_is_named_with_its_place() {
    let tokenizer = CharacterTokenizer::train(["abc"]);
    let error = tokenizer.encode("abßc").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the tokenizer has never seen the character 'ß' (U+00DF, at character 3); it knows 3 characters from its training text"
    );
}

#[test]
fn gpt2_ids_are_openais() {
    let tokenizer = TiktokenTokenizer::new("gpt2").unwrap();
    assert_eq!(tokenizer.encode("Hello, world!").unwrap(), [15496, 11, 995, 0]);
    assert_eq!(tokenizer.end_of_text(), Some(50256));
    // Text that looks like a special token is text.
    assert!(!tokenizer.encode("<|endoftext|>").unwrap().contains(&50256));
    assert_eq!(tokenizer.decode(&[50256]), "<|endoftext|>");
}

#[test]
fn every_encoding_has_the_ids_it_claims() {
    for name in [
        "gpt2",
        "r50k_base",
        "p50k_base",
        "p50k_edit",
        "cl100k_base",
        "o200k_base",
        "o200k_harmony",
    ] {
        let tokenizer = TiktokenTokenizer::new(name).unwrap();
        let last = tokenizer.vocab_size() as u32 - 1;
        assert!(tokenizer.token_bytes(last).is_some(), "{name}: {last} is the last id");
        assert_eq!(tokenizer.token_bytes(last + 1), None, "{name}");
        assert_eq!(tokenizer.decode(&[tokenizer.end_of_text().unwrap()]), "<|endoftext|>");
        let text = "Grüße, 世界! 🦀\n\n  def f(x):\n\treturn x  ";
        let ids = tokenizer.encode(text).unwrap();
        assert!(ids.iter().all(|id| *id <= last));
        assert_eq!(tokenizer.decode(&ids), text, "{name}");
    }
    let error = TiktokenTokenizer::new("gpt5").unwrap_err().to_string();
    assert!(error.contains("no tiktoken encoding `gpt5`; there are gpt2, r50k_base"), "{error}");
}

#[test]
fn decoding_never_fails() {
    let gpt2 = TiktokenTokenizer::new("gpt2").unwrap();
    // A crab is four bytes; one of its tokens alone is not text, but its bytes are kept.
    let ids = gpt2.encode("🦀").unwrap();
    assert!(ids.len() > 1);
    assert!(gpt2.decode(&ids[..1]).contains('\u{FFFD}'));
    assert!("🦀".as_bytes().starts_with(&gpt2.decode_bytes(&ids[..1])));
    assert_eq!(gpt2.decode(&[u32::MAX, 15496]), "\u{FFFD}Hello");
    let characters = CharacterTokenizer::train(["ab"]);
    assert_eq!(characters.decode(&[0, 7, 1]), "a\u{FFFD}b");
}

#[test]
fn a_saved_tokenizer_is_the_same_again() {
    let text = "some text\nof its own €";
    for config in [
        TokenizerConfig::Character {},
        TokenizerConfig::Tiktoken { encoding: "cl100k_base".into() },
    ] {
        let tokenizer = build(&config, [&text.to_string()]).unwrap();
        let json = serde_json::to_string(&tokenizer.saved()).unwrap();
        let restored = serde_json::from_str::<SavedTokenizer>(&json).unwrap().restore().unwrap();
        assert_eq!(restored.vocab_size(), tokenizer.vocab_size());
        assert_eq!(restored.encode(text), tokenizer.encode(text));
    }
    let twice = SavedTokenizer::Character { characters: "aba".into() };
    assert_eq!(twice.restore().unwrap_err(), TokenizerError::RepeatedCharacter { character: 'a' });
}
