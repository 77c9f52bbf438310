//! Training through burn-train: its `SupervisedTraining`, `Learner`, metrics and dashboard, with
//! our own objective, optimizer, schedule and strategy, since burn's loop counts in epochs where
//! language models count in optimizer steps.

mod accumulate;
mod all_reduce;
mod average;
mod checkpoint;
mod clip;
#[cfg(feature = "tui")]
mod dashboard;
mod data_wait;
mod evaluate;
mod freeze;
mod golden;
mod guard;
mod loggers;
mod memory;
mod metrics;
mod objective;
mod optimizer;
mod phases;
mod progress;
mod renderer;
mod replicas;
mod run;
mod schedule;
mod step;
mod strategy;
mod utilisation;

pub use average::Average;
pub use checkpoint::{Best, Checkpoint, RunKeeper, RunState, SaveError};
pub use clip::{clip_factor, gradient_norm};
pub use evaluate::{Evaluation, evaluate, evaluate_split};
pub use freeze::trained;
pub use golden::{GOLDEN_TOLERANCE, Golden, GoldenNumbers, goldens};
pub use guard::{Guard, Objection, Refusal, Verdict, Watched};
use loggers::Recorded;
pub use loggers::{
    CsvLogger, JsonLinesLogger, Logged, Loggers, MlflowLogger, MlflowRun, MlflowTracking, Row,
    RowLogger, RunStatus, TensorBoardLogger, Written, keep_rows,
};
pub use memory::{
    MemoryError, Operations, PartMemory, PeakMemory, TrainingMemory, largest_batch, training_memory,
};
pub use objective::{LanguageModel, Loss, StepOutput};
pub use optimizer::{ModelOptimizer, Moments, OptimizerError};
pub use phases::Phases;
pub use progress::{Progress, planned_steps, total_steps};
use renderer::PlainRenderer;
pub use replicas::{DeviceFailure, DevicesError, check_devices};
pub use run::{Display, Outcome, TrainError, Training, train};
pub use schedule::Schedule;
pub use step::{NoStep, Step, Stepper};
pub use strategy::Ended;
pub use utilisation::{flops_per_token, peak_tflops};
