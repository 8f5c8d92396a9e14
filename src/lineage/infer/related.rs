//! Are two models related? A test whose null distribution is known.
//!
//! Which hidden unit of an MLP stands where is an accident of the initialisation: permuting units leaves
//! initialisation and training as they were. For two models trained from initialisations drawn
//! independently, the pairing of unit i with unit i is therefore as good as any other, and the sum of
//! the cosines of the pairs is distributed like that over random pairings (Zhu et al. 2025,
//! arXiv 2502.12292, whose tests of independence rest on the same symmetry). Mean and variance over all
//! pairings are known, and so is the limit (Hoeffding 1951, *A combinatorial central limit theorem*).

use super::tail::log10_upper;
use super::units::{self, Mlps, Reach, Units, spread};
use crate::error::Result;
use crate::kernels::Kernels;
use crate::matrix::{Matrix, product};
use crate::model::Checkpoint;
use crate::model::architectures::Dense;

/// Units of a layer that partners are looked for, and layers in which that is done.
const MATCHED: usize = 128;
const MATCHED_LAYERS: usize = 4;
/// Coordinates of each vector that matching reads: of all units, however small a sample is.
const MATCHED_COORDINATES: usize = 128;
/// Where log₁₀ p lies below this, two models are called related.
pub(crate) const RELATED: f64 = -6.0;
/// The mean cosine that matched units need besides, in the weights that took no part in matching.
const SAME_UNIT: f64 = 0.5;

/// What the tests say of two models.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Relation {
    /// The test on units as they stand; none where there is nothing to be tested.
    pub aligned: Option<Test>,
    /// Layers compared with any layer, where the models differ in depth or the aligned test is silent.
    pub any_layer: Option<Test>,
    /// The test on units matched by their weights, where those as they stand say nothing.
    pub permuted: Option<Test>,
    /// Why nothing, or not everything, could be tested.
    pub untested: Option<String>,
}

/// One test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Test {
    /// log₁₀ of the probability of a result as extreme for independent models.
    pub log10_p: f64,
    /// The sum over the pairs, in standard deviations from what independent models have.
    pub z: f64,
    /// The mean cosine of the pairs.
    pub cosine: f64,
    /// Layers that were tested, or pairs of layers.
    pub layers: usize,
}

impl Relation {
    fn untested(reason: impl Into<String>) -> Self {
        Self { untested: Some(reason.into()), ..Self::default() }
    }

    /// The smallest log₁₀ p, for as many tests as were made.
    pub fn log10_p(&self) -> Option<f64> {
        let tests = [self.aligned, self.any_layer].into_iter().flatten();
        tests.map(|test| test.log10_p).min_by(f64::total_cmp)
    }

    /// Whether the models are related; none where that could not be tested.
    pub fn related(&self) -> Option<bool> {
        let direct = self.log10_p()?;
        Some(direct < RELATED || self.suspected())
    }

    /// Whether hidden units look permuted: the test on pairs as they stand is silent, the one on matched
    /// pairs is not.
    pub fn suspected(&self) -> bool {
        self.permuted.is_some_and(|test| test.log10_p < RELATED && test.cosine >= SAME_UNIT)
            && self.log10_p().is_some_and(|p| p >= RELATED)
    }
}

/// A model's units, as the tests read them.
pub(crate) struct Tested<'a> {
    model: &'a Checkpoint,
    mlps: std::result::Result<Mlps, String>,
    layers: Vec<Vec<Units>>,
    reach: Reach,
}

/// How much to read of each MLP of these models, so that all of them take no more than `bytes`.
pub(super) fn reach(models: &[&Checkpoint], bytes: u64) -> Reach {
    let mlps = |model: &&Checkpoint| {
        Mlps::of(model).map_or(0, |mlps| mlps.layers.iter().map(Vec::len).sum())
    };
    Reach::within(bytes, models.iter().map(mlps).sum())
}

