//! Untrusted bytes: inputs that fuzzing found, and nasty ones made by hand. Each is refused as a
//! wrong input (exit code 2) or read for what it is; none may panic, hang or exhaust memory.

use cognate::model::{Config, parse_gguf, parse_header, parse_index, parse_pickle};
use cognate::recipe::RecipeFile;
use cognate::{Error, Result};
use std::path::Path;

/// What must come of an input: this many things, or an error that says this.
type Expected<'a> = Result<usize, &'a str>;

/// The number of models a recipe mentions.
fn recipe(text: String) -> Result<usize> {
    RecipeFile::parse(Path::new("recipe.yml"), text, &[]).map(|recipe| recipe.stages.len())
}

/// What is wrong with this outcome.
fn wrong(found: Result<usize>, expected: Expected) -> Option<String> {
    let fits = match (&found, expected) {
        (Ok(found), Ok(expected)) => *found == expected,
        (Err(error), Err(part)) => proper(error) && error.to_string().contains(part),
        _ => false,
    };
    (!fits).then(|| format!("expected {expected:?}, found {found:?}"))
}

/// Whether an error blames the input and can be read on one screen.
fn proper(error: &Error) -> bool {
    error.exit_code() == 2 && !error.message().is_empty() && error.to_string().len() < 5_000
}

/// Reads every input and says at once which came out otherwise than expected.
fn check<T>(cases: Vec<(&str, T, Expected)>, read: impl Fn(T) -> Result<usize>) {
    let failures = cases.into_iter().filter_map(|(what, input, expected)| {
        wrong(read(input), expected).map(|wrong| format!("{what}: {wrong:.600}"))
    });
    let failures = failures.collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{failures}");
}

/// A safetensors file with this header and this many bytes of data.
fn safetensors(header: &str, data: usize) -> Vec<u8> {
    lying(header.len() as u64, header, data)
}

/// The same with another length in front of the header.
fn lying(length: u64, header: &str, data: usize) -> Vec<u8> {
    [&length.to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
}

/// Headers with one entry a tensor: name, dtype, shape, start and end.
fn entries(tensors: &[(&str, &str, &str, u64, u64)]) -> String {
    let entry = |(name, dtype, shape, start, end): &(&str, &str, &str, u64, u64)| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
    };
    format!("{{{}}}", tensors.iter().map(entry).collect::<Vec<_>>().join(","))
}

#[test]
fn what_fuzzing_found_does_no_harm() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fuzz");
    for target in ["gguf", "header", "index", "pickle", "recipe"] {
        let entries = std::fs::read_dir(data.join(target)).unwrap();
        let paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        assert!(!paths.is_empty(), "no inputs for {target}");
        for path in paths {
            let bytes = std::fs::read(&path).unwrap();
            let found = match target {
                "gguf" => parse_gguf(&bytes).map(|tensors| tensors.len()),
                "pickle" => parse_pickle(&bytes).map(|tensors| tensors.len()),
                "header" => parse_header(&bytes).map(|tensors| tensors.len()),
                "index" => parse_index(&bytes).map(|tensors| tensors.len()),
                _ => RecipeFile::open(&path, &[]).map(|recipe| recipe.stages.len()),
            };
            let fine = found.as_ref().map_or_else(proper, |count| *count > 0);
            assert!(fine, "{}: {found:?}", path.display());
        }
    }
}

