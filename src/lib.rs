//! Train, evaluate and sample GPT-family language models on any burn backend.
//!
//! The modules stand in the order in which data flows through them, and each imports only from
//! those before it. [`config`] says what is wanted, [`files`] keeps files whole and [`backend`]
//! computes; then
//!
//! text -> [`tokenizer`] -> [`data`] (token windows, batches) -> [`model`] (logits) ->
//! [`train`] (loss, optimizer, schedule, strategy) -> [`artifact`] (a run directory) ->
//! [`generate`], with [`interop`] for the models of others -> [`eval`] -> [`sweep`] (searches over
//! configurations), [`report`] and [`serve`] -> [`commands`], which [`cli`] names.
//!
//! A model is generic over its backend:
//!
//! ```
//! # #[cfg(feature = "ndarray")] {
//! use burn::tensor::{Int, Tensor};
//! use burn_ndarray::NdArray;
//! use emberlm::config::{self, Source};
//! use emberlm::model::{Gpt, Initializer};
//!
//! let config = config::load(&Source::Builtin("stories"), &[])?;
//! let device = Default::default();
//! let model: Gpt<NdArray> = Gpt::new(
//!     &config.name,
//!     &config.model,
//!     65, // tokens in the vocabulary
//!     Initializer::seeded(config.seed),
//!     &device,
//! );
//! let tokens = Tensor::<NdArray, 2, Int>::from_data([[1, 2, 3]], &device); // [B, T]
//! assert_eq!(model.forward(tokens).dims(), [1, 3, 65]); // [B, T, V]
//! # }
//! # Ok::<(), emberlm::config::ConfigError>(())
//! ```

pub mod config;

pub mod files;

pub mod backend;

pub mod tokenizer;

pub mod data;

pub mod model;

pub mod train;

pub mod artifact;

pub mod generate;

pub mod interop;

pub mod eval;

pub mod sweep;

pub mod report;

pub mod serve;

pub mod cli;

pub mod commands;

/// The chapters of `docs/tour`, whose code is run as that of these pages is. It computes on ndarray.
#[cfg(all(doctest, feature = "ndarray"))]
mod tour {
    #[doc = include_str!("../docs/tour/01-attention.md")]
    mod attention {}
    #[doc = include_str!("../docs/tour/02-heads.md")]
    mod heads {}
    #[doc = include_str!("../docs/tour/03-norms.md")]
    mod norms {}
    #[doc = include_str!("../docs/tour/04-positions.md")]
    mod positions {}
    #[doc = include_str!("../docs/tour/05-block.md")]
    mod block {}
    #[doc = include_str!("../docs/tour/06-loss.md")]
    mod loss {}
    #[doc = include_str!("../docs/tour/07-optimizer.md")]
    mod optimizer {}
    #[doc = include_str!("../docs/tour/08-schedule.md")]
    mod schedule {}
    #[doc = include_str!("../docs/tour/09-generation.md")]
    mod generation {}
    #[doc = include_str!("../docs/tour/10-cost.md")]
    mod cost {}
}
