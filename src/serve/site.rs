use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use super::chat::Template;
use super::engine::Engine;
use super::error::ApiError;
use super::gate::Key;
use super::metrics::{Metrics, ModelMetrics};
use crate::artifact::Run;
use crate::backend::BackendKind;
use crate::data::Task;
use crate::tokenizer::Tokenizer;

/// What all requests share.
pub(super) struct Site {
    pub(super) served: Vec<Arc<Served>>,
    pub(super) metrics: Metrics,
    pub(super) key: Option<Key>,
    /// In which a request is answered whole.
    pub(super) timeout: Duration,
    /// Bytes of a body.
    pub(super) max_body: usize,
    pub(super) stopping: AtomicBool,
}

/// A run that is served.
pub(super) struct Served {
    pub(super) run: Run,
    pub(super) tokenizer: Arc<dyn Tokenizer>,
    pub(super) task: Task,
    pub(super) template: Template,
    pub(super) engine: Engine,
    pub(super) metrics: ModelMetrics,
    pub(super) backend: BackendKind,
    pub(super) int8: bool,
    pub(super) params: usize,
    pub(super) vocab_size: usize,
    pub(super) context_length: usize,
    /// Tokens that a text may have.
    pub(super) most_tokens: usize,
    /// Texts of one request.
    pub(super) most_texts: usize,
}

impl Site {
    /// A run by its name; where there is but one, no name will do.
    pub(super) fn find(&self, name: Option<&str>) -> Result<Arc<Served>, ApiError> {
        let names = || self.served.iter().map(|served| served.run.name()).collect::<Vec<_>>();
        match (name, &self.served[..]) {
            (None, [only]) => Ok(only.clone()),
            (None, _) => Err(ApiError::which_model(&names())),
            (Some(name), all) => {
                let found = all.iter().find(|served| served.run.name() == name);
                found.cloned().ok_or_else(|| ApiError::no_model(name, &names()))
            }
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}

impl Served {
    /// When the run's folder was changed last, in seconds since 1970.
    pub(super) fn created(&self) -> u64 {
        let changed = std::fs::metadata(self.run.path()).and_then(|metadata| metadata.modified());
        let since = changed.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        since.map_or(0, |since| since.as_secs())
    }
}
