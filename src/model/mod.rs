//! The models: token ids in, logits out. Nothing here knows of losses, optimizers or files.
//!
//! An [`Embedding`], one or two [`Stack`]s of [`Block`]s and a [`Head`] make a [`Gpt`], an
//! [`Encoder`] or a [`Seq2Seq`]; what each of the parts is like is up to the configuration.

mod architecture;
mod attention;
mod block;
mod cache;
mod embedding;
mod encoder;
mod experts;
mod feed_forward;
mod gpt;
mod head;
mod init;
mod linear;
mod lora;
mod norm;
mod parameters;
mod pass;
mod position;
mod record;
mod seq2seq;
mod shapes;
mod stack;
mod tape;
mod weight;

pub use architecture::Model;
pub use attention::{CrossAttention, SelfAttention};
pub use block::{Block, Role};
pub use cache::Cache;
pub use embedding::Embedding;
pub use encoder::Encoder;
pub use experts::{Experts, Routing};
pub use feed_forward::{ACTIVATION, FeedForward, Network};
pub use gpt::{Gpt, Positions};
pub use head::{Head, LinearHead};
pub use init::Initializer;
pub use linear::Linear;
pub use lora::{Lora, check_adapters, is_adapter};
pub use norm::Norm;
pub use parameters::{ModelError, Parameter, load_parameters, parameters, tensor, tensors};
pub use pass::{Memory, Pass, Rows};
pub use position::{Places, frequencies};
pub use record::{Heads, Observer, Output, Part, Record};
pub use seq2seq::Seq2Seq;
pub use shapes::{parameter_count, parameter_shapes};
pub use stack::Stack;
pub use tape::Tape;
pub use weight::{Int8Weight, Weight};
