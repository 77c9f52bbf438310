use emberlm::data::{
    Compression, DataError, Documents, Piece, SourceFile, SourceFormat, SourceOptions,
    SourceRecord, Sources, read_rows,
};
use flate2::write::GzEncoder;
use parquet::basic::{Compression as Codec, Encoding, GzipLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int32Type, Int64Type};
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

fn find(arguments: &[&Path]) -> Result<Sources, DataError> {
    find_with(arguments, SourceOptions::default())
}

fn find_with(arguments: &[&Path], options: SourceOptions) -> Result<Sources, DataError> {
    let arguments: Vec<String> =
        arguments.iter().map(|path| path.to_str().unwrap().to_string()).collect();
    Sources::find(&arguments, options)
}

fn field(field: &str) -> SourceOptions {
    SourceOptions { field: field.into(), separator: None }
}

fn separator(separator: &str) -> SourceOptions {
    SourceOptions { separator: Some(separator.into()), ..Default::default() }
}

type Cut = dyn Fn(&str) -> Option<usize>;

fn uncut(_: &str) -> Option<usize> {
    None
}

/// All documents, put together from their pieces, and the records of their files.
fn read(sources: &Sources) -> Result<(Vec<String>, Vec<SourceRecord>), DataError> {
    let mut documents = sources.read();
    let mut texts = vec![];
    let mut text = String::new();
    while let Some(piece) = documents.next(&uncut)? {
        assert!(!piece.text.is_empty());
        text.push_str(&piece.text);
        if piece.ends_document {
            texts.push(std::mem::take(&mut text));
        }
    }
    assert!(text.is_empty(), "the last document ends");
    if let Some(total) = sources.total_bytes() {
        assert_eq!(documents.bytes_read(), total);
    }
    Ok((texts, documents.finished().to_vec()))
}

fn texts(path: &Path, options: SourceOptions) -> Result<Vec<String>, DataError> {
    Ok(read(&find_with(&[path], options)?)?.0)
}

fn error(path: &Path, options: SourceOptions) -> String {
    let error = texts(path, options).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(vec![], 1).unwrap();
    // As the program zstd does.
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Writes the bytes as they are, as gzip and as zstd; all of them hold the same.
fn each_compression(folder: &TempDir, name: &str, bytes: &[u8]) -> [PathBuf; 3] {
    let write = |end: &str, bytes: &[u8]| {
        let path = folder.path().join(format!("{name}{end}"));
        fs::write(&path, bytes).unwrap();
        path
    };
    [write("", bytes), write(".gz", &gzip(bytes)), write(".zst", &zstd(bytes))]
}

/// Text, or none where a file has no value; the texts have what is special in some format.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        proptest::collection::vec(
            prop_oneof![
                Just("\"".to_string()),
                Just("\n".to_string()),
                Just("\r\n".to_string()),
                Just("\r".to_string()),
                Just("\t".to_string()),
                Just(",".to_string()),
                Just("\\".to_string()),
                Just("\u{feff}".to_string()),
                any::<char>().prop_map(String::from),
            ],
            0..20
        )
        .prop_map(|parts| parts.concat()),
    ]
}

fn without_empty(texts: &[String]) -> Vec<String> {
    texts.iter().filter(|text| !text.is_empty()).cloned().collect()
}

fn json_lines(texts: &[String]) -> Vec<u8> {
    let line = |text: &String| {
        let other = [text.len().to_string(), "x".into()];
        serde_json::json!({ "a": other, "text": text, "z": { "text": [1, null] } }).to_string()
    };
    texts.iter().map(|text| line(text) + "\n").collect::<String>().into_bytes()
}

fn csv_table(texts: &[String]) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(vec![]);
    writer.write_record(["id", "text", "other, \"quoted\""]).unwrap();
    for (index, text) in texts.iter().enumerate() {
        writer.write_record([&index.to_string(), text, "-"]).unwrap();
    }
    writer.into_inner().unwrap()
}

const SCHEMA: &str = "message m {
    required int64 id;
    optional binary text (UTF8);
    optional group message { optional binary text (UTF8); }
}";

const ENCODINGS: [Encoding; 4] = [
    Encoding::PLAIN,
    Encoding::RLE_DICTIONARY,
    Encoding::DELTA_LENGTH_BYTE_ARRAY,
    Encoding::DELTA_BYTE_ARRAY,
];

