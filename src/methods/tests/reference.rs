//! The methods as their papers write them, in f64, by sorting and plain loops. Task vectors are
//! taken in f32, as the crate defines them.

mod geometry;

use super::sparse::{band, bernoulli, ranked, top_k};
use super::{Case, Step, Value, matrices, regmean, scored, stream};

pub(super) fn shared(case: &Case, name: &str) -> f64 {
    match case.params().shared.get(name) {
        Some(Value::Number(x)) => *x,
        Some(Value::Bool(true)) => 1.0,
        _ => 0.0,
    }
}

pub(super) fn deltas(inputs: &[Vec<f32>], base: usize) -> Vec<Vec<f32>> {
    let others = inputs.iter().enumerate().filter(|(i, _)| *i != base);
    others.map(|(_, x)| x.iter().zip(&inputs[base]).map(|(x, b)| x - b).collect()).collect()
}

/// The output of a case; `shape` is that of its tensors. NaN where rounding decides.
pub(super) fn run(case: &Case, inputs: &[Vec<f32>], shape: &[usize]) -> Vec<f64> {
    let mut out = method(case, inputs, shape);
    for step in case.steps() {
        let base = inputs[case.base.unwrap()].iter().map(|x| f64::from(*x));
        let delta: Vec<f64> = out.iter().zip(base.clone()).map(|(x, base)| x - base).collect();
        let tasks = step.tasks.iter().map(|task| {
            let pairs = inputs[*task].iter().zip(&inputs[case.base.unwrap()]);
            pairs.map(|(x, base)| f64::from(x - base)).collect()
        });
        let changed = post(&step, &delta, &tasks.collect::<Vec<_>>(), shape);
        out = base.zip(changed).map(|(base, delta)| base + delta).collect();
    }
    out
}

/// A merged task vector behind a post-step.
fn post(step: &Step, delta: &[f64], tasks: &[Vec<f64>], shape: &[usize]) -> Vec<f64> {
    let number = |name: &str| step.params.number(name).unwrap();
    match step.post.name {
        "lines" => {
            let factor = number("alpha") + number("beta") * step.depth.unwrap();
            delta.iter().map(|x| factor * x).collect()
        }
        _ => matrices::post(step, delta, tasks, shape),
    }
}

fn method(case: &Case, inputs: &[Vec<f32>], shape: &[usize]) -> Vec<f64> {
    let params = case.params();
    let length = inputs[0].len();
    let at = |m: usize, i: usize| f64::from(inputs[m][i]);
    match case.method {
        "linear" => {
            let weights = params.each("weight");
            let total: f64 = weights.iter().sum();
            let divisor = if shared(case, "normalize") == 1.0 { total } else { 1.0 };
            let sum = |i| weights.iter().enumerate().map(|(m, w)| w * at(m, i)).sum::<f64>();
            (0..length).map(|i| sum(i) / divisor).collect()
        }
        "fisher" => {
            let (weights, floor) = (params.each("weight"), shared(case, "floor"));
            let models = 0..weights.len();
            // The floor is compared in f32, as it is stored.
            let share = |m: usize, i: usize| {
                weights[m] * at(m + weights.len(), i).max(f64::from(floor as f32))
            };
            let mean = |i: usize| {
                let total: f64 = models.clone().map(|m| share(m, i)).sum();
                let plain = |m: usize, _: usize| weights[m];
                let by: &dyn Fn(usize, usize) -> f64 = if total > 0.0 { &share } else { &plain };
                let total: f64 = models.clone().map(|m| by(m, i)).sum();
                models.clone().map(|m| by(m, i) * at(m, i)).sum::<f64>() / total
            };
            (0..length).map(mean).collect()
        }
        "regmean" => regmean::reference(case, inputs, shape, shared(case, "reduce_non_diag")),
        "passthrough" => {
            let scale = params.each("scale").first().copied().unwrap_or(1.0);
            (0..length).map(|i| scale * at(0, i)).collect()
        }
        "slerp" => {
            let (a, b) = (case.base.unwrap(), 1 - case.base.unwrap());
            let t = shared(case, "t");
            let norm = |m| (0..length).map(|i| at(m, i) * at(m, i)).sum::<f64>().sqrt();
            let dot: f64 = (0..length).map(|i| at(a, i) * at(b, i)).sum();
            let cos = dot / (norm(a).max(1e-300) * norm(b).max(1e-300));
            let (wa, wb) = if cos.abs() > 0.9995 {
                (1.0 - t, t)
            } else {
                let theta = cos.acos();
                (((1.0 - t) * theta).sin() / theta.sin(), (t * theta).sin() / theta.sin())
            };
            (0..length).map(|i| wa * at(a, i) + wb * at(b, i)).collect()
        }
        name if matrices::has(name) => {
            let base = case.base.unwrap();
            let weights = params.each("weight");
            let weighted = deltas(inputs, base).into_iter().zip(weights).filter(|(_, w)| *w != 0.0);
            let weighted: Vec<Vec<f64>> = weighted
                .map(|(delta, w)| delta.iter().map(|x| w * f64::from(*x)).collect())
                .collect();
            let merged = matrices::merged(case, &weighted, shape);
            (0..length).map(|i| at(base, i) + shared(case, "lambda") * merged[i]).collect()
        }
        "nuslerp" | "multislerp" | "karcher" | "model_stock" | "nearswap" | "arcee_fusion" => {
            geometry::run(case, inputs, shape)
        }
        "sce" => scored::sce(case, inputs),
        "ram" | "ramplus_tl" => scored::ram(case, inputs),
        "pcb" => scored::pcb(case, inputs),
        "consensus" => scored::consensus(case, inputs),
        _ => task_vectors(case, inputs, shape),
    }
}

