//! The mean of the models on a sphere.

use super::gram::{Gram, Vectors, collinear};
use super::params::{Default, Param, ParamKind};
use super::{Base, Map, Method, Params, Reads, STREAMED};
use crate::engine::TensorIo;
use crate::error::Result;

pub(super) const METHOD: Method = Method {
    name: "karcher",
    summary: "The direction whose squared angles to the models' are least, at the models' mean length.",
    formula: "m ← exp_m(1/k · Σ log_m(uᵢ)), uᵢ = xᵢ/‖xᵢ‖, until the step is below tol; out = mean(‖xᵢ‖)·m",
    reference: "Karcher 1977, Riemannian center of mass and mollifier smoothing; for models: arXiv 2603.04972",
    notes: include_str!("notes/karcher.md"),
    base: Base::Plain,
    params: &[
        Param::shared("max_iter", STEPS, "steps at most; a whole number")
            .or(Default::Number(10.0))
            .clamped(),
        Param::shared("tol", SMALL, "an angle or a length up to this counts as 0")
            .or(Default::Number(1e-5))
            .clamped(),
    ],
    reads: Reads::Stream { passes: 2, bins: 0 },
    check,
    prepare,
    ..STREAMED
};

/// A step takes k² operations, so that a mistyped number is not waited for.
const STEPS: ParamKind = ParamKind::Number { min: 0.0, max: 1e6 };
const SMALL: ParamKind = ParamKind::Number { min: 0.0, max: f64::MAX };

fn check(p: &Params) -> Result<(), String> {
    match p.number("max_iter") {
        Ok(steps) if steps.fract() != 0.0 => {
            Err(format!("max_iter is {steps}, which is no whole number"))
        }
        _ => Ok(()),
    }
}

fn prepare(io: &TensorIo<'_>, p: &Params) -> Result<Map> {
    let vectors = Vectors::plain(io);
    if vectors.size() == 1 {
        return Ok(Map::Copy(0));
    }
    let gram = vectors.gram(io)?;
    Ok(vectors.combine(&factors(&gram, p.number("max_iter")? as usize, p.number("tol")?)))
}

/// The factor on each vector: the mean direction's coefficients times the mean length. Vectors up
/// to `tol` long have no direction and factor 0; their lengths count in the mean.
fn factors(gram: &Gram, steps: usize, tol: f64) -> Vec<f64> {
    let norms: Vec<f64> = (0..gram.size()).map(|i| gram.norm(i)).collect();
    let inverse: Vec<f64> = norms.iter().map(|n| if *n > tol { 1.0 / n } else { 0.0 }).collect();
    let mean_norm = norms.iter().sum::<f64>() / norms.len() as f64;
    let mean = mean_direction(&gram.scaled(&inverse), &inverse, steps, tol);
    mean.iter().zip(&inverse).map(|(part, inverse)| mean_norm * part * inverse).collect()
}

/// The coefficients of the mean of unit vectors, those whose inverse length is not 0.
fn mean_direction(units: &Gram, inverse: &[f64], steps: usize, tol: f64) -> Vec<f64> {
    let valid: Vec<usize> = (0..inverse.len()).filter(|i| inverse[*i] > 0.0).collect();
    let mut mean = vec![0.0; inverse.len()];
    let Some(first) = valid.first() else { return mean };
    let share = 1.0 / valid.len() as f64;
    valid.iter().for_each(|i| mean[*i] = share);
    let length = units.norm_of(&mean);
    if length < tol || length == 0.0 {
        mean.fill(0.0);
        mean[*first] = 1.0;
    } else {
        mean.iter_mut().for_each(|part| *part /= length);
    }
    for _ in 0..steps {
        let mut step = vec![0.0; mean.len()];
        for i in &valid {
            let cos = units.product_with(*i, &mean).clamp(-1.0, 1.0);
            let theta = cos.acos();
            // Nothing points to where the mean is already, and everything to what lies opposite.
            if theta < tol || theta == 0.0 || (cos < 0.0 && collinear(cos)) {
                continue;
            }
            let factor = share * theta / theta.sin();
            step[*i] += factor;
            step.iter_mut().zip(&mean).for_each(|(step, mean)| *step -= factor * cos * mean);
        }
        let length = units.norm_of(&step);
        if length < tol || length == 0.0 {
            break;
        }
        let (sin, cos) = length.sin_cos();
        let moved = mean.iter().zip(&step).map(|(mean, step)| cos * mean + sin * (step / length));
        mean = moved.collect();
        let norm = units.norm_of(&mean);
        if norm > tol {
            mean.iter_mut().for_each(|part| *part /= norm);
        }
    }
    mean
}
