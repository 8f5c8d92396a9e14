//! Shards: which files make up a checkpoint, and what the headers of safetensors say.
//!
//! Format of safetensors: <https://huggingface.co/docs/safetensors>. Headers are read through the safetensors
//! crate's own checks (length, UTF-8, overlap, holes, shape overflow, truncation).

use super::mapping::Mapping;
use super::source::{Float, Source, TensorSpec};
use super::weights::Format;
use crate::error::{Error, Result, list};
use crate::kernels::Kernels;
use safetensors::tensor::Metadata;
use safetensors::{SafeTensorError, SafeTensors};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Component, Path};
use std::sync::Arc;

/// An index larger than this is refused unread.
const MAX_INDEX_BYTES: u64 = 256 << 20;

/// One mapped file of weights.
#[derive(Debug)]
pub struct Shard {
    /// The file's name within the checkpoint's folder.
    pub file: String,
    /// The mapped file.
    pub mapping: Mapping,
    /// What its tensors' names begin with only here: `adapter 1:` for the model's first adapter.
    pub prefix: String,
    /// The names of its tensors (with the prefix), in file order.
    pub tensors: Vec<String>,
}

/// A tensor stored in a shard.
#[derive(Clone, Debug)]
pub struct StoredTensor {
    spec: TensorSpec,
    shard: Arc<Shard>,
    /// Where its bytes stand in the file.
    range: Range<usize>,
}

impl StoredTensor {
    /// A tensor whose bytes stand in `range` of the shard's file; the range has been checked.
    pub(super) fn new(spec: TensorSpec, shard: Arc<Shard>, range: Range<usize>) -> Self {
        Self { spec, shard, range }
    }

    /// The shard it stands in.
    pub fn shard(&self) -> &Arc<Shard> {
        &self.shard
    }

    /// Where its bytes stand in the shard's file.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The file's byte range of an element range of a float tensor.
    fn file_range(&self, elements: Range<usize>) -> Range<usize> {
        let bits = self.spec.dtype.bitsize();
        let first = self.range.start + elements.start * bits / 8;
        let last = self.range.start + (elements.end * bits).div_ceil(8);
        first..last.min(self.range.end)
    }
}

impl Source for StoredTensor {
    fn spec(&self) -> &TensorSpec {
        &self.spec
    }

    fn read(&self, start: usize, out: &mut [f32]) -> Result<bool> {
        let float = Float::of(self.spec.dtype).ok_or_else(|| {
            Error::input("a tensor of this dtype cannot take part in arithmetic")
                .file(self.shard.mapping.path())
                .tensor(&self.spec.name)
                .expected("F32, F16 or BF16", self.spec.dtype)
        })?;
        let stored = &self.shard.mapping.bytes()[self.range.clone()];
        let length = out.len() * float.size();
        let (bytes, next) = start
            .checked_mul(float.size())
            .and_then(|first| stored.get(first..))
            .and_then(|bytes| bytes.split_at_checked(length))
            .ok_or_else(|| {
                Error::internal("a read past the end of a tensor").tensor(&self.spec.name)
            })?;
        Ok(Kernels::best().decode(float, bytes, &next[..next.len().min(length)], out))
    }

    fn stored(&self) -> Option<&[u8]> {
        Some(&self.shard.mapping.bytes()[self.range.clone()])
    }

    fn stored_at(&self) -> Option<(&Path, u64)> {
        Some((self.shard.mapping.path(), self.range.start as u64))
    }

    fn origin(&self) -> Option<&Path> {
        Some(self.shard.mapping.path())
    }

    fn prefetch(&self, elements: Range<usize>) {
        self.shard.mapping.prefetch(self.file_range(elements));
    }

    fn release(&self, elements: Range<usize>) {
        self.shard.mapping.release(self.file_range(elements));
    }
}

/// The tensors of a checkpoint by name.
pub(super) type Tensors = BTreeMap<String, StoredTensor>;

