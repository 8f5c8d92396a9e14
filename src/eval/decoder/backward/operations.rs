//! Differentiable operations on matrices: candle keeps the graph, our kernels compute.
//!
//! Candle's own operations are used where they only move numbers, or add and multiply two of them.

use super::product::{Matrix, product};
use crate::error::Result;
use crate::eval::decoder::tensors::{failed, rows, width, with_elements};
use crate::kernels::{Activation, Kernels};
use crate::model::architectures as data;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, Device, Layout, Result as CandleResult, Shape, Tensor,
};

/// `(x) → y`, and `(x, y, dy) → dx`.
struct Unary<F, B> {
    name: &'static str,
    /// The width of what it gives; the rows stay.
    width: usize,
    forward: F,
    backward: B,
}

/// `(x, w) → y`, and `(x, w, dy) → (dx, dw)`.
struct Binary<F, B> {
    name: &'static str,
    width: usize,
    forward: F,
    backward: B,
}

fn elements<'a>(storage: &'a CpuStorage, layout: &Layout) -> CandleResult<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => candle_core::bail!("not a contiguous matrix of f32"),
    }
}

/// The elements of a tensor in its order, for as long as `work` takes.
fn with<T>(tensor: &Tensor, work: impl FnOnce(&[f32]) -> T) -> CandleResult<T> {
    with_elements(&tensor.contiguous()?, work).map_err(candle_core::Error::wrap)
}

fn like(tensor: &Tensor, values: Vec<f32>) -> CandleResult<Tensor> {
    Tensor::from_vec(values, tensor.shape(), &Device::Cpu)
}

impl<F, B> CustomOp1 for Unary<F, B>
where
    F: Fn(&[f32]) -> Vec<f32>,
    B: Fn(&[f32], &[f32], Vec<f32>) -> Vec<f32>,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let rows = layout.dims().first().copied().unwrap_or(0);
        let y = (self.forward)(elements(x, layout)?);
        Ok((CpuStorage::F32(y), Shape::from((rows, self.width))))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, gradient: &Tensor) -> CandleResult<Option<Tensor>> {
        let gradient = with(gradient, <[f32]>::to_vec)?;
        let gradient = with(x, |x| with(y, |y| (self.backward)(x, y, gradient)))??;
        like(x, gradient).map(Some)
    }
}

impl<F, B> CustomOp2 for Binary<F, B>
where
    F: Fn(&[f32], &[f32]) -> Vec<f32>,
    B: Fn(&[f32], &[f32], Vec<f32>) -> (Vec<f32>, Vec<f32>),
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let rows = x_layout.dims().first().copied().unwrap_or(0);
        let y = (self.forward)(elements(x, x_layout)?, elements(w, w_layout)?);
        Ok((CpuStorage::F32(y), Shape::from((rows, self.width))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let gradient = with(gradient, <[f32]>::to_vec)?;
        let (dx, dw) = with(x, |x| with(w, |w| (self.backward)(x, w, gradient)))??;
        Ok((Some(like(x, dx)?), Some(like(w, dw)?)))
    }
}

/// An operation on each row or element of `x`.
pub(super) fn unary(
    name: &'static str,
    x: &Tensor,
    width: usize,
    forward: impl Fn(&[f32]) -> Vec<f32> + Send + Sync + 'static,
    backward: impl Fn(&[f32], &[f32], Vec<f32>) -> Vec<f32> + Send + Sync + 'static,
) -> Result<Tensor> {
    let x = x.contiguous().map_err(failed)?;
    x.apply_op1(Unary { name, width, forward, backward }).map_err(failed)
}

fn binary(
    name: &'static str,
    [x, w]: [&Tensor; 2],
    width: usize,
    forward: impl Fn(&[f32], &[f32]) -> Vec<f32> + Send + Sync + 'static,
    backward: impl Fn(&[f32], &[f32], Vec<f32>) -> (Vec<f32>, Vec<f32>) + Send + Sync + 'static,
) -> Result<Tensor> {
    let (x, w) = (x.contiguous().map_err(failed)?, w.contiguous().map_err(failed)?);
    x.apply_op2(&w, Binary { name, width, forward, backward }).map_err(failed)
}

/// `x·Wᵀ`, or `x·W` where weights are stored as inputs × outputs.
pub(super) fn linear(x: &Tensor, w: &Tensor, transposed: bool) -> Result<Tensor> {
    let inputs = width(x).max(1);
    let outputs = if transposed { width(w) } else { rows(w) };
    // As inputs × outputs.
    fn weights(w: &[f32], (inputs, outputs): (usize, usize), transposed: bool) -> Matrix<'_> {
        if transposed { Matrix::new(w, outputs) } else { Matrix::new(w, inputs).t() }
    }
    let sizes = (inputs, outputs);
    binary(
        "linear",
        [x, w],
        outputs,
        move |x, w| product(Matrix::new(x, inputs), weights(w, sizes, transposed)),
        move |x, w, dy| {
            let (x, dy) = (Matrix::new(x, inputs), Matrix::new(&dy, outputs));
            let dw = if transposed { product(x.t(), dy) } else { product(dy.t(), x) };
            (product(dy, weights(w, sizes, transposed).t()), dw)
        },
    )
}

