//! A tile of a product of matrices whose sums go in the order of the inner dimension.
//!
//! Every element of the product is one fold in f32, `sum + a·b`, each operation rounded once. A fold
//! that goes on from a sum that was stored gives what an unbroken one gives, so that neither blocks
//! nor threads nor instruction sets show in the result.

/// Rows of a tile.
pub const TILE_ROWS: usize = 4;
/// Columns of a tile.
pub const TILE_COLUMNS: usize = 16;

#[inline(always)]
pub(super) fn add_tile(a: &[f32], b: &[f32], tile: &mut [f32]) {
    let mut sums = [[0.0_f32; TILE_COLUMNS]; TILE_ROWS];
    let rows = tile.as_chunks_mut::<TILE_COLUMNS>().0;
    for (sums, row) in sums.iter_mut().zip(&*rows) {
        *sums = *row;
    }
    let (a, b) = (a.as_chunks::<TILE_ROWS>().0, b.as_chunks::<TILE_COLUMNS>().0);
    for (a, b) in a.iter().zip(b) {
        for r in 0..TILE_ROWS {
            for c in 0..TILE_COLUMNS {
                sums[r][c] += a[r] * b[c];
            }
        }
    }
    for (row, sums) in rows.iter_mut().zip(&sums) {
        *row = *sums;
    }
}
