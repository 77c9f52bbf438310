//! Sums over the rows of a matrix, in f32. A unit has some columns of a slab of rows.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::tensors::{UNITS, address, cubes, empty, empty_of, lanes, rows};

/// Slabs of a tall matrix: enough to keep a large GPU busy, and few enough to be one slab themselves.
const SLABS: usize = 128;
/// Rows of a slab at least, where there are several, but for the last.
const ROWS: usize = 64;

/// Rows that a unit adds up one after the other, of so many.
pub fn slab(rows: usize) -> usize {
    match rows {
        ..=SLABS => rows.max(1),
        _ => rows.div_ceil(SLABS).max(ROWS),
    }
}

#[cube(launch, address_type = "dynamic")]
fn slabs_kernel<E: Float, N: Size>(
    input: &Array<Vector<E, N>>,
    output: &mut Array<Vector<f32, N>>,
    // In vectors.
    width: u32,
    rows: u32,
    // Of columns, which are as many as the units of a cube.
    groups: u32,
    slabs: u32,
    slab: u32,
    #[define(E)] _element: StorageType,
) {
    let number = CUBE_POS / groups as usize;
    let column = (CUBE_POS % groups as usize) as u32 * UNITS + UNIT_POS;
    if number < slabs as usize && column < width {
        let first = number as u32 * slab;
        let last = min(first + slab, rows);
        let mut sum = Vector::<f32, N>::new(0.0f32);
        let mut row = first;
        while row < last {
            sum += Vector::cast_from(input[row as usize * width as usize + column as usize]);
            row += 1;
        }
        output[number * width as usize + column as usize] = sum;
    }
}

/// `[N, W]` -> `[W]`: sums of slabs, and the sum of these. Always in one order.
pub fn of_rows<R: CubeRuntime>(tensor: CubeTensor<R>) -> CubeTensor<R> {
    let mut tensor = into_contiguous(tensor);
    let [mut count, width] = rows(&tensor);
    let vectors = width / lanes(width);
    loop {
        let slab = slab(count);
        let (slabs, groups) = (count.div_ceil(slab), vectors.div_ceil(UNITS as usize));
        let element = tensor.dtype;
        let shape: &[usize] = if slabs == 1 { &[width] } else { &[slabs, width] };
        let output = empty(&tensor, shape);
        let client = tensor.client.clone();
        slabs_kernel::launch(
            &client,
            cubes(slabs * groups),
            CubeDim::new_1d(UNITS),
            address(&[&tensor]),
            lanes(width),
            tensor.into_array_arg(),
            output.clone().into_array_arg(),
            vectors as u32,
            count as u32,
            groups as u32,
            slabs as u32,
            slab as u32,
            element.into(),
        );
        if slabs == 1 {
            return output;
        }
        (tensor, count) = (output, slabs);
    }
}

/// A unit has some columns of a slab of rows.
#[cube(launch, address_type = "dynamic")]
fn rounding_kernel<E: Float, N: Size>(
    input: &Array<Vector<f32, N>>,
    rounded: &mut Array<Vector<E, N>>,
    sums: &mut Array<Vector<f32, N>>,
    // In vectors.
    width: u32,
    rows: u32,
    slab: u32,
    #[define(E)] _element: StorageType,
) {
    let column = CUBE_POS_X * UNITS + UNIT_POS;
    if column < width {
        let first = CUBE_POS_Y * slab;
        let last = min(first + slab, rows);
        let mut sum = Vector::<f32, N>::new(0.0f32);
        let mut row = first;
        while row < last {
            let place = row as usize * width as usize + column as usize;
            let numbers = input[place];
            rounded[place] = Vector::cast_from(numbers);
            sum += numbers;
            row += 1;
        }
        sums[CUBE_POS_Y as usize * width as usize + column as usize] = sum;
    }
}

/// [`of_rows`], and the rows themselves in another type.
pub fn of_rows_rounding<R: CubeRuntime>(
    tensor: CubeTensor<R>,
    element: DType,
) -> [CubeTensor<R>; 2] {
    let tensor = into_contiguous(tensor);
    let [count, width] = rows(&tensor);
    let (slab, vectors) = (slab(count), width / lanes(width));
    let slabs = count.div_ceil(slab);
    let rounded = empty_of(&tensor, [count, width], element);
    let sums = empty(&tensor, [slabs, width]);
    let client = tensor.client.clone();
    rounding_kernel::launch(
        &client,
        CubeCount::Static((vectors as u32).div_ceil(UNITS), slabs as u32, 1),
        CubeDim::new_1d(UNITS),
        address(&[&tensor]),
        lanes(width),
        tensor.into_array_arg(),
        rounded.clone().into_array_arg(),
        sums.clone().into_array_arg(),
        vectors as u32,
        count as u32,
        slab as u32,
        element.into(),
    );
    [rounded, of_rows(sums)]
}
