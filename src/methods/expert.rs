//! A dense model's MLP as an expert of a mixture: with noise, and scaled. Not a merge method: recipes
//! with `experts` make its jobs.

use super::params::{ANY, Default, Param, ParamKind};
use super::{Base, Inputs, Map, Method, Params, STREAMED};
use crate::engine::TensorIo;
use crate::error::Result;
use crate::kernels::normals;

pub(crate) const EXPERT: Method = Method {
    name: "expert",
    summary: "A dense model's MLP as an expert of a mixture.",
    formula: "out = residual_scale · (x + noise_scale · z), z normal",
    reference: "mergekit-moe",
    inputs: Inputs::Exactly(1),
    base: Base::Plain,
    params: &[
        Param::shared(
            "noise_scale",
            ParamKind::Number { min: 0.0, max: f64::MAX },
            "the standard deviation of noise",
        )
        .or(Default::Absent),
        Param::shared("residual_scale", ANY, "a factor").or(Default::Absent),
    ],
    prepare,
    ..STREAMED
};

fn prepare(io: &TensorIo<'_>, p: &Params) -> Result<Map> {
    let given = |name: &str| p.shared.contains_key(name).then(|| p.number(name)).transpose();
    let (noise, factor) = (given("noise_scale")?, given("residual_scale")?);
    if noise.is_none() && factor.is_none() {
        return Ok(Map::Copy(0));
    }
    let (kernels, stream) = (io.kernels(), io.stream(0));
    let factor = factor.unwrap_or(1.0) as f32;
    Ok(Map::new(move |start, inputs, out| {
        out.copy_from_slice(&inputs[0]);
        if let Some(noise) = noise {
            for (x, z) in out.iter_mut().zip(normals(stream, start)) {
                *x = (f64::from(*x) + noise * z) as f32;
            }
        }
        kernels.multiply(factor, out);
    }))
}
