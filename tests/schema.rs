//! The JSON Schema of recipes: what is committed is what the program prints, it takes every good
//! recipe, and refuses what the program refuses of single keys.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use cognate::methods::{METHODS, Param};
use cognate::recipe::{RecipeFile, schema};
use jsonschema::Validator;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use support::Sandbox;

/// The recipes of a corpus with their names; `lines` are what stands between name and recipe.
fn corpus(text: &'static str, lines: usize) -> Vec<(&'static str, String)> {
    let entries = text.split("=== ").skip(1).map(move |entry| {
        let mut parts = entry.splitn(lines + 2, '\n');
        (parts.next().unwrap(), parts.last().unwrap().to_string())
    });
    entries.collect()
}

fn documents(yaml: &str) -> Option<Vec<Value>> {
    serde_yaml::from_multiple(yaml).ok()
}

fn validator() -> Validator {
    let schema = schema();
    jsonschema::draft202012::meta::validate(&schema).unwrap();
    jsonschema::draft202012::new(&schema).unwrap()
}

#[test]
fn the_committed_schema_is_the_one_printed() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recipe.schema.json");
    let printed = Sandbox::new().ok(&["schema"]).stdout;
    if std::env::var_os("INSTA_UPDATE").is_some_and(|update| update == "always") {
        std::fs::write(&committed, &printed).unwrap();
    }
    let committed = std::fs::read_to_string(committed).unwrap();
    assert!(committed == printed, "run: cognate schema > docs/recipe.schema.json");
}

#[test]
fn good_recipes_are_valid() {
    let validator = validator();
    let mut recipes = corpus(include_str!("data/recipes/good.txt"), 0);
    recipes.extend(corpus(include_str!("data/recipes/mergekit.txt"), 0));
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("merge-configs");
    for entry in std::fs::read_dir(configs).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "yml") {
            recipes.push(("merge-configs", std::fs::read_to_string(path).unwrap()));
        }
    }
    assert!(recipes.len() > 30, "the corpus was not read");
    for (name, recipe) in recipes {
        for document in documents(&recipe).unwrap() {
            let wrong: Vec<String> = validator
                .iter_errors(&document)
                .map(|e| format!("{}: {e}", e.instance_path()))
                .collect();
            assert!(wrong.is_empty(), "{name}\n{recipe}\n{}", wrong.join("\n"));
        }
    }
}

/// Whether the parameter that a key names has one range in all methods: the schema does not tell them
/// apart.
fn has_one_range(key: &str) -> bool {
    let named = |name| key.split(['.', '[']).any(|part| part == name);
    let mut kinds = METHODS.iter().flat_map(|method| method.params).filter(|p| named(p.name));
    let range = |param: &Param| (param.kind, param.clamped);
    let first = kinds.next().map(range);
    kinds.all(|param| Some(range(param)) == first)
}

/// Whatever the parser says of a single key, the schema says, too.
#[test]
fn what_is_wrong_with_a_key_is_invalid() {
    const OF_ONE_KEY: [&str; 7] = [
        "unknown key",
        "unknown parameter",
        "unknown merge method",
        "unknown dtype",
        "the key `model",
        "the key `layer_range",
        "the recipe is not what",
    ];
    let validator = validator();
    let mut refused = 0;
    for text in [
        include_str!("data/recipes/keys.txt"),
        include_str!("data/recipes/values.txt"),
        include_str!("data/recipes/layouts.txt"),
        include_str!("data/recipes/modules.txt"),
    ] {
        for (name, recipe) in corpus(text, 1) {
            let Err(error) = RecipeFile::parse(Path::new("recipe.yml"), recipe.clone(), &[]) else {
                continue;
            };
            let ranges = error.message().contains("is out of range or of the wrong type")
                && has_one_range(error.get("key").unwrap());
            let of_one_key = OF_ONE_KEY.iter().any(|start| error.message().starts_with(start));
            // What is no YAML never comes to the schema, nor do the words that JSON has no numbers for.
            let Some(documents) = documents(&recipe).filter(|_| ranges || of_one_key) else {
                continue;
            };
            let valid = documents.iter().all(|document| validator.is_valid(document));
            assert!(!valid, "{name}: {}\n{recipe}", error.message());
            refused += 1;
        }
    }
    assert!(refused >= 25, "only {refused} of the corpus were looked at");
}

/// The tables stand in the schema, and every key is described.
#[test]
fn every_key_is_described() {
    let schema = schema();
    let mut parameters = BTreeSet::new();
    for param in METHODS.iter().flat_map(|method| method.params) {
        let known = &schema["$defs"]["Parameters"]["properties"][param.name];
        assert!(known["description"].as_str().unwrap().contains(param.doc), "{known}");
        parameters.insert(param.name);
    }
    let known = schema["$defs"]["Parameters"]["properties"].as_object().unwrap();
    assert_eq!(known.len(), parameters.len());
    let mut keys = 0;
    let objects =
        schema["$defs"].as_object().unwrap().iter().map(|(name, object)| (&**name, object));
    for (name, object) in objects.chain([("the recipe", &schema)]) {
        let Some(properties) = object["properties"].as_object() else { continue };
        let of_modules = name == "Modules";
        assert!(of_modules || object["additionalProperties"] == false, "{name}");
        for (key, value) in properties {
            let described = value["description"].is_string() || of_modules || key == "value";
            assert!(described, "{name}.{key}: {value}");
            keys += 1;
        }
    }
    assert!(keys > 40, "{keys}");
}
