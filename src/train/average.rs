use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use std::collections::HashMap;

use crate::config::AverageConfig;

/// An exponential moving average of a model's weights (Polyak and Juditsky 1992), which often
/// generalises better than the last ones.
///
/// The first average is the weights at the first update. At update `t + 1` the average `a` becomes
/// `d a + (1 - d) w`, with `d = min(decay, (1 + t) / (10 + t))`: a young average forgets faster, so
/// that a short run is not averaged with its beginning.
#[derive(Debug, Clone)]
pub struct Average<B: Backend> {
    decay: f64,
    means: HashMap<ParamId, Mean<B>>,
}

/// The average of one parameter.
#[derive(Debug, Clone)]
pub struct Mean<B: Backend> {
    /// Flattened, `[N]`.
    pub value: Tensor<B, 1>,
    /// Updates so far.
    pub updates: usize,
}

impl<B: Backend> Average<B> {
    pub fn new(config: AverageConfig) -> Self {
        Self { decay: config.decay, means: HashMap::new() }
    }

    /// Takes in the weights that an optimizer step has left.
    pub fn update<M: Module<B>>(&mut self, model: &M) {
        model.visit(&mut Take { average: self });
    }

    /// The model with the averages in place of its weights.
    pub fn applied<M: Module<B>>(&self, model: M) -> M {
        model.map(&mut Apply { average: self })
    }

    /// The average of a parameter, once there is one.
    pub fn value(&self, id: ParamId) -> Option<&Mean<B>> {
        self.means.get(&id)
    }

    /// Goes on from an average that was kept.
    pub fn restore(&mut self, id: ParamId, mean: Mean<B>) {
        self.means.insert(id, mean);
    }
}

struct Take<'a, B: Backend> {
    average: &'a mut Average<B>,
}

impl<B: Backend> ModuleVisitor<B> for Take<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let weight = param.val();
        let count = weight.dims().iter().product::<usize>();
        let weight = weight.reshape([count]);
        let mean = match self.average.means.remove(&param.id) {
            None => Mean { value: weight, updates: 1 },
            Some(Mean { value, updates }) => {
                let t = updates as f64;
                let decay = self.average.decay.min((1.0 + t) / (10.0 + t));
                // In this form a weight that does not move is its own average, to the last bit.
                let step = (weight - value.clone()) * (1.0 - decay);
                Mean { value: value + step, updates: updates + 1 }
            }
        };
        self.average.means.insert(param.id, mean);
    }
}

struct Apply<'a, B: Backend> {
    average: &'a Average<B>,
}

impl<B: Backend> ModuleMapper<B> for Apply<'_, B> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        match self.average.value(param.id) {
            Some(mean) => param.map(|weight| mean.value.clone().reshape(weight.dims())),
            None => param,
        }
    }
}
