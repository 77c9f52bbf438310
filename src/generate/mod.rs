//! Text from a model.
//!
//! A [`Request`] says what is to be continued, and how each token is to be chosen. A [`Batch`]
//! takes requests and hands out text, a step at a time; it knows tokenizer, stop strings and
//! characters. Below it, [`Slots`] know nothing but tokens: they own the caches of all sequences
//! and the [`Sampler`] of each, read prompts, and take sequences through the model together. A
//! model is whatever implements [`NextToken`]. [`beam_search`] looks for the likeliest
//! continuation instead.

mod batch;
mod beam;
mod decode;
mod fill;
mod penalties;
mod probabilities;
mod sampler;
mod slots;
mod text;
mod utf8;

pub use batch::{Batch, Finish, Progress, Request, RequestError, vocabulary};
pub use beam::{BeamSearch, Hypothesis, beam_search};
pub use decode::{NextToken, begun, opening, tokens};
pub use fill::Guess;
pub use penalties::Penalties;
pub use probabilities::LogProbabilities;
pub use sampler::{Sampler, Sampling, SamplingError};
pub use slots::{Choice, Next, Overflow, Sequence, SequenceError, Slots, Ticket};
pub use text::TextStream;
pub use utf8::Utf8Stream;
