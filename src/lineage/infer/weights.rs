//! Merges that are linear in each tensor: averages, task arithmetic, interpolation on the sphere.

use super::explanation::{Explanation, Kind, Parent};
use super::sample::{Sample, Slab};
use super::setting::{Estimate, Placed, Setting};
use super::squares::{Fit, Squares};
use std::collections::BTreeMap;

/// A residual up to this many roundings is the rounding of the child and of what led to it: tools that
/// compute in bf16 round each product and each sum.
const EXACT: f64 = 2.0;
/// A candidate whose coefficient stays below this everywhere is no parent.
const NO_SHARE: f64 = 0.006;
/// Above this cosine mergekit, and this crate, interpolate linearly.
const COLLINEAR: f64 = 0.9995;

/// The candidates that explain the child up to its rounding, by coefficients of each tensor.
pub(super) struct Exact {
    /// The candidates, by place.
    pub(super) parents: Vec<usize>,
    /// A fit for each tensor.
    pub(super) fits: Vec<Fit>,
    /// The residual, in roundings.
    pub(super) rms: f64,
}

/// Elements from which on the roundings of a tensor average out. In a smaller one, a norm's weights for
/// instance, the candidates differ by a few ulps of few numbers, which all round alike.
const MANY: f64 = 4096.0;

/// The standard error of a candidate's coefficient in a tensor.
fn error(fit: &Fit, squares: &Squares, candidate: usize, noise: f64) -> f64 {
    let error = noise * fit.errors[candidate];
    match squares.elements {
        few if few < MANY => error * few.sqrt().max(1.0),
        _ => error,
    }
}

fn fits(squares: &[Squares], of: &[usize]) -> (Vec<Fit>, f64) {
    let fits: Vec<Fit> = squares.iter().map(|squares| squares.fit(of)).collect();
    let rest = fits.iter().map(|fit| fit.rest).sum();
    (fits, rest)
}

/// Finds the fewest candidates that explain the child exactly; none if even all of them do not.
///
/// Backward elimination by the Bayesian information criterion with unknown variance: a candidate goes
/// where `n·ln(rest without / rest with)` is below what its coefficients cost.
pub(super) fn exact(squares: &[Squares], among: &[usize]) -> Option<Exact> {
    let elements: f64 = squares.iter().map(|squares| squares.elements).sum();
    let (mut fitted, mut rest) = fits(squares, among);
    if rest.is_nan() || rest > EXACT * EXACT * elements {
        return None;
    }
    let cost = squares.len() as f64 * elements.max(2.0).ln() + 1e-3 * elements;
    let mut parents = among.to_vec();
    while parents.len() > 1 {
        let without = |gone: usize| -> Vec<usize> {
            parents.iter().copied().filter(|parent| *parent != gone).collect()
        };
        let trials = parents.iter().map(|gone| {
            let left = without(*gone);
            let (fitted, rest) = fits(squares, &left);
            (left, fitted, rest)
        });
        let Some((left, next, next_rest)) = trials.min_by(|a, b| a.2.total_cmp(&b.2)) else {
            break;
        };
        let floor = 1e-6 * elements;
        let worse = elements * ((next_rest + floor) / (rest + floor)).ln();
        let gone = parents.iter().find(|parent| !left.contains(parent));
        let size = |fit: &Fit| gone.map_or(0.0, |gone| fit.coefficients[*gone].abs());
        let sure = |fit: &Fit| gone.is_some_and(|gone| fit.errors[*gone].is_finite());
        let small = fitted.iter().zip(squares);
        let small = small.filter(|(fit, squares)| squares.elements >= MANY && sure(fit));
        let small = small.map(|(fit, _)| size(fit)).fold(0.0, f64::max) < NO_SHARE;
        if worse > cost && !(small && next_rest <= EXACT * EXACT * elements) {
            break;
        }
        (parents, fitted, rest) = (left, next, next_rest);
    }
    Some(Exact { parents, fits: fitted, rms: (rest / elements.max(1.0)).sqrt() })
}

/// The cosine of two candidates in a tensor.
fn cosine(slab: &Slab, a: usize, b: usize) -> f64 {
    let product = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    };
    let (x, y) = (&slab.of[a], &slab.of[b]);
    let norms = (product(x, x) * product(y, y)).sqrt();
    if norms > 0.0 { product(x, y) / norms } else { 0.0 }
}

/// The coefficients on the sphere.
fn on_sphere(cos: f64, t: f64) -> [f64; 2] {
    if cos.abs() > COLLINEAR {
        return [1.0 - t, t];
    }
    let theta = cos.clamp(-1.0, 1.0).acos();
    [((1.0 - t) * theta).sin() / theta.sin(), (t * theta).sin() / theta.sin()]
}

/// The t at which `rest` is least, near `t`: steps to the bottom of the parabola through three points.
fn least(mut t: f64, rest: impl Fn(f64) -> f64) -> (f64, f64) {
    const STEP: f64 = 0.01;
    for _ in 0..3 {
        let (low, here, high) = (rest(t - STEP), rest(t), rest(t + STEP));
        let bend = low - 2.0 * here + high;
        if bend > 0.0 {
            t += 0.5 * STEP * (low - high) / bend;
        }
    }
    (t, rest(t))
}

