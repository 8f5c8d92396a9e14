//! The table of merge methods.
//!
//! A method is one [`Method`] value: what it takes, and a function that makes its reductions over
//! the inputs and returns the [`Map`] that the engine applies. Adding one means a file here and a
//! line in [`METHODS`]; `cognate methods`, the recipe checks and the generic tests follow from it.

mod arcee_fusion;
mod consensus;
mod copy;
mod decisions;
mod deltas;
mod expert;
mod fisher;
mod gram;
mod isotropic;
mod karcher;
mod linear;
mod lines;
mod model_stock;
mod multislerp;
mod nearswap;
mod nuslerp;
mod page;
mod params;
mod passthrough;
mod pcb;
mod posts;
mod ram;
mod regmean;
mod sce;
mod singular_values;
mod singular_vectors;
mod slerp;
mod survey;
mod task_matrix;
mod task_vectors;
mod threshold;
mod wudi;

pub use page::page;
pub use params::{Default, Param, ParamKind, Params, Scope, Value};
pub use posts::{POSTS, Post, Step};
pub use survey::{Part, Survey, Surveyed};

use crate::engine::TensorIo;
use crate::error::{Result, nearest};
use crate::model::Statistics;

/// A merge method: a row of [`METHODS`].
#[derive(Debug)]
pub struct Method {
    /// The name in recipes.
    pub name: &'static str,
    /// One line on what it does.
    pub summary: &'static str,
    /// The formula, in the terms of `docs/methods.md`.
    pub formula: &'static str,
    /// The paper or other source.
    pub reference: &'static str,
    /// What else a user may want to know, in Markdown: the formula at length, edge cases, where paper,
    /// mergekit and this crate part. A file of `notes/`.
    pub notes: &'static str,
    /// How many models it takes: the base included, unless that is [`Base::Optional`].
    pub inputs: Inputs,
    /// What it does with a base model.
    pub base: Base,
    /// What it reads of each model besides the weights: as many inputs again, in the same order. Where the
    /// kind says that tensors may be without, none for a tensor that has none in any model.
    pub statistics: Option<Statistics>,
    /// Its parameters.
    pub params: &'static [Param],
    /// How it reads its inputs.
    pub reads: Reads,
    /// Bytes it keeps for each tensor besides the chunks, given the parameters, the number of inputs and
    /// the shape.
    pub holds: fn(params: &Params, inputs: usize, shape: &[usize]) -> u64,
    /// Bytes it holds at once for a weight matrix of a layer, which it takes whole, given the number of
    /// inputs, rows and columns; 0 if it streams matrices like any tensor.
    pub whole: fn(inputs: usize, shape: (usize, usize)) -> u64,
    /// Checks the parameters of one tensor beyond their ranges; says what is wrong.
    pub check: fn(&Params) -> std::result::Result<(), String>,
    /// What has to be known of the whole model before the first of its tensors can be made, with these
    /// parameters; none for methods that look at one tensor at a time.
    pub survey: fn(&Params) -> Option<&'static Survey>,
    /// Makes the reductions and returns the map.
    pub prepare: fn(&TensorIo<'_>, &Params) -> Result<Map>,
}

/// How many models a method takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inputs {
    /// Exactly this many.
    Exactly(usize),
    /// This many or more.
    AtLeast(usize),
}

impl Inputs {
    /// Whether `count` models are too many.
    pub fn is_below(self, count: usize) -> bool {
        matches!(self, Self::Exactly(n) if n < count)
    }

    /// Whether `count` models will do.
    pub fn allows(self, count: usize) -> bool {
        match self {
            Self::Exactly(n) => count == n,
            Self::AtLeast(n) => count >= n,
        }
    }
}

impl std::fmt::Display for Inputs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exactly(1) => write!(f, "exactly 1 model"),
            Self::Exactly(n) => write!(f, "exactly {n} models"),
            Self::AtLeast(1) => write!(f, "at least 1 model"),
            Self::AtLeast(n) => write!(f, "at least {n} models"),
        }
    }
}

/// What a method does with the base model of a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Needs it: the others are taken relative to it.
    Required,
    /// Takes the others relative to it where there is one, and as they are where not.
    Optional,
    /// Treats it as a model like the others.
    Plain,
}

/// How a method reads its inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// In chunks; memory does not depend on the size of a tensor.
    Stream {
        /// Passes over the inputs as a rule, the writing one included.
        passes: usize,
        /// Counting bins it takes for each input.
        bins: usize,
    },
}

