//! From text of any size to a folder of token files.
//!
//! A thread reads documents, all cores encode them, and they are written in their order. What is
//! in memory at a time is a few batches of text, whatever there is in all. The work is done in a
//! folder beside the final one and noted there every few seconds, so that it can be stopped at
//! any moment and go on; the last step is to rename the folder.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::prepared::{FORMAT, META, TOKENIZER};
use super::token_stream::INDEX_WIDTH;
use super::{
    DataError, Documents, Meta, Piece, ShardMeta, SourceRecord, Sources, SplitMeta, SplitRule,
    TokenType, TokenizerMeta,
};
use crate::files::{self, FileError, LockedFile, read_error, write_error};
use crate::tokenizer::{self, Tokenizer};

/// Bytes of text in a batch, about; and pieces of text, at most.
const BATCH_BYTES: usize = 4 << 20;
const BATCH_PIECES: usize = 1 << 14;
/// Batches that wait to be encoded.
const WAITING: usize = 2;
/// How often the work so far is noted.
const NOTE_EVERY: Duration = Duration::from_secs(5);
/// Of sources up to this size the documents are counted first, so that the validation split gets
/// its share of few documents exactly.
const COUNTED_BYTES: u64 = 64 << 20;
const STATE: &str = "state.json";
const LOCK: &str = "lock";
/// The names of nanoGPT's files.
const TRAIN: &str = "train";
const VALIDATION: &str = "val";

/// What is to be prepared.
#[derive(Debug)]
pub struct Preparation<'a> {
    pub tokenizer: &'a dyn Tokenizer,
    pub tokenizer_name: &'a str,
    pub sources: &'a Sources,
    pub split: ValidationSplit<'a>,
    /// Tokens after which another file is begun, at the end of a document.
    pub shard_tokens: u64,
}

/// How validation documents are chosen.
#[derive(Debug, Clone)]
pub enum ValidationSplit<'a> {
    /// The last share of the characters.
    Characters { validation_fraction: f64 },
    /// A share of the documents, by their hash.
    Documents { validation_fraction: f64, seed: u64 },
    /// The documents of other sources.
    Files(&'a Sources),
}

/// How far the work is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PrepareProgress {
    /// Of the files as they lie on disk.
    pub bytes_read: u64,
    pub total_bytes: u64,
    /// Of text that was encoded.
    pub text_bytes: u64,
    pub tokens: u64,
    pub documents: u64,
    /// Whether earlier work is being passed over.
    pub resuming: bool,
}

/// How the work ended.
#[derive(Debug)]
pub enum Prepare {
    Finished(Meta),
    /// It was finished before.
    There(Meta),
    /// The same preparation goes on from here.
    Stopped,
}

/// Writes a folder of token files.
///
/// `folder` must not exist, or hold this very preparation already; then nothing is done.
/// `stop` is looked at between batches.
///
/// # Errors
/// Sources that cannot be read or encoded, a split with an empty side, a disk that cannot be
/// written, or a folder that holds something else. What was done is kept where the same
/// preparation can go on from it.
pub fn prepare(
    preparation: &Preparation,
    folder: &Path,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(PrepareProgress),
) -> Result<Prepare, DataError> {
    for sources in preparation.all_sources() {
        if sources.total_bytes().is_none() {
            return Err(DataError::ReadOnce);
        }
    }
    let job = preparation.job();
    if let Some(meta) = finished(folder, &job)? {
        tidy(folder); // where the program was killed before it did
        return Ok(Prepare::There(meta));
    }
    let part = part_of(folder)?;
    fs::create_dir_all(&part).map_err(write_error(&part))?;
    let _lock = lock(&part)?;
    // Another program may have come to its end just before.
    if let Some(meta) = finished(folder, &job)? {
        discard(folder)?;
        return Ok(Prepare::There(meta));
    }
    // It may have been made beforehand, to be filled; whether it can be taken away has to be known
    // before the work, not after it.
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(write_error(folder)(error).into());
        }
        _ => {}
    }
    // Written last, and only when all else was.
    if let Ok(meta) = files::read_json::<Meta>(&part.join(META))
        && meta.job == job
    {
        return complete(&part, folder, meta);
    }
    let state = match files::read_json::<State>(&part.join(STATE)) {
        Ok(state) if state.job == job && state.is_kept(&part) => state,
        Ok(state) if state.job != job => return Err(DataError::OtherUnfinished { path: part }),
        _ => {
            clear(&part)?;
            State::new(job, preparation.token_type())
        }
    };
    let mut work = Work::new(preparation, &part, state, stop, progress)?;
    if !work.run()? {
        return Ok(Prepare::Stopped);
    }
    let finished = work.finish();
    if let Err(DataError::EmptySplit { .. } | DataError::Changed) = finished {
        // What was done is of no use to the next attempt, which has other settings or sources.
        discard(folder)?;
    }
    complete(&part, folder, finished?)
}

