//! A Hugging Face model folder, opened and checked; no weight is read.

use super::adapter::{Adapter, Applied};
use super::config::Config;
use super::gguf;
use super::hub::Resolved;
use super::layers::Stacks;
use super::quantised;
use super::shards::{Shard, StoredTensor, Tensors};
use super::source::Source;
use super::statistics::OfModel;
use super::tied::tied_to;
use super::weights;
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An opened checkpoint: name → [`Source`], plus its config.
///
/// What its files store and what a merge sees are two things: a quantised weight is stored in
/// several packed tensors and seen as one of floats. For most checkpoints both are the same.
#[derive(Clone)]
pub struct Checkpoint {
    /// How the recipe refers to it.
    pub reference: String,
    /// Its folder, or the one file that it is.
    pub folder: PathBuf,
    /// Where on the Hub it comes from; none if it was given as a folder.
    pub hub: Option<Arc<Resolved>>,
    /// Its `config.json`, which describes the tensors as a merge sees them.
    pub config: Config,
    /// Its stacks of layers.
    pub stacks: Stacks,
    /// What is lost where an output takes what it needs besides weights from this model.
    pub notes: Vec<String>,
    /// What its config says otherwise than its file, in words.
    pub edits: Vec<String>,
    adapters: Vec<Applied>,
    pub(super) statistics: Option<OfModel>,
    shards: Vec<Arc<Shard>>,
    stored: BTreeMap<String, StoredTensor>,
    unused: BTreeMap<String, String>,
    quantisation: Option<String>,
    tensors: BTreeMap<String, Arc<dyn Source>>,
    order: Vec<String>,
}

impl Checkpoint {
    /// Opens the checkpoint in `folder`, or the GGUF file of that path.
    ///
    /// # Errors
    /// The folder is not a checkpoint, or its config, index and headers contradict each other.
    pub fn open(reference: &str, folder: &Path) -> Result<Self> {
        if let Some(file) = gguf::file(folder)? {
            let gguf::Opened { shard, stored, seen, config } = gguf::open(&file)?;
            let note = format!(
                "the tokenizer in {} is not converted; put tokenizer files beside the output",
                shard.file
            );
            let files = Self::unseen(reference, folder, config, vec![shard], stored);
            return Ok(Self { notes: vec![note], ..files }.seen_as(seen));
        }
        let mut config = Config::open(folder)?;
        config.quantization()?;
        let (shards, stored) = weights::open(folder)?;
        let order = || shards.iter().flat_map(|shard| &shard.tensors).map(String::as_str);
        let view = quantised::dequantised(&config, &stored, order())?;
        let (seen, unused, quantisation) = match view {
            Some(view) => (view.tensors, view.dropped, Some(view.scheme)),
            None => {
                let stored = order().filter_map(|name| stored.get(name));
                let seen = stored.map(|tensor| Arc::new(tensor.clone()) as Arc<dyn Source>);
                (seen.collect(), BTreeMap::new(), None)
            }
        };
        config.remove_quantization();
        let files = Self::unseen(reference, folder, config, shards, stored);
        Ok(Self { unused, quantisation, ..files }.seen_as(seen))
    }

    /// Of which nothing is seen yet.
    fn unseen(
        reference: &str,
        folder: &Path,
        config: Config,
        shards: Vec<Arc<Shard>>,
        stored: Tensors,
    ) -> Self {
        Self {
            reference: reference.to_string(),
            folder: folder.to_path_buf(),
            hub: None,
            config,
            stacks: Stacks::default(),
            notes: Vec::new(),
            edits: Vec::new(),
            adapters: Vec::new(),
            statistics: None,
            shards,
            stored,
            unused: BTreeMap::new(),
            quantisation: None,
            tensors: BTreeMap::new(),
            order: Vec::new(),
        }
    }

    /// A model that stands in no files of its own: tensors from elsewhere, in this order, with a
    /// config. The files beside its weights are those of `folder`.
    pub(crate) fn of_tensors(
        reference: &str,
        folder: &Path,
        config: Config,
        tensors: Vec<Arc<dyn Source>>,
    ) -> Self {
        let files = Self::unseen(reference, folder, config, Vec::new(), BTreeMap::new());
        files.seen_as(tensors)
    }

    /// Whether its weights stand in files of its own. Those of a stage do not: its folder is another model's.
    pub(crate) fn is_stored(&self) -> bool {
        !self.shards.is_empty()
    }

    /// The same checkpoint with a LoRA adapter (a PEFT folder) applied while its tensors are read; on
    /// top of those applied before. The adapter's file joins the shards, its tensors the stored ones
    /// as `adapter 1:NAME`, by the adapter's place. Stored tensors that it replaces become unused.
    /// No weight is read.
    ///
    /// # Errors
    /// The folder is no adapter, the adapter is of a kind that is not supported, or any tensor of it
    /// does not fit the model; the error names the first.
    pub fn with_adapter(mut self, reference: &str, folder: &Path) -> Result<Self> {
        if self.adapters.iter().any(|other| other.folder == folder || other.reference == reference)
        {
            return Err(Error::input("an adapter is applied twice")
                .file(folder)
                .fact("adapter", reference));
        }
        let adapter = Adapter::open(reference, folder, self.adapters.len() + 1)?;
        let changed = adapter.change(&self)?;
        for tensor in &adapter.tensors {
            let name = tensor.spec().name.clone();
            if self.stored.insert(name, tensor.clone()).is_some() {
                return Err(Error::input("the model has a tensor of the adapter's name")
                    .file(folder)
                    .tensor(&tensor.spec().name));
            }
        }
        let replaced: BTreeSet<String> = changed
            .keys()
            .filter_map(|name| self.tensors.get(name))
            .flat_map(|tensor| tensor.parts())
            .map(str::to_string)
            .collect();
        self.shards.push(adapter.shard);
        self.adapters.push(adapter.applied);
        let mut model = self.with_tensors(changed);
        let read: BTreeSet<&str> = model.tensors.values().flat_map(|t| t.parts()).collect();
        let gone = replaced.into_iter().filter(|part| !read.contains(part.as_str()));
        let gone: Vec<String> = gone.collect();
        for part in gone {
            model.unused.entry(part).or_insert_with(|| format!("{reference} replaces it whole"));
        }
        Ok(model)
    }