/// Computes a chunk of the output: `(start, inputs, out)`, where `start` is the index of the first
/// element (a multiple of 128), `inputs` the decoded inputs (free to be overwritten) and `out` the result. Each
/// element depends on its own index and inputs alone.
pub type ElementMap = Box<dyn Fn(usize, &mut [Vec<f32>], &mut [f32]) + Send + Sync>;

/// Computes a row of the output: `(row, inputs, out)`, where `inputs` are the decoded rows (free to be
/// overwritten) and `out` the result.
pub type RowMap = Box<dyn Fn(usize, &mut [Vec<f32>], &mut [f32]) + Send + Sync>;

/// What a method returns: how the output follows from the inputs.
pub enum Map {
    /// The output is this input; where the dtype is kept, its bytes are.
    Copy(usize),
    /// The output is computed element by element.
    Elements(ElementMap),
    /// The output is computed row by row (see [`TensorIo::columns`]). Its method holds
    /// [`row_bytes`].
    Rows(RowMap),
}

impl Map {
    /// A map computed element by element.
    pub fn new(map: impl Fn(usize, &mut [Vec<f32>], &mut [f32]) + Send + Sync + 'static) -> Self {
        Self::Elements(Box::new(map))
    }

    /// A map computed row by row.
    pub fn rows(map: impl Fn(usize, &mut [Vec<f32>], &mut [f32]) + Send + Sync + 'static) -> Self {
        Self::Rows(Box::new(map))
    }
}

/// Every merge method a recipe can name.
pub static METHODS: [Method; 28] = [
    linear::METHOD,
    slerp::METHOD,
    nuslerp::METHOD,
    multislerp::METHOD,
    karcher::METHOD,
    model_stock::METHOD,
    nearswap::METHOD,
    arcee_fusion::METHOD,
    task_vectors::TASK_ARITHMETIC,
    task_vectors::TIES,
    task_vectors::DARE_LINEAR,
    task_vectors::DARE_TIES,
    task_vectors::BREADCRUMBS,
    task_vectors::BREADCRUMBS_TIES,
    task_vectors::DELLA,
    task_vectors::DELLA_LINEAR,
    sce::METHOD,
    ram::RAM,
    ram::RAMPLUS_TL,
    pcb::METHOD,
    consensus::METHOD,
    fisher::METHOD,
    regmean::METHOD,
    isotropic::COMMON,
    isotropic::COMMON_AND_TASKS,
    singular_vectors::METHOD,
    wudi::METHOD,
    passthrough::METHOD,
];

/// What the planner uses for tensors that no arithmetic may touch; not for recipes.
pub static COPY: Method = copy::METHOD;

/// What makes experts of mixtures; not for recipes.
pub(crate) static EXPERT: Method = expert::EXPERT;

impl Method {
    /// The method a recipe calls `name`.
    pub fn named(name: &str) -> Option<&'static Self> {
        METHODS.iter().find(|method| method.name == name)
    }

    /// What is to be said of a name that no method has: a message and a hint.
    pub fn unknown(name: &str) -> (String, String) {
        let hint = match nearest(name, METHODS.iter().map(|method| method.name)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "`cognate methods` lists them".to_string(),
        };
        (format!("unknown merge method `{name}`"), hint)
    }

    /// The parameter called `name`.
    pub fn param(&self, name: &str) -> Option<&'static Param> {
        self.params.iter().find(|param| param.name == name)
    }
}

/// For methods whose parameters need no check beyond their ranges.
fn unchecked(_: &Params) -> std::result::Result<(), String> {
    Ok(())
}

/// For methods that look at one tensor at a time.
fn per_tensor(_: &Params) -> Option<&'static Survey> {
    None
}

/// For methods that keep nothing besides the chunks.
fn nothing(_: &Params, _: usize, _: &[usize]) -> u64 {
    0
}

/// For methods that go row by row: a row of every input and of the output, in f32.
pub fn row_bytes(_: &Params, inputs: usize, shape: &[usize]) -> u64 {
    4 * (inputs as u64 + 1) * shape.last().copied().unwrap_or(1) as u64
}

/// What most methods have in common, for their rows to begin from: they stream once, one tensor at a
/// time, keep nothing, and check nothing beyond ranges.
const STREAMED: Method = Method {
    name: "",
    summary: "",
    formula: "",
    reference: "",
    notes: "",
    inputs: Inputs::AtLeast(1),
    base: Base::Required,
    statistics: None,
    params: &[],
    reads: Reads::Stream { passes: 1, bins: 0 },
    holds: nothing,
    whole: |_, _| 0,
    check: unchecked,
    survey: per_tensor,
    prepare: |_, _| Err(crate::error::Error::internal("a method without a formula was called")),
};

#[cfg(test)]
mod tests;
