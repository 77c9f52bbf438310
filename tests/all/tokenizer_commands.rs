//! `emberlm tokenizer` from outside.

use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

use crate::command_line::{SHORT, TINY, command, emberlm, refused, stdout};
use emberlm::config::SplitPattern;
use emberlm::data::Stories;
use emberlm::tokenizer::{TiktokenTokenizer, Tokenizer, Trainer, to_hugging_face};

fn tokenizer(folder: &Path, args: &[&str]) -> Output {
    emberlm(folder, &[&["tokenizer"], args].concat())
}

fn with_input(folder: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut child = command(folder, &[&["tokenizer"], args].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

#[track_caller]
fn ok(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    stdout(output)
}

/// Texts in several forms, and a tokenizer `mine` that was trained on them.
fn trained() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let stories = Stories::new().unwrap().generate(300, 5, 0);
    std::fs::write(path.join("stories.txt"), &stories).unwrap();
    let json: String =
        stories.lines().map(|line| format!("{}\n", serde_json::json!({"story": line}))).collect();
    std::fs::write(path.join("stories.jsonl"), json).unwrap();
    let args =
        ["train", "stories.txt", "--vocab-size", "400", "--special", "<|user|>", "--out", "mine"];
    let printed = ok(&tokenizer(path, &args));
    let words = [
        "text: 1 documents, ",
        "tokenizer: 400 tokens, 139 of them learned",
        " bytes a token\n",
        "folder: mine\n",
        "emberlm tokenizer show mine",
    ];
    for expected in words {
        assert!(printed.contains(expected), "{printed}");
    }
    folder
}

#[test]
fn a_trained_tokenizer_is_a_folder_of_hugging_faces() {
    let folder = trained();
    let path = folder.path();
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(path.join("mine").join(name)).unwrap()).unwrap()
    };
    let settings = read("tokenizer_config.json");
    for (key, token) in [
        ("tokenizer_class", "PreTrainedTokenizerFast"),
        ("bos_token", "<|bos|>"),
        ("eos_token", "<|eos|>"),
        ("pad_token", "<|pad|>"),
        ("unk_token", "<|unk|>"),
    ] {
        assert_eq!(settings[key], token, "{key}");
    }
    let json = read("tokenizer.json");
    let added = json["added_tokens"].as_array().unwrap();
    let special: Vec<&str> = added.iter().map(|token| token["content"].as_str().unwrap()).collect();
    assert_eq!(special, ["<|bos|>", "<|eos|>", "<|pad|>", "<|unk|>", "<|user|>"]);
    let left: Vec<_> = std::fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "something is left: {left:?}");

    // By the name of the folder or the file, the same ids as the library.
    let text = "Once there was a dog.\n<|user|> Ünï🦀";
    let library: tokenizers::Tokenizer =
        std::fs::read_to_string(path.join("mine/tokenizer.json")).unwrap().parse().unwrap();
    let expected = library.encode(text, false).unwrap().get_ids().to_vec();
    for name in ["mine", "mine/tokenizer.json"] {
        let json = ok(&tokenizer(path, &["encode", name, text, "--json"]));
        assert_eq!(serde_json::from_str::<Vec<u32>>(&json).unwrap(), expected);
    }
    assert!(expected.contains(&4));
}