/// Pages of a few rows.
fn properties(codec: Codec, version: WriterVersion, encoding: Encoding) -> WriterProperties {
    let properties = WriterProperties::builder()
        .set_compression(codec)
        .set_writer_version(version)
        .set_data_page_row_count_limit(7)
        .set_write_batch_size(7);
    if encoding == Encoding::RLE_DICTIONARY {
        return properties.build();
    }
    let column =
        |parts: &[&str]| ColumnPath::new(parts.iter().map(|part| part.to_string()).collect());
    properties
        .set_dictionary_enabled(false)
        .set_column_encoding(column(&["text"]), encoding)
        .set_column_encoding(column(&["message", "text"]), encoding)
        .build()
}

fn parquet_file(groups: &[Vec<Option<String>>], properties: WriterProperties) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let mut writer = SerializedFileWriter::new(vec![], schema, Arc::new(properties)).unwrap();
    for rows in groups {
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let ids: Vec<i64> = (0..rows.len() as i64).collect();
        column.typed::<Int64Type>().write_batch(&ids, None, None).unwrap();
        column.close().unwrap();
        for present in [1, 2] {
            let mut column = group.next_column().unwrap().unwrap();
            let levels: Vec<i16> =
                rows.iter().map(|row| if row.is_some() { present } else { 0 }).collect();
            let values: Vec<ByteArray> =
                rows.iter().flatten().map(|text| text.as_str().into()).collect();
            column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

/// Runs a property on a few random lists of texts.
fn on_texts(cases: u32, property: impl Fn(Vec<String>)) {
    let mut runner =
        TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(cases) });
    let texts = proptest::collection::vec(any_text(), 1..12);
    let some = texts.prop_filter("a document", |texts| texts.iter().any(|text| !text.is_empty()));
    runner
        .run(&some, |texts| {
            property(texts);
            Ok(())
        })
        .unwrap();
}

#[test]
fn documents_of_each_format_come_back() {
    on_texts(60, |expected| {
        let folder = TempDir::new().unwrap();
        let documents = without_empty(&expected);
        for path in each_compression(&folder, "lines.jsonl", &json_lines(&expected)) {
            assert_eq!(texts(&path, field("text")).unwrap(), documents);
        }
        for path in each_compression(&folder, "table.csv", &csv_table(&expected)) {
            assert_eq!(texts(&path, field("text")).unwrap(), documents);
        }
        // A tabbed table has no way to write tabs and line breaks.
        let plain = |text: &String| text.replace(['\t', '\n', '\r'], " ");
        let cells: Vec<String> = expected.iter().map(plain).collect();
        let table: String = cells.iter().map(|cell| format!("1\t{cell}\n")).collect();
        let table = format!("id\ttext\n{table}");
        for path in each_compression(&folder, "table.tsv", table.as_bytes()) {
            assert_eq!(texts(&path, field("text")).unwrap(), without_empty(&cells));
        }
        // A mark at the start is not part of a text, but anywhere else.
        let whole = format!("\u{feff}{}", documents.concat());
        for path in each_compression(&folder, "whole.txt", whole.as_bytes()) {
            assert_eq!(texts(&path, SourceOptions::default()).unwrap(), [documents.concat()]);
        }
    });
}

#[test]
fn documents_of_parquet_come_back() {
    let codecs = [
        Codec::UNCOMPRESSED,
        Codec::SNAPPY,
        Codec::ZSTD(Default::default()),
        Codec::GZIP(GzipLevel::default()),
        Codec::BROTLI(Default::default()),
        Codec::LZ4,
        Codec::LZ4_RAW,
    ];
    on_texts(8, |expected| {
        let folder = TempDir::new().unwrap();
        // Each third is null; four row groups, one without rows.
        let rows: Vec<Option<String>> = expected
            .iter()
            .enumerate()
            .map(|(index, text)| (index % 3 != 2).then(|| text.clone()))
            .collect();
        let (first, second) = rows.split_at(rows.len() / 2);
        let groups = [first.to_vec(), vec![], second.to_vec(), vec![rows.clone(); 9].concat()];
        let documents = groups.concat().into_iter().flatten().collect::<Vec<_>>();
        for codec in codecs {
            for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
                for encoding in ENCODINGS {
                    let properties = properties(codec, version, encoding);
                    let path = folder.path().join("table.parquet");
                    fs::write(&path, parquet_file(&groups, properties)).unwrap();
                    for name in ["text", "message.text"] {
                        assert_eq!(texts(&path, field(name)).unwrap(), without_empty(&documents));
                    }
                }
            }
        }
    });
}

