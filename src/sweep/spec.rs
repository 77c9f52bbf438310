use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::trial::{drawn, grid};
use super::{Distribution, Rung, SweepError, Trial, rungs};
use crate::config::{self, ConfigError, Source};

/// Trials that anybody has the patience for.
const MOST_TRIALS: usize = 10_000;

const BUILTIN: [(&str, &str); 2] = [
    ("learning-rate", include_str!("../../sweep-configs/learning-rate.json")),
    ("shape", include_str!("../../sweep-configs/shape.json")),
];

/// The names of the built-in sweeps.
pub fn builtin_sweeps() -> impl Iterator<Item = &'static str> {
    BUILTIN.iter().map(|(name, _)| *name)
}

/// A search over the keys of a configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    /// Of the folder of its results, and with a number of each of its runs.
    pub name: String,
    /// What all trials begin with, with `set` laid on it.
    pub base: Value,
    /// Keys of the configuration by their paths, and what they may be.
    pub search: BTreeMap<String, Distribution>,
    pub method: Method,
    pub metric: Metric,
}

/// Which trials there are, and how long each is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Method {
    /// Every combination of the values.
    Grid {},
    /// So many at random.
    Random {
        trials: usize,
        #[serde(default = "default_seed")]
        seed: u64,
    },
    /// So many at random, of which ever fewer are trained ever longer.
    SuccessiveHalving {
        trials: usize,
        /// Of the first rung.
        steps: u64,
        #[serde(default = "default_factor")]
        factor: usize,
        #[serde(default = "default_seed")]
        seed: u64,
    },
}

fn default_seed() -> u64 {
    1337
}

/// As in Li et al. 2018, section 3.1, which found little difference between 3 and 4.
fn default_factor() -> usize {
    3
}

/// What trials are compared by, over the whole validation split: the lower the better.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Nats a token.
    #[default]
    Loss,
    /// For tokenizers that cut the text otherwise.
    BitsPerByte,
}

impl Metric {
    pub fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::BitsPerByte => "bits a byte",
        }
    }
}

/// As it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    name: String,
    #[serde(default = "default_config")]
    config: String,
    #[serde(default)]
    set: Map<String, Value>,
    search: Map<String, Value>,
    #[serde(default = "default_method")]
    method: Method,
    #[serde(default)]
    metric: Metric,
}

fn default_config() -> String {
    "stories".into()
}

fn default_method() -> Method {
    Method::Grid {}
}

