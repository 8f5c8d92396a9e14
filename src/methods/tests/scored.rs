//! References of the methods that compare the models with each other: SCE, RAM, PCB, Consensus.

use super::reference::{deltas, shared};
use super::{Case, Kernels, Lanes, Memory, case};
use crate::model::Float;

/// Cases of these methods.
pub(super) fn cases() -> Vec<Case> {
    vec![
        case("sce", 3, Some(0)),
        case("sce", 4, Some(2)).number("select_topk", 0.3),
        case("sce", 3, Some(1)).number("select_topk", 0.001),
        case("ram", 4, Some(0)),
        case("ram", 3, Some(2)).number("epsilon", 0.08),
        case("ramplus_tl", 4, Some(1)),
        case("ramplus_tl", 3, Some(0))
            .number("r", 0.5)
            .number("alpha", 5.0)
            .number("epsilon", 0.08),
        case("pcb", 3, Some(0)),
        case("pcb", 4, Some(1))
            .each("weight", &[1.0, 0.9, 1.3])
            .number("density", 0.4)
            .number("lambda", 1.2),
        case("pcb", 3, Some(2)).number("density", 1.0),
        case("pcb", 4, Some(1)).each("weight", &[1.0, 0.0, 1.3]).number("density", 0.4),
        case("pcb", 3, Some(0)).number("density", 0.3).paper(),
        case("ram", 3, Some(0)).number("epsilon", -1.0),
        case("ramplus_tl", 3, Some(1)).number("epsilon", -0.5),
        case("ramplus_tl", 4, Some(1)).number("alpha", 0.7).paper(),
        case("consensus", 3, Some(0)),
        case("consensus", 4, Some(3))
            .each("weight", &[0.5, -0.7, 1.0])
            .each("tall_lambda", &[0.3, 0.6, 0.45])
            .number("k", 1.0)
            .number("lambda", 0.8),
    ]
}

/// Where a reference leaves the value to rounding.
const OPEN: f64 = f64::NAN;

/// The element of each delta.
fn at(deltas: &[Vec<f32>], i: usize) -> Vec<f64> {
    deltas.iter().map(|delta| f64::from(delta[i])).collect()
}

pub(super) fn sce(case: &Case, inputs: &[Vec<f32>]) -> Vec<f64> {
    let base = &inputs[case.base.unwrap()];
    let mut deltas = deltas(inputs, case.base.unwrap());
    let (models, n) = (deltas.len() as f64, base.len());
    let share = shared(case, "select_topk");
    if share < 1.0 {
        // Variances are compared in f32.
        let variance: Vec<f32> = (0..n)
            .map(|i| {
                let values = at(&deltas, i);
                let mean = values.iter().sum::<f64>() / models;
                (values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / models) as f32
            })
            .collect();
        let varying = variance.iter().filter(|x| **x != 0.0).count();
        let count = (share * varying as f64) as usize;
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|a, b| variance[*b].total_cmp(&variance[*a]).then(a.cmp(b)));
        for i in order.into_iter().skip(count) {
            deltas.iter_mut().for_each(|delta| delta[i] = 0.0);
        }
    }
    let square = |delta: &Vec<f32>| delta.iter().map(|x| f64::from(x * x)).sum::<f64>() / n as f64;
    let squares: Vec<f64> = deltas.iter().map(square).collect();
    let total: f64 = squares.iter().sum();
    let weights: Vec<f64> = squares
        .iter()
        .map(|square| if total < 1e-6 { 1.0 / models } else { square / total })
        .collect();
    (0..n)
        .map(|i| {
            // The sign is elected over f32 sums, as the crate defines it.
            let sign = if deltas.iter().map(|d| d[i]).sum::<f32>() >= 0.0 { 1.0 } else { -1.0 };
            let (mut sum, mut divisor) = (0.0, 0.0);
            for (delta, weight) in at(&deltas, i).iter().zip(&weights) {
                if delta * sign > 0.0 {
                    sum += weight * delta;
                    divisor += weight;
                }
            }
            f64::from(base[i]) + sum / divisor.max(1e-6)
        })
        .collect()
}

