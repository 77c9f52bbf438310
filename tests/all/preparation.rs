//! Token files: what is in them, that they are made the same whatever happens, and that damaged
//! ones are refused.

use emberlm::config::Packing;
use emberlm::data::{
    DataError, DocumentOrder, Example, ExamplePlace, Meta, Place, Preparation, Prepare, Prepared,
    SourceOptions, Sources, Split, SplitTokens, Task, TokenStream, TokenType, ValidationSplit,
    Window, prepare,
};
use emberlm::files::{LockedFile, folder_size};
use emberlm::tokenizer::{ByteTokenizer, CharacterTokenizer, TiktokenTokenizer, Tokenizer};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::command_line::{command, emberlm, refused, stdout, succeed};
use crate::support::shared;

const NO_SHARDS: u64 = u64::MAX;

fn sources(paths: &[&Path]) -> Sources {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    Sources::find(&paths, SourceOptions::default()).unwrap()
}

fn by_documents() -> ValidationSplit<'static> {
    ValidationSplit::Documents { validation_fraction: 0.2, seed: 1 }
}

fn by_characters() -> ValidationSplit<'static> {
    ValidationSplit::Characters { validation_fraction: 0.1 }
}

/// Prepares to the end, without ever being stopped.
fn prepared(
    sources: &Sources,
    tokenizer: &dyn Tokenizer,
    split: ValidationSplit,
    shard_tokens: u64,
    folder: &Path,
) -> Result<Meta, DataError> {
    let preparation =
        Preparation { tokenizer, tokenizer_name: "name", sources, split, shard_tokens };
    match prepare(&preparation, folder, &AtomicBool::new(false), &mut |_| {})? {
        Prepare::Finished(meta) | Prepare::There(meta) => Ok(meta),
        Prepare::Stopped => panic!("nobody stopped it"),
    }
}

/// Documents as JSON lines.
fn json_lines(folder: &Path, documents: &[String]) -> PathBuf {
    let path = folder.join("documents.jsonl");
    let line = |text: &String| format!("{}\n", serde_json::json!({ "text": text }));
    fs::write(&path, documents.iter().map(line).collect::<String>()).unwrap();
    path
}

fn documents(stream: &TokenStream, tokenizer: &dyn Tokenizer) -> Vec<String> {
    let end = tokenizer.end_of_text();
    let document = |number: usize| {
        let mut ids = stream.read(stream.document(number));
        assert_eq!(ids.pop(), end, "a document ends with its own token");
        assert!(ids.iter().all(|id| Some(*id) != end));
        tokenizer.decode(&ids)
    };
    (0..stream.documents()).map(document).collect()
}

/// All files of a folder by name.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap())
    };
    fs::read_dir(folder).unwrap().map(read).collect()
}

fn little_endian(ids: impl IntoIterator<Item = u32>) -> Vec<u8> {
    ids.into_iter().flat_map(|id| u16::try_from(id).unwrap().to_le_bytes()).collect()
}