/// Gives files and folder their names.
fn complete(part: &Path, folder: &Path, meta: Meta) -> Result<Prepare, DataError> {
    for (stem, split) in [(TRAIN, &meta.train), (VALIDATION, &meta.validation)] {
        if let [only] = split.shards.as_slice() {
            for (long, short) in
                [(ids_name(stem, 0), &only.file), (index_name(stem, 0), &only.index)]
            {
                let (long, short) = (part.join(long), part.join(short));
                if long.exists() {
                    fs::rename(&long, &short).map_err(write_error(&short))?;
                }
            }
        }
    }
    // What an attempt that was killed has left half written.
    files::remove_parts(part)?;
    files::sync_folder(part).map_err(write_error(part))?;
    fs::rename(part, folder)
        .and_then(|()| files::sync_folder(part.parent().unwrap_or(part)))
        .map_err(write_error(folder))?;
    tidy(folder);
    Ok(Prepare::Finished(meta))
}

/// Removes what a folder needs no more once it has its name. Best effort: it is in nobody's way.
fn tidy(folder: &Path) {
    for name in [STATE, LOCK] {
        let _ = fs::remove_file(folder.join(name));
    }
}

/// What a folder holds already, if it is this.
fn finished(folder: &Path, job: &str) -> Result<Option<Meta>, DataError> {
    let mut entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(read_error(folder)(error).into()),
    };
    if entries.next().is_none() {
        return Ok(None);
    }
    match files::read_json::<Meta>(&folder.join(META)) {
        Ok(meta) if meta.job == job => Ok(Some(meta)),
        _ => Err(DataError::FolderTaken { path: folder.into() }),
    }
}

/// The folder that is worked in.
fn part_of(folder: &Path) -> Result<PathBuf, DataError> {
    let whole = std::path::absolute(folder).map_err(write_error(folder))?;
    match (whole.parent(), whole.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.join(format!(".{}.part", name.to_string_lossy()))),
        _ => Err(DataError::FolderTaken { path: folder.into() }),
    }
}

/// Makes sure that no other program prepares the same folder.
fn lock(part: &Path) -> Result<LockedFile, DataError> {
    let path = part.join(LOCK);
    let file = File::create(&path).map_err(write_error(&path))?;
    LockedFile::new(file).ok_or_else(|| DataError::Busy { path: part.into() })
}

/// Removes what another preparation has left.
fn clear(part: &Path) -> Result<(), DataError> {
    for entry in fs::read_dir(part).map_err(read_error(part))? {
        let path = entry.map_err(read_error(part))?.path();
        if path.file_name().is_some_and(|name| name != LOCK) {
            fs::remove_file(&path).map_err(write_error(&path))?;
        }
    }
    Ok(())
}

impl Preparation<'_> {
    fn all_sources(&self) -> impl Iterator<Item = &Sources> {
        let own = match self.split {
            ValidationSplit::Files(sources) => Some(sources),
            _ => None,
        };
        std::iter::once(self.sources).chain(own)
    }

    fn token_type(&self) -> TokenType {
        TokenType::for_vocabulary(self.tokenizer.vocab_size())
    }

    /// Two preparations of the same job give the same files.
    fn job(&self) -> String {
        let mut hasher = Sha256::new();
        let mut add = |text: &str| {
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text);
        };
        add(&FORMAT.to_string());
        add(&tokenizer::fingerprint(self.tokenizer));
        add(&serde_json::to_string(&self.tokenizer.saved()).unwrap_or_default());
        add(&self.shard_tokens.to_string());
        match &self.split {
            ValidationSplit::Characters { validation_fraction } => {
                add(&format!("characters {validation_fraction}"));
            }
            ValidationSplit::Documents { validation_fraction, seed } => {
                add(&format!("documents {validation_fraction} {seed}"));
            }
            ValidationSplit::Files(sources) => {
                add("files");
                add(&sources.identity());
            }
        }
        add(&self.sources.identity());
        files::hexadecimal(hasher)
    }
}

