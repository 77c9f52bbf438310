use burn::tensor::TensorData;
use burn_store::pytorch::PytorchReader;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use super::layout::{self, Names, Source};
use super::templategpt::{self, TemplateGptConfig};
use super::{Family, InteropError};
use crate::artifact::TensorFile;
use crate::config::ModelConfig;
use crate::config::TokenizerConfig;
use crate::model::parameter_shapes;
use crate::tokenizer;
use crate::tokenizer::SavedTokenizer;

/// A model of another project: understood and checked, but for the values of its tensors.
pub struct ForeignModel {
    /// Whose it is.
    pub class: &'static str,
    pub config: ModelConfig,
    pub tokenizer_config: TokenizerConfig,
    pub tokenizer: SavedTokenizer,
    shapes: Vec<(String, Vec<usize>)>,
    /// For each of our parameters, what it is made of.
    sources: Vec<Vec<Source>>,
    weights: Weights,
}

/// Tensors by name, read one at a time.
enum Weights {
    Safetensors(TensorFile),
    Pytorch(PytorchReader, PathBuf),
}

/// Tensors that are no parameters: constants that older programs saved along.
const BUFFERS: [&str; 6] = [
    ".attn.bias",
    ".attn.masked_bias",
    ".attention.bias",
    ".attention.masked_bias",
    "rotary_emb.inv_freq",
    "precompute_freqs.inv_freq",
];

impl ForeignModel {
    /// Opens a folder with a model of Hugging Face's or of templateGPT's.
    ///
    /// # Errors
    /// Files that are missing or not what they should be, an option that ours has no word for, or
    /// tensors that are missing, left over or of another shape: all that can be wrong short of a
    /// tensor's values.
    pub fn open(folder: &Path) -> Result<Self, InteropError> {
        let (settings, template) = (folder.join("config.json"), folder.join("model_config.json"));
        if settings.is_file() {
            let settings = read_json(&settings)?;
            Self::of_family(folder, Family::find(&settings)?, &settings)
        } else if template.is_file() {
            let wrong = |error: serde_json::Error| InteropError::Syntax {
                path: template.clone(),
                reason: error.to_string(),
            };
            let config = TemplateGptConfig::deserialize(read_json(&template)?).map_err(wrong)?;
            let config = config.model_config()?;
            let weights = Weights::pytorch(&folder.join("model.pth"))?;
            let tied = config.tied_head.then_some(templategpt::HEAD);
            let model = Self::new(folder, "templateGPT", config, weights)?;
            model.matched(&templategpt::NAMES, "", tied)
        } else {
            Err(InteropError::NoModel { folder: folder.into() })
        }
    }

    /// Opens a folder with a model of a family that need not be among those of this crate.
    ///
    /// # Errors
    /// As for [`ForeignModel::open`], and a `model_type` that is not the family's.
    pub fn open_as(folder: &Path, family: &Family) -> Result<Self, InteropError> {
        let settings = read_json(&folder.join("config.json"))?;
        match settings["model_type"].as_str().unwrap_or("(missing)") {
            found if found == family.model_type => Self::of_family(folder, family, &settings),
            found => Err(InteropError::ModelType {
                found: found.into(),
                known: family.model_type.into(),
            }),
        }
    }

    fn of_family(folder: &Path, family: &Family, settings: &Value) -> Result<Self, InteropError> {
        let config = family.model_config(settings)?;
        let weights = Weights::safetensors(folder)?;
        let tied = config.tied_head.then_some(family.head);
        let model = Self::new(folder, family.class, config, weights)?;
        model.matched(family.names, family.prefix, tied)
    }

