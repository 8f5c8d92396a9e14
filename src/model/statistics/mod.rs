//! Statistics that come with a model: for each of its tensors one more, which a merge method reads beside
//! the weights.
//!
//! Their file joins the checkpoint's shards and its tensors the stored ones, as `fisher:NAME`, so that
//! digests and lineage cover them; they are not among the tensors that a merge writes.

mod settings;

pub use settings::{FisherSettings, Labels};

use super::checkpoint::Checkpoint;
use super::shards::{self, parse_header};
use super::source::{Source, TensorSpec};
use crate::error::{Error, Result};
use safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Kinds of statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    /// The diagonal of the Fisher information: as many elements as the tensor has.
    Fisher,
}

impl Statistics {
    /// The key of a recipe that gives them.
    pub fn key(self) -> &'static str {
        match self {
            Self::Fisher => "fisher",
        }
    }

    /// What they are, in words.
    pub fn title(self) -> &'static str {
        match self {
            Self::Fisher => "Fisher information",
        }
    }

    /// The shape of the statistics of a tensor of this shape.
    fn shape(self, of: &[usize]) -> Vec<usize> {
        match self {
            Self::Fisher => of.to_vec(),
        }
    }

    /// The name among the stored tensors of those of the tensor `name`.
    pub fn name_of(self, name: &str) -> String {
        format!("{}:{name}", self.key())
    }
}

/// Statistics that are computed when the merge is written.
#[derive(Clone, Debug)]
pub struct ToCompute {
    /// The file of documents.
    pub data: PathBuf,
    /// As the recipe names it.
    pub reference: String,
    /// What decides the result.
    pub settings: FisherSettings,
}

/// The statistics of one model.
#[derive(Clone)]
pub struct OfModel {
    /// Which.
    pub kind: Statistics,
    /// Their file as the recipe names it; none if they are computed.
    pub reference: Option<String>,
    /// The file; none before it is there.
    pub file: Option<PathBuf>,
    /// How they are computed, if they are.
    pub computed: Option<ToCompute>,
    /// What the file says of itself.
    pub metadata: BTreeMap<String, String>,
    pub(super) tensors: BTreeMap<String, Arc<dyn Source>>,
    /// Tensors of the model whose rows were put into another order since.
    pub(super) rearranged: BTreeSet<String>,
}

/// A tensor that is not there yet.
struct Pending(TensorSpec);

impl Source for Pending {
    fn spec(&self) -> &TensorSpec {
        &self.0
    }

    fn read(&self, _: usize, _: &mut [f32]) -> Result<bool> {
        Err(Error::internal("statistics were read before they were computed").tensor(&self.0.name))
    }
}

impl Checkpoint {
    /// The same checkpoint with statistics from a safetensors file that has a tensor for each of its
    /// own. Only the header is read.
    ///
    /// # Errors
    /// The file is none, or a tensor in it is not one of the model's or has another shape.
    pub fn with_statistics(self, kind: Statistics, reference: &str, file: &Path) -> Result<Self> {
        let prefix = format!("{}:", kind.key());
        let (shard, stored) = shards::open_beside(file, parse_header, &prefix)?;
        let metadata = SafeTensors::read_metadata(shard.mapping.bytes());
        let metadata = metadata.ok().and_then(|(_, header)| header.metadata().clone());
        let mut tensors: BTreeMap<String, Arc<dyn Source>> = BTreeMap::new();
        for tensor in &stored {
            let spec = tensor.spec();
            let name = spec.name.strip_prefix(&prefix).unwrap_or(&spec.name);
            let wrong = |message: String| {
                Error::input(message).file(file).tensor(name).fact("model", &self.reference)
            };
            let of = self.tensor(name).ok_or_else(|| {
                wrong(format!("{} of a tensor that the model does not have", kind.title())).hint(
                    "it was computed for another model; `cognate fisher MODEL` computes it anew",
                )
            })?;
            let shape = kind.shape(&of.spec().shape);
            if spec.shape != shape {
                return Err(wrong(format!("{} of another shape", kind.title()))
                    .expected(format!("{shape:?}"), format!("{:?}", spec.shape)));
            }
            if spec.float().is_none() {
                return Err(wrong(format!("{} that is no float", kind.title()))
                    .expected("F32, F16 or BF16", spec.dtype));
            }
            tensors.insert(name.to_string(), Arc::new(tensor.clone()));
        }
        let statistics = OfModel {
            kind,
            reference: Some(reference.to_string()),
            file: Some(file.to_path_buf()),
            computed: None,
            metadata: metadata.into_iter().flatten().collect(),
            tensors,
            rearranged: BTreeSet::new(),
        };
        Ok(self.joined(statistics, shard, stored))
    }

