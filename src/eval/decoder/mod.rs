//! The one decoder: any model that `model/architectures/` describes, on candle's tensors.
//!
//! Layers are the outer loop: one layer's weights are read, applied to the tokens of all sequences,
//! and given back. Tokens are packed into slices without padding; hidden states wait in memory or in a
//! temporary file. Weights are read through [`crate::model::Source`], from a checkpoint or a merge not yet written.

mod attention;
pub(crate) mod backward;
mod budget;
mod embedding;
mod generate;
mod head;
pub(in crate::eval) mod hidden;
mod layer;
mod mlp;
mod observe;
mod sampling;
mod score;
mod sequences;
mod state_space;
pub(in crate::eval) mod tensors;
mod weights;

#[cfg(test)]
mod tests;

pub use crate::model::architectures::{Listed, families};
pub use observe::{Activations, Observer, Point};

use super::model::{GenerateRequest, Generation, LanguageModel, Score, ScoreRequest};
use crate::error::{Error, Result, list};
use crate::model::{Checkpoint, Config, architectures};
use budget::{Budget, Keep, Sizes};
use embedding::Embedding;
use head::Head;
use hidden::Hidden;
use layer::Layer;
use observe::Observation;
use rayon::prelude::*;
use sequences::Slice;
use std::collections::BTreeSet;
use tensors::with_elements;
use weights::Finder;

/// Whether the decoder knows models of such a config; `stored` says which tensors there are.
///
/// # Errors
/// It does not: the error says what is missing.
pub fn supports(config: &Config, stored: impl Fn(&str) -> bool) -> Result<()> {
    architectures::find(config, stored).map(drop)
}

/// How a decoder may use the machine. Results do not depend on it beyond rounding.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of memory to stay within.
    pub memory: u64,
    /// Threads to compute with.
    pub threads: usize,
    /// Tokens worked on at a time, at most; chosen by the memory if none.
    pub batch: Option<usize>,
}

impl Default for Options {
    /// 8 GiB, and as many threads as the machine runs at a time.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { memory: 8 << 30, threads, batch: None }
    }
}

/// A model, ready to compute.
pub struct Decoder {
    reference: String,
    family: &'static str,
    embedding: Embedding,
    layers: Vec<Layer>,
    head: Head,
    vocabulary: usize,
    context: Option<usize>,
    positions: Option<usize>,
    hidden: usize,
    budget: Budget,
    /// Bytes that a token takes while a layer is applied.
    token: u64,
    threads: usize,
    pool: rayon::ThreadPool,
}

impl Decoder {
    /// Makes a decoder of a checkpoint. Norms and biases are read; other weights are when they are
    /// needed.
    ///
    /// # Errors
    /// The model's family is not known; its config says what the family's description does not know;
    /// a weight is missing, has another shape, or is not one of the family's; the memory is too small.
    pub fn open(checkpoint: &Checkpoint, options: &Options) -> Result<Self> {
        let located = |error: Error| error.fact("model", &checkpoint.reference);
        Self::open_with(checkpoint, options).map_err(located)
    }

