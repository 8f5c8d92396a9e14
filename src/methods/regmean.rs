//! Regression mean: the linear map that is nearest to the models' on what goes into each of them.

use super::fisher::{SHARE, check};
use super::linear::weighted_sum;
use super::params::{Default, FRACTION, Param};
use super::{Base, Map, Method, Params, Reads, STREAMED, Statistics};
use crate::engine::TensorIo;
use crate::error::{Error, Result};
use crate::matrix::{Matrix, View, product, solve};
use crate::model::InputsAlong;

pub(super) const METHOD: Method = Method {
    name: "regmean",
    summary: "Makes linear maps that answer each model's inputs as nearly as that model does.",
    formula: "G̃ᵢ = α·Gᵢ + (1−α)·diag(Gᵢ); out = (Σ wᵢ·Wᵢ·G̃ᵢ)·(Σ wᵢ·G̃ᵢ)⁻¹; without Gram matrices: Σ wᵢ·xᵢ / Σ wᵢ",
    reference: "Jin et al. 2022, Dataless Knowledge Fusion by Merging Weights of Language Models, arXiv 2212.09849",
    notes: include_str!("notes/regmean.md"),
    base: Base::Plain,
    statistics: Some(Statistics::Gram),
    params: &[
        Param::input("weight", SHARE, "the model's share").or(Default::Number(1.0)),
        Param::shared(
            "reduce_non_diag",
            FRACTION,
            "α, what elements of Gram matrices off the diagonal are multiplied by",
        )
        .or(Default::Number(0.9)),
    ],
    reads: Reads::Stream { passes: 2, bins: 0 },
    whole: |_, (outputs, inputs)| {
        let (elements, square) = (outputs as u64 * inputs as u64, (inputs as u64).pow(2));
        8 * (2 * square + 3 * elements) + 4 * elements
    },
    check,
    prepare,
    ..STREAMED
};

/// The greatest α: the rest of each diagonal keeps the sum of matrices away from singular ones, which are
/// usual where there are fewer tokens than inputs.
const GREATEST: f64 = 1.0 - 1.0 / 1024.0;

fn prepare(io: &TensorIo<'_>, p: &Params) -> Result<Map> {
    let weights = p.each("weight");
    let Some(maps) = Maps::new(io, &weights) else {
        let total: f64 = weights.iter().sum();
        let shares: Vec<f64> = weights.iter().map(|weight| weight / total).collect();
        return Ok(weighted_sum(io, &shares));
    };
    let merged = maps.merged(p.number("reduce_non_diag")?.min(GREATEST))?;
    Ok(Map::new(move |start, _, out| out.copy_from_slice(&merged[start..start + out.len()])))
}

/// A weight of all models with the Gram matrices of its inputs.
struct Maps<'a> {
    io: &'a TensorIo<'a>,
    /// Models with their shares, without those of share 0.
    models: Vec<(usize, f64)>,
    /// Rows and columns of the weight as it is stored.
    shape: (usize, usize),
    along: InputsAlong,
}

impl<'a> Maps<'a> {
    /// None where the tensor has no Gram matrices.
    fn new(io: &'a TensorIo<'a>, weights: &[f64]) -> Option<Self> {
        let (along, shape) = (io.inputs_along()?, io.rows_and_columns()?);
        let models = weights.iter().copied().enumerate().filter(|(_, weight)| *weight > 0.0);
        Some(Self { io, models: models.collect(), shape, along })
    }

    fn inputs(&self) -> usize {
        match self.along {
            InputsAlong::Rows => self.shape.0,
            InputsAlong::Columns => self.shape.1,
        }
    }

