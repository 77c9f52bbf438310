//! How much of what a device could compute the model makes use of (Chowdhery et al. 2022,
//! "PaLM", appendix B).

use super::trained;
use crate::config::{Architecture, RunConfig};
use crate::model::parameter_shapes;

/// Devices by the names that their driver gives them, and what they can do at most: dense
/// products of bf16, in 10^12 operations a second, from NVIDIA's data sheets of H100, H200, A100
/// and L40S and its white paper on the Ada architecture. Sheets that count sparse products name
/// twice as much.
const PEAK_TFLOPS: [(&str, f64); 9] = [
    ("NVIDIA H200", 989.4),
    ("NVIDIA H100 80GB HBM3", 989.4),
    ("NVIDIA H100 PCIe", 756.0),
    ("NVIDIA A100-SXM4-40GB", 312.0),
    ("NVIDIA A100-SXM4-80GB", 312.0),
    ("NVIDIA A100-PCIE-40GB", 312.0),
    ("NVIDIA A100 80GB PCIe", 312.0),
    ("NVIDIA L40S", 362.05),
    ("NVIDIA GeForce RTX 4090", 165.2),
];

/// What a device can do at most, in 10^12 operations a second, by its exact name.
pub fn peak_tflops(device_model: &str) -> Option<f64> {
    PEAK_TFLOPS.iter().find(|(known, _)| *known == device_model).map(|(_, peak)| *peak)
}

/// Operations that training takes for each token of a full window, forward and backward:
/// `6 N + 12 H Q T` a layer, with N weights that a token is multiplied by, H heads of width Q and
/// T positions in sight (nanoGPT's `estimate_mfu`, after PaLM). It is `4 N` of weights that are not
/// trained, as beside adapters: they have no gradients of their own. In layers before the first
/// that trains there are no gradients at all, which leaves `2 N + 4 H Q T`.
///
/// N leaves out embeddings that are only looked up, and experts that the token does not go
/// through; T is no more than a layer's window. None for models with an encoder, which reads
/// tokens that none of its targets stand for.
pub fn flops_per_token(run: &RunConfig, vocab_size: usize) -> Option<f64> {
    let config = &run.model;
    if config.architecture != Architecture::Decoder {
        return None;
    }
    let shapes = parameter_shapes(config, vocab_size);
    let names: Vec<String> = shapes.iter().map(|(name, _)| name.clone()).collect();
    // What is wrong with the names in it is for training to say.
    let trained = trained(run, &names).unwrap_or_else(|_| vec![true; names.len()]);
    let places: Vec<usize> = names.iter().map(|name| place(name, config.n_layers)).collect();
    let training = places.iter().zip(&trained).filter(|(_, is_trained)| **is_trained);
    let first = training.map(|(place, _)| *place).min().unwrap_or_default();
    let of_weight = trained.into_iter().zip(places).map(|(is_trained, place)| match is_trained {
        true => 6.0,
        // A tied head comes after all that trains.
        false if place >= first || place == 0 && config.tied_head => 4.0,
        false => 2.0,
    });
    let operations = shapes.into_iter().zip(of_weight).map(|((name, shape), of_weight)| {
        let size = shape.iter().product::<usize>() as f64 * of_weight;
        match (name.as_str(), config.feed_forward.experts) {
            ("embedding.position", _) => 0.0,
            ("embedding.token", _) if !config.tied_head => 0.0,
            (name, Some(experts)) if name.contains(".experts.") => {
                size * experts.per_token as f64 / experts.count as f64
            }
            _ => size,
        }
    });
    let heads = (config.n_heads * config.head_dim()) as f64;
    let attention = (0..config.n_layers).map(|layer| {
        let length = config.context_length;
        let seen = config.window(layer).map_or(length, |window| window.min(length));
        let of_score = if layer + 1 >= first { 12.0 } else { 4.0 };
        of_score * heads * seen as f64
    });
    Some(operations.sum::<f64>() + attention.sum::<f64>())
}

/// When a token comes by a parameter: embeddings are at zero, layers follow, and then the head.
fn place(parameter: &str, n_layers: usize) -> usize {
    let layer = parameter.split_once(".blocks.").and_then(|(_, rest)| rest.split('.').next());
    match layer.and_then(|layer| layer.parse::<usize>().ok()) {
        Some(layer) => layer + 1,
        None if parameter.starts_with("embedding.") => 0,
        None => n_layers + 1,
    }
}
