//! Which elements of a task vector each way to sparsify keeps, by sorting; and how often DELLA does.

use super::{Case, Kernels, Lanes, Memory, case, stream};
use crate::kernels::Stream;
use crate::model::Float;

/// Cases of the methods that sparsify as no other here does.
pub(super) fn cases() -> Vec<Case> {
    vec![
        case("breadcrumbs", 3, Some(0)).each("weight", &[0.6, 0.3]).each("density", &[0.5, 0.3]),
        case("breadcrumbs", 4, Some(1))
            .each("weight", &[0.6, -0.3, 0.9])
            .each("density", &[0.95, 1.0, 0.0])
            .each("gamma", &[0.1, 0.2, 0.3])
            .flag("rescale", true)
            .flag("normalize", true),
        case("breadcrumbs", 3, Some(2))
            .each("weight", &[0.6, 0.3])
            .each("density", &[0.95, 1.0])
            .each("gamma", &[0.1, 0.2])
            .paper(),
        case("breadcrumbs_ties", 3, Some(0))
            .each("weight", &[1.0, 0.5])
            .each("density", &[0.4, 0.8])
            .each("gamma", &[0.02, 0.0])
            .flag("normalize", true)
            .number("lambda", 1.2),
        case("della", 3, Some(0))
            .each("weight", &[0.5, 1.5])
            .each("density", &[0.5, 0.3])
            .each("epsilon", &[0.15, 0.25]),
        case("della", 3, Some(1)).each("weight", &[0.5, 1.5]).each("density", &[1.0, 0.6]).paper(),
        case("della_linear", 4, Some(3))
            .each("weight", &[0.5, 0.5, 0.7])
            .each("density", &[0.0, 0.5, 0.7])
            .flag("rescale", false)
            .flag("normalize", true),
        case("della_linear", 2, Some(0)).each("weight", &[0.8]).each("density", &[0.4]),
        // Falling probabilities: the largest elements are dropped most.
        case("della", 3, Some(0))
            .each("weight", &[0.5, 1.5])
            .each("density", &[0.5, 0.6])
            .each("epsilon", &[-0.15, -0.3]),
    ]
}

/// The `count` largest magnitudes; among equals, those with the lowest index.
fn largest(delta: &[f32], count: usize) -> Vec<bool> {
    let mut order: Vec<usize> = (0..delta.len()).collect();
    order.sort_by(|a, b| delta[*b].abs().total_cmp(&delta[*a].abs()).then(a.cmp(b)));
    let mut mask = vec![false; delta.len()];
    order.into_iter().take(count).for_each(|i| mask[i] = true);
    mask
}

/// TIES' trimming.
pub(super) fn top_k(delta: &[f32], density: f64) -> Vec<bool> {
    let count = (density * delta.len() as f64) as usize;
    largest(delta, if density > 0.0 { count.max(1) } else { 0 })
}

/// Breadcrumbs' band, by ascending rank as mergekit counts it, or as the paper does.
pub(super) fn band(delta: &[f32], density: f64, gamma: f64, paper: bool) -> Vec<bool> {
    let n = delta.len();
    if density >= 1.0 && !paper {
        return vec![true; n];
    }
    let (target, top) = ((density * n as f64) as usize, (gamma * n as f64) as usize);
    let bottom = n.saturating_sub(target + top);
    let end = if paper { n - top } else { bottom + target };
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| delta[*a].abs().total_cmp(&delta[*b].abs()).then(b.cmp(a)));
    let mut mask = vec![false; n];
    order[bottom..end.max(bottom)].iter().for_each(|i| mask[*i] = true);
    mask
}

/// DARE's mask.
pub(super) fn bernoulli(stream: Stream, length: usize, density: f64) -> Vec<bool> {
    // The words are tested against the paper's generator in the kernels' suite.
    let mut kept = vec![1.0; length];
    Kernels::best().drop_random(stream, 0, (density * 2_f64.powi(32)) as u32, 1.0, &mut kept);
    kept.iter().map(|x| *x == 1.0 || density >= 1.0).collect()
}

