//! The decoder backwards: gradients of likelihoods by the weights, one part of a model at a time.
//!
//! The same descriptions as the decoder's are put together from operations that candle can
//! differentiate; what is not linear is computed by the same kernels. Sequences are computed one by
//! one. Every sum goes in a fixed order, so that threads, memory and instruction sets do not show in a
//! gradient.

mod attention;
mod embedding;
mod head;
mod layer;
mod operations;
mod product;
#[cfg(test)]
mod tests;
mod weights;

pub(crate) use head::{HeadGradient, HeadWeights};
pub(crate) use product::gram;
pub(crate) use weights::Weights;

use super::tensors::{failed, width};
use crate::error::{Error, Result};
use crate::model::architectures::{self, Architecture, Layer, MapInput, Mlp};
use crate::model::{Checkpoint, Source};
use candle_core::Tensor;
use candle_core::backprop::GradStore;

/// A model whose gradients can be taken.
pub(crate) struct Backward<'a> {
    checkpoint: &'a Checkpoint,
    data: Architecture,
    /// The tensor that the head is stored as.
    head: String,
}

/// The gradients of one sequence by the weights of one part.
pub(crate) struct Gradients {
    store: GradStore,
}

impl Gradients {
    /// That of `out`, given the gradient behind it, by everything it is made of.
    pub(crate) fn new(out: &Tensor, behind: &Tensor) -> Result<Self> {
        let through = out.mul(behind).and_then(|product| product.sum_all());
        let store = through.and_then(|sum| sum.backward()).map_err(failed)?;
        Ok(Self { store })
    }

    /// The gradient by a variable, contiguous; none if nothing depends on it.
    pub(crate) fn of(&self, variable: &Tensor) -> Result<Option<Tensor>> {
        let found = self.store.get(variable);
        found.map(|gradient| gradient.contiguous().map_err(failed)).transpose()
    }
}

impl<'a> Backward<'a> {
    /// Opens a model; no weight is read. That it is as its config says is left to [`super::Decoder::open`].
    ///
    /// # Errors
    /// The model's family is not known, or has state spaces.
    pub(crate) fn open(checkpoint: &'a Checkpoint) -> Result<Self> {
        let located = |error: Error| error.model(&checkpoint.reference);
        let stored = |name: &str| checkpoint.tensor(name).is_some();
        let data = architectures::find(&checkpoint.config, stored).map_err(located)?.architecture;
        for layer in &data.layers {
            layer::names(layer).map_err(located)?;
        }
        let head = match checkpoint.tensor(&data.head.tensor) {
            Some(_) => data.head.tensor.clone(),
            None => format!("{}.weight", data.embedding.tensor),
        };
        Ok(Self { checkpoint, data, head })
    }

    /// The longest sequence it was made for.
    pub(crate) fn context(&self) -> Option<usize> {
        self.data.context
    }

    /// How many layers it has.
    pub(crate) fn layers(&self) -> usize {
        self.data.layers.len()
    }

    /// The width of its hidden states.
    pub(crate) fn hidden(&self) -> usize {
        self.data.hidden
    }

    /// Rows of its head.
    pub(crate) fn vocabulary(&self) -> usize {
        self.data.vocabulary
    }

    /// Bytes that a token of a sequence takes in the graph of the largest part, about; what grows with
    /// the square of the length is apart.
    pub(crate) fn token_bytes(&self) -> Result<u64> {
        let layers = self.data.layers.iter();
        let most = layers
            .map(|of| layer::elements(of, self.data.hidden))
            .try_fold(0, |most, own| own.map(|own| most.max(own)))?;
        // Values and gradients.
        Ok(8 * most as u64)
    }

    /// The names of a layer's weights.
    pub(crate) fn layer_names(&self, number: usize) -> Result<Vec<String>> {
        self.data.layers.get(number).map_or_else(|| Err(no_layer()), layer::names)
    }

    /// What goes into the linear maps of a layer.
    pub(crate) fn layer_inputs(&self, number: usize) -> Result<Vec<MapInput>> {
        self.data.layers.get(number).map(Layer::inputs).ok_or_else(no_layer)
    }

    /// The weight that names what a layer's router reads, or would read: that of the router, or the first
    /// of the MLP's.
    pub(crate) fn router_input(&self, number: usize) -> Result<&str> {
        let layer = self.data.layers.get(number).ok_or_else(no_layer)?;
        let first = match &layer.mlp {
            Some(Mlp::Dense(of)) => of.up.parts.first(),
            Some(Mlp::Experts(of)) => of.router.parts.first(),
            None => None,
        };
        let first = first.map(|part| part.weight.as_str());
        first.ok_or_else(|| Error::input("a layer without an MLP").fact("layer", number))
    }

    /// The architecture.
    pub(crate) fn architecture(&self) -> &Architecture {
        &self.data
    }

    /// What goes into the linear maps before the first layer, and into those behind the last, the head
    /// among them if it is not the embedding.
    pub(crate) fn end_inputs(&self) -> (Vec<MapInput>, Vec<MapInput>) {
        let stored = |name: &str| self.checkpoint.tensor(name).is_some();
        (self.data.first_inputs(), self.data.last_inputs(stored))
    }

    /// What goes into all of its linear maps.
    pub(crate) fn inputs(&self) -> Vec<MapInput> {
        self.data.inputs(|name| self.checkpoint.tensor(name).is_some())
    }

    /// The checkpoint.
    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        self.checkpoint
    }

    /// Reads weights by name; with `tracked`, gradients can be taken by them.
    pub(crate) fn weights(&self, names: &[String], tracked: bool) -> Result<Weights> {
        Weights::read(self.checkpoint, names, tracked)
    }

    /// A weight as it is stored.
    pub(crate) fn source(&self, name: &str) -> Result<&dyn Source> {
        self.checkpoint.tensor(name).ok_or_else(|| {
            Error::input("the checkpoint lacks a weight that its config asks for").tensor(name)
        })
    }

    /// The hidden states of a sequence behind a layer, from those before it.
    ///
    /// # Errors
    /// They are not finite numbers.
    pub(crate) fn layer(&self, number: usize, weights: &Weights, x: &Tensor) -> Result<Tensor> {
        let data = self.data.layers.get(number).ok_or_else(no_layer)?;
        let y = layer::layer(data, weights, x)?.contiguous().map_err(failed)?;
        super::layer::finite(number, &y)?;
        Ok(y)
    }

    /// Hidden states of a sequence that a gradient can be taken by.
    pub(crate) fn variable(x: Tensor) -> Result<Tensor> {
        debug_assert!(width(&x) > 0);
        weights::variable(x, true)
    }
}

fn no_layer() -> Error {
    Error::internal("a layer that the model does not have")
}
