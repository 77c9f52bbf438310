//! Files of questions, as their authors and the Hugging Face Hub have them. The questions are ours.

use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;
use std::fs;
use std::sync::Arc;

use emberlm::eval::{Benchmark, Question};

use crate::support::golden;

fn read(benchmark: Benchmark, name: &str, text: &str) -> Result<Vec<Question>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    benchmark.read(&path).map_err(|error| error.to_string())
}

fn question(line: usize, context: &str, choices: &[&str], answer: usize) -> Question {
    let choices = choices.iter().map(|choice| (*choice).into()).collect();
    Question { line, context: context.into(), choices, answer }
}

#[test]
fn hellaswag_is_cleaned_as_lm_evaluation_harness_does() {
    let text = r#"{"ind": 1, "activity_label": "Baking", "ctx_a": "[header] How to bake [title] Warm the oven.", "ctx_b": "the BAKER", "ctx": "unused", "split": "val", "endings": ["mixes flour.", "[step] flies  away [title] and [substeps] sings", " sits [unclosed", "waits]."], "label": 2, "source_id": "x"}

{"activity_label": "Chess", "ctx_a": "Two play.", "ctx_b": "", "endings": ["a", "b"], "label": "1"}
"#;
    let found = read(Benchmark::Hellaswag, "val.jsonl", text).unwrap();
    // By the regular expressions of hellaswag/utils.py: what is in brackets goes, two spaces become
    // one in one pass, and an ending is stripped before that, not after.
    let endings = ["mixes flour.", " flies away. and sings", "sits [unclosed", "waits]."];
    let context = "Baking: How to bake. Warm the oven. The baker";
    assert_eq!(found[0], question(1, context, &endings, 2));
    assert_eq!(found[1], question(3, "Chess: Two play.", &["a", "b"], 1));
    let line = |label: &str| {
        let text = format!(
            r#"{{"activity_label": "", "ctx_a": "", "ctx_b": "", "endings": ["a", "b"]{label}}}"#
        );
        read(Benchmark::Hellaswag, "val.jsonl", &text).unwrap_err()
    };
    assert!(line("").contains("val.jsonl, line 1: there is no `label`"), "{}", line(""));
    for label in ["2", "-1", "\"\"", "\"2\""] {
        let message = line(&format!(", \"label\": {label}"));
        assert!(message.contains("line 1: the label must be a number from 0 to 1"), "{message}");
    }
}

