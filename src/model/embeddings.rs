//! Which tensors have one row a token: embeddings, output heads and their biases, by name.
//!
//! Names as transformers' modelling code gives them to the checkpoints of each family.

/// Ends of the names of tensors whose rows are the vocabulary's. A name matches as a whole or behind
/// a dot.
const VOCABULARY: [&str; 17] = [
    "embed_tokens.weight",
    "lm_head.weight",
    "lm_head.bias",
    "wte.weight",
    "embed_in.weight",
    "embed_out.weight",
    "word_embeddings.weight",
    "tok_embeddings.weight",
    "backbone.embeddings.weight",
    "backbone.embedding.weight",
    "model.output.weight",
    "output_layer.weight",
    "cls.predictions.bias",
    "cls.predictions.decoder.weight",
    "cls.predictions.decoder.bias",
    "embed_tokens_per_layer.weight",
    "final_logits_bias",
];

/// Names that are used for other things too behind a dot, and match as a whole alone.
const WHOLE: [&str; 3] = ["shared.weight", "proj_out.weight", "output.weight"];

/// Of these, the ones that are input embeddings, in the order they are looked for.
const INPUT: [&str; 9] = [
    "embed_tokens.weight",
    "wte.weight",
    "embed_in.weight",
    "word_embeddings.weight",
    "tok_embeddings.weight",
    "backbone.embeddings.weight",
    "backbone.embedding.weight",
    "shared.weight",
    "lm_head.weight",
];

fn ends(name: &str, end: &str) -> bool {
    name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether a tensor has one row a token, by its name. A layer's own tensors never do.
pub(crate) fn is_vocabulary_tensor(name: &str) -> bool {
    super::split_layer(name).is_none()
        && (WHOLE.contains(&name) || VOCABULARY.iter().any(|end| ends(name, end)))
}

/// The input embedding among these names.
pub(crate) fn input_embedding<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    INPUT.iter().find_map(|end| {
        names.clone().find(|name| super::split_layer(name).is_none() && ends(name, end))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embeddings_are_known_by_name() {
        for name in [
            "model.embed_tokens.weight",
            "model.language_model.embed_tokens.weight",
            "transformer.wte.weight",
            "gpt_neox.embed_in.weight",
            "embed_out.weight",
            "lm_head.weight",
            "bert.embeddings.word_embeddings.weight",
        ] {
            assert!(is_vocabulary_tensor(name), "{name}");
        }
        for name in [
            "model.layers.0.attention.output.weight",
            "transformer.wpe.weight",
            "model.norm.weight",
            "bert.embeddings.position_embeddings.weight",
            "bert.encoder.layer.3.output.weight",
        ] {
            assert!(!is_vocabulary_tensor(name), "{name}");
        }
        let names = ["lm_head.weight", "model.norm.weight", "model.embed_tokens.weight"];
        assert_eq!(input_embedding(names.into_iter()), Some("model.embed_tokens.weight"));
    }
}
