use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

use super::Distribution;

/// A key of a configuration, by its path, and what it is in a trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    pub path: String,
    pub value: Value,
}

impl Setting {
    /// As `--set` takes it.
    pub fn assignment(&self) -> String {
        format!("{}={}", self.path, self.value)
    }

    /// The value as it is read best.
    pub fn shown(&self) -> String {
        match &self.value {
            Value::String(text) => text.clone(),
            value => value.to_string(),
        }
    }
}

/// One of the configurations that are tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// Counted from one.
    pub number: usize,
    /// By path.
    pub settings: Vec<Setting>,
}

impl Trial {
    /// The name of its run.
    pub fn run(&self, sweep: &str) -> String {
        format!("{sweep}-{:03}", self.number)
    }
}

/// Every combination of the values; that of the last key changes fastest. All keys list values.
pub(super) fn grid(search: &BTreeMap<String, Distribution>) -> Vec<Trial> {
    let mut all: Vec<Vec<Setting>> = vec![Vec::new()];
    for (path, distribution) in search {
        let values = distribution.values().unwrap_or_default();
        let with = |settings: &Vec<Setting>, value: &Value| {
            let mut settings = settings.clone();
            settings.push(Setting { path: path.clone(), value: value.clone() });
            settings
        };
        all = all.iter().flat_map(|it| values.iter().map(move |value| with(it, value))).collect();
    }
    numbered(all)
}

/// So many trials at random, each key by itself. More trials of a seed begin with those of fewer.
pub(super) fn drawn(
    search: &BTreeMap<String, Distribution>,
    trials: usize,
    seed: u64,
) -> Vec<Trial> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut settings = || -> Vec<Setting> {
        let drawn = search.iter().map(|(path, distribution)| Setting {
            path: path.clone(),
            value: distribution.draw(&mut random),
        });
        drawn.collect()
    };
    numbered((0..trials).map(|_| settings()).collect())
}

fn numbered(all: Vec<Vec<Setting>>) -> Vec<Trial> {
    (1..).zip(all).map(|(number, settings)| Trial { number, settings }).collect()
}

/// For each path the shortest end of it that no other path has.
pub fn short_names(paths: &[String]) -> Vec<String> {
    let ends = |path: &str, parts: usize| {
        let all: Vec<&str> = path.split('.').collect();
        all[all.len().saturating_sub(parts)..].join(".")
    };
    let short = |path: &String| {
        let most = path.split('.').count();
        let is_own = |parts: &usize| {
            let end = ends(path, *parts);
            paths.iter().filter(|other| ends(other, *parts) == end).count() == 1
        };
        ends(path, (1..most).find(is_own).unwrap_or(most))
    };
    paths.iter().map(short).collect()
}