/// nanoGPT's `prepare.py`: the first `int(n * 0.9)` characters train, each part is encoded by
/// itself, and the ids are written as `uint16`.
#[test]
fn tinyshakespeare_is_prepared_as_nanogpt_prepares_it() {
    let Some(path) = shared("datasets/tinyshakespeare.txt") else { return };
    let text = fs::read_to_string(&path).unwrap();
    let (train, validation) = text.split_at((text.len() as f64 * 0.9) as usize); // it is ASCII
    let folder = tempfile::tempdir().unwrap();
    let sources = sources(&[&path]);
    let compare = |tokenizer: &dyn Tokenizer,
                   name: &str,
                   ids: &dyn Fn(&str) -> Vec<u32>,
                   counts: [usize; 2]| {
        let out = folder.path().join(name);
        let meta = prepared(&sources, tokenizer, by_characters(), NO_SHARDS, &out).unwrap();
        for ((text, file), count) in
            [(train, "train.bin"), (validation, "val.bin")].into_iter().zip(counts)
        {
            let expected = ids(text);
            assert_eq!(expected.len(), count, "{name}: {file}");
            assert!(fs::read(out.join(file)).unwrap() == little_endian(expected), "{name}: {file}");
        }
        assert_eq!([meta.train.tokens, meta.validation.tokens], counts.map(|count| count as u64));
        assert_eq!([meta.train.characters, meta.validation.characters], [1_003_854, 111_540]);
        assert_eq!(meta.token_type, TokenType::U16);
        assert_eq!(
            meta.sources[0].sha256,
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
        );
    };
    let alphabet: BTreeSet<char> = text.chars().collect();
    assert_eq!(alphabet.len(), 65);
    let alphabet: Vec<char> = alphabet.into_iter().collect();
    let characters = |text: &str| -> Vec<u32> {
        text.chars().map(|c| alphabet.binary_search(&c).unwrap() as u32).collect()
    };
    let tokenizer = CharacterTokenizer::train([&text]);
    compare(&tokenizer, "character", &characters, [1_003_854, 111_540]);
    // Another program's encoder.
    let openais = tiktoken_rs::r50k_base_singleton();
    let tokenizer = TiktokenTokenizer::new("gpt2").unwrap();
    compare(&tokenizer, "gpt2", &|text| openais.encode_ordinary(text), [301_966, 36_059]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn every_document_is_on_one_side_and_whole(
        texts in prop::collection::vec("[a-cß€\n🦀]{1,6}", 3..60),
        shard_tokens in prop_oneof![Just(NO_SHARDS), 1u64..40],
    ) {
        let folder = tempfile::tempdir().unwrap();
        let sources = sources(&[&json_lines(folder.path(), &texts)]);
        let out = folder.path().join("out");
        let different: BTreeSet<&String> = texts.iter().collect();
        let result = prepared(&sources, &ByteTokenizer, by_documents(), shard_tokens, &out);
        if different.len() < 2 {
            let too_few = matches!(result, Err(DataError::TooFewDocuments { documents: 1 }));
            prop_assert!(too_few);
            return Ok(());
        }
        let meta = result.unwrap();
        let folder = Prepared::open(&out).unwrap();
        let (train, validation) = folder.tokens().unwrap();
        let sides = [documents(&train, &ByteTokenizer), documents(&validation, &ByteTokenizer)];
        // In the order of the file, none lost, none twice, no copy on the other side.
        let mut left = [sides[0].iter(), sides[1].iter()];
        let validated: BTreeSet<&String> = sides[1].iter().collect();
        for text in &texts {
            let side = usize::from(validated.contains(text));
            prop_assert_eq!(left[side].next(), Some(text));
        }
        prop_assert!(left.iter_mut().all(|side| side.next().is_none()));
        // A fifth of the different ones, but at least one.
        let expected = (different.len() as f64 * 0.2).round().max(1.0) as usize;
        prop_assert_eq!(validated.len(), expected);
        for (side, meta) in sides.iter().zip([&meta.train, &meta.validation]) {
            prop_assert_eq!(meta.documents, side.len() as u64);
            prop_assert_eq!(meta.bytes, side.iter().map(|text| text.len() as u64).sum::<u64>());
            let shards: u64 = meta.shards.iter().map(|shard| shard.tokens).sum();
            prop_assert_eq!(meta.tokens, shards);
            // A shard ends with the first document that fills it.
            for shard in meta.shards.iter().rev().skip(1) {
                prop_assert!(shard.tokens >= shard_tokens && shard.tokens < shard_tokens + 26);
            }
        }
        for stream in [&train, &validation] {
            for place in 0..stream.len() {
                let document = stream.document(stream.document_at(place));
                prop_assert!(document.contains(&place));
            }
            // Any part is the same as in one piece, across shards too.
            let all = stream.read(0..stream.len());
            for start in 0..stream.len() {
                let end = stream.len().min(start + 7);
                prop_assert_eq!(&stream.read(start..end), &all[start..end]);
            }
        }
    }
}

/// However large or small the share is, each side has a document.
#[test]
fn few_documents_are_enough_for_two_sides() {
    let folder = tempfile::tempdir().unwrap();
    let texts = ["one of them", "two of them", "three of them"].map(String::from);
    let meta = |count: usize, validation_fraction: f64| {
        let path = json_lines(folder.path(), &texts[..count]);
        let split = ValidationSplit::Documents { validation_fraction, seed: 1 };
        let out = folder.path().join(format!("{count}-{validation_fraction}"));
        prepared(&sources(&[&path]), &ByteTokenizer, split, NO_SHARDS, &out)
    };
    for (count, share, train) in [(3, 0.9, 1), (3, 0.5, 1), (3, 0.01, 2), (2, 0.99, 1)] {
        let meta = meta(count, share).unwrap();
        let found = (meta.train.documents, meta.validation.documents);
        assert_eq!(found, (train, count as u64 - train), "{share} of {count}");
    }
    let alone = meta(1, 0.9);
    assert!(matches!(alone, Err(DataError::TooFewDocuments { documents: 1 })), "{alone:?}");
}

/// Text of several batches.
fn many_documents(folder: &Path) -> PathBuf {
    let document = |number: u64| {
        let words =
            (0..40 + number % 37).map(|word| format!("word{} ", (number * 31 + word) % 997));
        words.collect()
    };
    // Some of them again and again, in all batches.
    json_lines(folder, &(0..25_000).map(|number| document(number % 19_000)).collect::<Vec<_>>())
}

#[test]
fn a_stopped_preparation_goes_on_as_if_it_had_not_been() {
    let folder = tempfile::tempdir().unwrap();
    let path = many_documents(folder.path());
    let text = folder.path().join("text.txt");
    fs::write(&text, "one long text, which is cut by its characters; ".repeat(300_000)).unwrap();
    let validation = folder.path().join("validation.jsonl");
    fs::write(&validation, "{\"text\": \"a validation document\"}\n".repeat(3)).unwrap();
    let validation = sources(&[&validation]);
    let gpt2 = TiktokenTokenizer::new("gpt2").unwrap();
    let cases = [
        (&path, by_documents(), 300_000),
        (&text, by_characters(), NO_SHARDS),
        (&path, ValidationSplit::Files(&validation), NO_SHARDS),
    ];
    for (number, (path, split, shard_tokens)) in cases.into_iter().enumerate() {
        let sources = sources(&[path]);
        let whole = folder.path().join(format!("whole-{number}"));
        prepared(&sources, &gpt2, split.clone(), shard_tokens, &whole).unwrap();
        let stopped = folder.path().join(format!("stopped-{number}"));
        let preparation = Preparation {
            tokenizer: &gpt2,
            tokenizer_name: "name",
            sources: &sources,
            split,
            shard_tokens,
        };
        let mut stops = 0;
        loop {
            // After one batch that is new.
            let stop = AtomicBool::new(false);
            let mut report = |progress: emberlm::data::PrepareProgress| {
                stop.store(!progress.resuming, Ordering::Relaxed);
            };
            match prepare(&preparation, &stopped, &stop, &mut report).unwrap() {
                Prepare::Finished(_) => break,
                Prepare::Stopped => stops += 1,
                Prepare::There(_) => panic!("it was not there"),
            }
            assert!(!stopped.exists(), "nothing is seen of it before it is whole");
            // As after a crash: what was written after the last note is there too.
            let part = folder.path().join(format!(".stopped-{number}.part"));
            let mut names = contents_names(&part);
            names.sort();
            // Shards that are not finished: the last of each kind.
            for (stem, extension) in
                [("train", ".bin"), ("train", ".idx"), ("val", ".bin"), ("val", ".idx")]
            {
                let of_kind = |name: &&String| {
                    name.starts_with(stem) && name.ends_with(extension) && !name.contains("99")
                };
                let name = names.iter().rfind(of_kind).unwrap();
                let mut file = fs::File::options().append(true).open(part.join(name)).unwrap();
                file.write_all(b"written after the last note").unwrap();
            }
            fs::write(part.join("train-00099.bin"), "a shard of later").unwrap();
            // Other settings do not take what was done for these.
            let other = prepared(&sources, &ByteTokenizer, by_characters(), 7, &stopped);
            assert!(matches!(other, Err(DataError::OtherUnfinished { .. })), "{other:?}");
        }
        assert!(stops >= 2, "{stops} stops in case {number}");
        let mut files = contents(&stopped);
        files.remove("train-00099.bin");
        let other = contents(&whole);
        for name in other.keys().chain(files.keys()) {
            assert!(other.get(name) == files.get(name), "case {number}: {name}");
        }
        let again = prepare(&preparation, &stopped, &AtomicBool::new(false), &mut |_| {}).unwrap();
        assert!(matches!(again, Prepare::There(_)));
    }
    let left: Vec<String> = contents_names(folder.path());
    assert!(left.iter().all(|name| !name.starts_with('.')), "{left:?}");
}

fn contents_names(folder: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| {
        entry.unwrap().file_name().to_string_lossy().into_owned()
    };
    fs::read_dir(folder).unwrap().map(name).collect()
}

#[test]
fn a_killed_preparation_leaves_nothing_wrong() {
    let folder = tempfile::tempdir().unwrap();
    many_documents(folder.path());
    let args = ["prepare", "documents.jsonl", "--tokenizer", "gpt2", "--out"];
    let done = emberlm(folder.path(), &[&args[..], &["whole"]].concat());
    assert!(done.status.success(), "{done:?}");
    let (out, part) = (folder.path().join("killed"), folder.path().join(".killed.part"));
    let mut in_the_middle = 0;
    for milliseconds in [0, 20, 60, 120] {
        let mut child = command(folder.path(), &[&args[..], &["killed"]].concat())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Until it has written more than was there, but for what it may have removed first.
        let mut least = folder_size(&part);
        while folder_size(&part) <= least && child.try_wait().unwrap().is_none() {
            least = least.min(folder_size(&part));
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        // Either nothing is there, or all of it.
        if part.exists() {
            assert!(!out.exists());
            in_the_middle += 1;
            // As it stays where a file is being written at that moment.
            fs::write(part.join(".part-half"), "half").unwrap();
        } else {
            Prepared::open(&out).unwrap().tokens().unwrap();
        }
    }
    assert!(in_the_middle > 0, "each time it was finished before it was killed");
    let done = emberlm(folder.path(), &[&args[..], &["killed"]].concat());
    assert!(done.status.success(), "{done:?}");
    let [whole, killed] = ["whole", "killed"].map(|name| contents(&folder.path().join(name)));
    assert!(whole == killed);
}

#[test]
fn two_programs_do_not_prepare_the_same_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = json_lines(folder.path(), &["a".into(), "b".into(), "c".into()]);
    let out = folder.path().join("out");
    let part = folder.path().join(".out.part");
    fs::create_dir(&part).unwrap();
    let held = fs::File::create(part.join("lock")).unwrap();
    held.lock().unwrap();
    let run = || prepared(&sources(&[&path]), &ByteTokenizer, by_documents(), NO_SHARDS, &out);
    assert!(matches!(run(), Err(DataError::Busy { .. })));
    drop(held);
    // A program that another test starts at this moment has the lock too, until it runs.
    let free = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        run().is_ok()
    });
    assert!(free);
}