/// A long text of words, some of them longer than a character's byte.
fn long_text(bytes: usize, seed: u64) -> String {
    let mut random = SmallRng::seed_from_u64(seed);
    let words = ["a", "der", "über", "数", "\n", "\r\n", "🦀🦀", "<|end", "<|", "\t "];
    let mut text = String::from("start");
    while text.len() < bytes {
        text.push_str(words[random.random_range(0..words.len())]);
        text.push(' ');
    }
    text + "end"
}

#[test]
fn pieces_are_cut_where_allowed_and_make_the_document() {
    let folder = TempDir::new().unwrap();
    let long = long_text(3 << 20, 1);
    let short = long_text(1000, 2);
    let expected = [long, short, long_text(5 << 20, 3)];
    let separated = folder.path().join("all.txt");
    fs::write(&separated, expected.join("<|end|>\n")).unwrap();
    let lines = folder.path().join("all.jsonl");
    fs::write(&lines, json_lines(&expected)).unwrap();
    for path in [separated, lines] {
        // Before a space; at any character; only after half a million bytes; never below 2 MiB.
        let before_space = |text: &str| text.rfind(' ');
        let anywhere = |text: &str| Some(text.len());
        let early = |text: &str| Some(text.floor_char_boundary(500_000));
        let late = |text: &str| (text.len() > 1 << 21).then(|| text.floor_char_boundary(1_999_999));
        let cuts: [(&Cut, usize); 4] =
            [(&before_space, 1 << 20), (&anywhere, 1 << 20), (&early, 1 << 20), (&late, 1 << 22)];
        for (cut, longest) in cuts {
            let sources = find_with(&[&path], separator("<|end|>")).unwrap();
            let mut documents = sources.read();
            let mut found = vec![String::new()];
            while let Some(Piece { text, ends_document }) = documents.next(cut).unwrap() {
                assert!(!text.is_empty() && text.len() <= longest, "{}", text.len());
                let document = expected.get(found.len() - 1);
                let last = found.last_mut().unwrap();
                last.push_str(&text);
                if ends_document {
                    found.push(String::new());
                } else {
                    let rest = &document.unwrap()[last.len() - text.len()..];
                    let cuts = [1 << 20, 1 << 21, 1 << 22]
                        .map(|limit| cut(&rest[..rest.floor_char_boundary(limit)]));
                    assert_eq!(Some(text.len()), cuts.into_iter().flatten().next());
                }
            }
            assert_eq!(found.pop().unwrap(), "");
            assert!(found == expected);
        }
    }
}

#[test]
fn a_document_of_one_mebibyte_is_one_piece() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.txt");
    for (bytes, pieces) in [((1 << 20) - 1, 1), (1 << 20, 1), ((1 << 20) + 1, 2)] {
        fs::write(&path, "x".repeat(bytes)).unwrap();
        let mut documents = find(&[&path]).unwrap().read();
        let found: Vec<Piece> =
            std::iter::from_fn(|| documents.next(&|text| Some(text.len())).unwrap()).collect();
        assert_eq!(found.len(), pieces, "{bytes} bytes");
        assert!(found.last().unwrap().ends_document);
    }
}

#[test]
fn separators_are_found_wherever_a_chunk_ends() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.txt");
    let (mark, chunk) = ("<|数end|>", 128 << 10);
    // Every place of the separator and of the line break after it around a chunk's end.
    for line_break in ["", "\n", "\r\n"] {
        for before in chunk - mark.len() - 3..chunk + 2 {
            let first = format!("{}é", "x".repeat(before - 2));
            fs::write(&path, format!("{first}{mark}{line_break}\rsecond\n{mark}")).unwrap();
            let found = texts(&path, separator(mark)).unwrap();
            assert!(found == [first, "\rsecond\n".into()], "{before} {line_break:?}");
        }
    }
    let mut random = SmallRng::seed_from_u64(4);
    for mark in ["|", "aab", "\n\n", "数"] {
        let letters = ["a", "a", "b", "|", "\n", "数", "\r", " "];
        let text: String =
            (0..300_000).map(|_| letters[random.random_range(0..letters.len())]).collect();
        let expected: Vec<&str> = text
            .split(mark)
            .enumerate()
            .map(|(index, part)| match index {
                0 => part,
                _ => part.strip_prefix("\r\n").or(part.strip_prefix('\n')).unwrap_or(part),
            })
            .filter(|part| !part.trim().is_empty())
            .collect();
        for path in each_compression(&folder, "letters.txt", text.as_bytes()) {
            // A separator of line breaks takes one more with it, which `split` would count again.
            if mark != "\n\n" {
                assert!(texts(&path, separator(mark)).unwrap() == expected, "{mark:?}");
            }
        }
    }
    fs::write(&path, "one\n\ntwo\n\n\n\n\nthree\nfour\n\n \n\n").unwrap();
    assert_eq!(texts(&path, separator("\n\n")).unwrap(), ["one", "two", "three\nfour"]);
}

