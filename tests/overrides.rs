//! `--set KEY=VALUE` and `COGNATE_SET`: keys of a recipe replaced for one run.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use support::{Sandbox, finish};

const RECIPE: &str = "\
merge_method: linear
models:
  - {model: models/base, parameters: {weight: 1}}
  - {model: models/ft-code, parameters: {weight: 1}}
parameters: {normalize: true}
";

/// The merge with overrides has the bytes of the recipe that says the same by itself.
#[test]
fn overrides_are_as_if_they_stood_in_the_recipe() {
    let sandbox = Sandbox::with_trained_models();
    let same = |written: &str, base: &str, set: &[&str]| {
        sandbox.merge(written, "written", &["--overwrite"]);
        let more: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
        sandbox.merge(base, "set", &[&["--overwrite"], &more[..]].concat());
        assert!(sandbox.tensors("written") == sandbox.tensors("set"), "{set:?}");
        let lineage = sandbox.read_json("set/lineage.json");
        assert_eq!(lineage["recipe"]["overrides"], serde_json::json!(set));
        assert_eq!(lineage["recipe"]["text"], base);
    };
    same(&RECIPE.replacen("weight: 1", "weight: 3", 1), RECIPE, &["models[0].parameters.weight=3"]);
    same(
        &RECIPE.replacen("weight: 1", "weight: [0, 2]", 1),
        RECIPE,
        &["models[0].parameters.weight=9", "models[0].parameters.weight = [0, 2]"],
    );
    same(&RECIPE.replace("ft-code", "ft-math"), RECIPE, &["models[1].model=models/ft-math"]);
    same(&format!("{RECIPE}dtype: float32\n"), RECIPE, &["dtype=float32"]);
    let sliced = "\
merge_method: passthrough
slices:
  - sources: [{model: models/base, layer_range: [0, 2]}]
  - sources: [{model: models/ft-code, layer_range: [2, 4]}]
";
    same(&sliced.replace("[2, 4]", "[1, 4]"), sliced, &["slices[1].sources[0].layer_range=[1, 4]"]);
    let scaled = sliced.replace("[2, 4]}]", "[2, 4]}]\n    parameters: {scale: 0.5}");
    same(&scaled, sliced, &["slices[1].parameters.scale=0.5"]);
    let staged =
        format!("name: one\n{RECIPE}---\nmerge_method: passthrough\nmodels: [{{model: one}}]\n");
    same(
        &staged.replacen("weight: 1", "weight: 3", 1),
        &staged,
        &["stages[one].models[0].parameters.weight=3"],
    );
    same(
        &staged.replace("{model: one}", "{model: one, parameters: {scale: 2}}"),
        &staged,
        &["stages[1].parameters.scale=2"],
    );
}

#[test]
fn the_command_line_holds_over_the_environment() {
    let sandbox = Sandbox::with_trained_models();
    sandbox.write("recipe.yml", RECIPE);
    let plan = |more: &[&str]| {
        let mut command = sandbox.command(&[&["plan", "recipe.yml", "--json"], more].concat());
        command.env("COGNATE_SET", "dtype=float32\n\n random_seed = 7 \n");
        finish(&mut command).json()
    };
    let (environment, both) = (plan(&[]), plan(&["--set", "dtype=float16"]));
    assert_eq!(environment["jobs"][0]["dtype"], "F32");
    assert_eq!(environment["seed"], 7);
    assert_eq!(both["jobs"][0]["dtype"], "F16");
    assert_eq!(both["seed"], 7);
}

#[test]
fn overrides_that_make_no_sense() {
    let sandbox = Sandbox::with_trained_models();
    sandbox.write("recipe.yml", RECIPE);
    for (set, said) in [
        ("dtype", "not KEY=VALUE"),
        ("=3", "leads nowhere"),
        ("models.weight=3", "leads nowhere"),
        ("models[2].model=a", "leads nowhere"),
        ("models[0].paramters.weight=1", "leads nowhere"),
        ("slices[0].parameters.t=1", "leads nowhere"),
        ("models[0.model=a", "leads nowhere"),
        ("models[0].parameters.weight=heavy", "a finite number"),
        ("models[0].parameters.weight={a: [", "not what its key takes"),
        ("models[0].parameters.wieght=1", "did you mean `weight`?"),
        ("random_seed=-1", "not what its key takes"),
        ("merge_method=linera", "did you mean `linear`?"),
        ("base_model=missing", "does not exist"),
        ("stages[one].dtype=float32", "leads nowhere"),
    ] {
        let message = sandbox.fails(2, &["plan", "recipe.yml", "--set", set]);
        assert!(message.contains(said), "{set}: {message}");
    }
    sandbox.write("recipe.yml", format!("{RECIPE}---\nname: a\nsave: a\n{RECIPE}"));
    let message = sandbox.fails(2, &["plan", "recipe.yml", "--set", "dtype=float32"]);
    assert!(message.contains("several stages"), "{message}");
}
