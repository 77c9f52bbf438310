//! Heads in memory: `[B, heads, length, width]`, whose numbers of a head are side by side, as
//! products leave them.
//!
//! B batch, T positions, K head width

use std::ops::Range;

use super::matrix::{Matrix, Target};
use super::{TASK, team, written};

/// `[B, heads, length, width]`, however it lies in memory but for the numbers of a head, which are
/// side by side.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads<'a> {
    elements: &'a [f32],
    shape: [usize; 4],
    strides: [usize; 4],
}

impl<'a> Heads<'a> {
    pub(super) fn new(elements: &'a [f32], shape: [usize; 4], strides: [usize; 4]) -> Self {
        Self { elements, shape, strides }
    }

    pub(super) fn shape(&self) -> [usize; 4] {
        self.shape
    }

    pub(super) fn head(&self, entry: usize, head: usize) -> Matrix<'a> {
        let [_, _, length, width] = self.shape;
        let start = entry * self.strides[0] + head * self.strides[1];
        Matrix::new(&self.elements[start..], [length, width], [self.strides[2], self.strides[3]])
    }
}

/// Where the gradient of [`Heads`] goes: some heads of `[B, length, heads, width]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// The first number of the first of these heads.
    start: *mut f32,
    /// Heads in memory, these and others.
    heads: usize,
    length: usize,
    width: usize,
}

// SAFETY: tasks write heads of their own.
unsafe impl Send for Room {}
// SAFETY: as above.
unsafe impl Sync for Room {}

impl Room {
    /// # Safety
    /// `start` begins the first of some of the `heads` of room for `[.., length, heads, width]`,
    /// which nothing else reads or writes meanwhile.
    pub(super) unsafe fn new(start: *mut f32, heads: usize, [length, width]: [usize; 2]) -> Self {
        Self { start, heads, length, width }
    }

    /// # Safety
    /// The rows are there, and no other task has them.
    pub(super) unsafe fn rows<'a>(
        self,
        entry: usize,
        head: usize,
        rows: Range<usize>,
    ) -> Target<'a> {
        let stride = self.heads * self.width;
        let start = (entry * self.length + rows.start) * stride + head * self.width;
        // SAFETY: of the caller.
        unsafe { Target::at(self.start.add(start), [rows.len(), self.width], stride) }
    }
}

/// Heads of several tensors, `[B, T, heads of all, K]`.
pub(super) fn join(parts: [Heads; 3]) -> Vec<f32> {
    let [b, _, t, k] = parts[0].shape();
    let all: usize = parts.iter().map(|part| part.shape()[1]).sum();
    assert!(
        parts.iter().all(|part| [part.shape()[0], part.shape()[2], part.shape()[3]] == [b, t, k])
    );
    let positions = (TASK / (all * k)).max(1);
    // SAFETY: all heads of all positions are written.
    unsafe {
        written(b * t * all * k, |room| {
            let rooms = room.chunks_mut(positions * all * k).enumerate();
            team::for_each(rooms, |(number, room)| {
                for (place, room) in room.chunks_exact_mut(all * k).enumerate() {
                    let place = number * positions + place;
                    let heads = parts.iter().flat_map(|part| {
                        (0..part.shape()[1]).map(|head| part.head(place / t, head).row(place % t))
                    });
                    for (room, row) in room.chunks_exact_mut(k).zip(heads) {
                        room.iter_mut().zip(row).for_each(|(room, x)| {
                            room.write(*x);
                        });
                    }
                }
            });
        })
    }
}
