//! From the tensors a merge sees to the stored tensors they are made of.

use super::Model;
use crate::model::{Checkpoint, Source};
use std::collections::{BTreeMap, BTreeSet};

/// What becomes of each stored tensor of a model, by the tensors that are `used` and the reasons
/// why the others are `dropped`.
pub(super) fn account<'a>(
    model: &Checkpoint,
    used: impl Iterator<Item = &'a str>,
    dropped: &BTreeMap<String, String>,
) -> Model {
    let mut made_of = BTreeMap::new();
    let mut read = BTreeSet::new();
    for name in used {
        let parts = model.tensor(name).map(Source::parts).unwrap_or_default();
        read.extend(parts.iter().copied());
        if parts[..] != [name] {
            let parts: Vec<String> = parts.into_iter().map(String::from).collect();
            made_of.insert(name.to_string(), parts);
        }
    }
    let mut left = model.unused().clone();
    for (name, reason) in dropped {
        let parts = model.tensor(name).map(Source::parts).unwrap_or_default();
        for part in parts.into_iter().filter(|part| !read.contains(part)) {
            left.insert(part.to_string(), reason.clone());
        }
    }
    Model {
        reference: model.reference.clone(),
        made_of,
        statistics: model.statistics().map(|found| found.to_string()),
        dropped: left,
    }
}