impl<'a> Tested<'a> {
    /// Reads a sample of a model's units.
    ///
    /// # Errors
    /// A tensor cannot be read.
    pub(super) fn read(model: &'a Checkpoint, reach: Reach) -> Result<Self> {
        let mlps = Mlps::of(model).map_err(|error| {
            let missing = error.get("missing").or_else(|| error.get("key")).unwrap_or_default();
            format!("{}: {} ({missing})", model.reference, error.message())
        });
        let layers = match &mlps {
            Err(_) => Vec::new(),
            Ok(mlps) => {
                let units = |mlp: &Dense| {
                    units::read(model, mlp, &spread(mlp.width, reach.units), reach.coordinates)
                };
                let layer = |mlps: &Vec<Dense>| mlps.iter().map(units).collect::<Result<Vec<_>>>();
                mlps.layers.iter().map(layer).collect::<Result<Vec<_>>>()?
            }
        };
        Ok(Self { model, mlps, layers, reach })
    }
}

/// Tests two models.
///
/// # Errors
/// A tensor cannot be read.
pub(crate) fn relation(a: &Tested<'_>, b: &Tested<'_>) -> Result<Relation> {
    let (in_a, in_b) = match (&a.mlps, &b.mlps) {
        (Ok(a), Ok(b)) => (a, b),
        (Err(reason), _) | (_, Err(reason)) => return Ok(Relation::untested(reason)),
    };
    let (Some(shape_a), Some(shape_b)) = (in_a.shape(), in_b.shape()) else {
        let none = if in_a.shape().is_none() { (a, in_a) } else { (b, in_b) };
        return Ok(Relation::untested(format!(
            "{}: models of the family {} have no MLP, whose units the test is about",
            none.0.model.reference, none.1.family
        )));
    };
    if shape_a != shape_b {
        return Ok(Relation::untested(format!(
            "MLPs differ in shape: {} units of width {} against {} of {}",
            shape_a.0, shape_a.1, shape_b.0, shape_b.1
        )));
    }
    let kernels = Kernels::best();
    let mut relation = Relation::default();
    if a.layers.len() == b.layers.len() {
        let pairs = a.layers.iter().zip(&b.layers).flat_map(|(a, b)| a.iter().zip(b));
        relation.aligned = together(pairs.filter_map(|(a, b)| paired(kernels, a, b)));
    }
    if relation.log10_p().is_none_or(|p| p >= RELATED) {
        relation.any_layer = any_layer(kernels, a, b);
    }
    if relation.log10_p().is_none_or(|p| p >= RELATED) && a.layers.len() == b.layers.len() {
        relation.permuted = matched(kernels, (a, in_a), (b, in_b))?;
    }
    Ok(relation)
}

/// A sum over pairs, with its mean and variance over all pairings.
struct Paired {
    sum: f64,
    mean: f64,
    variance: f64,
    pairs: usize,
    kinds: usize,
}

impl Paired {
    fn test(&self, layers: usize) -> Test {
        let z = (self.sum - self.mean) / self.variance.sqrt();
        let cosine = self.sum / (self.pairs * self.kinds).max(1) as f64;
        Test { log10_p: log10_upper(z), z, cosine, layers }
    }
}

/// The test over several layers, which are independent of each other under the null hypothesis.
fn together(layers: impl Iterator<Item = Paired>) -> Option<Test> {
    let mut all = Paired { sum: 0.0, mean: 0.0, variance: 0.0, pairs: 0, kinds: 1 };
    let mut count = 0;
    for layer in layers {
        all.sum += layer.sum;
        all.mean += layer.mean;
        all.variance += layer.variance;
        all.pairs += layer.pairs * layer.kinds;
        count += 1;
    }
    (all.variance > 0.0).then(|| all.test(count))
}

/// Units paired as they stand: the trace of the matrix of cosines, summed over the kinds of weights,
/// against that of the matrix with its rows permuted.
fn paired(kernels: Kernels, a: &Units, b: &Units) -> Option<Paired> {
    let sum = cosines(kernels, a, b);
    let (n, columns) = sum.shape();
    (n == columns && n > 1).then(|| {
        let (trace, mean, variance) = moments(&sum);
        Paired { sum: trace, mean, variance, pairs: n, kinds: a.inputs.len() + 1 }
    })
}

