use std::io::Write;

use super::say;
use crate::artifact::{ArtifactError, Run};
use crate::backend::{BackendKind, TrainBackend};
use crate::cli::TrainArgs;
use crate::config::RunConfig;
use crate::train::{
    CsvLogger, Ended, JsonLinesLogger, MlflowTracking, Outcome, RowLogger, RunStatus,
    TensorBoardLogger, TrainError,
};

/// The loggers in the run's folder that a configuration asks for, of a run that has taken some
/// steps already.
pub(super) fn open(
    run: &Run,
    config: &RunConfig,
    taken: usize,
) -> anyhow::Result<Vec<Box<dyn RowLogger>>> {
    let (wanted, history) = (&config.train.loggers, run.history());
    let mut loggers: Vec<Box<dyn RowLogger>> =
        vec![Box::new(JsonLinesLogger::new(history.lines()?))];
    if wanted.csv {
        let (file, columns) = history.table()?;
        loggers.push(Box::new(CsvLogger::new(file, columns)));
    }
    if wanted.tensorboard {
        let settings = serde_json::to_string_pretty(config).unwrap_or_default();
        let text = format!("# {}\n\n```json\n{settings}\n```\n", config.name);
        let events = TensorBoardLogger::new(history.event_file()?, taken + 1, &text)?;
        loggers.push(Box::new(events));
    }
    Ok(loggers)
}

/// The connection with the tracking server, where a configuration names one.
pub(super) fn track(
    run: &Run,
    config: &RunConfig,
    backend: BackendKind,
    args: &TrainArgs,
) -> Result<Option<MlflowTracking>, ArtifactError> {
    let Some(server) = &config.train.loggers.mlflow else { return Ok(None) };
    let history = run.history();
    let before = history.mlflow()?;
    let remember = move |run: &_| Ok(history.write_mlflow(run)?);
    let tracking = MlflowTracking::start(config, server, backend.name(), before, remember);
    say(args, format_args!("{}", tracking.greeting()));
    Ok(Some(tracking))
}

/// Says how a training ended, after the dashboard is gone.
pub(super) fn conclude<B: TrainBackend>(
    tracking: MlflowTracking,
    outcome: &Result<Outcome<B>, TrainError>,
) {
    let status = match outcome {
        Ok(Outcome { ended: Ended::Interrupted, .. }) => RunStatus::Killed,
        Ok(outcome) if outcome.state.best.is_some() => RunStatus::Finished,
        _ => RunStatus::Failed, // a run without a best model has diverged
    };
    if let Some(missing) = tracking.finish(status) {
        let _ = writeln!(std::io::stderr(), "{missing}");
    }
}
