//! What the methods on whole matrices share: task vectors as matrices, and what becomes of tensors that
//! are no weight matrix of a layer.

use super::params::{ANY, Default, Param};
use super::{Map, Method, Params, Reads, STREAMED};
use crate::engine::TensorIo;
use crate::error::{Error, Result};
use crate::kernels::Kernels;
use crate::matrix::Matrix;

const WEIGHT: Param =
    Param::non_base("weight", ANY, "factor on the model's task vector; 0 leaves the model out")
        .or(Default::Number(1.0));
const LAMBDA: Param =
    Param::shared("lambda", ANY, "factor on the merged task vector").or(Default::Number(1.0));

/// What the methods of this kind have in common.
pub(super) const MATRICES: Method =
    Method { params: &[WEIGHT, LAMBDA], reads: Reads::Stream { passes: 3, bins: 0 }, ..STREAMED };

/// The parameters of [`MATRICES`].
pub(super) const PARAMS: [Param; 2] = [WEIGHT, LAMBDA];

/// Bytes of matrices in f64: some of the tensor's shape, some square ones, and the result in f32.
pub(super) fn held(shape: (usize, usize), of_shape: u64, side: usize, squares: u64) -> u64 {
    let (elements, side) = (shape.0 as u64 * shape.1 as u64, side as u64);
    8 * (of_shape * elements + squares * side * side) + 4 * elements
}

/// The weighted task vectors of a weight matrix, without the models of weight 0.
pub(super) struct TaskMatrices<'a> {
    io: &'a TensorIo<'a>,
    base: usize,
    /// Inputs with their weights.
    models: Vec<(usize, f64)>,
    shape: (usize, usize),
    /// What to compute with.
    pub(super) kernels: Kernels,
}

impl<'a> TaskMatrices<'a> {
    /// None where the tensor is no weight matrix of a layer, or no model is left.
    pub(super) fn new(io: &'a TensorIo<'a>, p: &Params) -> Result<Option<Self>> {
        let (base, models) = (io.base()?, models(io, p)?);
        let shape = io.matrix().filter(|_| !models.is_empty());
        Ok(shape.map(|shape| Self { io, base, models, shape, kernels: io.kernels() }))
    }

    /// How many models there are.
    pub(super) fn count(&self) -> usize {
        self.models.len()
    }

    /// The smaller of rows and columns.
    pub(super) fn side(&self) -> usize {
        self.shape.0.min(self.shape.1)
    }

    /// wᵢ·δᵢ of a model; δᵢ is taken in f32.
    pub(super) fn one(&self, model: usize) -> Result<Matrix> {
        self.add(&self.models[model..=model])
    }

    /// Σ wᵢ·δᵢ, in the order of the models.
    pub(super) fn sum(&self) -> Result<Matrix> {
        self.add(&self.models)
    }

    fn add(&self, models: &[(usize, f64)]) -> Result<Matrix> {
        let mut sum = Matrix::zeros(self.shape.0, self.shape.1);
        let inputs: Vec<usize> =
            std::iter::once(self.base).chain(models.iter().map(|(input, _)| *input)).collect();
        self.io.whole(&inputs, |start, inputs| {
            let Some((base, others)) = inputs.split_first_mut() else { return };
            let sum = &mut sum.values_mut()[start..start + base.len()];
            for (delta, (_, weight)) in others.iter_mut().zip(models) {
                self.kernels.subtract(base, delta);
                for (sum, x) in sum.iter_mut().zip(&*delta) {
                    *sum += weight * f64::from(*x);
                }
            }
        })?;
        if sum.is_finite() {
            return Ok(sum);
        }
        Err(Error::input("a task vector is not finite, so that its matrix cannot be taken apart")
            .hint("an input holds an infinity; merge this tensor by a method that goes element by element"))
    }

    /// base + λ·matrix.
    pub(super) fn onto_base(&self, matrix: &Matrix, p: &Params) -> Result<Map> {
        onto_base(self.io, matrix, p.number("lambda")? as f32)
    }
}

/// base + λ·matrix.
pub(super) fn onto_base(io: &TensorIo<'_>, matrix: &Matrix, lambda: f32) -> Result<Map> {
    let (base, kernels) = (io.base()?, io.kernels());
    let merged: Vec<f32> = matrix.values().iter().map(|x| *x as f32).collect();
    Ok(Map::new(move |start, inputs, out| {
        out.copy_from_slice(&merged[start..start + out.len()]);
        kernels.add_to_base(&inputs[base], lambda, out);
    }))
}

/// The inputs but the base whose weight is not 0, with their weights.
pub(super) fn models(io: &TensorIo<'_>, p: &Params) -> Result<Vec<(usize, f64)>> {
    let models = io.others()?.into_iter().zip(p.each("weight"));
    Ok(models.filter(|(_, weight)| *weight != 0.0).collect())
}

/// base + λ·mean(wᵢ·δᵢ), for tensors that are no weight matrix of a layer.
pub(super) fn mean(io: &TensorIo<'_>, p: &Params) -> Result<Map> {
    let (base, models, kernels) = (io.base()?, models(io, p)?, io.kernels());
    let factor = (p.number("lambda")? / models.len().max(1) as f64) as f32;
    Ok(Map::new(move |_, inputs, out| {
        let origin = std::mem::take(&mut inputs[base]);
        out.fill(0.0);
        for (input, weight) in &models {
            kernels.subtract(&origin, &mut inputs[*input]);
            kernels.add_scaled(*weight as f32, &inputs[*input], out);
        }
        kernels.add_to_base(&origin, factor, out);
        inputs[base] = origin;
    }))
}
