use crate::backend::GptBackend;
use crate::data::{Example, TokenBatch};
use crate::generate::begun;
use crate::tokenizer::{Tokenizer, TokenizerError};
use crate::train::LanguageModel;

use super::{Stopped, Watch, token_scores};

/// Why a model cannot be asked how likely a continuation is.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ContinuationError {
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error("there is nothing before `{continuation}`; a continuation needs a context")]
    NoContext { continuation: String },
    #[error(
        "`{continuation}` has {found} tokens, but the model sees at most {context_length}; take a model with a longer context"
    )]
    Long { continuation: String, found: usize, context_length: usize },
}

/// A text, and how many of its tokens, the last ones, are to be weighed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continuation {
    /// At most one more than the model sees, the first of which are forgotten where there were
    /// more.
    pub tokens: Vec<u32>,
    /// At least one, and fewer than there are tokens.
    pub scored: usize,
}

/// What a model thinks of a continuation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ContinuationScore {
    /// The sum over its tokens, in nats.
    pub log_likelihood: f64,
    /// Whether each of its tokens is the likeliest after those before it.
    pub greedy: bool,
}

/// What continuations follow.
#[derive(Debug)]
pub struct Context<'a> {
    tokenizer: &'a dyn Tokenizer,
    text: &'a str,
    /// Of the text without the spaces at its end.
    length: usize,
}

impl<'a> Context<'a> {
    /// # Errors
    /// Text that the tokenizer does not know.
    pub fn new(tokenizer: &'a dyn Tokenizer, text: &'a str) -> Result<Self, TokenizerError> {
        let length = tokenizer.encode(text.trim_end())?.len();
        Ok(Self { tokenizer, text, length })
    }

    /// The tokens of the context and of what follows it, as lm-evaluation-harness finds them: spaces
    /// at the end of the context belong to what follows, both are tokenized as one text, and as
    /// many tokens as the context alone has are the context's; at least one is the continuation's.
    /// Where the model has learned to begin with a token, the context does.
    ///
    /// # Errors
    /// Text that the tokenizer does not know, and what the model does not see at once.
    pub fn continued(
        &self,
        continuation: &str,
        context_length: usize,
    ) -> Result<Continuation, ContinuationError> {
        let whole = self.tokenizer.encode(&format!("{}{continuation}", self.text))?;
        let scored = whole.len().saturating_sub(self.length).max(1);
        let mut tokens = begun(self.tokenizer, whole);
        if scored >= tokens.len() {
            return Err(ContinuationError::NoContext { continuation: continuation.into() });
        }
        if scored > context_length {
            let continuation = continuation.trim().into();
            return Err(ContinuationError::Long { continuation, found: scored, context_length });
        }
        // The last token is only predicted.
        tokens.drain(..tokens.len().saturating_sub(context_length + 1));
        Ok(Continuation { tokens, scored })
    }
}

impl Continuation {
    fn example(&self) -> Example {
        let inputs = self.tokens.len() - 1;
        Example {
            source: None,
            input: self.tokens[..inputs].to_vec(),
            target: self.tokens[1..].to_vec(),
            asked: Some((inputs - self.scored..inputs).collect()),
            documents: None,
        }
    }
}

/// Weighs continuations, `batch_size` together, those of like length with each other; what fills up
/// the shorter ones comes after all that is asked for, and changes nothing.
///
/// # Errors
/// [`Stopped`]
pub fn log_likelihoods<B: GptBackend>(
    model: &LanguageModel<B>,
    continuations: &[Continuation],
    batch_size: usize,
    watch: Watch,
) -> Result<Vec<ContinuationScore>, Stopped> {
    let nothing = ContinuationScore { log_likelihood: 0.0, greedy: true };
    let mut found = vec![nothing; continuations.len()];
    let mut order: Vec<usize> = (0..continuations.len()).collect();
    // The longest first: what has no room in memory is found out at once.
    order.sort_by_key(|index| std::cmp::Reverse(continuations[*index].tokens.len()));
    for indices in order.chunks(batch_size) {
        let examples: Vec<Example> =
            indices.iter().map(|index| continuations[*index].example()).collect();
        let mut scores = token_scores(model, &TokenBatch::new(&examples, 1.0)).into_iter();
        for index in indices {
            for score in scores.by_ref().take(continuations[*index].scored) {
                found[*index].log_likelihood += score.log_probability;
                found[*index].greedy &= score.rank == 1;
            }
        }
        watch(indices.len())?;
    }
    Ok(found)
}