#[test]
fn records_have_the_hashes_of_the_files() {
    let folder = TempDir::new().unwrap();
    let expected = [long_text(300_000, 5), "short".into()];
    let rows = expected.iter().cloned().map(Some).collect();
    let mut paths = vec![folder.path().join("a.parquet")];
    fs::write(&paths[0], parquet_file(&[rows], Default::default())).unwrap();
    paths.extend(each_compression(&folder, "b.txt", expected[0].as_bytes()));
    paths.extend(each_compression(&folder, "c.jsonl", &json_lines(&expected)));
    paths.extend(each_compression(&folder, "d.csv", &csv_table(&expected)));
    let sources = find(&[folder.path()]).unwrap();
    let (_, records) = read(&sources).unwrap();
    let hashed: Vec<SourceRecord> = paths
        .into_iter()
        .map(|path| {
            let bytes = fs::read(&path).unwrap();
            let hash = Sha256::digest(&bytes);
            let sha256 = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            SourceRecord { path, bytes: bytes.len() as u64, sha256 }
        })
        .collect();
    assert_eq!(records, hashed);
    assert_eq!(sources.files().len(), records.len());
}

#[test]
fn gzip_of_several_members_is_read_to_its_end() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.txt.gz");
    fs::write(&path, [gzip(b"one "), gzip(b""), gzip("zw\u{f6}lf".as_bytes())].concat()).unwrap();
    assert_eq!(texts(&path, Default::default()).unwrap(), ["one zw\u{f6}lf"]);
    let path = folder.path().join("a.txt.zst");
    fs::write(&path, [zstd(b"one "), zstd(b"two")].concat()).unwrap();
    assert_eq!(texts(&path, Default::default()).unwrap(), ["one two"]);
}

#[test]
fn damaged_compression_is_one_line() {
    let folder = TempDir::new().unwrap();
    let text = long_text(20_000, 6);
    for (end, whole) in [("gz", gzip(text.as_bytes())), ("zst", zstd(text.as_bytes()))] {
        let path = folder.path().join(format!("a.txt.{end}"));
        for length in (1..whole.len()).step_by(97).chain([whole.len() - 1]) {
            fs::write(&path, &whole[..length]).unwrap();
            let message = error(&path, Default::default());
            assert!(message.contains(&format!("a.txt.{end} is damaged or cut off")), "{message}");
        }
        for index in (0..whole.len()).step_by(61) {
            let mut damaged = whole.clone();
            damaged[index] ^= 0x55;
            fs::write(&path, &damaged).unwrap();
            // A header's time or system may be anything; a text never is another one.
            match texts(&path, Default::default()) {
                Ok(found) => assert!(end == "gz" && index < 10 && found == [text.clone()]),
                Err(error) => assert!(!error.to_string().contains('\n')),
            }
        }
    }
}

