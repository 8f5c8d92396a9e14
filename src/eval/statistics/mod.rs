//! Statistics of a model on documents, for the merge methods that read them beside the weights.
//!
//! [`fisher`], [`gram`] and [`routers`] differ in what they take of the way through the model; documents, memory, the
//! way itself and the file are the same. Layers are the outer loop: the hidden states of all documents
//! wait between two layers, in memory or in temporary files.

mod budget;
mod documents;
pub mod fisher;
pub mod gram;
mod output;
pub mod routers;
pub mod routing;
mod walk;

pub(crate) use budget::too_small;
pub use documents::{Data, Documents};

use crate::engine::{Digests, hex};
use crate::error::{Error, Result};
use crate::eval::decoder::backward::Backward;
use crate::eval::decoder::{self, Decoder};
use crate::lineage;
use crate::model::{Checkpoint, DocumentSettings, Statistics, StatisticsSettings, ToCompute};
use budget::{Budget, Sizes};
use output::Output;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use walk::Walk;

/// The longest document, unless a length is given.
const LENGTH: usize = 2048;

/// What may be used for a computation; nothing of it shows in the result.
#[derive(Clone, Debug)]
pub struct Resources {
    /// Bytes of memory to stay within.
    pub memory: u64,
    /// Threads to compute with.
    pub threads: usize,
    /// Folder of the digest cache; none to do without.
    pub cache: Option<PathBuf>,
}

/// What was computed; `T` is what only one kind of statistics can say.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary<T> {
    /// Documents that were used.
    pub documents: usize,
    /// Documents with fewer than two tokens, which are left out.
    pub left_out: usize,
    /// Tokens of a document at most.
    pub length: usize,
    /// Tensors of the file.
    pub tensors: usize,
    /// What stands in the file's header.
    pub metadata: BTreeMap<String, String>,
    /// The rest.
    #[serde(flatten)]
    pub of_kind: T,
}

/// A kind of statistics: what it takes, what its file holds, and how it is computed.
trait Kind: Sync {
    /// What it alone can say of a result.
    type Found: Send;
    /// Which it is.
    const KIND: Statistics;
    /// The version of everything that decides the bytes of a result.
    const NUMERICS: u32;
    /// Whether documents are predicted, so that their last token does not go into the model.
    const PREDICTS: bool;

    /// Which documents.
    fn documents(&self) -> &DocumentSettings;

