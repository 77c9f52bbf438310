//! Byte-pair encoding: the bytes of each word are merged to tokens, pair by pair.
//!
//! Of all pairs of neighbours that may be merged the one of the lowest rank is, and of equal ones
//! the leftmost, until none is left (Sennrich et al. 2016).

use rayon::prelude::*;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::hash::GOLDEN;
use super::{Splitter, TokenizerError};

/// No id, no rank.
const NONE: u32 = u32::MAX;
/// Words of more bytes are merged with a heap: scanning them for each merge would take a time that
/// grows with the square of their length.
const LONG_WORD: usize = 96;
/// Texts of more bytes are encoded in parallel, in pieces.
const LONG_TEXT: usize = 1 << 20;

/// Two tokens that become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merge {
    pub left: u32,
    pub right: u32,
    pub merged: u32,
}

/// Encodes texts by merging byte pairs.
///
/// It remembers the words that it has seen, in a table of fixed size for each thread that encodes
/// at a time.
#[derive(Debug)]
pub struct BytePairEncoder {
    splitter: Splitter,
    pairs: Pairs,
    /// The token of each byte, or [`NONE`]; a byte that has none is left out.
    bytes: Box<[u32; 256]>,
    /// Words that are tokens whatever the merges say.
    words: Words,
    /// Those of the threads that are not encoding now.
    memories: Mutex<Vec<Memory>>,
}

impl BytePairEncoder {
    /// From merges in the order of their ranks, as Hugging Face's libraries have them. Where a
    /// pair is there twice, the later merge counts.
    ///
    /// `bytes` has the token of each byte; a byte without one is left out of a text. `words` are
    /// tokens that a word of just these bytes becomes at once (`ignore_merges`).
    pub fn from_merges(
        splitter: Splitter,
        bytes: [Option<u32>; 256],
        merges: &[Merge],
        words: &[(Vec<u8>, u32)],
    ) -> Self {
        let mut pairs = Pairs::with_capacity(merges.len());
        for (rank, merge) in (0..).zip(merges) {
            pairs.insert(merge.left, merge.right, Joined { rank, id: merge.merged });
        }
        Self::new(splitter, bytes, pairs, words)
    }

    /// From tokens whose ids are their ranks, as tiktoken's vocabularies are: any two neighbours
    /// may be merged if their bytes are a token, and a word that is a token is that token at once.
    pub fn from_ranks(splitter: Splitter, tokens: &[(Vec<u8>, u32)]) -> Self {
        let mut bytes = [None; 256];
        for (token, id) in tokens {
            if let [byte] = token.as_slice() {
                bytes[usize::from(*byte)] = Some(*id);
            }
        }
        let pairs = pairs_of_ranks(&bytes.map(|id| id.unwrap_or(NONE)), tokens);
        Self::new(splitter, bytes, pairs, tokens)
    }

    fn new(
        splitter: Splitter,
        bytes: [Option<u32>; 256],
        pairs: Pairs,
        words: &[(Vec<u8>, u32)],
    ) -> Self {
        let bytes = Box::new(bytes.map(|id| id.unwrap_or(NONE)));
        Self { splitter, pairs, bytes, words: Words::new(words), memories: Mutex::default() }
    }

    /// How texts are split into words.
    pub fn splitter(&self) -> &Splitter {
        &self.splitter
    }

