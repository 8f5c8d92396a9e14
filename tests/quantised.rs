//! Quantised checkpoints: the weights they are seen as, against what their authors' code makes of
//! them (tests/compare/quantised.py), what is refused, and a merge of one from end to end.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use cognate::Error;
use cognate::model::{Checkpoint, Source};
use proptest::prelude::*;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use support::{Sandbox, Tensor, accounted, files};

const UP: &str = "model.layers.0.mlp.up_proj";

fn data(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/quantised").join(case)
}

fn cases() -> Vec<String> {
    let entries = std::fs::read_dir(data("")).unwrap();
    let mut names: Vec<String> =
        entries.map(|e| e.unwrap().file_name().to_str().unwrap().to_string()).collect();
    names.sort();
    names
}

/// All elements of a tensor in one read.
fn whole(source: &dyn Source) -> Vec<f32> {
    let mut values = vec![0.0; source.spec().elements()];
    let nan = source.read(0, &mut values).unwrap();
    assert_eq!(nan, values.iter().any(|value| value.is_nan()));
    values
}

fn bits(values: &[f32]) -> Vec<u32> {
    // Any NaN is as good as another.
    values.iter().map(|x| if x.is_nan() { 0x7fc0_0000 } else { x.to_bits() }).collect()
}

#[test]
fn weights_are_those_of_their_authors_bit_for_bit() {
    let cases = cases();
    assert!(cases.len() > 20, "{cases:?}");
    for case in cases {
        let checkpoint = Checkpoint::open(&case, &data(&case)).unwrap();
        let bytes = std::fs::read(data(&case).join("expected.safetensors")).unwrap();
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        let names: Vec<&str> = checkpoint.tensors().map(|(name, _)| name).collect();
        let mut wanted: Vec<&str> = expected.names();
        wanted.sort_unstable();
        // (A case of one weight says nothing of the float tensors beside it.)
        assert!(names == wanted || wanted.len() == 1, "{case}: {names:?}");
        for name in wanted {
            let tensor = checkpoint.tensor(name).unwrap();
            let view = expected.tensor(name).unwrap();
            assert_eq!(tensor.spec().shape, view.shape(), "{case} {name}");
            assert!(tensor.spec().float().is_some());
            let view = Tensor {
                name: name.to_string(),
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                bytes: view.data().to_vec(),
            };
            let values = whole(tensor);
            // Where the expected values are rounded to the checkpoint's dtype, so are ours.
            let values = if view.dtype == Dtype::F32 {
                values
            } else {
                Tensor::of(name, view.dtype, &view.shape, &values).values()
            };
            assert_eq!(bits(&values), bits(&view.values()), "{case} {name}");
        }
        assert!(checkpoint.config.quantization().unwrap().is_none());
        assert!(!checkpoint.config.to_text().contains("quantization_config"));
    }
}

#[test]
fn every_stored_tensor_is_a_part_or_unused_with_a_reason() {
    for case in cases() {
        let checkpoint = Checkpoint::open(&case, &data(&case)).unwrap();
        let mut seen: Vec<String> = checkpoint.unused().keys().cloned().collect();
        for (_, tensor) in checkpoint.tensors() {
            seen.extend(tensor.parts().into_iter().map(String::from));
            assert!(tensor.origin().is_some());
            tensor.prefetch(0..tensor.spec().elements());
            tensor.release(0..tensor.spec().elements());
        }
        seen.sort();
        let stored: Vec<String> = checkpoint.stored().keys().cloned().collect();
        assert_eq!(seen, stored, "{case}");
    }
    let checkpoint = Checkpoint::open("fp8_tensor", &data("fp8_tensor")).unwrap();
    let reason = &checkpoint.unused()[&format!("{UP}.input_scale")];
    assert!(reason.contains("activations"), "{reason}");
    assert_eq!(checkpoint.quantisation(), Some("fp8"));
}

