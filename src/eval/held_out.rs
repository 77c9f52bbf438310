use crate::backend::GptBackend;
use crate::config::Packing;
use crate::data::{
    DocumentOrder, Example, ExamplePlace, Place, Split, SplitTokens, Task, TokenBatch, TokenStream,
    Window,
};
use crate::tokenizer::Tokenizer;
use crate::train::{LanguageModel, evaluate};

use super::{Stopped, Watch, token_scores};

/// Why a text cannot be measured as it was asked.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HeldOutError {
    #[error(
        "windows cannot move on by {stride} tokens; give at least 1 and at most the {context_length} that the model sees"
    )]
    Stride { stride: usize, context_length: usize },
    #[error("windows that overlap are for models that predict each token from those before it")]
    NotNextToken,
}

/// An example, and how many of its targets, the last ones, are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScoredPlace {
    pub place: ExamplePlace,
    /// All where absent.
    pub scored: Option<usize>,
}

/// A text that a model is measured on.
#[derive(Debug, Clone)]
pub struct HeldOut {
    split: Split,
    task: Task,
    places: Vec<ScoredPlace>,
    /// Whether windows have been left out.
    is_part: bool,
    /// Of a window, in inputs.
    context_length: usize,
    stride: Option<usize>,
}

/// What a model makes of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct TextScore {
    /// Nats a token.
    pub loss: f64,
    /// Tokens that were predicted.
    pub tokens: usize,
    /// For each `k` that was asked for, the tokens that were among the `k` likeliest.
    pub hits: Vec<(usize, usize)>,
}

impl TextScore {
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }

    /// What all predicted tokens cost in bits, over the bytes that they stand for.
    pub fn bits_per_byte(&self, bytes: usize) -> f64 {
        self.loss * self.tokens as f64 / std::f64::consts::LN_2 / bytes as f64
    }
}

impl HeldOut {
    /// A whole split, each token but the first predicted once: in windows of `context_length`
    /// inputs that follow each other, or with a `stride` in windows that each begin `stride` tokens
    /// after the one before. Then every token but those of the first window has at least
    /// `context_length - stride + 1` tokens before it. This is the fixed-length perplexity of
    /// transformers' documentation, whose `max_length` counts the last target too.
    ///
    /// # Errors
    /// A stride that leaves tokens out, or one for a model that does not predict the next token.
    pub fn new(
        split: Split,
        task: Task,
        context_length: usize,
        stride: Option<usize>,
    ) -> Result<Self, HeldOutError> {
        let whole = |place| ScoredPlace { place, scored: None };
        let places = match (stride, &split.tokens, task) {
            (None, _, _) => split.all(context_length).into_iter().map(whole).collect(),
            (Some(stride), _, _) if stride == 0 || stride > context_length => {
                return Err(HeldOutError::Stride { stride, context_length });
            }
            (Some(stride), SplitTokens::Text(stream), Task::NextToken) => {
                let texts = texts(stream, split.packing);
                let windows = texts.flat_map(|text| sliding_windows(text, context_length, stride));
                windows.map(place).collect()
            }
            (Some(_), _, _) => return Err(HeldOutError::NotNextToken),
        };
        Ok(Self { split, task, places, is_part: false, context_length, stride })
    }

    /// How it is measured, in words.
    pub fn protocol(&self) -> String {
        let length = self.context_length;
        let packing = match &self.split.tokens {
            SplitTokens::Text(stream) => Some((self.split.packing, stream.has_ends())),
            SplitTokens::Pairs(_) => None,
        };
        // After another one that has ended, even the first token of a document has one before it.
        let first = match packing {
            Some((Packing::Documents, false)) => "the first of each document",
            _ => "the first",
        };
        let mut protocol = match (self.task, self.stride) {
            (Task::NextToken, None) => format!(
                "each token but {first} once, from those before it in windows of {length} that follow each other"
            ),
            (Task::NextToken, Some(stride)) => format!(
                "each token but {first} once, from those before it in windows of {length}, {stride} apart"
            ),
            (Task::MaskedTokens { .. }, _) => {
                format!("15% of the tokens, from all others in windows of {length}")
            }
            (Task::Translation { .. }, _) => "each token of a target, from its source".into(),
        };
        match packing {
            Some((Packing::Documents, _)) => protocol += "; each window is of one document",
            Some((Packing::MaskedStream, _)) => protocol += "; attention does not leave a document",
            Some((Packing::Stream, _)) | None => {}
        }
        if self.is_part {
            protocol += &format!("; the first {} of them", self.len());
        }
        protocol
    }

    /// No more than the first windows.
    pub fn limit(&mut self, windows: usize) {
        self.is_part |= windows < self.places.len();
        self.places.truncate(windows);
    }

