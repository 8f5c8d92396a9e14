//! WordPiece vocabularies: united as the others are, and never with one of another kind.

use super::support::{self, Sandbox};
use super::{A, byte_level, mean, model, near, rows, tokenizer, vocabulary, with_base};
use serde_json::json;
use tokenizers::{AddedToken, Tokenizer};

/// A tokenizer with these entries, `[UNK]` and the letters of the words first.
fn wordpiece(words: &[&str], special: &[&str]) -> Tokenizer {
    let letters = ('a'..='z').flat_map(|letter| [letter.to_string(), format!("##{letter}")]);
    let all = std::iter::once("[UNK]".to_string()).chain(letters);
    let all = all.chain(words.iter().map(ToString::to_string));
    let vocab: serde_json::Map<String, _> =
        all.enumerate().map(|(id, token)| (token, json!(id))).collect();
    let made = json!({
        "version": "1.0",
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": false},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    });
    let mut tokenizer: Tokenizer = made.to_string().parse().unwrap();
    let special = special.iter().map(|token| AddedToken::from(*token, true));
    tokenizer.add_special_tokens(special).unwrap();
    tokenizer
}

#[test]
fn union_of_wordpiece() {
    let sandbox = Sandbox::new();
    let a = wordpiece(&["low", "##er", "##est", "the", "new"], &["[SEP]"]);
    let b = wordpiece(&["wind", "##ow", "new", "##ing", "##est"], &["[SEP]", "[MASK]"]);
    model(&sandbox, "a", &a, 0, 1);
    model(&sandbox, "b", &b, 0, 2);
    sandbox.merge(&with_base("tokenizer_source: union"), "out", &[]);
    support::accounted(&sandbox, "out");
    let out = tokenizer(&sandbox, "out");
    let (va, vb, vout) = (vocabulary(&a), vocabulary(&b), vocabulary(&out));
    assert!(va.iter().all(|(token, id)| vout.get(token) == Some(id)));
    assert!(vb.keys().all(|token| vout.contains_key(token)));
    assert_eq!(sandbox.read_json("out/config.json")["vocab_size"], json!(vout.len()));
    let name = "model.embed_tokens.weight";
    let [of_a, of_b, made] = ["a", "b", "out"].map(|model| rows(&sandbox, model, name));
    for (token, id) in &vout {
        let row = &made[*id as usize];
        let expected = match (va.get(token), vb.get(token)) {
            (Some(a), Some(b)) => mean(&of_a[*a as usize], &of_b[*b as usize]),
            (Some(a), None) => of_a[*a as usize].clone(),
            (None, Some(b)) => of_b[*b as usize].clone(),
            (None, None) => panic!("{token:?} is in no model"),
        };
        assert!(near(row, &expected), "{token:?}");
    }
    // Words of either parent are cut as there; one of both gets pieces of both.
    let cut = |tokenizer: &Tokenizer, text: &str| {
        tokenizer.encode(text, false).unwrap().get_tokens().to_vec()
    };
    for text in ["the lowest", "lower new [SEP]"] {
        assert_eq!(cut(&out, text), cut(&a, text), "{text}");
    }
    for text in ["winding window [MASK]", "newest [SEP]"] {
        assert_eq!(cut(&out, text), cut(&b, text), "{text}");
    }
    assert_eq!(cut(&out, "lowing"), ["low", "##ing"]);
}

#[test]
fn wordpiece_and_another_kind_are_refused() {
    let sandbox = Sandbox::new();
    model(&sandbox, "a", &wordpiece(&["low"], &[]), 0, 1);
    model(&sandbox, "b", &byte_level(A, &[]), 0, 2);
    sandbox.write("recipe.yml", with_base("tokenizer_source: union"));
    let message = sandbox.fails(2, &["plan", "recipe.yml"]);
    for part in ["of different kinds", "WordPiece", "BPE", "recipe.yml:6"] {
        assert!(message.contains(part), "{part:?} is not in\n{message}");
    }
}
