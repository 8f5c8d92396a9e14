//! Products of matrices that are the same on every machine.
//!
//! Blocks are chosen by the matrices alone, and multiplications are not fused with additions: every
//! element is one fold in the order of the inner dimension (see [`Kernels::add_tile`]).

use crate::kernels::{Kernels, TILE_COLUMNS, TILE_COLUMNS_F64, TILE_ROWS, TILE_ROWS_F64};

/// Steps of the inner dimension, and columns, of a block that stays in the second cache.
const STEPS: usize = 256;
const COLUMNS: usize = 256;

/// The floats that products are computed in.
pub trait Element: Copy + Default + Send + Sync {
    /// Rows and columns of a tile.
    const TILE: (usize, usize);
    /// Adds the product of two packed strips to a tile.
    fn add_tile(kernels: Kernels, a: &[Self], b: &[Self], tile: &mut [Self]);
}

impl Element for f32 {
    const TILE: (usize, usize) = (TILE_ROWS, TILE_COLUMNS);
    fn add_tile(kernels: Kernels, a: &[Self], b: &[Self], tile: &mut [Self]) {
        kernels.add_tile(a, b, tile);
    }
}

impl Element for f64 {
    const TILE: (usize, usize) = (TILE_ROWS_F64, TILE_COLUMNS_F64);
    fn add_tile(kernels: Kernels, a: &[Self], b: &[Self], tile: &mut [Self]) {
        kernels.add_tile_f64(a, b, tile);
    }
}

/// A matrix as it stands in a slice: element (i, j) is at `i·strides.0 + j·strides.1`.
#[derive(Clone, Copy)]
pub struct View<'a, T> {
    values: &'a [T],
    rows: usize,
    columns: usize,
    strides: (usize, usize),
}

impl<'a, T: Element> View<'a, T> {
    /// Rows one after the other, `columns` elements each.
    pub fn new(values: &'a [T], columns: usize) -> Self {
        let rows = values.len().checked_div(columns).unwrap_or(0);
        Self { values, rows, columns, strides: (columns, 1) }
    }

    /// The same where there may be no columns.
    pub fn of(values: &'a [T], rows: usize, columns: usize) -> Self {
        Self { values, rows, columns, strides: (columns, 1) }
    }

    /// Its columns as rows.
    pub fn t(self) -> Self {
        let Self { values, rows, columns, strides: (row, column) } = self;
        Self { values, rows: columns, columns: rows, strides: (column, row) }
    }

    /// Rows and columns.
    pub fn shape(self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// Elements `(first.., step)` of `count` lines of width `width`, as they stand along the strides,
    /// packed step by step and filled up with zeros.
    fn pack(
        values: &[T],
        (line, step): (usize, usize),
        lines: (usize, usize),
        steps: (usize, usize),
        width: usize,
        out: &mut Vec<T>,
    ) {
        let ((first, count), (start, length)) = (lines, steps);
        out.clear();
        out.resize(length * width, T::default());
        for (k, out) in out.chunks_exact_mut(width).enumerate() {
            let at = (start + k) * step + first * line;
            if line == 1 {
                out[..count].copy_from_slice(&values[at..at + count]);
            } else {
                for (l, out) in out[..count].iter_mut().enumerate() {
                    *out = values[at + l * line];
                }
            }
        }
    }
}

/// Adds some rows of the product a·b to `out`, from row `first` on, and of these the first `width`
/// columns; rows of `out` are as long as those of the product.
pub fn add_rows<T: Element>(
    kernels: Kernels,
    (a, b): (View<'_, T>, View<'_, T>),
    first: usize,
    width: usize,
    out: &mut [T],
) {
    let (stride, count) = (b.columns, out.len().checked_div(b.columns).unwrap_or(0));
    let (tile_rows, tile_columns) = T::TILE;
    let mut packed_a = Vec::new();
    let mut packed_b: Vec<Vec<T>> = vec![Vec::new(); COLUMNS.div_ceil(tile_columns)];
    let mut tile = vec![T::default(); tile_rows * tile_columns];
    for column in (0..width).step_by(COLUMNS) {
        let columns = COLUMNS.min(width - column);
        for step in (0..a.columns).step_by(STEPS) {
            let steps = (step, STEPS.min(a.columns - step));
            let strips = (0..columns).step_by(tile_columns);
            for (strip, packed) in strips.clone().zip(&mut packed_b) {
                let lines = (column + strip, tile_columns.min(columns - strip));
                let strides = (b.strides.1, b.strides.0);
                View::pack(b.values, strides, lines, steps, tile_columns, packed);
            }
            for row in (0..count).step_by(tile_rows) {
                let height = tile_rows.min(count - row);
                let lines = (first + row, height);
                View::pack(a.values, a.strides, lines, steps, tile_rows, &mut packed_a);
                for (strip, packed) in strips.clone().zip(&packed_b) {
                    let length = tile_columns.min(columns - strip);
                    let at = |r: usize| (row + r) * stride + column + strip;
                    for (r, tile) in tile.chunks_exact_mut(tile_columns).take(height).enumerate() {
                        tile[..length].copy_from_slice(&out[at(r)..at(r) + length]);
                    }
                    T::add_tile(kernels, &packed_a, packed, &mut tile);
                    for (r, tile) in tile.chunks_exact(tile_columns).take(height).enumerate() {
                        out[at(r)..at(r) + length].copy_from_slice(&tile[..length]);
                    }
                }
            }
        }
    }
}
