//! A tile of a product of matrices whose sums go in the order of the inner dimension.
//!
//! Every element of the product is one fold, `sum + a·b`, each operation rounded once. A fold that goes
//! on from a sum that was stored gives what an unbroken one gives, so that neither blocks nor threads
//! nor instruction sets show in the result.

use std::ops::{AddAssign, Mul};

/// Rows of a tile in f32.
pub const TILE_ROWS: usize = 4;
/// Columns of a tile in f32.
pub const TILE_COLUMNS: usize = 16;
/// Rows of a tile in f64.
pub const TILE_ROWS_F64: usize = 6;
/// Columns of a tile in f64.
pub const TILE_COLUMNS_F64: usize = 8;

#[inline(always)]
pub(super) fn add_tile(a: &[f32], b: &[f32], tile: &mut [f32]) {
    fold::<f32, TILE_ROWS, TILE_COLUMNS>(a, b, tile);
}

#[inline(always)]
pub(super) fn add_tile_f64(a: &[f64], b: &[f64], tile: &mut [f64]) {
    fold::<f64, TILE_ROWS_F64, TILE_COLUMNS_F64>(a, b, tile);
}

#[inline(always)]
fn fold<T, const ROWS: usize, const COLUMNS: usize>(a: &[T], b: &[T], tile: &mut [T])
where
    T: Copy + Default + Mul<Output = T> + AddAssign,
{
    let mut sums = [[T::default(); COLUMNS]; ROWS];
    let rows = tile.as_chunks_mut::<COLUMNS>().0;
    for (sums, row) in sums.iter_mut().zip(&*rows) {
        *sums = *row;
    }
    let (a, b) = (a.as_chunks::<ROWS>().0, b.as_chunks::<COLUMNS>().0);
    for (a, b) in a.iter().zip(b) {
        for r in 0..ROWS {
            for c in 0..COLUMNS {
                sums[r][c] += a[r] * b[c];
            }
        }
    }
    for (row, sums) in rows.iter_mut().zip(&sums) {
        *row = *sums;
    }
}