#[test]
fn dtypes_follow_the_config_or_else_the_scheme() {
    for (case, otherwise) in [
        ("gptq4_v1", Dtype::F16),
        ("awq_groups", Dtype::F16),
        ("bnb_int8", Dtype::F16),
        ("bnb_nf4", Dtype::F32),
        ("fp8_block", Dtype::BF16),
    ] {
        let name = format!("{UP}.weight");
        for (dtype, expected) in [
            (json!("float32"), Dtype::F32),
            (json!("bfloat16"), Dtype::BF16),
            (json!(null), otherwise),
        ] {
            let sandbox = copy(case);
            edit_config(&sandbox, |config| config["torch_dtype"] = dtype.clone());
            let checkpoint = open(&sandbox).unwrap();
            assert_eq!(checkpoint.tensor(&name).unwrap().spec().dtype, expected, "{case} {dtype}");
        }
    }
}

#[test]
fn a_nested_config_loses_its_quantisation_too() {
    let sandbox = copy("gptq4_v1");
    edit_config(&sandbox, |config| {
        let inner = config.as_object_mut().unwrap().remove("quantization_config").unwrap();
        config["text_config"] = json!({"dtype": "float16", "quantization_config": inner});
    });
    let checkpoint = open(&sandbox).unwrap();
    assert!(checkpoint.tensor(&format!("{UP}.weight")).is_some());
    let text = checkpoint.config.to_text();
    assert!(!text.contains("quantization") && text.contains("text_config"), "{text}");
    edit_config(&sandbox, |config| config["quantization_config"] = json!({"quant_method": "awq"}));
    let error = refused(&sandbox);
    assert_eq!(error.get("key"), Some("text_config.quantization_config"), "{error}");
}

#[test]
fn settings_that_are_not_read_are_refused_by_name() {
    for (case, key, value, says) in [
        ("fp8_block", "quant_method", json!("hqq"), "hqq"),
        ("fp8_block", "quant_method", json!("eetq"), "eetq"),
        ("fp8_block", "quant_method", json!("quanto"), "quanto"),
        ("fp8_block", "quant_method", json!("aqlm"), "aqlm"),
        ("fp8_block", "quant_method", json!("exl2"), "exl2"),
        ("fp8_block", "quant_method", json!("mxfp4"), "mxfp4"),
        ("fp8_block", "quant_method", json!(null), "no quant_method"),
        ("fp8_block", "weight_block_size", json!([0, 128]), "[0,128]"),
        ("fp8_block", "weight_block_size", json!(128), "128"),
        ("ct_block", "format", json!("pack-quantized"), "pack-quantized"),
        ("ct_block", "format", json!("nvfp4-pack-quantized"), "nvfp4-pack-quantized"),
        (
            "ct_block",
            "sparsity_config",
            json!({"format": "sparse-24-bitmask"}),
            "sparse-24-bitmask",
        ),
        ("ct_block", "transform_config", json!({"config_groups": {}}), "transforms"),
        ("ct_block", "config_groups.group_0.weights.type", json!("int"), "int, 8 bits"),
        ("ct_block", "config_groups.group_0.weights.num_bits", json!(4), "float, 4 bits"),
        ("ct_block", "config_groups.group_0.weights.symmetric", json!(false), "false"),
        ("ct_block", "config_groups.group_0.weights.strategy", json!("group"), "group"),
        ("gptq4_v1", "bits", json!(5), "5"),
        ("gptq4_v1", "bits", json!(null), "none"),
        ("gptq4_v1", "bits", json!("4"), "\"4\""),
        ("gptq4_v1", "group_size", json!(0), "0"),
        ("gptq4_v1", "group_size", json!(null), "none"),
        ("gptq4_v1", "checkpoint_format", json!("marlin"), "marlin"),
        ("gptq4_v1", "pack_dtype", json!("int64"), "int64"),
        ("awq_groups", "bits", json!(3), "3"),
        ("awq_groups", "version", json!("gemv"), "gemv"),
        ("awq_groups", "version", json!("gemv_fast"), "gemv_fast"),
        ("awq_groups", "checkpoint_format", json!("marlin"), "marlin"),
        ("awq_groups", "group_size", json!(-2), "-2"),
    ] {
        let sandbox = copy(case);
        edit_config(&sandbox, |config| {
            let pointer = format!("/quantization_config/{}", key.replace('.', "/"));
            match config.pointer_mut(&pointer) {
                Some(place) => *place = value.clone(),
                None => config["quantization_config"][key] = value.clone(),
            }
        });
        let error = refused(&sandbox);
        let named = error.get("key").unwrap();
        assert!(
            named.starts_with(&format!("quantization_config.{}", key.trim_end_matches("num_bits"))),
            "{error}"
        );
        assert!(error.get("found").unwrap().contains(says), "{case} {key}: {error}");
        assert!(error.get("file").unwrap().ends_with("config.json"), "{error}");
    }
    let sandbox = copy("fp8_block");
    edit_config(&sandbox, |config| config["quantization_config"] = json!("fp8"));
    assert!(refused(&sandbox).to_string().contains("no object"));
}

