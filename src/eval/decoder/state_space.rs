//! The selective state space of Mamba (Gu and Dao 2023, section 3 and algorithm 2).

use super::mlp::Limits;
use super::sequences::Slice;
use super::tensors::{each_row, failed, matrix, rows, with_elements};
use super::weights::{Finder, Linear};
use crate::error::Result;
use crate::kernels::Kernels;
use crate::model::architectures as data;
use candle_core::Tensor;
use rayon::prelude::*;

/// Channels that one task goes through the positions with.
const CHANNELS: usize = 64;

/// Where a sequence stands: the last inputs of the convolution, and the states.
#[derive(Default)]
pub(super) struct Past {
    /// The last kernel - 1 rows of the convolution's input.
    inputs: Vec<f32>,
    /// Channels × elements of the state.
    states: Vec<f32>,
}

pub(super) struct StateSpace {
    data: data::StateSpace,
    input: Linear,
    /// Channels × kernel.
    convolution: Vec<f32>,
    convolution_bias: Option<Vec<f32>>,
    parameters: Linear,
    step: Linear,
    /// Channels × elements of the state.
    decay: Vec<f32>,
    skip: Vec<f32>,
    output: Linear,
}

impl StateSpace {
    pub(super) fn open(data: &data::StateSpace, finder: &mut Finder<'_>) -> Result<Self> {
        let bias = data.convolution_bias.as_ref();
        let mut decay = finder.vector(&data.decay, &[data.inner, data.state])?;
        decay.iter_mut().for_each(|log| *log = -log.exp());
        Ok(Self {
            data: data.clone(),
            input: Linear::open(&data.input, finder)?,
            convolution: finder.vector(&data.convolution, &[data.inner, 1, data.kernel])?,
            convolution_bias: bias.map(|name| finder.vector(name, &[data.inner])).transpose()?,
            parameters: Linear::open(&data.parameters, finder)?,
            step: Linear::open(&data.step, finder)?,
            decay,
            skip: finder.vector(&data.skip, &[data.inner])?,
            output: Linear::open(&data.output, finder)?,
        })
    }

    pub(super) fn linears(&self) -> [&Linear; 4] {
        [&self.input, &self.parameters, &self.step, &self.output]
    }

    /// Elements that a token takes meanwhile.
    pub(super) fn scratch(&self) -> usize {
        5 * self.data.inner + self.data.rank + 2 * self.data.state
    }

    /// Elements of a [`Past`].
    pub(super) fn past(&self) -> usize {
        self.data.inner * (self.data.state + self.data.kernel)
    }

    /// Every segment is a sequence of its own, or goes on where its entry of `past` stands.
    pub(super) fn apply(
        &self,
        x: &Tensor,
        slice: &Slice,
        mut past: Option<&mut [Past]>,
        limits: Limits,
    ) -> Result<Tensor> {
        let kernels = Kernels::best();
        let (inner, rank) = (self.data.inner, self.data.rank);
        let both = self.input.apply(x, limits.block)?;
        let mut convolved = vec![0.0; rows(x) * inner];
        with_elements(&both, |both| {
            for (number, segment) in slice.segments.iter().enumerate() {
                let own = segment.rows.start * inner..segment.rows.end * inner;
                let inputs = &both[2 * own.start..2 * own.end];
                let past = past.as_mut().and_then(|past| past.get_mut(number));
                self.convolve(inputs, past, &mut convolved[own]);
            }
        })?;
        let convolved = matrix(convolved, inner)?;
        each_row(&convolved, |_, row| kernels.activate(self.data.activation, row))?;
        let parameters = self.parameters.apply(&convolved, limits.block)?;
        let steps =
            self.step.apply(&parameters.narrow(1, 0, rank).map_err(failed)?, limits.block)?;
        each_row(&steps, |_, row| kernels.softplus(row))?;
        let mut mixed = vec![0.0; rows(x) * inner];
        with_elements(&convolved, |x| {
            with_elements(&parameters, |parameters| {
                with_elements(&steps, |steps| {
                    for (number, segment) in slice.segments.iter().enumerate() {
                        let own = segment.rows.start * inner..segment.rows.end * inner;
                        let width = rank + 2 * self.data.state;
                        let parameters =
                            &parameters[segment.rows.start * width..segment.rows.end * width];
                        let past = past.as_mut().and_then(|past| past.get_mut(number));
                        let given = (&x[own.clone()], parameters, &steps[own.clone()]);
                        self.scan(given, past, &mut mixed[own]);
                    }
                })
            })
        })???;
        let mixed = matrix(mixed, inner)?;
        super::tensors::each_row_with(&mixed, &both, |both, row| {
            let mut gate = both[inner..].to_vec();
            kernels.activate(self.data.activation, &mut gate);
            kernels.times(&gate, row);
        })?;
        self.output.apply(&mixed, limits.block)
    }

    /// The causal convolution of each channel; `inputs` has rows of twice the width.
    fn convolve(&self, inputs: &[f32], past: Option<&mut Past>, out: &mut [f32]) {
        let (inner, kernel) = (self.data.inner, self.data.kernel);
        let mut before = vec![0.0; (kernel - 1) * inner];
        if let Some(past) = &past
            && past.inputs.len() == before.len()
        {
            before.copy_from_slice(&past.inputs);
        }
        for row in inputs.chunks(2 * inner) {
            before.extend_from_slice(&row[..inner]);
        }
        for (position, out) in out.chunks_mut(inner).enumerate() {
            for (channel, out) in out.iter_mut().enumerate() {
                let weights = &self.convolution[channel * kernel..(channel + 1) * kernel];
                let bias = self.convolution_bias.as_ref().map_or(0.0, |bias| bias[channel]);
                *out = weights.iter().enumerate().fold(bias, |sum, (i, weight)| {
                    sum + weight * before[(position + i) * inner + channel]
                });
            }
        }
        if let Some(past) = past {
            past.inputs = before.split_off(before.len() - (kernel - 1) * inner);
        }
    }

    /// The recurrence, some channels a task.
    fn scan(&self, given: (&[f32], &[f32], &[f32]), past: Option<&mut Past>, out: &mut [f32]) {
        let (x, parameters, steps) = given;
        let kernels = Kernels::best();
        let (inner, state, rank) = (self.data.inner, self.data.state, self.data.rank);
        let mut fresh = Past::default();
        let past = past.unwrap_or(&mut fresh);
        past.states.resize(inner * state, 0.0);
        let tasks = past.states.par_chunks_mut(CHANNELS * state).enumerate();
        let parts: Vec<Vec<f32>> = tasks
            .map(|(task, states)| {
                let channels = states.len() / state;
                let first = task * CHANNELS;
                let mut part = Vec::with_capacity(x.len() / inner * channels);
                for (position, parameters) in parameters.chunks(rank + 2 * state).enumerate() {
                    let (input, output) = parameters[rank..].split_at(state);
                    for (i, states) in states.chunks_mut(state).enumerate() {
                        let channel = first + i;
                        let decay = &self.decay[channel * state..(channel + 1) * state];
                        let at = position * inner + channel;
                        let y = kernels.scan(decay, input, steps[at], x[at], output, states);
                        part.push(y + self.skip[channel] * x[at]);
                    }
                }
                part
            })
            .collect();
        for (task, part) in parts.iter().enumerate() {
            let first = task * CHANNELS;
            let channels = CHANNELS.min(inner - first);
            for (out, part) in out.chunks_mut(inner).zip(part.chunks(channels)) {
                out[first..first + channels].copy_from_slice(part);
            }
        }
    }
}
