use burn::data::dataloader::Progress as Items;
use burn::module::AutodiffModule;
use burn_train::{
    EventProcessorTraining, Learner, LearnerEvent, SupervisedLearningStrategy,
    SupervisedTrainingEventProcessor, TrainLoader, TrainingComponents, TrainingItem, ValidLoader,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::step::Components;
use super::{
    Checkpoint, CheckpointSink, Evaluation, LanguageModel, ModelOptimizer, Progress, StepOutput,
    Stepper, TrainError, evaluate,
};
use crate::backend::TrainBackend;
use crate::config::TrainConfig;

type EventProcessor<B> = SupervisedTrainingEventProcessor<Components<B>>;

/// A loop over optimizer steps, which evaluates and saves at intervals counted in them.
///
/// burn's own loop counts in epochs, moves the learning rate at every micro-batch, drops an
/// incomplete accumulation, and clips each tensor by itself.
pub(super) struct StepStrategy<B: TrainBackend> {
    pub(super) config: TrainConfig,
    /// Of the whole run, where that is known.
    pub(super) steps: Option<usize>,
    pub(super) seed: u64,
    pub(super) device: B::Device,
    /// The second handle on the learner's optimizer.
    pub(super) optimizer: ModelOptimizer<B>,
    pub(super) state: Arc<Mutex<State<B>>>,
}

/// What the loop changes outside the learner, read by the caller when it has ended.
pub(super) struct State<B: TrainBackend> {
    pub(super) sink: Box<dyn CheckpointSink<B>>,
    pub(super) progress: Progress,
    /// The best evaluation so far and its step.
    pub(super) best: Option<(usize, Evaluation)>,
    pub(super) error: Option<TrainError>,
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
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut events = components.event_processor;
        let interrupter = components.interrupter;
        let pass = train_loader.num_items();
        let length = self.config.length();
        let mut stepper =
            Stepper::of_learner(learner, &self.config, self.seed, self.device.clone());
        let mut batches = train_loader.iter();
        let started = Instant::now();
        let seconds_before = state.progress.seconds;
        let mut stopping = interrupter.should_stop();
        while !state.progress.has_reached(length, pass) && !stopping {
            let before = state.progress;
            let output = stepper.step(&mut batches, &mut state.progress);
            state.progress.seconds = seconds_before + started.elapsed().as_secs_f64();
            let step = state.progress.step;
            let item = self.item(output, step, Some(stepper.learning_rate()));
            events.process_train(LearnerEvent::ProcessedItem(item));

            // Asked once a step, so that no stop slips past the last checkpoint.
            stopping = interrupter.should_stop();
            let last = state.progress.has_reached(length, pass) || stopping;
            let due = |interval| state.progress.has_passed(&before, interval, pass);
            let evaluation_due = due(self.config.evaluate_every) || last;
            let checkpoint_due = due(self.config.checkpoint_every);
            if !evaluation_due && !checkpoint_due {
                continue;
            }
            let model = stepper.model();
            if let Err(error) = self.save(&mut state, &model) {
                state.error = Some(error);
                break;
            }
            if !evaluation_due {
                continue;
            }
            let evaluation = evaluate(&model.valid(), valid_loader.iter());
            state.progress.seconds = seconds_before + started.elapsed().as_secs_f64();
            let mut output = StepOutput::of_loss(evaluation.loss, evaluation.tokens);
            output.expert_tokens.clone_from(&evaluation.expert_tokens);
            let item = self.item(output, step, None);
            events.process_valid(LearnerEvent::ProcessedItem(item));
            let interval = step;
            events.process_train(LearnerEvent::EndEpoch(interval));
            events.process_valid(LearnerEvent::EndEpoch(interval));
            if let Err(error) = self.note_best(&mut state, evaluation) {
                state.error = Some(error);
                break;
            }
        }
        (stepper.model(), events)
    }
}

impl<B: TrainBackend> StepStrategy<B> {
    fn item(&self, output: StepOutput, step: usize, lr: Option<f64>) -> TrainingItem<StepOutput> {
        let all = Items { items_processed: step, items_total: self.steps.unwrap_or(step) };
        TrainingItem::new(output, all.clone(), all, Some(step), lr)
    }

    fn save(&self, state: &mut State<B>, model: &LanguageModel<B>) -> Result<(), TrainError> {
        let checkpoint =
            Checkpoint { model, optimizer: &self.optimizer, progress: &state.progress };
        state
            .sink
            .save(&checkpoint)
            .map_err(|source| TrainError::Save { step: checkpoint.progress.step, source })
    }

    fn note_best(&self, state: &mut State<B>, evaluation: Evaluation) -> Result<(), TrainError> {
        // A model that has diverged is never the best, not even for want of another.
        let better = evaluation.loss.is_finite()
            && state.best.as_ref().is_none_or(|(_, best)| evaluation.loss < best.loss);
        if !better {
            return Ok(());
        }
        let step = state.progress.step;
        let loss = evaluation.loss;
        state.best = Some((step, evaluation));
        state.sink.mark_best(step, loss).map_err(|source| TrainError::Save { step, source })
    }
}