pub(super) fn ram(case: &Case, inputs: &[Vec<f32>]) -> Vec<f64> {
    let base = &inputs[case.base.unwrap()];
    let deltas = deltas(inputs, case.base.unwrap());
    let epsilon = shared(case, "epsilon");
    // The limit is compared in f32.
    let changes = |delta: &Vec<f32>, i: usize| delta[i].abs() > epsilon as f32;
    let models = |i: usize| deltas.iter().filter(|delta| changes(delta, i)).count();
    let factor = |delta: &Vec<f32>| {
        if case.method == "ram" {
            return 1.0;
        }
        let count = |wanted: &dyn Fn(usize) -> bool| {
            (0..base.len()).filter(|i| changes(delta, *i) && wanted(models(*i))).count() as f64
        };
        let (both, own) = (count(&|models| models > 1), count(&|models| models == 1));
        1.0 + shared(case, "r") * (both / own.max(epsilon)).min(shared(case, "alpha"))
    };
    let factors: Vec<f64> = deltas.iter().map(factor).collect();
    let change = |i: usize| -> f64 {
        let changing = deltas.iter().zip(&factors).filter(|(delta, _)| changes(delta, i));
        let part = |(delta, factor): (&Vec<f32>, &f64)| {
            f64::from(delta[i]) * if models(i) > 1 { 1.0 / models(i) as f64 } else { *factor }
        };
        changing.map(part).sum()
    };
    (0..base.len()).map(|i| f64::from(base[i]) + change(i)).collect()
}

pub(super) fn pcb(case: &Case, inputs: &[Vec<f32>]) -> Vec<f64> {
    let base = &inputs[case.base.unwrap()];
    // A model of weight 0 does not compete.
    let weights = case.params().each("weight");
    let weighted = deltas(inputs, case.base.unwrap()).into_iter().zip(weights);
    let (deltas, weights): (Vec<Vec<f32>>, Vec<f64>) =
        weighted.filter(|(_, weight)| *weight != 0.0).unzip();
    let (models, n) = (deltas.len(), base.len());
    let softmax = |a: &[f32], b: &[f32], gain: f64| -> Vec<f64> {
        let products: Vec<f64> = a.iter().zip(b).map(|(a, b)| f64::from(a * b)).collect();
        let least = products.iter().copied().fold(f64::INFINITY, f64::min);
        let range = products.iter().copied().fold(f64::NEG_INFINITY, f64::max) - least;
        let norm = |x: f64| if range > 0.0 { (x - least) / range } else { 0.0 };
        let exponentials: Vec<f64> = products.iter().map(|x| (gain * norm(*x)).exp()).collect();
        let sum: f64 = exponentials.iter().sum();
        exponentials.iter().map(|x| x / sum).collect()
    };
    let mut open = vec![false; n];
    let mut scores = Vec::new();
    for own in &deltas {
        let mut score = vec![0.0; n];
        for other in &deltas {
            score.iter_mut().zip(softmax(own, other, 1.0)).for_each(|(sum, x)| *sum += x);
        }
        let intra = softmax(own, own, models as f64);
        score.iter_mut().zip(intra).for_each(|(score, x)| *score *= x);
        let density = shared(case, "density");
        let count = ((density * n as f64) as usize).max(1);
        if density < 1.0 && n > 0 {
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|a, b| score[*b].total_cmp(&score[*a]).then(a.cmp(b)));
            let limit = score[order[count - 1]];
            // Exponentials are f32: what lies this near to the limit may be on either side of it.
            for i in 0..n {
                let distance = (score[i] - limit).abs() / limit;
                open[i] |= distance < 3e-6 && score[i] != limit;
            }
            order.into_iter().skip(count).for_each(|i| score[i] = 0.0);
        }
        scores.push(score);
    }
    (0..n)
        .map(|i| {
            let total: f64 = scores.iter().map(|score| score[i]).sum();
            let each = scores.iter().zip(&deltas).zip(&weights);
            let sum: f64 = each.map(|((score, d), w)| score[i] * w * f64::from(d[i])).sum();
            let change = if total > 0.0 { shared(case, "lambda") * sum / total } else { 0.0 };
            if open[i] { OPEN } else { f64::from(base[i]) + change }
        })
        .collect()
}

pub(super) fn consensus(case: &Case, inputs: &[Vec<f32>]) -> Vec<f64> {
    let base = &inputs[case.base.unwrap()];
    let params = case.params();
    let (weights, limits) = (params.each("weight"), params.each("tall_lambda"));
    let deltas = deltas(inputs, case.base.unwrap());
    let change = |i: usize| {
        // Masks are compared in f32, as the crate defines them.
        let own: Vec<f32> =
            deltas.iter().zip(&weights).map(|(delta, weight)| delta[i] * *weight as f32).collect();
        let sum = own.iter().fold(0.0, |sum, x| sum + x);
        let needs = |(x, limit): &(&f32, &f64)| x.abs() >= **limit as f32 * (sum - *x).abs();
        let models = own.iter().zip(&limits).filter(needs).count() as f64;
        let exact: f64 = at(&deltas, i).iter().zip(&weights).map(|(delta, w)| delta * w).sum();
        if models >= shared(case, "k") { shared(case, "lambda") * exact } else { 0.0 }
    };
    (0..base.len()).map(|i| f64::from(base[i]) + change(i)).collect()
}