#[test]
fn rows_of_parquet_come_back_with_their_lists() {
    let schema =
        "message m { optional group a { required binary b (STRING); optional group c (LIST) {
        repeated group list { optional binary element (STRING); } } } required int64 n; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    // No `a`, an `a` without `c`, and lists of several lengths, some with a null.
    type List = Vec<Option<String>>;
    let rows: Vec<Option<(String, Option<List>)>> = (0..500)
        .map(|row| {
            let element = |at: usize| (at % 4 != 3).then(|| long_text(at % 9, row as u64));
            let list =
                (row % 5 != 1).then(|| (0..row * 7 % 6).map(|at| element(at + row)).collect());
            (row % 11 != 4).then(|| (format!("text {}", row % 3), list))
        })
        .collect();
    let expected: Vec<Value> = rows
        .iter()
        .map(|row| match row {
            None => json!({ "a": { "b": null, "c": [] }, "n": 7 }),
            Some((b, list)) => {
                let texts: Vec<&String> = list.iter().flatten().flatten().collect();
                json!({ "a": { "b": b, "c": texts }, "n": 7 })
            }
        })
        .collect();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("rows.parquet");
    for (version, dictionary) in [
        (WriterVersion::PARQUET_1_0, true),
        (WriterVersion::PARQUET_1_0, false),
        (WriterVersion::PARQUET_2_0, true),
        (WriterVersion::PARQUET_2_0, false),
    ] {
        let properties = WriterProperties::builder()
            .set_writer_version(version)
            .set_compression(Codec::SNAPPY)
            .set_dictionary_enabled(dictionary)
            .set_data_page_row_count_limit(70)
            .set_write_batch_size(10);
        let mut writer =
            SerializedFileWriter::new(vec![], schema.clone(), Arc::new(properties.build()))
                .unwrap();
        for rows in rows.chunks(300) {
            let mut group = writer.next_row_group().unwrap();
            let mut put =
                |values: Vec<ByteArray>, definitions: &[i16], repetitions: Option<&[i16]>| {
                    let mut column = group.next_column().unwrap().unwrap();
                    let typed = column.typed::<ByteArrayType>();
                    typed.write_batch(&values, Some(definitions), repetitions).unwrap();
                    column.close().unwrap();
                };
            let b = rows.iter().flatten().map(|(b, _)| b.as_str().into()).collect();
            let is_there: Vec<i16> = rows.iter().map(|row| row.is_some().into()).collect();
            put(b, &is_there, None);
            let (mut values, mut definitions, mut repetitions) =
                (Vec::new(), Vec::new(), Vec::new());
            for row in rows {
                let list = row.as_ref().map(|(_, list)| list.as_ref());
                let empty = match list {
                    None => Some(0),
                    Some(None) => Some(1),
                    Some(Some(list)) => list.is_empty().then_some(2),
                };
                if let Some(level) = empty {
                    definitions.push(level);
                    repetitions.push(0);
                }
                for (place, element) in list.flatten().into_iter().flatten().enumerate() {
                    definitions.push(if element.is_some() { 4 } else { 3 });
                    repetitions.push(i16::from(place > 0));
                    values.extend(element.as_ref().map(|text| ByteArray::from(text.as_str())));
                }
            }
            put(values, &definitions, Some(&repetitions));
            let mut column = group.next_column().unwrap().unwrap();
            let numbers = vec![7; rows.len()];
            column.typed::<Int64Type>().write_batch(&numbers, None, None).unwrap();
            column.close().unwrap();
            group.close().unwrap();
        }
        fs::write(&path, writer.into_inner().unwrap()).unwrap();
        assert_eq!(read_rows(&path).unwrap(), expected, "{version:?}, {dictionary}");
    }
}

