//! Text from a model: the decoding loop, the choice of each token, and its way to the screen.

mod decode;
mod fill;
mod sampler;
mod utf8;

pub use decode::{Decoder, NextToken, Translation, begun, opening};
pub use fill::Guess;
pub use sampler::{Sampler, Sampling, SamplingError};
pub use utf8::Utf8Stream;
