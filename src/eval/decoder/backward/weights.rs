//! The weights of one part of a model, as variables of candle's graphs.

use super::operations::{bias, linear, norm};
use crate::error::{Error, Result};
use crate::eval::decoder::tensors::failed;
use crate::eval::decoder::weights::read;
use crate::model::{Checkpoint, architectures as data};
use candle_core::{Device, Tensor, Var};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// Weights by name. They may listen to what goes into linear maps.
pub(crate) struct Weights {
    tensors: BTreeMap<String, Tensor>,
    /// The linear maps that are listened to, by the first of their weights.
    listening: Arc<BTreeSet<String>>,
    /// What went into them, in order.
    heard: Mutex<Vec<(String, Tensor)>>,
}

impl Weights {
    /// Reads weights, in parallel; with `tracked` their gradients can be taken.
    pub(super) fn read(checkpoint: &Checkpoint, names: &[String], tracked: bool) -> Result<Self> {
        let mut found = BTreeMap::new();
        for name in names {
            let source = checkpoint.shared(name).ok_or_else(|| lost(name))?;
            let spec = source.spec();
            let mut values = vec![0.0; spec.elements()];
            read(&**source, 0, &mut values)?;
            let tensor = Tensor::from_vec(values, spec.shape.clone(), &Device::Cpu);
            found.insert(name.clone(), variable(tensor.map_err(failed)?, tracked)?);
        }
        Ok(Self { tensors: found, listening: Arc::default(), heard: Mutex::default() })
    }

    /// The weight of this name.
    pub(super) fn get(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| lost(name))
    }

    /// The same, listening to what goes into the linear maps that begin with these weights.
    pub(crate) fn listening<'a>(self, maps: impl Iterator<Item = &'a str>) -> Self {
        Self { listening: Arc::new(maps.map(str::to_string).collect()), ..self }
    }

    /// The same weights, which have heard nothing yet.
    pub(crate) fn fresh(&self) -> Self {
        let (tensors, listening) = (self.tensors.clone(), Arc::clone(&self.listening));
        Self { tensors, listening, heard: Mutex::default() }
    }

    /// What went into the linear maps that are listened to, in order: a row a token.
    pub(crate) fn heard(self) -> Vec<(String, Tensor)> {
        self.heard.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, while more may follow.
    pub(super) fn so_far(&self) -> Vec<(String, Tensor)> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn hear(&self, of: &data::Linear, x: &Tensor) {
        let first = of.parts.first().map(|part| &part.weight);
        if let Some(first) = first.filter(|first| self.listening.contains(*first)) {
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            heard.push((first.clone(), x.clone()));
        }
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }
}

/// A tensor whose gradient can be taken, if it is tracked.
pub(super) fn variable(tensor: Tensor, tracked: bool) -> Result<Tensor> {
    match tracked {
        true => Var::from_tensor(&tensor).map(|var| var.as_tensor().clone()).map_err(failed),
        false => Ok(tensor),
    }
}

fn lost(name: &str) -> Error {
    Error::internal("a weight was not read before it was applied").tensor(name)
}

/// `x·Wᵀ + b`, whose outputs may come from several tensors.
pub(super) fn linear_of(x: &Tensor, of: &data::Linear, weights: &Weights) -> Result<Tensor> {
    weights.hear(of, x);
    let mut parts = Vec::with_capacity(of.parts.len());
    for part in &of.parts {
        let mut y = linear(x, weights.get(&part.weight)?, of.transposed)?;
        if let Some(name) = &part.bias {
            y = bias(&y, weights.get(name)?, &[0])?;
        }
        parts.push(y);
    }
    match parts.as_slice() {
        [one] => Ok(one.clone()),
        several => Tensor::cat(several, 1).map_err(failed),
    }
}

/// Normalises the parts of each row that begin at `starts`.
pub(super) fn norm_of(
    x: &Tensor,
    of: &data::Norm,
    starts: &[usize],
    weights: &Weights,
) -> Result<Tensor> {
    let stored: Result<Vec<Tensor>> = of
        .weights
        .iter()
        .map(|name| weights.get(name).and_then(|w| w.flatten_all().map_err(failed)))
        .collect();
    let total = of.width * of.rows;
    let w = match stored?.as_slice() {
        [] => Tensor::ones(total, candle_core::DType::F32, &Device::Cpu),
        [one] => Ok(one.clone()),
        several => Tensor::cat(several, 0),
    };
    let mut w = w.map_err(failed)?;
    if of.offset != 0.0 {
        w = w.affine(1.0, f64::from(of.offset)).map_err(failed)?;
    }
    let y = norm(x, &w, of, starts)?;
    match &of.bias {
        Some(name) => bias(&y, weights.get(name)?, starts),
        None => Ok(y),
    }
}

/// The names of a norm's weights.
pub(super) fn names_of_norm(of: Option<&data::Norm>, names: &mut Vec<String>) {
    if let Some(of) = of {
        names.extend(of.weights.iter().chain(&of.bias).cloned());
    }
}

/// The names of a linear map's weights.
pub(super) fn names_of_linear(of: Option<&data::Linear>, names: &mut Vec<String>) {
    for part in of.into_iter().flat_map(|of| &of.parts) {
        names.push(part.weight.clone());
        names.extend(part.bias.clone());
    }
}
