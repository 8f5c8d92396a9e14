//! The plan: what will be read, computed and written, as plain data.
//!
//! A plan is made from a recipe and the opened checkpoints' headers and configs; no weight is read.
//! Everything that runs (engine, writer, lineage) knows plans alone.

mod advice;
mod builder;
mod compatible;
mod draft;
mod layout;
mod memory;
mod methods;
mod mixture;
mod params;
mod parts;
mod placements;
mod report;
mod rows;
mod vocabulary;

pub use layout::Shard;
pub(crate) use layout::{header as safetensors_header, index};
pub use report::Totals;
pub(crate) use report::bytes;
pub use vocabulary::Vocabulary;

use crate::engine::TensorIo;
use crate::error::Result;
use crate::methods::{Map, Method, Params, Step};
use crate::model::{Checkpoint, InputsAlong, Statistics, TensorSpec};
use crate::recipe::{Layout, Recipe};
use std::collections::BTreeMap;

/// What the command line adds to a recipe.
#[derive(Clone, Debug)]
pub struct Options {
    /// Overrides of the recipe's keys, as `KEY=VALUE`.
    pub set: Vec<String>,
    /// Overrides the recipe's `random_seed`.
    pub seed: Option<u64>,
    /// The largest shard, in bytes of tensors.
    pub shard_size: u64,
    /// Worker threads.
    pub threads: usize,
    /// Anonymous memory to stay within, in bytes.
    pub memory: u64,
    /// The same while a model is run before the merge, for statistics or gates; that of an evaluation if none.
    pub passes: Option<u64>,
}

/// The model whose config, names and files the output has: the base, or else the first.
pub(crate) fn donor(recipe: &Recipe, models: &[Checkpoint]) -> usize {
    let base = recipe.base_model.as_ref();
    let found = base.and_then(|base| models.iter().position(|model| model.reference == base.value));
    found.unwrap_or(0)
}

impl Default for Options {
    fn default() -> Self {
        Self {
            set: Vec::new(),
            seed: None,
            shard_size: 5_000_000_000,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            memory: 256 << 20,
            passes: None,
        }
    }
}

/// A model that takes part.
#[derive(Clone, Debug)]
pub struct Model {
    /// How the recipe refers to it.
    pub reference: String,
    /// The stored tensors that each used tensor is made of, where it is not stored as it is: a
    /// quantised weight and its packed parts.
    pub made_of: BTreeMap<String, Vec<String>>,
    /// The statistics that come with it, in words.
    pub statistics: Option<String>,
    /// Its stored tensors that do not reach the output, with the reason.
    pub dropped: BTreeMap<String, String>,
}

/// A stored tensor of one of the models.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Input {
    /// Index of the model in [`Plan::models`].
    pub model: usize,
    /// The name it is stored under.
    pub tensor: String,
}

/// One output tensor: where it goes and how it is made.
#[derive(Clone, Debug)]
pub struct Job {
    /// Name, dtype and shape of the output.
    pub output: TensorSpec,
    /// The method that makes it.
    pub method: &'static Method,
    /// The tensors it is made of, in the order of the recipe; behind the models' tensors, in the same
    /// order, their statistics, if it is made of any.
    pub inputs: Vec<Input>,
    /// How many of the inputs are models' tensors.
    pub models: usize,
    /// Where the statistics are Gram matrices: the side of the tensor that they belong to. They are read
    /// whole.
    pub inputs_along: Option<InputsAlong>,
    /// Which of the inputs is the base, where the method needs one.
    pub base: Option<usize>,
    /// The method's parameters for this tensor.
    pub params: Params,
    /// What is done to the merged task vector, in this order.
    pub posts: Vec<Step>,
    /// The name that keys the tensor's random numbers: the output's, or, for a tied head that is
    /// stored, its embedding's, so that both stay equal.
    pub random_key: String,
    /// Index of its shard in [`Plan::shards`].
    pub shard: usize,
    /// Where its bytes go in the shard's file.
    pub offset: u64,
}

/// A file that is copied from a model's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sidecar {
    /// Index of the model it comes from.
    pub model: usize,
    /// Its path relative to the folder, here and there.
    pub path: String,
}