    fn open_with(checkpoint: &Checkpoint, options: &Options) -> Result<Self> {
        let stored = |name: &str| checkpoint.tensor(name).is_some();
        let found = architectures::find(&checkpoint.config, stored)?;
        let data = &found.architecture;
        let find = |name: &str| checkpoint.shared(name).cloned();
        let mut finder = Finder { find: &find, used: BTreeSet::new() };
        let embedding = Embedding::open(data, &mut finder)?;
        let head = match find(&data.head.tensor) {
            Some(stored) => {
                finder.used.insert(data.head.tensor.clone());
                stored
            }
            None if found.tied => embedding.source(),
            None => finder.tensor(&data.head.tensor, &[data.vocabulary, data.head.width])?,
        };
        let head = Head::open(data, head, &mut finder)?;
        let layers: Result<Vec<Layer>> = data
            .layers
            .iter()
            .enumerate()
            .map(|(number, layer)| Layer::open(number, layer, &mut finder))
            .collect();
        let layers = layers?;
        let left: Vec<&str> = checkpoint
            .tensors()
            .map(|(name, _)| name)
            .filter(|name| !finder.used.contains(*name) && !found.needless(name))
            .collect();
        if let [first, ..] = left.as_slice() {
            return Err(Error::input(
                "the checkpoint holds weights that the evaluator has no use for",
            )
            .tensor(first)
            .fact("all", list(left.iter().copied()))
            .fact("family", found.family)
            .hint("the model may differ from its family in a way its config does not tell"));
        }
        let scratch = layers.iter().map(Layer::scratch).max().unwrap_or(0);
        let token = 4 * (4 * data.hidden + scratch) as u64;
        let sizes = Sizes {
            model: layers.iter().map(Layer::bytes).sum::<u64>()
                + embedding.bytes()
                + head.linear().bytes(),
            layer: layers.iter().map(Layer::bytes).max().unwrap_or(0),
            head: head.linear().bytes(),
            token,
            inner: layers.iter().map(Layer::inner_bytes).max().unwrap_or(0),
        };
        let threads = options.threads.max(1);
        let mut budget = Budget::new(options.memory, threads, &sizes)?;
        if let Some(batch) = options.batch {
            budget.rows = budget.rows.min(batch.max(1));
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.map_err(|e| Error::internal("cannot start threads").fact("reason", e))?;
        Ok(Self {
            reference: checkpoint.reference.clone(),
            family: found.family,
            embedding,
            layers,
            head,
            vocabulary: data.vocabulary,
            context: data.context,
            positions: data.positions,
            hidden: data.hidden,
            budget,
            token,
            threads,
            pool,
        })
    }

    /// The family whose description the model follows.
    pub fn family(&self) -> &'static str {
        self.family
    }

    /// The logits behind every token of one sequence: tokens × vocabulary.
    ///
    /// # Errors
    /// The sequence does not fit the model, or numbers are not finite.
    pub fn logits(&self, tokens: &[u32]) -> Result<Vec<f32>> {
        let slices = [self.alone(tokens)?];
        let states = self.forward(&slices, None, &|_| ())?;
        let numbers: Vec<usize> = (0..tokens.len()).collect();
        self.pool.install(|| {
            self.load_head()?;
            let logits = self.head.logits(&states.get(0)?, &numbers, self.budget.limits)?;
            self.unload_head()?;
            with_elements(&logits, <[f32]>::to_vec)
        })
    }

    /// Runs the model over sequences and shows an observer the activations it wants.
    ///
    /// # Errors
    /// As [`Decoder::logits`], and whatever the observer fails with.
    pub fn observe(&self, sequences: &[Vec<u32>], observer: &dyn Observer) -> Result<()> {
        let mut slices = vec![Slice::default()];
        for tokens in sequences {
            self.check(tokens)?;
            let full = |last: &Slice| {
                !last.tokens.is_empty() && last.tokens.len() + tokens.len() > self.budget.rows
            };
            if slices.last().is_some_and(full) {
                slices.push(Slice::default());
            }
            if let Some(last) = slices.last_mut() {
                last.push(tokens, 0, tokens.len(), None);
            }
        }
        self.forward(&slices, Some(observer), &|_| ()).map(drop)
    }

    fn alone(&self, tokens: &[u32]) -> Result<Slice> {
        self.check(tokens)?;
        let mut slice = Slice::default();
        slice.push(tokens, 0, tokens.len(), None);
        Ok(slice)
    }