#[test]
fn training_does_not_depend_on_where_the_text_comes_from() {
    let folder = trained();
    let path = folder.path();
    let train = |paths: &[&str], out: &str, input: &[u8]| {
        let args = ["--vocab-size", "400", "--special", "<|user|>", "--out", out];
        ok(&with_input(path, &[&["train"], paths, &args].concat(), input));
        std::fs::read(path.join(out).join("tokenizer.json")).unwrap()
    };
    let stories = std::fs::read(path.join("stories.txt")).unwrap();
    let mine = std::fs::read(path.join("mine/tokenizer.json")).unwrap();
    assert_eq!(train(&["-"], "from-stdin", &stories), mine);
    assert_eq!(train(&["stor*.txt"], "from-pattern", b""), mine);
    // A line is a document, and its end is no part of it.
    let lines = train(&["stories.jsonl", "--field", "story"], "from-lines", b"");
    let special = ["<|bos|>", "<|eos|>", "<|pad|>", "<|unk|>", "<|user|>"].map(String::from);
    let mut trainer = Trainer::new(&SplitPattern::Gpt4, &special).unwrap();
    let stories = String::from_utf8(stories).unwrap();
    trainer.feed(&stories.lines().collect::<Vec<_>>()).unwrap();
    let expected = to_hugging_face(&trainer.train(400, |_| ()).unwrap().saved).unwrap();
    assert_eq!(String::from_utf8(lines).unwrap(), expected.json);
}

#[test]
fn text_comes_back_from_its_ids() {
    let folder = trained();
    let path = folder.path();
    let text = "A dog,\t\"naïve\"\r\n\n 世界 🦀 -- <|eos|> don't\u{0}\u{301} end ";
    for name in ["mine", "gpt2", "byte", "cl100k_base"] {
        for json in [&["--json"][..], &[]] {
            let encode = [&["encode", name], json].concat();
            let ids = ok(&with_input(path, &encode, text.as_bytes()));
            let decoded = with_input(path, &["decode", name, "--bytes"], ids.as_bytes());
            assert_eq!(decoded.stdout, text.as_bytes(), "{name}");
            assert_eq!(ok(&with_input(path, &["decode", name], ids.as_bytes())), text, "{name}");
        }
    }
    assert_eq!(ok(&tokenizer(path, &["encode", "gpt2", "Hello, world!"])), "15496 11 995 0\n");
    assert_eq!(
        ok(&tokenizer(path, &["encode", "gpt2", "Hello, world!", "--json"])),
        "[15496,11,995,0]\n"
    );
    assert_eq!(ok(&tokenizer(path, &["encode", "gpt2", "-5 --x"])), "12 20 1377 87\n");
    assert_eq!(ok(&tokenizer(path, &["encode", "gpt2", ""])), "\n");
    assert_eq!(
        ok(&tokenizer(path, &["decode", "gpt2", "15496", "11", "995", "0"])),
        "Hello, world!"
    );
    assert_eq!(ok(&tokenizer(path, &["decode", "gpt2", "15496 999999"])), "Hello\u{FFFD}");
    // A byte that is no text.
    let half = tokenizer(path, &["decode", "byte", "--bytes", "228"]);
    assert_eq!(half.stdout, [228]);
    assert_eq!(ok(&tokenizer(path, &["decode", "byte", "228"])), "\u{FFFD}");
}

