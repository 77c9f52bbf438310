//! Which windows of a token stream are read, and in which order.

use super::permutation::mix;
use super::{ExamplePlace, Permutation, Place, TokenStream};

/// `length` inputs from `start` on; their targets are the tokens one place further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub start: usize,
    pub length: usize,
}

/// The windows of the training stream in a shuffled order without replacement.
///
/// Every pass over the data cuts the stream anew, at a random phase, and takes the windows of
/// that cut in a random order. The `n`-th window follows from `n` and the seed alone, so the
/// position in the data is one number, and nothing is kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowOrder {
    tokens: usize,
    context_length: usize,
    seed: u64,
}

impl WindowOrder {
    /// `tokens` must exceed `context_length`.
    pub fn new(tokens: usize, context_length: usize, seed: u64) -> Self {
        Self { tokens, context_length, seed }
    }

    /// Windows in one pass: as many as fit whatever the phase.
    pub fn windows_per_pass(&self) -> usize {
        ((self.tokens - self.context_length) / self.context_length).max(1)
    }

    /// The `index`-th window of the whole training.
    pub fn window(&self, index: u64) -> Window {
        let count = self.windows_per_pass();
        let (pass, place) = (index / count as u64, index % count as u64);
        let key = mix(self.seed ^ mix(pass));
        let slack = self.tokens - 1 - count * self.context_length;
        let phases = slack.min(self.context_length - 1) + 1;
        let phase = (mix(key) % phases as u64) as usize;
        let number = Permutation::new(count as u64, key).at(place) as usize;
        Window { start: phase + number * self.context_length, length: self.context_length }
    }
}

/// The documents of a stream, each a window of its own.
///
/// A window begins with the token that ends the document before, so that the first token of the
/// document is a target too; where documents have no such token, with the document.
#[derive(Debug, Clone)]
pub struct DocumentOrder {
    stream: TokenStream,
    context_length: usize,
    seed: u64,
}

impl DocumentOrder {
    /// Windows can be taken of a stream that is not [`DocumentOrder::is_empty`].
    pub fn new(stream: TokenStream, context_length: usize, seed: u64) -> Self {
        Self { stream, context_length, seed }
    }

    pub fn documents(&self) -> usize {
        self.stream.documents()
    }

    /// Whether no document has a token to predict.
    pub fn is_empty(&self) -> bool {
        (0..self.documents()).all(|document| self.whole(document).length == 0)
    }

    /// A document as inputs, however long; the last of its tokens is only a target. Nothing, of one
    /// token that nothing comes before.
    fn whole(&self, document: usize) -> Window {
        let places = self.stream.document(document);
        let start = places.start.saturating_sub(usize::from(self.stream.has_ends()));
        Window { start, length: places.end - 1 - start }
    }

    /// Every document as `whole` has it.
    pub fn into_wholes(self) -> impl Iterator<Item = Window> {
        (0..self.documents()).map(move |document| self.whole(document))
    }

    /// A document, or the next one that has a token to predict.
    fn next_whole(&self, document: usize) -> Window {
        let all = (document..self.documents()).chain(0..document);
        all.map(|document| self.whole(document))
            .find(|whole| whole.length > 0)
            .expect("a stream of such documents is refused")
    }

    /// How long each document is, or the next one that has a token to predict, from the last to the
    /// first: as many tokens as there are to learn in it.
    pub fn lengths(&self) -> impl Iterator<Item = usize> {
        let mut next = self.next_whole(0).length;
        (0..self.documents()).rev().map(move |document| {
            match self.whole(document).length {
                0 => {}
                own => next = own,
            }
            next
        })
    }

    /// The `index`-th window of the whole training: every pass takes all documents, in an order of
    /// its own; of a document longer than the context another part each time.
    pub fn window(&self, index: u64) -> Window {
        let count = self.documents() as u64;
        let (pass, place) = (index / count, index % count);
        let key = mix(self.seed ^ mix(pass));
        let document = Permutation::new(count, key).at(place);
        let whole = self.next_whole(document as usize);
        let length = whole.length.min(self.context_length);
        let parts = (whole.length - length + 1) as u64;
        let skipped = mix(key ^ mix(document)) % parts;
        Window { start: whole.start + skipped as usize, length }
    }

    /// All windows, one after the other: every token but the first, of all or where documents have
    /// no ends of each document, is a target once.
    pub fn disjoint(&self) -> Vec<Window> {
        (0..self.documents()).flat_map(|document| self.parts(document)).collect()
    }

    /// At most `count` of [`DocumentOrder::disjoint`], spread evenly.
    pub fn spread(&self, count: usize) -> Vec<Window> {
        let all = self.disjoint();
        let count = count.min(all.len());
        (0..count).map(|index| all[index * all.len() / count]).collect()
    }

    fn parts(&self, document: usize) -> impl Iterator<Item = Window> {
        let Window { start, length } = self.whole(document);
        let context_length = self.context_length;
        (0..length).step_by(context_length).map(move |skipped| Window {
            start: start + skipped,
            length: context_length.min(length - skipped),
        })
    }
}

/// The examples of a training in a shuffled order without replacement.
#[derive(Debug, Clone)]
pub enum ExampleOrder {
    Windows(WindowOrder),
    Documents(DocumentOrder),
    /// Every pass takes all pairs, in an order of its own.
    Pairs {
        count: usize,
        seed: u64,
    },
}

impl ExampleOrder {
    pub fn examples_per_pass(&self) -> usize {
        match self {
            Self::Windows(order) => order.windows_per_pass(),
            Self::Documents(order) => order.documents(),
            Self::Pairs { count, .. } => *count,
        }
    }

    /// The `index`-th example of the whole training.
    pub fn at(&self, index: u64) -> ExamplePlace {
        let place = match self {
            Self::Windows(order) => Place::Window(order.window(index)),
            Self::Documents(order) => Place::Window(order.window(index)),
            Self::Pairs { count, seed } => {
                let (pass, place) = (index / *count as u64, index % *count as u64);
                let order = Permutation::new(*count as u64, mix(seed ^ mix(pass)));
                Place::Pair(order.at(place) as usize)
            }
        };
        ExamplePlace { place, number: index }
    }
}

/// All windows of a stream, one after the other; the last one may be shorter. Every token but
/// the first is a target exactly once.
pub fn disjoint_windows(tokens: usize, context_length: usize) -> Vec<Window> {
    let targets = tokens.saturating_sub(1);
    (0..targets)
        .step_by(context_length)
        .map(|start| Window { start, length: context_length.min(targets - start) })
        .collect()
}

/// At most `count` full windows, spread evenly over a stream: a fixed sample of it.
pub fn spread_windows(tokens: usize, context_length: usize, count: usize) -> Vec<Window> {
    let full = tokens.saturating_sub(1) / context_length;
    let count = count.min(full);
    (0..count)
        .map(|index| Window {
            start: index * full / count * context_length,
            length: context_length,
        })
        .collect()
}
