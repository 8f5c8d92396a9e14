//! Licences of parents: which one asks most, and which cannot stand together. The facts stand in
//! `licences.json`; they are a reading of the licences' texts and no legal advice.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Licences of a higher rank are called restrictive.
const PERMISSIVE: u32 = 20;

/// The identifier of licences that the Hub has none for.
pub(crate) const OTHER: &str = "other";

/// What is known of a licence; the table describes the fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Licence {
    rank: u32,
    #[serde(default)]
    vague: bool,
    same: Option<Vec<String>>,
    #[serde(default)]
    adds: Vec<String>,
    #[serde(default)]
    against: Vec<String>,
    family: Option<String>,
    only_family: Option<String>,
    #[serde(default = "allowed")]
    derivatives: bool,
}

fn allowed() -> bool {
    true
}

#[derive(Deserialize)]
struct File {
    licences: BTreeMap<String, Licence>,
}

static TABLE: LazyLock<BTreeMap<String, Licence>> = LazyLock::new(|| {
    let file: Result<File, _> = serde_json::from_str(include_str!("licences.json"));
    // A test reads it.
    file.map(|file| file.licences).unwrap_or_default()
});

fn known(id: &str) -> Option<&'static Licence> {
    TABLE.get(id)
}

/// The rank of an identifier; one that the table lacks counts as `other`.
fn rank(id: &str) -> u32 {
    known(id).or_else(|| known(OTHER)).map_or(PERMISSIVE + 1, |licence| licence.rank)
}

/// Whether an identifier names terms.
fn names_terms(id: &str) -> bool {
    known(id).is_some_and(|licence| !licence.vague)
}

/// Whether the table knows the identifier.
pub(crate) fn is_listed(id: &str) -> bool {
    known(id).is_some()
}

/// The licence that asks most of whoever passes on what is made of models under these; the first of
/// those that ask as much. `unknown` is none.
pub(crate) fn most_restrictive<'a>(ids: impl Iterator<Item = Option<&'a str>>) -> Option<&'a str> {
    let stated = ids.flatten().filter(|id| *id != "unknown");
    stated.fold(None, |most: Option<&str>, id| match most {
        Some(most) if rank(most) >= rank(id) => Some(most),
        _ => Some(id),
    })
}

/// What to look into before something made of these models is passed on: each model with its
/// licence, none where it is not known.
pub(crate) fn conflicts(models: &[(&str, Option<&str>)]) -> Vec<String> {
    let mut found = Vec::new();
    // One model stands for all of its licence.
    let mut by_licence: Vec<(&str, &str)> = Vec::new();
    for (model, id) in models {
        if let Some(id) = id
            && !by_licence.iter().any(|(_, other)| other == id)
        {
            by_licence.push((model, id));
        }
    }
    for (model, id) in &by_licence {
        if known(id).is_some_and(|licence| !licence.derivatives) {
            found.push(format!(
                "{id} (of {model}) does not let changed versions be passed on, and a merge may be one"
            ));
        }
    }
    for (i, a) in by_licence.iter().enumerate() {
        for b in by_licence.iter().skip(i + 1) {
            found.extend(between(*a, *b));
        }
    }
    found
}

/// Why two licences may not stand together.
fn between((a_model, a_id): (&str, &str), (b_model, b_id): (&str, &str)) -> Option<String> {
    let (a, b) = (known(a_id)?, known(b_id)?);
    let first = format!("{a_id} (of {a_model})");
    let second = format!("{b_id} (of {b_model})");
    if a.against.iter().any(|id| id == b_id) || b.against.iter().any(|id| id == a_id) {
        return Some(format!("{first} and {second} are held to be incompatible"));
    }
    if let (Some(x), Some(y)) = (&a.same, &b.same)
        && !x.iter().any(|id| y.contains(id))
    {
        return Some(format!(
            "{first} and {second} each ask that what is made of the model stays under their own terms"
        ));
    }
    for (own, owner, other, name) in [(a, &first, b, &second), (b, &second, a, &first)] {
        if own.same.is_some()
            && let Some(more) = other.adds.iter().find(|more| !own.adds.contains(more))
        {
            return Some(format!(
                "{owner} asks that what is made of the model stays under its own terms, and {name} adds {more}"
            ));
        }
        if let Some(only) = &own.only_family
            && own.family != other.family
            && !other.vague
        {
            return Some(format!("{owner} restricts {only}, and {name} is of another family"));
        }
    }
    None
}

