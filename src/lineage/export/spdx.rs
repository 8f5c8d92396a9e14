//! An SPDX 3.0.1 document of a model in JSON-LD (<https://spdx.github.io/spdx-spec/v3.0.1/>), which conforms to
//! the profiles core, software, simpleLicensing and ai.

use super::ancestors::Ancestor;
use super::described::Described;
use super::{Options, licence, uuid};
use serde_json::{Value, json};

const CONTEXT: &str = "https://spdx.org/rdf/3.0.1/spdx-context.jsonld";
/// Stands where a value is asked for and nothing is known.
const NO_ASSERTION: &str = "https://spdx.org/rdf/3.0.1/terms/Core/NoAssertionElement";
/// The node that says when and by what the elements were made.
const CREATION: &str = "_:creation";
/// Where a time is asked for and none is given.
const NO_TIME: &str = "1970-01-01T00:00:00Z";

/// The elements of a document in order.
struct Graph {
    namespace: String,
    elements: Vec<Value>,
    relationships: usize,
}

impl Graph {
    fn id(&self, name: &str) -> String {
        format!("{}#{name}", self.namespace)
    }

    /// Adds an element under a name, which becomes its identifier.
    fn add(&mut self, kind: &str, name: &str, properties: Value) -> String {
        let id = self.id(name);
        let mut element = json!({"type": kind, "spdxId": id, "creationInfo": CREATION});
        if let (Some(element), Value::Object(properties)) = (element.as_object_mut(), properties) {
            element.extend(properties);
        }
        self.elements.push(element);
        id
    }

    fn relate(&mut self, from: &str, kind: &str, to: &[String], complete: bool) {
        if to.is_empty() {
            return;
        }
        self.relationships += 1;
        let name = format!("relationship-{}", self.relationships);
        let completeness = if complete { "complete" } else { "noAssertion" };
        let properties = json!({
            "from": from, "relationshipType": kind, "to": to, "completeness": completeness,
        });
        self.add("Relationship", &name, properties);
    }
}

pub(super) fn document(model: &Described, options: &Options<'_>) -> Value {
    let created = options.created.as_ref().map_or(NO_TIME, |moment| &moment.0);
    let namespace = format!("urn:uuid:{}", uuid(model, "spdx"));
    let mut graph = Graph { namespace, elements: Vec::new(), relationships: 0 };
    let version = env!("CARGO_PKG_VERSION");
    let name = format!("cognate {version}");
    let agent = graph.add("SoftwareAgent", "cognate", json!({"name": name}));
    let supplier = match &options.supplier {
        Some(name) => json!({"name": name}),
        None => json!({"name": "not stated", "comment": "Nobody said who supplies the model."}),
    };
    let supplier = graph.add("Agent", "supplier", supplier);
    let root = package(&mut graph, model, created, &supplier);
    let files = files(&mut graph, model);
    graph.relate(&root, "contains", &files, true);
    license(&mut graph, &root, "license", model.license());
    let ancestors: Vec<String> = (0..model.ancestors.all.len())
        .map(|at| ancestor(&mut graph, &model.ancestors.all[at], at))
        .collect();
    let of = |places: &[usize]| places.iter().map(|at| ancestors[*at].clone()).collect::<Vec<_>>();
    let recorded = model.manifest.is_some();
    graph.relate(&root, "descendantOf", &of(&model.ancestors.direct), recorded);
    for (at, ancestor) in model.ancestors.all.iter().enumerate() {
        graph.relate(&ancestors[at], "descendantOf", &of(&ancestor.parents), false);
        let name = format!("ancestor-{}-license", at + 1);
        license(&mut graph, &ancestors[at], &name, ancestor.card.license.as_deref());
    }
    datasets(&mut graph, model, &root, &ancestors);
    let elements: Vec<Value> =
        graph.elements.iter().map(|element| element["spdxId"].clone()).collect();
    graph.add(
        "SpdxDocument",
        "document",
        json!({
            "name": model.name,
            "profileConformance": ["core", "software", "simpleLicensing", "ai"],
            "rootElement": [root],
            "element": elements,
        }),
    );
    let creation = json!({
        "type": "CreationInfo",
        "@id": CREATION,
        "specVersion": "3.0.1",
        "created": created,
        "createdBy": [agent],
    });
    let nodes = std::iter::once(creation).chain(graph.elements);
    json!({"@context": CONTEXT, "@graph": nodes.collect::<Vec<_>>()})
}

