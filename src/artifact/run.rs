use burn::tensor::TensorData;
use burn::tensor::backend::Backend;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use super::checkpoints::{MODEL, STATE};
use super::{ArtifactError, Checkpoints, History, Segment, TensorFile, segments, stream_tensors};
use crate::config::{self, ModelConfig, RunConfig};
use crate::data::Task;
use crate::files::{self, FileError, LockedFile, NamesFile, write_error};
use crate::model::{self, Initializer, Model, ModelError};
use crate::tokenizer::{SavedTokenizer, Tokenizer};
use crate::train::RunState;

pub(super) const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const LOCK: &str = "lock";
/// Much longer than [`Run::is_being_trained`] holds a lock, on a machine with other work to do, too.
/// Only who is about to be told that a run is busy waits so long.
const GLANCE: Duration = Duration::from_secs(2);

/// A run directory.
#[derive(Debug, Clone)]
pub struct Run {
    path: PathBuf,
    name: String,
    config: RunConfig,
    tokenizer: SavedTokenizer,
}

impl Run {
    /// Makes the directory, with what the run is going to be in it. All or nothing.
    ///
    /// # Errors
    /// [`ArtifactError::Exists`], or a disk that cannot be written.
    pub fn create(
        root: &Path,
        config: &RunConfig,
        tokenizer: SavedTokenizer,
    ) -> Result<Self, ArtifactError> {
        Self::write_new(root, config, tokenizer, |_| Ok(()))
    }

