//! Recipes: what is accepted has its values in range, wherever a layer may stand.
#![no_main]

use cognate::recipe::{Dropped, Layout, Parameters, Recipe, RecipeFile, Surgery, Take};
use libfuzzer_sys::fuzz_target;
use std::path::Path;

const NAMES: [&str; 3] = ["model.layers.0.self_attn.q_proj.weight", "lm_head.weight", ""];

/// Every value that a tensor could get is one that the method admits.
fn walk(recipe: &Recipe, parameters: &Parameters) {
    for param in recipe.methods.all().iter().flat_map(|method| method.params) {
        let Some(setting) = parameters.get(param.name) else { continue };
        for name in NAMES {
            for t in [0.0, 1e-9, 1.0 / 3.0, 0.5, 0.9, 1.0] {
                if let Some(value) = setting.value(name, t) {
                    let admitted = param.admits(&value);
                    assert!(admitted.is_ok(), "{} is {value} at {t}: {admitted:?}", param.name);
                }
            }
        }
    }
}

/// Every parameter of every level of one stage.
fn check(recipe: &Recipe) {
    let references = recipe.references();
    assert!(!references.is_empty());
    assert!(references.iter().all(|reference| !reference.value.trim().is_empty()));
    walk(recipe, &recipe.parameters);
    check_layout(recipe, &recipe.layout);
}

fn check_layout(recipe: &Recipe, layout: &Layout) {
    match layout {
        Layout::Models(models) => models.iter().for_each(|model| walk(recipe, &model.parameters)),
        Layout::Slices(slices) => {
            for slice in slices {
                walk(recipe, &slice.parameters);
                for source in &slice.sources {
                    assert!(!source.layers.value.is_empty());
                    assert_eq!(source.layers.value.len(), slice.sources[0].layers.value.len());
                    walk(recipe, &source.parameters);
                }
            }
        }
        Layout::Modules(modules) => {
            for module in modules {
                walk(recipe, &module.parameters);
                check_layout(recipe, &module.layout);
            }
        }
        Layout::Mixture(mixture) => {
            assert!(!mixture.experts.is_empty());
            assert!(mixture.chosen.as_ref().is_none_or(|chosen| chosen.value > 0));
            assert!(mixture.gate_scale > 0.0 && mixture.ridge > 0.0);
        }
        Layout::Surgery(surgery) => match &**surgery {
            Surgery::Extract { experts, .. } => {
                assert!(!matches!(&experts.value, Take::Numbers(numbers) if numbers.is_empty()));
            }
            Surgery::Drop { experts, .. } => {
                assert!(!matches!(&experts.value, Dropped::Numbers(numbers) if numbers.is_empty()));
            }
        },
    }
}

fuzz_target!(|text: String| {
    match RecipeFile::parse(Path::new("recipe.yml"), text, &[]) {
        Ok(file) => file.stages.iter().for_each(check),
        Err(error) => {
            assert_eq!(error.exit_code(), 2, "{error}");
            assert!(!error.to_string().is_empty());
        }
    }
});
