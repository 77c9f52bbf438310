use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::{SavedTokenizer, Tokenizer, TokenizerError};

/// Ids of single bytes.
const BYTES: u32 = 256;
/// Begin of text, end of text, padding: the ids after those of the merges.
const SPECIAL: u32 = 3;

/// Byte-pair encoding of the whole text at once, without splitting it into words before: the
/// tokenizer of templateGPT. Id `256 + i` is merge `i`; then come begin of text, end of text and
/// padding, which stand for no bytes.
#[derive(Debug, Clone)]
pub struct MergesTokenizer {
    merges: Vec<(u32, u32)>,
    /// The merge of a pair, by number.
    ranks: HashMap<(u32, u32), u32>,
    /// What each id below the special ones stands for.
    bytes: Vec<Vec<u8>>,
}

/// Bytes of a token at most.
const LONGEST_TOKEN: usize = 1 << 16;

impl MergesTokenizer {
    /// # Errors
    /// A merge of ids that come after it, one that is there twice, or one that is too long.
    pub fn new(merges: Vec<(u32, u32)>) -> Result<Self, TokenizerError> {
        let mut bytes: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).collect();
        let mut ranks = HashMap::with_capacity(merges.len());
        for (rank, &(left, right)) in (0..).zip(&merges) {
            let known = |id: u32| bytes.get(id as usize);
            let (Some(first), Some(second)) = (known(left), known(right)) else {
                return Err(TokenizerError::Merge { number: rank as usize, left, right });
            };
            // Merges of merges double, and a few dozen of them would not fit into any memory.
            if first.len() + second.len() > LONGEST_TOKEN {
                return Err(TokenizerError::Merge { number: rank as usize, left, right });
            }
            let whole = [first.as_slice(), second].concat();
            bytes.push(whole);
            if ranks.insert((left, right), rank).is_some() {
                return Err(TokenizerError::Merge { number: rank as usize, left, right });
            }
        }
        Ok(Self { merges, ranks, bytes })
    }

    fn special(&self, number: u32) -> u32 {
        self.bytes.len() as u32 + number
    }
}

/// A text that is being merged: a doubly linked list over the places of its bytes.
struct Pieces<'a> {
    ranks: &'a HashMap<(u32, u32), u32>,
    ids: Vec<u32>,
    /// The place before and after; `usize::MAX` at the ends and for places that were merged away.
    before: Vec<usize>,
    after: Vec<usize>,
}

const NOWHERE: usize = usize::MAX;

impl Pieces<'_> {
    /// The merge of the pair that begins at a place.
    fn rank(&self, place: usize) -> Option<u32> {
        let next = *self.after.get(place)?;
        let pair = (*self.ids.get(place)?, *self.ids.get(next)?);
        self.ranks.get(&pair).copied()
    }
}

impl Tokenizer for MergesTokenizer {
    fn vocab_size(&self) -> usize {
        self.bytes.len() + SPECIAL as usize
    }

    /// Earlier merges first, each from left to right. A merge only makes pairs of later merges,
    /// so a heap of places finds them in that order.
    fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let ids: Vec<u32> = text.bytes().map(u32::from).collect();
        let count = ids.len();
        let mut pieces = Pieces {
            ranks: &self.ranks,
            ids,
            before: (0..count).map(|place| place.wrapping_sub(1)).collect(),
            after: (1..=count).map(|place| if place < count { place } else { NOWHERE }).collect(),
        };
        let mut heap: BinaryHeap<Reverse<(u32, usize)>> =
            (0..count).filter_map(|place| Some(Reverse((pieces.rank(place)?, place)))).collect();
        let mut alive = vec![true; count];
        while let Some(Reverse((rank, place))) = heap.pop() {
            // The pair may have been merged away or changed since.
            if !alive[place] || pieces.rank(place) != Some(rank) {
                continue;
            }
            let merged = pieces.after[place];
            let next = pieces.after[merged];
            pieces.ids[place] = BYTES + rank;
            alive[merged] = false;
            pieces.after[place] = next;
            if next != NOWHERE {
                pieces.before[next] = place;
            }
            for start in [pieces.before[place], place] {
                if let Some(rank) = pieces.rank(start) {
                    heap.push(Reverse((rank, start)));
                }
            }
        }
        Ok(pieces
            .ids
            .into_iter()
            .zip(alive)
            .filter(|(_, alive)| *alive)
            .map(|(id, _)| id)
            .collect())
    }

    fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let special = self.special(0)..self.special(SPECIAL);
        let nothing = || special.contains(&id).then(Vec::new);
        self.bytes.get(id as usize).cloned().or_else(nothing)
    }

    fn beginning_of_text(&self) -> Option<u32> {
        Some(self.special(0))
    }

    fn end_of_text(&self) -> Option<u32> {
        Some(self.special(1))
    }

    fn saved(&self) -> SavedTokenizer {
        SavedTokenizer::Merges { merges: self.merges.clone() }
    }
}
