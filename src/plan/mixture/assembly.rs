//! Dense models in, a mixture out.

use super::super::draft::{Draft, set_dtype};
use super::super::{Model, Options, Plan, Vocabulary, compatible, donor, parts};
use super::{Jobs, architecture};
use crate::error::{Error, Result};
use crate::model::architectures;
use crate::model::mixture::{
    Counts, DenseParts, Family, MixtureLayer, MixtureParts, Opened, converted, dense, families,
};
use crate::model::{Checkpoint, Float, GateMode, RouterSettings, Statistics};
use crate::recipe::{Mixture, Recipe};
use std::collections::{BTreeMap, BTreeSet};

/// Experts that a token goes to, where neither recipe nor mixture says how many.
const CHOSEN: usize = 2;

/// A mixture, and what it is made of.
struct Assembly<'a> {
    recipe: &'a Recipe,
    mixture: &'a Mixture,
    models: &'a [Checkpoint],
    /// The model that everything besides the experts comes from.
    base: usize,
    /// The models of the routed and of the shared experts.
    experts: Vec<usize>,
    shared: Vec<usize>,
    /// The tensors of the experts' models, layer by layer.
    dense: Vec<DenseParts>,
}

/// Plans a mixture, or one that experts join.
pub(in crate::plan) fn build(
    recipe: &Recipe,
    mixture: &Mixture,
    models: &[Checkpoint],
    vocabulary: Vocabulary,
    options: &Options,
) -> Result<Plan> {
    let base = donor(recipe, models);
    let find = |reference: &str| {
        models
            .iter()
            .position(|model| model.reference == reference)
            .ok_or_else(|| Error::internal("a model of the recipe was not opened"))
    };
    let all = |experts: &[crate::recipe::Expert]| -> Result<Vec<usize>> {
        experts.iter().map(|expert| find(&expert.model.value)).collect()
    };
    let (experts, shared) = (all(&mixture.experts)?, all(&mixture.shared)?);
    let first = *experts.first().ok_or_else(|| Error::internal("a mixture without experts"))?;
    let of_first = architecture(&models[first])?;
    let dense = dense(&of_first).map_err(|e| e.model(&models[first].reference))?;
    let assembly = Assembly { recipe, mixture, models, base, experts, shared, dense };
    assembly.check_experts(first)?;
    if mixture.joins {
        assembly.join(vocabulary, options)
    } else {
        assembly.assemble(vocabulary, options)
    }
}

