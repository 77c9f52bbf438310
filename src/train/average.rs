use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};
use std::collections::HashMap;

use super::LanguageModel;
use crate::config::AverageConfig;

/// An exponential moving average of a model's weights (Polyak and Juditsky 1992), which often
/// generalises better than the last ones.
///
/// The first average is the weights at the first update. At update `t + 1` the average `a` becomes
/// `d a + (1 - d) w`, with `d = min(decay, (1 + t) / (10 + t))`: a young average forgets faster, so
/// that a short run is not averaged with its beginning. What is frozen has no average.
#[derive(Debug, Clone)]
pub struct Average<B: AutodiffBackend> {
    decay: f64,
    updates: usize,
    /// Flattened, `[N]`.
    means: HashMap<ParamId, Tensor<B::InnerBackend, 1>>,
}

impl<B: AutodiffBackend> Average<B> {
    /// One that has taken in so many weights before; their averages are restored then.
    pub fn new(config: AverageConfig, updates: usize) -> Self {
        Self { decay: config.decay, updates, means: HashMap::new() }
    }

    /// Weights that were taken in.
    pub fn updates(&self) -> usize {
        self.updates
    }

    /// Takes in the weights that an optimizer step has left.
    pub fn update(&mut self, model: &LanguageModel<B>) {
        let t = self.updates as f64;
        let decay = self.decay.min((1.0 + t) / (10.0 + t));
        model.visit(&mut Take { means: &mut self.means, decay });
        self.updates += 1;
    }

    /// The model with the averages in place of its weights.
    pub fn applied<M: Module<B::InnerBackend>>(&self, model: M) -> M {
        model.map(&mut Apply::<B> { means: &self.means })
    }

    /// Goes on from the average of a parameter, `[N]`.
    pub fn restore(&mut self, id: ParamId, mean: Tensor<B::InnerBackend, 1>) {
        self.means.insert(id, mean);
    }
}

struct Take<'a, B: AutodiffBackend> {
    means: &'a mut HashMap<ParamId, Tensor<B::InnerBackend, 1>>,
    decay: f64,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for Take<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if !param.is_require_grad() {
            return;
        }
        let weight = param.val().inner().flatten(0, D - 1);
        let mean = match self.means.remove(&param.id) {
            None => weight,
            // In this form a weight that does not move is its own average, to the last bit.
            Some(mean) => mean.clone() + (weight - mean) * (1.0 - self.decay),
        };
        self.means.insert(param.id, mean);
    }
}

struct Apply<'a, B: AutodiffBackend> {
    means: &'a HashMap<ParamId, Tensor<B::InnerBackend, 1>>,
}

impl<B: AutodiffBackend, I: Backend> ModuleMapper<I> for Apply<'_, B>
where
    B: AutodiffBackend<InnerBackend = I>,
{
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<I, D>>) -> Param<Tensor<I, D>> {
        match self.means.get(&param.id) {
            Some(mean) => param.map(|weight| mean.clone().reshape(weight.dims())),
            None => param,
        }
    }
}
