//! The methods on whole matrices as their papers write them, by singular value decompositions of the
//! task matrices themselves (Hestenes' one-sided Jacobi rotations), in f64.
//!
//! A singular vector is only as well determined as the gap behind its value is wide: the tests stay at
//! gaps above a thousandth, where both ways agree to nine digits before the output is rounded to f32.

use super::jacobi::{Rows, compose, dot, minus, polar, svd, times, times_transposed, transpose};
use super::{Case, Memory, Step, assert_close, case};
use crate::engine::Lanes;
use crate::kernels::Kernels;
use crate::matrix::RANK;
use crate::model::Float;
use proptest::prelude::*;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("iso_c", 3, Some(0)),
        case("iso_c", 3, Some(2)).each("weight", &[0.6, -0.2]).number("lambda", 0.7),
        case("iso_cts", 3, Some(1)).number("lambda", 0.7),
        case("iso_cts", 4, Some(0))
            .each("weight", &[0.6, 0.2, 1.0])
            .number("common_space_fraction", 0.5),
        case("tsv_m", 3, Some(0)),
        case("tsv_m", 4, Some(2)).each("weight", &[0.6, -0.2, 1.0]).number("lambda", 0.7),
        case("wudi", 3, Some(0)),
        case("wudi", 4, Some(1)).each("weight", &[0.6, 0.2, 1.0]).number("lambda", 0.7),
        case("task_arithmetic", 3, Some(1))
            .each("weight", &[0.6, 0.2])
            .then("subspace_boosting", &[("beta", 0.4)]),
        case("task_arithmetic", 4, Some(1)).each("weight", &[0.6, 0.5, 0.0]).then("svc", &[]),
        case("tsv_m", 3, Some(0))
            .then("svc", &[("alpha", 0.3)])
            .then("lines", &[("alpha", 0.5), ("beta", 0.0)]),
    ]
}

fn sum(all: &[Rows]) -> Rows {
    let add = |a: Rows, b: &Rows| {
        a.iter().zip(b).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect()).collect()
    };
    let zero = all[0].iter().map(|row| vec![0.0; row.len()]).collect();
    all.iter().fold(zero, add)
}

/// The merged task vector of one of the methods here; `shape` is that of the tensor.
pub(super) fn merged(case: &Case, deltas: &[Vec<f64>], shape: &[usize]) -> Vec<f64> {
    let [rows, columns] = shape[..] else {
        // WUDI leaves other tensors as the base has them.
        let factor = if case.method == "wudi" { 0.0 } else { 1.0 / deltas.len().max(1) as f64 };
        let length: usize = shape.iter().product();
        return (0..length).map(|i| factor * deltas.iter().map(|d| d[i]).sum::<f64>()).collect();
    };
    if rows * columns == 0 || deltas.is_empty() {
        return vec![0.0; rows * columns];
    }
    let tasks: Vec<Rows> =
        deltas.iter().map(|delta| delta.chunks(columns).map(<[f64]>::to_vec).collect()).collect();
    let (side, shape) = (rows.min(columns), (rows, columns));
    let merged = match case.method {
        "iso_c" => {
            let (left, values, right) = svd(&sum(&tasks));
            let level = values.iter().sum::<f64>() / side as f64;
            compose(&left, &vec![level; values.len()], &right, shape)
        }
        "iso_cts" => {
            let fraction = case.params().number("common_space_fraction").unwrap();
            let first = (side as f64 * fraction) as usize;
            let each = ((side - first) as f64 / tasks.len() as f64).round_ties_even() as usize;
            let each = each.min(side / tasks.len());
            let common = first_of(svd(&sum(&tasks)), side - each * tasks.len());
            let mut all = (Vec::new(), Vec::new(), Vec::new());
            for task in &tasks {
                let along = times(&transpose(&common.0), &times(&common.0, task));
                let own = if common.0.is_empty() { task.clone() } else { minus(task, &along) };
                // Of a task within the common directions, rounding is left.
                let floor = RANK * task.iter().map(|row| dot(row, row)).sum::<f64>().sqrt();
                let own = svd(&own);
                let some = own.1.iter().filter(|value| **value > floor).count();
                append(&mut all, first_of(own, each.min(some)));
            }
            append(&mut all, common);
            let level = all.1.iter().sum::<f64>() / side as f64;
            compose(&polar(&all.0), &vec![level; all.1.len()], &polar(&all.2), shape)
        }
        "tsv_m" => {
            let mut all = (Vec::new(), Vec::new(), Vec::new());
            for task in &tasks {
                append(&mut all, first_of(svd(task), side / tasks.len()));
            }
            compose(&polar(&all.0), &all.1, &polar(&all.2), shape)
        }
        _ => wudi(&tasks, shape),
    };
    merged.concat()
}

