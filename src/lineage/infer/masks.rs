//! Merges that decide element by element: TIES, DARE, DELLA, Breadcrumbs.

use super::deltas::{self, Alone, Chosen, Deltas, Pairs};
use super::explanation::{Explanation, Kind, Parent};
use super::kept::{self, Kept, Together};
use super::sample::Sample;
use super::setting::{Estimate, Setting};
use std::collections::BTreeMap;

/// The share of the kept elements that have to have one factor.
const SHARP: f64 = 0.5;
/// The share of the elements that the parents have to explain, where masks are random.
const EXPLAINED: f64 = 0.93;
/// The share of pairs of elements that says that sums are taken.
const SUMS: f64 = 0.5;

/// What was found of parents of a base.
pub(super) struct Found {
    /// The recipe.
    pub(super) explanation: Explanation,
    /// The share of the elements that the parents explain.
    pub(super) explained: f64,
}

fn constant(value: f64, error: f64) -> Setting {
    Setting::Constant(Estimate { value, error })
}

/// Explains the child by these parents' elements; none if their factors do not show.
pub(super) fn explain(sample: &Sample, base: usize, parents: &[usize]) -> Option<Found> {
    let all = Deltas::all(sample, base, parents);
    let alone: Option<Vec<Alone>> = deltas::alone(&all, parents.len()).into_iter().collect();
    let (factors, chosen) = match alone {
        Some(alone) if alone.iter().all(|alone| alone.sharp >= SHARP) => {
            let factors: Vec<f64> = alone.iter().map(|alone| alone.factor).collect();
            (factors, alone.iter().map(deltas::chosen).collect::<Vec<Chosen>>())
        }
        Some(_) => return None,
        // No parent decides alone often enough: their task vectors are alike.
        None => {
            let (factors, chosen) = kept::by_moments(&all, parents.len())?;
            let found = kept::read(&all, &chosen, &factors, Together::Sum);
            let random = |density: &f64| Chosen::Random(*density, 0.0);
            (found.factors, found.densities.iter().map(random).collect())
        }
    };
    let pairs = deltas::pairs(&all, &factors);
    let random = chosen.iter().any(|chosen| matches!(chosen, Chosen::Random(..)));
    let (explanation, kept) = match random {
        true => at_random(&all, &factors, &chosen, &pairs),
        false => (by_magnitude(&all, &chosen, &pairs, &factors), Kept::default()),
    };
    let normal = explanation.switches.get("normalize").copied().unwrap_or(false);
    let shares = Some(&kept.shares[..]).filter(|_| normal && random);
    let factors = if random { &kept.factors } else { &factors };
    let explained = deltas::explained(&all, factors, shares);
    let drawn = random.then_some(explained);
    let mut explanation = Explanation { base: Some(base), drawn, ..explanation };
    for (parent, candidate) in explanation.parents.iter_mut().zip(parents) {
        parent.candidate = *candidate;
    }
    Some(Found { explanation, explained })
}

impl Found {
    /// Whether the parents explain the elements of a child whose masks nobody can draw again.
    pub(super) fn holds(&self) -> bool {
        self.explained >= EXPLAINED
    }
}

/// How many pairs have to be seen before they say anything.
const PAIRS: usize = 20;

/// Whether deltas of opposite signs are added up: no signs are elected.
fn sums(pairs: &Pairs, both: f64) -> Option<bool> {
    (pairs.opposed >= PAIRS)
        .then_some(pairs.opposed_sums as f64 > SUMS * both * pairs.opposed as f64)
}

/// Whether deltas of equal signs are averaged.
fn averaged(pairs: &Pairs) -> bool {
    pairs.agreeing >= PAIRS && pairs.between.len() > pairs.agreeing_sums
}

