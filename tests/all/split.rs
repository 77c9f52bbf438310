//! The hand-written scanners against the regular expressions that they stand for.

use emberlm::config::SplitPattern;
use emberlm::tokenizer::{Splitter, TokenizerError};
use fancy_regex::Regex;
use proptest::prelude::*;

fn words(splitter: &Splitter, text: &str) -> Vec<String> {
    let mut words = Vec::new();
    splitter.split(text, |word| words.push(word.to_string())).unwrap();
    words
}

fn matches(regex: &Regex, text: &str) -> Vec<String> {
    regex.find_iter(text).map(|found| found.unwrap().as_str().to_string()).collect()
}

/// As published in tiktoken, and in the `tokenizer.json` of Llama 3 and Qwen 2.
const PUBLISHED: [&str; 5] = [
    tiktoken_rs::O200K_BASE_PAT_STR,
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];

/// Each scanner with its regular expression.
fn scanners() -> Vec<(Splitter, Regex)> {
    let published = PUBLISHED.map(|pattern| SplitPattern::Custom(pattern.into()));
    [SplitPattern::Gpt2, SplitPattern::Gpt4]
        .into_iter()
        .chain(published)
        .map(|pattern| {
            let splitter = Splitter::new(&pattern).unwrap();
            // Other patterns are left to the regular expression, and are not cut.
            assert_eq!(splitter.cut("two words"), Some(3), "{pattern:?} is not scanned");
            let regex = Regex::new(splitter.regex().unwrap()).unwrap();
            (splitter, regex)
        })
        .collect()
}

/// What the patterns tell apart, and what is near it.
fn tricky() -> impl Strategy<Value = String> {
    let pieces = [
        "'",
        "'s",
        "'S",
        "'ſ",
        "'t",
        "'LL",
        "'lL",
        "'re",
        "'Ve",
        "'m",
        "'D",
        "'r",
        "'l",
        "’s",
        "s",
        "ſ",
        "K",
        "l",
        "L",
        "e",
        "word",
        "0",
        "12",
        "1234",
        "²",
        "Ⅷ",
        "٣",
        " ",
        "  ",
        "\t",
        "\n",
        "\r",
        "\r\n",
        "\u{b}",
        "\u{c}",
        "\u{1c}",
        "\u{85}",
        "\u{a0}",
        "\u{1680}",
        "\u{2028}",
        "\u{3000}",
        "\u{200b}",
        "\u{feff}",
        "\u{301}",
        "e\u{301}",
        "\u{20dd}",
        "é",
        "ß",
        "ﬆ",
        "字",
        "漢字",
        "ไทย",
        "ا",
        "🦀",
        "👩\u{200d}🚀",
        "!",
        "?!",
        "/",
        "!\n/",
        "\u{958}",
        "<|endoftext|>",
        "_",
        "-",
        "\0",
        "\u{10ffff}",
        "𝟙",
        "𝐀",
    ];
    let piece = prop::sample::select(pieces.to_vec());
    prop::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![3 => tricky(), 1 => any::<String>(), 1 => "[ a-zA-Z0-9'.\r\n]{0,40}"]
}

