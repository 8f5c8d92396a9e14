//! Methods of angles and lengths, written out on the vectors themselves, in f64. Differences from
//! the base are taken in f32, as the crate defines them.

use super::{Case, deltas, shared};

type Vector = Vec<f64>;

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

/// `a + factor·b`
fn plus(a: &[f64], factor: f64, b: &[f64]) -> Vector {
    a.iter().zip(b).map(|(a, b)| a + factor * b).collect()
}

fn times(factor: f64, a: &[f64]) -> Vector {
    a.iter().map(|a| factor * a).collect()
}

fn widened(inputs: &[Vec<f32>]) -> Vec<Vector> {
    inputs.iter().map(|x| x.iter().map(|x| f64::from(*x)).collect()).collect()
}

pub(super) fn run(case: &Case, inputs: &[Vec<f32>], shape: &[usize]) -> Vector {
    let params = case.params();
    let weights = params.each("weight");
    let all = widened(inputs);
    // The models' vectors, and what is added to the result.
    let (vectors, base) = match case.base {
        Some(base) if case.method != "karcher" => {
            (widened(&deltas(inputs, base)), all[base].clone())
        }
        _ => (all.clone(), vec![0.0; inputs[0].len()]),
    };
    if vectors.len() == 1 && ["karcher", "multislerp"].contains(&case.method) {
        return all.into_iter().enumerate().find(|(i, _)| case.base != Some(*i)).unwrap().1;
    }
    let columns = shape.last().copied().unwrap_or(1);
    let merged = match case.method {
        "nuslerp" if shared(case, "nuslerp_flatten") == 1.0 => nuslerp(&weights, &vectors),
        "nuslerp" if shared(case, "nuslerp_row_wise") == 0.0 || shape.len() == 1 => {
            by_group(&vectors, |i| i / columns, |rows| nuslerp(&weights, rows))
        }
        "nuslerp" => {
            let slice = inputs[0].len() / shape[0];
            by_group(&vectors, |i| i % slice, |columns| nuslerp(&weights, columns))
        }
        "multislerp" => multislerp(case, &weights, &vectors),
        "karcher" => karcher(case, &vectors),
        "model_stock" if shared(case, "filter_wise") == 1.0 => {
            by_group(&vectors, |i| i / columns, model_stock)
        }
        "model_stock" => model_stock(&vectors),
        "nearswap" => {
            let t = shared(case, "t");
            let moved = |d: &f64| d * (t / d.abs().max(1e-6)).clamp(0.0, 1.0);
            vectors[0].iter().map(moved).collect()
        }
        _ => arcee_fusion(&vectors[0], &base, columns),
    };
    plus(&base, 1.0, &merged)
}

/// Takes the elements of a group as vectors, for each group.
fn by_group(
    vectors: &[Vector],
    group: impl Fn(usize) -> usize,
    merge: impl Fn(&[Vector]) -> Vector,
) -> Vector {
    let length = vectors[0].len();
    let groups = (0..length).map(&group).max().map_or(0, |last| last + 1);
    let mut members = vec![Vec::new(); groups];
    (0..length).for_each(|i| members[group(i)].push(i));
    let mut out = vec![0.0; length];
    for members in members {
        let own: Vec<Vector> =
            vectors.iter().map(|x| members.iter().map(|i| x[*i]).collect()).collect();
        members.iter().zip(merge(&own)).for_each(|(i, value)| out[*i] = value);
    }
    out
}

/// The angle of two vectors by the lengths of the sum and the difference of their directions, and
/// whether they are parallel or opposite as far as f32 can tell.
fn angle(a: &[f64], b: &[f64]) -> (f64, bool) {
    let (sum, difference) = (norm(&plus(a, 1.0, b)), norm(&plus(a, -1.0, b)));
    let theta = 2.0 * difference.atan2(sum);
    (theta, theta.sin().powi(2) <= 2_f64.powi(-24))
}

fn nuslerp(weights: &[f64], vectors: &[Vector]) -> Vector {
    let (a, b) = (&vectors[0], &vectors[1]);
    let total = weights[0] + weights[1];
    let t = if total.abs() < 1e-6 { 0.5 } else { weights[1] / total };
    let unit = |x: &Vector| times(1.0 / norm(x).max(1e-7), x);
    if norm(a) < 1e-7 || norm(b) < 1e-7 {
        // A vector without a direction is at right angles to everything.
        let quarter = std::f64::consts::FRAC_PI_2;
        return plus(&times(((1.0 - t) * quarter).sin(), a), (t * quarter).sin(), b);
    }
    let (theta, collinear) = angle(&unit(a), &unit(b));
    if collinear {
        return plus(&times(1.0 - t, a), t, b);
    }
    let weight = |t: f64| (t * theta).sin() / theta.sin();
    plus(&times(weight(1.0 - t), a), weight(t), b)
}

