//! The scores of PCB-Merging: softmaxes of products of task vectors, and what they are made from.

use crate::kernels::Kernels;

/// Pairs of models (i, j) with i ≤ j whose task vectors are multiplied.
#[derive(Clone, Debug)]
pub(super) struct Pairs(Vec<(usize, usize)>);

impl Pairs {
    /// All pairs of `models` models.
    pub(super) fn all(models: usize) -> Self {
        Self((0..models).flat_map(|i| (i..models).map(move |j| (i, j))).collect())
    }

    /// The softmaxes of all products, not yet weighed. Each model's own product comes twice: times
    /// the number of models, and once.
    pub(super) fn softmaxes(&self, extents: &Extents, models: usize) -> Vec<Softmax> {
        let each = self.0.iter().zip(&extents.0);
        let each = each.flat_map(|((i, j), [least, greatest])| {
            let range = f64::from(*greatest) - f64::from(*least);
            let softmax = |gain: f64| {
                let scale = if range > 0.0 { (gain / range) as f32 } else { 0.0 };
                Softmax { pair: (*i, *j), least: *least, scale, weight: 1.0 }
            };
            let own = (i == j).then(|| softmax(models as f64));
            own.into_iter().chain([softmax(1.0)])
        });
        each.collect()
    }
}

/// The exponentials of one product of task vectors: `weight·e^((a·b − least)·scale)`, of which the
/// mean is 1.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Softmax {
    pair: (usize, usize),
    least: f32,
    scale: f32,
    weight: f32,
}

impl Softmax {
    /// The same between the models that a tensor has at other places; none where it lacks one.
    pub(super) fn between(self, place: impl Fn(usize) -> Option<usize>) -> Option<Self> {
        Some(Self { pair: (place(self.pair.0)?, place(self.pair.1)?), ..self })
    }

    /// The sum of the exponentials of a tile, without the weight.
    pub(super) fn sum(&self, kernels: Kernels, deltas: &[Vec<f32>]) -> f64 {
        kernels.exp_sum(&deltas[self.pair.0], &deltas[self.pair.1], self.least, self.scale)
    }

    /// Adds the exponentials of a tile.
    fn add(&self, kernels: Kernels, deltas: &[Vec<f32>], out: &mut [f32]) {
        let (a, b) = (&deltas[self.pair.0], &deltas[self.pair.1]);
        kernels.add_exp(a, b, self.least, self.scale, self.weight, out);
    }
}

/// The least and the greatest product of each pair.
#[derive(Clone, Debug)]
pub(super) struct Extents(Vec<[f32; 2]>);

impl Extents {
    pub(super) fn new(pairs: &Pairs) -> Self {
        Self(vec![[f32::INFINITY, f32::NEG_INFINITY]; pairs.0.len()])
    }

    /// How many keys [`Extents::look`] takes.
    pub(super) fn width(&self) -> usize {
        2 * self.0.len()
    }

    /// Looks at a tile. Extents are kept as keys that are greater the more they reach, so that they start
    /// from 0.
    /// `place` tells where the tile has a model; pairs of which it has not both are passed over.
    pub(super) fn look(
        kernels: Kernels,
        pairs: &Pairs,
        place: impl Fn(usize) -> Option<usize>,
        deltas: &[Vec<f32>],
        keys: &mut [u64],
    ) {
        for ((i, j), keys) in pairs.0.iter().zip(keys.as_chunks_mut::<2>().0) {
            let (Some(i), Some(j)) = (place(*i), place(*j)) else { continue };
            let [least, greatest] = kernels.product_extent(&deltas[i], &deltas[j]);
            keys[0] = keys[0].max(key(-least));
            keys[1] = keys[1].max(key(greatest));
        }
    }

    /// Takes in the keys of some tiles.
    pub(super) fn join(&mut self, keys: &[u64]) {
        for (extent, keys) in self.0.iter_mut().zip(keys.as_chunks::<2>().0) {
            extent[0] = extent[0].min(-value(keys[0]));
            extent[1] = extent[1].max(value(keys[1]));
        }
    }
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

/// What scores are made of: for each model, its own softmax, and one with each model.
#[derive(Clone, Debug, Default)]
pub(super) struct Balance {
    intra: Vec<Softmax>,
    inter: Vec<Vec<Softmax>>,
}

impl Balance {
    /// Of the softmaxes of all pairs of `models` models, in their order, and the sums of their exponentials
    /// over `elements` elements.
    pub(super) fn new(
        models: usize,
        softmaxes: Vec<Softmax>,
        sums: &[f64],
        elements: usize,
    ) -> Self {
        let weighed = softmaxes
            .into_iter()
            .zip(sums)
            .map(|(softmax, sum)| Softmax { weight: (elements as f64 / sum) as f32, ..softmax });
        Self::of(models, weighed)
    }

    /// Of weighed softmaxes, a model's own before the one that it has with itself.
    fn of(models: usize, softmaxes: impl IntoIterator<Item = Softmax>) -> Self {
        let mut made = Self { intra: Vec::new(), inter: vec![Vec::new(); models] };
        for softmax in softmaxes {
            let (i, j) = softmax.pair;
            if i == j && made.intra.len() == i {
                made.intra.push(softmax);
                continue;
            }
            made.inter[i].push(softmax);
            if i != j {
                made.inter[j].push(softmax);
            }
        }
        made
    }

    /// Between those of the models that a tensor has: `place` tells where, in an order that keeps theirs.
    pub(super) fn among(&self, models: usize, place: impl Fn(usize) -> Option<usize>) -> Self {
        let own = self.intra.iter().zip(&self.inter).enumerate();
        let own = own.flat_map(|(i, (intra, inter))| {
            // Each pair stands with both of its models; the first brings it.
            [*intra].into_iter().chain(inter.iter().filter(move |s| s.pair.0 == i).copied())
        });
        Self::of(models, own.filter_map(|softmax| softmax.between(&place)))
    }

    /// The scores of model `i`, times the square of the number of elements.
    pub(super) fn score(&self, kernels: Kernels, i: usize, deltas: &[Vec<f32>], out: &mut [f32]) {
        out.fill(0.0);
        self.inter[i].iter().for_each(|softmax| softmax.add(kernels, deltas, out));
        let mut own = vec![0.0; out.len()];
        self.intra[i].add(kernels, deltas, &mut own);
        kernels.times(&own, out);
    }

    /// The scores of all models, by their place.
    pub(super) fn scores(
        &self,
        kernels: Kernels,
        deltas: &[Vec<f32>],
        visit: &mut dyn FnMut(usize, &[f32]),
    ) {
        let mut score = vec![0.0; deltas.first().map_or(0, Vec::len)];
        for i in 0..deltas.len() {
            self.score(kernels, i, deltas, &mut score);
            visit(i, &score);
        }
    }
}
