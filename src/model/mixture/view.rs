//! A mixture seen with other experts: some left out, in another order, or with room for more.

use super::parts::{MixtureLayer, MixtureParts};
use super::router::{RouterRow, RouterRows};
use super::{Counts, Family, architectures};
use crate::error::{Error, Result};
use crate::model::{Checkpoint, Source, TensorSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A tensor under another name.
struct Renamed {
    spec: TensorSpec,
    inner: Arc<dyn Source>,
}

impl Source for Renamed {
    fn spec(&self) -> &TensorSpec {
        &self.spec
    }

    fn read(&self, start: usize, out: &mut [f32]) -> Result<bool> {
        self.inner.read(start, out)
    }

    fn stored(&self) -> Option<&[u8]> {
        self.inner.stored()
    }

    fn stored_at(&self) -> Option<(&Path, u64)> {
        self.inner.stored_at()
    }

    fn parts(&self) -> Vec<&str> {
        self.inner.parts()
    }

    fn scratch(&self) -> u64 {
        self.inner.scratch()
    }

    fn origin(&self) -> Option<&Path> {
        self.inner.origin()
    }

    fn prefetch(&self, elements: Range<usize>) {
        self.inner.prefetch(elements);
    }

    fn release(&self, elements: Range<usize>) {
        self.inner.release(elements);
    }
}

/// Which experts of a layer are seen, in this order, and what routers' rows are scaled to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Their numbers.
    pub(crate) experts: Vec<usize>,
    /// Whether the rows that stay get the length, on average, that all had.
    pub(crate) renormalise: bool,
}

/// A mixture, its family and where its tensors are.
pub(crate) struct Opened {
    pub(crate) family: Family,
    pub(crate) parts: MixtureParts,
    pub(crate) counts: Counts,
}

impl Checkpoint {
    /// What kind of mixture it is.
    ///
    /// # Errors
    /// It is none, or of a family that is not known.
    pub(crate) fn as_mixture(&self) -> Result<Opened> {
        let located = |e: Error| e.model(&self.reference);
        let family =
            Family::of_mixture(self.config.model_type().unwrap_or("none")).map_err(located)?;
        let stored = |name: &str| self.tensor(name).is_some();
        let found = architectures::find(&self.config, stored).map_err(located)?;
        let parts = MixtureParts::of(&found.architecture).map_err(located)?;
        let shared = usize::from(parts.layers.iter().any(|layer| layer.shared.is_some()));
        let counts = Counts { experts: parts.experts(), chosen: parts.chosen, shared };
        Ok(Opened { family, parts, counts })
    }

    /// A mixture seen with some of its experts, layer by layer (all layers keep as many), of which `chosen`
    /// take part for a token. No weight is read.
    ///
    /// # Errors
    /// It is not a mixture of a known family, or an expert is not there.
    pub(crate) fn with_experts(self, kept: &[Kept], chosen: usize) -> Result<Self> {
        let Opened { family, parts, counts } = self.as_mixture()?;
        let left = kept.first().map_or(0, |kept| kept.experts.len());
        let counts = Counts { experts: left, chosen, ..counts };
        let (config, edits) = family.recounted(&self.config, counts)?;
        let stored = |name: &str| self.tensor(name).is_some();
        let made = architectures::find(&config, stored)?.architecture;
        let made = MixtureParts::of(&made)?;
        let mut seen: BTreeMap<String, (String, Arc<dyn Source>)> = BTreeMap::new();
        let mut gone: BTreeSet<String> = BTreeSet::new();
        for ((old, new), kept) in parts.layers.iter().zip(&made.layers).zip(kept) {
            self.of_layer(old, new, kept, &mut seen)?;
            for tensor in old.experts.iter().flatten() {
                if !seen.contains_key(&tensor.name) {
                    gone.insert(tensor.name.clone());
                }
            }
        }
        let order: Vec<String> = self.names_in_file_order().map(str::to_string).collect();
        let mut by_place: Vec<(String, Arc<dyn Source>)> = Vec::new();
        for name in order.iter().filter(|name| !gone.contains(*name)) {
            match seen.remove(name) {
                Some(entry) => by_place.push(entry),
                None => {
                    if let Some(source) = self.shared(name) {
                        by_place.push((name.clone(), Arc::clone(source)));
                    }
                }
            }
        }
        let mut model = self;
        for name in &gone {
            let parts: Vec<String> = model
                .tensor(name)
                .map(|tensor| tensor.parts().into_iter().map(String::from).collect())
                .unwrap_or_default();
            for part in parts {
                model.leave_out(part, "the expert is left out");
            }
        }
        model.config = config;
        model.edits.extend(edits);
        Ok(model.seen_as(by_place.into_iter().map(|(_, source)| source).collect()))
    }

    /// By the names that they have now: what the tensors of a layer that stay are called then.
    fn of_layer(
        &self,
        old: &MixtureLayer,
        new: &MixtureLayer,
        kept: &Kept,
        seen: &mut BTreeMap<String, (String, Arc<dyn Source>)>,
    ) -> Result<()> {
        let missing = |name: &str| Error::internal("a mixture lacks a tensor").tensor(name);
        for (to, from) in new.experts.iter().zip(&kept.experts) {
            let from = old.experts.get(*from).ok_or_else(|| missing("expert"))?;
            for (to, from) in to.iter().zip(from) {
                let inner = self.shared(&from.name).ok_or_else(|| missing(&from.name))?;
                let spec = TensorSpec { name: to.name.clone(), ..inner.spec().clone() };
                let renamed = Renamed { spec, inner: Arc::clone(inner) };
                seen.insert(from.name.clone(), (to.name.clone(), Arc::new(renamed)));
            }
        }
        if let Some(bias) = &old.choice_bias {
            return Err(Error::input("the experts of a router with biases cannot be changed yet")
                .tensor(bias)
                .fact("model", &self.reference));
        }
        let router = self.shared(&old.router).ok_or_else(|| missing(&old.router))?;
        let all = (0..old.experts.len()).map(|row| RouterRow::plain(router, row)).collect();
        let rows = kept.experts.iter().map(|row| RouterRow::plain(router, *row)).collect();
        let rows = RouterRows::new(&new.router, rows, kept.renormalise.then_some(all));
        seen.insert(old.router.clone(), (new.router.clone(), Arc::new(rows)));
        Ok(())
    }

    /// A mixture whose routers have room for more experts: behind its own rows, those of the statistics,
    /// each of the mean length of the mixture's own, times `scale`.
    ///
    /// # Errors
    /// It is not a mixture of a known family, or has no such statistics.
    pub(crate) fn with_more_rows(self, rows: impl Fn(usize) -> String, scale: f64) -> Result<Self> {
        let Opened { parts, .. } = self.as_mixture()?;
        let mut replaced: BTreeMap<String, Arc<dyn Source>> = BTreeMap::new();
        for layer in &parts.layers {
            let missing = || Error::internal("a mixture lacks a router").tensor(&layer.router);
            let router = self.shared(&layer.router).ok_or_else(missing)?;
            let more = self.shared(&rows(layer.number)).ok_or_else(missing)?;
            let own: Vec<RouterRow> =
                (0..layer.experts.len()).map(|row| RouterRow::plain(router, row)).collect();
            let count = more.spec().shape.first().copied().unwrap_or(0);
            let added = (0..count).map(|row| RouterRow::resized(more, row, scale));
            let rows = own.iter().cloned().chain(added).collect();
            let rows = RouterRows::new(&layer.router, rows, Some(own));
            replaced.insert(layer.router.clone(), Arc::new(rows));
        }
        Ok(self.with_tensors(replaced))
    }
}