#[test]
fn damaged_files_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let texts: Vec<String> = (0..50).map(|number| format!("document number {number}")).collect();
    let path = json_lines(folder.path(), &texts);
    let out = folder.path().join("out");
    prepared(&sources(&[&path]), &ByteTokenizer, by_documents(), 300, &out).unwrap();
    let whole = contents(&out);
    let refused = |name: &str, bytes: &[u8], expected: &str| {
        fs::write(out.join(name), bytes).unwrap();
        let result = Prepared::open(&out).and_then(|prepared| prepared.tokens().map(drop));
        fs::write(out.join(name), &whole[name]).unwrap();
        let message = result.expect_err(name).to_string();
        assert!(message.contains(name) && message.contains(expected), "{name}: {message}");
    };
    let files: Vec<&String> =
        whole.keys().filter(|name| name.ends_with(".bin") || name.ends_with(".idx")).collect();
    assert!(files.len() >= 6, "{files:?}");
    for name in files {
        let bytes = &whole[name];
        for place in [0, bytes.len() / 2, bytes.len() - 1] {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1;
            refused(name, &flipped, "its checksum is not the one in meta.json");
        }
        refused(name, &bytes[..bytes.len() - 1], "bytes and should have");
        refused(name, &[bytes.as_slice(), &[0, 0]].concat(), "bytes and should have");
        refused(name, &[], "bytes and should have");
    }
    // A tokenizer of other tokens than those that are written.
    let other = serde_json::to_vec(&CharacterTokenizer::train(["abc"]).saved()).unwrap();
    refused("tokenizer.json", &other, "it is not the tokenizer of these files");
    let meta = String::from_utf8(whole["meta.json"].clone()).unwrap();
    let format = meta.replace("\"format\": 1", "\"format\": 7");
    fs::write(out.join("meta.json"), format).unwrap();
    assert!(Prepared::open(&out).unwrap_err().to_string().contains("format 7"));
    let outside = meta.replacen("train-00000.bin", "../train.bin", 1);
    fs::write(out.join("meta.json"), outside).unwrap();
    let error = Prepared::open(&out).and_then(|prepared| prepared.tokens().map(drop));
    assert!(error.unwrap_err().to_string().contains("is no file name"));
    // What the file says of itself is compared, too.
    for (from, to) in [
        ("\"vocab_size\": 257", "\"vocab_size\": 65536"),
        ("\"end_of_text\": 256", "\"end_of_text\": 255"),
        ("\"documents\": ", "\"documents\": 1"),
        ("\"tokens\": ", "\"tokens\": 1"),
    ] {
        let changed = meta.replacen(from, to, 1);
        assert_ne!(changed, meta, "{from}");
        fs::write(out.join("meta.json"), changed).unwrap();
        let error = Prepared::open(&out).and_then(|prepared| prepared.tokens().map(drop));
        let message = error.expect_err(from).to_string();
        assert!(message.contains("is damaged"), "{from}: {message}");
    }
    fs::write(out.join("meta.json"), &meta).unwrap();
    Prepared::open(&out).unwrap().tokens().unwrap();
    // An evaluation does not need the training side.
    fs::write(out.join("train-00000.bin"), "damaged").unwrap();
    Prepared::open(&out).unwrap().validation().unwrap();
}

