//! Llama 3's scaling of the rotary embedding, which GGUF stores as one factor a frequency.
//!
//! Formula: `_compute_llama3_parameters` of transformers (the frequency is divided by the factor).

use crate::error::{Error, Result};
use crate::model::{Source, StoredTensor};
use serde_json::{Value, json};
use std::f64::consts::TAU;

/// What the published models have, and GGUF leaves out: the context they were first trained with,
/// and how many turns in it make a frequency low or high.
const ORIGINAL_CONTEXT: f64 = 8192.0;
const LOW: f64 = 1.0;
const HIGH: f64 = 4.0;

/// `rope_scaling` of the config behind the stored factors, for a base `theta` and heads of `head`
/// elements. The largest factor is that of the lowest frequencies; with it, all others must come
/// out as they are stored.
pub(super) fn llama3(stored: &StoredTensor, theta: f64, head: u64) -> Result<Value> {
    let unknown = || {
        Error::input("the GGUF file scales its rotary embedding in a way no config can say")
            .tensor(&stored.spec().name)
            .hint("use the model's safetensors instead")
    };
    let elements = stored.spec().elements();
    if elements as u64 != head / 2 || elements > 1 << 16 {
        return Err(unknown().expected(format!("{} factors", head / 2), elements));
    }
    let mut factors = vec![0.0; elements];
    stored.read(0, &mut factors)?;
    let largest = f64::from(factors.iter().copied().fold(1.0_f32, f32::max));
    for (i, found) in factors.iter().enumerate() {
        let expected = factor(theta.powf(2.0 * i as f64 / head as f64) * TAU, largest);
        let difference = (f64::from(*found) - expected).abs();
        if difference.is_nan() || difference > 1e-4 * expected {
            return Err(unknown().fact("factor", i).expected(expected, found));
        }
    }
    Ok(json!({
        "rope_type": "llama3",
        "factor": largest,
        "low_freq_factor": LOW,
        "high_freq_factor": HIGH,
        "original_max_position_embeddings": ORIGINAL_CONTEXT as u64,
    }))
}

/// What the frequency of this wavelength is divided by.
fn factor(wavelength: f64, largest: f64) -> f64 {
    let turns = ORIGINAL_CONTEXT / wavelength;
    if turns > HIGH {
        return 1.0;
    }
    if turns < LOW {
        return largest;
    }
    let smooth = (turns - LOW) / (HIGH - LOW);
    1.0 / ((1.0 - smooth) / largest + smooth)
}
