use burn::module::AutodiffModule;
use burn::tensor::Tensor;
use burn::tensor::TensorData;
use burn::tensor::backend::{AutodiffBackend, Backend};
use serde_json::json;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use super::{ArtifactError, TensorFile, stream_tensors};
use crate::config::AverageConfig;
use crate::files::{self, FileError, PART, write_error};
use crate::model::{self, ModelError};
use crate::train::{Average, Best, Checkpoint, LanguageModel, ModelOptimizer, Moments, RunState};

pub(super) const MODEL: &str = "model.safetensors";
/// The weights that are trained, beside a model that is their average.
const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
pub(super) const STATE: &str = "state.json";
/// A file of this name, whoever made it, keeps a checkpoint for good.
const KEPT: &str = "kept";
/// How often each parameter was updated, beside its moments.
const UPDATES: &str = "updates";
const BEST: &str = "best.json";
/// What a run could not be resumed from.
const DAMAGED: &str = "damaged-";

/// The checkpoints of a run, a folder each; the newest ones, the best one, and those that are kept
/// for good.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    run: PathBuf,
    keep: usize,
}

/// The checkpoint that a run goes on from.
#[derive(Debug)]
pub struct Resumable {
    pub step: usize,
    pub state: RunState,
    /// The steps of those after it, and what is wrong with them.
    pub damaged: Vec<(usize, ArtifactError)>,
}

impl Checkpoints {
    pub(super) fn new(run: &Path, keep: usize) -> Self {
        Self { run: run.into(), keep }
    }

    pub(super) fn folder(&self) -> PathBuf {
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
        let mut steps: Vec<usize> = files::names(&self.folder())?
            .iter()
            .filter_map(|name| name.strip_prefix("step-")?.parse().ok())
            .collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// The best checkpoint that was noted, if there is one.
    ///
    /// # Errors
    /// A note that cannot be read.
    pub fn best(&self) -> Result<Option<Best>, ArtifactError> {
        let path = self.run.join(BEST);
        Ok(path.exists().then(|| files::read_json(&path)).transpose()?)
    }

    /// Notes the best checkpoint, which was saved before.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn mark_best(&self, best: Best) -> Result<(), ArtifactError> {
        files::write_json(&self.run.join(BEST), &best)?;
        self.prune()
    }

    /// Saves a checkpoint, all or nothing: the files are written into a folder beside its place,
    /// synced, and moved there with their checksums.
    ///
    /// # Errors
    /// A disk that cannot be written; the checkpoints before are as they were.
    pub fn save<B: AutodiffBackend>(
        &self,
        checkpoint: &Checkpoint<B>,
    ) -> Result<(), ArtifactError> {
        let folder = self.folder();
        fs::create_dir_all(&folder).map_err(write_error(&folder))?;
        let path = self.path(checkpoint.state.progress.step);
        let mut before = None;
        let saved = files::write_folder(&path, |part| {
            let mut names = vec![MODEL, OPTIMIZER, STATE];
            let weights = checkpoint.model.valid();
            match checkpoint.average {
                None => write_model(&part.join(MODEL), &weights)?,
                Some(average) => {
                    write_model(&part.join(WEIGHTS), &weights)?;
                    write_model(&part.join(MODEL), &average.applied(weights))?;
                    names.push(WEIGHTS);
                }
            }
            write_moments(&part.join(OPTIMIZER), checkpoint.model, checkpoint.optimizer)?;
            files::write_json(&part.join(STATE), checkpoint.state)?;
            files::write_checksums(part, &names)?;
            if checkpoint.for_good || path.join(KEPT).exists() {
                let kept = part.join(KEPT);
                fs::write(&kept, "").map_err(write_error(&kept))?;
            }
            before = self.take_away(&path)?;
            Ok::<_, ArtifactError>(())
        });
        if let Some(before) = before {
            match &saved {
                Ok(()) => fs::remove_dir_all(&before).map_err(write_error(&before))?,
                // Best effort: the error that matters is the first one.
                Err(_) => drop(fs::rename(&before, &path)),
            }
        }
        saved?;
        self.prune()
    }

