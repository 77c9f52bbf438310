use burn::module::{AutodiffModule, ModuleMapper, Param, ParamId};
use burn::optim::adaptor::GradAdaptor;
use burn::optim::{GradientsParams, LearningRate, MultiGradientsParams, Optimizer};
use burn::record::Record;
use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::OptimizerConfig;

/// AdamW with decoupled decay (Loshchilov and Hutter 2019, algorithm 2), in PyTorch's order of
/// operations. Parameters of one dimension, which are biases and norms, are not decayed.
///
/// burn's `Learner` keeps its optimizer to itself; clones share their state, so that a
/// checkpoint can read it through a second handle.
#[derive(Debug, Clone)]
pub struct ModelOptimizer<B: AutodiffBackend> {
    config: OptimizerConfig,
    state: Arc<Mutex<HashMap<ParamId, Moments<B::InnerBackend>>>>,
}

/// The running moments of one parameter's gradient, flattened.
#[derive(Debug, Clone)]
pub struct Moments<B: Backend> {
    /// Mean of the gradient, `[N]`.
    pub first: Option<Tensor<B, 1>>,
    /// Mean of its square, `[N]`.
    pub second: Option<Tensor<B, 1>>,
    /// Updates so far.
    pub step: usize,
}

/// [`Moments`] as burn records them.
#[derive(Record, Debug, Clone)]
pub struct MomentsRecord<B: Backend> {
    id: String,
    first: Option<Tensor<B, 1>>,
    second: Option<Tensor<B, 1>>,
    step: usize,
}

impl<B: AutodiffBackend> ModelOptimizer<B> {
    pub fn new(config: OptimizerConfig) -> Self {
        Self { config, state: Arc::default() }
    }

    /// The moments of a parameter, once it has been updated.
    pub fn moments(&self, id: ParamId) -> Option<Moments<B::InnerBackend>> {
        self.state().get(&id).cloned()
    }

    /// Goes on from moments that were kept.
    pub fn restore(&self, id: ParamId, moments: Moments<B::InnerBackend>) {
        self.state().insert(id, moments);
    }

    fn update<M: AutodiffModule<B>>(&self, lr: f64, module: M, gradients: GradAdaptor) -> M {
        module.map(&mut Update {
            config: &self.config,
            state: &mut self.state(),
            learning_rate: lr,
            gradients,
        })
    }

    fn state(&self) -> MutexGuard<'_, HashMap<ParamId, Moments<B::InnerBackend>>> {
        // The map is whole between insertions, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: AutodiffBackend, M: AutodiffModule<B>> Optimizer<M, B> for ModelOptimizer<B> {
    type Record = Vec<MomentsRecord<B>>;

    fn step(&mut self, lr: LearningRate, module: M, gradients: GradientsParams) -> M {
        self.update(lr, module, GradAdaptor::from(gradients))
    }

    fn step_multi(&mut self, lr: LearningRate, module: M, gradients: MultiGradientsParams) -> M {
        self.update(lr, module, GradAdaptor::from(gradients))
    }

    fn to_record(&self) -> Self::Record {
        let record = |(id, moments): (&ParamId, &Moments<B::InnerBackend>)| MomentsRecord {
            id: id.serialize(),
            first: moments.first.clone().map(Tensor::from_inner),
            second: moments.second.clone().map(Tensor::from_inner),
            step: moments.step,
        };
        self.state().iter().map(record).collect()
    }

    fn load_record(self, record: Self::Record) -> Self {
        let entry = |record: MomentsRecord<B>| {
            let moments = Moments {
                first: record.first.map(Tensor::inner),
                second: record.second.map(Tensor::inner),
                step: record.step,
            };
            (ParamId::deserialize(&record.id), moments)
        };
        *self.state() = record.into_iter().map(entry).collect();
        self
    }
}

struct Update<'a, B: AutodiffBackend> {
    config: &'a OptimizerConfig,
    state: &'a mut HashMap<ParamId, Moments<B::InnerBackend>>,
    learning_rate: f64,
    gradients: GradAdaptor,
}

impl<B: AutodiffBackend> ModuleMapper<B> for Update<'_, B> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let Some((gradient, device)) = self.gradients.remove::<B::InnerBackend, D>(param.id) else {
            return param; // frozen, or not part of this step
        };
        let id = param.id;
        param.map(|value| {
            let requires_grad = value.is_require_grad();
            let shape = value.dims();
            let count: usize = shape.iter().product();
            let value = value.inner().to_device(&device).reshape([count]);
            let weight_decay = if D >= 2 { self.config.weight_decay } else { 0.0 };
            let moments = self.state.remove(&id);
            let (value, moments) = adamw(
                self.config,
                value,
                gradient.reshape([count]),
                moments,
                self.learning_rate,
                weight_decay,
            );
            self.state.insert(id, moments);
            Tensor::from_inner(value.reshape(shape)).set_require_grad(requires_grad)
        })
    }
}

/// One update of one flattened parameter.
fn adamw<B: Backend>(
    config: &OptimizerConfig,
    value: Tensor<B, 1>,
    gradient: Tensor<B, 1>,
    moments: Option<Moments<B>>,
    learning_rate: f64,
    weight_decay: f64,
) -> (Tensor<B, 1>, Moments<B>) {
    let (beta1, beta2) = (config.beta1, config.beta2);
    let mean = |old: Option<Tensor<B, 1>>, new: Tensor<B, 1>, beta: f64| match old {
        Some(old) => old * beta + new * (1.0 - beta),
        None => new * (1.0 - beta),
    };
    let old = moments.unwrap_or(Moments { first: None, second: None, step: 0 });
    let first = mean(old.first, gradient.clone(), beta1);
    let second = mean(old.second, gradient.clone() * gradient, beta2);
    let step = old.step + 1;
    let (correction1, correction2) = (1.0 - beta1.powf(step as f64), 1.0 - beta2.powf(step as f64));
    let denominator = second.clone().sqrt() / correction2.sqrt() + config.epsilon;
    let update = first.clone() / denominator * (learning_rate / correction1);
    let value = value * (1.0 - learning_rate * weight_decay) - update;
    (value, Moments { first: Some(first), second: Some(second), step })
}