impl Sweep {
    /// A built-in sweep by its name, or one of a file.
    ///
    /// # Errors
    /// One that cannot be read, or that makes no sense.
    pub fn load(name: &str) -> Result<Self, SweepError> {
        if let Some((name, text)) = BUILTIN.iter().find(|(builtin, _)| *builtin == name) {
            return Self::parse(text, &format!("the built-in sweep `{name}`"), None);
        }
        let path = PathBuf::from(name);
        if !path.is_file() && !name.ends_with(".json") {
            let known = builtin_sweeps().collect::<Vec<_>>().join(", ");
            return Err(SweepError::UnknownName { name: name.into(), known });
        }
        let text = std::fs::read_to_string(&path).map_err(|error| SweepError::Unreadable {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        Self::parse(&text, name, path.parent())
    }

    /// `folder` is where a configuration's file is looked for.
    ///
    /// # Errors
    /// A text that makes no sense.
    pub fn parse(text: &str, origin: &str, folder: Option<&Path>) -> Result<Self, SweepError> {
        let value: Value = serde_json::from_str(text).map_err(|error| SweepError::Syntax {
            origin: origin.into(),
            reason: error.to_string(),
        })?;
        let key = |source: ConfigError| SweepError::Key { origin: origin.into(), source };
        let document: Document = config::deserialize(value).map_err(key)?;
        let mut search = BTreeMap::new();
        for (path, value) in document.search {
            let value = match value {
                Value::Array(values) => json!({ "kind": "choice", "values": values }),
                value => value,
            };
            let distribution = within("search", &path, value).map_err(key)?;
            search.insert(path, distribution);
        }
        let mut base = Source::find(&document.config, folder)
            .and_then(|source| config::load_value(&source))
            .map_err(key)?;
        let assignments: Vec<String> =
            document.set.iter().map(|(path, value)| format!("{path}={value}")).collect();
        config::override_values(&mut base, &assignments).map_err(key)?;
        let Document { name, method, metric, .. } = document;
        let sweep = Self { name, base, search, method, metric };
        sweep.check(origin, document.set.keys())?;
        Ok(sweep)
    }

    fn check<'a>(
        &'a self,
        origin: &str,
        set: impl Iterator<Item = &'a String>,
    ) -> Result<(), SweepError> {
        let range = |path: &str, found: String, expected| {
            let (origin, path) = (origin.into(), path.into());
            Err(SweepError::Range { origin, path, found, expected })
        };
        let is_plain = |c: char| c.is_alphanumeric() || ['-', '_', '.'].contains(&c);
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.chars().all(is_plain) {
            let expected = "letters, digits, dashes, dots and underscores";
            return range("name", self.name.clone(), expected);
        }
        if self.search.is_empty() {
            return range("search", "{}".into(), "at least one key of the configuration");
        }
        for (path, distribution) in &self.search {
            if let Some((key, found, expected)) = distribution.wrong() {
                return range(&format!("search.{path}.{key}"), found, expected);
            }
        }
        let mut paths: Vec<&String> = self.search.keys().chain(set).collect();
        paths.sort();
        for pair in paths.windows(2) {
            if pair[0] == pair[1] || pair[1].starts_with(&format!("{}.", pair[0])) {
                let (first, second) = (pair[0].clone(), pair[1].clone());
                // What `set` says of an object, `search` may say more of.
                if pair[0] == pair[1] || self.search.contains_key(&first) {
                    return Err(SweepError::Twice { origin: origin.into(), first, second });
                }
            }
        }
        match self.method {
            Method::Grid {} => {
                let lists = self.search.iter();
                if let Some((path, _)) = lists.clone().find(|(_, it)| it.values().is_none()) {
                    let (origin, path) = (origin.into(), path.clone());
                    return Err(SweepError::NotListed { origin, path });
                }
                let counts = lists.map(|(_, it)| it.values().unwrap_or_default().len());
                let trials = counts.fold(1, usize::saturating_mul);
                if trials > MOST_TRIALS {
                    let (origin, trials) = (origin.into(), trials.to_string());
                    return Err(SweepError::TooMany { origin, trials, most: MOST_TRIALS });
                }
                Ok(())
            }
            Method::Random { trials, .. } => {
                if !(1..=MOST_TRIALS).contains(&trials) {
                    return range("method.trials", trials.to_string(), "from 1 to 10000");
                }
                Ok(())
            }
            Method::SuccessiveHalving { trials, steps, factor, .. } => {
                if !(2..=MOST_TRIALS).contains(&trials) {
                    return range("method.trials", trials.to_string(), "from 2 to 10000");
                }
                if steps == 0 {
                    return range("method.steps", steps.to_string(), "at least 1");
                }
                if !(2..=trials).contains(&factor) {
                    let expected = "at least 2 and at most method.trials";
                    return range("method.factor", factor.to_string(), expected);
                }
                let lengths = ["steps", "epochs", "tokens", "minutes"];
                let of_length = |path: &&String| {
                    path.strip_prefix("train.").is_some_and(|key| lengths.contains(&key))
                };
                match self.search.keys().find(of_length) {
                    Some(path) => Err(SweepError::Twice {
                        origin: origin.into(),
                        first: "method.steps".into(),
                        second: format!("search.{path}"),
                    }),
                    None => Ok(()),
                }
            }
        }
    }

    /// The trials, which follow from what is written and nothing else.
    pub fn trials(&self) -> Vec<Trial> {
        match self.method {
            Method::Grid {} => grid(&self.search),
            Method::Random { trials, seed } | Method::SuccessiveHalving { trials, seed, .. } => {
                drawn(&self.search, trials, seed)
            }
        }
    }

    /// The rungs of so many trials; of methods without any, one as long as the configuration says.
    pub fn rungs(&self, trials: usize) -> Vec<Rung> {
        match self.method {
            Method::SuccessiveHalving { steps, factor, .. } => rungs(trials, steps, factor),
            Method::Grid {} | Method::Random { .. } => vec![Rung { steps: None, trials }],
        }
    }

    /// The steps of the last rung that there could be: what learning rates are to come down by.
    pub fn longest(&self) -> Option<u64> {
        match self.method {
            Method::SuccessiveHalving { trials, .. } => self.rungs(trials).last()?.steps,
            Method::Grid {} | Method::Random { .. } => None,
        }
    }

    pub fn paths(&self) -> Vec<String> {
        self.search.keys().cloned().collect()
    }
}

/// A value below two keys, of which its errors speak.
fn within<T: DeserializeOwned>(first: &str, second: &str, value: Value) -> Result<T, ConfigError> {
    let longer = |path: String| match path.as_str() {
        "configuration" => format!("{first}.{second}"),
        path => format!("{first}.{second}.{path}"),
    };
    config::deserialize(value).map_err(|error| match error {
        ConfigError::UnknownKey { path, nearest, known } => {
            ConfigError::UnknownKey { path: longer(path), nearest, known }
        }
        ConfigError::Value { path, reason, nearest } => {
            ConfigError::Value { path: longer(path), reason, nearest }
        }
        other => other,
    })
}