    /// Makes the run of a model that was trained elsewhere: its one checkpoint is that of step
    /// zero. `values` is asked for each of the `shapes` in turn, so that no more than one tensor
    /// need be in memory. All or nothing.
    ///
    /// # Errors
    /// [`ArtifactError::Exists`], a disk that cannot be written, or whatever `values` refuses.
    pub fn create_with_model<'a, E: From<ArtifactError>>(
        root: &Path,
        config: &RunConfig,
        tokenizer: SavedTokenizer,
        shapes: &[(String, Vec<usize>)],
        mut values: impl FnMut(usize) -> Result<Cow<'a, TensorData>, E>,
    ) -> Result<Self, E> {
        Self::write_new(root, config, tokenizer, |part| {
            let folder = Checkpoints::new(part, 1).path(0);
            fs::create_dir_all(&folder).map_err(write_error(&folder))?;
            stream_tensors(&folder.join(MODEL), shapes, HashMap::new(), |index| {
                values(index).map_err(Failed::Other)
            })?;
            files::write_json(&folder.join(STATE), &RunState::default())?;
            Ok(files::write_checksums(&folder, &[MODEL, STATE])?)
        })
    }

    /// The folder of a run, with what `model` writes into it.
    fn write_new<E: From<ArtifactError>>(
        root: &Path,
        config: &RunConfig,
        tokenizer: SavedTokenizer,
        model: impl FnOnce(&Path) -> Result<(), Failed<E>>,
    ) -> Result<Self, E> {
        let path = root.join(&config.name);
        if path.exists() {
            return Err(ArtifactError::Exists { path }.into());
        }
        let is_new = !root.exists();
        fs::create_dir_all(root).map_err(write_error(root)).map_err(ArtifactError::from)?;
        let run = Self { name: config.name.clone(), config: config.clone(), tokenizer, path };
        let written = files::write_folder(&run.path, |part| {
            model(part)?;
            files::write_json(&part.join(CONFIG), &run.config)?;
            files::write_json(&part.join(TOKENIZER), &run.tokenizer)?;
            Ok(files::write_checksums(part, &[CONFIG, TOKENIZER])?)
        });
        if written.is_err() && is_new {
            // Best effort: the error that matters is the first one.
            let _ = fs::remove_dir(root);
        }
        match written {
            Ok(()) => Ok(run),
            Err(Failed::Other(error)) => Err(error),
            // Another program was faster.
            Err(Failed::Own(ArtifactError::File(FileError::Write { path, source })))
                if path == run.path
                    && [ErrorKind::DirectoryNotEmpty, ErrorKind::AlreadyExists]
                        .contains(&source.kind()) =>
            {
                Err(ArtifactError::Exists { path }.into())
            }
            Err(Failed::Own(error)) => Err(error.into()),
        }
    }

    /// The first of `name`, `name-2`, `name-3`, .. that no run has yet.
    pub fn free_name(root: &Path, name: &str) -> String {
        let numbered = (2..).map(|number| format!("{name}-{number}"));
        std::iter::once(name.to_string())
            .chain(numbered)
            .find(|name| !root.join(name).exists())
            .expect("there are more numbers than files")
    }

    /// Opens a run by its name under `root`, or by its path.
    ///
    /// # Errors
    /// A run that does not exist, or one of its files that is missing or damaged.
    pub fn open(root: &Path, name: &str) -> Result<Self, ArtifactError> {
        let path = [root.join(name), PathBuf::from(name)]
            .into_iter()
            .find(|path| path.join(CONFIG).is_file())
            .ok_or_else(|| match root.join(name) {
                path if is_run(&path) => {
                    let (path, reason) = (path.join(CONFIG), "it is missing".into());
                    FileError::Damaged { path, reason }.into()
                }
                _ => match run_names(root) {
                    Ok(known) => {
                        ArtifactError::UnknownRun { name: name.into(), root: root.into(), known }
                    }
                    Err(error) => error,
                },
            })?;
        files::verify(&path, CONFIG)?;
        files::verify(&path, TOKENIZER)?;
        // That of the last segment is the one that counts.
        let folder = segments::folders(&path)?.pop().unwrap_or_else(|| path.clone());
        files::verify(&folder, CONFIG)?;
        let value: Value = files::read_json(&folder.join(CONFIG))?;
        let config = config::resolve(value)
            .map_err(|source| ArtifactError::Config { path: folder.join(CONFIG), source })?;
        Ok(Self {
            name: name_of(&path, root).unwrap_or_else(|| config.name.clone()),
            config,
            tokenizer: files::read_json(&path.join(TOKENIZER))?,
            path,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the run is opened by, or the name of its folder where that is not under the root. It
    /// is the configuration's name until the folder is copied or moved.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn config(&self) -> &RunConfig {
        &self.config
    }

    /// # Errors
    /// A tokenizer that contradicts itself.
    pub fn tokenizer(&self) -> Result<Box<dyn Tokenizer>, ArtifactError> {
        self.tokenizer
            .restore()
            .map_err(|source| ArtifactError::Tokenizer { path: self.path.join(TOKENIZER), source })
    }

    /// The tokenizer as it is kept.
    pub fn saved_tokenizer(&self) -> &SavedTokenizer {
        &self.tokenizer
    }

    /// What the model does, with the run's tokenizer.
    pub fn task(&self, tokenizer: &dyn Tokenizer) -> Task {
        Task::of(&self.config, tokenizer)
    }

    pub fn history(&self) -> History {
        History::new(&self.path)
    }

    pub fn checkpoints(&self) -> Checkpoints {
        Checkpoints::new(&self.path, self.config.train.keep_checkpoints)
    }

    /// That its training can go on.
    ///
    /// # Errors
    /// [`ArtifactError::NotTrained`]
    pub fn check_trained(&self) -> Result<(), ArtifactError> {
        // A training saves nothing before its first step.
        match self.checkpoints().steps()?[..] {
            [0] => Err(ArtifactError::NotTrained { path: self.path.clone() }),
            _ => Ok(()),
        }
    }

    /// The best model, or where none was evaluated the newest.
    ///
    /// # Errors
    /// A run without checkpoints, or a checkpoint that is damaged or does not fit.
    pub fn load_model<B: Backend>(&self, device: &B::Device) -> Result<Model<B>, ArtifactError> {
        self.load_model_as(&self.config, device)
    }

    /// The weights of [`Run::load_model`] in a model of another configuration, to train it
    /// further: the shapes must be the same, but for a context that may be shorter. Adapters that
    /// the run does not have begin as new ones.
    ///
    /// # Errors
    /// As for [`Run::load_model`], and [`ArtifactError::Adapters`].
    pub fn load_model_as<B: Backend>(
        &self,
        config: &RunConfig,
        device: &B::Device,
    ) -> Result<Model<B>, ArtifactError> {
        let (name, seed, config) = (&config.name, config.seed, &config.model);
        let added = match (&self.config.model.lora, &config.lora) {
            (Some(_), None) => return Err(ArtifactError::Adapters { path: self.path.clone() }),
            (None, Some(lora)) => Some(lora),
            _ => None,
        };
        let config = &if added.is_some() { config.without_adapters() } else { config.clone() };
        let folder = self.checkpoints().path(self.best_step()?);
        files::verify(&folder, MODEL)?;
        let model = load_model(&folder.join(MODEL), name, config, device)?;
        Ok(match added {
            Some(lora) => model.with_adapters(lora, seed),
            None => model,
        })
    }

    /// The model of a checkpoint that [`Checkpoints::newest`] has found and checked.
    ///
    /// # Errors
    /// A checkpoint that does not fit the configuration.
    pub fn load_model_of<B: Backend>(
        &self,
        step: usize,
        config: &ModelConfig,
        device: &B::Device,
    ) -> Result<Model<B>, ArtifactError> {
        load_model(&self.checkpoints().weights(step), &self.name, config, device)
    }

    /// The tensors of the model that [`Run::load_model`] loads; adapters are part of the weights
    /// that they are beside, as in a model without them.
    ///
    /// # Errors
    /// A run without checkpoints, or a checkpoint that is damaged.
    pub fn model_tensors(&self) -> Result<TensorFile, ArtifactError> {
        let folder = self.checkpoints().path(self.best_step()?);
        files::verify(&folder, MODEL)?;
        let file = TensorFile::open(&folder.join(MODEL))?;
        Ok(match &self.config.model.lora {
            Some(lora) => file.merging(lora.scale()),
            None => file,
        })
    }

    /// The step of the best checkpoint, or where none was evaluated of the newest.
    ///
    /// # Errors
    /// [`ArtifactError::NoCheckpoint`]
    pub fn best_step(&self) -> Result<usize, ArtifactError> {
        let checkpoints = self.checkpoints();
        let best = checkpoints.best()?.map(|best| best.step);
        let best = best.filter(|step| checkpoints.path(*step).exists());
        let newest = checkpoints.steps()?.last().copied();
        best.or(newest).ok_or_else(|| ArtifactError::NoCheckpoint { path: self.path.clone() })
    }

    /// The model of a step, as it was evaluated.
    ///
    /// # Errors
    /// A step without a checkpoint, or a checkpoint that is damaged or does not fit.
    pub fn load_checkpoint<B: Backend>(
        &self,
        step: usize,
        device: &B::Device,
    ) -> Result<Model<B>, ArtifactError> {
        let checkpoints = self.checkpoints();
        let known = checkpoints.steps()?;
        if !known.contains(&step) {
            return Err(ArtifactError::UnknownStep { run: self.name.clone(), step, known });
        }
        let folder = checkpoints.path(step);
        files::verify(&folder, MODEL)?;
        load_model(&folder.join(MODEL), &self.name, &self.config.model, device)
    }

    /// Keeps other programs from training this run, for as long as the result lives.
    ///
    /// # Errors
    /// [`ArtifactError::Busy`], or a folder that cannot be written.
    pub fn lock(&self) -> Result<LockedFile, ArtifactError> {
        let path = self.path.join(LOCK);
        let lock = || -> Result<Option<LockedFile>, FileError> {
            let file = File::options().create(true).append(true).open(&path);
            Ok(LockedFile::new(file.map_err(write_error(&path))?))
        };
        let begun = Instant::now();
        loop {
            match lock()? {
                Some(file) => return Ok(file),
                None if begun.elapsed() < GLANCE => std::thread::sleep(GLANCE / 100),
                None => return Err(ArtifactError::Busy { path: self.path.clone() }),
            }
        }
    }

    /// Whether a program trains this run now.
    pub fn is_being_trained(&self) -> bool {
        let file = File::open(self.path.join(LOCK)).ok();
        // Others may look at the same time.
        file.is_some_and(|file| match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => true,
            _ => {
                // What could not be locked cannot be unlocked either.
                let _ = file.unlock();
                false
            }
        })
    }

    /// Goes on with other settings. They are written before anything is trained with them, and
    /// those before them stay where they are.
    ///
    /// # Errors
    /// A folder that cannot be written; then the run is as it was.
    pub fn begin_segment(
        &mut self,
        config: RunConfig,
        segment: &Segment,
    ) -> Result<(), ArtifactError> {
        segments::begin(&self.path, &config, segment)?;
        self.config = config;
        Ok(())
    }

    /// The segments after the first.
    ///
    /// # Errors
    /// One that cannot be read.
    pub fn segments(&self) -> Result<Vec<Segment>, ArtifactError> {
        segments::read(&self.path)
    }

    /// Forgets what came after a step: the run goes on from there.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn forget_after(&self, step: usize) -> Result<(), ArtifactError> {
        for folder in [self.path.clone(), segments::folder(&self.path)] {
            files::remove_parts(&folder)?;
        }
        self.history().forget_after(step)
    }
}

