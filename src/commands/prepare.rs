use anyhow::{Context, bail};
use indicatif::{DecimalBytes, ProgressBar};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::progress::{self, note};
use super::signals::{STOPPED, stop_on_signal};
use super::tokenizer::open;
use crate::cli::PrepareArgs;
use crate::data::{
    DataError, FileSplit, Manifest, Meta, Preparation, Prepare, PrepareProgress, Progress,
    SourceFormat, SourceOptions, Sources, SplitBy, SplitRule, Stories, ValidationSplit, discard,
    fetch, is_unfinished, prepare,
};
use crate::files;
use crate::tokenizer::{CharacterTokenizer, Tokenizer};

const VALIDATION_FRACTION: f64 = 0.1;
/// Of the documents of large corpora, which have enough of them.
const SMALL_VALIDATION_FRACTION: f64 = 0.01;
const LARGE: u64 = 64 << 20;
/// Bytes at a time of what can only be read once.
const CHUNK: u64 = 1 << 20;
/// How long a signal may wait for what comes out of a pipe.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Of the generated stories.
const STORIES: [(&str, usize, u64); 2] = [("train.jsonl", 20_000, 0), ("validation.jsonl", 300, 1)];

pub(super) fn run(args: PrepareArgs) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signal(stop.clone(), "stopping")?;
    let text = Text::find(&args, &stop)?;
    if stop.load(Ordering::Relaxed) {
        text.leave();
    }
    let tokenizer_name = args.tokenizer.as_ref().unwrap_or(&text.tokenizer);
    let Some(tokenizer) = tokenizer(tokenizer_name, &text, &args, &stop)? else {
        text.leave();
    };
    let folder = match &args.out {
        Some(folder) => folder.clone(),
        None => args.datasets.join(&text.name).join(file_name(tokenizer_name)),
    };
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot write {}", parent.display()))?;
    }
    let validation_split = validation_split(&args, &text)?;
    let preparation = Preparation {
        tokenizer: tokenizer.as_ref(),
        tokenizer_name,
        sources: &text.sources,
        split: match &text.validation {
            Some(sources) => ValidationSplit::Files(sources),
            None => validation_split,
        },
        shard_tokens: args.shard_tokens,
    };

    let bar = progress::bytes(Some(0), "");
    // Where this run of the program began: what an earlier one did is not its speed.
    let mut begun = (0, Instant::now());
    let mut report = |progress: PrepareProgress| {
        bar.set_length(progress.total_bytes.max(progress.bytes_read));
        bar.set_position(progress.bytes_read);
        match progress.resuming {
            true => bar.set_message("finding the place"),
            false => bar.set_message(format!("{} tokens", progress.tokens)),
        }
        if progress.resuming {
            begun = (progress.text_bytes, Instant::now());
        }
    };
    // What there is already is of something else, and stays.
    let discards = !text.spooled.is_empty() && !is_unfinished(&folder)?;
    let done = match prepare(&preparation, &folder, &stop, &mut report) {
        Ok(done) => done,
        Err(error) => {
            let is_of_others =
                matches!(error, DataError::Busy { .. } | DataError::OtherUnfinished { .. });
            // The same command would go on only from the same file, which is gone then.
            if discards && !is_of_others {
                // Why it failed is what counts, also where the disk lets nothing go.
                let _ = discard(&folder);
            }
            return Err(error.into());
        }
    };
    bar.finish_and_clear();
    let mut out = io::stdout().lock();
    match done {
        Prepare::Finished(meta) | Prepare::There(meta) if args.json => {
            return Ok(writeln!(out, "{}", serde_json::to_string(&meta)?)?);
        }
        Prepare::Finished(meta) => {
            let (before, started) = begun;
            say(&mut out, &folder, &meta, before, started.elapsed())?;
        }
        Prepare::Stopped => {
            if text.spooled.is_empty() {
                note(format_args!("stopped; the same command goes on from here"));
            } else {
                discard(&folder)?;
                drop(text);
                note(format_args!("stopped; what can only be read once begins anew"));
            }
            std::process::exit(STOPPED);
        }
        Prepare::There(_) => {
            writeln!(out, "{} is prepared already, from the same text", folder.display())?;
        }
    }
    writeln!(out, "\ntrain on it: emberlm train --data {}", folder.display())?;
    Ok(())
}

