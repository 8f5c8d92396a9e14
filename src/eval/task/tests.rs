//! Task files as they are written, and what is said about wrong ones.

use super::*;
use crate::error::Error;
use std::path::Path;

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// The task of a file's text.
fn read(text: &str) -> Result<Task, Error> {
    let folder = folder(&[("t.yml", text)]);
    Task::read(&folder.path().join("t.yml"))
}

/// The error about a file's text, without the folder.
fn refused(text: &str) -> String {
    let folder = folder(&[("t.yml", text)]);
    let error = Task::read(&folder.path().join("t.yml")).unwrap_err();
    error.to_string().replace(&format!("{}/", folder.path().display()), "")
}

const DATA: &str =
    "dataset_path: json\ndataset_kwargs: {data_files: {test: a.jsonl}}\ntest_split: test\n";

#[test]
fn a_whole_task() {
    let task = read(&format!(
        "{DATA}task: t\ntag: [x, y]\noutput_type: multiple_choice\ndoc_to_text: '{{{{q}}}}'\n\
         doc_to_target: 1\ndoc_to_choice: {{a: 'no', b: 'yes'}}\nnum_fewshot: 2\n\
         fewshot_config: {{sampler: first_n, target_delimiter: ':', samples: [{{q: 1}}]}}\n\
         metric_list:\n- metric: acc\n- {{metric: f1, aggregation: f1, higher_is_better: true}}\n\
         metadata: {{version: 1.0}}\n"
    ))
    .unwrap();
    assert_eq!((task.name.as_str(), task.version.as_deref()), ("t", Some("1.0")));
    assert_eq!(task.tags, ["x", "y"]);
    assert_eq!(task.fewshot.sampler, Sampler::FirstN);
    assert_eq!(
        (task.format.target_delimiter.as_str(), task.fewshot.format.target_delimiter.as_str()),
        (" ", ":")
    );
    let choices = Value::List(vec![Value::Text("no".into()), Value::Text("yes".into())]);
    assert_eq!(task.format.choice, Some(Part::Value(choices)));
    assert!(matches!(task.fewshot.source(&task), Some(ExampleSource::Samples([_]))));
    assert_eq!(task.metrics.len(), 2);
}

#[test]
fn what_a_task_lacks_has_defaults() {
    let task = read(&format!("{DATA}task: t\ndoc_to_text: q\ndoc_to_target: a\n")).unwrap();
    assert_eq!(task.output, Output::GenerateUntil);
    assert_eq!(task.generation.until, ["\n\n"]);
    assert_eq!((task.generation.max_tokens, task.generation.repeats), (256, 1));
    assert_eq!(task.metrics[0].metric, Metric::ExactMatch);
    assert_eq!(task.filters[0].name, "none");
    assert_eq!(task.fewshot.source(&task), Some(ExampleSource::Split("test")));
}

#[test]
fn generation_settings() {
    let sampled = "generation_kwargs: {until: x, max_new_tokens: 7, temperature: 0.5, do_sample: true, top_p: 0.9}\nrepeats: 3\n";
    let task =
        read(&format!("{DATA}task: t\ndoc_to_text: q\ndoc_to_target: a\n{sampled}")).unwrap();
    let sample = Some(SampleSettings { temperature: 0.5, top_k: Some(50), top_p: Some(0.9) });
    let expected = Generation { until: vec!["x".into()], max_tokens: 7, sample, repeats: 3 };
    assert_eq!(task.generation, expected);
    let greedy = "generation_kwargs: {until: x, temperature: 0.5, do_sample: false}\n";
    let task = read(&format!("{DATA}task: t\ndoc_to_text: q\ndoc_to_target: a\n{greedy}")).unwrap();
    assert_eq!(task.generation.sample, None);
}

#[test]
fn includes_lie_under_a_file() {
    let base = format!("{DATA}doc_to_text: q\ndoc_to_target: a\nnum_fewshot: 3\ndescription: d\n");
    let folder = folder(&[
        ("base.yml", base.as_str()),
        ("t.yml", "include: base.yml\ntask: t\nnum_fewshot: 0\ndescription: null\n"),
        ("circle.yml", "include: circle.yml\ntask: c\n"),
    ]);
    let task = Task::read(&folder.path().join("t.yml")).unwrap();
    assert_eq!((task.fewshot.count, task.description.as_str()), (0, ""));
    let error = Task::read(&folder.path().join("circle.yml")).unwrap_err();
    assert_eq!(error.message(), "task files include each other in a circle");
}

