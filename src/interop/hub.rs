use hf_hub::api::sync::ApiBuilder;
use std::path::PathBuf;

use super::InteropError;

/// Whether a name could be one on the Hugging Face Hub: `organisation/model`.
pub fn is_hub_name(name: &str) -> bool {
    let valid = |part: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && !part.starts_with('.') && part.chars().all(plain)
    };
    name.split_once('/').is_some_and(|(organisation, model)| valid(organisation) && valid(model))
}

/// Downloads what [`super::ForeignModel::open`] reads into Hugging Face's own cache, with a
/// progress bar, going on where an earlier download stopped; gives the folder.
///
/// # Errors
/// A model that does not exist or needs a token (`hf auth login` leaves one), or no network.
pub fn download(name: &str) -> Result<PathBuf, InteropError> {
    let failed =
        |reason: String| InteropError::Hub { name: name.into(), reason: reason.replace('\n', " ") };
    let api = ApiBuilder::from_env()
        .with_progress(true)
        .build()
        .map_err(|error| failed(error.to_string()))?;
    let repository = api.model(name.into());
    let info = repository.info().map_err(|error| failed(error.to_string()))?;
    let wanted = |file: &str| {
        let weights = file == "model.safetensors"
            || (file.starts_with("model-") && file.ends_with(".safetensors"));
        weights
            || [
                "config.json",
                "generation_config.json",
                "merges.txt",
                "model.safetensors.index.json",
                "special_tokens_map.json",
                "tokenizer.json",
                "tokenizer_config.json",
                "vocab.json",
            ]
            .contains(&file)
    };
    let mut files: Vec<String> = info.siblings.into_iter().map(|file| file.rfilename).collect();
    files.retain(|file| wanted(file));
    if !files.iter().any(|file| file.ends_with(".safetensors")) {
        return Err(failed("it has no weights as safetensors".into()));
    }
    let mut folder = None;
    for file in &files {
        let path = repository.get(file).map_err(|error| failed(format!("{file}: {error}")))?;
        folder = path.parent().map(PathBuf::from);
    }
    folder.ok_or_else(|| failed("it has no files".into()))
}