    /// The same with statistics that are computed later: a tensor for each of its float tensors.
    pub fn with_statistics_to_compute(self, kind: Statistics, computed: ToCompute) -> Self {
        let floats = self.tensors().filter(|(_, tensor)| tensor.spec().float().is_some());
        let pending = |(name, tensor): (&str, &dyn Source)| {
            let shape = kind.shape(&tensor.spec().shape);
            let spec = TensorSpec { name: kind.name_of(name), dtype: Dtype::F32, shape };
            (name.to_string(), Arc::new(Pending(spec)) as Arc<dyn Source>)
        };
        let tensors = floats.map(pending).collect();
        self.without_file(OfModel {
            kind,
            reference: None,
            file: None,
            computed: Some(computed),
            metadata: BTreeMap::new(),
            tensors,
            rearranged: BTreeSet::new(),
        })
    }

    /// The same, with how its statistics came to be.
    pub fn computed_by(mut self, computed: ToCompute) -> Self {
        if let Some(statistics) = &mut self.statistics {
            statistics.computed = Some(computed);
        }
        self
    }

    /// The name, for [`Checkpoint::tensor`], of the statistics of a tensor.
    ///
    /// # Errors
    /// There are none.
    pub fn statistics_of(&self, kind: Statistics, tensor: &str) -> Result<String> {
        let (key, title) = (kind.key(), kind.title());
        let found = self.statistics().filter(|found| found.kind == kind).ok_or_else(|| {
            Error::input(format!("a model comes without its {title}"))
                .fact("model", &self.reference)
                .hint(format!("list it under `models` with `{key}: FILE`"))
        })?;
        let missing = |message: String| {
            let error = Error::input(message).tensor(tensor).fact("model", &self.reference);
            match &found.file {
                Some(file) => error.file(file),
                None => error,
            }
        };
        if found.rearranged.contains(tensor) {
            return Err(missing(format!(
                "the {title} of a tensor has the rows of another vocabulary"
            ))
            .hint("merge models that share a vocabulary, without `tokenizer`"));
        }
        if !found.tensors.contains_key(tensor) {
            return Err(missing(format!("the file lacks the {title} of a tensor")).hint(
                "compute the file for this model with `cognate fisher`; zeros stand for a tensor that counts for nothing",
            ));
        }
        Ok(kind.name_of(tensor))
    }
}

impl std::fmt::Display for OfModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let title = self.kind.title();
        match (&self.computed, &self.reference) {
            (Some(computed), _) => {
                let FisherSettings { samples, length, labels, seed, .. } = &computed.settings;
                write!(f, "{title}: computed on ")?;
                match samples {
                    Some(samples) => write!(f, "the first {samples} documents")?,
                    None => write!(f, "all documents")?,
                }
                write!(f, " of {}", computed.reference)?;
                if let Some(length) = length {
                    write!(f, ", up to {length} tokens")?;
                }
                match labels {
                    Labels::Model => write!(f, ", with labels drawn by seed {seed}"),
                    Labels::Data => write!(f, ", with the data's own labels"),
                }
            }
            (None, Some(reference)) => {
                write!(f, "{title}: {} tensors of {reference}", self.tensors.len())
            }
            (None, None) => f.write_str(title),
        }
    }
}
