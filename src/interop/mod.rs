//! Models of other projects: how each names its settings and its tensors, and the ways in
//! ([`ForeignModel`]) and out ([`Export`]).
//!
//! A family is a file: it reads `config.json` into a [`crate::config::ModelConfig`], and lists the
//! modules of both sides next to each other; that list serves both directions.

mod error;
mod export;
mod foreign;
mod gemma;
mod gemma2;
pub mod gguf;
pub mod gpt2;
mod gpt_neox;
mod hub;
mod layout;
mod llama;
mod mistral;
mod phi;
mod qwen2;
mod qwen3;
mod settings;
mod templategpt;

pub use error::InteropError;
pub use export::{Export, Watch};
pub use foreign::ForeignModel;
pub use hub::{download, is_hub_name};
pub use layout::{Names, Source, Theirs, WEIGHT_AND_BIAS};

use burn::tensor::TensorData;
use serde_json::Value;

use crate::config::ModelConfig;

/// Models of one `model_type`: Hugging Face's, or with [`ForeignModel::open_as`] anybody's that are
/// kept in the same way.
#[derive(Debug)]
pub struct Family {
    /// As `config.json` has it.
    pub model_type: &'static str,
    pub class: &'static str,
    /// What the names of all tensors but the head's begin with, unless the model was saved
    /// without its head.
    pub prefix: &'static str,
    /// The head, which some files have even where it is the embedding.
    pub head: &'static str,
    pub names: &'static Names,
    /// `config.json` in our words.
    pub read: fn(&Value) -> Result<ModelConfig, InteropError>,
    /// Our configuration as `config.json`, as far as the class goes; none where there is no export.
    pub write: Option<fn(&ModelConfig) -> Value>,
}

const FAMILIES: [&Family; 9] = [
    &gpt2::FAMILY,
    &llama::FAMILY,
    &mistral::FAMILY,
    &qwen2::FAMILY,
    &qwen3::FAMILY,
    &gemma::FAMILY,
    &gemma2::FAMILY,
    &gpt_neox::FAMILY,
    &phi::FAMILY,
];

/// As the configuration has it.
const MOST_LAYERS: u64 = 1 << 10;

impl Family {
    /// The family of a `config.json`.
    ///
    /// # Errors
    /// A `model_type` that is missing or not supported.
    pub fn find(settings: &Value) -> Result<&'static Self, InteropError> {
        let model_type = settings["model_type"].as_str().unwrap_or("(missing)");
        FAMILIES.into_iter().find(|family| family.model_type == model_type).ok_or_else(|| {
            let known: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
            InteropError::ModelType { found: model_type.into(), known: known.join(", ") }
        })
    }

    /// # Errors
    /// An option that ours has no word for, by name.
    pub fn model_config(&self, settings: &Value) -> Result<ModelConfig, InteropError> {
        settings::refuse_foreign(settings)?;
        for key in ["num_hidden_layers", "n_layer"] {
            // Before anything is made for each layer.
            if let Some(layers) = settings[key].as_u64().filter(|layers| *layers > MOST_LAYERS) {
                let reason = format!("at most {MOST_LAYERS} can be");
                return Err(InteropError::option(key, layers, reason));
            }
        }
        (self.read)(settings)
    }

    /// Their tensors that one of our parameters is made of, side by side; none where the family
    /// has no such thing.
    pub fn sources(
        &self,
        config: &ModelConfig,
        parameter: &str,
        shape: &[usize],
    ) -> Option<Vec<Source>> {
        layout::sources(self.names, config, parameter, shape)
    }

    /// One of our parameters in f32 out of their tensors, which `read` gives by name, of any kind
    /// of number, and which have the shapes that [`Family::sources`] says; none where the family
    /// has no such thing.
    pub fn assemble<E>(
        &self,
        config: &ModelConfig,
        parameter: &str,
        shape: &[usize],
        read: impl FnMut(&str) -> Result<TensorData, E>,
    ) -> Option<Result<TensorData, E>> {
        let sources = self.sources(config, parameter, shape)?;
        Some(layout::assemble(shape, &sources, read))
    }
}
