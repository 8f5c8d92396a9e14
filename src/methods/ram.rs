//! RAM: changes that one model alone made are kept whole, those that several made are averaged.

use super::deltas::with_deltas;
use super::params::{ANY, Default, Param, ParamKind};
use super::survey::{Part, Survey, Surveyed, surveyed};
use super::task_vectors::VARIANTS;
use super::{Map, Method, Params, Reads, STREAMED};
use crate::engine::{ModelIo, TensorIo};
use crate::error::Result;
use std::collections::BTreeMap;

/// Numbers from 0 on.
const SIZE: ParamKind = ParamKind::Number { min: 0.0, max: f64::MAX };
const EPSILON: Param = Param::shared("epsilon", ANY, "changes up to this magnitude count as none")
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
        Param::shared(
            "variant",
            VARIANTS,
            "`paper`: count over the whole model instead of per tensor",
        )
        .or(Default::Choice("mergekit")),
    ],
    reads: Reads::Stream { passes: 2, bins: 0 },
    survey: |p| p.chose("variant", "paper").then_some(&OVERLAPS),
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

/// For each input but the base, how many elements of its whole model are changed in several models, and
/// how many in it alone.
const OVERLAPS: Survey = Survey { whole: &["epsilon"], make: overlaps_of_models };

fn overlaps_of_models(io: &ModelIo<'_>, parts: &[Part<'_>]) -> Result<Vec<Surveyed>> {
    let counted = io.of_tensors::<u64>(widest(io)?, |at, tensor, inputs, counts| {
        let epsilon = parts[at].params.number("epsilon").unwrap_or_default() as f32;
        if let Ok(base) = tensor.base() {
            with_deltas(tensor.kernels(), base, inputs, |_, deltas| {
                let counts = &mut counts[..2 * deltas.len()];
                tensor.kernels().count_overlaps(deltas, epsilon, counts);
            });
        }
    })?;
    let mut totals: BTreeMap<usize, [u64; 2]> = BTreeMap::new();
    let mut models = Vec::new();
    for ((part, tensor), counts) in parts.iter().zip(io.tensors()).zip(&counted) {
        let own: Vec<usize> = tensor.others()?.into_iter().map(|i| part.models[i]).collect();
        for (model, counts) in own.iter().zip(counts.as_chunks::<2>().0) {
            let total = totals.entry(*model).or_default();
            total.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
        }
        models.push(own);
    }
    let of = |own: Vec<usize>| own.iter().map(|model| totals[model]).collect::<Vec<_>>();
    Ok(surveyed(models.into_iter().map(of).collect()))
}

/// Counts that the tensor with the most models takes.
fn widest(io: &ModelIo<'_>) -> Result<usize> {
    io.tensors().iter().try_fold(0, |most, tensor| Ok(most.max(2 * tensor.others()?.len())))
}

/// `1 + r·min(shared / unique, α)` for each model.
fn factors(io: &TensorIo<'_>, p: &Params) -> Result<Vec<f32>> {
    let (r, alpha, epsilon) = (p.number("r")?, p.number("alpha")?, p.number("epsilon")?);
    let counts = match p.chose("variant", "paper") {
        true => io.surveyed::<Vec<[u64; 2]>>()?.clone(),
        false => overlaps(io, epsilon as f32)?,
    };
    let factor = |[shared, unique]: &[u64; 2]| {
        let overlap = match (*shared, *unique as f64) {
            (0, _) => 0.0,
            (shared, unique) => (shared as f64 / unique.max(epsilon)).min(alpha),
        };
        (1.0 + r * overlap) as f32
    };
    Ok(counts.iter().map(factor).collect())
}

/// The counts of one tensor.
fn overlaps(io: &TensorIo<'_>, epsilon: f32) -> Result<Vec<[u64; 2]>> {
    let (base, kernels) = (io.base()?, io.kernels());
    let counts = io.counts(2 * io.others()?.len(), |_, inputs, counts| {
        with_deltas(kernels, base, inputs, |_, deltas| {
            kernels.count_overlaps(deltas, epsilon, counts);
        });
    })?;
    Ok(counts.as_chunks::<2>().0.to_vec())
}
