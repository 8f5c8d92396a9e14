//! Quantised checkpoints, seen as the float weights they stand for.
//!
//! A scheme stores one weight in several tensors: packed numbers, scales, zero points. The scheme
//! is named by `quantization_config` in `config.json`; here each such group of tensors becomes one
//! [`Source`] that computes the weight. Packed numbers never reach a merge: what is not understood
//! is refused by name.
//!
//! All arithmetic is f32, each operation rounded once, so a weight differs from what a library that
//! computes in half precision makes of it by at most the rounding to that precision.

mod awq;
mod bands;
mod bitsandbytes;
mod fp8;
mod gptq;
mod grouped;
mod parts;
mod weight;

use super::config::Config;
use super::shards::{StoredTensor, Tensors};
use super::source::{Float, Source};
use crate::error::{Error, Result};
use bands::Bands;
use parts::Parts;
use safetensors::Dtype;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weight::Weight;

/// What a user can do about any quantisation that is not read.
const UNQUANTISED: &str =
    "use the model's unquantised weights: packed values have no meaningful average";

/// Endings of tensors that serve activations or caches at run time, not weights.
const RUN_TIME: [&str; 9] = [
    "input_scale",
    "input_zero_point",
    "activation_scale",
    ".output_scale",
    ".k_scale",
    ".v_scale",
    ".q_scale",
    ".prob_scale",
    ".kv_scale",
];

/// A checkpoint's tensors as a merge sees them, once its quantisation is undone.
pub(super) struct View {
    /// One float tensor for each weight, and whatever was not quantised, in file order.
    pub(super) tensors: Vec<Arc<dyn Source>>,
    /// Stored tensors that no weight is made of, with the reason.
    pub(super) dropped: BTreeMap<String, String>,
    /// The scheme that was undone.
    pub(super) scheme: String,
}

/// The float weights of a quantised checkpoint; none where nothing in it is quantised.
///
/// `order` gives the names of all stored tensors in the order they stand in the files.
///
/// # Errors
/// The scheme or one of its settings is unknown, a part of a weight is missing or has a shape that
/// does not fit, or a part belongs to no weight.
pub(super) fn dequantised<'a>(
    config: &Config,
    stored: &Tensors,
    order: impl Iterator<Item = &'a str>,
) -> Result<Option<View>> {
    let (scheme, name) = match config.quantization()? {
        Some(settings) => {
            let settings = Settings { map: settings, config };
            let (scheme, name) = Scheme::of(&settings)?;
            (scheme, name.to_string())
        }
        None if stored.values().any(|tensor| fp8::values(tensor.spec().dtype).is_some()) => {
            (Scheme::Plain, "float8".to_string())
        }
        None => return Ok(None),
    };
    let parts = Parts::new(stored, config.dtype());
    let bands = Arc::new(Bands::default());
    let order: Vec<&StoredTensor> = order.filter_map(|name| stored.get(name)).collect();
    let mut weights: Vec<Option<Weight>> = Vec::new();
    for tensor in &order {
        weights.push(scheme.weight(tensor, &parts, &bands)?);
    }
    let used: BTreeSet<String> = weights
        .iter()
        .flatten()
        .flat_map(|weight| weight.parts().into_iter().map(str::to_string).collect::<Vec<_>>())
        .collect();
    let mut view = View { tensors: Vec::new(), dropped: BTreeMap::new(), scheme: name };
    for (tensor, weight) in order.into_iter().zip(weights) {
        let name = &tensor.spec().name;
        match weight {
            Some(weight) => {
                let made = &weight.spec().name;
                if made != name && stored.contains_key(made) {
                    return Err(Error::input("a weight is stored both quantised and as it is")
                        .file(tensor.shard().mapping.path())
                        .tensor(made)
                        .fact("packed in", name));
                }
                view.tensors.push(Arc::new(weight));
            }
            None if used.contains(name) => {}
            None if scheme.has_run_time_tensors()
                && RUN_TIME.iter().any(|end| name.ends_with(end)) =>
            {
                let reason = "a scale of activations or caches, which float weights do not need";
                view.dropped.insert(name.clone(), reason.to_string());
            }
            None => {
                scheme.check_left(tensor, &parts)?;
                view.tensors.push(Arc::new(tensor.clone()));
            }
        }
    }
    Ok(Some(view))
}

/// The `quantization_config` and the config it stands in.
struct Settings<'a> {
    map: &'a Map<String, Value>,
    config: &'a Config,
}

