//! The shape of a recipe's YAML. Unknown keys are refused here, with the nearest known one.

use super::Located;
use super::evaluate::RawEvaluate;
use super::mixture::{RawDrop, RawExpert, RawExtract, RawMixture};
use super::reference::{self, RawReference};
use super::schema;
use super::setting::Setting;
use super::sources::{At, Sources};
use super::statistics::{RawFisherData, RawGramData, RawStatistics};
use schemars::JsonSchema;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// A recipe of cognate: one YAML document, or one entry of `stages`. The language is mergekit's, with
/// some keys more.
#[derive(Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Recipe")]
pub(super) struct RawRecipe {
    /// A file, or a list of files, whose keys hold where this document is silent. Paths are relative
    /// to the file that includes.
    pub(super) include: Option<At<RawList>>,
    /// The merge method; or a list of `{filter, value}`, for tensors whose names contain the filter.
    #[serde(default)]
    #[schemars(schema_with = "schema::merge_method")]
    pub(super) merge_method: Option<At<Setting>>,
    /// Several recipes, each usable as a model in the others by its `name`.
    pub(super) stages: Option<At<Vec<At<RawRecipe>>>>,
    /// The name by which other stages use this one's output.
    #[schemars(length(min = 1))]
    pub(super) name: Option<At<String>>,
    /// A folder, beside the recipe, in which the output of this stage is kept.
    pub(super) save: Option<At<String>>,
    /// Whole models to merge.
    pub(super) models: Option<At<Vec<RawModel>>>,
    /// Ranges of layers, stacked in order.
    pub(super) slices: Option<At<Vec<RawSlice>>>,
    /// The model that the others are taken relative to, and that gives config and tokenizer.
    #[serde(default, deserialize_with = "reference::optional")]
    #[schemars(with = "Option<RawReference>")]
    pub(super) base_model: Option<At<String>>,
    /// Parameters for the whole recipe.
    #[serde(default)]
    pub(super) parameters: RawParameters,
    /// Raises the least singular values of the merged task matrices.
    #[serde(default)]
    #[schemars(schema_with = "schema::subspace_boosting")]
    pub(super) subspace_boosting: Option<At<RawParameters>>,
    /// SVC: shrinks the directions that several tasks share and that add up.
    #[serde(default)]
    #[schemars(schema_with = "schema::svc")]
    pub(super) svc: Option<At<RawParameters>>,
    /// LiNeS: scales the merged task vector by the depth of the layer.
    #[serde(default)]
    #[schemars(schema_with = "schema::lines")]
    pub(super) lines: Option<At<RawParameters>>,
    /// The dtype of the output, unless `out_dtype` is given.
    #[serde(default)]
    #[schemars(schema_with = "schema::dtype")]
    pub(super) dtype: Option<At<String>>,
    /// The dtype of the output.
    #[serde(default)]
    #[schemars(schema_with = "schema::dtype")]
    pub(super) out_dtype: Option<At<String>>,
    /// Fixes every random number; 0 by default.
    pub(super) random_seed: Option<At<u64>>,
    /// Parts of a model that are laid out one by one, by name or by the beginning of their tensors'
    /// names.
    pub(super) modules: Option<At<RawModules>>,
    /// Whose vocabulary the output has: short for `tokenizer.source`.
    #[serde(default)]
    #[schemars(schema_with = "schema::tokenizer_source")]
    pub(super) tokenizer_source: Option<At<String>>,
    /// Whose vocabulary the output has, and what the rows of its tokens are.
    pub(super) tokenizer: Option<At<super::tokenizer::RawTokenizer>>,
    /// The chat template: `auto`, a built-in name, or Jinja text.
    #[serde(default)]
    #[schemars(schema_with = "schema::chat_template")]
    pub(super) chat_template: Option<At<String>>,
    /// What the finished merge is asked, and what it has to reach.
    pub(super) evaluate: Option<At<RawEvaluate>>,
    /// Dense models that become the experts of a mixture, or join the `mixture`.
    pub(super) experts: Option<At<Vec<RawExpert>>>,
    /// Experts that every token goes through.
    pub(super) shared_experts: Option<At<Vec<RawExpert>>>,
    /// How the rows of the routers are found; `hidden` by default.
    #[serde(default)]
    #[schemars(schema_with = "schema::gate_mode")]
    pub(super) gate_mode: Option<At<String>>,
    /// A factor on the rows of the routers; 1 by default.
    #[schemars(range(min = 0.0))]
    pub(super) gate_scale: Option<At<f64>>,
    /// What `gate_mode: ridge` adds to the diagonal, by the mean of the diagonal.
    #[schemars(range(min = 0.0))]
    pub(super) gate_ridge: Option<At<f64>>,
    /// How many experts a token goes to; 2 by default.
    #[schemars(range(min = 1))]
    pub(super) experts_per_token: Option<At<i64>>,
    /// The family of the mixture, or the beginning of its name; with `extract`, of the dense model.
    pub(super) architecture: Option<At<String>>,
    /// Where everything besides the MLPs comes from: `base`, or `merge`, the average of the experts.
    #[serde(default)]
    #[schemars(schema_with = "schema::attention")]
    pub(super) attention: Option<At<String>>,
    /// A mixture that is to be changed.
    #[serde(default, deserialize_with = "reference::optional")]
    #[schemars(with = "Option<RawReference>")]
    pub(super) mixture: Option<At<String>>,
    /// The experts of the mixture that become a dense model.
    pub(super) extract: Option<At<RawExtract>>,
    /// The experts of the mixture that are left out.
    pub(super) drop: Option<At<RawDrop>>,
    /// With `drop`: whether the rows of the routers get the length that they had on average; true by
    /// default.
    pub(super) renormalise: Option<At<bool>>,
    /// Puts the experts of mixtures that are merged in the order of the base's, by their weights.
    pub(super) align_experts: Option<At<bool>>,
}