/// DELLA's mask: for each kept element the probability of that, 0 for the others.
pub(super) fn ranked(
    stream: Stream,
    delta: &[f32],
    columns: usize,
    density: f64,
    epsilon: f64,
) -> Vec<f64> {
    if density <= 0.0 || density >= 1.0 {
        return vec![density; delta.len()];
    }
    let mut odds = vec![0.0; delta.len()];
    for start in (0..delta.len()).step_by(columns.max(1)) {
        let row = &delta[start..start + columns];
        let mut order: Vec<usize> = (0..columns).collect();
        order.sort_by(|a, b| row[*a].abs().total_cmp(&row[*b].abs()).then(a.cmp(b)));
        for (rank, i) in order.into_iter().enumerate() {
            let share = if columns > 1 { rank as f64 / (columns - 1) as f64 } else { 0.5 };
            let p = density - epsilon + share * 2.0 * epsilon;
            let element = start + i;
            let number = stream.numbers(element as u64 / 128)[element % 128];
            odds[element] = if f64::from(number) / 2_f64.powi(32) < p { p } else { 0.0 };
        }
    }
    odds
}

#[test]
fn top_k_breaks_ties_by_index() {
    assert_eq!(top_k(&[1.0, -1.0, 2.0, 1.0], 0.5), [true, false, true, false]);
    assert_eq!(top_k(&[1.0, 2.0], 0.1), [false, true]);
}

/// The deltas that one model has after the method, with a base of zeros.
fn sparse(case: &Case, delta: &[f32], shape: &[usize]) -> Vec<f32> {
    let base = Memory::shaped(&vec![0.0; delta.len()], shape, Float::F32);
    let tuned = Memory::shaped(delta, shape, Float::F32);
    case.run(&[tuned, base], Kernels::best(), Lanes::One)
}

#[test]
fn breadcrumbs_keeps_the_band_that_mergekit_keeps() {
    // What mergekit 0.1.5 keeps of ten magnitudes, found with its own sparsify().
    let delta = [3.0, -1.0, 4.0, 0.5, -5.0, 9.0, 2.0, -6.0, 8.0, 7.0];
    let crumbs = |density: f64, gamma: f64| {
        case("breadcrumbs", 2, Some(1))
            .each("weight", &[1.0])
            .each("density", &[density])
            .each("gamma", &[gamma])
    };
    let kept = |case: &Case, delta: &[f32]| sparse(case, delta, &[delta.len()]);
    assert_eq!(
        kept(&crumbs(0.5, 0.2), &delta),
        [3.0, 0.0, 4.0, 0.0, -5.0, 0.0, 0.0, -6.0, 0.0, 7.0]
    );
    // The largest share rounds to nothing: nothing is dropped at the top.
    assert_eq!(
        kept(&crumbs(0.3, 0.01), &delta),
        [0.0, 0.0, 0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 8.0, 7.0]
    );
    // Density and largest share exceed 1: less is dropped at the top; the paper drops all the same.
    let most = crumbs(0.9, 0.3);
    assert_eq!(kept(&most, &delta), [3.0, -1.0, 4.0, 0.5, -5.0, 0.0, 2.0, -6.0, 8.0, 7.0]);
    assert_eq!(kept(&most.paper(), &delta), [3.0, -1.0, 4.0, 0.5, -5.0, 0.0, 2.0, -6.0, 0.0, 0.0]);
    assert_eq!(kept(&crumbs(1.0, 0.3), &delta), delta);
    assert_eq!(kept(&crumbs(0.0, 0.3), &delta), [0.0; 10]);
    assert_eq!(
        kept(&crumbs(0.3, 0.3), &[5.0, 1.0]),
        [0.0, 0.0],
        "a density that rounds to nothing"
    );
    assert_eq!(kept(&crumbs(0.3, 1.0), &delta), kept(&crumbs(0.3, 0.7), &delta));
}

