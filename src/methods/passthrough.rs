//! One model's tensors as they are, or scaled; with slices, layer stacking.

use super::linear::weighted_sum;
use super::params::{ANY, Default, Param};
use super::{Base, Inputs, Map, Method, Params, STREAMED};
use crate::engine::TensorIo;
use crate::error::Result;

pub(super) const METHOD: Method = Method {
    name: "passthrough",
    summary: "Takes each tensor from one model, as it is or scaled; with slices, stacks layers.",
    formula: "out = x, or scale · x",
    reference: "layer stacking: Kim et al. 2023, SOLAR 10.7B, arXiv 2312.15166",
    notes: include_str!("notes/passthrough.md"),
    inputs: Inputs::Exactly(1),
    base: Base::Plain,
    params: &[Param::input("scale", ANY, "a factor on the tensor").or(Default::Absent)],
    prepare,
    ..STREAMED
};

fn prepare(io: &TensorIo<'_>, p: &Params) -> Result<Map> {
    Ok(match p.each("scale").first() {
        None => Map::Copy(0),
        Some(scale) => weighted_sum(io, &[*scale]),
    })
}