/// Opens every shard of this format in `folder` and cross-checks them with the index; None if the
/// folder holds no weights of the format.
pub(super) fn open(folder: &Path, format: &Format) -> Result<Option<(Vec<Arc<Shard>>, Tensors)>> {
    let index = read_index(folder, format)?;
    let files = match &index {
        Some(index) => index.weight_map.values().cloned().collect(),
        None => match format.unindexed_files(folder)? {
            Some(files) => files,
            None => return Ok(None),
        },
    };
    let mut shards = Vec::new();
    let mut tensors = Tensors::new();
    for file in &files {
        let (shard, specs) = open_shard(folder, file, format)?;
        let shard = Arc::new(shard);
        for (spec, range) in specs {
            let name = spec.name.clone();
            let tensor = StoredTensor::new(spec, Arc::clone(&shard), range);
            if let Some(other) = tensors.insert(name.clone(), tensor) {
                return Err(Error::input("a tensor stands in two shards")
                    .file(&folder.join(file))
                    .tensor(&name)
                    .fact("also in", &other.shard.file));
            }
        }
        shards.push(shard);
    }
    if let Some(index) = &index {
        check_index(&folder.join(format.index), index, &tensors)?;
    }
    Ok(Some((shards, tensors)))
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn read_index(folder: &Path, format: &Format) -> Result<Option<Index>> {
    let path = folder.join(format.index);
    match std::fs::metadata(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("open the index", &path, &e)),
        Ok(metadata) if metadata.len() > MAX_INDEX_BYTES => {
            return Err(Error::input("the index is too large")
                .file(&path)
                .expected(format!("at most {MAX_INDEX_BYTES} bytes"), metadata.len()));
        }
        Ok(_) => {}
    }
    let bytes = std::fs::read(&path).map_err(|e| Error::io("read the index", &path, &e))?;
    parse_index(&bytes).map(|weight_map| Some(Index { weight_map })).map_err(|e| e.file(&path))
}

/// Reads the `weight_map` of a `model.safetensors.index.json`, or of another format's index; a file
/// name that leaves the folder is refused.
pub fn parse_index(bytes: &[u8]) -> Result<BTreeMap<String, String>> {
    let index: Index = serde_json::from_slice(bytes)
        .map_err(|e| Error::input("the index is not valid").fact("reason", e.to_string()))?;
    for (tensor, file) in &index.weight_map {
        let mut parts = Path::new(file).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !plain || file.contains(['\\', '/', '\0']) {
            return Err(Error::input("the index names a file outside its folder")
                .tensor(tensor)
                .expected("a plain file name", format!("{file:?}")));
        }
    }
    if index.weight_map.is_empty() {
        return Err(Error::input("the index names no tensor"));
    }
    Ok(index.weight_map)
}

/// A tensor's spec and the byte range of its data in the file.
pub(crate) type Placed = (TensorSpec, Range<usize>);

/// Finds the tensors of a file that is given whole.
pub(crate) type Parse = fn(&[u8]) -> Result<Vec<Placed>>;

fn open_shard(folder: &Path, file: &str, format: &Format) -> Result<(Shard, Vec<Placed>)> {
    let path = folder.join(file);
    if !path.exists() {
        return Err(Error::input("a shard that the index names is missing")
            .file(&path)
            .hint("the download is incomplete; fetch the model again"));
    }
    map_shard(&path, format.parse, "")
}

/// Maps a file and finds the tensors in it; their names get the prefix.
fn map_shard(path: &Path, parse: Parse, prefix: &str) -> Result<(Shard, Vec<Placed>)> {
    let mapping = Mapping::open(path)?;
    let mut placed = parse(mapping.bytes()).map_err(|e| e.file(path))?;
    placed.iter_mut().for_each(|(spec, _)| spec.name.insert_str(0, prefix));
    let shard = Shard {
        file: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        mapping,
        prefix: prefix.to_string(),
        tensors: placed.iter().map(|(spec, _)| spec.name.clone()).collect(),
    };
    Ok((shard, placed))
}

/// Opens a file beside the checkpoint's own; its tensors are named `prefix` + their name in the file.
pub(crate) fn open_beside(
    path: &Path,
    parse: Parse,
    prefix: &str,
) -> Result<(Arc<Shard>, Vec<StoredTensor>)> {
    let (shard, placed) = map_shard(path, parse, prefix)?;
    let shard = Arc::new(shard);
    let tensor = |(spec, range)| StoredTensor::new(spec, Arc::clone(&shard), range);
    let tensors = placed.into_iter().map(tensor).collect();
    Ok((shard, tensors))
}

/// Reads the header of a safetensors file that is given whole; returns its tensors in file order.
///
/// # Errors
/// Anything the format forbids: a header longer than the file, bytes that are not covered, offsets
/// that overlap, a shape that does not fit its bytes.
pub fn parse_header(bytes: &[u8]) -> Result<Vec<Placed>> {
    check_entries(bytes)?;
    let (header, metadata) =
        SafeTensors::read_metadata(bytes).map_err(|e| header_error(&e, bytes))?;
    Ok(placed(&metadata, 8 + header))
}

/// The bytes before the first tensor of a safetensors file: the header with its length, as far as the file
/// holds them.
pub(crate) fn header_bytes(bytes: &[u8]) -> &[u8] {
    let length = bytes.first_chunk::<8>().map_or(0, |length| u64::from_le_bytes(*length));
    let end = usize::try_from(length).ok().and_then(|length| length.checked_add(8));
    &bytes[..end.unwrap_or(bytes.len()).min(bytes.len())]
}

