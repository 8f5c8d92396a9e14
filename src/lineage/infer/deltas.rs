//! Task vectors element by element: what shows in single elements of what was dropped, elected and divided.

use super::sample::{Sample, Slab};

/// A task vector's element counts as seen from this many roundings on.
pub(super) const SEEN: f32 = 12.0;
/// How much larger one model's element is than every other's where it decides alone.
const ALONE: f32 = 12.0;
/// Nearer than this many roundings is equal.
pub(super) const NEAR: f32 = 3.5;
/// Bins of a ratio, and its range.
const BIN: f64 = 0.02;
const REACH: f64 = 8.0;

/// The child and the parents of a tensor, less the base.
pub(super) struct Deltas<'a> {
    pub(super) slab: &'a Slab,
    /// The child's.
    pub(super) child: Vec<f32>,
    /// Each parent's.
    pub(super) of: Vec<Vec<f32>>,
    /// For each parent and element the share of the tensor's elements that are smaller.
    pub(super) rank: Vec<Vec<f32>>,
}

impl<'a> Deltas<'a> {
    /// Of every tensor of a sample.
    pub(super) fn all(sample: &'a Sample, base: usize, parents: &[usize]) -> Vec<Self> {
        sample.slabs.iter().map(|slab| Self::new(slab, base, parents)).collect()
    }

    fn new(slab: &'a Slab, base: usize, parents: &[usize]) -> Self {
        let origin = &slab.of[base];
        let less = |x: &[f32]| -> Vec<f32> { x.iter().zip(origin).map(|(x, b)| x - b).collect() };
        let of: Vec<Vec<f32>> = parents.iter().map(|parent| less(&slab.of[*parent])).collect();
        let rank = of.iter().map(|delta| ranks(delta)).collect();
        Self { slab, child: less(&slab.child), of, rank }
    }

    /// The parent whose element is far larger than every other's, if there is one.
    fn alone(&self, e: usize) -> Option<usize> {
        let magnitude = |k: usize| self.of[k][e].abs();
        let first = (0..self.of.len()).max_by(|a, b| magnitude(*a).total_cmp(&magnitude(*b)))?;
        let most = magnitude(first);
        let others = (0..self.of.len()).filter(|k| *k != first);
        let alone = others.map(magnitude).all(|other| other * ALONE <= most);
        (alone && most > SEEN * self.slab.sigma[e]).then_some(first)
    }
}

/// For each element the share of elements of smaller magnitude; equal ones share the middle.
fn ranks(values: &[f32]) -> Vec<f32> {
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    let magnitude = |e: &u32| values[*e as usize].abs().to_bits();
    order.sort_unstable_by_key(magnitude);
    let mut ranks = vec![0.0; values.len()];
    for run in order.chunk_by(|a, b| magnitude(a) == magnitude(b)).scan(0, |at, run| {
        let first = *at;
        *at += run.len();
        Some((first, run))
    }) {
        let middle = (run.0 as f32 + 0.5 * run.1.len() as f32) / values.len() as f32;
        run.1.iter().for_each(|e| ranks[*e as usize] = middle);
    }
    ranks
}

/// What one parent's elements show where it decides alone.
#[derive(Clone, Debug)]
pub(super) struct Alone {
    /// The factor on elements that are kept.
    pub(super) factor: f64,
    /// The share of the kept elements that have this factor.
    pub(super) sharp: f64,
    /// The elements: the share of the tensor that is smaller, and whether the element is kept.
    pub(super) kept: Vec<(f32, bool)>,
}

impl Alone {
    /// The share of the elements that are kept.
    pub(super) fn share(&self) -> f64 {
        let kept = self.kept.iter().filter(|(_, kept)| *kept).count();
        kept as f64 / self.kept.len().max(1) as f64
    }
}