/// What is needed to go on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    job: String,
    token_type: TokenType,
    rule: Option<SplitRule>,
    /// Characters before the validation text, where that is the rule.
    train_characters: u64,
    stage: Stage,
    /// Pieces of text of this stage that were dealt with.
    pieces: u64,
    /// The side of the document that has begun but not ended.
    open: Option<Side>,
    train: SplitState,
    validation: SplitState,
    left_out: u64,
}

/// Validation sources of their own come first, so that training documents can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Stage {
    Validation,
    Main,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Side {
    Train,
    Validation,
    /// A copy of a validation document.
    Nowhere,
}

impl State {
    /// Whether what was noted is still there.
    fn is_kept(&self, part: &Path) -> bool {
        let kept = |stem, side: &SplitState| {
            let whole = |name: &str, bytes: u64| {
                bytes == 0 || fs::metadata(part.join(name)).is_ok_and(|found| found.len() >= bytes)
            };
            let number = side.meta.shards.len();
            side.meta.shards.iter().all(|shard| whole(&shard.file, 1) && whole(&shard.index, 1))
                && whole(&ids_name(stem, number), side.tokens * self.token_type.width() as u64)
                && whole(&index_name(stem, number), side.documents * INDEX_WIDTH as u64)
        };
        kept(TRAIN, &self.train) && kept(VALIDATION, &self.validation)
    }

    fn new(job: String, token_type: TokenType) -> Self {
        Self {
            job,
            token_type,
            rule: None,
            train_characters: 0,
            stage: Stage::Validation,
            pieces: 0,
            open: None,
            train: SplitState::default(),
            validation: SplitState::default(),
            left_out: 0,
        }
    }
}

/// What has been written of one side.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SplitState {
    /// Shards that are finished, and totals with those of the present one.
    meta: SplitMeta,
    /// In the present shard.
    tokens: u64,
    documents: u64,
}

/// Writes the token files of one side.
struct SplitWriter {
    folder: PathBuf,
    stem: &'static str,
    token_type: TokenType,
    shard_tokens: u64,
    state: SplitState,
    ids: File,
    index: File,
    ids_ahead: Vec<u8>,
    index_ahead: Vec<u8>,
    /// Whether the next token begins a document.
    begins: bool,
}

impl SplitWriter {
    /// Goes on where a state was noted; what was written after it is cut off.
    fn open(
        folder: &Path,
        stem: &'static str,
        token_type: TokenType,
        shard_tokens: u64,
        state: SplitState,
        begins: bool,
    ) -> Result<Self, DataError> {
        let number = state.meta.shards.len();
        let open = |name: String, length: u64| {
            let path = folder.join(name);
            let open = || {
                let mut options = File::options();
                let mut file = options.create(true).truncate(false).write(true).open(&path)?;
                if file.metadata()?.len() < length {
                    return Err(io::Error::other("it is shorter than it was"));
                }
                file.set_len(length)?;
                file.seek(SeekFrom::End(0))?;
                Ok(file)
            };
            open().map_err(write_error(&path))
        };
        Ok(Self {
            ids: open(ids_name(stem, number), state.tokens * token_type.width() as u64)?,
            index: open(index_name(stem, number), state.documents * INDEX_WIDTH as u64)?,
            folder: folder.into(),
            stem,
            token_type,
            shard_tokens,
            state,
            ids_ahead: Vec::new(),
            index_ahead: Vec::new(),
            begins,
        })
    }

    /// Appends the tokens of a piece of text.
    fn write(&mut self, text: &str, ids: &[u32]) {
        let meta = &mut self.state.meta;
        meta.bytes += text.len() as u64;
        meta.characters += text.chars().count() as u64;
        self.append(ids);
    }