/// Quotes, and names that are no text.
#[test]
fn folders_may_have_any_name() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.txt"), "ab ab").unwrap();
    let train = ["train", "a.txt", "--vocab-size", "261", "--out"];
    let printed = ok(&tokenizer(folder.path(), &[&train[..], &["it's"]].concat()));
    assert!(printed.contains(r#"tokenizer show 'it'\''s' "Some"#), "{printed}");
    assert!(printed.contains(r#"tokenizer='{"kind":"file","path":"it'\''s"}'"#), "{printed}");
    let name = std::ffi::OsStr::from_bytes(b"t\xFF");
    let output = command(folder.path(), &["tokenizer"]).args(train).arg(name).output().unwrap();
    assert!(ok(&output).contains("folder: t\u{FFFD}"));
    assert!(folder.path().join(name).join("tokenizer.json").is_file());
}

#[test]
fn bytes_that_cannot_be_written_are_an_error() {
    let Ok(full) = std::fs::File::options().write(true).open("/dev/full") else { return };
    let status = command(Path::new("."), &["tokenizer", "decode", "byte", "--bytes", "65"])
        .stdout(full)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(!status.success());
}

#[test]
fn show_marks_tokens_and_what_cannot_be_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let shown = ok(&tokenizer(path, &["show", "gpt2", "Hello, wörld\n\tend\u{7}"]));
    let ids = TiktokenTokenizer::new("gpt2").unwrap().encode("Hello, wörld\n\tend\u{7}").unwrap();
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    let expected = format!(
        "Hello|,| w|ör|ld|↵\n→|end|<0x07>\n{}\n{} tokens, 18 characters, 19 bytes, {:.2} bytes a token\n",
        ids.join(" "),
        ids.len(),
        19.0 / ids.len() as f64
    );
    assert_eq!(shown, expected);
    // The three bytes of a character, each a token.
    let bytes = ok(&tokenizer(path, &["show", "byte", "世"]));
    assert!(bytes.starts_with("<0xE4>|<0xB8>|<0x96>\n228 184 150\n3 tokens"), "{bytes}");
    let nothing = ok(&tokenizer(path, &["show", "byte", ""]));
    assert_eq!(nothing, "\n0 tokens, 0 characters, 0 bytes\n");
}

#[test]
fn stats_are_counted_right() {
    let folder = trained();
    let path = folder.path();
    let text = "Zoë the dog ran.\nThe dog ran to Zoë.\n".repeat(5);
    std::fs::write(path.join("a.txt"), &text).unwrap();
    std::fs::write(path.join("b.txt"), "The end").unwrap();
    let args = ["stats", "gpt2", "mine", "byte", "--data", "a.txt", "b.txt", "--json"];
    let all: Vec<Value> = serde_json::from_str(&ok(&tokenizer(path, &args))).unwrap();
    let gpt2 = TiktokenTokenizer::new("gpt2").unwrap();
    let mut ids = gpt2.encode(&text).unwrap();
    ids.extend(gpt2.encode("The end").unwrap());
    let bytes = text.len() + 7;
    let characters = text.chars().count() + 7;
    let tokens = ids.len();
    let longest = ids.iter().map(|id| gpt2.token_bytes(*id).unwrap().len()).max().unwrap();
    ids.sort_unstable();
    ids.dedup();
    let first = &all[0];
    for (key, expected) in [
        ("vocab_size", 50257),
        ("used", ids.len()),
        ("tokens", tokens),
        ("bytes", bytes),
        ("characters", characters),
        ("longest_token_bytes", longest),
    ] {
        assert_eq!(first[key], expected, "{key}");
    }
    assert_eq!(first["bytes_per_token"], bytes as f64 / tokens as f64);
    assert_eq!(first["characters_per_token"], characters as f64 / tokens as f64);
    assert!(all.iter().all(|stats| stats["round_trip"] == true), "{all:?}");
    assert_eq!(all[2]["tokens"], bytes);
    assert_eq!(all[1]["tokenizer"], "mine");

    let table = ok(&tokenizer(path, &["stats", "gpt2", "mine", "--data", "a.txt"]));
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    let row = table.lines().find(|line| line.starts_with("mine ")).unwrap();
    assert!(row.contains(" 400 ") && row.contains(" yes "), "{row}");
}

#[test]
fn stats_say_where_a_round_trip_fails() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    // Letters in lower case alone, others by a token that stands for none of them.
    let json = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],
        "normalizer":{"type":"Lowercase"},"pre_tokenizer":{"type":"Split","pattern":{"Regex":"[\\s\\S]"},"behavior":"Isolated","invert":false},
        "post_processor":null,"decoder":{"type":"Fuse"},
        "model":{"type":"WordLevel","vocab":{"a":0,"b":1," ":2,"?":3},"unk_token":"?"}}"#;
    std::fs::write(path.join("lower.json"), json).unwrap();
    std::fs::write(path.join("1.txt"), "ab ab").unwrap();
    std::fs::write(path.join("2.txt"), "ab aB a").unwrap();
    let args = ["stats", "lower.json", "--data", "1.txt", "2.txt"];
    let table = ok(&tokenizer(path, &args));
    assert!(table.contains("decoding differs first in document 2 at byte 4"), "{table}");
    let all: Value =
        serde_json::from_str(&ok(&tokenizer(path, &[&args[..], &["--json"]].concat()))).unwrap();
    assert_eq!(all[0]["round_trip"], false);
    assert_eq!(all[0]["first_difference"], serde_json::json!({"document": 2, "byte": 4}));
}

