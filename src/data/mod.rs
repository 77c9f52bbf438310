//! From text to batches of examples.

mod batch;
mod batch_plan;
mod corpus;
mod download;
mod error;
mod example;
mod grammar;
mod loader;
mod manifest;
mod pairs;
mod permutation;
mod prepare;
mod prepared;
mod source;
mod stories;
mod story_verdict;
mod text;
mod token_stream;
mod windows;

pub use batch::TokenBatch;
pub use batch_plan::BatchPlan;
pub use corpus::{Corpus, Pair, Split, SplitText, SplitTokens};
pub use download::{DownloadError, Downloader, Progress, fetch};
pub use error::DataError;
pub use example::{Example, ExamplePlace, Place, Task};
pub use grammar::{Grammar, GrammarError};
pub use loader::{EvaluationLoader, LoaderPosition, TrainLoader};
pub(crate) use manifest::is_loopback;
pub use manifest::{FileSplit, Manifest, ManifestError, ManifestFile, SplitBy};
pub use permutation::Permutation;
pub use prepare::{
    Preparation, Prepare, PrepareProgress, ValidationSplit, discard, is_unfinished, prepare,
};
pub use prepared::{Meta, Prepared, ShardMeta, SplitMeta, SplitRule, TokenizerMeta};
pub use source::{
    Compression, Documents, Piece, SourceFile, SourceFormat, SourceOptions, SourceRecord, Sources,
    read_rows,
};
pub use stories::Stories;
pub use story_verdict::{StoryScore, StoryVerdict};
pub use text::read_text;
pub use token_stream::{TokenStream, TokenType};
pub use windows::{
    DocumentOrder, ExampleOrder, Window, WindowOrder, disjoint_windows, spread_windows,
};
