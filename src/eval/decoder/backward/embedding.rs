//! From tokens to hidden states, differentiable: the rows of the tables are variables.

use super::Backward;
use super::weights::{Weights, linear_of, names_of_linear, names_of_norm, norm_of, variable};
use crate::error::{Error, Result};
use crate::eval::decoder::tensors::{failed, matrix};
use candle_core::{Device, Tensor};

/// The hidden states of a sequence before the first layer, and what they are made of.
pub(crate) struct Embedded {
    /// Tokens × width.
    pub(crate) x: Tensor,
    /// The distinct tokens, ascending.
    pub(crate) tokens: Vec<u32>,
    /// Their rows of the table.
    pub(crate) rows: Tensor,
    /// The first row of the table of positions, and the rows from it on.
    pub(crate) positions: Option<(usize, Tensor)>,
}

impl Backward<'_> {
    /// The names of the table of tokens and of that of positions.
    pub(crate) fn tables(&self) -> (String, Option<String>) {
        let embedding = &self.data.embedding;
        let positions = embedding.positions.as_ref();
        let name = |tensor: &str| format!("{tensor}.weight");
        (name(&embedding.tensor), positions.map(|table| name(&table.tensor)))
    }

    /// The names of the embedding's other weights.
    pub(crate) fn embedding_names(&self) -> Vec<String> {
        let mut names = Vec::new();
        names_of_norm(self.data.embedding.norm.as_ref(), &mut names);
        names_of_linear(self.data.embedding.projection.as_ref(), &mut names);
        names
    }

    /// Embeds a sequence.
    pub(crate) fn embed(
        &self,
        sequence: &[u32],
        weights: &Weights,
        tracked: bool,
    ) -> Result<Embedded> {
        let data = &self.data.embedding;
        let (table, position_table) = self.tables();
        let mut tokens = sequence.to_vec();
        tokens.sort_unstable();
        tokens.dedup();
        let source = self.source(&table)?;
        let mut values = vec![0.0; tokens.len() * data.width];
        for (out, token) in values.chunks_mut(data.width.max(1)).zip(&tokens) {
            source.read(*token as usize * data.width, out)?;
        }
        let rows = variable(matrix(values, data.width)?, tracked)?;
        let place = |token: &u32| tokens.binary_search(token).map(|place| place as u32);
        let places: std::result::Result<Vec<u32>, usize> = sequence.iter().map(place).collect();
        let places = places.map_err(|_| Error::internal("a lost token"))?;
        let places = Tensor::from_vec(places, sequence.len(), &Device::Cpu).map_err(failed)?;
        let mut x = rows.index_select(&places, 0).map_err(failed)?;
        if data.scale != 1.0 {
            x = x.affine(f64::from(data.scale), 0.0).map_err(failed)?;
        }
        if let Some(norm) = &data.norm {
            x = norm_of(&x, norm, &[0], weights)?;
        }
        if let Some(projection) = &data.projection {
            x = linear_of(&x, projection, weights)?;
        }
        let mut positions = None;
        if let (Some(of), Some(name)) = (&data.positions, position_table) {
            let width = self.data.hidden;
            let mut values = vec![0.0; sequence.len() * width];
            self.source(&name)?.read(of.offset * width, &mut values)?;
            let own = variable(matrix(values, width)?, tracked)?;
            x = x.add(&own).map_err(failed)?;
            positions = Some((of.offset, own));
        }
        Ok(Embedded { x, tokens, rows, positions })
    }
}
