//! What is kept of the positions that sequences have seen, so that each is computed once.
//!
//! B rows, T new positions, C rows that there is room for, R positions that there is room for,
//! H heads, G key/value heads, K head width, S source positions

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};

use super::{ModelError, Places};
use crate::backend::{AttentionOptions, GptBackend, KeyRanges};
use crate::config::ModelConfig;

/// Positions that a cache has room for from the beginning, where the context is no shorter.
const LEAST_ROOM: usize = 64;

/// The keys and values of the positions that some sequences have seen, a row each. Rows come and
/// go, and need not be of one length.
#[derive(Debug, Clone)]
pub struct Cache<B: Backend> {
    layers: Vec<LayerCache<B>>,
    /// Positions of each row; none before the first pass.
    seen: Vec<usize>,
    /// Tokens of each row's source, in a decoder beside an encoder.
    sources: Vec<usize>,
    context_length: usize,
}

impl<B: Backend> Cache<B> {
    /// Of a decoder that has seen nothing yet; the first pass says how many rows there are.
    pub(super) fn new(config: &ModelConfig) -> Self {
        let context_length = config.context_length;
        let layer = |layer| LayerCache {
            room: None,
            span: config.window(layer).map_or(context_length, |window| window.min(context_length)),
            source: None,
        };
        Self {
            layers: (0..config.n_layers).map(layer).collect(),
            seen: Vec::new(),
            sources: Vec::new(),
            context_length,
        }
    }

    /// Of a decoder beside an encoder, with what its layers have made of the sources.
    pub(super) fn with_sources(
        config: &ModelConfig,
        lengths: &[usize],
        sources: impl Iterator<Item = [Tensor<B, 4>; 2]>,
    ) -> Self {
        let mut cache = Self::new(config);
        cache.layers.iter_mut().zip(sources).for_each(|(layer, pair)| layer.source = Some(pair));
        cache.seen = vec![0; lengths.len()];
        cache.sources = lengths.to_vec();
        cache
    }

    /// Positions seen so far, by the row that has seen most.
    pub fn len(&self) -> usize {
        self.seen.iter().copied().max().unwrap_or(0)
    }

    /// Whether nothing has been seen yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sequences, where there are any yet.
    pub fn rows(&self) -> usize {
        self.seen.len()
    }

    /// Bytes of keys and values, with the room that there is for more.
    pub fn bytes(&self) -> usize {
        let pairs = self.layers.iter().flat_map(|layer| layer.room.iter().chain(&layer.source));
        pairs.flatten().map(|tensor| tensor.shape().num_elements() * tensor.dtype().size()).sum()
    }

    /// Whether rows have seen different numbers of positions.
    pub(super) fn is_ragged(&self) -> bool {
        self.seen.iter().any(|seen| *seen != self.seen[0])
    }

    /// Where new tokens of the given shape `[B, T]` stand.
    ///
    /// # Errors
    /// [`ModelError::ContextOverflow`] where they do not fit, [`ModelError::OtherRows`] and
    /// [`ModelError::DifferentLengths`] where they cannot follow what has been seen.
    pub(super) fn places(&mut self, [rows, new]: [usize; 2]) -> Result<Places, ModelError> {
        let (seen, context_length) = (self.len(), self.context_length);
        if !self.seen.is_empty() && self.seen.len() != rows {
            return Err(ModelError::OtherRows { held: self.seen.len(), rows });
        }
        if seen + new > context_length {
            return Err(ModelError::ContextOverflow { seen, new, context_length });
        }
        if self.seen.is_empty() {
            self.seen = vec![0; rows];
        }
        match self.is_ragged() {
            false => Ok(Places::Columns(seen..seen + new)),
            true if new == 1 => Ok(Places::Rows(self.seen.clone())),
            true => Err(ModelError::DifferentLengths { new }),
        }
    }

    /// So many positions more have been seen, by every row.
    pub(super) fn advance(&mut self, new: usize) {
        self.seen.iter_mut().for_each(|seen| *seen += new);
    }
}

