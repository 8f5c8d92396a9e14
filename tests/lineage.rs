//! What a merge records: every manifest is one of docs/lineage.schema.json, parents' own records go into it and
//! outlive their folders, cards name all ancestors, shards tell of themselves.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/hub.rs"]
mod hub_server;
mod support;

use cognate::lineage::declared::{parse_card, parse_manifest, parse_mergekit, recipe_in_card};
use cognate::lineage::trace::{self, Format, trace};
use jsonschema::Validator;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use support::{LINEAR, SINGLE, Sandbox, config, files, finish, llama, sha256};

fn validator() -> Validator {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/lineage.schema.json");
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    jsonschema::draft202012::meta::validate(&schema).unwrap();
    jsonschema::draft202012::new(&schema).unwrap()
}

fn wrong(validator: &Validator, manifest: &Value) -> Vec<String> {
    let errors = validator.iter_errors(manifest);
    errors.map(|e| format!("{}: {e:.300}", e.instance_path())).collect()
}

/// With the trained models, and what recipes of merge-configs refer to.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::with_trained_models();
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("merge-configs");
    for (path, bytes) in files(&configs) {
        if !path.starts_with("models/") {
            sandbox.write(&path, bytes);
        }
    }
    sandbox
}

/// Two models of random numbers, as [`LINEAR`] merges them.
fn pair() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.model("a", &config(2), &llama(2, 1));
    sandbox.model("b", &config(2), &llama(2, 2));
    sandbox
}

const STAGES: &str = "\
name: middle
merge_method: linear
models: [{model: models/base}, {model: models/ft-code}]
parameters: {weight: 0.5}
---
name: kept
save: saved
merge_method: ties
base_model: models/base
models: [{model: middle+models/lora-math}]
parameters: {weight: 1, density: 0.5}
lines: {alpha: 0.5, beta: 0.5}
---
merge_method: slerp
base_model: kept
models: [{model: models/ft-math}]
parameters: {t: 0.5}
";