/// The model.
fn package(graph: &mut Graph, model: &Described, created: &str, supplier: &str) -> String {
    let mut properties = json!({
        "name": model.name,
        "software_primaryPurpose": "model",
        // A model's version is what its weights are.
        "software_packageVersion": model.digest().unwrap_or("not known"),
        "software_downloadLocation": NO_ASSERTION,
        "releaseTime": created,
        "suppliedBy": supplier,
    });
    let kinds = [&model.model_type, &model.architecture];
    let kinds: Vec<&String> = kinds.into_iter().flatten().collect();
    if !kinds.is_empty() {
        properties["ai_typeOfModel"] = json!(kinds);
    }
    let entry =
        |key: &str, value: String| json!({"type": "DictionaryEntry", "key": key, "value": value});
    if let Some(method) = model.method() {
        let names: Vec<&str> =
            model.ancestors.direct.iter().map(|at| &*model.ancestors.all[*at].name).collect();
        properties["ai_informationAboutTraining"] =
            format!("Not trained: merged by {method} from {}.", names.join(", ")).into();
        properties["ai_hyperparameter"] = json!([
            entry("merge_method", method),
            entry("seed", model.recorded("/seed").to_string()),
            entry("numerics", model.recorded("/numerics").to_string()),
        ]);
        if let Some(text) = model.recorded("/recipe/text").as_str() {
            properties["comment"] = format!("The recipe:\n{text}").into();
        }
    }
    if !model.figures.is_empty() {
        let figures = model.figures.iter();
        let figures = figures.map(|figure| {
            entry(&format!("{}: {}", figure.task, figure.metric), figure.value.clone())
        });
        properties["ai_metric"] = figures.collect();
    }
    graph.add("ai_AIPackage", "model", properties)
}

fn files(graph: &mut Graph, model: &Described) -> Vec<String> {
    let mut ids = Vec::new();
    for (at, file) in model.files.iter().enumerate() {
        let weights = crate::model::is_weight_file(&file.path);
        let purpose = if weights { "model" } else { "file" };
        let properties = json!({
            "name": file.path,
            "software_primaryPurpose": purpose,
            "software_fileKind": "file",
            "verifiedUsing": [
                {"type": "Hash", "algorithm": "sha256", "hashValue": file.sha256},
            ],
        });
        ids.push(graph.add("software_File", &format!("file-{}", at + 1), properties));
    }
    ids
}

/// A model that went in: a package, since nothing is known of when it was released and by whom, which the
/// profile of AI asks.
fn ancestor(graph: &mut Graph, ancestor: &Ancestor, at: usize) -> String {
    let mut properties = json!({"name": ancestor.name, "software_primaryPurpose": "model"});
    if let Some(version) = ancestor.revision.as_ref().or(ancestor.digest.as_ref()) {
        properties["software_packageVersion"] = version.clone().into();
    }
    if let Some(purl) = ancestor.purl() {
        properties["software_packageUrl"] = purl.into();
    }
    if let Some(page) = ancestor.commit_page() {
        properties["software_downloadLocation"] = page.into();
    }
    if let Some(digest) = &ancestor.digest {
        let comment = "The digest of its weights, which does not depend on how they lie in files.";
        properties["verifiedUsing"] = json!([
            {"type": "Hash", "algorithm": "other", "hashValue": digest, "comment": comment},
        ]);
    }
    if ancestor.adapter {
        properties["summary"] = "A LoRA adapter.".into();
    }
    graph.add("software_Package", &format!("ancestor-{}", at + 1), properties)
}

fn license(graph: &mut Graph, of: &str, name: &str, license: Option<&str>) {
    let Some(license) = license else { return };
    let expression = licence::expression(license);
    let id = graph.add(
        "simplelicensing_LicenseExpression",
        name,
        json!({"simplelicensing_licenseExpression": expression}),
    );
    graph.relate(of, "hasDeclaredLicense", &[id], false);
}

/// The datasets that cards name, each trained on by the models whose cards name it.
fn datasets(graph: &mut Graph, model: &Described, root: &str, ancestors: &[String]) {
    let mut names: Vec<String> = Vec::new();
    let own = model.datasets();
    let cards = model.ancestors.all.iter().map(|ancestor| &ancestor.card.datasets);
    for name in cards.clone().flatten().chain(&own) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let ids: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let properties = json!({
                "name": name,
                "software_primaryPurpose": "data",
                "dataset_datasetType": ["noAssertion"],
            });
            graph.add("dataset_DatasetPackage", &format!("dataset-{}", at + 1), properties)
        })
        .collect();
    let of = |all: &Vec<String>| -> Vec<String> {
        names
            .iter()
            .zip(&ids)
            .filter(|(name, _)| all.contains(name))
            .map(|(_, id)| id.clone())
            .collect()
    };
    for (ancestor, all) in ancestors.iter().zip(cards) {
        graph.relate(ancestor, "trainedOn", &of(all), false);
    }
    graph.relate(root, "trainedOn", &of(&own), false);
}