/// Ids that no tokenizer wrote, with checksums that fit.
#[test]
fn ids_beyond_the_vocabulary_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = json_lines(folder.path(), &["abc".into(), "def".into(), "ghi".into()]);
    let out = folder.path().join("out");
    let mut meta =
        prepared(&sources(&[&path]), &ByteTokenizer, by_documents(), NO_SHARDS, &out).unwrap();
    let mut bytes = fs::read(out.join("train.bin")).unwrap();
    bytes[2..4].copy_from_slice(&257u16.to_le_bytes());
    fs::write(out.join("train.bin"), bytes).unwrap();
    meta.train.shards[0].sha256 = emberlm::files::checksum(&out.join("train.bin")).unwrap();
    fs::write(out.join("meta.json"), serde_json::to_vec(&meta).unwrap()).unwrap();
    let error = Prepared::open(&out).unwrap().tokens().unwrap_err().to_string();
    assert!(
        error
            .contains("train.bin is damaged: it has the id 257, but the vocabulary has 257 tokens"),
        "{error}"
    );
}

#[test]
fn ids_that_need_it_have_four_bytes() {
    assert_eq!(TokenType::for_vocabulary(1 << 16), TokenType::U16);
    assert_eq!(TokenType::for_vocabulary((1 << 16) + 1), TokenType::U32);
    let folder = tempfile::tempdir().unwrap();
    let texts: Vec<String> = (0..9).map(|number| format!("Grüße, 世界! 🦀 {number}")).collect();
    let path = json_lines(folder.path(), &texts);
    let out = folder.path().join("out");
    let tokenizer = TiktokenTokenizer::new("cl100k_base").unwrap();
    let meta = prepared(&sources(&[&path]), &tokenizer, by_documents(), NO_SHARDS, &out).unwrap();
    assert_eq!(meta.token_type, TokenType::U32);
    let (train, validation) = Prepared::open(&out).unwrap().tokens().unwrap();
    let mut found = documents(&train, &tokenizer);
    found.extend(documents(&validation, &tokenizer));
    found.sort();
    assert_eq!(found, texts);
}

fn stream(lengths: &[usize]) -> TokenStream {
    let starts = lengths.iter().scan(0, |end, length| {
        *end += *length as u64;
        Some(*end - *length as u64)
    });
    let tokens: usize = lengths.iter().sum();
    TokenStream::of_documents((0..tokens as u32).collect::<Vec<_>>(), starts.collect())
}

fn packed(lengths: &[usize], packing: Packing) -> Split {
    Split { tokens: SplitTokens::Text(stream(lengths)), packing, bytes: 0 }
}

