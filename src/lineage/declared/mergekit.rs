//! The models that a configuration of mergekit names, in every form that mergekit 0.1.5 takes: `models`,
//! `slices`, `modules`, `base_model`, `experts` of mixtures, several documents that use each other.

use super::{Card, MAX_NAMES, is_name, yaml_options, yaml_reason};
use serde_json::{Map, Value};

/// The parents that a configuration names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parents {
    /// The methods, in order.
    pub methods: Vec<String>,
    /// The models and adapters, each once, in order of mention: `PATH` or `NAME`, with `@REVISION` where
    /// one is given.
    pub models: Vec<String>,
    /// Those of them that a document has as its base.
    pub bases: Vec<String>,
}

/// Reads a configuration.
///
/// # Errors
/// It is no YAML mapping, or names no model; in words.
pub fn parse_mergekit(text: &str) -> Result<Parents, String> {
    let documents: Vec<Value> = serde_yaml::from_multiple_with_options(text, yaml_options())
        .map_err(|e| format!("it is no YAML ({})", yaml_reason(&e)))?;
    let mut found = Parents::default();
    let mut own: Vec<&str> = Vec::new();
    let mut bodies: Vec<&Map<String, Value>> = Vec::new();
    for document in &documents {
        match document {
            Value::Null => {}
            Value::Object(map) => {
                // A list of stages is what several documents are.
                let stages = map.get("stages").and_then(Value::as_array).into_iter().flatten();
                bodies.push(map);
                bodies.extend(stages.filter_map(Value::as_object));
            }
            _ => return Err("a document is no mapping".to_string()),
        }
    }
    for map in &bodies {
        own.extend(map.get("name").and_then(Value::as_str));
    }
    for map in &bodies {
        if let Some(Value::String(method)) = map.get("merge_method")
            && is_name(method)
            && !found.methods.contains(method)
            && found.methods.len() < MAX_NAMES
        {
            found.methods.push(method.clone());
        }
        layout(map, &mut found);
        let modules = map.get("modules").and_then(Value::as_object);
        for module in modules.into_iter().flat_map(Map::values).filter_map(Value::as_object) {
            layout(module, &mut found);
        }
        for key in ["experts", "shared_experts"] {
            for expert in list(map, key) {
                expert.get("source_model").into_iter().for_each(|model| found.add(model, false));
            }
        }
        // `mixture` is this crate's own key: cards of its mixtures hold such a recipe.
        for key in ["base_model", "mixture"] {
            map.get(key).into_iter().for_each(|model| found.add(model, true));
        }
    }
    let outside = |name: &String| !own.contains(&name.as_str());
    found.models.retain(outside);
    found.bases.retain(outside);
    if found.models.is_empty() { Err("it names no model".to_string()) } else { Ok(found) }
}

/// `models` and `slices`.
fn layout(map: &Map<String, Value>, found: &mut Parents) {
    for entry in list(map, "models") {
        entry.get("model").into_iter().for_each(|model| found.add(model, false));
    }
    for slice in list(map, "slices") {
        for source in list(slice, "sources") {
            source.get("model").into_iter().for_each(|model| found.add(model, false));
        }
        slice.get("base_model").into_iter().for_each(|model| found.add(model, true));
    }
}

/// The mappings of a list.
fn list<'a>(
    map: &'a Map<String, Value>,
    key: &str,
) -> impl Iterator<Item = &'a Map<String, Value>> {
    map.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object)
}

impl Parents {
    /// A reference: `PATH`, `PATH+ADAPTER`, `{model: …, lora: …}`.
    fn add(&mut self, reference: &Value, base: bool) {
        let parts: Vec<String> = match reference {
            Value::Object(map) => ["model", "lora"]
                .iter()
                .filter_map(|key| path(map.get(*key)?))
                .chain(path(reference))
                .collect(),
            Value::String(text) => text.split('+').map(|part| part.trim().to_string()).collect(),
            _ => return,
        };
        for part in parts.into_iter().filter(|part| is_name(part)) {
            if base && !self.bases.contains(&part) && self.bases.len() < MAX_NAMES {
                self.bases.push(part.clone());
            }
            if !self.models.contains(&part) && self.models.len() < MAX_NAMES {
                self.models.push(part);
            }
        }
    }
}

