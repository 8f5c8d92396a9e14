//! The base that an adapter of PEFT was trained on.

use super::is_name;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    base_model_name_or_path: Value,
}

/// `base_model_name_or_path` of an `adapter_config.json`, if it names one.
pub(super) fn base(text: &str) -> Result<Option<String>, String> {
    let config: Config = serde_json::from_str(text).map_err(|e| e.to_string())?;
    match config.base_model_name_or_path {
        Value::Null => Ok(None),
        Value::String(base) if base.is_empty() => Ok(None),
        Value::String(base) if is_name(&base) => Ok(Some(base)),
        _ => Err("`base_model_name_or_path` is no name".to_string()),
    }
}