    fn append(&mut self, ids: &[u32]) {
        if ids.is_empty() {
            return;
        }
        if std::mem::take(&mut self.begins) {
            self.index_ahead.extend(self.state.tokens.to_le_bytes());
            self.state.documents += 1;
            self.state.meta.documents += 1;
        }
        self.token_type.write(ids, &mut self.ids_ahead);
        self.state.tokens += ids.len() as u64;
        self.state.meta.tokens += ids.len() as u64;
    }

    fn end_document(&mut self, end_of_text: Option<u32>) -> Result<(), DataError> {
        // Of a document without a token nothing is to be seen.
        if !self.begins {
            self.append(end_of_text.as_slice());
        }
        self.begins = true;
        if self.state.tokens >= self.shard_tokens {
            self.finish_shard()?;
            *self = Self::open(
                &self.folder.clone(),
                self.stem,
                self.token_type,
                self.shard_tokens,
                std::mem::take(&mut self.state),
                true,
            )?;
        }
        Ok(())
    }

    fn number(&self) -> usize {
        self.state.meta.shards.len()
    }

    fn ids_path(&self) -> PathBuf {
        self.folder.join(ids_name(self.stem, self.number()))
    }

    fn index_path(&self) -> PathBuf {
        self.folder.join(index_name(self.stem, self.number()))
    }

    /// Hands what is in memory to the files.
    fn flush(&mut self) -> Result<(), DataError> {
        self.ids.write_all(&self.ids_ahead).map_err(write_error(&self.ids_path()))?;
        self.index.write_all(&self.index_ahead).map_err(write_error(&self.index_path()))?;
        self.ids_ahead.clear();
        self.index_ahead.clear();
        Ok(())
    }

    fn sync(&mut self) -> Result<(), DataError> {
        self.flush()?;
        self.ids.sync_all().map_err(write_error(&self.ids_path()))?;
        self.index.sync_all().map_err(write_error(&self.index_path()))?;
        Ok(())
    }

    fn finish_shard(&mut self) -> Result<(), DataError> {
        self.sync()?;
        let (ids, index) = (self.ids_path(), self.index_path());
        if self.state.tokens == 0 {
            for path in [ids, index] {
                fs::remove_file(&path).map_err(write_error(&path))?;
            }
            return Ok(());
        }
        let shard = ShardMeta {
            file: ids_name(self.stem, self.number()),
            tokens: std::mem::take(&mut self.state.tokens),
            sha256: files::checksum(&ids)?,
            index: index_name(self.stem, self.number()),
            documents: std::mem::take(&mut self.state.documents),
            index_sha256: files::checksum(&index)?,
        };
        self.state.meta.shards.push(shard);
        Ok(())
    }

    /// The last shard; a single one is to get the name that nanoGPT knows.
    fn finish(mut self) -> Result<SplitMeta, DataError> {
        self.finish_shard()?;
        let mut meta = self.state.meta;
        if let [only] = meta.shards.as_mut_slice() {
            only.file = format!("{}.bin", self.stem);
            only.index = format!("{}.idx", self.stem);
        }
        Ok(meta)
    }
}

fn ids_name(stem: &str, number: usize) -> String {
    format!("{stem}-{number:05}.bin")
}

fn index_name(stem: &str, number: usize) -> String {
    format!("{stem}-{number:05}.idx")
}

/// Text on its way from the reader to the encoder.
struct Batch {
    pieces: Vec<Piece>,
    /// Of the files so far.
    bytes_read: u64,
}

struct Work<'a> {
    preparation: &'a Preparation<'a>,
    part: &'a Path,
    state: State,
    stop: &'a AtomicBool,
    report: &'a mut dyn FnMut(PrepareProgress),
    progress: PrepareProgress,
    train: SplitWriter,
    validation: SplitWriter,
    /// Of the validation documents, where they have files of their own.
    validation_hashes: HashSet<u64>,
    records: Vec<SourceRecord>,
    noted: Instant,
}

