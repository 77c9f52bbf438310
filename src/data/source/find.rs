use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{Documents, SourceOptions};
use crate::data::DataError;

/// Stands for standard input, as an argument.
const STANDARD_INPUT: &str = "-";
/// The path of standard input in messages and records.
const STANDARD_INPUT_NAME: &str = "standard input";
/// What files of a folder end in to be read.
const EXTENSIONS: [&str; 8] = ["txt", "md", "text", "jsonl", "ndjson", "csv", "tsv", "parquet"];
/// They may follow another extension.
const COMPRESSED: [(&str, Compression); 2] =
    [("gz", Compression::Gzip), ("zst", Compression::Zstd)];

/// What a file's documents are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceFormat {
    Text,
    JsonLines,
    Csv,
    Tsv,
    Parquet,
}

impl SourceFormat {
    fn of(extension: &str) -> Self {
        match extension {
            "jsonl" | "ndjson" => Self::JsonLines,
            "csv" => Self::Csv,
            "tsv" => Self::Tsv,
            "parquet" => Self::Parquet,
            _ => Self::Text,
        }
    }
}

/// What a whole file is compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// A file of documents, or standard input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    pub path: PathBuf,
    /// As it lies on the disk; none for standard input and for a pipe.
    pub bytes: Option<u64>,
    pub format: SourceFormat,
    pub compression: Compression,
    pub(super) standard_input: bool,
    /// Asked for by its own name, so that it must have a document.
    pub(super) named: bool,
}

impl SourceFile {
    fn standard_input() -> Self {
        Self {
            path: STANDARD_INPUT_NAME.into(),
            bytes: None,
            format: SourceFormat::Text,
            compression: Compression::None,
            standard_input: true,
            named: true,
        }
    }

    fn new(path: PathBuf, metadata: &Metadata, named: bool) -> Result<Self, DataError> {
        let (extension, compression) = extension(&path);
        let format = SourceFormat::of(&extension);
        if format == SourceFormat::Parquet && compression != Compression::None {
            return Err(DataError::CompressedParquet { path });
        }
        let bytes = metadata.is_file().then_some(metadata.len());
        Ok(Self { path, bytes, format, compression, standard_input: false, named })
    }
}

/// In lower case and without a compression's.
fn extension(path: &Path) -> (String, Compression) {
    let of =
        |path: &Path| path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let last = of(path);
    match COMPRESSED.iter().find(|(extension, _)| *extension == last) {
        Some((_, compression)) => (of(&path.with_extension("")), *compression),
        None => (last, Compression::None),
    }
}

fn is_known(path: &Path) -> bool {
    let (extension, compression) = extension(path);
    EXTENSIONS.contains(&extension.as_str())
        && (extension != "parquet" || compression == Compression::None)
}

/// Files of documents, in the order in which they are read.
#[derive(Clone, Debug)]
pub struct Sources {
    files: Vec<SourceFile>,
    options: SourceOptions,
}

impl Sources {
    /// Finds the files that arguments mean: a file, a folder (all files below it that end in a
    /// known extension, by path, without hidden ones), a pattern of files (`*`, `?`, `[` and
    /// `**`), or `-` for standard input. A file that is meant twice is read once.
    ///
    /// A file ends in `.jsonl`, `.ndjson`, `.parquet`, `.csv` or `.tsv`, and but for parquet
    /// perhaps in `.gz` or `.zst` after that; any other is plain text.
    ///
    /// # Errors
    /// A file that is missing or cannot be read, a folder without a file to read, a pattern that
    /// no file matches, standard input twice, an empty separator.
    pub fn find(arguments: &[String], options: SourceOptions) -> Result<Self, DataError> {
        if options.separator.as_deref() == Some("") {
            return Err(DataError::EmptySeparator);
        }
        let mut files = Vec::new();
        for argument in arguments {
            find_argument(argument, &mut files)?;
        }
        if files.iter().filter(|file| file.standard_input).count() > 1 {
            return Err(DataError::StandardInputTwice);
        }
        let mut seen = BTreeSet::new();
        files.retain(|file| {
            seen.insert(fs::canonicalize(&file.path).unwrap_or_else(|_| file.path.clone()))
        });
        if files.is_empty() {
            return Err(DataError::NoSources);
        }
        Ok(Self { files, options })
    }

