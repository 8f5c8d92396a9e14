//! From tokens to hidden states.

use super::layer::normalise;
use super::mlp::Limits;
use super::sequences::Slice;
use super::tensors::matrix;
use super::weights::{Finder, Linear, Norm};
use crate::error::{Error, Result};
use crate::kernels::Kernels;
use crate::model::Source;
use crate::model::architectures as data;
use candle_core::Tensor;
use rayon::prelude::*;
use std::sync::Arc;

pub(super) struct Embedding {
    source: Arc<dyn Source>,
    rows: usize,
    width: usize,
    scale: f32,
    norm: Option<Norm>,
    /// The table of positions, and the row of position 0.
    positions: Option<(Arc<dyn Source>, usize)>,
    projection: Option<Linear>,
}

impl Embedding {
    pub(super) fn open(data: &data::Architecture, finder: &mut Finder<'_>) -> Result<Self> {
        let embedding = &data.embedding;
        let name = format!("{}.weight", embedding.tensor);
        // A table may be padded to more rows than the config says.
        let stored = (finder.find)(&name).and_then(|found| found.spec().shape.first().copied());
        let rows = stored.unwrap_or(0).max(data.vocabulary);
        let source = finder.tensor(&name, &[rows, embedding.width])?;
        let norm = embedding.norm.as_ref().map(|norm| Norm::open(norm, finder)).transpose()?;
        let positions = match &embedding.positions {
            None => None,
            Some(table) => {
                let name = format!("{}.weight", table.tensor);
                Some((finder.tensor(&name, &[table.rows, data.hidden])?, table.offset))
            }
        };
        let projection = embedding.projection.as_ref();
        Ok(Self {
            source,
            rows,
            width: embedding.width,
            scale: embedding.scale,
            norm,
            positions,
            projection: projection.map(|linear| Linear::open(linear, finder)).transpose()?,
        })
    }

    /// The table of tokens.
    pub(super) fn source(&self) -> Arc<dyn Source> {
        Arc::clone(&self.source)
    }

    /// Rows of the table of tokens.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes that the table of tokens would take as f32.
    pub(super) fn bytes(&self) -> u64 {
        4 * self.rows as u64 * self.width as u64
    }

    /// The hidden states of a slice before the first layer. Only the rows of its tokens are read.
    pub(super) fn apply(&self, slice: &Slice, limits: Limits) -> Result<Tensor> {
        let mut tokens: Vec<usize> = slice.tokens.iter().map(|token| *token as usize).collect();
        let mut x = matrix(self.gather(&*self.source, &tokens, self.width)?, self.width)?;
        if self.scale != 1.0 {
            super::tensors::each_row(&x, |_, row| Kernels::best().multiply(self.scale, row))?;
        }
        normalise(&x, self.norm.as_ref())?;
        if let Some(projection) = &self.projection {
            x = projection.apply(&x, limits.block)?;
        }
        if let Some((table, offset)) = &self.positions {
            tokens = slice.positions().into_iter().map(|position| position + offset).collect();
            let width = super::tensors::width(&x);
            let positions = matrix(self.gather(&**table, &tokens, width)?, width)?;
            super::tensors::each_row_with(&x, &positions, |y, x| Kernels::best().plus(y, x))?;
        }
        Ok(x)
    }

    /// Rows of a table, each of them read once.
    fn gather(&self, table: &dyn Source, rows: &[usize], width: usize) -> Result<Vec<f32>> {
        let mut distinct = rows.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let mut found = vec![0.0; distinct.len() * width];
        found
            .par_chunks_mut(width.max(1))
            .with_min_len(16)
            .zip(&distinct)
            .try_for_each(|(out, row)| table.read(row * width, out).map(drop))?;
        let mut values = Vec::with_capacity(rows.len() * width);
        for row in rows {
            let at = distinct.binary_search(row).map_err(|_| Error::internal("a lost row"))?;
            values.extend_from_slice(&found[at * width..(at + 1) * width]);
        }
        Ok(values)
    }
}
