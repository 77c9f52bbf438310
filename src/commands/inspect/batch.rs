use anyhow::bail;

use super::Subject;
use crate::cli::InspectArgs;
use crate::data::{
    EvaluationLoader, Example, ExamplePlace, Place, Split, Task, TokenBatch, Window,
};
use crate::report::inside::Passage;

/// What the gradients are those of, and its name: a text, or examples that are spread evenly over
/// the training data.
pub(super) fn batch(subject: &Subject, args: &InspectArgs) -> anyhow::Result<(TokenBatch, String)> {
    let task = subject.task()?;
    if let Some(text) = &args.text {
        let passage = subject.passage(text, args.target.as_deref(), "--text")?;
        return Ok((of_passage(passage, task)?, "--text".into()));
    }
    let corpus = subject.corpus()?;
    let rows = args.batch.map_or(subject.config.train.batch_size, |rows| rows as usize);
    let places = corpus.train.spread(subject.config.model.context_length, rows);
    let loader = EvaluationLoader::new(corpus.train, corpus.task, places, rows);
    let Some(batch) = loader.batches().next() else {
        bail!("there is no data to take a batch of; give a text with --text TEXT");
    };
    let what = format!("{} of the training data", plural(batch.examples(), "example"));
    Ok((batch, what))
}

fn of_passage(passage: Passage, task: Task) -> anyhow::Result<TokenBatch> {
    let example = match (task, passage.source) {
        (Task::Translation { begin, end }, Some(source)) => Example {
            source: Some(source),
            input: [&[begin], &passage.tokens[..]].concat(),
            target: [&passage.tokens[..], &[end]].concat(),
            asked: None,
            documents: None,
        },
        (Task::NextToken, _) if passage.tokens.len() < 2 => {
            bail!("--text has one token, and nothing that follows it; give a longer one")
        }
        (task, _) => {
            // The last token of a text is only a target.
            let length = passage.tokens.len() - usize::from(task == Task::NextToken);
            let window = Place::Window(Window { start: 0, length });
            let split = Split::text(passage.tokens, 0);
            Example::read(&split, task, ExamplePlace { place: window, number: 0 })
        }
    };
    Ok(TokenBatch::new(&[example], 1.0))
}

fn plural(count: usize, what: &str) -> String {
    if count == 1 { format!("one {what}") } else { format!("{count} {what}s") }
}