impl<'a> Work<'a> {
    fn new(
        preparation: &'a Preparation<'a>,
        part: &'a Path,
        state: State,
        stop: &'a AtomicBool,
        report: &'a mut dyn FnMut(PrepareProgress),
    ) -> Result<Self, DataError> {
        let open = |stem, side, split: &SplitState| {
            // A text that is cut by characters is one document on each side.
            let goes_on = match state.rule {
                Some(SplitRule::Characters { .. }) => split.meta.documents > 0,
                _ => state.open == Some(side),
            };
            let tokens = preparation.shard_tokens;
            SplitWriter::open(part, stem, state.token_type, tokens, split.clone(), !goes_on)
        };
        let train = open(TRAIN, Side::Train, &state.train)?;
        let validation = open(VALIDATION, Side::Validation, &state.validation)?;
        let total_bytes = match preparation.split {
            ValidationSplit::Files(validation) => validation.total_bytes().unwrap_or(0),
            _ => 0,
        } + preparation.sources.total_bytes().unwrap_or(0);
        let progress = PrepareProgress { total_bytes, ..Default::default() };
        Ok(Self {
            preparation,
            part,
            state,
            stop,
            report,
            progress,
            train,
            validation,
            validation_hashes: HashSet::new(),
            records: Vec::new(),
            noted: Instant::now(),
        })
    }

    /// Whether all is done.
    fn run(&mut self) -> Result<bool, DataError> {
        if self.state.rule.is_none() {
            self.state.rule = self.rule()?;
            if self.state.rule.is_none() {
                return Ok(false);
            }
        }
        if let ValidationSplit::Files(sources) = self.preparation.split
            && !self.stage(Stage::Validation, sources)?
        {
            return Ok(false);
        }
        if self.state.stage == Stage::Validation {
            (self.state.stage, self.state.pieces) = (Stage::Main, 0);
        }
        self.stage(Stage::Main, self.preparation.sources)
    }

    /// Counts what has to be known of the sources before the first document is placed; none where
    /// that was stopped.
    fn rule(&mut self) -> Result<Option<SplitRule>, DataError> {
        let sources = self.preparation.sources;
        match self.preparation.split {
            ValidationSplit::Characters { validation_fraction } => {
                let mut characters = 0;
                let mut documents = sources.read();
                while let Some(piece) = documents.next(&last_character)? {
                    characters += piece.text.chars().count() as u64;
                    if self.stop.load(Ordering::Relaxed) {
                        return Ok(None);
                    }
                }
                self.state.train_characters =
                    (characters as f64 * (1.0 - validation_fraction)) as u64;
                Ok(Some(SplitRule::Characters { validation_fraction }))
            }
            ValidationSplit::Documents { validation_fraction, seed } => {
                let threshold = match sources.text_bytes() > COUNTED_BYTES {
                    true => (validation_fraction * 2f64.powi(u64::BITS as i32)) as u64,
                    false => self.exact_threshold(validation_fraction, seed)?,
                };
                Ok(Some(SplitRule::Documents { validation_fraction, threshold, seed }))
            }
            ValidationSplit::Files(_) => Ok(Some(SplitRule::Files {})),
        }
    }

    /// The threshold under which there is a share of the different documents: at least one of
    /// them, and not all.
    fn exact_threshold(&self, share: f64, seed: u64) -> Result<u64, DataError> {
        let mut hashes = BTreeSet::new();
        let mut documents = self.preparation.sources.read();
        let mut begins = true;
        let cut = |text: &str| self.preparation.tokenizer.cut(text);
        while let Some(piece) = documents.next(&cut)? {
            if begins {
                hashes.insert(document_hash(&piece.text, seed));
            }
            begins = piece.ends_document;
        }
        let most = hashes.len().saturating_sub(1).max(1);
        let kept = ((hashes.len() as f64 * share).round() as usize).clamp(1, most);
        match hashes.iter().nth(kept) {
            Some(first_not_kept) => Ok(*first_not_kept),
            None => Err(DataError::TooFewDocuments { documents: hashes.len() }),
        }
    }

    /// Encodes all of some sources. Whether that came to its end.
    fn stage(&mut self, stage: Stage, sources: &Sources) -> Result<bool, DataError> {
        let tokenizer = self.preparation.tokenizer;
        let before = self.progress.bytes_read;
        // Validation documents that were written before are read again, for their hashes.
        let skipped = match self.state.stage == stage {
            true => self.state.pieces,
            false => u64::MAX,
        };
        let (sender, receiver) = sync_channel(WAITING);
        thread::scope(|scope| {
            let reader = scope.spawn(move || read(sources.read(), tokenizer, &sender));
            let encoded = self.encode(receiver, stage, skipped, before);
            // A reader whose receiver is gone ends.
            let read = reader.join().expect("a panic on any thread ends the program");
            let finished = encoded?;
            let documents = read?;
            if finished {
                self.records.extend(documents.finished().iter().cloned());
            }
            Ok(finished)
        })
    }

