//! Parents that no record tells of, found by weights among candidates.

use super::Evidence;
use super::build::Builder;
use super::locate::Places;
use crate::error::Result;
use crate::lineage::infer::{Kind, Settings, infer};
use crate::model::{Checkpoint, Finder};
use std::path::Path;

/// Adds what the weights of the model in `folder` tell of its parents.
pub(super) fn parents(
    builder: &mut Builder,
    root: usize,
    folder: &Path,
    candidates: &[String],
    places: &Places,
) -> Result<()> {
    let finder = Finder::new(Path::new(""), None);
    let child = finder.open(&folder.display().to_string())?;
    let models = candidates.iter().map(|name| finder.open(name));
    let models = models.collect::<Result<Vec<Checkpoint>>>()?;
    let found = infer(&child, &models, &Settings::default())?;
    let kind = &found.explanation.kind;
    let Some(node) = builder.built.trace.nodes.get_mut(root) else { return Ok(()) };
    match kind {
        Kind::Unexplained => {
            node.notes.push("no record, and no candidate explains its weights".to_string());
            return Ok(());
        }
        _ => node.methods = vec![kind.word().to_string()],
    }
    let base = found.explanation.base.and_then(|base| candidates.get(base));
    for parent in found.parents() {
        let is_base = base.is_some_and(|base| base == parent);
        builder.named(root, parent, (Evidence::Inferred, "weights", is_base), None, places);
    }
    Ok(())
}
