//! The config of a mixture from a dense model's, and back.

use super::{Counts, Evaluated, Family, architectures};
use crate::error::{Error, Result};
use crate::model::Config;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Keys under which a config names code of its own, which fits the class it was written for.
const CODE: &str = "auto_map";

/// The lists of layers' kinds.
const LAYER_TYPES: &str = "layer_types";

/// The width of a dense MLP.
const WIDTH: &str = "intermediate_size";

/// A config under construction, with what was changed in words.
struct Edit {
    map: Map<String, Value>,
    edits: Vec<String>,
}

impl Edit {
    fn set(&mut self, key: &str, value: Value) {
        let before = self.map.get(key);
        if before == Some(&value) {
            return;
        }
        self.edits.push(match before {
            Some(before) => format!("{key}: {before} → {value}"),
            None => format!("{key}: {value}"),
        });
        self.map.insert(key.to_string(), value);
    }

    fn remove(&mut self, key: &str) {
        // The other keys keep their places.
        if self.map.shift_remove(key).is_some() {
            self.edits.push(format!("{key}: removed"));
        }
    }
}

/// What a text that names one key of a config after another, or ends with a number, finds first, as it is
/// written there: `2.0` is not `2` to every reader.
fn written(text: &str, config: &Map<String, Value>) -> Option<Value> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for part in text.split(" | ") {
        if let Ok(number @ Value::Number(_)) = serde_json::from_str(part) {
            return Some(number);
        }
        let mut keys = part.split('.');
        if !part.split('.').all(|key| !key.is_empty() && key.chars().all(word)) {
            return None;
        }
        let first = keys.next().and_then(|key| config.get(key));
        match keys.fold(first, |found, key| found?.get(key)) {
            None | Some(Value::Null) => {}
            Some(found) => return Some(found.clone()),
        }
    }
    None
}

/// What a value of the table stands for: texts are expressions.
fn value(table: &Value, config: &Map<String, Value>, counts: Option<Counts>) -> Result<Value> {
    let text = match table {
        Value::String(text) => text,
        Value::Object(entries) => {
            let inner =
                entries.iter().map(|(key, entry)| Ok((key.clone(), value(entry, config, counts)?)));
            return inner.collect::<Result<Map<_, _>>>().map(Value::Object);
        }
        other => return Ok(other.clone()),
    };
    if let Some(found) = written(text, config) {
        return Ok(found);
    }
    let counts = counts.into_iter().flat_map(|counts| {
        [("experts", counts.experts), ("chosen", counts.chosen), ("shared", counts.shared)]
    });
    let defined = counts.map(|(name, count)| (name.to_string(), Evaluated::Number(count as f64)));
    Ok(match architectures::evaluate(text, config, defined.collect::<BTreeMap<_, _>>())? {
        Evaluated::Absent => Value::Null,
        Evaluated::Flag(flag) => flag.into(),
        Evaluated::Number(number) if number.fract() == 0.0 && number.abs() < 1e15 => {
            (number as i64).into()
        }
        Evaluated::Number(number) => json!(number),
        Evaluated::Text(text) => text.into(),
        Evaluated::List(list) => list.into(),
        Evaluated::Object(map) => map.into(),
    })
}

