use burn::data::dataloader::{DataLoader, Progress as Items};
use burn_train::{
    EventProcessorTraining, Interrupter, ItemLazy, Learner, LearnerEvent,
    SupervisedLearningStrategy, SupervisedTrainingEventProcessor, TrainLoader, TrainingComponents,
    TrainingItem, ValidLoader,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::renderer::DueLines;
use super::step::Components;
use super::{
    Average, Best, Checkpoint, DeviceFailure, Evaluation, LanguageModel, Loss, ModelOptimizer,
    NoStep, Progress, RunKeeper, RunState, SaveError, Step, StepOutput, Stepper, TrainError,
    Written, evaluate_split,
};
use crate::backend::TrainBackend;
use crate::config::{Span, TrainConfig};
use crate::data::{Split, TokenBatch};

/// Loggers that take longer lose lines rather than hold up a checkpoint.
const METRICS_TIMEOUT: Duration = Duration::from_secs(10);

type EventProcessor<B> = SupervisedTrainingEventProcessor<Components<B>>;

/// A loop over optimizer steps, which evaluates and saves at intervals of any unit.
///
/// burn's own loop counts in epochs, moves the learning rate at every micro-batch, drops an
/// incomplete accumulation, clips each tensor by itself, and loses what an interrupted epoch did.
pub(super) struct StepStrategy<B: TrainBackend> {
    pub(super) config: TrainConfig,
    /// Of the whole run, where that is known.
    pub(super) steps: Option<usize>,
    /// What evaluations read.
    pub(super) validation: Split,
    pub(super) seed: u64,
    pub(super) device: B::Device,
    /// Those that train along.
    pub(super) further_devices: Vec<B::Device>,
    /// The second handle on the learner's optimizer.
    pub(super) optimizer: ModelOptimizer<B>,
    pub(super) shared: Arc<Mutex<Shared<B>>>,
    /// Tells the renderer which steps are worth a line.
    pub(super) lines: DueLines,
    /// How far the metrics of the training have come.
    pub(super) written: Written,
}

/// What the loop changes outside the learner, read by the caller when it has ended.
pub(super) struct Shared<B: TrainBackend> {
    pub(super) keeper: Box<dyn RunKeeper<B>>,
    pub(super) state: RunState,
    /// Of the weights, until the training has it.
    pub(super) average: Option<Average<B>>,
    /// The last model as it was evaluated.
    pub(super) evaluated: Option<LanguageModel<B::InnerBackend>>,
    pub(super) ended: Result<Ended, TrainError>,
}

/// Why a training came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It has its length.
    Finished,
    /// Evaluations got no better.
    StoppedEarly,
    /// On its user's word; it can be resumed.
    Interrupted,
}

impl<B: TrainBackend> SupervisedLearningStrategy<Components<B>> for StepStrategy<B> {
    fn fit(
        &self,
        components: TrainingComponents<Components<B>>,
        learner: Learner<Components<B>>,
        train_loader: TrainLoader<Components<B>>,
        valid_loader: ValidLoader<Components<B>>,
        _starting_epoch: usize,
    ) -> (LanguageModel<B>, EventProcessor<B>) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let Shared { keeper, state, average, evaluated, ended } = &mut *shared;
        let mut fit = Fit {
            strategy: self,
            pass: train_loader.num_items(),
            stepper: Stepper::new(
                learner,
                self.optimizer.clone(),
                average.take(),
                &self.config,
                self.seed,
                self.device.clone(),
            )
            .with_devices(self.further_devices.clone()),
            valid_loader,
            events: components.event_processor,
            interrupter: components.interrupter,
            keeper: keeper.as_mut(),
            saved: (state.progress.step > 0).then_some(state.progress.step),
            evaluated: None,
            sampled: None,
            seconds_before: state.progress.seconds,
            started: Instant::now(),
            state,
        };
        *ended = fit.run(train_loader.as_ref());
        *evaluated = Some(fit.stepper.evaluated());
        (fit.stepper.model(), fit.events)
    }
}

/// A training that goes on.
struct Fit<'a, B: TrainBackend> {
    strategy: &'a StepStrategy<B>,
    stepper: Stepper<B>,
    valid_loader: ValidLoader<Components<B>>,
    events: EventProcessor<B>,
    interrupter: Interrupter,
    keeper: &'a mut dyn RunKeeper<B>,
    state: &'a mut RunState,
    /// Examples in a pass over the data.
    pass: usize,
    /// The steps of the newest checkpoint, evaluation and sample; of the latter two, none that was
    /// made before a run was resumed.
    saved: Option<usize>,
    evaluated: Option<usize>,
    sampled: Option<usize>,
    seconds_before: f64,
    started: Instant,
}