/// One parent with its parameters; its place is filled in later.
fn parent(parameters: impl IntoIterator<Item = (&'static str, Setting)>) -> Parent {
    Parent { candidate: 0, parameters: parameters.into_iter().collect() }
}

fn at_random(
    all: &[Deltas<'_>],
    factors: &[f64],
    chosen: &[Chosen],
    pairs: &Pairs,
) -> (Explanation, Kept) {
    let share = |chosen: &Chosen| match chosen {
        Chosen::All => (1.0, 0.0),
        Chosen::Band(low, high) => (high - low, 0.0),
        Chosen::Random(share, slope) => (*share, *slope),
    };
    let ranked = chosen.iter().any(|chosen| share(chosen).1 != 0.0);
    let both: f64 = chosen.iter().take(2).map(|chosen| share(chosen).0).product();
    let summed = sums(pairs, both);
    // A factor is the weight over the share of the task vector's norm that is kept, or where elements are
    // averaged 1 over that share.
    let rescaled = |(k, (factor, chosen)): (usize, (&f64, &Chosen))| {
        let (share, slope) = share(chosen);
        (factor * deltas::kept_norm(all, k, share, slope) - 1.0).abs() < 0.04
    };
    let unscaled = factors.iter().zip(chosen).enumerate().all(rescaled);
    let shares = pairs.shares(factors.len()).filter(|_| averaged(pairs) && unscaled);
    let together = match (&shares, summed.unwrap_or(true)) {
        (Some(shares), _) => Together::Averaged(shares),
        (None, true) => Together::Sum,
        (None, false) => Together::Elected,
    };
    let kept = kept::read(all, chosen, factors, together);
    let weights = if shares.is_some() { &kept.shares } else { &kept.weights };
    let method = match (ranked, summed.unwrap_or(true)) {
        (false, true) => "dare_linear",
        (false, false) => "dare_ties",
        (true, true) => "della_linear",
        (true, false) => "della",
    };
    let elements = all.iter().map(|deltas| deltas.child.len()).sum::<usize>().max(1) as f64;
    let parents = weights.iter().enumerate().map(|(k, weight)| {
        let density = kept.densities[k];
        let error = (density * (1.0 - density) / elements).sqrt();
        let mut parameters = BTreeMap::from([
            ("weight", constant(*weight, kept.errors[k].hypot(0.002 * weight))),
            ("density", constant(density, error.hypot(0.002))),
        ]);
        if ranked {
            parameters.insert("epsilon", constant(share(&chosen[k]).1.abs(), error.hypot(0.005)));
        }
        parent(parameters)
    });
    let mut found =
        Explanation { parents: parents.collect(), ..Explanation::new(Kind::Merge(method)) };
    if summed.is_none() {
        found.same_map.push(if ranked { "della" } else { "dare_ties" });
    }
    found.switches.insert("normalize", shares.is_some());
    found.switches.insert("rescale", true);
    let remark = "masks were drawn at random: the recipe makes a model of the same kind, not the same elements";
    found.notes.push(remark.to_string());
    (found, kept)
}

fn by_magnitude(
    all: &[Deltas<'_>],
    chosen: &[Chosen],
    pairs: &Pairs,
    factors: &[f64],
) -> Explanation {
    let band = |chosen: &Chosen| match chosen {
        Chosen::Band(low, high) => (*low, *high),
        _ => (0.0, 1.0),
    };
    let bands: Vec<(f64, f64)> = chosen.iter().map(band).collect();
    let crumbs = bands.iter().any(|(_, high)| *high < 1.0);
    let summed = sums(pairs, 1.0).unwrap_or(false);
    let averaged = averaged(pairs);
    let lambda = factors.iter().sum::<f64>() / factors.len().max(1) as f64;
    let (weights, errors) = if averaged {
        shares(all, &bands, lambda)
    } else {
        (factors.to_vec(), vec![0.002; factors.len()])
    };
    let method = match (crumbs, summed) {
        (true, true) => "breadcrumbs",
        (true, false) => "breadcrumbs_ties",
        (false, _) => "ties",
    };
    let parents = weights.iter().zip(errors).zip(&bands).map(|((weight, error), (low, high))| {
        let mut parameters = BTreeMap::from([
            ("weight", constant(*weight, error)),
            ("density", constant(high - low, 0.004)),
        ]);
        if crumbs {
            parameters.insert("gamma", constant(1.0 - high, 0.001));
        }
        parent(parameters)
    });
    let mut found =
        Explanation { parents: parents.collect(), ..Explanation::new(Kind::Merge(method)) };
    if averaged && (lambda - 1.0).abs() > 0.01 {
        found.shared.insert("lambda", constant(lambda, 0.002));
    }
    found.switches.insert("normalize", averaged);
    found
}

/// The weights of an average over the parents that agree, as shares of 1: those that make
/// `Σ_agree wₖ(d − λδₖ)` least, with errors from what is left.
fn shares(all: &[Deltas<'_>], bands: &[(f64, f64)], lambda: f64) -> (Vec<f64>, Vec<f64>) {
    let n = bands.len();
    let mut weights = vec![1.0 / n as f64; n];
    let mut errors = vec![0.0; n];
    for _ in 0..4 {
        let mut products = vec![0.0; n * n];
        let mut count = 0.0;
        for deltas in all {
            for e in 0..deltas.child.len() {
                let kept = |k: usize| {
                    let (rank, (low, high)) = (f64::from(deltas.rank[k][e]), bands[k]);
                    rank >= low && rank <= high && deltas.of[k][e] != 0.0
                };
                let all: Vec<usize> = (0..n).filter(|k| kept(*k)).collect();
                let elected: f64 =
                    all.iter().map(|k| weights[*k] * f64::from(deltas.of[*k][e])).sum();
                let agree: Vec<usize> = all
                    .into_iter()
                    .filter(|k| f64::from(deltas.of[*k][e]) * elected > 0.0)
                    .collect();
                if agree.len() < 2 {
                    continue;
                }
                let sigma = f64::from(deltas.slab.sigma[e]);
                let child = f64::from(deltas.child[e]);
                let off = |k: usize| (child - lambda * f64::from(deltas.of[k][e])) / sigma;
                // Near the edges of masks, and where signs are elected by a hair, the guess may be
                // wrong: the child lies outside of what the models span.
                let (low, high) = agree.iter().fold((f64::MAX, f64::MIN), |(low, high), k| {
                    (low.min(off(*k)), high.max(off(*k)))
                });
                if low > 3.0 || high < -3.0 {
                    continue;
                }
                count += 1.0;
                for i in &agree {
                    for j in &agree {
                        products[i * n + j] += off(*i) * off(*j);
                    }
                }
            }
        }
        if count < 1.0 {
            break;
        }
        // What the rounding of the child adds to every product.
        let ones = vec![1.0; n];
        let solved = super::squares::solve(n, &products, &ones);
        let total: f64 = solved.iter().sum();
        if total == 0.0 || !total.is_finite() {
            break;
        }
        weights = solved.iter().map(|x| x / total).collect();
        errors = (0..n).map(|k| (1.0 / products[k * n + k].max(1.0)).sqrt()).collect();
    }
    (weights, errors)
}
