use burn::tensor::TensorData;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::Write;
use std::path::Path;

use super::layout::{self, Source};
use super::{FAMILIES, Family, InteropError};
use crate::artifact::TensorFile;
use crate::artifact::stream_tensors;
use crate::config::ModelConfig;
use crate::files::{self, FileError, write_error};
use crate::model::parameter_shapes;
use crate::tokenizer;
use crate::tokenizer::SavedTokenizer;
use crate::tokenizer::TokenizerError;

/// Parts that a class has and a model need not have: zeros or ones there change nothing.
const NEUTRAL: [&str; 6] = [
    "model.attention.qkv_bias",
    "model.attention.output_bias",
    "model.feed_forward.bias",
    "model.norm.bias",
    "model.norm.affine",
    "model.head_bias",
];

/// Hears how many tensors have been written, and of how many; with its error it goes no further.
pub type Watch<'a> = &'a mut dyn FnMut(usize, usize) -> Result<(), FileError>;

/// A class of Hugging Face's that computes what a model of ours does.
#[derive(Debug)]
pub struct Export {
    family: &'static Family,
    settings: Map<String, Value>,
    /// As the class has it.
    config: ModelConfig,
    /// As it is.
    own: ModelConfig,
}

/// An option on which a class and a model do not agree.
#[derive(Debug)]
struct Difference {
    path: String,
    ours: Value,
    theirs: Value,
}

impl Difference {
    fn is_neutral(&self) -> bool {
        NEUTRAL.contains(&self.path.as_str()) && self.ours == false && self.theirs == true
    }
}

impl Export {
    /// Finds the class: one that has all that the model has, and if possible no more.
    ///
    /// # Errors
    /// [`InteropError::NoClass`], with the options that the nearest class lacks.
    pub fn new(config: &ModelConfig) -> Result<Self, InteropError> {
        let mut candidates = Vec::new();
        for family in FAMILIES {
            let Some(Value::Object(mut settings)) = family.write.map(|write| write(config)) else {
                continue;
            };
            settings.insert("model_type".into(), family.model_type.into());
            // What the class makes of it shows what it cannot express.
            let Ok(read) = family.model_config(&Value::Object(settings.clone())) else {
                continue;
            };
            let mut differences = Vec::new();
            compare("model", &resolved(config)?, &resolved(&read)?, &mut differences);
            let lacking = differences.iter().filter(|found| !found.is_neutral()).count();
            let export = Self { family, settings, config: read, own: config.clone() };
            candidates.push((lacking, differences.len(), differences, export));
        }
        let nearest = candidates.into_iter().min_by_key(|(lacking, all, ..)| (*lacking, *all));
        let (_, _, differences, export) = nearest
            .ok_or_else(|| InteropError::NoClass { options: "anything".into(), nearest: "none" })?;
        let lacking: Vec<String> = differences
            .iter()
            .filter(|found| !found.is_neutral())
            .map(|found| format!("{} = {}", found.path, found.ours))
            .collect();
        if lacking.is_empty() {
            return Ok(export);
        }
        let (options, nearest) = (lacking.join(" and "), export.family.class);
        Err(InteropError::NoClass { options, nearest })
    }

