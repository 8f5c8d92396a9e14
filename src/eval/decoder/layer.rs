//! One layer: what is mixed, normalised and added in which order.

use super::attention::{self, Attention};
use super::mlp::{Dense, Experts, Limits};
use super::observe::{Observation, Point};
use super::sequences::Slice;
use super::state_space::{self, StateSpace};
use super::tensors::{each_row, each_row_with, failed};
use super::weights::{Finder, Linear, Norm};
use crate::error::{Error, Result};
use crate::kernels::Kernels;
use crate::model::architectures as data;
use candle_core::Tensor;
use rayon::prelude::*;

enum Mixer {
    Attention(Box<Attention>),
    StateSpace(Box<StateSpace>),
}

enum Mlp {
    Dense(Box<Dense>),
    Experts(Box<Experts>),
}

/// What a layer keeps of sequences that go on, one entry a sequence.
pub(super) enum Past {
    Attention(Vec<attention::Past>),
    StateSpace(Vec<state_space::Past>),
}

/// Some sequences' part of a [`Past`].
pub(super) enum PastPart<'a> {
    Attention(&'a mut [attention::Past]),
    StateSpace(&'a mut [state_space::Past]),
}

impl Past {
    /// That of sequences `first` to `last`.
    pub(super) fn part(&mut self, first: usize, last: usize) -> PastPart<'_> {
        match self {
            Self::Attention(all) => PastPart::Attention(&mut all[first..last]),
            Self::StateSpace(all) => PastPart::StateSpace(&mut all[first..last]),
        }
    }

    /// Drops the entry of a sequence; those behind it move up.
    pub(super) fn remove(&mut self, sequence: usize) {
        match self {
            Self::Attention(all) => drop(all.remove(sequence)),
            Self::StateSpace(all) => drop(all.remove(sequence)),
        }
    }
}

pub(super) struct Layer {
    number: usize,
    parallel: bool,
    residual_scale: f32,
    attention_input: Option<Norm>,
    attention_output: Option<Norm>,
    attention_sum: Option<Norm>,
    mlp_input: Option<Norm>,
    mlp_output: Option<Norm>,
    mlp_sum: Option<Norm>,
    mixer: Mixer,
    mlp: Option<Mlp>,
}

impl Layer {
    pub(super) fn open(number: usize, data: &data::Layer, finder: &mut Finder<'_>) -> Result<Self> {
        let mut norm = |norm: &Option<data::Norm>| {
            norm.as_ref().map(|norm| Norm::open(norm, finder)).transpose()
        };
        let [attention_input, attention_output, attention_sum] = [
            norm(&data.attention_input)?,
            norm(&data.attention_output)?,
            norm(&data.attention_sum)?,
        ];
        let [mlp_input, mlp_output, mlp_sum] =
            [norm(&data.mlp_input)?, norm(&data.mlp_output)?, norm(&data.mlp_sum)?];
        let mixer = match &data.mixer {
            data::Mixer::Attention(attention) => {
                Mixer::Attention(Box::new(Attention::open(attention, finder)?))
            }
            data::Mixer::StateSpace(space) => {
                Mixer::StateSpace(Box::new(StateSpace::open(space, finder)?))
            }
        };
        let mlp = match &data.mlp {
            None => None,
            Some(data::Mlp::Dense(dense)) => {
                Some(Mlp::Dense(Box::new(Dense::open(dense, finder)?)))
            }
            Some(data::Mlp::Experts(experts)) => {
                Some(Mlp::Experts(Box::new(Experts::open(experts, finder)?)))
            }
        };
        Ok(Self {
            number,
            parallel: data.parallel,
            residual_scale: data.residual_scale,
            attention_input,
            attention_output,
            attention_sum,
            mlp_input,
            mlp_output,
            mlp_sum,
            mixer,
            mlp,
        })
    }

    fn linears(&self) -> Vec<&Linear> {
        let mut linears = match &self.mixer {
            Mixer::Attention(attention) => attention.linears().to_vec(),
            Mixer::StateSpace(space) => space.linears().to_vec(),
        };
        match &self.mlp {
            None => {}
            Some(Mlp::Dense(dense)) => linears.extend(dense.linears()),
            Some(Mlp::Experts(experts)) => linears.extend(experts.linears()),
        }
        linears
    }

    /// Bytes that its weights take once they are loaded.
    pub(super) fn bytes(&self) -> u64 {
        self.linears().iter().map(|linear| linear.bytes()).sum()
    }

    /// Brings its weights into memory, unless they are there.
    pub(super) fn load(&self) -> Result<()> {
        self.linears().par_iter().try_for_each(|linear| linear.load())
    }

    /// Gives their memory back.
    pub(super) fn unload(&self) -> Result<()> {
        self.linears().iter().try_for_each(|linear| linear.unload())
    }

    /// Says that its weights are read soon.
    pub(super) fn prefetch(&self) {
        self.linears().iter().for_each(|linear| linear.prefetch());
    }

