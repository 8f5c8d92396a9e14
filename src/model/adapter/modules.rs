//! The tensors of an adapter, sorted by what they belong to.

use super::Adapter;
use super::names::{Meaning, Role, Saved, meaning};
use crate::error::{Error, Result};
use crate::model::shards::StoredTensor;
use crate::model::source::{Source, TensorSpec};
use std::collections::BTreeMap;

/// A tensor that takes the place of one of the model's.
pub(super) struct Whole {
    pub(super) tensor: StoredTensor,
    pub(super) saved: Saved,
}

/// The LoRA of one module.
pub(super) struct Module {
    /// A and B, as stored.
    pub(super) a: StoredTensor,
    /// See `a`.
    pub(super) b: StoredTensor,
    /// Whether they are those of an embedding.
    pub(super) embedding: bool,
    /// What is added to the bias.
    pub(super) bias: Option<StoredTensor>,
    /// The lengths of DoRA.
    pub(super) magnitude: Option<StoredTensor>,
}

/// What an adapter holds: whole tensors by the name of the model's tensor, LoRAs by module.
type Contents = (BTreeMap<String, Whole>, BTreeMap<String, Module>);

/// Sorts an adapter's tensors.
///
/// # Errors
/// A name that is not understood, two tensors for one place, a factor without the other.
pub(super) fn read(adapter: &Adapter) -> Result<Contents> {
    let mut wholes: BTreeMap<String, Whole> = BTreeMap::new();
    let mut parts: BTreeMap<String, BTreeMap<Role, StoredTensor>> = BTreeMap::new();
    let twice = |tensor: &StoredTensor, other: &StoredTensor| {
        adapter
            .error("two tensors of the adapter are for one place", tensor)
            .fact("also", adapter.in_file(other))
            .hint("the file holds several adapters; save them one by one")
    };
    for tensor in &adapter.tensors {
        match named(adapter, tensor)? {
            Meaning::Whole(name, saved) => {
                let whole = Whole { tensor: tensor.clone(), saved };
                if let Some(other) = wholes.insert(name, whole) {
                    return Err(twice(tensor, &other.tensor));
                }
            }
            Meaning::Part(module, role) => {
                if tensor.spec().float().is_none() {
                    return Err(adapter
                        .error("a factor of the adapter is of a dtype without arithmetic", tensor)
                        .expected("F32, F16 or BF16", tensor.spec().dtype));
                }
                let module = parts.entry(module).or_default();
                if let Some(other) = module.insert(role, tensor.clone()) {
                    return Err(twice(tensor, &other));
                }
            }
        }
    }
    let modules = parts.into_iter().map(|(name, parts)| Ok((name, module(adapter, parts)?)));
    Ok((wholes, modules.collect::<Result<_>>()?))
}

fn named(adapter: &Adapter, tensor: &StoredTensor) -> Result<Meaning> {
    meaning(adapter.in_file(tensor)).ok_or_else(|| {
        adapter.error("a tensor of the adapter is of an unknown kind", tensor).expected(
            "lora_A, lora_B, lora_embedding_A, lora_embedding_B or lora_magnitude_vector",
            "another",
        )
    })
}

/// The LoRA that the parts of one module make.
fn module(adapter: &Adapter, mut parts: BTreeMap<Role, StoredTensor>) -> Result<Module> {
    // Any part, to name the module by.
    let any = parts.values().next().cloned();
    let alone = |missing: &str| match &any {
        Some(tensor) => {
            adapter.error("a part of the adapter is missing", tensor).expected(missing, "none")
        }
        None => Error::internal("a module without parts"),
    };
    let embedding = parts.contains_key(&Role::EmbeddingA) || parts.contains_key(&Role::EmbeddingB);
    let (a, b, names) = if embedding {
        (Role::EmbeddingA, Role::EmbeddingB, ["lora_embedding_A", "lora_embedding_B"])
    } else {
        (Role::A, Role::B, ["lora_A", "lora_B"])
    };
    let a = parts.remove(&a).ok_or_else(|| alone(names[0]))?;
    let b = parts.remove(&b).ok_or_else(|| alone(names[1]))?;
    let magnitude = parts.remove(&Role::Magnitude);
    if magnitude.is_some() != adapter.settings.use_dora {
        return Err(match &magnitude {
            None => alone("lora_magnitude_vector").fact("because", "use_dora is true"),
            Some(magnitude) => adapter
                .error("the adapter holds a magnitude but is no DoRA by its config", magnitude)
                .key("use_dora"),
        });
    }
    let bias = parts.remove(&Role::Bias);
    if let Some(rest) = parts.values().next() {
        return Err(adapter.error("a module of the adapter has two kinds of factors", rest));
    }
    Ok(Module { a, b, embedding, bias, magnitude })
}

/// A spec's shape, for messages.
pub(super) fn shape(spec: &TensorSpec) -> String {
    format!("{:?}", spec.shape)
}
