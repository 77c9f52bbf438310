//! Products of matrices in shared memory by tensor cores, in bf16 with sums in f32, where a device
//! has them as NVIDIA's have since Ampere.
//!
//! A cube of four planes has matrices of [`ROWS`] rows, of which each plane takes 16. Its products are
//! tiles of 16 rows and 8 columns. What a unit has of one, NVIDIA's PTX ISA shows at `mma.m16n8k16`:
//! two neighbours in a row, and two in the eighth row after that.

use cubecl::cmma::{MatrixIdent, MmaDefinition};
use cubecl::prelude::*;
use half::bf16;

/// Rows, columns and what is added up, of a product.
pub const SHAPE: [usize; 3] = [16, 8, 16];

/// Rows of a matrix.
pub const ROWS: u32 = 64;

/// Tiles of products with all of them.
pub const TILES: usize = ROWS as usize / 8;

/// Units of a plane, and of a cube.
pub const LANES: u32 = 32;
pub const CUBE_UNITS: u32 = ROWS / 16 * LANES;

/// Eight neighbours of a row, which are a row of the smallest matrix that is loaded, as they are in
/// memory: CubeCL copies numbers of 16 bits one by one.
pub type Eight = Vector<u32, Const<4>>;

/// Two neighbours of a tile.
pub type Pair<E> = Vector<E, Const<2>>;

/// What a unit has of a tile.
pub type Tile = Array<Pair<f32>>;

/// Where the rows of heads are in memory: the first row of the first head, and how far it is from one
/// entry of the batch, head or row to the next, in vectors.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub struct Place {
    start: u32,
    batch: u32,
    head: u32,
    row: u32,
}

/// Where the rows of a head begin.
#[cube]
pub fn start_of(place: Place, batch: u32, head: u32) -> usize {
    place.start as usize
        + batch as usize * place.batch as usize
        + head as usize * place.head as usize
}

/// Where a row of them begins.
#[cube]
pub fn row_of(place: Place, start: usize, row: u32) -> usize {
    start + row as usize * place.row as usize
}

/// Room for a matrix whose rows are so many vectors. One more lies behind each, so that eight rows
/// are in different banks.
#[cube]
pub fn room(#[comptime] width: usize) -> SharedMemory<Eight> {
    SharedMemory::<Eight>::new_aligned(comptime!(ROWS as usize * (width + 1)), 16usize)
}

/// Copies the rows of a head from one on; those beyond the last are zero.
#[cube]
pub fn load(
    from: &Array<Eight>,
    place: Place,
    start: usize,
    first: u32,
    count: u32,
    to: &mut SharedMemory<Eight>,
    #[comptime] width: usize,
) {
    let width = comptime!(width as u32);
    #[unroll]
    for step in 0..comptime!(ROWS * width / CUBE_UNITS) {
        let number = step * CUBE_UNITS + UNIT_POS;
        let (row, column) = (number / width, number % width);
        let mut values = Eight::zeroed();
        if first + row < count {
            values = from[row_of(place, start, first + row) + column as usize];
        }
        to[(row * comptime!(width + 1) + column) as usize] = values;
    }
}

/// A row of one of the small matrices.
#[cube]
fn small_row(matrix: &SharedMemory<Eight>, at: usize) -> Slice<Vector<bf16, Const<8>>> {
    unsafe { matrix.slice(at, at + 1).downcast_unchecked::<Vector<bf16, Const<8>>>() }
}

/// Two numbers of eight, the first of which is the lower half.
#[cube]
pub fn two_of(eight: Eight, #[comptime] number: usize) -> (f32, f32) {
    let both = eight[number];
    (f32::reinterpret(both << 16), f32::reinterpret(both & 0xffff_0000u32))
}

/// Tiles of nothing.
#[cube]
pub fn zeros(#[comptime] count: usize) -> Sequence<Tile> {
    let mut tiles = Sequence::<Tile>::new();
    #[unroll]
    for _ in 0..count {
        let mut tile = Tile::new(2usize);
        tile[0] = Pair::<f32>::zeroed();
        tile[1] = Pair::<f32>::zeroed();
        tiles.push(tile);
    }
    tiles
}

