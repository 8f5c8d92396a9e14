//! Against plain loops, and against what defines each result.

use super::*;

/// Values without a pattern, in [-1, 1).
fn random(rows: usize, columns: usize, seed: u64) -> Matrix {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ (seed << 20 | 1);
    let mut out = Matrix::zeros(rows, columns);
    for x in out.values_mut() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *x = (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0;
    }
    out
}

fn naive(a: &Matrix, b: &Matrix) -> Matrix {
    let mut out = Matrix::zeros(a.rows, b.columns);
    for i in 0..a.rows {
        for j in 0..b.columns {
            out.row_mut(i)[j] = (0..a.columns).fold(0.0, |s, k| s + a.row(i)[k] * b.row(k)[j]);
        }
    }
    out
}

fn distance(a: &Matrix, b: &Matrix) -> f64 {
    assert_eq!(a.shape(), b.shape());
    let squares = a.values.iter().zip(&b.values).map(|(a, b)| (a - b) * (a - b));
    squares.sum::<f64>().sqrt()
}

/// Shapes with odd sizes, one row, one column, and more than a block.
const SHAPES: [(usize, usize); 8] =
    [(1, 1), (1, 9), (9, 1), (5, 3), (3, 5), (64, 63), (131, 70), (150, 300)];

#[test]
fn products_are_folds_in_order_on_every_instruction_set() {
    for (rows, columns) in SHAPES {
        let (a, b) = (random(rows, columns, 1), random(columns, 37, 2));
        let wanted = naive(&a, &b);
        for kernels in Kernels::all() {
            assert_eq!(product(kernels, a.view(), b.view()), wanted, "{kernels:?}");
            assert_eq!(gram(kernels, a.view()), naive(&a, &a.transposed()));
            assert_eq!(gram(kernels, a.t()), naive(&a.transposed(), &a));
        }
    }
}

#[test]
fn eigenvectors_make_up_the_matrix() {
    for n in [1, 2, 3, 16, 17, 64, 130] {
        let a = gram(Kernels::best(), random(n, n + 3, 3).view());
        let found = eigen(Kernels::best(), a.clone()).unwrap();
        for kernels in Kernels::all() {
            let other = eigen(kernels, a.clone()).unwrap();
            assert!(other.values == found.values && other.vectors == found.vectors, "{kernels:?}");
        }
        assert!(found.values.is_sorted_by(|a, b| a >= b));
        let mut scaled = found.vectors.clone();
        scaled.scale_rows(&found.values);
        let back = naive(&found.vectors.transposed(), &scaled);
        assert!(distance(&back, &a) <= 1e-13 * a.norm(), "{n}: {}", distance(&back, &a));
        let mut identity = Matrix::zeros(n, n);
        (0..n).for_each(|i| identity.row_mut(i)[i] = 1.0);
        assert!(distance(&gram(Kernels::best(), found.vectors.view()), &identity) <= 1e-12);
    }
}

/// Below the rank, nothing but rounding is left, which must not keep the iteration going.
#[test]
fn singular_matrices_converge() {
    for n in [20, 110, 200] {
        let a = gram(Kernels::best(), random(n, n / 4, 11).view());
        let found = eigen(Kernels::best(), a.clone()).unwrap();
        assert_eq!(rank(&found.values), n / 4);
        let mut scaled = found.vectors.clone();
        scaled.scale_rows(&found.values);
        let back = naive(&found.vectors.transposed(), &scaled);
        assert!(distance(&back, &a) <= 1e-13 * a.norm());
    }
}

#[test]
fn eigenvalues_of_zeros_and_of_diagonals() {
    assert_eq!(eigen(Kernels::best(), Matrix::zeros(5, 5)).unwrap().values, [0.0; 5]);
    assert!(eigen(Kernels::best(), Matrix::zeros(0, 0)).unwrap().values.is_empty());
    let mut diagonal = Matrix::zeros(3, 3);
    for (i, value) in [2.0, -1.0, 7.0].into_iter().enumerate() {
        diagonal.row_mut(i)[i] = value;
    }
    assert_eq!(eigen(Kernels::best(), diagonal.clone()).unwrap().values, [7.0, 2.0, -1.0]);
    diagonal.row_mut(0)[1] = f64::NAN;
    assert!(eigen(Kernels::best(), diagonal).is_err());
}

