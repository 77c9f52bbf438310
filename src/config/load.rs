use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

use super::depth::expand_depth;
use super::kind::change_kind;
use super::train::LENGTHS;
use super::{Architecture, ConfigError, RunConfig};

/// The configurations that are compiled in, so that the program works outside its repository.
const BUILTIN: [(&str, &str); 17] = [
    ("stories", include_str!("../../model-configs/stories.json")),
    ("shakespeare-char", include_str!("../../model-configs/shakespeare-char.json")),
    ("shakespeare-char-cpu", include_str!("../../model-configs/shakespeare-char-cpu.json")),
    ("gpt2", include_str!("../../model-configs/gpt2.json")),
    ("gpt2-medium", include_str!("../../model-configs/gpt2-medium.json")),
    ("gpt2-large", include_str!("../../model-configs/gpt2-large.json")),
    ("gpt2-xl", include_str!("../../model-configs/gpt2-xl.json")),
    ("modern", include_str!("../../model-configs/modern.json")),
    ("llama3", include_str!("../../model-configs/llama3.json")),
    ("mistral", include_str!("../../model-configs/mistral.json")),
    ("qwen3", include_str!("../../model-configs/qwen3.json")),
    ("gemma2", include_str!("../../model-configs/gemma2.json")),
    ("grok", include_str!("../../model-configs/grok.json")),
    ("experts", include_str!("../../model-configs/experts.json")),
    ("transformer-base", include_str!("../../model-configs/transformer-base.json")),
    ("finetune-shakespeare", include_str!("../../model-configs/finetune-shakespeare.json")),
    ("bert-small", include_str!("../../model-configs/bert-small.json")),
];

/// The names of the built-in configurations, in the order of the README.
pub fn builtin_names() -> impl Iterator<Item = &'static str> {
    BUILTIN.iter().map(|(name, _)| *name)
}

/// Where a configuration comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Builtin(&'static str),
    File(PathBuf),
}

impl Source {
    /// A built-in name, or else the path of a file, relative to `folder` where one is given.
    ///
    /// # Errors
    /// [`ConfigError::UnknownName`] where it is neither.
    pub fn find(name: &str, folder: Option<&Path>) -> Result<Self, ConfigError> {
        if let Some(builtin) = builtin_names().find(|builtin| *builtin == name) {
            return Ok(Self::Builtin(builtin));
        }
        let path = folder.map_or_else(|| PathBuf::from(name), |folder| folder.join(name));
        if path.is_file() || name.ends_with(".json") {
            return Ok(Self::File(path));
        }
        let known: Vec<String> = builtin_names().map(String::from).collect();
        Err(ConfigError::UnknownName {
            name: name.into(),
            nearest: nearest(name, &known),
            known: known.join(", "),
        })
    }

    fn origin(&self) -> String {
        match self {
            Self::Builtin(name) => format!("the built-in configuration `{name}`"),
            Self::File(path) => path.display().to_string(),
        }
    }

    fn folder(&self) -> Option<&Path> {
        match self {
            Self::Builtin(_) => None,
            Self::File(path) => path.parent(),
        }
    }

    fn read(&self) -> Result<String, ConfigError> {
        match self {
            Self::Builtin(name) => Ok(BUILTIN
                .iter()
                .find(|(builtin, _)| builtin == name)
                .map(|(_, text)| text.to_string())
                .unwrap_or_default()),
            Self::File(path) => std::fs::read_to_string(path).map_err(|error| {
                ConfigError::Unreadable { path: path.clone(), reason: error.to_string() }
            }),
        }
    }
}

/// Reads a configuration with all that it extends.
///
/// # Errors
/// A file that cannot be read or parsed, an unknown name, or a circle of `extends`.
pub fn load_value(source: &Source) -> Result<Value, ConfigError> {
    load_chain(source, &mut Vec::new())
}

/// Completes a document by what it inherits from the run that it begins with.
///
/// # Errors
/// A tokenizer other than the run's, which the model would not understand.
pub fn inherit(document: &mut Value, run: &RunConfig) -> Result<(), ConfigError> {
    let mut base = json!({ "model": run.model, "tokenizer": run.tokenizer });
    if document.get("tokenizer").is_some_and(|own| *own != base["tokenizer"]) {
        return Err(ConfigError::Conflict {
            first: "tokenizer",
            second: "init_from",
            reason: "a model keeps the tokenizer that it was trained with",
        });
    }
    merge(&mut base, document.take());
    *document = base;
    Ok(())
}

/// The architecture of the model that a document will come to have, perhaps from the run that it
/// begins with. A mistake in it is for [`resolve`] to report.
pub fn architecture(document: &Value, initial: Option<&RunConfig>) -> Architecture {
    match document.pointer("/model/architecture") {
        Some(own) => serde_json::from_value(own.clone()).unwrap_or_default(),
        None => initial.map(|run| run.model.architecture).unwrap_or_default(),
    }
}

/// Reads, composes, checks: [`load_value`], each `--set` assignment, [`resolve`].
///
/// # Errors
/// Whatever one of the three refuses.
pub fn load(source: &Source, assignments: &[String]) -> Result<RunConfig, ConfigError> {
    let mut value = load_value(source)?;
    override_values(&mut value, assignments)?;
    resolve(value)
}

/// Applies assignments in their order, but for that of `model.depth`, which comes first, since what
/// follows from it is a beginning and what is said beside it counts; and for those of a `kind`, which
/// come next, since another kind would take what is said of it along.
///
/// # Errors
/// As for [`override_value`].
pub fn override_values(config: &mut Value, assignments: &[String]) -> Result<(), ConfigError> {
    let order = |assignment: &&String| match assignment.split_once('=') {
        Some(("model.depth", _)) => 0,
        Some((path, _)) if path.ends_with(".kind") => 1,
        _ => 2,
    };
    let mut assignments: Vec<_> = assignments.iter().collect();
    assignments.sort_by_key(order); // stable
    assignments.into_iter().try_for_each(|assignment| override_value(config, assignment))
}

