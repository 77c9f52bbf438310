use std::io::Write;

use crate::config::{self, ConfigError, Source};
use crate::model;

pub(super) fn run() -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:<21} {:>6} {:>6} {:>7} {:>8}  parameters",
        "configuration", "layers", "heads", "d_model", "context"
    )?;
    for name in config::builtin_names() {
        let model = match config::load(&Source::Builtin(name), &[]) {
            Ok(config) => config.model,
            Err(ConfigError::Inherited { .. }) => {
                writeln!(out, "{name:<21} the model of another run, which init_from names")?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        // Where the tokenizer is built from the data, so is the number of embeddings.
        let parameters = match model.vocab_size {
            Some(vocab_size) => model::parameter_count(&model, vocab_size).to_string(),
            None => format!(
                "{} + {} V",
                model::parameter_count(&model, 0),
                model::parameter_count(&model, 1) - model::parameter_count(&model, 0)
            ),
        };
        writeln!(
            out,
            "{name:<21} {:>6} {:>6} {:>7} {:>8}  {parameters}",
            model.n_layers, model.n_heads, model.d_model, model.context_length
        )?;
    }
    writeln!(out, "V: different tokens in the training text")?;
    Ok(())
}
