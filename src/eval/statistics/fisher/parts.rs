//! Backwards through the model, part by part.

use super::Fisher;
use super::labels::Draw;
use crate::error::Result;
use crate::eval::decoder::backward::{Backward, Gradients, HeadGradient, HeadWeights, Weights};
use crate::eval::decoder::hidden::Hidden;
use crate::eval::decoder::tensors::{matrix, with_elements};
use crate::eval::statistics::output::Output;
use crate::eval::statistics::walk::{Walk, lost, unheard};
use crate::model::Labels;
use candle_core::Tensor;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Elements that one task squares and adds.
const PIECE: usize = 1 << 16;

/// One computation.
pub(super) struct Pass<'a> {
    pub(super) walk: &'a Walk<'a>,
    pub(super) settings: &'a Fisher<'a>,
}

/// Sums of squared gradients, by the weights' names; f32, in the order of the documents.
#[derive(Default)]
struct Sums(BTreeMap<String, Vec<f32>>);

impl Sums {
    /// Adds the squares of a document's gradient.
    fn add(&mut self, name: &str, gradient: &[f32]) {
        if !self.0.contains_key(name) {
            self.0.insert(name.to_string(), vec![0.0; gradient.len()]);
        }
        if let Some(sums) = self.0.get_mut(name) {
            add_squares(sums, gradient);
        }
    }

    fn add_all(&mut self, gradients: &BTreeMap<String, Tensor>) -> Result<()> {
        gradients.iter().try_for_each(|(name, gradient)| {
            with_elements(gradient, |gradient| self.add(name, gradient))
        })
    }

    /// Divides by the documents and puts the means into the file.
    fn finish(self, documents: usize, output: &mut Output) -> Result<()> {
        for (name, mut sums) in self.0 {
            let count = documents as f32;
            sums.par_chunks_mut(PIECE).for_each(|sums| sums.iter_mut().for_each(|x| *x /= count));
            output.put(&name, &sums)?;
        }
        Ok(())
    }
}

fn add_squares(sums: &mut [f32], gradient: &[f32]) {
    let pieces = sums.par_chunks_mut(PIECE).zip(gradient.par_chunks(PIECE));
    pieces.for_each(|(sums, gradient)| {
        for (sum, gradient) in sums.iter_mut().zip(gradient) {
            *sum += gradient * gradient;
        }
    });
}

/// The gradients by a part's weights, and by what went into it.
type PartGradients = (BTreeMap<String, Tensor>, Tensor);

/// Rows of the head's gradient that wait for those of the embedding, which is the same tensor: for
/// each document, those of its own tokens.
type Waiting = Option<Hidden>;