/// `x + b` for the parts of each row that begin at `starts`.
pub(super) fn bias(x: &Tensor, b: &Tensor, starts: &[usize]) -> Result<Tensor> {
    let width = width(x).max(1);
    let (starts, places) = (starts.to_vec(), starts.to_vec());
    binary(
        "bias",
        [x, b],
        width,
        move |x, b| {
            let mut y = x.to_vec();
            for row in y.chunks_mut(width) {
                starts.iter().for_each(|at| Kernels::best().plus(b, &mut row[*at..at + b.len()]));
            }
            y
        },
        move |_, b, dy| {
            let mut sum = vec![0.0; b.len()];
            for row in dy.chunks(width) {
                places
                    .iter()
                    .for_each(|at| Kernels::best().plus(&row[*at..at + b.len()], &mut sum));
            }
            (dy, sum)
        },
    )
}

/// Normalises the parts of each row that begin at `starts`; what is not part of any stays. `w` holds
/// rows of weights, which the parts take in turn.
pub(super) fn norm(x: &Tensor, w: &Tensor, of: &data::Norm, starts: &[usize]) -> Result<Tensor> {
    let starts = starts.to_vec();
    let (width, part, kind, eps) = (width(x).max(1), of.width, of.kind, of.eps);
    let places = move |weights: usize| {
        let rows = weights / part.max(1);
        let place = move |(number, first): (usize, &usize)| {
            let weights = number % rows.max(1) * part;
            (*first..first + part, weights..weights + part)
        };
        starts.iter().enumerate().map(place).collect::<Vec<_>>()
    };
    let backward_places = places.clone();
    binary(
        "norm",
        [x, w],
        width,
        move |x, w| {
            let (kernels, places) = (Kernels::best(), places(w.len()));
            let mut y = x.to_vec();
            for row in y.chunks_mut(width) {
                for (at, weights) in &places {
                    let (row, w) = (&mut row[at.clone()], &w[weights.clone()]);
                    match kind {
                        data::NormKind::Rms => kernels.rms_norm(eps, w, row),
                        data::NormKind::Layer => kernels.layer_norm(eps, w, row),
                    }
                }
            }
            y
        },
        move |x, w, mut gradient| {
            let (kernels, places) = (Kernels::best(), backward_places(w.len()));
            let mut dw = vec![0.0; w.len()];
            for (x, dy) in x.chunks(width).zip(gradient.chunks_mut(width)) {
                for (at, weights) in &places {
                    let (x, dy) = (&x[at.clone()], &mut dy[at.clone()]);
                    let (w, dw) = (&w[weights.clone()], &mut dw[weights.clone()]);
                    match kind {
                        data::NormKind::Rms => kernels.rms_norm_gradient(eps, w, x, dy, dw),
                        data::NormKind::Layer => kernels.layer_norm_gradient(eps, w, x, dy, dw),
                    }
                }
            }
            (gradient, dw)
        },
    )
}

/// An activation function of every element.
pub(super) fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    unary(
        "activation",
        x,
        width(x),
        move |x| {
            let mut y = x.to_vec();
            Kernels::best().activate(activation, &mut y);
            y
        },
        move |x, _, mut gradient| {
            Kernels::best().activate_gradient(activation, x, &mut gradient);
            gradient
        },
    )
}

/// Every element within `-limit` and `limit`.
pub(super) fn clip(x: &Tensor, limit: f32) -> Result<Tensor> {
    unary(
        "clip",
        x,
        width(x),
        move |x| x.iter().map(|x| x.clamp(-limit, limit)).collect(),
        move |x, _, mut gradient| {
            for (gradient, x) in gradient.iter_mut().zip(x) {
                if !(-limit..=limit).contains(x) {
                    *gradient = 0.0;
                }
            }
            gradient
        },
    )
}

/// `σ(x)` of every element.
pub(super) fn sigmoid(x: &Tensor) -> Result<Tensor> {
    unary(
        "sigmoid",
        x,
        width(x),
        |x| {
            let mut y = x.to_vec();
            Kernels::best().sigmoid(&mut y);
            y
        },
        |_, y, mut gradient| {
            Kernels::best().sigmoid_gradient(y, &mut gradient);
            gradient
        },
    )
}

/// Each row of `x` times its own one of `weights`.
pub(super) fn weigh_rows(x: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let width = width(x).max(1);
    binary(
        "weigh rows",
        [x, weights],
        width,
        move |x, weights| {
            let mut y = x.to_vec();
            for (row, weight) in y.chunks_mut(width).zip(weights) {
                Kernels::best().multiply(*weight, row);
            }
            y
        },
        move |x, weights, mut dy| {
            let mut dw = Vec::with_capacity(weights.len());
            for ((x, dy), weight) in x.chunks(width).zip(dy.chunks_mut(width)).zip(weights) {
                dw.push(Kernels::best().dot(x, dy));
                Kernels::best().multiply(*weight, dy);
            }
            (dy, dw)
        },
    )
}