    /// The name of the class.
    pub fn class(&self) -> &'static str {
        self.family.class
    }

    /// What one must know to load the exported tokenizer.
    pub fn tokenizer_note(&self, saved: &SavedTokenizer) -> Option<&'static str> {
        let own = matches!(saved, SavedTokenizer::HuggingFace { .. });
        // As of transformers 5.23.
        (self.family.model_type == "qwen2" && !own).then_some(
            "AutoTokenizer takes any tokenizer beside a Qwen2 model for Qwen's; load this one with PreTrainedTokenizerFast",
        )
    }

    /// Writes a folder that `from_pretrained` reads: `config.json`, `generation_config.json`,
    /// `model.safetensors`, and `tokenizer.json` and `tokenizer_config.json` where the tokenizer
    /// can be said in their words. All or nothing. What was left out is returned, with the reason.
    ///
    /// # Errors
    /// A folder that has something in it or cannot be written, tensors that do not fit, or whatever
    /// `watch` says.
    pub fn write(
        &self,
        folder: &Path,
        weights: &mut TensorFile,
        saved: &SavedTokenizer,
        watch: Watch,
    ) -> Result<Option<TokenizerError>, InteropError> {
        let is_empty =
            |folder: &Path| fs::read_dir(folder).is_ok_and(|mut all| all.next().is_none());
        if folder.exists() && !is_empty(folder) {
            return Err(InteropError::Exists { path: folder.into() });
        }
        let whole = std::path::absolute(folder).map_err(write_error(folder))?;
        let parent = files::folder_of(&whole);
        fs::create_dir_all(parent).map_err(write_error(parent))?;
        files::write_folder(&whole, |part| self.write_into(part, weights, saved, watch))
    }

    /// Writes the files where they are until all are there.
    fn write_into(
        &self,
        part: &Path,
        weights: &mut TensorFile,
        saved: &SavedTokenizer,
        watch: Watch,
    ) -> Result<Option<TokenizerError>, InteropError> {
        let write_json = |name: &str, value: &Value| files::write_json(&part.join(name), value);
        let tokenizer = tokenizer::to_hugging_face(saved);
        let ids = tokenizer.as_ref().ok().map(|tokenizer| (tokenizer.bos(), tokenizer.eos()));
        let (bos, eos) = ids.unwrap_or_default();
        let mut settings = self.settings.clone();
        settings.insert("architectures".into(), json!([self.family.class]));
        settings.insert("dtype".into(), "float32".into());
        settings.insert("torch_dtype".into(), "float32".into());
        // Said even where there are none, or transformers assumes those of the original models.
        let special = json!({"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": null});
        for (key, id) in special.as_object().into_iter().flatten() {
            settings.insert(key.clone(), id.clone());
        }
        write_json("config.json", &Value::Object(settings))?;
        write_json("generation_config.json", &special)?;
        let left_out = match tokenizer {
            Ok(tokenizer) => {
                files::write_whole(&part.join("tokenizer.json"), |file| {
                    file.write_all(tokenizer.json.as_bytes())
                })?;
                let context_length = self.config.context_length;
                write_json("tokenizer_config.json", &tokenizer.settings(Some(context_length)))?;
                None
            }
            Err(reason) => Some(reason),
        };
        self.write_weights(&part.join("model.safetensors"), weights, watch)?;
        Ok(left_out)
    }

    fn write_weights(
        &self,
        path: &Path,
        weights: &mut TensorFile,
        watch: Watch,
    ) -> Result<(), InteropError> {
        let vocab_size = self.config.vocab_size.unwrap_or_default();
        let mut left: BTreeSet<String> = weights.names().map(String::from).collect();
        for (name, expected) in parameter_shapes(&self.own, vocab_size) {
            if !left.remove(&name) {
                return Err(InteropError::Missing { name, expected });
            }
        }
        if let Some(name) = left.pop_first() {
            let shape = weights.shape(&name).map(<[usize]>::to_vec).unwrap_or_default();
            return Err(InteropError::LeftOver { name, shape });
        }
        // Their tensors, each with our parameter, its shape, and the parts of it.
        let (mut theirs, mut parts) = (Vec::new(), Vec::new());
        for (parameter, shape) in parameter_shapes(&self.config, vocab_size) {
            let sources =
                self.family.sources(&self.config, &parameter, &shape).ok_or_else(|| {
                    InteropError::Missing { name: parameter.clone(), expected: shape.clone() }
                })?;
            if let Some(found) = weights.shape(&parameter).filter(|found| *found != shape) {
                let found = found.to_vec();
                return Err(InteropError::Shape { name: parameter, found, expected: shape });
            }
            for index in 0..sources.len() {
                theirs.push((sources[index].name.clone(), sources[index].shape.clone()));
                parts.push(Part {
                    parameter: parameter.clone(),
                    shape: shape.clone(),
                    sources: sources.clone(),
                    index,
                });
            }
        }
        // The parameter that the last part was of: the next is often of the same.
        let mut last: Option<(String, Vec<f32>)> = None;
        let metadata = HashMap::from([("format".into(), "pt".into())]);
        stream_tensors(path, &theirs, metadata, |index| {
            let part = &parts[index];
            let values = match last.take() {
                Some((parameter, values)) if parameter == part.parameter => values,
                _ => part.values(weights)?,
            };
            let columns = part.shape.last().copied().unwrap_or(1);
            let data = layout::take_apart(&values, columns, &part.sources, part.index);
            last = Some((part.parameter.clone(), values));
            watch(index + 1, parts.len())?;
            Ok(Cow::Owned(data))
        })
    }
}