/// The kinds of merges: a name, the recipe, arguments.
fn kinds() -> Vec<(&'static str, String, &'static [&'static str])> {
    let file = |path: &str| {
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("merge-configs");
        std::fs::read_to_string(configs.join(path)).unwrap().replace("../", "")
    };
    let union = "merge_method: linear\nbase_model: models/base\nmodels: [{model: models/ft-code}, {model: models/base}]\nparameters: {weight: 1}\ntokenizer: {source: union, pad_to_multiple_of: 8}\n";
    let by_filter = "merge_method: [{filter: mlp, value: slerp}, {value: linear}]\nbase_model: models/base\nmodels: [{model: models/base, parameters: {weight: 1}}, {model: models/ft-code, parameters: {weight: 1}}]\nparameters: {t: 0.5}\n";
    vec![
        ("plain", file("quickstart.yml"), &[]),
        ("digests-outputs", file("linear.yml"), &["--digests", "outputs"]),
        ("digests-none", file("linear.yml"), &["--digests", "none"]),
        ("overridden", format!("include: linear.yml\n{}", "random_seed: 3\n"), &["--set", "dtype=float32"]),
        ("slices", file("passthrough.yml"), &[]),
        ("by-filter", by_filter.to_string(), &[]),
        ("stages", STAGES.to_string(), &[]),
        ("adapters", "merge_method: linear\nmodels: [{model: models/base+models/lora-math, parameters: {weight: 1}}]\n".to_string(), &[]),
        ("mixture", file("moe/hidden.yml"), &[]),
        ("fisher", file("methods/fisher.yml"), &[]),
        ("tokenizer", union.to_string(), &[]),
        ("evaluation", file("average.yml").replace("arithmetic.acc:", "# "), &["--set", "evaluate.limit=2"]),
        ("nested", "merge_method: linear\nmodels: [{model: stages, parameters: {weight: 1}}, {model: adapters, parameters: {weight: 1}}]\n".to_string(), &[]),
        ("nested-again", "merge_method: linear\nmodels: [{model: nested, parameters: {weight: 1}}, {model: plain, parameters: {weight: 1}}]\n".to_string(), &[]),
    ]
}

#[test]
fn manifests_of_every_kind_are_valid() {
    let (sandbox, validator) = (sandbox(), validator());
    let mut seen = BTreeMap::new();
    for (name, recipe, more) in kinds() {
        sandbox.write("recipe.yml", recipe);
        let run = sandbox.run(&[&["merge", "recipe.yml", "-o", name, "--quiet"], more].concat());
        assert!(run.code == Some(0) || name == "evaluation", "{name}: {}", run.stderr);
        let manifest = sandbox.read_json(&format!("{name}/lineage.json"));
        let errors = wrong(&validator, &manifest);
        assert!(errors.is_empty(), "{name}\n{}", errors.join("\n"));
        seen.insert(name, manifest);
    }
    let saved = sandbox.read_json("saved/lineage.json");
    assert_eq!(wrong(&validator, &saved), Vec::<String>::new());
    // The corpus holds what the schema describes.
    assert!(seen["mixture"]["routing"].is_object() && seen["evaluation"]["evaluation"].is_object());
    assert!(seen["fisher"]["inputs"][0]["statistics"].is_object());
    assert!(seen["tokenizer"]["output"]["vocabulary"].is_object());
    assert!(seen["stages"]["stages"][1]["output"]["tensors"][0]["then"].is_array());
    assert_eq!(seen["stages"]["stages"].as_array().unwrap().len(), 2);
    assert!(seen["adapters"]["inputs"][0]["adapters"][0]["base_model_name_or_path"] == "../base");
    let ancestors = seen["nested-again"]["ancestors"].as_object().unwrap();
    assert_eq!(ancestors.len(), 4);
    for name in ["stages", "adapters", "nested", "plain"] {
        let bytes = sandbox.read(&format!("{name}/lineage.json"));
        let short = &ancestors[&sha256(&bytes)];
        let full: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(short["recipe"], full["recipe"], "{name}");
        assert_eq!(short["output"]["digest"], full["output"]["digest"], "{name}");
        assert!(short["ancestors"].is_null() && short["output"]["tensors"].is_null(), "{name}");
        assert!(
            short["inputs"][0]["tensors"].is_null() && short["inputs"][0]["digest"].is_string()
        );
    }
}

#[test]
fn broken_manifests_are_refused() {
    let (sandbox, validator) = (pair(), validator());
    sandbox.merge(LINEAR, "first", &[]);
    sandbox.merge(&LINEAR.replace("model: a", "model: first"), "out", &[]);
    let good = sandbox.read_json("out/lineage.json");
    assert_eq!(wrong(&validator, &good), Vec::<String>::new());
    let sha = sha256(&sandbox.read("first/lineage.json"));
    type Change<'a> = &'a dyn Fn(&mut Value);
    let broken: [(&str, Change<'_>); 9] = [
        ("another schema", &|m| m["schema"] = "cognate/lineage/2".into()),
        ("an unknown field", &|m| m["time"] = "now".into()),
        ("no output", &|m| drop(m.as_object_mut().unwrap().remove("output"))),
        ("a digest in capitals", &|m| m["output"]["digest"] = "A".repeat(64).into()),
        ("a tensor without its digest", &|m| {
            m["output"]["tensors"][0].as_object_mut().unwrap().remove("sha256");
        }),
        ("a dropped tensor without a reason", &|m| m["inputs"][0]["dropped"] = json!({"x": ""})),
        ("licences without parents", &|m| m["license"] = json!({"license": null, "conflicts": []})),
        ("an ancestor under no digest", &|m| {
            m["ancestors"] = json!({"first": m["ancestors"][&sha]});
        }),
        ("an ancestor with tensors", &|m| m["ancestors"][&sha]["output"]["tensors"] = json!([])),
    ];
    for (what, change) in broken {
        let mut manifest = good.clone();
        change(&mut manifest);
        assert!(!validator.is_valid(&manifest), "{what}");
    }
}

#[test]
fn models_of_the_hub_bring_their_records() {
    let (sandbox, hub) = (Sandbox::new(), hub_server::hub());
    hub.put(
        "org/a",
        "README.md",
        "---\nlicense: gemma\nbase_model: org/root\ndatasets: [org/d]\n---\n",
    );
    hub.put(
        "org/b",
        "mergekit_config.yml",
        "models: [{model: other/c}, {model: ./local}]\nbase_model: {path: other/d, revision: v1}\n",
    );
    sandbox.write("recipe.yml", hub_server::RECIPE);
    let run = hub_server::run(&sandbox, &hub, &["merge", "recipe.yml", "-o", "out"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let manifest = sandbox.read_json("out/lineage.json");
    assert_eq!(wrong(&validator(), &manifest), Vec::<String>::new());
    assert_eq!(manifest["inputs"][0]["card"]["base_model"], json!(["org/root"]));
    assert!(manifest["inputs"][1]["mergekit"].as_str().unwrap().contains("other/c"));
    let card = String::from_utf8(sandbox.read("out/README.md")).unwrap();
    let front = card.split("---\n").nth(1).unwrap();
    insta::assert_snapshot!("hub_card", front);
    let label = metadata(&sandbox.read(&format!("out/{SINGLE}")));
    let commit = hub_server::COMMIT;
    assert_eq!(label["cognate.models"], format!("org/a@{commit}, org/b@{commit}"));
    // The trace knows them by their commits, from the cache alone.
    let traced = finish(&mut sandbox.command(&["trace", "out"]));
    insta::assert_snapshot!("hub_trace", traced.stdout);
    let alone = sandbox.ok(&["trace", "org/b@v1", "--format", "json"]).json();
    assert_eq!(alone["nodes"][0]["revision"], commit);
    assert_eq!(alone["nodes"].as_array().unwrap().len(), 4);
}

#[test]
fn cards_name_all_ancestors_licences_and_datasets() {
    let sandbox = pair();
    sandbox.write(
        "a/README.md",
        "---\nlicense: gpl-3.0\nbase_model: [org/root, ../elsewhere]\ndatasets: org/one\n---\n",
    );
    sandbox.write("b/README.md", "---\nlicense: other\nlicense_name: house\nlicense_link: https://example.org\ndatasets: [org/one, org/two]\n---\n");
    sandbox.merge(LINEAR, "first", &[]);
    sandbox.model("c", &config(2), &llama(2, 3));
    sandbox.write("c/README.md", "---\nlicense: cc-by-nc-4.0\n---\n");
    std::fs::remove_dir_all(sandbox.path("a")).unwrap();
    let recipe = LINEAR.replace("model: a", "model: first").replace("model: b", "model: c");
    let run = sandbox.merge(&recipe, "second", &[]);
    let planned = sandbox.ok(&["plan", "recipe.yml", "--json"]).json();
    let warnings: Vec<&str> =
        planned["warnings"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    insta::assert_snapshot!("licence_warnings", warnings.join("\n"));
    assert!(warnings.iter().all(|warning| run.stderr.contains(warning)), "{}", run.stderr);
    let card = |out: &str| String::from_utf8(sandbox.read(&format!("{out}/README.md"))).unwrap();
    insta::assert_snapshot!("card_of_conflicts", card("second"));
    assert!(card("first").contains("license: \"gpl-3.0\"\n"), "{}", card("first"));
    let license = &sandbox.read_json("second/lineage.json")["license"];
    assert_eq!(
        license["of"],
        json!([
            {"model": "first", "license": "gpl-3.0"},
            {"model": "c", "license": "cc-by-nc-4.0"},
            {"model": "a", "license": "gpl-3.0"},
            {"model": "b", "license": "other"},
        ])
    );
    // What ancestors ask for and what they were trained on stays on record, whatever a card says.
    sandbox.write("first/README.md", "---\nlicense: mit\n---\n");
    let mild = LINEAR.replace("model: a", "model: first").replace("model: b", "model: d");
    sandbox.model("d", &config(2), &llama(2, 4));
    sandbox.write("d/README.md", "---\nlicense: llama3.1\n---\n");
    let run = sandbox.merge(&mild, "mild", &[]);
    assert!(run.stderr.contains("gpl-3.0 (of a) asks"), "{}", run.stderr);
    let laxer = "the card of first says mit, its lineage.json gpl-3.0, which counts";
    assert!(run.stderr.contains(laxer), "{}", run.stderr);
    assert!(card("mild").contains("datasets:\n- \"org/one\"\n- \"org/two\"\n"), "{}", card("mild"));
    let traced = sandbox.ok(&["trace", "first"]).stdout;
    assert!(traced.contains("its licence is mit, lineage.json that it is gpl-3.0"), "{traced}");
    // A licence that the Hub has no name for keeps its own.
    sandbox.model("a", &config(2), &llama(2, 1));
    sandbox.merge(LINEAR, "third", &[]);
    assert!(
        card("third").contains(
            "license: \"other\"\nlicense_name: \"house\"\nlicense_link: \"https://example.org\"\n"
        ),
        "{}",
        card("third")
    );
}

#[test]
fn damaged_records_of_parents_are_warnings() {
    let sandbox = pair();
    let mut all = String::new();
    for (what, file, bytes) in [
        ("no UTF-8", "README.md", &b"\xff\xfe"[..]),
        ("front matter without an end", "README.md", b"---\nlicense: mit\n"),
        ("front matter that is a list", "README.md", b"---\n- mit\n---\n"),
        ("a licence that is a number", "README.md", b"---\nlicense: 3\n---\n"),
        ("no YAML", "mergekit_config.yml", b"models: ["),
        ("a recipe of no model", "mergekit_config.yml", b"merge_method: ties\n"),
        ("no JSON", "lineage.json", b"{"),
        ("another's", "lineage.json", b"{\"schema\": \"other/1\"}"),
        (
            "inputs that are no list",
            "lineage.json",
            b"{\"schema\": \"cognate/lineage/1\", \"inputs\": 3}",
        ),
    ] {
        for path in ["README.md", "mergekit_config.yml", "lineage.json"] {
            let _ = std::fs::remove_file(sandbox.path("a").join(path));
        }
        sandbox.write(&format!("a/{file}"), bytes);
        let run = sandbox.merge(LINEAR, "out", &["--overwrite"]);
        all += &format!(
            "{what}: {}",
            run.stderr.lines().filter(|line| line.contains(file)).collect::<Vec<_>>().join("\n")
        );
        all += "\n";
        let manifest = sandbox.read_json("out/lineage.json");
        assert!(manifest["inputs"][0].get("lineage").is_none(), "{what}");
        assert_eq!(wrong(&validator(), &manifest), Vec::<String>::new(), "{what}");
    }
    std::fs::remove_file(sandbox.path("a/lineage.json")).unwrap();
    std::fs::create_dir(sandbox.path("a/README.md")).unwrap();
    let run = sandbox.merge(LINEAR, "out", &["--overwrite"]);
    all += &format!("a folder: {}", run.stderr);
    insta::assert_snapshot!("damaged", all);
}

/// The metadata of a safetensors file.
fn metadata(bytes: &[u8]) -> BTreeMap<String, String> {
    let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
    header.metadata().clone().unwrap().into_iter().collect()
}

#[test]
fn every_shard_tells_of_itself() {
    let sandbox = Sandbox::with_trained_models();
    let recipe = String::from_utf8(sandbox.read("quickstart.yml")).unwrap();
    sandbox.merge(&recipe, "out", &["--shard-size", "500kB", "--seed", "7"]);
    let shards: Vec<Vec<u8>> = files(&sandbox.path("out"))
        .into_iter()
        .filter(|(path, _)| path.ends_with(".safetensors"))
        .map(|(_, bytes)| bytes)
        .collect();
    assert!(shards.len() > 2);
    for bytes in &shards {
        assert_eq!(
            json!(metadata(bytes)),
            json!({
                "cognate.base_model": "base",
                "cognate.methods": "ties",
                "cognate.models": "ft-prose, ft-code, base",
                "cognate.numerics": cognate::engine::NUMERICS.to_string(),
                "cognate.recipe_sha256": sha256(recipe.as_bytes()),
                "cognate.seed": "7",
                "cognate.version": env!("CARGO_PKG_VERSION"),
                "format": "pt",
            })
        );
        // The keys stand in their order, before the tensors.
        let header = String::from_utf8_lossy(&bytes[8..2048]);
        let places: Vec<usize> =
            metadata(bytes).keys().map(|key| header.find(key).unwrap()).collect();
        assert!(places.is_sorted() && header.starts_with("{\"__metadata__\":"), "{header}");
    }
    // Through stages, the models that are none.
    sandbox.merge(STAGES, "staged", &[]);
    let label = metadata(&sandbox.read(&format!("staged/{SINGLE}")));
    assert_eq!(label["cognate.models"], "base, ft-code, lora-math, ft-math");
    assert_eq!(label["cognate.methods"], "linear, ties, lines, slerp");
    assert_eq!(label["cognate.base_model"], "kept");
    assert_eq!(
        metadata(&sandbox.read(&format!("saved/{SINGLE}")))["cognate.models"],
        "base, ft-code, lora-math"
    );
}

#[test]
fn ancestors_are_named_once_through_every_record() {
    let sandbox = pair();
    sandbox.write("a/README.md", "---\nbase_model: [org/root, org/twice]\n---\n");
    sandbox.write("b/mergekit_config.yml", "models: [{model: org/twice@v2}, {model: org/deep}]\n");
    sandbox.merge(LINEAR, "first", &[]);
    for folder in ["a", "b"] {
        std::fs::remove_dir_all(sandbox.path(folder)).unwrap();
    }
    sandbox.model("c", &config(2), &llama(2, 3));
    let recipe = LINEAR.replace("model: a", "model: first").replace("model: b", "model: c");
    sandbox.merge(&recipe, "second", &[]);
    // The manifest alone is left of the parent.
    std::fs::remove_file(sandbox.path("second/README.md")).unwrap();
    sandbox.merge(&recipe.replace("model: first", "model: second"), "third", &[]);
    let card = String::from_utf8(sandbox.read("third/README.md")).unwrap();
    let names: Vec<&str> = card.lines().skip(2).take_while(|line| line.starts_with("- ")).collect();
    assert_eq!(
        names,
        ["- \"second\"", "- \"c\"", "- \"org/root\"", "- \"org/twice\"", "- \"org/deep\""]
    );
}

/// The seeds of the fuzz target, cut and with bytes replaced: nothing panics, names stay short, and what is
/// read as a manifest can be traced and printed.
#[test]
fn damaged_bytes_do_no_harm() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/lineage");
    let sandbox = Sandbox::new();
    let (mut manifests, mut recipes, mut cards) = (0, 0, 0);
    for (_, seed) in files(&seeds) {
        let cut = (0..seed.len()).map(|end| seed[..end].to_vec());
        let replaced = (0..seed.len()).flat_map(|at| {
            let seed = &seed;
            b"\"{[]}:-\n&*\xff0".iter().map(move |byte| {
                let mut bytes = seed.clone();
                bytes[at] = *byte;
                bytes
            })
        });
        for bytes in std::iter::once(seed.clone()).chain(cut).chain(replaced) {
            let text = String::from_utf8_lossy(&bytes);
            let short = |name: &String| {
                !name.is_empty() && name.len() <= 500 && !name.chars().any(char::is_control)
            };
            if let Ok((card, _)) = parse_card(&text) {
                assert!(card.base_model.iter().chain(&card.datasets).all(short));
                recipe_in_card(&text, &card)
                    .inspect(|found| assert!(found.models.iter().all(short)));
                cards += usize::from(card.declares());
            }
            if let Ok(found) = parse_mergekit(&text) {
                assert!(!found.models.is_empty() && found.models.iter().all(short));
                recipes += 1;
            }
            if parse_manifest(&bytes).is_ok() {
                manifests += 1;
                if manifests % 20 == 1 {
                    sandbox.write("out/lineage.json", &bytes);
                    let folder = sandbox.path("out");
                    let found =
                        trace(folder.to_str().unwrap(), &trace::Options::default()).unwrap();
                    let formats = [Format::Text, Format::Mermaid, Format::Dot, Format::Html];
                    assert!(formats.iter().all(|format| !found.print(*format).is_empty()));
                }
            }
        }
    }
    assert!(manifests > 100 && recipes > 100 && cards > 100, "{manifests} {recipes} {cards}");
}
