//! Matrix products. The gemm crate is as fast as any library on one thread, but does not scale;
//! here every thread has a part of the result to itself.

use gemm::Parallelism;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::slice;

use super::team::{self, Work};
use super::vector::{self, FEW, WeightRows};

/// Multiplications below which a second thread costs more than it brings.
const SMALL: usize = 1 << 18;
/// Rows or columns of the result that a thread gets at least.
pub(super) const LEAST: usize = 32;

/// A matrix in a slice of numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix<'a> {
    elements: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    pub(super) fn new(
        elements: &'a [f32],
        [rows, columns]: [usize; 2],
        [row_stride, column_stride]: [usize; 2],
    ) -> Self {
        if rows > 0 && columns > 0 {
            assert!((rows - 1) * row_stride + (columns - 1) * column_stride < elements.len());
        }
        Self { elements, rows, columns, row_stride, column_stride }
    }

    /// Rows one after the other.
    pub(super) fn of_rows(elements: &'a [f32], columns: usize) -> Self {
        Self::new(elements, [elements.len() / columns.max(1), columns], [columns, 1])
    }

    pub(super) fn shape(self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// Whether its columns are of numbers side by side, and its rows are not.
    pub(super) fn is_transposed(self) -> bool {
        self.row_stride == 1 && self.column_stride > 1
    }

    pub(super) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    pub(super) fn rows(self, part: Range<usize>) -> Self {
        assert!(part.start <= part.end && part.end <= self.rows);
        if part.is_empty() {
            return Self { elements: &[], rows: 0, ..self };
        }
        let elements = &self.elements[part.start * self.row_stride..];
        Self { elements, rows: part.len(), ..self }
    }

    /// A row of numbers side by side.
    #[inline(always)]
    pub(super) fn row(self, number: usize) -> &'a [f32] {
        assert!(number < self.rows && self.column_stride == 1);
        &self.elements[number * self.row_stride..][..self.columns]
    }

    pub(super) fn columns(self, part: Range<usize>) -> Self {
        self.transposed().rows(part).transposed()
    }

    /// Some columns of some rows, of which there may be none.
    #[inline(always)]
    pub(super) fn block(self, rows: Range<usize>, columns: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        assert!(columns.start <= columns.end && columns.end <= self.columns);
        let elements = match rows.is_empty() || columns.is_empty() {
            true => &[],
            false => {
                let start = rows.start * self.row_stride + columns.start * self.column_stride;
                &self.elements[start..]
            }
        };
        Self { elements, rows: rows.len(), columns: columns.len(), ..self }
    }

    /// The number `[row, column]` stands `row` times the first stride, and `column` times the
    /// second, behind the first.
    #[inline(always)]
    pub(super) fn start_and_strides(&self) -> (*const f32, [usize; 2]) {
        (self.elements.as_ptr(), [self.row_stride, self.column_stride])
    }

    /// Its rows, of numbers side by side.
    pub(super) fn weights(self) -> WeightRows<'a, f32> {
        assert!(self.has_rows());
        WeightRows::new(self.elements, self.columns, self.row_stride)
    }

    /// Whether the numbers of a column are side by side.
    pub(super) fn has_columns(self) -> bool {
        self.row_stride == 1
    }

    /// Whether the numbers of a row are side by side.
    pub(super) fn has_rows(self) -> bool {
        self.column_stride == 1
    }
}

/// A matrix to be written, whose rows are apart and of numbers side by side.
#[derive(Debug)]
pub(super) struct Target<'a> {
    start: *mut f32,
    rows: usize,
    columns: usize,
    row_stride: usize,
    elements: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is a mutable borrow of its elements, and numbers can be written by any thread.
unsafe impl Send for Target<'_> {}
// SAFETY: who shares it can only ask for a block of it, and promises that nobody else has that.
unsafe impl Sync for Target<'_> {}

impl<'a> Target<'a> {
    /// Room for rows that are not there yet. What is kept of them must have been written before.
    pub(super) fn of_room(room: &'a mut [MaybeUninit<f32>], columns: usize) -> Self {
        let rows = room.len() / columns.max(1);
        let start = room.as_mut_ptr().cast();
        Self { start, rows, columns, row_stride: columns, elements: PhantomData }
    }

    /// Rows one after the other.
    pub(super) fn of_rows(rows: &'a mut [f32], columns: usize) -> Self {
        let (start, rows) = (rows.as_mut_ptr(), rows.len() / columns.max(1));
        Self { start, rows, columns, row_stride: columns, elements: PhantomData }
    }

