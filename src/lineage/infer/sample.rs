//! Rows of the child's tensors, with the same rows of every candidate beside them.

use crate::engine::Lanes;
use crate::error::{Error, Result};
use crate::kernels::Kernels;
use crate::model::{Checkpoint, Float, LayerName, Source, split_layer};
use std::collections::BTreeMap;

/// The least a sample takes of a tensor, where it has as many elements: quantiles and ranks need some.
const LEAST: usize = 4096;
/// Parts of an ulp that the rounding of a sum of products is taken to be exact to, relative to what is
/// added up: arithmetic in f32 is not exact to the last bit of an f32.
const F32_STEPS: f32 = 32.0;

/// Rows of one tensor.
pub(super) struct Slab {
    /// The child's name for it.
    pub(super) name: String,
    /// Its shape.
    pub(super) shape: Vec<usize>,
    /// The rows that were read, in order.
    pub(super) rows: Vec<usize>,
    /// Elements of a row.
    pub(super) columns: usize,
    /// The child's elements.
    pub(super) child: Vec<f32>,
    /// The candidates' elements.
    pub(super) of: Vec<Vec<f32>>,
    /// For each element the standard deviation of its rounding.
    pub(super) sigma: Vec<f32>,
}

/// Rows of all tensors that the child and the candidates share.
pub(super) struct Sample {
    /// One entry a tensor, in the order of the child's names.
    pub(super) slabs: Vec<Slab>,
    /// The child's tensors that are left out, with the reason.
    pub(super) left_out: BTreeMap<String, String>,
    /// The share of the elements that was read.
    pub(super) share: f64,
}

/// How a checkpoint's tensors are called in others: names without what stands before the layers' stack.
pub(super) struct Names<'a> {
    model: &'a Checkpoint,
    short: BTreeMap<String, Option<&'a str>>,
}

/// A name without its wrapping: `layers.3.mlp.up_proj.weight` for any stack of layers, the last two
/// parts of a name outside the layers.
fn short(name: &str) -> String {
    match split_layer(name) {
        Some(LayerName { layer, rest, .. }) => format!("{layer}{rest}"),
        None => {
            let mut parts: Vec<&str> = name.rsplit('.').take(2).collect();
            parts.reverse();
            parts.join(".")
        }
    }
}

impl<'a> Names<'a> {
    pub(super) fn new(model: &'a Checkpoint) -> Self {
        let mut names: BTreeMap<String, Option<&'a str>> = BTreeMap::new();
        for (name, _) in model.tensors() {
            // Two tensors of one short name: neither is meant.
            names.entry(short(name)).and_modify(|known| *known = None).or_insert(Some(name));
        }
        Self { model, short: names }
    }

    /// The tensor that stands for another model's `name`: of the same name, or of the same place under
    /// another wrapping.
    pub(super) fn find(&self, name: &str) -> Option<&'a dyn Source> {
        if let Some((_, tensor)) = self.model.tensor_or_tied(name) {
            return Some(tensor);
        }
        let wrapped = self.short.get(&short(name)).copied().flatten()?;
        self.model.tensor(wrapped)
    }
}

impl Slab {
    pub(super) fn elements(&self) -> usize {
        self.child.len()
    }

    /// Whether all of the tensor was read.
    pub(super) fn whole(&self) -> bool {
        self.elements() == self.shape.iter().product::<usize>()
    }

    /// Whether every element of the child is that of a candidate.
    pub(super) fn copies(&self, candidate: usize) -> bool {
        self.child == self.of[candidate]
    }

    /// The layer, and the name within it; a name outside the layers has no layer.
    pub(super) fn place(&self) -> (Option<usize>, &str) {
        match split_layer(&self.name) {
            Some(split) => (Some(split.layer), split.rest),
            None => (None, &self.name),
        }
    }
}

impl Sample {
    /// Reads evenly spaced rows of every float tensor that the child shares with all candidates: a
    /// `share` of them, or fewer where `bytes` do not hold more.
    ///
    /// # Errors
    /// A tensor cannot be read, or holds a value that is no number.
    pub(super) fn read(
        child: &Checkpoint,
        candidates: &[&Checkpoint],
        share: f64,
        bytes: u64,
    ) -> Result<Self> {
        let names: Vec<Names<'_>> = candidates.iter().map(|model| Names::new(model)).collect();
        let mut left_out = BTreeMap::new();
        let mut shared: Vec<(&dyn Source, Vec<&dyn Source>)> = Vec::new();
        for (name, tensor) in child.tensors() {
            match partners(candidates, &names, tensor) {
                Ok(partners) => shared.push((tensor, partners)),
                Err(reason) => {
                    left_out.insert(name.to_string(), reason);
                }
            }
        }
        let elements: usize = shared.iter().map(|(tensor, _)| tensor.spec().elements()).sum();
        let an_element = 4 * (candidates.len() as u64 + 2);
        let fits = bytes as f64 / (an_element * elements.max(1) as u64) as f64;
        let share = share.min(fits).min(1.0);
        let slabs = Lanes::Pool
            .collect(0..shared.len(), |at| Slab::read(shared[at].0, &shared[at].1, share))?;
        let read: usize = slabs.iter().map(Slab::elements).sum();
        Ok(Self { slabs, left_out, share: read as f64 / elements.max(1) as f64 })
    }

