//! [`fused_kernels`](super::fused_kernels) of tensors.

use burn::tensor::DType;
use burn_cubecl::kernel::{cast, into_contiguous};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{BoolElement, CubeRuntime};
use cubecl::ir::features::{MmaConfig, Plane};
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;

use super::fused_kernels::{
    SizesLaunch, attend_kernel, keys_backward_kernel, queries_backward_kernel,
};
use super::scores::Rules;
use super::tiles::{CUBE_UNITS, Place, PlaceLaunch, ROWS, SHAPE};
use super::{Inputs, Sizes, ranges_on_device};
use crate::backend::Sight;
use crate::backend::alibi::alibi_sequence;
use crate::backend::cube::products::element;
use crate::backend::cube::tensors::{MOST_CUBES, address, dims, empty, empty_of, memory};
use crate::config::Precision;

/// Numbers of a vector that is read, and of one that is written.
const EIGHT: usize = 8;
const PAIR: usize = 2;

/// The widest heads whose sums a unit has registers for.
const WIDEST: usize = 128;

/// Of products, so that a key which is not seen has no weight.
const SMALLEST_SCALE: f32 = 1e-6;

/// Whether the kernels are for these tensors, on their device.
pub fn is_possible<R: CubeRuntime>(inputs: &Inputs<R>, sight: &Sight) -> bool {
    let Sizes { batch, heads, queries, keys, key_width, value_width, .. } = inputs.sizes();
    let most = MOST_CUBES as usize;
    sight.precision == Precision::Bf16
        && sight.dropout.is_none()
        && sight.scale > SMALLEST_SCALE
        && [key_width, value_width].iter().all(|width| width % 16 == 0 && *width <= WIDEST)
        && [batch, heads].iter().all(|size| *size <= most)
        && [queries, keys].iter().all(|size| (1..=most * ROWS as usize).contains(size))
        && has_tensor_cores(inputs.first())
}

/// Whether a device multiplies as [`tiles`](super::tiles) does.
fn has_tensor_cores<R: CubeRuntime>(tensor: &CubeTensor<R>) -> bool {
    let properties = tensor.client.properties();
    let [bf16, f32] = [FloatKind::BF16, FloatKind::F32].map(|kind| ElemType::Float(kind).into());
    let [m, n, k] = SHAPE.map(|size| size as u32);
    let product = MmaConfig { a_type: bf16, b_type: bf16, cd_type: f32, m, n, k };
    let features = &properties.features;
    features.matmul.mma.contains(&product)
        && features.matmul.ldmatrix.contains(&bf16)
        && features.plane.contains(Plane::Ops)
}

/// The rows of heads in memory, `[B, H, T, K]`, by numbers: where the first begins, and how far it is
/// from one to the next along each axis but the last.
struct Rows<R: CubeRuntime> {
    tensor: CubeTensor<R>,
    start: usize,
    strides: [usize; 3],
}

impl<R: CubeRuntime> Rows<R> {
    /// Of a tensor whose rows are vectors of so many numbers, which is a copy if they are not.
    fn new(tensor: CubeTensor<R>, vector: usize) -> Self {
        let strides = |tensor: &CubeTensor<R>| {
            let strides = tensor.meta.strides();
            [strides[0], strides[1], strides[2], strides[3]]
        };
        let is_even = |[rest @ .., last]: [usize; 4]| {
            last == 1 && rest.iter().all(|stride| stride % vector == 0)
        };
        let tensor = match is_even(strides(&tensor)) {
            true => tensor,
            false => into_contiguous(tensor),
        };
        let [batch, head, row, _] = strides(&tensor);
        Self { tensor, start: 0, strides: [batch, head, row] }
    }

    /// As factors of products.
    fn factors(tensor: CubeTensor<R>) -> Self {
        Self::new(cast(tensor, DType::BF16), EIGHT)
    }

    /// The rows of heads from one on.
    fn beginning_at(&self, head: usize) -> Self {
        let Self { tensor, start, strides } = self;
        let start = start + head * strides[1];
        Self { tensor: tensor.clone(), start, strides: *strides }
    }

    /// Room for as many heads of each row, side by side.
    fn room(
        beside: &CubeTensor<R>,
        [batch, heads, rows, width]: [usize; 4],
        element: DType,
    ) -> Self {
        let mut tensor = empty_of(beside, [batch, rows, heads, width], element);
        tensor.meta.swap(1, 2);
        Self::new(tensor, PAIR)
    }

    fn place(&self, vector: usize) -> PlaceLaunch<R> {
        let [batch, head, row] = self.strides.map(|stride| (stride / vector) as u32);
        PlaceLaunch::new((self.start / vector) as u32, batch, head, row)
    }

    /// All of the memory.
    fn argument(&self) -> ArrayArg<R> {
        memory(self.tensor.clone())
    }
}

/// What goes in, as factors of products: queries, keys and values.
fn factors<R: CubeRuntime>(inputs: Inputs<R>) -> [Rows<R>; 3] {
    match inputs {
        Inputs::Apart(inputs) => (*inputs).map(Rows::factors),
        Inputs::Joined(joined, [heads, key_heads]) => {
            let joined = Rows::factors(*joined);
            [0, heads, heads + key_heads].map(|head| joined.beginning_at(head))
        }
    }
}

fn sizes<R: CubeRuntime>(sizes: Sizes, sight: &Sight) -> SizesLaunch<R> {
    let Sizes { heads, key_heads, queries, keys, .. } = sizes;
    SizesLaunch::new(
        queries as u32,
        keys as u32,
        heads as u32,
        (heads / key_heads) as u32,
        if sight.causal { (keys - queries) as u32 } else { 0 },
        sight.window.map_or(u32::MAX, |window| window as u32),
        sight.ranges.as_ref().map_or(1, |ranges| ranges.of_entry()) as u32,
        alibi_sequence(heads) as u32,
        sight.scale,
        sight.soft_cap.unwrap_or_default(),
    )
}

