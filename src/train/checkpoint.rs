use burn::tensor::backend::AutodiffBackend;
use std::error::Error;

use super::{LanguageModel, ModelOptimizer, Progress};

/// All that a run needs to go on from here.
pub struct Checkpoint<'a, B: AutodiffBackend> {
    pub model: &'a LanguageModel<B>,
    pub optimizer: &'a ModelOptimizer<B>,
    pub progress: &'a Progress,
}

/// Where checkpoints go; training itself knows of no files.
pub trait CheckpointSink<B: AutodiffBackend>: Send {
    /// Saves a checkpoint, all or nothing.
    ///
    /// # Errors
    /// Whatever keeps it from being saved; training stops then.
    fn save(&mut self, checkpoint: &Checkpoint<B>) -> Result<(), Box<dyn Error + Send + Sync>>;

    /// The checkpoint of this step, which was saved before, has the best validation loss yet.
    ///
    /// # Errors
    /// Whatever keeps that from being noted; training stops then.
    fn mark_best(&mut self, step: usize, loss: f64) -> Result<(), Box<dyn Error + Send + Sync>>;
}