fn merged(case: &Case, models: &[&[f32]]) -> Vec<f32> {
    let inputs: Vec<Memory> = models.iter().map(|x| Memory::new(x, Float::F32)).collect();
    case.run(&inputs, Kernels::best(), Lanes::One)
}

#[test]
fn sce_with_nothing_to_select_gives_the_base() {
    let (base, tuned) = ([1.0, 2.0, 3.0], [1.5, 2.0, 2.0]);
    for share in [0.0, 0.4] {
        // Copies do not vary, and 0.4 of the two elements that do is none.
        let sce = case("sce", 3, Some(0)).number("select_topk", share);
        assert_eq!(merged(&sce, &[&base, &tuned, &tuned]), base);
        assert_eq!(merged(&sce, &[&base, &tuned, &base]), base);
    }
}

#[test]
fn sce_shares_alike_what_hardly_differs_from_the_base() {
    // Mean squares below 1e-6 in total: the shares are halves, not 4 to 1.
    let out = merged(&case("sce", 3, Some(0)), &[&[0.0; 4], &[2e-4; 4], &[1e-4; 4]]);
    assert!(out.iter().all(|x| (x - 1.5e-4).abs() < 1e-9), "{out:?}");
    let out = merged(&case("sce", 3, Some(0)), &[&[0.0; 4], &[2e-2; 4], &[1e-2; 4]]);
    assert!(out.iter().all(|x| (x - 1.8e-2).abs() < 1e-8), "{out:?}");
}

#[test]
fn ram_tells_shared_from_unique_changes() {
    let base = [0.0; 5];
    let (one, two) = ([1.0, 1.0, 0.0, 1e-6, 4.0], [3.0, 0.0, 2.0, 0.0, 5e-6]);
    let ram = merged(&case("ram", 3, Some(0)), &[&base, &one, &two]);
    assert_eq!(ram, [2.0, 1.0, 2.0, 0.0, 4.0]);
    // One shared and two unique elements of the first, one of each of the second.
    let plus = case("ramplus_tl", 3, Some(0)).number("r", 0.5).number("alpha", 0.75);
    let plus = merged(&plus, &[&base, &one, &two]);
    assert_eq!(plus, [2.0, 1.25, 2.75, 0.0, 5.0]);
    // Without unique elements the overlap is the largest that counts; without either it is 0.
    let zero = case("ramplus_tl", 3, Some(0)).number("epsilon", 0.0);
    assert_eq!(merged(&zero, &[&[0.0], &[1.0], &[2.0]]), [1.5]);
    assert_eq!(merged(&zero, &[&[1.0], &[1.0], &[1.0]]), [1.0]);
}

#[test]
fn consensus_needs_enough_models() {
    let base = [0.0; 3];
    let models: [&[f32]; 4] = [&base, &[1.0, 1.0, 1.0], &[1.0, 0.0, 0.0], &[1.0, 0.0, -1.0]];
    let with = |k: f64| merged(&case("consensus", 4, Some(0)).number("k", k), &models);
    assert_eq!(with(0.0), [3.0, 1.0, 0.0]);
    assert_eq!(with(1.0), [3.0, 1.0, 0.0]);
    assert_eq!(with(2.0), [3.0, 0.0, 0.0]);
    assert_eq!(with(4.0), base, "more than there are models");
    let half = case("consensus", 4, Some(0)).number("k", 0.5);
    assert!((half.method().check)(&half.params()).unwrap_err().contains("0.5"));
}

#[test]
fn pcb_takes_the_winner_of_a_competition() {
    // Each model alone moves one element far: it scores there, and the other is dropped.
    let (one, two) = ([4.0, 0.1, 0.0, 0.0], [0.1, 3.0, 0.0, 0.0]);
    let pcb = case("pcb", 3, Some(0)).number("density", 0.25).number("lambda", 0.5);
    assert_eq!(merged(&pcb, &[&[0.0; 4], &one, &two]), [2.0, 1.5, 0.0, 0.0]);
    let none = case("pcb", 3, Some(0)).number("density", 0.0);
    assert_eq!(merged(&none, &[&[1.0; 4], &one, &two]), [1.0; 4]);
    // Nothing differs: the norms are 0/0, which count as 0.
    let all = case("pcb", 3, Some(0)).number("density", 1.0);
    assert_eq!(merged(&all, &[&[1.0; 4], &[1.0; 4], &[1.0; 4]]), [1.0; 4]);
}