/// Written by the parquet crate, whose encoders are not ours.
#[test]
fn integers_of_parquet_come_back_as_numbers() {
    let schema = "message m { required int64 wide; optional int32 small (INTEGER(8, true));
        required int32 unsigned (INTEGER(32, false)); required int64 long (INTEGER(64, false));
        optional group list (LIST) { repeated group list { optional int64 element; } }
        required int32 day (DATE); required int64 moment (TIMESTAMP(NANOS, true)); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let wide: Vec<i64> = (0..300_i64)
        .map(|row| match row % 5 {
            0 => i64::MIN,
            1 => i64::MAX,
            other => (row - 150) * other.pow(9),
        })
        .collect();
    let small: Vec<Option<i32>> =
        (0..300).map(|row| (row % 7 != 2).then_some(row % 256 - 128)).collect();
    let lists: Vec<&[i64]> =
        (0..300).map(|row| &wide[row..row + (row % 4).min(300 - row)]).collect();
    let expected: Vec<Value> = (0..300)
        .map(|row| {
            let number = wide[row];
            json!({
                "wide": number, "small": small[row], "unsigned": number as u32,
                "long": number as u64, "list": lists[row],
            })
        })
        .collect();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("numbers.parquet");
    let mut random = SmallRng::seed_from_u64(11);
    for (version, encoding) in [
        (WriterVersion::PARQUET_1_0, Encoding::RLE_DICTIONARY),
        (WriterVersion::PARQUET_1_0, Encoding::PLAIN),
        (WriterVersion::PARQUET_2_0, Encoding::RLE_DICTIONARY),
        (WriterVersion::PARQUET_2_0, Encoding::PLAIN),
        (WriterVersion::PARQUET_2_0, Encoding::DELTA_BINARY_PACKED),
    ] {
        let mut properties = WriterProperties::builder()
            .set_writer_version(version)
            .set_data_page_row_count_limit(70)
            .set_write_batch_size(10);
        if encoding != Encoding::RLE_DICTIONARY {
            properties = properties.set_dictionary_enabled(false).set_encoding(encoding);
        }
        let mut writer =
            SerializedFileWriter::new(vec![], schema.clone(), Arc::new(properties.build()))
                .unwrap();
        let mut group = writer.next_row_group().unwrap();
        for number in 0..7 {
            let mut column = group.next_column().unwrap().unwrap();
            let short: Vec<i32> = wide.iter().map(|number| *number as i32).collect();
            let (long, short) = (&wide[..], &short[..]);
            let written = match number {
                0 | 3 | 6 => column.typed::<Int64Type>().write_batch(long, None, None),
                1 => {
                    let levels: Vec<i16> = small.iter().map(|it| it.is_some().into()).collect();
                    let there: Vec<i32> = small.iter().flatten().copied().collect();
                    column.typed::<Int32Type>().write_batch(&there, Some(&levels), None)
                }
                4 => {
                    let (mut definitions, mut repetitions) = (Vec::new(), Vec::new());
                    for list in &lists {
                        // One place of an empty list, whose element is not there.
                        for place in 0..list.len().max(1) {
                            definitions.push(if list.is_empty() { 1 } else { 3 });
                            repetitions.push(i16::from(place > 0));
                        }
                    }
                    let there = lists.concat();
                    let typed = column.typed::<Int64Type>();
                    typed.write_batch(&there, Some(&definitions), Some(&repetitions))
                }
                _ => column.typed::<Int32Type>().write_batch(short, None, None),
            };
            written.unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
        let whole = writer.into_inner().unwrap();
        fs::write(&path, &whole).unwrap();
        assert_eq!(read_rows(&path).unwrap(), expected, "{version:?}, {encoding}");
        for _ in 0..300 {
            let mut damaged = whole.clone();
            damaged[random.random_range(0..whole.len())] = random.random();
            fs::write(&path, &damaged).unwrap();
            // Read or refused, in one line.
            if let Err(error) = read_rows(&path) {
                assert!(!error.to_string().contains('\n'), "{error}");
            }
        }
    }
}

#[test]
fn damaged_parquet_never_panics() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.parquet");
    let rows: Vec<Option<String>> =
        (0..40).map(|row| (row % 5 != 0).then(|| long_text(row * 3, row as u64 % 7))).collect();
    let mut random = SmallRng::seed_from_u64(7);
    let (first, second) = (WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0);
    for (codec, version, encoding) in [
        (Codec::UNCOMPRESSED, first, Encoding::PLAIN),
        (Codec::UNCOMPRESSED, second, Encoding::RLE_DICTIONARY),
        (Codec::UNCOMPRESSED, second, Encoding::DELTA_BYTE_ARRAY),
        (Codec::UNCOMPRESSED, first, Encoding::DELTA_LENGTH_BYTE_ARRAY),
        (Codec::SNAPPY, first, Encoding::RLE_DICTIONARY),
        (Codec::ZSTD(Default::default()), second, Encoding::PLAIN),
        (Codec::LZ4, first, Encoding::PLAIN),
        (Codec::GZIP(Default::default()), first, Encoding::RLE_DICTIONARY),
        (Codec::BROTLI(Default::default()), first, Encoding::RLE_DICTIONARY),
    ] {
        let properties = properties(codec, version, encoding);
        let whole = parquet_file(&[rows.clone(), rows.clone()], properties);
        for length in (0..whole.len()).step_by(101) {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(texts(&path, Default::default()).is_err());
        }
        let cases = std::env::var("FUZZ").map_or(300, |n| n.parse().unwrap());
        for _ in 0..cases {
            let mut damaged = whole.clone();
            for _ in 0..random.random_range(1..4) {
                let index = random.random_range(0..whole.len());
                damaged[index] = match random.random_range(0..4) {
                    0 => 0xFF,
                    1 => damaged[index] ^ (1 << random.random_range(0..8)),
                    _ => random.random(),
                };
            }
            fs::write(&path, &damaged).unwrap();
            if let Err(error) = texts(&path, Default::default()) {
                assert!(!error.to_string().contains('\n'), "{error}");
            }
        }
    }
}

