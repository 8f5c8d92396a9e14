//! The table of post-steps: what can be done to the merged task vector, `out − base`, of any method
//! that has a base.

use super::params::{Param, Params};
use super::{Map, nothing};
use super::{lines, singular_values};
use crate::engine::TensorIo;
use crate::error::{Error, Result};

/// A step behind a merge method: a row of [`POSTS`].
#[derive(Debug)]
pub struct Post {
    /// Its key in recipes.
    pub name: &'static str,
    /// One line on what it does.
    pub summary: &'static str,
    /// The formula, in the terms of `docs/methods.md`.
    pub formula: &'static str,
    /// The paper or other source.
    pub reference: &'static str,
    /// What else a user may want to know, in Markdown.
    pub notes: &'static str,
    /// Its parameters, all of them shared.
    pub params: &'static [Param],
    /// Bytes it keeps for each tensor besides those of the method, given its parameters, the number
    /// of inputs and the shape.
    pub holds: fn(&Params, inputs: usize, shape: &[usize]) -> u64,
    /// Bytes it holds at once for a weight matrix of a layer, which it takes whole, given the number of
    /// inputs, rows and columns; 0 if it changes it chunk by chunk.
    pub whole: fn(inputs: usize, shape: (usize, usize)) -> u64,
    /// Changes the map that the method returned.
    pub prepare: fn(&TensorIo<'_>, Map, &Step) -> Result<Map>,
}

/// A post-step as it is done to one tensor.
#[derive(Clone, Debug)]
pub struct Step {
    /// What is done.
    pub post: &'static Post,
    /// Its parameters for the tensor.
    pub params: Params,
    /// The inputs that are models with a part in the merge: neither the base nor of weight 0.
    pub tasks: Vec<usize>,
    /// Where the tensor's layer stands in its stack, from 0 (the first) to 1; none outside layers.
    pub depth: Option<f64>,
}

/// Every post-step, in the order in which they are done.
pub static POSTS: [Post; 3] =
    [singular_values::SUBSPACE_BOOSTING, singular_values::SVC, lines::POST];

impl Post {
    /// The post-step whose key is `name`.
    pub fn named(name: &str) -> Option<&'static Self> {
        POSTS.iter().find(|post| post.name == name)
    }
}

/// What most post-steps have in common, for their rows to begin from.
pub(super) const PLAIN: Post = Post {
    name: "",
    summary: "",
    formula: "",
    reference: "",
    notes: "",
    params: &[],
    holds: nothing,
    whole: |_, _| 0,
    prepare: |_, _, _| Err(Error::internal("a post-step without a formula was called")),
};

impl Map {
    /// This map, and `change` behind it, which gets the base's elements and the output to change.
    pub(super) fn then(
        self,
        base: usize,
        change: impl Fn(&[f32], &mut [f32]) + Send + Sync + 'static,
    ) -> Self {
        // The base is taken aside first, since a map may overwrite its inputs.
        match self {
            Self::Copy(input) if input == base => Self::Copy(input),
            Self::Copy(input) => Self::new(move |_, inputs, out| {
                out.copy_from_slice(&inputs[input]);
                change(&inputs[base], out);
            }),
            Self::Elements(map) => Self::new(move |start, inputs, out| {
                let origin = inputs[base].clone();
                map(start, inputs, out);
                change(&origin, out);
            }),
            Self::Rows(map) => Self::rows(move |row, inputs, out| {
                let origin = inputs[base].clone();
                map(row, inputs, out);
                change(&origin, out);
            }),
        }
    }
}
