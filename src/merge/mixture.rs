//! Mixtures of experts in recipes: gates that are to be computed, experts that are left out or put in
//! order, and the routing report of the output.

use super::{EvaluateOptions, Merge};
use crate::error::{Error, Result};
use crate::eval::statistics::Resources;
use crate::eval::statistics::routers;
use crate::eval::statistics::routing::{Routing, routing};
use crate::lineage;
use crate::matrix::assign;
use crate::model::mixture::{Kept, MixtureLayer, Opened};
use crate::model::{
    Checkpoint, DocumentSettings, Finder, PromptSource, Prompts, RouterSettings, Source,
    Statistics, StatisticsSettings, ToCompute,
};
use crate::plan::{self, Plan};
use crate::recipe::{Dropped, Expert, Layout, Located, Recipe, Surgery, Texts};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The base of a mixture with the routers' rows that are to be computed of it. No weight is read.
pub(super) fn with_routers(
    recipe: &Recipe,
    reference: &Located<String>,
    model: Checkpoint,
    finder: &Finder<'_>,
    seed: Option<u64>,
) -> Result<Checkpoint> {
    let Some(mixture) = recipe.mixture() else { return Ok(model) };
    if recipe.base_model.as_ref().is_none_or(|base| base.value != reference.value) {
        return Ok(model);
    }
    let texts = |texts: &Texts| -> Result<PromptSource> {
        match texts {
            Texts::Here(texts) => Ok(PromptSource::Here(texts.clone())),
            Texts::File(file) => {
                let path = finder.file(&file.value).map_err(|e| file.at(e))?;
                Ok(PromptSource::File { file: file.value.clone(), path })
            }
        }
    };
    let prompts = |expert: &Expert| -> Result<Prompts> {
        let all = |list: &[Texts]| list.iter().map(texts).collect::<Result<Vec<_>>>();
        Ok(Prompts { positive: all(&expert.positive)?, negative: all(&expert.negative)? })
    };
    let settings = RouterSettings {
        mode: mixture.gates.value,
        experts: mixture.experts.iter().map(prompts).collect::<Result<_>>()?,
        shared: mixture.shared.first().map(prompts).transpose()?,
        scale: mixture.gate_scale,
        ridge: mixture.ridge,
        seed: seed.or(recipe.seed).unwrap_or(0),
        documents: DocumentSettings::default(),
    };
    if !settings.mode.is_random() {
        let told = settings.experts.iter().map(|p| routers::told(p, &settings.documents));
        mixture.distinct(told.collect::<Result<_>>()?)?;
    }
    let settings = StatisticsSettings::Routers(Box::new(settings));
    Ok(model.with_statistics_to_compute(ToCompute { data: None, settings }))
}

/// The models as the recipe's surgery sees them: experts that are left out are gone, mixtures to be merged
/// have their experts in the order of the base's, routers have room for those that join.
pub(super) fn seen(
    recipe: &Recipe,
    models: Vec<Checkpoint>,
    finder: &Finder<'_>,
) -> Result<Vec<Checkpoint>> {
    let base = plan::donor(recipe, &models);
    match &recipe.layout {
        Layout::Mixture(mixture) if mixture.joins => {
            let rows = |layer| Statistics::Routers.name_of(&RouterSettings::rows(layer));
            let at = |e: Error| mixture.at.at(e);
            changed(models, base, |model| {
                model.with_more_rows(rows, mixture.gate_scale).map_err(at)
            })
        }
        Layout::Surgery(surgery) => match &**surgery {
            Surgery::Drop { experts, renormalise, chosen } => changed(models, base, |model| {
                let (kept, chosen) = kept(&model, experts, *renormalise, chosen.as_ref(), finder)
                    .map_err(|e| experts.at(e))?;
                model.with_experts(&kept, chosen).map_err(|e| experts.at(e))
            }),
            Surgery::Extract { .. } => Ok(models),
        },
        _ if recipe.align_experts => aligned(recipe, models, base),
        _ => Ok(models),
    }
}

