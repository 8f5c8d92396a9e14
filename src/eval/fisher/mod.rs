//! The diagonal of the Fisher information of a model's weights.
//!
//! For every weight θ: the mean over documents of `(∂/∂θ Σₜ log p(yₜ | x₀…xₜ))²`, where the labels yₜ
//! are drawn from the model's own predictions (Matena and Raffel, *Merging Models with Fisher-Weighted
//! Averaging*, 2111.09832), or are the document's own next tokens (the *empirical* Fisher information).
//!
//! Layers are the outer loop. Forwards, the hidden states between layers are kept, in memory or in
//! temporary files; backwards, the weights of one part of the model and its sums are in memory.

mod budget;
mod documents;
mod labels;
mod output;
mod parts;

pub use crate::model::{FisherSettings as Settings, Labels};
pub use documents::{Data, Documents};

use crate::engine::{Digests, hex};
use crate::error::{Error, Result};
use crate::eval::decoder::backward::Backward;
use crate::eval::decoder::{self, Decoder};
use crate::lineage;
use crate::model::Checkpoint;
use budget::Budget;
pub(crate) use budget::too_small;
use output::Output;
use parts::Pass;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The version of everything that decides the bytes of a result.
pub const NUMERICS: u32 = 1;

/// The longest document, unless a length is given.
const LENGTH: usize = 2048;

/// What may be used for it; nothing of it shows in the result.
#[derive(Clone, Debug)]
pub struct Resources {
    /// Bytes of memory to stay within.
    pub memory: u64,
    /// Threads to compute with.
    pub threads: usize,
    /// Folder of the digest cache; none to do without.
    pub cache: Option<PathBuf>,
}

/// What was computed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Documents that were used.
    pub documents: usize,
    /// Documents with fewer than two tokens, which have nothing to predict.
    pub left_out: usize,
    /// Labels of all documents.
    pub labels: usize,
    /// Tokens of a document at most.
    pub length: usize,
    /// The mean log-likelihood of a label, in nats.
    pub nats: f64,
    /// Tensors of the file.
    pub tensors: usize,
    /// The sum over all weights.
    pub total: f64,
    /// What stands in the file's header.
    pub metadata: BTreeMap<String, String>,
}

/// The memory that the Fisher information of a model takes at least, in bytes, for documents of
/// `length` tokens.
///
/// # Errors
/// The model's gradients cannot be taken.
pub fn least_memory(checkpoint: &Checkpoint, settings: &Settings) -> Result<u64> {
    let model = Backward::open(checkpoint)?;
    Budget::least(&model, length(&model, settings))
}

fn length(model: &Backward<'_>, settings: &Settings) -> usize {
    let context = model.context().unwrap_or(LENGTH);
    settings.length.unwrap_or(context.min(LENGTH))
}

/// Computes the diagonal Fisher information of a model's weights on documents, and writes it to the
/// file `out` (an earlier one is replaced if the second value says so): tensors of float32 with the
/// model's names and shapes. `progress` is told in words how far it is.
///
/// # Errors
/// The model's gradients cannot be taken, the data cannot be read, the memory is too small, or the
/// file cannot be written; it is not there then.
pub fn compute(
    checkpoint: &Checkpoint,
    data: Data<'_>,
    settings: &Settings,
    resources: &Resources,
    out: (&Path, bool),
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Summary> {
    let (target, overwrite) = out;
    let shards = checkpoint.shards().iter().map(|shard| shard.mapping.path());
    output::check(target, overwrite, shards.chain(data.file()))?;
    let model = Backward::open(checkpoint)?;
    // It checks the weights; its own memory is not used.
    let options = decoder::Options { memory: 1 << 50, threads: 1, batch: None };
    let decoder = Decoder::open(checkpoint, &options)?;
    let length = length(&model, settings);
    if length < 2 {
        return Err(Error::input("a document needs two tokens, one to predict the other")
            .key("length")
            .expected("2 or more", length));
    }
    let documents = Documents::read(data, checkpoint, settings, length)?;
    for tokens in &documents.tokens {
        decoder.check(tokens)?;
    }
    let budget = Budget::new(&model, resources, length, &documents)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(budget.threads).build();
    let pool = pool.map_err(|e| Error::internal("cannot start threads").fact("reason", e))?;
    pool.install(|| {
        progress("digests of the model");
        let metadata = metadata(checkpoint, settings, resources, &documents, length)?;
        let mut output = Output::create(target, checkpoint, &metadata)?;
        let pass = Pass { model: &model, documents: &documents, settings, budget: &budget };
        let nats = pass.run(&mut output, progress);
        let nats = nats.map_err(|error| error.model(&checkpoint.reference))?;
        let (tensors, total) = (output.tensors(), output.total());
        output.commit(target, overwrite)?;
        let labels = documents.labels();
        Ok(Summary {
            documents: documents.tokens.len(),
            left_out: documents.left_out,
            labels,
            length,
            nats: nats / labels.max(1) as f64,
            tensors,
            total,
            metadata,
        })
    })
}

/// What the file says of itself.
fn metadata(
    checkpoint: &Checkpoint,
    settings: &Settings,
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
    set("statistics", "fisher".to_string());
    set("numerics", NUMERICS.to_string());
    set("data_sha256", documents.digest.clone());
    if let Some(digest) = &documents.tokenizer {
        set("tokenizer_sha256", digest.clone());
    }
    set("samples", documents.tokens.len().to_string());
    set("left_out", documents.left_out.to_string());
    set("length", length.to_string());
    set("labels", settings.labels.name().to_string());
    if settings.labels == Labels::Model {
        set("seed", settings.seed.to_string());
    }
    // A stage that was not written has no files.
    if !checkpoint.stored().is_empty()
        && let Some(digest) = lineage::digest(checkpoint, &of_model)
    {
        set("model_digest", hex(&digest));
    }
    Ok(metadata)
}
