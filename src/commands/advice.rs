//! What is told to be typed next.

use std::path::Path;

use crate::artifact::Run;
use crate::config::Architecture;

/// The command that lets the model of a run do what it has learned.
pub(super) fn use_of(run: &Run, artifacts: &Path) -> String {
    let (name, root) = place(run, artifacts);
    match run.config().model.architecture {
        Architecture::Decoder => format!("emberlm generate {name}{root}"),
        Architecture::EncoderDecoder => format!("emberlm generate {name} --prompt TEXT{root}"),
        Architecture::Encoder => format!("emberlm fill-mask {name} TEXT{root}"),
    }
}

/// The command that trains a run further.
pub(super) fn going_on(run: &Run, artifacts: &Path) -> String {
    let (name, root) = place(run, artifacts);
    format!("emberlm train --resume {name}{root}")
}

/// What a run is opened by, and where it is then found.
fn place(run: &Run, artifacts: &Path) -> (String, String) {
    match artifacts.join(run.name()) == run.path() {
        true => (run.name().into(), root(artifacts)),
        // Of its name there may be none under the root, or another.
        false => (run.path().display().to_string(), String::new()),
    }
}

/// Where a command finds a run, if it is not where commands look first.
pub(super) fn root(artifacts: &Path) -> String {
    match artifacts.as_os_str() == "artifacts" {
        true => String::new(),
        false => format!(" --artifacts {}", artifacts.display()),
    }
}
