use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Tensor;
use burn_train::TrainOutput;

use super::evaluate::add_counts;
use super::{LanguageModel, Loss, Phases, StepOutput};
use crate::backend::TrainBackend;
use crate::data::TokenBatch;

/// What micro-batches of a step come to on a device. Nothing of it has been waited for.
pub(super) struct Accumulated<B: TrainBackend> {
    /// Summed.
    pub(super) gradients: GradientsParams,
    /// Of each micro-batch, `[1]`, or all in one tensor.
    pub(super) losses: Vec<Tensor<B::InnerBackend, 1>>,
    /// Tokens that went to each expert, a layer each; none without experts.
    pub(super) expert_tokens: Vec<Vec<usize>>,
    pub(super) phases: Phases,
}

/// Takes a training step's forward and backward pass over each of some micro-batches.
pub(super) fn accumulate<B: TrainBackend>(
    model: &LanguageModel<B>,
    batches: Vec<TokenBatch>,
    device: &B::Device,
    train_step: impl Fn(TokenBatch) -> TrainOutput<StepOutput<Loss<B::InnerBackend>>>,
) -> Accumulated<B> {
    let mut accumulator = GradientsAccumulator::new();
    let mut losses = Vec::with_capacity(batches.len());
    let (mut expert_tokens, mut phases) = (Vec::new(), Phases::default());
    for batch in batches {
        let TrainOutput { grads, item } = train_step(batch);
        accumulator.accumulate(model, grads);
        losses.push(item.loss.into_tensor(device));
        phases += item.phases;
        add_counts(&mut expert_tokens, item.expert_tokens);
    }
    Accumulated { gradients: accumulator.grads(), losses, expert_tokens, phases }
}