#[test]
fn a_pass_takes_every_document_once() {
    let lengths = [5, 2, 9, 30, 3, 8];
    let order = DocumentOrder::new(stream(&lengths), 8, 7);
    let mut parts = BTreeSet::new();
    let mut orders = BTreeSet::new();
    for pass in 0..40 {
        let mut seen = Vec::new();
        for place in 0..6 {
            let window = order.window(pass * 6 + place);
            let stream = stream(&lengths);
            // The last target says whose window it is; the first input is the token before.
            let number = stream.document_at(window.start + window.length);
            let document = stream.document(number);
            seen.push(number);
            if document.len() > 8 {
                assert_eq!(window.length, 8);
                assert!(window.start + 1 >= document.start && window.start + 8 < document.end);
                parts.insert((number, window.start));
            } else {
                assert_eq!(window.start, document.start.saturating_sub(1));
                assert_eq!(window.start + window.length, document.end - 1);
            }
        }
        orders.insert(seen.clone());
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
    }
    assert!(orders.len() > 30, "passes have orders of their own");
    assert!(parts.len() > 15, "long documents show another part each time: {}", parts.len());
}

#[test]
fn every_token_of_documents_is_a_target_once_in_evaluation() {
    for lengths in [vec![5, 2, 9, 30, 3, 8], vec![2], vec![1, 1, 1], vec![17, 16, 18]] {
        let split = packed(&lengths, Packing::Documents);
        let tokens: usize = lengths.iter().sum();
        let mut targets = Vec::new();
        for place in split.all(8) {
            let example = Example::read(&split, Task::NextToken, place);
            assert!((1..=8).contains(&example.target.len()));
            // No window reaches into another document, but for the token before its own.
            let stream = stream(&lengths);
            let of: BTreeSet<usize> =
                example.target.iter().map(|token| stream.document_at(*token as usize)).collect();
            assert_eq!(of.len(), 1, "{lengths:?}");
            targets.extend(example.target);
        }
        let expected: Vec<u32> = (1..tokens as u32).collect();
        assert_eq!(targets, expected, "{lengths:?}");
    }
}

/// Where no token ends a document, the one before says nothing of where the next begins.
#[test]
fn documents_without_ends_are_read_from_their_own_first_token() {
    let lengths = [5, 1, 2, 1, 30, 1];
    let stream = stream(&lengths).without_ends();
    let order = DocumentOrder::new(stream.clone(), 8, 7);
    for index in 0..600 {
        let window = order.window(index);
        let last = window.start + window.length;
        assert!((1..=8).contains(&window.length));
        assert_eq!(stream.document_at(window.start), stream.document_at(last), "{window:?}");
    }
    let targets: Vec<usize> = order
        .disjoint()
        .into_iter()
        .flat_map(|window| window.start + 1..window.start + window.length + 1)
        .collect();
    let firsts: BTreeSet<usize> = (0..6).map(|number| stream.document(number).start).collect();
    let expected: Vec<usize> = (0..40).filter(|place| !firsts.contains(place)).collect();
    assert_eq!(targets, expected);
    let nothing = TokenStream::of_documents(vec![1, 2, 3], vec![0, 1, 2]);
    assert!(DocumentOrder::new(nothing.clone().without_ends(), 8, 7).is_empty());
    assert!(!DocumentOrder::new(nothing, 8, 7).is_empty());
}

#[test]
fn masked_streams_know_the_document_of_every_place() {
    let lengths = [3, 1, 1, 10, 2, 40, 1];
    let split = packed(&lengths, Packing::MaskedStream);
    let numbers: Vec<u32> = (0..)
        .zip(lengths)
        .flat_map(|(number, length)| std::iter::repeat_n(number, length))
        .collect();
    for start in 0..57 - 8 {
        let place = Place::Window(Window { start, length: 8 });
        let example = Example::read(&split, Task::NextToken, ExamplePlace { place, number: 0 });
        let expected: Vec<u32> =
            numbers[start..start + 8].iter().map(|number| number - numbers[start]).collect();
        match example.documents {
            Some(found) => assert_eq!(found, expected),
            None => assert!(expected.iter().all(|number| *number == 0)),
        }
        let plain = packed(&lengths, Packing::Stream);
        let same = Example::read(&plain, Task::NextToken, ExamplePlace { place, number: 0 });
        assert_eq!(
            (same.input, same.target, same.documents),
            (example.input, example.target, None)
        );
    }
}

/// A model trained on token files is the one that is trained on their text.
#[test]
fn training_on_token_files_is_training_on_the_text() {
    let folder = tempfile::tempdir().unwrap();
    let text: String =
        (0..3000).map(|n| format!("{} times {} is {}\n", n, n % 7, n * (n % 7))).collect();
    fs::write(folder.path().join("text.txt"), text).unwrap();
    let out = emberlm(folder.path(), &["prepare", "text.txt", "--tokenizer", "character"]);
    assert!(out.status.success(), "{out:?}");
    assert!(stdout(&out).contains("train on it: emberlm train --data datasets/text/character"));
    let train = |data: &str, name: &str, extra: &[&str]| {
        let args = ["train", "--data", data, "--run", name, "--set", "sample.max_tokens=5"];
        let out = emberlm(folder.path(), &[&args[..], &crate::command_line::TINY, extra].concat());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let read = |file: &str| fs::read(folder.path().join("artifacts").join(name).join(file));
        let model = "checkpoints/step-00000006/model.safetensors";
        (read(model).unwrap(), read("tokenizer.json").unwrap())
    };
    let on_text = train("text.txt", "on-text", &[]);
    let on_tokens = train("datasets/text/character", "on-tokens", &[]);
    assert!(on_text == on_tokens, "the same weights and tokenizer, bit for bit");
    // Both are evaluated alike, from the run and on the folder.
    let eval = |args: &[&str]| stdout(&emberlm(folder.path(), &[&["eval"], args].concat()));
    let expected = eval(&["on-text"]);
    assert!(expected.contains("loss"));
    assert_eq!(eval(&["on-tokens"]), expected);
    assert_eq!(eval(&["on-text", "--data", "datasets/text/character"]), expected);

    // Documents, in each packing.
    let texts: Vec<String> =
        (0..200).map(|n| format!("{n} is a number. ").repeat(1 + n % 5)).collect();
    json_lines(folder.path(), &texts);
    let out = emberlm(folder.path(), &["prepare", "documents.jsonl", "--tokenizer", "byte"]);
    assert!(out.status.success(), "{out:?}");
    let mut models = BTreeSet::new();
    for packing in ["stream", "masked-stream", "documents"] {
        let set = format!("data.packing={packing}");
        models.insert(train("datasets/documents/byte", packing, &["--set", &set]).0);
        assert!(eval(&[packing]).contains("bits a byte"));
    }
    assert_eq!(models.len(), 3, "the packing makes a difference");
}