fn load_chain(source: &Source, seen: &mut Vec<Source>) -> Result<Value, ConfigError> {
    let text = source.read()?;
    let mut value: Value = serde_json::from_str(&text).map_err(|error| ConfigError::Syntax {
        origin: source.origin(),
        reason: error.to_string(),
    })?;
    let parent = value.as_object_mut().and_then(|map| map.remove("extends"));
    let Some(parent) = parent else {
        expand_depth(&mut value, &mut Value::Null)?;
        return Ok(value);
    };
    let Value::String(name) = parent else {
        return Err(ConfigError::Value {
            path: "extends".into(),
            reason: "expected the name or the file of another configuration".into(),
            nearest: None,
        });
    };
    let parent = Source::find(&name, source.folder())?;
    if seen.contains(&parent) || parent == *source {
        return Err(ConfigError::Cycle { origin: source.origin(), name });
    }
    seen.push(source.clone());
    let mut base = load_chain(&parent, seen)?;
    expand_depth(&mut value, &mut base)?;
    merge(&mut base, value);
    Ok(base)
}

/// Lays `over` on `base`, key by key. An object of another `kind` replaces the one below it
/// whole, since the keys of one kind mean nothing to another, but for those that all kinds share.
pub(super) fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) if !other_kind(base, &over) => {
            // One length takes the place of another.
            if LENGTHS.iter().any(|key| over.contains_key(*key)) {
                base.retain(|key, _| !LENGTHS.contains(&key.as_str()));
            }
            for (key, value) in over {
                if let Some(below) = base.get_mut(&key) {
                    change_kind(&key, below, &value);
                }
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

fn other_kind(base: &Map<String, Value>, over: &Map<String, Value>) -> bool {
    over.get("kind").is_some_and(|kind| base.get("kind") != Some(kind))
}

/// Applies one `path.to.key=value`; the value is JSON, or else a plain string.
///
/// # Errors
/// An argument without `=`, a path that leads through something that is no object, or a
/// `model.depth` that is none.
pub fn override_value(config: &mut Value, argument: &str) -> Result<(), ConfigError> {
    let malformed = || ConfigError::Assignment { argument: argument.into() };
    let (path, text) = argument.split_once('=').ok_or_else(malformed)?;
    if path.split('.').any(str::is_empty) {
        return Err(malformed());
    }
    let value = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.into()));
    let mut over = path
        .rsplit('.')
        .fold(value, |value, key| Value::Object([(key.into(), value)].into_iter().collect()));
    let mut current = &*config;
    let mut prefix = String::new();
    for key in path.split('.') {
        match current {
            Value::Object(map) => match map.get(key) {
                Some(next) => current = next,
                None => break,
            },
            Value::Null => break,
            _ => {
                return Err(ConfigError::AssignmentPath { argument: argument.into(), prefix });
            }
        }
        if !prefix.is_empty() {
            prefix.push('.');
        }
        prefix.push_str(key);
    }
    expand_depth(&mut over, config)?;
    merge(config, over);
    Ok(())
}

/// Turns a composed document into a checked configuration.
///
/// # Errors
/// An unknown key or variant (with the nearest right one), a value of the wrong type, or a
/// value out of range.
pub fn resolve(mut value: Value) -> Result<RunConfig, ConfigError> {
    // A vocabulary that would be built from the text comes from prepared data instead.
    let built = value["tokenizer"].is_null() || value["tokenizer"]["kind"] == "character";
    if built
        && value["data"]["kind"] == "tokens"
        && let Some(path) = value.pointer("/data/path").filter(|path| path.is_string())
    {
        value["tokenizer"] = json!({"kind": "file", "path": path});
    }
    if let (Some(run), None) = (value["init_from"].as_str(), value.pointer("/model/d_model")) {
        return Err(ConfigError::Inherited { run: run.into() });
    }
    let config: RunConfig = deserialize(value)?;
    config.validate()?;
    Ok(config)
}

/// Reads a document of any schema, whose errors are those of a configuration.
///
/// # Errors
/// An unknown key or variant (with the nearest right one), or a value of the wrong type.
pub fn deserialize<T: DeserializeOwned>(value: Value) -> Result<T, ConfigError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = match error.path().to_string().as_str() {
            "." => "configuration".to_string(),
            path => path.to_string(),
        };
        describe(&path, &error.into_inner().to_string())
    })
}

/// serde says what it found and, in backticks, what it would have taken.
fn describe(path: &str, message: &str) -> ConfigError {
    let quoted: Vec<String> = message.split('`').skip(1).step_by(2).map(String::from).collect();
    if message.starts_with("unknown field") && !quoted.is_empty() {
        let key = &quoted[0];
        // Inside a `kind` the path ends at the object, elsewhere at the key itself.
        let full = match path {
            "configuration" => key.clone(),
            path if path == key || path.ends_with(&format!(".{key}")) => path.into(),
            path => format!("{path}.{key}"),
        };
        return ConfigError::UnknownKey {
            path: full,
            nearest: nearest(key, &quoted[1..]),
            known: quoted[1..].join(", "),
        };
    }
    let nearest = message
        .starts_with("unknown variant")
        .then(|| nearest(quoted.first()?, &quoted[1..]))
        .flatten();
    ConfigError::Value { path: path.into(), reason: message.into(), nearest }
}

fn nearest(name: &str, known: &[String]) -> Option<String> {
    known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate.clone())
}
