//! Tensors that an adapter stores whole: they take the place of the model's own, or (`lora_bias`) are
//! added to it.

use crate::error::Result;
use crate::kernels::Kernels;
use crate::model::shards::StoredTensor;
use crate::model::source::{Source, TensorSpec};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A tensor of the adapter under the name and dtype of the model's tensor it replaces.
pub(super) struct Replaced {
    spec: TensorSpec,
    by: StoredTensor,
}

impl Replaced {
    /// `by`, seen as `spec`; the caller has checked that the shapes are the same.
    pub(super) fn new(spec: TensorSpec, by: StoredTensor) -> Self {
        Self { spec, by }
    }
}

impl Source for Replaced {
    fn spec(&self) -> &TensorSpec {
        &self.spec
    }

    fn read(&self, start: usize, out: &mut [f32]) -> Result<bool> {
        self.by.read(start, out)
    }

    fn stored(&self) -> Option<&[u8]> {
        // Bytes of another dtype are not those of this tensor.
        self.by.stored().filter(|_| self.by.spec().dtype == self.spec.dtype)
    }

    fn parts(&self) -> Vec<&str> {
        self.by.parts()
    }

    fn origin(&self) -> Option<&Path> {
        self.by.origin()
    }

    fn prefetch(&self, elements: Range<usize>) {
        self.by.prefetch(elements);
    }

    fn release(&self, elements: Range<usize>) {
        self.by.release(elements);
    }
}

/// A tensor of the model with `scale` times one of the adapter added, in f32.
pub(super) struct Added {
    base: Arc<dyn Source>,
    change: StoredTensor,
    scale: f32,
}

impl Added {
    /// `base + scale · change`; the caller has checked that the shapes are the same.
    pub(super) fn new(base: Arc<dyn Source>, change: StoredTensor, scale: f32) -> Self {
        Self { base, change, scale }
    }
}

impl Source for Added {
    fn spec(&self) -> &TensorSpec {
        self.base.spec()
    }

    fn read(&self, start: usize, out: &mut [f32]) -> Result<bool> {
        let mut change = vec![0.0; out.len()];
        let in_change = self.change.read(start, &mut change)?;
        let in_base = self.base.read(start, out)?;
        Kernels::best().add_scaled(self.scale, &change, out);
        Ok(in_base || in_change || out.iter().any(|value| value.is_nan()))
    }

    fn parts(&self) -> Vec<&str> {
        let mut parts = self.base.parts();
        parts.extend(self.change.parts());
        parts
    }

    fn origin(&self) -> Option<&Path> {
        self.base.origin()
    }

    fn prefetch(&self, elements: Range<usize>) {
        self.change.prefetch(elements.clone());
        self.base.prefetch(elements);
    }

    fn release(&self, elements: Range<usize>) {
        self.change.release(elements.clone());
        self.base.release(elements);
    }
}
