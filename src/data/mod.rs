//! From text to batches of token windows.

mod batch;
mod corpus;
mod error;
mod grammar;
mod permutation;
mod stories;
mod text;
mod windows;

pub use batch::{EvaluationLoader, TokenBatch, TrainLoader};
pub use corpus::{Corpus, Split, SplitText};
pub use error::DataError;
pub use grammar::{Grammar, GrammarError};
pub use permutation::Permutation;
pub use stories::Stories;
pub use text::read_text;
pub use windows::{Window, WindowOrder, disjoint_windows, spread_windows};
