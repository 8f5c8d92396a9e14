//! The competition over whole models, as the paper has it.

use super::balance::{Balance, Extents, Pairs, Softmax};
use super::{Competition, models as weighted};
use crate::engine::ModelIo;
use crate::error::Result;
use crate::methods::deltas::with_deltas_of;
use crate::methods::survey::{Part, Survey, Surveyed, surveyed};
use crate::methods::threshold::{kept, largest_of_model};
use std::collections::BTreeMap;

/// For each tensor its [`Competition`].
pub(super) const WHOLE: Survey = Survey { whole: &["density"], make };

/// What takes part in a tensor: inputs, and which of all models each of them is.
struct Entry {
    base: usize,
    inputs: Vec<usize>,
    models: Vec<usize>,
}

impl Entry {
    /// Where the tensor has a model.
    fn place(&self, model: usize) -> Option<usize> {
        self.models.iter().position(|own| *own == model)
    }
}

fn make(io: &ModelIo<'_>, parts: &[Part<'_>]) -> Result<Vec<Surveyed>> {
    let Some(density) = parts.first().map(|part| part.params.number("density")).transpose()? else {
        return Ok(Vec::new());
    };
    let (entries, elements) = entries(io, parts)?;
    if density <= 0.0 {
        let none = |_| Competition::default();
        return Ok(surveyed(entries.iter().map(none).collect()));
    }
    let count = elements.len();
    let balance = balance(io, &entries, count)?;
    let own: Vec<Balance> = entries
        .iter()
        .map(|entry| balance.among(entry.inputs.len(), |model| entry.place(model)))
        .collect();
    let wanted: Option<Vec<(usize, usize)>> =
        elements.iter().map(|n| Some((kept(density, *n)?, *n))).collect();
    let thresholds = match wanted {
        None => vec![None; entries.len()],
        Some(wanted) => {
            let searches: Vec<Vec<usize>> =
                entries.iter().map(|entry| entry.models.clone()).collect();
            let found = largest_of_model(io, &wanted, &searches, &|at, tensor, tile, visit| {
                let (entry, kernels) = (&entries[at], tensor.kernels());
                with_deltas_of(kernels, entry.base, &entry.inputs, tile, |_, deltas| {
                    own[at].scores(kernels, deltas, visit);
                });
            })?;
            found.into_iter().map(Some).collect()
        }
    };
    let each = entries.into_iter().zip(own).zip(thresholds);
    let each = each.map(|((entry, balance), thresholds)| Competition {
        models: entry.inputs,
        balance,
        thresholds,
    });
    Ok(surveyed(each.collect()))
}

/// What takes part in each tensor, and the elements of each model over all tensors that it takes part in.
/// Models are numbered by the order of the inputs in which they first take part; a model that is listed
/// twice is two.
fn entries(io: &ModelIo<'_>, parts: &[Part<'_>]) -> Result<(Vec<Entry>, Vec<usize>)> {
    let mut numbers: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    let mut elements = Vec::new();
    let mut entries = Vec::new();
    for (part, tensor) in parts.iter().zip(io.tensors()) {
        let mut numbered = Vec::new();
        for (input, _) in weighted(tensor, part.params)? {
            let model = part.models[input];
            let again = numbered.iter().filter(|(_, at)| part.models[*at] == model).count();
            let number = *numbers.entry((model, again)).or_insert(elements.len());
            if number == elements.len() {
                elements.push(0);
            }
            elements[number] += tensor.elements();
            numbered.push((number, input));
        }
        numbered.sort_unstable();
        let (models, inputs) = numbered.into_iter().unzip();
        entries.push(Entry { base: tensor.base()?, inputs, models });
    }
    Ok((entries, elements))
}

/// The softmaxes of all pairs over all tensors that have both of their models.
fn balance(io: &ModelIo<'_>, entries: &[Entry], models: usize) -> Result<Balance> {
    let pairs = Pairs::all(models);
    let mut extents = Extents::new(&pairs);
    let found = io.of_tensors::<u64>(extents.width(), |at, tensor, inputs, keys| {
        let (entry, kernels) = (&entries[at], tensor.kernels());
        with_deltas_of(kernels, entry.base, &entry.inputs, inputs, |_, deltas| {
            Extents::look(kernels, &pairs, |model| entry.place(model), deltas, keys);
        });
    })?;
    found.iter().for_each(|keys| extents.join(keys));
    let softmaxes = pairs.softmaxes(&extents, models);
    let own: Vec<Vec<Option<Softmax>>> = entries
        .iter()
        .map(|entry| {
            softmaxes.iter().map(|softmax| softmax.between(|model| entry.place(model))).collect()
        })
        .collect();
    let sums = io.of_tensors::<f64>(softmaxes.len(), |at, tensor, inputs, sums| {
        let (entry, kernels) = (&entries[at], tensor.kernels());
        with_deltas_of(kernels, entry.base, &entry.inputs, inputs, |_, deltas| {
            for (softmax, sum) in own[at].iter().zip(sums) {
                *sum += softmax.map_or(0.0, |softmax| softmax.sum(kernels, deltas));
            }
        });
    })?;
    let mut total = vec![0.0; softmaxes.len()];
    sums.iter().for_each(|sums| total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum));
    let elements = io.tensors().iter().map(|tensor| tensor.elements()).sum();
    Ok(Balance::new(models, softmaxes, &total, elements))
}