/// The cosines of all units of one MLP with all of the other, summed over the kinds of weights.
fn cosines(kernels: Kernels, a: &Units, b: &Units) -> Matrix {
    let of_kind = |a: &Matrix, b: &Matrix| product(kernels, a.view(), b.t());
    let mut sum = of_kind(&a.output, &b.output);
    for (a, b) in a.inputs.iter().zip(&b.inputs) {
        let more = of_kind(a, b);
        sum.values_mut().iter_mut().zip(more.values()).for_each(|(sum, x)| *sum += x);
    }
    sum
}

/// The trace of a square matrix, with mean and variance of the trace over all permutations of its rows:
/// `Σ cᵢⱼ/n`, and `Σ (cᵢⱼ − c̄ᵢ. − c̄.ⱼ + c̄)²/(n − 1)`.
fn moments(matrix: &Matrix) -> (f64, f64, f64) {
    let (n, _) = matrix.shape();
    let count = n as f64;
    let rows: Vec<f64> = (0..n).map(|i| matrix.row(i).iter().sum::<f64>() / count).collect();
    let mut columns = vec![0.0; n];
    for i in 0..n {
        columns.iter_mut().zip(matrix.row(i)).for_each(|(sum, x)| *sum += x / count);
    }
    let mean = rows.iter().sum::<f64>() / count;
    let mut squares = 0.0;
    for (i, row) in rows.iter().enumerate() {
        let centred = matrix.row(i).iter().zip(&columns).map(|(x, column)| x - row - column + mean);
        squares += centred.map(|x| x * x).sum::<f64>();
    }
    let trace = (0..n).map(|i| matrix.row(i)[i]).sum();
    (trace, mean * count, squares / (count - 1.0))
}

/// Every layer of one model with every layer of the other: the most extreme pair, its p-value times the
/// number of pairs (Bonferroni).
fn any_layer(kernels: Kernels, a: &Tested<'_>, b: &Tested<'_>) -> Option<Test> {
    let of_a = a.layers.iter().filter_map(|units| units.first());
    let of_b = || b.layers.iter().filter_map(|units| units.first());
    let pairs = of_a.flat_map(|a| of_b().map(move |b| (a, b)));
    let tests: Vec<Test> =
        pairs.filter_map(|(a, b)| paired(kernels, a, b)).map(|paired| paired.test(1)).collect();
    let best = tests.iter().max_by(|a, b| a.z.total_cmp(&b.z))?;
    let corrected = (best.log10_p + (tests.len() as f64).log10()).min(0.0);
    Some(Test { log10_p: corrected, layers: tests.len(), ..*best })
}

