//! Statistics that come with a model: for each of its tensors one more, which a merge method reads beside
//! the weights.
//!
//! Their file joins the checkpoint's shards and its tensors the stored ones, as `KIND:NAME`, so that
//! digests and lineage cover them; they are not among the tensors that a merge writes.

pub(crate) mod gram;
mod settings;

pub use settings::{
    DocumentSettings, FisherSettings, GateMode, Labels, PromptSource, Prompts, RouterSettings,
    StatisticsSettings,
};

use super::architectures;
use super::checkpoint::Checkpoint;
use super::shards::{self, StoredTensor, parse_header};
use super::source::{Source, TensorSpec};
use crate::error::{Error, Result};
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Kinds of statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    /// The diagonal of the Fisher information: as many elements as the tensor has, for every tensor.
    Fisher,
    /// The Gram matrix of what a linear map's weight is multiplied with, inputs × inputs; other tensors
    /// have none.
    Gram,
    /// The rows of the routers of a mixture that the model is the base of, in every layer.
    Routers,
}

/// Along which side of a linear map's weight its inputs lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum InputsAlong {
    /// It is stored as inputs × outputs.
    Rows,
    /// It is stored as outputs × inputs.
    Columns,
}

impl Statistics {
    /// The key of a recipe that gives them, and the command that computes them.
    pub fn key(self) -> &'static str {
        match self {
            Self::Fisher => "fisher",
            Self::Gram => "gram",
            Self::Routers => "routers",
        }
    }

    /// What they are, in words.
    pub fn title(self) -> &'static str {
        match self {
            Self::Fisher => "Fisher information",
            Self::Gram => "Gram matrices",
            Self::Routers => "routers",
        }
    }

    /// Whether they have an element for each of the tensor's, in the same order, so that both are read
    /// side by side.
    pub fn elementwise(self) -> bool {
        self == Self::Fisher
    }

    /// The name among the stored tensors of those of the tensor `name`.
    pub fn name_of(self, name: &str) -> String {
        format!("{}:{name}", self.key())
    }
}

/// A file of documents.
#[derive(Clone, Debug)]
pub struct DataFile {
    /// Where it is.
    pub path: PathBuf,
    /// As the recipe names it.
    pub reference: String,
}

/// Statistics that are computed when the merge is written.
#[derive(Clone, Debug)]
pub struct ToCompute {
    /// The file of documents; none where the settings name them.
    pub data: Option<DataFile>,
    /// What decides the result.
    pub settings: StatisticsSettings,
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
    /// Of the weights that have a Gram matrix, the side that it belongs to.
    pub(super) along: BTreeMap<String, InputsAlong>,
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

/// The tensor of a model that statistics in a file belong to.
fn tensor_of<'a>(
    model: &'a Checkpoint,
    kind: Statistics,
    file: &Path,
    name: &str,
) -> Result<&'a dyn Source> {
    model.tensor(name).ok_or_else(|| {
        let (key, title) = (kind.key(), kind.title());
        Error::input(format!("{title} of a tensor that the model does not have"))
            .file(file)
            .tensor(name)
            .fact("model", &model.reference)
            .hint(format!(
                "it was computed for another model; `cognate {key} MODEL` computes it anew"
            ))
    })
}

/// Fisher information by the tensors that it belongs to.
fn fisher(
    model: &Checkpoint,
    file: &Path,
    stored: &[(String, &StoredTensor)],
) -> Result<BTreeMap<String, Arc<dyn Source>>> {
    let mut tensors: BTreeMap<String, Arc<dyn Source>> = BTreeMap::new();
    for (name, tensor) in stored {
        let shape = &tensor_of(model, Statistics::Fisher, file, name)?.spec().shape;
        let spec = tensor.spec();
        if spec.shape != *shape {
            return Err(Error::input("Fisher information of another shape")
                .file(file)
                .tensor(name)
                .fact("model", &model.reference)
                .expected(format!("{shape:?}"), format!("{:?}", spec.shape)));
        }
        tensors.insert(name.clone(), Arc::new((*tensor).clone()));
    }
    Ok(tensors)
}

/// Rows of routers, which belong to layers and not to tensors.
fn routers(stored: &[(String, &StoredTensor)]) -> BTreeMap<String, Arc<dyn Source>> {
    let own = |(name, tensor): &(String, &StoredTensor)| {
        (name.clone(), Arc::new((*tensor).clone()) as Arc<dyn Source>)
    };
    stored.iter().map(own).collect()
}

