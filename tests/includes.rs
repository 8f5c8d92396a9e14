//! `include`: files whose keys hold where a recipe is silent; how they are recorded, and refused.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::json;
use std::fmt::Write;
use support::{SINGLE, Sandbox};

/// Writes the files of a case; the first is the recipe.
fn write(sandbox: &Sandbox, files: &[(&str, &str)]) {
    for (path, text) in files {
        sandbox.write(path, text);
    }
}

/// The plan of the recipe with includes is that of the recipe written in one.
fn same(sandbox: &Sandbox, files: &[(&str, &str)], set: &[&str], written: &str) {
    write(sandbox, files);
    sandbox.write("written.yml", written);
    let mut args = vec!["plan", "recipe.yml", "--json"];
    args.extend(set.iter().flat_map(|set| ["--set", set]));
    // The headers tell of the recipe's text, which is another.
    let stages = |mut plan: serde_json::Value| {
        for stage in plan["stages"].as_array_mut().into_iter().flatten() {
            stage["plan"].as_object_mut().unwrap().remove("metadata").unwrap();
        }
        plan.as_object_mut().unwrap().remove("metadata").unwrap();
        plan
    };
    let plan = stages(sandbox.ok(&args).json());
    let expected = stages(sandbox.ok(&["plan", "written.yml", "--json"]).json());
    assert!(plan == expected, "{}\n{plan:#}\n{expected:#}", files[0].1);
}

#[test]
fn what_is_included_holds_where_the_recipe_is_silent() {
    let sandbox = Sandbox::with_trained_models();
    let same = |files: &[(&str, &str)], set: &[&str], written: &str| {
        same(&sandbox, files, set, written);
    };
    let preset = "\
merge_method: ties
base_model: models/base
parameters: {weight: 0.5, density: [0.2, 0.9], normalize: false}
models: [{model: models/ft-math}]
dtype: float32
";
    // Scalars and lists are replaced, parameters taken one by one.
    same(
        &[
            (
                "recipe.yml",
                "include: presets/ties.yml\nparameters: {density: 0.3}\nmodels: [{model: models/ft-code}]\n",
            ),
            ("presets/ties.yml", preset),
        ],
        &["parameters.weight=0.7"],
        "\
merge_method: ties
base_model: models/base
parameters: {weight: 0.7, density: 0.3, normalize: false}
models: [{model: models/ft-code}]
dtype: float32
",
    );
    // Later files hold over earlier ones, an including file over what it includes; a layout replaces
    // a layout of another kind, `tokenizer_source` is the source of `tokenizer`.
    same(
        &[
            (
                "recipe.yml",
                "include: [presets/ties.yml, presets/two.yml]\nslices: [{sources: [{model: models/base, layer_range: [0, 4]}, {model: models/ft-code, layer_range: [0, 4]}]}]\ntokenizer_source: base\n",
            ),
            ("presets/ties.yml", preset),
            (
                "presets/two.yml",
                "include:\n  - three.yml\nparameters: {weight: 2}\ntokenizer: {source: union, pad_to_multiple_of: 64}\n",
            ),
            ("presets/three.yml", "parameters: {weight: 3, lambda: 0.5}\nout_dtype: float16\n"),
        ],
        &[],
        "\
merge_method: ties
base_model: models/base
parameters: {weight: 2, density: [0.2, 0.9], normalize: false, lambda: 0.5}
slices: [{sources: [{model: models/base, layer_range: [0, 4]}, {model: models/ft-code, layer_range: [0, 4]}]}]
dtype: float32
out_dtype: float16
tokenizer: {source: base, pad_to_multiple_of: 64}
",
    );
    // Modules are taken by name, and then key by key.
    same(
        &[
            (
                "recipe.yml",
                "include: a.yml\nmodules:\n  model.layers: {parameters: {t: 0.9}}\n  model.norm: {models: [{model: models/ft-code}]}\n",
            ),
            (
                "a.yml",
                "merge_method: slerp\nbase_model: models/base\nparameters: {t: 0.5}\nmodules:\n  model.layers: {models: [{model: models/ft-code}], parameters: {t: 0.1}}\n  default: {models: [{model: models/ft-code}]}\n",
            ),
        ],
        &[],
        "\
merge_method: slerp
base_model: models/base
parameters: {t: 0.5}
modules:
  model.layers: {models: [{model: models/ft-code}], parameters: {t: 0.9}}
  default: {models: [{model: models/ft-code}]}
  model.norm: {models: [{model: models/ft-code}]}
",
    );
}