/// What is to be prepared, wherever it comes from.
struct Text {
    /// Of the folder to write.
    name: String,
    sources: Sources,
    validation: Option<Sources>,
    split: Option<SplitBy>,
    validation_fraction: Option<f64>,
    /// The one that suits it.
    tokenizer: String,
    /// Standard input and pipes as files, since text is read more than once.
    spooled: Vec<tempfile::NamedTempFile>,
}

impl Text {
    /// Ends the program before anything is prepared. What was downloaded is kept; what came from
    /// standard input is not.
    fn leave(self) -> ! {
        drop(self);
        std::process::exit(STOPPED);
    }

    fn find(args: &PrepareArgs, stop: &AtomicBool) -> anyhow::Result<Self> {
        if let [name] = args.sources.as_slice()
            && !Path::new(name).exists()
            && let Some(manifest) = Manifest::find(name, &args.datasets)?
        {
            return Self::of_manifest(manifest, args, stop);
        }
        if let Some(option) = option_of_files(args) {
            bail!("{option} is for data sets that are named; `emberlm datasets` lists them");
        }
        let mut spooled = Vec::new();
        let paths = readable_again(&args.sources, args, stop, &mut spooled)?;
        let validation = readable_again(&args.validation, args, stop, &mut spooled)?;
        let options = options(args, None);
        let find = |paths: &[String]| Sources::find(paths, options.clone());
        let first = args.sources.first().map_or("text", String::as_str);
        Ok(Self {
            name: name_of(first),
            sources: find(&paths)?,
            validation: match validation.is_empty() {
                true => None,
                false => Some(find(&validation)?),
            },
            split: None,
            validation_fraction: None,
            tokenizer: "gpt2".into(),
            spooled,
        })
    }

    fn of_manifest(
        mut manifest: Manifest,
        args: &PrepareArgs,
        stop: &AtomicBool,
    ) -> anyhow::Result<Self> {
        if let Some(benchmark) = &manifest.benchmark {
            bail!(
                "{} has questions, and no text to train on; ask a run with emberlm eval RUN --task {benchmark}",
                manifest.name
            );
        }
        if manifest.is_generated()
            && let Some(option) = option_of_files(args)
        {
            bail!("{} is generated, and not read from files; leave out {option}", manifest.name);
        }
        if let Some(count) = args.files {
            let mut kept = 0;
            // Validation files are kept: they are another split, not more of the same.
            manifest.files.retain(|file| {
                kept += u64::from(file.split != Some(FileSplit::Validation));
                file.split == Some(FileSplit::Validation) || kept <= count
            });
        }
        let folder = manifest.folder(&args.datasets);
        let (train, validation) = if manifest.is_generated() {
            generate(&folder)?
        } else {
            let bar = progress::bytes(Some(0), "");
            let mut last = String::new();
            let paths = fetch(&manifest, &args.datasets, args.from.as_deref(), &mut |progress| {
                if stop.load(Ordering::Relaxed) {
                    // The part that is there is where the next attempt goes on.
                    std::process::exit(STOPPED);
                }
                show_download(&bar, progress, &mut last);
            })?;
            bar.finish_and_clear();
            let splits = manifest.files.iter().map(|file| file.split);
            let (validation, train): (Vec<_>, Vec<_>) = paths
                .into_iter()
                .zip(splits)
                .partition(|(_, split)| *split == Some(FileSplit::Validation));
            let paths =
                |files: Vec<(PathBuf, _)>| files.into_iter().map(|(path, _)| path).collect();
            (paths(train), paths(validation))
        };
        let options = options(args, Some(&manifest));
        let find = |paths: Vec<PathBuf>| {
            let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            Sources::find(&paths, options.clone())
        };
        if !validation.is_empty() && (args.split.is_some() || args.validation_fraction.is_some()) {
            bail!(
                "{} has validation files; leave out --split and --validation-fraction",
                manifest.name
            );
        }
        let mut spooled = Vec::new();
        let own_validation = readable_again(&args.validation, args, stop, &mut spooled)?;
        let own_fraction = Some(manifest.validation_fraction).filter(|share| *share > 0.0);
        Ok(Self {
            name: manifest.name.clone(),
            sources: find(train)?,
            validation: match (own_validation.is_empty(), validation.is_empty()) {
                (false, _) => Some(Sources::find(&own_validation, options.clone())?),
                (true, false) => Some(find(validation)?),
                (true, true) => None,
            },
            split: manifest.split,
            validation_fraction: own_fraction,
            tokenizer: manifest.tokenizers.first().cloned().unwrap_or("gpt2".into()),
            spooled,
        })
    }
}