/// Step by step: to the tangent space at the mean of the directions, there the mean, and back.
fn multislerp(case: &Case, weights: &[f64], vectors: &[Vector]) -> Vector {
    let eps = shared(case, "eps");
    let normalize = shared(case, "normalize_weights") == 1.0;
    let total: f64 = if normalize { weights.iter().sum() } else { 1.0 };
    let weights: Vec<f64> = weights.iter().map(|w| w / total).collect();
    let weighted = |parts: &[Vector]| {
        let zero = vec![0.0; parts[0].len()];
        parts.iter().zip(&weights).fold(zero, |sum, (part, w)| plus(&sum, *w, part))
    };
    let units: Vec<Vector> = vectors.iter().map(|x| times(1.0 / (norm(x) + eps), x)).collect();
    let mean = weighted(&units);
    if norm(&mean) < eps.max(1e-7 * weights.iter().map(|w| w.abs()).sum::<f64>()) {
        assert!(vectors.len() == 2 || vectors.iter().all(|x| norm(x) == 0.0));
        return weighted(vectors);
    }
    let mean = times(1.0 / norm(&mean), &mean);
    let tangents: Vec<Vector> = units.iter().map(|u| plus(u, -dot(u, &mean), &mean)).collect();
    let tangent = weighted(&tangents);
    let length = norm(&tangent) + eps;
    let point = plus(&times(length.cos(), &mean), length.sin() / length, &tangent);
    let norms: f64 = vectors.iter().zip(&weights).map(|(x, w)| w * norm(x)).sum();
    times(norms, &point)
}

/// The fixed point of the mean of logarithms, on the whole vectors.
fn karcher(case: &Case, vectors: &[Vector]) -> Vector {
    let (steps, tol) = (shared(case, "max_iter") as usize, shared(case, "tol"));
    let norms: f64 = vectors.iter().map(|x| norm(x)).sum();
    let valid: Vec<Vector> =
        vectors.iter().filter(|x| norm(x) > tol).map(|x| times(1.0 / norm(x), x)).collect();
    let zero = vec![0.0; vectors[0].len()];
    if valid.is_empty() {
        return zero;
    }
    let mean_of = |parts: &[Vector]| {
        let sum = parts.iter().fold(zero.clone(), |sum, part| plus(&sum, 1.0, part));
        times(1.0 / valid.len() as f64, &sum)
    };
    let start = mean_of(&valid);
    let mut mean =
        if norm(&start) < tol { valid[0].clone() } else { times(1.0 / norm(&start), &start) };
    for _ in 0..steps {
        let log = |unit: &Vector| {
            let (theta, collinear) = angle(unit, &mean);
            if theta < tol || (collinear && theta > 1.0) {
                return zero.clone();
            }
            let tangent = plus(unit, -dot(unit, &mean), &mean);
            times(theta / norm(&tangent), &tangent)
        };
        let step = mean_of(&valid.iter().map(log).collect::<Vec<_>>());
        let length = norm(&step);
        if length < tol {
            break;
        }
        mean = plus(&times(length.cos(), &mean), length.sin() / length, &step);
        mean = times(1.0 / norm(&mean), &mean);
    }
    times(norms / vectors.len() as f64, &mean)
}

fn model_stock(deltas: &[Vector]) -> Vector {
    let mut cosines = Vec::new();
    for (i, a) in deltas.iter().enumerate() {
        for b in &deltas[i + 1..] {
            cosines.push((dot(a, b) / (norm(a) * norm(b)).max(1e-6)).clamp(-1.0, 1.0));
        }
    }
    let cos = cosines.iter().sum::<f64>() / cosines.len() as f64;
    let count = deltas.len() as f64;
    let denominator = 1.0 + (count - 1.0) * cos;
    let t = if denominator.abs() < 1e-6 { 0.0 } else { count * cos / denominator };
    let zero = vec![0.0; deltas[0].len()];
    deltas.iter().fold(zero, |sum, delta| plus(&sum, t / count, delta))
}

/// What of the difference is kept. Importances are rounded to f32 and ordered by sorting.
fn arcee_fusion(delta: &[f64], base: &[f64], columns: usize) -> Vector {
    let softmax = |row: &[f64]| {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let exps: Vector = row.iter().map(|x| (x - max).exp()).collect();
        let sum: f64 = exps.iter().sum();
        exps.into_iter().map(|e| e / sum + 1e-8).collect::<Vector>()
    };
    let tuned = plus(base, 1.0, delta);
    let mut importance: Vec<f32> = Vec::new();
    let rows = delta.chunks(columns).zip(base.chunks(columns)).zip(tuned.chunks(columns));
    for ((delta, base), tuned) in rows {
        let (p, q) = (softmax(tuned), softmax(base));
        let divergence: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
        let divergence = divergence.max(0.0) as f32;
        importance.extend(delta.iter().map(|d| d.abs() as f32 * divergence));
    }
    let mut sorted = importance.clone();
    sorted.sort_by(f32::total_cmp);
    let at = |quarter: usize| f64::from(sorted[quarter * (sorted.len() - 1) / 4]);
    // What is equal to it but for rounding counts as equal.
    let threshold = (at(2) + 1.5 * (at(3) - at(1))) * (1.0 - 2_f64.powi(-21));
    let kept = |(d, i): (&f64, &f32)| if f64::from(*i) >= threshold { *d } else { 0.0 };
    delta.iter().zip(&importance).map(kept).collect()
}
