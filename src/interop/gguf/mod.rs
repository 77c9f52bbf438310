//! GGUF, the file that llama.cpp and what is built on it run models from.
//!
//! A file holds the settings, the tokenizer and the weights of one model under the names of one of
//! llama.cpp's architectures. Ours are mapped to four of them:
//!
//! | llama.cpp's | position | norm | feed-forward network | beside it |
//! | --- | --- | --- | --- | --- |
//! | `gpt2` | learned | layer | GELU | any biases |
//! | `llama` | rotary | rms | gated SiLU | any biases, Llama 3's scaling |
//! | `qwen2` | rotary | rms | gated SiLU | biases on queries, keys and values alone |
//! | `qwen3` | rotary | rms | gated SiLU | norms on queries and keys |
//!
//! Norms stand before the sublayers and heads may share keys and values. What is read in another
//! way there than it was trained is an error that names the option, or a [`Note`] where it is
//! close. The layouts are those of llama.cpp's `src/models/*.cpp` and `conversion/*.py` of October
//! 2026.

mod layout;
mod quantize;
mod vocabulary;
mod writer;

pub use quantize::DataType;
pub use vocabulary::{TokenKind, Vocabulary, huggingface_vocabulary};

use burn::tensor::TensorData;
use std::error::Error;
use std::fmt;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::config::ConfigError;
use crate::config::ModelConfig;
use crate::files;
use crate::tokenizer::SavedTokenizer;
use crate::tokenizer::TokenizerError;

use layout::{Layout, Source, Tensor};
use writer::Value;

/// Why a model cannot be a GGUF file.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    #[error("{} exists already; choose another file", .path.display())]
    Exists { path: PathBuf },
    #[error(
        "llama.cpp's {layout} has no place for `{option}` = {found}: it takes {accepted}; only a model that was trained so can be exported"
    )]
    Option { layout: &'static str, option: &'static str, found: String, accepted: &'static str },
    #[error("the configuration of the model is not valid")]
    Config(#[from] ConfigError),
    #[error(
        "the tokenizer has {tokens} tokens, the model only {rows}; export the model with its own tokenizer"
    )]
    TooManyTokens { tokens: usize, rows: usize },
    #[error("the tokenizer cannot be restored")]
    Tokenizer(#[from] TokenizerError),
    #[error("llama.cpp cannot run this tokenizer.json: {reason}")]
    TokenizerJson { reason: String },
    #[error("cannot read tensor `{name}`")]
    Read { name: String, source: Box<dyn Error + Send + Sync> },
    #[error("tensor `{name}` holds {found}, not f32; convert it first")]
    NotF32 { name: String, found: String },
    #[error("tensor `{name}` is {found:?}, the configuration says {expected:?}")]
    ShapeMismatch { name: String, found: Vec<usize>, expected: Vec<usize> },
    #[error("tensor `{name}` holds {value}, which {data_type} cannot express; export as f32")]
    Inexpressible { name: String, value: f32, data_type: DataType },
    #[error("cannot write {}", .path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

/// What a user of the file should know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// llama.cpp's GPT-2 has the tanh approximation only; activations are up to 0.0005 off.
    GeluApproximated,
    /// The file has the number of tokens, but not what they are.
    NoTokenizer { reason: String },
    /// llama.cpp does not normalise text before it splits it.
    NotNormalised { normalizer: String },
    /// Their rows are no whole blocks.
    NotQuantized { matrices: usize },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GeluApproximated => write!(
                f,
                "the model was trained with exact GELU, llama.cpp approximates it by tanh; logits differ slightly"
            ),
            Self::NoTokenizer { reason } => write!(
                f,
                "the file has no tokenizer, since {reason}; programs must pass it token ids"
            ),
            Self::NotQuantized { matrices } => write!(
                f,
                "{matrices} matrices are f16, since their rows are no whole blocks of 32 numbers"
            ),
            Self::NotNormalised { normalizer } => write!(
                f,
                "the tokenizer normalises text by {normalizer}, llama.cpp does not; such text gets other tokens"
            ),
        }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// llama.cpp's name of the architecture.
    pub architecture: &'static str,
    pub notes: Vec<Note>,
}

