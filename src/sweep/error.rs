use std::path::PathBuf;

use crate::config::ConfigError;
use crate::files::FileError;

/// What is wrong with a sweep. Every message is one line and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    #[error("no sweep `{name}`; built in are {known}, or give a .json file")]
    UnknownName { name: String, known: String },
    #[error("cannot read the sweep {}: {reason}", .path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("{origin} is not valid JSON: {reason}")]
    Syntax { origin: String, reason: String },
    #[error("{origin}: {}", explain(.source))]
    Key { origin: String, source: ConfigError },
    #[error("{origin}: `{path}` = {found} is out of range: it must be {expected}")]
    Range { origin: String, path: String, found: String, expected: &'static str },
    #[error(
        "{origin}: a grid tries all values, and `{path}` has none but bounds; list values, or take another method"
    )]
    NotListed { origin: String, path: String },
    #[error("{origin}: `{first}` and `{second}` say the same key; leave one of them out")]
    Twice { origin: String, first: String, second: String },
    #[error(
        "{origin}: the grid has {trials} trials, and {most} are the most; take fewer values, or random ones"
    )]
    TooMany { origin: String, trials: String, most: usize },
    #[error(
        "the sweep in {} was begun as another one: {what}; give this one another name, or remove that folder and its runs",
        .path.display()
    )]
    Changed { path: PathBuf, what: &'static str },
    #[error("another program is at work on the sweep in {}", .path.display())]
    Busy { path: PathBuf },
    #[error(transparent)]
    File(#[from] FileError),
}

/// What is wrong with a configuration for those who have not typed `--set`.
pub fn explain(error: &ConfigError) -> String {
    let message = error.to_string();
    message.strip_prefix("--set ").unwrap_or(&message).to_owned()
}