#[test]
fn a_missing_part_is_named() {
    for (case, part, message) in [
        ("fp8_block", "weight_scale_inv", "lacks a part"),
        ("ct_channel", "weight_scale", "lacks a part"),
        ("ct_channel", "weight", "part of no weight"),
        ("bnb_nf4", "weight.absmax", "lacks a part"),
        ("bnb_nf4", "weight.quant_map", "lacks a part"),
        ("bnb_nf4", "weight.quant_state.bitsandbytes__nf4", "lacks a part"),
        ("bnb_nf4", "weight", "part of no weight"),
        ("bnb_nf4_nested", "weight.nested_absmax", "lacks a part"),
        ("bnb_nf4_nested", "weight.nested_quant_map", "lacks a part"),
        ("bnb_int8", "SCB", "lacks a part"),
        ("gptq4_v1", "scales", "lacks a part"),
        ("gptq4_v1", "qzeros", "lacks a part"),
        ("gptq4_v1", "qweight", "part of no weight"),
        ("awq_groups", "scales", "lacks a part"),
        ("awq_groups", "qzeros", "lacks a part"),
        ("awq_groups", "qweight", "part of no weight"),
    ] {
        let sandbox = copy(case);
        let name = format!("{UP}.{part}");
        edit(&sandbox, |tensors| tensors.retain(|tensor| tensor.name != name));
        let error = refused(&sandbox);
        assert!(error.message().contains(message), "{case} {part}: {error}");
        if message == "lacks a part" {
            let missing = error.get("missing").unwrap();
            assert!(missing.starts_with(&name) || name.starts_with(missing), "{error}");
        }
        assert!(error.get("file").unwrap().ends_with("model.safetensors"), "{error}");
        assert!(error.hint_text().is_some(), "{error}");
    }
}

