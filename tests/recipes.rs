//! Good recipes plan; bad ones exit with 2 and a message that names the key, the line and, where a
//! known name is near, that name. The messages are kept as snapshots.
//!
//! The recipes stand in `tests/data/recipes`, each behind a line `=== NAME`. For a bad one the next
//! line says `LINE | TEXT | TEXT`: the line that the message must point at (0 where it points at
//! none), and what else it must say.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use cognate::recipe::RecipeFile;
use std::fmt::Write;
use std::path::Path;
use support::{Sandbox, corpus};

#[test]
fn good_recipes_plan() {
    let sandbox = Sandbox::with_trained_models();
    let mut count = 0;
    for (name, recipe) in corpus(include_str!("data/recipes/good.txt")) {
        sandbox.write("recipe.yml", recipe);
        let run = sandbox.run(&["plan", "recipe.yml"]);
        assert_eq!(run.code, Some(0), "{name}\n{}", run.stderr);
        assert!(run.stdout.contains("models\n"), "{name}");
        count += 1;
    }
    assert!(count >= 19, "the corpus was not read");
}

#[test]
fn unknown_and_missing_keys() {
    insta::assert_snapshot!("keys", messages(include_str!("data/recipes/keys.txt")));
}

#[test]
fn wrong_values() {
    insta::assert_snapshot!("values", messages(include_str!("data/recipes/values.txt")));
}

#[test]
fn wrong_layouts() {
    insta::assert_snapshot!("layouts", messages(include_str!("data/recipes/layouts.txt")));
}

#[test]
fn wrong_stages() {
    insta::assert_snapshot!("stages", messages(include_str!("data/recipes/stages.txt")));
}

#[test]
fn wrong_modules() {
    insta::assert_snapshot!("modules", messages(include_str!("data/recipes/modules.txt")));
}

#[test]
fn recipes_of_other_programs_and_methods() {
    insta::assert_snapshot!("foreign", messages(include_str!("data/recipes/foreign.txt")));
}

#[test]
fn mixtures_that_cannot_be() {
    insta::assert_snapshot!("mixtures", messages(include_str!("data/recipes/mixtures.txt")));
}

/// Every construct of the recipes in mergekit's examples and documents, in recipes of our own. Their
/// models are nowhere: `cognate check` needs none.
#[test]
fn what_mergekit_writes_is_well_formed() {
    let sandbox = Sandbox::new();
    let mut all = String::new();
    let merges = corpus(include_str!("data/recipes/mergekit.txt"));
    let mixtures = corpus(include_str!("data/recipes/mergekit_moe.txt"));
    for (name, recipe) in merges.chain(mixtures) {
        sandbox.write("recipe.yml", recipe);
        let run = sandbox.run(&["check", "recipe.yml"]);
        assert_eq!(run.code, Some(0), "{name}\n{}", run.stderr);
        writeln!(all, "## {name}\n{}{}", run.stderr, run.stdout).unwrap();
    }
    insta::assert_snapshot!("mergekit", all);
}

/// A reference in parts is the same model as the text that joins them.
#[test]
fn references_in_parts() {
    let recipe = |model: &str| format!("merge_method: passthrough\nmodels:\n  - model: {model}\n");
    let name = |model: &str| {
        let file = RecipeFile::parse(Path::new("recipe.yml"), recipe(model), &[]);
        file.map(|file| file.stages[0].references()[0].value.clone()).map_err(|e| e.to_string())
    };
    assert_eq!(name("{model: {path: a, revision: v1}, lora: {path: b}}").unwrap(), "a@v1+b");
    assert_eq!(name("{model: a@v1, lora: b}").unwrap(), name("a@v1+b").unwrap());
    assert_eq!(name("{model: a, lora: null}").unwrap(), "a");
    for (wrong, says) in [
        ("{lora: b}", "the key `model` is missing"),
        ("{model: {paht: a}}", "did you mean `path`?"),
        ("{model: a, override_architecture: X}", "unknown key `override_architecture`"),
        ("[a]", "expected a model, or a mapping of model and lora"),
        ("{model: ''}", "a model reference is empty"),
    ] {
        let error = name(wrong).unwrap_err();
        assert!(error.contains(says) && error.contains("recipe.yml:3:"), "{wrong}\n{error}");
    }
}

