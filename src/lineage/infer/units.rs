//! The hidden units of MLPs: what goes into each, and what comes out of it.

use crate::error::{Error, Result};
use crate::matrix::Matrix;
use crate::model::architectures::{self, Dense, Linear, Mlp};
use crate::model::{Checkpoint, Source};

/// Hidden units of an MLP that are paired at most, and coordinates of a unit's vectors that are read. A
/// cosine of some coordinates does as well: the test is about units, not about coordinates.
const UNITS: usize = 512;
const COORDINATES: usize = 1024;
/// Experts of a mixture that are looked at in a layer.
const EXPERTS: usize = 4;

/// One MLP of a model, or one expert.
#[derive(Clone, Debug)]
pub(super) struct Mlps {
    /// The family that the model is of.
    pub(super) family: &'static str,
    /// For each layer its MLPs: one, or some of its experts; none where it has no MLP.
    pub(super) layers: Vec<Vec<Dense>>,
}

/// Unit vectors of some hidden units, one a row: each kind of weight that belongs to a unit.
pub(super) struct Units {
    /// What is multiplied with the input: rows of the gate's and the up projection's weights.
    pub(super) inputs: Vec<Matrix>,
    /// Columns of the down projection's weights.
    pub(super) output: Matrix,
}

impl Mlps {
    /// The MLPs of a model.
    ///
    /// # Errors
    /// No known family covers the model.
    pub(super) fn of(model: &Checkpoint) -> Result<Self> {
        let found = architectures::find(&model.config, |name| model.tensor(name).is_some())?;
        let layers = found.architecture.layers.into_iter().map(|layer| match layer.mlp {
            None => Vec::new(),
            Some(Mlp::Dense(dense)) => vec![dense],
            Some(Mlp::Experts(experts)) => experts.experts.into_iter().take(EXPERTS).collect(),
        });
        Ok(Self { family: found.family, layers: layers.collect() })
    }

    /// The hidden units and the width of the hidden states: what two models must share.
    pub(super) fn shape(&self) -> Option<(usize, usize)> {
        let first = self.layers.iter().flatten().next()?;
        Some((first.width, first.up.inputs))
    }
}

/// How much of each MLP is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    /// Hidden units.
    pub(super) units: usize,
    /// Coordinates of each vector of a unit.
    pub(super) coordinates: usize,
}

impl Reach {
    /// As much as `bytes` hold of this many MLPs.
    pub(super) fn within(bytes: u64, mlps: usize) -> Self {
        let mut reach = Self { units: UNITS, coordinates: COORDINATES };
        // Three kinds of weights, in f64.
        let takes = |reach: &Self| (mlps * 3 * 8 * reach.units * reach.coordinates) as u64;
        while takes(&reach) > bytes && reach.units * reach.coordinates > 1 << 10 {
            match reach.coordinates > reach.units {
                true => reach.coordinates /= 2,
                false => reach.units /= 2,
            }
        }
        reach
    }
}

/// At most `most` of the numbers below `count`, evenly spaced.
pub(super) fn spread(count: usize, most: usize) -> Vec<usize> {
    let taken = count.min(most);
    (0..taken).map(|i| i * count / taken).collect()
}

/// The vectors of these units.
///
/// # Errors
/// A tensor is missing, has another shape than its family says, or cannot be read.
pub(super) fn read(
    model: &Checkpoint,
    mlp: &Dense,
    units: &[usize],
    coordinates: usize,
) -> Result<Units> {
    let inputs = spread(mlp.up.inputs, coordinates);
    let outputs: usize = mlp.down.parts.iter().map(|part| part.outputs).sum();
    let outputs = spread(outputs, coordinates);
    let halves = if mlp.gated { 2 } else { 1 };
    let half = |half: usize| {
        let rows: Vec<usize> = units.iter().map(|unit| half * mlp.width + unit).collect();
        Ok(normalised(gather(model, &mlp.up, &rows, &inputs)?))
    };
    let output = gather(model, &mlp.down, &outputs, units)?.transposed();
    Ok(Units { inputs: (0..halves).map(half).collect::<Result<_>>()?, output: normalised(output) })
}

/// Elements of a map's weight: these outputs, one a row, by these inputs.
fn gather(
    model: &Checkpoint,
    linear: &Linear,
    outputs: &[usize],
    inputs: &[usize],
) -> Result<Matrix> {
    let mut matrix = Matrix::zeros(outputs.len(), inputs.len());
    let mut first = 0;
    for part in &linear.parts {
        let rows = || {
            let of_part =
                |(_, output): &(usize, &usize)| (first..first + part.outputs).contains(*output);
            outputs.iter().enumerate().filter(of_part).map(|(at, output)| (at, output - first))
        };
        let source = tensor(model, &part.weight, part.outputs * linear.inputs)?;
        if linear.transposed {
            let mut line = vec![0.0; part.outputs];
            for (column, input) in inputs.iter().enumerate() {
                source.read(input * part.outputs, &mut line)?;
                rows().for_each(|(at, output)| {
                    matrix.row_mut(at)[column] = f64::from(line[output]);
                });
            }
        } else {
            let mut line = vec![0.0; linear.inputs];
            for (at, output) in rows() {
                source.read(output * linear.inputs, &mut line)?;
                for (x, input) in matrix.row_mut(at).iter_mut().zip(inputs) {
                    *x = f64::from(line[*input]);
                }
            }
        }
        first += part.outputs;
    }
    Ok(matrix)
}

fn tensor<'a>(model: &'a Checkpoint, name: &str, elements: usize) -> Result<&'a dyn Source> {
    let found = model.tensor(name).ok_or_else(|| {
        Error::input("a model lacks a tensor of its family").model(&model.reference).tensor(name)
    })?;
    let spec = found.spec();
    if spec.elements() != elements {
        return Err(Error::input("a tensor has another shape than its family says")
            .model(&model.reference)
            .tensor(name)
            .expected(format!("{elements} elements"), format!("{:?}", spec.shape)));
    }
    Ok(found)
}

/// Rows of length 1; those of zeros, or with values that are no numbers, become zeros.
fn normalised(mut matrix: Matrix) -> Matrix {
    let (rows, _) = matrix.shape();
    for row in 0..rows {
        let row = matrix.row_mut(row);
        let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        let factor = if norm > 0.0 && norm.is_finite() { 1.0 / norm } else { 0.0 };
        row.iter_mut().for_each(|x| *x = if factor > 0.0 { *x * factor } else { 0.0 });
    }
    matrix
}
