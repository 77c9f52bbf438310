//! The models: token ids in, logits out. Nothing here knows of losses, optimizers or files.

mod attention;
mod block;
mod cache;
mod count;
mod feed_forward;
mod gpt;
mod init;
mod linear;
mod norm;
mod parameters;

pub use attention::CausalAttention;
pub use block::Block;
pub use cache::{Cache, LayerCache};
pub use count::parameter_count;
pub use feed_forward::FeedForward;
pub use gpt::{Gpt, Positions};
pub use init::Initializer;
pub use linear::Linear;
pub use norm::LayerNorm;
pub use parameters::{ModelError, Parameter, load_parameters, parameters, tensors};