    /// The memory it takes for documents of `length` tokens.
    fn sizes(&self, model: &Backward<'_>, length: usize) -> Result<Sizes>;

    /// Names and shapes of the file's tensors.
    fn tensors(&self, model: &Backward<'_>) -> Result<BTreeMap<String, Vec<usize>>>;

    /// What its file says besides what all do.
    fn metadata(&self, model: &Backward<'_>) -> Result<BTreeMap<String, String>>;

    /// Computes everything.
    fn run(
        &self,
        walk: &Walk<'_>,
        output: &mut Output,
        progress: &(dyn Fn(&str) + Sync),
    ) -> Result<Self::Found>;
}

/// The memory that statistics of a model take at least, in bytes.
///
/// # Errors
/// They cannot be computed for this family of models.
pub fn least_memory(checkpoint: &Checkpoint, settings: &StatisticsSettings) -> Result<u64> {
    let model = Backward::open(checkpoint)?;
    let length = length(&model, settings.documents());
    let sizes = match settings {
        StatisticsSettings::Fisher(settings) => fisher::Fisher(settings).sizes(&model, length)?,
        StatisticsSettings::Gram(documents) => gram::Gram(documents).sizes(&model, length)?,
        StatisticsSettings::Routers(settings) => {
            routers::Routers::planned(settings).sizes(&model, length)?
        }
    };
    Ok(sizes.least())
}

/// Computes statistics of a kind into a file; see [`fisher::compute`], [`gram::compute`] and
/// [`routers::compute`].
///
/// # Errors
/// As theirs.
pub fn compute(
    checkpoint: &Checkpoint,
    computed: &ToCompute,
    resources: &Resources,
    out: (&Path, bool),
    progress: &(dyn Fn(&str) + Sync),
) -> Result<()> {
    let data = || {
        let file = computed.data.as_ref();
        let file = file.ok_or_else(|| Error::internal("statistics are computed of no data"))?;
        Ok(Data::File(&file.path))
    };
    match &computed.settings {
        StatisticsSettings::Fisher(settings) => {
            fisher::compute(checkpoint, data()?, settings, resources, out, progress)?;
        }
        StatisticsSettings::Gram(settings) => {
            gram::compute(checkpoint, data()?, settings, resources, out, progress)?;
        }
        StatisticsSettings::Routers(settings) => {
            routers::compute(checkpoint, settings, resources, out, progress)?;
        }
    }
    Ok(())
}

fn length(model: &Backward<'_>, settings: &DocumentSettings) -> usize {
    let context = model.context().unwrap_or(LENGTH);
    settings.length.unwrap_or(context.min(LENGTH))
}

/// Computes statistics of a kind and writes them to the file `out`.
fn compute_kind<K: Kind>(
    kind: &K,
    checkpoint: &Checkpoint,
    data: Data<'_>,
    resources: &Resources,
    (target, overwrite): (&Path, bool),
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Summary<K::Found>> {
    output::check(target, overwrite, data.file().into_iter())?;
    let settings = kind.documents();
    let length = length(&Backward::open(checkpoint)?, settings);
    if length < 2 {
        return Err(Error::input("a document needs two tokens, one to predict the other")
            .key("length")
            .expected("2 or more", length));
    }
    let documents = Documents::read(data, checkpoint, settings, length)?;
    compute_documents(
        kind,
        checkpoint,
        (documents, length),
        resources,
        (target, overwrite),
        progress,
    )
}

/// The same of documents that were read, cut to a length.
fn compute_documents<K: Kind>(
    kind: &K,
    checkpoint: &Checkpoint,
    (documents, length): (Documents, usize),
    resources: &Resources,
    (target, overwrite): (&Path, bool),
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Summary<K::Found>> {
    let shards = checkpoint.shards().iter().map(|shard| shard.mapping.path());
    output::check(target, overwrite, shards)?;
    let model = Backward::open(checkpoint)?;
    let sizes = kind.sizes(&model, documents.longest())?;
    with_walk((K::KIND, K::PREDICTS), &model, &documents, &sizes, resources, |walk| {
        progress("digests of the model");
        let mut metadata = kind.metadata(&model)?;
        metadata.extend(described::<K>(checkpoint, resources, &documents, length)?);
        let tensors = kind.tensors(&model)?;
        let mut output = Output::create(target, &tensors, &metadata)?;
        let of_kind = kind.run(walk, &mut output, progress);
        let of_kind = of_kind.map_err(|error| error.model(&checkpoint.reference))?;
        output.commit(target, overwrite)?;
        Ok(Summary {
            documents: documents.tokens.len(),
            left_out: documents.left_out,
            length,
            tensors: tensors.len(),
            metadata,
            of_kind,
        })
    })
}

/// Does work with all documents on their way through a model, within the resources: for statistics of some
/// kind, and with documents that are predicted or not. `sizes` is what it takes.
fn with_walk<T: Send>(
    (kind, predicts): (Statistics, bool),
    model: &Backward<'_>,
    documents: &Documents,
    sizes: &Sizes,
    resources: &Resources,
    work: impl FnOnce(&Walk<'_>) -> Result<T> + Send,
) -> Result<T> {
    // It checks the weights; its own memory is not used.
    let options = decoder::Options { memory: 1 << 50, threads: 1, batch: None };
    let decoder = Decoder::open(model.checkpoint(), &options)?;
    for tokens in &documents.tokens {
        decoder.check(tokens)?;
    }
    let budget = Budget::new(kind, sizes, resources, documents)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(budget.threads).build();
    let pool = pool.map_err(|e| Error::internal("cannot start threads").fact("reason", e))?;
    let walk = Walk { model, documents, budget: &budget, predicts };
    pool.install(|| work(&walk))
}

/// What every file says of itself.
fn described<K: Kind>(
    checkpoint: &Checkpoint,
    resources: &Resources,
    documents: &Documents,
    length: usize,
) -> Result<BTreeMap<String, String>> {
    let models = std::slice::from_ref(checkpoint);
    let digests = Digests::new(models, resources.cache.as_deref());
    digests.complete(models)?;
    if let Some(cache) = &resources.cache {
        digests.save(models, cache);
    }
    let of_model = digests.of_model(0).into_iter();
    let of_model = of_model.map(|(name, digest)| (name.to_string(), digest)).collect();
    let mut metadata = BTreeMap::new();
    let mut set = |key: &str, value: String| metadata.insert(key.to_string(), value);
    set("format", "pt".to_string());
    set("statistics", K::KIND.key().to_string());
    set("numerics", K::NUMERICS.to_string());
    set("data_sha256", documents.digest.clone());
    if let Some(digest) = &documents.tokenizer {
        set("tokenizer_sha256", digest.clone());
    }
    set("samples", documents.tokens.len().to_string());
    set("left_out", documents.left_out.to_string());
    set("length", length.to_string());
    // A stage that was not written has no files.
    if !checkpoint.stored().is_empty()
        && let Some(digest) = lineage::digest(checkpoint, &of_model)
    {
        set("model_digest", hex(&digest));
    }
    Ok(metadata)
}