#[test]
fn groups_and_tags() {
    let task = |name: &str, rest: &str| {
        format!("{DATA}task: {name}\ndoc_to_text: q\ndoc_to_target: a\n{rest}")
    };
    let inner = format!(
        "group: inner\ntask:\n- two\n- task: new\n  doc_to_text: x\n  doc_to_target: y\n  {}\n",
        DATA.trim_end().replace('\n', "\n  ")
    );
    let outer = "group: outer\nnum_fewshot: 4\ntask:\n- one\n- inner\n- task: two\n  num_fewshot: 5\naggregate_metric_list:\n- {metric: acc, weight_by_size: false, filter_list: none}\n";
    let folder = folder(&[
        ("one.yaml", &task("one", "tag: both\n")),
        ("two.yaml", &task("two", "tag: [both]\n")),
        ("inner.yaml", &inner),
        ("outer.yaml", outer),
        ("broken.yaml", "task: broken\nprocess_docs: !function utils.process_docs\n"),
    ]);
    let mut catalog = Catalog::default();
    catalog.add_folder(folder.path()).unwrap();
    let found = catalog.select("outer").unwrap();
    let tasks: Vec<(&str, usize)> =
        found[0].tasks().iter().map(|task| (task.name.as_str(), task.fewshot.count)).collect();
    assert_eq!(tasks, [("one", 4), ("two", 4), ("inner::new", 4), ("two", 5)]);
    assert_eq!(found[0].groups().len(), 2);
    let metric = GroupMetric {
        metric: "acc".into(),
        filters: Some(vec!["none".into()]),
        weight_by_size: false,
    };
    assert_eq!(found[0].groups()[0].metrics, [metric]);
    assert_eq!(catalog.select("both").unwrap().len(), 2);
    let path = folder.path().join("inner.yaml");
    assert_eq!(Catalog::default().select(path.to_str().unwrap()).unwrap()[0].tasks().len(), 2);
    let broken = catalog.select("broken").unwrap_err();
    assert_eq!(broken.get("function"), Some("utils.process_docs"));
    let unknown = catalog.select("uone").unwrap_err();
    assert_eq!(unknown.hint_text(), Some("did you mean `one`?"));
}

#[test]
fn wrong_tasks() {
    let with = |rest: &str| format!("{DATA}task: t\ndoc_to_text: q\ndoc_to_target: a\n{rest}");
    let cases = [
        ("misspelt key", with("num_fewshots: 3\n")),
        ("unknown key", with("frobnicate: 3\n")),
        (
            "function",
            with("metric_list:\n  - metric: acc\n    aggregation: !function utils.mean\n"),
        ),
        ("process_results", with("process_results: mc2\n")),
        ("output type", with("output_type: multiple_choices\n")),
        ("no choices", with("output_type: multiple_choice\n")),
        ("metric of another output", with("metric_list: [{metric: acc}]\n")),
        ("misspelt metric", with("metric_list: [{metric: exact_mach}]\n")),
        ("metric's option", with("metric_list: [{metric: exact_match, ignore_cas: true}]\n")),
        ("filter", with("filter_list: [{name: x, filter: [{function: regexp}]}]\n")),
        (
            "pattern",
            with("filter_list: [{name: x, filter: [{function: regex, regex_pattern: '('}]}]\n"),
        ),
        ("generation", with("generation_kwargs: {num_beams: 4}\n")),
        ("template", with("description: '{{ q'\n")),
        ("type", with("num_fewshot: many\n")),
        ("sampler", with("fewshot_config: {sampler: balanced}\n")),
        ("no split", with("").replace("test_split: test\n", "")),
        ("no files", with("").replace("dataset_kwargs: {data_files: {test: a.jsonl}}\n", "")),
        ("no dataset", with("").replace("dataset_path: json\n", "dataset_path: gsm8k\n")),
        ("no task", "doc_to_text: q\n".to_string()),
        ("no mapping", "- a\n".to_string()),
        ("no YAML", "task: [a\n".to_string()),
        ("twice", with("task: u\n")),
    ];
    let all: Vec<String> =
        cases.iter().map(|(name, text)| format!("# {name}\n{}\n", refused(text))).collect();
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn comments_may_name_functions() {
    let text = format!(
        "{DATA}task: t\ndoc_to_text: q # was: !function utils.text\n# process_docs: !function x.y\ndoc_to_target: a\n"
    );
    assert!(read(&text).is_ok());
    assert!(Catalog::default().select("/nowhere/t.yml").is_err());
    assert!(Task::read(Path::new("/nowhere")).is_err());
}