/// Writes a model and its tokenizer as a GGUF file, one tensor at a time; the file appears once it
/// is whole.
///
/// `tensors` gives a parameter by our name, in f32 and in our layout. Parameters are asked for in
/// the order of the file, some more than once. `data_type` is that of the matrices; vectors and
/// learned positions stay f32, and where the rows of a matrix are no whole blocks of `Q8_0`, it
/// becomes f16, as in llama.cpp's own conversion.
///
/// # Errors
/// A model or tokenizer that llama.cpp cannot run as it was trained, a tensor that cannot be read
/// or does not fit the configuration, a path that is there already, or a disk that cannot be
/// written; then `path` is left as it was. Where only its folder cannot be synced the file is there,
/// and may not outlive a power cut.
pub fn write<E: Into<Box<dyn Error + Send + Sync>>>(
    path: &Path,
    name: &str,
    config: &ModelConfig,
    mut tensors: impl FnMut(&str) -> Result<TensorData, E>,
    tokenizer: &SavedTokenizer,
    data_type: DataType,
) -> Result<Written, GgufError> {
    config.validate()?;
    let restored = tokenizer.restore()?;
    // A model has at least one row, whatever its tokenizer says.
    let vocab_size = config.vocab_size.unwrap_or_else(|| restored.vocab_size()).max(1);
    let layout = Layout::new(config, vocab_size, data_type)?;
    let mut notes = layout.notes();
    let vocabulary = vocabulary::of(tokenizer, restored.as_ref(), vocab_size, &mut notes)?;

    let mut metadata: Vec<(String, Value)> = vec![
        ("general.architecture".into(), layout.architecture().into()),
        ("general.type".into(), "model".into()),
        ("general.name".into(), name.into()),
        ("general.file_type".into(), Value::U32(data_type.file_code())),
        // GGML_QNT_VERSION in ggml.h: what the blocks of quantised types look like.
        ("general.quantization_version".into(), Value::U32(2)),
    ];
    metadata.extend(layout.metadata());
    metadata.extend(vocabulary::metadata(vocabulary.as_ref()));
    let planned = layout.tensors();
    let kept = |tensor: &&Tensor| tensor.info.data_type == DataType::F16;
    let matrices = planned.iter().filter(kept).count();
    if data_type == DataType::Q8_0 && matrices > 0 {
        notes.push(Note::NotQuantized { matrices });
    }

    let write_error = |source| GgufError::Write { path: path.into(), source };
    // Whatever it is: a rename would take the place of a device, too.
    if path.symlink_metadata().is_ok() {
        return Err(GgufError::Exists { path: path.into() });
    }
    let mut part = files::beside(path).map_err(write_error)?;
    let mut out = BufWriter::new(part.as_file_mut());
    writer::write_header(&mut out, &metadata, planned.iter().map(|tensor| &tensor.info))
        .map_err(write_error)?;
    let mut last = None;
    for tensor in &planned {
        let values = values(tensor, &mut tensors, &mut last)?;
        let Tensor { info, .. } = tensor;
        if let Some(value) = quantize::inexpressible(&values, info.data_type) {
            let (name, data_type) = (info.name.clone(), info.data_type);
            return Err(GgufError::Inexpressible { name, value, data_type });
        }
        quantize::write(&values, info.data_type, &mut out)
            .and_then(|()| writer::pad_after(&mut out, info))
            .map_err(write_error)?;
    }
    out.flush().map_err(write_error)?;
    drop(out);
    part.as_file().sync_all().map_err(write_error)?;
    part.persist_noclobber(path).map_err(|error| write_error(error.error))?;
    files::sync_folder(files::folder_of(path)).map_err(write_error)?;
    Ok(Written { architecture: layout.architecture(), notes })
}

/// The values of a tensor in llama.cpp's layout.
///
/// `last` is the parameter that was read last: queries, keys and values are one of ours.
fn values<E: Into<Box<dyn Error + Send + Sync>>>(
    tensor: &Tensor,
    tensors: &mut impl FnMut(&str) -> Result<TensorData, E>,
    last: &mut Option<(String, TensorData)>,
) -> Result<Vec<f32>, GgufError> {
    let (name, shape, columns) = match &tensor.source {
        Source::Constant(value) => return Ok(vec![*value; tensor.info.values()]),
        Source::Values(values) => return Ok(values.clone()),
        Source::Parameter { name, shape, columns } => (name, shape, columns),
    };
    let data = match last.take() {
        Some((known, data)) if known == *name => data,
        _ => tensors(name)
            .map_err(|source| GgufError::Read { name: name.clone(), source: source.into() })?,
    };
    let found = data.shape.to_vec();
    if found != *shape {
        return Err(GgufError::ShapeMismatch {
            name: name.clone(),
            found,
            expected: shape.clone(),
        });
    }
    let source = data.as_slice::<f32>().map_err(|_| GgufError::NotF32 {
        name: name.clone(),
        found: format!("{:?}", data.dtype),
    })?;
    let values = match columns {
        Some(columns) => columns.transpose(source, shape),
        None => source.to_vec(),
    };
    *last = Some((name.clone(), data));
    Ok(values)
}
