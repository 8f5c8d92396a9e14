//! The weights of a model: found by name, checked, read in parallel, kept or given back.

use super::tensors::{failed, matrix, rows};
use crate::error::{Error, Result};
use crate::kernels::Kernels;
use crate::model::Source;
use crate::model::architectures as data;
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, RwLock};

/// Elements that are read at a time by one thread.
const CHUNK: usize = 1 << 17;

/// Finds tensors by name and remembers which were asked for.
pub(super) struct Finder<'a> {
    pub(super) find: &'a dyn Fn(&str) -> Option<Arc<dyn Source>>,
    pub(super) used: BTreeSet<String>,
}

impl Finder<'_> {
    /// The tensor of this name and shape.
    pub(super) fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Arc<dyn Source>> {
        let source = (self.find)(name).ok_or_else(|| {
            Error::input("the checkpoint lacks a weight that its config asks for")
                .tensor(name)
                .expected(format!("{shape:?}"), "no such tensor")
        })?;
        self.used.insert(name.to_string());
        let found = &source.spec().shape;
        if found != shape {
            return Err(Error::input("a weight does not have the shape its config asks for")
                .tensor(name)
                .expected(format!("{shape:?}"), format!("{found:?}")));
        }
        Ok(source)
    }

    /// The elements of a short tensor.
    pub(super) fn vector(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let source = self.tensor(name, shape)?;
        let mut values = vec![0.0; source.spec().elements()];
        source.read(0, &mut values)?;
        Ok(values)
    }
}

/// Reads elements in parallel and gives the memory they were mapped to back.
pub(super) fn read(source: &dyn Source, start: usize, out: &mut [f32]) -> Result<()> {
    out.par_chunks_mut(CHUNK).enumerate().try_for_each(|(i, out)| {
        let first = start + i * CHUNK;
        source.read(first, out)?;
        source.release(first..first + out.len());
        Ok(())
    })
}

/// A norm with its weights.
pub(super) struct Norm {
    kind: data::NormKind,
    eps: f64,
    weights: Vec<f32>,
    bias: Option<Vec<f32>>,
    width: usize,
    rows: usize,
}

impl Norm {
    pub(super) fn open(norm: &data::Norm, finder: &mut Finder<'_>) -> Result<Self> {
        let total = norm.width * norm.rows;
        let mut weights = Vec::with_capacity(total);
        match norm.weights.as_slice() {
            [] => weights.resize(total, 1.0),
            [one] if norm.rows == 1 => weights = finder.vector(one, &[norm.width])?,
            [one] => weights = finder.vector(one, &[norm.rows, norm.width])?,
            several => {
                for name in several {
                    weights.extend(finder.vector(name, &[norm.width])?);
                }
            }
        }
        weights.iter_mut().for_each(|weight| *weight += norm.offset);
        let bias = norm.bias.as_ref().map(|name| finder.vector(name, &[norm.width])).transpose()?;
        Ok(Self {
            kind: norm.kind,
            eps: norm.eps,
            weights,
            bias,
            width: norm.width,
            rows: norm.rows,
        })
    }

    /// Elements that are normalised together.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Normalises one row; `head` chooses among several rows of weights.
    pub(super) fn normalise(&self, head: usize, row: &mut [f32]) {
        let kernels = Kernels::best();
        let first = head % self.rows * self.width;
        let weights = &self.weights[first..first + self.width];
        match self.kind {
            data::NormKind::Rms => kernels.rms_norm(self.eps, weights, row),
            data::NormKind::Layer => kernels.layer_norm(self.eps, weights, row),
        }
        if let Some(bias) = &self.bias {
            kernels.plus(bias, row);
        }
    }
}

/// `y = x·Wᵀ + b`. The weights are in memory after [`Linear::load`], and are read while they are
/// applied, some rows at a time, otherwise.
pub(super) struct Linear {
    parts: Vec<Part>,
    bias: Option<Vec<f32>>,
    inputs: usize,
    outputs: usize,
    transposed: bool,
    loaded: RwLock<Option<Tensor>>,
}

struct Part {
    weight: Arc<dyn Source>,
    /// The outputs it gives.
    outputs: Range<usize>,
}

impl Linear {
    pub(super) fn open(linear: &data::Linear, finder: &mut Finder<'_>) -> Result<Self> {
        let mut parts = Vec::new();
        let mut bias = Vec::new();
        let mut outputs = 0;
        for part in &linear.parts {
            let shape = match linear.transposed {
                true => [linear.inputs, part.outputs],
                false => [part.outputs, linear.inputs],
            };
            let weight = finder.tensor(&part.weight, &shape)?;
            if let Some(name) = &part.bias {
                bias.extend(finder.vector(name, &[part.outputs])?);
            }
            parts.push(Part { weight, outputs: outputs..outputs + part.outputs });
            outputs += part.outputs;
        }
        if linear.transposed && parts.len() != 1 {
            return Err(Error::internal("transposed weights come in one tensor"));
        }
        let bias = (!bias.is_empty()).then_some(bias);
        Ok(Self::of(parts, bias, linear.inputs, outputs, linear.transposed))
    }

    fn of(
        parts: Vec<Part>,
        bias: Option<Vec<f32>>,
        inputs: usize,
        outputs: usize,
        transposed: bool,
    ) -> Self {
        Self { parts, bias, inputs, outputs, transposed, loaded: RwLock::new(None) }
    }

