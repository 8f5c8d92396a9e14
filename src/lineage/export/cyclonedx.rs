//! A CycloneDX 1.6 bill of materials of a model (<https://cyclonedx.org/docs/1.6/json/>).

use super::ancestors::Ancestor;
use super::card::Card;
use super::described::Described;
use super::{Options, licence, uuid};
use serde_json::{Map, Value, json};

/// How the model is referred to within the document.
const MODEL: &str = "model";

/// Generations of ancestors within ancestors at most.
const MOST_GENERATIONS: usize = 8;

pub(super) fn bom(model: &Described, options: &Options<'_>) -> Value {
    let mut metadata = Map::new();
    if let Some(moment) = &options.created {
        metadata.insert("timestamp".to_string(), moment.0.clone().into());
    }
    let version = env!("CARGO_PKG_VERSION");
    let tool = json!({"type": "application", "name": "cognate", "version": version});
    metadata.insert("tools".to_string(), json!({"components": [tool]}));
    metadata.insert("component".to_string(), component(model, options));
    let parents = model.ancestors.direct.iter().map(|at| reference(*at));
    let mut dependencies = vec![json!({"ref": MODEL, "dependsOn": parents.collect::<Vec<_>>()})];
    for (at, ancestor) in model.ancestors.all.iter().enumerate() {
        let parents: Vec<String> = ancestor.parents.iter().map(|at| reference(*at)).collect();
        dependencies.push(match parents.is_empty() {
            true => json!({"ref": reference(at)}),
            false => json!({"ref": reference(at), "dependsOn": parents}),
        });
    }
    let ancestors = model.ancestors.all.iter().enumerate();
    let components: Vec<Value> = ancestors
        .map(|(at, ancestor)| ancestor_component(ancestor, Some(&reference(at))))
        .collect();
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": format!("urn:uuid:{}", uuid(model, "cyclonedx")),
        "version": 1,
        "metadata": metadata,
        "components": components,
        "dependencies": dependencies,
    })
}

fn reference(at: usize) -> String {
    format!("ancestor-{}", at + 1)
}

fn property(name: &str, value: impl Into<String>) -> Value {
    json!({"name": format!("cognate:{name}"), "value": value.into()})
}

fn component(model: &Described, options: &Options<'_>) -> Value {
    let mut component = json!({
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": model.name,
    });
    if let Some(digest) = model.digest() {
        // A model's version is what its weights are.
        component["version"] = digest.into();
    }
    if let Some(supplier) = &options.supplier {
        component["supplier"] = json!({"name": supplier});
    }
    let own = Card { license: model.license().map(str::to_string), ..model.card.clone() };
    if let Some(licenses) = licenses(&own) {
        component["licenses"] = licenses;
    }
    component["modelCard"] = model_card(model);
    if !model.ancestors.direct.is_empty() {
        component["pedigree"] = pedigree(model, &model.ancestors.direct, 0);
    }
    component["components"] = model
        .files
        .iter()
        .map(|file| {
            json!({
                "type": "file",
                "bom-ref": format!("file:{}", file.path),
                "name": file.path,
                "hashes": [{"alg": "SHA-256", "content": file.sha256}],
                "properties": [property("size", file.size.to_string())],
            })
        })
        .collect();
    let mut properties = Vec::new();
    if let Some(digest) = model.digest() {
        properties.push(property("digest", digest));
    }
    for (name, pointer) in [
        ("recipe", "/recipe/text"),
        ("seed", "/seed"),
        ("numerics", "/numerics"),
        ("version", "/tool/version"),
    ] {
        match model.recorded(pointer) {
            Value::Null => {}
            Value::String(text) => properties.push(property(name, text.clone())),
            other => properties.push(property(name, other.to_string())),
        }
    }
    if !properties.is_empty() {
        component["properties"] = properties.into();
    }
    component
}

fn licenses(card: &Card) -> Option<Value> {
    let hub = card.license.as_ref()?;
    let mut license = match licence::spdx_id(hub) {
        Some(id) => json!({"id": id}),
        None => json!({"name": card.license_name.as_ref().unwrap_or(hub)}),
    };
    if let Some(link) = card.license_link.as_ref().filter(|link| link.starts_with("https://")) {
        license["url"] = link.clone().into();
    }
    license["acknowledgement"] = "declared".into();
    Some(json!([{"license": license}]))
}

fn model_card(model: &Described) -> Value {
    let mut parameters = Map::new();
    if let Some(family) = &model.model_type {
        parameters.insert("architectureFamily".to_string(), family.clone().into());
    }
    if let Some(architecture) = &model.architecture {
        parameters.insert("modelArchitecture".to_string(), architecture.clone().into());
    }
    let datasets = model.datasets();
    if !datasets.is_empty() {
        let dataset = |name: &String| json!({"type": "dataset", "name": name});
        parameters.insert("datasets".to_string(), datasets.iter().map(dataset).collect());
    }
    let mut card = json!({"modelParameters": parameters});
    if !model.figures.is_empty() {
        let figures = model.figures.iter().map(
            |figure| json!({"type": figure.metric, "value": figure.value, "slice": figure.task}),
        );
        card["quantitativeAnalysis"] = json!({"performanceMetrics": figures.collect::<Vec<_>>()});
    }
    if let Some(method) = model.method() {
        card["properties"] = json!([property("merge_method", method)]);
    }
    card
}

/// Ancestors and their commits.
fn pedigree(model: &Described, places: &[usize], depth: usize) -> Value {
    let all = || places.iter().map(|at| &model.ancestors.all[*at]);
    let ancestors: Vec<Value> = all()
        .map(|ancestor| {
            let mut component = ancestor_component(ancestor, None);
            if !ancestor.parents.is_empty() && depth < MOST_GENERATIONS {
                component["pedigree"] = pedigree(model, &ancestor.parents, depth + 1);
            }
            component
        })
        .collect();
    let commits: Vec<Value> = all()
        .filter_map(|ancestor| {
            Some(json!({"uid": ancestor.revision.as_ref()?, "url": ancestor.commit_page()?}))
        })
        .collect();
    let mut pedigree = json!({"ancestors": ancestors});
    if !commits.is_empty() {
        pedigree["commits"] = commits.into();
    }
    pedigree
}

fn ancestor_component(ancestor: &Ancestor, reference: Option<&str>) -> Value {
    let mut component = json!({"type": "machine-learning-model"});
    if let Some(reference) = reference {
        component["bom-ref"] = reference.into();
    }
    component["name"] = ancestor.name.clone().into();
    if let Some(version) = ancestor.revision.as_ref().or(ancestor.digest.as_ref()) {
        component["version"] = version.clone().into();
    }
    if let Some(licenses) = licenses(&ancestor.card) {
        component["licenses"] = licenses;
    }
    if let Some(purl) = ancestor.purl() {
        component["purl"] = purl.into();
    }
    let mut properties = Vec::new();
    if let Some(digest) = &ancestor.digest {
        properties.push(property("digest", digest.clone()));
    }
    if ancestor.adapter {
        properties.push(property("kind", "LoRA adapter"));
    }
    if !properties.is_empty() {
        component["properties"] = properties.into();
    }
    component
}