    /// Windows, or pairs.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub fn split(&self) -> &Split {
        &self.split
    }

    /// The bytes of the text that all windows together predict: those of the split, but for the
    /// tokens that nothing comes before; of some of the windows those of their tokens. None where not
    /// every byte is predicted.
    pub fn bytes(&self, tokenizer: &dyn Tokenizer) -> Option<usize> {
        let whole = self.split.bytes_per_target(self.task).map(|_| self.split.bytes)?;
        let special = tokenizer.end_of_text();
        let bytes = |ids: &mut dyn Iterator<Item = u32>| -> usize {
            ids.filter(|id| Some(*id) != special)
                .map(|id| tokenizer.token_bytes(id).map_or(0, |bytes| bytes.len()))
                .sum()
        };
        if self.is_part {
            let targets = self.places.iter().flat_map(|place| {
                let Example { target, asked, .. } = self.example(place);
                let first = asked.and_then(|asked| asked.first().copied()).unwrap_or(0);
                target.into_iter().skip(first)
            });
            return Some(bytes(&mut targets.into_iter()));
        }
        let SplitTokens::Text(stream) = &self.split.tokens else {
            return Some(whole);
        };
        let mut first = texts(stream, self.split.packing)
            .enumerate()
            // A text after another begins with the token that ended that one.
            .filter(|(number, _)| *number == 0 || !stream.has_ends())
            .flat_map(|(_, text)| stream.read(text.start..text.start + 1));
        Some(whole.saturating_sub(bytes(&mut first)))
    }

    /// Measures a model.
    ///
    /// # Errors
    /// [`Stopped`]
    pub fn score<B: GptBackend>(
        &self,
        model: &LanguageModel<B>,
        batch_size: usize,
        top_k: &[usize],
        watch: Watch,
    ) -> Result<TextScore, Stopped> {
        let mut stopped = Ok(());
        let batches = self.places.chunks(batch_size).map_while(|places| {
            let examples: Vec<Example> = places.iter().map(|place| self.example(place)).collect();
            let batch = TokenBatch::new(&examples, 1.0);
            // Told of it when it is taken: what is counted is ahead of what a device has done.
            stopped = watch(places.len());
            stopped.is_ok().then_some(batch)
        });
        let score = if top_k.is_empty() {
            let found = evaluate(model, batches);
            TextScore { loss: found.loss, tokens: found.tokens, hits: Vec::new() }
        } else {
            let (mut nats, mut tokens) = (0.0, 0);
            let mut hits: Vec<(usize, usize)> = top_k.iter().map(|k| (*k, 0)).collect();
            for score in batches.flat_map(|batch| token_scores(model, &batch)) {
                nats -= score.log_probability;
                tokens += 1;
                for (k, hits) in &mut hits {
                    *hits += usize::from(score.rank <= *k);
                }
            }
            TextScore { loss: nats / tokens as f64, tokens, hits }
        };
        stopped.map(|()| score)
    }

    fn example(&self, place: &ScoredPlace) -> Example {
        let example = Example::read(&self.split, self.task, place.place);
        let targets = example.target.len();
        match place.scored {
            Some(scored) if scored < targets => {
                Example { asked: Some((targets - scored..targets).collect()), ..example }
            }
            _ => example,
        }
    }
}

fn place((window, scored): (Window, usize)) -> ScoredPlace {
    let place = ExamplePlace { place: Place::Window(window), number: window.start as u64 };
    ScoredPlace { place, scored: Some(scored) }
}

/// What is read from its beginning on: the stream, or each document.
fn texts(stream: &TokenStream, packing: Packing) -> Box<dyn Iterator<Item = Window> + '_> {
    match packing {
        Packing::Documents => Box::new(DocumentOrder::new(stream.clone(), 1, 0).into_wholes()),
        Packing::Stream | Packing::MaskedStream => {
            let length = stream.len().saturating_sub(1);
            Box::new(std::iter::once(Window { start: 0, length }))
        }
    }
}

/// Windows of at most `context_length` inputs, each `stride` after the one before, and how many
/// targets no window before it has. `stride` must be at least 1 and at most `context_length`.
pub fn sliding_windows(
    text: Window,
    context_length: usize,
    stride: usize,
) -> impl Iterator<Item = (Window, usize)> {
    let mut scored = 0;
    let begins = (0..text.length).step_by(stride);
    begins.map_while(move |begin| {
        let end = text.length.min(begin + context_length);
        let new = end - scored;
        scored = end;
        let window = Window { start: text.start + begin, length: end - begin };
        (new > 0).then_some((window, new))
    })
}