/// What each parent's elements show where it decides alone; none where too few do.
pub(super) fn alone(all: &[Deltas<'_>], parents: usize) -> Vec<Option<Alone>> {
    let mut found: Vec<Vec<(f32, f64, f64)>> = vec![Vec::new(); parents];
    for deltas in all {
        for e in 0..deltas.child.len() {
            if let Some(k) = deltas.alone(e) {
                let delta = f64::from(deltas.of[k][e]);
                let ratio = f64::from(deltas.child[e]) / delta;
                let blur = f64::from(deltas.slab.sigma[e]) / delta.abs();
                found[k].push((deltas.rank[k][e], ratio, blur));
            }
        }
    }
    found.iter().map(|of| peak(of)).collect()
}

/// The commonest ratio that is not 0, as the median of what lies near it.
fn peak(found: &[(f32, f64, f64)]) -> Option<Alone> {
    const LEAST: usize = 50;
    if found.len() < LEAST {
        return None;
    }
    let bin = |ratio: f64| ((ratio + REACH) / BIN) as usize;
    let mut bins = vec![0_usize; bin(REACH) + 2];
    let away = |ratio: f64| ratio.abs() > 0.1 && ratio.abs() < REACH;
    for (_, ratio, _) in found.iter().filter(|(_, ratio, _)| away(*ratio)) {
        bins[bin(*ratio)] += 1;
    }
    let window = |at: usize| bins[at - 1] + bins[at] + bins[at + 1];
    let at = (1..bins.len() - 1).max_by_key(|at| window(*at))?;
    let centre = (at as f64 + 0.5) * BIN - REACH;
    let width = (1.5 * BIN).max(0.04 * centre.abs());
    let mut near: Vec<f64> = found
        .iter()
        .map(|(_, ratio, _)| *ratio)
        .filter(|ratio| (ratio - centre).abs() <= width && away(*ratio))
        .collect();
    near.sort_by(f64::total_cmp);
    let factor = *near.get(near.len() / 2)?;
    let kept = |ratio: f64| ratio / factor > 0.2;
    let all_kept = found.iter().filter(|(_, ratio, _)| kept(*ratio)).count();
    let sharp = near.len() as f64 / all_kept.max(1) as f64;
    let kept = found.iter().map(|(rank, ratio, _)| (*rank, kept(*ratio))).collect();
    Some(Alone { factor, sharp, kept })
}

/// How elements of one parent were chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Chosen {
    /// All of them.
    All,
    /// By magnitude: those above this share of the tensor, and below that one.
    Band(f64, f64),
    /// At random: the share that was kept, and how much larger that is for the largest than for the
    /// smallest, halved.
    Random(f64, f64),
}

/// How a parent's elements were chosen.
pub(super) fn chosen(alone: &Alone) -> Chosen {
    let mut kept = alone.kept.clone();
    kept.sort_by(|a, b| a.0.total_cmp(&b.0));
    let count = kept.len() as f64;
    let share = alone.share();
    // The band with the fewest mistakes: below `low` and above `high`, what is kept is wrong. Sums of +1
    // for what is kept and −1 for what is not; the best band is where the sum over it is greatest.
    let (mut best, mut band, mut sum, mut start) = (0.0, (0, 0), 0.0, 0);
    for (at, (_, kept)) in kept.iter().enumerate() {
        sum += if *kept { 1.0 } else { -1.0 };
        if sum < 0.0 {
            (sum, start) = (0.0, at + 1);
        } else if sum > best {
            (best, band) = (sum, (start, at + 1));
        }
    }
    let kept_in = kept[band.0..band.1].iter().filter(|(_, kept)| *kept).count() as f64;
    let wrong = (band.1 - band.0) as f64 - kept_in + (share * count - kept_in);
    let edge = |at: usize| kept.get(at).map_or(1.0, |(rank, _)| f64::from(*rank));
    let (mistakes, least) = (wrong / count, share.min(1.0 - share));
    if mistakes <= 0.04 && (mistakes < 0.25 * least || least < 0.01) {
        let dropped_above = count - band.1 as f64;
        let low = if (band.0 as f64) < 0.003 * count { 0.0 } else { edge(band.0) };
        let high = if dropped_above < 0.002 * count { 1.0 } else { edge(band.1) };
        if low == 0.0 && high == 1.0 {
            return Chosen::All;
        }
        return Chosen::Band(low, high);
    }
    // The line through (rank, kept).
    let mean = kept.iter().map(|(rank, _)| f64::from(*rank)).sum::<f64>() / count;
    let (mut products, mut squares) = (0.0, 0.0);
    for (rank, kept) in &kept {
        let rank = f64::from(*rank) - mean;
        products += rank * (f64::from(u8::from(*kept)) - share);
        squares += rank * rank;
    }
    let slope = if squares > 0.0 { products / squares } else { 0.0 };
    let error = (share * (1.0 - share) / squares.max(1e-12)).sqrt();
    let certain = slope.abs() > 6.0 * error && slope.abs() > 0.04;
    let slope = if certain { slope } else { 0.0 };
    // At the middle rank.
    Chosen::Random(share + slope * (0.5 - mean), 0.5 * slope)
}

/// What shows where two parents' elements are of similar size.
#[derive(Clone, Debug, Default)]
pub(super) struct Pairs {
    /// Elements of opposite signs, and those of them that are the sum of both.
    pub(super) opposed: usize,
    pub(super) opposed_sums: usize,
    /// Elements of equal signs that are neither nothing nor one of the two, those of them that are the sum,
    /// and those that lie between the two: which two, and how far towards the first.
    pub(super) agreeing: usize,
    pub(super) agreeing_sums: usize,
    pub(super) between: Vec<(usize, usize, f64)>,
}

