//! The multilayer perceptron of a layer, and mixtures of them.

use super::tensors::{each_row, each_row_with, failed, gather, matrix, rows, width, with_elements};
use super::weights::{Finder, Linear};
use crate::error::Result;
use crate::kernels::Kernels;
use crate::model::architectures as data;
use candle_core::Tensor;
use std::cmp::Ordering;

/// How much a step may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes of weights that are read at a time where they are not loaded.
    pub(super) block: u64,
    /// Bytes of a multilayer perceptron's inner activations.
    pub(super) inner: u64,
}

pub(super) struct Dense {
    data: data::Dense,
    up: Linear,
    down: Linear,
}

impl Dense {
    pub(super) fn open(data: &data::Dense, finder: &mut Finder<'_>) -> Result<Self> {
        Ok(Self {
            data: data.clone(),
            up: Linear::open(&data.up, finder)?,
            down: Linear::open(&data.down, finder)?,
        })
    }

    pub(super) fn linears(&self) -> [&Linear; 2] {
        [&self.up, &self.down]
    }

    /// Bytes that a token takes meanwhile.
    pub(super) fn inner_bytes(&self) -> u64 {
        4 * (self.up.outputs() + self.down.outputs()) as u64
    }

    /// As many rows at a time as the limits allow.
    pub(super) fn apply(&self, x: &Tensor, limits: Limits) -> Result<Tensor> {
        let step = (limits.inner / self.inner_bytes().max(1)).max(16) as usize;
        if rows(x) <= step {
            return self.rows(x, limits);
        }
        let mut values = Vec::with_capacity(rows(x) * self.down.outputs());
        for first in (0..rows(x)).step_by(step) {
            let part = x.narrow(0, first, step.min(rows(x) - first)).map_err(failed)?;
            with_elements(&self.rows(&part, limits)?, |part| values.extend_from_slice(part))?;
        }
        matrix(values, self.down.outputs())
    }

    fn rows(&self, x: &Tensor, limits: Limits) -> Result<Tensor> {
        let kernels = Kernels::best();
        let inner = self.up.apply(x, limits.block)?;
        let count = self.data.width;
        each_row(&inner, |_, row| {
            let (first, second) = row.split_at_mut(count);
            kernels.activate(self.data.activation, first);
            if self.data.gated {
                kernels.times(second, first);
            }
        })?;
        self.down.apply(&inner.narrow(1, 0, count).map_err(failed)?, limits.block)
    }
}

pub(super) struct Experts {
    data: data::Experts,
    router: Linear,
    choice_bias: Option<Vec<f32>>,
    experts: Vec<Dense>,
    shared: Option<Dense>,
    shared_gate: Option<Linear>,
}

impl Experts {
    pub(super) fn open(data: &data::Experts, finder: &mut Finder<'_>) -> Result<Self> {
        let count = data.experts.len();
        let bias = |name: &String, finder: &mut Finder<'_>| finder.vector(name, &[count]);
        let router = Linear::open(&data.router, finder)?;
        let choice_bias = data.choice_bias.as_ref().map(|name| bias(name, finder)).transpose()?;
        let experts: Result<Vec<Dense>> =
            data.experts.iter().map(|expert| Dense::open(expert, finder)).collect();
        let shared = data.shared.as_ref().map(|shared| Dense::open(shared, finder)).transpose()?;
        let gate = data.shared_gate.as_ref().map(|gate| Linear::open(gate, finder)).transpose()?;
        Ok(Self {
            data: data.clone(),
            router,
            choice_bias,
            experts: experts?,
            shared,
            shared_gate: gate,
        })
    }

    pub(super) fn linears(&self) -> Vec<&Linear> {
        let dense = self.experts.iter().chain(&self.shared).flat_map(Dense::linears);
        dense.chain([&self.router]).chain(&self.shared_gate).collect()
    }

    /// Bytes that a token takes meanwhile.
    pub(super) fn inner_bytes(&self) -> u64 {
        let dense = self.experts.iter().chain(&self.shared).map(Dense::inner_bytes);
        dense.max().unwrap_or(0) + 4 * (self.router.outputs() + self.router.inputs()) as u64
    }

    /// Each row goes to the experts its router chose; their outputs are added in the order of the
    /// experts' numbers.
    pub(super) fn apply(&self, x: &Tensor, limits: Limits) -> Result<Tensor> {
        let kernels = Kernels::best();
        let scores = self.router.apply(x, limits.block)?;
        let count = self.experts.len();
        each_row(&scores, |_, row| match self.data.scores {
            data::Scores::Softmax => kernels.softmax(row),
            data::Scores::Sigmoid => kernels.sigmoid(row),
        })?;
        let mut members: Vec<Vec<(usize, f32)>> = vec![Vec::new(); count];
        with_elements(&scores, |scores| {
            for (row, scores) in scores.chunks(count).enumerate() {
                for (expert, weight) in choose(&self.data, self.choice_bias.as_deref(), scores) {
                    members[expert].push((row, weight));
                }
            }
        })?;
        let width = width(x);
        let mut sum = vec![0.0; rows(x) * width];
        for (expert, members) in self.experts.iter().zip(&members) {
            if members.is_empty() {
                continue;
            }
            let numbers: Vec<usize> = members.iter().map(|(row, _)| *row).collect();
            let y = expert.apply(&gather(x, &numbers)?, limits)?;
            with_elements(&y, |y| {
                for ((row, weight), y) in members.iter().zip(y.chunks(width)) {
                    kernels.add_scaled(*weight, y, &mut sum[row * width..(row + 1) * width]);
                }
            })?;
        }
        let sum = matrix(sum, width)?;
        if let Some(shared) = &self.shared {
            let y = shared.apply(x, limits)?;
            if let Some(gate) = &self.shared_gate {
                let gate = gate.apply(x, limits.block)?;
                each_row_with(&y, &gate, |gate, y| {
                    let mut weight = [gate[0]];
                    kernels.sigmoid(&mut weight);
                    kernels.multiply(weight[0], y);
                })?;
            }
            each_row_with(&sum, &y, |y, sum| kernels.plus(y, sum))?;
        }
        Ok(sum)
    }
}

/// The experts of one row with their weights; of equal scores the lower number comes first.
pub(super) fn choose(
    data: &data::Experts,
    bias: Option<&[f32]>,
    scores: &[f32],
) -> Vec<(usize, f32)> {
    let bias = |expert: usize| bias.and_then(|bias| bias.get(expert)).copied().unwrap_or(0.0);
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| {
        let (a, b) = (scores[*a] + bias(*a), scores[*b] + bias(*b));
        b.partial_cmp(&a).unwrap_or(Ordering::Equal)
    });
    order.truncate(data.chosen);
    let total: f32 = order.iter().map(|expert| scores[*expert]).sum();
    let scale = if data.normalise { data.scale / total } else { data.scale };
    order.into_iter().map(|expert| (expert, scores[expert] * scale)).collect()
}