    /// The same with an adapter of the Hub, once it is a folder.
    ///
    /// # Errors
    /// As [`Checkpoint::with_adapter`].
    pub fn with_resolved_adapter(self, reference: &str, resolved: Arc<Resolved>) -> Result<Self> {
        let mut model = self.with_adapter(reference, &resolved.folder)?;
        if let Some(applied) = model.adapters.last_mut() {
            applied.hub = Some(resolved);
        }
        Ok(model)
    }

    /// The adapters applied to it, in order.
    pub fn adapters(&self) -> &[Applied] {
        &self.adapters
    }

    /// Says that a stored tensor is no longer seen, and why.
    pub(super) fn leave_out(&mut self, stored: String, reason: &str) {
        self.unused.entry(stored).or_insert_with(|| reason.to_string());
    }

    /// The same files, seen as these tensors, in this order.
    pub(super) fn seen_as(mut self, tensors: Vec<Arc<dyn Source>>) -> Self {
        self.order = tensors.iter().map(|tensor| tensor.spec().name.clone()).collect();
        self.tensors = self.order.iter().cloned().zip(tensors).collect();
        self.stacks = Stacks::find(self.tensors.keys().map(String::as_str), &self.config);
        self
    }

    /// The same checkpoint with these tensors in place of those of the same names.
    pub(crate) fn with_tensors(mut self, replaced: BTreeMap<String, Arc<dyn Source>>) -> Self {
        if let Some(statistics) = &mut self.statistics {
            statistics.rearranged.extend(replaced.keys().cloned());
        }
        let seen = self.order.iter().filter_map(|name| {
            replaced.get(name).or_else(|| self.tensors.get(name)).map(Arc::clone)
        });
        let seen = seen.collect();
        self.seen_as(seen)
    }

    /// What [`Checkpoint::tensor_or_tied`] finds, to be kept.
    pub(crate) fn shared_or_tied(&self, name: &str) -> Option<Arc<dyn Source>> {
        let (found, _) = self.tensor_or_tied(name)?;
        self.tensors.get(found).map(Arc::clone)
    }

    /// The tensor of this name, as a merge sees it.
    pub fn tensor(&self, name: &str) -> Option<&dyn Source> {
        self.shared(name).map(|tensor| &**tensor)
    }

    /// The same tensor, to be kept.
    pub(crate) fn shared(&self, name: &str) -> Option<&Arc<dyn Source>> {
        self.tensors.get(name).or_else(|| {
            let statistics = self.statistics.as_ref()?;
            let of = name.strip_prefix(statistics.kind.key())?.strip_prefix(':')?;
            statistics.tensors.get(of)
        })
    }

    /// The statistics that come with it.
    pub fn statistics(&self) -> Option<&OfModel> {
        self.statistics.as_ref()
    }

    /// The same with statistics whose file joins the shards.
    pub(super) fn joined(
        mut self,
        statistics: OfModel,
        shard: Arc<Shard>,
        stored: Vec<StoredTensor>,
    ) -> Self {
        self.shards.push(shard);
        self.stored.extend(stored.into_iter().map(|tensor| (tensor.spec().name.clone(), tensor)));
        self.without_file(statistics)
    }

    /// The same with statistics that are in no file yet.
    pub(super) fn without_file(self, statistics: OfModel) -> Self {
        Self { statistics: Some(statistics), ..self }
    }

    /// The tensor that stands for `name`: itself, or the embedding a tied head shares.
    pub fn tensor_or_tied(&self, name: &str) -> Option<(&str, &dyn Source)> {
        if let Some((found, tensor)) = self.tensors.get_key_value(name) {
            return Some((found, &**tensor));
        }
        if self.config.tied() == Some(false) {
            return None;
        }
        let shared = tied_to(name, |name| self.tensors.contains_key(name))?;
        self.tensors.get_key_value(shared).map(|(found, tensor)| (found.as_str(), &**tensor))
    }

    /// All tensors as a merge sees them, by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &dyn Source)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), &**tensor))
    }

    /// All tensors as the files store them, by name.
    pub fn stored(&self) -> &BTreeMap<String, StoredTensor> {
        &self.stored
    }

    /// Stored tensors that no tensor a merge sees is made of, with the reason.
    pub fn unused(&self) -> &BTreeMap<String, String> {
        &self.unused
    }

    /// The quantisation that was undone, as `quant_method` names it.
    pub fn quantisation(&self) -> Option<&str> {
        self.quantisation.as_deref()
    }

    /// Its shards, by file name.
    pub fn shards(&self) -> &[Arc<Shard>] {
        &self.shards
    }

    /// The names of its tensors in the order they stand in the files.
    pub fn names_in_file_order(&self) -> impl Iterator<Item = &str> {
        self.order.iter().map(String::as_str)
    }
}
