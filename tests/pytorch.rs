//! PyTorch files of weights: written by torch itself (tests/data/make_pytorch.py), read as the
//! safetensors that hold the same tensors, and refused by name where they hold anything else.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use cognate::model::{parse_pickle, parse_pytorch};
use proptest::prelude::*;
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use support::{INDEX, LINEAR, Sandbox};

const SINGLE: &str = "pytorch_model.bin";
const SHARDS: [&str; 3] = [
    "pytorch_model-00001-of-00002.bin",
    "pytorch_model-00002-of-00002.bin",
    "pytorch_model.bin.index.json",
];

fn data(file: &str) -> Vec<u8> {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pytorch");
    std::fs::read(folder.join(file)).unwrap()
}

/// Dtype, shape and bytes by name.
type Contents = BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)>;

fn contents(bytes: &[u8]) -> Contents {
    let placed = parse_pytorch(bytes).unwrap();
    let tensor = |(spec, range): (cognate::model::TensorSpec, std::ops::Range<usize>)| {
        (spec.name, (spec.dtype, spec.shape, bytes[range].to_vec()))
    };
    placed.into_iter().map(tensor).collect()
}

fn reference(bytes: &[u8]) -> Contents {
    let tensors = SafeTensors::deserialize(bytes).unwrap();
    let all = tensors.tensors().into_iter();
    all.map(|(name, view)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
        .collect()
}

#[test]
fn torch_save_holds_what_safetensors_holds() {
    for (pickled, expected) in [
        ("kinds_2.bin", "kinds.safetensors"),
        ("kinds_4.bin", "kinds.safetensors"),
        ("module.bin", "module.safetensors"),
        (SINGLE, "model.safetensors"),
    ] {
        assert_eq!(contents(&data(pickled)), reference(&data(expected)), "{pickled}");
    }
}

#[test]
fn tensors_come_in_file_order_and_may_share_bytes() {
    let placed = parse_pytorch(&data("kinds_2.bin")).unwrap();
    assert!(placed.is_sorted_by_key(|(_, range)| range.start));
    let range = |name: &str| placed.iter().find(|(spec, _)| spec.name == name).unwrap().1.clone();
    assert_eq!(range("view"), range("tied"));
    assert_eq!(range("overlapping").start, range("view").start + 4);
}

/// What becomes of each file that torch wrote or that was spoiled.
#[test]
fn what_is_not_a_state_dict_is_refused() {
    let mut all = String::new();
    for name in [
        "legacy",
        "transposed",
        "compressed",
        "big_endian",
        "short_storage",
        "whole_module",
        "checkpoint",
        "not_torch",
        "sparse",
        "truncated",
    ] {
        let error = parse_pytorch(&data(&format!("refused_{name}.bin"))).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        all += &format!("--- {name}\n{error}\n");
    }
    insta::assert_snapshot!("pytorch_refused", all);
}

#[test]
fn pickles_are_never_run_and_what_they_ask_for_is_named() {
    let proto = |rest: &[u8]| [b"\x80\x02", rest].concat();
    let cases: [(&[u8], &str); 16] = [
        (b"cos\nsystem\nX\x02\0\0\0ls\x85R.", "os.system"),
        (b"c__builtin__\neval\n.", "__builtin__.eval"),
        (b"\x8c\x02os\x8c\x06system\x93.", "os.system"),
        (b"ctorch._utils\n_rebuild_sparse_tensor\n.", "_rebuild_sparse_tensor"),
        (b"(ios\nsystem\n.", "0x69 (INST)"),
        (b"\x82\x01.", "0x82 (EXT1)"),
        (b"\xf7.", "0xf7"),
        (b"ctorch\nFloatStorage\n)R.", "0x52 (REDUCE)"),
        (b"}}b}b.", "does not hold"),
        (b"K\x01}b.", "0x62 (BUILD)"),
        (b"].", "a list"),
        (b"}X\x01\0\0\0aK\x01s.", "an integer"),
        (b"}K\x01K\x01s.", "no text"),
        (b"}h\x07.", "not valid"),
        (b"(\x85.", "not valid"),
        (b"X\xff\xff\xff\xffabc", "too early"),
    ];
    for (pickle, says) in cases {
        match parse_pickle(&proto(pickle)) {
            Err(error) => {
                assert!(error.to_string().contains(says), "{pickle:?}: {error}");
                assert_eq!(error.exit_code(), 2);
            }
            // Attributes of a dictionary are dropped.
            Ok(tensors) => assert!(tensors.is_empty() && says == "does not hold", "{pickle:?}"),
        }
    }
    assert!(parse_pickle(b"").is_err() && parse_pickle(b"\x80\x06}.").is_err());
}

/// Pickles that would take much room or depth if they were followed.
#[test]
fn bombs_are_harmless() {
    let nested = [b"\x80\x02)".as_slice(), &b"\x85".repeat(1 << 20), b"."].concat();
    assert!(parse_pickle(&nested).is_err());
    let doubled = [b"\x80\x02)".as_slice(), &b"q\0h\0\x86".repeat(1000), b"."].concat();
    assert!(parse_pickle(&doubled).is_err());
    let many = [b"\x80\x02".as_slice(), &b"N".repeat(5 << 20), b"."].concat();
    assert!(parse_pickle(&many).unwrap_err().message().contains("too much"));
    // A parameter of a parameter of itself cannot be built, but one of one can be said.
    let inner =
        b"ctorch._utils\n_rebuild_parameter\nctorch._utils\n_rebuild_parameter\n)\x85R\x85R";
    let pickle = [b"\x80\x02}X\x01\0\0\0a".as_slice(), inner, b"s."].concat();
    assert!(parse_pickle(&pickle).is_err());
}

/// The models `a` and `b` of a merge; `b` is a second seed of the same shapes.
fn pair(sandbox: &Sandbox, files: &[&str]) {
    for model in ["a", "b"] {
        for file in files.iter().chain(&["config.json"]) {
            sandbox.write(&format!("{model}/{file}"), data(file));
        }
    }
}

#[test]
fn a_merge_does_not_depend_on_the_format() {
    let expected = {
        let sandbox = Sandbox::new();
        pair(&sandbox, &["model.safetensors"]);
        sandbox.merge(LINEAR, "out", &[]);
        sandbox.read("out/model.safetensors")
    };
    for files in [&[SINGLE][..], &SHARDS, &SHARDS[..2]] {
        let sandbox = Sandbox::new();
        pair(&sandbox, files);
        sandbox.merge(LINEAR, "out", &[]);
        assert!(sandbox.read("out/model.safetensors") == expected, "{files:?}");
        assert!(!sandbox.exists("out/pytorch_model.bin"));
    }
}

#[test]
fn safetensors_are_preferred() {
    let sandbox = Sandbox::new();
    pair(&sandbox, &["model.safetensors"]);
    sandbox.write("a/pytorch_model.bin", "nothing");
    sandbox.write("b/training_args.bin", "nothing");
    sandbox.merge(LINEAR, "out", &[]);
}

#[test]
fn an_index_must_agree_with_its_shards() {
    let spoiled = |from: &str, to: &str| {
        let sandbox = Sandbox::new();
        pair(&sandbox, &SHARDS);
        let index = String::from_utf8(data(SHARDS[2])).unwrap();
        assert!(index.contains(from));
        sandbox.write(&format!("b/{}", SHARDS[2]), index.replacen(from, to, 1));
        sandbox.write("recipe.yml", LINEAR);
        let message = sandbox.fails(2, &["plan", "recipe.yml"]);
        assert!(message.contains("pytorch_model") && !message.contains(INDEX), "{message}");
        message
    };
    let message = spoiled("pytorch_model-00002-of", "../pytorch_model-00002-of");
    assert!(message.contains("outside its folder"), "{message}");
    let message = spoiled("model.norm.weight", "model.nrom.weight");
    assert!(message.contains("model.nrom.weight"), "{message}");
    let message = spoiled("-00001-of", "-00003-of");
    assert!(message.contains("is missing") && message.contains("-00003-of"), "{message}");
    let entry = "\"lm_head.weight\": \"pytorch_model-00001-of-00002.bin\",";
    let message = spoiled(entry, "");
    assert!(message.contains("does not name") && message.contains("lm_head.weight"), "{message}");
}

/// A file with some bytes changed, and cut off or not.
fn damaged(whole: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let length = whole.len();
    let edits = prop::collection::vec((0..length, any::<u8>()), 0..12);
    (edits, prop::option::of(0..length)).prop_map(move |(edits, end)| {
        let mut bytes = whole.clone();
        edits.into_iter().for_each(|(at, byte)| bytes[at] = byte);
        bytes.truncate(end.unwrap_or(length));
        bytes
    })
}

/// The pickle of a file.
fn pickle(file: &str) -> Vec<u8> {
    let bytes = data(file);
    let start = bytes.windows(2).position(|pair| pair == [0x80, 2] || pair == [0x80, 4]).unwrap();
    bytes[start..].to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_files_do_no_harm(bytes in damaged(data("kinds_2.bin"))) {
        match parse_pytorch(&bytes) {
            Ok(placed) => for (spec, range) in placed {
                prop_assert!(range.end <= bytes.len());
                prop_assert_eq!(spec.bytes(), range.len());
            },
            Err(error) => prop_assert_eq!(error.exit_code(), 2),
        }
    }

    #[test]
    fn damaged_pickles_do_no_harm(bytes in damaged(pickle("kinds_4.bin"))) {
        if let Err(error) = parse_pickle(&bytes) {
            prop_assert_eq!(error.exit_code(), 2);
        }
    }
}
