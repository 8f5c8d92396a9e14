//! An in-toto statement about the files of a model folder
//! (<https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md>).
//!
//! Its subjects are the files that the OpenSSF model-signing tool lists, in its order. Of a merge, the predicate
//! is SLSA provenance (<https://slsa.dev/spec/v1.0/provenance>).

use super::ancestors::Ancestor;
use super::described::Described;
use super::tool;
use crate::lineage::FILE;
use serde_json::{Map, Value, json};

const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
/// What a merge is as a build: its parameters and dependencies are read as docs/lineage.md says.
const MERGE: &str = "pkg:cargo/cognate#merge/1";
/// The predicate of a folder of which no provenance is known.
const DECLARED: &str = "pkg:cargo/cognate#declared/1";

pub(super) fn statement(model: &Described) -> Value {
    let subject = |file: &super::described::DescribedFile| json!({"name": file.path, "digest": {"sha256": file.sha256}});
    let (kind, predicate) = match &model.manifest {
        Some(manifest) => (PROVENANCE, provenance(model, manifest)),
        None => (DECLARED, declared(model)),
    };
    json!({
        "_type": STATEMENT,
        "subject": model.files.iter().map(subject).collect::<Vec<_>>(),
        "predicateType": kind,
        "predicate": predicate,
    })
}

fn provenance(model: &Described, manifest: &Value) -> Value {
    let recipe = &manifest["recipe"];
    let mut written = Map::new();
    for key in ["text", "includes", "overrides"] {
        if !recipe[key].is_null() {
            written.insert(key.to_string(), recipe[key].clone());
        }
    }
    let version = &manifest["tool"]["version"];
    let builder = match version.as_str() {
        Some(version) => format!("pkg:cargo/cognate@{version}"),
        None => tool(),
    };
    let dependencies: Vec<Value> =
        model.ancestors.direct.iter().map(|at| dependency(&model.ancestors.all[*at])).collect();
    let lineage = model.files.iter().find(|file| file.path == FILE);
    let lineage = lineage.map(|file| json!({"name": FILE, "digest": {"sha256": file.sha256}}));
    json!({
        "buildDefinition": {
            "buildType": MERGE,
            "externalParameters": {"recipe": written, "seed": manifest["seed"]},
            "internalParameters": {
                "numerics": manifest["numerics"],
                "resolved": recipe["resolved"],
            },
            "resolvedDependencies": dependencies,
        },
        "runDetails": {
            "builder": {"id": builder, "version": {"cognate": version}},
            "byproducts": lineage.into_iter().collect::<Vec<_>>(),
        },
    })
}

/// A model that went in, as a resource descriptor. It has a digest or a place as these ask.
fn dependency(ancestor: &Ancestor) -> Value {
    let mut entry = json!({"name": ancestor.name});
    let mut digest = Map::new();
    if let Some(revision) = &ancestor.revision {
        digest.insert("gitCommit".to_string(), revision.clone().into());
    }
    if let Some(model) = &ancestor.digest {
        digest.insert("cognateModel".to_string(), model.clone().into());
    }
    match ancestor.purl() {
        Some(purl) => entry["uri"] = purl.into(),
        None if digest.is_empty() => {
            entry["uri"] = format!("pkg:generic/{}", encoded(&ancestor.name)).into();
        }
        None => {}
    }
    if !digest.is_empty() {
        entry["digest"] = digest.into();
    }
    let mut notes = Map::new();
    if ancestor.adapter {
        notes.insert("kind".to_string(), "LoRA adapter".into());
    }
    if let Some(license) = &ancestor.card.license {
        notes.insert("license".to_string(), license.clone().into());
    }
    if !notes.is_empty() {
        entry["annotations"] = notes.into();
    }
    entry
}

/// A name as a package URL writes it: all but letters, digits and `.-_~` in percent signs.
pub(super) fn encoded(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_~".contains(&byte);
    name.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn declared(model: &Described) -> Value {
    json!({
        "name": model.name,
        "architecture": model.architecture,
        "license": model.license(),
        "datasets": model.datasets(),
        "baseModel": model.card.base_model,
        "tool": tool(),
    })
}