/// Its words go over every place where it could be cut.
#[test]
fn stats_say_where_pieces_may_change_the_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::write(path.join("short.txt"), "ab ab").unwrap();
    std::fs::write(path.join("long.txt"), "ab ".repeat(500_000)).unwrap();
    let train = ["train", "short.txt", "--split", "none", "--vocab-size", "262", "--out", "whole"];
    ok(&tokenizer(path, &train));
    let stats = |data: &str| ok(&tokenizer(path, &["stats", "whole", "byte", "--data", data]));
    let note = ": long documents were encoded in pieces";
    let (long, short) = (stats("long.txt"), stats("short.txt"));
    assert!(long.contains(&format!("whole{note}")), "{long}");
    assert!(!long.contains(&format!("byte{note}")) && !short.contains(note), "{long}{short}");
}

#[test]
fn growing_and_exporting_keep_the_ids() {
    let folder = trained();
    let path = folder.path();
    let grow = ["train", "stories.txt", "--grow", "mine", "--vocab-size", "420", "--out", "larger"];
    let printed = ok(&tokenizer(path, &grow));
    assert!(printed.contains("tokenizer: 420 tokens, 20 of them learned"), "{printed}");
    let ids = |name: &str| ok(&tokenizer(path, &["encode", name, "<|eos|> Zz 12"]));
    assert_eq!(ids("larger"), ids("mine"));

    ok(&tokenizer(path, &["export", "mine", "copied"]));
    let files = ["tokenizer.json", "tokenizer_config.json"];
    for name in files {
        let read = |folder: &str| std::fs::read(path.join(folder).join(name)).unwrap();
        assert_eq!(read("copied"), read("mine"), "{name}");
    }
    ok(&tokenizer(path, &["export", "gpt2", "hf/gpt2"]));
    let hello = |name: &str| ok(&tokenizer(path, &["encode", name, "Hello, world!"]));
    assert_eq!(hello("hf/gpt2"), "15496 11 995 0\n");
}

#[test]
fn a_text_with_nothing_more_to_merge_says_so() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("small.txt"), "ab ab").unwrap();
    let printed = ok(&tokenizer(folder.path(), &["train", "small.txt", "--vocab-size", "1000"]));
    assert!(printed.contains("tokenizer: 262 tokens, 2 of them learned"), "{printed}");
    assert!(printed.contains("note: 1000 tokens were asked for, but"), "{printed}");
    assert!(printed.contains("folder: tokenizer\n"), "{printed}");
}

#[test]
fn a_run_can_learn_its_tokenizer_and_lend_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let bpe = r#"tokenizer={"kind": "bpe", "vocab_size": 300, "special_tokens": ["<|eos|>"]}"#;
    let args = [&["train"], &TINY[..], &SHORT[..], &["--run", "learned", "--set", bpe]].concat();
    let printed = ok(&emberlm(path, &args));
    assert!(printed.contains("300 different ones"), "{printed}");
    let ids = ok(&tokenizer(path, &["encode", "learned", "Once there was <|eos|>", "--json"]));
    let ids: Vec<u32> = serde_json::from_str(&ids).unwrap();
    assert_eq!(ids.last(), Some(&0));
    assert!(ids.len() < "Once there was ".len() && ids.iter().any(|id| *id > 256), "{ids:?}");
}