/// A path, or `{path: …, revision: …}`.
fn path(value: &Value) -> Option<String> {
    match value {
        Value::String(path) => Some(path.clone()),
        Value::Object(map) => {
            let path = map.get("path")?.as_str()?;
            Some(match map.get("revision").and_then(Value::as_str) {
                Some(revision) => format!("{path}@{revision}"),
                None => path.to_string(),
            })
        }
        _ => None,
    }
}

/// The recipe in the body of a card that mergekit (or cognate) wrote: the first block of YAML there that
/// names models.
pub fn recipe_in_card(text: &str, card: &Card) -> Option<Parents> {
    let known = card.tags.iter().any(|tag| tag == "mergekit" || tag == "cognate");
    if !known && !text.contains("mergekit") {
        return None;
    }
    // Few blocks are looked at: a recipe stands near the top.
    const BLOCKS: usize = 20;
    let mut lines = text.lines();
    for _ in 0..BLOCKS {
        let opening = lines.find(|line| {
            let bare = line.trim_start_matches('`');
            line.len() - bare.len() >= 3 && ["yaml", "yml"].contains(&bare.trim())
        })?;
        let fence = &opening[..opening.len() - opening.trim_start_matches('`').len()];
        let block: Vec<&str> = lines.by_ref().take_while(|line| line.trim_end() != fence).collect();
        if let Ok(parents) = parse_mergekit(&block.join("\n")) {
            return Some(parents);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_recipe() {
        let models = |text: &str| parse_mergekit(text).unwrap().models.join(" ");
        assert_eq!(
            models("merge_method: ties\nbase_model: org/b\nmodels: [{model: org/a}, {model: ./c}]"),
            "org/a ./c org/b"
        );
        assert_eq!(
            models("slices:\n- sources:\n  - {model: a, layer_range: [0, 2]}\n  - {model: b+l}\n"),
            "a b l"
        );
        assert_eq!(
            models(
                "base_model: a\nexperts:\n- {source_model: b, positive_prompts: [x]}\nshared_experts: [{source_model: c}]"
            ),
            "b c a"
        );
        assert_eq!(models("mixture: a\nexperts: [{source_model: b}]"), "b a");
        assert_eq!(
            models(
                "models:\n- model: {model: {path: org/a, revision: v1}, lora: {path: org/l}}\n- model: {path: c}"
            ),
            "org/a@v1 org/l c"
        );
        assert_eq!(
            models(
                "modules: {text: {models: [{model: a}]}, vision: {slices: [{sources: [{model: b}]}]}}"
            ),
            "a b"
        );
        let text = "name: first\nmerge_method: slerp\nmodels: [{model: a}]\nbase_model: b\n---\nmerge_method: linear\nmodels: [{model: first}, {model: c}]\n";
        let found = parse_mergekit(text).unwrap();
        assert_eq!(
            (found.models.join(" "), found.methods.join(" ")),
            ("a b c".into(), "slerp linear".into())
        );
        assert_eq!(found.bases, ["b"]);
    }

    #[test]
    fn what_is_no_recipe_is_refused() {
        for text in
            ["", "a", "[1]", "merge_method: ties", "models: 3", "models: [{model: 3}]", "a: ["]
        {
            assert!(parse_mergekit(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_recipe_of_a_card() {
        let card = Card { tags: vec!["mergekit".into()], ..Card::default() };
        let text = "# x\n```yaml\nfoo: 1\n```\n````yaml\nmodels:\n- model: org/a\n```` \n";
        assert_eq!(recipe_in_card(text, &card).unwrap().models, ["org/a"]);
        assert_eq!(recipe_in_card(text, &Card::default()), None);
        assert_eq!(recipe_in_card("mergekit\n```yaml\nmodels:", &card), None);
    }
}