/// Why a run cannot be made: by itself, or because of what it is asked to hold.
enum Failed<E> {
    Own(ArtifactError),
    Other(E),
}

impl<E> From<FileError> for Failed<E> {
    fn from(error: FileError) -> Self {
        Self::Own(error.into())
    }
}

impl<E> NamesFile for Failed<E> {
    fn moved(self, from: &Path, to: &Path) -> Self {
        match self {
            Self::Own(error) => Self::Own(error.moved(from, to)),
            Self::Other(error) => Self::Other(error),
        }
    }
}

/// The way from the root to a run's folder, or the last part of its path.
fn name_of(path: &Path, root: &Path) -> Option<String> {
    let is_name = |part: Component| matches!(part, Component::Normal(_));
    if let Ok(name) = path.strip_prefix(root)
        && name.components().all(is_name)
        && name.components().next().is_some()
    {
        return Some(name.to_string_lossy().into_owned());
    }
    let whole = path.canonicalize().ok()?;
    whole.file_name().map(|name| name.to_string_lossy().into_owned())
}

/// Reads a model's weights, one tensor at a time, so that loading needs little more memory than the
/// model.
fn load_model<B: Backend>(
    path: &Path,
    name: &str,
    config: &ModelConfig,
    device: &B::Device,
) -> Result<Model<B>, ArtifactError> {
    let mut file = TensorFile::open(path)?;
    let mut left_over: BTreeSet<String> = file.names().map(String::from).collect();
    let vocab_size = config.vocab_size.unwrap_or_default();
    let model = Model::new(name, config, vocab_size, Initializer::Zeros, device);
    let mut unread = None;
    let loaded = model::load_parameters(model, |name| {
        let data = left_over.remove(name).then(|| file.read(name))?;
        let data = data.map_err(|error| unread = Some(error)).ok()?;
        let positions = name == "embedding.position";
        Some(if positions { first_rows(data, config.context_length) } else { data })
    });
    if let Some(error) = unread {
        return Err(error.into());
    }
    match (loaded, left_over.pop_first()) {
        (Ok(model), None) => Ok(model),
        (Ok(_), Some(name)) => {
            Err(ArtifactError::Model { path: path.into(), source: ModelError::LeftOver { name } })
        }
        (Err(source), _) => Err(ArtifactError::Model { path: path.into(), source }),
    }
}

/// At most so many rows of a matrix.
fn first_rows(data: TensorData, count: usize) -> TensorData {
    match data.shape.to_vec()[..] {
        [rows, columns] if rows > count => {
            let values: Vec<f32> = data.iter::<f32>().take(count * columns).collect();
            TensorData::new(values, [count, columns])
        }
        _ => data,
    }
}

/// The runs under a folder, by name, the damaged ones too; none where there is no such folder.
///
/// # Errors
/// A folder that cannot be read.
pub fn run_names(root: &Path) -> Result<Vec<String>, ArtifactError> {
    let mut names = files::names(root)?;
    // A run that is being made has another name until it is whole.
    names.retain(|name| !name.starts_with(files::PART) && is_run(&root.join(name)));
    names.sort();
    Ok(names)
}

/// Whether a folder is a run, or was one before it was damaged.
fn is_run(path: &Path) -> bool {
    path.join(CONFIG).is_file() || Checkpoints::new(path, 1).folder().is_dir()
}