#[test]
fn bad_preparations_are_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    json_lines(path, &["one".into(), "two".into(), "three".into()]);
    fs::write(path.join("text.txt"), "some text of no great length").unwrap();
    let prepare = |args: &[&str], expected: &str| {
        refused(path, &[&["prepare"], args].concat(), expected);
    };
    prepare(&["missing"], "there is no file missing");
    prepare(&["text.txt", "--tokenizer", "gpt7"], "there is no tokenizer `gpt7`");
    prepare(&["text.txt", "--validation-fraction", "1.5"], "must be between 0 and 1");
    prepare(
        &["text.txt", "--split", "documents", "--tokenizer", "byte"],
        "1 different documents are too few",
    );
    prepare(&["text.txt", "--from", "here"], "--from is for data sets that are named");
    prepare(&["text.txt", "--files", "1"], "--files is for data sets that are named");
    for option in [["--from", "text.txt"], ["--files", "1"]] {
        let expected =
            format!("stories is generated, and not read from files; leave out {}", option[0]);
        prepare(&[&["stories"], &option[..]].concat(), &expected);
    }
    assert!(!path.join("datasets/stories").exists(), "what is refused is not begun");
    prepare(&["documents.jsonl", "--field", "content"], "content");
    prepare(
        &["text.txt", "--validation-fraction", "0.9999", "--tokenizer", "byte"],
        "nothing is left for the training split",
    );
    // The advice can be followed.
    let again = ["prepare", "text.txt", "--tokenizer", "byte", "--validation-fraction", "0.5"];
    assert!(emberlm(path, &again).status.success());
    fs::create_dir_all(path.join("full/of")).unwrap();
    prepare(&["text.txt", "--out", "full"], "full holds something else already");
    fs::write(path.join("file"), "").unwrap();
    prepare(&["text.txt", "--out", "file"], "cannot read file");
    // A character that the tokenizer has not seen cannot be there: it is made from the text.
    assert!(emberlm(path, &["prepare", "text.txt", "--tokenizer", "character"]).status.success());

    assert!(
        emberlm(path, &["prepare", "documents.jsonl", "--tokenizer", "byte", "--out", "bytes"])
            .status
            .success()
    );
    let train = |args: &[&str], expected: &str| {
        refused(path, &[&["train", "--plain", "--data", "bytes"], args].concat(), expected);
    };
    train(&["--config", "gpt2"], "was prepared with the tokenizer byte of 257 tokens");
    train(&["--eval-data", "text.txt"], "prepared data has its own validation split");
    train(&[], "the training text has");
    train(&["--set", "data.packing=none"], "unknown variant");
    train(&["--set", r#"tokenizer={"kind":"bpe","vocab_size":300}"#], "it has a tokenizer already");
    let packing = ["train", "--plain", "--data", "datasets/text/character", "--set"];
    refused(
        path,
        &[&packing[..], &["data.packing=documents"]].concat(),
        "is one text and has no documents",
    );
    let bytes = fs::read(path.join("bytes/train.bin")).unwrap();
    fs::write(path.join("bytes/train.bin"), &bytes[1..]).unwrap();
    train(&["--set", "model.context_length=4"], "train.bin is damaged");
    refused(path, &["train", "--plain", "--data", "full"], "holds no prepared data");
}

#[test]
fn text_is_read_from_wherever_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let text = "first document<sep>\nsecond one<sep>a third\nof two lines<sep>first document";
    fs::write(path.join("a.txt"), text).unwrap();
    let args = ["prepare", "-", "--separator", "<sep>", "--tokenizer", "byte", "--out", "piped"];
    let mut child =
        command(path, &args).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    let args = ["prepare", "a.txt", "--separator", "<sep>", "--tokenizer", "byte", "--out", "read"];
    assert!(emberlm(path, &args).status.success());
    for file in ["train.bin", "train.idx", "val.bin", "val.idx"] {
        let read = |folder: &str| fs::read(path.join(folder).join(file)).unwrap();
        assert_eq!(read("piped"), read("read"), "{file}");
    }
    assert_eq!(contents_names(&path.join("datasets")), [""; 0], "what was piped is not kept");

    // Validation documents of their own: their copies are left out of the training documents.
    fs::write(path.join("v.txt"), "second one<sep>something else").unwrap();
    let args = [
        "prepare",
        "a.txt",
        "--validation",
        "v.txt",
        "--separator",
        "<sep>",
        "--tokenizer",
        "byte",
        "--out",
        "own",
    ];
    let out = emberlm(path, &args);
    assert!(stdout(&out).contains("left out: 1 training documents"), "{out:?}");
    let (train, validation) = Prepared::open(&path.join("own")).unwrap().tokens().unwrap();
    assert_eq!(
        documents(&train, &ByteTokenizer),
        ["first document", "a third\nof two lines", "first document"]
    );
    assert_eq!(documents(&validation, &ByteTokenizer), ["second one", "something else"]);
}