    #[must_use]
    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    /// Of all files as they lie on the disk; none with standard input or a pipe among them.
    #[must_use]
    pub fn total_bytes(&self) -> Option<u64> {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Bytes of text, about: what is compressed is taken for a tenth of its text.
    #[must_use]
    pub fn text_bytes(&self) -> u64 {
        let bytes = |file: &SourceFile| {
            let compressed =
                file.compression != Compression::None || file.format == SourceFormat::Parquet;
            file.bytes.unwrap_or(u64::MAX).saturating_mul(if compressed { 10 } else { 1 })
        };
        self.files.iter().map(bytes).fold(0, u64::saturating_add)
    }

    /// Tells these sources from others, and from themselves once they have been changed: paths,
    /// sizes, times of their last change, and how documents are found in them.
    #[must_use]
    pub fn identity(&self) -> String {
        let changed = |file: &SourceFile| {
            fs::metadata(&file.path).and_then(|metadata| metadata.modified()).ok()
        };
        let whole = |file: &SourceFile| std::path::absolute(&file.path).ok();
        let files: Vec<_> =
            self.files.iter().map(|file| (whole(file), file.bytes, changed(file))).collect();
        format!("{files:?} {:?}", self.options)
    }

    /// Starts to read the documents from the first on.
    #[must_use]
    pub fn read(&self) -> Documents {
        Documents::new(self.files.clone(), self.options.clone())
    }
}

fn find_argument(argument: &str, files: &mut Vec<SourceFile>) -> Result<(), DataError> {
    if argument == STANDARD_INPUT {
        files.push(SourceFile::standard_input());
        return Ok(());
    }
    let path = Path::new(argument);
    match look_up(path) {
        Ok(metadata) if metadata.is_dir() => {
            let mut found = Vec::new();
            walk(path, &mut found)?;
            if found.is_empty() {
                let extensions = EXTENSIONS.map(|extension| format!(".{extension}")).join(", ");
                return Err(DataError::NothingInFolder { path: path.into(), extensions });
            }
            found.sort();
            for path in found {
                let metadata = look_up(&path)?;
                files.push(SourceFile::new(path, &metadata, false)?);
            }
        }
        Ok(metadata) => files.push(SourceFile::new(path.into(), &metadata, true)?),
        Err(DataError::NotFound { .. }) if argument.contains(['*', '?', '[']) => {
            matching(argument, files)?;
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Follows links.
fn look_up(path: &Path) -> Result<Metadata, DataError> {
    fs::metadata(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => DataError::NotFound { path: path.into() },
        _ => unreadable(path, &error),
    })
}

fn unreadable(path: &Path, error: &dyn std::error::Error) -> DataError {
    DataError::Unreadable { path: path.into(), reason: error.to_string() }
}

/// All files below a folder; links to files are followed, links to folders are not, since they can
/// go round in circles.
fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), DataError> {
    let entries = fs::read_dir(folder).map_err(|error| unreadable(folder, &error))?;
    for entry in entries {
        let entry = entry.map_err(|error| unreadable(folder, &error))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(|error| unreadable(&path, &error))?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if kind.is_dir() {
            walk(&path, found)?;
        } else if is_known(&path) && look_up(&path)?.is_file() {
            found.push(path);
        }
    }
    Ok(())
}

fn matching(pattern: &str, files: &mut Vec<SourceFile>) -> Result<(), DataError> {
    // A `*` of the shell does not match hidden files or the separator of folders either.
    let like_the_shell = glob::MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    let paths = glob::glob_with(pattern, like_the_shell).map_err(|error| DataError::Pattern {
        pattern: pattern.into(),
        reason: error.to_string(),
    })?;
    let before = files.len();
    for path in paths {
        let path = path.map_err(|error| unreadable(error.path(), error.error()))?;
        let metadata = look_up(&path)?;
        if !metadata.is_dir() {
            files.push(SourceFile::new(path, &metadata, false)?);
        }
    }
    if files.len() == before {
        return Err(DataError::NoMatch { pattern: pattern.into() });
    }
    Ok(())
}
