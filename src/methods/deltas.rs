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

/// The same with some of the inputs alone, in the order given; the others are left as they are.
pub(super) fn with_deltas_of(
    kernels: Kernels,
    base: usize,
    models: &[usize],
    inputs: &mut [Vec<f32>],
    body: impl FnOnce(&[f32], &mut [Vec<f32>]),
) {
    let origin = std::mem::take(&mut inputs[base]);
    let mut deltas: Vec<Vec<f32>> =
        models.iter().map(|model| std::mem::take(&mut inputs[*model])).collect();
    deltas.iter_mut().for_each(|delta| kernels.subtract(&origin, delta));
    body(&origin, &mut deltas);
    models.iter().zip(deltas).for_each(|(model, delta)| inputs[*model] = delta);
    inputs[base] = origin;
}
