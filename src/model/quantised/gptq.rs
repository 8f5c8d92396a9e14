//! GPTQ (Frantar et al., 2022) as AutoGPTQ and GPTQModel store it.
//!
//! For a module of `inputs` × `outputs`: `qweight` I32 [inputs·bits/32, outputs], `qzeros` I32
//! [groups, outputs·bits/32], `scales` [groups, outputs] and, except in early checkpoints, `g_idx`
//! I32 [inputs], the group of each input (`desc_act` orders them by activation). The first version
//! of the format (`checkpoint_format: gptq`) stores zero points less 1, `gptq_v2` as they are.

use super::bands::Bands;
use super::grouped::{self, Layout, group_size};
use super::parts::Parts;
use super::weight::Weight;
use super::{Settings, UNQUANTISED};
use crate::error::Result;
use crate::model::shards::StoredTensor;
use std::sync::Arc;

/// The settings of a GPTQ checkpoint.
pub(super) struct Gptq {
    layout: Layout,
    group_size: Option<usize>,
}

impl Gptq {
    pub(super) fn of(settings: &Settings<'_>) -> Result<Self> {
        let bits = settings.integer("bits")?;
        let Some(bits) = bits.and_then(|bits| [2, 3, 4, 8].into_iter().find(|b| *b as i64 == bits))
        else {
            let found = bits.map_or("none".to_string(), |bits| bits.to_string());
            let message = "GPTQ integers of this size are not read";
            return Err(settings.error(message, "bits", "2, 3, 4 or 8", found));
        };
        let key = if settings.text("checkpoint_format").is_some() {
            "checkpoint_format"
        } else {
            "format"
        };
        let marlin = settings.is_true("is_marlin_format").then_some("marlin");
        let format = marlin.or(settings.text(key)).unwrap_or("gptq");
        let add = match format.to_ascii_lowercase().as_str() {
            "gptq" => 1,
            "gptq_v2" => 0,
            _ => {
                let message = "this layout of GPTQ is not read";
                return Err(settings.error(message, key, "gptq or gptq_v2", format));
            }
        };
        let word = settings.text("pack_dtype").unwrap_or("int32");
        if word != "int32" {
            let message = "GPTQ integers packed into words of this size are not read";
            return Err(settings.error(message, "pack_dtype", "int32", word));
        }
        Ok(Self { layout: Layout::Gptq { bits, add }, group_size: group_size(settings)? })
    }

    /// The weight whose integers `tensor` holds, where it does.
    pub(super) fn weight(
        &self,
        tensor: &StoredTensor,
        parts: &Parts<'_>,
        bands: &Arc<Bands>,
    ) -> Result<Option<Weight>> {
        grouped::weight(self.layout, self.group_size, tensor, parts, bands)
            .map_err(|error| error.hint(UNQUANTISED))
    }
}
