//! Mixtures of experts: a builder of the same plan as merges.
//!
//! Which tensors there are follows from the descriptions of the dense family and of the mixture's: what
//! stands at the same place in a dense MLP and in an expert is the same weight.

mod assembly;
mod surgery;

pub(super) use assembly::build;
pub(super) use surgery::change;

use super::{Input, Job};
use crate::error::{Error, Result};
use crate::methods::{COPY, EXPERT, Method, Params, Value};
use crate::model::architectures::{self, Architecture};
use crate::model::{Checkpoint, Float, TensorSpec};
use crate::recipe::{Expert, Recipe};
use std::collections::BTreeMap;

/// The architecture of a model.
fn architecture(model: &Checkpoint) -> Result<Architecture> {
    let stored = |name: &str| model.tensor(name).is_some();
    let found = architectures::find(&model.config, stored);
    Ok(found.map_err(|e| e.model(&model.reference))?.architecture)
}

/// A method of the table.
fn known(name: &str) -> Result<&'static Method> {
    Method::named(name)
        .ok_or_else(|| Error::internal("the table of methods lacks one").fact("method", name))
}

/// Makes jobs of one tensor each.
struct Jobs<'a> {
    recipe: &'a Recipe,
    models: &'a [Checkpoint],
    list: Vec<Job>,
}

impl<'a> Jobs<'a> {
    fn new(recipe: &'a Recipe, models: &'a [Checkpoint]) -> Self {
        Self { recipe, models, list: Vec::new() }
    }

    /// The tensor `name` of a model, or what a tied head shares; what the model has no such tensor for is
    /// an error that says which.
    fn input(&self, model: usize, name: &str) -> Result<(Input, &'a TensorSpec)> {
        let checkpoint = &self.models[model];
        if let Some((stored, tensor)) = checkpoint.tensor_or_tied(name) {
            return Ok((Input { model, tensor: stored.to_string() }, tensor.spec()));
        }
        // Routers that are computed are not among the tensors of the model.
        let tensor = checkpoint.tensor(name).ok_or_else(|| {
            Error::input("a model lacks a tensor that its config asks for")
                .tensor(name)
                .fact("model", &checkpoint.reference)
        })?;
        Ok((Input { model, tensor: name.to_string() }, tensor.spec()))
    }

    /// Adds the output `name`, made by a method of tensors of the same shape.
    fn add(
        &mut self,
        name: &str,
        method: &'static Method,
        params: Params,
        from: &[(usize, &str)],
    ) -> Result<()> {
        let inputs = from.iter().map(|(model, name)| self.input(*model, name));
        let inputs: Vec<(Input, &TensorSpec)> = inputs.collect::<Result<_>>()?;
        let Some((_, lead)) = inputs.first() else {
            return Err(Error::internal("a tensor of nothing was planned").tensor(name));
        };
        let asked = self.recipe.out_dtype.or(self.recipe.dtype);
        let dtype = lead.float().map_or(lead.dtype, |kept| asked.unwrap_or(kept).dtype());
        self.list.push(Job {
            output: TensorSpec { name: name.to_string(), dtype, shape: lead.shape.clone() },
            method,
            models: inputs.len(),
            inputs: inputs.into_iter().map(|(input, _)| input).collect(),
            inputs_along: None,
            base: None,
            params,
            posts: Vec::new(),
            random_key: name.to_string(),
            shard: 0,
            offset: 0,
        });
        Ok(())
    }

    /// Adds a tensor as it is.
    fn copy(&mut self, name: &str, model: usize, from: &str) -> Result<()> {
        let (_, spec) = self.input(model, from)?;
        // Floats may have to be computed, or to take another dtype.
        let method = if spec.float().is_some() { known("passthrough")? } else { &COPY };
        let params = Params { inputs: vec![BTreeMap::new()], ..Params::default() };
        self.add(name, method, params, &[(model, from)])
    }

    /// Adds the average of tensors; of one alone, that one as it is.
    fn average(&mut self, name: &str, from: &[(usize, &str)]) -> Result<()> {
        if let [(model, one)] = from {
            return self.copy(name, *model, one);
        }
        let weight = BTreeMap::from([("weight", Value::Number(1.0))]);
        let params = Params {
            shared: BTreeMap::from([("normalize", Value::Bool(true))]),
            inputs: vec![weight; from.len()],
        };
        self.add(name, known("linear")?, params, from)
    }

    /// Adds a tensor of an expert, with its noise, and its scale where it is the last map's.
    fn expert(
        &mut self,
        name: &str,
        expert: &Expert,
        residual: bool,
        from: (usize, &str),
    ) -> Result<()> {
        let scale = expert.residual_scale.filter(|_| residual);
        let given = [("noise_scale", expert.noise_scale), ("residual_scale", scale)];
        let given = given.into_iter().filter_map(|(key, value)| Some((key, Value::Number(value?))));
        let shared: BTreeMap<&'static str, Value> = given.collect();
        match shared.is_empty() {
            true => self.copy(name, from.0, from.1),
            false => self.add(name, &EXPERT, Params { shared, ..Params::default() }, &[from]),
        }
    }

    /// Adds a row of a router or gate that was computed, in the dtype that a mixture's weights have.
    fn computed(
        &mut self,
        name: &str,
        like: Option<Float>,
        model: usize,
        from: &str,
    ) -> Result<()> {
        self.copy(name, model, from)?;
        if let (Some(job), Some(float)) = (self.list.last_mut(), like)
            && self.recipe.out_dtype.or(self.recipe.dtype).is_none()
        {
            job.output.dtype = float.dtype();
        }
        Ok(())
    }
}