impl<B: GptBackend> Cache<B> {
    /// Attends from new positions to themselves and to those seen, which they join.
    ///
    /// # Shapes
    /// - `query` `[B, H, T, K]`, `key` and `value` `[B, G, T, K]` -> `[B, H, T, K]`
    pub(super) fn attend(
        &mut self,
        layer: usize,
        query: Tensor<B, 4>,
        [key, value]: [Tensor<B, 4>; 2],
        options: &AttentionOptions,
    ) -> Tensor<B, 4> {
        let layer = &mut self.layers[layer];
        match key.dims()[2] {
            1 => layer.attend_once(&self.seen, query, [key, value], options),
            _ => layer.attend(&self.seen, query, [key, value], options),
        }
    }

    /// Attends from new positions to each row's source.
    ///
    /// # Shapes
    /// - `query` `[B, H, T, K]` -> `[B, H, T, K]`
    pub(super) fn attend_source(
        &self,
        layer: usize,
        query: Tensor<B, 4>,
        options: AttentionOptions,
    ) -> Tensor<B, 4> {
        let source = self.layers[layer].source.as_ref();
        let [key, value] = source.expect("made with the cache of a decoder beside an encoder");
        let ([b, _, t, _], [rows, _, s, _]) = (query.dims(), key.dims());
        let [key, value] = [key, value].map(|tensor| tensor.clone());
        match self.sources[..] {
            [length] if rows == 1 => {
                let of_text = |tensor: Tensor<B, 4>| tensor.narrow(2, 0, length.min(s));
                B::attend(query, of_text(key), of_text(value), &options)
            }
            _ if t == 1 => B::attend_rows(query, key, value, &self.sources, &options),
            _ => {
                let of_rows = |tensor: Tensor<B, 4>| tensor.narrow(0, 0, b);
                let ranges = Some(KeyRanges::of_lengths(&self.sources));
                let options = AttentionOptions { ranges, ..options };
                B::attend(query, of_rows(key), of_rows(value), &options)
            }
        }
    }

    /// Adds the rows of another cache of the same model after those of this one.
    pub fn append(&mut self, other: Self) {
        let (rows, positions) = (self.rows(), other.len());
        for (layer, other_layer) in self.layers.iter_mut().zip(other.layers) {
            layer.append(rows, other_layer, [other.seen.len(), positions]);
        }
        self.seen.extend(other.seen);
        self.sources.extend(other.sources);
    }

    /// Forgets a row, whose place the last one takes.
    pub fn swap_remove(&mut self, row: usize) {
        let last = self.rows() - 1;
        self.seen.swap_remove(row);
        if row < self.sources.len() {
            self.sources.swap_remove(row);
        }
        for layer in &mut self.layers {
            match last {
                0 => (layer.room, layer.source) = (None, None),
                _ if row == last => {}
                _ => layer.move_row(last, row),
            }
        }
    }

    /// Rows by their numbers, any of them as often as it is named.
    pub fn select(&mut self, rows: &[usize]) {
        let same = rows.len() == self.rows() && rows.iter().enumerate().all(|(a, b)| a == *b);
        if same {
            return;
        }
        for layer in &mut self.layers {
            let pairs = layer.room.iter_mut().chain(&mut layer.source).flatten();
            pairs.for_each(|tensor| *tensor = select(tensor, rows));
        }
        let of_rows = |lengths: &[usize]| rows.iter().map(|row| lengths[*row]).collect();
        self.seen = of_rows(&self.seen);
        if !self.sources.is_empty() {
            self.sources = of_rows(&self.sources);
        }
    }
}

/// What one layer keeps.
#[derive(Debug, Clone)]
struct LayerCache<B: Backend> {
    /// Keys and values with room for more, each `[C, G, R, K]`. Nobody else holds them between two
    /// passes but clones of this cache, so that new positions are written in place.
    room: Option<[Tensor<B, 4>; 2]>,
    /// The newest positions that are kept, which are all or those of a window: position `p` lies at
    /// `p % span`.
    span: usize,
    /// Keys and values of the source, each `[C, G, S, K]`.
    source: Option<[Tensor<B, 4>; 2]>,
}

