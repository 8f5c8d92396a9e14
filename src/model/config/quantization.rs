//! The `quantization_config` of a `config.json`.

use super::{Config, NESTED};
use crate::error::{Error, Result};
use serde_json::{Map, Value};

/// Keys that say how weights are quantised; the second is an older name of compressed-tensors.
const QUANTIZATION: [&str; 2] = ["quantization_config", "compression_config"];

impl Config {
    /// How the weights are quantised, where they are: the `quantization_config`.
    ///
    /// # Errors
    /// It is no object, or there are several that differ.
    pub fn quantization(&self) -> Result<Option<&Map<String, Value>>> {
        let mut all = self.objects().flat_map(|(prefix, object)| {
            let found = QUANTIZATION.iter().filter_map(|key| object.get_key_value(*key));
            found.map(|(key, value)| (format!("{prefix}{key}"), value)).collect::<Vec<_>>()
        });
        let mut all = all.by_ref().filter(|(_, value)| !value.is_null());
        let Some((key, first)) = all.next() else { return Ok(None) };
        let error = |message: &str, key: &str| Error::input(message).file(&self.path).key(key);
        if let Some((other, _)) = all.find(|(_, value)| *value != first) {
            return Err(error("parts of a model are quantised in several ways", &other)
                .fact("and", key)
                .hint("use the model's unquantised weights"));
        }
        match first.as_object() {
            Some(settings) => Ok(Some(settings)),
            None => Err(error("the quantization_config is no object", &key)),
        }
    }

    /// Says no more that the weights are quantised.
    pub fn remove_quantization(&mut self) {
        for key in QUANTIZATION {
            self.map.shift_remove(key);
            for nested in NESTED {
                let object = self.map.get_mut(nested).and_then(Value::as_object_mut);
                object.map(|object| object.shift_remove(key));
            }
        }
    }
}
