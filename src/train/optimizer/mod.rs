//! N numbers of a parameter, R rows and C columns of a matrix

mod adamw;
mod lion;
mod muon;
mod rule;
mod sgd;

use burn::module::{AutodiffModule, Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::adaptor::GradAdaptor;
use burn::optim::{GradientsParams, LearningRate, MultiGradientsParams, Optimizer};
use burn::record::Record;
use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use rule::OptimizerError;
use rule::{Algorithm, Rules};

use super::LanguageModel;
use super::replicas::copied;
use crate::backend::{AdamwUpdate, GptBackend, TrainBackend};
use crate::config::OptimizerConfig;
use crate::model::Parameter;

/// Any of the algorithms that a configuration can name, with parameter groups. Parameters of one
/// dimension, which are biases and norms, are not decayed, unless a group says so.
///
/// burn's `Learner` keeps its optimizer to itself; clones share their state, so that a
/// checkpoint can read it through a second handle.
#[derive(Debug, Clone)]
pub struct ModelOptimizer<B: AutodiffBackend> {
    rules: Arc<Rules>,
    state: Arc<Mutex<State<B::InnerBackend>>>,
}

#[derive(Debug)]
struct State<I: Backend> {
    moments: HashMap<ParamId, Moments<I>>,
    /// Of the next step alone.
    gradient_factor: f64,
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

/// How many moments are kept of each parameter, given by its name and shape.
///
/// # Errors
/// A parameter group that no parameter is in.
pub(super) fn moments_of(
    config: &OptimizerConfig,
    shapes: &[(String, Vec<usize>)],
) -> Result<Vec<usize>, OptimizerError> {
    let parameter = |(name, shape): &(String, Vec<usize>)| Parameter {
        name: name.clone(),
        id: ParamId::new(),
        shape: shape.clone(),
    };
    let parameters: Vec<Parameter> = shapes.iter().map(parameter).collect();
    let rules = Rules::new(config, &parameters)?;
    let moments = parameters.iter().map(|parameter| {
        match rules.of(parameter.id, parameter.shape.len()).algorithm {
            Algorithm::Adamw(_) => 2,
            Algorithm::Muon(_) | Algorithm::Lion(_) => 1,
            Algorithm::Sgd(sgd) => usize::from(sgd.momentum != 0.0),
        }
    });
    Ok(moments.collect())
}

impl<B: AutodiffBackend> ModelOptimizer<B> {
    /// An optimizer of the parameters of a model.
    ///
    /// # Errors
    /// A parameter group that no parameter of the model is in.
    pub fn new(config: &OptimizerConfig, model: &LanguageModel<B>) -> Result<Self, OptimizerError> {
        Self::of_module(config, &model.model)
    }

    /// The same for anything that has parameters.
    ///
    /// # Errors
    /// A parameter group that no parameter is in.
    pub fn of_module<M: Module<B>>(
        config: &OptimizerConfig,
        module: &M,
    ) -> Result<Self, OptimizerError> {
        let parameters = crate::model::parameters(module);
        let state = State { moments: HashMap::new(), gradient_factor: 1.0 };
        Ok(Self {
            rules: Arc::new(Rules::new(config, &parameters)?),
            state: Arc::new(Mutex::new(state)),
        })
    }

    /// The moments of a parameter, once it has been updated.
    pub fn moments(&self, id: ParamId) -> Option<Moments<B::InnerBackend>> {
        self.state().moments.get(&id).cloned()
    }

    /// Goes on from moments that were kept.
    pub fn restore(&self, id: ParamId, moments: Moments<B::InnerBackend>) {
        self.state().moments.insert(id, moments);
    }

    /// The same optimizer with a state of its own, on another device.
    pub(super) fn copied_to(&self, device: &B::Device) -> Self {
        let copy = |moment: &Option<Tensor<B::InnerBackend, 1>>| {
            moment.as_ref().map(|moment| copied(moment.clone(), device))
        };
        let state = self.state();
        let copies = state.moments.iter().map(|(id, moments)| {
            let Moments { first, second, step } = moments;
            (*id, Moments { first: copy(first), second: copy(second), step: *step })
        });
        let copy = State { moments: copies.collect(), gradient_factor: 1.0 };
        Self { rules: self.rules.clone(), state: Arc::new(Mutex::new(copy)) }
    }

    /// Multiplies all gradients of the next step, in the pass that updates the parameters.
    pub fn scale_gradients(&self, factor: f64) {
        self.state().gradient_factor = factor;
    }

    fn state(&self) -> MutexGuard<'_, State<B::InnerBackend>> {
        // A panic within a step ends the program: the moments may be gone from the map then.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: TrainBackend> ModelOptimizer<B> {
    fn update<M: AutodiffModule<B>>(&self, lr: f64, module: M, gradients: GradAdaptor) -> M {
        let state = &mut *self.state();
        let factor = std::mem::replace(&mut state.gradient_factor, 1.0);
        let mut collect = Collect {
            rules: &self.rules,
            moments: &mut state.moments,
            learning_rate: lr,
            gradient_factor: factor,
            gradients,
            variables: Vec::new(),
        };
        module.visit(&mut collect);
        let values = update_all(collect.variables, &mut state.moments);
        module.map(&mut Replace { values })
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
        self.state().moments.iter().map(record).collect()
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
        self.state().moments = record.into_iter().map(entry).collect();
        self
    }
}

/// Takes what there is of each parameter that has a gradient.
struct Collect<'a, B: AutodiffBackend> {
    rules: &'a Rules,
    moments: &'a mut HashMap<ParamId, Moments<B::InnerBackend>>,
    learning_rate: f64,
    gradient_factor: f64,
    gradients: GradAdaptor,
    variables: Vec<(ParamId, Algorithm, Variable<B::InnerBackend>)>,
}

impl<B: TrainBackend> ModuleVisitor<B> for Collect<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let Some((gradient, device)) = self.gradients.remove::<B::InnerBackend, D>(param.id) else {
            return; // frozen, or not part of this step
        };
        let rule = self.rules.of(param.id, D);
        let variable = Variable {
            value: param.val().inner().to_device(&device).flatten(0, D - 1),
            gradient: gradient.flatten(0, D - 1),
            gradient_factor: self.gradient_factor,
            moments: self.moments.remove(&param.id).unwrap_or_else(Moments::none),
            learning_rate: self.learning_rate * rule.learning_rate,
            weight_decay: rule.weight_decay,
        };
        self.variables.push((param.id, rule.algorithm, variable));
    }
}