impl RawRecipe {
    /// The keys about mixtures, taken out.
    pub(super) fn take_mixture(&mut self) -> RawMixture {
        RawMixture {
            experts: self.experts.take(),
            shared_experts: self.shared_experts.take(),
            gate_mode: self.gate_mode.take(),
            gate_scale: self.gate_scale.take(),
            gate_ridge: self.gate_ridge.take(),
            experts_per_token: self.experts_per_token.take(),
            architecture: self.architecture.take(),
            attention: self.attention.take(),
            mixture: self.mixture.take(),
            extract: self.extract.take(),
            drop: self.drop.take(),
            renormalise: self.renormalise.take(),
        }
    }

    /// Whether no key of a stage is given.
    pub(super) fn is_empty(&self) -> bool {
        let Self {
            include: _,
            merge_method,
            stages: _,
            name,
            save,
            models,
            slices,
            base_model,
            parameters,
            subspace_boosting,
            svc,
            lines,
            dtype,
            out_dtype,
            random_seed,
            modules,
            tokenizer_source,
            tokenizer,
            chat_template,
            evaluate,
            experts,
            shared_experts,
            gate_mode,
            gate_scale,
            gate_ridge,
            experts_per_token,
            architecture,
            attention,
            mixture,
            extract,
            drop,
            renormalise,
            align_experts,
        } = self;
        let words = [dtype, out_dtype, name, save, base_model, tokenizer_source, chat_template];
        let of_mixtures = [gate_mode, architecture, attention, mixture];
        words.into_iter().chain(of_mixtures).all(|key| key.is_none())
            && [experts, shared_experts].iter().all(|key| key.is_none())
            && [gate_scale, gate_ridge].iter().all(|key| key.is_none())
            && [renormalise, align_experts].iter().all(|key| key.is_none())
            && experts_per_token.is_none()
            && extract.is_none()
            && drop.is_none()
            && tokenizer.is_none()
            && evaluate.is_none()
            && models.is_none()
            && merge_method.is_none()
            && [subspace_boosting, svc, lines].iter().all(|post| post.is_none())
            && modules.is_none()
            && slices.is_none()
            && parameters.0.is_empty()
            && random_seed.is_none()
    }
}

/// A text, or a list of texts: paths, names.
#[derive(JsonSchema)]
#[schemars(untagged, rename = "List")]
pub(super) enum RawList {
    One(String),
    List(Vec<At<String>>),
}

impl<'de> Deserialize<'de> for RawList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = RawList;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E>(self, text: &str) -> Result<RawList, E> {
                Ok(RawList::One(text.to_string()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawList, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = seq.next_element()? {
                    texts.push(text);
                }
                Ok(RawList::List(texts))
            }
        }
        deserializer.deserialize_any(Texts)
    }
}