/// The given one of the options for the files of a data set.
fn option_of_files(args: &PrepareArgs) -> Option<&'static str> {
    match (&args.from, args.files) {
        (Some(_), _) => Some("--from"),
        (None, Some(_)) => Some("--files"),
        (None, None) => None,
    }
}

fn options(args: &PrepareArgs, manifest: Option<&Manifest>) -> SourceOptions {
    let of_manifest = manifest.and_then(|manifest| manifest.field.clone());
    let default = SourceOptions::default();
    SourceOptions {
        field: args.field.clone().or(of_manifest).unwrap_or(default.field),
        separator: args
            .separator
            .clone()
            .or_else(|| manifest.and_then(|manifest| manifest.separator.clone())),
    }
}

/// `texts/my.book.txt.gz` -> `my.book`
fn name_of(path: &str) -> String {
    if path == "-" {
        return "standard-input".into();
    }
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let mut name =
        whole.file_name().map_or("text".into(), |name| name.to_string_lossy().into_owned());
    for extension in [".gz", ".zst", ".txt", ".md", ".jsonl", ".ndjson", ".parquet", ".csv", ".tsv"]
    {
        if let Some(stem) = name.strip_suffix(extension) {
            name = stem.into();
        }
    }
    file_name(&name)
}

/// A name that a folder can have, of a tokenizer's name or path.
fn file_name(name: &str) -> String {
    let path = Path::new(name);
    let own = path.file_name().map_or(name.into(), |file| file.to_string_lossy());
    let own = match (own.as_ref(), path.parent().and_then(Path::file_name)) {
        // The folder says more than the name that all of them have.
        ("tokenizer.json" | "vocab.json" | "merges.json", Some(folder)) => folder.to_string_lossy(),
        _ => own,
    };
    let plain = |character: char| match character {
        '*' | '?' | '[' | ']' | '/' | '\\' => '-',
        other => other,
    };
    let name: String = own.chars().map(plain).collect();
    match name.trim_start_matches('.') {
        "" => "text".into(),
        name => name.into(),
    }
}

/// Paths as they are, or those of files with what comes out of standard input or a pipe. A signal
/// ends the program before all has come, and then nothing is kept.
fn readable_again(
    paths: &[String],
    args: &PrepareArgs,
    stop: &AtomicBool,
    spooled: &mut Vec<tempfile::NamedTempFile>,
) -> anyhow::Result<Vec<String>> {
    paths.iter().map(|path| spool(path, args, stop, spooled)).collect()
}