/// The new values, flattened; the moments go where they are kept.
fn update_all<B: GptBackend>(
    variables: Vec<(ParamId, Algorithm, Variable<B>)>,
    kept: &mut HashMap<ParamId, Moments<B>>,
) -> HashMap<ParamId, Tensor<B, 1>> {
    let mut values = HashMap::with_capacity(variables.len());
    let mut of_adamw = Vec::new();
    for (id, algorithm, variable) in variables {
        let (value, moments) = match algorithm {
            Algorithm::Adamw(settings) => {
                of_adamw.push((id, adamw::prepare(&settings, variable)));
                continue;
            }
            Algorithm::Muon(settings) => muon::update(&settings, variable.scaled()),
            Algorithm::Sgd(settings) => sgd::update(&settings, variable.scaled()),
            Algorithm::Lion(settings) => lion::update(&settings, variable.scaled()),
        };
        values.insert(id, value);
        kept.insert(id, moments);
    }
    let (ids, updates): (Vec<ParamId>, Vec<AdamwUpdate<Tensor<B, 1>>>) =
        of_adamw.into_iter().unzip();
    let steps: Vec<usize> = updates.iter().map(|update| update.step.step).collect();
    let updated = B::adamw(updates);
    for ((id, step), [value, first, second]) in ids.into_iter().zip(steps).zip(updated) {
        values.insert(id, value);
        kept.insert(id, Moments { first: Some(first), second: Some(second), step });
    }
    values
}

/// Puts new values in the place of the old ones.
struct Replace<I: Backend> {
    values: HashMap<ParamId, Tensor<I, 1>>,
}

impl<B: TrainBackend> ModuleMapper<B> for Replace<B::InnerBackend> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let Some(new) = self.values.remove(&param.id) else { return param };
        param.map(|old| {
            let new = Tensor::from_inner(new.reshape(old.dims()));
            new.set_require_grad(old.is_require_grad())
        })
    }
}

/// One flattened parameter at one update.
struct Variable<B: Backend> {
    /// `[N]`
    value: Tensor<B, 1>,
    /// `[N]`
    gradient: Tensor<B, 1>,
    /// What it is to be multiplied by first.
    gradient_factor: f64,
    moments: Moments<B>,
    learning_rate: f64,
    weight_decay: f64,
}

impl<B: Backend> Variable<B> {
    /// With its gradient multiplied.
    fn scaled(mut self) -> Self {
        if self.gradient_factor != 1.0 {
            self.gradient = self.gradient * self.gradient_factor;
            self.gradient_factor = 1.0;
        }
        self
    }

    /// The value with its decay of this update, which is apart from the gradient (Loshchilov and
    /// Hutter 2019), less what the gradient asks for.
    fn moved_by(self, update: Tensor<B, 1>) -> Tensor<B, 1> {
        self.value * (1.0 - self.learning_rate * self.weight_decay) - update
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