    /// One tensor of outputs × inputs.
    pub(super) fn single(weight: Arc<dyn Source>, bias: Option<Vec<f32>>) -> Self {
        let (outputs, inputs) = match weight.spec().shape.as_slice() {
            [outputs, inputs] => (*outputs, *inputs),
            _ => (0, 0),
        };
        Self::of(vec![Part { weight, outputs: 0..outputs }], bias, inputs, outputs, false)
    }

    /// The width of what it gives.
    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// The width of what it takes.
    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Bytes that it takes once it is loaded.
    pub(super) fn bytes(&self) -> u64 {
        4 * self.inputs as u64 * self.outputs as u64
    }

    /// Brings the weights into memory, unless they are there.
    pub(super) fn load(&self) -> Result<()> {
        if self.weights()?.is_none() {
            let weights = self.read(0..self.outputs)?;
            *self.loaded.write().map_err(|_| poisoned())? = Some(weights);
        }
        Ok(())
    }

    /// Gives their memory back.
    pub(super) fn unload(&self) -> Result<()> {
        *self.loaded.write().map_err(|_| poisoned())? = None;
        Ok(())
    }

    /// Says that the weights are read soon.
    pub(super) fn prefetch(&self) {
        for part in &self.parts {
            part.weight.prefetch(0..part.weight.spec().elements());
        }
    }

    fn weights(&self) -> Result<Option<Tensor>> {
        Ok(self.loaded.read().map_err(|_| poisoned())?.clone())
    }

    /// The weights of some outputs as inputs × outputs, a view of how they are stored.
    fn read(&self, outputs: Range<usize>) -> Result<Tensor> {
        let mut values = vec![0.0; outputs.len() * self.inputs];
        if self.transposed {
            for part in &self.parts {
                read(&*part.weight, 0, &mut values)?;
            }
            return Tensor::from_vec(values, (self.inputs, self.outputs), &Device::Cpu)
                .map_err(failed);
        }
        let mut rest = values.as_mut_slice();
        for part in &self.parts {
            let first = outputs.start.clamp(part.outputs.start, part.outputs.end);
            let last = outputs.end.clamp(part.outputs.start, part.outputs.end);
            let (out, behind) = rest.split_at_mut((last - first) * self.inputs);
            read(&*part.weight, (first - part.outputs.start) * self.inputs, out)?;
            rest = behind;
        }
        matrix(values, self.inputs)?.t().map_err(failed)
    }

    /// `x·Wᵀ + b` for each row. Weights that are not loaded are read `block` bytes at a time.
    pub(super) fn apply(&self, x: &Tensor, block: u64) -> Result<Tensor> {
        let y = match self.weights()? {
            Some(weights) => x.matmul(&weights).map_err(failed)?,
            None if self.transposed || self.bytes() <= block => {
                x.matmul(&self.read(0..self.outputs)?).map_err(failed)?
            }
            None => {
                let mut values = vec![0.0; rows(x) * self.outputs];
                self.blocks(x, block, |first, part| {
                    let width = super::tensors::width(&part);
                    super::tensors::with_elements(&part, |part| {
                        for (row, part) in values.chunks_mut(self.outputs).zip(part.chunks(width)) {
                            row[first..first + width].copy_from_slice(part);
                        }
                    })
                })?;
                matrix(values, self.outputs)?
            }
        };
        if let Some(bias) = &self.bias {
            super::tensors::each_row(&y, |_, row| Kernels::best().plus(bias, row))?;
        }
        Ok(y)
    }

    /// `x·Wᵀ + b` some outputs at a time, given the number of the first: all at once if the weights
    /// are loaded, and else as many as `block` bytes hold, with the next ones read meanwhile.
    pub(super) fn each_block(
        &self,
        x: &Tensor,
        block: u64,
        mut work: impl FnMut(usize, Tensor) -> Result<()> + Send,
    ) -> Result<()> {
        self.blocks(x, block, |first, part| {
            if let Some(bias) = &self.bias {
                super::tensors::each_row(&part, |_, row| {
                    Kernels::best().plus(&bias[first..first + row.len()], row);
                })?;
            }
            work(first, part)
        })
    }

    fn blocks(
        &self,
        x: &Tensor,
        block: u64,
        mut work: impl FnMut(usize, Tensor) -> Result<()> + Send,
    ) -> Result<()> {
        if let Some(weights) = self.weights()? {
            return work(0, x.matmul(&weights).map_err(failed)?);
        }
        // Two blocks are in memory at a time.
        let count = (block / 8 / self.inputs.max(1) as u64).clamp(1, self.outputs.max(1) as u64);
        let count = if self.transposed { self.outputs } else { count as usize };
        let range = |first: usize| first..(first + count).min(self.outputs);
        let mut next = Some(self.read(range(0))?);
        for first in (0..self.outputs).step_by(count) {
            let Some(weights) = next.take() else { break };
            let behind = first + count;
            let (worked, read) = rayon::join(
                || x.matmul(&weights).map_err(failed).and_then(|part| work(first, part)),
                || (behind < self.outputs).then(|| self.read(range(behind))).transpose(),
            );
            worked?;
            next = read?;
        }
        Ok(())
    }
}

fn poisoned() -> Error {
    Error::internal("a thread that loaded weights failed")
}
