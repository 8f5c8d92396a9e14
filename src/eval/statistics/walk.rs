//! The way through a model with all documents, layer by layer.

use super::Documents;
use super::budget::Budget;
use crate::error::{Error, Result};
use crate::eval::decoder::backward::{Backward, Weights};
use crate::eval::decoder::hidden::Hidden;
use candle_core::Tensor;
use rayon::prelude::*;

/// One computation: a model, and the documents that go through it.
pub(super) struct Walk<'a> {
    pub(super) model: &'a Backward<'a>,
    pub(super) documents: &'a Documents,
    pub(super) budget: &'a Budget,
    /// Whether a document's last token is a label only, and does not go into the model.
    pub(super) predicts: bool,
}

impl Walk<'_> {
    /// How many documents there are.
    pub(super) fn count(&self) -> usize {
        self.documents.tokens.len()
    }

    /// What goes into the model of a document.
    pub(super) fn inputs(&self, document: usize) -> &[u32] {
        let tokens = self.documents.tokens.get(document).map_or(&[][..], Vec::as_slice);
        match tokens.split_last() {
            Some((_, inputs)) if self.predicts => inputs,
            _ => tokens,
        }
    }

    /// Room for hidden states of all documents.
    pub(super) fn room(&self, width: usize) -> Result<Hidden> {
        let rows: Vec<usize> = (0..self.count()).map(|i| self.inputs(i).len()).collect();
        Hidden::new(&rows, width, self.budget.waiting)
    }

    /// Documents in their order, some at a time.
    pub(super) fn in_order<T: Send>(
        &self,
        work: impl Fn(usize) -> Result<T> + Sync,
        mut take: impl FnMut(usize, T) -> Result<()>,
    ) -> Result<()> {
        let all: Vec<usize> = (0..self.count()).collect();
        for group in all.chunks(self.budget.tasks) {
            let done: Result<Vec<T>> =
                group.par_iter().with_max_len(1).map(|document| work(*document)).collect();
            for (document, done) in group.iter().zip(done?) {
                take(*document, done)?;
            }
        }
        Ok(())
    }

    /// The hidden states of all documents before the first layer. `heard` gets the weights that a
    /// document was embedded with, in the order of the documents.
    pub(super) fn embedded(
        &self,
        weights: &Weights,
        heard: impl FnMut(Weights) -> Result<()>,
    ) -> Result<Hidden> {
        let step = |document: usize, weights: &Weights| {
            let embedded = self.model.embed(self.inputs(document), weights, false)?;
            Ok(embedded.x)
        };
        self.step(self.model.hidden(), weights, step, heard)
    }

    /// The hidden states of all documents behind a layer, from those before it; `heard` as for
    /// [`Self::embedded`].
    pub(super) fn behind(
        &self,
        number: usize,
        weights: &Weights,
        before: &Hidden,
        heard: impl FnMut(Weights) -> Result<()>,
    ) -> Result<Hidden> {
        let step = |document: usize, weights: &Weights| {
            self.model.layer(number, weights, &before.get(document)?)
        };
        self.step(self.model.hidden(), weights, step, heard)
    }

    /// What a step makes of all documents.
    pub(super) fn step(
        &self,
        width: usize,
        weights: &Weights,
        step: impl Fn(usize, &Weights) -> Result<Tensor> + Sync,
        mut heard: impl FnMut(Weights) -> Result<()>,
    ) -> Result<Hidden> {
        let mut next = self.room(width)?;
        let one = |document: usize| {
            let own = weights.fresh();
            let x = step(document, &own)?;
            Ok((x, own))
        };
        self.in_order(one, |document, (x, own)| {
            heard(own)?;
            next.put(document, x)
        })?;
        Ok(next)
    }
}

/// For steps whose weights nobody asks what they heard.
pub(super) fn unheard(_: Weights) -> Result<()> {
    Ok(())
}

/// The error for what the structure of a model rules out.
pub(super) fn lost() -> Error {
    Error::internal("a gradient or hidden state that is not there")
}