    fn new(
        folder: &Path,
        class: &'static str,
        config: ModelConfig,
        weights: Weights,
    ) -> Result<Self, InteropError> {
        config.validate()?;
        // Before anything is made for each layer.
        let tensors = weights.names().len();
        if config.n_layers > tensors {
            let reason = format!("there are only {tensors} tensors");
            return Err(InteropError::option("number of layers", config.n_layers, reason));
        }
        let vocab_size = config.vocab_size.unwrap_or_default();
        let (tokenizer_config, tokenizer) = read_tokenizer(folder, vocab_size)?;
        let shapes = parameter_shapes(&config, vocab_size);
        let sources = Vec::new();
        Ok(Self { class, config, tokenizer_config, tokenizer, shapes, sources, weights })
    }

    /// Finds the tensors of each parameter; none may be missing, and none be left.
    fn matched(
        mut self,
        names: &Names,
        prefix: &str,
        tied_head: Option<&str>,
    ) -> Result<Self, InteropError> {
        let mut left: BTreeSet<String> = self.weights.names();
        // A model that was saved without its head lacks the prefix.
        let strip = !left.iter().any(|name| name.starts_with(prefix));
        for (parameter, shape) in &self.shapes {
            let no_place =
                || InteropError::Missing { name: parameter.clone(), expected: shape.clone() };
            let mut sources =
                layout::sources(names, &self.config, parameter, shape).ok_or_else(no_place)?;
            for source in &mut sources {
                if strip && let Some(short) = source.name.strip_prefix(prefix) {
                    source.name = short.into();
                }
                let (name, expected) = (source.name.clone(), source.shape.clone());
                match self.weights.shape(&name) {
                    None => return Err(InteropError::Missing { name, expected }),
                    Some(found) if found != expected => {
                        return Err(InteropError::Shape { name, found, expected });
                    }
                    Some(_) => left.remove(&name),
                };
            }
            self.sources.push(sources);
        }
        left.retain(|name| {
            let is_buffer = BUFFERS.iter().any(|buffer| format!(".{name}").ends_with(buffer));
            !is_buffer && Some(name.as_str()) != tied_head
        });
        match left.pop_first() {
            None => Ok(self),
            Some(name) => {
                let shape = self.weights.shape(&name).unwrap_or_default();
                Err(InteropError::LeftOver { name, shape })
            }
        }
    }

    /// Our parameters' names and shapes.
    pub fn shapes(&self) -> &[(String, Vec<usize>)] {
        &self.shapes
    }

    /// The values of one of [`ForeignModel::shapes`].
    ///
    /// # Errors
    /// A file that cannot be read, or a tensor that is no numbers.
    pub fn read(&mut self, index: usize) -> Result<TensorData, InteropError> {
        let shape = &self.shapes[index].1;
        layout::assemble(shape, &self.sources[index], |name| self.weights.read(name))
    }
}

impl Weights {
    fn safetensors(folder: &Path) -> Result<Self, InteropError> {
        let (whole, index) =
            (folder.join("model.safetensors"), folder.join("model.safetensors.index.json"));
        if whole.is_file() {
            return Ok(Self::Safetensors(TensorFile::open(&whole)?));
        }
        if index.is_file() {
            let json = read_json(&index)?;
            let wrong =
                |reason: &str| InteropError::Syntax { path: index.clone(), reason: reason.into() };
            let map =
                json["weight_map"].as_object().ok_or_else(|| wrong("it has no weight_map"))?;
            let shards: Option<BTreeSet<&str>> = map.values().map(Value::as_str).collect();
            let shards = shards.ok_or_else(|| wrong("its weight_map names no files"))?;
            if shards.iter().any(|name| name.contains(['/', '\\'])) {
                return Err(wrong("its weight_map names files outside the folder"));
            }
            let paths = shards.into_iter().map(|name| folder.join(name));
            return Ok(Self::Safetensors(TensorFile::open_shards(paths)?));
        }
        let pickle = ["pytorch_model.bin", "pytorch_model.bin.index.json"]
            .into_iter()
            .find(|name| folder.join(name).is_file());
        Err(match pickle {
            Some(file) => InteropError::Pickle { folder: folder.into(), file: file.into() },
            None => InteropError::NoModel { folder: folder.into() },
        })
    }

