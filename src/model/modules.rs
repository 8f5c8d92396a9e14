//! The parts of a model of several stacks that recipes speak of: text decoder, vision tower, encoder.

/// Names that recipes use for parts of a model, each with the beginnings of its tensors' names. The
/// module names are those of mergekit's architecture definitions; the tensor names those that
/// transformers has saved over the years.
const MODULES: [(&str, &[&str]); 7] = [
    (
        "text_decoder",
        &[
            "language_model.",
            "model.language_model.",
            "model.layers.",
            "model.embed_tokens.",
            "model.norm.",
            "lm_head.",
        ],
    ),
    ("vision_tower", &["vision_tower.", "model.vision_tower.", "visual.", "model.visual."]),
    ("vision_model", &["vision_model.", "model.vision_model."]),
    (
        "multi_modal_projector",
        &[
            "multi_modal_projector.",
            "model.multi_modal_projector.",
            "visual.merger.",
            "model.visual.merger.",
            "visual.deepstack_merger_list.",
            "model.visual.deepstack_merger_list.",
        ],
    ),
    ("encoder", &["encoder.", "model.encoder."]),
    ("decoder", &["decoder.", "model.decoder.", "lm_head.", "proj_out."]),
    ("shared", &["shared."]),
];

/// The module that holds every tensor which no other one claims.
const REST: &str = "default";

/// Which of the modules a tensor belongs to: the one with the longest beginning of its name. A name
/// that is none of the known ones is itself the beginning of its tensors' names.
pub fn module_of(modules: &[&str], tensor: &str) -> Option<usize> {
    let claim = |module: &str| {
        let known = MODULES.iter().find(|(name, _)| *name == module);
        let own = [module];
        let starts: &[&str] = known.map_or(&own, |(_, starts)| starts);
        starts.iter().filter(|start| tensor.starts_with(**start)).map(|start| start.len()).max()
    };
    let best = (0..modules.len()).filter_map(|i| Some((claim(modules[i])?, i))).max_by_key(|c| c.0);
    best.map(|(_, i)| i).or_else(|| modules.iter().position(|module| *module == REST))
}

/// The names that need no explanation, for messages.
pub fn known_modules() -> impl Iterator<Item = &'static str> {
    std::iter::once(REST).chain(MODULES.iter().map(|(name, _)| *name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_beginning_wins() {
        let modules = ["text_decoder", "multi_modal_projector", "vision_tower"];
        for (tensor, module) in [
            ("model.visual.blocks.0.attn.qkv.weight", Some(2)),
            ("model.visual.merger.ln_q.weight", Some(1)),
            ("model.language_model.layers.0.mlp.up_proj.weight", Some(0)),
            ("lm_head.weight", Some(0)),
            ("audio_tower.conv.weight", None),
        ] {
            assert_eq!(module_of(&modules, tensor), module, "{tensor}");
        }
        assert_eq!(module_of(&["default"], "anything"), Some(0));
        assert_eq!(module_of(&["model.layers", "default"], "model.layers.0.a"), Some(0));
        assert_eq!(module_of(&["model.layers", "default"], "model.norm.weight"), Some(1));
    }
}