/// A data set of files with names of their own, of which one has the validation documents.
fn named_files(folder: &Path) {
    let lines = |texts: &[&str]| -> String {
        texts.iter().map(|text| format!("{}\n", serde_json::json!({ "body": text }))).collect()
    };
    fs::create_dir_all(folder.join("datasets/own")).unwrap();
    fs::create_dir(folder.join("copies")).unwrap();
    let write = |name: &str, texts: &[&str]| {
        fs::write(folder.join("copies").join(name), lines(texts)).unwrap();
    };
    write("first.jsonl", &["a first document", "a second one"]);
    write("second.jsonl", &["of another file", "held out"]);
    write("validation.jsonl", &["held out", "a second one, nearly"]);
    let file = |name: &str, split: &str| serde_json::json!({ "name": name, "url": format!("https://localhost:1/{name}"), "split": split });
    let manifest = serde_json::json!({
        "name": "own", "description": "", "licence": "", "field": "body",
        "files": [
            file("first.jsonl", "train"), file("second.jsonl", "train"),
            file("validation.jsonl", "validation"),
        ],
        "split": "documents", "tokenizers": ["byte", "gpt2"],
    });
    fs::write(folder.join("datasets/own/manifest.json"), manifest.to_string()).unwrap();
}

#[test]
fn a_named_data_set_is_prepared_as_its_manifest_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    named_files(path);
    let check = |args: &[&str], out: &str, train: &[&str], validation: &[&str]| {
        succeed(&emberlm(path, &[&["prepare", "own", "--from", "copies"], args].concat()));
        let found = Prepared::open(&path.join(out)).unwrap().tokens().unwrap();
        assert_eq!(documents(&found.0, &ByteTokenizer), train);
        assert_eq!(documents(&found.1, &ByteTokenizer), validation);
    };
    let held_out = ["held out", "a second one, nearly"];
    // By the manifest's own tokenizer, and without the document that is held out.
    let all = ["a first document", "a second one", "of another file"];
    check(&[], "datasets/own/byte", &all, &held_out);
    check(&["--files", "1", "--out", "part"], "part", &all[..2], &held_out);
    // Validation documents that can only be read once.
    let piped = ["prepare", "own", "--from", "copies", "--out", "piped", "--validation", "-"];
    let mut child =
        command(path, &piped).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"a second one").unwrap();
    assert!(child.wait().unwrap().success());
    let (train, validation) = Prepared::open(&path.join("piped")).unwrap().tokens().unwrap();
    let rest = ["a first document", "of another file", "held out"];
    assert_eq!(documents(&train, &ByteTokenizer), rest);
    assert_eq!(documents(&validation, &ByteTokenizer), ["a second one"]);
    assert_eq!(contents_names(&path.join("datasets")), ["own"], "what was piped is not kept");
    let rule = ["prepare", "own", "--from", "copies", "--split", "documents", "--out", "none"];
    refused(path, &rule, "own has validation files; leave out --split");
}

/// The default run's text, as token files.
#[test]
fn the_stories_are_prepared_by_their_name() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["prepare", "stories", "--tokenizer", "byte", "--json"];
    let meta: serde_json::Value =
        serde_json::from_str(&succeed(&emberlm(folder.path(), &args))).unwrap();
    // So many the files have, a line each; a story that is held out is no training document.
    let number = |split: &str, key: &str| meta[split][key].as_u64().unwrap();
    let lines = |name: &str| {
        let text = fs::read_to_string(folder.path().join("datasets/stories").join(name)).unwrap();
        text.lines().count() as u64
    };
    let left_out = meta["left_out"].as_u64().unwrap_or(0);
    assert_eq!(lines("train.jsonl"), 20_000);
    assert_eq!(number("train", "documents") + left_out, 20_000);
    assert_eq!(lines("validation.jsonl"), 300);
    assert_eq!(number("validation", "documents"), 300);
    let prepared = folder.path().join("datasets/stories/byte");
    let (_, validation) = Prepared::open(&prepared).unwrap().tokens().unwrap();
    let file = fs::read_to_string(folder.path().join("datasets/stories/validation.jsonl")).unwrap();
    for (story, line) in documents(&validation, &ByteTokenizer).iter().zip(file.lines()) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["text"], story.as_str());
    }
    let again = ["prepare", "stories", "--tokenizer", "byte"];
    assert!(stdout(&emberlm(folder.path(), &again)).contains("is prepared already"));
}

