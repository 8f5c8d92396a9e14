//! From the text of a recipe to its keys, and the YAML reader's errors in this crate's terms.

use super::nearby::{addition, hint, key_before};
use super::raw::RawRecipe;
use super::sources::{At, Sources};
use crate::error::{Error, Result, nearest};
use serde_yaml::options::NonFiniteFloatPolicy;

/// Scalars, lists and mappings of a file at most, those repeated by aliases included.
const MAX_NODES: usize = 100_000;

/// Parses the YAML documents of a file.
pub(super) fn parse(sources: &Sources, file: usize) -> Result<Vec<At<RawRecipe>>> {
    // A number that is not finite is let through, so that it is refused with its key and range.
    let options = serde_yaml::options! {
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        // Far above what a recipe needs, and read in a moment.
        budget: serde_yaml::budget! { max_nodes: MAX_NODES },
        alias_limits: serde_yaml::alias_limits! { max_total_replayed_events: MAX_NODES },
    };
    serde_yaml::from_multiple_with_options(&sources.numbered(file), options)
        .map_err(|e| yaml_error(sources, e.without_snippet()))
}

/// Keys that only the recipes of mergekit's other programs have at their top, with the program and
/// what it does.
const OTHER_PROGRAMS: [(&str, &str, &str); 3] = [
    ("genome", "mergekit-evolve", "evolutionary search"),
    ("tasks", "mergekit-evolve", "evolutionary search"),
    ("layer_granularity", "mergekit-evolve", "evolutionary search"),
];

/// Restates an error of the YAML reader in this crate's terms.
fn yaml_error(sources: &Sources, error: &serde_yaml::Error) -> Error {
    let place = sources.place(error.location());
    match error {
        serde_yaml::Error::SerdeUnknownField { field, expected, .. } => {
            let other = OTHER_PROGRAMS.iter().find(|(key, ..)| key == field);
            if let Some((_, program, subject)) = other.filter(|_| expected.contains(&"stages")) {
                return place
                    .error(format!("this is a recipe of {program} ({subject}), not of a merge"))
                    .key(field)
                    .hint(format!("cognate has no {subject} yet"));
            }
            let known = place
                .error(format!("unknown key `{field}`"))
                .key(field)
                .fact("expected", format!("one of {}", expected.join(", ")));
            match nearest(field, expected.iter().copied()) {
                Some(near) => known.hint(format!("did you mean `{near}`?")),
                None => known.hint("remove it, or write one of the keys that may stand here"),
            }
        }
        serde_yaml::Error::SerdeMissingField { field, .. } => {
            place.error(format!("the key `{field}` is missing")).key(field).hint(addition(field))
        }
        serde_yaml::Error::DuplicateMappingKey { key, .. } => {
            let error = place.error("a key stands twice").hint("remove one of the two");
            match key {
                Some(key) => error.key(key),
                None => error,
            }
        }
        other => {
            let reason = other.to_string();
            let reason = reason.lines().next().unwrap_or_default();
            // The place stands in a fact of its own.
            let reason = reason.split(" at line ").next().unwrap_or(reason);
            let wrong = place.error("the recipe is not what a recipe must be");
            let wrong = match key_before(sources.text_of(&place), place.line, place.column) {
                Some(key) => wrong.key(key),
                None => wrong,
            };
            wrong.fact("reason", reason).hint(hint(reason))
        }
    }
}