impl Checkpoint {
    /// The same checkpoint with statistics from a safetensors file that has a tensor for each of those
    /// of its own that have any. Only the header is read.
    ///
    /// # Errors
    /// The file is none, or a tensor in it is not one of the model's or has another shape.
    pub fn with_statistics(self, kind: Statistics, reference: &str, file: &Path) -> Result<Self> {
        let prefix = kind.name_of("");
        let (shard, stored) = shards::open_beside(file, parse_header, &prefix)?;
        let metadata = SafeTensors::read_metadata(shard.mapping.bytes());
        let metadata = metadata.ok().and_then(|(_, header)| header.metadata().clone());
        let metadata: BTreeMap<String, String> = metadata.into_iter().flatten().collect();
        let own = |tensor: &StoredTensor| {
            let name = &tensor.spec().name;
            name.strip_prefix(&prefix).unwrap_or(name).to_string()
        };
        let named: Vec<(String, &StoredTensor)> =
            stored.iter().map(|tensor| (own(tensor), tensor)).collect();
        if let Some((name, odd)) = named.iter().find(|(_, tensor)| tensor.spec().float().is_none())
        {
            return Err(Error::input(format!("{} in numbers that are no floats", kind.title()))
                .file(file)
                .tensor(name)
                .fact("model", &self.reference)
                .expected("F32, F16 or BF16", odd.spec().dtype));
        }
        let (tensors, along) = match kind {
            Statistics::Fisher => (fisher(&self, file, &named)?, BTreeMap::new()),
            Statistics::Gram => {
                let found = gram::read(&self, file, &named, &metadata)?;
                (found.tensors, found.along)
            }
            Statistics::Routers => (routers(&named), BTreeMap::new()),
        };
        if tensors.is_empty() {
            return Err(Error::input(format!("the file holds no {}", kind.title())).file(file));
        }
        let statistics = OfModel {
            kind,
            reference: Some(reference.to_string()),
            file: Some(file.to_path_buf()),
            computed: None,
            metadata,
            tensors,
            along,
            rearranged: BTreeSet::new(),
        };
        Ok(self.joined(statistics, shard, stored))
    }

    /// The same with statistics that are computed later.
    pub fn with_statistics_to_compute(self, computed: ToCompute) -> Self {
        let kind = computed.settings.kind();
        let pending = |name: &str, shape: Vec<usize>| {
            let spec = TensorSpec { name: kind.name_of(name), dtype: Dtype::F32, shape };
            Arc::new(Pending(spec)) as Arc<dyn Source>
        };
        let mut tensors = BTreeMap::new();
        let mut along = BTreeMap::new();
        match kind {
            Statistics::Fisher => {
                let floats = self.tensors().filter(|(_, tensor)| tensor.spec().float().is_some());
                for (name, tensor) in floats {
                    tensors.insert(name.to_string(), pending(name, tensor.spec().shape.clone()));
                }
            }
            // A family that is not known is refused before anything is computed.
            Statistics::Gram => {
                for input in gram::inputs(&self).into_iter().flatten() {
                    let source = pending(input.name(), vec![input.width; 2]);
                    for weight in input.weights {
                        along.insert(weight.name.clone(), gram::along(weight.transposed));
                        tensors.insert(weight.name, Arc::clone(&source));
                    }
                }
            }
            Statistics::Routers => {
                let stored = |name: &str| self.tensor(name).is_some();
                let found = architectures::find(&self.config, stored).ok();
                if let (StatisticsSettings::Routers(settings), Some(found)) =
                    (&computed.settings, found)
                {
                    let model = found.architecture;
                    for (name, shape) in settings.shapes(model.layers.len(), model.hidden) {
                        tensors.insert(name.clone(), pending(&name, shape));
                    }
                }
            }
        }
        self.without_file(OfModel {
            kind,
            reference: None,
            file: None,
            computed: Some(computed),
            metadata: BTreeMap::new(),
            tensors,
            along,
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

    /// The name, for [`Checkpoint::tensor`], of the statistics of a tensor: that of another where they share
    /// them. None where the kind lets tensors be without.
    ///
    /// # Errors
    /// The model comes without the statistics, or they lack what they must have.
    pub fn statistics_of(&self, kind: Statistics, tensor: &str) -> Result<Option<String>> {
        let (key, title) = (kind.key(), kind.title());
        let found = self.statistics().filter(|found| found.kind == kind).ok_or_else(|| {
            Error::input(format!("a model comes without its {title}"))
                .fact("model", &self.reference)
                .hint(format!("list it under `models` with `{key}: FILE`"))
        })?;
        // What a Gram matrix says of inputs does not depend on the order of the outputs.
        if !kind.elementwise() {
            return Ok(found.tensors.get(tensor).map(|own| own.spec().name.clone()));
        }
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
            return Err(missing(format!("the file lacks the {title} of a tensor")).hint(format!(
                "compute the file for this model with `cognate {key}`; zeros stand for a tensor that counts for nothing",
            )));
        }
        Ok(Some(kind.name_of(tensor)))
    }

    /// The side of a weight that its Gram matrix belongs to, where it has one.
    pub fn inputs_along(&self, tensor: &str) -> Option<InputsAlong> {
        self.statistics()?.along.get(tensor).copied()
    }
}

impl std::fmt::Display for OfModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let title = self.kind.title();
        match (&self.computed, &self.reference) {
            (Some(computed), _) => {
                let DocumentSettings { samples, length, .. } = computed.settings.documents();
                if let StatisticsSettings::Routers(settings) = &computed.settings {
                    let count = settings.experts.len();
                    return write!(f, "{title}: of {count} experts, {}", settings.mode.name());
                }
                write!(f, "{title}: computed on ")?;
                match samples {
                    Some(samples) => write!(f, "the first {samples} documents")?,
                    None => write!(f, "all documents")?,
                }
                if let Some(data) = &computed.data {
                    write!(f, " of {}", data.reference)?;
                }
                if let Some(length) = length {
                    write!(f, ", up to {length} tokens")?;
                }
                let StatisticsSettings::Fisher(settings) = &computed.settings else {
                    return Ok(());
                };
                match settings.labels {
                    Labels::Model => write!(f, ", with labels drawn by seed {}", settings.seed),
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
