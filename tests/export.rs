//! `cognate export`: documents that are valid by the published schemas of their formats, the same whenever and
//! wherever they are made, of folders that cognate wrote and of others.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use insta::assert_snapshot;
use jsonschema::Validator;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use support::{LINEAR, Sandbox, config, llama, sha256};

const FORMATS: [&str; 3] = ["in-toto", "cyclonedx", "spdx"];

const CARD: &str =
    "---\nlicense: llama3.1\ndatasets:\n- org/texts\nbase_model:\n- org/parent\n---\n# A model\n";

fn schema(name: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/schemas");
    serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
}

fn cyclonedx() -> Validator {
    let beside = ["spdx.schema.json", "jsf-0.82.schema.json"].map(schema);
    let id = |schema: &Value| schema["$id"].as_str().unwrap().to_string();
    let registry = jsonschema::Registry::new();
    let registry = beside
        .iter()
        .fold(registry, |registry, schema| registry.add(id(schema), schema.clone()).unwrap())
        .prepare()
        .unwrap();
    jsonschema::options().with_registry(&registry).build(&schema("bom-1.6.schema.json")).unwrap()
}

fn spdx() -> Validator {
    jsonschema::draft202012::new(&schema("spdx-3.0.1.schema.json")).unwrap()
}

fn valid(validator: &Validator, document: &Value) {
    let wrong: Vec<String> = validator
        .iter_errors(document)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert_eq!(wrong, Vec::<String>::new(), "{document:#}");
}

/// The rules of the in-toto Statement, v1, and of the resource descriptors in it
/// (<https://github.com/in-toto/attestation/blob/main/spec/v1>).
fn statement(document: &Value) {
    assert_eq!(document["_type"], "https://in-toto.io/Statement/v1");
    let subjects = document["subject"].as_array().unwrap();
    let mut names = BTreeSet::new();
    for subject in subjects {
        assert!(names.insert(subject["name"].as_str().unwrap()), "a subject twice");
        assert_eq!(subject["digest"]["sha256"].as_str().unwrap().len(), 64);
        assert_eq!(subject.as_object().unwrap().len(), 2);
    }
    assert!(!subjects.is_empty());
    let kind = document["predicateType"].as_str().unwrap();
    assert!(kind.contains(':') && !kind.contains(' '), "{kind}");
    assert!(document["predicate"].is_object());
    if kind != "https://slsa.dev/provenance/v1" {
        return;
    }
    let definition = &document["predicate"]["buildDefinition"];
    assert!(definition["buildType"].as_str().unwrap().contains(':'));
    assert!(definition["externalParameters"].is_object());
    for dependency in definition["resolvedDependencies"].as_array().unwrap() {
        let place = dependency["uri"].as_str().is_some_and(|uri| uri.contains(':'));
        assert!(place || dependency["digest"].is_object(), "{dependency}");
        for (key, digest) in dependency["digest"].as_object().into_iter().flatten() {
            let digest = digest.as_str().unwrap();
            assert!(digest.bytes().all(|b| b.is_ascii_hexdigit()), "{key} {digest}");
        }
    }
    assert!(document["predicate"]["runDetails"]["builder"]["id"].as_str().unwrap().contains(':'));
}

/// Every identifier that a document refers to is one of its own.
fn closed(document: &Value) {
    let graph = document["@graph"].as_array().unwrap();
    let ids: BTreeSet<&str> = graph.iter().filter_map(|node| node["spdxId"].as_str()).collect();
    for node in graph {
        let lists = ["to", "rootElement", "element"].map(|key| node[key].as_array());
        let single = ["from", "suppliedBy"].map(|key| &node[key]);
        for id in lists.into_iter().flatten().flatten().chain(single) {
            assert!(id.is_null() || ids.contains(id.as_str().unwrap()), "{id}");
        }
    }
}

fn export(sandbox: &Sandbox, model: &str, format: &str, more: &[&str]) -> Value {
    sandbox.ok(&[&["export", model, "--format", format, "--quiet"], more].concat()).json()
}

/// A merge, and what was exported of it.
fn merged() -> (Sandbox, BTreeMap<&'static str, Value>) {
    let sandbox = Sandbox::new();
    for (name, seed) in [("a", 1), ("b", 2)] {
        sandbox.model(name, &config(1), &llama(1, seed));
        sandbox.write(&format!("{name}/1_Pooling/config.json"), "{}");
        sandbox.write(&format!("{name}/README.md"), CARD);
    }
    sandbox.merge(LINEAR, "out", &["--shard-size", "1kB"]);
    let documents = FORMATS.map(|format| (format, export(&sandbox, "out", format, &[])));
    (sandbox, documents.into())
}

