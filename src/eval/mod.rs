//! How good a model is: on text that it has not seen, at questions whose answers are known, and in
//! what it writes itself.
//!
//! [`HeldOut`] is a text in windows, each of whose tokens is predicted once. A [`Benchmark`] reads
//! questions of others, whose answers [`log_likelihoods`] weighs. [`write_stories`] lets a model
//! write what [`Stories`](crate::data::Stories) judges. All of it ends up as the [`Outcome`]s of a
//! [`Report`].

mod benchmark;
mod choice;
mod continuation;
mod held_out;
mod report;
mod story;
mod token_score;

pub use benchmark::{Benchmark, BenchmarkError, Question};
pub use choice::{ChoiceScore, LastWordScore};
pub use continuation::{
    Context, Continuation, ContinuationError, ContinuationScore, log_likelihoods,
};
pub use held_out::{HeldOut, HeldOutError, ScoredPlace, TextScore, sliding_windows};
pub use report::{Measure, Outcome, Report};
pub use story::{StoryError, StoryWriter, write_stories};
pub use token_score::{TokenScore, token_scores};

/// On its user's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopped")]
pub struct Stopped;

/// Hears how many more windows, continuations or stories are done, and says whether to go on.
pub type Watch<'a> = &'a mut dyn FnMut(usize) -> Result<(), Stopped>;
