//! Files that are written whole, and checked when they are read again.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::ArtifactError;

/// Names the checksums of the other files of its folder.
const CHECKSUMS: &str = "checksums.json";

pub(super) fn write_error(path: &Path) -> impl FnOnce(io::Error) -> ArtifactError + '_ {
    |source| ArtifactError::Write { path: path.into(), source }
}

pub(super) fn read_error(path: &Path) -> impl FnOnce(io::Error) -> ArtifactError + '_ {
    |source| ArtifactError::Read { path: path.into(), source }
}

/// Writes a file beside its place, syncs it, and moves it there.
pub(super) fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), ArtifactError> {
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let whole = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".part-");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // Temporary files are private; this one becomes a file like any other.
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let mut file = builder.tempfile_in(folder)?;
        write(file.as_file_mut())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        sync_folder(folder)
    };
    whole().map_err(write_error(path))
}

/// A rename is only kept once its folder is.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    // Windows cannot open a folder; there the rename itself is all that can be asked for.
    if cfg!(unix) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), ArtifactError> {
    write_whole(path, |file| {
        let mut text = serde_json::to_string_pretty(value)?;
        text.push('\n');
        file.write_all(text.as_bytes())
    })
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ArtifactError> {
    let text = fs::read_to_string(path).map_err(read_error(path))?;
    serde_json::from_str(&text)
        .map_err(|error| ArtifactError::Damaged { path: path.into(), reason: error.to_string() })
}

/// Records the checksums of files of a folder in the folder.
pub(super) fn write_checksums(folder: &Path, names: &[&str]) -> Result<(), ArtifactError> {
    let checksums = names
        .iter()
        .map(|name| Ok((name.to_string(), checksum(&folder.join(name))?)))
        .collect::<Result<BTreeMap<String, String>, ArtifactError>>()?;
    write_json(&folder.join(CHECKSUMS), &checksums)
}

/// Checks a file against the checksum that its folder records.
pub(super) fn verify(folder: &Path, name: &str) -> Result<(), ArtifactError> {
    let path = folder.join(name);
    let expected: BTreeMap<String, String> = read_json(&folder.join(CHECKSUMS))?;
    let found = checksum(&path)?;
    if expected.get(name) == Some(&found) {
        return Ok(());
    }
    Err(ArtifactError::Damaged {
        path,
        reason: "its checksum is not the one that was recorded when it was written".into(),
    })
}

fn checksum(path: &Path) -> Result<String, ArtifactError> {
    let mut hasher = Sha256::new();
    File::open(path)
        .and_then(|mut file| io::copy(&mut file, &mut hasher))
        .map_err(read_error(path))?;
    let digest = hasher.finalize();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}
