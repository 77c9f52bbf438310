//! Which keys there are for a query at all.

use std::ops::Range;
use std::sync::Arc;

/// The keys that queries of a batch may see at most, where its rows are filled up or hold several
/// documents. Host memory, which all layers share.
///
/// What a query gets that sees no key is finite, and nobody's business.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyRanges {
    /// The first key and the one behind the last, of each query of each entry of the batch, or once
    /// for all queries of an entry.
    ranges: Arc<[[u32; 2]]>,
    /// Ranges of an entry.
    queries: usize,
}

impl KeyRanges {
    /// The first so many keys of each entry, for all of its queries; others are padding. An entry
    /// of nothing else sees the first of it.
    pub fn of_lengths(lengths: &[usize]) -> Self {
        Self {
            ranges: lengths.iter().map(|length| [0, (*length).max(1) as u32]).collect(),
            queries: 1,
        }
    }

    /// Of as many queries as keys, those of a query's own document, from any number for each
    /// position that is unlike those of the neighbouring documents. What fills up a shorter row
    /// stands by itself.
    ///
    /// # Panics
    /// Where a row has more than that many positions.
    pub fn of_documents(rows: &[Vec<u32>], positions: usize) -> Self {
        let mut ranges = Vec::with_capacity(rows.len() * positions);
        for row in rows {
            assert!(row.len() <= positions);
            let documents = row.chunk_by(|one, next| one == next).map(<[u32]>::len);
            let mut start = 0;
            for length in documents.chain([positions - row.len()]) {
                let end = start + length as u32;
                ranges.extend(std::iter::repeat_n([start, end], length));
                start = end;
            }
        }
        Self { ranges: ranges.into(), queries: positions }
    }

    /// Of a query of an entry.
    #[inline]
    pub fn keys(&self, entry: usize, query: usize) -> Range<usize> {
        let [start, end] = self.ranges[entry * self.queries + query % self.queries];
        start as usize..end as usize
    }

    /// Entries of the batch.
    pub fn entries(&self) -> usize {
        self.ranges.len() / self.queries.max(1)
    }

    /// Pairs of numbers, so many for each entry.
    #[cfg(feature = "cubecl")]
    pub(super) fn pairs(&self) -> (&[[u32; 2]], usize) {
        (&self.ranges, self.queries)
    }
}
