//! PCB-Merging: task vectors compete for each element by scores.

use super::deltas::with_deltas;
use super::params::{Default, FRACTION, Param};
use super::task_vectors::{LAMBDA, WEIGHT};
use super::threshold::{BINS, Threshold, Wanted, kept, largest};
use super::{Map, Method, Params, Reads, STREAMED};
use crate::engine::TensorIo;
use crate::error::Result;
use crate::kernels::Kernels;

pub(super) const METHOD: Method = Method {
    name: "pcb",
    summary: "Weighs each element by how much it matters to its model and to the others, dropping low scores.",
    formula: "βᵢ = softmax(N·norm(δᵢ²)) ∘ Σⱼ softmax(norm(δᵢ∘δⱼ)); β̂ᵢ = its int(density·n) largest; out = base + λ·Σ β̂ᵢ∘wᵢδᵢ / Σ β̂ᵢ",
    reference: "Du et al. 2024, Parameter Competition Balancing for Model Merging, arXiv 2410.02396",
    notes: include_str!("notes/pcb.md"),
    params: &[
        WEIGHT.or(Default::Number(1.0)),
        Param::shared("density", FRACTION, "share of each model's elements that is kept, by score")
            .or(Default::Number(0.1)),
        LAMBDA,
    ],
    reads: Reads::Stream { passes: 4, bins: BINS },
    prepare,
    ..STREAMED
};

/// The exponentials of one product of task vectors over a tensor: `weight·e^((a·b − least)·scale)`,
/// of which the mean is 1.
#[derive(Clone, Copy, Debug)]
struct Softmax {
    least: f32,
    scale: f32,
    weight: f32,
}

/// What scores are made of: for each model, its own softmax, and one with each model.
struct Balance {
    intra: Vec<Softmax>,
    inter: Vec<Vec<Softmax>>,
}

fn prepare(io: &TensorIo<'_>, p: &Params) -> Result<Map> {
    let (base, kernels) = (io.base()?, io.kernels());
    let models = io.others()?.len();
    let density = p.number("density")?;
    if density <= 0.0 || models == 0 || io.elements() == 0 {
        return Ok(Map::Copy(base));
    }
    let balance = Balance::new(io, models)?;
    let thresholds: Option<Vec<Threshold>> = match kept(density, io.elements()) {
        None => None,
        Some(count) => {
            let wanted: Vec<_> = (0..models).map(|i| (i, Wanted::Count(count))).collect();
            Some(largest(io, &wanted, &|inputs, visit| {
                with_deltas(kernels, base, inputs, |base, deltas| {
                    let mut score = vec![0.0; base.len()];
                    for i in 0..models {
                        balance.score(kernels, i, deltas, &mut score);
                        visit(i, &score);
                    }
                });
            })?)
        }
    };
    let weights: Vec<f32> = p.each("weight").iter().map(|weight| *weight as f32).collect();
    let lambda = p.number("lambda")? as f32;
    Ok(Map::new(move |start, inputs, out| {
        with_deltas(kernels, base, inputs, |base, deltas| {
            let mut scores = vec![vec![0.0; base.len()]; models];
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

impl Balance {
    fn new(io: &TensorIo<'_>, models: usize) -> Result<Self> {
        let pairs: Vec<(usize, usize)> =
            (0..models).flat_map(|i| (i..models).map(move |j| (i, j))).collect();
        let extents = extents(io, &pairs)?;
        // Each model's own product comes twice: times the number of models, and once.
        let exponents: Vec<(usize, usize, Softmax)> = pairs
            .iter()
            .zip(&extents)
            .flat_map(|((i, j), [least, greatest])| {
                let range = f64::from(*greatest) - f64::from(*least);
                let softmax = |gain: f64| {
                    let scale = if range > 0.0 { (gain / range) as f32 } else { 0.0 };
                    (*i, *j, Softmax { least: *least, scale, weight: 1.0 })
                };
                let own = (i == j).then(|| softmax(models as f64));
                own.into_iter().chain([softmax(1.0)])
            })
            .collect();
        let (base, kernels) = (io.base()?, io.kernels());
        let sums = io.sums(exponents.len(), |_, inputs, sums| {
            with_deltas(kernels, base, inputs, |_, deltas| {
                for (sum, (i, j, s)) in sums.iter_mut().zip(&exponents) {
                    *sum += kernels.exp_sum(&deltas[*i], &deltas[*j], s.least, s.scale);
                }
            });
        })?;
        let unit = Softmax { least: 0.0, scale: 0.0, weight: 1.0 };
        let mut made = Self { intra: vec![unit; models], inter: vec![vec![unit; models]; models] };
        let mut seen = vec![false; models];
        for ((i, j, softmax), sum) in exponents.into_iter().zip(sums) {
            let softmax = Softmax { weight: (io.elements() as f64 / sum) as f32, ..softmax };
            if i == j && !std::mem::replace(&mut seen[i], true) {
                made.intra[i] = softmax;
                continue;
            }
            made.inter[i][j] = softmax;
            made.inter[j][i] = softmax;
        }
        Ok(made)
    }

    /// The scores of model `i`, times the square of the number of elements.
    fn score(&self, kernels: Kernels, i: usize, deltas: &[Vec<f32>], out: &mut [f32]) {
        out.fill(0.0);
        for (other, s) in deltas.iter().zip(&self.inter[i]) {
            kernels.add_exp(&deltas[i], other, s.least, s.scale, s.weight, out);
        }
        let s = self.intra[i];
        let mut own = vec![0.0; out.len()];
        kernels.add_exp(&deltas[i], &deltas[i], s.least, s.scale, s.weight, &mut own);
        kernels.times(&own, out);
    }
}

/// The least and the greatest product of each pair of task vectors.
fn extents(io: &TensorIo<'_>, pairs: &[(usize, usize)]) -> Result<Vec<[f32; 2]>> {
    let (base, kernels) = (io.base()?, io.kernels());
    let mut extents = vec![[f32::INFINITY, f32::NEG_INFINITY]; pairs.len()];
    let mut next = 0;
    while next < io.chunks() {
        let chunks = io.window(next)?;
        next = chunks.end;
        // Each as a key that is greater the more it reaches, so that it starts from 0.
        let keys = io.chunk_counts(chunks, 2 * pairs.len(), |_, inputs, keys| {
            with_deltas(kernels, base, inputs, |_, deltas| {
                for ((i, j), keys) in pairs.iter().zip(keys.as_chunks_mut::<2>().0) {
                    let [least, greatest] = kernels.product_extent(&deltas[*i], &deltas[*j]);
                    keys[0] = keys[0].max(key(-least));
                    keys[1] = keys[1].max(key(greatest));
                }
            });
        })?;
        for keys in keys {
            for (extent, keys) in extents.iter_mut().zip(keys.as_chunks::<2>().0) {
                extent[0] = extent[0].min(-value(keys[0]));
                extent[1] = extent[1].max(value(keys[1]));
            }
        }
    }
    Ok(extents)
}

/// An integer that orders as the number does, and is above 0.
fn key(x: f32) -> u64 {
    let bits = x.to_bits();
    u64::from(if bits >> 31 == 1 { !bits } else { bits | 1 << 31 })
}

/// The number of a key; negative infinity for 0.
fn value(key: u64) -> f32 {
    match key as u32 {
        0 => f32::NEG_INFINITY,
        key if key >> 31 == 1 => f32::from_bits(key & 0x7fff_ffff),
        key => f32::from_bits(!key),
    }
}