#[test]
fn a_part_of_another_shape_or_dtype_is_named() {
    for (case, part, dtype, shape) in [
        ("fp8_block", "weight_scale_inv", Dtype::F32, vec![3, 2]),
        ("fp8_block", "weight_scale_inv", Dtype::I32, vec![2, 2]),
        ("ct_channel", "weight_scale", Dtype::F32, vec![25, 1]),
        ("ct_tensor", "weight_scale", Dtype::F32, vec![2]),
        ("bnb_nf4", "weight", Dtype::U8, vec![767, 1]),
        ("bnb_nf4", "weight.absmax", Dtype::F32, vec![23]),
        ("bnb_nf4", "weight.quant_map", Dtype::F32, vec![8]),
        ("bnb_nf4_nested", "weight.nested_absmax", Dtype::F32, vec![1]),
        ("bnb_nf4_nested", "weight.nested_quant_map", Dtype::F32, vec![16]),
        ("bnb_int8", "SCB", Dtype::F32, vec![23]),
        ("bnb_int8", "weight", Dtype::U8, vec![24, 48]),
        ("bnb_int8", "weight", Dtype::I8, vec![24 * 48]),
        ("gptq4_v1", "qweight", Dtype::I32, vec![8, 31]),
        ("gptq4_v1", "qweight", Dtype::I32, vec![9, 32]),
        ("gptq4_v1", "qweight", Dtype::I64, vec![8, 32]),
        ("gptq4_v1", "qweight", Dtype::I32, vec![256]),
        ("gptq4_v1", "qzeros", Dtype::I32, vec![2, 5]),
        ("gptq4_v1", "scales", Dtype::F16, vec![3, 32]),
        ("gptq4_v1", "scales", Dtype::I16, vec![2, 32]),
        ("gptq4_v1", "g_idx", Dtype::I32, vec![65]),
        ("gptq4_v1", "g_idx", Dtype::I32, vec![1 << 18]),
        ("awq_groups", "qweight", Dtype::I32, vec![64, 5]),
        ("awq_groups", "qzeros", Dtype::I32, vec![3, 4]),
        ("awq_groups", "scales", Dtype::F16, vec![4, 32]),
    ] {
        let sandbox = copy(case);
        let name = format!("{UP}.{part}");
        edit(&sandbox, |tensors| {
            let tensor = tensors.iter_mut().find(|tensor| tensor.name == name).unwrap();
            tensor.dtype = dtype;
            tensor.shape = shape.clone();
            let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            tensor.bytes.resize(bytes, 0);
        });
        let error = refused(&sandbox);
        assert!(error.get("expected").is_some(), "{case} {part} {dtype} {shape:?}: {error}");
        assert!(error.get("found").is_some(), "{case} {part}: {error}");
    }
}

#[test]
fn other_damage_is_refused() {
    // A description that is no JSON, lies about its kind or the shape, or has blocks of nothing.
    let state = format!("{UP}.weight.quant_state.bitsandbytes__nf4");
    for (from, to) in [
        ("{", "["),
        ("nf4\"", "fp4\""),
        ("[24, 64]", "[24, 66]"),
        ("[24, 64]", "[18446744073709551615, 64]"),
        ("\"blocksize\": 64", "\"blocksize\": 0"),
    ] {
        let sandbox = copy("bnb_nf4");
        edit(&sandbox, |tensors| {
            let tensor = tensors.iter_mut().find(|tensor| tensor.name == state).unwrap();
            let text = String::from_utf8(tensor.bytes.clone()).unwrap();
            tensor.bytes = text.replacen(from, to, 1).into_bytes();
            tensor.shape = vec![tensor.bytes.len()];
        });
        refused(&sandbox);
    }
    // A layout for GPUs.
    let sandbox = copy("bnb_int8");
    set_bytes(&sandbox, "weight_format", |bytes| bytes[0] = 2);
    assert!(refused(&sandbox).message().contains("layout"));
    // Scales under two names, and without a config.
    let sandbox = copy("fp8_tensor");
    edit(&sandbox, |tensors| {
        let mut twice = tensors.iter().find(|t| t.name.ends_with("_scale")).unwrap().clone();
        twice.name = format!("{UP}.weight_scale_inv");
        tensors.push(twice);
    });
    assert!(refused(&sandbox).message().contains("two names"));
    let sandbox = copy("fp8_tensor");
    edit_config(&sandbox, |config| *config = json!({"model_type": "llama"}));
    assert!(refused(&sandbox).message().contains("no quantization_config"));
    // Zero points.
    for (byte, fits) in [(0, true), (1, false)] {
        let sandbox = copy("ct_channel");
        edit(&sandbox, |tensors| {
            let name = format!("{UP}.weight_zero_point");
            let bytes = vec![byte; 24];
            tensors.push(Tensor { name, dtype: Dtype::F8_E4M3, shape: vec![24, 1], bytes });
        });
        assert_eq!(open(&sandbox).is_ok(), fits);
    }
    // The weight as it is beside the packed one.
    let sandbox = copy("gptq4_v1");
    edit(&sandbox, |tensors| {
        tensors.push(Tensor::random(&format!("{UP}.weight"), Dtype::F16, &[32, 64], 1));
    });
    assert!(refused(&sandbox).message().contains("both"));
    // A group that does not exist is found when it is read.
    let sandbox = copy("gptq4_v1");
    set_bytes(&sandbox, "g_idx", |bytes| bytes[4 * 7 + 3] = 0xff);
    let checkpoint = open(&sandbox).unwrap();
    let weight = checkpoint.tensor(&format!("{UP}.weight")).unwrap();
    let error = weight.read(0, &mut [0.0; 4]).unwrap_err();
    assert_eq!(error.get("element"), Some("7"), "{error}");
    assert!(weight.read(32 * 64, &mut [0.0]).is_err());
}

