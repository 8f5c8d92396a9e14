//! PCB-Merging: task vectors compete for each element by scores.

mod balance;
mod whole;

use super::deltas::with_deltas_of;
use super::params::{Default, FRACTION, Param};
use super::task_matrix::{PARAMS, models};
use super::task_vectors::{LAMBDA, VARIANTS};
use super::threshold::{BINS, Threshold, Wanted, kept, largest};
use super::{Map, Method, Params, Reads, STREAMED};
use crate::engine::TensorIo;
use crate::error::Result;
use balance::{Balance, Extents, Pairs};
use whole::WHOLE;

pub(super) const METHOD: Method = Method {
    name: "pcb",
    summary: "Weighs each element by how much it matters to its model and to the others, dropping low scores.",
    formula: "βᵢ = softmax(N·norm(δᵢ²)) ∘ Σⱼ softmax(norm(δᵢ∘δⱼ)); β̂ᵢ = its int(density·n) largest; out = base + λ·Σ β̂ᵢ∘wᵢδᵢ / Σ β̂ᵢ",
    reference: "Du et al. 2024, Parameter Competition Balancing for Model Merging, arXiv 2410.02396",
    notes: include_str!("../notes/pcb.md"),
    params: &[
        PARAMS[0],
        Param::shared("density", FRACTION, "share of each model's elements that is kept, by score")
            .or(Default::Number(0.1)),
        LAMBDA,
        Param::shared(
            "variant",
            VARIANTS,
            "`paper`: norm, softmax and limit over the whole model instead of per tensor",
        )
        .or(Default::Choice("mergekit")),
    ],
    reads: Reads::Stream { passes: 4, bins: BINS },
    survey: |p| p.chose("variant", "paper").then_some(&WHOLE),
    prepare,
    ..STREAMED
};

/// How the models of a tensor compete: the inputs that do, how their elements are scored, and the
/// scores that are kept, where not all are.
#[derive(Clone, Debug, std::default::Default)]
struct Competition {
    models: Vec<usize>,
    balance: Balance,
    thresholds: Option<Vec<Threshold>>,
}

fn prepare(io: &TensorIo<'_>, p: &Params) -> Result<Map> {
    let (base, kernels) = (io.base()?, io.kernels());
    let weighted = models(io, p)?;
    if p.number("density")? <= 0.0 || weighted.is_empty() || io.elements() == 0 {
        return Ok(Map::Copy(base));
    }
    let Competition { models, balance, thresholds } = match p.chose("variant", "paper") {
        true => io.surveyed::<Competition>()?.clone(),
        false => of_tensor(io, p, weighted.iter().map(|(model, _)| *model).collect())?,
    };
    let weight = |model: &usize| weighted.iter().find(|(own, _)| own == model);
    let weights: Vec<f32> = models.iter().filter_map(weight).map(|(_, w)| *w as f32).collect();
    let lambda = p.number("lambda")? as f32;
    Ok(Map::new(move |start, inputs, out| {
        with_deltas_of(kernels, base, &models, inputs, |base, deltas| {
            let mut scores = vec![vec![0.0; base.len()]; models.len()];
            for (i, score) in scores.iter_mut().enumerate() {
                balance.score(kernels, i, deltas, score);
                if let Some(threshold) = thresholds.as_ref().and_then(|all| all.get(i)) {
                    kernels.trim(threshold.pattern, threshold.ties(start), score);
                }
            }
            kernels.merge_scored(deltas, &scores, base, &weights, lambda, out);
        });
    }))
}

/// The competition in one tensor by itself.
fn of_tensor(io: &TensorIo<'_>, p: &Params, models: Vec<usize>) -> Result<Competition> {
    let (base, kernels) = (io.base()?, io.kernels());
    let pairs = Pairs::all(models.len());
    let mut extents = Extents::new(&pairs);
    let mut next = 0;
    while next < io.chunks() {
        let chunks = io.window(next)?;
        next = chunks.end;
        let found = io.chunk_counts(chunks, extents.width(), |_, inputs, keys| {
            with_deltas_of(kernels, base, &models, inputs, |_, deltas| {
                Extents::look(kernels, &pairs, Some, deltas, keys);
            });
        })?;
        found.iter().for_each(|keys| extents.join(keys));
    }
    let softmaxes = pairs.softmaxes(&extents, models.len());
    let sums = io.sums(softmaxes.len(), |_, inputs, sums| {
        with_deltas_of(kernels, base, &models, inputs, |_, deltas| {
            softmaxes.iter().zip(sums).for_each(|(one, sum)| *sum += one.sum(kernels, deltas));
        });
    })?;
    let balance = Balance::new(models.len(), softmaxes, &sums, io.elements());
    let thresholds = match kept(p.number("density")?, io.elements()) {
        None => None,
        Some(count) => {
            let wanted: Vec<_> = (0..models.len()).map(|i| (i, Wanted::Count(count))).collect();
            Some(largest(io, &wanted, &|inputs, visit| {
                with_deltas_of(kernels, base, &models, inputs, |_, deltas| {
                    balance.scores(kernels, deltas, visit);
                });
            })?)
        }
    };
    Ok(Competition { models, balance, thresholds })
}
