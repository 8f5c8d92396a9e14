//! The short form of the lineage that each shard carries in its header, so that a single file still tells.

use super::{Family, short_name};
use crate::engine::{NUMERICS, hex};
use crate::recipe::{Recipe, RecipeFile};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// A longer value, in bytes, is cut.
const MAX_VALUE: usize = 1024;

/// What stands in the `__metadata__` of the shards of a merge, sorted by key. `recipes` are the stages
/// that the output is made of, the one that makes it last.
pub(crate) fn label(
    file: &RecipeFile,
    recipes: &[&Recipe],
    seed: u64,
    family: &Family,
) -> BTreeMap<String, String> {
    let mut methods: Vec<&str> = Vec::new();
    for recipe in recipes {
        let posts = recipe.posts.iter().map(|given| given.post.name);
        for name in recipe.methods.all().into_iter().map(|method| method.name).chain(posts) {
            if !methods.contains(&name) {
                methods.push(name);
            }
        }
    }
    let base = recipes.last().and_then(|recipe| recipe.base_model.as_ref());
    let name = |reference: &str| match family.member(reference) {
        Some(member) => member.exact_name(),
        None => short_name(reference).to_string(),
    };
    let base = base.map(|base| match family.member(&base.value) {
        Some(_) => name(&base.value),
        None => base.value.split('+').map(|part| name(part.trim())).collect::<Vec<_>>().join("+"),
    });
    let models: Vec<String> = family.members().iter().map(|member| member.exact_name()).collect();
    let mut all = BTreeMap::from([
        ("format", "pt".to_string()),
        ("cognate.models", joined(&models)),
        ("cognate.numerics", NUMERICS.to_string()),
        ("cognate.recipe_sha256", hex(&Sha256::digest(&file.text).into())),
        ("cognate.seed", seed.to_string()),
        ("cognate.version", env!("CARGO_PKG_VERSION").to_string()),
    ]);
    // Mixtures are put together by no method.
    if !methods.is_empty() {
        all.insert("cognate.methods", joined(&methods));
    }
    if let Some(base) = base {
        all.insert("cognate.base_model", joined(&[base]));
    }
    all.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
}

/// Names with commas between them; as many as there is room for.
fn joined(names: &[impl AsRef<str>]) -> String {
    let mut text = String::new();
    for (i, name) in names.iter().map(AsRef::as_ref).enumerate() {
        let comma = if i == 0 { "" } else { ", " };
        if text.len() + comma.len() + name.len() > MAX_VALUE {
            let left = names.len() - i;
            return format!("{text}{comma}and {left} more");
        }
        text.push_str(comma);
        text.push_str(name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::joined;

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..200).map(|i| format!("org/model-{i}")).collect();
        let text = joined(&names);
        assert!(text.len() < 1100 && text.starts_with("org/model-0, org/model-1, "), "{text}");
        let shown = text.matches("org/").count();
        assert!(text.ends_with(&format!(", and {} more", 200 - shown)), "{text}");
        assert_eq!(joined(&["a", "b"]), "a, b");
        assert_eq!(joined(&["x".repeat(2000)]), "and 1 more");
        assert_eq!(joined(&[] as &[&str]), "");
    }
}
