//! Time of the methods on whole matrices, each on one thread, and of what they are made of: by
//! factorisation, and without one.
//!
//! ```text
//! cargo bench --bench matrix                          # 4096 × 4096, three task matrices
//! cargo bench --bench matrix -- 1024 2048             # other sizes
//! cargo bench --bench matrix -- 4096 --only iso_c     # some rows
//! ```

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use cognate::kernels::Kernels;
use cognate::matrix::{Matrix, View, eigen, gram, polar, product, solve, svd};
use std::time::Instant;

/// Task matrices that are merged.
const TASKS: usize = 3;

/// Values in [-1, 1) of a matrix whose singular values fall off as those of task vectors do.
fn task(n: usize, seed: u64) -> Matrix {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ (seed << 20 | 1);
    let mut out = Matrix::zeros(n, n);
    for (i, x) in out.values_mut().iter_mut().enumerate() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let value = (state >> 40) as f64 / f64::from(1 << 23) - 1.0;
        *x = value / (1.0 + (i / n) as f64).sqrt();
    }
    out
}

/// The polar factor by Newton's iteration as Schulz has it, without a factorisation: steps of degree 5
/// that lift small singular values fast, then of degree 3 until nothing moves. Returns its steps, too.
fn newton_schulz(kernels: Kernels, a: View<'_, f64>, norm: f64) -> (Matrix, usize) {
    let (rows, columns) = a.shape();
    let identity = |n: usize| {
        let mut one = Matrix::zeros(n, n);
        (0..n).for_each(|i| one.row_mut(i)[i] = 1.0);
        one
    };
    let mut x = product(kernels, identity(rows).view(), a);
    x.values_mut().iter_mut().for_each(|x| *x /= norm);
    for step in 1..=60 {
        let square = gram(kernels, x.view());
        let n = rows as f64;
        let trace: f64 = (0..rows).map(|i| square.row(i)[i]).sum();
        let apart = (square.norm().powi(2) - 2.0 * trace + n).max(0.0).sqrt();
        if apart <= 1e-6 * n.sqrt() {
            return (x, step);
        }
        // 3.4445, −4.7750, 2.0315 (Jordan et al., Muon) do not end at 1; the cubic does.
        let far = apart > 0.6 * n.sqrt();
        let (p, q, r) = if far { (3.4445, -4.7750, 2.0315) } else { (1.5, -0.5, 0.0) };
        let mut by = if far { gram(kernels, square.view()) } else { Matrix::zeros(rows, rows) };
        by.values_mut().iter_mut().zip(square.values()).for_each(|(b, s)| *b = r * *b + q * s);
        (0..rows).for_each(|i| by.row_mut(i)[i] += p);
        x = product(kernels, by.view(), x.view());
    }
    debug_assert_eq!(x.shape(), (rows, columns));
    (x, 60)
}

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let only = arguments.iter().position(|word| word == "--only");
    let only = only.and_then(|at| arguments.get(at + 1)).cloned().unwrap_or_default();
    let mut sizes: Vec<usize> = arguments.iter().filter_map(|word| word.parse().ok()).collect();
    if sizes.is_empty() {
        sizes.push(4096);
    }
    for n in sizes {
        rows(n, &only);
    }
}

fn rows(n: usize, only: &str) {
    let kernels = Kernels::best();
    println!("{n} × {n}, {}", kernels.isa().name());
    let time = |name: &str, work: &mut dyn FnMut() -> String| {
        if name.contains(only) {
            let start = Instant::now();
            let note = work();
            println!("  {name:<40} {:>9.2} s  {note}", start.elapsed().as_secs_f64());
        }
    };
    let tasks: Vec<Matrix> = (1..=TASKS as u64).map(|seed| task(n, seed)).collect();
    let mut sum = Matrix::zeros(n, n);
    for task in &tasks {
        sum.values_mut().iter_mut().zip(task.values()).for_each(|(sum, x)| *sum += x);
    }
    time("product", &mut || {
        let _ = product(kernels, tasks[0].view(), tasks[1].view());
        String::new()
    });
    time("eigenvalues and vectors", &mut || {
        let _ = eigen(kernels, gram(kernels, sum.view())).unwrap();
        String::new()
    });
    let mut wanted = None;
    time("iso_c: polar factor, by eigenvectors", &mut || {
        wanted = Some(polar(kernels, sum.view()).unwrap().0);
        String::new()
    });
    time("iso_c: polar factor, Newton–Schulz", &mut || {
        // The root of the largest row sum of the Gram matrix bounds the norm.
        let square = gram(kernels, sum.view());
        let bound = (0..n).map(|i| square.row(i).iter().map(|x| x.abs()).sum::<f64>());
        let (found, steps) = newton_schulz(kernels, sum.view(), bound.fold(0.0, f64::max).sqrt());
        let Some(wanted) = &wanted else { return format!("{steps} steps") };
        let difference = found.values().iter().zip(wanted.values()).map(|(a, b)| (a - b) * (a - b));
        let apart = difference.sum::<f64>().sqrt() / wanted.norm();
        format!("{steps} steps, {apart:.1e} apart")
    });
    time("tsv_m: three decompositions, two polar factors", &mut || {
        let parts = tasks.iter().map(|task| svd(kernels, task.view(), n / TASKS).unwrap());
        let (mut left, mut right) = (Matrix::zeros(0, n), Matrix::zeros(0, n));
        let mut values = Vec::new();
        for part in parts {
            left = left.stacked(&part.left);
            right = right.stacked(&part.right);
            values.extend(part.values);
        }
        let left = polar(kernels, left.view()).unwrap().0;
        let mut right = polar(kernels, right.view()).unwrap().0;
        right.scale_rows(&values);
        let _ = product(kernels, left.t(), right.view());
        String::new()
    });
    time("wudi: Gram matrices, products, one solution", &mut || {
        let mut left = Matrix::zeros(n, n);
        let mut right = Matrix::zeros(n, n);
        let mut add = |sum: &mut Matrix, x: &Matrix| {
            sum.values_mut().iter_mut().zip(x.values()).for_each(|(sum, x)| *sum += x);
        };
        for task in &tasks {
            let inputs = gram(kernels, task.t());
            add(&mut left, &inputs);
            add(&mut right, &product(kernels, task.view(), inputs.view()));
        }
        let ridge = 1e-6 * (0..n).map(|i| left.row(i)[i]).sum::<f64>() / n as f64;
        (0..n).for_each(|i| left.row_mut(i)[i] += ridge);
        let _ = solve(kernels, left, right).unwrap();
        String::new()
    });
    time("wudi: one step of descent", &mut || {
        let mut merged = sum.clone();
        for task in &tasks {
            let along = product(kernels, sum.view(), task.t());
            let gradient = product(kernels, along.view(), task.view());
            merged.values_mut().iter_mut().zip(gradient.values()).for_each(|(x, g)| *x -= 1e-9 * g);
        }
        "the paper takes 300".to_string()
    });
}
