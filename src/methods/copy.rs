//! For tensors that no arithmetic may touch (integers, masks, packed bytes): they are copied, once
//! every model is seen to agree on them.

use super::{Base, Map, Method, Params, STREAMED};
use crate::engine::TensorIo;
use crate::error::Result;

pub(super) const METHOD: Method = Method {
    name: "copy",
    summary: "Copies a tensor that all models agree on.",
    formula: "out = x₀, where all xᵢ are the same bytes",
    reference: "",
    base: Base::Plain,
    params: &[],
    prepare,
    ..STREAMED
};

fn prepare(io: &TensorIo<'_>, _: &Params) -> Result<Map> {
    io.identical_bytes()?;
    Ok(Map::Copy(0))
}
