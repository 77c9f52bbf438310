//! `docs/tour`: its code is run as the library's own documentation is; here, the commands that it
//! quotes must still print what it says, and its links must lead somewhere.

use emberlm::backend::{BackendKind, compiled};
use std::fs;
use std::path::{Path, PathBuf};

use crate::command_line::{emberlm, succeed};
use crate::support::repository;

/// Left out, in what is quoted of a command: any lines, or none.
const LEFT_OUT: &str = "...";

/// The chapters and their contents, by name.
fn chapters() -> Vec<(String, String)> {
    let folder = repository().join("docs/tour");
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let named = paths.into_iter().map(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, fs::read_to_string(path).unwrap())
    });
    named.collect()
}

/// What stands between the fences of blocks of a language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("\n```{language}\n");
    let mut rest = text;
    let mut found = Vec::new();
    while let Some(start) = rest.find(&fence) {
        let block = &rest[start + fence.len()..];
        let end = block.find("\n```\n").expect("a fence that is opened is closed");
        found.push(&block[..end]);
        rest = &block[end..];
    }
    found
}

/// Whether the lines are those expected, where `...` stands for any.
fn matches(lines: &[&str], expected: &[&str]) -> bool {
    match (lines, expected) {
        (_, [LEFT_OUT, rest @ ..]) => {
            (0..=lines.len()).any(|skipped| matches(&lines[skipped..], rest))
        }
        ([line, lines @ ..], [first, expected @ ..]) => {
            line.trim_end() == *first && matches(lines, expected)
        }
        (lines, expected) => lines.is_empty() && expected.is_empty(),
    }
}

#[test]
fn commands_print_what_is_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = 0;
    for (name, text) in chapters() {
        for block in blocks(&text, "console") {
            let (command, expected) = block.split_once('\n').unwrap();
            let words: Vec<&str> = command.split_whitespace().collect();
            let ["$", "emberlm", args @ ..] = &words[..] else { panic!("{name}: {command}") };
            if args[0] == "plan" && compiled().next() != Some(BackendKind::Flex) {
                println!("skipped, since it is of flex: {command}");
                continue;
            }
            let output = succeed(&emberlm(folder.path(), args));
            let lines: Vec<&str> = output.trim_end().lines().collect();
            let expected: Vec<&str> = expected.lines().collect();
            assert!(matches(&lines, &expected), "{name}: `{command}` prints\n{output}");
            run += 1;
        }
    }
    assert!(run >= 5, "{run} commands");
}

#[test]
fn every_chapter_is_listed_and_its_code_is_run() {
    let chapters = chapters();
    let library = fs::read_to_string(repository().join("src/lib.rs")).unwrap();
    let (readme, rest) = chapters.split_last().unwrap();
    assert_eq!(readme.0, "README.md");
    assert_eq!(rest.len(), 10);
    for (name, text) in rest {
        assert!(readme.1.contains(&format!("]({name})")), "{name} is not in the contents");
        assert!(library.contains(&format!("include_str!(\"../docs/tour/{name}\")")), "{name}");
        let code = blocks(text, "rust");
        assert!(!code.is_empty() && code.iter().all(|code| code.contains("assert")), "{name}");
    }
}

#[test]
fn links_lead_to_files() {
    let folder = repository().join("docs/tour");
    let mut links = 0;
    for (name, text) in chapters() {
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap();
            let path = target.split('#').next().unwrap();
            assert!(folder.join(Path::new(path)).exists(), "{name}: {target}");
            links += 1;
        }
    }
    assert!(links > 20, "{links} links");
}

#[test]
fn lines_that_are_left_out_may_be_any() {
    let lines = ["a", "b", "c", "d"];
    for (expected, equal) in [
        (&["a", "b", "c", "d"][..], true),
        (&["a", "...", "d"], true),
        (&["...", "b", "...", "d"], true),
        (&["a", "b", "c", "d", "..."], true),
        (&["a", "b", "c"], false),
        (&["a", "...", "c"], false),
        (&["b", "..."], false),
    ] {
        assert_eq!(matches(&lines, expected), equal, "{expected:?}");
    }
}
