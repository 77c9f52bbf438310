//! What the units of a cube find out together.

use cubecl::prelude::*;

/// Units that work on a row.
pub const ROW_UNITS: u32 = 256;

/// What a maximum begins with. Not an infinity, of which shaders promise nothing.
pub const LOWEST: f32 = -3.4e38;

/// The sum of the numbers that a unit takes together.
#[cube]
pub fn sum_of_lanes<N: Size>(lanes: Vector<f32, N>) -> f32 {
    let mut sum = 0.0f32;
    #[unroll]
    for lane in 0..N::value() {
        sum += lanes[lane];
    }
    sum
}

/// The sum over the units of a cube, for each of them. Always in one order.
#[cube]
pub fn sum_of_units(value: f32, #[comptime] units: u32) -> f32 {
    let mut shared = SharedMemory::<f32>::new(units as usize);
    shared[UNIT_POS as usize] = value;
    sync_cube();
    #[unroll]
    for step in 1..comptime!(units.ilog2() + 1) {
        let span = comptime!(units >> step);
        if UNIT_POS < span {
            let other = shared[(UNIT_POS + span) as usize];
            shared[UNIT_POS as usize] += other;
        }
        sync_cube();
    }
    let sum = shared[0];
    // The next one may be in the same memory.
    sync_cube();
    sum
}

/// The largest number of the units of a cube, for each of them.
#[cube]
pub fn max_of_units(value: f32, #[comptime] units: u32) -> f32 {
    let mut shared = SharedMemory::<f32>::new(units as usize);
    shared[UNIT_POS as usize] = value;
    sync_cube();
    #[unroll]
    for step in 1..comptime!(units.ilog2() + 1) {
        let span = comptime!(units >> step);
        if UNIT_POS < span {
            let other = shared[(UNIT_POS + span) as usize];
            let own = shared[UNIT_POS as usize];
            shared[UNIT_POS as usize] = max(own, other);
        }
        sync_cube();
    }
    let largest = shared[0];
    sync_cube();
    largest
}
