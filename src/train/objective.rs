//! The model with what it is trained for: to name the tokens that are asked for.
//!
//! B batch, T time, D model width, N targets

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::backend::Backend;
use burn::tensor::{ElementConversion, Int, Tensor};
use burn_train::metric::Adaptor;
use burn_train::{InferenceStep, ItemLazy, TrainOutput, TrainStep};
use std::time::Instant;

use super::Phases;
use crate::backend::{GptBackend, LossTerms, TrainBackend};
use crate::config::{ModelConfig, TrainConfig};
use crate::data::{StoryScore, TokenBatch};
use crate::model::{LinearHead, Model, Observer, Record, Routing, Rows, Tape};

/// A model and its loss, the mean negative log-likelihood of the targets.
#[derive(Module, Debug)]
pub struct LanguageModel<B: Backend> {
    pub model: Model<B>,
    /// Weight of the experts' balance in what is minimised; it is no part of the loss.
    balance_weight: f64,
    /// Whether a step keeps no more of a layer than its input.
    gradient_checkpointing: bool,
    /// In what is minimised; evaluation knows nothing of them.
    #[module(skip)]
    terms: LossTerms,
}

/// What a batch asks of a model.
struct Answer<B: Backend> {
    /// What the model makes logits of, `[N, D]`.
    hidden: Tensor<B, 2>,
    /// `[N]`
    targets: Tensor<B, 1, Int>,
    /// How the experts were used, a layer each.
    routing: Vec<Routing<B>>,
}

impl<B: Backend> LanguageModel<B> {
    pub fn new(model: Model<B>, config: &ModelConfig) -> Self {
        let experts = config.feed_forward.experts;
        Self {
            model,
            balance_weight: experts.map_or(0.0, |experts| experts.balance_weight),
            gradient_checkpointing: false,
            terms: LossTerms::default(),
        }
    }

    /// The same model as a configuration trains it: in its precision, evaluations included, with
    /// its gradient checkpointing, and with what it adds to the loss.
    pub fn trained_as(mut self, config: &TrainConfig) -> Self {
        self.model.set_precision(config.precision);
        let TrainConfig { gradient_checkpointing, label_smoothing, z_loss, .. } = *config;
        Self { gradient_checkpointing, terms: LossTerms { label_smoothing, z_loss }, ..self }
    }
}

impl<B: GptBackend> LanguageModel<B> {
    /// Nats a token, `[1]`.
    pub fn loss(&self, batch: &TokenBatch) -> Tensor<B, 1> {
        let Answer { hidden, targets, .. } = self.answer(batch, Record::Nobody);
        let [_, loss] = self.training_loss(hidden, targets, LossTerms::default());
        loss
    }

    /// What logits are made of for each target that is asked for, `[N, D]`, and the targets, `[N]`.
    pub fn asked(&self, batch: &TokenBatch) -> (Tensor<B, 2>, Tensor<B, 1, Int>) {
        let Answer { hidden, targets, .. } = self.answer(batch, Record::Nobody);
        (hidden, targets)
    }

    /// The loss of `[N, D]` and `[N]`, and what is minimised in its place, which alone has
    /// gradients; without all of the logits in memory where that can be.
    fn training_loss(
        &self,
        hidden: Tensor<B, 2>,
        targets: Tensor<B, 1, Int>,
        terms: LossTerms,
    ) -> [Tensor<B, 1>; 2] {
        match self.model.linear_head() {
            Some(LinearHead { weight, bias, precision }) => {
                B::linear_training_loss(hidden, weight, bias, targets, precision, terms)
            }
            None => B::training_loss(self.model.logits(hidden), targets, terms),
        }
    }

    fn answer(&self, batch: &TokenBatch, record: Record<B>) -> Answer<B> {
        let device = &self.model.device();
        let inputs = batch.inputs(device); // [B, T]
        let rows = Rows { lengths: batch.lengths(), documents: batch.documents() };
        let (hidden, routing) = match (&self.model, batch.sources(device)) {
            (Model::Gpt(model), _) => model.hidden_recorded(inputs, rows, record),
            (Model::Encoder(model), _) => model.hidden_recorded(inputs, rows, record),
            (Model::Seq2Seq(model), Some((sources, lengths))) => {
                model.hidden_recorded(sources, lengths, inputs, batch.lengths(), record)
            }
            (Model::Seq2Seq(_), None) => {
                unreachable!("the task of an encoder-decoder gives every example a source")
            }
        };
        let hidden = hidden.flatten(0, 1); // [B T, D]
        let hidden = match batch.asked(device) {
            Some(places) => hidden.select(0, places), // [N, D]
            None => hidden,
        };
        Answer { hidden, targets: batch.targets(device), routing }
    }
}

/// A loss in nats a token. Whoever reads one that is on its device waits for the device.
#[derive(Debug, Clone)]
pub enum Loss<B: Backend> {
    /// `[1]`
    OnDevice(Tensor<B, 1>),
    Read(f64),
}

impl<B: Backend> Loss<B> {
    pub fn read(self) -> f64 {
        match self {
            Self::OnDevice(loss) => loss.into_scalar().elem(),
            Self::Read(loss) => loss,
        }
    }

    /// `[1]`
    pub(super) fn into_tensor(self, device: &B::Device) -> Tensor<B, 1> {
        match self {
            Self::OnDevice(loss) => loss,
            Self::Read(loss) => Tensor::from_floats([loss], device),
        }
    }
}

