//! From hidden states to likelihoods, without ever holding all logits.

use super::mlp::Limits;
use super::tensors::{each_row, gather, rows, width, with_elements};
use super::weights::{Finder, Linear, Norm};
use crate::error::{Error, Result};
use crate::kernels::Kernels;
use crate::model::Source;
use crate::model::architectures as data;
use candle_core::Tensor;
use rayon::prelude::*;
use std::sync::Arc;

pub(super) struct Head {
    norm: Option<Norm>,
    projection: Option<Linear>,
    linear: Linear,
    scale: f32,
    soft_cap: Option<f32>,
}

/// What is known of a token's likelihood after some blocks of the vocabulary.
#[derive(Clone, Copy)]
struct Sum {
    /// The greatest logit, and its token (the first of equals).
    best: (f32, usize),
    /// `Σ e^(logit - greatest)`.
    sum: f64,
    /// The token's own logit.
    own: f32,
}

/// The log-likelihood of a token, and whether it is the likeliest one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Likelihood {
    pub(super) nats: f64,
    pub(super) greedy: bool,
}

impl Head {
    pub(super) fn open(
        data: &data::Architecture,
        weight: Arc<dyn Source>,
        finder: &mut Finder<'_>,
    ) -> Result<Self> {
        let shape = [data.vocabulary, data.head.width];
        if weight.spec().shape != shape {
            return Err(Error::input("the head does not have the shape its config asks for")
                .tensor(&weight.spec().name)
                .expected(format!("{shape:?}"), format!("{:?}", weight.spec().shape)));
        }
        let bias = data.head.bias.as_ref();
        let bias = bias.map(|name| finder.vector(name, &[data.vocabulary])).transpose()?;
        let norm = data.final_norm.as_ref().map(|norm| Norm::open(norm, finder)).transpose()?;
        let projection = data.head.projection.as_ref();
        Ok(Self {
            norm,
            projection: projection.map(|linear| Linear::open(linear, finder)).transpose()?,
            linear: Linear::single(weight, bias),
            scale: data.head.scale,
            soft_cap: data.head.soft_cap,
        })
    }

    /// The large one of its linear maps.
    pub(super) fn linear(&self) -> &Linear {
        &self.linear
    }

    /// Some rows of hidden states, as the last linear map takes them.
    fn ready(&self, x: &Tensor, numbers: &[usize], limits: Limits) -> Result<Tensor> {
        let x = gather(x, numbers)?;
        if let Some(norm) = &self.norm {
            each_row(&x, |_, row| norm.normalise(0, row))?;
        }
        self.projection.as_ref().map_or(Ok(x.clone()), |linear| linear.apply(&x, limits.block))
    }

    fn finish(&self, logits: &Tensor) -> Result<()> {
        if self.scale == 1.0 && self.soft_cap.is_none() {
            return Ok(());
        }
        each_row(logits, |_, row| {
            if self.scale != 1.0 {
                Kernels::best().multiply(self.scale, row);
            }
            if let Some(cap) = self.soft_cap {
                Kernels::best().soft_cap(cap, row);
            }
        })
    }

    /// The logits behind some rows of hidden states: rows × vocabulary.
    pub(super) fn logits(&self, x: &Tensor, numbers: &[usize], limits: Limits) -> Result<Tensor> {
        let x = self.ready(x, numbers, limits)?;
        let logits = self.linear.apply(&x, limits.block)?;
        self.finish(&logits)?;
        if with_elements(&logits, |logits| Kernels::best().all_finite(logits))? {
            return Ok(logits);
        }
        Err(not_finite())
    }

    /// The likelihood of a token behind each of some rows of hidden states.
    pub(super) fn likelihoods(
        &self,
        x: &Tensor,
        wanted: &[(usize, u32)],
        limits: Limits,
    ) -> Result<Vec<Likelihood>> {
        let outputs = self.linear.outputs().max(1);
        let step = (limits.inner / 4 / outputs as u64).max(16) as usize;
        let mut found = Vec::with_capacity(wanted.len());
        for wanted in wanted.chunks(step) {
            let numbers: Vec<usize> = wanted.iter().map(|(row, _)| *row).collect();
            let x = self.ready(x, &numbers, limits)?;
            let empty = Sum { best: (f32::NEG_INFINITY, 0), sum: 0.0, own: f32::NAN };
            let mut sums = vec![empty; rows(&x)];
            self.linear.each_block(&x, limits.block, |first, logits| {
                self.finish(&logits)?;
                let width = width(&logits);
                with_elements(&logits, |logits| {
                    let rows = sums.par_iter_mut().zip(logits.par_chunks(width)).zip(wanted);
                    rows.with_min_len(16).for_each(|((sum, row), (_, token))| {
                        sum.add(first, row, *token as usize);
                    });
                })
            })?;
            for (sum, (_, token)) in sums.iter().zip(wanted) {
                let nats = f64::from(sum.own) - f64::from(sum.best.0) - sum.sum.ln();
                if !nats.is_finite() {
                    return Err(not_finite());
                }
                found.push(Likelihood { nats, greedy: sum.best.1 == *token as usize });
            }
        }
        Ok(found)
    }
}

impl Sum {
    /// Takes in the logits of the tokens from `first` on.
    fn add(&mut self, first: usize, logits: &[f32], token: usize) {
        let (max, sum) = Kernels::best().max_and_exp_sum(logits);
        let (old, _) = self.best;
        if max > old {
            let at = logits.iter().position(|logit| *logit == max).unwrap_or(0);
            self.sum = self.sum * f64::from(old - max).exp() + sum;
            self.best = (max, first + at);
        } else {
            self.sum += sum * f64::from(max - old).exp();
        }
        if let Some(own) = token.checked_sub(first).and_then(|at| logits.get(at)) {
            self.own = *own;
        }
    }
}

/// The error for logits that are NaN or infinite.
pub(super) fn not_finite() -> Error {
    Error::input("the model computes logits that are not finite numbers")
        .fact("where", "the head, behind the last layer")
        .hint("a merge may have broken its weights; `cognate inspect` shows what they are")
}