/// Units of `a` with those of `b` whose first input weights are nearest, in some layers; what is tested
/// are the weights that took no part in the choice, against partners taken at random.
fn matched(
    kernels: Kernels,
    (a, in_a): (&Tested<'_>, &Mlps),
    (b, in_b): (&Tested<'_>, &Mlps),
) -> Result<Option<Test>> {
    let mut found = Vec::new();
    let coordinates = a.reach.coordinates.min(MATCHED_COORDINATES);
    for layer in spread(in_a.layers.len(), MATCHED_LAYERS) {
        let (Some(mlp_a), Some(mlp_b)) = (in_a.layers[layer].first(), in_b.layers[layer].first())
        else {
            continue;
        };
        let some = units::read(a.model, mlp_a, &spread(mlp_a.width, MATCHED), coordinates)?;
        let all = units::read(b.model, mlp_b, &spread(mlp_b.width, mlp_b.width), coordinates)?;
        let (Some(first_a), Some(first_b)) = (some.inputs.first(), all.inputs.first()) else {
            continue;
        };
        let choice = product(kernels, first_a.view(), first_b.t());
        let kinds = some.inputs.iter().skip(1).chain([&some.output]);
        let others = all.inputs.iter().skip(1).chain([&all.output]);
        let mut layer =
            Paired { sum: 0.0, mean: 0.0, variance: 0.0, pairs: 0, kinds: some.inputs.len() };
        for (a, b) in kinds.zip(others) {
            let cosines = product(kernels, a.view(), b.t());
            for i in 0..cosines.shape().0 {
                let row = cosines.row(i);
                let chosen = choice.row(i).iter().enumerate().max_by(|x, y| x.1.total_cmp(y.1));
                let n = row.len() as f64;
                let mean = row.iter().sum::<f64>() / n;
                layer.sum += chosen.and_then(|(j, _)| row.get(j)).copied().unwrap_or_default();
                layer.mean += mean;
                layer.variance += row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
            }
        }
        layer.pairs = choice.shape().0;
        found.push(layer);
    }
    Ok(together(found.into_iter()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Stream;

    fn random(rows: usize, columns: usize, key: u32) -> Matrix {
        let mut matrix = Matrix::zeros(rows, columns);
        let numbers = crate::kernels::normals(Stream { key: [key, 0], nonce: [0, 0] }, 0);
        matrix.values_mut().iter_mut().zip(numbers).for_each(|(x, normal)| *x = normal);
        matrix
    }

    /// Against all permutations of four rows.
    #[test]
    fn moments_are_those_over_all_permutations() {
        let matrix = random(4, 4, 1);
        let mut traces = Vec::new();
        for code in 0..256_usize {
            let p = [code % 4, code / 4 % 4, code / 16 % 4, code / 64];
            let mut seen = [false; 4];
            p.iter().for_each(|j| seen[*j] = true);
            if seen.iter().all(|seen| *seen) {
                traces.push((0..4).map(|i| matrix.row(i)[p[i]]).sum::<f64>());
            }
        }
        assert_eq!(traces.len(), 24);
        let mean = traces.iter().sum::<f64>() / 24.0;
        let variance = traces.iter().map(|t| (t - mean) * (t - mean)).sum::<f64>() / 24.0;
        let (trace, found_mean, found_variance) = moments(&matrix);
        let own: f64 = (0..4).map(|i| matrix.row(i)[i]).sum();
        assert_eq!(trace, own);
        assert!((found_mean - mean).abs() < 1e-12, "{found_mean} {mean}");
        assert!((found_variance - variance).abs() < 1e-12, "{found_variance} {variance}");
    }

    fn trained(folder: &str) -> Checkpoint {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        Checkpoint::open(folder, &root.join(folder)).unwrap()
    }

    /// p-values of two models that were trained independently, with the hidden units of one of them in 400
    /// random orders, are uniform: Kolmogorov and Smirnov's distance stays below its 0.1 % point.
    #[test]
    fn p_values_of_independent_models_are_uniform() {
        const TIMES: usize = 400;
        let (base, other) =
            (trained("merge-configs/models/base"), trained("tests/data/infer/unrelated"));
        let reach = reach(&[&base, &other], 1 << 28);
        let read = |model| Tested::read(model, reach).unwrap();
        let (base, other) = (read(&base), read(&other));
        let kernels = Kernels::best();
        let layers = base.layers.iter().zip(&other.layers);
        let layers: Vec<Matrix> = layers.map(|(a, b)| cosines(kernels, &a[0], &b[0])).collect();
        let mut numbers = crate::kernels::uniforms(Stream { key: [7, 0], nonce: [0, 0] }, 0);
        let mut values: Vec<f64> = (0..TIMES)
            .map(|_| {
                let permuted = layers.iter().map(|layer| {
                    let (n, _) = layer.shape();
                    let mut order: Vec<(f64, usize)> =
                        (0..n).map(|i| (numbers.next().unwrap(), i)).collect();
                    order.sort_by(|a, b| a.0.total_cmp(&b.0));
                    let mut rows = Matrix::zeros(n, n);
                    order.iter().enumerate().for_each(|(to, (_, from))| {
                        rows.row_mut(to).copy_from_slice(layer.row(*from));
                    });
                    let (sum, mean, variance) = moments(&rows);
                    Paired { sum, mean, variance, pairs: n, kinds: 3 }
                });
                10.0_f64.powf(together(permuted).unwrap().log10_p)
            })
            .collect();
        values.sort_by(f64::total_cmp);
        let distance = values.iter().enumerate().map(|(i, p)| {
            let (below, above) = (i as f64 / TIMES as f64, (i + 1) as f64 / TIMES as f64);
            (p - below).abs().max((p - above).abs())
        });
        let distance = distance.fold(0.0, f64::max);
        let limit = 1.95 / (TIMES as f64).sqrt();
        assert!(distance < limit, "{distance}, not below {limit}");
    }
}
