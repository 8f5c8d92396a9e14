//! What is kept of each task vector, and the factor on it.

use crate::engine::TensorIo;
use crate::error::Result;
use crate::kernels::{Kernels, Odds, Stream};
use crate::methods::Params;
use crate::methods::decisions::{Deciding, Decisions};
use crate::methods::deltas::with_deltas;
use crate::methods::threshold::{Threshold, Wanted, deltas, largest, thresholds};
use std::sync::Arc;

/// How a task vector is sparsified.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sparsify {
    Not,
    /// The largest are kept (TIES).
    Magnitude,
    /// The largest are kept but for the very largest (Breadcrumbs).
    Band,
    /// Each element alike (DARE).
    Random,
    /// Each row by the ranks of its magnitudes (DELLA).
    Ranked,
}

/// What happens to one task vector: some elements become 0, the rest are multiplied by `factor`.
pub(super) struct Sparse {
    keep: Keep,
    factor: f32,
    /// What is kept by rank, where that has been decided.
    decided: Option<Decided>,
}

/// The rows that have been decided of a model.
struct Decided {
    all: Arc<Decisions>,
    model: usize,
    models: usize,
}

impl Decided {
    fn row(&self, row: usize) -> Option<&[u64]> {
        let run = row * self.models + self.model;
        self.all.get(run..run + 1)
    }
}

#[derive(Clone, Copy, Debug)]
enum Keep {
    All,
    Nothing,
    /// The elements of `largest`, if given, without those of `but`, if given.
    Largest {
        largest: Option<Threshold>,
        but: Option<Threshold>,
    },
    Random {
        stream: Stream,
        below: u32,
    },
    /// By rank; `inverse` divides what is kept by its probability.
    Ranked {
        stream: Stream,
        odds: Odds,
        inverse: bool,
    },
}

impl Sparse {
    /// Turns the delta of elements `start..` (a row, where ranks decide) into its sparse, weighted form.
    pub(super) fn apply(&self, kernels: Kernels, start: usize, delta: &mut [f32]) {
        match self.keep {
            Keep::All => {}
            Keep::Nothing => return delta.fill(0.0),
            Keep::Largest { largest, but } => {
                if let Some(threshold) = largest {
                    kernels.trim(threshold.pattern, threshold.ties(start), delta);
                }
                if let Some(threshold) = but {
                    kernels.trim_largest(threshold.pattern, threshold.ties(start), delta);
                }
            }
            Keep::Random { stream, below } => {
                return kernels.drop_random(stream, start, below, self.factor, delta);
            }
            Keep::Ranked { stream, odds, inverse: true } => {
                let factor = f64::from(self.factor);
                return kernels.divide_by_rank(stream, start, odds, factor, delta);
            }
            Keep::Ranked { stream, odds, inverse: false } => {
                let row = start / delta.len().max(1);
                if let Some(mask) = self.decided.as_ref().and_then(|decided| decided.row(row)) {
                    return kernels.multiply_kept(mask, self.factor, delta);
                }
                let mask = mask_by_rank(kernels, stream, start, odds, delta);
                return kernels.multiply_kept(&mask, self.factor, delta);
            }
        }
        if self.factor != 1.0 {
            kernels.multiply(self.factor, delta);
        }
    }
}

/// What is kept of a row, a bit an element.
fn mask_by_rank(
    kernels: Kernels,
    stream: Stream,
    start: usize,
    odds: Odds,
    row: &[f32],
) -> Vec<u64> {
    let mut mask = vec![0; row.len().div_ceil(64)];
    kernels.keep_by_rank(stream, start, odds, row, &mut mask);
    mask
}

/// What to keep of each model's delta, and the factor on it: its weight times the rescaling.
pub(super) fn sparse_deltas(
    io: &TensorIo<'_>,
    p: &Params,
    sparsify: Sparsify,
    weights: &[f64],
) -> Result<Vec<Sparse>> {
    let densities = p.each("density");
    let keeps = match sparsify {
        Sparsify::Not => vec![Keep::All; densities.len()],
        Sparsify::Magnitude => {
            let found = match p.chose("variant", "paper") {
                true => io.surveyed::<Vec<Option<Threshold>>>()?.clone(),
                false => thresholds(io, &densities)?,
            };
            let keep = |(density, largest): (&f64, Option<Threshold>)| match largest {
                None => ends(*density).unwrap_or(Keep::All),
                largest => Keep::Largest { largest, but: None },
            };
            densities.iter().zip(found).map(keep).collect()
        }
        Sparsify::Band => bands(io, p, &densities)?,
        Sparsify::Random => {
            let below = |density: f64| (density * 4_294_967_296.0) as u32;
            let keep = |stream, density| Keep::Random { stream, below: below(density) };
            at_random(io, &densities, |_, stream, density| keep(stream, density))?
        }
        Sparsify::Ranked => {
            let epsilons = p.each("epsilon");
            let inverse = p.flag("rescale")? && p.chose("variant", "paper");
            at_random(io, &densities, |i, stream, density| {
                let epsilon = epsilons[i];
                let odds = Odds { lowest: density - epsilon, highest: density + epsilon };
                Keep::Ranked { stream, odds, inverse }
            })?
        }
    };
    let (rescales, decided) = rescales(io, p, &keeps, &densities)?;
    let models = keeps.len();
    let sparse = |(model, (keep, (weight, rescale))): (usize, (Keep, (&f64, f64)))| Sparse {
        keep,
        factor: (weight * rescale) as f32,
        decided: decided.as_ref().map(|all| Decided { all: Arc::clone(all), model, models }),
    };
    Ok(keeps.into_iter().zip(weights.iter().zip(rescales)).enumerate().map(sparse).collect())
}

