//! RAM: changes that one model alone made are kept whole, those that several made are averaged.

use super::deltas::with_deltas;
use super::params::{ANY, Default, Param, ParamKind};
use super::{Map, Method, Params, Reads, STREAMED};
use crate::engine::TensorIo;
use crate::error::Result;

/// Numbers from 0 on.
const SIZE: ParamKind = ParamKind::Number { min: 0.0, max: f64::MAX };
const EPSILON: Param = Param::shared("epsilon", SIZE, "changes up to this magnitude count as none")
    .or(Default::Number(1e-5));

pub(super) const RAM: Method = Method {
    name: "ram",
    summary: "Averages what several models changed, and keeps whole what one changed alone.",
    formula: "out = base + Σ_{|δᵢ| > ε} δᵢ / c, c the number of models with |δᵢ| > ε",
    reference: "Yuan et al. 2026, Behavior Knowledge Merge in Reinforced Agentic Models, arXiv 2601.13572",
    notes: include_str!("notes/ram.md"),
    params: &[EPSILON],
    prepare: |io, p| {
        let models = io.others()?.len();
        merged(io, p, vec![1.0; models])
    },
    ..STREAMED
};

pub(super) const RAMPLUS_TL: Method = Method {
    name: "ramplus_tl",
    summary: "As ram, and makes larger what a model changed alone, by its overlap with the others.",
    formula: "out = base + Σ_{|δᵢ| > ε} (δᵢ / c where c > 1, λᵢ·δᵢ where c = 1); λᵢ = 1 + r·min(sharedᵢ / uniqueᵢ, α)",
    notes: include_str!("notes/ramplus_tl.md"),
    params: &[
        Param::shared("r", ANY, "how much the overlap counts").or(Default::Number(0.1)),
        Param::shared("alpha", SIZE, "the largest overlap that counts").or(Default::Number(0.2)),
        EPSILON,
    ],
    reads: Reads::Stream { passes: 2, bins: 0 },
    prepare: |io, p| {
        let factors = factors(io, p)?;
        merged(io, p, factors)
    },
    ..RAM
};

/// The merge, with a factor on what each model changed alone.
fn merged(io: &TensorIo<'_>, p: &Params, factors: Vec<f32>) -> Result<Map> {
    let (base, kernels) = (io.base()?, io.kernels());
    let epsilon = p.number("epsilon")? as f32;
    Ok(Map::new(move |_, inputs, out| {
        with_deltas(kernels, base, inputs, |base, deltas| {
            kernels.merge_overlaps(deltas, base, epsilon, &factors, out);
        });
    }))
}

/// `1 + r·min(shared / unique, α)` for each model.
fn factors(io: &TensorIo<'_>, p: &Params) -> Result<Vec<f32>> {
    let (base, kernels) = (io.base()?, io.kernels());
    let (r, alpha, epsilon) = (p.number("r")?, p.number("alpha")?, p.number("epsilon")?);
    let counts = io.counts(2 * io.others()?.len(), |_, inputs, counts| {
        with_deltas(kernels, base, inputs, |_, deltas| {
            kernels.count_overlaps(deltas, epsilon as f32, counts);
        });
    })?;
    let factor = |[shared, unique]: &[u64; 2]| {
        let overlap = match (*shared, *unique as f64) {
            (0, _) => 0.0,
            (shared, unique) => (shared as f64 / unique.max(epsilon)).min(alpha),
        };
        (1.0 + r * overlap) as f32
    };
    Ok(counts.as_chunks::<2>().0.iter().map(factor).collect())
}
