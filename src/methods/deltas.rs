//! Task vectors of a tile: δᵢ = xᵢ − base, in f32.

use crate::kernels::Kernels;

/// Turns the inputs but the base into deltas and hands out the base and them, in input order.
pub(super) fn with_deltas(
    kernels: Kernels,
    base: usize,
    inputs: &mut [Vec<f32>],
    body: impl FnOnce(&[f32], &mut [Vec<f32>]),
) {
    // The base goes first, so that the deltas are one slice, and back.
    inputs[..=base].rotate_right(1);
    if let Some((base, deltas)) = inputs.split_first_mut() {
        deltas.iter_mut().for_each(|delta| kernels.subtract(base, delta));
        body(base, deltas);
    }
    inputs[..=base].rotate_left(1);
}
