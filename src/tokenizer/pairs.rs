//! The pairs of neighbouring tokens in a list of words, most frequent first.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap};

use super::TokenizerError;
use super::hash::QuickHash;

/// Two tokens, the left one first.
pub(super) type Pair = (u32, u32);

/// Where a pair stands and how often, words that occur more than once counted so often.
#[derive(Default)]
struct Occurrences {
    count: u64,
    /// The first bytes of its left tokens. Some may have gone since: merges do not look for them.
    places: Vec<u32>,
}

/// A slot that is no longer the first of a token.
const GONE: u32 = u32::MAX;

/// Words as tokens, in which pairs are merged one after the other.
///
/// All bytes of all words lie in one array, a slot a byte. A token's id stands in its first slot
/// and in its last, so that both neighbours are found without a list of them: that to the right
/// begins after as many slots as the token has bytes, and that to the left ends in the slot
/// before.
pub(super) struct WordPairs {
    slots: Vec<u32>,
    /// The word of each slot.
    words: Vec<u32>,
    /// How often each word occurs.
    counts: Vec<u64>,
    /// Bytes of each token.
    lengths: Vec<u32>,
    /// Of all words, those that occur more than once counted so often.
    tokens: u64,
    pairs: HashMap<Pair, Occurrences, QuickHash>,
    /// Pairs with counts that they had at some time; as counts only fall, the true maximum is not
    /// below any that is still true.
    queue: BinaryHeap<(u64, Reverse<Pair>)>,
}

impl WordPairs {
    /// Different words and how often each occurs. `encode` appends the ids of a word, and `lengths`
    /// are the bytes of each token, together those of the word.
    ///
    /// # Errors
    /// Words of 4 GiB or more together, and what `encode` refuses.
    pub(super) fn new<'a>(
        words: impl Iterator<Item = (&'a str, u64)>,
        lengths: Vec<u32>,
        mut encode: impl FnMut(&str, &mut Vec<u32>) -> Result<(), TokenizerError>,
    ) -> Result<Self, TokenizerError> {
        let mut ids = Vec::new();
        let mut all = Self {
            slots: Vec::new(),
            words: Vec::new(),
            counts: Vec::new(),
            lengths,
            tokens: 0,
            pairs: HashMap::default(),
            queue: BinaryHeap::new(),
        };
        for ((word, count), number) in words.zip(0..) {
            if all.slots.len() + word.len() >= GONE as usize {
                return Err(TokenizerError::TooManyWords);
            }
            ids.clear();
            encode(word, &mut ids)?;
            let mut before: Option<(u32, usize)> = None;
            for id in &ids {
                let place = all.slots.len();
                let end = place + all.lengths[*id as usize] as usize;
                all.slots.resize(end, GONE);
                all.slots[place] = *id;
                all.slots[end - 1] = *id;
                if let Some((left, place)) = before {
                    all.add((left, *id), place, count);
                }
                before = Some((*id, place));
            }
            all.words.resize(all.slots.len(), number);
            all.counts.push(count);
            all.tokens += count * ids.len() as u64;
        }
        Ok(all)
    }

    /// Puts all pairs in order; to be called once, before [`Self::most_frequent`].
    pub(super) fn sort(&mut self) {
        let entry = |(pair, found): (&Pair, &Occurrences)| (found.count, Reverse(*pair));
        self.queue = self.pairs.iter().map(entry).filter(|(count, _)| *count > 0).collect();
    }

    /// Takes the most frequent pair out of the order; among equals that of the smallest left id,
    /// then of the smallest right id.
    pub(super) fn most_frequent(&mut self) -> Option<Pair> {
        while let Some((count, Reverse(pair))) = self.queue.pop() {
            let now = self.pairs.get(&pair).map_or(0, |found| found.count);
            if now == count {
                return Some(pair);
            }
            if now > 0 {
                self.queue.push((now, Reverse(pair)));
            }
        }
        None
    }

    /// Tokens of the text that the words come from.
    pub(super) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Bytes of the token that a pair would make.
    pub(super) fn length(&self, (left, right): Pair) -> usize {
        let length = |id: u32| self.lengths.get(id as usize).map_or(0, |length| *length as usize);
        length(left) + length(right)
    }

    /// Makes a pair one token wherever it stands, from the left to the right of each word.
    pub(super) fn merge(&mut self, pair: Pair, id: u32) {
        let length = self.length(pair);
        set_length(&mut self.lengths, id, length as u32);
        let Some(Occurrences { mut places, .. }) = self.pairs.remove(&pair) else {
            return;
        };
        places.sort_unstable();
        let (left, right) = pair;
        let mut new = Vec::new();
        for place in places {
            let place = place as usize;
            let middle = place + self.lengths[left as usize] as usize;
            let word = self.words[place];
            let in_word = |slot: usize| self.words.get(slot) == Some(&word);
            if self.slots[place] != left || !in_word(middle) || self.slots[middle] != right {
                continue;
            }
            let end = place + length;
            let before = place.checked_sub(1).filter(|slot| in_word(*slot));
            let before = before.map(|slot| self.slots[slot]);
            let after = in_word(end).then(|| self.slots[end]);
            self.slots[middle] = GONE;
            self.slots[place] = id;
            self.slots[end - 1] = id;

            let count = self.counts[word as usize];
            self.tokens -= count;
            if let Some(before) = before {
                self.remove((before, left), count);
                let start = place - self.lengths[before as usize] as usize;
                new.extend(self.add((before, id), start, count));
            }
            if let Some(after) = after {
                self.remove((right, after), count);
                new.extend(self.add((id, after), place, count));
            }
        }
        for pair in new {
            let count = self.pairs.get(&pair).map_or(0, |found| found.count);
            if count > 0 {
                self.queue.push((count, Reverse(pair)));
            }
        }
    }

    /// The pair, where it was not there before.
    fn add(&mut self, pair: Pair, place: usize, count: u64) -> Option<Pair> {
        let (found, new) = match self.pairs.entry(pair) {
            Entry::Occupied(entry) => (entry.into_mut(), None),
            Entry::Vacant(entry) => (entry.insert(Occurrences::default()), Some(pair)),
        };
        found.count += count;
        found.places.push(place as u32);
        new
    }

    /// Its place is left where it is. A pair that is just being merged has none any more.
    fn remove(&mut self, pair: Pair, count: u64) {
        if let Some(found) = self.pairs.get_mut(&pair) {
            found.count -= count;
        }
    }
}

fn set_length(lengths: &mut Vec<u32>, id: u32, length: u32) {
    let id = id as usize;
    if lengths.len() <= id {
        lengths.resize(id + 1, 0);
    }
    lengths[id] = length;
}