/// What a pipe gives is read as its name says, like a file's.
#[test]
#[cfg(unix)]
fn a_pipe_has_the_format_of_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), Default::default());
    let lines = (0..20).map(|n| format!("{{\"text\": \"document {n}\"}}\n")).collect::<String>();
    packed.write_all(lines.as_bytes()).unwrap();
    for (name, bytes) in
        [("docs.jsonl", lines.into_bytes()), ("more.docs.jsonl.gz", packed.finish().unwrap())]
    {
        let pipe = path.join(name);
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let writer = std::thread::spawn(move || fs::write(pipe, bytes));
        let output = emberlm(path, &["prepare", name, "--tokenizer", "byte", "--out", "out"]);
        succeed(&output);
        writer.join().unwrap().unwrap();
        let (train, validation) = Prepared::open(&path.join("out")).unwrap().tokens().unwrap();
        let mut found = documents(&train, &ByteTokenizer);
        found.extend(documents(&validation, &ByteTokenizer));
        let expected: BTreeSet<String> = (0..20).map(|n| format!("document {n}")).collect();
        assert_eq!(found.len(), 20, "{name}");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected, "{name}");
        fs::remove_dir_all(path.join("out")).unwrap();
    }
    assert_eq!(contents_names(&path.join("datasets")), [""; 0]);
}

/// The same command reads other text, and so has nothing to go on with.
#[test]
fn what_can_only_be_read_once_leaves_nothing_when_it_cannot_be_prepared() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let piped = |text: &str| {
        let args = ["prepare", "-", "--split", "documents", "--separator", "|", "--tokenizer"];
        let mut child = command(path, &[&args[..], &["byte", "--out", "here/out"]].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, message) = piped("only one");
    assert!(code == Some(2) && message.contains("too few to keep one"), "{message}");
    assert_eq!(contents_names(&path.join("here")), [""; 0]);
    assert_eq!(contents_names(&path.join("datasets")), [""; 0]);
    // What another command has left, or is at, is not removed.
    let kept = json_lines(path, &["a".into(), "b".into(), "c".into()]);
    let kept = sources(&[&kept]);
    let preparation = Preparation {
        tokenizer: &ByteTokenizer,
        tokenizer_name: "name",
        sources: &kept,
        split: by_documents(),
        shard_tokens: NO_SHARDS,
    };
    let out = path.join("here/out");
    let stopped = prepare(&preparation, &out, &AtomicBool::new(true), &mut |_| {}).unwrap();
    assert!(matches!(stopped, Prepare::Stopped));
    let part = path.join("here/.out.part");
    let before = contents(&part);
    let (code, message) = piped("one|two|three");
    assert!(code == Some(2) && message.contains("is an unfinished preparation"), "{message}");
    assert!(contents(&part) == before);
    let held = fs::File::create(part.join("lock")).unwrap();
    held.lock().unwrap();
    let (code, message) = piped("one|two|three");
    assert!(code == Some(2) && message.contains("another program is preparing"), "{message}");
    assert!(contents(&part) == before);
}

/// A pipe may be silent for long, and whoever is asked to stop does not wait for it.
#[test]
#[cfg(target_os = "linux")]
fn a_signal_ends_the_wait_for_standard_input() {
    use crate::command_line::{listens, signal};
    let folder = tempfile::tempdir().unwrap();
    let mut child = command(folder.path(), &["prepare", "-", "--tokenizer", "byte"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    listens(&mut child);
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"some text").unwrap();
    let datasets = folder.path().join("datasets");
    let begin = std::time::Instant::now();
    while !datasets.exists() || contents_names(&datasets).is_empty() {
        assert!(begin.elapsed().as_secs() < 10, "it keeps nothing");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    signal(child.id(), "-INT");
    let begin = std::time::Instant::now();
    while child.try_wait().unwrap().is_none() && begin.elapsed().as_secs() < 10 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "it waits for the end of its input");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "stopping; once more to stop at once\n");
    assert_eq!(contents_names(&datasets), [""; 0]);
    drop(input);
}

/// What a tokenizer of characters is made of is all of a text, which may be long.
#[test]
#[cfg(target_os = "linux")]
fn a_signal_ends_the_search_for_characters() {
    use crate::command_line::{listens, signal};
    let folder = tempfile::tempdir().unwrap();
    // Zeros, which take no room on the disk.
    fs::File::create(folder.path().join("long.txt")).unwrap().set_len(1 << 28).unwrap();
    let args = ["prepare", "long.txt", "--tokenizer", "character"];
    let mut child =
        command(folder.path(), &args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    listens(&mut child);
    // In the middle of it.
    let io = format!("/proc/{}/io", child.id());
    let read = || -> u64 {
        let text = fs::read_to_string(&io).unwrap();
        text.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
    };
    while read() < 4 << 20 {
        assert!(child.try_wait().unwrap().is_none(), "256 MiB take longer");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    signal(child.id(), "-INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    // Otherwise it would have said that there is something to go on with.
    assert_eq!(String::from_utf8_lossy(&output.stderr), "stopping; once more to stop at once\n");
    assert!(!folder.path().join("datasets").exists());
}

/// As a child process does that another thread starts: for a moment it has a copy of all open files.
#[test]
fn a_lock_ends_though_the_file_is_open_elsewhere() {
    let path = tempfile::NamedTempFile::new().unwrap();
    let (first, second) = (path.reopen().unwrap(), path.reopen().unwrap());
    let copy = first.try_clone().unwrap();
    let first = LockedFile::new(first).unwrap();
    assert!(LockedFile::new(path.reopen().unwrap()).is_none());
    drop(first);
    assert!(LockedFile::new(second).is_some());
    drop(copy);
}