#[test]
fn float_weights_under_a_quantised_config_are_floats() {
    let sandbox = Sandbox::new();
    let tensors = [Tensor::random("x.weight", Dtype::BF16, &[4, 4], 1)];
    let config = json!({"quantization_config": {"load_in_4bit": true}});
    sandbox.model("m", &config, &tensors);
    let checkpoint = Checkpoint::open("m", &sandbox.path("m")).unwrap();
    assert_eq!(bits(&whole(checkpoint.tensor("x.weight").unwrap())), bits(&tensors[0].values()));
    assert_eq!(checkpoint.tensor("x.weight").unwrap().parts(), ["x.weight"]);
}

/// Weights of several bands, of random bits.
fn large() -> Sandbox {
    let random = |name: &str, dtype: Dtype, shape: &[usize]| {
        let words = Tensor::random(name, Dtype::F32, &[shape.iter().product()], 9);
        let bytes = words.values().into_iter().flat_map(|x| {
            let word = (x.to_bits() ^ (x.to_bits() << 13)).to_le_bytes();
            if dtype == Dtype::F16 { word[1..3].to_vec() } else { word.to_vec() }
        });
        Tensor { name: name.into(), dtype, shape: shape.to_vec(), bytes: bytes.collect() }
    };
    let sandbox = Sandbox::new();
    for method in ["gptq", "awq"] {
        let packed = if method == "gptq" { [300, 200] } else { [2400, 25] };
        let tensors = [
            random("m.qweight", Dtype::I32, &packed),
            random("m.qzeros", Dtype::I32, &[75, 25]),
            random("m.scales", Dtype::F16, &[75, 200]),
        ];
        let config =
            json!({"quantization_config": {"quant_method": method, "bits": 4, "group_size": 32}});
        sandbox.model(method, &config, &tensors);
    }
    sandbox
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_range_reads_as_it_does_in_the_whole(
        places in proptest::collection::vec((0.0..1.0_f64, 0..9000_usize), 12),
    ) {
        let sandbox = large();
        let mut all = vec![
            Checkpoint::open("gptq", &sandbox.path("gptq")).unwrap(),
            Checkpoint::open("awq", &sandbox.path("awq")).unwrap(),
        ];
        all.extend(cases().iter().map(|case| Checkpoint::open(case, &data(case)).unwrap()));
        for checkpoint in &all {
            let (name, tensor) = checkpoint.tensors().next().unwrap();
            let values = whole(tensor);
            for (place, length) in &places {
                let start = (place * values.len() as f64) as usize;
                let end = (start + length).min(values.len());
                let mut out = vec![0.0; end - start];
                tensor.read(start, &mut out).unwrap();
                prop_assert_eq!(bits(&out), bits(&values[start..end]), "{} {}", name, start);
                tensor.release(start..end);
            }
        }
    }
}

