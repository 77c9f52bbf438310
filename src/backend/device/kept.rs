//! What is made of kernels, kept between the runs of a program.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::files::{FileError, checksum, write_error};

/// The file whose age says when a program last ran.
const USED: &str = "used";

/// For how long what a program's kernels became is kept after its last run.
pub const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The folder in `root` for what is made of the kernels of a program, with the program's checksum for a
/// name: CubeCL knows kernels by their names, and another program's may do something else. Those of
/// programs that have not run for [`KEPT`] are removed.
///
/// # Errors
/// A program that cannot be read, and a folder that cannot be written.
pub fn kernels_folder(root: &Path, program: &Path) -> Result<PathBuf, FileError> {
    let folder = root.join(checksum(program)?);
    fs::create_dir_all(&folder).map_err(write_error(&folder))?;
    let used = folder.join(USED);
    File::create(&used)
        .and_then(|file| file.set_modified(SystemTime::now()))
        .map_err(write_error(&used))?;
    let old = |folder: &Path| {
        let used = fs::metadata(folder.join(USED)).and_then(|used| used.modified());
        used.is_ok_and(|used| used.elapsed().is_ok_and(|age| age > KEPT))
    };
    for other in fs::read_dir(root).into_iter().flatten().flatten() {
        if old(&other.path()) {
            // It takes room and does no harm; there is a next time.
            fs::remove_dir_all(other.path()).ok();
        }
    }
    Ok(folder)
}