/// One of their tensors: some columns of a parameter of ours.
struct Part {
    parameter: String,
    shape: Vec<usize>,
    sources: Vec<Source>,
    index: usize,
}

impl Part {
    /// The whole parameter; ones for a norm's factors and zeros for biases that the model lacks.
    fn values(&self, weights: &mut TensorFile) -> Result<Vec<f32>, InteropError> {
        if weights.shape(&self.parameter).is_some() {
            let data: TensorData = weights.read(&self.parameter)?;
            return Ok(data.convert::<f32>().into_vec().unwrap_or_default());
        }
        let neutral = if self.parameter.ends_with(".bias") { 0.0 } else { 1.0 };
        Ok(vec![neutral; self.shape.iter().product()])
    }
}

/// A configuration with all that it leaves open filled in, and without what only training uses.
fn resolved(config: &ModelConfig) -> Result<Value, InteropError> {
    let mut whole = config.clone();
    whole.n_kv_heads = Some(config.n_kv_heads());
    whole.head_dim = Some(config.head_dim());
    whole.d_ff = Some(config.d_ff());
    whole.final_norm = Some(config.has_final_norm());
    whole.dropout = 0.0;
    (whole.embedding_dropout, whole.residual_dropout) = (None, None);
    whole.norm.bias = Some(config.norm_bias(&config.norm));
    whole.attention.dropout = None;
    whole.attention.qkv_bias = Some(config.qkv_bias());
    whole.attention.output_bias = Some(config.output_bias());
    whole.attention.scale =
        Some(config.attention.scale.unwrap_or(1.0 / (config.head_dim() as f64).sqrt()));
    if let Some(norm) = &mut whole.attention.qk_norm {
        norm.bias = Some(config.norm_bias(norm));
    }
    // One as wide as the context hides nothing.
    let hides = |window: &usize| *window < config.context_length;
    let windows: Vec<_> =
        (0..config.n_layers).map(|layer| config.window(layer).filter(hides)).collect();
    if windows.iter().all(Option::is_none) {
        (whole.attention.window, whole.attention.full_every) = (None, None);
    } else if windows.iter().all(Option::is_some) {
        whole.attention.full_every = None;
    }
    whole.feed_forward.bias = Some(config.feed_forward_bias());
    // Last: the others ask for it.
    whole.bias = false;
    Ok(serde_json::to_value(whole)?)
}

/// Where two documents differ; the keys of different kinds are not compared.
fn compare(path: &str, ours: &Value, theirs: &Value, found: &mut Vec<Difference>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            if a.get("kind") != b.get("kind") {
                let path = format!("{path}.kind");
                return compare(&path, &ours["kind"], &theirs["kind"], found);
            }
            for (key, value) in a {
                let other = b.get(key).unwrap_or(&Value::Null);
                compare(&format!("{path}.{key}"), value, other, found);
            }
        }
        _ if ours == theirs => {}
        _ => {
            found.push(Difference { path: path.into(), ours: ours.clone(), theirs: theirs.clone() })
        }
    }
}