    /// Appends the ids of a text.
    ///
    /// # Errors
    /// As for [`Splitter::split`].
    pub fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if text.len() <= LONG_TEXT || rayon::current_num_threads() == 1 {
            return self.encode_piece(text, ids);
        }
        let encoded: Vec<Vec<u32>> = self
            .splitter
            .pieces(text)
            .into_par_iter()
            .map(|piece| {
                let mut ids = Vec::with_capacity(piece.len() / 3);
                self.encode_piece(piece, &mut ids).map(|()| ids)
            })
            .collect::<Result<_, _>>()?;
        ids.reserve(encoded.iter().map(Vec::len).sum());
        for piece in encoded {
            ids.extend(piece);
        }
        Ok(())
    }

    fn encode_piece(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let idle = || self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        let remembered = idle().pop();
        let mut memory = remembered.unwrap_or_default();
        let bytes = text.as_bytes();
        let split = self.splitter.ranges(text, |start, end| {
            let Some(key) = key(bytes, start, end) else {
                self.encode_word(&bytes[start..end], &mut memory.work, ids);
                return;
            };
            let entry = &mut memory.entries[slot(key)];
            if entry.key != key {
                let first = ids.len();
                self.encode_word(&bytes[start..end], &mut memory.work, ids);
                if let Some(entry_of_word) = Entry::new(key, &ids[first..]) {
                    *entry = entry_of_word;
                }
                return;
            }
            // Most words are one token.
            ids.push(entry.ids[0]);
            for id in entry.ids[1..].iter().take_while(|id| **id != NONE) {
                ids.push(*id);
            }
        });
        idle().push(memory);
        split
    }

    fn encode_word(&self, word: &[u8], work: &mut Work, ids: &mut Vec<u32>) {
        match self.words.get(word) {
            Some(id) => ids.push(id),
            None => merge(word, &self.bytes, &self.pairs, work, ids),
        }
    }
}

/// What a pair becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Joined {
    rank: u32,
    id: u32,
}

const APART: Joined = Joined { rank: NONE, id: NONE };

/// Pairs of tokens that may be merged: a table with open addressing.
#[derive(Debug)]
struct Pairs {
    entries: Vec<(u64, Joined)>,
    shift: u32,
    count: usize,
}

/// Both ids are [`NONE`], which no token has.
const EMPTY: u64 = u64::MAX;

impl Pairs {
    fn with_capacity(pairs: usize) -> Self {
        let size = (pairs * 2).next_power_of_two().max(2);
        Self { entries: vec![(EMPTY, APART); size], shift: 64 - size.ilog2(), count: 0 }
    }

    /// Where a pair is, or would be.
    #[inline]
    fn place(&self, pair: u64) -> usize {
        let mask = self.entries.len() - 1;
        let mut at = (pair.wrapping_mul(GOLDEN) >> self.shift) as usize;
        // At least half of the table is empty.
        while self.entries[at].0 != pair && self.entries[at].0 != EMPTY {
            at = (at + 1) & mask;
        }
        at
    }

    #[inline]
    fn get(&self, left: u32, right: u32) -> Joined {
        self.entries[self.place(u64::from(left) << 32 | u64::from(right))].1
    }

    fn insert(&mut self, left: u32, right: u32, joined: Joined) {
        if self.count * 2 >= self.entries.len() {
            let mut larger = Self::with_capacity(self.count * 2);
            for (pair, joined) in self.entries.iter().filter(|(pair, _)| *pair != EMPTY) {
                let at = larger.place(*pair);
                larger.entries[at] = (*pair, *joined);
            }
            larger.count = self.count;
            *self = larger;
        }
        let pair = u64::from(left) << 32 | u64::from(right);
        let at = self.place(pair);
        self.count += usize::from(self.entries[at].0 == EMPTY);
        self.entries[at] = (pair, joined);
    }
}

/// Which pairs are merged where every two neighbours are that are a token together.
///
/// While the bytes of a token are merged, nothing outside of them has been merged with any of
/// them, so what happens to them is what happens to a word of just these bytes. So each token can
/// only ever be made of one pair, which is what is left of such a word before its last merge.
/// With the pairs of all tokens of lower ranks, that can be computed, unless the last two parts
/// are only reached through a token of a higher rank. No known vocabulary has such a token; for
/// one that has, every pair is entered.
fn pairs_of_ranks(bytes: &[u32; 256], tokens: &[(Vec<u8>, u32)]) -> Pairs {
    let mut ranked: Vec<&(Vec<u8>, u32)> = tokens.iter().filter(|(it, _)| it.len() > 1).collect();
    ranked.sort_by_key(|(_, id)| *id);
    let mut pairs = Pairs::with_capacity(ranked.len());
    let (mut work, mut parts) = (Work::default(), Vec::new());
    for (token, id) in &ranked {
        parts.clear();
        merge(token, bytes, &pairs, &mut work, &mut parts);
        match parts.as_slice() {
            [left, right] => pairs.insert(*left, *right, Joined { rank: *id, id: *id }),
            _ => return every_pair(tokens),
        }
    }
    pairs
}