/// Looks at the elements of each pair of parents.
pub(super) fn pairs(all: &[Deltas<'_>], factors: &[f64]) -> Pairs {
    let mut found = Pairs::default();
    for deltas in all {
        for e in 0..deltas.child.len() {
            let mut parts = deltas.parts(e, factors);
            parts.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
            let [(first, a), (second, b), ref others @ ..] = parts[..] else { continue };
            let seen = f64::from(SEEN);
            let small = others.iter().all(|(_, other)| other.abs() * 6.0 <= b.abs());
            // The sum has to differ from nothing, from either and from what lies between.
            if b.abs() < 2.0 * seen || a.abs() > 4.0 * b.abs() || !small {
                continue;
            }
            if (a - b).abs() < seen || (a + b).abs() < seen {
                continue;
            }
            let child = f64::from(deltas.child[e]) / f64::from(deltas.slab.sigma[e]);
            // What the smaller parents may add.
            let slack = f64::from(NEAR) + others.iter().map(|(_, other)| other.abs()).sum::<f64>();
            let is = |value: f64| (child - value).abs() <= slack;
            let sum = is(a + b);
            if a * b < 0.0 {
                found.opposed += 1;
                found.opposed_sums += usize::from(sum);
            } else if !is(0.0) && !is(a) && !is(b) {
                found.agreeing += 1;
                found.agreeing_sums += usize::from(sum);
                if child > a.min(b) && child < a.max(b) {
                    let (share, pair) = ((child - b) / (a - b), (first, second));
                    found.between.push(match first < second {
                        true => (pair.0, pair.1, share),
                        false => (pair.1, pair.0, 1.0 - share),
                    });
                }
            }
        }
    }
    found
}

impl Pairs {
    /// The parents' shares of their averages, from the median of each pair with the first parent; none
    /// where a pair is too rare.
    pub(super) fn shares(&self, parents: usize) -> Option<Vec<f64>> {
        let against_first = |k: usize| -> Option<f64> {
            let of_pair = self.between.iter().filter(|(a, b, _)| *a == 0 && *b == k);
            let mut shares: Vec<f64> = of_pair.map(|(_, _, share)| *share).collect();
            shares.sort_by(f64::total_cmp);
            let middle = *shares.get(shares.len() / 2).filter(|_| shares.len() >= 20)?;
            Some((1.0 - middle) / middle.max(1e-3))
        };
        let ratios: Vec<f64> = std::iter::once(Some(1.0))
            .chain((1..parents).map(against_first))
            .collect::<Option<_>>()?;
        let total: f64 = ratios.iter().sum();
        Some(ratios.iter().map(|ratio| ratio / total).collect())
    }
}

impl Deltas<'_> {
    /// The parents' elements times their factors, in roundings, each with the parent's place.
    fn parts(&self, e: usize, factors: &[f64]) -> Vec<(usize, f64)> {
        let sigma = f64::from(self.slab.sigma[e]);
        let part = |(k, factor): (usize, &f64)| (k, factor * f64::from(self.of[k][e]) / sigma);
        factors.iter().enumerate().map(part).collect()
    }
}

/// The share of a task vector's L1 norm that is kept where `share` of its elements is, and `slope` more of
/// the largest of each row and less of the smallest.
pub(super) fn kept_norm(all: &[Deltas<'_>], parent: usize, share: f64, slope: f64) -> f64 {
    if slope == 0.0 {
        return share;
    }
    let (mut sum, mut kept) = (0.0, 0.0);
    for deltas in all {
        for row in deltas.of[parent].chunks(deltas.slab.columns) {
            for (delta, rank) in row.iter().zip(ranks(row)) {
                let size = f64::from(delta.abs());
                sum += size;
                kept += size * (share + slope * (2.0 * f64::from(rank) - 1.0));
            }
        }
    }
    if sum > 0.0 { kept / sum } else { share }
}

/// The share of the elements that are a sum of some parents' elements times their factors within the
/// rounding, or with `shares` their average, among those where that says something.
pub(super) fn explained(all: &[Deltas<'_>], factors: &[f64], shares: Option<&[f64]>) -> f64 {
    let (mut seen, mut explained) = (0_usize, 0_usize);
    let subsets = 1_usize << factors.len();
    for deltas in all {
        for e in 0..deltas.child.len() {
            let parts = deltas.parts(e, factors);
            if parts.iter().all(|(_, part)| part.abs() < 2.0 * f64::from(SEEN)) {
                continue;
            }
            seen += 1;
            let child = f64::from(deltas.child[e]) / f64::from(deltas.slab.sigma[e]);
            let near = |subset: usize| {
                let of = parts.iter().filter(|(k, _)| subset >> k & 1 == 1);
                let (sum, weight) = of.fold((0.0, 0.0), |(sum, weight), (k, part)| {
                    let share = shares.map_or(1.0, |shares| shares[*k]);
                    (sum + share * part, weight + share)
                });
                let value = if shares.is_some() && weight > 0.0 { sum / weight } else { sum };
                // Factors are known to a hundredth or so.
                (child - value).abs() <= f64::from(NEAR) + 0.012 * value.abs()
            };
            explained += usize::from((0..subsets).any(near));
        }
    }
    explained as f64 / seen.max(1) as f64
}