/// A warning where a model's licence is not known beside one that asks something.
pub(crate) fn unknown_beside(models: &[(&str, Option<&str>)]) -> Option<String> {
    let restrictive = |id: &&str| names_terms(id) && rank(id) > PERMISSIVE;
    let (model, id) =
        models.iter().find_map(|(model, id)| Some((*model, id.filter(restrictive)?)))?;
    let unknown: Vec<&str> = models
        .iter()
        .filter(|(_, id)| !id.is_some_and(names_terms))
        .map(|(name, _)| *name)
        .collect();
    (!unknown.is_empty()).then(|| {
        let names = crate::error::list(unknown.iter().copied());
        format!("the licence of {names} is not known, beside {id} of {model}; look into it before the merge is passed on")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_and_names_only_itself() {
        assert!(TABLE.len() > 70, "{}", TABLE.len());
        for (id, licence) in TABLE.iter() {
            let named = licence.same.iter().flatten().chain(&licence.against);
            assert!(named.into_iter().all(|other| TABLE.contains_key(other)), "{id}");
            assert!(licence.same.as_ref().is_none_or(|same| same.contains(id)), "{id}");
        }
    }

    #[test]
    fn the_most_restrictive() {
        let most =
            |ids: &[&str]| most_restrictive(ids.iter().map(|id| Some(*id))).map(str::to_string);
        assert_eq!(most(&["mit", "apache-2.0"]).as_deref(), Some("mit"));
        assert_eq!(
            most(&["mit", "gpl-3.0", "cc-by-nc-4.0", "llama3.1"]).as_deref(),
            Some("cc-by-nc-4.0")
        );
        assert_eq!(most(&["mit", "other"]).as_deref(), Some("other"));
        assert_eq!(most(&["house-terms", "gemma"]).as_deref(), Some("gemma"));
        assert_eq!(most(&["unknown"]), None);
    }

    #[test]
    fn what_conflicts() {
        let of = |a, b| conflicts(&[("a", Some(a)), ("b", Some(b))]).len();
        for (a, b) in [
            ("gpl-3.0", "cc-by-nc-4.0"),
            ("gemma", "agpl-3.0"),
            ("cc-by-nc-sa-4.0", "llama3.1"),
            ("llama2", "apache-2.0"),
            ("cc-by-sa-4.0", "openrail"),
            ("apache-2.0", "gpl-2.0"),
            ("cc-by-nd-4.0", "mit"),
        ] {
            assert_eq!((of(a, b), of(b, a)), (1, 1), "{a} {b}");
        }
        for (a, b) in [
            ("mit", "apache-2.0"),
            ("apache-2.0", "gpl-3.0"),
            ("llama3", "llama2"),
            ("gpl-3.0", "agpl-3.0"),
            ("cc-by-sa-4.0", "gpl-3.0"),
            ("gemma", "mit"),
            ("llama3.1", "apache-2.0"),
            ("cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
            ("other", "gpl-3.0"),
            ("llama2", "other"),
            // `gpl-2.0` may stand for version 2 or later.
            ("gpl-2.0", "gpl-3.0"),
        ] {
            assert_eq!((of(a, b), of(b, a)), (0, 0), "{a} {b}");
        }
    }

    #[test]
    fn unknown_ones_are_named_beside_restrictive_ones() {
        assert!(
            unknown_beside(&[("a", Some("gpl-3.0")), ("b", None)]).unwrap().contains("of b is")
        );
        assert!(unknown_beside(&[("a", Some("gemma")), ("b", Some("other"))]).is_some());
        assert_eq!(unknown_beside(&[("a", Some("mit")), ("b", None)]), None);
        assert_eq!(unknown_beside(&[("a", Some("other")), ("b", None)]), None);
    }
}