/// A cube for so many rows of each head of each entry of the batch.
fn cubes(rows: usize, heads: usize, batch: usize) -> CubeCount {
    CubeCount::Static(rows.div_ceil(ROWS as usize) as u32, heads as u32, batch as u32)
}

/// Where rows of so many numbers to a vector are.
fn places<R: CubeRuntime, const N: usize>(rows: [(&Rows<R>, usize); N]) -> SequenceArg<R, Place> {
    let mut places = SequenceArg::new();
    for (rows, vector) in rows {
        places.push(rows.place(vector));
    }
    places
}

/// [`Kernels::attend`](crate::backend::Kernels::attend).
pub fn forward<R: CubeRuntime, BT: BoolElement>(
    inputs: Inputs<R>,
    sight: &Sight,
) -> (CubeTensor<R>, CubeTensor<R>) {
    let shape = inputs.sizes();
    let Sizes { batch, heads, queries, key_width, value_width, .. } = shape;
    let ranges = ranges_on_device::<R, BT>(inputs.first(), sight);
    let [query, key, value] = factors(inputs);
    // The heads of a token side by side in memory, as the layer behind takes them.
    let given = element(sight.given);
    let output = Rows::room(&query.tensor, [batch, heads, queries, value_width], given);
    let log_sums = empty(&query.tensor, [batch, heads, queries]);
    let client = query.tensor.client.clone();
    // SAFETY: a cube stays within the rows that the sizes say there are.
    unsafe {
        attend_kernel::launch_unchecked(
            &client,
            cubes(queries, heads, batch),
            CubeDim::new_1d(CUBE_UNITS),
            address(&[&query.tensor, &key.tensor, &value.tensor, &output.tensor]),
            query.argument(),
            key.argument(),
            value.argument(),
            output.argument(),
            log_sums.clone().into_array_arg(),
            ranges.into_array_arg(),
            places([(&query, EIGHT), (&key, EIGHT), (&value, EIGHT), (&output, PAIR)]),
            sizes(shape, sight),
            Rules::of(sight),
            key_width / EIGHT,
            value_width / EIGHT,
            given.into(),
        );
    }
    (output.tensor, log_sums)
}

/// The gradients of what goes in.
pub fn backward<R: CubeRuntime, BT: BoolElement>(
    inputs: Inputs<R>,
    output: CubeTensor<R>,
    log_sums: CubeTensor<R>,
    gradient: CubeTensor<R>,
    sight: &Sight,
) -> Vec<CubeTensor<R>> {
    let shape = inputs.sizes();
    let Sizes { batch, heads, key_heads, queries, keys, key_width, value_width } = shape;
    let ranges = ranges_on_device::<R, BT>(inputs.first(), sight);
    let given = element(sight.given);
    let room = |heads, rows, width| Rows::room(inputs.first(), [batch, heads, rows, width], given);
    let of_inputs = match &inputs {
        Inputs::Apart(_) => [
            room(heads, queries, key_width),
            room(key_heads, keys, key_width),
            room(key_heads, keys, value_width),
        ],
        Inputs::Joined(..) => {
            let all = room(heads + 2 * key_heads, queries, key_width);
            [0, heads, heads + key_heads].map(|head| all.beginning_at(head))
        }
    };
    let is_joined = matches!(inputs, Inputs::Joined(..));
    let [of_query, of_key, of_value] = of_inputs;
    let [query, key, value] = factors(inputs);
    let (gradient, output) = (Rows::factors(gradient), Rows::new(cast(output, given), PAIR));
    let log_sums = into_contiguous(log_sums);
    let sums = empty(&log_sums, dims::<R, 3>(&log_sums));
    let client = log_sums.client.clone();
    let tensors = [&query, &key, &value, &gradient, &output, &of_query, &of_key, &of_value];
    let counted = address(&tensors.map(|rows| &rows.tensor));
    let [q, k, v, g] = [&query, &key, &value, &gradient].map(|rows| (rows, EIGHT));
    // SAFETY: a cube stays within the rows that the sizes say there are.
    unsafe {
        queries_backward_kernel::launch_unchecked(
            &client,
            cubes(queries, heads, batch),
            CubeDim::new_1d(CUBE_UNITS),
            counted,
            query.argument(),
            key.argument(),
            value.argument(),
            gradient.argument(),
            output.argument(),
            log_sums.clone().into_array_arg(),
            sums.clone().into_array_arg(),
            of_query.argument(),
            ranges.clone().into_array_arg(),
            places([q, k, v, g, (&output, PAIR), (&of_query, PAIR)]),
            sizes(shape, sight),
            Rules::of(sight),
            key_width / EIGHT,
            value_width / EIGHT,
            given.into(),
        );
        keys_backward_kernel::launch_unchecked(
            &client,
            cubes(keys, key_heads, batch),
            CubeDim::new_1d(CUBE_UNITS),
            counted,
            query.argument(),
            key.argument(),
            value.argument(),
            gradient.argument(),
            log_sums.into_array_arg(),
            sums.into_array_arg(),
            of_key.argument(),
            of_value.argument(),
            ranges.into_array_arg(),
            places([q, k, v, g, (&of_key, PAIR), (&of_value, PAIR)]),
            sizes(shape, sight),
            Rules::of(sight),
            key_width / EIGHT,
            value_width / EIGHT,
            given.into(),
        );
    }
    match is_joined {
        true => vec![of_query.tensor],
        false => [of_query, of_key, of_value].map(|rows| rows.tensor).into(),
    }
}
