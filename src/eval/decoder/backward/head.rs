//! The last norm and the head: likelihoods of labels, and their gradients.
//!
//! The gradient of a label's log-likelihood by the logits is `1 - p` at the label and `-p` elsewhere,
//! so no graph is kept of logits, which are computed some positions at a time.

use super::Backward;
use super::product::{Matrix, add_product, product};
use super::weights::{Weights, linear_of, names_of_linear, names_of_norm, norm_of};
use crate::error::Result;
use crate::eval::decoder::head::not_finite;
use crate::eval::decoder::weights::read;
use crate::kernels::Kernels;
use candle_core::Tensor;

/// The head's own weights, in memory.
pub(crate) struct HeadWeights {
    /// Vocabulary × width.
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    width: usize,
}

/// Chooses the label of a position from the probabilities of all tokens.
pub(crate) type Choose<'a> = dyn FnMut(usize, &[f32]) -> u32 + 'a;

/// The gradients of the sum of the labels' log-likelihoods.
pub(crate) struct HeadGradient {
    /// By what goes into the head: positions × width.
    pub(crate) input: Vec<f32>,
    /// By the head's weight: vocabulary × width.
    pub(crate) weight: Vec<f32>,
    /// By its bias; empty if it has none.
    pub(crate) bias: Vec<f32>,
    /// The labels.
    pub(crate) labels: Vec<u32>,
    /// The sum itself, in nats.
    pub(crate) nats: f64,
}

impl Backward<'_> {
    /// The tensor that the head is stored as.
    pub(crate) fn head_name(&self) -> &str {
        &self.head
    }

    /// The name of its bias.
    pub(crate) fn head_bias(&self) -> Option<&str> {
        self.data.head.bias.as_deref()
    }

    /// The width of what goes into it.
    pub(crate) fn head_width(&self) -> usize {
        self.data.head.width
    }

    /// The names of the weights between the last layer and the head.
    pub(crate) fn final_names(&self) -> Vec<String> {
        let mut names = Vec::new();
        names_of_norm(self.data.final_norm.as_ref(), &mut names);
        names_of_linear(self.data.head.projection.as_ref(), &mut names);
        names
    }

    /// Hidden states behind the last layer, as the head takes them.
    pub(crate) fn ready(&self, x: &Tensor, weights: &Weights) -> Result<Tensor> {
        let mut x = x.clone();
        if let Some(norm) = &self.data.final_norm {
            x = norm_of(&x, norm, &[0], weights)?;
        }
        if let Some(projection) = &self.data.head.projection {
            x = linear_of(&x, projection, weights)?;
        }
        x.contiguous().map_err(crate::eval::decoder::tensors::failed)
    }

    /// Reads the head.
    pub(crate) fn head_weights(&self) -> Result<HeadWeights> {
        let width = self.data.head.width;
        let mut weight = vec![0.0; self.data.vocabulary * width];
        read(self.source(&self.head)?, 0, &mut weight)?;
        let bias = self.data.head.bias.as_ref().map(|name| {
            let mut bias = vec![0.0; self.data.vocabulary];
            self.source(name)?.read(0, &mut bias)?;
            Ok(bias)
        });
        Ok(HeadWeights { weight, bias: bias.transpose()?, width })
    }

    /// The logits of some positions.
    fn logits(&self, head: &HeadWeights, x: &[f32]) -> Vec<f32> {
        let kernels = Kernels::best();
        let weight = Matrix::new(&head.weight, head.width);
        let mut logits = product(Matrix::new(x, head.width), weight.t());
        for row in logits.chunks_mut(self.data.vocabulary.max(1)) {
            if let Some(bias) = &head.bias {
                kernels.plus(bias, row);
            }
            if self.data.head.scale != 1.0 {
                kernels.multiply(self.data.head.scale, row);
            }
            if let Some(cap) = self.data.head.soft_cap {
                kernels.soft_cap(cap, row);
            }
        }
        logits
    }

    /// Gradients of the labels' likelihoods. `x` holds what goes into the head, positions × width;
    /// `rows` of them are worked on at a time, which does not show in the result.
    ///
    /// # Errors
    /// A logit is not a finite number.
    pub(crate) fn head(
        &self,
        head: &HeadWeights,
        x: &[f32],
        rows: usize,
        choose: &mut Choose<'_>,
    ) -> Result<HeadGradient> {
        let kernels = Kernels::best();
        let vocabulary = self.data.vocabulary.max(1);
        let mut found = HeadGradient {
            input: Vec::with_capacity(x.len()),
            weight: vec![0.0; head.weight.len()],
            bias: vec![0.0; head.bias.as_ref().map_or(0, Vec::len)],
            labels: Vec::new(),
            nats: 0.0,
        };
        for x in x.chunks((rows * head.width).max(1)) {
            let mut logits = self.logits(head, x);
            if !kernels.all_finite(&logits) {
                return Err(not_finite());
            }
            // The capped logits are needed once more behind their gradients.
            let capped = self.data.head.soft_cap.map(|cap| (cap, logits.clone()));
            for row in logits.chunks_mut(vocabulary) {
                let (greatest, sum) = kernels.max_and_exp_sum(row);
                let before = row.to_vec();
                kernels.softmax(row);
                let label = choose(found.labels.len(), row);
                let own = before.get(label as usize).copied().unwrap_or(f32::NAN);
                found.nats += f64::from(own) - f64::from(greatest) - sum.ln();
                found.labels.push(label);
                row.iter_mut().for_each(|p| *p = -*p);
                if let Some(own) = row.get_mut(label as usize) {
                    *own += 1.0;
                }
            }
            if let Some((cap, capped)) = capped {
                kernels.soft_cap_gradient(cap, &capped, &mut logits);
            }
            if self.data.head.scale != 1.0 {
                kernels.multiply(self.data.head.scale, &mut logits);
            }
            if !found.bias.is_empty() {
                logits.chunks(vocabulary).for_each(|row| kernels.plus(row, &mut found.bias));
            }
            let logits = Matrix::new(&logits, vocabulary);
            add_product(logits.t(), Matrix::new(x, head.width), &mut found.weight);
            found.input.extend(product(logits, Matrix::new(&head.weight, head.width)));
        }
        Ok(found)
    }

    #[cfg(test)]
    pub(super) fn all_logits(&self, x: &Tensor, weights: &Weights) -> Result<Vec<f32>> {
        let x = self.ready(x, weights)?;
        let head = self.head_weights()?;
        crate::eval::decoder::tensors::with_elements(&x, |x| self.logits(&head, x))
    }
}