fn spool(
    path: &str,
    args: &PrepareArgs,
    stop: &AtomicBool,
    spooled: &mut Vec<tempfile::NamedTempFile>,
) -> anyhow::Result<String> {
    let is_pipe = || fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir());
    if path != "-" && !is_pipe() {
        return Ok(path.into());
    }
    let folder = &args.datasets;
    let cannot_keep = || format!("cannot keep {path} in {}", folder.display());
    fs::create_dir_all(folder).with_context(cannot_keep)?;
    let mut file = tempfile::Builder::new()
        .prefix(".standard-input-")
        .suffix(&extensions(path))
        .tempfile_in(folder)
        .with_context(cannot_keep)?;
    let chunks = chunks(path);
    loop {
        if stop.load(Ordering::Relaxed) {
            // An exit removes no files.
            drop(file);
            spooled.clear();
            std::process::exit(STOPPED);
        }
        match chunks.recv_timeout(LOOK_EVERY) {
            Ok(chunk) => {
                let chunk = chunk.with_context(|| format!("cannot read {path}"))?;
                file.as_file_mut().write_all(&chunk).with_context(cannot_keep)?;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let path = file.path().display().to_string();
    spooled.push(file);
    Ok(path)
}

/// `texts/my.jsonl.gz` -> `.jsonl.gz`, by which it is known how documents are written.
fn extensions(path: &str) -> String {
    let path = Path::new(path);
    let inner = path.file_stem().and_then(|stem| Path::new(stem).extension());
    let both = [inner, path.extension()].into_iter().flatten();
    both.map(|extension| format!(".{}", extension.to_string_lossy())).collect()
}

/// What comes out of standard input or a pipe. It is read on another thread, as whoever reads waits
/// for whoever writes, and hears of no signal then.
fn chunks(path: &str) -> Receiver<io::Result<Vec<u8>>> {
    let path = path.to_owned();
    let (sender, receiver) = sync_channel(1);
    thread::spawn(move || {
        let read = || -> io::Result<()> {
            let mut input: Box<dyn Read> = match path.as_str() {
                "-" => Box::new(io::stdin()),
                path => Box::new(fs::File::open(path)?),
            };
            loop {
                let mut chunk = Vec::new();
                let read = input.by_ref().take(CHUNK).read_to_end(&mut chunk)?;
                // Nobody wants more, or there is no more.
                if sender.send(Ok(chunk)).is_err() || (read as u64) < CHUNK {
                    return Ok(());
                }
            }
        };
        if let Err(error) = read() {
            // Whoever has gone needs to know of no error.
            let _ = sender.send(Err(error));
        }
    });
    receiver
}

/// The stories of the default run, as files.
fn generate(folder: &Path) -> anyhow::Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let stories = Stories::new()?;
    fs::create_dir_all(folder).with_context(|| format!("cannot write {}", folder.display()))?;
    let [train, validation] = STORIES.map(|(name, count, stream)| {
        let path = folder.join(name);
        if !path.exists() {
            files::write_whole(&path, |file| {
                let mut file = io::BufWriter::new(file);
                for story in stories.documents(count, STORIES_SEED, stream) {
                    writeln!(file, "{}", serde_json::json!({ "text": story }))?;
                }
                file.flush()
            })?;
        }
        Ok::<_, files::FileError>(path)
    });
    Ok((vec![train?], vec![validation?]))
}

/// That of the default run.
const STORIES_SEED: u64 = 1337;

/// None where a signal has stopped it: the characters of a large text take a while.
fn tokenizer(
    name: &str,
    text: &Text,
    args: &PrepareArgs,
    stop: &AtomicBool,
) -> anyhow::Result<Option<Box<dyn Tokenizer>>> {
    if name != "character" {
        return open(name, &args.runs).map(Some);
    }
    let mut characters = BTreeSet::new();
    for sources in std::iter::once(&text.sources).chain(&text.validation) {
        let mut documents = sources.read();
        let anywhere = |text: &str| text.char_indices().next_back().map(|(at, _)| at);
        while let Some(piece) = documents.next(&anywhere)? {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            characters.extend(piece.text.chars());
        }
    }
    let characters: String = characters.into_iter().collect();
    Ok(Some(Box::new(CharacterTokenizer::from_characters(&characters)?)))
}

fn validation_split(args: &PrepareArgs, text: &Text) -> anyhow::Result<ValidationSplit<'static>> {
    let by_characters = match (args.split.as_deref(), text.split) {
        (Some(rule), _) => rule == "characters",
        (None, Some(rule)) => rule == SplitBy::Characters,
        (None, None) => options(args, None).separator.is_none() && is_one_text(&text.sources),
    };
    let validation_fraction = args
        .validation_fraction
        .or(text.validation_fraction)
        .unwrap_or_else(|| default_fraction(&text.sources, by_characters));
    if !(validation_fraction > 0.0 && validation_fraction < 1.0) {
        bail!("--validation-fraction is {validation_fraction}, but must be between 0 and 1");
    }
    Ok(match by_characters {
        true => ValidationSplit::Characters { validation_fraction },
        false => ValidationSplit::Documents { validation_fraction, seed: args.seed },
    })
}

