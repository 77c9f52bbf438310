//! Runs over HTTP, in the form of OpenAI's interface.
//!
//! A [`Server`] has one thread for each run, the engine: it owns the model and writes all texts
//! that are asked of it together, a token each a step; those that come join between any two steps,
//! and those whose client has gone leave. What is asked for waits in a queue that is bounded.
//! Everything else is asynchronous and knows neither model nor backend: it reads bodies, makes
//! requests of them, and passes on what the engine sends, whole or as it comes.

mod answer;
mod body;
mod chat;
mod connections;
mod engine;
mod error;
mod gate;
mod info;
mod logprobs;
mod metrics;
mod page;
mod prompt;
mod routes;
mod server;
mod site;

pub use gate::{EmptyKey, Key};
pub use server::{Options, ServeError, Server, Stopper};
