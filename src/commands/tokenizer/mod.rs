//! The subcommands of `emberlm tokenizer`.

mod show;
mod stats;
mod train;

use anyhow::{Context, bail};
use std::fs;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;

use crate::artifact::Run;
use crate::cli::{
    DecodeArgs, EncodeArgs, ExportTokenizerArgs, RunsArgs, SourceArgs, TokenizerArgs,
    TokenizerCommand,
};
use crate::config::TokenizerConfig;
use crate::data::{SourceOptions, Sources};
use crate::files::{self, write_error};
use crate::tokenizer::{self, HuggingFaceFiles, Tokenizer};

pub(super) fn run(args: TokenizerArgs) -> anyhow::Result<()> {
    match args.command {
        TokenizerCommand::Train(args) => train::run(args),
        TokenizerCommand::Encode(args) => encode(args),
        TokenizerCommand::Decode(args) => decode(args),
        TokenizerCommand::Show(args) => show::run(args),
        TokenizerCommand::Stats(args) => stats::run(args),
        TokenizerCommand::Export(args) => export(args),
    }
}

fn encode(args: EncodeArgs) -> anyhow::Result<()> {
    let tokenizer = open(&args.tokenizer, &args.runs)?;
    let ids = tokenizer.encode(&text_or_stdin(args.text)?)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if args.json {
        serde_json::to_writer(&mut out, &ids)?;
    } else {
        for (number, id) in ids.iter().enumerate() {
            let separator = if number == 0 { "" } else { " " };
            write!(out, "{separator}{id}")?;
        }
    }
    writeln!(out)?;
    out.flush()?;
    Ok(())
}

fn decode(args: DecodeArgs) -> anyhow::Result<()> {
    let tokenizer = open(&args.tokenizer, &args.runs)?;
    let text = match args.ids.as_slice() {
        [] => text_or_stdin(None)?,
        ids => ids.join(" "),
    };
    let ids = parse_ids(&text)?;
    let mut out = std::io::stdout().lock();
    if args.bytes {
        out.write_all(&tokenizer.decode_bytes(&ids))?;
        out.flush()?;
        return Ok(());
    }
    let text = tokenizer.decode(&ids);
    out.write_all(text.as_bytes())?;
    if out.is_terminal() && !text.ends_with('\n') {
        writeln!(out)?;
    }
    out.flush()?;
    Ok(())
}

/// Ids with anything between them that stands between numbers: spaces, commas, brackets of JSON.
fn parse_ids(text: &str) -> anyhow::Result<Vec<u32>> {
    text.split(|c: char| c.is_whitespace() || [',', '[', ']'].contains(&c))
        .filter(|id| !id.is_empty())
        .map(|id| id.parse().ok().with_context(|| format!("`{id}` is not a token id")))
        .collect()
}

fn export(args: ExportTokenizerArgs) -> anyhow::Result<()> {
    check_is_new(&args.folder)?;
    let tokenizer = open(&args.tokenizer, &args.runs)?;
    let files = tokenizer::to_hugging_face(&tokenizer.saved())
        .with_context(|| format!("the tokenizer {} cannot be exported", args.tokenizer))?;
    write_folder(&args.folder, &files)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}: {} tokens", args.tokenizer, tokenizer.vocab_size())?;
    writeln!(out, "folder: {}", args.folder.display())?;
    Ok(())
}

/// The tokenizer of a name, a run, a file or a folder.
pub(super) fn open(name: &str, runs: &RunsArgs) -> anyhow::Result<Box<dyn Tokenizer>> {
    let is_run = |folder: &Path| {
        folder.join("config.json").is_file() && folder.join("checksums.json").is_file()
    };
    match tokenizer::named(name) {
        Ok(TokenizerConfig::Character {}) => bail!(
            "`character` has no tokens before it has seen a text; name a run that was trained with it"
        ),
        Ok(TokenizerConfig::File { path }) if is_run(&path) => {
            Ok(Run::open(&runs.artifacts, name)?.tokenizer()?)
        }
        Err(_) if is_run(&runs.artifacts.join(name)) => {
            Ok(Run::open(&runs.artifacts, name)?.tokenizer()?)
        }
        Ok(config) => tokenizer::build(&config, [])
            .with_context(|| format!("cannot use the tokenizer {name}")),
        Err(error) => bail!("{error}, or a run in {}", runs.artifacts.display()),
    }
}

fn text_or_stdin(text: Option<String>) -> anyhow::Result<String> {
    if let Some(text) = text {
        return Ok(text);
    }
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
    let text = String::from_utf8(bytes);
    text.map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        anyhow::anyhow!("standard input is not UTF-8 (byte {place} and after)")
    })
}

fn sources(paths: &[String], args: SourceArgs) -> anyhow::Result<Sources> {
    let options = SourceOptions { field: args.field, separator: args.separator };
    Ok(Sources::find(paths, options)?)
}

fn check_is_new(folder: &Path) -> anyhow::Result<()> {
    if folder.exists() {
        bail!("{} exists already; choose another folder", folder.display());
    }
    Ok(())
}

/// `tokenizer.json` and `tokenizer_config.json` in a new folder, all or nothing.
fn write_folder(folder: &Path, tokenizer: &HuggingFaceFiles) -> anyhow::Result<()> {
    let whole = std::path::absolute(folder).map_err(write_error(folder))?;
    let parent = files::folder_of(&whole);
    fs::create_dir_all(parent).map_err(write_error(parent))?;
    files::write_folder(&whole, |part| {
        files::write_whole(&part.join("tokenizer.json"), |file| {
            file.write_all(tokenizer.json.as_bytes())
        })?;
        files::write_json(&part.join("tokenizer_config.json"), &tokenizer.settings(None))
    })?;
    Ok(())
}