#[test]
fn what_a_line_lacks_is_named() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.jsonl");
    let cases: [(&[u8], &str, &str); 8] = [
        (b"\n{\"text\": \"x\"}\n \n{\"text\": 3}\n", "text", ", line 4: `text` is not a string"),
        (b"{\"b\": 1, \"a\": 2}", "text", ", line 1: there is no `text`; its keys are: a, b"),
        (b"{\"m\": {\"a\": 2}}", "m.text", "line 1: in `m`: there is no `text`; its keys are: a"),
        (b"{\"m\": 3}", "m.text", "line 1: in `m`: it is not an object"),
        (b"{\"text\": null}", "text", "line 1: `text` is not a string"),
        (b"{\"text\": \"x\"}\n[1]", "text", "line 2: it is not an object"),
        (b"{\"text\": \"x\"}\n{\"text\": \"", "text", "line 2: it is not JSON: EOF while parsing"),
        (b"{\"text\": \"x\"}\n{\"text\": \"\xFF\"}\n", "text", "is not UTF-8 (byte 24 and after)"),
    ];
    for (bytes, name, expected) in cases {
        fs::write(&path, bytes).unwrap();
        let message = error(&path, field(name));
        assert!(message.contains(expected) && message.contains("a.jsonl"), "{message}");
    }
    fs::write(&path, b"{\"m\": {\"text\": \"x\"}, \"m.n\": \"y\"}").unwrap();
    assert_eq!(texts(&path, field("m.text")).unwrap(), ["x"]);
    assert_eq!(texts(&path, field("m.n")).unwrap(), ["y"]);
}

#[test]
fn what_a_table_lacks_is_named() {
    let folder = TempDir::new().unwrap();
    let csv = folder.path().join("a.csv");
    fs::write(&csv, "id,body\n1,x\n").unwrap();
    assert!(error(&csv, field("text")).contains("no column `text`; its columns are: id, body"));
    fs::write(&csv, "id,text\n1,\"a\nb\"\n2\n").unwrap();
    let message = error(&csv, field("text"));
    assert!(message.contains("line 4: it has 1 fields, but the header has 2"), "{message}");
    fs::write(&csv, b"id,text\n1,a\n2,\xFF\n").unwrap();
    assert!(error(&csv, field("text")).contains("line 3: `text` is not UTF-8"));
    let tsv = folder.path().join("a.tsv");
    fs::write(&tsv, "id\ttext\n1\t\"a\n2\tb\tc\n").unwrap();
    assert!(error(&tsv, field("text")).contains("line 3: it has 3 fields, but the header has 2"));
    fs::write(&tsv, "id\ttext\r\n1\t\"a\r\n2\t b \"\r\n").unwrap();
    assert_eq!(texts(&tsv, field("text")).unwrap(), ["\"a", " b \""]);
    let parquet = folder.path().join("a.parquet");
    fs::write(&parquet, parquet_file(&[vec![Some("x".into())]], Default::default())).unwrap();
    let message = error(&parquet, field("body"));
    assert!(message.contains("its columns are: id, text, message.text"), "{message}");
    assert!(error(&parquet, field("id")).contains("column `id`"));
}

#[test]
fn text_that_is_not_utf8_is_named_by_its_byte() {
    let folder = TempDir::new().unwrap();
    let chunk = 128 << 10;
    for offset in [0, 1, 1000, chunk - 2, chunk - 1, chunk, chunk + 1, 300_001] {
        for bad in [&b"\xFF"[..], b"\xF0\x9F\xA6x", b"\xC3", b"\xED\xA0\x80"] {
            let mark = "\u{feff}".as_bytes();
            let bytes = [mark, "x".repeat(offset).as_bytes(), bad].concat();
            let path = folder.path().join("a.txt");
            fs::write(&path, &bytes).unwrap();
            let expected = std::str::from_utf8(&bytes).unwrap_err().valid_up_to();
            for options in [SourceOptions::default(), separator("--")] {
                match texts(&path, options).unwrap_err() {
                    DataError::NotUtf8 { offset, .. } => assert_eq!(offset, expected),
                    error => panic!("{error}"),
                }
            }
        }
    }
}

#[test]
fn text_that_cannot_be_cut_ends_with_an_error() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.txt.zst");
    let zeros = std::io::Read::take(std::io::repeat(b'x'), (256 << 20) + 1);
    fs::write(&path, zstd::encode_all(zeros, 1).unwrap()).unwrap();
    let message = error(&path, Default::default());
    assert!(message.contains("a.txt.zst") && message.contains("--separator"), "{message}");
}