impl Assembly<'_> {
    /// Every expert has the tensors of the first one, in the same shapes, and so has the base.
    fn check_experts(&self, first: usize) -> Result<()> {
        let (recipe, lead) = (self.recipe, &self.models[first]);
        let mut others: Vec<usize> = self.experts.iter().chain(&self.shared).copied().collect();
        if !self.mixture.joins {
            others.push(self.base);
        }
        for model in others.into_iter().map(|other| &self.models[other]) {
            let checked = compatible::check(recipe, &[lead.clone(), model.clone()], 0);
            checked?;
            if let Some(difference) = compatible::structure(lead, model) {
                return Err(compatible::error(recipe, lead, model, difference));
            }
            for (name, tensor) in lead.tensors() {
                let Some((_, other)) = model.tensor_or_tied(name) else {
                    return Err(compatible::at(recipe, model, "a model lacks a tensor that the others have")
                        .tensor(name)
                        .fact("model", &model.reference)
                        .fact("has it", &lead.reference)
                        .hint("experts are models of one architecture: the same tensors, by name and shape"));
                };
                if other.spec().shape != tensor.spec().shape {
                    let specs = [tensor.spec(), other.spec()];
                    return Err(compatible::shapes(recipe, name, [lead, model], specs));
                }
            }
        }
        Ok(())
    }

    fn family(&self) -> Result<Family> {
        let (mixture, base) = (self.mixture, &self.models[self.base]);
        let (among, at) = match &mixture.architecture {
            Some(name) => (Family::named(&name.value).map_err(|e| name.at(e))?, name.map(())),
            None => (families()?, mixture.at.clone()),
        };
        let model_type = base.config.model_type().unwrap_or("none");
        Family::of_dense(model_type, self.shared.len(), among).map_err(|e| {
            let shared = mixture.shared.first().filter(|_| e.get("key") == Some("shared_experts"));
            let error = shared.map_or(at, |expert| expert.model.map(())).at(e);
            match &mixture.architecture {
                Some(name) => error.fact("architecture", &name.value),
                None => error,
            }
        })
    }

    /// Prompts of a shared expert are for its gate, which not every family has.
    fn check_shared(&self, family: &Family) -> Result<()> {
        let prompted = |expert: &&crate::recipe::Expert| {
            !expert.positive.is_empty() || !expert.negative.is_empty()
        };
        match self.mixture.shared.iter().enumerate().find(|(_, expert)| prompted(expert)) {
            Some((i, expert)) if !family.shared.gated => Err(expert
                .model
                .error("a shared expert has prompts, and mixtures of this family no gate for it")
                .key(format!("shared_experts[{i}].positive_prompts"))
                .fact("family", &family.name)
                .hint("remove the prompts: every token goes through the shared expert")),
            _ => Ok(()),
        }
    }

    /// A mixture of dense models.
    fn assemble(&self, vocabulary: Vocabulary, options: &Options) -> Result<Plan> {
        let (recipe, mixture, base) = (self.recipe, self.mixture, &self.models[self.base]);
        let family = self.family()?;
        let chosen = mixture.chosen.as_ref().map_or(CHOSEN, |chosen| chosen.value);
        let counts = Counts { experts: self.experts.len(), chosen, shared: self.shared.len() };
        let of_base = architecture(base)?;
        let (mut config, mut edits) =
            family.mixed_config(&base.config, counts, &of_base.windows())?;
        let stored = |name: &str| base.tensor(name).is_some();
        let mixed = converted(&config, stored).map_err(|e| mixture.at.at(e))?;
        family
            .expresses(&of_base, &mixed, false)
            .map_err(|e| mixture.at.at(e.model(&base.reference)))?;
        self.check_shared(&family)?;
        let made = MixtureParts::of(&mixed)?;
        let of_dense: BTreeSet<&str> =
            self.dense.iter().flatten().map(|tensor| tensor.name.as_str()).collect();
        let mut layers: BTreeMap<&str, &MixtureLayer> = BTreeMap::new();
        for layer in &made.layers {
            if let Some(first) = self.dense[layer.number].first() {
                layers.insert(&first.name, layer);
            }
        }
        let mut jobs = Jobs::new(recipe, self.models);
        for name in base.names_in_file_order() {
            if let Some(layer) = layers.get(name) {
                self.layer(&mut jobs, layer)?;
            } else if !of_dense.contains(name) {
                let from = if mixture.average { &self.experts[..] } else { &[self.base][..] };
                let from: Vec<(usize, &str)> = from.iter().map(|model| (*model, name)).collect();
                jobs.average(name, &from)?;
            }
        }
        edits.extend(vocabulary.edit(&mut config));
        if let Some(scheme) = base.quantisation() {
            edits.push(format!("quantization_config: removed ({scheme} is undone)"));
        }
        set_dtype(&mut config, &jobs.list, &mut edits);
        let mut warnings = recipe.warnings.clone();
        warnings.extend(compatible::differences(self.models, self.base));
        warnings.extend(vocabulary.warnings.iter().cloned());
        warnings.extend(self.advice(&family, counts));
        warnings.extend(base.notes.iter().cloned());
        let jobs = jobs.list;
        let accounts = self.accounts(&jobs, &of_dense);
        let draft =
            Draft { jobs, config, edits, accounts, donor: self.base, warnings, advice: Vec::new() };
        draft.finish(recipe, self.models, vocabulary, options)
    }

    /// The tensors of one layer's mixture.
    fn layer(&self, jobs: &mut Jobs<'_>, layer: &MixtureLayer) -> Result<()> {
        let dense = &self.dense[layer.number];
        let float = self.float(layer.number);
        let rows = Statistics::Routers.name_of(&RouterSettings::rows(layer.number));
        jobs.computed(&layer.router, float, self.base, &rows)?;
        for ((tensors, expert), model) in
            layer.experts.iter().zip(&self.mixture.experts).zip(&self.experts)
        {
            for (tensor, from) in tensors.iter().zip(dense) {
                jobs.expert(&tensor.name, expert, tensor.residual, (*model, &from.name))?;
            }
        }
        for ((tensors, expert), model) in
            layer.shared.iter().zip(&self.mixture.shared).zip(&self.shared)
        {
            for (tensor, from) in tensors.iter().zip(dense) {
                jobs.expert(&tensor.name, expert, tensor.residual, (*model, &from.name))?;
            }
        }
        if let Some(gate) = &layer.shared_gate {
            let row = Statistics::Routers.name_of(&RouterSettings::shared_row(layer.number));
            jobs.computed(gate, float, self.base, &row)?;
        }
        Ok(())
    }

    /// The mixture with the experts behind its own.
    fn join(&self, vocabulary: Vocabulary, options: &Options) -> Result<Plan> {
        let (recipe, base) = (self.recipe, &self.models[self.base]);
        let Opened { family, parts: before, counts } = base.as_mixture()?;
        let chosen = self.mixture.chosen.as_ref().map_or(counts.chosen, |chosen| chosen.value);
        let counts = Counts { experts: counts.experts + self.experts.len(), chosen, ..counts };
        if chosen > counts.experts {
            let at = self.mixture.chosen.as_ref().map_or(self.mixture.at.clone(), |at| at.map(()));
            return Err(at
                .error("a mixture has fewer experts than a token goes to")
                .key("experts_per_token")
                .expected(format!("at most {}", counts.experts), chosen));
        }
        let (mut config, mut edits) = family.recounted(&base.config, counts)?;
        let stored = |name: &str| base.tensor(name).is_some();
        let mixed = architectures::find(&config, stored)?.architecture;
        let of_expert = architecture(&self.models[self.experts[0]])?;
        if let Some(expert) = self.mixture.experts.first() {
            let checked = family.expresses(&of_expert, &mixed, false);
            checked.map_err(|e| expert.model.at(e.model(&expert.model.value)))?;
        }
        let made = MixtureParts::of(&mixed)?;
        let last_of = |layer: &MixtureLayer| {
            let last = layer.experts.last().and_then(|expert| expert.last());
            last.map_or(String::new(), |tensor| tensor.name.clone())
        };
        let behind: BTreeMap<String, &MixtureLayer> =
            before.layers.iter().map(last_of).zip(&made.layers).collect();
        let mut jobs = Jobs::new(recipe, self.models);
        for name in base.names_in_file_order() {
            jobs.copy(name, self.base, name)?;
            let Some(layer) = behind.get(name) else { continue };
            let new = layer.experts.iter().skip(before.experts());
            for ((tensors, expert), model) in new.zip(&self.mixture.experts).zip(&self.experts) {
                for (tensor, from) in tensors.iter().zip(&self.dense[layer.number]) {
                    jobs.expert(&tensor.name, expert, tensor.residual, (*model, &from.name))?;
                }
            }
        }
        edits.extend(vocabulary.edit(&mut config));
        set_dtype(&mut config, &jobs.list, &mut edits);
        let mut warnings = recipe.warnings.clone();
        if self.mixture.gates.value == GateMode::Ridge && self.experts.len() == 1 {
            warnings.push(
                "a regression over one expert that joins has nothing to tell apart: take `gate_mode: hidden`"
                    .to_string(),
            );
        }
        warnings.extend(vocabulary.warnings.iter().cloned());
        warnings.extend(base.notes.iter().cloned());
        let jobs = jobs.list;
        let of_dense = self.dense.iter().flatten().map(|tensor| tensor.name.as_str()).collect();
        let accounts = self.accounts(&jobs, &of_dense);
        let draft =
            Draft { jobs, config, edits, accounts, donor: self.base, warnings, advice: Vec::new() };
        draft.finish(recipe, self.models, vocabulary, options)
    }

    /// The dtype of a layer's experts.
    fn float(&self, layer: usize) -> Option<Float> {
        let tensor = self.dense[layer].first()?;
        self.models[self.experts[0]].tensor(&tensor.name)?.spec().float()
    }

    /// What is not used of each model, and why.
    fn accounts(&self, jobs: &[super::Job], of_dense: &BTreeSet<&str>) -> Vec<Model> {
        let used: BTreeSet<(usize, &str)> = jobs
            .iter()
            .flat_map(|job| &job.inputs)
            .map(|input| (input.model, input.tensor.as_str()))
            .collect();
        let base = &self.models[self.base].reference;
        let of = |(i, model): (usize, &Checkpoint)| {
            let dropped = model.tensors().filter(|(name, _)| !used.contains(&(i, *name)));
            let dropped = dropped.map(|(name, _)| {
                let reason = match (of_dense.contains(name), self.mixture.average) {
                    (true, _) => "it is no expert: its MLPs are not used".to_string(),
                    (false, true) => "it is no expert: the experts' average is used".to_string(),
                    (false, false) => {
                        format!("an expert gives its MLPs; the rest comes from {base}")
                    }
                };
                (name.to_string(), reason)
            });
            let dropped: BTreeMap<String, String> = dropped.collect();
            let used = used.iter().filter(|(of, _)| *of == i).map(|(_, name)| *name);
            parts::account(model, used, &dropped)
        };
        self.models.iter().enumerate().map(of).collect()
    }

    fn advice(&self, family: &Family, counts: Counts) -> Vec<String> {
        let mut warnings = Vec::new();
        let same = |expert: &usize| *expert == self.experts[0];
        let noise = self.mixture.experts.iter().any(|expert| expert.noise_scale.is_some());
        if counts.experts > 1 && self.experts.iter().all(same) && !noise {
            warnings.push(
                "all experts are one model: the mixture computes what it does, until it is trained"
                    .to_string(),
            );
        }
        if !counts.experts.is_power_of_two() {
            warnings.push(format!(
                "{} experts are not a power of two, which some tools for GGUF files ask for",
                counts.experts
            ));
        }
        if family.model_type == "deepseek" && counts.chosen == 1 {
            warnings.push("with one expert a token, models of this family weigh it by its probability, not by 1: raise `gate_scale`, or choose two".to_string());
        }
        let gated = self.mixture.shared.iter().any(|expert| !expert.positive.is_empty());
        if family.shared.gated && !gated && !self.mixture.gates.value.is_random() {
            warnings.push(
                "the shared expert has no prompts: its gate is 0, and it weighs one half everywhere"
                    .to_string(),
            );
        }
        for expert in &self.mixture.shared {
            if expert.residual_scale.is_none() {
                warnings.push(format!(
                    "the shared expert {} adds to what the others give: `residual_scale` makes it weigh less",
                    expert.model.value
                ));
            }
        }
        warnings
    }
}