#[test]
fn bad_input_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let write = |name: &str, bytes: &[u8]| std::fs::write(path.join(name), bytes).unwrap();
    write("good.txt", "some words to learn from. ".repeat(50).as_bytes());
    write("empty.txt", b"");
    write("latin1.txt", b"na\xEFve");
    write("bad.json", b"{");
    std::fs::create_dir(path.join("there")).unwrap();
    let train =
        |args: &[&'static str]| [&["train", "good.txt", "--vocab-size", "300"], args].concat();
    for (args, expected) in [
        (vec!["train", "missing.txt", "--vocab-size", "300"], "missing.txt"),
        (vec!["train", "empty.txt", "--vocab-size", "300"], "empty.txt is empty"),
        (vec!["train", "latin1.txt", "--vocab-size", "300"], "latin1.txt is not UTF-8"),
        (
            vec!["train", "good.txt", "--vocab-size", "200"],
            "a vocabulary of 200 tokens cannot be trained: 256 bytes and 4 special tokens are 260",
        ),
        (train(&["--out", "there"]), "there exists already; choose another folder"),
        (train(&["--special", ""]), "`` cannot be a special token: it is empty"),
        (train(&["--special", "<|eos|>"]), "`<|eos|>` cannot be a special token"),
        (train(&["--split-regex", "("]), "the split pattern `(` is not a regular expression"),
        (train(&["--grow", "cl100k_base"]), "cannot grow cl100k_base"),
        (train(&["--grow", "gpt2"]), "the tokenizer has 50257 already"),
        (
            vec!["encode", "gpt3", "x"],
            "there is no tokenizer `gpt3`, and no file or folder of that name; there are character, byte, gpt2",
        ),
        (vec!["encode", "character", "x"], "`character` has no tokens before it has seen a text"),
        (
            vec!["encode", "there", "x"],
            "cannot read there: the folder has none of tokenizer.json, vocab.json, merges.json",
        ),
        (vec!["encode", "bad.json", "x"], "cannot use the tokenizer bad.json"),
        (vec!["decode", "gpt2", "12", "x"], "`x` is not a token id"),
        (vec!["decode", "gpt2", "-1"], "`-1` is not a token id"),
        (vec!["decode", "gpt2", "4294967296"], "`4294967296` is not a token id"),
        (vec!["show", "gpt3", "x"], "there is no tokenizer `gpt3`"),
        (vec!["stats", "gpt2", "--data", "missing.txt"], "missing.txt"),
        (vec!["stats", "gpt3", "--data", "good.txt"], "there is no tokenizer `gpt3`"),
        (vec!["export", "gpt2", "there"], "there exists already"),
        (vec!["export", "cl100k_base", "new"], "the tokenizer cl100k_base cannot be exported"),
    ] {
        refused(path, &[&["tokenizer"], &args[..]].concat(), expected);
    }
    let latin1 = with_input(path, &["encode", "gpt2"], b"na\xEFve");
    let message = String::from_utf8_lossy(&latin1.stderr).into_owned();
    assert_eq!(latin1.status.code(), Some(2));
    assert_eq!(message, "error: standard input is not UTF-8 (byte 2 and after)\n");
    assert!(!path.join("tokenizer").exists() && !path.join("new").exists());
}

#[test]
fn every_subcommand_has_help() {
    let folder = tempfile::tempdir().unwrap();
    let overview = ok(&tokenizer(folder.path(), &["--help"]));
    for name in ["train", "encode", "decode", "show", "stats", "export"] {
        assert!(overview.contains(&format!("  {name} ")), "{overview}");
        let help = ok(&tokenizer(folder.path(), &[name, "--help"]));
        assert!(help.contains("Usage: emberlm tokenizer "), "{help}");
    }
    // What holds documents whole says so, and how long they may be.
    let help = ok(&tokenizer(folder.path(), &["train", "--help"]));
    let of = |option: &str| help.split_once(option).unwrap().1.split("\n      --").next().unwrap();
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    for option in ["--split <PATTERN>", "--split-regex <REGEX>"] {
        assert!(words(of(option)).contains("held whole, and has 256 MiB at most"), "{help}");
    }
    // Too few arguments are a usage error.
    for args in
        [&["train"][..], &["train", "x.txt"], &["stats", "gpt2"], &["encode"], &["sho"], &[]]
    {
        assert_eq!(tokenizer(folder.path(), args).status.code(), Some(2), "{args:?}");
    }
}
