//! Which keys there are for a query at all.

use std::any::Any;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// The keys that queries of a batch may see at most, where its rows are filled up or hold several
/// documents. All layers share them, in host memory and, where kernels ask for them there, on the
/// device.
///
/// What a query gets that sees no key is finite, and nobody's business.
#[derive(Debug, Clone)]
pub struct KeyRanges {
    /// The first key and the one behind the last, of each query of each entry of the batch, or once
    /// for all queries of an entry.
    ranges: Arc<[[i32; 2]]>,
    /// Ranges of an entry.
    of_entry: usize,
    /// A device, and the tensor that it has them in.
    copy: Arc<OnceLock<Box<dyn Any + Send + Sync>>>,
}

impl KeyRanges {
    /// The first so many keys of each entry, for all of its queries; others are padding. An entry
    /// of nothing else sees the first of it.
    pub fn of_lengths(lengths: &[usize]) -> Self {
        Self::new(lengths.iter().map(|length| [0, (*length).max(1) as i32]).collect(), 1)
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
                let end = start + length as i32;
                ranges.extend(std::iter::repeat_n([start, end], length));
                start = end;
            }
        }
        Self::new(ranges.into(), positions)
    }

    fn new(ranges: Arc<[[i32; 2]]>, of_entry: usize) -> Self {
        Self { ranges, of_entry, copy: Arc::default() }
    }

    /// Of a query of an entry.
    #[inline]
    pub fn keys(&self, entry: usize, query: usize) -> Range<usize> {
        let [start, end] =
            self.ranges[entry * self.of_entry + if self.of_entry == 1 { 0 } else { query }];
        start as usize..end as usize
    }

    /// Keys of an entry that are there for all of its queries, if these see the same.
    pub fn length(&self, entry: usize) -> Option<usize> {
        (self.of_entry == 1).then(|| self.keys(entry, 0).end)
    }

    /// # Panics
    /// Where these are not the ranges of so many entries, queries and keys.
    pub(super) fn check(&self, entries: usize, [queries, keys]: [usize; 2]) {
        assert_eq!(self.ranges.len(), entries * self.of_entry, "ranges of another batch");
        let of_documents = [queries, keys] == [self.of_entry; 2];
        assert!(self.of_entry == 1 || of_documents, "documents of {} positions", self.of_entry);
    }

    /// Ranges of an entry: of each query, or one.
    pub(super) fn of_entry(&self) -> usize {
        self.of_entry
    }

    /// A device's tensor of the bounds of all ranges, entry by entry. The first device that asks
    /// keeps it; a batch is one device's, and for another one it is made each time.
    pub fn on_device<D, T>(&self, device: &D, make: impl Fn(&[i32]) -> T) -> T
    where
        D: PartialEq + Clone + Send + Sync + 'static,
        T: Clone + Send + Sync + 'static,
    {
        let numbers = self.ranges.as_flattened();
        let kept = self.copy.get_or_init(|| Box::new((device.clone(), make(numbers))));
        match kept.downcast_ref::<(D, T)>() {
            Some((owner, tensor)) if owner == device => tensor.clone(),
            _ => make(numbers),
        }
    }
}