#[test]
fn arc_is_read_in_both_forms() {
    let text = r#"{"id": "q1", "question": {"stem": "What is wet?", "choices": [{"text": "fire", "label": "A"}, {"text": "rain", "label": "B"}, {"text": "sand", "label": "C"}]}, "answerKey": "B"}
{"id": "q2", "question": "What burns?", "choices": {"text": ["ice", "wood"], "label": ["1", "2"]}, "answerKey": "2"}"#;
    for benchmark in [Benchmark::ArcEasy, Benchmark::ArcChallenge] {
        let found = read(benchmark, "arc.jsonl", text).unwrap();
        let wet = question(1, "Question: What is wet?\nAnswer:", &["fire", "rain", "sand"], 1);
        let burns = question(2, "Question: What burns?\nAnswer:", &["ice", "wood"], 1);
        assert_eq!(found, [wet, burns]);
    }
    for (text, expected) in [
        (r#"{"question": "Q?", "answerKey": "A"}"#, "there are no `choices`"),
        (
            r#"{"question": "Q?", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "A"}"#,
            "there must be two choices or more",
        ),
        (
            r#"{"question": "Q?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "C"}"#,
            "no choice has the label `C`",
        ),
        (
            r#"{"question": "Q?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": ""}"#,
            "there is no `answerKey`",
        ),
        ("nonsense", "line 1: "),
        ("\n \n", "has no questions"),
    ] {
        let message = read(Benchmark::ArcEasy, "arc.jsonl", text).unwrap_err();
        assert!(message.contains(expected) && !message.contains('\n'), "{message}");
    }
}

/// A file of pyarrow's, which writes those of the Hub, beside the same questions as lines.
#[test]
fn arc_is_read_from_parquet() {
    let lines = Benchmark::ArcEasy.read(&golden("arc.jsonl")).unwrap();
    assert_eq!(lines.len(), 5);
    let fern = ["a rock", "a cat", "a fern", "a cloud", "a lamp"];
    assert_eq!(lines[2], question(3, "Question: Which of these is a plant?\nAnswer:", &fern, 2));
    assert_eq!(Benchmark::ArcEasy.read(&golden("arc.parquet")).unwrap(), lines);
    let message = Benchmark::Lambada.read(&golden("arc.parquet")).unwrap_err().to_string();
    assert!(message.contains("arc.parquet, line 1: missing field `text`"), "{message}");

    let whole = fs::read(golden("arc.parquet")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("arc.parquet");
    for at in 0..whole.len() {
        for byte in [0xFF, whole[at] ^ 1, whole[at] ^ 0x20] {
            let mut damaged = whole.clone();
            damaged[at] = byte;
            fs::write(&path, &damaged).unwrap();
            // Read or refused, in one line.
            if let Err(error) = Benchmark::ArcEasy.read(&path) {
                assert!(!error.to_string().contains('\n'), "{error}");
            }
        }
    }
}

#[test]
fn piqa_has_its_labels_inside_or_beside_it() {
    let plain = r#"{"goal": "dry a cup", "sol1": "use a cloth", "sol2": "use a lamp"}
{"goal": "open a jar", "sol1": "sing to it", "sol2": "turn the lid"}
"#;
    let expected = [
        question(1, "Question: dry a cup\nAnswer:", &["use a cloth", "use a lamp"], 0),
        question(2, "Question: open a jar\nAnswer:", &["sing to it", "turn the lid"], 1),
    ];
    let inside = r#"{"goal": "dry a cup", "sol1": "use a cloth", "sol2": "use a lamp", "label": 0}
{"goal": "open a jar", "sol1": "sing to it", "sol2": "turn the lid", "label": 1}"#;
    assert_eq!(read(Benchmark::Piqa, "valid.jsonl", inside).unwrap(), expected);
    let message = read(Benchmark::Piqa, "valid.jsonl", plain).unwrap_err();
    assert!(
        message.contains("there is no label; put NAME-labels.lst beside NAME.jsonl"),
        "{message}"
    );

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("valid.jsonl");
    fs::write(&path, plain).unwrap();
    let labels = |text: &str| {
        fs::write(folder.path().join("valid-labels.lst"), text).unwrap();
        Benchmark::Piqa.read(&path).map_err(|error| error.to_string())
    };
    assert_eq!(labels("0\n1\n").unwrap(), expected);
    assert!(labels("0\n1\n1\n").unwrap_err().contains("has 3 labels for 2 questions"));
    assert!(labels("0\n").unwrap_err().contains("line 2: there is no label"));
    assert!(labels("0\nB\n").unwrap_err().contains("line 2: the label must be"));
}

/// As the Hub has it: its labels are integers, and -1 where they are kept secret.
#[test]
fn piqa_is_read_from_parquet() {
    let schema = "message m { optional binary goal (STRING); optional binary sol1 (STRING);
        optional binary sol2 (STRING); optional int64 label; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("valid.parquet");
    let read = |labels: &[i64]| {
        let mut writer =
            SerializedFileWriter::new(vec![], schema.clone(), Default::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let texts = [
            ["dry a cup", "open a jar"],
            ["use a cloth", "sing to it"],
            ["use a lamp", "turn the lid"],
        ];
        for texts in texts {
            let texts = texts.map(ByteArray::from);
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&texts, Some(&[1, 1]), None).unwrap();
            column.close().unwrap();
        }
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(labels, Some(&[1, 1]), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        fs::write(&path, writer.into_inner().unwrap()).unwrap();
        Benchmark::Piqa.read(&path).map_err(|error| error.to_string())
    };
    let expected = [
        question(1, "Question: dry a cup\nAnswer:", &["use a cloth", "use a lamp"], 0),
        question(2, "Question: open a jar\nAnswer:", &["sing to it", "turn the lid"], 1),
    ];
    assert_eq!(read(&[0, 1]).unwrap(), expected);
    let message = read(&[1, -1]).unwrap_err();
    assert!(message.contains("line 2: the label must be a number from 0 to 1"), "{message}");
}

#[test]
fn lambada_ends_with_a_word() {
    let expected = [
        question(1, "She called the dog, and the", &["dog"], 0),
        question(2, "\"Wait,\" said", &["Tom"], 0),
    ];
    let lines =
        "{\"text\": \"She called the dog, and the dog\"}\n{\"text\": \"\\\"Wait,\\\" said Tom\"}\n";
    assert_eq!(read(Benchmark::Lambada, "test.jsonl", lines).unwrap(), expected);
    let plain = "She called the dog, and the dog\n\"Wait,\" said Tom\n";
    assert_eq!(read(Benchmark::Lambada, "test.txt", plain).unwrap(), expected);
    for text in ["word", "ends with a space ", " word"] {
        let message = read(Benchmark::Lambada, "test.txt", text).unwrap_err();
        assert!(message.contains("line 1: a passage of two words or more"), "{message}");
    }
}

#[test]
fn benchmarks_are_found_by_their_names() {
    for benchmark in Benchmark::ALL {
        assert_eq!(Benchmark::named(benchmark.name()), Some(benchmark));
        assert_eq!(benchmark.to_string(), benchmark.name());
        assert_eq!(benchmark.is_last_word(), benchmark == Benchmark::Lambada);
    }
    assert_eq!(Benchmark::named("Piqa"), None);
}

proptest! {
    /// Whatever a file holds, it is read or refused.
    #[test]
    fn no_line_is_too_odd(number in 0usize..5, line in r#"[\[\]{}":,a-z0-9é \n]{0,60}"#) {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.jsonl", "a.txt"] {
            let path = folder.path().join(name);
            fs::write(&path, &line).unwrap();
            let _ = Benchmark::ALL[number].read(&path);
        }
        let text = serde_json::json!({
            "activity_label": line, "ctx_a": line, "ctx_b": line, "endings": [line, line], "label": 0,
        });
        fs::write(folder.path().join("a.jsonl"), text.to_string()).unwrap();
        let found = Benchmark::Hellaswag.read(&folder.path().join("a.jsonl")).unwrap();
        // The regular expression of lm-evaluation-harness.
        let clean = |text: &str| {
            let text = text.trim().replace(" [title]", ". ");
            let brackets = fancy_regex::Regex::new(r"\[.*?\]").unwrap();
            brackets.replace_all(&text, "").replace("  ", " ")
        };
        prop_assert_eq!(&found[0].choices, &vec![clean(&line); 2]);
    }
}
