//! GGUF files, seen as the Hugging Face checkpoint they were converted from.
//!
//! A file holds metadata and tensors, plain or quantised in blocks, under llama.cpp's names. What
//! the conversion changed is undone while a tensor is read: names, the order of rows in Llama's
//! query and key projections, the 1 that is added to Gemma's norms. Shapes are written innermost
//! dimension first. `config.json` is made from the metadata.

mod config;
mod families;
mod header;
mod rope;
mod source;
mod types;

use super::config::Config;
use super::mapping::Mapping;
use super::shards::{Placed, Shard, StoredTensor, Tensors};
use super::source::{Source, TensorSpec};
use crate::error::{Error, Result, list};
use config::Metadata;
use families::Family;
use header::{Described, Header};
use safetensors::Dtype;
use source::GgufTensor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use types::Coding;

/// The factors of the rotary embedding, which become part of the config.
const ROPE_FREQS: &str = "rope_freqs.weight";

/// An opened file.
pub(super) struct Opened {
    pub(super) shard: Arc<Shard>,
    /// Its tensors under its own names; quantised ones as bytes.
    pub(super) stored: Tensors,
    /// Its tensors as Hugging Face stores them, in file order.
    pub(super) seen: Vec<Arc<dyn Source>>,
    pub(super) config: Config,
}

/// Whether a path is that of a GGUF file.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "gguf") && path.is_file()
}

/// The GGUF file that a path is, or that a folder holds and no other weights.
pub(super) fn file(path: &Path) -> Result<Option<PathBuf>> {
    if !path.is_dir() {
        return Ok(is_gguf(path).then(|| path.to_path_buf()));
    }
    let names = super::weights::names(path)?;
    // Others of PyTorch's endings, such as training_args.bin, are no weights.
    let pytorch = |name: &str| name.starts_with("pytorch_model") && name.ends_with(".bin");
    let other = |name: &String| name.ends_with(".safetensors") || pytorch(name);
    let found: Vec<&String> = names.iter().filter(|name| name.ends_with(".gguf")).collect();
    match found[..] {
        _ if names.iter().any(other) => Ok(None),
        [] => Ok(None),
        [file] => Ok(Some(path.join(file))),
        _ => Err(Error::input("the model folder holds several GGUF files")
            .file(path)
            .expected("one", list(found.into_iter().map(String::as_str)))
            .hint("name the file itself")),
    }
}

/// Finds the tensors of a GGUF file that is given whole; returns them in file order, as they are
/// stored: under llama.cpp's names, quantised ones as bytes (U8).
///
/// # Errors
/// The header is damaged, or a tensor has a type that is not read.
pub fn parse_gguf(bytes: &[u8]) -> Result<Vec<Placed>> {
    Ok(Header::parse(bytes)?.tensors.iter().map(placed).collect())
}

/// Opens a file.
pub(super) fn open(path: &Path) -> Result<Opened> {
    let mapping = Mapping::open(path)?;
    // The mapping goes into the shard that its tensors hold, so that the header is read twice: for
    // the names, and for the rest.
    let names = Header::parse(mapping.bytes()).map_err(|e| e.file(path))?.tensors;
    let shard = Arc::new(Shard {
        file: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        mapping,
        prefix: String::new(),
        tensors: names.into_iter().map(|tensor| tensor.name).collect(),
    });
    tensors(&shard).map_err(|e| e.file(path))
}

fn tensors(shard: &Arc<Shard>) -> Result<Opened> {
    let header = Header::parse(shard.mapping.bytes())?;
    let metadata = Metadata::new(&header)?;
    let family = Family::find(metadata.architecture)?;
    let mut stored = Tensors::new();
    let mut seen: Vec<Arc<dyn Source>> = Vec::new();
    for described in &header.tensors {
        let name = described.name.clone();
        let (spec, range) = placed(described);
        let tensor = StoredTensor::new(spec, Arc::clone(shard), range);
        stored.insert(name.clone(), tensor.clone());
        if name != ROPE_FREQS {
            seen.push(Arc::new(seen_tensor(&family, &metadata, described, tensor)?));
        }
    }
    let specs: Vec<&TensorSpec> = seen.iter().map(|tensor| tensor.spec()).collect();
    let config = config::config(&family, &metadata, &specs, stored.get(ROPE_FREQS))?;
    let config = Config::made(shard.mapping.path(), config);
    Ok(Opened { shard: Arc::clone(shard), stored, seen, config })
}

/// The tensor as the file stores it: a quantised one as its bytes.
fn placed(described: &Described) -> Placed {
    let Described { name, shape, block, range } = described;
    let (dtype, shape) = match block.coding {
        Coding::Plain(float) => (float.dtype(), shape.clone()),
        Coding::Quantised(_) => (Dtype::U8, vec![range.len()]),
    };
    (TensorSpec { name: name.clone(), dtype, shape }, range.clone())
}

/// The tensor as Hugging Face stores it. A quantised one is seen as F16: the file does not say what
/// it was, and its scales are F16.
fn seen_tensor(
    family: &Family,
    metadata: &Metadata<'_, '_>,
    described: &Described,
    stored: StoredTensor,
) -> Result<GgufTensor> {
    let seen = family.seen(&described.name)?;
    let dtype = match described.block.coding {
        Coding::Plain(float) => float.dtype(),
        Coding::Quantised(_) => Dtype::F16,
    };
    let shape = described.shape.clone();
    let head = match seen.permuted_by {
        None => None,
        Some(key) => Some(head_rows(metadata, key, &shape).map_err(|e| e.tensor(&described.name))?),
    };
    let spec = TensorSpec { name: seen.name, dtype, shape };
    Ok(GgufTensor { spec, stored, block: described.block, head, plus_one: seen.plus_one })
}

/// The rows of a head.
fn head_rows(metadata: &Metadata<'_, '_>, key: &str, shape: &[usize]) -> Result<usize> {
    let heads = match metadata.get(key) {
        // As many as there are queries.
        None => metadata.number("attention.head_count")?,
        Some(_) => metadata.number(key)?,
    };
    let rows = shape.first().copied().unwrap_or(0);
    let heads = usize::try_from(heads).unwrap_or(0);
    let of_head = rows.checked_div(heads).unwrap_or(0);
    if of_head == 0 || of_head * heads != rows || of_head % 2 != 0 {
        return Err(Error::input("the rows of a tensor do not make up its heads")
            .expected(format!("an even number of rows for each of {heads} heads"), rows));
    }
    Ok(of_head)
}
