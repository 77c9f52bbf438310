//! N numbers of a parameter, R rows and C columns of a matrix

mod adamw;
mod lion;
mod muon;
mod rule;
mod sgd;

use burn::module::{AutodiffModule, ModuleMapper, Param, ParamId};
use burn::optim::adaptor::GradAdaptor;
use burn::optim::{GradientsParams, LearningRate, MultiGradientsParams, Optimizer};
use burn::record::Record;
use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use rule::OptimizerError;
use rule::{Algorithm, Rule, Rules};

use super::LanguageModel;
use crate::backend::{GptBackend, TrainBackend};
use crate::config::OptimizerConfig;

/// Any of the algorithms that a configuration can name, with parameter groups. Parameters of one
/// dimension, which are biases and norms, are not decayed, unless a group says so.
///
/// burn's `Learner` keeps its optimizer to itself; clones share their state, so that a
/// checkpoint can read it through a second handle.
#[derive(Debug, Clone)]
pub struct ModelOptimizer<B: AutodiffBackend> {
    rules: Arc<Rules>,
    state: Arc<Mutex<HashMap<ParamId, Moments<B::InnerBackend>>>>,
}

/// The running moments of one parameter's gradient, flattened: all that an algorithm remembers.
#[derive(Debug, Clone)]
pub struct Moments<B: Backend> {
    /// Mean of the gradient, or with SGD a decaying sum, `[N]`.
    pub first: Option<Tensor<B, 1>>,
    /// Mean of its square, `[N]`; AdamW's alone.
    pub second: Option<Tensor<B, 1>>,
    /// Updates so far.
    pub step: usize,
}

impl<B: Backend> Moments<B> {
    /// Before the first update.
    fn none() -> Self {
        Self { first: None, second: None, step: 0 }
    }
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
    /// An optimizer of the parameters of a model.
    ///
    /// # Errors
    /// A parameter group that no parameter of the model is in.
    pub fn new(config: &OptimizerConfig, model: &LanguageModel<B>) -> Result<Self, OptimizerError> {
        let parameters = crate::model::parameters(&model.model);
        Ok(Self { rules: Arc::new(Rules::new(config, &parameters)?), state: Arc::default() })
    }

    /// The moments of a parameter, once it has been updated.
    pub fn moments(&self, id: ParamId) -> Option<Moments<B::InnerBackend>> {
        self.state().get(&id).cloned()
    }

    /// Goes on from moments that were kept.
    pub fn restore(&self, id: ParamId, moments: Moments<B::InnerBackend>) {
        self.state().insert(id, moments);
    }

    fn state(&self) -> MutexGuard<'_, HashMap<ParamId, Moments<B::InnerBackend>>> {
        // The map is whole between insertions, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: TrainBackend> ModelOptimizer<B> {
    fn update<M: AutodiffModule<B>>(&self, lr: f64, module: M, gradients: GradAdaptor) -> M {
        module.map(&mut Update {
            rules: &self.rules,
            state: &mut self.state(),
            learning_rate: lr,
            gradients,
        })
    }
}

impl<B: TrainBackend, M: AutodiffModule<B>> Optimizer<M, B> for ModelOptimizer<B> {
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
    rules: &'a Rules,
    state: &'a mut HashMap<ParamId, Moments<B::InnerBackend>>,
    learning_rate: f64,
    gradients: GradAdaptor,
}

impl<B: TrainBackend> ModuleMapper<B> for Update<'_, B> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let Some((gradient, device)) = self.gradients.remove::<B::InnerBackend, D>(param.id) else {
            return param; // frozen, or not part of this step
        };
        let id = param.id;
        param.map(|value| {
            let requires_grad = value.is_require_grad();
            let shape = value.dims();
            let count: usize = shape.iter().product();
            let rule = self.rules.of(id, D);
            let variable = Variable {
                value: value.inner().to_device(&device).reshape([count]),
                gradient: gradient.reshape([count]),
                moments: self.state.remove(&id).unwrap_or_else(Moments::none),
                learning_rate: self.learning_rate * rule.learning_rate,
                weight_decay: rule.weight_decay,
            };
            let (value, moments) = apply(&rule, variable);
            self.state.insert(id, moments);
            Tensor::from_inner(value.reshape(shape)).set_require_grad(requires_grad)
        })
    }
}

/// One flattened parameter at one update.
struct Variable<B: Backend> {
    /// `[N]`
    value: Tensor<B, 1>,
    /// `[N]`
    gradient: Tensor<B, 1>,
    moments: Moments<B>,
    learning_rate: f64,
    weight_decay: f64,
}

impl<B: Backend> Variable<B> {
    /// The value with its decay of this update, which is apart from the gradient (Loshchilov and
    /// Hutter 2019), less what the gradient asks for.
    fn moved_by(self, update: Tensor<B, 1>) -> Tensor<B, 1> {
        self.value * (1.0 - self.learning_rate * self.weight_decay) - update
    }
}

fn apply<B: GptBackend>(rule: &Rule, variable: Variable<B>) -> (Tensor<B, 1>, Moments<B>) {
    match &rule.algorithm {
        Algorithm::Adamw(settings) => adamw::update(settings, variable),
        Algorithm::Muon(settings) => muon::update(settings, variable),
        Algorithm::Sgd(settings) => sgd::update(settings, variable),
        Algorithm::Lion(settings) => lion::update(settings, variable),
    }
}

/// `beta old + (1 - beta) new`, where the first old one is zero.
fn running_mean<B: Backend>(
    old: Option<Tensor<B, 1>>,
    new: Tensor<B, 1>,
    beta: f64,
) -> Tensor<B, 1> {
    match old {
        Some(old) => old * beta + new * (1.0 - beta),
        None => new * (1.0 - beta),
    }
}