impl<B: GptBackend> LayerCache<B> {
    /// [`Cache::attend`] from one position in each row.
    fn attend_once(
        &mut self,
        seen: &[usize],
        query: Tensor<B, 4>,
        new: [Tensor<B, 4>; 2],
        options: &AttentionOptions,
    ) -> Tensor<B, 4> {
        let span = self.span;
        let longest = seen.iter().copied().max().unwrap_or(0);
        let [keys, values] = match seen {
            [seen] => self.put(&new, &[[0, seen % span]], longest + 1),
            _ => {
                let place = |(row, seen): (usize, &usize)| [row, seen % span];
                let places: Vec<[usize; 2]> = seen.iter().enumerate().map(place).collect();
                self.put(&new, &places, longest + 1)
            }
        };
        // Whatever their order: a window is as wide as the room, so that all that is there is seen.
        // Only ALiBi asks how far away it is.
        let lengths = seen.iter().map(|seen| (seen + 1).min(span));
        if longest >= span && options.alibi {
            let attend = |(row, seen): (usize, &usize)| {
                let row_of = |tensor: Tensor<B, 4>| tensor.narrow(0, row, 1);
                let in_order = |room: &Tensor<B, 4>| in_order(row_of(room.clone()), seen + 1, span);
                B::attend(row_of(query.clone()), in_order(&keys), in_order(&values), options)
            };
            return Tensor::cat(seen.iter().enumerate().map(attend).collect(), 0);
        }
        B::attend_rows(query, keys, values, &lengths.collect::<Vec<_>>(), options)
    }

    /// [`Cache::attend`] from any number of positions, in rows of one length.
    fn attend(
        &mut self,
        seen: &[usize],
        query: Tensor<B, 4>,
        new: [Tensor<B, 4>; 2],
        options: &AttentionOptions,
    ) -> Tensor<B, 4> {
        let (seen, rows, span) = (seen[0], seen.len(), self.span);
        let t = new[0].dims()[2];
        let places =
            |place: usize| -> Vec<[usize; 2]> { (0..rows).map(|row| [row, place]).collect() };
        let end = seen + t;
        if end <= span {
            let room = self.put(&new, &places(seen), end);
            let [keys, values] = room.map(|room| of_rows(room, rows).narrow(2, 0, end));
            return B::attend(query, keys, values, options);
        }
        let before = self.room.clone().filter(|_| seen > 0);
        let all = match before.map(|room| room.map(|it| in_order(of_rows(it, rows), seen, span))) {
            Some([keys, values]) => {
                let [new_keys, new_values] = new.clone();
                [Tensor::cat(vec![keys, new_keys], 2), Tensor::cat(vec![values, new_values], 2)]
            }
            None => new.clone(),
        };
        // The newest, in two parts where they go on at the beginning of the room.
        let kept = t.min(span);
        let first = kept.min(span - (end - kept) % span);
        for (from, count) in [(end - kept, first), (end - kept + first, kept - first)] {
            if count > 0 {
                let part = new.clone().map(|new| new.narrow(2, from - seen, count));
                self.put(&part, &places(from % span), end);
            }
        }
        let [keys, values] = all;
        B::attend(query, keys, values, options)
    }

    /// Writes new positions, with room for so many in all.
    fn put(
        &mut self,
        new: &[Tensor<B, 4>; 2],
        places: &[[usize; 2]],
        positions: usize,
    ) -> [Tensor<B, 4>; 2] {
        let rows = places.iter().map(|[row, _]| row + 1).max().unwrap_or(0);
        let room = match self.room.take() {
            Some(room) => room.map(|room| self.enlarge(room, rows, positions)),
            None => new.each_ref().map(|new| room_like(new, rows, self.room_for(positions))),
        };
        let [keys, values] = room;
        let [new_keys, new_values] = new.clone();
        let room = [B::put(keys, new_keys, places), B::put(values, new_values, places)];
        self.room = Some(room.clone());
        room
    }

    /// With room for so many rows and positions.
    fn enlarge(&self, room: Tensor<B, 4>, rows: usize, positions: usize) -> Tensor<B, 4> {
        let [c, _, r, _] = room.dims();
        let is_long_enough = positions.min(self.span) <= r;
        if rows <= c && is_long_enough {
            return room;
        }
        let rows = if rows <= c { c } else { rows.next_power_of_two() };
        // More rows are no reason to make them longer.
        let r = if is_long_enough { r } else { self.room_for(positions) };
        let larger = room_like(&room, rows, r);
        let places: Vec<[usize; 2]> = (0..c).map(|row| [row, 0]).collect();
        B::put(larger, room, &places)
    }