/// The products of this plane's rows with the rows of another matrix, all of them of so many vectors.
#[cube]
pub fn products(
    rows: &SharedMemory<Eight>,
    others: &SharedMemory<Eight>,
    #[comptime] width: usize,
) -> Sequence<Tile> {
    let product = MmaDefinition::<bf16, bf16, f32>::new(SHAPE[0], SHAPE[1], SHAPE[2]);
    let pitch = comptime!(width as u32 + 1);
    let (plane, lane) = (UNIT_POS / LANES, UNIT_POS % LANES);
    // Each unit names a row of one of the matrices of 8 by 8 that are loaded together.
    let row = (16 * plane + lane % 16) * pitch + lane / 16;
    let other = lane % 8 * pitch + lane / 8 % 2;
    let mut sums = zeros(TILES);
    #[unroll]
    for step in 0..comptime!(width / 2) {
        let at = row as usize + 2 * step;
        let left = product.load_matrix::<Vector<bf16, Const<8>>, Const<2>>(
            &small_row(rows, at),
            MatrixIdent::A,
            4usize,
            false,
        );
        #[unroll]
        for tile in 0..TILES {
            let at = other as usize + comptime!(8 * tile * (width + 1) + 2 * step);
            let right = product.load_matrix::<Vector<bf16, Const<8>>, Const<2>>(
                &small_row(others, at),
                MatrixIdent::B,
                2usize,
                false,
            );
            product.execute_inplace(&left, &right, sums.index_mut(tile));
        }
    }
    sums
}

/// Adds the product of this plane's rows of factors, rounded to bf16, with a matrix whose rows are so
/// many vectors.
#[cube]
pub fn add_product(
    factors: &Sequence<Tile>,
    matrix: &SharedMemory<Eight>,
    sums: &mut Sequence<Tile>,
    #[comptime] width: usize,
) {
    let product = MmaDefinition::<bf16, bf16, f32>::new(SHAPE[0], SHAPE[1], SHAPE[2]);
    let row = UNIT_POS % 16 * comptime!(width as u32 + 1);
    #[unroll]
    for step in 0..comptime!(TILES / 2) {
        // What a unit has of sums and of factors are the same places.
        let one = factors.index(comptime!(2 * step));
        let next = factors.index(comptime!(2 * step + 1));
        let mut left = Array::<Pair<bf16>>::new(4usize);
        left[0] = Pair::<bf16>::cast_from(one[0]);
        left[1] = Pair::<bf16>::cast_from(one[1]);
        left[2] = Pair::<bf16>::cast_from(next[0]);
        left[3] = Pair::<bf16>::cast_from(next[1]);
        #[unroll]
        for tile in 0..width {
            let at = row as usize + comptime!(16 * step * (width + 1) + tile);
            let right = product.load_matrix::<Vector<bf16, Const<8>>, Const<2>>(
                &small_row(matrix, at),
                MatrixIdent::B,
                2usize,
                true,
            );
            product.execute_inplace(&left, &right, sums.index_mut(tile));
        }
    }
}

/// The row of a tile's first pair in this unit among those of the cube; the second pair's is the
/// eighth after that.
#[cube]
pub fn row_of_unit() -> u32 {
    UNIT_POS / LANES * 16 + UNIT_POS % LANES / 4
}

/// The column of a pair's first number in a tile.
#[cube]
pub fn column_of_unit() -> u32 {
    UNIT_POS % 4 * 2
}

/// The maximum over the four units that have a row together.
#[cube]
pub fn max_of_row(value: f32) -> f32 {
    let value = max(value, plane_shuffle_xor(value, 1u32));
    max(value, plane_shuffle_xor(value, 2u32))
}

/// And the sum.
#[cube]
pub fn sum_of_row(value: f32) -> f32 {
    let value = value + plane_shuffle_xor(value, 1u32);
    value + plane_shuffle_xor(value, 2u32)
}

/// Writes rows of a head from one on, those that there are, times a factor for each pair of a tile.
#[cube]
pub fn store<E: Float>(
    tiles: &Sequence<Tile>,
    factors: &Array<f32>,
    to: &mut Array<Pair<E>>,
    place: Place,
    start: usize,
    first: u32,
    count: u32,
) {
    #[unroll]
    for side in 0..2usize {
        let row = first + row_of_unit() + comptime!(8 * side as u32);
        if row < count {
            let at = row_of(place, start, row) + (column_of_unit() / 2) as usize;
            #[unroll]
            for tile in 0..comptime!(tiles.len()) {
                let mut pair = tiles.index(tile)[side];
                pair[0] *= factors[side];
                pair[1] *= factors[side];
                to[at + comptime!(4 * tile)] = Pair::cast_from(pair);
            }
        }
    }
}
