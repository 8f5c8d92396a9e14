//! The JSON Schema of recipes, for editors: made of the types that read them (`raw.rs`,
//! `tokenizer.rs`), of the methods' table, and of the other tables of names.
//!
//! It says what can be said of one key at a time. What needs several (a method's required
//! parameters, the number of models) is checked by the program alone.

use super::raw::{RawModule, RawModules, RawParameters, RawRecipe};
use super::tokenizer::ROW_KINDS;
use crate::methods::{Default, METHODS, Param, ParamKind, Post};
use crate::model::{ChatTemplate, Float, GateMode, Labels, known_modules};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// The JSON Schema (draft 2020-12) of a recipe's documents.
pub fn schema() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    generator.into_root_schema_for::<RawRecipe>().to_value()
}

/// One of some words.
fn words<'a>(names: impl IntoIterator<Item = &'a str>) -> Value {
    json!({"enum": names.into_iter().collect::<Vec<_>>()})
}

/// `merge_method`: the names of the table, each with what it does.
pub(super) fn merge_method(_: &mut SchemaGenerator) -> Schema {
    let methods =
        METHODS.iter().map(|method| json!({"const": method.name, "description": method.summary}));
    let name = json!({"oneOf": methods.collect::<Vec<_>>()});
    let entry = json!({
        "type": "object",
        "properties": {
            "filter": {"type": ["string", "null"], "description": "part of the tensors' names; none and `*` match every name"},
            "value": name,
        },
        "required": ["value"],
        "additionalProperties": false,
    });
    json_schema!({"anyOf": [
        name,
        entry,
        {"type": "array", "minItems": 1, "items": entry},
        {"type": "null"},
    ]})
}

/// `subspace_boosting`.
pub(super) fn subspace_boosting(generator: &mut SchemaGenerator) -> Schema {
    post(generator, "subspace_boosting")
}

/// `svc`.
pub(super) fn svc(generator: &mut SchemaGenerator) -> Schema {
    post(generator, "svc")
}

/// `lines`.
pub(super) fn lines(generator: &mut SchemaGenerator) -> Schema {
    post(generator, "lines")
}

/// The parameters of a post-step.
fn post(generator: &mut SchemaGenerator, name: &str) -> Schema {
    let post = Post::named(name);
    let params = post.into_iter().flat_map(|post| post.params);
    let properties: Map<String, Value> =
        params.clone().map(|param| (param.name.to_string(), setting(generator, param))).collect();
    let required = params.filter(|param| param.default == Default::Required);
    let required: Vec<&str> = required.map(|param| param.name).collect();
    json_schema!({
        "description": post.map_or("", |post| post.summary),
        "type": ["object", "null"],
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// `dtype` and `out_dtype`.
pub(super) fn dtype(_: &mut SchemaGenerator) -> Schema {
    let names = Float::NAMES.iter().map(|(name, _)| *name);
    json_schema!({"anyOf": [words(names), {"type": "null"}]})
}

/// `tokenizer_source` and a tokenizer's `source`.
pub(super) fn tokenizer_source(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"anyOf": [
        words(["union", "base"]),
        {"type": "string", "minLength": 1, "description": "a model, or a folder with a tokenizer.json"},
        {"type": "null"},
    ]})
}

/// `chat_template`.
pub(super) fn chat_template(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"anyOf": [
        words(ChatTemplate::names()),
        {"type": "string", "pattern": "\\{", "description": "the text of a Jinja template"},
        {"type": "null"},
    ]})
}

/// The `labels` of Fisher information.
pub(super) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"anyOf": [words(Labels::ALL.map(Labels::name)), {"type": "null"}]})
}

/// `gate_mode`.
pub(super) fn gate_mode(_: &mut SchemaGenerator) -> Schema {
    let names = GateMode::NAMES.iter().map(|(name, _)| *name);
    json_schema!({"anyOf": [words(names), {"type": "null"}]})
}

/// `attention`.
pub(super) fn attention(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"anyOf": [words(["base", "merge"]), {"type": "null"}]})
}

/// The `kind` of a token's row.
pub(super) fn row_kind(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"enum": ROW_KINDS})
}

impl JsonSchema for RawModules {
    fn schema_name() -> Cow<'static, str> {
        "Modules".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let module = generator.subschema_for::<RawModule>();
        let known = known_modules().map(|name| (name.to_string(), module.clone().to_value()));
        json_schema!({
            "description": "Modules by their names, or by the beginning of their tensors' names; `default` takes every tensor that no other module claims.",
            "type": "object",
            "properties": known.collect::<Map<String, Value>>(),
            "additionalProperties": module,
        })
    }
}

