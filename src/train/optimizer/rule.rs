//! What is done to which parameter.

use burn::module::ParamId;
use std::collections::HashMap;

use super::adamw::Adamw;
use super::lion::Lion;
use super::muon::Muon;
use super::sgd::Sgd;
use crate::config::OptimizerConfig;
use crate::config::ParameterGroup;
use crate::config::component;
use crate::model::Parameter;

/// What is wrong with an optimizer for a model.
#[derive(Debug, thiserror::Error)]
pub enum OptimizerError {
    #[error(
        "train.optimizer.groups: `{pattern}` matches no parameter of the model, which has {known}"
    )]
    NoMatch { pattern: String, known: String },
    #[error(
        "train.optimizer.groups: all parameters that `{pattern}` matches are in groups before it; put it first, or leave it out"
    )]
    Taken { pattern: String },
    #[error("train.optimizer.groups: `{pattern}` is no pattern: {reason}")]
    Pattern { pattern: String, reason: &'static str },
}

/// How one parameter is updated.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) algorithm: Algorithm,
    /// Multiplies that of the schedule.
    pub(super) learning_rate: f64,
    pub(super) weight_decay: f64,
}

#[derive(Debug, Clone)]
pub(super) enum Algorithm {
    Adamw(Adamw),
    Muon(Muon),
    Sgd(Sgd),
    Lion(Lion),
}

/// The rule of each parameter.
#[derive(Debug)]
pub(super) struct Rules {
    config: OptimizerConfig,
    of: HashMap<ParamId, Rule>,
}

impl Rules {
    pub(super) fn new(
        config: &OptimizerConfig,
        parameters: &[Parameter],
    ) -> Result<Self, OptimizerError> {
        let group_of = assign(config.groups(), parameters)?;
        let mut of = HashMap::new();
        for (parameter, group) in parameters.iter().zip(group_of) {
            let mut rule =
                Rule::new(config, parameter.shape.len(), projections(parameter, parameters));
            if let Some(group) = group {
                rule.learning_rate *= group.learning_rate;
                rule.weight_decay = group.weight_decay.unwrap_or(rule.weight_decay);
            }
            of.insert(parameter.id, rule);
        }
        Ok(Self { config: config.clone(), of })
    }

    /// The rule of a parameter, which is the plain one for a parameter that the model has gained
    /// since.
    pub(super) fn of(&self, id: ParamId, dimensions: usize) -> Rule {
        let rule = self.of.get(&id).cloned();
        rule.unwrap_or_else(|| Rule::new(&self.config, dimensions, None))
    }
}

impl Rule {
    /// The rule of a parameter in no group. `hidden` is what Muon knows of a matrix that is its.
    fn new(config: &OptimizerConfig, dimensions: usize, hidden: Option<Projections>) -> Self {
        let (algorithm, learning_rate, weight_decay) = match (config, hidden) {
            (OptimizerConfig::Adamw(config), _) => {
                let (beta1, beta2, epsilon) = (config.beta1, config.beta2, config.epsilon);
                (Algorithm::Adamw(Adamw { beta1, beta2, epsilon }), 1.0, config.weight_decay)
            }
            (OptimizerConfig::Muon(config), Some(Projections { rows, parts })) => {
                let (momentum, nesterov) = (config.momentum, config.nesterov);
                let muon = Muon { momentum, nesterov, rows, parts };
                (Algorithm::Muon(muon), 1.0, config.weight_decay)
            }
            (OptimizerConfig::Muon(config), None) => {
                let config = &config.adamw;
                let (beta1, beta2, epsilon) = (config.beta1, config.beta2, config.epsilon);
                let adamw = Adamw { beta1, beta2, epsilon };
                (Algorithm::Adamw(adamw), config.learning_rate, config.weight_decay)
            }
            (OptimizerConfig::Sgd(config), _) => {
                let (momentum, nesterov) = (config.momentum, config.nesterov);
                (Algorithm::Sgd(Sgd { momentum, nesterov }), 1.0, config.weight_decay)
            }
            (OptimizerConfig::Lion(config), _) => {
                let (beta1, beta2) = (config.beta1, config.beta2);
                (Algorithm::Lion(Lion { beta1, beta2 }), 1.0, config.weight_decay)
            }
        };
        let weight_decay = if dimensions >= 2 { weight_decay } else { 0.0 };
        Self { algorithm, learning_rate, weight_decay }
    }
}

/// The group of each parameter.
fn assign<'a>(
    groups: &'a [ParameterGroup],
    parameters: &[Parameter],
) -> Result<Vec<Option<&'a ParameterGroup>>, OptimizerError> {
    let mut group_of = vec![None; parameters.len()];
    for group in groups {
        let pattern = || group.parameters.clone();
        let compiled = glob::Pattern::new(&group.parameters)
            .map_err(|error| OptimizerError::Pattern { pattern: pattern(), reason: error.msg })?;
        let (mut matched, mut taken) = (false, false);
        for (parameter, place) in parameters.iter().zip(&mut group_of) {
            if compiled.matches(&parameter.name) {
                matched = true;
                taken |= place.is_none();
                place.get_or_insert(group);
            }
        }
        if !matched {
            return Err(OptimizerError::NoMatch { pattern: pattern(), known: known(parameters) });
        }
        if !taken {
            return Err(OptimizerError::Taken { pattern: pattern() });
        }
    }
    Ok(group_of)
}

/// The names, with all layers in one.
fn known(parameters: &[Parameter]) -> String {
    let mut names: Vec<String> = Vec::new();
    for parameter in parameters {
        let name = component(&parameter.name);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(", ")
}

/// The matrices in one that Muon updates.
struct Projections {
    rows: usize,
    parts: Vec<usize>,
}

/// The projections that a hidden matrix consists of; none for any other parameter. Queries, keys
/// and values lie side by side in `attention.qkv`, keys and values in `cross_attention.key_value`;
/// how wide the queries are is seen from the output projection, which reads as many.
fn projections(parameter: &Parameter, all: &[Parameter]) -> Option<Projections> {
    let name = &parameter.name;
    let [rows, columns] = parameter.shape[..] else { return None };
    if name.starts_with("embedding.") || name.starts_with("head.") {
        return None;
    }
    let queries = match name.strip_suffix("qkv.weight") {
        Some(attention) => {
            let output = format!("{attention}output.weight");
            all.iter().find(|other| other.name == output).map(|output| output.shape[0])
        }
        None => name.ends_with(".key_value.weight").then_some(0),
    };
    let parts = match queries {
        Some(queries) if queries < columns => {
            let each = (columns - queries) / 2;
            [queries, each, columns - queries - each].into_iter().filter(|part| *part > 0).collect()
        }
        _ => vec![columns],
    };
    Some(Projections { rows, parts })
}
