use std::path::PathBuf;

/// What can be wrong with a configuration. Every message is one line and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("no configuration `{name}`{}; built in are {known}, or give a .json file", suggestion(.nearest))]
    UnknownName { name: String, nearest: Option<String>, known: String },
    #[error("cannot read the configuration file {}: {reason}", .path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("{origin} is not valid JSON: {reason}")]
    Syntax { origin: String, reason: String },
    #[error("{origin} extends `{name}`, which extends it in turn; remove one of the two")]
    Cycle { origin: String, name: String },
    #[error("`{path}` is not a known key{}; known there are {known}", suggestion(.nearest))]
    UnknownKey { path: String, nearest: Option<String>, known: String },
    #[error("`{path}`: {reason}{}", suggestion(.nearest))]
    Value { path: String, reason: String, nearest: Option<String> },
    #[error("--set {argument}: expected path.to.key=value, for example train.steps=500")]
    Assignment { argument: String },
    #[error("--set {argument}: `{prefix}` is not an object, so it has no key below it")]
    AssignmentPath { argument: String, prefix: String },
    #[error(
        "model.d_model = {d_model} is not divisible by model.n_heads = {n_heads}; the nearest widths that are: {}", nearest_multiples(*d_model, *n_heads)
    )]
    HeadWidth { d_model: usize, n_heads: usize },
    #[error(
        "model.n_heads = {n_heads} is not divisible by model.n_kv_heads = {n_kv_heads}; each key/value head serves equally many query heads"
    )]
    SharedHeads { n_heads: usize, n_kv_heads: usize },
    #[error(
        "model.position.fraction = {fraction} of a head {head_dim} wide turns {turned} numbers; rotary positions need an even number of them, at least 2"
    )]
    RotaryWidth { head_dim: usize, fraction: f64, turned: usize },
    #[error("this configuration has the model of the run `{run}` (init_from), and none of its own")]
    Inherited { run: String },
    #[error("`{first}` and `{second}` do not go together: {reason}")]
    Conflict { first: &'static str, second: &'static str, reason: &'static str },
    #[error("`{key}`: `{pattern}` matches nothing; there are {known}")]
    NoMatch { key: &'static str, pattern: String, known: String },
    #[error(
        "`train.freeze` leaves no parameter to train; take patterns out of it or name some in `train.unfreeze`"
    )]
    AllFrozen,
    #[error(
        "train.minutes does not say at which step the learning rate has come down: give train.schedule.decay_steps too, or a train.schedule.kind without an end (constant, cosine-restarts or inverse-sqrt)"
    )]
    ScheduleEnd,
    #[error("`{path}` = {found} is out of range: it must be {expected}")]
    Range { path: &'static str, found: String, expected: &'static str },
    #[error(
        "model.vocab_size = {configured} is smaller than the tokenizer's {tokenizer} tokens; leave it out or raise it"
    )]
    Vocabulary { configured: usize, tokenizer: usize },
}

fn suggestion(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

fn nearest_multiples(width: usize, heads: usize) -> String {
    let below = width / heads * heads;
    if below == 0 { format!("{heads}") } else { format!("{below} and {}", below + heads) }
}
