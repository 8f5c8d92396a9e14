//! `regmean`: its normal equations by elimination, and what must hold for any Gram matrices.

use super::inputs::{gram, inputs};
use super::{Case, Memory, case};
use crate::engine::Lanes;
use crate::kernels::Kernels;
use crate::model::{Float, InputsAlong, Source};

/// Each row of outputs as the solution of its normal equations; where no model has seen an input, and for
/// tensors without Gram matrices, the weighted mean.
pub(super) fn reference(case: &Case, inputs: &[Vec<f32>], shape: &[usize], alpha: f64) -> Vec<f64> {
    let weights = case.params().each("weight");
    let models = || weights.iter().copied().enumerate();
    let total: f64 = weights.iter().sum();
    let mean = |i: usize| models().map(|(m, w)| w * f64::from(inputs[m][i])).sum::<f64>() / total;
    let Some(along) = case.along(shape) else { return (0..inputs[0].len()).map(mean).collect() };
    let (side, outputs) = match along {
        InputsAlong::Rows => (shape[0], shape[1]),
        InputsAlong::Columns => (shape[1], shape[0]),
    };
    let at = |output: usize, input: usize| match along {
        InputsAlong::Rows => input * outputs + output,
        InputsAlong::Columns => output * side + input,
    };
    let alpha = alpha.min(1.0 - 1.0 / 1024.0);
    let gram = |m: usize, a: usize, b: usize| {
        let x = f64::from(inputs[weights.len() + m][a * side + b]);
        if a == b { x } else { alpha * x }
    };
    let seen: Vec<usize> =
        (0..side).filter(|i| models().any(|(m, w)| w * gram(m, *i, *i) > 0.0)).collect();
    // Inputs that were seen on the left, all outputs on the right.
    let mut rows: Vec<Vec<f64>> = Vec::new();
    for b in &seen {
        let left = seen.iter().map(|a| models().map(|(m, w)| w * gram(m, *a, *b)).sum::<f64>());
        let mut right = vec![0.0; outputs];
        for (m, w) in models() {
            for a in &seen {
                let factor = w * gram(m, *a, *b);
                for (output, sum) in right.iter_mut().enumerate() {
                    *sum += factor * f64::from(inputs[m][at(output, *a)]);
                }
            }
        }
        rows.push(left.chain(right).collect());
    }
    for k in 0..seen.len() {
        let pivot = (k..seen.len()).max_by(|a, b| rows[*a][k].abs().total_cmp(&rows[*b][k].abs()));
        rows.swap(k, pivot.unwrap());
        let line = rows[k].clone();
        for (_, row) in rows.iter_mut().enumerate().filter(|(i, _)| *i != k) {
            let factor = row[k] / line[k];
            row.iter_mut().zip(&line).for_each(|(x, y)| *x -= factor * y);
        }
    }
    let mut out: Vec<f64> = (0..inputs[0].len()).map(mean).collect();
    for (k, input) in seen.iter().enumerate() {
        for output in 0..outputs {
            out[at(output, *input)] = rows[k][seen.len() + output] / rows[k][k];
        }
    }
    out
}

const SHAPE: [usize; 2] = [9, 40];

fn regmean(models: usize, weights: &[f64]) -> Case {
    case("regmean", models, None).each("weight", weights)
}

fn run(case: &Case, weights: &[&Memory], grams: &[&Memory]) -> Vec<f32> {
    let copy =
        |memory: &&Memory| Memory::shaped(&memory.values(), &memory.spec().shape, Float::F32);
    let all: Vec<Memory> = weights.iter().chain(grams).map(copy).collect();
    case.run(&all, Kernels::best(), Lanes::One)
}

#[track_caller]
fn assert_near(found: &[f32], wanted: impl IntoIterator<Item = f32>) {
    let worst = found.iter().zip(wanted).map(|(a, b)| (a - b).abs() / (1.0 + b.abs()));
    let worst = worst.fold(0.0, f32::max);
    assert!(worst < 2e-6, "{worst}");
}

