//! Least squares of the child on candidates, each element weighted by the rounding of the child's dtype.

use super::sample::Slab;

/// A pivot below this share of the diagonal says that a candidate is a combination of the others.
const SINGULAR: f64 = 1e-12;

/// Products of the child and the candidates, in units of the rounding.
#[derive(Clone, Debug)]
pub(super) struct Squares {
    /// Candidates.
    count: usize,
    /// Elements.
    pub(super) elements: f64,
    /// Σ xᵢ·xⱼ/σ², row by row.
    gram: Vec<f64>,
    /// Σ xᵢ·y/σ².
    with: Vec<f64>,
    /// Σ y²/σ².
    own: f64,
}

/// A least squares fit.
#[derive(Clone, Debug)]
pub(super) struct Fit {
    /// A coefficient for every candidate; 0 for those that took no part.
    pub(super) coefficients: Vec<f64>,
    /// Their standard errors, were the rounding all that is left.
    pub(super) errors: Vec<f64>,
    /// Σ (y − Σ cᵢxᵢ)²/σ².
    pub(super) rest: f64,
}

impl Squares {
    pub(super) fn none(count: usize) -> Self {
        let (gram, with) = (vec![0.0; count * count], vec![0.0; count]);
        Self { count, elements: 0.0, gram, with, own: 0.0 }
    }

    /// Of one tensor.
    pub(super) fn of(slab: &Slab) -> Self {
        let mut squares = Self::none(slab.of.len());
        let count = squares.count;
        let mut line = vec![0.0; count];
        for (e, (y, sigma)) in slab.child.iter().zip(&slab.sigma).enumerate() {
            let scale = 1.0 / f64::from(*sigma);
            let y = f64::from(*y) * scale;
            for (x, of) in line.iter_mut().zip(&slab.of) {
                *x = f64::from(of[e]) * scale;
            }
            squares.own += y * y;
            for (i, x) in line.iter().enumerate() {
                squares.with[i] += x * y;
                let row = &mut squares.gram[i * count..=i * count + i];
                row.iter_mut().zip(&line).for_each(|(sum, other)| *sum += x * other);
            }
        }
        for i in 0..count {
            for j in 0..i {
                squares.gram[j * count + i] = squares.gram[i * count + j];
            }
        }
        squares.elements = slab.elements() as f64;
        squares
    }

    /// Of several tensors.
    pub(super) fn sum<'a>(count: usize, of: impl IntoIterator<Item = &'a Self>) -> Self {
        of.into_iter().fold(Self::none(count), |mut sum, squares| {
            sum.gram.iter_mut().zip(&squares.gram).for_each(|(a, b)| *a += b);
            sum.with.iter_mut().zip(&squares.with).for_each(|(a, b)| *a += b);
            sum.own += squares.own;
            sum.elements += squares.elements;
            sum
        })
    }

    /// What is left with these coefficients, one a candidate: Σ (y − Σ cᵢxᵢ)²/σ².
    pub(super) fn rest(&self, coefficients: &[f64]) -> f64 {
        let n = self.count;
        let mut rest = self.own;
        for (i, c) in coefficients.iter().enumerate() {
            let row = self.gram[i * n..(i + 1) * n].iter().zip(coefficients);
            rest += c * (row.map(|(x, c)| x * c).sum::<f64>() - 2.0 * self.with[i]);
        }
        rest.max(0.0)
    }

    /// The best coefficients of these candidates.
    pub(super) fn fit(&self, of: &[usize]) -> Fit {
        let gram = |i: usize, j: usize| self.gram[of[i] * self.count + of[j]];
        let inverse = inverse(of.len(), gram);
        let mut fit =
            Fit { coefficients: vec![0.0; self.count], errors: vec![0.0; self.count], rest: 0.0 };
        for (i, candidate) in of.iter().enumerate() {
            let row = &inverse[i * of.len()..(i + 1) * of.len()];
            let products = row.iter().zip(of).map(|(x, j)| x * self.with[*j]);
            fit.coefficients[*candidate] = products.sum();
            fit.errors[*candidate] = row[i].max(0.0).sqrt();
        }
        // Where one is a combination of the others, none of the coefficients is determined.
        if of.iter().any(|candidate| fit.errors[*candidate] == 0.0) {
            of.iter().for_each(|candidate| fit.errors[*candidate] = f64::INFINITY);
        }
        fit.rest = self.rest(&fit.coefficients);
        fit
    }

    /// The same with coefficients that are not negative: candidates whose coefficients would be are left
    /// out, the most negative first.
    pub(super) fn fit_non_negative(&self, of: &[usize]) -> Fit {
        let mut of = of.to_vec();
        loop {
            let fit = self.fit(&of);
            let least = of
                .iter()
                .enumerate()
                .min_by(|(_, a), (_, b)| fit.coefficients[**a].total_cmp(&fit.coefficients[**b]));
            match least {
                Some((at, worst)) if fit.coefficients[*worst] < 0.0 && of.len() > 1 => {
                    of.remove(at);
                }
                _ => return fit,
            }
        }
    }
}