impl At<RawList> {
    /// The texts, each with its place.
    pub(super) fn located(self, sources: &Sources) -> Vec<Located<String>> {
        let at = sources.locate(self);
        match at.value {
            RawList::One(ref text) => vec![at.map(text.clone())],
            RawList::List(texts) => texts.into_iter().map(|text| sources.locate(text)).collect(),
        }
    }
}

/// An entry of `models`.
#[derive(serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Model")]
pub(super) struct RawModel {
    /// The model: a folder, a GGUF file, `owner/name` on the Hub, or the name of a stage; `+ADAPTER`
    /// behind it adds a LoRA adapter.
    #[serde(deserialize_with = "reference::required")]
    #[schemars(with = "RawReference")]
    pub(super) model: At<String>,
    /// The Fisher information of the model's weights: a file, or how to compute it. For the method
    /// `fisher`.
    pub(super) fisher: Option<At<RawStatistics<RawFisherData>>>,
    /// The Gram matrices of what goes into the model's linear maps: a file, or how to compute them. For
    /// the method `regmean`.
    pub(super) gram: Option<At<RawStatistics<RawGramData>>>,
    /// Parameters of this model.
    #[serde(default)]
    pub(super) parameters: RawParameters,
}

/// An entry of `slices`.
#[derive(serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Slice")]
pub(super) struct RawSlice {
    /// The layers that are merged into the slice, one range a model.
    pub(super) sources: At<Vec<RawSource>>,
    /// The base of this slice, where it differs from the recipe's.
    #[serde(default, deserialize_with = "reference::optional")]
    #[schemars(with = "Option<RawReference>")]
    pub(super) base_model: Option<At<String>>,
    /// Accepted with a warning; it has no effect.
    pub(super) residual_weight: Option<At<f64>>,
    /// Parameters of the slice.
    #[serde(default)]
    pub(super) parameters: RawParameters,
}

/// An entry of a slice's `sources`.
#[derive(serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Source")]
pub(super) struct RawSource {
    /// The model: a folder, a GGUF file, `owner/name` on the Hub, or the name of a stage; `+ADAPTER`
    /// behind it adds a LoRA adapter.
    #[serde(deserialize_with = "reference::required")]
    #[schemars(with = "RawReference")]
    pub(super) model: At<String>,
    /// `[start, end]`: the layers, counted from 0, the end not included.
    #[schemars(length(equal = 2), inner(range(min = 0)))]
    pub(super) layer_range: At<Vec<i64>>,
    /// The Fisher information of the model's weights: a file, or how to compute it. For the method
    /// `fisher`.
    pub(super) fisher: Option<At<RawStatistics<RawFisherData>>>,
    /// The Gram matrices of what goes into the model's linear maps: a file, or how to compute them. For
    /// the method `regmean`.
    pub(super) gram: Option<At<RawStatistics<RawGramData>>>,
    /// Parameters of this model in this slice.
    #[serde(default)]
    pub(super) parameters: RawParameters,
}

/// An entry of `modules`.
#[derive(Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Module")]
pub(super) struct RawModule {
    /// Whole models to merge.
    pub(super) models: Option<At<Vec<RawModel>>>,
    /// Ranges of layers, stacked in order.
    pub(super) slices: Option<At<Vec<RawSlice>>>,
    /// Parameters of the module.
    #[serde(default)]
    pub(super) parameters: RawParameters,
}

/// The `modules` block: names with their places, in the order of the file.
pub(super) struct RawModules(pub(super) Vec<(At<String>, RawModule)>);

impl<'de> Deserialize<'de> for RawModules {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawModules;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of module names to `models` or `slices`")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawModules, A::Error> {
                entries(map).map(RawModules)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// The entries of a mapping whose keys keep their places and order.
pub(super) fn entries<'de, A: MapAccess<'de>, T: Deserialize<'de>>(
    mut map: A,
) -> Result<Vec<(At<String>, T)>, A::Error> {
    let mut entries = Vec::new();
    while let Some(name) = map.next_key::<At<String>>()? {
        entries.push((name, map.next_value()?));
    }
    Ok(entries)
}

/// A `parameters` block: names with their places, and settings.
#[derive(Default)]
pub(super) struct RawParameters(pub(super) Vec<(At<String>, Setting)>);

impl<'de> Deserialize<'de> for RawParameters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawParameters;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of parameter names to values")
            }

            fn visit_unit<E>(self) -> Result<RawParameters, E> {
                Ok(RawParameters::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawParameters, A::Error> {
                entries(map).map(RawParameters)
            }
        }
        deserializer.deserialize_any(Entries)
    }
}