    /// Elements that a token takes meanwhile, without those of the MLP's inside.
    pub(super) fn scratch(&self) -> usize {
        match &self.mixer {
            Mixer::Attention(attention) => attention.scratch(),
            Mixer::StateSpace(space) => space.scratch(),
        }
    }

    /// Bytes that a token takes inside of the MLP.
    pub(super) fn inner_bytes(&self) -> u64 {
        match &self.mlp {
            None => 0,
            Some(Mlp::Dense(dense)) => dense.inner_bytes(),
            Some(Mlp::Experts(experts)) => experts.inner_bytes(),
        }
    }

    /// Elements that a sequence of `length` leaves in a [`Past`].
    pub(super) fn past_elements(&self, length: usize) -> usize {
        match &self.mixer {
            Mixer::Attention(attention) => attention.past() * length,
            Mixer::StateSpace(space) => space.past(),
        }
    }

    /// A [`Past`] of sequences that have not begun.
    pub(super) fn empty_past(&self, sequences: usize) -> Past {
        match &self.mixer {
            Mixer::Attention(_) => {
                Past::Attention((0..sequences).map(|_| Default::default()).collect())
            }
            Mixer::StateSpace(_) => {
                Past::StateSpace((0..sequences).map(|_| Default::default()).collect())
            }
        }
    }

    /// Whether sequences of this length may share their beginnings.
    pub(super) fn shares(&self, length: usize) -> bool {
        match &self.mixer {
            Mixer::Attention(attention) => {
                attention.stretches_beyond().is_none_or(|limit| length <= limit)
            }
            Mixer::StateSpace(_) => false,
        }
    }

    fn mix(
        &self,
        x: &Tensor,
        slice: &Slice,
        past: Option<PastPart<'_>>,
        limits: Limits,
    ) -> Result<Tensor> {
        match (&self.mixer, past) {
            (Mixer::Attention(attention), None) => attention.apply(x, slice, None, limits.block),
            (Mixer::Attention(attention), Some(PastPart::Attention(past))) => {
                attention.apply(x, slice, Some(past), limits.block)
            }
            (Mixer::StateSpace(space), None) => space.apply(x, slice, None, limits),
            (Mixer::StateSpace(space), Some(PastPart::StateSpace(past))) => {
                space.apply(x, slice, Some(past), limits)
            }
            _ => Err(Error::internal("a layer was given another layer's past")),
        }
    }

    /// Changes the hidden states of a slice in place.
    pub(super) fn apply(
        &self,
        x: &Tensor,
        slice: &Slice,
        past: Option<PastPart<'_>>,
        limits: Limits,
        observation: &Observation<'_>,
    ) -> Result<()> {
        let see = |point, values: &Tensor| observation.see(self.number, point, slice, values);
        let input = normed(x, self.attention_input.as_ref())?;
        see(Point::MixerInput, &input)?;
        let mixed = self.mix(&input, slice, past, limits)?;
        normalise(&mixed, self.attention_output.as_ref())?;
        see(Point::MixerOutput, &mixed)?;
        if !self.parallel {
            self.add(x, &mixed)?;
            normalise(x, self.attention_sum.as_ref())?;
        }
        if let Some(mlp) = &self.mlp {
            let input = match &self.mlp_input {
                None if self.parallel => input,
                norm => normed(x, norm.as_ref())?,
            };
            see(Point::MlpInput, &input)?;
            let output = match mlp {
                Mlp::Dense(dense) => dense.apply(&input, limits)?,
                Mlp::Experts(experts) => experts.apply(&input, limits)?,
            };
            normalise(&output, self.mlp_output.as_ref())?;
            see(Point::MlpOutput, &output)?;
            self.add(x, &output)?;
        }
        if self.parallel {
            self.add(x, &mixed)?;
        }
        normalise(x, self.mlp_sum.as_ref())?;
        see(Point::LayerOutput, x)?;
        finite(self.number, x)
    }

    fn add(&self, x: &Tensor, y: &Tensor) -> Result<()> {
        let (kernels, scale) = (Kernels::best(), self.residual_scale);
        each_row_with(x, y, |y, x| kernels.add_scaled(scale, y, x))
    }
}

/// Refuses hidden states that are not finite numbers.
pub(super) fn finite(layer: usize, x: &Tensor) -> Result<()> {
    if super::tensors::with_elements(x, |x| Kernels::best().all_finite(x))? {
        return Ok(());
    }
    Err(Error::input("the model computes hidden states that are not finite numbers")
        .fact("layer", layer)
        .hint("a merge may have broken the weights of this layer or of one before it"))
}

/// A normalised copy; the same rows without a norm.
fn normed(x: &Tensor, norm: Option<&Norm>) -> Result<Tensor> {
    if norm.is_none() {
        return Ok(x.clone());
    }
    let copy = x.copy().map_err(failed)?;
    normalise(&copy, norm)?;
    Ok(copy)
}

/// Normalises each row in place.
pub(super) fn normalise(x: &Tensor, norm: Option<&Norm>) -> Result<()> {
    norm.map_or(Ok(()), |norm| each_row(x, |_, row| norm.normalise(0, row)))
}