#[test]
fn documents_are_valid() {
    let (sandbox, documents) = merged();
    statement(&documents["in-toto"]);
    valid(&cyclonedx(), &documents["cyclonedx"]);
    valid(&spdx(), &documents["spdx"]);
    closed(&documents["spdx"]);
    // With everything that the command line adds.
    let more =
        ["--name", "A model/1", "--supplier", "Somebody", "--created", "2026-01-31T12:00:00Z"];
    valid(&cyclonedx(), &export(&sandbox, "out", "cyclonedx", &more));
    let document = export(&sandbox, "out", "spdx", &more);
    valid(&spdx(), &document);
    closed(&document);
    // The schemas refuse what is wrong, so that being valid says something.
    let mut wrong = documents["cyclonedx"].clone();
    wrong["metadata"]["component"]["hash"] = json!([]);
    assert!(!cyclonedx().is_valid(&wrong));
    let mut wrong = documents["spdx"].clone();
    wrong["@graph"][1]["surname"] = json!("x");
    assert!(!spdx().is_valid(&wrong));
}

#[test]
fn digests_of_files_are_those_of_their_bytes() {
    let (sandbox, documents) = merged();
    let files = support::files(&sandbox.path("out"));
    let expected: BTreeMap<String, String> =
        files.iter().map(|(path, bytes)| (path.clone(), sha256(bytes))).collect();
    assert!(
        expected.contains_key("1_Pooling/config.json") && expected.contains_key("lineage.json")
    );
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let of = |list: &Value, name: &str, digest: &str| -> BTreeMap<String, String> {
        let pairs = list.as_array().unwrap().iter().filter(|entry| entry.pointer(digest).is_some());
        pairs.map(|entry| (text(&entry[name]), text(entry.pointer(digest).unwrap()))).collect()
    };
    assert_eq!(of(&documents["in-toto"]["subject"], "name", "/digest/sha256"), expected);
    let component = &documents["cyclonedx"]["metadata"]["component"];
    assert_eq!(of(&component["components"], "name", "/hashes/0/content"), expected);
    let files = documents["spdx"]["@graph"].as_array().unwrap().iter();
    let files: Value = files.filter(|node| node["type"] == "software_File").cloned().collect();
    assert_eq!(of(&files, "name", "/verifiedUsing/0/hashValue"), expected);
    // What version control keeps is no part of the model.
    sandbox.write("out/.git/HEAD", "ref");
    sandbox.write("out/.gitattributes", "*.safetensors filter=lfs");
    assert_eq!(export(&sandbox, "out", "in-toto", &[]), documents["in-toto"]);
}

#[test]
fn nothing_depends_on_time_place_or_threads() {
    let (sandbox, documents) = merged();
    for format in FORMATS {
        let one = export(&sandbox, "out", format, &["--threads", "1"]);
        assert_eq!(one, documents[format], "{format}");
        let text = one.to_string();
        assert!(!text.contains(sandbox.path(".").to_str().unwrap()), "{format}");
    }
    let epoch = |value: &str, format: &str| {
        let args = ["export", "out", "--format", format, "--quiet"];
        support::finish(sandbox.command(&args).env("SOURCE_DATE_EPOCH", value))
    };
    let made = epoch("1769860800", "spdx").json();
    assert_eq!(made["@graph"][0]["created"], "2026-01-31T12:00:00Z");
    let made = epoch("1769860800", "cyclonedx").json();
    assert_eq!(made["metadata"]["timestamp"], "2026-01-31T12:00:00Z");
    assert_eq!(epoch("1769860800", "in-toto").json(), documents["in-toto"]);
    assert_eq!(epoch("soon", "spdx").code, Some(2));
    assert_eq!(documents["cyclonedx"]["metadata"].get("timestamp"), None);
    // Another model has another serial number.
    sandbox.write("out/notes.txt", "more");
    let other = export(&sandbox, "out", "cyclonedx", &[]);
    assert_ne!(other["serialNumber"], documents["cyclonedx"]["serialNumber"]);
}

