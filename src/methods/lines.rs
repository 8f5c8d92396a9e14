//! LiNeS: task vectors scaled by depth, so that early layers stay near the base.

use super::Map;
use super::params::{ANY, Param};
use super::posts::{PLAIN, Post, Step};
use crate::engine::TensorIo;
use crate::error::Result;

pub(super) const POST: Post = Post {
    name: "lines",
    summary: "Scales the merged task vector by the depth of the layer.",
    formula: "out = base + (α + β·ℓ/(L−1))·(merged − base) in layer ℓ of L, counted from 0; with α alone outside the layers",
    reference: "Wang et al. 2024, LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances Model Merging, arXiv 2410.17146",
    notes: include_str!("notes/lines.md"),
    params: &[
        Param::shared("alpha", ANY, "factor in the first layer, and outside the layers"),
        Param::shared("beta", ANY, "how much greater the factor is in the last layer"),
    ],
    prepare,
    ..PLAIN
};

fn prepare(io: &TensorIo<'_>, map: Map, step: &Step) -> Result<Map> {
    let (alpha, beta) = (step.params.number("alpha")?, step.params.number("beta")?);
    let factor = (alpha + beta * step.depth.unwrap_or(0.0)) as f32;
    if factor == 1.0 {
        // As the method made it, to the last bit.
        return Ok(map);
    }
    let kernels = io.kernels();
    Ok(map.then(io.base()?, move |base, out| {
        kernels.subtract(base, out);
        kernels.add_to_base(base, factor, out);
    }))
}