/// What a step or an evaluation reports to the metrics: plain numbers, so that nothing large is
/// kept or copied. What is known only once the optimizer has stepped is not a number before.
///
/// The loss of a batch is a [`Loss`], which is read with those of others.
#[derive(Debug, Clone)]
pub struct StepOutput<L = f64> {
    /// Mean over the step's tokens, in nats.
    pub loss: L,
    pub tokens: usize,
    /// Tokens learned from since the run began, this step's included.
    pub tokens_so_far: u64,
    pub gradient_norm: f64,
    /// From the first batch that is asked for to the last weight that is updated.
    pub seconds: f64,
    /// What these were spent on.
    pub phases: Phases,
    /// Tokens that went to each expert, a layer each; none without experts.
    pub expert_tokens: Vec<Vec<usize>>,
    /// Of an evaluation that asks for some.
    pub stories: Option<StoryScore>,
}

impl<L> StepOutput<L> {
    /// The output of a pass through the model alone.
    pub fn of_loss(loss: L, tokens: usize) -> Self {
        Self {
            loss,
            tokens,
            tokens_so_far: 0,
            gradient_norm: f64::NAN,
            seconds: f64::NAN,
            phases: Phases::default(),
            expert_tokens: Vec::new(),
            stories: None,
        }
    }

    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds
    }

    /// The same with its loss in another form.
    pub(super) fn map_loss<M>(self, form: impl FnOnce(L) -> M) -> StepOutput<M> {
        StepOutput {
            loss: form(self.loss),
            tokens: self.tokens,
            tokens_so_far: self.tokens_so_far,
            gradient_norm: self.gradient_norm,
            seconds: self.seconds,
            phases: self.phases,
            expert_tokens: self.expert_tokens,
            stories: self.stories,
        }
    }
}

impl ItemLazy for StepOutput {
    type ItemSync = Self;

    fn sync(self) -> Self {
        self
    }
}

impl<B: Backend> ItemLazy for StepOutput<Loss<B>> {
    type ItemSync = StepOutput;

    fn sync(self) -> StepOutput {
        self.map_loss(Loss::read)
    }
}

impl Adaptor<StepOutput> for StepOutput {
    fn adapt(&self) -> StepOutput {
        self.clone()
    }
}

impl<B: TrainBackend> TrainStep for LanguageModel<B> {
    type Input = TokenBatch;
    type Output = StepOutput<Loss<B::InnerBackend>>;

    /// The gradients are those of the loss times the batch's share of its optimizer step, so that
    /// the sum over the micro-batches of a step is the gradient of the mean. Nothing of the loss or
    /// of the gradients is waited for; only experts are, who have to know their tokens.
    fn step(&self, batch: TokenBatch) -> TrainOutput<Self::Output> {
        let started = Instant::now();
        let tape = self.gradient_checkpointing.then(Tape::default);
        let Answer { hidden, targets, routing } = self.answer(&batch, Record::taped(tape.as_ref()));
        let [loss, minimised] = self.training_loss(hidden, targets, self.terms);
        let loss = loss.inner();
        let forward = started.elapsed();
        let minimised = self.balanced(minimised, &routing) * batch.share;
        let grads = match tape {
            Some(tape) => self.sum(tape.backward(minimised)),
            None => GradientsParams::from_grads(minimised.backward(), self),
        };
        let mut output = StepOutput::of_loss(Loss::OnDevice(loss), batch.tokens());
        output.phases.forward = forward.as_secs_f64();
        output.phases.backward = (started.elapsed() - forward).as_secs_f64();
        output.expert_tokens = routing.into_iter().map(|routing| routing.counts).collect();
        TrainOutput { grads, item: output }
    }
}

impl<B: TrainBackend> LanguageModel<B> {
    /// The loss of a batch and all gradients of what a training step minimises, looked at on the
    /// way forward. What the observer hands on has gradients, too.
    pub fn observed_step(
        &self,
        batch: &TokenBatch,
        observer: &dyn Observer<B>,
    ) -> (f64, B::Gradients) {
        let Answer { hidden, targets, routing } = self.answer(batch, Record::Observer(observer));
        let [loss, minimised] = self.training_loss(hidden, targets, self.terms);
        let loss = loss.inner().into_scalar().elem();
        (loss, (self.balanced(minimised, &routing) * batch.share).backward())
    }

    /// With the experts' balance, where there are any.
    fn balanced(&self, minimised: Tensor<B, 1>, routing: &[Routing<B>]) -> Tensor<B, 1> {
        match mean_balance(routing) {
            Some(balance) => minimised + balance * self.balance_weight,
            None => minimised,
        }
    }

    fn sum(&self, parts: Vec<B::Gradients>) -> GradientsParams {
        let mut sum = GradientsAccumulator::new();
        for part in parts {
            sum.accumulate(self, GradientsParams::from_grads(part, self));
        }
        sum.grads()
    }
}

impl<B: GptBackend> InferenceStep for LanguageModel<B> {
    type Input = TokenBatch;
    type Output = StepOutput<Loss<B>>;

    fn step(&self, batch: TokenBatch) -> Self::Output {
        let Answer { hidden, targets, routing } = self.answer(&batch, Record::Nobody);
        let [loss, _] = self.training_loss(hidden, targets, LossTerms::default());
        let mut output = StepOutput::of_loss(Loss::OnDevice(loss), batch.tokens());
        output.expert_tokens = routing.into_iter().map(|routing| routing.counts).collect();
        output
    }
}

/// The experts' balance, as a mean over the layers.
fn mean_balance<B: Backend>(routing: &[Routing<B>]) -> Option<Tensor<B, 1>> {
    let sum =
        routing.iter().map(|routing| routing.balance.clone()).reduce(|sum, next| sum + next)?;
    Some(sum / routing.len() as f64)
}