    /// # Safety
    /// All rows lie in one allocation that lives for `'a`, and nothing else reads or writes them in
    /// that time. What is kept of them must have been written before.
    pub(super) unsafe fn at(
        start: *mut f32,
        [rows, columns]: [usize; 2],
        row_stride: usize,
    ) -> Self {
        Self { start, rows, columns, row_stride, elements: PhantomData }
    }

    /// Some columns of some of its rows.
    ///
    /// # Safety
    /// Nothing else reads or writes them as long as they are borrowed so.
    #[inline(always)]
    pub(super) unsafe fn block(&self, rows: Range<usize>, columns: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        assert!(columns.start <= columns.end && columns.end <= self.columns);
        // SAFETY: not beyond the end of the rows, nor of one of them.
        let start = unsafe { self.start.add(rows.start * self.row_stride + columns.start) };
        Self { start, rows: rows.len(), columns: columns.len(), ..*self }
    }

    fn split_rows(self, at: usize) -> (Self, Self) {
        assert!(at <= self.rows);
        // SAFETY: not beyond the end of the rows.
        let start = unsafe { self.start.add(at * self.row_stride) };
        (Self { rows: at, ..self }, Self { start, rows: self.rows - at, ..self })
    }

    pub(super) fn split_columns(self, at: usize) -> (Self, Self) {
        assert!(at <= self.columns);
        // SAFETY: not beyond the end of a row.
        let start = unsafe { self.start.add(at) };
        (Self { columns: at, ..self }, Self { start, columns: self.columns - at, ..self })
    }

    pub(super) fn shape(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// Writes zeros.
    pub(super) fn clear(&mut self) {
        for number in 0..self.rows {
            // SAFETY: a row of its own.
            unsafe { self.start.add(number * self.row_stride).write_bytes(0, self.columns) };
        }
    }

    /// Where a row begins.
    #[inline(always)]
    pub(super) fn row_start(&self, number: usize) -> *mut f32 {
        assert!(number < self.rows);
        // SAFETY: not beyond the end of the rows.
        unsafe { self.start.add(number * self.row_stride) }
    }

    /// A row, which must have been written.
    #[inline(always)]
    pub(super) fn row(&mut self, number: usize) -> &mut [f32] {
        // SAFETY: a row of its own, borrowed as this is.
        unsafe { slice::from_raw_parts_mut(self.row_start(number), self.columns) }
    }

    /// Writes the base, if there is none as zeros.
    fn start_from(&mut self, base: Base) {
        match base {
            Base::Nothing => self.clear(),
            Base::Target => {}
            Base::Row(row) => self.fill(row),
        }
    }

    fn fill(&mut self, row: &[f32]) {
        assert_eq!(row.len(), self.columns);
        for number in 0..self.rows {
            // SAFETY: a row of its own.
            let target = unsafe { self.start.add(number * self.row_stride) };
            // SAFETY: of as many numbers, and not of the borrowed ones.
            unsafe { target.copy_from_nonoverlapping(row.as_ptr(), row.len()) };
        }
    }
}

/// What a product is added to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Base<'a> {
    Nothing,
    /// What stands there.
    Target,
    /// This, in every row.
    Row(&'a [f32]),
}

impl<'a> Base<'a> {
    fn columns(self, part: Range<usize>) -> Self {
        match self {
            Self::Row(row) => Self::Row(&row[part]),
            base => base,
        }
    }
}

/// Whether rows are multiplied one by one.
fn is_few(a: Matrix, b: Matrix) -> bool {
    a.rows <= FEW && a.has_rows() && (b.has_rows() || b.has_columns())
}

/// `target = base + factor a b`, on this thread.
pub(super) fn multiply(mut target: Target, base: Base, factor: f32, a: Matrix, b: Matrix) {
    assert_eq!((a.rows, a.columns, b.columns), (target.rows, b.rows, target.columns));
    if is_few(a, b) {
        target.start_from(base);
        return vector::add_product(&mut target, factor, a, b);
    }
    if let Base::Row(row) = base {
        target.fill(row);
    }
    multiply_many(target, base, factor, a, b);
}

/// [`multiply`] of any number of rows; a row that is the base has been written.
fn multiply_many(target: Target, base: Base, factor: f32, a: Matrix, b: Matrix) {
    let keep = !matches!(base, Base::Nothing);
    let stride = |stride: usize| stride as isize;
    // SAFETY: `Matrix` and `Target` hold their rows, and their shapes fit. Strides are those of
    // slices, which are no longer than `isize::MAX`. What is kept has been written.
    unsafe {
        gemm::gemm(
            target.rows,
            target.columns,
            a.columns,
            target.start,
            1,
            stride(target.row_stride),
            keep,
            a.elements.as_ptr(),
            stride(a.column_stride),
            stride(a.row_stride),
            b.elements.as_ptr(),
            stride(b.column_stride),
            stride(b.row_stride),
            1.0,
            factor,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// A product that is to be written: `target = base + a b`.
#[derive(Debug)]
pub(super) struct Product<'a> {
    pub(super) target: Target<'a>,
    pub(super) base: Base<'a>,
    pub(super) a: Matrix<'a>,
    pub(super) b: Matrix<'a>,
}

/// Writes products on all threads.
pub(super) fn multiply_on_all<'a>(products: impl IntoIterator<Item = Product<'a>>) {
    multiply_on_all_beside(products, []);
}

/// Writes products on all threads, which do not wait for each other between those of many rows, and
/// does other work where one would wait at the end.
pub(super) fn multiply_on_all_beside<'a>(
    products: impl IntoIterator<Item = Product<'a>>,
    others: impl IntoIterator<Item = Work<'a>>,
) {
    let mut tasks: Vec<Work> = Vec::new();
    let mut multiplications = 0;
    // Threads come from both ends, so that they meet in the last that was put in.
    let insert = |tasks: &mut Vec<Work<'a>>, new: Vec<Work<'a>>| {
        let middle = tasks.len() / 2;
        tasks.splice(middle..middle, new);
    };
    for mut product in products {
        let Product { target, base, a, b } = &mut product;
        assert_eq!((a.rows, a.columns, b.columns), (target.rows, b.rows, target.columns));
        if is_few(*a, *b) {
            target.start_from(*base);
            vector::add_product_on_all(target, *a, *b);
            continue;
        }
        multiplications += a.rows * a.columns * b.columns;
        let parts = parts([a.rows, a.columns, b.columns]);
        let mut own = Vec::new();
        divide(product, parts, &mut own);
        let work = |part: Product<'a>| -> Work<'a> { Box::new(|| part.write()) };
        insert(&mut tasks, own.into_iter().map(work).collect());
    }
    insert(&mut tasks, others.into_iter().collect());
    match multiplications {
        ..SMALL => tasks.into_iter().for_each(|task| task()),
        _ => team::for_each(tasks.into_iter(), |task| task()),
    }
}

/// Threads that share a product of so many rows, summands and columns.
pub(super) fn parts([rows, inner, columns]: [usize; 3]) -> usize {
    match rows * inner * columns {
        ..SMALL => 1,
        _ => rayon::current_num_threads(),
    }
}

/// Threads that get the first of so many rows or columns, and where these end; none where one
/// thread is enough.
fn split(length: usize, parts: usize) -> Option<(usize, usize)> {
    if parts < 2 || length < 2 * LEAST {
        return None;
    }
    let half = parts / 2;
    Some((half, (length * half / parts).next_multiple_of(LEAST).min(length)))
}

impl Product<'_> {
    /// On this thread.
    fn write(mut self) {
        if let Base::Row(row) = self.base {
            self.target.fill(row);
        }
        // However few rows a thread has: sums must not depend on how many threads there are.
        multiply_many(self.target, self.base, 1.0, self.a, self.b);
    }
}

