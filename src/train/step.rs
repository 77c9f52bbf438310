use burn::module::AutodiffModule;
use burn_train::{Learner, LearningComponentsMarker};
use std::time::Instant;

use super::accumulate::{Accumulated, accumulate};
use super::clip::{read, sums_of_squares};
use super::data_wait::DataWait;
use super::replicas::{Order, Replicas};
use super::{
    Average, DeviceFailure, Guard, LanguageModel, ModelOptimizer, Objection, OptimizerError,
    Progress, Refusal, Schedule, StepOutput, Verdict, clip_factor,
};
use crate::backend::{TrainBackend, seed_draws};
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
    /// None where there is no other device.
    replicas: Option<Replicas<B>>,
}

/// Why a step was not taken. The model is as it was before.
#[derive(Debug, Clone, PartialEq)]
pub enum NoStep {
    /// The data ended, or it could not be read.
    NoData,
    /// Numbers that no training can go on with.
    Refused(Refusal),
    /// One of several devices; no more steps can be taken.
    Failed(DeviceFailure),
}

impl From<DeviceFailure> for NoStep {
    fn from(failure: DeviceFailure) -> Self {
        Self::Failed(failure)
    }
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
        let (config, replicas) = (config.clone(), None);
        Self { learner, optimizer, config, plan, average, seed, device, replicas }
    }

    /// Shares the micro-batches of each step with further devices, which begin with copies of the
    /// model and of its optimizer as they are now. [`check_devices`](super::check_devices) says
    /// whether the configuration is for so many.
    #[must_use]
    pub fn with_devices(mut self, further: Vec<B::Device>) -> Self {
        if !further.is_empty() {
            self.replicas = Some(Replicas::start(&self.learner.model(), &self.optimizer, further));
        }
        self
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

    /// Ends the training of all devices: the weights of each, the first's first. They are equal to the
    /// last bit.
    ///
    /// # Errors
    /// A device that has failed.
    pub fn into_models(mut self) -> Result<Vec<LanguageModel<B>>, DeviceFailure> {
        let others = self.replicas.as_mut().map_or(Ok(Vec::new()), Replicas::end)?;
        Ok([self.model()].into_iter().chain(others).collect())
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
        let mut data = DataWait::new(batches);
        let micro_batches = self.plan.micro_batches(progress.step as u64).count();
        let batches: Vec<TokenBatch> = data.by_ref().take(micro_batches).collect();
        if batches.len() < micro_batches {
            return Err(NoStep::NoData);
        }
        let tokens = batches.iter().map(TokenBatch::tokens).sum();
        let shares: Vec<f64> = batches.iter().map(|batch| batch.share).collect();

        // Dropout draws from the thread's generator: seeded by the step, a resumed run draws the
        // same numbers as one that was never stopped.
        let seed = self.seed.wrapping_add(progress.step as u64);
        let batches = match &self.replicas {
            Some(replicas) => replicas.deal(batches, seed),
            None => batches,
        };
        seed_draws(seed);
        learner.lr_step();
        let (model, device) = (learner.model(), &self.device);
        let mut sum = accumulate(&model, batches, device, |batch| learner.train_step(batch));
        if let Some(replicas) = &mut self.replicas {
            let sum_started = Instant::now();
            sum = replicas.all_reduce(&model, sum, micro_batches, device)?;
            sum.phases.backward += sum_started.elapsed().as_secs_f64();
        }
        drop(model);
        let Accumulated { gradients, losses, expert_tokens, mut phases } = sum;
        phases.data = data.waited().as_secs_f64();
        let optimizer_started = Instant::now();
        let squares = sums_of_squares(&learner.model(), &gradients);
        let wait_started = Instant::now();
        let (losses, gradient_norm) = read(losses, squares);
        let waited = wait_started.elapsed();
        let loss = losses.iter().zip(shares).fold(0.0, |sum, (loss, share)| sum + loss * share);
        let verdict = guard.judge(&self.config, loss, gradient_norm);
        let gradient_factor = clip_factor(gradient_norm, self.config.clip_norm);
        if let Some(replicas) = &mut self.replicas {
            let learning_rate = learner.lr_current();
            match verdict {
                Verdict::Take => replicas.order(Order::Take { learning_rate, gradient_factor })?,
                Verdict::Skip(_) => replicas.order(Order::Skip)?,
                // Their threads end with this one's training.
                Verdict::Stop(_) => {}
            }
        }
        let skipped = match verdict {
            Verdict::Take => {
                self.optimizer.scale_gradients(gradient_factor);
                learner.optimizer_step(gradients);
                if let Some(average) = &mut self.average {
                    average.update(&learner.model());
                }
                None
            }
            Verdict::Skip(objection) => Some(objection),
            Verdict::Stop(refusal) => return Err(NoStep::Refused(refusal)),
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
