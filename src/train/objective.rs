//! The model with what it is trained for: to name the next token.
//!
//! B batch, T time, V vocabulary, N = B T

use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{ElementConversion, Tensor};
use burn_train::metric::Adaptor;
use burn_train::{InferenceStep, ItemLazy, TrainOutput, TrainStep};

use super::metrics::Observation;
use crate::backend::{GptBackend, TrainBackend};
use crate::data::TokenBatch;
use crate::model::Gpt;

/// A decoder and its loss, the mean negative log-likelihood of the next token.
#[derive(Module, Debug)]
pub struct CausalLanguageModel<B: Backend> {
    pub model: Gpt<B>,
}

impl<B: GptBackend> CausalLanguageModel<B> {
    /// Nats a token, `[1]`.
    pub fn loss(&self, batch: &TokenBatch) -> Tensor<B, 1> {
        let device = &self.model.device();
        let logits = self.model.forward(batch.inputs(device)); // [B, T, V]
        B::cross_entropy(logits.flatten(0, 1), batch.targets(device)) // [N, V], [N]
    }
}

/// What a step reports to the metrics: plain numbers, so that nothing large is kept or copied.
#[derive(Debug, Clone, Copy)]
pub struct StepOutput {
    /// Mean over the step's tokens, in nats.
    pub loss: f64,
    pub tokens: usize,
    /// Known once the optimizer has stepped; not a number in evaluation.
    pub gradient_norm: f64,
    /// Known once the optimizer has stepped; not a number in evaluation.
    pub tokens_per_second: f64,
}

impl StepOutput {
    /// The output of a pass through the model alone.
    pub fn of_loss(loss: f64, tokens: usize) -> Self {
        Self { loss, tokens, gradient_norm: f64::NAN, tokens_per_second: f64::NAN }
    }
}

impl ItemLazy for StepOutput {
    type ItemSync = Self;

    fn sync(self) -> Self {
        self
    }
}

impl Adaptor<Observation> for StepOutput {
    fn adapt(&self) -> Observation {
        Observation {
            loss: self.loss,
            tokens: self.tokens,
            gradient_norm: self.gradient_norm,
            tokens_per_second: self.tokens_per_second,
        }
    }
}

impl<B: TrainBackend> TrainStep for CausalLanguageModel<B> {
    type Input = TokenBatch;
    type Output = StepOutput;

    /// The gradients are those of the loss times the batch's share of its optimizer step, so that
    /// the sum over the micro-batches of a step is the gradient of the mean.
    fn step(&self, batch: TokenBatch) -> TrainOutput<StepOutput> {
        let loss = self.loss(&batch);
        let value: f64 = loss.clone().inner().into_scalar().elem();
        let gradients = (loss * batch.share).backward();
        let output = StepOutput::of_loss(value, batch.tokens());
        TrainOutput::new(self, gradients, output)
    }
}

impl<B: GptBackend> InferenceStep for CausalLanguageModel<B> {
    type Input = TokenBatch;
    type Output = StepOutput;

    fn step(&self, batch: TokenBatch) -> StepOutput {
        StepOutput::of_loss(self.loss(&batch).into_scalar().elem(), batch.tokens())
    }
}
