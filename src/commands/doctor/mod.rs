mod report;
mod show;

use anyhow::bail;
use std::io::{IsTerminal, Write};

pub use report::{BackendReport, CheckReport, DeviceReport, Report, examine};

use super::progress::note;
use crate::backend::{self, System};
use crate::cli::DoctorArgs;
use crate::train::goldens;

pub(super) fn run(args: DoctorArgs) -> anyhow::Result<()> {
    let chosen = backend::choose(args.backend.as_deref())?.on(args.device);
    // Kernels of a GPU may have to be compiled first.
    let shows_progress = std::io::stderr().is_terminal();
    let report = examine(chosen, &goldens(), &System::here(), |target| {
        if shows_progress {
            let device = target.device.unwrap_or_default();
            note(format_args!("trying device {device} of {} ..", target.kind));
        }
    });
    let mut out = std::io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string(&report)?)?,
        false => show::write(&mut out, &report)?,
    }
    match report.problem {
        Some(problem) => bail!("{problem}"),
        None => Ok(()),
    }
}
