use crate::config::ModelConfig;

/// Parameters of a model, without building it; the shared weights of a tied head count once.
pub fn parameter_count(config: &ModelConfig, vocab_size: usize) -> usize {
    let (d_model, d_ff) = (config.d_model, config.d_ff());
    let bias = |width: usize| if config.bias { width } else { 0 };
    let linear = |input: usize, output: usize| input * output + bias(output);
    let norm = d_model + bias(d_model);
    let attention = linear(d_model, 3 * d_model) + linear(d_model, d_model);
    let feed_forward = linear(d_model, d_ff) + linear(d_ff, d_model);
    let block = 2 * norm + attention + feed_forward;
    let embeddings = (vocab_size + config.context_length) * d_model;
    let head = if config.tied_head { 0 } else { vocab_size * d_model };
    embeddings + config.n_layers * block + norm + head
}
