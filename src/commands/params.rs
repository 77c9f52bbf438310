use std::io::Write;

use crate::cli::ParamsArgs;
use crate::config::{self, RunConfig, Source};
use crate::data::Task;
use crate::model;
use crate::tokenizer;
use crate::train;

pub(super) fn run(args: ParamsArgs) -> anyhow::Result<()> {
    let mut config = config::load(&Source::find(&args.config, None)?, &args.set)?;
    if args.vocab_size.is_some() {
        config.model.vocab_size = args.vocab_size;
        config.validate()?;
    }
    let model = &config.model;
    let vocab_size = vocab_size(&config);
    let shapes = model::parameter_shapes(model, vocab_size.unwrap_or_default());

    let names: Vec<String> = shapes.iter().map(|(name, _)| name.clone()).collect();
    let trained = train::trained(&config, &names)?;
    let of_trained = shapes.iter().zip(&trained).filter(|(_, trained)| **trained);
    let trained_total: usize =
        of_trained.map(|((_, shape), _)| shape.iter().product::<usize>()).sum();

    // One row for all layers of a stack: what differs between them is their number only.
    let mut rows: Vec<Row> = Vec::new();
    for (name, shape) in shapes {
        let component = config::component(&name);
        let count = shape.iter().product();
        match rows.iter_mut().find(|row| row.component == component) {
            Some(row) => {
                row.copies += 1;
                row.total += count;
            }
            None => rows.push(Row { component, shape, copies: 1, total: count }),
        }
    }
    let total: usize = rows.iter().map(|row| row.total).sum();
    let mut out = std::io::stdout().lock();
    let width = rows.iter().map(|row| row.component.len()).max().unwrap_or(0).max(9);
    writeln!(
        out,
        "{:<width$}  {:>16} {:>6} {:>14}  share",
        "component", "shape", "times", "total"
    )?;
    for Row { component, shape, copies, total: row_total } in &rows {
        let share = 100.0 * *row_total as f64 / total.max(1) as f64;
        let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
        writeln!(
            out,
            "{component:<width$}  {:>16} {copies:>6} {row_total:>14} {share:>5.1}%",
            shape.join(" x ")
        )?;
    }
    writeln!(out, "{:<width$}  {:>16} {:>6} {total:>14}", "total", "", "")?;
    if trained_total < total {
        writeln!(out, "{:<width$}  {:>16} {:>6} {trained_total:>14}", "trained", "", "")?;
    }
    if let Some(experts) = model.feed_forward.experts {
        let of_experts = |row: &&Row| row.component.contains(".experts.");
        let in_experts: usize = rows.iter().filter(of_experts).map(|row| row.total).sum();
        let idle = in_experts / experts.count * (experts.count - experts.per_token);
        writeln!(out, "{:<width$}  {:>16} {:>6} {:>14}", "used by a token", "", "", total - idle)?;
    }
    if vocab_size.is_none() {
        writeln!(
            out,
            "without the embeddings of tokens, whose number comes from the data; give it with --vocab-size N"
        )?;
    }
    Ok(())
}

/// The rows of the embedding, where they do not depend on the data.
pub(super) fn vocab_size(config: &RunConfig) -> Option<usize> {
    let of_tokenizer = || {
        let tokens = tokenizer::known_vocab_size(&config.tokenizer)?;
        Some(tokens + Task::special_tokens(config.model.architecture))
    };
    config.model.vocab_size.or_else(of_tokenizer)
}

struct Row {
    component: String,
    shape: Vec<usize>,
    copies: usize,
    total: usize,
}
