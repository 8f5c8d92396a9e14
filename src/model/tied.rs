//! Tied output heads: tensors that share the input embedding and therefore often are not stored.

/// Head name → names of the embedding it shares, per convention of a family of models.
const TIED: [(&str, &[&str]); 6] = [
    (
        "lm_head.weight",
        &[
            "model.embed_tokens.weight",
            "model.language_model.embed_tokens.weight",
            "language_model.model.embed_tokens.weight",
            "model.decoder.embed_tokens.weight",
            "transformer.wte.weight",
            "transformer.word_embeddings.weight",
            "transformer.embedding.word_embeddings.weight",
            "gpt_neox.embed_in.weight",
            "backbone.embeddings.weight",
            "backbone.embedding.weight",
            "wte.weight",
            "word_embeddings.weight",
            "shared.weight",
            "embed_tokens.weight",
        ],
    ),
    ("embed_out.weight", &["gpt_neox.embed_in.weight"]),
    ("proj_out.weight", &["model.decoder.embed_tokens.weight"]),
    ("encoder.embed_tokens.weight", &["shared.weight"]),
    ("decoder.embed_tokens.weight", &["shared.weight"]),
    ("cls.predictions.decoder.weight", &["bert.embeddings.word_embeddings.weight"]),
];

/// The stored tensor that the head `name` shares when the model's embeddings are tied.
pub fn tied_to<'a>(name: &str, stored: impl Fn(&str) -> bool) -> Option<&'a str> {
    let (_, embeddings) = TIED.iter().find(|(head, _)| {
        name == *head || name.strip_suffix(head).is_some_and(|prefix| prefix.ends_with('.'))
    })?;
    embeddings.iter().copied().find(|name| stored(name))
}

/// A head that shares the tensor `embedding` when the model's embeddings are tied, and that has no
/// tensor of its own.
pub(super) fn head_of(embedding: &str, stored: impl Fn(&str) -> bool) -> Option<&'static str> {
    TIED.iter()
        .filter(|(_, embeddings)| embeddings.contains(&embedding))
        .map(|(head, _)| *head)
        .find(|head| !stored(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_find_their_embedding() {
        let stored = |name: &str| name == "transformer.wte.weight";
        assert_eq!(tied_to("lm_head.weight", stored), Some("transformer.wte.weight"));
        assert_eq!(tied_to("model.norm.weight", stored), None);
        assert_eq!(tied_to("lm_head.weight", |_| false), None);
    }
}
