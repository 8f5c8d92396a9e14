//! What random masks kept of each task vector, element by element, by likelihood.
//!
//! A tool that restores the L1 norm multiplies what is kept in a tensor by ‖δ‖₁/‖m∘δ‖₁. So a weight is
//! the factor on kept elements times the share of the norm that the mask did keep there: counted on the
//! elements themselves it has no sampling error, whatever was drawn and however often a tool drew the same
//! numbers. What an element shows of its mask is read by Bayes' rule from the child, the factors, and the share
//! that is kept as the prior.

use super::deltas::{Chosen, Deltas};
use super::squares;

/// How kept elements are put together.
#[derive(Clone, Copy, Debug)]
pub(super) enum Together<'a> {
    /// They are added up.
    Sum,
    /// Those that have the sign of the sum are added up.
    Elected,
    /// Those that have the sign of the weighted sum are averaged by these shares.
    Averaged(&'a [f64]),
}

/// What was kept of the parents' task vectors.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    /// The factor on a parent's kept elements times the share of its L1 norm that is kept: the weight, where
    /// elements are added up, and 1 where they are averaged.
    pub(super) weights: Vec<f64>,
    /// The standard error of that, by what the tensors say.
    pub(super) errors: Vec<f64>,
    /// The share of each parent's elements that is kept.
    pub(super) densities: Vec<f64>,
    /// The factors on kept elements over all tensors.
    pub(super) factors: Vec<f64>,
    /// The shares of an average, where elements are averaged.
    pub(super) shares: Vec<f64>,
}

/// The variance of a child's element besides its own rounding, in roundings: tools round products, too.
const SPREAD: f64 = 1.5;
/// How far factors of single tensors may lie from those of the whole, relative to them.
const FACTOR: f64 = 0.015;
/// Rounds of reading masks and fitting factors to them.
const ROUNDS: usize = 4;

/// What one tensor says.
struct Tensor {
    /// Σ|δ|, Σ|δ| of what is kept, and how many elements are kept, of each parent.
    norm: Vec<f64>,
    kept_norm: Vec<f64>,
    kept: Vec<f64>,
    /// The normal equations of the factors: those that fit the child by the likeliest masks.
    gram: Vec<f64>,
    with: Vec<f64>,
    /// Σ(child − xᵢ)(child − xⱼ) over elements that are averages, by parents.
    off: Vec<f64>,
    elements: f64,
}