/// Everything a merge will do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The models, in the order the recipe first mentions them.
    pub models: Vec<Model>,
    /// Index of the model whose config, names and sidecars the output has.
    pub donor: usize,
    /// The jobs, in output order.
    pub jobs: Vec<Job>,
    /// The output's shards.
    pub shards: Vec<Shard>,
    /// What stands in the `__metadata__` of each shard.
    pub metadata: BTreeMap<String, String>,
    /// The text of the output's `config.json`.
    pub config: String,
    /// What was changed in the config, in words.
    pub config_edits: Vec<String>,
    /// The files to copy.
    pub sidecars: Vec<Sidecar>,
    /// Files to write as they stand here, by path: those that follow a new vocabulary.
    pub files: BTreeMap<String, Vec<u8>>,
    /// What was decided about the vocabulary, in words.
    pub vocabulary: Vec<String>,
    /// The vocabulary as the lineage records it; null where the recipe says nothing about it.
    pub vocabulary_lineage: serde_json::Value,
    /// The seed of every random number.
    pub seed: u64,
    /// Threads to run with, after the memory budget.
    pub lanes: usize,
    /// Bytes for the tensors that are taken whole, all threads together.
    pub whole: u64,
    /// What it reads, writes and takes.
    pub totals: Totals,
    /// Likely mistakes, and decisions the user should know of.
    pub warnings: Vec<String>,
}

impl Job {
    /// Bytes that are held while the tensor is worked on because it is taken whole; 0 where it streams.
    pub(crate) fn whole(&self) -> u64 {
        let (inputs, matrix) = (self.inputs.len(), self.output.matrix());
        let shape = match (self.method.statistics, self.inputs_along) {
            (Some(Statistics::Gram), along) => {
                along.and(self.output.rows_and_columns()).map(|(rows, columns)| match along {
                    Some(InputsAlong::Rows) => (columns, rows),
                    _ => (rows, columns),
                })
            }
            _ => matrix,
        };
        let method = shape.map_or(0, |shape| (self.method.whole)(inputs, shape));
        let posts = self
            .posts
            .iter()
            .map(|step| matrix.map_or(0, |shape| (step.post.whole)(inputs, shape)));
        // What one step leaves to the next is counted by each.
        method + posts.sum::<u64>()
    }

    /// The method and the post-steps by their names.
    pub(crate) fn steps(&self) -> String {
        let posts = self.posts.iter().map(|step| step.post.name);
        std::iter::once(self.method.name).chain(posts).collect::<Vec<_>>().join(", ")
    }

    /// The method's map with the post-steps behind it.
    ///
    /// # Errors
    /// An input cannot be read, or is not what the method takes.
    pub(crate) fn map(&self, io: &TensorIo<'_>) -> Result<Map> {
        let map = (self.method.prepare)(io, &self.params)?;
        self.posts.iter().try_fold(map, |map, step| (step.post.prepare)(io, map, step))
    }

    /// The post-steps with their parameters.
    pub(crate) fn posts_json(&self) -> serde_json::Value {
        let step = |step: &Step| {
            let (name, shared) = (step.post.name, &step.params.shared);
            serde_json::json!({"step": name, "parameters": shared, "depth": step.depth})
        };
        self.posts.iter().map(step).collect()
    }

    /// Bytes that the method and the post-steps keep for the tensor besides the chunks.
    pub(crate) fn holds(&self) -> u64 {
        let (inputs, shape) = (self.inputs.len(), &self.output.shape);
        let posts = self.posts.iter().map(|step| (step.post.holds)(&step.params, inputs, shape));
        (self.method.holds)(&self.params, inputs, shape) + posts.sum::<u64>()
    }

    /// The inputs that are the models' tensors.
    pub fn weights(&self) -> &[Input] {
        &self.inputs[..self.models]
    }

    /// How many of the inputs are read element by element along with the output; those behind them are
    /// read whole.
    pub(crate) fn streamed(&self) -> usize {
        match self.inputs_along {
            Some(_) => self.models,
            None => self.inputs.len(),
        }
    }
}

impl Plan {
    /// Puts this into the header of every shard, and lays the tensors out anew behind it.
    ///
    /// # Errors
    /// There is none that planning did not find.
    pub(crate) fn label(
        &mut self,
        metadata: BTreeMap<String, String>,
        options: &Options,
    ) -> Result<()> {
        self.shards = layout::shards(&mut self.jobs, options.shard_size, &metadata)?;
        self.totals.write = self.shards.iter().map(|shard| shard.size).sum();
        self.metadata = metadata;
        Ok(())
    }

    /// Plans a merge. `models` are the checkpoints behind [`Recipe::references`], in that order, as
    /// [`Vocabulary::resolve`] shows them.
    ///
    /// # Errors
    /// The recipe does not fit the models: missing tensors, shapes that differ, parameters that are
    /// not set, layers out of range, a base that is missing, too little memory.
    pub fn new(
        recipe: &Recipe,
        models: &[Checkpoint],
        vocabulary: Vocabulary,
        options: &Options,
    ) -> Result<Self> {
        match &recipe.layout {
            Layout::Mixture(mixture) => {
                mixture::build(recipe, mixture, models, vocabulary, options)
            }
            Layout::Surgery(surgery) => {
                mixture::change(recipe, surgery, models, vocabulary, options)
            }
            _ => builder::build(recipe, models, vocabulary, options),
        }
    }
}