impl Pass<'_> {
    /// Computes everything; the sum of the labels' log-likelihoods.
    pub(super) fn run(&self, output: &mut Output, progress: &(dyn Fn(&str) + Sync)) -> Result<f64> {
        let (walk, documents) = (self.walk, self.walk.count());
        let mut states = self.forward(progress)?;
        let (mut behind, mut table, waiting, nats) = {
            progress("backward: head");
            let last = states.pop().ok_or_else(lost)?;
            self.head(&last, output)?
        };
        for number in (0..walk.model.layers()).rev() {
            progress(&format!("backward: layer {number}"));
            let before = states.pop().ok_or_else(lost)?;
            let weights = walk.model.weights(&walk.model.layer_names(number)?, true)?;
            let mut sums = Sums::default();
            behind = self.part(&weights, &before, &behind, &mut sums, |x| {
                walk.model.layer(number, &weights, x)
            })?;
            sums.finish(documents, output)?;
        }
        progress("backward: embedding");
        self.embedding(&behind, &mut table, waiting.as_ref())?;
        table.finish(documents, output)?;
        Ok(nats)
    }

    /// The hidden states before each layer, and behind the last.
    fn forward(&self, progress: &(dyn Fn(&str) + Sync)) -> Result<Vec<Hidden>> {
        let walk = self.walk;
        let weights = walk.model.weights(&walk.model.embedding_names(), false)?;
        let mut states = vec![walk.embedded(&weights, unheard)?];
        for number in 0..walk.model.layers() {
            progress(&format!("forward: layer {number}"));
            let weights = walk.model.weights(&walk.model.layer_names(number)?, false)?;
            let before = states.last().ok_or_else(lost)?;
            states.push(walk.behind(number, &weights, before, unheard)?);
        }
        Ok(states)
    }

    /// Takes a part of the model backwards: adds up its own squares and returns the gradients by what
    /// went into it.
    fn part(
        &self,
        weights: &Weights,
        before: &Hidden,
        behind: &Hidden,
        sums: &mut Sums,
        forward: impl Fn(&Tensor) -> Result<Tensor> + Sync,
    ) -> Result<Hidden> {
        let mut gradients = self.walk.room(self.walk.model.hidden())?;
        let one = |document| {
            let x = Backward::variable(before.get(document)?)?;
            let found = Gradients::new(&forward(&x)?, &behind.get(document)?)?;
            Ok((by_weights(weights, &found)?, found.of(&x)?.ok_or_else(lost)?))
        };
        self.walk.in_order(one, |document, (own, by_input): PartGradients| {
            sums.add_all(&own)?;
            gradients.put(document, by_input)
        })?;
        Ok(gradients)
    }

    /// The head and the last norm: gradients by the hidden states behind the last layer, the sums of
    /// the table of tokens if it is the head, and rows that wait for the embedding's.
    fn head(&self, last: &Hidden, output: &mut Output) -> Result<(Hidden, Sums, Waiting, f64)> {
        let documents = self.walk.count();
        let (table, _) = self.walk.model.tables();
        let tied = table == self.walk.model.head_name();
        let mut sums = Sums::default();
        let mut behind = self.walk.room(self.walk.model.head_width())?;
        let mut waiting = tied.then(|| {
            let rows: Vec<usize> = (0..documents).map(|i| self.distinct(i).len()).collect();
            Hidden::new(&rows, self.walk.model.head_width(), self.walk.budget.waiting)
        });
        let mut waiting = waiting.take().transpose()?;
        let weights = self.walk.model.weights(&self.walk.model.final_names(), true)?;
        let mut nats = 0.0;
        {
            let head = self.walk.model.head_weights()?;
            for document in 0..documents {
                let x = self.walk.model.ready(&last.get(document)?, &weights)?;
                let mut found = with_elements(&x, |x| self.labelled(document, &head, x))??;
                nats += found.nats;
                if let Some(name) = self.walk.model.head_bias() {
                    sums.add(name, &found.bias);
                }
                if let Some(waiting) = &mut waiting {
                    let width = self.walk.model.head_width();
                    let mut rows = Vec::new();
                    for token in self.distinct(document) {
                        let first = token as usize * width;
                        let row = found.weight.get_mut(first..first + width).ok_or_else(lost)?;
                        rows.extend_from_slice(row);
                        row.fill(0.0);
                    }
                    waiting.put(document, matrix(rows, width)?)?;
                }
                sums.add(self.walk.model.head_name(), &found.weight);
                behind.put(document, matrix(found.input, self.walk.model.head_width())?)?;
            }
        }
        let mut of_table = Sums::default();
        if let Some(own) = sums.0.remove(&table) {
            of_table.0.insert(table, own);
        }
        let before =
            self.part(&weights, last, &behind, &mut sums, |x| self.walk.model.ready(x, &weights))?;
        sums.finish(documents, output)?;
        Ok((before, of_table, waiting, nats))
    }

    /// The head's gradients of a document with its labels.
    fn labelled(&self, document: usize, head: &HeadWeights, x: &[f32]) -> Result<HeadGradient> {
        let tokens = self.walk.documents.tokens.get(document).ok_or_else(lost)?;
        let line = self.walk.documents.lines.get(document).copied().unwrap_or_default();
        let mut draw = Draw::new(self.settings.0.seed, line);
        let mut choose = |position: usize, probabilities: &[f32]| match self.settings.0.labels {
            Labels::Model => draw.label(position, probabilities),
            Labels::Data => tokens.get(position + 1).copied().unwrap_or_default(),
        };
        self.walk.model.head(head, x, super::rows(self.walk.model), &mut choose)
    }

    /// The distinct tokens that go into the model of a document, ascending.
    fn distinct(&self, document: usize) -> Vec<u32> {
        let mut tokens = self.walk.inputs(document).to_vec();
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    /// The embedding: rows of the tables that a document's tokens and positions use.
    fn embedding(&self, behind: &Hidden, table: &mut Sums, waiting: Option<&Hidden>) -> Result<()> {
        let (name, positions) = self.walk.model.tables();
        for name in [Some(&name), positions.as_ref()].into_iter().flatten() {
            let elements = self.walk.model.source(name)?.spec().elements();
            table.0.entry(name.clone()).or_insert_with(|| vec![0.0; elements]);
        }
        let weights = self.walk.model.weights(&self.walk.model.embedding_names(), true)?;
        for document in 0..self.walk.count() {
            let embedded = self.walk.model.embed(self.walk.inputs(document), &weights, true)?;
            let found = Gradients::new(&embedded.x, &behind.get(document)?)?;
            table.add_all(&by_weights(&weights, &found)?)?;
            let mut rows = found.of(&embedded.rows)?.ok_or_else(lost)?;
            if let Some(waiting) = waiting {
                let failed = crate::eval::decoder::tensors::failed;
                rows = rows.add(&waiting.get(document)?).map_err(failed)?;
            }
            let tokens = embedded.tokens.iter().map(|token| *token as usize);
            add_rows(table, &name, tokens, &rows)?;
            if let (Some((first, rows)), Some(name)) = (&embedded.positions, &positions) {
                let rows = found.of(rows)?.ok_or_else(lost)?;
                add_rows(table, name, *first.., &rows)?;
            }
        }
        Ok(())
    }
}

/// Adds the squares of rows to those of a table.
fn add_rows(
    sums: &mut Sums,
    name: &str,
    places: impl Iterator<Item = usize>,
    rows: &Tensor,
) -> Result<()> {
    let width = crate::eval::decoder::tensors::width(rows).max(1);
    let table = sums.0.get_mut(name).ok_or_else(lost)?;
    with_elements(rows, |rows| {
        for (place, row) in places.zip(rows.chunks(width)) {
            let sums = table.get_mut(place * width..(place + 1) * width).ok_or_else(lost)?;
            add_squares(sums, row);
        }
        Ok(())
    })?
}

/// The gradients by those weights that the document's likelihood depends on.
fn by_weights(weights: &Weights, found: &Gradients) -> Result<BTreeMap<String, Tensor>> {
    let mut own = BTreeMap::new();
    for (name, weight) in weights.iter() {
        if let Some(gradient) = found.of(weight)? {
            own.insert(name.to_string(), gradient);
        }
    }
    Ok(own)
}
