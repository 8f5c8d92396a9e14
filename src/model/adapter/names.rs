//! The names of an adapter's tensors: `base_model.model.` + module + role, as PEFT stores them.

/// What PEFT puts before the names of the model's modules.
const PREFIX: &str = "base_model.model.";

/// The part that a tensor has in its module's adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// `lora_A.weight`: rank × inputs.
    A,
    /// `lora_B.weight`: outputs × rank.
    B,
    /// `lora_B.bias` (`lora_bias`): added to the bias, times the module's scale.
    Bias,
    /// `lora_embedding_A`: rank × vocabulary.
    EmbeddingA,
    /// `lora_embedding_B`: width × rank.
    EmbeddingB,
    /// `lora_magnitude_vector` (DoRA): one length an output.
    Magnitude,
}

/// What a tensor of an adapter does to the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It is a part of the LoRA of this module.
    Part(String, Role),
    /// It takes the place of the model's tensor of this name; with the kind of module it was saved
    /// from.
    Whole(String, Saved),
}

/// Why a whole tensor is in an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Saved {
    /// A tensor of the model's own that was trained or saved along: a bias, an embedding.
    Own,
    /// Stored below `modules_to_save` (as older versions of PEFT name them).
    Module,
}

/// Reads a name; nothing where it has a role of LoRA in an unknown form.
pub(super) fn meaning(name: &str) -> Option<Meaning> {
    let name = name.strip_prefix(PREFIX).unwrap_or(name);
    let words: Vec<&str> = name.split('.').collect();
    let Some(at) = words.iter().rposition(|word| word.starts_with("lora_")) else {
        return Some(whole(&words));
    };
    // Behind the role stand, optionally, the adapter's name (older files), and `weight` or `bias`.
    let (kind, embedding) = match words[at] {
        "lora_A" => (Role::A, false),
        "lora_B" => (Role::B, false),
        "lora_embedding_A" => (Role::EmbeddingA, true),
        "lora_embedding_B" => (Role::EmbeddingB, true),
        "lora_magnitude_vector" => (Role::Magnitude, true),
        _ => return None,
    };
    let role = match (&words[at + 1..], embedding) {
        (["weight"] | [_, "weight"], _) => kind,
        ([] | [_], true) => kind,
        (["bias"] | [_, "bias"], false) if kind == Role::B => Role::Bias,
        _ => return None,
    };
    Some(Meaning::Part(words[..at].join("."), role))
}

/// A tensor of the model's own, saved whole.
fn whole(words: &[&str]) -> Meaning {
    let Some((last, module)) = words.split_last() else {
        return Meaning::Whole(String::new(), Saved::Own);
    };
    let (module, saved) = match module {
        [module @ .., "modules_to_save"] => (module, Saved::Module),
        [module @ .., "modules_to_save", _] => (module, Saved::Module),
        [module @ .., "base_layer"] => (module, Saved::Own),
        module => (module, Saved::Own),
    };
    let name: Vec<&str> = module.iter().copied().chain([*last]).collect();
    Meaning::Whole(name.join("."), saved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_old_and_new_files_are_read() {
        let part = |module: &str, role| Some(Meaning::Part(module.to_string(), role));
        let whole = |name: &str, saved| Some(Meaning::Whole(name.to_string(), saved));
        let cases = [
            ("base_model.model.h.0.q.lora_A.weight", part("h.0.q", Role::A)),
            ("base_model.model.h.0.q.lora_B.default.weight", part("h.0.q", Role::B)),
            ("h.0.q.lora_B.bias", part("h.0.q", Role::Bias)),
            ("base_model.model.wte.lora_embedding_A", part("wte", Role::EmbeddingA)),
            ("base_model.model.wte.lora_embedding_B.default", part("wte", Role::EmbeddingB)),
            ("base_model.model.q.lora_magnitude_vector", part("q", Role::Magnitude)),
            ("base_model.model.q.lora_magnitude_vector.default.weight", part("q", Role::Magnitude)),
            ("base_model.model.q.lora_C.weight", None),
            ("base_model.model.q.lora_A.bias", None),
            ("base_model.model.q.lora_A", None),
            ("base_model.model.lm_head.weight", whole("lm_head.weight", Saved::Own)),
            ("base_model.model.q.base_layer.bias", whole("q.bias", Saved::Own)),
            ("base_model.model.score.modules_to_save.weight", whole("score.weight", Saved::Module)),
            (
                "base_model.model.score.modules_to_save.default.weight",
                whole("score.weight", Saved::Module),
            ),
        ];
        for (name, expected) in cases {
            assert_eq!(meaning(name), expected, "{name}");
        }
    }
}
