use burn::module::AutodiffModule;
use burn::optim::GradientsAccumulator;
use burn_train::{Learner, LearningComponentsMarker};
use std::time::Instant;

use super::clip::{read, sums_of_squares};
use super::data_wait::DataWait;
use super::evaluate::add_counts;
use super::{
    Average, Guard, LanguageModel, ModelOptimizer, Objection, OptimizerError, Phases, Progress,
    Schedule, StepOutput, Verdict, clip_factor,
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
    /// A second handle of the learner's.
    optimizer: ModelOptimizer<B>,
    config: TrainConfig,
    plan: BatchPlan,
    average: Option<Average<B>>,
    seed: u64,
    device: B::Device,
}

/// Why a step was not taken. The model is as it was before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NoStep {
    /// The data ended, or it could not be read.
    NoData,
    /// Numbers that no training can go on with.
    Refused(Objection),
}

/// A step that lies behind.
#[derive(Debug, Clone)]
pub struct Step {
    pub output: StepOutput,
    /// Why its gradients were not used, where they were not.
    pub skipped: Option<Objection>,
}

impl<B: TrainBackend> Stepper<B> {
    /// With a learner of this configuration, its optimizer, and the average of its weights that it asks for.
    pub(super) fn new(
        learner: Learner<Components<B>>,
        optimizer: ModelOptimizer<B>,
        average: Option<Average<B>>,
        config: &TrainConfig,
        seed: u64,
        device: B::Device,
    ) -> Self {
        let plan = BatchPlan::of_run(config);
        Self { learner, optimizer, config: config.clone(), plan, average, seed, device }
    }

    /// Before the first step of a configuration.
    ///
    /// # Errors
    /// An optimizer that does not fit the model.
    pub fn of_run(
        model: LanguageModel<B>,
        config: &RunConfig,
        device: B::Device,
    ) -> Result<Self, OptimizerError> {
        let train = &config.train;
        let optimizer = ModelOptimizer::new(&train.optimizer, &model)?;
        let schedule = Schedule::new(&train.schedule, None, 0);
        let learner = Learner::new(model, optimizer.clone(), schedule);
        let average = train.average.map(|config| Average::new(config, 0));
        Ok(Self::new(learner, optimizer, average, train, config.seed, device))
    }

    pub(super) fn plan(&self) -> BatchPlan {
        self.plan
    }

    /// The weights that are trained.
    pub fn model(&self) -> LanguageModel<B> {
        self.learner.model()
    }

    /// What there is to evaluate: the average of the weights, where there is one.
    pub(super) fn evaluated(&self) -> LanguageModel<B::InnerBackend> {
        let model = self.learner.model().valid();
        match &self.average {
            Some(average) => average.applied(model),
            None => model,
        }
    }

    pub(super) fn average(&self) -> Option<&Average<B>> {
        self.average.as_ref()
    }

    /// That of the last step.
    pub fn learning_rate(&self) -> f64 {
        self.learner.lr_current()
    }

    /// One optimizer step over its micro-batches.
    ///
    /// # Errors
    /// [`NoStep`]; `progress` is as it was before.
    pub fn step(
        &mut self,
        batches: &mut dyn Iterator<Item = TokenBatch>,
        progress: &mut Progress,
        guard: &mut Guard,
    ) -> Result<Step, NoStep> {
        let started = Instant::now();
        let learner = &mut self.learner;
        // Dropout draws from the backend's generator: seeded by the step, a resumed run draws the
        // same numbers as one that was never stopped.
        B::seed(&self.device, self.seed.wrapping_add(progress.step as u64));
        learner.lr_step();
        let (mut losses, mut shares, mut tokens) = (Vec::new(), Vec::new(), 0);
        let mut expert_tokens = Vec::new();
        let mut phases = Phases::default();
        let mut accumulator = GradientsAccumulator::new();
        let mut batches = DataWait::new(batches);
        for _ in self.plan.micro_batches(progress.step as u64) {
            let batch = batches.next().ok_or(NoStep::NoData)?;
            shares.push(batch.share);
            let output = learner.train_step(batch);
            accumulator.accumulate(&learner.model(), output.grads);
            losses.push(output.item.loss.into_tensor(&self.device));
            tokens += output.item.tokens;
            phases += output.item.phases;
            add_counts(&mut expert_tokens, output.item.expert_tokens);
        }
        phases.data = batches.waited().as_secs_f64();
        let optimizer_started = Instant::now();
        let gradients = accumulator.grads();
        let squares = sums_of_squares(&learner.model(), &gradients);
        let wait_started = Instant::now();
        let (losses, gradient_norm) = read(losses, squares);
        let waited = wait_started.elapsed();
        let weighed = losses.iter().zip(&shares).map(|(loss, share)| loss * share);
        let loss = weighed.fold(0.0, |sum, next| sum + next);
        let skipped = match guard.judge(&self.config, loss, gradient_norm) {
            Verdict::Take => {
                self.optimizer.scale_gradients(clip_factor(gradient_norm, self.config.clip_norm));
                learner.optimizer_step(gradients);
                if let Some(average) = &mut self.average {
                    average.update(&learner.model());
                }
                None
            }
            Verdict::Skip(objection) => Some(objection),
            Verdict::Stop(objection) => return Err(NoStep::Refused(objection)),
        };
        phases.backward += waited.as_secs_f64();
        phases.optimizer = (optimizer_started.elapsed() - waited).as_secs_f64();
        let examples = self.plan.examples(progress.step as u64) as u64;
        progress.step += 1;
        progress.tokens += tokens as u64;
        progress.examples += examples;
        progress.cursor += examples;
        let output = StepOutput {
            tokens_so_far: progress.tokens,
            gradient_norm,
            seconds: started.elapsed().as_secs_f64(),
            phases,
            expert_tokens,
            ..StepOutput::of_loss(loss, tokens)
        };
        Ok(Step { output, skipped })
    }
}