#[test]
fn each_document_and_each_stage_includes_for_itself() {
    let sandbox = Sandbox::with_trained_models();
    let mean = ("mean.yml", "merge_method: linear\nparameters: {weight: 0.5}\ndtype: float32\n");
    let written = "\
name: one
merge_method: linear
parameters: {weight: 0.5}
dtype: float32
models: [{model: models/base}, {model: models/ft-code}]
---
merge_method: linear
parameters: {weight: 2}
dtype: float32
models: [{model: one}, {model: models/ft-math}]
";
    let documents = "\
name: one
include: mean.yml
models: [{model: models/base}, {model: models/ft-code}]
---
include: mean.yml
models: [{model: one}, {model: models/ft-math}]
";
    same(&sandbox, &[("recipe.yml", documents), mean], &["stages[1].parameters.weight=2"], written);
    let list = "\
stages:
  - {name: one, include: mean.yml, models: [{model: models/base}, {model: models/ft-code}]}
  - {include: mean.yml, parameters: {weight: 2}, models: [{model: one}, {model: models/ft-math}]}
";
    same(&sandbox, &[("recipe.yml", list), mean], &[], written);
    // The whole list may come from a file.
    let files = [("recipe.yml", "include: list.yml\n"), ("list.yml", list), mean];
    same(&sandbox, &files, &["stages[one].dtype=float32"], written);
}

#[test]
fn included_files_are_recorded_as_they_are() {
    let sandbox = Sandbox::with_trained_models();
    let included =
        "# The common part.\nmerge_method: linear   # a mean\nparameters: &p {weight: 1}\n";
    let nested = "include: ../common.yml\n";
    write(&sandbox, &[("common.yml", included), ("sub/nested.yml", nested)]);
    let recipe = "include: [./common.yml, sub/nested.yml]\nmodels: [{model: models/base}, {model: models/ft-code}]\n";
    sandbox.merge(recipe, "out", &[]);
    let lineage = sandbox.read_json("out/lineage.json");
    assert_eq!(lineage["recipe"]["text"], recipe);
    let expected = json!([
        {"path": "common.yml", "text": included},
        {"path": "sub/nested.yml", "text": nested},
        {"path": "sub/../common.yml", "text": included},
    ]);
    assert_eq!(lineage["recipe"]["includes"], expected);
    let card = String::from_utf8(sandbox.read("out/README.md")).unwrap();
    assert!(card.contains(recipe.trim_end()) && card.contains(included.trim_end()), "{card}");
    // The record is all that is needed to do it again.
    let again = Sandbox::with_trained_models();
    again.write("recipe.yml", lineage["recipe"]["text"].as_str().unwrap());
    for file in lineage["recipe"]["includes"].as_array().unwrap() {
        again.write(file["path"].as_str().unwrap(), file["text"].as_str().unwrap());
    }
    again.ok(&["merge", "recipe.yml", "-o", "out", "--quiet"]);
    for file in [SINGLE, "lineage.json", "README.md"] {
        assert!(
            sandbox.read(&format!("out/{file}")) == again.read(&format!("out/{file}")),
            "{file}"
        );
    }
}

