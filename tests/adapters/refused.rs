//! Adapters that are refused, and what is said about them.

use super::support::{Sandbox, Tensor};
use super::{lora, part, whole, write_adapter};
use cognate::model::Checkpoint;
use safetensors::Dtype;
use serde_json::{Value, json};

/// The message of an adapter that is refused for a model with these tensors.
fn refused(config: &Value, tensors: &[Tensor], adapter: &Value, parts: &[Tensor]) -> String {
    let sandbox = Sandbox::new();
    sandbox.model("base", config, tensors);
    write_adapter(&sandbox, "adapter", adapter, parts);
    let model = Checkpoint::open("base", &sandbox.path("base")).unwrap();
    let error = model.with_adapter("adapter", &sandbox.path("adapter")).err().unwrap();
    assert_eq!(error.exit_code(), 2);
    error.to_string().replace(&format!("{}/", sandbox.path("").display()).replace("//", "/"), "")
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let untied = json!({"tie_word_embeddings": false});
    let tied = json!({"tie_word_embeddings": true});
    let weight = Tensor::random("layers.0.q.weight", Dtype::F32, &[4, 6], 1);
    let embedding = Tensor::random("model.embed_tokens.weight", Dtype::F32, &[9, 4], 1);
    let kernel = Tensor::random("conv.weight", Dtype::F32, &[4, 3, 2, 2], 1);
    let whole = Tensor::of("count.weight", Dtype::I64, &[2, 2], &[0.0; 4]);
    let tensors = [weight, embedding, kernel, whole];
    let good =
        [part("layers.0.q.lora_A.weight", &[3, 6]), part("layers.0.q.lora_B.weight", &[4, 3])];
    let with = |more: &[Tensor]| [&good[..], more].concat();
    let pair = |module: &str, a: &[usize], b: &[usize]| {
        [part(&format!("{module}.lora_A.weight"), a), part(&format!("{module}.lora_B.weight"), b)]
    };
    let dora = lora(json!({"use_dora": true}));
    let vocabulary = [
        part("model.embed_tokens.lora_embedding_A", &[3, 9]),
        part("model.embed_tokens.lora_embedding_B", &[4, 3]),
    ];
    let cases: Vec<(&str, String)> = vec![
        (
            "missing",
            refused(
                &untied,
                &tensors,
                &lora(json!({"base_model_name_or_path": "acme/other"})),
                &with(&pair("layers.7.q", &[3, 6], &[4, 3])),
            ),
        ),
        (
            "shape",
            refused(&untied, &tensors, &lora(json!({})), &pair("layers.0.q", &[3, 5], &[4, 3])),
        ),
        ("rank", refused(&untied, &tensors, &lora(json!({"r": 2})), &good)),
        (
            "rank by pattern",
            refused(&untied, &tensors, &lora(json!({"rank_pattern": {"q": 4}})), &good),
        ),
        ("B missing", refused(&untied, &tensors, &lora(json!({})), &good[..1])),
        (
            "unknown part",
            refused(&untied, &tensors, &lora(json!({})), &with(&[part("layers.0.q.lora_E", &[3])])),
        ),
        (
            "two adapters",
            refused(
                &untied,
                &tensors,
                &lora(json!({})),
                &with(&[part("layers.0.q.lora_A.b.weight", &[3, 6])]),
            ),
        ),
        (
            "magnitude without DoRA",
            refused(
                &untied,
                &tensors,
                &lora(json!({})),
                &with(&[part("layers.0.q.lora_magnitude_vector", &[4])]),
            ),
        ),
        ("DoRA without magnitude", refused(&untied, &tensors, &dora, &good)),
        (
            "magnitude's length",
            refused(
                &untied,
                &tensors,
                &dora,
                &with(&[part("layers.0.q.lora_magnitude_vector", &[6])]),
            ),
        ),
        (
            "grouped convolution",
            refused(
                &untied,
                &tensors,
                &lora(json!({})),
                &pair("conv", &[3, 3, 2, 2], &[4, 1, 1, 1]),
            ),
        ),
        (
            "integers",
            refused(&untied, &tensors, &lora(json!({})), &pair("count", &[3, 2], &[2, 3])),
        ),
        (
            "vocabulary",
            refused(
                &untied,
                &tensors,
                &lora(json!({})),
                &with(&[part("model.embed_tokens.weight", &[11, 4])]),
            ),
        ),
        (
            "no bias",
            refused(
                &untied,
                &tensors,
                &lora(json!({})),
                &with(&[part("layers.0.q.lora_B.bias", &[4])]),
            ),
        ),
        (
            "tied head",
            refused(&tied, &tensors, &lora(json!({})), &pair("lm_head", &[3, 4], &[9, 3])),
        ),
        ("shared embedding", refused(&tied, &tensors, &lora(json!({})), &vocabulary)),
        (
            "shared and saved",
            refused(
                &tied,
                &tensors,
                &lora(json!({"modules_to_save": ["embed_tokens"]})),
                &[part("model.embed_tokens.weight", &[9, 4])],
            ),
        ),
        ("nothing", refused(&untied, &tensors, &lora(json!({})), &[])),
    ];
    let text: Vec<String> =
        cases.iter().map(|(what, error)| format!("# {what}\n{error}\n")).collect();
    insta::assert_snapshot!("adapters", text.join("\n"));
}