impl Family {
    /// The config of a mixture of so many experts, made of the dense model's `config`, whose layers attend
    /// over `windows`; and what was changed, in words.
    ///
    /// # Errors
    /// The table is not valid.
    pub(crate) fn mixed_config(
        &self,
        config: &Config,
        counts: Counts,
        windows: &[Option<usize>],
    ) -> Result<(Config, Vec<String>)> {
        let dense = &config.map;
        let mut edit = Edit { map: dense.clone(), edits: Vec::new() };
        edit.set("architectures", json!([self.class]));
        edit.set("model_type", self.model_type.clone().into());
        if !self.config.contains_key(CODE) {
            edit.remove(CODE);
        }
        for (key, entry) in &self.spelled_out {
            let unless = entry["unless"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let said = unless.chain([key.as_str()]).any(|key| dense.contains_key(key));
            if !said {
                edit.set(key, value(&entry["value"], dense, Some(counts))?);
            }
        }
        self.set_layer_types(&mut edit, windows)?;
        for (key, entry) in &self.config {
            edit.set(key, value(entry, dense, Some(counts))?);
        }
        for (key, entry) in &self.conditional {
            match value(&entry.when.clone().into(), dense, Some(counts))? {
                Value::Bool(true) => edit.set(key, value(&entry.value, dense, Some(counts))?),
                _ => edit.remove(key),
            }
        }
        self.unknown.iter().for_each(|key| edit.remove(key));
        Ok((Config::made(config.path(), edit.map), edit.edits))
    }

    /// Says of each layer whether it has a window, where the families count them in other ways.
    fn set_layer_types(&self, edit: &mut Edit, windows: &[Option<usize>]) -> Result<()> {
        let Some(when) = &self.layer_types else { return Ok(()) };
        if edit.map.contains_key(LAYER_TYPES)
            || value(&when.clone().into(), &edit.map, None)? != Value::Bool(true)
        {
            return Ok(());
        }
        let kind = |window: &Option<usize>| match window {
            Some(_) => "sliding_attention",
            None => "full_attention",
        };
        edit.set(LAYER_TYPES, windows.iter().map(kind).collect::<Vec<_>>().into());
        Ok(())
    }

    /// The config of a dense model that is one of the mixture's experts with the mixture's attention,
    /// whose layers attend over `windows`; `width` is that of the MLP, where it is not the routed
    /// experts'; `like` is the dense family (`model_type` and class), where it is not the usual one.
    ///
    /// # Errors
    /// The family is not one that the mixture is made of.
    pub(crate) fn dense_config(
        &self,
        config: &Config,
        windows: &[Option<usize>],
        width: Option<usize>,
        like: Option<&str>,
    ) -> Result<(Config, Vec<String>)> {
        let (model_type, class) = match like {
            None => (self.dense.model_type.clone(), self.dense.class.clone()),
            Some(like) if like == self.dense.model_type => (like.into(), self.dense.class.clone()),
            Some(like) => {
                let families = super::families()?;
                let other = families.iter().map(|family| &family.dense).find(|dense| {
                    dense.model_type == like && self.from.contains(&dense.model_type)
                });
                let other = other.ok_or_else(|| {
                    Error::input("the experts are not models of this family")
                        .key("architecture")
                        .expected(self.from.join(" or "), like)
                })?;
                (other.model_type.clone(), other.class.clone())
            }
        };
        let mixed = &config.map;
        let mut edit = Edit { map: mixed.clone(), edits: Vec::new() };
        edit.set("architectures", json!([class]));
        edit.set("model_type", model_type.into());
        for (key, entry) in &self.dense.config {
            edit.set(key, value(entry, mixed, None)?);
        }
        if let Some(width) = width {
            edit.set(WIDTH, width.into());
        }
        self.set_layer_types(&mut edit, windows)?;
        let own = self.config.keys().filter(|key| !self.dense.config.contains_key(*key));
        for key in own.chain(self.aliases.values()).chain(&self.only_here) {
            edit.remove(key);
        }
        edit.remove(CODE);
        Ok((Config::made(config.path(), edit.map), edit.edits))
    }

    /// The mixture's own config with other numbers of experts.
    pub(crate) fn recounted(
        &self,
        config: &Config,
        counts: Counts,
    ) -> Result<(Config, Vec<String>)> {
        let mut edit = Edit { map: config.map.clone(), edits: Vec::new() };
        for (key, entry) in &self.config {
            if entry.as_str().is_some_and(|text| ["$experts", "$chosen"].contains(&text)) {
                let alias = self.aliases.get(key).filter(|alias| config.map.contains_key(*alias));
                let count = value(entry, &config.map, Some(counts))?;
                if alias.is_none() || config.map.contains_key(key) {
                    edit.set(key, count.clone());
                }
                if let Some(alias) = alias {
                    edit.set(alias, count);
                }
            }
        }
        Ok((Config::made(config.path(), edit.map), edit.edits))
    }
}
