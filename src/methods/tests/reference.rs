//! The methods as their papers write them, in f64, by sorting and plain loops. Task vectors are
//! taken in f32, as the crate defines them.

mod geometry;

use super::{Case, Step, Value, matrices, regmean, stream};
use crate::kernels::{Kernels, Stream};

fn shared(case: &Case, name: &str) -> f64 {
    match case.params().shared.get(name) {
        Some(Value::Number(x)) => *x,
        Some(Value::Bool(true)) => 1.0,
        _ => 0.0,
    }
}

fn deltas(inputs: &[Vec<f32>], base: usize) -> Vec<Vec<f32>> {
    let others = inputs.iter().enumerate().filter(|(i, _)| *i != base);
    others.map(|(_, x)| x.iter().zip(&inputs[base]).map(|(x, b)| x - b).collect()).collect()
}

fn top_k(delta: &[f32], density: f64) -> Vec<bool> {
    let count = (density * delta.len() as f64) as usize;
    let count = if density > 0.0 { count.max(1) } else { 0 };
    let mut order: Vec<usize> = (0..delta.len()).collect();
    order.sort_by(|a, b| delta[*b].abs().total_cmp(&delta[*a].abs()).then(a.cmp(b)));
    let mut mask = vec![false; delta.len()];
    order.into_iter().take(count).for_each(|i| mask[i] = true);
    mask
}

fn bernoulli(stream: Stream, length: usize, density: f64) -> Vec<bool> {
    // The words are tested against the paper's generator in the kernels' suite.
    let mut kept = vec![1.0; length];
    Kernels::best().drop_random(stream, 0, (density * 2_f64.powi(32)) as u32, 1.0, &mut kept);
    kept.iter().map(|x| *x == 1.0 || density >= 1.0).collect()
}

/// The output of a case; `shape` is that of its tensors.
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
        _ => task_vectors(case, inputs),
    }
}

fn task_vectors(case: &Case, inputs: &[Vec<f32>]) -> Vec<f64> {
    let params = case.params();
    let base = case.base.unwrap();
    let others: Vec<usize> = (0..inputs.len()).filter(|i| *i != base).collect();
    let weights = params.each("weight");
    let densities = params.each("density");
    let mut sparse: Vec<Vec<f64>> = Vec::new();
    for (k, delta) in deltas(inputs, base).into_iter().enumerate() {
        let mask = match case.method {
            "task_arithmetic" => vec![true; delta.len()],
            "ties" => top_k(&delta, densities[k]),
            _ => bernoulli(stream(others[k]), delta.len(), densities[k]),
        };
        let l1 = |keep: &dyn Fn(usize) -> bool| -> f64 {
            let kept = delta.iter().enumerate().filter(|(i, _)| keep(*i));
            kept.map(|(_, x)| f64::from(x.abs())).sum()
        };
        let (before, after) = (l1(&|_| true), l1(&|i| mask[i]));
        let rescale = shared(case, "rescale") == 1.0 && case.method != "task_arithmetic";
        let paper = params.chose("variant", "paper");
        let factor = if rescale && paper && densities[k] > 0.0 {
            1.0 / densities[k]
        } else if rescale && before >= 1e-7 && after >= 1e-7 {
            before / after
        } else {
            1.0
        };
        let value = |(i, x): (usize, &f32)| {
            if mask[i] { weights[k] * factor * f64::from(*x) } else { 0.0 }
        };
        sparse.push(delta.iter().enumerate().map(value).collect());
    }
    let elect = case.method.ends_with("ties");
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

#[test]
fn top_k_breaks_ties_by_index() {
    assert_eq!(top_k(&[1.0, -1.0, 2.0, 1.0], 0.5), [true, false, true, false]);
    assert_eq!(top_k(&[1.0, 2.0], 0.1), [false, true]);
}
