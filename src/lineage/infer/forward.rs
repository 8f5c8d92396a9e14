//! A hypothesis put to the test: the engine's own methods on the sample, compared with the child.

use super::sample::{Slab, rounded};
use crate::engine::{Lanes, NanPolicy, TensorIo, random_stream};
use crate::error::{Error, Result};
use crate::kernels::{Kernels, Stream};
use crate::methods::{Default, Method, Params, Scope, Value};
use crate::model::{Float, Source, TensorSpec};
use std::collections::BTreeMap;

/// How well a hypothesis explains the child.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Check {
    /// Elements that were compared.
    pub elements: usize,
    /// Elements that are equal to the last bit.
    pub equal: usize,
    /// Elements that lie within three roundings.
    pub near: usize,
    /// Σ (y − ŷ)²/σ².
    pub rest: f64,
    /// The largest difference.
    pub largest: f64,
}

impl Check {
    /// The share of the elements that are equal.
    pub fn share(&self) -> f64 {
        self.equal as f64 / self.elements.max(1) as f64
    }

    /// The share of the elements that lie within three roundings.
    pub fn share_near(&self) -> f64 {
        self.near as f64 / self.elements.max(1) as f64
    }

    /// The residual in roundings.
    pub fn rms(&self) -> f64 {
        (self.rest / self.elements.max(1) as f64).sqrt()
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.elements += other.elements;
        self.equal += other.equal;
        self.near += other.near;
        self.rest += other.rest;
        self.largest = self.largest.max(other.largest);
    }

    /// Of what a method makes of a slab.
    pub(super) fn of(slab: &Slab, made: &[f32]) -> Self {
        let mut check = Self { elements: slab.elements(), ..Self::default() };
        for ((made, child), sigma) in made.iter().zip(&slab.child).zip(&slab.sigma) {
            let difference = f64::from(*made) - f64::from(*child);
            let relative = difference / f64::from(*sigma);
            check.equal += usize::from(made == child);
            // Three and a half, as a rounding of twice the size is possible at either end.
            check.near += usize::from(relative.abs() <= 3.5);
            check.rest += relative * relative;
            check.largest = check.largest.max(difference.abs());
        }
        check
    }
}

/// Rows of a tensor in memory, as a tensor.
struct Held<'a> {
    spec: TensorSpec,
    values: &'a [f32],
}

impl Source for Held<'_> {
    fn spec(&self) -> &TensorSpec {
        &self.spec
    }

    fn read(&self, start: usize, out: &mut [f32]) -> Result<bool> {
        let found = self.values.get(start..start + out.len());
        let found = found.ok_or_else(|| Error::internal("a read past the end of a sample"))?;
        out.copy_from_slice(found);
        Ok(false)
    }
}

/// A method with the models it takes, by their places among the candidates, in the recipe's order.
pub(super) struct Forward {
    pub(super) method: &'static Method,
    pub(super) models: Vec<usize>,
    /// The place of the base in `models`.
    pub(super) base: Option<usize>,
}

impl Forward {
    /// By the method's name.
    ///
    /// # Errors
    /// There is no such method.
    pub(super) fn new(name: &str, models: Vec<usize>, base: Option<usize>) -> Result<Self> {
        let method = Method::named(name)
            .ok_or_else(|| Error::internal("a method is gone").fact("method", name))?;
        Ok(Self { method, models, base })
    }

    /// The method's parameters with their defaults, but for these: shared ones, and one map a model.
    pub(super) fn params(
        &self,
        shared: &BTreeMap<&'static str, Value>,
        models: &[BTreeMap<&'static str, Value>],
    ) -> Params {
        let mut params =
            Params { inputs: vec![BTreeMap::new(); self.models.len()], ..Params::default() };
        for param in self.method.params {
            let default = match param.default {
                Default::Required | Default::Absent => None,
                _ => param.default_value(),
            };
            match param.scope {
                Scope::Shared => {
                    if let Some(value) = shared.get(param.name).cloned().or(default) {
                        params.shared.insert(param.name, value);
                    }
                }
                Scope::Input | Scope::NonBase => {
                    for (at, input) in params.inputs.iter_mut().enumerate() {
                        if param.scope == Scope::NonBase && Some(at) == self.base {
                            continue;
                        }
                        let given = models.get(at).and_then(|of| of.get(param.name)).cloned();
                        if let Some(value) = given.or_else(|| default.clone()) {
                            input.insert(param.name, value);
                        }
                    }
                }
            }
        }
        params
    }

    /// What the method makes of a slab, rounded to the child's dtype.
    ///
    /// # Errors
    /// The method fails.
    pub(super) fn made(
        &self,
        slab: &Slab,
        params: &Params,
        float: Float,
        seed: u64,
    ) -> Result<Vec<f32>> {
        let shape = match slab.whole() {
            true => slab.shape.clone(),
            false => vec![slab.rows.len(), slab.columns],
        };
        let held: Vec<Held<'_>> = self
            .models
            .iter()
            .map(|model| Held {
                spec: TensorSpec {
                    name: slab.name.clone(),
                    dtype: Float::F32.dtype(),
                    shape: shape.clone(),
                },
                values: &slab.of[*model],
            })
            .collect();
        let inputs: Vec<&dyn Source> = held.iter().map(|held| held as &dyn Source).collect();
        let streams: Vec<Stream> =
            (0..inputs.len()).map(|model| random_stream(seed, model, &slab.name)).collect();
        let kernels = Kernels::best();
        let io = TensorIo::new(&inputs, self.base, &streams, kernels, Lanes::One, NanPolicy::Keep);
        let map = (self.method.prepare)(&io, params)?;
        let mut made = vec![0.0; slab.elements()];
        io.mapped(&map, |start, values| {
            if let Some(out) = made.get_mut(start..start + values.len()) {
                out.copy_from_slice(values);
            }
        })?;
        rounded(kernels, float, &mut made);
        Ok(made)
    }
}