/// A text together, and cut in two where the splitter says.
fn check(splitter: &Splitter, regex: &Regex, text: &str) -> Result<(), TestCaseError> {
    let whole = words(splitter, text);
    prop_assert_eq!(&whole, &matches(regex, text), "{:?}", splitter.regex());
    prop_assert_eq!(whole.concat(), text);
    if let Some(cut) = splitter.cut(text) {
        prop_assert!(0 < cut && cut < text.len());
        let parts = [words(splitter, &text[..cut]), words(splitter, &text[cut..])].concat();
        prop_assert_eq!(parts, whole, "cut at {} by {:?}", cut, splitter.regex());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn words_are_those_of_the_pattern(text in texts()) {
        for (splitter, regex) in SCANNERS.iter() {
            check(splitter, regex, &text)?;
        }
    }

    /// A cut that is found in the middle of a text holds for the whole.
    #[test]
    fn a_cut_holds_whatever_is_around_it(before in texts(), text in texts(), after in texts()) {
        for (splitter, _) in SCANNERS.iter() {
            if let Some(cut) = splitter.cut(&text) {
                let cut = before.len() + cut;
                let whole = [before.as_str(), &text, &after].concat();
                let parts = [words(splitter, &whole[..cut]), words(splitter, &whole[cut..])];
                prop_assert_eq!(parts.concat(), words(splitter, &whole));
            }
        }
    }
}

static SCANNERS: std::sync::LazyLock<Vec<(Splitter, Regex)>> = std::sync::LazyLock::new(scanners);

/// The class of each character in front of, between and behind each kind of neighbour.
#[test]
fn every_character_is_classed_as_the_pattern_does() {
    let mut text = String::new();
    for character in (0..=char::MAX as u32).filter_map(char::from_u32) {
        text.extend([' ', character, 'a', character, '1', character, '!', character, ' ']);
        if character as u32 % 0x400 == 0x3FF {
            for (splitter, regex) in &SCANNERS[..2] {
                assert!(words(splitter, &text) == matches(regex, &text), "up to {character:?}");
            }
            text.clear();
        }
    }
}

#[test]
fn texts_are_cut_where_words_end() {
    let gpt4 = Splitter::new(&SplitPattern::Gpt4).unwrap();
    for (text, cut) in [
        ("", None),
        ("word", None),
        (" word", None),
        ("two words", Some(3)),
        ("three words  here ", Some(17)),
        ("a\n\nb!", Some(1)),
        ("!\nb", None),
        ("12 \n", Some(2)),
        ("字\u{3000}字", Some(3)),
    ] {
        assert_eq!(gpt4.cut(text), cut, "{text:?}");
    }
    for pattern in [SplitPattern::None, SplitPattern::Custom(r"\w+|\W".into())] {
        assert_eq!(Splitter::new(&pattern).unwrap().cut("two words"), None);
    }
}

#[test]
fn without_a_pattern_a_text_is_one_word() {
    let none = Splitter::new(&SplitPattern::None).unwrap();
    assert_eq!(none.regex(), None);
    assert_eq!(words(&none, "a b\nc"), ["a b\nc"]);
    assert!(words(&none, "").is_empty());
}

#[test]
fn what_a_pattern_leaves_out_is_a_word_too() {
    let splitter = |pattern: &str| Splitter::new(&SplitPattern::Custom(pattern.into())).unwrap();
    assert_eq!(words(&splitter("[0-9]+"), "ab12 cd3"), ["ab", "12", " cd", "3"]);
    // An empty match separates.
    assert_eq!(words(&splitter("(?=b)"), "abcb"), ["a", "bc", "b"]);
}

/// As in Oniguruma, which the Python package `tokenizers` has.
#[test]
fn anchors_are_at_the_ends_of_lines() {
    let splitter = |pattern: &str| Splitter::new(&SplitPattern::Custom(pattern.into())).unwrap();
    assert_eq!(words(&splitter("[a-z]+$|."), "ab\ncd e"), ["ab", "\n", "c", "d", " ", "e"]);
    assert_eq!(words(&splitter("^[a-z]+|."), "ab\ncd e"), ["ab", "\n", "cd", " ", "e"]);
}

/// The regular expression gives up on more than a million.
#[test]
fn long_whitespace_is_split() {
    let text = format!("{}a", " ".repeat(1_100_000));
    for (splitter, _) in SCANNERS.iter() {
        let lengths: Vec<usize> = words(splitter, &text).iter().map(String::len).collect();
        assert_eq!(lengths, [1_099_999, 2], "{:?}", splitter.regex());
    }
}

#[test]
fn patterns_that_cannot_be_used_are_named() {
    let error = Splitter::new(&SplitPattern::Custom("a(b".into())).unwrap_err();
    assert!(matches!(&error, TokenizerError::SplitPattern { pattern, .. } if pattern == "a(b"));
    assert!(!error.to_string().contains('\n'));
    // It tries every way to divide the letters before it gives up.
    let slow = Splitter::new(&SplitPattern::Custom(r"(?:(a)\1|a|b|ab)*(?=c)".into())).unwrap();
    let error = slow.split(&"ab".repeat(40), |_| {}).unwrap_err();
    assert!(matches!(error, TokenizerError::Split { .. }), "{error}");
}

#[test]
fn patterns_are_written_as_json() {
    for (pattern, json) in [
        (SplitPattern::Gpt2, r#""gpt2""#),
        (SplitPattern::Gpt4, r#""gpt4""#),
        (SplitPattern::None, r#""none""#),
        (SplitPattern::Custom("a+".into()), r#"{"custom":"a+"}"#),
    ] {
        assert_eq!(serde_json::to_string(&pattern).unwrap(), json);
        assert_eq!(serde_json::from_str::<SplitPattern>(json).unwrap(), pattern);
    }
    assert_eq!(SplitPattern::default(), SplitPattern::Gpt4);
}