    /// Refuses a sequence that the model has no embedding or no positions for.
    pub(in crate::eval) fn check(&self, tokens: &[u32]) -> Result<()> {
        let rows = self.embedding.rows();
        if let Some(token) = tokens.iter().find(|token| **token as usize >= rows) {
            return Err(Error::input("a token is not one of the model's vocabulary")
                .fact("model", &self.reference)
                .expected(format!("an id below {rows}"), token));
        }
        match self.positions {
            Some(positions) if tokens.len() > positions => {
                Err(Error::input("a sequence is longer than the model's table of positions")
                    .fact("model", &self.reference)
                    .expected(format!("at most {positions} tokens"), tokens.len()))
            }
            _ if tokens.is_empty() => Err(Error::input("a sequence without tokens")),
            _ => Ok(()),
        }
    }

    /// The hidden states behind the last layer. `progress` is called with the layers done.
    fn forward(
        &self,
        slices: &[Slice],
        observer: Option<&dyn Observer>,
        progress: &dyn Fn(usize),
    ) -> Result<Hidden> {
        let rows: Vec<usize> = slices.iter().map(|slice| slice.tokens.len()).collect();
        let longest = rows.iter().copied().max().unwrap_or(0);
        let tasks = self.budget.tasks(longest, self.token, self.threads)?;
        let mut states = Hidden::new(&rows, self.hidden, self.budget.waiting)?;
        let limits = self.budget.limits;
        for (number, slice) in slices.iter().enumerate() {
            let x = self.pool.install(|| self.embedding.apply(slice, limits))?;
            states.put(number, x)?;
        }
        let mut first = 0;
        let firsts: Vec<usize> = slices
            .iter()
            .map(|slice| {
                let own = first;
                first += slice.segments.len();
                own
            })
            .collect();
        for (number, layer) in self.layers.iter().enumerate() {
            let next = self.layers.get(number + 1);
            let work = |slice: usize| {
                let x = states.get(slice)?;
                let observation = Observation { observer, first_sequence: firsts[slice] };
                layer.apply(&x, &slices[slice], None, limits, &observation)?;
                states.put_back(slice, &x)
            };
            self.pool.install(|| {
                self.with_layer(layer, next, || {
                    let numbers: Vec<usize> = (0..slices.len()).collect();
                    if tasks >= self.threads {
                        return numbers.into_par_iter().with_max_len(1).try_for_each(work);
                    }
                    let groups = numbers.chunks(tasks);
                    let mut groups =
                        groups.map(|group| group.par_iter().try_for_each(|n| work(*n)));
                    groups.try_for_each(|done| done)
                })
            })?;
            progress(number + 1);
        }
        Ok(states)
    }

    /// Does work on a layer whose weights are in memory, where the budget holds them.
    fn with_layer(
        &self,
        layer: &Layer,
        next: Option<&Layer>,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        match self.budget.keep {
            Keep::Model => {
                layer.load()?;
                work()
            }
            Keep::Layer => {
                layer.load()?;
                if let Some(next) = next {
                    next.prefetch();
                }
                let worked = work();
                layer.unload()?;
                worked
            }
            Keep::Nothing => work(),
        }
    }

    fn load_head(&self) -> Result<()> {
        if self.budget.keep_head { self.head.linear().load() } else { Ok(()) }
    }

    fn unload_head(&self) -> Result<()> {
        if self.budget.keep == Keep::Model { Ok(()) } else { self.head.linear().unload() }
    }
}

impl LanguageModel for Decoder {
    fn score(&self, requests: &[ScoreRequest], progress: &dyn Fn(usize)) -> Result<Vec<Score>> {
        score::score(self, requests, progress).map_err(|error| self.located(error))
    }

    fn generate(
        &self,
        requests: &[GenerateRequest],
        progress: &dyn Fn(usize),
    ) -> Result<Vec<Generation>> {
        generate::generate(self, requests, progress).map_err(|error| self.located(error))
    }

    fn context_length(&self) -> Option<usize> {
        self.context
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn resident(&self) -> bool {
        self.budget.keep == Keep::Model
    }
}

impl Decoder {
    fn located(&self, error: Error) -> Error {
        error.model(&self.reference)
    }
}
