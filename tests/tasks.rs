//! The built-in tasks against lm-evaluation-harness 0.4.13's own of the same names: requests, filters
//! and groups. `tests/compare/lm_eval_tasks.py` wrote what is expected.
#![allow(clippy::unwrap_used)]

use cognate::eval::dataset::{Access, DataFiles, Document, Location, Value as Cell};
use cognate::eval::encode::TextEncoder;
use cognate::eval::items::Items;
use cognate::eval::metric::ItemValue;
use cognate::eval::request::{self, Answer, Asking};
use cognate::eval::score;
use cognate::eval::task::{Catalog, Output, Task};
use cognate::eval::{
    GenerateRequest, Generation, LanguageModel, Score, ScoreRequest, chat, encode,
};
use cognate::model::hub::{Settings, Unwatched};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const MODEL: &str = "merge-configs/models/base";

fn golden() -> BTreeMap<String, Value> {
    let text = std::fs::read_to_string("tests/data/eval/built_in.json").unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Writes the made-up rows of a task to files of a folder.
fn location(rows: &Value, folder: &Path) -> Location {
    let mut files = DataFiles::default();
    for (split, rows) in rows.as_object().unwrap() {
        let file = format!("{split}.jsonl");
        let lines = rows.as_array().unwrap().iter().map(|row| format!("{row}\n"));
        std::fs::write(folder.join(&file), lines.collect::<String>()).unwrap();
        files.splits.insert(split.clone(), vec![file]);
    }
    Location::parse("json", files, folder).unwrap()
}

/// The task of a name, on made-up rows and with so many examples.
fn task(catalog: &Catalog, name: &str, location: &Location, shots: usize) -> Task {
    let mut task = catalog.select(name).unwrap()[0].tasks()[0].clone();
    task.fewshot.count = shots;
    task.location = location.clone();
    task
}

/// All requests of a task, as lm-eval has them: the item's number, then the texts.
fn requests(task: &Task, encoder: &TextEncoder) -> Vec<Value> {
    let hub = Settings::from_env().unwrap();
    let access = Access { hub: &hub, watch: &Unwatched };
    let items = Items::prepare(task, None, &access).unwrap();
    let mut found = Vec::new();
    for item in &items.items {
        for (context, rest) in request::texts(task, item, encoder, Asking::default()).unwrap() {
            found.push(match task.output {
                Output::GenerateUntil => json!([item.id, context]),
                Output::Rolling => json!([item.id, rest]),
                _ => json!([item.id, context, rest]),
            });
        }
    }
    found
}

#[test]
fn requests_are_those_of_lm_eval() {
    let encoder = TextEncoder::open(Path::new(MODEL)).unwrap();
    let catalog = Catalog::built_in();
    let golden = golden();
    let single = golden.iter().filter(|(_, expected)| expected["tasks"].is_null());
    let mut compared = 0;
    for (name, expected) in single {
        let folder = tempfile::tempdir().unwrap();
        let location = location(&expected["rows"], folder.path());
        for shots in [0, 2] {
            let found = requests(&task(&catalog, name, &location, shots), &encoder);
            let expected = expected[format!("shots_{shots}").as_str()].as_array().unwrap();
            for (ours, theirs) in found.iter().zip(expected) {
                assert_eq!(ours, theirs, "{name}, {shots} examples");
            }
            assert_eq!(found.len(), expected.len(), "{name}");
        }
        compared += 1;
    }
    assert!(compared >= 13);
}

#[test]
fn requests_of_families_are_those_of_lm_eval() {
    let encoder = TextEncoder::open(Path::new(MODEL)).unwrap();
    let catalog = Catalog::built_in();
    let golden = golden();
    let mut known: Vec<&str> = vec!["bbh", "ceval"];
    for (family, expected) in &golden {
        known.push(family);
        let Some(tasks) = expected["tasks"].as_object() else {
            continue;
        };
        let folder = tempfile::tempdir().unwrap();
        let location = location(&expected["rows"], folder.path());
        for (name, expected) in tasks {
            known.push(name);
            for shots in [0, 2] {
                let task = task(&catalog, name, &location, shots);
                assert_eq!(task.dataset_name.as_deref(), expected["dataset_name"].as_str());
                let found = requests(&task, &encoder);
                if let (Some(first), 2) = (expected["requests"].get(0), shots) {
                    assert_eq!(&found[0], first, "{name}");
                }
                let mut digest = Sha256::new();
                for part in found.iter().flat_map(|request| request.as_array().unwrap()) {
                    match part.as_str() {
                        Some(text) => digest.update(text),
                        None => digest.update(part.to_string()),
                    }
                    digest.update([0]);
                }
                let digest: String =
                    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
                let expected = &expected[format!("shots_{shots}").as_str()];
                assert_eq!(digest, expected.as_str().unwrap(), "{name}, {shots} examples");
            }
        }
        for (group, expected) in expected["groups"].as_object().unwrap() {
            known.push(group);
            let selected = catalog.select(group).unwrap();
            let mut tasks: Vec<&str> =
                selected[0].tasks().iter().map(|task| task.name.as_str()).collect();
            tasks.sort_unstable();
            assert_eq!(json!(tasks), expected["tasks"], "{group}");
            let metrics = &selected[0].groups()[0].metrics;
            let metrics: Vec<&str> = metrics.iter().map(|figure| figure.metric.as_str()).collect();
            assert_eq!(json!(metrics), expected["metrics"], "{group}");
        }
    }
    for entry in catalog.entries() {
        assert!(entry.broken.is_none(), "{:?}", entry.broken);
        assert!(known.contains(&entry.name.as_str()), "{} is not compared", entry.name);
    }
}

#[test]
fn filters_are_those_of_lm_eval() {
    let catalog = Catalog::built_in();
    let mut compared = 0;
    for (_, expected) in golden() {
        let Some(tasks) = expected["tasks"].as_object() else {
            continue;
        };
        let row = Cell::from_json(&expected["rows"]["test"][0]);
        let Cell::Map(row) = row else {
            continue;
        };
        let document = Document(row);
        for (name, task) in tasks.iter().filter(|(_, task)| !task["filtered"].is_null()) {
            let selected = catalog.select(name).unwrap();
            let pipelines = &selected[0].tasks()[0].filters;
            assert_eq!(pipelines.len(), task["filtered"].as_object().unwrap().len());
            for pipeline in pipelines {
                let theirs = task["filtered"][&pipeline.name].as_array().unwrap();
                for (answer, theirs) in expected["answers"].as_array().unwrap().iter().zip(theirs) {
                    let answer = answer.as_str().unwrap().to_string();
                    let ours = pipeline.apply(std::slice::from_ref(&answer), &document).unwrap();
                    assert_eq!(ours, theirs.as_str().unwrap(), "{name} {} {answer}", pipeline.name);
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 1000, "{compared}");
}

/// The share of the probability on the true answers (`process_results_mc2`).
#[test]
fn truthfulqa_mc2_is_that_of_lm_eval() {
    let expected = &golden()["truthfulqa_mc2"];
    let folder = tempfile::tempdir().unwrap();
    let location = location(&expected["rows"], folder.path());
    let task = task(&Catalog::built_in(), "truthfulqa_mc2", &location, 0);
    let hub = Settings::from_env().unwrap();
    let access = Access { hub: &hub, watch: &Unwatched };
    let items = Items::prepare(&task, None, &access).unwrap();
    let lls: Vec<f64> =
        expected["likelihoods"].as_array().unwrap().iter().map(|ll| ll.as_f64().unwrap()).collect();
    let theirs = expected["acc"].as_array().unwrap();
    assert_eq!(items.items.len(), theirs.len());
    for (item, theirs) in items.items.iter().zip(theirs) {
        let log_likelihoods = lls[..item.choices.len()].to_vec();
        let greedy = vec![false; item.choices.len()];
        let answer = Answer { log_likelihoods, greedy, ..Answer::default() };
        let score = score::item(&items, item, &answer).unwrap();
        let ItemValue::Number(ours) = score.values[0].1 else { panic!("{score:?}") };
        assert!((ours - theirs.as_f64().unwrap()).abs() < 1e-15, "{ours} {theirs}");
    }
}

/// The model's tokenizer with a chat template of `tests/data/eval/chat`.
fn with_template(name: &str) -> TextEncoder {
    let folder = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json", "config.json"] {
        std::fs::copy(Path::new(MODEL).join(file), folder.path().join(file)).unwrap();
    }
    let template = format!("tests/data/eval/chat/{name}.jinja");
    std::fs::copy(template, folder.path().join("chat_template.jinja")).unwrap();
    TextEncoder::open(folder.path()).unwrap()
}

/// `tests/compare/lm_eval_chat.py` wrote what is expected.
#[test]
fn prompts_in_chat_templates_are_those_of_lm_eval() {
    let text = std::fs::read_to_string("tests/data/eval/chat.json").unwrap();
    let golden: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
    let hub = Settings::from_env().unwrap();
    let access = Access { hub: &hub, watch: &Unwatched };
    let mut compared = 0;
    for (key, expected) in &golden {
        let [template, name, turns, system] =
            key.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let encoder = with_template(template);
        let asking = Asking {
            chat_template: true,
            multiturn: turns == "multi",
            system: (system == "system").then_some("You add and read. Be terse."),
            seed: 0,
        };
        let path = format!("tests/data/eval/tasks/{name}.yaml");
        let selected = Catalog::default().select(&path).unwrap();
        let items = Items::prepare(selected[0].tasks()[0], Some(2), &access).unwrap();
        let mut found = Vec::new();
        for item in &items.items {
            for (context, rest) in request::texts(items.task, item, &encoder, asking).unwrap() {
                found.push(match items.task.output {
                    Output::GenerateUntil => {
                        json!([item.id, encoder.prompt(&context, 1, 10_000).unwrap()])
                    }
                    _ => {
                        let encode::Pair { context, continuation } =
                            encoder.pair(&context, &rest).unwrap();
                        json!([item.id, context, continuation])
                    }
                });
            }
        }
        assert_eq!(found.len(), expected.as_array().unwrap().len(), "{key}");
        for (ours, theirs) in found.iter().zip(expected.as_array().unwrap()) {
            let text = |row: &Value| {
                let ids =
                    row.as_array().unwrap()[1..].iter().flat_map(|ids| ids.as_array().unwrap());
                let ids: Vec<u32> = ids.map(|id| id.as_u64().unwrap() as u32).collect();
                encoder.decode(&ids, false).unwrap()
            };
            assert_eq!(ours, theirs, "{key}:\n{}\n---\n{}", text(ours), text(theirs));
            compared += 1;
        }
    }
    assert!(compared > 100, "{compared}");
    assert!(chat::refuses_system(&with_template("no_system")).unwrap());
    assert!(!chat::refuses_system(&with_template("bracketed")).unwrap());
}

/// Says the same text always, and keeps to what [`LanguageModel`] promises about its end.
struct Reciter(Vec<u32>);

impl LanguageModel for Reciter {
    fn score(&self, _: &[ScoreRequest], _: &dyn Fn(usize)) -> cognate::Result<Vec<Score>> {
        unreachable!("nothing is scored")
    }

    fn generate(
        &self,
        requests: &[GenerateRequest],
        _: &dyn Fn(usize),
    ) -> cognate::Result<Vec<Generation>> {
        let recite = |request: &GenerateRequest| {
            let mut tokens = Vec::new();
            for token in self.0.iter().take(request.max_new_tokens) {
                if request.stop.contains(token) {
                    break;
                }
                tokens.push(*token);
                if request.until.as_ref().is_some_and(|until| until(&tokens)) {
                    break;
                }
            }
            Generation { tokens }
        };
        Ok(requests.iter().map(recite).collect())
    }

    fn context_length(&self) -> Option<usize> {
        Some(256)
    }

    fn vocabulary(&self) -> usize {
        1024
    }
}

#[test]
fn what_ends_a_text_is_not_part_of_it() {
    let encoder = Arc::new(TextEncoder::open(Path::new(MODEL)).unwrap());
    let words = encoder.encode(" one two, three", Some(false)).unwrap();
    let behind = encoder.encode(" four", Some(false)).unwrap();
    let end = *encoder.stops().first().unwrap();
    let model = Reciter([words.as_slice(), &[end], &behind].concat());
    let selected = Catalog::default().select("tests/data/eval/tasks/sums_written.yaml").unwrap();
    let hub = Settings::from_env().unwrap();
    let access = Access { hub: &hub, watch: &Unwatched };
    let answer = |until: &str, most: usize| {
        let mut task = selected[0].tasks()[0].clone();
        task.generation.until = vec![until.to_string()];
        task.generation.max_tokens = most;
        let items = Items::prepare(&task, Some(1), &access).unwrap();
        request::ask(&model, &encoder, &items, Asking::default(), &|_| {}).unwrap().remove(0)
    };
    let ended = answer("\n", 64);
    assert_eq!((ended.texts[0].as_str(), ended.tokens), (" one two, three", words.len()));
    assert_eq!(answer(",", 64).texts, [" one two"]);
    assert_eq!(answer("\n", 1).tokens, 1);
}

const CAPITALS: &str = "task: capitals_${dataset_name}\ndescription: 'In ${place}.'\ndataset_path: json\n\
    dataset_kwargs: {data_files: {test: a.jsonl}}\ntest_split: test\ndoc_to_text: q\n\
    doc_to_target: a\nnum_fewshot: ${shots}\n";

#[test]
fn a_table_is_several_tasks() {
    let folder = tempfile::tempdir().unwrap();
    let write = |text: String| std::fs::write(folder.path().join("t.yml"), text).unwrap();
    let rows = "table:\n- {dataset_name: eu, place: Europe, tag: old}\n- {dataset_name: na, place: '${far}', shots: 3}\n";
    write(format!(
        "{CAPITALS}variables: {{shots: 1, far: 'the ${{side}} West', side: far}}\n{rows}"
    ));
    let mut catalog = Catalog::default();
    catalog.add_folder(folder.path()).unwrap();
    let of = |name: &str| {
        let task = catalog.select(name).unwrap()[0].tasks()[0].clone();
        (task.description, task.fewshot.count, task.dataset_name.unwrap())
    };
    assert_eq!(of("capitals_eu"), ("In Europe.".to_string(), 1, "eu".to_string()));
    assert_eq!(of("old"), of("capitals_eu"));
    assert_eq!(of("capitals_na"), ("In the far West.".to_string(), 3, "na".to_string()));
    let path = folder.path().join("t.yml");
    assert_eq!(catalog.select(path.to_str().unwrap()).unwrap().len(), 2);
    assert_eq!(Task::read(&path).unwrap_err().message(), "a file of several tasks is read as one");

    let refused = |text: String| {
        write(text);
        catalog.select(path.to_str().unwrap()).unwrap_err()
    };
    let missing = refused(format!("{CAPITALS}{rows}"));
    assert_eq!(missing.message(), "neither the row nor `variables` has `shots`");
    assert_eq!(missing.get("key"), Some("num_fewshot"));
    let circle =
        refused(format!("{CAPITALS}variables: {{shots: '${{far}}', far: '${{shots}}'}}\n{rows}"));
    assert_eq!(circle.message(), "values of a table hold each other in a circle");
    let list = refused(format!("{CAPITALS}table: [{{dataset_name: eu, place: [1], shots: 1}}]\n"));
    assert_eq!(list.message(), "`place` is no text, and stands within one");
    assert_eq!(refused(format!("{CAPITALS}table: []\n")).message(), "`table` has no rows");
    let alone = refused(format!("{CAPITALS}variables: {{shots: 1}}\n"));
    assert_eq!(alone.get("key"), Some("variables"));
}

/// lm-eval's files that cannot be used are known by name, tag and group, and say why when asked for.
#[test]
fn what_cannot_be_used_says_so_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("_base_yaml", "tag: all_of_it\nprocess_docs: !function utils.process\n");
    write("one.yaml", "\"task\": \"one\"\ninclude: _base_yaml\n");
    write("group.yaml", "group: several\ntask: [all_of_it]\n");
    let mut catalog = Catalog::built_in();
    catalog.add_folder(folder.path()).unwrap();
    for name in ["one", "all_of_it", "several"] {
        let error = catalog.select(name).unwrap_err();
        assert_eq!(error.get("function"), Some("utils.process"), "{name}: {error}");
        assert_eq!(error.get("key"), Some("process_docs"));
    }
    let outermost: Vec<&str> =
        catalog.outermost().iter().map(|entry| entry.name.as_str()).collect();
    assert!(outermost.contains(&"several") && outermost.contains(&"mmlu"));
    assert!(!outermost.contains(&"one") && !outermost.contains(&"mmlu_stem"));
}
