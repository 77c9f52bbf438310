use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

use super::page::page;
use super::{Axis, Curves};
use crate::artifact::Summary;
use crate::eval::Outcome;

const PLOT: &str = include_str!("uplot/uplot.min.js");
const PLOT_STYLE: &str = include_str!("uplot/uplot.min.css");
const BODY: &str = include_str!("comparison/body.html");
const STYLE: &str = include_str!("comparison/style.css");
const SCRIPT: &str = include_str!("comparison/script.js");

/// Points of a curve on a page; more are no wider on a screen.
const POINTS: usize = 2000;

/// Runs side by side.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    pub version: String,
    pub date: String,
    /// What the curves are plotted against at first.
    pub axis: Axis,
    /// Whether all predict the same of a text: what comes next, what is masked, or a translation.
    pub same_task: bool,
    /// Whether all cut texts alike, so that what one token costs can be compared.
    pub same_tokenizer: bool,
    /// Whether the validation splits of all are one text.
    pub same_validation: bool,
    /// Whether all are measured on one text.
    pub same_text: bool,
    /// Whether texts were read to their ends; the first windows of two models need not be one text.
    pub whole: bool,
    pub runs: Vec<Compared>,
    pub differences: Vec<Difference>,
    /// Of a prompt and a seed each.
    pub texts: Vec<Written>,
}

/// One of the runs.
#[derive(Debug, Clone, Serialize)]
pub struct Compared {
    pub name: String,
    pub parameters: usize,
    /// Forward and backward; none where it is not known.
    pub flops_per_token: Option<f64>,
    /// How the training ended; none of a run that is being trained, or was imported.
    pub summary: Option<Summary>,
    /// The step whose model is measured, and writes.
    pub step: Option<usize>,
    /// With each token read that came.
    pub measured: Option<Outcome>,
    pub curves: Curves,
}

impl Compared {
    /// With at most so many points of a curve.
    fn thinned(&self, most: usize) -> Self {
        Self {
            name: self.name.clone(),
            summary: self.summary.clone(),
            measured: self.measured.clone(),
            curves: self.curves.thinned(most),
            ..*self
        }
    }
}

/// A setting that is not the same in all runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Its path in the configuration.
    pub key: String,
    /// In the order of the runs; null where it is not there.
    pub values: Vec<Value>,
}

/// What the runs have written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Written {
    pub prompt: String,
    pub seed: u64,
    /// In the order of the runs; none of a run that continues nothing, or cannot read the prompt.
    pub texts: Vec<Option<String>>,
}

impl Comparison {
    /// Everything in one file of HTML, with curves that can be looked into, which asks nobody for
    /// anything.
    ///
    /// # Errors
    /// Numbers that JSON cannot have.
    pub fn page(&self) -> serde_json::Result<String> {
        let thinned = Self {
            version: self.version.clone(),
            date: self.date.clone(),
            runs: self.runs.iter().map(|run| run.thinned(POINTS)).collect(),
            differences: self.differences.clone(),
            texts: self.texts.clone(),
            ..*self
        };
        let names: Vec<&str> = self.runs.iter().map(|run| run.name.as_str()).collect();
        let title = format!("{} · emberlm", names.join(", "));
        page(&title, &[PLOT_STYLE, STYLE], BODY, &thinned, &[PLOT, SCRIPT])
    }
}

/// The settings that are not the same in all configurations, by their paths, but for the runs'
/// names.
pub fn differences(configurations: &[Value]) -> Vec<Difference> {
    let settings: Vec<BTreeMap<String, Value>> = configurations
        .iter()
        .map(|configuration| {
            let mut settings = BTreeMap::new();
            flatten("", configuration, &mut settings);
            settings.remove("name");
            settings
        })
        .collect();
    let keys: BTreeSet<&String> = settings.iter().flat_map(BTreeMap::keys).collect();
    keys.into_iter()
        .map(|key| {
            let values = settings.iter().map(|of_run| of_run.get(key).cloned().unwrap_or_default());
            Difference { key: key.clone(), values: values.collect() }
        })
        .filter(|difference| difference.values.windows(2).any(|pair| pair[0] != pair[1]))
        .collect()
}

/// Settings by their paths; a list is one setting.
fn flatten(path: &str, value: &Value, settings: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, value, settings);
            }
        }
        value => {
            settings.insert(path.into(), value.clone());
        }
    }
}
