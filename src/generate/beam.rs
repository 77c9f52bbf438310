use super::decode::batch;
use super::probabilities::{likeliest, log_sum_exp};
use super::slots::{check, read, read_prompt};
use super::{NextToken, SamplingError, SequenceError};
use crate::backend::GptBackend;

/// A search for the likeliest continuation, which keeps the best few at every length. It does what
/// `generate(num_beams=.., do_sample=False, early_stopping=False)` of transformers 5 does.
#[derive(Debug, Clone, PartialEq)]
pub struct BeamSearch {
    /// Continuations that are followed at the same time.
    pub beams: usize,
    /// A whole continuation's log-probability is divided by its length to the power of this, so
    /// that above zero longer ones are preferred.
    pub length_penalty: f64,
    pub max_tokens: usize,
    /// Tokens that make a continuation whole.
    pub stop_tokens: Vec<u32>,
}

impl BeamSearch {
    /// # Errors
    /// A length penalty that is no number.
    pub fn validate(&self) -> Result<(), SamplingError> {
        let penalty = self.length_penalty;
        SamplingError::check("length-penalty", penalty, penalty.is_finite(), "a number")
    }
}

/// A whole continuation.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis {
    /// With the stop token, where that is what ends it.
    pub tokens: Vec<u32>,
    /// `Σ ln p / length^length_penalty`
    pub score: f64,
}

/// A continuation that is not whole.
#[derive(Debug, Clone, Default)]
struct Beam {
    tokens: Vec<u32>,
    /// `Σ ln p`
    log_probability: f64,
}

/// The best continuations of a prompt that the search has found, at most as many as it has beams,
/// best first. Ids at and above `vocab_size` are in none. They end with the context, at the latest.
/// The search ends early where `goes_on` says so, which is asked before each pass of the model.
///
/// # Errors
/// A prompt or a source that the model cannot read.
pub fn beam_search<B: GptBackend>(
    model: &impl NextToken<B>,
    vocab_size: usize,
    source: &[u32],
    prompt: &[u32],
    search: &BeamSearch,
    goes_on: &mut dyn FnMut() -> bool,
) -> Result<Vec<Hypothesis>, SequenceError> {
    check(model, source, prompt)?;
    let (device, vocab_size) = (model.device(), vocab_size.min(model.vocab_size()));
    let room = model.context_length().checked_sub(prompt.len());
    let room = room.ok_or(SequenceError::LongPrompt {
        length: prompt.len(),
        context_length: model.context_length(),
    })?;
    // The last token is not read.
    let longest = search.max_tokens.min(room + 1);
    let (mut running, mut whole) = (vec![Beam::default()], Vec::new());
    if longest == 0 || search.beams == 0 {
        return Ok(whole);
    }
    let mut cache = model.new_cache(source);
    let Some(mut logits) = read_prompt(model, prompt, &mut cache, goes_on) else {
        return Ok(whole);
    };
    for length in 1..=longest {
        let of_length =
            |log_probability: f64| log_probability / (length as f64).powf(search.length_penalty);
        let rows = logits.chunks(model.vocab_size()).map(|row| &row[..vocab_size]);
        // Enough to go on with where all that end are among the best.
        let wanted = search.beams * (1 + search.stop_tokens.len()).max(2);
        let mut next: Vec<(usize, Beam)> = Vec::new();
        for (rank, (parent, token, log_probability)) in
            best_steps(&running, rows, wanted).into_iter().enumerate()
        {
            let mut tokens = running[parent].tokens.clone();
            tokens.push(token);
            if length == longest || search.stop_tokens.contains(&token) {
                if rank < search.beams {
                    whole.push(Hypothesis { tokens, score: of_length(log_probability) });
                }
            } else if next.len() < search.beams {
                next.push((parent, Beam { tokens, log_probability }));
            }
        }
        whole.sort_by(|a, b| b.score.total_cmp(&a.score));
        whole.truncate(search.beams);
        let Some((_, best)) = next.first() else { break };
        let worst = whole.get(search.beams - 1).map_or(f64::NEG_INFINITY, |worst| worst.score);
        if whole.len() == search.beams && of_length(best.log_probability) <= worst {
            break;
        }
        if !goes_on() {
            break;
        }
        let parents: Vec<usize> = next.iter().map(|(parent, _)| *parent).collect();
        running = next.into_iter().map(|(_, beam)| beam).collect();
        cache.select(&parents);
        let last: Vec<&[u32]> = running.iter().map(|beam| &beam.tokens[length - 1..]).collect();
        logits = read(model, batch(&last, &device), &mut cache);
    }
    Ok(whole)
}

/// The likeliest continuations of some beams by a token: which beam, which token, and the
/// logarithm of how likely that is. By beam, then by token, where two are equally likely.
fn best_steps<'a>(
    beams: &[Beam],
    rows: impl Iterator<Item = &'a [f32]>,
    count: usize,
) -> Vec<(usize, u32, f64)> {
    let mut steps: Vec<(usize, u32, f64)> = Vec::new();
    for (number, (beam, logits)) in beams.iter().zip(rows).enumerate() {
        let log_total = log_sum_exp(logits);
        steps.extend(likeliest(logits, count).into_iter().map(|token| {
            let log_probability = f64::from(logits[token as usize]) - log_total;
            (number, token, beam.log_probability + log_probability)
        }));
    }
    steps.sort_by(|a, b| b.2.total_cmp(&a.2));
    steps.truncate(count);
    steps
}