type Triples = (Rows, Vec<f64>, Rows);

fn first_of((mut left, mut values, mut right): Triples, count: usize) -> Triples {
    left.truncate(count);
    values.truncate(count);
    right.truncate(count);
    (left, values, right)
}

fn append(all: &mut Triples, new: Triples) {
    all.0.extend(new.0);
    all.1.extend(new.1);
    all.2.extend(new.2);
}

/// With B the task matrices one below the other, each of norm 1, B = UΣVᵀ, and C their residues at the
/// sum: τ = Σ τᵢ + C·U·Σ/(Σ² + ρ)·Vᵀ.
fn wudi(tasks: &[Rows], shape: (usize, usize)) -> Rows {
    let start = sum(tasks);
    let (mut stacked, mut residues) = (Rows::new(), vec![Vec::new(); shape.0]);
    let mut counted = 0.0;
    for task in tasks {
        let norm = task.iter().map(|row| dot(row, row)).sum::<f64>().sqrt();
        if norm == 0.0 {
            continue;
        }
        counted += 1.0;
        let unit: Rows = task.iter().map(|row| row.iter().map(|x| x / norm).collect()).collect();
        let residue = times_transposed(&minus(task, &start), &unit);
        residues.iter_mut().zip(residue).for_each(|(all, new)| all.extend(new));
        stacked.extend(unit);
    }
    if stacked.is_empty() {
        return start;
    }
    let ridge = 0.1 * counted / shape.1 as f64;
    let (left, values, right) = svd(&stacked);
    let along = times_transposed(&residues, &left);
    let factors: Vec<f64> = values.iter().map(|value| value / (value * value + ridge)).collect();
    sum(&[start, compose(&transpose(&along), &factors, &right, shape)])
}

/// Whether a method is one of these.
pub(super) fn has(method: &str) -> bool {
    METHODS.contains(&method)
}

/// A merged task vector behind one of the post-steps on whole matrices; `tasks` are the models' own.
pub(super) fn post(step: &Step, delta: &[f64], tasks: &[Vec<f64>], shape: &[usize]) -> Vec<f64> {
    let [rows, columns] = shape[..] else { return delta.to_vec() };
    if rows * columns == 0 {
        return Vec::new();
    }
    let matrix = |values: &[f64]| -> Rows { values.chunks(columns).map(<[f64]>::to_vec).collect() };
    let merged = matrix(delta);
    let (left, mut values, right) = svd(&merged);
    match step.post.name {
        "subspace_boosting" => {
            let total: f64 = values.iter().sum();
            let beta = step.params.number("beta").unwrap();
            let reaches = |count: &usize| values[..*count].iter().sum::<f64>() >= beta * total;
            let count = (1..=values.len()).find(reaches).unwrap_or(values.len());
            let level = count.checked_sub(1).map_or(0.0, |last| values[last]);
            values.iter_mut().for_each(|value| *value = value.max(level));
        }
        _ => {
            let alpha = step.params.number("alpha").unwrap();
            for (j, value) in values.iter_mut().enumerate() {
                let response = |of: &Rows| times(&vec![left[j].clone()], of).remove(0);
                let merged = response(&merged);
                let coefficient = |task: &Vec<f64>| {
                    let own = response(&matrix(task));
                    let square = dot(&own, &own);
                    alpha.max(if square > 0.0 { dot(&merged, &own) / square } else { 0.0 })
                };
                *value *= tasks.len() as f64 / tasks.iter().map(coefficient).sum::<f64>();
            }
        }
    }
    compose(&left, &values, &right, (rows, columns)).concat()
}

const METHODS: [&str; 4] = ["iso_c", "iso_cts", "tsv_m", "wudi"];

fn run(case: &Case, inputs: &[Vec<f32>], shape: &[usize]) -> Vec<f32> {
    case.run(&memory(inputs, shape), Kernels::best(), Lanes::One)
}

fn memory(inputs: &[Vec<f32>], shape: &[usize]) -> Vec<Memory> {
    inputs.iter().map(|values| Memory::shaped(values, shape, Float::F32)).collect()
}

/// Small whole numbers, so that products of them are exact in f32.
fn integers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729) % 13) as f32 - 6.0).collect()
}