fn every_pair(tokens: &[(Vec<u8>, u32)]) -> Pairs {
    let ids: HashMap<&[u8], u32> = tokens.iter().map(|(it, id)| (it.as_slice(), *id)).collect();
    let mut pairs = Pairs::with_capacity(tokens.len());
    for (token, id) in tokens {
        for middle in 1..token.len() {
            let (left, right) = token.split_at(middle);
            if let (Some(left), Some(right)) = (ids.get(left), ids.get(right)) {
                pairs.insert(*left, *right, Joined { rank: *id, id: *id });
            }
        }
    }
    pairs
}

/// Tokens by their bytes: a table of places in one list, with open addressing.
#[derive(Debug)]
struct Words {
    bytes: Vec<u8>,
    /// Where the bytes of a word begin and end, and its token.
    entries: Vec<(u32, u32, u32)>,
    shift: u32,
    longest: usize,
}

impl Words {
    fn new(words: &[(Vec<u8>, u32)]) -> Self {
        let size = (words.len() * 2).next_power_of_two().max(2);
        let mut table = Self {
            bytes: Vec::with_capacity(words.iter().map(|(word, _)| word.len()).sum()),
            entries: vec![(0, 0, NONE); size],
            shift: 64 - size.ilog2(),
            longest: words.iter().map(|(word, _)| word.len()).max().unwrap_or(0),
        };
        for (word, id) in words {
            let at = table.place(word);
            let start = table.bytes.len() as u32;
            table.bytes.extend(word);
            table.entries[at] = (start, table.bytes.len() as u32, *id);
        }
        table
    }

    fn place(&self, word: &[u8]) -> usize {
        let hash = word.chunks(8).fold(word.len() as u64, |hash, chunk| {
            let mut eight = [0; 8];
            eight[..chunk.len()].copy_from_slice(chunk);
            (hash.rotate_left(23) ^ u64::from_le_bytes(eight)).wrapping_mul(GOLDEN)
        });
        let mut at = (hash >> self.shift) as usize;
        loop {
            let (start, end, id) = self.entries[at];
            // At least half of the table is empty.
            if id == NONE || &self.bytes[start as usize..end as usize] == word {
                return at;
            }
            at = (at + 1) & (self.entries.len() - 1);
        }
    }

    fn get(&self, word: &[u8]) -> Option<u32> {
        if word.len() > self.longest {
            return None;
        }
        Some(self.entries[self.place(word)].2).filter(|id| *id != NONE)
    }
}

/// Words that were encoded before, each in the one place that it can have.
#[derive(Debug)]
struct Memory {
    entries: Box<[Entry]>,
    work: Work,
}

/// Places in the memory of a thread: a megabyte.
const REMEMBERED: usize = 1 << 15;
/// Bytes of words that are remembered, at most; their number takes the sixteenth byte.
const KEY_BYTES: usize = 15;

impl Default for Memory {
    fn default() -> Self {
        let nothing = Entry { key: 0, ids: [NONE; 4] };
        Self { entries: vec![nothing; REMEMBERED].into(), work: Work::default() }
    }
}

/// A word and its ids; where it has fewer than four, [`NONE`] comes after them.
#[derive(Debug, Clone, Copy)]
struct Entry {
    key: u128,
    ids: [u32; 4],
}

impl Entry {
    fn new(key: u128, found: &[u32]) -> Option<Self> {
        let mut ids = [NONE; 4];
        // A word of bytes that have no token has no ids.
        if found.is_empty() {
            return None;
        }
        ids.get_mut(..found.len())?.copy_from_slice(found);
        Some(Self { key, ids })
    }
}

/// The bytes of a word and their number, as one number that is not zero.
#[inline]
fn key(text: &[u8], start: usize, end: usize) -> Option<u128> {
    let length = end - start;
    if length > KEY_BYTES {
        return None;
    }
    let word = match text[start..].first_chunk::<16>() {
        // One load, and what is after the word taken away.
        Some(word) => u128::from_le_bytes(*word) & ((1 << (8 * length)) - 1),
        None => {
            let mut word = [0; 16];
            word[..length].copy_from_slice(&text[start..end]);
            u128::from_le_bytes(word)
        }
    };
    Some(word | (length as u128) << (8 * KEY_BYTES))
}

