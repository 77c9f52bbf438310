use burn::tensor::backend::AutodiffBackend;
use serde::{Deserialize, Serialize};
use std::error::Error;

use crate::data::StoryScore;

use super::{Average, Guard, LanguageModel, ModelOptimizer, Progress};

/// Whatever keeps something from being saved.
pub type SaveError = Box<dyn Error + Send + Sync>;

/// The best evaluation of a run on the fixed sample of its validation split.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    pub step: usize,
    /// Nats a token.
    pub loss: f64,
}

/// What a run remembers beside its weights and their moments. All else that its next step depends
/// on follows from the configuration and the step: the order of the data, the learning rate, and
/// the random numbers, which every step begins anew.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    pub progress: Progress,
    /// Tells the data that is learned from, in the order in which it is read, from other data.
    pub data: String,
    /// The same of what evaluations read: losses on other data are not to be compared. Earlier
    /// versions did not note it, and had it in `data`, too.
    #[serde(default)]
    pub validation: String,
    pub best: Option<Best>,
    /// The loss that evaluations have to beat for early stopping.
    pub to_beat: Option<f64>,
    /// Evaluations in succession that did not beat it.
    pub evaluations_without_improvement: u64,
    /// The evaluation of this step is still to come.
    pub evaluation_due: bool,
    /// The sample of this step is still to come.
    pub sample_due: bool,
    pub guard: Guard,
    /// Weights that their average has taken in, where there is one.
    pub averaged: Option<usize>,
}

/// All that a run needs to go on from here.
pub struct Checkpoint<'a, B: AutodiffBackend> {
    pub model: &'a LanguageModel<B>,
    pub optimizer: &'a ModelOptimizer<B>,
    /// Of the weights, where there is one.
    pub average: Option<&'a Average<B>>,
    pub state: &'a RunState,
    /// Not to be removed when others follow.
    pub for_good: bool,
}

/// Where checkpoints and samples go, and who reads what a model writes; training itself knows of no
/// files, and generates no text.
pub trait RunKeeper<B: AutodiffBackend>: Send {
    /// Saves a checkpoint, all or nothing.
    ///
    /// # Errors
    /// Whatever keeps it from being saved; training stops then.
    fn save(&mut self, checkpoint: &Checkpoint<B>) -> Result<(), SaveError>;

    /// The checkpoint of this step, which was saved before, has the best validation loss yet.
    ///
    /// # Errors
    /// Whatever keeps that from being noted; training stops then.
    fn mark_best(&mut self, best: Best) -> Result<(), SaveError>;

    /// Lets a model write stories and judges them, where that is asked for. Nothing where
    /// it is not, and where `stopped` says to leave it.
    ///
    /// # Errors
    /// Whatever keeps it from being done; training stops then.
    fn judge_stories(
        &mut self,
        _model: &LanguageModel<B::InnerBackend>,
        _stopped: &dyn Fn() -> bool,
    ) -> Result<Option<StoryScore>, SaveError> {
        Ok(None)
    }

    /// Lets a model write something, and keeps it.
    ///
    /// # Errors
    /// Whatever keeps it from being kept; training stops then.
    fn sample(
        &mut self,
        step: usize,
        model: &LanguageModel<B::InnerBackend>,
    ) -> Result<(), SaveError>;
}

/// Keeps nothing.
impl<B: AutodiffBackend> RunKeeper<B> for () {
    fn save(&mut self, _checkpoint: &Checkpoint<B>) -> Result<(), SaveError> {
        Ok(())
    }

    fn mark_best(&mut self, _best: Best) -> Result<(), SaveError> {
        Ok(())
    }

    fn sample(
        &mut self,
        _step: usize,
        _model: &LanguageModel<B::InnerBackend>,
    ) -> Result<(), SaveError> {
        Ok(())
    }
}