impl<B: TrainBackend> Fit<'_, B> {
    fn run(&mut self, loader: &dyn DataLoader<B, TokenBatch>) -> Result<Ended, TrainError> {
        let config = &self.strategy.config;
        // A checkpoint is older than the evaluation of its step, which is made now.
        let averaged = self.stepper.average().map(Average::updates);
        let evaluates = self.state.evaluation_due || self.is_at_end();
        if evaluates && averaged.is_some() != self.state.averaged.is_some() {
            // The average was switched on or off: what is evaluated is not what was saved.
            self.state.averaged = averaged;
            self.saved = None;
            self.save(false)?;
        }
        // What the run had come to when a step was over: evaluations and samples take time after
        // that, in which checkpoints become due.
        let mut checked = self.state.progress;
        let mut batches = loader.iter();
        loop {
            let at_end = self.is_at_end();
            if at_end {
                self.save(false)?;
            }
            if let Some(ended) = self.pause(at_end)? {
                return Ok(ended);
            }
            if at_end {
                return Ok(Ended::Finished);
            }
            if self.is_at_end() {
                continue; // by the time that the evaluation or the sample took
            }
            if self.interrupter.should_stop() {
                self.save(false)?;
                return Ok(Ended::Interrupted);
            }
            let before = self.state.progress;
            let step = self.step(&mut batches)?;
            let now = self.state.progress;
            // Evaluations that take longer than is between them must not come after every step.
            let due = |interval: Span| now.has_passed(&before, interval, self.pass);
            if due(config.log_every) || self.is_at_end() || step.skipped.is_some() {
                self.strategy.lines.add(now.step, step.skipped);
            }
            self.state.evaluation_due = due(config.evaluate_every);
            self.state.sample_due = match config.sample_every {
                Some(interval) => due(interval),
                None => self.state.evaluation_due,
            };
            let checkpoint_due = now.has_passed(&checked, config.checkpoint_every, self.pass);
            let for_good = config.keep_every.is_some_and(|every| {
                let kept = |at: Progress| at.spans(config.checkpoint_every, self.pass) / every;
                kept(now) > kept(checked)
            });
            checked = now;
            let output = step.output.map_loss(Loss::Read);
            let item = self.item(output, Some(self.stepper.learning_rate()));
            self.events.process_train(LearnerEvent::ProcessedItem(item));
            // Before an evaluation, so that nothing comes between training and its checkpoint.
            if checkpoint_due || self.state.evaluation_due {
                self.save(for_good)?;
            }
        }
    }

    fn is_at_end(&self) -> bool {
        self.state.progress.has_reached(self.strategy.config.length(), self.pass)
    }

    fn step(&mut self, batches: &mut dyn Iterator<Item = TokenBatch>) -> Result<Step, TrainError> {
        let RunState { progress, guard, .. } = &mut *self.state;
        let step = progress.step + 1;
        let examples = self.stepper.plan().examples(progress.step as u64) as u64;
        let (first, last) = (progress.cursor, progress.cursor + examples - 1);
        let taken = self.stepper.step(batches, progress, guard);
        self.state.averaged = self.stepper.average().map(Average::updates);
        self.note_time();
        taken.map_err(|reason| match reason {
            NoStep::NoData => TrainError::NoData { step, source: None },
            NoStep::Refused(refusal) => TrainError::Refused { step, first, last, refusal },
            NoStep::Failed(DeviceFailure { device, reason }) => {
                TrainError::Device { step, device, reason }
            }
        })
    }

    fn note_time(&mut self) {
        self.state.progress.seconds = self.seconds_before + self.started.elapsed().as_secs_f64();
    }

    /// Saves a checkpoint, unless there is one of this step.
    fn save(&mut self, for_good: bool) -> Result<(), TrainError> {
        let step = self.state.progress.step;
        if self.saved == Some(step) || step == 0 {
            return Ok(());
        }
        // A run that is killed after this has the metrics of all its checkpoint's steps.
        self.strategy.written.wait_for(step, METRICS_TIMEOUT);
        let model = self.stepper.model();
        let optimizer = &self.strategy.optimizer;
        let average = self.stepper.average();
        let state = &*self.state;
        let checkpoint = Checkpoint { model: &model, optimizer, average, state, for_good };
        self.keeper.save(&checkpoint).map_err(|source| TrainError::Save { step, source })?;
        self.saved = Some(step);
        Ok(())
    }

    /// Between two steps: the evaluation and the sample that are due, of which the end of a run has
    /// both.
    fn pause(&mut self, at_end: bool) -> Result<Option<Ended>, TrainError> {
        let step = self.state.progress.step;
        let at_end = at_end && step > 0;
        let evaluation_due = self.state.evaluation_due || (at_end && self.evaluated != Some(step));
        let sample_due = self.state.sample_due || (at_end && self.sampled != Some(step));
        if !evaluation_due && !sample_due {
            return Ok(None);
        }
        let model = self.stepper.evaluated();
        let mut ended = None;
        if evaluation_due {
            ended = self.evaluate(&model)?;
        }
        // What was interrupted is made again when the run is resumed.
        let sample_due = sample_due || ended == Some(Ended::StoppedEarly);
        if sample_due && ended != Some(Ended::Interrupted) {
            let saved = self.keeper.sample(step, &model);
            saved.map_err(|source| TrainError::Save { step, source })?;
            self.state.sample_due = false;
            self.sampled = Some(step);
        }
        self.note_time();
        Ok(ended)
    }

    /// Evaluates the model on the fixed sample; the checkpoint of this step is there already.
    fn evaluate(
        &mut self,
        model: &LanguageModel<B::InnerBackend>,
    ) -> Result<Option<Ended>, TrainError> {
        let step = self.state.progress.step;
        let (validation, batches) = (&self.strategy.validation, self.valid_loader.iter());
        let stopped = || self.interrupter.should_stop();
        let evaluation = evaluate_split(model, validation, batches, stopped)
            .map_err(|source| TrainError::NoValidationData { step, source })?;
        let Some(evaluation) = evaluation else {
            return Ok(Some(Ended::Interrupted));
        };
        let stories = self.keeper.judge_stories(model, &stopped);
        let stories = stories.map_err(|source| TrainError::Save { step, source })?;
        let asked = self.strategy.config.evaluation_stories.is_some();
        if asked && stories.is_none() && self.interrupter.should_stop() {
            return Ok(Some(Ended::Interrupted));
        }
        self.state.evaluation_due = false;
        self.evaluated = Some(step);
        let mut output = StepOutput::of_loss(Loss::Read(evaluation.loss), evaluation.tokens);
        output.stories = stories;
        output.expert_tokens.clone_from(&evaluation.expert_tokens);
        let item = self.item(output, None);
        self.events.process_valid(LearnerEvent::ProcessedItem(item));
        self.events.process_train(LearnerEvent::EndEpoch(step));
        self.events.process_valid(LearnerEvent::EndEpoch(step));
        self.judge(&evaluation).map_err(|source| TrainError::Save { step, source })
    }

    /// Notes a best evaluation, and whether there is hope for another.
    fn judge(&mut self, evaluation: &Evaluation) -> Result<Option<Ended>, SaveError> {
        let (step, loss) = (self.state.progress.step, evaluation.loss);
        // A model that has diverged is never the best, not even for want of another.
        if loss.is_finite() && self.state.best.is_none_or(|best| loss < best.loss) {
            let best = Best { step, loss };
            self.keeper.mark_best(best)?;
            self.state.best = Some(best);
        }
        let Some(stopping) = self.strategy.config.early_stopping else {
            return Ok(None);
        };
        let least = stopping.min_improvement;
        if loss.is_finite() && self.state.to_beat.is_none_or(|best| loss < best - least) {
            self.state.to_beat = Some(loss);
            self.state.evaluations_without_improvement = 0;
        } else {
            self.state.evaluations_without_improvement += 1;
        }
        let hopeless = self.state.evaluations_without_improvement >= stopping.patience;
        Ok(hopeless.then_some(Ended::StoppedEarly))
    }

    /// burn's dashboard counts epochs: ours is the stretch between two evaluations.
    fn item<T: ItemLazy>(&self, output: T, lr: Option<f64>) -> TrainingItem<T> {
        let step = self.state.progress.step;
        let steps = self.strategy.steps.unwrap_or(step).max(1);
        let interval = match self.strategy.config.evaluate_every {
            Span::Steps(interval) => interval as usize,
            _ => steps,
        };
        let place = step.saturating_sub(1);
        let within = Items { items_processed: place % interval + 1, items_total: interval };
        let intervals = Items {
            items_processed: place / interval + 1,
            items_total: steps.div_ceil(interval).max(place / interval + 1),
        };
        TrainingItem::new(output, within, intervals, Some(step), lr)
    }
}
