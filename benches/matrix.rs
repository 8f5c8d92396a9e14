//! Time of the methods on whole matrices, and of the linear algebra they are made of.
//!
//! A method's time is that of a merge, reading and writing included, of models with two matrices of
//! the size, the query and output maps of one layer, on two threads: each thread has one. The linear
//! algebra is timed on one thread.
//!
//! ```text
//! cargo bench --bench matrix                          # 4096 × 4096, three models and a base
//! cargo bench --bench matrix -- 1024 2048             # other sizes
//! cargo bench --bench matrix -- 4096 --only iso_c     # some rows
//! ```

#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod family;

use cognate::kernels::Kernels;
use cognate::matrix::{Matrix, View, eigen, gram, polar, product};
use family::Size;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// The base and the models that are merged onto it.
const MODELS: [&str; 4] = ["base", "a", "b", "c"];

/// Rows of methods: `merge_method`, and what stands beside it.
const METHODS: [(&str, &str); 7] = [
    ("task_arithmetic", ""),
    ("iso_c", ""),
    ("iso_cts", ""),
    ("tsv_m", ""),
    ("wudi", ""),
    ("task_arithmetic", "subspace_boosting"),
    ("task_arithmetic", "svc"),
];

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
    family::make(&folder(n), size(n), &MODELS);
    println!("{n} × {n}, {}", kernels.isa().name());
    let time = |name: &str, work: &mut dyn FnMut() -> String| {
        if name.contains(only) {
            let start = Instant::now();
            let note = work();
            println!("  {name:<40} {:>9.2} s  {note}", start.elapsed().as_secs_f64());
        }
    };
    let tasks: Vec<Matrix> = (1..MODELS.len() as u64).map(|seed| task(n, seed)).collect();
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
    time("wudi: one step of descent", &mut || {
        let mut merged = sum.clone();
        for task in &tasks {
            let along = product(kernels, sum.view(), task.t());
            let gradient = product(kernels, along.view(), task.view());
            merged.values_mut().iter_mut().zip(gradient.values()).for_each(|(x, g)| *x -= 1e-9 * g);
        }
        "the paper takes 300".to_string()
    });
    for (method, post) in METHODS {
        let name =
            if post.is_empty() { method.to_string() } else { format!("{post} behind {method}") };
        time(&name, &mut || merge(n, method, post));
    }
}

/// Models of one layer whose query and output maps are all that is large.
fn size(n: usize) -> Size {
    Size { hidden: n, ffn: 8, heads: 32, kv_heads: 1, vocab: 8, layers: 1 }
}

fn folder(n: usize) -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_cognate")).parent().unwrap();
    target.join(format!("matrix-bench-{n}"))
}

/// Merges three models onto their base.
fn merge(n: usize, method: &str, post: &str) -> String {
    let dir = folder(n);
    let mut recipe = format!("merge_method: {method}\nbase_model: base\nmodels:\n");
    MODELS[1..].iter().for_each(|model| recipe += &format!("  - model: {model}\n"));
    if method == "task_arithmetic" {
        recipe += "parameters:\n  weight: 0.5\n";
    }
    if !post.is_empty() {
        recipe += &format!("{post}: {{}}\n");
    }
    std::fs::write(dir.join("recipe.yml"), recipe).unwrap();
    let out = dir.join("out");
    let _ = std::fs::remove_dir_all(&out);
    let mut command = Command::new(env!("CARGO_BIN_EXE_cognate"));
    command.args(["merge", "--quiet", "--threads", "2", "--memory", "16GiB", "-o"]);
    let done =
        command.arg(&out).arg(dir.join("recipe.yml")).env("COGNATE_CACHE", dir.join("cache"));
    let done = done.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::new()
}
