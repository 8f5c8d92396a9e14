//! Are a base and the models of its task vectors related? A look at a few elements tells.

use super::stages::Stage;
use crate::error::Result;
use crate::model::{Checkpoint, Source};
use crate::plan::Job;
use std::collections::BTreeMap;

/// Tensors that are looked at, and places and elements of each.
const TENSORS: usize = 4;
const RUNS: usize = 16;
const RUN: usize = 256;

/// Below this cosine two models are called unrelated. Fine-tunes of one base stay above 0.9, even
/// after long training; independently trained models lie within a few hundredths of 0.
const RELATED: f64 = 0.3;

/// Dot product and squared norms of what was sampled of two models.
#[derive(Clone, Copy, Default)]
struct Products {
    ab: f64,
    aa: f64,
    bb: f64,
}

/// Warnings about models whose weights have nothing to do with their base's. Reads a few pages of
/// stored tensors, and none of what a stage would have to compute.
pub(super) fn unrelated(stage: &Stage) -> Result<Vec<String>> {
    let is_matrix = |job: &&Job| job.base.is_some() && job.output.shape.len() > 1;
    let matrices: Vec<&Job> = stage.plan.jobs.iter().filter(is_matrix).collect();
    let step = (matrices.len() / TENSORS).max(1);
    let mut found: BTreeMap<(usize, usize), Products> = BTreeMap::new();
    for job in matrices.into_iter().step_by(step).take(TENSORS) {
        let Some(base) = job.base else { continue };
        for (i, input) in job.weights().iter().enumerate().filter(|(i, _)| *i != base) {
            let pair = (job.inputs[base].model, input.model);
            let tensor = |i: usize| of_input(&stage.models, job, i);
            if let (Some(a), Some(b)) = (tensor(base), tensor(i)) {
                sample(a, b, found.entry(pair).or_default())?;
            }
        }
    }
    let cosine = |p: &Products| if p.aa * p.bb > 0.0 { p.ab / (p.aa * p.bb).sqrt() } else { 1.0 };
    let far = found.iter().filter(|(_, products)| cosine(products) < RELATED);
    let sentence = |((base, model), products): (&(usize, usize), &Products)| {
        format!(
            "{} does not look like a fine-tune of {}: the cosine of their weights is {:.2} in a sample; task vectors need a common ancestor",
            stage.models[*model].reference,
            stage.models[*base].reference,
            cosine(products)
        )
    };
    Ok(far.map(sentence).collect())
}

fn of_input<'a>(models: &'a [Checkpoint], job: &Job, input: usize) -> Option<&'a dyn Source> {
    let input = &job.inputs[input];
    let tensor = models[input.model].tensor(&input.tensor)?;
    (tensor.stored().is_some() && tensor.spec().float().is_some()).then_some(tensor)
}

fn sample(a: &dyn Source, b: &dyn Source, sums: &mut Products) -> Result<()> {
    let elements = a.spec().elements();
    let runs = RUNS.min(elements.div_ceil(RUN)).max(1);
    let (mut x, mut y) = ([0.0; RUN], [0.0; RUN]);
    for run in 0..runs {
        let start = run * (elements / runs);
        let length = RUN.min(elements - start);
        let (x, y) = (&mut x[..length], &mut y[..length]);
        a.read(start, x)?;
        b.read(start, y)?;
        for (x, y) in x.iter().zip(&*y).filter(|(x, y)| x.is_finite() && y.is_finite()) {
            let (x, y) = (f64::from(*x), f64::from(*y));
            sums.ab += x * y;
            sums.aa += x * x;
            sums.bb += y * y;
        }
    }
    Ok(())
}
