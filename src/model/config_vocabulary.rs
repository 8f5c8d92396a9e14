//! Edits of `config.json` that follow a change of the vocabulary.

use super::config::{Config, NESTED};
use serde_json::{Map, Value};

impl Config {
    /// Sets `vocab_size` to `new` wherever it is `old`, at the top or in a nested config; where no
    /// config has it, it is added. Returns the paths of the keys that were set.
    pub(crate) fn set_vocabulary_size(&mut self, old: usize, new: usize) -> Vec<String> {
        let mut set = Vec::new();
        for place in std::iter::once(None).chain(NESTED.iter().map(Some)) {
            let object = match place {
                None => Some(&mut self.map),
                Some(key) => self.map.get_mut(*key).and_then(Value::as_object_mut),
            };
            let Some(value) = object.and_then(|object| object.get_mut("vocab_size")) else {
                continue;
            };
            if value.as_u64() == Some(old as u64) {
                *value = Value::from(new);
                set.push(place.map_or("vocab_size".to_string(), |key| format!("{key}.vocab_size")));
            }
        }
        if set.is_empty() {
            // A default of the architecture was meant, which no longer holds.
            let nested = ["text_config", "llm_config", "language_config"];
            let nested =
                nested.into_iter().find(|key| self.map.get(*key).is_some_and(Value::is_object));
            let object = match nested.and_then(|key| self.map.get_mut(key)) {
                Some(Value::Object(object)) => object,
                _ => &mut self.map,
            };
            object.insert("vocab_size".to_string(), Value::from(new));
            set.push(nested.map_or("vocab_size".to_string(), |key| format!("{key}.vocab_size")));
        }
        set
    }

    /// Moves the ids of special tokens to another vocabulary; see [`move_token_ids`].
    pub(crate) fn move_token_ids(&mut self, moved: &dyn Fn(u32) -> Option<u32>) -> Vec<String> {
        let mut lines = move_token_ids(&mut self.map, moved);
        for key in NESTED {
            if let Some(object) = self.map.get_mut(key).and_then(Value::as_object_mut) {
                let nested = move_token_ids(object, moved);
                lines.extend(nested.into_iter().map(|line| format!("{key}.{line}")));
            }
        }
        lines
    }
}

/// Rewrites `bos_token_id`, `eos_token_id` and every other key with such an end. Returns what was
/// changed, and what could not be, in words.
pub(crate) fn move_token_ids(
    object: &mut Map<String, Value>,
    moved: &dyn Fn(u32) -> Option<u32>,
) -> Vec<String> {
    let mut lines = Vec::new();
    for (key, value) in object.iter_mut().filter(|(key, _)| key.ends_with("_token_id")) {
        let before = value.clone();
        let mut lost = false;
        let mut change = |value: &mut Value| {
            let Some(old) = value.as_u64().and_then(|id| u32::try_from(id).ok()) else { return };
            match moved(old) {
                Some(new) => *value = Value::from(new),
                None => lost = true,
            }
        };
        match value.as_array_mut() {
            Some(ids) => ids.iter_mut().for_each(&mut change),
            None => change(value),
        }
        if lost {
            lines.push(format!(
                "{key}: {before} names a token that the new vocabulary lacks; set it"
            ));
        } else if *value != before {
            lines.push(format!("{key}: {before} → {value}"));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ids_move_with_their_tokens() {
        let mut map =
            json!({"eos_token_id": [1, 7], "bos_token_id": 0, "pad_token_id": null, "x": 7});
        let moved = |id| match id {
            0 => Some(5),
            1 => Some(1),
            7 => Some(2),
            _ => None,
        };
        let lines = move_token_ids(map.as_object_mut().unwrap(), &moved);
        assert_eq!(
            map,
            json!({"eos_token_id": [1, 2], "bos_token_id": 5, "pad_token_id": null, "x": 7})
        );
        assert_eq!(lines, ["eos_token_id: [1,7] → [1,2]", "bos_token_id: 0 → 5"]);
        let mut map = json!({"sep_token_id": 3});
        assert!(move_token_ids(map.as_object_mut().unwrap(), &moved)[0].contains("lacks"));
    }
}