/// A lineage with all that it can say of where a model comes from.
fn rich(sandbox: &Sandbox) {
    let mut manifest = sandbox.read_json("out/lineage.json");
    manifest.as_object_mut().unwrap().shift_remove("digest");
    let elder = "e".repeat(64);
    let revision = "0123456789abcdef0123456789abcdef01234567";
    let input = &mut manifest["inputs"][0];
    input["repo"] = "org/child".into();
    input["revision"] = revision.into();
    input["card"] = json!({"license": "apache-2.0", "datasets": ["org/texts", "org/code"]});
    input["lineage"] = json!({"sha256": elder});
    input["adapters"] = json!([{
        "adapter": "lora", "prefix": "adapter 1:", "card": {"license": "cc-by-nc-4.0"},
    }]);
    let grandparent = json!({
        "model": "org/grandparent", "repo": "org/grandparent", "revision": revision,
        "card": {"license": "gemma", "license_link": "https://ai.google.dev/gemma/terms"},
    });
    // A record that names itself as its own parent ends somewhere.
    let itself = json!({"model": "loop", "lineage": {"sha256": elder}});
    manifest["ancestors"] = json!({&elder: {"inputs": [grandparent, itself]}});
    manifest["license"] = json!({"license": "cc-by-nc-4.0", "of": [], "conflicts": []});
    manifest["datasets"] = json!(["org/texts", "org/code"]);
    let report = json!({"results": [{"model": "merge", "tasks": {
        "prose": {"acc": {"value": 0.5, "stderr": 0.1}, "n": 4, "version": 1},
    }}]});
    sandbox.write("out/eval.json", report.to_string());
    let body = format!("{manifest:#}\n");
    let open = body.strip_suffix("\n}\n").unwrap();
    let digest = sha256(body.as_bytes());
    sandbox.write("out/lineage.json", format!("{open},\n  \"digest\": \"{digest}\"\n}}\n"));
}

#[test]
fn ancestors_licences_datasets_and_figures_are_said() {
    let (sandbox, _) = merged();
    rich(&sandbox);
    let bom = export(&sandbox, "out", "cyclonedx", &[]);
    valid(&cyclonedx(), &bom);
    let document = export(&sandbox, "out", "spdx", &[]);
    valid(&spdx(), &document);
    closed(&document);
    let statement_of = export(&sandbox, "out", "in-toto", &[]);
    statement(&statement_of);
    // Files aside, which the tests above hold to their bytes.
    let mut bom_told = bom;
    bom_told["metadata"]["component"]["components"] = json!("…");
    bom_told["serialNumber"] = json!("…");
    assert_snapshot!("cyclonedx", format!("{bom_told:#}"));
    let graph = document["@graph"].as_array().unwrap().iter();
    let namespace = document["@graph"][1]["spdxId"].as_str().unwrap().split('#').next().unwrap();
    let told: Vec<&Value> = graph
        .filter(|node| node["type"] != "software_File" && node["type"] != "SpdxDocument")
        .filter(|node| node["relationshipType"] != "contains")
        .collect();
    let told = format!("{:#}", json!(told)).replace(namespace, "urn:uuid:…");
    assert_snapshot!("spdx", told);
    assert_snapshot!("in_toto", format!("{:#}", statement_of["predicate"]["buildDefinition"]));
}

#[test]
fn folders_of_others_are_described_plainly() {
    let sandbox = Sandbox::new();
    sandbox.model("theirs", &config(1), &llama(1, 1));
    sandbox.write("theirs/README.md", CARD);
    for format in FORMATS {
        let run = sandbox.ok(&["export", "theirs", "--format", format]);
        assert!(run.stderr.contains("there is no lineage.json"), "{}", run.stderr);
        let document = run.json();
        match format {
            "in-toto" => {
                statement(&document);
                assert_eq!(document["predicate"]["baseModel"], json!(["org/parent"]));
                assert_eq!(document["predicate"]["license"], "llama3.1");
            }
            "cyclonedx" => {
                valid(&cyclonedx(), &document);
                let component = &document["metadata"]["component"];
                assert_eq!(component["name"], "theirs");
                assert_eq!(
                    component["pedigree"]["ancestors"][0]["purl"],
                    "pkg:huggingface/org/parent"
                );
                assert_eq!(component["licenses"][0]["license"]["name"], "llama3.1");
            }
            _ => {
                valid(&spdx(), &document);
                closed(&document);
                assert!(document.to_string().contains("LicenseRef-llama3.1"));
            }
        }
    }
}

#[test]
fn what_is_not_exported() {
    let (sandbox, _) = merged();
    let mut all = sandbox.fails(2, &["export", "nowhere", "--format", "spdx"]);
    all += &sandbox.fails(2, &["export", "out", "--format", "spdx", "--created", "today"]);
    // A file that differs is a warning: the document says what is there.
    sandbox.write("out/README.md", "# Mine\n");
    let run = sandbox.ok(&["export", "out", "--format", "in-toto", "-o", "out.json"]);
    all += &run.stderr;
    assert!(sandbox.exists("out.json") && run.stdout.is_empty());
    let text = String::from_utf8(sandbox.read("out/lineage.json")).unwrap();
    sandbox.write("out/lineage.json", text.replace("linear", "lineas"));
    all += &sandbox.fails(2, &["export", "out", "--format", "in-toto"]);
    assert_snapshot!(all);
}