#[test]
fn files_that_cannot_be_included() {
    let sandbox = Sandbox::with_trained_models();
    let models = "models: [{model: models/base}]\n";
    let including = |path: &str| format!("merge_method: linear\ninclude: {path}\n{models}");
    let mut large = b"# ".to_vec();
    large.resize((1 << 20) - 10, b'x');
    sandbox.write("large.yml", large);
    sandbox.write("latin1.yml", b"dtype: float32 # caf\xe9\n");
    std::fs::create_dir(sandbox.path("folder")).unwrap();
    for depth in 0..12 {
        sandbox.write(&format!("deep/{depth}.yml"), format!("include: {}.yml\n", depth + 1));
    }
    sandbox.write("deep/12.yml", "dtype: float32\n");
    write(
        &sandbox,
        &[
            ("circle/a.yml", "include: b.yml\n"),
            ("circle/b.yml", "dtype: float32\ninclude: [../circle/a.yml]\n"),
            ("self.yml", "include: recipe.yml\n"),
            ("empty.yml", "# nothing\n"),
            ("list.yml", "- dtype: float32\n"),
            ("word.yml", "float32\n"),
            ("two.yml", "dtype: float32\n---\ndtype: float16\n"),
            ("unknown.yml", "dtype: float32\n\nparamters: {weight: 1}\n"),
            ("broken.yml", "dtype: [\n"),
            ("range.yml", "\nparameters:\n  density: 1.5\n"),
            ("model.yml", "base_model: models/nowhere\n"),
            ("dtype.yml", "dtype: float23\n"),
            ("wrong.yml", "include: unknown.yml\n"),
        ],
    );
    let many = vec!["dtype.yml"; 65].join(", ");
    let cases = [
        ("a missing file", including("missing.yml"), "recipe.yml:2:10"),
        ("missing, in a list", including("[dtype.yml, missing.yml]"), "recipe.yml:2:22"),
        ("no path", including("''"), "recipe.yml:2:10"),
        ("a folder", including("folder"), "recipe.yml:2:10"),
        ("not paths", including("{a: b}"), "recipe.yml:2:"),
        ("too large", including("large.yml"), "recipe.yml:2:10"),
        ("not text", including("latin1.yml"), "recipe.yml:2:10"),
        ("a circle", including("circle/a.yml"), "circle/b.yml:2:11"),
        ("itself", including("self.yml"), "self.yml:1:10"),
        ("too deep", including("deep/0.yml"), "deep/7.yml:1:10"),
        ("too many", including(&format!("[{many}]")), "recipe.yml:2:"),
        ("empty", including("empty.yml"), "recipe.yml:2:10"),
        ("a list", including("list.yml"), "list.yml:1:1"),
        ("a word", including("word.yml"), "word.yml:1:1"),
        ("two documents", including("two.yml"), "recipe.yml:2:10"),
        ("an unknown key", including("unknown.yml"), "unknown.yml:3:1"),
        ("an unknown key, deeper", including("wrong.yml"), "unknown.yml:3:1"),
        ("not YAML", including("broken.yml"), "broken.yml:"),
        ("out of range", including("range.yml").replace("linear", "pcb"), "range.yml:3:3"),
        ("no such model", including("model.yml"), "model.yml:1:13"),
        ("no such dtype", including("dtype.yml"), "dtype.yml:1:8"),
        (
            "beside stages",
            format!(
                "include: dtype.yml\nstages: [{{merge_method: linear, {}}}]\n",
                models.trim_end()
            ),
            "recipe.yml:2:9",
        ),
    ];
    let mut all = String::new();
    for (name, recipe, place) in cases {
        sandbox.write("recipe.yml", recipe);
        let message = sandbox.fails(2, &["plan", "recipe.yml"]);
        assert!(message.contains(place), "{name}: no {place}\n{message}");
        writeln!(all, "## {name}\n{message}").unwrap();
    }
    insta::assert_snapshot!(all);
}

/// A killed merge does not go on with an included file that has changed.
#[test]
fn a_changed_file_is_another_merge() {
    use cognate::recipe::RecipeFile;
    let sandbox = Sandbox::new();
    sandbox.write("recipe.yml", "include: a.yml\nmodels: [{model: a}]\n");
    let open = || RecipeFile::open(&sandbox.path("recipe.yml"), &[]).unwrap();
    sandbox.write("a.yml", "merge_method: linear\n");
    let before = open();
    sandbox.write("a.yml", "merge_method: linear # changed\n");
    assert_ne!(before.includes, open().includes);
    assert_eq!(before.text, open().text);
}