    fn encode(
        &mut self,
        batches: Receiver<Batch>,
        stage: Stage,
        skipped: u64,
        bytes_before: u64,
    ) -> Result<bool, DataError> {
        let mut number = 0;
        let mut begins = true;
        for Batch { pieces, bytes_read } in batches {
            self.progress.bytes_read = bytes_before + bytes_read;
            let resumed = skipped.saturating_sub(number).min(pieces.len() as u64) as usize;
            number += pieces.len() as u64;
            let (old, new) = pieces.split_at(resumed);
            for piece in old {
                if begins && stage == Stage::Validation {
                    // That no training document is to have.
                    self.validation_hashes.insert(document_hash(&piece.text, 0));
                }
                begins = piece.ends_document;
            }
            self.progress.resuming = new.is_empty();
            if !new.is_empty() {
                self.write(new)?;
                begins = new.last().is_none_or(|piece| piece.ends_document);
            }
            let (train, validation) = (&self.train.state.meta, &self.validation.state.meta);
            self.progress.tokens = train.tokens + validation.tokens;
            self.progress.documents = train.documents + validation.documents;
            self.progress.text_bytes = train.bytes + validation.bytes;
            (self.report)(self.progress);
            let stopping = self.stop.load(Ordering::Relaxed);
            if !new.is_empty() && (stopping || self.noted.elapsed() > NOTE_EVERY) {
                self.note()?;
            }
            if stopping {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn write(&mut self, pieces: &[Piece]) -> Result<(), DataError> {
        let tokenizer = self.preparation.tokenizer;
        if let Some(SplitRule::Characters { .. }) = self.state.rule {
            return self.write_text(pieces);
        }
        let sides: Vec<Side> = pieces.iter().map(|piece| self.side(piece)).collect();
        let kept = || pieces.iter().zip(&sides).filter(|(_, side)| **side != Side::Nowhere);
        let texts: Vec<&str> = kept().map(|(piece, _)| piece.text.as_str()).collect();
        let encoded = tokenizer.encode_batch(&texts);
        for ((piece, side), ids) in kept().zip(encoded) {
            let writer = match side {
                Side::Train => &mut self.train,
                _ => &mut self.validation,
            };
            let number = writer.state.meta.documents + u64::from(writer.begins);
            let ids = ids.map_err(|source| DataError::EncodeDocument { number, source })?;
            writer.write(&piece.text, &ids);
            if piece.ends_document {
                writer.end_document(tokenizer.end_of_text())?;
            }
        }
        self.state.pieces += pieces.len() as u64;
        self.train.flush()?;
        self.validation.flush()
    }

    /// Where a piece goes: as the document that it continues, or by its own hash.
    fn side(&mut self, piece: &Piece) -> Side {
        let side = match (self.state.open, &self.state.rule) {
            (Some(side), _) => side,
            (None, Some(SplitRule::Documents { threshold, seed, .. })) => {
                match document_hash(&piece.text, *seed) < *threshold {
                    true => Side::Validation,
                    false => Side::Train,
                }
            }
            (None, _) => {
                let hash = document_hash(&piece.text, 0);
                if self.state.stage == Stage::Validation {
                    self.validation_hashes.insert(hash);
                    Side::Validation
                } else if self.validation_hashes.contains(&hash) {
                    self.state.left_out += 1;
                    Side::Nowhere
                } else {
                    Side::Train
                }
            }
        };
        self.state.open = (!piece.ends_document).then_some(side);
        side
    }

    /// Where all text is one, which is cut after a number of characters.
    fn write_text(&mut self, pieces: &[Piece]) -> Result<(), DataError> {
        let written = self.train.state.meta.characters;
        let mut left = (self.state.train_characters - written) as usize;
        let mut texts = Vec::new();
        for piece in pieces {
            let text = piece.text.as_str();
            let (train, validation) = match text.char_indices().nth(left) {
                Some((at, _)) => text.split_at(at),
                None => (text, ""),
            };
            left -= train.chars().count();
            texts.push((Side::Train, train));
            texts.push((Side::Validation, validation));
        }
        texts.retain(|(_, text)| !text.is_empty());
        let encoded = self
            .preparation
            .tokenizer
            .encode_batch(&texts.iter().map(|(_, text)| *text).collect::<Vec<_>>());
        for ((side, text), ids) in texts.into_iter().zip(encoded) {
            let ids = ids.map_err(|source| DataError::EncodeDocument { number: 1, source })?;
            match side {
                Side::Train => self.train.write(text, &ids),
                _ => self.validation.write(text, &ids),
            }
        }
        self.state.pieces += pieces.len() as u64;
        self.train.flush()?;
        self.validation.flush()
    }

    /// Keeps what was done so far.
    fn note(&mut self) -> Result<(), DataError> {
        self.train.sync()?;
        self.validation.sync()?;
        self.state.train = self.train.state.clone();
        self.state.validation = self.validation.state.clone();
        files::write_json(&self.part.join(STATE), &self.state)?;
        self.noted = Instant::now();
        Ok(())
    }

    fn finish(mut self) -> Result<Meta, DataError> {
        if self.preparation.job() != self.state.job {
            return Err(DataError::Changed);
        }
        self.note()?;
        let Self { preparation, part, state, train, validation, records, .. } = self;
        let tokenizer = preparation.tokenizer;
        let (train, validation) = (train.finish()?, validation.finish()?);
        for (split, meta) in [("training", &train), ("validation", &validation)] {
            // Of a single one nothing can be predicted.
            if meta.tokens < 2 {
                return Err(DataError::EmptySplit { split });
            }
        }
        let meta = Meta {
            format: FORMAT,
            tokenizer: TokenizerMeta {
                name: preparation.tokenizer_name.into(),
                fingerprint: tokenizer::fingerprint(tokenizer),
                vocab_size: tokenizer.vocab_size(),
                end_of_text: tokenizer.end_of_text(),
            },
            token_type: state.token_type,
            split: state.rule.unwrap_or(SplitRule::Files {}),
            train,
            validation,
            sources: records,
            left_out: state.left_out,
            job: state.job,
        };
        files::write_json(&part.join(TOKENIZER), &tokenizer.saved())?;
        files::write_json(&part.join(META), &meta)?;
        Ok(meta)
    }
}

/// Sends the text of some documents in batches, until nobody wants them.
fn read(
    mut documents: Documents,
    tokenizer: &dyn Tokenizer,
    batches: &SyncSender<Batch>,
) -> Result<Documents, DataError> {
    let cut = |text: &str| tokenizer.cut(text);
    loop {
        let (mut pieces, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES && pieces.len() < BATCH_PIECES {
            match documents.next(&cut)? {
                Some(piece) => {
                    bytes += piece.text.len();
                    pieces.push(piece);
                }
                None => break,
            }
        }
        let batch = Batch { bytes_read: documents.bytes_read(), pieces };
        if batch.pieces.is_empty() || batches.send(batch).is_err() {
            return Ok(documents);
        }
    }
}

/// Of the text, or where that is long of its first piece.
fn document_hash(text: &str, seed: u64) -> u64 {
    let mut hasher = Sha256::new();
    hasher.update(seed.to_le_bytes());
    hasher.update(text);
    let digest = hasher.finalize();
    digest.iter().take(size_of::<u64>()).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

/// Counting can stop anywhere.
fn last_character(text: &str) -> Option<usize> {
    text.char_indices().next_back().map(|(at, _)| at).filter(|at| *at > 0)
}

/// Whether an unfinished preparation is kept beside a folder, which the same one could go on from.
///
/// # Errors
/// A folder that cannot be written to.
pub fn is_unfinished(folder: &Path) -> Result<bool, DataError> {
    Ok(part_of(folder)?.join(STATE).exists())
}

/// Removes what an unfinished preparation left beside a folder.
///
/// # Errors
/// A folder that cannot be removed.
pub fn discard(folder: &Path) -> Result<(), DataError> {
    let part = part_of(folder)?;
    match fs::remove_dir_all(&part) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(FileError::Write { path: part, source: error }.into())
        }
        _ => Ok(()),
    }
}