/// How often each rank of a row is kept, over many rows of the same magnitudes.
fn kept_by_rank(density: f64, epsilon: f64, rows: usize, columns: usize) -> Vec<f64> {
    // The magnitudes of a row, in an order that differs by row.
    let at = |row: usize, rank: usize| (rank * 11 + row) % columns;
    let mut delta = vec![0.0; rows * columns];
    for row in 0..rows {
        for rank in 0..columns {
            let sign = if (rank + row) % 2 == 0 { 1.0 } else { -1.0 };
            delta[row * columns + at(row, rank)] = sign * (rank + 1) as f32;
        }
    }
    let della = case("della_linear", 2, Some(1))
        .each("weight", &[1.0])
        .each("density", &[density])
        .each("epsilon", &[epsilon]);
    let out = sparse(&della.clone().flag("rescale", false), &delta, &[rows, columns]);
    let count = |rank: usize| {
        (0..rows).filter(|row| out[row * columns + at(*row, rank)] != 0.0).count() as f64
    };
    // The norm is restored, and in the paper's variant the expectation of each element.
    let norm = |x: &[f32]| x.iter().map(|x| f64::from(x.abs())).sum::<f64>();
    let rescaled = sparse(&della, &delta, &[rows, columns]);
    assert!((norm(&rescaled) / norm(&delta) - 1.0).abs() < 1e-6);
    let paper = sparse(&della.paper(), &delta, &[rows, columns]);
    for rank in 0..columns {
        let p = density - epsilon + 2.0 * epsilon * rank as f64 / (columns - 1) as f64;
        let sum: f64 =
            (0..rows).map(|row| f64::from(paper[row * columns + at(row, rank)].abs())).sum();
        let mean = sum / rows as f64 / (rank + 1) as f64;
        let deviation = ((1.0 - p) / p / rows as f64).sqrt();
        assert!((mean - 1.0).abs() < 4.5 * deviation, "rank {rank}: {mean}");
    }
    (0..columns).map(|rank| count(rank) / rows as f64).collect()
}

#[test]
fn della_keeps_each_rank_with_its_probability() {
    // Short rows, that are sorted, and long ones, that are counted; neither a multiple of 128.
    for (density, epsilon, rows, columns) in
        [(0.5, 0.15, 8000, 31), (0.3, 0.25, 8000, 31), (0.6, 0.3, 3000, 301), (0.4, 0.0, 8000, 31)]
    {
        let kept = kept_by_rank(density, epsilon, rows, columns);
        for (rank, kept) in kept.iter().enumerate() {
            let p = density - epsilon + 2.0 * epsilon * rank as f64 / (columns - 1) as f64;
            let deviation = (p * (1.0 - p) / rows as f64).sqrt();
            assert!((kept - p).abs() < 4.5 * deviation, "rank {rank}: {kept} for {p}");
        }
        let mean = kept.iter().sum::<f64>() / columns as f64;
        let deviation = (density * (1.0 - density) / (rows * columns) as f64).sqrt();
        assert!((mean - density).abs() < 4.5 * deviation, "{mean} kept of {density}");
    }
}

#[test]
fn della_defines_rows_of_one_element_and_equal_magnitudes() {
    let rows = 100_000;
    let della =
        case("della_linear", 2, Some(1)).each("weight", &[1.0]).each("density", &[0.4]).paper();
    let out = sparse(&della, &vec![2.0; rows], &[rows, 1]);
    let kept = out.iter().filter(|x| **x != 0.0).count() as f64 / rows as f64;
    assert!((kept - 0.4).abs() < 0.007, "{kept}");
    assert!(out.iter().all(|x| *x == 0.0 || *x == 5.0));
    // Equal magnitudes rank by index.
    let out = sparse(&della, &vec![-1.0; 1000], &[1000]);
    let wanted = ranked(stream(0), &vec![-1.0; 1000], 1000, 0.4, 0.15);
    for (out, odds) in out.iter().zip(wanted) {
        let wanted = if odds > 0.0 { -1.0 / odds } else { 0.0 };
        assert!((f64::from(*out) - wanted).abs() < 1e-6);
    }
}

#[test]
fn della_refuses_probabilities_that_are_none() {
    let check = |density: f64, epsilon: f64| {
        let della = case("della", 2, Some(1))
            .each("weight", &[1.0])
            .each("density", &[density])
            .each("epsilon", &[epsilon]);
        (della.method().check)(&della.params())
    };
    assert!(check(0.5, 0.49).is_ok() && check(0.0, 0.15).is_ok() && check(1.0, 0.15).is_ok());
    assert!(check(0.15, 0.15).is_err() && check(0.85, 0.15).is_err());
    assert!(check(0.5, -0.49).is_ok() && check(0.15, -0.15).is_err());
    let message = "`density` 0.125 with `epsilon` 0.25 keeps elements with probabilities from -0.125 \
                   to 0.375; they have to be above 0 and below 1";
    assert_eq!(check(0.125, 0.25).unwrap_err(), message);
}