/// Everything that a linear explanation is made from.
pub(super) struct Given<'a> {
    pub(super) sample: &'a Sample,
    pub(super) squares: &'a [Squares],
    /// The base, as the user or the family says.
    pub(super) base: Option<usize>,
}

impl Given<'_> {
    fn placed(&self, estimate: impl Fn(usize) -> Estimate) -> Vec<Placed> {
        let placed = |(at, slab): (usize, &Slab)| {
            let (layer, rest) = slab.place();
            let (name, rest) = (slab.name.clone(), rest.to_string());
            Placed { name, layer, rest, estimate: estimate(at) }
        };
        self.sample.slabs.iter().enumerate().map(placed).collect()
    }

    /// What the exact fit says.
    pub(super) fn explain(&self, exact: &Exact) -> Explanation {
        let noise = exact.rms.max(0.3);
        let copies = |candidate: &usize| self.sample.slabs.iter().all(|s| s.copies(*candidate));
        if let [parent] = exact.parents[..]
            && copies(&parent)
        {
            let parent = Parent { candidate: parent, parameters: BTreeMap::new() };
            return Explanation { parents: vec![parent], ..Explanation::new(Kind::Copy) };
        }
        if let [a, b] = exact.parents[..]
            && let Some(found) = self.on_sphere(exact, (a, b), noise)
        {
            return found;
        }
        let weight = |candidate: usize| {
            Setting::of(&self.placed(|at| {
                let fit = &exact.fits[at];
                let error = error(fit, &self.squares[at], candidate, noise);
                Estimate { value: fit.coefficients[candidate], error }
            }))
        };
        let sums = self.placed(|at| {
            let fit = &exact.fits[at];
            let value = fit.coefficients.iter().sum();
            let errors = exact.parents.iter().map(|k| error(fit, &self.squares[at], *k, noise));
            Estimate { value, error: errors.fold(0.0, f64::max) }
        });
        let normal = sums.iter().all(|placed| {
            let Estimate { value, error } = placed.estimate;
            (value - 1.0).abs() <= 5.0 * error + 0.004
        });
        let base = self.base.filter(|base| normal && exact.parents.contains(base));
        let parent = |candidate: &usize| Parent {
            candidate: *candidate,
            parameters: BTreeMap::from([("weight", weight(*candidate))]),
        };
        let others: Vec<usize> =
            exact.parents.iter().copied().filter(|parent| Some(*parent) != base).collect();
        let parents = others.iter().map(parent).collect();
        match base {
            Some(base) => Explanation {
                base: Some(base),
                parents,
                same_map: vec!["linear"],
                ..Explanation::new(Kind::Merge("task_arithmetic"))
            },
            None => {
                let mut found = Explanation { parents, ..Explanation::new(Kind::Merge("linear")) };
                found.switches.insert("normalize", normal);
                if normal {
                    found.same_map.push("task_arithmetic");
                }
                found
            }
        }
    }

    /// Interpolation on the sphere, if that explains more than a straight line does.
    fn on_sphere(&self, exact: &Exact, (a, b): (usize, usize), noise: f64) -> Option<Explanation> {
        let (mut straight, mut round, mut free) = (0.0, 0.0, 0.0);
        let (mut lines, mut arcs) = (Vec::new(), Vec::new());
        let mut curved = false;
        for ((slab, squares), fit) in self.sample.slabs.iter().zip(self.squares).zip(&exact.fits) {
            let cos = cosine(slab, a, b);
            let rest = |weights: [f64; 2]| {
                let mut coefficients = vec![0.0; fit.coefficients.len()];
                coefficients[a] = weights[0];
                coefficients[b] = weights[1];
                squares.rest(&coefficients)
            };
            let error = error(fit, squares, a, noise).min(error(fit, squares, b, noise));
            let start = fit.coefficients[b];
            let (t, line) = least(start, |t| rest([1.0 - t, t]));
            lines.push(Estimate { value: t, error });
            let (t, arc) = least(start, |t| rest(on_sphere(cos, t)));
            arcs.push(Estimate { value: t, error });
            curved |= cos.abs() <= COLLINEAR;
            straight += line;
            round += arc;
            free += fit.rest;
        }
        let scale = (noise * noise).max(1e-12);
        let elements = self.sample.elements() as f64;
        let slack = 2.0 * self.squares.len() as f64 * elements.max(2.0).ln();
        let better = (straight - round) / scale > 25.0;
        let enough = (round - free) / scale < slack + 2e-3 * elements;
        if !(curved && better && enough) {
            return None;
        }
        let line = |lines: &[Estimate]| Setting::of(&self.placed(|at| lines[at]));
        let (from, to) = match self.base {
            Some(base) if base == b => (b, a),
            _ => (a, b),
        };
        if (from, to) == (b, a) {
            arcs.iter_mut().for_each(|t| t.value = 1.0 - t.value);
        }
        let parent = |candidate| Parent { candidate, parameters: BTreeMap::new() };
        Some(Explanation {
            base: Some(from),
            parents: vec![parent(from), parent(to)],
            shared: BTreeMap::from([("t", line(&arcs))]),
            same_map: vec!["nuslerp"],
            ..Explanation::new(Kind::Merge("slerp"))
        })
    }
}
