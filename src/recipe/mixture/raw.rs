//! The keys of mixtures, as they stand in a recipe.

use super::super::raw::RawList;
use super::super::reference::{self, RawReference};
use super::super::sources::At;
use schemars::JsonSchema;
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use std::fmt;

/// An entry of `experts` or `shared_experts`.
#[derive(serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Expert")]
pub(in crate::recipe) struct RawExpert {
    /// The dense model: a folder, a GGUF file, `owner/name` on the Hub, or the name of a stage;
    /// `+ADAPTER` behind it adds a LoRA adapter.
    #[serde(deserialize_with = "reference::required")]
    #[schemars(with = "RawReference")]
    pub(super) source_model: At<String>,
    /// Texts of the kind that is to be routed to the expert; or a file of texts (.txt) or JSON objects
    /// with a `text` (.jsonl), one a line.
    pub(super) positive_prompts: Option<At<RawList>>,
    /// Texts of the kind that is not.
    pub(super) negative_prompts: Option<At<RawList>>,
    /// A file, or files, of more positive texts.
    pub(super) data: Option<At<RawList>>,
    /// The standard deviation of noise that is added to the expert's weights.
    #[schemars(range(min = 0.0))]
    pub(super) noise_scale: Option<At<f64>>,
    /// A factor on what the expert gives.
    pub(super) residual_scale: Option<At<f64>>,
}

/// The value of `extract`.
#[derive(JsonSchema)]
#[schemars(untagged, rename = "Extract")]
pub(in crate::recipe) enum RawExtract {
    /// One expert, counted from 0.
    One(u64),
    /// The average of several.
    Several(Vec<u64>),
    /// `all`, or `shared`.
    Word(String),
}

/// The value of `drop`.
#[derive(JsonSchema)]
#[schemars(untagged, rename = "Drop")]
pub(in crate::recipe) enum RawDrop {
    /// The experts, counted from 0.
    Numbers(Vec<u64>),
    /// Those of each layer that the fewest tokens are routed to.
    Least(RawLeast),
}

/// The value of `drop`, by routing.
#[derive(serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "LeastRouted")]
pub(in crate::recipe) struct RawLeast {
    /// How many experts of each layer.
    #[schemars(range(min = 1))]
    pub(super) least_routed: At<u64>,
    /// What `cognate route --json` wrote, or a `lineage.json`; the mixture's own by default.
    pub(super) routing: Option<At<String>>,
}

struct Numbers;

impl<'de> Visitor<'de> for Numbers {
    type Value = RawExtract;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the number of an expert, a list of them, `all` or `shared`")
    }

    fn visit_u64<E>(self, number: u64) -> Result<RawExtract, E> {
        Ok(RawExtract::One(number))
    }

    fn visit_str<E>(self, word: &str) -> Result<RawExtract, E> {
        Ok(RawExtract::Word(word.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawExtract, A::Error> {
        let mut numbers = Vec::new();
        while let Some(number) = seq.next_element()? {
            numbers.push(number);
        }
        Ok(RawExtract::Several(numbers))
    }
}

impl<'de> Deserialize<'de> for RawExtract {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Numbers)
    }
}

impl<'de> Deserialize<'de> for RawDrop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = RawDrop;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of experts' numbers, or a mapping with `least_routed`")
            }

            fn visit_u64<E>(self, number: u64) -> Result<RawDrop, E> {
                Ok(RawDrop::Numbers(vec![number]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawDrop, A::Error> {
                let mut numbers = Vec::new();
                while let Some(number) = seq.next_element()? {
                    numbers.push(number);
                }
                Ok(RawDrop::Numbers(numbers))
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<RawDrop, A::Error> {
                let map = serde::de::value::MapAccessDeserializer::new(map);
                RawLeast::deserialize(map).map(RawDrop::Least)
            }
        }
        deserializer.deserialize_any(Form)
    }
}

/// The keys of mixtures.
#[derive(Default)]
pub(in crate::recipe) struct RawMixture {
    pub(in crate::recipe) experts: Option<At<Vec<RawExpert>>>,
    pub(in crate::recipe) shared_experts: Option<At<Vec<RawExpert>>>,
    pub(in crate::recipe) gate_mode: Option<At<String>>,
    pub(in crate::recipe) gate_scale: Option<At<f64>>,
    pub(in crate::recipe) gate_ridge: Option<At<f64>>,
    pub(in crate::recipe) experts_per_token: Option<At<i64>>,
    pub(in crate::recipe) architecture: Option<At<String>>,
    pub(in crate::recipe) attention: Option<At<String>>,
    pub(in crate::recipe) mixture: Option<At<String>>,
    pub(in crate::recipe) extract: Option<At<RawExtract>>,
    pub(in crate::recipe) drop: Option<At<RawDrop>>,
    pub(in crate::recipe) renormalise: Option<At<bool>>,
}

impl RawMixture {
    /// Whether the recipe is about a mixture.
    pub(in crate::recipe) fn is_given(&self) -> bool {
        self.first().is_some()
    }

    /// The first of its keys that is given, with its place.
    pub(super) fn first(&self) -> Option<(&'static str, At<()>)> {
        fn place<T>(of: &Option<At<T>>) -> Option<At<()>> {
            of.as_ref().map(At::place)
        }
        let all = [
            ("experts", place(&self.experts)),
            ("mixture", place(&self.mixture)),
            ("shared_experts", place(&self.shared_experts)),
            ("gate_mode", place(&self.gate_mode)),
            ("experts_per_token", place(&self.experts_per_token)),
            ("attention", place(&self.attention)),
            ("gate_scale", place(&self.gate_scale)),
            ("gate_ridge", place(&self.gate_ridge)),
            ("extract", place(&self.extract)),
            ("drop", place(&self.drop)),
            ("renormalise", place(&self.renormalise)),
            ("architecture", place(&self.architecture)),
        ];
        all.into_iter().find_map(|(key, at)| Some((key, at?)))
    }
}