#[test]
fn a_quantised_model_merges_into_a_float_checkpoint() {
    let sandbox = Sandbox::new();
    for (path, bytes) in files(&data("llama_gptq")) {
        if path != "expected.safetensors" {
            sandbox.write(&format!("a/{path}"), &bytes);
        }
    }
    // `b` holds the same weights as floats, under a config that is not quantised.
    sandbox.write(
        "b/model.safetensors",
        std::fs::read(data("llama_gptq").join("expected.safetensors")).unwrap(),
    );
    let mut config: Value = sandbox.read_json("a/config.json");
    config.as_object_mut().unwrap().remove("quantization_config");
    sandbox.write("b/config.json", config.to_string());
    sandbox.write("recipe.yml", "merge_method: passthrough\nmodels: [{model: a}]\n");
    let plan = sandbox.ok(&["plan", "recipe.yml", "--json"]).json();
    let made_of = plan["models"][0]["made_of"].as_object().unwrap();
    assert_eq!(made_of.len(), 7);
    let name = format!("{UP}.weight");
    let parts = ["qweight", "qzeros", "scales", "g_idx"].map(|part| format!("{UP}.{part}"));
    assert_eq!(made_of[&name], json!(parts));
    let stored: u64 = sandbox.tensors("a").values().map(|t| t.bytes.len() as u64).sum();
    assert_eq!(plan["totals"]["read_bytes"], stored);
    assert!(sandbox.ok(&["plan", "recipe.yml"]).stdout.contains("gptq is undone"));
    sandbox.merge("merge_method: passthrough\nmodels: [{model: a}]\n", "copy", &[]);
    let written = sandbox.read_json("copy/config.json");
    assert!(written.get("quantization_config").is_none(), "{written}");
    assert_eq!(sandbox.tensors("copy"), sandbox.tensors("b"));
    accounted(&sandbox, "copy");
    // With itself as floats, at weights that are exact.
    sandbox.merge(support::LINEAR, "mean", &["--threads", "2"]);
    assert_eq!(sandbox.tensors("mean"), sandbox.tensors("b"));
    accounted(&sandbox, "mean");
}

#[test]
fn what_no_weight_needs_is_listed_as_dropped() {
    let sandbox = copy("fp8_tensor");
    sandbox.merge("merge_method: passthrough\nmodels: [{model: m}]\n", "out", &[]);
    accounted(&sandbox, "out");
    let lineage = sandbox.read_json("out/lineage.json");
    let dropped = &lineage["inputs"][0]["dropped"];
    assert_eq!(dropped.as_object().unwrap().len(), 1, "{dropped}");
}

/// A sandbox with a case as `m`.
fn copy(case: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    for file in ["config.json", "model.safetensors"] {
        sandbox.write(&format!("m/{file}"), std::fs::read(data(case).join(file)).unwrap());
    }
    sandbox
}

fn edit_config(sandbox: &Sandbox, edit: impl FnOnce(&mut Value)) {
    let mut config = sandbox.read_json("m/config.json");
    edit(&mut config);
    sandbox.write("m/config.json", config.to_string());
}

fn edit(sandbox: &Sandbox, edit: impl FnOnce(&mut Vec<Tensor>)) {
    let mut tensors: Vec<Tensor> = sandbox.tensors("m").into_values().collect();
    edit(&mut tensors);
    sandbox.write("m/model.safetensors", support::shard(&tensors));
}

fn set_bytes(sandbox: &Sandbox, part: &str, set: impl FnOnce(&mut Vec<u8>)) {
    let name = format!("{UP}.{part}");
    edit(sandbox, |tensors| {
        set(&mut tensors.iter_mut().find(|tensor| tensor.name == name).unwrap().bytes);
    });
}

fn open(sandbox: &Sandbox) -> Result<Checkpoint, Error> {
    Checkpoint::open("m", &sandbox.path("m"))
}

fn refused(sandbox: &Sandbox) -> Error {
    match open(sandbox) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error,
    }
}