#[test]
fn folders_and_patterns_are_searched() {
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    for name in [
        "b.txt",
        "a/2.md",
        "a/10.jsonl.gz",
        "a/.hidden.txt",
        ".git/x.txt",
        "c.bin",
        "z.CSV",
        "p.parquet.gz",
        "a/b/deep.ndjson.zst",
        "empty.txt",
    ] {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        fs::write(root.join(name), if name == "empty.txt" { "" } else { "x" }).unwrap();
    }
    let names = |sources: &Sources| -> Vec<String> {
        let name =
            |file: &SourceFile| file.path.strip_prefix(root).unwrap().to_str().unwrap().to_string();
        sources.files().iter().map(name).collect()
    };
    let sources = find(&[root]).unwrap();
    let all = ["a/10.jsonl.gz", "a/2.md", "a/b/deep.ndjson.zst", "b.txt", "empty.txt", "z.CSV"];
    assert_eq!(names(&sources), all);
    assert_eq!(sources.total_bytes(), Some(5));
    let kinds: Vec<_> =
        sources.files().iter().map(|file| (file.format, file.compression)).collect();
    assert_eq!(
        kinds,
        [
            (SourceFormat::JsonLines, Compression::Gzip),
            (SourceFormat::Text, Compression::None),
            (SourceFormat::JsonLines, Compression::Zstd),
            (SourceFormat::Text, Compression::None),
            (SourceFormat::Text, Compression::None),
            (SourceFormat::Csv, Compression::None),
        ]
    );
    let found = |pattern: &str| find(&[&root.join(pattern)]).map(|sources| names(&sources));
    assert_eq!(found("*.txt").unwrap(), ["b.txt", "empty.txt"]);
    assert_eq!(found("**/*.md").unwrap(), ["a/2.md"]);
    assert_eq!(
        found("[bc].?[ix][nt]").unwrap(),
        ["b.txt", "c.bin"][..1].to_vec().into_iter().chain(["c.bin"]).collect::<Vec<_>>()
    );
    let message = found("*.no").unwrap_err().to_string();
    assert!(message.contains("*.no"), "{message}");
    assert!(found("[").unwrap_err().to_string().contains("pattern"));
    // A file of that very name is no pattern.
    fs::write(root.join("[b].txt"), "y").unwrap();
    assert_eq!(found("[b].txt").unwrap(), ["[b].txt"]);
    // What is meant twice is read once, where it stood first.
    let twice = find(&[&root.join("b.txt"), &root.join("a/../b.txt"), root]).unwrap();
    assert_eq!(names(&twice)[0], "b.txt");
    assert_eq!(twice.files().len(), all.len() + 1);
    // An empty file is nothing among others, and an error by itself.
    let (texts, records) = read(&find(&[&root.join("[be]*.txt")]).unwrap()).unwrap();
    assert_eq!((texts.len(), records.len()), (1, 2));
    let message = error(&root.join("empty.txt"), Default::default());
    assert!(message.contains("empty.txt is empty"), "{message}");
    assert!(matches!(read(&find(&[&root.join("em*")]).unwrap()), Err(DataError::NoDocuments)));
    let message = find(&[&root.join("none.txt")]).unwrap_err().to_string();
    assert!(message.contains("there is no file"), "{message}");
    let message = find(&[&root.join(".git")]).map(|found| found.files().len());
    assert_eq!(message.unwrap(), 1);
    fs::create_dir(root.join("void")).unwrap();
    let message = find(&[&root.join("void")]).unwrap_err().to_string();
    assert!(message.contains(".jsonl"), "{message}");
    assert!(matches!(
        find(&[&root.join("p.parquet.gz")]),
        Err(DataError::CompressedParquet { .. })
    ));
}

#[test]
fn standard_input_is_read_once() {
    let input = Path::new("-");
    let sources = find(&[input]).unwrap();
    assert_eq!(sources.total_bytes(), None);
    assert!(matches!(find(&[input, input]), Err(DataError::StandardInputTwice)));
    assert!(matches!(find(&[]), Err(DataError::NoSources)));
    assert!(matches!(find_with(&[input], separator("")), Err(DataError::EmptySeparator)));
}

#[test]
fn documents_can_be_read_on_another_thread() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.txt");
    fs::write(&path, "text").unwrap();
    let mut documents: Documents = find(&[&path]).unwrap().read();
    let reading = std::thread::spawn(move || documents.next(&uncut).unwrap());
    assert_eq!(reading.join().unwrap().unwrap().text, "text");
}
