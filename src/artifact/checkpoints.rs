use burn::module::AutodiffModule;
use burn::tensor::backend::AutodiffBackend;
use std::borrow::Cow;
use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use super::run::Best;
use super::{ArtifactError, stream_tensors};
use crate::files::{self, read_error, write_error};
use crate::model;
use crate::train::{Checkpoint, CheckpointSink, LanguageModel, ModelOptimizer};

pub(super) const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
pub(super) const PROGRESS: &str = "progress.json";

/// The checkpoints of a run, a folder each; the newest ones and the best one are kept.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    run: PathBuf,
    keep: usize,
}

impl Checkpoints {
    pub(super) fn new(run: &Path, keep: usize) -> Self {
        Self { run: run.into(), keep }
    }

    fn folder(&self) -> PathBuf {
        self.run.join("checkpoints")
    }

    /// Where the checkpoint of a step is, or would be.
    pub fn path(&self, step: usize) -> PathBuf {
        self.folder().join(format!("step-{step:08}"))
    }

    /// The steps that there are checkpoints of, ascending.
    ///
    /// # Errors
    /// A folder that cannot be listed.
    pub fn steps(&self) -> Result<Vec<usize>, ArtifactError> {
        let folder = self.folder();
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let mut steps = Vec::new();
        for entry in fs::read_dir(&folder).map_err(read_error(&folder))? {
            let name = entry.map_err(read_error(&folder))?.file_name();
            let step = name.to_str().and_then(|name| name.strip_prefix("step-"));
            steps.extend(step.and_then(|step| step.parse::<usize>().ok()));
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// Notes the best checkpoint, if there is one.
    ///
    /// # Errors
    /// A note that cannot be read.
    pub fn best(&self) -> Result<Option<Best>, ArtifactError> {
        let path = self.run.join("best.json");
        Ok(path.exists().then(|| files::read_json(&path)).transpose()?)
    }

    fn save_whole<B: AutodiffBackend>(
        &self,
        checkpoint: &Checkpoint<B>,
    ) -> Result<(), ArtifactError> {
        let folder = self.folder();
        fs::create_dir_all(&folder).map_err(write_error(&folder))?;
        let path = self.path(checkpoint.progress.step);
        // Removed with all it holds where anything below fails.
        let part = tempfile::Builder::new()
            .prefix(".part-")
            .tempdir_in(&folder)
            .map_err(write_error(&folder))?;

        write_model(&part.path().join(MODEL), checkpoint.model)?;
        write_moments(&part.path().join(OPTIMIZER), checkpoint.model, checkpoint.optimizer)?;
        files::write_json(&part.path().join(PROGRESS), checkpoint.progress)?;
        files::write_checksums(part.path(), &[MODEL, OPTIMIZER, PROGRESS])?;

        if path.exists() {
            fs::remove_dir_all(&path).map_err(write_error(&path))?;
        }
        fs::rename(part.path(), &path)
            .and_then(|()| files::sync_folder(&folder))
            .map_err(write_error(&path))?;
        let _renamed = part.keep();
        self.prune()
    }

    /// Removes all but the newest checkpoints and the best one.
    fn prune(&self) -> Result<(), ArtifactError> {
        let best = self.best()?.map(|best| best.step);
        let steps = self.steps()?;
        let surplus = steps.len().saturating_sub(self.keep);
        for step in steps[..surplus].iter().filter(|step| Some(**step) != best) {
            let path = self.path(*step);
            fs::remove_dir_all(&path).map_err(write_error(&path))?;
        }
        Ok(())
    }
}

impl<B: AutodiffBackend> CheckpointSink<B> for Checkpoints {
    fn save(&mut self, checkpoint: &Checkpoint<B>) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(self.save_whole(checkpoint)?)
    }

    fn mark_best(&mut self, step: usize, loss: f64) -> Result<(), Box<dyn Error + Send + Sync>> {
        let best = Best { step, loss };
        files::write_json(&self.run.join("best.json"), &best)?;
        Ok(self.prune()?)
    }
}

/// Writes the parameters, of which no more than one is on the host at a time.
fn write_model<B: AutodiffBackend>(
    path: &Path,
    model: &LanguageModel<B>,
) -> Result<(), ArtifactError> {
    let model = model.valid().model;
    let parameters = model::parameters(&model);
    let shapes: Vec<_> =
        parameters.iter().map(|found| (found.name.clone(), found.shape.clone())).collect();
    stream_tensors(path, &shapes, HashMap::new(), |index| {
        let data = model::tensor(&model, parameters[index].id);
        Ok(Cow::Owned(data.expect("it was listed a moment ago")))
    })
}

/// Writes the moments as `first.NAME` and `second.NAME`, and how often each parameter was updated.
fn write_moments<B: AutodiffBackend>(
    path: &Path,
    model: &LanguageModel<B>,
    optimizer: &ModelOptimizer<B>,
) -> Result<(), ArtifactError> {
    let (mut shapes, mut moments, mut updates) = (Vec::new(), Vec::new(), HashMap::new());
    for parameter in model::parameters(&model.model) {
        let Some(found) = optimizer.moments(parameter.id) else {
            continue; // never updated
        };
        let name = parameter.name;
        for (moment, tensor) in [("first", found.first), ("second", found.second)] {
            if let Some(tensor) = tensor {
                shapes.push((format!("{moment}.{name}"), tensor.dims().to_vec()));
                moments.push(tensor);
            }
        }
        updates.insert(name, found.step.to_string());
    }
    stream_tensors(path, &shapes, updates, |index| Ok(Cow::Owned(moments[index].to_data())))
}