    /// Removes all but the newest checkpoints, the best one, and those that are kept for good.
    fn prune(&self) -> Result<(), ArtifactError> {
        let best = self.best()?.map(|best| best.step);
        let steps = self.steps()?;
        let surplus = steps.len().saturating_sub(self.keep);
        for step in &steps[..surplus] {
            let path = self.path(*step);
            if Some(*step) != best && !path.join(KEPT).exists() {
                self.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Removes a checkpoint, if it is there. It loses its name first: one that is half removed is
    /// not taken for a checkpoint.
    fn remove(&self, path: &Path) -> Result<(), ArtifactError> {
        match self.take_away(path)? {
            Some(part) => Ok(fs::remove_dir_all(&part).map_err(write_error(&part))?),
            None => Ok(()),
        }
    }

    /// Takes its name from a checkpoint, if it is there, and says where it is now.
    fn take_away(&self, path: &Path) -> Result<Option<PathBuf>, ArtifactError> {
        let Some(name) = path.file_name().filter(|_| path.exists()) else {
            return Ok(None);
        };
        let part = self.folder().join(format!("{PART}removed-{}", name.to_string_lossy()));
        if part.exists() {
            fs::remove_dir_all(&part).map_err(write_error(&part))?;
        }
        fs::rename(path, &part).map_err(write_error(path))?;
        Ok(Some(part))
    }

    /// The newest checkpoint that can be read, to go on from. Nothing is changed.
    ///
    /// # Errors
    /// A folder that cannot be read, or checkpoints of which none can be read.
    pub fn newest(&self) -> Result<Option<Resumable>, ArtifactError> {
        let mut damaged: Vec<(usize, ArtifactError)> = Vec::new();
        for step in self.steps()?.into_iter().rev() {
            match read_state(&self.path(step)) {
                Err(error) => damaged.push((step, error)),
                Ok(state) => return Ok(Some(Resumable { step, state, damaged })),
            }
        }
        match damaged.into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(None),
        }
    }

    /// Leaves what a run goes on with: what is damaged is set aside, what a killed program left half
    /// written is removed, and the best checkpoint is noted that is the best so far; what came after
    /// the step that the run goes on from is going to be computed again. Only for whoever holds the
    /// run's lock.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn go_on(&self, damaged: &[usize], best: Option<Best>) -> Result<(), ArtifactError> {
        files::remove_parts(&self.folder())?;
        damaged.iter().try_for_each(|step| self.set_aside(*step))?;
        let path = self.run.join(BEST);
        match best.filter(|best| self.path(best.step).exists()) {
            Some(best) => files::write_json(&path, &best)?,
            None if path.exists() => fs::remove_file(&path).map_err(write_error(&path))?,
            None => {}
        }
        Ok(())
    }

    fn set_aside(&self, step: usize) -> Result<(), ArtifactError> {
        let aside = self.folder().join(format!("{DAMAGED}step-{step:08}"));
        if aside.exists() {
            fs::remove_dir_all(&aside).map_err(write_error(&aside))?;
        }
        let path = self.path(step);
        Ok(fs::rename(&path, &aside).map_err(write_error(&path))?)
    }

    /// Gives an optimizer the moments of a checkpoint that [`Checkpoints::newest`] has found. No
    /// more than one tensor is held beside those that the optimizer keeps.
    ///
    /// # Errors
    /// A file that cannot be read, or that has the moments of another model.
    pub fn load_moments<B: AutodiffBackend>(
        &self,
        step: usize,
        model: &LanguageModel<B>,
        optimizer: &ModelOptimizer<B>,
        device: &B::Device,
    ) -> Result<(), ArtifactError> {
        let path = self.path(step).join(OPTIMIZER);
        let mut file = TensorFile::open(&path)?;
        let mut left_over: BTreeSet<String> = file.names().map(String::from).collect();
        let damaged = |reason: String| FileError::Damaged { path: path.clone(), reason };
        let updates: BTreeMap<String, usize> =
            serde_json::from_str(file.metadata(UPDATES).unwrap_or_default())
                .map_err(|error| damaged(format!("`{UPDATES}`: {error}")))?;
        for parameter in model::parameters(&model.model) {
            let name = &parameter.name;
            let Some(step) = updates.get(name).copied() else {
                continue; // never updated
            };
            let count: usize = parameter.shape.iter().product();
            let mut read = |moment: &str| {
                let name = format!("{moment}.{name}");
                let data = left_over.remove(&name).then(|| file.read(&name)).transpose()?;
                match data {
                    Some(data) if data.num_elements() != count => {
                        let reason = format!("`{name}` has {} numbers", data.num_elements());
                        Err(ArtifactError::from(damaged(format!("{reason} instead of {count}"))))
                    }
                    data => Ok(data.map(|data| tensor::<B::InnerBackend>(data, device))),
                }
            };
            let (first, second) = (read("first")?, read("second")?);
            optimizer.restore(parameter.id, Moments { first, second, step });
        }
        match left_over.pop_first() {
            Some(name) => Err(ArtifactError::Model { path, source: ModelError::LeftOver { name } }),
            None => Ok(()),
        }
    }

    /// The file of a checkpoint that has the weights to train further.
    pub(super) fn weights(&self, step: usize) -> PathBuf {
        let folder = self.path(step);
        let weights = folder.join(WEIGHTS);
        if weights.exists() { weights } else { folder.join(MODEL) }
    }

    /// The average of a model's weights, to go on with; a new one, where the checkpoint, which
    /// [`Checkpoints::newest`] has found, has none.
    ///
    /// # Errors
    /// A file that cannot be read, or that is of another model.
    pub fn load_average<B: AutodiffBackend>(
        &self,
        step: usize,
        state: &RunState,
        config: AverageConfig,
        model: &LanguageModel<B>,
        device: &B::Device,
    ) -> Result<Average<B>, ArtifactError> {
        let updates = state.averaged.unwrap_or(0);
        let mut average = Average::new(config, updates);
        if updates == 0 {
            return Ok(average); // the first update begins it
        }
        let path = self.path(step).join(MODEL);
        let mut file = TensorFile::open(&path)?;
        let trained = model.trained_parameters();
        for parameter in model::parameters(&model.model) {
            if trained.contains_key(&parameter.id) {
                let (data, count) =
                    (file.read(&parameter.name)?, parameter.shape.iter().product::<usize>());
                if data.num_elements() != count {
                    let name = &parameter.name;
                    let reason = format!("`{name}` has {} numbers", data.num_elements());
                    let reason = format!("{reason} instead of {count}");
                    return Err(FileError::Damaged { path, reason }.into());
                }
                average.restore(parameter.id, tensor::<B::InnerBackend>(data, device));
            }
        }
        Ok(average)
    }
}

fn tensor<B: Backend>(data: TensorData, device: &B::Device) -> Tensor<B, 1> {
    let count = data.num_elements();
    Tensor::from_data(TensorData { shape: [count].into(), ..data }, device)
}

/// What a checkpoint remembers, after all its files have been checked.
fn read_state(folder: &Path) -> Result<RunState, ArtifactError> {
    for name in [STATE, OPTIMIZER, MODEL] {
        files::verify(folder, name)?;
    }
    let state: RunState = files::read_json(&folder.join(STATE))?;
    if state.averaged.is_some() {
        files::verify(folder, WEIGHTS)?;
    }
    Ok(state)
}

/// Writes the parameters, of which no more than one is on the host at a time.
fn write_model<B: Backend>(path: &Path, model: &LanguageModel<B>) -> Result<(), ArtifactError> {
    let model = &model.model;
    let parameters = model::parameters(model);
    let shapes: Vec<_> =
        parameters.iter().map(|found| (found.name.clone(), found.shape.clone())).collect();
    stream_tensors(path, &shapes, HashMap::new(), |index| {
        let data = model::tensor(model, parameters[index].id);
        Ok(Cow::Owned(data.expect("it was listed a moment ago")))
    })
}

/// Writes the moments as `first.NAME` and `second.NAME`, and how often each parameter was updated.
fn write_moments<B: AutodiffBackend>(
    path: &Path,
    model: &LanguageModel<B>,
    optimizer: &ModelOptimizer<B>,
) -> Result<(), ArtifactError> {
    let (mut shapes, mut moments, mut updates) = (Vec::new(), Vec::new(), BTreeMap::new());
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
        updates.insert(name, found.step);
    }
    // One text, since a safetensors file has several in no order of their own.
    let updates = HashMap::from([(UPDATES.into(), json!(updates).to_string())]);
    stream_tensors(path, &shapes, updates, |index| Ok(Cow::Owned(moments[index].to_data())))
}