#[test]
fn headers() {
    let one = entries(&[("a", "U8", "[1]", 0, 1)]);
    let max = u64::MAX;
    let twice = entries(&[("a", "U8", "[1]", 0, 1), ("a", "U8", "[1]", 1, 2)]);
    let overflow = format!("[{max},{max}]");
    let cases: Vec<(&str, Vec<u8>, Expected)> = vec![
        ("as it should be", safetensors(&one, 1), Ok(1)),
        ("no bytes", vec![], Err("too short")),
        ("seven bytes", vec![0; 7], Err("too short")),
        ("length 0", lying(0, "", 0), Err("not valid")),
        ("length of u64::MAX", lying(max, &one, 1), Err("longer than the file")),
        ("length past the end", lying(99 + one.len() as u64, &one, 1), Err("longer than the file")),
        ("length too small", lying(9, &one, 1), Err("not valid")),
        ("overlap", two((0, 2), (1, 3), 3), Err("over another")),
        ("the same bytes twice", two((0, 2), (0, 2), 2), Err("over another")),
        ("hole", two((0, 2), (3, 5), 5), Err("hole")),
        ("hole at the start", safetensors(&entries(&[("a", "U8", "[1]", 1, 2)]), 2), Err("hole")),
        ("reversed", safetensors(&entries(&[("a", "U8", "[1]", 1, 0)]), 1), Err("hole")),
        ("truncated", safetensors(&one, 0), Err("does not end")),
        ("bytes behind the end", safetensors(&one, 2), Err("does not end")),
        ("shape of another size", tensor("U8", "[2]", 1), Err("not valid")),
        ("shape overflow", tensor("U8", &overflow, 1), Err("not valid")),
        ("size overflow", tensor("F64", &format!("[{max}]"), 8), Err("not valid")),
        ("a dimension past u64", tensor("U8", "[18446744073709551616]", 1), Err("not valid")),
        ("half a byte", tensor("F4", "[1]", 1), Err("not valid")),
        ("unknown dtype", tensor("F33", "[1]", 4), Err("not valid")),
        ("zero-size", tensor("F32", "[0,4]", 0), Ok(1)),
        ("zero-size and huge", tensor("F32", &format!("[0,{max}]"), 0), Ok(1)),
        ("scalar", tensor("F32", "[]", 4), Ok(1)),
        ("no tensors", safetensors("{}", 0), Ok(0)),
        ("not an object", safetensors("[1]", 0), Err("not valid")),
        ("deep", safetensors(&"[".repeat(1 << 20), 0), Err("not valid")),
        ("deep metadata", safetensors(&r#"{"a":"#.repeat(1 << 18), 0), Err("not valid")),
        ("not UTF-8", [&9u64.to_le_bytes()[..], b"{\"\xff\xfe\": 1}"].concat(), Err("not valid")),
        ("a name twice", safetensors(&twice, 2), Err("twice")),
    ];
    check(cases, |bytes| parse_header(&bytes).map(|tensors| tensors.len()));
}

fn tensor(dtype: &str, shape: &str, bytes: usize) -> Vec<u8> {
    safetensors(&entries(&[("a", dtype, shape, 0, bytes as u64)]), bytes)
}

fn two(a: (u64, u64), b: (u64, u64), data: usize) -> Vec<u8> {
    safetensors(&entries(&[("a", "U8", "[2]", a.0, a.1), ("b", "U8", "[2]", b.0, b.1)]), data)
}

#[test]
fn tensors_at_one_offset_have_a_fixed_order() {
    let names: Vec<String> = (0..16).map(|i| format!("t{i}")).collect();
    let tensors: Vec<_> = names.iter().map(|name| (name.as_str(), "U8", "[0]", 0, 0)).collect();
    let bytes = safetensors(&entries(&tensors), 0);
    let first = parse_header(&bytes).unwrap();
    assert!((0..8).all(|_| parse_header(&bytes).unwrap() == first), "the order changes");
}

#[test]
fn indices() {
    let outside = ["../x", "/etc/passwd", "a/b", "a\\\\b", "x\\u0000", "", ".", "..", "./x", "x/"];
    let named = outside.map(|file| format!(r#"{{"weight_map":{{"fine":"x","a":"{file}"}}}}"#));
    let deep = format!(r#"{{"metadata":{}"#, "[".repeat(1 << 20));
    let mut cases: Vec<(&str, &[u8], Expected)> = vec![
        ("two names", br#"{"weight_map":{"a":"x","b":"..x"}}"#, Ok(2)),
        ("empty", br#"{"weight_map":{}}"#, Err("names no tensor")),
        ("no bytes", b"", Err("not valid")),
        ("no map", b"{}", Err("weight_map")),
        ("a list", br#"{"weight_map":["x"]}"#, Err("not valid")),
        ("a number", br#"{"weight_map":{"a":1}}"#, Err("not valid")),
        ("two maps", br#"{"weight_map":{"a":"x"},"weight_map":{"a":"x"}}"#, Err("duplicate")),
        ("not UTF-8", b"{\"weight_map\":{\"a\":\"\xff\"}}", Err("not valid")),
        ("half a surrogate pair", br#"{"weight_map":{"a":"\ud800"}}"#, Err("not valid")),
        ("deep", deep.as_bytes(), Err("not valid")),
    ];
    let named = outside.iter().zip(&named);
    cases.extend(named.map(|(file, text)| (*file, text.as_bytes(), Err("outside its folder"))));
    check(cases, |bytes| parse_index(bytes).map(|map| map.len()));
}

/// A recipe whose one weight is written so.
fn weighing(weight: &str) -> String {
    format!("merge_method: linear\nmodels:\n- model: a\n  parameters:\n    weight: {weight}\n")
}

/// A recipe with this layer range.
fn ranging(layers: &str) -> String {
    let source = format!("{{model: a, layer_range: {layers}}}");
    format!("merge_method: passthrough\nslices:\n- sources: [{source}]\n")
}

#[test]
fn recipes() {
    let level = |name: char, of: &str| format!("- &{name} [{}]\n", [of; 9].join(","));
    let levels = "abcdefghi".chars().zip(["x", "*a", "*b", "*c", "*d", "*e", "*f", "*g", "*h"]);
    let bomb: String = levels.map(|(name, of)| level(name, of)).collect();
    let good = weighing("0.5");
    let cases: Vec<(&str, String, Expected)> = vec![
        ("as it should be", good.clone(), Ok(1)),
        ("alias bomb", weighing(&format!("\n{bomb}").replace('\n', "\n    ")), Err("")),
        ("unknown alias", weighing("*x"), Err("alias")),
        ("nested 100 deep", weighing(&("[".repeat(100) + &"]".repeat(100))), Err("depth")),
        ("900 KB of lists", weighing(&("[".repeat(450_000) + &"]".repeat(450_000))), Err("")),
        ("900 KB of open lists", weighing(&"[".repeat(900_000)), Err("")),
        ("900 KB of open maps", weighing(&"{a: ".repeat(225_000)), Err("")),
        ("900 KB of block lists", weighing(&format!("\n    {}", "- ".repeat(450_000))), Err("")),
        ("900 KB of keys", weighing(&"? ".repeat(450_000)), Err("")),
        ("900 KB of values", weighing(&format!("[{}1]", "1,".repeat(450_000))), Err("budget")),
        ("a key of 900 KB", format!("? {}\n: 1\n{good}", "k".repeat(900_000)), Err("unknown key")),
        ("a method of 900 KB", good.replace("linear", &"m".repeat(900_000)), Err("unknown merge")),
        ("a weight of 900 KB", weighing(&"9".repeat(900_000)), Err("out of range")),
        ("nan", weighing(".nan"), Err("out of range")),
        ("inf", weighing(".inf"), Err("out of range")),
        ("nan in a filter", weighing("[{filter: x, value: .nan}]"), Err("out of range")),
        ("quoted nan", weighing("'nan'"), Err("a finite number")),
        ("past f64", weighing("1e999"), Err("out of range")),
        ("greatest f64", weighing("[1.7976931348623157e308, 1]"), Ok(1)),
        ("an empty list", weighing("[]"), Err("empty list")),
        ("a list of lists", weighing("[[1]]"), Err("plain values")),
        ("past u64", weighing("99999999999999999999999999"), Ok(1)),
        ("seed past u64", format!("{good}random_seed: 18446744073709551616\n"), Err("")),
        ("negative seed", format!("{good}random_seed: -1\n"), Err("")),
        ("layers", ranging("[0, 9223372036854775807]"), Ok(1)),
        ("layers past i64", ranging("[0, 9223372036854775808]"), Err("")),
        ("negative layers", ranging("[-1, 2]"), Err("layer range")),
        ("least layers", ranging("[-9223372036854775808, 1]"), Err("layer range")),
        ("a key twice", format!("{good}merge_method: linear\n"), Err("stands twice")),
        ("a parameter twice", format!("{}    weight: 1\n", weighing("1")), Err("stands twice")),
        ("tab", good.replace("  parameters", "\tparameters"), Err("")),
        ("no text", String::new(), Err("")),
        ("only comments", "# a\n# b\n".to_string(), Err("")),
        ("two documents", format!("{good}---\n{good}"), Err("two stages have no name")),
        ("NUL", good.replace("model: a", "model: \0"), Err("")),
        ("controls", (0..32u8).map(char::from).collect(), Err("")),
        ("a blank reference", good.replace("model: a", "model: ' '"), Err("is empty")),
    ];
    check(cases, recipe);
}

#[test]
fn recipe_files_and_configs() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    let written = |bytes: &[u8]| std::fs::write(&file, bytes).unwrap();
    let open_recipe = |bytes: &[u8]| {
        written(bytes);
        RecipeFile::open(&file, &[]).map(|recipe| recipe.stages.len())
    };
    let open_config = |bytes: &[u8]| {
        written(bytes);
        Config::open(folder.path()).map(|config| config.layer_counts().len())
    };
    let binary = b"\x7fELF\xff\xfe\0\0";
    let large = vec![b'#'; (1 << 20) + 1];
    let good = weighing("1");
    let cases: Vec<(&str, &[u8], Expected)> = vec![
        ("good", good.as_bytes(), Ok(1)),
        ("binary", binary, Err("not UTF-8")),
        ("more than 1 MiB", &large, Err("too large")),
    ];
    check(cases, open_recipe);
    assert_eq!(wrong(RecipeFile::open(folder.path(), &[]).map(|_| 0), Err("not a file")), None);
    let deep = "{\"a\":".repeat(1 << 20);
    let numbers = br#"{"depth":18446744073709551615,"n_layer":-1,"n_layers":1e9,"n":1e99}"#;
    let cases: Vec<(&str, &[u8], Expected)> = vec![
        ("no bytes", b"", Err("not valid")),
        ("binary", binary, Err("config.json is not")),
        ("deep", deep.as_bytes(), Err("not valid")),
        ("numbers", numbers, Ok(1)),
    ];
    check(cases, open_config);
}