/// Divides a product among threads, by rows or by columns.
fn divide<'a>(product: Product<'a>, parts: usize, tasks: &mut Vec<Product<'a>>) {
    let Product { target, base, a, b } = product;
    let (rows, columns) = (target.rows, target.columns);
    let Some((half, middle)) = split(rows.max(columns), parts) else {
        tasks.push(Product { target, base, a, b });
        return;
    };
    let [first, second] = if rows >= columns {
        let (first, second) = target.split_rows(middle);
        [
            Product { target: first, base, a: a.rows(0..middle), b },
            Product { target: second, base, a: a.rows(middle..rows), b },
        ]
    } else {
        let (first, second) = target.split_columns(middle);
        let part = |target, own: Range<usize>| Product {
            target,
            base: base.columns(own.clone()),
            a,
            b: b.columns(own),
        };
        [part(first, 0..middle), part(second, middle..columns)]
    };
    divide(first, half, tasks);
    divide(second, parts - half, tasks);
}

/// `bias + a b`, rows one after the other.
pub(super) fn product(a: Matrix, b: Matrix, bias: Option<&[f32]>) -> Vec<f32> {
    let base = bias.map_or(Base::Nothing, Base::Row);
    // SAFETY: a product is written everywhere, and the bias before it.
    unsafe {
        super::written(a.rows * b.columns, |room| {
            let target = Target::of_room(room, b.columns);
            multiply_on_all([Product { target, base, a, b }]);
        })
    }
}