/// The inverse of a symmetric matrix that is not negative, by Gauss and Jordan with pivots on the
/// diagonal; rows that depend on those before become zeros.
fn inverse(n: usize, of: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    // Scaled to a diagonal of ones.
    let scale: Vec<f64> =
        (0..n).map(|i| if of(i, i) > 0.0 { 1.0 / of(i, i).sqrt() } else { 0.0 }).collect();
    let mut left: Vec<f64> =
        (0..n * n).map(|at| of(at / n, at % n) * scale[at / n] * scale[at % n]).collect();
    let mut right: Vec<f64> = (0..n * n).map(|at| f64::from(u8::from(at / n == at % n))).collect();
    let mut todo: Vec<usize> = (0..n).collect();
    let mut done = Vec::new();
    while let Some((at, pivot)) = todo
        .iter()
        .copied()
        .enumerate()
        .max_by(|a, b| left[a.1 * n + a.1].total_cmp(&left[b.1 * n + b.1]))
    {
        let value = left[pivot * n + pivot];
        if value < SINGULAR {
            break;
        }
        todo.remove(at);
        done.push(pivot);
        for j in 0..n {
            left[pivot * n + j] /= value;
            right[pivot * n + j] /= value;
        }
        for i in (0..n).filter(|i| *i != pivot) {
            let factor = left[i * n + pivot];
            for j in 0..n {
                left[i * n + j] -= factor * left[pivot * n + j];
                right[i * n + j] -= factor * right[pivot * n + j];
            }
        }
    }
    let kept = |i: &usize| done.contains(i);
    let element = |at: usize| {
        let (i, j) = (at / n, at % n);
        if kept(&i) && kept(&j) { right[at] * scale[i] * scale[j] } else { 0.0 }
    };
    (0..n * n).map(element).collect()
}

/// The solution of a symmetric system that is not negative; 0 for unknowns that depend on the others.
pub(super) fn solve(n: usize, symmetric: &[f64], right: &[f64]) -> Vec<f64> {
    let inverse = inverse(n, |i, j| symmetric[i * n + j]);
    let row = |i: usize| inverse[i * n..(i + 1) * n].iter().zip(right).map(|(x, r)| x * r).sum();
    (0..n).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverses_and_what_depends_on_the_rest() {
        let matrix = [4.0, 2.0, 6.0, 2.0, 3.0, 5.0, 6.0, 5.0, 11.0];
        let found = inverse(2, |i, j| matrix[i * 3 + j]);
        let wanted = [3.0 / 8.0, -2.0 / 8.0, -2.0 / 8.0, 4.0 / 8.0];
        assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}");
        // The third row is the sum of the others: one of the three is left out.
        let found = inverse(3, |i, j| matrix[i * 3 + j]);
        assert!(found.iter().all(|x| x.is_finite()));
        assert_eq!((0..3).filter(|i| found[i * 3 + i] == 0.0).count(), 1, "{found:?}");
    }
}
