//! Rotary positions (Su et al. 2021).

use multiversion::multiversion;
use std::mem::MaybeUninit;

use super::heads::Heads;
use super::{TASK, team, written};
use crate::backend::Turn;
use crate::config::RotaryPairing;

/// The heads, of which the first `turn.heads` are turned, `[B, T, H, K]`; `angles` are cosines and
/// sines, `[T, R / 2]` each, of the first R numbers of a head.
pub(super) fn rotate(input: Heads, angles: [&[f32]; 2], half: usize, turn: Turn) -> Vec<f32> {
    let [b, h, t, k] = input.shape();
    assert!(2 * half <= k && angles.iter().all(|table| table.len() == t * half));
    let positions = (TASK / (h * k)).max(1);
    // SAFETY: all heads of all positions are written.
    unsafe {
        written(b * t * h * k, |room| {
            let parts = room.chunks_mut(positions * h * k).enumerate();
            team::for_each(parts, |(number, room)| {
                rotate_positions(input, angles, half, turn, number * positions, room);
            });
        })
    }
}

/// All heads of some positions, of those of all entries of the batch.
#[multiversion(targets = "simd")]
fn rotate_positions(
    input: Heads,
    angles: [&[f32]; 2],
    half: usize,
    Turn { heads, pairing, back, .. }: Turn,
    first: usize,
    room: &mut [MaybeUninit<f32>],
) {
    let [_, h, t, k] = input.shape();
    let sign = if back { -1.0 } else { 1.0 };
    for (number, room) in room.chunks_exact_mut(h * k).enumerate() {
        let (entry, place) = ((first + number) / t, (first + number) % t);
        let [cosines, sines] = angles.map(|table| &table[place * half..][..half]);
        for (head, output) in room.chunks_exact_mut(k).enumerate() {
            let row = input.head(entry, head).row(place);
            let width = if head < heads { 2 * half } else { 0 };
            let (turned, rest) = row.split_at(width);
            let (output, output_rest) = output.split_at_mut(width);
            let angles = cosines.iter().zip(sines);
            match pairing {
                RotaryPairing::Half => {
                    let (x, y) = turned.split_at(width / 2);
                    let (new_x, new_y) = output.split_at_mut(width / 2);
                    let new = new_x.iter_mut().zip(new_y);
                    for (((new_x, new_y), (x, y)), (cosine, sine)) in
                        new.zip(x.iter().zip(y)).zip(angles)
                    {
                        let sine = sign * sine;
                        new_x.write(x * cosine - y * sine);
                        new_y.write(y * cosine + x * sine);
                    }
                }
                RotaryPairing::Interleaved => {
                    let pairs = output.as_chunks_mut::<2>().0.iter_mut();
                    for ((new, [x, y]), (cosine, sine)) in
                        pairs.zip(turned.as_chunks::<2>().0).zip(angles)
                    {
                        let sine = sign * sine;
                        new[0].write(x * cosine - y * sine);
                        new[1].write(y * cosine + x * sine);
                    }
                }
            }
            output_rest.iter_mut().zip(rest).for_each(|(output, x)| {
                output.write(*x);
            });
        }
    }
}