/// The same as [`parse_header`] for a file that need not end where its header says: what is cut off
/// stands in ranges beyond the file's end.
///
/// # Errors
/// The header itself is not whole, or says what the format forbids.
pub(crate) fn parse_header_alone(bytes: &[u8]) -> Result<Vec<Placed>> {
    let header = header_bytes(bytes);
    let text = header.get(8..).unwrap_or_default();
    let metadata: Metadata = serde_json::from_slice(text)
        .map_err(|e| Error::input("the safetensors header is not valid").fact("reason", e))?;
    Ok(placed(&metadata, header.len()))
}

/// The tensors of a header in file order; the data begins at `data`.
fn placed(metadata: &Metadata, data: usize) -> Vec<Placed> {
    let mut placed = Vec::new();
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else {
            continue;
        };
        let (start, end) = info.data_offsets;
        let range = data.saturating_add(start)..data.saturating_add(end);
        let spec = TensorSpec { name, dtype: info.dtype, shape: info.shape.clone() };
        placed.push((spec, range));
    }
    // The crate leaves tensors without elements that stand at one place in the order of a hash map.
    placed
        .sort_by(|(a, at), (b, bt)| (at.start, at.end, &a.name).cmp(&(bt.start, bt.end, &b.name)));
    placed
}

/// What the crate's checks leave out: a name that stands twice, and offsets so large that adding
/// them up overflows. A header that is not JSON is left to the crate.
fn check_entries(bytes: &[u8]) -> Result<()> {
    let length = bytes.first_chunk::<8>().map_or(0, |length| u64::from_le_bytes(*length));
    let header = usize::try_from(length).ok().and_then(|length| bytes.get(8..)?.get(..length));
    let Some(Ok(Entries(entries))) = header.map(serde_json::from_slice::<Entries>) else {
        return Ok(());
    };
    let mut seen = BTreeSet::new();
    for (name, end) in &entries {
        if !seen.insert(name) {
            return Err(Error::input("the safetensors header names a tensor twice").tensor(name));
        }
        if *end > bytes.len() as u64 {
            return Err(Error::input("a tensor's data ends behind the end of its file")
                .tensor(name)
                .expected(format!("at most {} bytes", bytes.len()), end)
                .hint("the file is truncated or damaged; fetch it again"));
        }
    }
    Ok(())
}

/// The entries of a header in order, doubles included: name and end of the data.
struct Entries(Vec<(String, u64)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Entry {
            data_offsets: Option<(u64, u64)>,
        }
        struct Map;
        impl<'de> serde::de::Visitor<'de> for Map {
            type Value = Entries;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map of tensors")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some((name, entry)) = map.next_entry::<String, Entry>()? {
                    entries.push((name, entry.data_offsets.map_or(0, |(_, end)| end)));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Map)
    }
}

fn header_error(error: &SafeTensorError, bytes: &[u8]) -> Error {
    let declared = bytes.first_chunk::<8>().map_or(0, |len| u64::from_le_bytes(*len));
    match error {
        SafeTensorError::HeaderTooSmall => Error::input("the file is too short to be safetensors")
            .expected("at least 8 bytes", bytes.len()),
        SafeTensorError::InvalidHeaderLength | SafeTensorError::HeaderTooLarge => {
            Error::input("the safetensors header is longer than the file or than the format allows")
                .expected(format!("at most {} bytes", bytes.len().saturating_sub(8)), declared)
                .hint("the file is truncated or not a safetensors file; fetch it again")
        }
        SafeTensorError::MetadataIncompleteBuffer => {
            Error::input("the safetensors file does not end where its header says")
                .fact("found", format!("{} bytes", bytes.len()))
                .hint("the file is truncated or has bytes after its end; fetch it again")
        }
        SafeTensorError::InvalidOffset(name) => {
            Error::input("the safetensors header places a tensor over another or leaves a hole")
                .tensor(name)
        }
        other => Error::input("the safetensors header is not valid").fact("reason", other),
    }
}

/// Every tensor of the index stands in the shard the index names, and no shard holds another.
fn check_index(path: &Path, index: &Index, tensors: &Tensors) -> Result<()> {
    let missing: Vec<&str> = index
        .weight_map
        .iter()
        .filter(|(name, file)| tensors.get(*name).is_none_or(|tensor| tensor.shard.file != **file))
        .map(|(name, _)| name.as_str())
        .collect();
    if let Some(first) = missing.first() {
        return Err(Error::input("the index names tensors that their shards do not hold")
            .file(path)
            .fact("shard", &index.weight_map[*first])
            .fact("missing", list(missing.iter().copied())));
    }
    let extra: Vec<&str> = tensors
        .keys()
        .filter(|name| !index.weight_map.contains_key(*name))
        .map(String::as_str)
        .collect();
    if let Some(first) = extra.first() {
        return Err(Error::input("a shard holds tensors that the index does not name")
            .file(path)
            .fact("shard", &tensors[*first].shard.file)
            .fact("extra", list(extra.iter().copied())));
    }
    Ok(())
}
