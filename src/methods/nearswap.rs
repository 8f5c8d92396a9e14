//! The other model where it is close to the base, mostly the base where it is not.

use super::params::{ANY, Param};
use super::{Inputs, Map, Method, Params, STREAMED};
use crate::engine::TensorIo;
use crate::error::Result;

pub(super) const METHOD: Method = Method {
    name: "nearswap",
    summary: "Takes the other model's elements where they lie within t of the base's, and less of them the farther they lie.",
    formula: "w = t / max(|base − x|, 1e-6), cut to [0, 1]; out = w·x + (1−w)·base",
    reference: "alchemonaut 2024, QuartetAnemoi-70B, https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    notes: include_str!("notes/nearswap.md"),
    inputs: Inputs::Exactly(2),
    params: &[Param::shared(
        "t",
        ANY,
        "the distance up to which the other model's element is taken",
    )],
    prepare,
    ..STREAMED
};

fn prepare(io: &TensorIo<'_>, p: &Params) -> Result<Map> {
    let kernels = io.kernels();
    let t = p.number("t")? as f32;
    let base = io.base()?;
    let other = 1 - base;
    Ok(Map::new(move |_, inputs, out| kernels.swap_near(t, &inputs[base], &inputs[other], out)))
}