/// Reads the masks of all tensors, beginning from these factors and shares that are kept.
pub(super) fn read(
    all: &[Deltas<'_>],
    chosen: &[Chosen],
    factors: &[f64],
    together: Together<'_>,
) -> Kept {
    let n = factors.len();
    let mut kept = Kept { factors: factors.to_vec(), ..Kept::default() };
    kept.densities = chosen.iter().map(|chosen| prior(*chosen, 0.5)).collect();
    if let Together::Averaged(shares) = together {
        kept.shares = shares.to_vec();
    }
    let mut of_tensors: Vec<Vec<f64>> = vec![kept.factors.clone(); all.len()];
    for round in 0..ROUNDS {
        let read: Vec<Tensor> = all
            .iter()
            .zip(&of_tensors)
            .map(|(deltas, factors)| tensor(deltas, chosen, factors, &kept, together))
            .collect();
        let total = |of: &dyn Fn(&Tensor) -> f64| read.iter().map(of).sum::<f64>();
        // Factors over all tensors, and of each tensor that has enough to say.
        let gram: Vec<f64> = (0..n * n).map(|at| total(&|t: &Tensor| t.gram[at])).collect();
        let with: Vec<f64> = (0..n).map(|at| total(&|t: &Tensor| t.with[at])).collect();
        let whole = squares::solve(n, &gram, &with);
        let sane = |found: &[f64], near: &[f64], within: f64| {
            let close = |(x, y): (&f64, &f64)| (x - y).abs() <= within * y.abs();
            found.iter().zip(near).all(close)
        };
        if sane(&whole, &kept.factors, 0.3) {
            kept.factors = whole;
        }
        for (factors, tensor) in of_tensors.iter_mut().zip(&read) {
            let own = squares::solve(n, &tensor.gram, &tensor.with);
            let enough = (0..n).all(|k| tensor.gram[k * n + k].sqrt() * FACTOR > 5.0);
            let fits = enough && sane(&own, &kept.factors, 0.15);
            *factors = if fits { own } else { kept.factors.clone() };
        }
        kept.densities = (0..n)
            .map(|k| total(&|t: &Tensor| t.kept[k]) / total(&|t: &Tensor| t.elements).max(1.0))
            .collect();
        if matches!(together, Together::Averaged(_)) {
            let off: Vec<f64> = (0..n * n).map(|at| total(&|t: &Tensor| t.off[at])).collect();
            let solved = squares::solve(n, &off, &vec![1.0; n]);
            let sum: f64 = solved.iter().sum();
            if sum.is_finite() && sum != 0.0 && solved.iter().all(|x| x / sum > 0.0) {
                kept.shares = solved.iter().map(|x| x / sum).collect();
            }
        }
        if round + 1 < ROUNDS {
            continue;
        }
        for k in 0..n {
            let weight = |(tensor, factors): (&Tensor, &Vec<f64>)| {
                let share = tensor.kept_norm[k] / tensor.norm[k].max(f64::MIN_POSITIVE);
                (tensor.norm[k], factors[k] * share)
            };
            let found: Vec<(f64, f64)> = read.iter().zip(&of_tensors).map(weight).collect();
            let norm: f64 = found.iter().map(|(norm, _)| norm).sum();
            let mean =
                found.iter().map(|(norm, w)| norm * w).sum::<f64>() / norm.max(f64::MIN_POSITIVE);
            let spread = found.iter().map(|(norm, w)| (norm * (w - mean)).powi(2)).sum::<f64>();
            kept.weights.push(mean);
            kept.errors.push(spread.sqrt() / norm.max(f64::MIN_POSITIVE));
        }
    }
    kept
}

/// The probability that an element of this rank is kept.
fn prior(chosen: Chosen, rank: f64) -> f64 {
    let share = match chosen {
        Chosen::All => 1.0,
        Chosen::Band(low, high) => high - low,
        Chosen::Random(share, slope) => share + slope * (2.0 * rank - 1.0),
    };
    share.clamp(1e-3, 1.0 - 1e-3)
}

/// What a kept subset of one element's parts is put together to, and which of them are in that: those that
/// are elected.
fn outcome(parts: &[f64], subset: usize, together: Together<'_>, shares: &[f64]) -> (f64, usize) {
    let within = |subset: usize| (0..parts.len()).filter(move |k| subset >> k & 1 == 1);
    let weight = |k: usize| match together {
        Together::Averaged(_) => shares[k],
        _ => 1.0,
    };
    if matches!(together, Together::Sum) {
        return (within(subset).map(|k| parts[k]).sum(), subset);
    }
    let elected: f64 = within(subset).map(|k| weight(k) * parts[k]).sum();
    let agree = within(subset).filter(|k| parts[*k] * elected > 0.0);
    let agree = agree.fold(0, |all, k| all | 1 << k);
    let sum: f64 = within(agree).map(|k| weight(k) * parts[k]).sum();
    let divisor: f64 = match together {
        Together::Averaged(_) => within(agree).map(weight).sum(),
        _ => 1.0,
    };
    (if divisor > 0.0 { sum / divisor } else { 0.0 }, agree)
}

fn tensor(
    deltas: &Deltas<'_>,
    chosen: &[Chosen],
    factors: &[f64],
    so_far: &Kept,
    together: Together<'_>,
) -> Tensor {
    let n = factors.len();
    let none = vec![0.0; n];
    let mut found = Tensor {
        norm: none.clone(),
        kept_norm: none.clone(),
        kept: none.clone(),
        gram: vec![0.0; n * n],
        with: none,
        off: vec![0.0; n * n],
        elements: deltas.child.len() as f64,
    };
    // The prior follows what was found so far, with the slope that was seen.
    let shift: Vec<f64> = chosen
        .iter()
        .zip(&so_far.densities)
        .map(|(chosen, density)| density - prior(*chosen, 0.5))
        .collect();
    let mut parts = vec![0.0; n];
    let mut priors = vec![0.0; n];
    for e in 0..deltas.child.len() {
        let sigma = f64::from(deltas.slab.sigma[e]);
        let child = f64::from(deltas.child[e]) / sigma;
        for k in 0..n {
            parts[k] = factors[k] * f64::from(deltas.of[k][e]) / sigma;
            let share = prior(chosen[k], f64::from(deltas.rank[k][e])) + shift[k];
            priors[k] = share.clamp(1e-3, 1.0 - 1e-3);
        }
        let (mut total, mut best) = (0.0, (0.0, 0));
        let mut posterior = [0.0; 8];
        for subset in 0..1_usize << n {
            let (value, agree) = outcome(&parts, subset, together, &so_far.shares);
            let variance = SPREAD + (FACTOR * value).powi(2);
            let distance = (child - value).powi(2) / variance;
            let of = |k: usize| if subset >> k & 1 == 1 { priors[k] } else { 1.0 - priors[k] };
            let likely =
                (0..n).map(of).product::<f64>() * (-0.5 * distance).exp() / variance.sqrt();
            total += likely;
            if likely > best.0 {
                best = (likely, agree);
            }
            for (k, posterior) in posterior.iter_mut().enumerate().take(n) {
                *posterior += if subset >> k & 1 == 1 { likely } else { 0.0 };
            }
        }
        let known = total > 1e-12;
        for k in 0..n {
            let share = if known { posterior[k] / total } else { priors[k] };
            let size = f64::from(deltas.of[k][e].abs());
            found.norm[k] += size;
            found.kept_norm[k] += share * size;
            found.kept[k] += share;
        }
        // Factors are fitted where the masks are beyond doubt.
        if !known || best.0 < 0.98 * total || best.1 == 0 {
            continue;
        }
        let delta = |k: usize| f64::from(deltas.of[k][e]) / sigma;
        let members: Vec<usize> = (0..n).filter(|k| best.1 >> k & 1 == 1).collect();
        match together {
            Together::Averaged(_) if members.len() > 1 => {
                for i in &members {
                    for j in &members {
                        found.off[i * n + j] += (child - parts[*i]) * (child - parts[*j]);
                    }
                }
            }
            _ => {
                for i in &members {
                    found.with[*i] += delta(*i) * child;
                    for j in &members {
                        found.gram[i * n + j] += delta(*i) * delta(*j);
                    }
                }
            }
        }
    }
    found
}

/// Factors and shares that are kept to begin from, where no parent decides alone often enough to show them:
/// for masks that are drawn independently, with E = w·δ and V = w²·δ²·(1 − p)/p for each parent. None where the
/// moments are no such.
pub(super) fn by_moments(all: &[Deltas<'_>], parents: usize) -> Option<(Vec<f64>, Vec<Chosen>)> {
    let n = parents;
    let sums = |values: &dyn Fn(&Deltas<'_>, usize, usize) -> f64,
                target: &dyn Fn(&Deltas<'_>, usize) -> f64,
                width: usize| {
        let (mut gram, mut with) = (vec![0.0; width * width], vec![0.0; width]);
        for deltas in all {
            for e in 0..deltas.child.len() {
                let row: Vec<f64> = (0..width).map(|k| values(deltas, e, k)).collect();
                let y = target(deltas, e);
                for i in 0..width {
                    with[i] += row[i] * y;
                    for j in 0..width {
                        gram[i * width + j] += row[i] * row[j];
                    }
                }
            }
        }
        squares::solve(width, &gram, &with)
    };
    let sigma = |deltas: &Deltas<'_>, e: usize| f64::from(deltas.slab.sigma[e]);
    let delta =
        |deltas: &Deltas<'_>, e: usize, k: usize| f64::from(deltas.of[k][e]) / sigma(deltas, e);
    let child = |deltas: &Deltas<'_>, e: usize| f64::from(deltas.child[e]) / sigma(deltas, e);
    let weights = sums(&delta, &child, n);
    let rest = |deltas: &Deltas<'_>, e: usize| {
        let made: f64 = (0..n).map(|k| weights[k] * delta(deltas, e, k)).sum();
        (child(deltas, e) - made).powi(2)
    };
    let square = |deltas: &Deltas<'_>, e: usize, k: usize| match k {
        k if k < n => delta(deltas, e, k).powi(2),
        _ => 1.0,
    };
    let variances = sums(&square, &rest, n + 1);
    let mut found = (Vec::new(), Vec::new());
    for (weight, variance) in weights.iter().zip(&variances) {
        if weight.abs() < 1e-3 || !variance.is_finite() {
            return None;
        }
        let share = weight * weight / (variance.max(0.0) + weight * weight);
        if !(0.03..=1.0).contains(&share) {
            return None;
        }
        found.0.push(weight / share);
        found.1.push(Chosen::Random(share, 0.0));
    }
    Some(found)
}