/// Task vectors of rank 1 and 2, on a base.
fn low_rank(rows: usize, columns: usize) -> Vec<Vec<f32>> {
    let outer = |seed: usize, x: &mut [f32]| {
        let (left, right) = (integers(rows, seed), integers(columns, seed + 1));
        for (i, x) in x.iter_mut().enumerate() {
            *x += left[i / columns] * right[i % columns];
        }
    };
    let base = integers(rows * columns, 3);
    let (mut one, mut two) = (base.clone(), base.clone());
    outer(5, &mut one);
    outer(7, &mut two);
    outer(11, &mut two);
    vec![base, one, two]
}

#[test]
fn task_vectors_of_low_rank_follow_the_references() {
    for method in METHODS {
        for (rows, columns) in [(4, 4), (9, 6), (6, 9), (40, 31), (1, 5), (5, 1)] {
            let inputs = memory(&low_rank(rows, columns), &[rows, columns]);
            let case = case(method, 3, Some(0)).each("weight", &[0.25, -0.5]);
            assert_close(&case, &case.run(&inputs, Kernels::best(), Lanes::One), &inputs);
        }
    }
}

#[test]
fn models_that_are_the_base_give_the_base() {
    for method in METHODS {
        for shape in [&[7, 5][..], &[1, 1], &[6]] {
            let base = integers(shape.iter().product(), 1);
            let inputs = vec![base.clone(); 3];
            assert_eq!(run(&case(method, 3, Some(1)), &inputs, shape), base, "{method}");
        }
    }
}

#[test]
fn one_model_that_is_the_base_does_no_harm() {
    for method in METHODS {
        let inputs = low_rank(6, 8);
        let inputs = vec![inputs[0].clone(), inputs[2].clone(), inputs[0].clone()];
        let inputs = memory(&inputs, &[6, 8]);
        let case = case(method, 3, Some(0));
        assert_close(&case, &case.run(&inputs, Kernels::best(), Lanes::One), &inputs);
    }
}

#[test]
fn what_cannot_be_taken_apart_is_refused_by_name() {
    for method in METHODS {
        for (value, wanted) in [(f32::NAN, "NaN"), (f32::INFINITY, "not finite")] {
            let mut inputs = low_rank(4, 5);
            inputs[1][7] = value;
            let inputs = memory(&inputs, &[4, 5]);
            let error = case(method, 3, Some(0)).try_run(&inputs).unwrap_err().to_string();
            assert!(error.contains(wanted), "{method}: {error}");
        }
    }
}

fn close(a: &[f32], b: &[f32]) -> bool {
    let scale = b.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5 * (1.0 + scale))
}

fn matrices() -> impl Strategy<Value = (usize, [Vec<f32>; 3])> {
    (1_usize..12, 1_usize..12).prop_flat_map(|(rows, columns)| {
        let model = || prop::collection::vec(-2.0_f32..2.0, rows * columns);
        (Just(columns), [model(), model(), model()])
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_the_models_does_not_matter((columns, [x, y, z]) in matrices(), weight in 0.1_f64..3.0) {
        let shape = [x.len() / columns, columns];
        for method in METHODS {
            let there = case(method, 3, Some(0)).each("weight", &[weight, 1.0]);
            let back = case(method, 3, Some(0)).each("weight", &[1.0, weight]);
            let there = run(&there, &[x.clone(), y.clone(), z.clone()], &shape);
            let back = run(&back, &[x.clone(), z.clone(), y.clone()], &shape);
            prop_assert!(close(&there, &back), "{method}");
        }
    }

    #[test]
    fn weight_zero_removes_a_model((columns, [x, y, z]) in matrices()) {
        let shape = [x.len() / columns, columns];
        for method in METHODS {
            let with = case(method, 3, Some(0)).each("weight", &[0.7, 0.0]);
            let without = case(method, 2, Some(0)).each("weight", &[0.7]);
            let with = run(&with, &[x.clone(), y.clone(), z.clone()], &shape);
            prop_assert_eq!(with, run(&without, &[x.clone(), y.clone()], &shape), "{}", method);
        }
    }

    /// TSV-M keeps a share of each task's directions, here the only one there is.
    #[test]
    fn copies_of_a_model_merge_to_it(rows in 3_usize..12, columns in 3_usize..12, seed in 0_usize..50) {
        let base = integers(rows * columns, seed);
        let (left, right) = (integers(rows, seed + 1), integers(columns, seed + 2));
        let product = |(i, x): (usize, &f32)| x + left[i / columns] * right[i % columns];
        let model: Vec<f32> = base.iter().enumerate().map(product).collect();
        let inputs = [base, model.clone(), model.clone(), model.clone()];
        let found = run(&case("tsv_m", 4, Some(0)), &inputs, &[rows, columns]);
        prop_assert!(close(&found, &model), "{found:?} for {model:?}");
    }
}
