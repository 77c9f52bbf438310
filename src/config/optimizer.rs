use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ConfigError;
use super::kind::with_kind;
use super::schema::check;

/// What turns gradients into new weights; `adamw` where no kind is given. In all of them decay is
/// decoupled from the gradient, and is for parameters of two or more dimensions only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", tag = "kind", rename_all = "kebab-case")]
pub enum OptimizerConfig {
    Adamw(AdamwConfig),
    Muon(MuonConfig),
    Sgd(SgdConfig),
    Lion(LionConfig),
}

/// AdamW (Loshchilov and Hutter 2019).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamwConfig {
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
    pub groups: Vec<ParameterGroup>,
}

/// Muon (Jordan et al. 2024) for the matrices between the embedding and the head, and AdamW for
/// all other parameters. Its updates are as large as AdamW's (Liu et al. 2025), so that the two
/// share a learning rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MuonConfig {
    pub momentum: f64,
    /// Looks ahead by one more step of the momentum.
    pub nesterov: bool,
    pub weight_decay: f64,
    /// For all that is no such matrix.
    pub adamw: MuonAdamwConfig,
    pub groups: Vec<ParameterGroup>,
}

/// The AdamW beside Muon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MuonAdamwConfig {
    /// Multiplies that of the schedule.
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
}

/// Gradient descent with momentum (Polyak 1964), or with Nesterov's (Sutskever et al. 2013).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SgdConfig {
    pub momentum: f64,
    pub nesterov: bool,
    pub weight_decay: f64,
    pub groups: Vec<ParameterGroup>,
}

/// Lion (Chen et al. 2023). Its authors take a third to a tenth of AdamW's learning rate, and as
/// many times its decay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LionConfig {
    pub beta1: f64,
    pub beta2: f64,
    pub weight_decay: f64,
    pub groups: Vec<ParameterGroup>,
}

/// Parameters that are treated otherwise than the rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParameterGroup {
    /// A pattern over the names of parameters: `*` is any text, `?` any character.
    pub parameters: String,
    /// Multiplies that of the schedule.
    #[serde(default = "one")]
    pub learning_rate: f64,
    /// For parameters of any dimensions; as for the rest where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
}

fn one() -> f64 {
    1.0
}

const BETAS: (f64, f64) = (0.9, 0.95);
const EPSILON: f64 = 1e-8;
const WEIGHT_DECAY: f64 = 0.1;

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self::Adamw(AdamwConfig::default())
    }
}

impl Default for AdamwConfig {
    fn default() -> Self {
        Self {
            beta1: BETAS.0,
            beta2: BETAS.1,
            epsilon: EPSILON,
            weight_decay: WEIGHT_DECAY,
            groups: Vec::new(),
        }
    }
}

impl Default for MuonConfig {
    fn default() -> Self {
        Self {
            momentum: 0.95,
            nesterov: true,
            weight_decay: WEIGHT_DECAY,
            adamw: MuonAdamwConfig::default(),
            groups: Vec::new(),
        }
    }
}

impl Default for MuonAdamwConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1.0,
            beta1: BETAS.0,
            beta2: BETAS.1,
            epsilon: EPSILON,
            weight_decay: WEIGHT_DECAY,
        }
    }
}

impl Default for SgdConfig {
    fn default() -> Self {
        Self { momentum: 0.9, nesterov: false, weight_decay: 0.0, groups: Vec::new() }
    }
}

impl Default for LionConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.99, weight_decay: WEIGHT_DECAY, groups: Vec::new() }
    }
}

impl OptimizerConfig {
    /// The first whose pattern matches a parameter is the parameter's.
    pub fn groups(&self) -> &[ParameterGroup] {
        match self {
            Self::Adamw(config) => &config.groups,
            Self::Muon(config) => &config.groups,
            Self::Sgd(config) => &config.groups,
            Self::Lion(config) => &config.groups,
        }
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        match self {
            Self::Adamw(config) => {
                share("train.optimizer.beta1", config.beta1)?;
                share("train.optimizer.beta2", config.beta2)?;
                positive("train.optimizer.epsilon", config.epsilon)?;
                not_negative("train.optimizer.weight_decay", config.weight_decay)?;
            }
            Self::Muon(config) => {
                momentum(config.momentum, config.nesterov)?;
                not_negative("train.optimizer.weight_decay", config.weight_decay)?;
                let adamw = &config.adamw;
                not_negative("train.optimizer.adamw.learning_rate", adamw.learning_rate)?;
                share("train.optimizer.adamw.beta1", adamw.beta1)?;
                share("train.optimizer.adamw.beta2", adamw.beta2)?;
                positive("train.optimizer.adamw.epsilon", adamw.epsilon)?;
                not_negative("train.optimizer.adamw.weight_decay", adamw.weight_decay)?;
            }
            Self::Sgd(config) => {
                momentum(config.momentum, config.nesterov)?;
                not_negative("train.optimizer.weight_decay", config.weight_decay)?;
            }
            Self::Lion(config) => {
                share("train.optimizer.beta1", config.beta1)?;
                share("train.optimizer.beta2", config.beta2)?;
                not_negative("train.optimizer.weight_decay", config.weight_decay)?;
            }
        }
        for group in self.groups() {
            if let Err(error) = glob::Pattern::new(&group.parameters) {
                return Err(ConfigError::Value {
                    path: "train.optimizer.groups".into(),
                    reason: format!("`{}` is no pattern: {}", group.parameters, error.msg),
                    nearest: None,
                });
            }
            not_negative("train.optimizer.groups.learning_rate", group.learning_rate)?;
            let decay = group.weight_decay.unwrap_or(0.0);
            not_negative("train.optimizer.groups.weight_decay", decay)?;
        }
        Ok(())
    }
}

impl Serialize for OptimizerConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for OptimizerConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(with_kind(deserializer, "adamw")?).map_err(D::Error::custom)
    }
}

fn share(path: &'static str, value: f64) -> Result<(), ConfigError> {
    check(path, value, (0.0..1.0).contains(&value), "at least 0 and below 1")
}

fn positive(path: &'static str, value: f64) -> Result<(), ConfigError> {
    check(path, value, value.is_finite() && value > 0.0, "a positive number")
}

fn not_negative(path: &'static str, value: f64) -> Result<(), ConfigError> {
    check(path, value, value.is_finite() && value >= 0.0, "zero or a positive number")
}

fn momentum(momentum: f64, nesterov: bool) -> Result<(), ConfigError> {
    share("train.optimizer.momentum", momentum)?;
    let expected = "above 0 where train.optimizer.nesterov is true";
    check("train.optimizer.momentum", momentum, momentum > 0.0 || !nesterov, expected)
}