impl<'a> Settings<'a> {
    fn text(&self, key: &str) -> Option<&'a str> {
        self.map.get(key)?.as_str()
    }

    fn is_true(&self, key: &str) -> bool {
        self.map.get(key).and_then(Value::as_bool) == Some(true)
    }

    /// An error about a key of the `quantization_config`.
    fn error(
        &self,
        message: &str,
        key: &str,
        expected: &str,
        found: impl std::fmt::Display,
    ) -> Error {
        Error::input(message)
            .file(self.config.path())
            .key(format!("quantization_config.{key}"))
            .expected(expected, found)
            .hint(UNQUANTISED)
    }

    /// An integer setting.
    fn integer(&self, key: &str) -> Result<Option<i64>> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.as_i64().map(Some).ok_or_else(|| {
                self.error("a quantisation setting is no integer", key, "an integer", value)
            }),
        }
    }

    /// A block of rows and columns: `[128, 128]`.
    fn block(&self, key: &str, value: Option<&Value>) -> Result<Option<(usize, usize)>> {
        let Some(value) = value.filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let side = |i: usize| {
            let side = value.get(i)?.as_u64().filter(|side| *side > 0)?;
            usize::try_from(side).ok()
        };
        match (value.as_array().map(Vec::len), side(0), side(1)) {
            (Some(2), Some(rows), Some(columns)) => Ok(Some((rows, columns))),
            _ => Err(self.error(
                "a block size is no pair of lengths",
                key,
                "two positive integers",
                value,
            )),
        }
    }
}

/// How a checkpoint is quantised.
enum Scheme {
    /// Not at all, but some tensors are floats of 8 bits.
    Plain,
    Fp8(fp8::Blocks),
    BitsAndBytes,
    Gptq(gptq::Gptq),
    Awq(awq::Awq),
}

impl Scheme {
    fn of<'a>(settings: &Settings<'a>) -> Result<(Self, &'a str)> {
        let loads = settings.is_true("load_in_4bit") || settings.is_true("load_in_8bit");
        // Written before `quant_method` was; transformers reads such configs likewise.
        let older = loads.then_some("bitsandbytes");
        let method = settings.text("quant_method").or(older).unwrap_or("no quant_method");
        let scheme = match method {
            "fp8" => Self::Fp8(fp8::Blocks::of_fp8(settings)?),
            "compressed-tensors" => Self::Fp8(fp8::Blocks::of_compressed_tensors(settings)?),
            "bitsandbytes" => Self::BitsAndBytes,
            "gptq" => Self::Gptq(gptq::Gptq::of(settings)?),
            "awq" => Self::Awq(awq::Awq::of(settings)?),
            other => {
                return Err(settings.error(
                    "a checkpoint that is quantised in this way cannot be merged",
                    "quant_method",
                    "awq, bitsandbytes, compressed-tensors, fp8 or gptq",
                    other,
                ));
            }
        };
        Ok((scheme, method))
    }

    /// The weight whose packed numbers `tensor` holds, where it does.
    fn weight(
        &self,
        tensor: &StoredTensor,
        parts: &Parts<'_>,
        bands: &Arc<Bands>,
    ) -> Result<Option<Weight>> {
        match self {
            Self::Plain => fp8::plain(tensor, parts),
            Self::Fp8(blocks) => blocks.weight(tensor, parts),
            Self::BitsAndBytes => bitsandbytes::weight(tensor, parts),
            Self::Gptq(gptq) => gptq.weight(tensor, parts, bands),
            Self::Awq(awq) => awq.weight(tensor, parts, bands),
        }
    }

    fn has_run_time_tensors(&self) -> bool {
        matches!(self, Self::Fp8(_))
    }

    /// Refuses a tensor that no weight is made of and that is nevertheless a part of one.
    fn check_left(&self, tensor: &StoredTensor, parts: &Parts<'_>) -> Result<()> {
        let name = &tensor.spec().name;
        let dtype = tensor.spec().dtype;
        let ends = |endings: &[&str]| endings.iter().any(|end| name.ends_with(end));
        let weight = ends(&[".weight"]);
        let stray = match self {
            Self::Plain => false,
            Self::Fp8(_) => fp8::is_scale(name, parts) || (weight && Float::of(dtype).is_none()),
            Self::BitsAndBytes => {
                bitsandbytes::is_part(name) || (weight && matches!(dtype, Dtype::U8 | Dtype::I8))
            }
            Self::Gptq(_) | Self::Awq(_) => ends(&[".qzeros", ".scales", ".g_idx"]),
        };
        if !stray {
            return Ok(());
        }
        Err(parts
            .error(tensor, "a tensor of a quantised checkpoint is part of no weight")
            .fact("found", format!("{dtype} {:?}", tensor.spec().shape))
            .hint("the checkpoint is incomplete, or quantised in another way than its config says"))
    }
}
