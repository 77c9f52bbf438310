//! Files that are written whole, and checked when they are read again.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use tempfile::{Builder, NamedTempFile};

/// What goes wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot write {}", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is damaged: {reason}; restore it from a copy or make it again", .path.display())]
    Damaged { path: PathBuf, reason: String },
}

/// An error that may be one of a file.
pub trait NamesFile: From<FileError> {
    /// The same of a file that would have been moved with its folder.
    #[must_use]
    fn moved(self, from: &Path, to: &Path) -> Self;
}

impl NamesFile for FileError {
    fn moved(mut self, from: &Path, to: &Path) -> Self {
        let (Self::Write { path, .. } | Self::Read { path, .. } | Self::Damaged { path, .. }) =
            &mut self;
        if let Ok(within) = path.strip_prefix(from) {
            *path = to.join(within);
        }
        self
    }
}

/// How the names of what is not finished, or about to be removed, begin.
pub const PART: &str = ".part-";
/// Names the checksums of the other files of its folder.
const CHECKSUMS: &str = "checksums.json";

/// For `map_err`.
pub fn write_error(path: &Path) -> impl FnOnce(io::Error) -> FileError + '_ {
    |source| FileError::Write { path: path.into(), source }
}

/// For `map_err`.
pub fn read_error(path: &Path) -> impl FnOnce(io::Error) -> FileError + '_ {
    |source| FileError::Read { path: path.into(), source }
}

/// Writes a file beside its place, syncs it, and moves it there. A link leads to the place; what is
/// there and is no file, as a pipe or a device, is written as it is.
///
/// # Errors
/// A disk that cannot be written; then the place is as it was.
pub fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), FileError> {
    let whole = || {
        match fs::metadata(path) {
            Ok(found) if !found.is_file() && !found.is_dir() => {
                return write(&mut File::options().write(true).open(path)?);
            }
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {} // to be replaced, or made
        }
        let path = &followed(path);
        let mut file = beside(path)?;
        write(file.as_file_mut())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        sync_folder(folder_of(path))
    };
    whole().map_err(write_error(path))
}

/// Where links lead, also to what is not there yet.
fn followed(path: &Path) -> PathBuf {
    let mut place = path.to_path_buf();
    // The system has followed them, and so they end.
    while let Ok(next) = fs::read_link(&place) {
        place = place.parent().unwrap_or(Path::new("")).join(next);
    }
    place
}

/// A file in the folder of another, which vanishes unless it is renamed.
///
/// # Errors
/// A folder that cannot be written.
pub fn beside(path: &Path) -> io::Result<NamedTempFile> {
    part(0o666).tempfile_in(folder_of(path))
}

/// Makes a folder beside its place, and moves it there with all that is written into it, or not at
/// all. An empty folder that is there already is filled: it may be a link, or a disk of its own. One
/// with something in it must be gone when `write` has ended.
///
/// # Errors
/// Whatever `write` refuses, [`ErrorKind::DirectoryNotEmpty`], or a disk that cannot be written;
/// then the place is as it was. Where only the last step has failed, that of syncing it, the folder
/// is there, and may not outlive a power cut.
pub fn write_folder<T, E: NamesFile>(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E> {
    let is_there = path.is_dir() && names(path)?.is_empty();
    let folder = if is_there { path } else { folder_of(path) };
    // Removed with all it holds where anything below fails.
    let part = part(0o777).tempdir_in(folder).map_err(write_error(folder))?;
    let written = write(part.path()).map_err(|error| error.moved(part.path(), path))?;
    if is_there {
        move_files(part.path(), path)?;
        part.close().map_err(write_error(path))?;
    } else {
        fs::rename(part.path(), path).map_err(write_error(path))?;
        let _renamed = part.keep();
    }
    sync_folder(folder).map_err(write_error(path))?;
    Ok(written)
}

/// Moves all that is in a folder into another, or nothing.
fn move_files(from: &Path, to: &Path) -> Result<(), FileError> {
    let mut moved = Vec::new();
    for name in names(from)? {
        let (part, whole) = (from.join(&name), to.join(&name));
        if let Err(error) = fs::rename(&part, &whole) {
            for (part, whole) in moved {
                // Best effort: the error that matters is the first one.
                let _ = fs::rename(whole, part);
            }
            return Err(write_error(&whole)(error));
        }
        moved.push((part, whole));
    }
    Ok(())
}

/// What is temporary is private; here it becomes a file or a folder like any other.
fn part(_mode: u32) -> Builder<'static, 'static> {
    let mut builder = Builder::new();
    builder.prefix(PART);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(_mode));
    }
    builder
}

