//! Loops over f32 slices, compiled once per instruction set.
//!
//! Every kernel is one plain Rust body. `dispatch.rs` compiles it for each instruction set and
//! picks one at run time. The bodies use no fused multiply-add and fix the order of every reduction
//! by position (16 lanes, then a fixed tree), so that all instruction sets give the same bits.

mod balance;
mod combine;
mod convert;
mod dispatch;
mod divergence;
mod elect;
mod gradient;
mod low_rank;
mod magnitude;
mod mask;
mod mean;
mod neural;
mod normal;
mod overlap;
mod product;
mod random;
mod rank;
mod reduce;
mod sparsify;
mod spread;
mod symmetric;

pub use dispatch::{Isa, Kernels};
pub use neural::Activation;
pub(crate) use normal::{normals, uniforms};
pub use product::{TILE_COLUMNS, TILE_COLUMNS_F64, TILE_ROWS, TILE_ROWS_F64};
pub use random::Stream;
pub use rank::Odds;
pub use symmetric::{PANEL, Sweep};

/// Lanes of a reduction: element `i` of a slice goes to lane `i % LANES`.
const LANES: usize = 16;

#[cfg(test)]
mod tests;