    /// Twice as much as is needed, so that a sequence is copied a few times only.
    fn room_for(&self, positions: usize) -> usize {
        (2 * positions).max(LEAST_ROOM).min(self.span)
    }

    /// The rows of another layer, of which there are `count` that have seen `positions` at most,
    /// after so many of this one.
    fn append(&mut self, rows: usize, other: Self, [count, positions]: [usize; 2]) {
        let places: Vec<[usize; 2]> = (rows..rows + count).map(|row| [row, 0]).collect();
        if rows == 0 {
            (self.room, self.source) = (other.room, other.source);
            return;
        }
        if let Some(new) = other.room {
            // Without its room for more; a window that is full has none.
            let kept = positions.min(self.span);
            let new = new.map(|new| of_rows(new, count).narrow(2, 0, kept));
            self.put(&new, &places, positions);
        }
        if let (Some(source), Some(new)) = (self.source.take(), other.source) {
            let mut pairs = source.into_iter().zip(new);
            let joined = std::array::from_fn(|_| {
                let (old, new) = pairs.next().expect("keys and values");
                put_sources(old, of_rows(new, count), &places)
            });
            self.source = Some(joined);
        }
    }

    fn move_row(&mut self, from: usize, to: usize) {
        let pairs = self.room.iter_mut().chain(&mut self.source).flatten();
        pairs.for_each(|tensor| {
            let row = select(tensor, &[from]);
            let room = std::mem::replace(tensor, row.clone());
            *tensor = B::put(room, row, &[[to, 0]]);
        });
    }
}

/// Zeros for so many rows and positions.
fn room_like<B: Backend>(of: &Tensor<B, 4>, rows: usize, positions: usize) -> Tensor<B, 4> {
    let [_, heads, _, width] = of.dims();
    Tensor::zeros([rows, heads, positions, width], (&of.device(), of.dtype()))
}

/// The first rows.
fn of_rows<B: Backend>(room: Tensor<B, 4>, rows: usize) -> Tensor<B, 4> {
    if room.dims()[0] == rows { room } else { room.narrow(0, 0, rows) }
}

/// Rows by number, in memory of their own.
fn select<B: Backend>(tensor: &Tensor<B, 4>, rows: &[usize]) -> Tensor<B, 4> {
    let ids: Vec<i32> = rows.iter().map(|row| *row as i32).collect();
    let ids = TensorData::new(ids, [rows.len()]);
    tensor.clone().select(0, Tensor::<B, 1, Int>::from_data(ids, &tensor.device()))
}

/// Of so many positions seen those that are kept, oldest first.
fn in_order<B: Backend>(room: Tensor<B, 4>, seen: usize, span: usize) -> Tensor<B, 4> {
    let start = if seen > span { seen % span } else { 0 };
    match start {
        0 => room.narrow(2, 0, seen.min(span)),
        _ => Tensor::cat(
            vec![room.clone().narrow(2, start, span - start), room.narrow(2, 0, start)],
            2,
        ),
    }
}

/// Sources after others, with room for the longest.
fn put_sources<B: GptBackend>(
    old: Tensor<B, 4>,
    new: Tensor<B, 4>,
    places: &[[usize; 2]],
) -> Tensor<B, 4> {
    let ([c, g, s, width], [_, _, new_s, _]) = (old.dims(), new.dims());
    let rows = places.iter().map(|[row, _]| row + 1).max().unwrap_or(0);
    let old = if rows <= c && new_s <= s {
        old
    } else {
        let rows = if rows <= c { c } else { rows.next_power_of_two() };
        let larger = Tensor::zeros([rows, g, s.max(new_s), width], (&old.device(), old.dtype()));
        B::put(larger, old, &(0..c).map(|row| [row, 0]).collect::<Vec<_>>())
    };
    B::put(old, new, places)
}
