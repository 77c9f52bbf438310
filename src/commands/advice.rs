//! What is told to be typed next.

use std::path::Path;

use crate::artifact::Run;
use crate::config::Architecture;

/// The command that lets the model of a run do what it has learned.
pub(super) fn use_of(run: &Run, artifacts: &Path) -> String {
    let (name, root) = (run.name(), root(artifacts));
    match run.config().model.architecture {
        Architecture::Decoder => format!("emberlm generate {name}{root}"),
        Architecture::EncoderDecoder => format!("emberlm generate {name} --prompt TEXT{root}"),
        Architecture::Encoder => format!("emberlm fill-mask {name} TEXT{root}"),
    }
}

/// The command that trains a run further.
pub(super) fn going_on(run: &Run, artifacts: &Path) -> String {
    format!("emberlm train --resume {}{}", run.name(), root(artifacts))
}

/// Where a command finds a run, if it is not where commands look first.
fn root(artifacts: &Path) -> String {
    match artifacts.as_os_str() == "artifacts" {
        true => String::new(),
        false => format!(" --artifacts {}", artifacts.display()),
    }
}
