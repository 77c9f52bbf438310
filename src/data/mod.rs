//! From text to batches of examples.

mod batch;
mod corpus;
mod error;
mod example;
mod grammar;
mod loader;
mod pairs;
mod permutation;
mod source;
mod stories;
mod text;
mod windows;

pub use batch::TokenBatch;
pub use corpus::{Corpus, Pair, Split, SplitText, SplitTokens};
pub use error::DataError;
pub use example::{Example, ExamplePlace, Place, Task};
pub use grammar::{Grammar, GrammarError};
pub use loader::{EvaluationLoader, TrainLoader};
pub use permutation::Permutation;
pub use source::{
    Compression, Documents, Piece, SourceFile, SourceFormat, SourceOptions, SourceRecord, Sources,
};
pub use stories::Stories;
pub use text::read_text;
pub use windows::{ExampleOrder, Window, WindowOrder, disjoint_windows, spread_windows};