    /// A matrix as outputs × inputs.
    fn view<'m>(&self, stored: &'m Matrix) -> View<'m, f64> {
        match self.along {
            InputsAlong::Rows => stored.t(),
            InputsAlong::Columns => stored.view(),
        }
    }

    /// A model's weight, as it is stored.
    fn weight(&self, model: usize) -> Result<Matrix> {
        let mut weight = Matrix::zeros(self.shape.0, self.shape.1);
        self.io.whole(&[model], |start, inputs| {
            let [values] = inputs else { return };
            widen(values, &mut weight.values_mut()[start..start + values.len()]);
        })?;
        match weight.is_finite() {
            true => Ok(weight),
            false => Err(Error::input("a weight is not finite, so that its linear map cannot be merged")
                .hint("an input holds an infinity; merge this tensor by a method that goes element by element")),
        }
    }

    /// A model's Gram matrix, its elements off the diagonal times α.
    fn gram(&self, model: usize, alpha: f64) -> Result<Matrix> {
        let side = self.inputs();
        let mut gram = Matrix::zeros(side, side);
        self.io.whole_beside(model, |start, values| {
            widen(values, &mut gram.values_mut()[start..start + values.len()]);
        })?;
        let name = self.io.name_beside(model);
        if !gram.is_finite() || (0..side).any(|i| gram.row(i)[i] < 0.0) {
            return Err(not_gram().tensor(name));
        }
        for i in 0..side {
            let row = gram.row_mut(i);
            let diagonal = row[i];
            row.iter_mut().for_each(|x| *x *= alpha);
            row[i] = diagonal;
        }
        Ok(gram)
    }

    /// The merged weight, as it is stored.
    fn merged(&self, alpha: f64) -> Result<Vec<f32>> {
        let kernels = self.io.kernels();
        let (side, outputs) = (self.inputs(), self.shape.0 * self.shape.1 / self.inputs());
        let mut left = Matrix::zeros(side, side);
        let mut right = Matrix::zeros(outputs, side);
        for (model, share) in &self.models {
            let mut gram = self.gram(*model, alpha)?;
            gram.values_mut().iter_mut().for_each(|x| *x *= share);
            let weight = self.weight(*model)?;
            add(&mut right, &product(kernels, self.view(&weight), gram.view()));
            add(&mut left, &gram);
        }
        self.fill_unseen(&mut left, &mut right)?;
        let merged = solve(kernels, left, right).map_err(|_| {
            not_gram().fact("reason", "the sum over the models is not positive definite")
        })?;
        Ok(match self.along {
            InputsAlong::Columns => merged.values().iter().map(|x| *x as f32).collect(),
            InputsAlong::Rows => {
                let element = |i: usize| merged.row(i % outputs)[i / outputs] as f32;
                (0..side * outputs).map(element).collect()
            }
        })
    }

    /// Inputs that are 0 in all documents of all models: they get the weighted mean.
    fn fill_unseen(&self, left: &mut Matrix, right: &mut Matrix) -> Result<()> {
        let side = self.inputs();
        let unseen: Vec<usize> = (0..side).filter(|i| left.row(*i)[*i] <= 0.0).collect();
        if unseen.is_empty() {
            return Ok(());
        }
        for input in &unseen {
            (0..side).for_each(|i| left.row_mut(i)[*input] = 0.0);
            left.row_mut(*input).fill(0.0);
            left.row_mut(*input)[*input] = self.models.iter().map(|(_, share)| share).sum();
            (0..right.shape().0).for_each(|i| right.row_mut(i)[*input] = 0.0);
        }
        for (model, share) in &self.models {
            let weight = self.weight(*model)?;
            for output in 0..right.shape().0 {
                for input in &unseen {
                    right.row_mut(output)[*input] += share
                        * match self.along {
                            InputsAlong::Columns => weight.row(output)[*input],
                            InputsAlong::Rows => weight.row(*input)[output],
                        };
                }
            }
        }
        Ok(())
    }
}

fn widen(values: &[f32], out: &mut [f64]) {
    out.iter_mut().zip(values).for_each(|(out, x)| *out = f64::from(*x));
}

fn add(sum: &mut Matrix, x: &Matrix) {
    sum.values_mut().iter_mut().zip(x.values()).for_each(|(sum, x)| *sum += x);
}

fn not_gram() -> Error {
    Error::input("the Gram matrix of a weight is none that inputs could have")
        .hint("compute the file anew with `cognate gram`")
}
