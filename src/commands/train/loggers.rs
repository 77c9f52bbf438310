use crate::artifact::{ArtifactError, Run};
use crate::config::RunConfig;
use crate::train::{CsvLogger, JsonLinesLogger, Loggers, RowLogger, TensorBoardLogger};

/// The loggers that a configuration asks for, of a run that has taken some steps already.
pub(super) fn open(run: &Run, config: &RunConfig, taken: usize) -> Result<Loggers, ArtifactError> {
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
        loggers.push(Box::new(TensorBoardLogger::new(history.event_file()?, taken + 1, &text)));
    }
    Ok(Loggers::new(loggers))
}