/// How files are split where nothing is said and no separator is given.
pub(super) fn default_split(sources: &Sources, seed: u64) -> ValidationSplit<'static> {
    let by_characters = is_one_text(sources);
    let validation_fraction = default_fraction(sources, by_characters);
    match by_characters {
        true => ValidationSplit::Characters { validation_fraction },
        false => ValidationSplit::Documents { validation_fraction, seed },
    }
}

fn is_one_text(sources: &Sources) -> bool {
    matches!(sources.files(), [file] if file.format == SourceFormat::Text)
}

fn default_fraction(sources: &Sources, by_characters: bool) -> f64 {
    let large = sources.total_bytes().is_none_or(|bytes| bytes > LARGE);
    match large && !by_characters {
        true => SMALL_VALIDATION_FRACTION,
        false => VALIDATION_FRACTION,
    }
}

fn say(
    out: &mut impl Write,
    folder: &Path,
    meta: &Meta,
    bytes_before: u64,
    time: Duration,
) -> io::Result<()> {
    let (train, validation) = (&meta.train, &meta.validation);
    let tokenizer = &meta.tokenizer;
    writeln!(
        out,
        "{}: {} training and {} validation tokens",
        folder.display(),
        train.tokens,
        validation.tokens,
    )?;
    writeln!(out, "tokenizer: {}, of {} tokens", tokenizer.name, tokenizer.vocab_size)?;
    let bytes = train.bytes + validation.bytes;
    writeln!(
        out,
        "text: {}, {:.2} bytes a token; {:.1} s, {:.1} MB/s",
        DecimalBytes(bytes),
        bytes as f64 / (train.tokens + validation.tokens) as f64,
        time.as_secs_f64(),
        (bytes - bytes_before) as f64 / 1e6 / time.as_secs_f64(),
    )?;
    match &meta.split {
        SplitRule::Characters { validation_fraction } => writeln!(
            out,
            "validation: the last {} of {} characters, which is {validation_fraction} of them",
            validation.characters,
            train.characters + validation.characters,
        )?,
        SplitRule::Documents { .. } => writeln!(
            out,
            "validation: {} of {} documents, by their hash",
            validation.documents,
            train.documents + validation.documents,
        )?,
        SplitRule::Files {} => {
            writeln!(
                out,
                "validation: {} documents of files of their own, beside {} for training",
                validation.documents, train.documents
            )?;
        }
    }
    if meta.left_out > 0 {
        writeln!(
            out,
            "left out: {} training documents that are validation documents as well",
            meta.left_out
        )?;
    }
    if tokenizer.end_of_text.is_none() && train.documents > 1 {
        writeln!(
            out,
            "note: {} has no end-of-text token, so nothing stands between two documents",
            tokenizer.name
        )?;
    }
    Ok(())
}

pub(super) fn show_download(bar: &ProgressBar, progress: Progress, last: &mut String) {
    let (file, done, total, doing) = match progress {
        Progress::Ready { .. } => return,
        Progress::Downloading { file, done, total } => (file, done, total, "downloading"),
        Progress::Checking { file, done, total } => (file, done, Some(total), "checking"),
        Progress::Retrying { file, pause, reason } => {
            bar.suspend(|| note(format_args!("{file}: {reason}; again in {pause:?}")));
            return;
        }
        Progress::Recorded { file, sha256 } => {
            bar.suspend(|| {
                note(format_args!(
                    "{file}: its manifest has no checksum; {sha256} is expected from now on"
                ));
            });
            return;
        }
    };
    let message = format!("{doing} {file}");
    if *last != message {
        bar.reset();
        *last = message.clone();
    }
    bar.set_length(total.unwrap_or(done));
    bar.set_position(done);
    bar.set_message(message);
}