fn task_vectors(case: &Case, inputs: &[Vec<f32>], shape: &[usize]) -> Vec<f64> {
    let params = case.params();
    let base = case.base.unwrap();
    let others: Vec<usize> = (0..inputs.len()).filter(|i| *i != base).collect();
    let weights = params.each("weight");
    let densities = params.each("density");
    let paper = params.chose("variant", "paper");
    let (columns, rescale) = (shape.last().copied().unwrap_or(1), shared(case, "rescale") == 1.0);
    let mut sparse: Vec<Vec<f64>> = Vec::new();
    for (k, delta) in deltas(inputs, base).into_iter().enumerate() {
        // What each element is divided by in the paper's variant; 0 for those that are dropped.
        let odds: Vec<f64> = match case.method {
            "della" | "della_linear" => {
                let epsilon = params.each("epsilon")[k];
                ranked(stream(others[k]), &delta, columns, densities[k], epsilon)
            }
            _ => {
                let mask = match case.method {
                    "task_arithmetic" => vec![true; delta.len()],
                    "ties" => top_k(&delta, densities[k]),
                    "breadcrumbs" | "breadcrumbs_ties" => {
                        band(&delta, densities[k], params.each("gamma")[k], paper)
                    }
                    _ => bernoulli(stream(others[k]), delta.len(), densities[k]),
                };
                let odds = if case.method.starts_with("dare") { densities[k] } else { 1.0 };
                mask.iter().map(|kept| if *kept { odds } else { 0.0 }).collect()
            }
        };
        let l1 = |keep: &dyn Fn(usize) -> bool| -> f64 {
            let kept = delta.iter().enumerate().filter(|(i, _)| keep(*i));
            kept.map(|(_, x)| f64::from(x.abs())).sum()
        };
        let (before, after) = (l1(&|_| true), l1(&|i| odds[i] > 0.0));
        let by_norm = rescale && case.method != "task_arithmetic" && !is_random_paper(case, paper);
        let by_norm = by_norm && before >= 1e-7 && after >= 1e-7;
        let factor = if by_norm { before / after } else { 1.0 };
        let value = |(i, x): (usize, &f32)| match odds[i] {
            0.0 => 0.0,
            odds if rescale && is_random_paper(case, paper) => weights[k] * f64::from(*x) / odds,
            _ => weights[k] * factor * f64::from(*x),
        };
        sparse.push(delta.iter().enumerate().map(value).collect());
    }
    let elect = case.method.ends_with("ties") || case.method == "della";
    let normalize = shared(case, "normalize") == 1.0;
    let merge = |i: usize| {
        // The sign is elected over f32 sums, as the crate defines it.
        let total = sparse.iter().fold(0_f32, |sum, d| sum + d[i] as f32);
        let agrees = |d: f64| !elect || if total >= 0.0 { d > 0.0 } else { d < 0.0 };
        let (mut sum, mut divisor) = (0.0, 0.0);
        for (k, delta) in sparse.iter().enumerate().filter(|(_, d)| agrees(d[i])) {
            sum += delta[i];
            divisor += weights[k];
        }
        let divisor = if normalize && divisor != 0.0 { divisor } else { 1.0 };
        f64::from(inputs[base][i]) + shared(case, "lambda") * sum / divisor
    };
    (0..inputs[0].len()).map(merge).collect()
}

/// Whether the case drops at random and rescales as its paper does.
fn is_random_paper(case: &Case, paper: bool) -> bool {
    paper && (case.method.starts_with("dare") || case.method.starts_with("della"))
}