    pub(super) fn elements(&self) -> usize {
        self.slabs.iter().map(Slab::elements).sum()
    }
}

/// The candidates' tensors that stand for the child's; or why there are none.
fn partners<'a>(
    candidates: &[&Checkpoint],
    names: &[Names<'a>],
    tensor: &dyn Source,
) -> std::result::Result<Vec<&'a dyn Source>, String> {
    let spec = tensor.spec();
    if spec.float().is_none() {
        return Err(format!("its dtype {} has no arithmetic", spec.dtype));
    }
    let found = names.iter().zip(candidates).map(|(names, model)| {
        let found = names.find(&spec.name).ok_or_else(|| format!("not in {}", model.reference))?;
        if found.spec().shape != spec.shape {
            let (own, other) = (&spec.shape, &found.spec().shape);
            return Err(format!("{own:?} here, {other:?} in {}", model.reference));
        }
        if found.spec().float().is_none() {
            return Err(format!("{} in {}", found.spec().dtype, model.reference));
        }
        Ok(found)
    });
    found.collect()
}

impl Slab {
    fn read(child: &dyn Source, candidates: &[&dyn Source], share: f64) -> Result<Self> {
        let spec = child.spec();
        let columns = spec.shape.last().copied().unwrap_or(1).max(1);
        let all = spec.elements() / columns;
        let least = LEAST.div_ceil(columns);
        let taken = ((all as f64 * share).round() as usize).max(least).min(all);
        let rows = super::units::spread(all, taken);
        let of = candidates
            .iter()
            .map(|source| rows_of(*source, &rows, columns))
            .collect::<Result<Vec<_>>>()?;
        let child = rows_of(child, &rows, columns)?;
        let float = spec.float().unwrap_or(Float::F32);
        let sigma = (0..child.len())
            .map(|e| {
                let largest = of.iter().fold(child[e].abs(), |most, x| most.max(x[e].abs()));
                rounding(float, largest)
            })
            .collect();
        let (name, shape) = (spec.name.clone(), spec.shape.clone());
        Ok(Self { name, shape, rows, columns, child, of, sigma })
    }
}

/// These rows of a tensor, one after the other; rows that follow each other are read together.
pub(super) fn rows_of(source: &dyn Source, rows: &[usize], columns: usize) -> Result<Vec<f32>> {
    let mut values = vec![0.0; rows.len() * columns];
    let mut nan = false;
    let mut at = 0;
    while at < rows.len() {
        let run = (at..rows.len()).take_while(|next| rows[*next] == rows[at] + next - at).count();
        nan |= source.read(rows[at] * columns, &mut values[at * columns..(at + run) * columns])?;
        at += run;
    }
    if nan {
        let error = Error::input("a model holds a NaN").tensor(&source.spec().name);
        let error = match source.origin() {
            Some(file) => error.file(file),
            None => error,
        };
        return Err(error.hint("the checkpoint is damaged or its training diverged"));
    }
    Ok(values)
}

/// The standard deviation of rounding a number of this magnitude: its ulp over √12.
pub(super) fn rounding(float: Float, magnitude: f32) -> f32 {
    let exponent = ((magnitude.to_bits() >> 23) & 0xff) as i32 - 127;
    let (digits, least, steps) = match float {
        Float::BF16 => (7, -126, 1.0),
        Float::F16 => (10, -14, 1.0),
        Float::F32 => (23, -126, F32_STEPS),
    };
    let ulp = 2.0_f32.powi((exponent.max(least) - digits).max(-149));
    (ulp * steps / 12.0_f32.sqrt()).max(f32::MIN_POSITIVE)
}

/// What a float type makes of a value, as the engine writes it.
pub(super) fn rounded(kernels: Kernels, float: Float, values: &mut [f32]) {
    let mut bytes = vec![0; values.len() * float.size()];
    kernels.encode(float, values, &mut bytes);
    kernels.decode(float, &bytes, &[], values);
}