    fn pytorch(path: &Path) -> Result<Self, InteropError> {
        verify_zip(path)?;
        // It interprets the pickle's opcodes for tensors and containers, and calls nothing.
        let reader = PytorchReader::new(path).map_err(|error| InteropError::Pytorch {
            path: path.into(),
            reason: one_line(&error),
        })?;
        Ok(Self::Pytorch(reader, path.into()))
    }

    fn names(&self) -> BTreeSet<String> {
        match self {
            Self::Safetensors(file) => file.names().map(String::from).collect(),
            Self::Pytorch(reader, _) => reader.keys().into_iter().collect(),
        }
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match self {
            Self::Safetensors(file) => file.shape(name).map(<[usize]>::to_vec),
            Self::Pytorch(reader, _) => reader.get(name).map(|tensor| tensor.shape.to_vec()),
        }
    }

    /// As f32.
    fn read(&mut self, name: &str) -> Result<TensorData, InteropError> {
        match self {
            Self::Safetensors(file) => Ok(file.read(name)?.convert::<f32>()),
            Self::Pytorch(reader, path) => {
                let wrong = |reason| InteropError::Pytorch { path: path.clone(), reason };
                let tensor =
                    reader.get(name).ok_or_else(|| wrong(format!("no tensor `{name}`")))?;
                let data = tensor.to_data().map_err(|error| wrong(one_line(&error)))?;
                Ok(data.convert::<f32>())
            }
        }
    }
}

/// Reads a zip archive through, as newer PyTorch's files are, and so compares its checksums.
fn verify_zip(path: &Path) -> Result<(), InteropError> {
    let read_error = |source| InteropError::Read { path: path.into(), source };
    let mut file = fs::File::open(path).map_err(read_error)?;
    let mut start = [0; 2];
    let length = file.read(&mut start).map_err(read_error)?;
    if &start[..length] != b"PK" {
        return Ok(()); // of an older format, which has no checksums
    }
    file.rewind().map_err(read_error)?;
    let damaged = |error: &dyn std::fmt::Display| InteropError::Pytorch {
        path: path.into(),
        reason: format!("it is damaged or cut off: {error}"),
    };
    let mut archive = zip::ZipArchive::new(file).map_err(|error| damaged(&error))?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(|error| damaged(&error))?;
        io::copy(&mut entry, &mut io::sink()).map_err(|error| damaged(&error))?;
    }
    Ok(())
}

fn one_line(error: &impl std::fmt::Debug) -> String {
    format!("{error:?}").replace('\n', " ")
}

/// The tokenizer beside a model; token ids where there is none.
fn read_tokenizer(
    folder: &Path,
    vocabulary: usize,
) -> Result<(TokenizerConfig, SavedTokenizer), InteropError> {
    let found = ["tokenizer.json", "vocab.json", "merges.json"]
        .into_iter()
        .map(|name| folder.join(name))
        .find(|path| path.is_file());
    let Some(path) = found else {
        let saved = SavedTokenizer::Ids { vocab_size: vocabulary };
        return Ok((TokenizerConfig::Ids { vocab_size: vocabulary }, saved));
    };
    let wrong = |source| InteropError::Tokenizer { path: path.clone(), source };
    let saved = tokenizer::read(&path).map_err(wrong)?;
    let tokenizer = saved.restore().map_err(wrong)?.vocab_size();
    if tokenizer > vocabulary {
        return Err(InteropError::Vocabulary { tokenizer, vocabulary });
    }
    let path = std::path::absolute(&path).unwrap_or(path);
    Ok((TokenizerConfig::File { path }, saved))
}

fn read_json(path: &Path) -> Result<Value, InteropError> {
    let text = fs::read_to_string(path)
        .map_err(|source| InteropError::Read { path: path.into(), source })?;
    serde_json::from_str(&text)
        .map_err(|error| InteropError::Syntax { path: path.into(), reason: error.to_string() })
}
