//! Looking at activations while a model runs.

use super::sequences::Slice;
use super::tensors::{width, with_elements};
use crate::error::Result;
use candle_core::Tensor;
use std::ops::Range;

/// A place in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// What attention or the state space reads, behind its norm.
    MixerInput,
    /// What it gives, before it is added.
    MixerOutput,
    /// What the multilayer perceptron or the router reads, behind its norm.
    MlpInput,
    /// What it gives, before it is added.
    MlpOutput,
    /// The hidden states behind the layer.
    LayerOutput,
}

/// Activations of some sequences at one point.
pub struct Activations<'a> {
    /// The layer's number.
    pub layer: usize,
    /// Where in the layer.
    pub point: Point,
    /// The number of the first sequence; others follow in order.
    pub first_sequence: usize,
    /// The rows of each sequence, a row a token.
    pub sequences: Vec<Range<usize>>,
    /// Elements of a row.
    pub width: usize,
    /// The rows, one after the other.
    pub values: &'a [f32],
}

/// Sees activations while a model runs, from several threads at once.
pub trait Observer: Sync {
    /// Whether activations at this point are of interest.
    fn wants(&self, layer: usize, point: Point) -> bool;

    /// Sees some.
    ///
    /// # Errors
    /// An error ends the run.
    fn see(&self, activations: &Activations<'_>) -> Result<()>;
}

/// An observer, if there is one, and what it is looking at.
#[derive(Clone, Copy, Default)]
pub(super) struct Observation<'a> {
    pub(super) observer: Option<&'a dyn Observer>,
    /// The number of the slice's first sequence.
    pub(super) first_sequence: usize,
}

impl Observation<'_> {
    pub(super) fn see(&self, layer: usize, point: Point, slice: &Slice, x: &Tensor) -> Result<()> {
        let Some(observer) = self.observer.filter(|observer| observer.wants(layer, point)) else {
            return Ok(());
        };
        with_elements(x, |values| {
            observer.see(&Activations {
                layer,
                point,
                first_sequence: self.first_sequence,
                sequences: slice.segments.iter().map(|segment| segment.rows.clone()).collect(),
                width: width(x),
                values,
            })
        })?
    }
}
