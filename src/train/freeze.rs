use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};
use std::collections::{HashMap, HashSet};

use super::LanguageModel;
use crate::config::{ConfigError, RunConfig, select_names};
use crate::model::{self, Model};

/// Which parameters a configuration trains, by their names: all but those that `train.freeze`
/// names, and beside adapters none but these; in both cases also those of `train.unfreeze`.
///
/// # Errors
/// A pattern that matches nothing, or if nothing is left to train.
pub fn trained(config: &RunConfig, names: &[String]) -> Result<Vec<bool>, ConfigError> {
    model::check_adapters(&config.model)?;
    let frozen = select_names("train.freeze", &config.train.freeze, names)?;
    let unfrozen = select_names("train.unfreeze", &config.train.unfreeze, names)?;
    let adapters_only = config.model.lora.is_some();
    let is_trained = |((name, frozen), unfrozen): ((&String, bool), bool)| {
        unfrozen || !frozen && (!adapters_only || model::is_adapter(name))
    };
    let trained: Vec<bool> = names.iter().zip(frozen).zip(unfrozen).map(is_trained).collect();
    if trained.contains(&true) { Ok(trained) } else { Err(ConfigError::AllFrozen) }
}

impl<B: Backend> LanguageModel<B> {
    /// A model as a configuration trains it: with its loss and in its precision, and with no
    /// gradient, and so no state of the optimizer, for what is frozen.
    ///
    /// # Errors
    /// As for [`trained`].
    pub fn for_training(model: Model<B>, config: &RunConfig) -> Result<Self, ConfigError> {
        let parameters = model::parameters(&model);
        let names: Vec<String> = parameters.iter().map(|found| found.name.clone()).collect();
        let trained = trained(config, &names)?;
        let frozen = parameters.iter().zip(trained).filter(|(_, trained)| !trained);
        let mut freeze = Freeze { ids: frozen.map(|(found, _)| found.id).collect() };
        let model = Self::new(model.map(&mut freeze), &config.model);
        Ok(model.trained_as(&config.train))
    }
}

impl<B: AutodiffBackend> LanguageModel<B> {
    /// The parameters that are trained, with how many numbers each has.
    pub fn trained_parameters(&self) -> HashMap<ParamId, usize> {
        let mut trained = Trained(HashMap::new());
        self.visit(&mut trained);
        trained.0
    }

    /// How many numbers are trained.
    pub fn trained_params(&self) -> usize {
        self.trained_parameters().values().sum()
    }
}

struct Freeze {
    ids: HashSet<ParamId>,
}

impl<B: Backend> ModuleMapper<B> for Freeze {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        if self.ids.contains(&param.id) { param.set_require_grad(false) } else { param }
    }
}

struct Trained(HashMap<ParamId, usize>);

impl<B: Backend> ModuleVisitor<B> for Trained {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if param.is_require_grad() {
            self.0.insert(param.id, param.dims().iter().product());
        }
    }
}
