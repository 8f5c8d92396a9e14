//! The rows of one layer's router, from what the router reads.

use super::prompts::Role;
use crate::error::Result;
use crate::eval::decoder::backward::gram;
use crate::eval::decoder::tensors::{failed, width, with_elements};
use crate::kernels::Kernels;
use crate::matrix::{Matrix, solve};
use crate::model::GateMode;
use candle_core::Tensor;

/// Directions shorter than this count as this long.
const LEAST_NORM: f64 = 1e-8;

fn length(sum: &[f64]) -> f64 {
    sum.iter().map(|x| x * x).sum::<f64>().sqrt().max(LEAST_NORM)
}

/// A direction of length 1, or shorter where there is none.
pub(super) fn direction(sum: &[f64]) -> Vec<f32> {
    let length = length(sum);
    sum.iter().map(|x| (x / length) as f32).collect()
}

/// What is taken of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// What stands at its last token.
    Last,
    /// The mean over its tokens.
    Mean,
    /// The sum over its tokens.
    Sum,
}

impl Taken {
    pub(super) fn of(mode: GateMode) -> Self {
        match mode {
            GateMode::HiddenLast => Self::Last,
            GateMode::CheapEmbed => Self::Sum,
            _ => Self::Mean,
        }
    }
}

/// Sums over the texts of each expert, for gates that are directions.
pub(super) struct Directions {
    taken: Taken,
    /// Σ over its positive and its negative texts, and how many there are.
    sums: Vec<[(Vec<f64>, usize); 2]>,
}

impl Directions {
    pub(super) fn new(taken: Taken, experts: usize, hidden: usize) -> Self {
        let zero = || (vec![0.0; hidden], 0);
        Self { taken, sums: (0..experts).map(|_| [zero(), zero()]).collect() }
    }

    /// Adds the rows of a text.
    pub(super) fn add(&mut self, role: Role, rows: &Tensor) -> Result<()> {
        let columns = width(rows);
        let (sum, count) = &mut self.sums[role.expert][usize::from(role.negative)];
        let rows = rows.contiguous().map_err(failed)?;
        with_elements(&rows, |values| {
            let tokens = values.len() / columns.max(1);
            let (first, scale) = match self.taken {
                Taken::Last => (tokens.saturating_sub(1), 1.0),
                Taken::Mean => (0, 1.0 / tokens.max(1) as f64),
                Taken::Sum => (0, 1.0),
            };
            let mut own = vec![0.0; columns];
            for row in values.chunks(columns).skip(first) {
                own.iter_mut().zip(row).for_each(|(own, x)| *own += f64::from(*x));
            }
            sum.iter_mut().zip(own).for_each(|(sum, own)| *sum += scale * own);
        })?;
        *count += 1;
        Ok(())
    }

    /// The directions, times `scale`.
    pub(super) fn rows(&self, experts: std::ops::Range<usize>, scale: f64) -> Vec<f32> {
        let side = |(sum, count): &(Vec<f64>, usize)| -> Vec<f64> {
            // mergekit-moe subtracts means of hidden states, but directions of embeddings.
            let length = match self.taken {
                Taken::Sum => length(sum),
                _ => (*count).max(1) as f64,
            };
            sum.iter().map(|x| x / length).collect()
        };
        let of = |[positive, negative]: &[(Vec<f64>, usize); 2]| {
            let mut row = side(positive);
            row.iter_mut().zip(side(negative)).for_each(|(x, minus)| *x -= minus);
            direction(&row)
        };
        let rows = self.sums[experts].iter().flat_map(of);
        rows.map(|x| (f64::from(x) * scale) as f32).collect()
    }
}

/// Sums for ridge regression: `XᵀDX` and `XᵀDY`, where D makes the tokens of each expert count as much
/// as those of any other, and Y is 1 for a token's own expert.
pub(super) struct Regression {
    square: Vec<f64>,
    classes: Vec<Vec<f64>>,
    /// How many tokens each expert's texts have.
    tokens: Vec<usize>,
}

impl Regression {
    pub(super) fn new(tokens: Vec<usize>, hidden: usize) -> Self {
        let classes = vec![vec![0.0; hidden]; tokens.len()];
        Self { square: vec![0.0; hidden * hidden], classes, tokens }
    }

    /// Adds the rows of a text.
    pub(super) fn add(&mut self, role: Role, rows: &Tensor) -> Result<()> {
        let columns = width(rows);
        let share = 1.0 / self.tokens[role.expert].max(1) as f64;
        let rows = rows.contiguous().map_err(failed)?;
        with_elements(&rows, |values| {
            let own = gram(values, columns);
            let square = self.square.iter_mut().zip(own);
            square.for_each(|(sum, x)| *sum += share * f64::from(x));
            let class = &mut self.classes[role.expert];
            for row in values.chunks(columns) {
                class.iter_mut().zip(row).for_each(|(sum, x)| *sum += share * f64::from(*x));
            }
        })
    }

    /// The rows of `((XᵀDX + ridge·m·I)⁻¹XᵀDY)ᵀ`, m the mean of the diagonal, times `scale`.
    ///
    /// # Errors
    /// The texts leave nothing to solve: all they give is 0.
    pub(super) fn rows(mut self, ridge: f64, scale: f64) -> Result<Vec<f32>> {
        let (experts, hidden) = (self.classes.len(), self.classes.first().map_or(0, Vec::len));
        let mean = (0..hidden).map(|i| self.square[i * (hidden + 1)]).sum::<f64>() / hidden as f64;
        for i in 0..hidden {
            self.square[i * (hidden + 1)] += ridge * mean;
        }
        let matrix = |rows: usize, values: Vec<f64>| {
            let mut matrix = Matrix::zeros(rows, hidden);
            matrix.values_mut().copy_from_slice(&values);
            matrix
        };
        let (square, right) = (matrix(hidden, self.square), matrix(experts, self.classes.concat()));
        let rows = solve(Kernels::best(), square, right)?;
        Ok(rows.values().iter().map(|x| (x * scale) as f32).collect())
    }
}
