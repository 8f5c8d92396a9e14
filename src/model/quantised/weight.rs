//! A quantised weight as a [`Source`].

use crate::error::Result;
use crate::model::shards::StoredTensor;
use crate::model::source::{Source, TensorSpec};
use safetensors::Dtype;
use std::ops::Range;
use std::path::Path;

/// How a scheme computes elements of a weight from its parts.
pub(super) trait Decode: Send + Sync {
    /// Computes `out.len()` elements from element `start` on. The range lies in the weight. An
    /// element depends on its own place alone, not on where a read starts.
    fn decode(&self, start: usize, out: &mut [f32]) -> Result<()>;

    /// Lets go of what was kept for later reads.
    fn forget(&self) {}
}

/// A weight that is computed from the stored tensors of a quantisation scheme.
pub(super) struct Weight {
    spec: TensorSpec,
    /// The stored tensors it is made of, the packed numbers first.
    parts: Vec<StoredTensor>,
    /// Whether the packed numbers stand in the order of the weight's elements.
    in_order: bool,
    decode: Box<dyn Decode>,
}

impl Weight {
    /// A weight whose packed numbers, the first of `parts`, stand in the order of its elements.
    pub(super) fn new(
        name: &str,
        dtype: Dtype,
        shape: &[usize],
        parts: Vec<StoredTensor>,
        decode: impl Decode + 'static,
    ) -> Self {
        let spec = TensorSpec { name: name.to_string(), dtype, shape: shape.to_vec() };
        Self { spec, parts, in_order: true, decode: Box::new(decode) }
    }

    /// The same, but stored in another order, so that any part of it may need all packed numbers.
    pub(super) fn out_of_order(self) -> Self {
        Self { in_order: false, ..self }
    }

    /// Hands ranges of the parts that belong to `elements` to a hint.
    fn hint(
        &self,
        elements: Range<usize>,
        whole: bool,
        hint: impl Fn(&StoredTensor, Range<usize>),
    ) {
        let total = self.spec.elements();
        for (i, part) in self.parts.iter().enumerate() {
            let length = part.spec().elements();
            if i == 0 && self.in_order && total > 0 {
                let place = |at: usize| {
                    let place = at.min(total) as u128 * length as u128 / total as u128;
                    usize::try_from(place).unwrap_or(length)
                };
                hint(part, place(elements.start)..place(elements.end));
            } else if whole {
                hint(part, 0..length);
            }
        }
    }
}

impl Source for Weight {
    fn spec(&self) -> &TensorSpec {
        &self.spec
    }

    fn read(&self, start: usize, out: &mut [f32]) -> Result<bool> {
        self.spec.check_read(start, out.len())?;
        if !out.is_empty() {
            self.decode.decode(start, out)?;
        }
        Ok(out.iter().any(|value| value.is_nan()))
    }

    fn parts(&self) -> Vec<&str> {
        self.parts.iter().map(|part| part.spec().name.as_str()).collect()
    }

    fn origin(&self) -> Option<&Path> {
        self.parts.first()?.origin()
    }

    fn prefetch(&self, elements: Range<usize>) {
        let first = elements.start == 0;
        self.hint(elements, first, |part, range| part.prefetch(range));
    }

    fn release(&self, elements: Range<usize>) {
        let last = elements.end >= self.spec.elements();
        self.hint(elements, last, |part, range| part.release(range));
        if last {
            self.decode.forget();
        }
    }
}