#[test]
fn a_check_prints_json() {
    let sandbox = Sandbox::new();
    let recipe = "include: a.yml\nmodels: [{model: org/a, parameters: {t: 1}}]\n";
    sandbox.write("recipe.yml", recipe);
    sandbox.write("a.yml", "merge_method: linear\nparameters: {weight: 1}\n");
    let run = sandbox.ok(&["check", "recipe.yml", "--json", "--set", "merge_method=ties"]);
    insta::assert_snapshot!("check_json", run.stdout);
}

/// Anchors, aliases and merge keys mean what they mean to PyYAML, and the text is kept with them.
#[test]
fn comments_and_anchors_are_recorded() {
    let sandbox = Sandbox::with_trained_models();
    let recipe = "\
# A merge of two,   spaced   oddly.
merge_method: linear\t# by hand
models:
  - model: &a models/base    # the base
    parameters: &half {weight: 0.5}
  - model: models/ft-code
    parameters: {<<: *half, weight: 2}
  - {model: models/ft-math, parameters: *half}
tokenizer_source: *a

# The end.
";
    sandbox.merge(recipe, "out", &[]);
    let lineage = sandbox.read_json("out/lineage.json");
    assert_eq!(lineage["recipe"]["text"], recipe);
    let weights = &lineage["output"]["tensors"][0]["parameters"]["inputs"];
    assert_eq!(*weights, serde_json::json!([{"weight": 0.5}, {"weight": 2.0}, {"weight": 0.5}]));
    let card = String::from_utf8(sandbox.read("out/README.md")).unwrap();
    assert!(card.contains(recipe.trim_end()), "{card}");
}

/// Recipes that are refused before they are read as YAML.
#[test]
fn not_a_recipe_at_all() {
    let sandbox = Sandbox::new();
    let mut large = b"# ".to_vec();
    large.resize((1 << 20) + 1, b'x');
    sandbox.write("large.yml", large);
    sandbox.write("latin1.yml", b"merge_method: linear # caf\xe9\n");
    std::fs::create_dir(sandbox.path("folder.yml")).unwrap();
    let mut all = String::new();
    for file in ["large.yml", "latin1.yml", "folder.yml"] {
        let message = sandbox.fails(2, &["plan", file]);
        assert!(message.contains(file), "{message}");
        writeln!(all, "## {file}\n{message}").unwrap();
    }
    insta::assert_snapshot!("not_a_recipe", all);
}

/// The corpus as a whole: every file of it is read by a test.
#[test]
fn the_corpus_is_large_and_read() {
    let tests = [include_str!("recipes.rs"), include_str!("bad_input.rs")];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/recipes");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(tests.iter().any(|test| test.contains(&format!("recipes/{name}\""))), "{name}");
        count += corpus(&std::fs::read_to_string(&path).unwrap()).count();
    }
    assert!(count >= 60, "{count} recipes");
}

/// Plans every bad recipe; checks and collects the messages.
fn messages(text: &str) -> String {
    let sandbox = Sandbox::with_trained_models();
    let mut all = String::new();
    let mut wrong = Vec::new();
    for (name, rest) in corpus(text) {
        let (expected, recipe) = rest.split_once('\n').unwrap();
        let mut expected = expected.split(" | ");
        let line = expected.next().unwrap();
        sandbox.write("recipe.yml", recipe);
        let message = sandbox.fails(2, &["plan", "recipe.yml"]);
        let place = format!("recipe.yml:{line}:");
        if line != "0" && !message.contains(&place) {
            wrong.push(format!("{name}: no {place}\n{message}"));
        }
        for part in expected.filter(|part| !message.contains(part)) {
            wrong.push(format!("{name}: no {part:?}\n{message}"));
        }
        writeln!(all, "## {name}\n{message}").unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    all
}
