//! The way through the model: forwards with the hidden states kept, backwards part by part.

use super::budget::Budget;
use super::labels::Draw;
use super::output::Output;
use super::{Documents, Labels, Settings};
use crate::error::{Error, Result};
use crate::eval::decoder::backward::{Backward, Gradients, HeadWeights, Weights};
use crate::eval::decoder::hidden::Hidden;
use crate::eval::decoder::tensors::{matrix, with_elements};
use candle_core::Tensor;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Elements that one task squares and adds.
const PIECE: usize = 1 << 16;

/// One computation.
pub(super) struct Pass<'a> {
    pub(super) model: &'a Backward<'a>,
    pub(super) documents: &'a Documents,
    pub(super) settings: &'a Settings,
    pub(super) budget: &'a Budget,
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
        let mut states = self.forward(progress)?;
        let (mut behind, mut table, waiting, nats) = {
            progress("backward: head");
            let last = states.pop().ok_or_else(lost)?;
            self.head(&last, output)?
        };
        for number in (0..self.model.layers()).rev() {
            progress(&format!("backward: layer {number}"));
            let before = states.pop().ok_or_else(lost)?;
            let weights = self.model.weights(&self.model.layer_names(number)?, true)?;
            let mut sums = Sums::default();
            behind = self.part(&weights, &before, &behind, &mut sums, |x| {
                self.model.layer(number, &weights, x)
            })?;
            sums.finish(self.documents.tokens.len(), output)?;
        }
        progress("backward: embedding");
        self.embedding(&behind, &mut table, waiting.as_ref())?;
        table.finish(self.documents.tokens.len(), output)?;
        Ok(nats)
    }

    /// What goes into the model of a document: all tokens but the last, which is a label only.
    fn inputs(&self, document: usize) -> &[u32] {
        let tokens = self.documents.tokens.get(document).map_or(&[][..], Vec::as_slice);
        tokens.split_last().map_or(&[], |(_, inputs)| inputs)
    }

    /// Room for hidden states of all documents.
    fn room(&self, width: usize) -> Result<Hidden> {
        let rows: Vec<usize> =
            (0..self.documents.tokens.len()).map(|i| self.inputs(i).len()).collect();
        Hidden::new(&rows, width, self.budget.waiting)
    }

    /// Documents in their order, some at a time.
    fn in_order<T: Send>(
        &self,
        work: impl Fn(usize) -> Result<T> + Sync,
        mut take: impl FnMut(usize, T) -> Result<()>,
    ) -> Result<()> {
        let all: Vec<usize> = (0..self.documents.tokens.len()).collect();
        for group in all.chunks(self.budget.tasks) {
            let done: Result<Vec<T>> =
                group.par_iter().with_max_len(1).map(|document| work(*document)).collect();
            for (document, done) in group.iter().zip(done?) {
                take(*document, done)?;
            }
        }
        Ok(())
    }

    /// The hidden states before each layer, and behind the last.
    fn forward(&self, progress: &(dyn Fn(&str) + Sync)) -> Result<Vec<Hidden>> {
        let weights = self.model.weights(&self.model.embedding_names(), false)?;
        let mut first = self.room(self.model.hidden())?;
        let embed = |document| self.model.embed(self.inputs(document), &weights, false);
        self.in_order(embed, |document, embedded| first.put(document, embedded.x))?;
        let mut states = vec![first];
        for number in 0..self.model.layers() {
            progress(&format!("forward: layer {number}"));
            let weights = self.model.weights(&self.model.layer_names(number)?, false)?;
            let mut next = self.room(self.model.hidden())?;
            let before = states.last().ok_or_else(lost)?;
            let layer = |document| self.model.layer(number, &weights, &before.get(document)?);
            self.in_order(layer, |document, x| next.put(document, x))?;
            states.push(next);
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
        let mut gradients = self.room(self.model.hidden())?;
        let one = |document| {
            let x = Backward::variable(before.get(document)?)?;
            let found = Gradients::new(&forward(&x)?, &behind.get(document)?)?;
            Ok((by_weights(weights, &found)?, found.of(&x)?.ok_or_else(lost)?))
        };
        self.in_order(one, |document, (own, by_input): PartGradients| {
            sums.add_all(&own)?;
            gradients.put(document, by_input)
        })?;
        Ok(gradients)
    }

    /// The head and the last norm: gradients by the hidden states behind the last layer, the sums of
    /// the table of tokens if it is the head, and rows that wait for the embedding's.
    fn head(&self, last: &Hidden, output: &mut Output) -> Result<(Hidden, Sums, Waiting, f64)> {
        let documents = self.documents.tokens.len();
        let (table, _) = self.model.tables();
        let tied = table == self.model.head_name();
        let mut sums = Sums::default();
        let mut behind = self.room(self.model.head_width())?;
        let mut waiting = tied.then(|| {
            let rows: Vec<usize> = (0..documents).map(|i| self.distinct(i).len()).collect();
            Hidden::new(&rows, self.model.head_width(), self.budget.waiting)
        });
        let mut waiting = waiting.take().transpose()?;
        let weights = self.model.weights(&self.model.final_names(), true)?;
        let mut nats = 0.0;
        {
            let head = self.model.head_weights()?;
            for document in 0..documents {
                let x = self.model.ready(&last.get(document)?, &weights)?;
                let mut found = with_elements(&x, |x| self.labelled(document, &head, x))??;
                nats += found.nats;
                if let Some(name) = self.model.head_bias() {
                    sums.add(name, &found.bias);
                }
                if let Some(waiting) = &mut waiting {
                    let width = self.model.head_width();
                    let mut rows = Vec::new();
                    for token in self.distinct(document) {
                        let first = token as usize * width;
                        let row = found.weight.get_mut(first..first + width).ok_or_else(lost)?;
                        rows.extend_from_slice(row);
                        row.fill(0.0);
                    }
                    waiting.put(document, matrix(rows, width)?)?;
                }
                sums.add(self.model.head_name(), &found.weight);
                behind.put(document, matrix(found.input, self.model.head_width())?)?;
            }
        }
        let mut of_table = Sums::default();
        if let Some(own) = sums.0.remove(&table) {
            of_table.0.insert(table, own);
        }
        let before =
            self.part(&weights, last, &behind, &mut sums, |x| self.model.ready(x, &weights))?;
        sums.finish(documents, output)?;
        Ok((before, of_table, waiting, nats))
    }

    /// The head's gradients of a document with its labels.
    fn labelled(
        &self,
        document: usize,
        head: &HeadWeights,
        x: &[f32],
    ) -> Result<crate::eval::decoder::backward::HeadGradient> {
        let tokens = self.documents.tokens.get(document).ok_or_else(lost)?;
        let line = self.documents.lines.get(document).copied().unwrap_or_default();
        let mut draw = Draw::new(self.settings.seed, line);
        let mut choose = |position: usize, probabilities: &[f32]| match self.settings.labels {
            Labels::Model => draw.label(position, probabilities),
            Labels::Data => tokens.get(position + 1).copied().unwrap_or_default(),
        };
        self.model.head(head, x, self.budget.rows, &mut choose)
    }

    /// The distinct tokens that go into the model of a document, ascending.
    fn distinct(&self, document: usize) -> Vec<u32> {
        let mut tokens = self.inputs(document).to_vec();
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    /// The embedding: rows of the tables that a document's tokens and positions use.
    fn embedding(&self, behind: &Hidden, table: &mut Sums, waiting: Option<&Hidden>) -> Result<()> {
        let (name, positions) = self.model.tables();
        for name in [Some(&name), positions.as_ref()].into_iter().flatten() {
            let elements = self.model.source(name)?.spec().elements();
            table.0.entry(name.clone()).or_insert_with(|| vec![0.0; elements]);
        }
        let weights = self.model.weights(&self.model.embedding_names(), true)?;
        for document in 0..self.documents.tokens.len() {
            let embedded = self.model.embed(self.inputs(document), &weights, true)?;
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

fn lost() -> Error {
    Error::internal("a gradient that is not there")
}
