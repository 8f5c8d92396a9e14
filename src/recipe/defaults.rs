//! A recipe's keys over those of the files it includes.
//!
//! Mappings are taken key by key, and everything else as a whole. Keys that stand for one thing count
//! as one: `models`, `slices` and `modules` replace each other, `tokenizer_source` is the `source` of
//! `tokenizer`.

use super::evaluate::RawEvaluate;
use super::raw::{RawModule, RawModules, RawParameters, RawRecipe};
use super::sources::At;
use super::tokenizer::RawTokenizer;

impl RawRecipe {
    /// These keys, and those of `defaults` where they are silent.
    pub(super) fn over(mut self, mut defaults: Self) -> Self {
        if self.models.is_some() || self.slices.is_some() {
            defaults.modules = None;
        }
        if self.modules.is_some() {
            (defaults.models, defaults.slices) = (None, None);
        }
        let (models, slices) =
            layout((self.models, self.slices), (defaults.models, defaults.slices));
        match (&mut self.tokenizer, &mut defaults.tokenizer) {
            (None, Some(tokenizer)) if self.tokenizer_source.is_some() => {
                tokenizer.value.source = self.tokenizer_source.take();
            }
            (Some(tokenizer), _) if tokenizer.value.source.is_none() => {
                tokenizer.value.source = defaults.tokenizer_source.take();
            }
            (Some(_), _) => defaults.tokenizer_source = None,
            _ => {}
        }
        Self {
            include: None,
            merge_method: self.merge_method.or(defaults.merge_method),
            stages: self.stages.or(defaults.stages),
            name: self.name.or(defaults.name),
            save: self.save.or(defaults.save),
            models,
            slices,
            base_model: self.base_model.or(defaults.base_model),
            parameters: self.parameters.over(defaults.parameters),
            subspace_boosting: both(
                self.subspace_boosting,
                defaults.subspace_boosting,
                RawParameters::over,
            ),
            svc: both(self.svc, defaults.svc, RawParameters::over),
            lines: both(self.lines, defaults.lines, RawParameters::over),
            dtype: self.dtype.or(defaults.dtype),
            out_dtype: self.out_dtype.or(defaults.out_dtype),
            random_seed: self.random_seed.or(defaults.random_seed),
            modules: both(self.modules, defaults.modules, RawModules::over),
            tokenizer_source: self.tokenizer_source.or(defaults.tokenizer_source),
            tokenizer: both(self.tokenizer, defaults.tokenizer, RawTokenizer::over),
            chat_template: self.chat_template.or(defaults.chat_template),
            evaluate: both(self.evaluate, defaults.evaluate, RawEvaluate::over),
            experts: self.experts.or(defaults.experts),
            shared_experts: self.shared_experts.or(defaults.shared_experts),
            gate_mode: self.gate_mode.or(defaults.gate_mode),
            gate_scale: self.gate_scale.or(defaults.gate_scale),
            gate_ridge: self.gate_ridge.or(defaults.gate_ridge),
            experts_per_token: self.experts_per_token.or(defaults.experts_per_token),
            architecture: self.architecture.or(defaults.architecture),
            attention: self.attention.or(defaults.attention),
            mixture: self.mixture.or(defaults.mixture),
            extract: self.extract.or(defaults.extract),
            drop: self.drop.or(defaults.drop),
            renormalise: self.renormalise.or(defaults.renormalise),
            align_experts: self.align_experts.or(defaults.align_experts),
        }
    }
}

/// Two alternatives: those of the defaults hold where there is neither.
fn layout<A, B>(
    own: (Option<A>, Option<B>),
    defaults: (Option<A>, Option<B>),
) -> (Option<A>, Option<B>) {
    if own.0.is_some() || own.1.is_some() { own } else { defaults }
}

/// A mapping over another, where both are there.
fn both<T>(own: Option<At<T>>, defaults: Option<At<T>>, over: fn(T, T) -> T) -> Option<At<T>> {
    match (own, defaults) {
        (Some(mut own), Some(defaults)) => {
            own.value = over(own.value, defaults.value);
            Some(own)
        }
        (own, defaults) => own.or(defaults),
    }
}

/// The entries of a mapping over those of another; `over` joins two of one name.
pub(super) fn entries<T>(
    own: Vec<(At<String>, T)>,
    mut defaults: Vec<(At<String>, T)>,
    over: fn(T, T) -> T,
) -> Vec<(At<String>, T)> {
    for (name, value) in own {
        match defaults.iter().position(|(known, _)| known.value == name.value) {
            Some(index) => {
                let (_, below) = defaults.remove(index);
                defaults.insert(index, (name, over(value, below)));
            }
            None => defaults.push((name, value)),
        }
    }
    defaults
}

impl RawParameters {
    fn over(self, defaults: Self) -> Self {
        Self(entries(self.0, defaults.0, |own, _| own))
    }
}

impl RawModules {
    fn over(self, defaults: Self) -> Self {
        Self(entries(self.0, defaults.0, RawModule::over))
    }
}

impl RawModule {
    fn over(self, defaults: Self) -> Self {
        let (models, slices) =
            layout((self.models, self.slices), (defaults.models, defaults.slices));
        Self { models, slices, parameters: self.parameters.over(defaults.parameters) }
    }
}