impl JsonSchema for RawParameters {
    fn schema_name() -> Cow<'static, str> {
        "Parameters".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let names: BTreeSet<&str> =
            METHODS.iter().flat_map(|method| method.params).map(|param| param.name).collect();
        let parameters =
            names.into_iter().map(|name| (name.to_string(), parameter(generator, name)));
        let parameters: Map<String, Value> = parameters.collect();
        json_schema!({
            "description": "Parameters of the method: a value, a gradient over the layers (a list), or a list of {filter, value}.",
            "type": ["object", "null"],
            "properties": parameters,
            "additionalProperties": false,
        })
    }
}

/// The schema of what stands behind a parameter's name, in whichever methods have it.
fn parameter(generator: &mut SchemaGenerator, name: &str) -> Value {
    // What a method says of it, and the methods that say the same.
    let mut said: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut kinds: Vec<Value> = Vec::new();
    let mut defaults: Vec<Option<Value>> = Vec::new();
    for method in &METHODS {
        let Some(param) = method.param(name) else { continue };
        let text =
            format!("{}; {}; default: {}", param.doc, param.expectation(), param.default_text());
        said.entry(text).or_default().push(method.name);
        let (kind, default) = (setting(generator, param), param.default_value());
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
        let default = default.and_then(|value| serde_json::to_value(value).ok());
        if !defaults.contains(&default) {
            defaults.push(default);
        }
    }
    let said = said.iter().map(|(text, methods)| format!("{}: {text}", methods.join(", ")));
    let mut schema = json!({
        "description": said.collect::<Vec<_>>().join("\n"),
        "anyOf": kinds,
    });
    // A default that all methods share.
    if let [Some(default)] = &defaults[..] {
        schema["default"] = default.clone();
    }
    schema
}

/// A reference to the definition of a parameter's settings: one definition a type and range.
fn setting(generator: &mut SchemaGenerator, param: &Param) -> Value {
    let name = match param.kind {
        ParamKind::Bool => "Flag".to_string(),
        ParamKind::Number { min: f64::MIN, max: f64::MAX } => "Number".to_string(),
        ParamKind::Number { .. } if param.clamped => "Number".to_string(),
        ParamKind::Number { min, max: f64::MAX } => format!("Number_from_{min}"),
        ParamKind::Number { min, max } => format!("Number_{min}_to_{max}"),
        ParamKind::Choice(words) => format!("One_of_{}", words.join("_")),
    };
    let reference = |name: &str| json!({"$ref": format!("#/$defs/{name}")});
    let (scalar, gradient, filtered) =
        (format!("{name}_value"), format!("{name}_gradient"), format!("{name}_filtered"));
    let definitions = [
        (&scalar, value(param)),
        (
            &gradient,
            json!({"anyOf": [
                reference(&scalar),
                {
                    "description": "a gradient, from the first layer to the last",
                    "type": "array",
                    "items": reference(&scalar),
                    "minItems": 1,
                },
            ]}),
        ),
        (
            &filtered,
            json!({
                "type": "object",
                "properties": {
                    "filter": {
                        "description": "A part of the tensors' names; without it, every tensor.",
                        "type": ["string", "null"],
                    },
                    "value": reference(&gradient),
                },
                "required": ["value"],
                "additionalProperties": false,
            }),
        ),
        (
            &name,
            json!({"anyOf": [
                reference(&gradient),
                reference(&filtered),
                {
                    "description": "the first entry whose filter matches holds",
                    "type": "array",
                    "items": reference(&filtered),
                    "minItems": 1,
                },
            ]}),
        ),
    ];
    for (name, definition) in definitions {
        generator.definitions_mut().insert(name.clone(), definition);
    }
    reference(&name)
}

/// A single value of a parameter, in every spelling that is read as one.
fn value(param: &Param) -> Value {
    match param.kind {
        ParamKind::Bool => json!({"anyOf": [
            {"type": "boolean"},
            {"enum": [0, 1]},
            {
                "type": "string",
                "pattern": "^([Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee]|[Yy][Ee][Ss]|[Nn][Oo]|[Oo][Nn]|[Oo][Ff][Ff])$",
            },
        ]}),
        ParamKind::Number { min, max } => {
            let mut number = json!({"type": "number"});
            if min > f64::MIN && !param.clamped {
                number["minimum"] = min.into();
            }
            if max < f64::MAX && !param.clamped {
                number["maximum"] = max.into();
            }
            let quoted = "^\\s*[-+]?([0-9]+\\.?[0-9]*|\\.[0-9]+)([eE][-+]?[0-9]+)?\\s*$";
            json!({"anyOf": [number, {"type": "string", "pattern": quoted}]})
        }
        ParamKind::Choice(known) => words(known.iter().copied()),
    }
}
