use burn::optim::GradientsAccumulator;
use burn_train::{Learner, LearningComponentsMarker};
use std::time::Instant;

use super::evaluate::add_counts;
use super::{
    LanguageModel, ModelOptimizer, OptimizerError, Progress, Schedule, StepOutput, clip_gradients,
};
use crate::backend::TrainBackend;
use crate::config::{RunConfig, TrainConfig};
use crate::data::BatchPlan;
use crate::data::TokenBatch;

pub(super) type Components<B> =
    LearningComponentsMarker<B, Schedule, LanguageModel<B>, ModelOptimizer<B>>;

/// Takes optimizer steps with a model, and does nothing else: whoever calls it decides when to
/// evaluate, to save and to stop.
pub struct Stepper<B: TrainBackend> {
    learner: Learner<Components<B>>,
    config: TrainConfig,
    seed: u64,
    device: B::Device,
}

impl<B: TrainBackend> Stepper<B> {
    /// Before the first step of a configuration.
    ///
    /// # Errors
    /// An optimizer that does not fit the model.
    pub fn new(
        model: LanguageModel<B>,
        config: &RunConfig,
        device: B::Device,
    ) -> Result<Self, OptimizerError> {
        let train = &config.train;
        let optimizer = ModelOptimizer::new(&train.optimizer, &model)?;
        let schedule = Schedule::new(&train.schedule, None, 0);
        let learner = Learner::new(model, optimizer, schedule);
        Ok(Self::of_learner(learner, train, config.seed, device))
    }

    pub(super) fn of_learner(
        learner: Learner<Components<B>>,
        config: &TrainConfig,
        seed: u64,
        device: B::Device,
    ) -> Self {
        Self { learner, config: config.clone(), seed, device }
    }

    pub(super) fn model(&self) -> LanguageModel<B> {
        self.learner.model()
    }

    /// That of the last step.
    pub(super) fn learning_rate(&self) -> f64 {
        self.learner.lr_current()
    }

    /// One optimizer step over its micro-batches.
    pub fn step(
        &mut self,
        batches: &mut dyn Iterator<Item = TokenBatch>,
        progress: &mut Progress,
    ) -> StepOutput {
        let started = Instant::now();
        let learner = &mut self.learner;
        // Dropout draws from the backend's generator: seeded by the step, a resumed run draws the
        // same numbers as one that was never stopped.
        B::seed(&self.device, self.seed.wrapping_add(progress.step as u64));
        learner.lr_step();
        let plan = BatchPlan::of_run(&self.config);
        let micro_batches = plan.micro_batches(progress.step as u64).count();
        let examples = plan.examples(progress.step as u64) as u64;
        let (mut loss, mut tokens) = (0.0, 0);
        let mut expert_tokens = Vec::new();
        let mut accumulator = GradientsAccumulator::new();
        for batch in batches.take(micro_batches) {
            let share = batch.share;
            let output = learner.train_step(batch);
            accumulator.accumulate(&learner.model(), output.grads);
            loss += output.item.loss * share;
            tokens += output.item.tokens;
            add_counts(&mut expert_tokens, output.item.expert_tokens);
        }
        let mut gradients = accumulator.grads();
        let gradient_norm = clip_gradients(&learner.model(), &mut gradients, self.config.clip_norm);
        learner.optimizer_step(gradients);
        progress.step += 1;
        progress.tokens += tokens as u64;
        progress.examples += examples;
        progress.cursor += examples;
        StepOutput {
            gradient_norm,
            tokens_per_second: tokens as f64 / started.elapsed().as_secs_f64(),
            expert_tokens,
            ..StepOutput::of_loss(loss, tokens)
        }
    }
}
