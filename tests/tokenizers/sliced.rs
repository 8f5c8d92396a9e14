//! Unions in recipes with `slices`: the embedding is the first slice's, the head the last one's.

use super::support::{self, Sandbox, Tensor};
use super::{A, B, WIDTH, byte_level, mean, near, rows, tokenizer, vocabulary};
use safetensors::Dtype;
use serde_json::json;
use std::collections::BTreeMap;
use tokenizers::Tokenizer;

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// A model of two layers.
fn model(sandbox: &Sandbox, name: &str, tokenizer: &Tokenizer, seed: u64) {
    let rows = tokenizer.get_vocab_size(true);
    let mut config = support::config(2);
    config["vocab_size"] = json!(rows);
    let tensor = |name: &str, shape: &[usize]| Tensor::random(name, Dtype::F32, shape, seed);
    let tensors = [
        tensor(HEAD, &[rows, WIDTH]),
        tensor(EMBEDDING, &[rows, WIDTH]),
        tensor("model.layers.0.mlp.up_proj.weight", &[6, WIDTH]),
        tensor("model.layers.1.mlp.up_proj.weight", &[6, WIDTH]),
        tensor("model.norm.weight", &[WIDTH]),
    ];
    sandbox.model(name, &config, &tensors);
    sandbox.write(&format!("{name}/tokenizer.json"), tokenizer.to_string(false).unwrap());
}

/// A sandbox with models `a` and `b` of other vocabularies, and those.
fn two() -> (Sandbox, [BTreeMap<String, u32>; 2]) {
    let sandbox = Sandbox::new();
    let (a, b) = (byte_level(A, &["<|pad|>"]), byte_level(B, &["<|im_start|>"]));
    model(&sandbox, "a", &a, 1);
    model(&sandbox, "b", &b, 2);
    (sandbox, [vocabulary(&a), vocabulary(&b)])
}

#[test]
fn slices_of_several_models_merge_rows_by_token() {
    let (sandbox, [va, vb]) = two();
    let recipe = "\
merge_method: linear
base_model: a
slices:
  - sources:
      - {model: a, layer_range: [0, 2], parameters: {weight: 0.5}}
      - {model: b, layer_range: [0, 2], parameters: {weight: 0.5}}
  - sources:
      - {model: b, layer_range: [1, 2], parameters: {weight: 0.5}}
      - {model: a, layer_range: [0, 1], parameters: {weight: 0.5}}
tokenizer_source: union
";
    sandbox.merge(recipe, "out", &[]);
    support::accounted(&sandbox, "out");
    let vout = vocabulary(&tokenizer(&sandbox, "out"));
    assert_eq!(sandbox.read_json("out/config.json")["vocab_size"], json!(vout.len()));
    assert_eq!(sandbox.read_json("out/config.json")["num_hidden_layers"], json!(3));
    for name in [EMBEDDING, HEAD] {
        let [of_a, of_b, made] = ["a", "b", "out"].map(|model| rows(&sandbox, model, name));
        assert_eq!(made.len(), vout.len());
        for (token, id) in &vout {
            let expected = match (va.get(token), vb.get(token)) {
                (Some(a), Some(b)) => mean(&of_a[*a as usize], &of_b[*b as usize]),
                (Some(a), None) => of_a[*a as usize].clone(),
                (None, Some(b)) => of_b[*b as usize].clone(),
                (None, None) => panic!("{token:?} is in no model"),
            };
            assert!(near(&made[*id as usize], &expected), "{name} {token:?}");
        }
    }
}

/// A row comes from the models that are merged at its end of the stack; others have no say.
#[test]
fn slices_of_one_model_each_keep_that_models_rows() {
    let (sandbox, [va, vb]) = two();
    let recipe = "\
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 2]}]
  - sources: [{model: b, layer_range: [1, 2]}]
tokenizer_source: union
";
    sandbox.merge(recipe, "out", &[]);
    support::accounted(&sandbox, "out");
    let vout = vocabulary(&tokenizer(&sandbox, "out"));
    for (name, model, own) in [(EMBEDDING, "a", &va), (HEAD, "b", &vb)] {
        let (theirs, made) = (rows(&sandbox, model, name), rows(&sandbox, "out", name));
        assert_eq!(made.len(), vout.len());
        for (token, id) in &vout {
            let expected =
                own.get(token).map_or(vec![0.0; WIDTH], |row| theirs[*row as usize].clone());
            assert!(near(&made[*id as usize], &expected), "{name} {token:?}");
        }
    }
    let plan = sandbox.ok(&["plan", "recipe.yml"]).stdout;
    let zero = plan.lines().filter(|line| line.contains("no model has these tokens")).count();
    assert_eq!(zero, 2, "{plan}");
}