#[test]
fn singular_vectors_make_up_the_matrix() {
    for (rows, columns) in SHAPES {
        let a = random(rows, columns, 4);
        let found = svd(Kernels::best(), a.view(), usize::MAX).unwrap();
        assert_eq!(found.values.len(), rows.min(columns));
        let mut scaled = found.right.clone();
        scaled.scale_rows(&found.values);
        let back = naive(&found.left.transposed(), &scaled);
        assert!(distance(&back, &a) <= 1e-12 * a.norm());
        let first = svd(Kernels::best(), a.view(), 1).unwrap();
        assert_eq!(first.values, found.values[..1]);
    }
}

/// A matrix of rank 2, of rows by columns.
fn rank_two(rows: usize, columns: usize) -> Matrix {
    naive(&random(rows, 2, 5), &random(2, columns, 6))
}

#[test]
fn what_has_no_direction_stays_zero() {
    let kernels = Kernels::best();
    let zeros = Matrix::zeros(4, 6);
    assert_eq!(polar(kernels, zeros.view()).unwrap(), (zeros.clone(), Vec::new()));
    assert!(svd(kernels, zeros.view(), 3).unwrap().values.is_empty());
    for (rows, columns) in [(7, 5), (5, 7), (40, 40)] {
        let a = rank_two(rows, columns);
        assert_eq!(svd(kernels, a.view(), usize::MAX).unwrap().values.len(), 2);
        let found = polar(kernels, a.view()).unwrap().0;
        // A partial isometry has the norm of its rank.
        assert!((found.norm() - 2.0_f64.sqrt()).abs() <= 1e-10);
        let back = naive(&naive(&found, &found.transposed()), &a);
        assert!(distance(&back, &a) <= 1e-10 * a.norm());
    }
}

#[test]
fn a_polar_factor_is_orthonormal_whatever_the_condition() {
    for (rows, columns) in SHAPES {
        let mut a = random(rows, columns, 7);
        let factors: Vec<f64> =
            (0..rows).map(|i| 10_f64.powf(-(i as f64) / rows as f64 * 3.0)).collect();
        a.scale_rows(&factors);
        let found = polar(Kernels::best(), a.view()).unwrap().0;
        let n = rows.min(columns);
        let square = if rows <= columns {
            naive(&found, &found.transposed())
        } else {
            naive(&found.transposed(), &found)
        };
        let mut identity = Matrix::zeros(n, n);
        (0..n).for_each(|i| identity.row_mut(i)[i] = 1.0);
        assert!(
            distance(&square, &identity) <= 1e-7,
            "{rows} {columns} {}",
            distance(&square, &identity)
        );
    }
}

#[test]
fn rescaled_singular_values_are_what_was_asked_for() {
    for (rows, columns) in SHAPES {
        let a = random(rows, columns, 8);
        let floor = |values: &[f64]| {
            let least = 0.5 * values[0];
            move |value: f64| (least / value).max(1.0)
        };
        let found = rescale(Kernels::best(), a.view(), floor).unwrap();
        let before = svd(Kernels::best(), a.view(), usize::MAX).unwrap().values;
        let after = svd(Kernels::best(), found.view(), usize::MAX).unwrap().values;
        for (before, after) in before.iter().zip(after) {
            let wanted = before.max(0.5 * before_first(&a));
            assert!((after - wanted).abs() <= 1e-9 * wanted);
        }
    }
}

fn before_first(a: &Matrix) -> f64 {
    svd(Kernels::best(), a.view(), 1).unwrap().values[0]
}

#[test]
fn solutions_solve() {
    for n in [1, 5, 127, 128, 129, 300] {
        let a = gram(Kernels::best(), random(n, n + 20, 9).view());
        let wanted = random(7, n, 10);
        let right = naive(&wanted, &a);
        let found = solve(Kernels::best(), a, right).unwrap();
        assert!(distance(&found, &wanted) <= 1e-8 * wanted.norm(), "{n}");
    }
    let negative = Matrix { values: vec![-1.0], rows: 1, columns: 1 };
    assert!(solve(Kernels::best(), negative, Matrix::zeros(2, 1)).is_err());
}
