//! The gradients of a step whose micro-batches several devices share.
//!
//! N numbers of a parameter, M micro-batches of a step

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use std::collections::HashMap;

use super::LanguageModel;
use super::accumulate::Accumulated;
use super::evaluate::add_counts;
use crate::backend::{GptBackend, LeftAlone, Member, TrainBackend};

/// Numbers that are sent at a time, unless a parameter has more. Few large tensors take less time
/// than many small ones, and all in one would need the memory of all gradients once more.
const BUCKET: usize = 1 << 24;

/// What a device tells the others before its gradients.
struct Message {
    /// Whether there is a gradient, of each parameter in the order of the model. Experts without
    /// tokens have none.
    has_gradient: Vec<bool>,
    expert_tokens: Vec<Vec<usize>>,
}

/// Gradients and counts summed over all devices, and the losses of all, `[M]`, of which rank `r` of
/// `R` has brought those at `r`, `r + R`, `r + 2 R`, and so on. Every device has the same then, and
/// has what a single one would have, but for the order of sums.
pub(super) fn all_reduce<B: TrainBackend>(
    model: &LanguageModel<B>,
    accumulated: Accumulated<B>,
    micro_batches: usize,
    device: &B::Device,
    member: &Member,
) -> Result<Accumulated<B>, LeftAlone> {
    let Accumulated { mut gradients, losses, expert_tokens, phases } = accumulated;
    let mut look = Look { gradients: &gradients, has_gradient: Vec::new() };
    Module::<B>::visit(model, &mut look);
    let messages = member.meet(Message { has_gradient: look.has_gradient, expert_tokens })?;

    let mut expert_tokens = Vec::new();
    for message in &messages {
        add_counts(&mut expert_tokens, message.expert_tokens.clone());
    }
    let anywhere = |index: usize| messages.iter().any(|message| message.has_gradient[index]);
    let mut take =
        Take::<B> { gradients: &mut gradients, anywhere: &anywhere, seen: 0, taken: Vec::new() };
    Module::<B>::visit(model, &mut take);
    let (ids, mut tensors): (Vec<ParamId>, Vec<_>) = take.taken.into_iter().unzip();

    let mut own = losses.into_iter();
    let losses = (0..micro_batches).map(|place| {
        let own = if place % member.members() == member.rank() { own.next() } else { None };
        own.unwrap_or_else(|| Tensor::zeros([1], device))
    });
    // What is added to a loss is zero.
    tensors.push(Tensor::cat(losses.collect(), 0)); // [M]
    let mut sums = sum_all(tensors, member)?;
    let losses = sums.pop().expect("the losses came last");
    let sums = ids.into_iter().zip(sums).collect();
    Module::<B>::visit(model, &mut Put::<B> { gradients: &mut gradients, sums });
    Ok(Accumulated { gradients, losses: vec![losses], expert_tokens, phases })
}

/// Each tensor's sum over the devices, `[N]` each.
fn sum_all<I: GptBackend>(
    tensors: Vec<Tensor<I, 1>>,
    member: &Member,
) -> Result<Vec<Tensor<I, 1>>, LeftAlone> {
    let mut sums = Vec::with_capacity(tensors.len());
    let (mut bucket, mut numbers) = (Vec::new(), 0);
    for tensor in tensors {
        let count = tensor.dims()[0];
        if numbers + count > BUCKET && numbers > 0 {
            sums.extend(sum_bucket(std::mem::take(&mut bucket), member)?);
            numbers = 0;
        }
        bucket.push(tensor);
        numbers += count;
    }
    sums.extend(sum_bucket(bucket, member)?);
    Ok(sums)
}

fn sum_bucket<I: GptBackend>(
    bucket: Vec<Tensor<I, 1>>,
    member: &Member,
) -> Result<Vec<Tensor<I, 1>>, LeftAlone> {
    let counts: Vec<usize> = bucket.iter().map(|tensor| tensor.dims()[0]).collect();
    Ok(I::all_reduce(Tensor::cat(bucket, 0), member)?.split_with_sizes(counts, 0))
}

/// Sees which gradients there are.
struct Look<'a> {
    gradients: &'a GradientsParams,
    has_gradient: Vec<bool>,
}

impl<B: TrainBackend> ModuleVisitor<B> for Look<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let gradient = self.gradients.get::<B::InnerBackend, D>(param.id);
        self.has_gradient.push(gradient.is_some());
    }
}

/// Takes the gradients that there are on any device, flattened; zeros for those that are elsewhere
/// alone.
struct Take<'a, B: TrainBackend> {
    gradients: &'a mut GradientsParams,
    /// By the parameter's place in the model.
    anywhere: &'a dyn Fn(usize) -> bool,
    /// Parameters.
    seen: usize,
    taken: Vec<(ParamId, Tensor<B::InnerBackend, 1>)>,
}

impl<B: TrainBackend> ModuleVisitor<B> for Take<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        self.seen += 1;
        if !(self.anywhere)(self.seen - 1) {
            return;
        }
        let gradient = match self.gradients.remove::<B::InnerBackend, D>(param.id) {
            Some(gradient) => gradient.flatten(0, D - 1),
            None => {
                let weight = param.val();
                Tensor::zeros([weight.shape().num_elements()], &weight.device())
            }
        };
        self.taken.push((param.id, gradient));
    }
}

/// Puts sums in the place of the gradients.
struct Put<'a, B: TrainBackend> {
    gradients: &'a mut GradientsParams,
    sums: HashMap<ParamId, Tensor<B::InnerBackend, 1>>,
}

impl<B: TrainBackend> ModuleVisitor<B> for Put<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if let Some(sum) = self.sums.remove(&param.id) {
            let sum = sum.reshape(param.val().dims());
            self.gradients.register::<B::InnerBackend, D>(param.id, sum);
        }
    }
}
