//! Squared distances of models, tensor by tensor.

use super::sample::Sample;

/// Squared distances of the members of a sample: the candidates.
pub(super) struct Distances {
    pub(super) models: usize,
    /// For each tensor, ‖xᵢ − xⱼ‖² row by row.
    pub(super) tensors: Vec<Vec<f64>>,
}

impl Distances {
    pub(super) fn of(sample: &Sample, models: usize) -> Self {
        let tensors = sample.slabs.iter().map(|slab| {
            let mut squares = vec![0.0; models * models];
            for i in 0..models {
                for j in 0..i {
                    let pairs = slab.of[i].iter().zip(&slab.of[j]);
                    let sum: f64 = pairs
                        .map(|(x, y)| {
                            let difference = f64::from(*x) - f64::from(*y);
                            difference * difference
                        })
                        .sum();
                    squares[i * models + j] = sum;
                    squares[j * models + i] = sum;
                }
            }
            squares
        });
        Self { models, tensors: tensors.collect() }
    }

    /// The same with a mean of 1 in every tensor, so that none counts for more than another: large steps that
    /// all training takes alike, in embeddings most of all, would make siblings of one another's parents.
    pub(super) fn scaled(mut self) -> Self {
        for squares in &mut self.tensors {
            let mean = squares.iter().sum::<f64>() / squares.len().max(1) as f64;
            if mean > 0.0 {
                squares.iter_mut().for_each(|square| *square /= mean);
            }
        }
        self
    }

    /// Over these tensors; one may count several times.
    pub(super) fn over(&self, tensors: impl IntoIterator<Item = usize>) -> Vec<f64> {
        let mut sum = vec![0.0; self.models * self.models];
        for at in tensors {
            sum.iter_mut().zip(&self.tensors[at]).for_each(|(sum, x)| *sum += x);
        }
        sum
    }

    pub(super) fn all(&self) -> Vec<f64> {
        self.over(0..self.tensors.len())
    }
}

/// The model seen from which the differences of the others are nearest to being orthogonal, as those of
/// models trained on from it independently are; none for fewer than three models.
pub(super) fn centre(squares: &[f64], among: &[usize], models: usize) -> Option<usize> {
    let square = |i: usize, j: usize| squares[i * models + j];
    let from = |origin: usize| -> f64 {
        let others: Vec<usize> = among.iter().copied().filter(|at| *at != origin).collect();
        let (mut sum, mut pairs) = (0.0, 0.0);
        for (at, i) in others.iter().enumerate() {
            for j in &others[..at] {
                let (to_i, to_j) = (square(origin, *i), square(origin, *j));
                if to_i > 0.0 && to_j > 0.0 {
                    let cosine = (to_i + to_j - square(*i, *j)) / (2.0 * (to_i * to_j).sqrt());
                    sum += cosine.abs();
                    pairs += 1.0;
                }
            }
        }
        if pairs > 0.0 { sum / pairs } else { f64::MAX }
    };
    (among.len() >= 3)
        .then(|| among.iter().copied().min_by(|a, b| from(*a).total_cmp(&from(*b))))
        .flatten()
}