fn changed(
    models: Vec<Checkpoint>,
    which: usize,
    change: impl Fn(Checkpoint) -> Result<Checkpoint>,
) -> Result<Vec<Checkpoint>> {
    let all = models.into_iter().enumerate();
    all.map(|(i, model)| if i == which { change(model) } else { Ok(model) }).collect()
}

/// The experts that stay, layer by layer, and how many a token goes to.
fn kept(
    model: &Checkpoint,
    dropped: &Located<Dropped>,
    renormalise: bool,
    chosen: Option<&Located<usize>>,
    finder: &Finder<'_>,
) -> Result<(Vec<Kept>, usize)> {
    let Opened { parts, counts, .. } = model.as_mixture()?;
    let all = counts.experts;
    let gone: Vec<Vec<usize>> = match &dropped.value {
        Dropped::Numbers(numbers) => {
            if let Some(number) = numbers.iter().find(|number| **number >= all) {
                return Err(Error::input("the mixture has no such expert")
                    .key("drop")
                    .expected(format!("a number below {all}"), number));
            }
            vec![numbers.clone(); parts.layers.len()]
        }
        Dropped::LeastRouted { count, routing } => {
            let file = match routing {
                Some(file) => finder.file(file)?,
                None if model.is_stored() => model.folder.join(lineage::FILE),
                None => {
                    return Err(Error::input("a stage has no record of the mixture's routing")
                        .key("drop")
                        .model(&model.reference)
                        .hint("write the mixture first, or name a report of `cognate route --json` as `routing`"));
                }
            };
            let routing = read_routing(&file)?;
            let layers = parts.layers.iter().map(|layer| layer.number);
            routing.least(layers, all, *count).map_err(|e| e.file(&file))?
        }
    };
    let left = all.saturating_sub(gone.first().map_or(0, Vec::len));
    if left == 0 {
        return Err(Error::input("no expert is left")
            .key("drop")
            .expected(format!("fewer than {all}"), all)
            .hint("`extract` makes a dense model of an expert"));
    }
    let chosen = match chosen {
        None => counts.chosen.min(left),
        Some(chosen) if chosen.value <= left => chosen.value,
        Some(chosen) => {
            return Err(Error::input("a mixture has fewer experts than a token goes to")
                .key("experts_per_token")
                .expected(format!("at most {left}"), chosen.value));
        }
    };
    let stay = |gone: &Vec<usize>| Kept {
        experts: (0..all).filter(|expert| !gone.contains(expert)).collect(),
        renormalise,
    };
    Ok((gone.iter().map(stay).collect(), chosen))
}

/// A routing report: what `cognate route` wrote, or the part of a lineage.
fn read_routing(file: &Path) -> Result<Routing> {
    let none = || {
        Error::input("there is no record of the mixture's routing")
            .file(file)
            .key("drop.routing")
            .hint("make one with `cognate route MODEL --data NAME=FILE --json`, and name it as `routing`")
    };
    let bytes = std::fs::read(file).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => none(),
        _ => Error::io("read the routing", file, &e),
    })?;
    let wrong = |reason: String| {
        Error::input("a file holds no record of a routing")
            .file(file)
            .fact("reason", reason)
            .hint("`cognate route MODEL --data NAME=FILE --json` makes one")
    };
    let value: Value = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
    let routing = match value.get("routing") {
        Some(routing) => routing,
        // A lineage without: the mixture was made without texts, or without an evaluation.
        None if value.get("schema").is_some() => return Err(none()),
        None => &value,
    };
    serde_json::from_value(routing.clone()).map_err(|e| wrong(e.to_string()))
}

/// Runs of elements that are compared of each expert's tensor, and their length.
const RUNS: usize = 64;
const RUN: usize = 256;