/// What the densities keep that need no looking.
fn ends(density: f64) -> Option<Keep> {
    match density {
        density if density >= 1.0 => Some(Keep::All),
        density if density <= 0.0 => Some(Keep::Nothing),
        _ => None,
    }
}

/// For each model, what `keep` makes of its place, its random numbers and its density.
fn at_random(
    io: &TensorIo<'_>,
    densities: &[f64],
    keep: impl Fn(usize, Stream, f64) -> Keep,
) -> Result<Vec<Keep>> {
    let others = io.others()?;
    let models = others.iter().zip(densities).enumerate();
    let keep = |(i, (input, density)): (usize, (&usize, &f64))| {
        ends(*density).unwrap_or_else(|| keep(i, io.stream(*input), *density))
    };
    Ok(models.map(keep).collect())
}

/// The bands that Breadcrumbs keeps: of the elements by falling magnitude, those behind the first
/// `but`, up to number `largest`.
fn bands(io: &TensorIo<'_>, p: &Params, densities: &[f64]) -> Result<Vec<Keep>> {
    let elements = io.elements();
    let share = |share: f64| (share * elements as f64) as usize;
    let band = |density: f64, gamma: f64| {
        let largest = (share(density) + share(gamma)).min(elements);
        // The paper drops its share whatever the density is; mergekit keeps to the density.
        let but = match p.chose("variant", "paper") {
            true => share(gamma),
            false if density >= 1.0 => 0,
            false => largest - share(density),
        };
        [largest, but]
    };
    let bands: Vec<[usize; 2]> = densities
        .iter()
        .zip(p.each("gamma"))
        .map(|(density, gamma)| band(*density, gamma))
        .collect();
    let is_threshold = |count: usize| 0 < count && count < elements;
    let mut wanted = Vec::new();
    for (score, [largest, but]) in bands.iter().enumerate().filter(|(_, [l, b])| l > b) {
        let counts = [*largest, *but].into_iter().filter(|count| is_threshold(*count));
        wanted.extend(counts.map(|count| (score, Wanted::Count(count))));
    }
    let mut found = largest(io, &wanted, &*deltas(io, io.others()?))?.into_iter();
    let mut next = |count: usize| is_threshold(count).then(|| found.next()).flatten();
    let keep = |[largest, but]: [usize; 2]| match () {
        () if largest <= but => Keep::Nothing,
        () if largest == elements && but == 0 => Keep::All,
        () => Keep::Largest { largest: next(largest), but: next(but) },
    };
    Ok(bands.into_iter().map(keep).collect())
}

/// Norms below this are not rescaled to.
const ZERO_NORM: f64 = 1e-7;

/// The factor that restores what sparsifying took away: the ratio of L1 norms, or 1/density. (What
/// DELLA divides by its own probability needs no other.) And what was decided on the way.
fn rescales(
    io: &TensorIo<'_>,
    p: &Params,
    keeps: &[Keep],
    densities: &[f64],
) -> Result<(Vec<f64>, Option<Arc<Decisions>>)> {
    let sparse = |keep: &Keep| !matches!(keep, Keep::All | Keep::Nothing);
    if !p.flag("rescale")? || !keeps.iter().any(sparse) {
        return Ok((vec![1.0; keeps.len()], None));
    }
    let at_random = |keep: &Keep| matches!(keep, Keep::Random { .. } | Keep::Ranked { .. });
    if keeps.iter().any(at_random) && p.chose("variant", "paper") {
        let inverse = |(keep, density): (&Keep, &f64)| match keep {
            Keep::Random { .. } => 1.0 / density,
            _ => 1.0,
        };
        return Ok((keeps.iter().zip(densities).map(inverse).collect(), None));
    }
    let ranked = keeps.iter().any(|keep| matches!(keep, Keep::Ranked { .. }));
    let (models, columns) = (keeps.len(), io.columns());
    let deciding = ranked.then(|| Deciding::new(io, io.rows() * models, columns));
    let (base, kernels) = (io.base()?, io.kernels());
    let add = |start: usize, inputs: &mut [Vec<f32>], sums: &mut [f64]| {
        with_deltas(kernels, base, inputs, |_, deltas| {
            let each = keeps.iter().zip(deltas).zip(sums.as_chunks_mut::<2>().0).enumerate();
            for (model, ((keep, delta), sums)) in each.filter(|(_, ((keep, _), _))| sparse(keep)) {
                let [all, kept] = match *keep {
                    Keep::Random { stream, below } => {
                        kernels.l1_and_kept(stream, start, below, delta)
                    }
                    Keep::Ranked { stream, odds, .. } => {
                        let mask = mask_by_rank(kernels, stream, start, odds, delta);
                        if let Some(deciding) = &deciding {
                            deciding.set(start / columns * models + model, &mask);
                        }
                        kernels.l1_of_kept(&mask, delta)
                    }
                    keep => {
                        let all = kernels.l1(delta);
                        let sparse = Sparse { keep, factor: 1.0, decided: None };
                        sparse.apply(kernels, start, delta);
                        [all, kernels.l1(delta)]
                    }
                };
                sums[0] += all;
                sums[1] += kept;
            }
        });
    };
    let norms = match ranked {
        true => io.row_sums(columns, 2 * models, |row, inputs, sums| {
            add(row * columns, inputs, sums);
        })?,
        false => io.sums(2 * models, add)?,
    };
    let ratio = |norms: &[f64]| match norms {
        [before, after] if *before >= ZERO_NORM && *after >= ZERO_NORM => before / after,
        _ => 1.0,
    };
    let decided = deciding.map(|deciding| Arc::new(deciding.done()));
    Ok((norms.chunks(2).map(ratio).collect(), decided))
}
