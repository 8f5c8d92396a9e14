//! Whether the weights that are there have the digests that were recorded: from the cache of digests, or
//! by hashing where that was asked for.

use super::build::Built;
use super::{Kind, Options, State};
use crate::engine::{Digest, Digests, hex};
use crate::error::Result;
use crate::lineage::digest;
use crate::model::Checkpoint;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Compares the recorded digests with what is known of the weights.
pub(super) fn check(built: &mut Built, options: &Options) {
    let mut known: BTreeMap<(usize, Vec<usize>), Option<String>> = BTreeMap::new();
    let trace = &mut built.trace;
    for recorded in &built.digests {
        let Some(edge) = trace.edges.get(recorded.edge) else { continue };
        let parent = edge.parent;
        let folder = |index: usize| {
            let node = trace.nodes.get(index).filter(|node| node.state == State::Found)?;
            Some((node.name.clone(), node.folder.clone()?))
        };
        let is_stage = trace.nodes.get(parent).is_none_or(|node| node.kind == Kind::Stage);
        let Some(model) = folder(parent).filter(|_| !is_stage) else { continue };
        let adapters: Option<Vec<_>> = recorded.adapters.iter().map(|node| folder(*node)).collect();
        let Some(adapters) = adapters else { continue };
        let key = (parent, recorded.adapters.clone());
        let found = match known.get(&key) {
            Some(found) => found.clone(),
            None => {
                let found = computed(&model, &adapters, options);
                let found = found.unwrap_or_else(|e| {
                    if let Some(node) = trace.nodes.get_mut(parent) {
                        let file = e.get("file").map(|file| format!(" ({file})"));
                        let file = file.unwrap_or_default();
                        node.notes
                            .push(format!("its weights were not read: {}{file}", e.message()));
                    }
                    None
                });
                known.insert(key, found.clone());
                found
            }
        };
        if let Some(edge) = trace.edges.get_mut(recorded.edge) {
            edge.digest_agrees = found.map(|found| found == recorded.digest);
        }
    }
}

/// The digest of a model with adapters, if it is known or may be computed.
fn computed(
    (name, folder): &(String, PathBuf),
    adapters: &[(String, PathBuf)],
    options: &Options,
) -> Result<Option<String>> {
    if !options.verify && options.cache.is_none() {
        return Ok(None);
    }
    let mut model = Checkpoint::open(name, folder)?;
    for (name, folder) in adapters {
        model = model.with_adapter(name, folder)?;
    }
    let models = [model];
    let digests = Digests::new(&models, options.cache.as_deref());
    if options.verify {
        digests.complete(&models)?;
        if let Some(cache) = &options.cache {
            digests.save(&models, cache);
        }
    }
    let of_model = digests.of_model(0).into_iter();
    let of_model: BTreeMap<String, Digest> =
        of_model.map(|(name, digest)| (name.to_string(), digest)).collect();
    Ok(digest(&models[0], &of_model).map(|digest| hex(&digest)))
}