#[test]
fn folders_that_are_no_adapters_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.model("base", &json!({}), &[Tensor::random("a.weight", Dtype::F32, &[2, 2], 1)]);
    let refused = |folder: &str| {
        let model = Checkpoint::open("base", &sandbox.path("base")).unwrap();
        let error = model.with_adapter(folder, &sandbox.path(folder)).err().unwrap();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    };
    assert!(refused("base").starts_with("the folder is no adapter"));
    sandbox.write("empty/adapter_config.json", lora(json!({})).to_string());
    assert!(refused("empty").starts_with("the adapter has no weights that can be read"));
    sandbox.write("empty/adapter_model.bin", "x");
    assert!(refused("empty").contains("zip archive"));
    sandbox.write("damaged/adapter_config.json", "[");
    assert!(refused("damaged").starts_with("the adapter's config is not a JSON object"));
    sandbox.write("ia3/adapter_config.json", json!({"peft_type": "IA3"}).to_string());
    assert!(refused("ia3").contains("found     IA3"));
    sandbox.write("short/adapter_config.json", lora(json!({})).to_string());
    sandbox.write("short/adapter_model.safetensors", "abc");
    assert!(refused("short").starts_with("the file is too short to be safetensors"));
    let twice = || {
        let parts = [part("a.lora_A.weight", &[3, 2]), part("a.lora_B.weight", &[2, 3])];
        write_adapter(&sandbox, "good", &lora(json!({})), &parts);
        let model = Checkpoint::open("base", &sandbox.path("base")).unwrap();
        model
            .with_adapter("good", &sandbox.path("good"))?
            .with_adapter("good", &sandbox.path("good"))
    };
    assert!(twice().err().unwrap().to_string().starts_with("an adapter is applied twice"));
}

#[test]
fn a_shared_embedding_follows_where_the_adapter_says_so() {
    let sandbox = Sandbox::new();
    let embedding = Tensor::random("model.embed_tokens.weight", Dtype::F32, &[9, 4], 1);
    sandbox.model("base", &json!({"tie_word_embeddings": true}), &[embedding]);
    let saved = part("model.embed_tokens.weight", &[9, 4]);
    let config = lora(json!({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": true}));
    write_adapter(&sandbox, "adapter", &config, std::slice::from_ref(&saved));
    let model = Checkpoint::open("base", &sandbox.path("base")).unwrap();
    let model = model.with_adapter("adapter", &sandbox.path("adapter")).unwrap();
    let (_, head) = model.tensor_or_tied("lm_head.weight").unwrap();
    assert_eq!(whole(head), saved.values());
    assert_eq!(head.stored(), Some(&saved.bytes[..]));
    assert_eq!(head.parts(), ["adapter 1:base_model.model.model.embed_tokens.weight"]);
    assert_eq!(model.adapters()[0].reference, "adapter");
}