#[test]
fn copies_permutations_and_weights() {
    let all = inputs(3, &SHAPE, Float::F32);
    let [x, y, z] = &all[..] else { unreachable!() };
    let grams: Vec<Memory> = (0..3).map(|model| gram(model, SHAPE[1])).collect();
    let [a, b, c] = &grams[..] else { unreachable!() };
    // Copies of a model merge to it, whatever went into them.
    let copies = run(&regmean(3, &[0.3, 1.0, 2.0]), &[x, x, x], &[a, b, c]);
    assert_near(&copies, x.values());
    // The order of the models does not matter, nor a factor of all weights.
    let there = run(&regmean(3, &[0.3, 1.0, 2.0]), &[x, y, z], &[a, b, c]);
    let back = run(&regmean(3, &[4.0, 0.6, 2.0]), &[z, x, y], &[c, a, b]);
    assert_near(&there, back);
    // Weight 0 removes a model.
    let with = run(&regmean(3, &[0.3, 0.0, 2.0]), &[x, y, z], &[a, b, c]);
    assert_near(&with, run(&regmean(2, &[0.3, 2.0]), &[x, z], &[a, c]));
    // Equal Gram matrices give the weighted mean.
    let equal = run(&regmean(2, &[1.0, 3.0]), &[x, y], &[b, b]);
    let mean = x.values().into_iter().zip(y.values()).map(|(x, y)| 0.25 * x + 0.75 * y);
    assert_near(&equal, mean);
}

/// For inputs that only one model has seen, its weight is kept; for those that none has, the mean.
#[test]
fn inputs_that_were_not_seen() {
    let all = inputs(2, &SHAPE, Float::F32);
    let [x, y] = &all[..] else { unreachable!() };
    let side = SHAPE[1];
    let diagonal = |of: &dyn Fn(usize) -> f32| {
        let values = |i: usize| if i / side == i % side { of(i % side) } else { 0.0 };
        Memory::shaped(&(0..side * side).map(values).collect::<Vec<_>>(), &[side, side], Float::F32)
    };
    let a = diagonal(&|i| if i % 4 == 0 { 1e-9 } else { 0.0 });
    let b = diagonal(&|i| if i % 4 == 1 { 1e9 } else { 0.0 });
    let found = run(&regmean(2, &[1.0, 1.0]), &[x, y], &[&a, &b]);
    let expected =
        x.values().into_iter().zip(y.values()).enumerate().map(|(i, (x, y))| match i % side % 4 {
            0 => x,
            1 => y,
            _ => 0.5 * x + 0.5 * y,
        });
    assert_near(&found, expected);
    let nothing = diagonal(&|_| 0.0);
    let found = run(&regmean(2, &[1.0, 1.0]), &[x, y], &[&nothing, &nothing]);
    assert_near(&found, x.values().into_iter().zip(y.values()).map(|(x, y)| 0.5 * x + 0.5 * y));
}

/// The merged map answers the inputs better than the mean does, in what it minimises.
#[test]
fn the_result_is_the_least() {
    let all = inputs(2, &SHAPE, Float::F32);
    let grams: Vec<Memory> = (0..2).map(|model| gram(model, SHAPE[1])).collect();
    let with = |out: &[f32]| -> f64 {
        let side = SHAPE[1];
        let mut sum = 0.0;
        for (weight, gram) in all.iter().zip(&grams) {
            let (weight, gram) = (weight.values(), gram.values());
            let apart: Vec<f64> =
                out.iter().zip(&weight).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect();
            for row in apart.chunks(side) {
                for (i, a) in row.iter().enumerate() {
                    for (j, b) in row.iter().enumerate() {
                        sum += a * b * f64::from(gram[i * side + j]);
                    }
                }
            }
        }
        sum
    };
    let case = regmean(2, &[1.0, 1.0]).number("reduce_non_diag", 1.0);
    let found = run(&case, &[&all[0], &all[1]], &[&grams[0], &grams[1]]);
    let mean: Vec<f32> =
        all[0].values().iter().zip(all[1].values()).map(|(x, y)| (x + y) / 2.0).collect();
    let least = with(&found);
    assert!(least < 0.9 * with(&mean), "{least} {}", with(&mean));
}
