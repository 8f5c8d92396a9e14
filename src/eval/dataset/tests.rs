//! Datasets of files and folders.

use super::*;
use crate::model::hub::Unwatched;
use std::io::Write;

fn settings(cache: &Path) -> Settings {
    Settings {
        endpoint: "http://127.0.0.1:9".to_string(),
        cache: cache.to_path_buf(),
        token: None,
        offline: true,
        retry_wait: std::time::Duration::ZERO,
    }
}

/// The rows of a split of files in `folder`, as Python prints them.
fn rows(
    folder: &Path,
    path: &str,
    files: DataFiles,
    name: Option<&str>,
    split: &str,
) -> Result<Vec<String>> {
    let settings = settings(folder);
    let access = Access { hub: &settings, watch: &Unwatched };
    let location = Location::parse(path, files, folder)?;
    let split = Dataset::open(location, name.map(str::to_string)).split(split, &access)?;
    Ok(split.rows.iter().map(|row| Value::Map(row.0.clone()).repr()).collect())
}

fn named(split: &str, file: &str) -> DataFiles {
    DataFiles { splits: [(split.to_string(), vec![file.to_string()])].into(), ..Default::default() }
}

#[test]
fn json_lines_arrays_and_fields() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("a.jsonl", "{\"a\": 1}\n\n{\"b\": [null, true], \"a\": 2.5}\n");
    write("b.json", " [{\"a\": 1}, {\"a\": {\"x\": \"é\"}}]");
    write("c.json", "{\"version\": 1, \"rows\": [{\"a\": 1}]}");
    write("bad.jsonl", "{\"a\": 1}\n{\"a\": }\n");
    write("list.jsonl", "{\"a\": 1}\n[1]\n");
    let read = |file: &str| rows(folder.path(), "json", named("test", file), None, "test");
    assert_eq!(
        read("a.jsonl").unwrap(),
        ["{'a': 1.0, 'b': None}", "{'a': 2.5, 'b': [None, True]}"]
    );
    assert_eq!(read("b.json").unwrap(), ["{'a': 1}", "{'a': {'x': 'é'}}"]);
    let field = DataFiles { field: Some("rows".into()), ..named("test", "c.json") };
    assert_eq!(rows(folder.path(), "json", field, None, "test").unwrap(), ["{'a': 1}"]);
    let place = |file: &str| {
        read(file).unwrap_err().get("file").unwrap().rsplit('/').next().unwrap().to_string()
    };
    assert_eq!(
        (place("bad.jsonl"), place("list.jsonl")),
        ("bad.jsonl:2".into(), "list.jsonl:2".into())
    );
    assert_eq!(read("none.jsonl").unwrap_err().message(), "a data file is not there");
    let other = rows(folder.path(), "json", named("test", "a.jsonl"), None, "train").unwrap_err();
    assert_eq!(other.get("expected"), Some("one of test"));
}

#[test]
fn packed_files_and_stars() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("x-1.jsonl.gz", "{\"a\": 1}\n"), ("x-2.jsonl.gz", "{\"a\": 2}\n")] {
        let file = std::fs::File::create(folder.path().join(name)).unwrap();
        let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        packed.write_all(text.as_bytes()).unwrap();
        packed.finish().unwrap();
    }
    let found = rows(folder.path(), "json", named("test", "x-*.jsonl.gz"), None, "test");
    assert_eq!(found.unwrap(), ["{'a': 1}", "{'a': 2}"]);
}

/// The right side is what `datasets` 5.2 reads from the file.
#[test]
fn csv_columns_have_types() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/eval");
    let found = rows(&file, "csv", named("test", "lines.csv"), None, "test").unwrap();
    let expected = [
        "{'question': 'Who said \"Let there be light\"?', 'right': True, 'answer': 'God', 'score': 1}",
        "{'question': 'Where, then?', 'right': False, 'answer': 'Eden', 'score': 2}",
        "{'question': 'Which garden?', 'right': True, 'answer': None, 'score': 3}",
        "{'question': 'Two\\nlines?', 'right': False, 'answer': 'yes', 'score': 4}",
    ];
    assert_eq!(found, expected);
}

/// The file was written by pyarrow 26 through `datasets` 5.2.
#[test]
fn parquet_rows_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/eval");
    let found = rows(&folder, "parquet", named("test", "rows.parquet"), None, "test").unwrap();
    let expected = [
        "{'text': 'a', 'n': 1, 'x': 0.5, 'yes': True, 'choices': {'text': ['p', 'q'], 'label': [0, 1]}}",
        "{'text': 'é', 'n': -2, 'x': 1.0, 'yes': False, 'choices': {'text': [], 'label': []}}",
        "{'text': None, 'n': 3, 'x': None, 'yes': None, 'choices': {'text': ['r'], 'label': [2]}}",
    ];
    assert_eq!(found, expected);
    let packed = rows(&folder, "parquet", named("test", "zstd.parquet"), None, "test").unwrap_err();
    assert_eq!(packed.message(), "a Parquet file is packed in a way that is not read");
}

#[test]
fn folders_tell_splits_by_names() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("data");
    std::fs::create_dir_all(root.join("hard/dev")).unwrap();
    for (name, a) in [
        ("train.jsonl", 1),
        ("test-00000.jsonl", 2),
        ("hard/dev/0.jsonl", 3),
        ("hard/training.jsonl", 4),
    ] {
        std::fs::write(root.join(name), format!("{{\"a\": {a}}}\n")).unwrap();
    }
    let read = |name, split| rows(folder.path(), "data", DataFiles::default(), name, split);
    assert_eq!(read(None, "test").unwrap(), ["{'a': 2}"]);
    assert_eq!(read(Some("hard"), "validation").unwrap(), ["{'a': 3}"]);
    assert_eq!(read(Some("hard"), "train").unwrap(), ["{'a': 4}"]);
    assert!(read(Some("hard"), "test").is_err() && read(Some("easy"), "test").is_err());
}

#[test]
fn a_dataset_that_is_not_cached_is_said_to_be_so() {
    let folder = tempfile::tempdir().unwrap();
    let error = rows(folder.path(), "org/name", DataFiles::default(), None, "test").unwrap_err();
    assert_eq!(error.message(), "the dataset is not in the Hub's cache");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let root = folder.path().join("datasets--org--name");
    let split = root.join("snapshots").join(commit).join("default/test");
    std::fs::create_dir_all(&split).unwrap();
    std::fs::create_dir_all(root.join("refs/refs/convert")).unwrap();
    std::fs::write(root.join("refs/refs/convert/parquet"), commit).unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/eval/rows.parquet");
    std::fs::copy(file, split.join("0000.parquet")).unwrap();
    let found = rows(folder.path(), "org/name", DataFiles::default(), None, "test");
    assert_eq!(found.unwrap().len(), 3);
    let error = rows(folder.path(), "org/name", DataFiles::default(), None, "train").unwrap_err();
    assert_eq!(error.message(), "the Hub's cache does not hold the split");
}
