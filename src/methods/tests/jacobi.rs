//! Singular value decompositions by Hestenes' one-sided Jacobi rotations, in f64: another way than the
//! crate's, which goes by eigenvalues of Gram matrices.

use crate::matrix::RANK;

/// Rows of f64.
pub(super) type Rows = Vec<Vec<f64>>;

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    // In lanes: the references spend their time here.
    let mut sums = [0.0; 8];
    let (whole, rest) = a.as_chunks::<8>();
    for (a, b) in whole.iter().zip(b.as_chunks::<8>().0) {
        sums.iter_mut().zip(a).zip(b).for_each(|((sum, a), b)| *sum += a * b);
    }
    let rest: f64 = rest.iter().zip(&b[8 * whole.len()..]).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}

pub(super) fn transpose(a: &Rows) -> Rows {
    (0..a.first().map_or(0, Vec::len)).map(|j| a.iter().map(|row| row[j]).collect()).collect()
}

/// a·bᵀ.
pub(super) fn times_transposed(a: &Rows, b: &Rows) -> Rows {
    a.iter().map(|a| b.iter().map(|b| dot(a, b)).collect()).collect()
}

pub(super) fn times(a: &Rows, b: &Rows) -> Rows {
    times_transposed(a, &transpose(b))
}

pub(super) fn minus(a: &Rows, b: &Rows) -> Rows {
    a.iter().zip(b).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a - b).collect()).collect()
}

/// Singular triples, the largest first: left vectors, values, right vectors, one a row; without those
/// that count as 0. Rows are rotated in pairs until all are at right angles.
pub(super) fn svd(a: &Rows) -> (Rows, Vec<f64>, Rows) {
    let (rows, columns) = (a.len(), a.first().map_or(0, Vec::len));
    if rows > columns {
        let (left, values, right) = svd(&transpose(a));
        return (right, values, left);
    }
    let mut turned = a.clone();
    let mut left: Rows =
        (0..rows).map(|i| (0..rows).map(|j| f64::from(i == j)).collect()).collect();
    for _ in 0..60 {
        let mut most: f64 = 0.0;
        for p in 0..rows {
            for q in p + 1..rows {
                let (x, y) = (dot(&turned[p], &turned[p]), dot(&turned[q], &turned[q]));
                let xy = dot(&turned[p], &turned[q]);
                if x == 0.0 || y == 0.0 || xy.abs() <= 1e-15 * (x * y).sqrt() {
                    continue;
                }
                most = most.max(xy.abs() / (x * y).sqrt());
                let zeta = (y - x) / (2.0 * xy);
                let t = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
                let t = if zeta == 0.0 { 1.0 } else { t };
                let c = 1.0 / (1.0 + t * t).sqrt();
                for all in [&mut turned, &mut left] {
                    let (low, high) = all.split_at_mut(q);
                    for (x, y) in low[p].iter_mut().zip(&mut high[0]) {
                        (*x, *y) = (c * *x - c * t * *y, c * t * *x + c * *y);
                    }
                }
            }
        }
        if most <= 1e-14 {
            break;
        }
    }
    let norms: Vec<f64> = turned.iter().map(|row| dot(row, row).sqrt()).collect();
    let mut order: Vec<usize> = (0..rows).collect();
    order.sort_by(|a, b| norms[*b].total_cmp(&norms[*a]));
    order.retain(|i| norms[*i] > RANK * norms[order_first(&norms)]);
    let right = order.iter().map(|i| turned[*i].iter().map(|x| x / norms[*i]).collect()).collect();
    let values = order.iter().map(|i| norms[*i]).collect();
    (order.iter().map(|i| left[*i].clone()).collect(), values, right)
}

fn order_first(norms: &[f64]) -> usize {
    (0..norms.len()).max_by(|a, b| norms[*a].total_cmp(&norms[*b])).unwrap_or(0)
}

/// Σ values·leftᵀ·right, of rows by columns.
pub(super) fn compose(left: &Rows, values: &[f64], right: &Rows, shape: (usize, usize)) -> Rows {
    let mut out = vec![vec![0.0; shape.1]; shape.0];
    for ((left, value), right) in left.iter().zip(values).zip(right) {
        for (out, l) in out.iter_mut().zip(left) {
            out.iter_mut().zip(right).for_each(|(out, r)| *out += value * l * r);
        }
    }
    out
}

/// The nearest matrix with orthonormal rows.
pub(super) fn polar(a: &Rows) -> Rows {
    let shape = (a.len(), a.first().map_or(0, Vec::len));
    let (left, values, right) = svd(a);
    compose(&left, &vec![1.0; values.len()], &right, shape)
}