/// The folder that a file or a folder is in.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))
}

/// A rename is only kept once its folder is.
///
/// # Errors
/// A folder that cannot be synced.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    // Windows cannot open a folder; there the rename itself is all that can be asked for.
    if cfg!(unix) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// A file of JSON, whole or not at all.
///
/// # Errors
/// As for [`write_whole`].
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), FileError> {
    write_whole(path, |file| {
        let mut text = serde_json::to_string_pretty(value)?;
        text.push('\n');
        file.write_all(text.as_bytes())
    })
}

/// # Errors
/// A file that cannot be read, or that holds something else.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, FileError> {
    let text = fs::read_to_string(path).map_err(read_error(path))?;
    serde_json::from_str(&text)
        .map_err(|error| FileError::Damaged { path: path.into(), reason: error.to_string() })
}

/// Records the checksums of files of a folder in the folder.
///
/// # Errors
/// Files that cannot be read, or a folder that cannot be written.
pub fn write_checksums(folder: &Path, names: &[&str]) -> Result<(), FileError> {
    let checksums = names
        .iter()
        .map(|name| Ok((name.to_string(), checksum(&folder.join(name))?)))
        .collect::<Result<BTreeMap<String, String>, FileError>>()?;
    write_json(&folder.join(CHECKSUMS), &checksums)
}

/// Checks a file against the checksum that its folder records.
///
/// # Errors
/// [`FileError::Damaged`], or files that cannot be read.
pub fn verify(folder: &Path, name: &str) -> Result<(), FileError> {
    let path = folder.join(name);
    let expected: BTreeMap<String, String> = read_json(&folder.join(CHECKSUMS))?;
    let found = checksum(&path)?;
    if expected.get(name) == Some(&found) {
        return Ok(());
    }
    Err(FileError::Damaged {
        path,
        reason: "its checksum is not the one that was recorded when it was written".into(),
    })
}

/// The SHA-256 of a file, as `sha256sum` prints it.
///
/// # Errors
/// A file that cannot be read.
pub fn checksum(path: &Path) -> Result<String, FileError> {
    let mut hasher = Sha256::new();
    File::open(path)
        .and_then(|mut file| io::copy(&mut file, &mut hasher))
        .map_err(read_error(path))?;
    Ok(hexadecimal(hasher))
}

/// A finished SHA-256, as `sha256sum` prints it.
pub fn hexadecimal(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The names in a folder; none where there is no such folder.
///
/// # Errors
/// [`FileError::Read`]
pub fn names(folder: &Path) -> Result<Vec<String>, FileError> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder).map_err(read_error(folder))?;
    entries
        .map(|entry| {
            let name = entry.map_err(read_error(folder))?.file_name();
            Ok(name.to_string_lossy().into_owned())
        })
        .collect()
}

/// Removes what a killed program left half written in a folder.
///
/// # Errors
/// [`FileError::Write`]
pub fn remove_parts(folder: &Path) -> Result<(), FileError> {
    for name in names(folder)?.iter().filter(|name| name.starts_with(PART)) {
        let part = folder.join(name);
        let removed =
            if part.is_dir() { fs::remove_dir_all(&part) } else { fs::remove_file(&part) };
        removed.map_err(write_error(&part))?;
    }
    Ok(())
}

/// The bytes of all files in a folder and in those within it. What goes away meanwhile is not
/// counted.
pub fn folder_size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => folder_size(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}

/// An open file that no other program may lock while this lives.
///
/// It is unlocked, not only closed: a child process that is being started by another thread holds a
/// copy of every open file for a moment, and with it the lock.
#[derive(Debug)]
pub struct LockedFile(File);

impl LockedFile {
    /// None where another holds the file. On disks that know no locks, as some network disks, nobody
    /// is kept out.
    pub fn new(file: File) -> Option<Self> {
        match file.try_lock() {
            Ok(()) | Err(TryLockError::Error(_)) => Some(Self(file)),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        // What could not be locked cannot be unlocked either.
        let _ = self.0.unlock();
    }
}

impl Deref for LockedFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl DerefMut for LockedFile {
    fn deref_mut(&mut self) -> &mut File {
        &mut self.0
    }
}
