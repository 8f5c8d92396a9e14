//! What llama.cpp's conversion did to a family of models, and how to undo it; `families.json` is
//! the table.
//!
//! Names, keys and changes: `convert_hf_to_gguf.py` of llama.cpp and `gguf-py/gguf/constants.py`.

use crate::error::{Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A family of models: a `general.architecture` of GGUF.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Family {
    /// Its `architectures` entry at Hugging Face.
    pub(super) architecture: String,
    /// Its `model_type` there.
    pub(super) model_type: String,
    /// What its config says whatever the file.
    pub(super) constants: Map<String, Value>,
    /// Keys of the config, and the keys of the metadata they are taken from.
    pub(super) config: BTreeMap<String, String>,
    /// Tensors outside the layers: name in GGUF and at Hugging Face, without `.weight`.
    tensors: BTreeMap<String, String>,
    /// Tensors of a layer, behind `blk.N.` and `model.layers.N.`.
    layer_tensors: BTreeMap<String, String>,
    /// Tensors of a layer whose rows are reordered head by head, and the key of the number of heads.
    #[serde(default)]
    permuted: BTreeMap<String, String>,
    /// Tensors to whose elements 1 was added.
    #[serde(default)]
    norms_plus_one: Vec<String>,
    /// Keys that stand for what the family's config cannot say, unless they are 0.
    #[serde(default)]
    pub(super) refused_keys: Vec<String>,
    /// Keys that must have this value, since the config depends on what GGUF leaves out.
    #[serde(default)]
    pub(super) required_values: BTreeMap<String, u64>,
}

/// How a tensor of a GGUF file is seen.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen<'a> {
    /// Its name at Hugging Face.
    pub(super) name: String,
    /// The key of the number of heads by which its rows are reordered.
    pub(super) permuted_by: Option<&'a str>,
    /// Whether 1 was added to its elements.
    pub(super) plus_one: bool,
}

impl Family {
    /// The family of this `general.architecture`.
    pub(super) fn find(architecture: &str) -> Result<Self> {
        let mut families: BTreeMap<String, Self> =
            serde_json::from_str(include_str!("families.json"))
                .map_err(|e| Error::internal("families.json is not valid").fact("reason", e))?;
        let known = families.keys().cloned().collect::<Vec<_>>().join(", ");
        families.remove(architecture).ok_or_else(|| {
            Error::input("GGUF files of this architecture are not read")
                .key("general.architecture")
                .expected(known, architecture)
                .hint("use the model's safetensors instead")
        })
    }

    /// How a tensor is seen.
    pub(super) fn seen(&self, name: &str) -> Result<Seen<'_>> {
        self.known(name).ok_or_else(|| {
            Error::input("the GGUF file holds a tensor that its architecture does not have")
                .tensor(name)
                .fact("architecture", &self.architecture)
        })
    }

    fn known(&self, name: &str) -> Option<Seen<'_>> {
        let (stem, kind) = name.rsplit_once('.').filter(|(_, k)| ["weight", "bias"].contains(k))?;
        let plus_one = |part: &str| self.norms_plus_one.iter().any(|norm| norm == part);
        let Some((layer, part)) = stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.'))
        else {
            let name = format!("{}.{kind}", self.tensors.get(stem)?);
            return Some(Seen { name, permuted_by: None, plus_one: plus_one(stem) });
        };
        // The number as it would be written, so that no two names are seen as one.
        layer.parse::<u32>().ok().filter(|number| number.to_string() == layer)?;
        let name = format!("model.layers.{layer}.{}.{kind}", self.layer_tensors.get(part)?);
        let permuted_by = self.permuted.get(part).map(String::as_str);
        Some(Seen { name, permuted_by, plus_one: plus_one(part) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_family_are_mapped_back() {
        let llama = Family::find("llama").unwrap();
        let query = llama.seen("blk.12.attn_q.weight").unwrap();
        assert_eq!(query.name, "model.layers.12.self_attn.q_proj.weight");
        assert_eq!(query.permuted_by, Some("attention.head_count"));
        assert_eq!(llama.seen("output.weight").unwrap().name, "lm_head.weight");
        let gemma = Family::find("gemma2").unwrap();
        let norm = gemma.seen("blk.0.post_ffw_norm.weight").unwrap();
        assert_eq!(norm.name, "model.layers.0.post_feedforward_layernorm.weight");
        assert!(norm.plus_one && norm.permuted_by.is_none());
        let bias = Family::find("qwen2").unwrap();
        let bias = bias.seen("blk.3.attn_k.bias").unwrap();
        assert_eq!(
            (bias.name.as_str(), bias.permuted_by),
            ("model.layers.3.self_attn.k_proj.bias", None)
        );
        for name in [
            "blk.01.attn_q.weight",
            "blk.0.attn_q",
            "blk.x.attn_q.weight",
            "output",
            "blk.0.ffn_gate_exps.weight",
        ] {
            assert_eq!(llama.seen(name).unwrap_err().get("tensor"), Some(name));
        }
        let error = Family::find("rwkv6").unwrap_err();
        assert_eq!(error.get("expected"), Some("gemma, gemma2, llama, qwen2"));
    }
}
