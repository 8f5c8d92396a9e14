//! AWQ (Lin et al., 2023) in AutoAWQ's GEMM layout, 4 bits.
//!
//! For a module of `inputs` × `outputs`: `qweight` I32 [inputs, outputs/8], `qzeros` I32 [groups,
//! outputs/8], `scales` [groups, outputs].

use super::bands::Bands;
use super::grouped::{self, Layout, group_size};
use super::parts::Parts;
use super::weight::Weight;
use super::{Settings, UNQUANTISED};
use crate::error::Result;
use crate::model::shards::StoredTensor;
use std::sync::Arc;

/// The settings of an AWQ checkpoint.
pub(super) struct Awq {
    group_size: Option<usize>,
}

impl Awq {
    pub(super) fn of(settings: &Settings<'_>) -> Result<Self> {
        match settings.integer("bits")? {
            Some(4) => {}
            other => {
                let found = other.map_or("none".to_string(), |bits| bits.to_string());
                let message = "AWQ integers of this size are not read";
                return Err(settings.error(message, "bits", "4", found));
            }
        }
        // AutoAWQ calls the layout `version`, GPTQModel `checkpoint_format` or `format`.
        for key in ["version", "checkpoint_format", "format"] {
            let layout = settings.text(key).unwrap_or("gemm");
            if !layout.eq_ignore_ascii_case("gemm") {
                return Err(settings.error("this layout of AWQ is not read", key, "gemm", layout));
            }
        }
        Ok(Self { group_size: group_size(settings)? })
    }

    /// The weight whose integers `tensor` holds, where it does.
    pub(super) fn weight(
        &self,
        tensor: &StoredTensor,
        parts: &Parts<'_>,
        bands: &Arc<Bands>,
    ) -> Result<Option<Weight>> {
        grouped::weight(Layout::Awq, self.group_size, tensor, parts, bands)
            .map_err(|error| error.hint(UNQUANTISED))
    }
}