#[inline]
fn slot(key: u128) -> usize {
    let folded = (key as u64).wrapping_mul(GOLDEN) ^ (key >> 64) as u64;
    (folded.wrapping_mul(GOLDEN) >> (64 - REMEMBERED.ilog2())) as usize
}

/// Room for the parts of a word, kept from word to word.
#[derive(Debug, Default)]
struct Work {
    parts: Vec<Part>,
    heap: Vec<Reverse<(u32, usize)>>,
}

/// One token of a word that is being merged.
#[derive(Debug, Clone, Copy)]
struct Part {
    id: u32,
    /// What it becomes together with the next one.
    joined: Joined,
    /// The places before and after it, in long words.
    before: usize,
    after: usize,
}

const NOWHERE: usize = usize::MAX;

/// Appends the tokens of one word.
fn merge(word: &[u8], bytes: &[u32; 256], pairs: &Pairs, work: &mut Work, ids: &mut Vec<u32>) {
    let Work { parts, heap } = work;
    parts.clear();
    let known = word.iter().map(|byte| bytes[usize::from(*byte)]).filter(|id| *id != NONE);
    parts.extend(known.map(|id| Part { id, joined: APART, before: NOWHERE, after: NOWHERE }));
    for at in 1..parts.len() {
        parts[at - 1].joined = pairs.get(parts[at - 1].id, parts[at].id);
    }
    if parts.len() <= LONG_WORD {
        merge_short(parts, pairs);
        ids.extend(parts.iter().map(|part| part.id));
    } else {
        merge_long(parts, pairs, heap);
        let mut at = 0;
        while let Some(part) = parts.get(at) {
            ids.push(part.id);
            at = part.after;
        }
    }
}

/// Looks through all parts for each merge.
fn merge_short(parts: &mut Vec<Part>, pairs: &Pairs) {
    loop {
        let best = parts.iter().enumerate().min_by_key(|(_, part)| part.joined.rank);
        let Some((at, Part { joined, .. })) = best.filter(|(_, part)| part.joined != APART) else {
            return;
        };
        let id = joined.id;
        parts.remove(at + 1);
        let after = parts.get(at + 1).map_or(APART, |after| pairs.get(id, after.id));
        (parts[at].id, parts[at].joined) = (id, after);
        if let Some(before) = at.checked_sub(1) {
            parts[before].joined = pairs.get(parts[before].id, id);
        }
    }
}

/// Keeps the places of pairs in a heap, and the parts in a list that is linked in both directions.
fn merge_long(parts: &mut [Part], pairs: &Pairs, room: &mut Vec<Reverse<(u32, usize)>>) {
    let last = parts.len() - 1;
    for (at, part) in parts.iter_mut().enumerate() {
        part.before = at.wrapping_sub(1);
        part.after = if at < last { at + 1 } else { NOWHERE };
    }
    room.clear();
    let mergeable = parts.iter().enumerate().filter(|(_, part)| part.joined != APART);
    room.extend(mergeable.map(|(at, part)| Reverse((part.joined.rank, at))));
    let mut heap = BinaryHeap::from(std::mem::take(room));
    while let Some(Reverse((rank, at))) = heap.pop() {
        let Part { joined, before, after, .. } = parts[at];
        // The pair may have been merged or changed since; a part that was merged has no pair.
        if joined.rank != rank || joined == APART {
            continue;
        }
        let (id, next) = (joined.id, parts[after].after);
        parts[after].joined = APART;
        parts[at].id = id;
        parts[at].after = next;
        parts[at].joined = APART;
        if next != NOWHERE {
            parts[next].before = at;
            parts[at].joined = pairs.get(id, parts[next].id);
        }
        if before != NOWHERE {
            parts[before].joined = pairs.get(parts[before].id, id);
        }
        for place in [before, at] {
            if let Some(part) = parts.get(place).filter(|part| part.joined != APART) {
                heap.push(Reverse((part.joined.rank, place)));
            }
        }
    }
    *room = heap.into_vec();
}
