//! Surveys: what a method has to know of a whole model before it can make the first of its tensors.

use super::Params;
use crate::engine::ModelIo;
use crate::error::Result;
use std::any::Any;

/// A pass, or several, over all tensors that a method merges with the same survey, in constant memory.
#[derive(Debug)]
pub struct Survey {
    /// Parameters that belong to the whole model, so that they have to be the same for all of its tensors.
    pub whole: &'static [&'static str],
    /// Makes it: for each tensor what its method finds again by [`crate::engine::TensorIo::surveyed`].
    pub make: fn(&ModelIo<'_>, &[Part<'_>]) -> Result<Vec<Surveyed>>,
}

/// One tensor of a whole model.
#[derive(Debug)]
pub struct Part<'a> {
    /// For each input, the model it is of.
    pub models: Vec<usize>,
    /// The tensor's parameters.
    pub params: &'a Params,
}

/// What a survey found for one tensor; the method knows of which type.
pub type Surveyed = Box<dyn Any + Send + Sync>;

/// As what a survey hands out.
pub(super) fn surveyed<T: Send + Sync + 'static>(found: Vec<T>) -> Vec<Surveyed> {
    found.into_iter().map(|found| Box::new(found) as Surveyed).collect()
}