/// The mixtures with their experts in the order of the base's: of each layer, those pairs meet whose
/// weights have the least squared distance in all, over a sample of every tensor (Hungarian method).
fn aligned(recipe: &Recipe, models: Vec<Checkpoint>, base: usize) -> Result<Vec<Checkpoint>> {
    let at = |e: Error| recipe.at.at(e);
    let of = |model: &Checkpoint| {
        let hint = "`align_experts` is for merges of mixtures of one shape: remove it";
        model.as_mixture().map_err(|e| e.hint(hint))
    };
    let lead = models[base].clone();
    let of_lead = of(&lead).map_err(at)?;
    let align = |(i, model): (usize, Checkpoint)| -> Result<Checkpoint> {
        if i == base {
            return Ok(model);
        }
        let own = of(&model)?;
        if own.counts != of_lead.counts || own.parts.layers.len() != of_lead.parts.layers.len() {
            return Err(Error::input("mixtures to be aligned differ in their experts")
                .key("align_experts")
                .fact("model", &model.reference)
                .expected(of_lead.counts, own.counts));
        }
        let layers = of_lead.parts.layers.iter().zip(&own.parts.layers);
        let kept = layers.map(|(a, b)| {
            let costs = distances((&lead, a), (&model, b))?;
            Ok(Kept { experts: assign(&costs), renormalise: false })
        });
        let kept: Vec<Kept> = kept.collect::<Result<_>>()?;
        model.with_experts(&kept, own.counts.chosen)
    };
    let aligned: Result<Vec<Checkpoint>> = models.into_iter().enumerate().map(align).collect();
    aligned.map_err(at)
}

/// The squared distances of every expert of one layer (rows) to every expert of another.
fn distances(
    (a, a_layer): (&Checkpoint, &MixtureLayer),
    (b, b_layer): (&Checkpoint, &MixtureLayer),
) -> Result<Vec<Vec<f64>>> {
    let samples = |model: &Checkpoint, layer: &MixtureLayer| -> Result<Vec<Vec<f32>>> {
        let of = |expert: &Vec<_>| expert_sample(model, expert);
        layer.experts.iter().map(of).collect()
    };
    let (rows, columns) = (samples(a, a_layer)?, samples(b, b_layer)?);
    let distance = |x: &Vec<f32>, y: &Vec<f32>| {
        x.iter().zip(y).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum()
    };
    Ok(rows.iter().map(|x| columns.iter().map(|y| distance(x, y)).collect()).collect())
}

/// Evenly spaced runs of elements of an expert's tensors.
fn expert_sample(
    model: &Checkpoint,
    expert: &[crate::model::mixture::MlpTensor],
) -> Result<Vec<f32>> {
    let mut all = Vec::new();
    for tensor in expert {
        let source: &dyn Source = model
            .tensor(&tensor.name)
            .ok_or_else(|| Error::internal("a mixture lacks a tensor").tensor(&tensor.name))?;
        let elements = source.spec().elements();
        let runs = RUNS.min(elements.div_ceil(RUN));
        for run in 0..runs {
            let start = run * (elements / runs);
            let mut values = vec![0.0; RUN.min(elements - start)];
            source.read(start, &mut values)?;
            all.extend(values);
        }
    }
    Ok(all)
}

impl Merge {
    /// Where the routers of the mixture that a plan makes send its experts' own texts, once it is written in
    /// `folder`; none where the recipe makes no mixture, or has no texts.
    pub(super) fn routing(
        recipe: &Recipe,
        plan: &Plan,
        models: &[Checkpoint],
        folder: &Path,
        options: &EvaluateOptions,
        cache: Option<PathBuf>,
    ) -> Result<Option<Routing>> {
        let Some(mixture) = recipe.mixture() else { return Ok(None) };
        let computed = models[plan.donor].statistics().and_then(|found| found.computed.as_ref());
        let Some(StatisticsSettings::Routers(settings)) = computed.map(|found| &found.settings)
        else {
            return Ok(None);
        };
        let names: Vec<String> = mixture
            .experts
            .iter()
            .map(|expert| lineage::short_name(&expert.model.value).to_string())
            .collect();
        let output = Checkpoint::open(super::evaluate::NAME, folder)?;
        let first = output.as_mixture()?.counts.experts - names.len();
        let sets = routers::sets(&output, settings, &names, first)?;
        if sets.is_empty() {
            return Ok(None);
        }
        let resources =
            Resources { memory: options.decoder.memory, threads: options.decoder.threads, cache };
        routing(&output, &sets, &resources, &|_| ()).map(Some)
    }
}
