//! SHA-256 of tensors and models, and the cache of input digests.

use crate::error::Result;
use crate::model::{Checkpoint, Shard, Source, TensorSpec};
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// A SHA-256.
pub type Digest = [u8; 32];

/// Which digests a merge computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DigestMode {
    /// Of every input and output tensor.
    Full,
    /// Of output tensors only.
    Outputs,
    /// None.
    None,
}

/// A digest in hexadecimal.
pub fn hex(digest: &Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a digest in hexadecimal.
pub(super) fn unhex(text: &str) -> Option<Digest> {
    let mut digest = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}

/// The digest of a model: SHA-256 over one line a tensor, `name dtype [shape] digest`, sorted by
/// name. It does not depend on how the tensors are spread over files.
pub fn model_digest<'a>(tensors: impl IntoIterator<Item = (&'a TensorSpec, &'a Digest)>) -> Digest {
    let sorted: BTreeMap<&str, (&TensorSpec, &Digest)> =
        tensors.into_iter().map(|(spec, digest)| (spec.name.as_str(), (spec, digest))).collect();
    let mut hasher = Sha256::new();
    for (name, (spec, digest)) in sorted {
        hasher.update(format!("{} {} {:?} {}\n", json!(name), spec.dtype, spec.shape, hex(digest)));
    }
    hasher.finalize().into()
}

/// The digests of the inputs: those known from the cache, and those found while the tensors are
/// read. Each tensor is hashed by whoever claims it first.
pub struct Digests {
    models: Vec<BTreeMap<String, Slot>>,
}

#[derive(Default)]
struct Slot {
    claimed: AtomicBool,
    digest: OnceLock<Digest>,
}

impl Digests {
    /// For the inputs of a merge; with a cache folder, known digests are taken from it.
    pub fn new(models: &[Checkpoint], cache: Option<&Path>) -> Self {
        let models = models.iter().map(|model| {
            let mut slots = BTreeMap::new();
            for shard in model.shards() {
                let known = cache.and_then(|cache| read_cache(cache, shard)).unwrap_or_default();
                for name in &shard.tensors {
                    let slot = Slot::default();
                    if let Some(digest) = known.get(in_file(shard, name)) {
                        slot.claimed.store(true, Ordering::Relaxed);
                        let _ = slot.digest.set(*digest);
                    }
                    slots.insert(name.clone(), slot);
                }
            }
            slots
        });
        Self { models: models.collect() }
    }

    /// Whether the caller is to hash this tensor: true for the first caller only, and never where
    /// the digest is known.
    pub(super) fn claim(&self, model: usize, tensor: &str) -> bool {
        let slot = self.models[model].get(tensor);
        slot.is_some_and(|slot| !slot.claimed.swap(true, Ordering::Relaxed))
    }

    /// The digest of a tensor, where it is known already.
    pub(super) fn known(&self, model: usize, tensor: &str) -> Option<Digest> {
        self.models[model].get(tensor)?.digest.get().copied()
    }

    /// Sets the digest of a claimed tensor.
    pub(super) fn set(&self, model: usize, tensor: &str, digest: Digest) {
        if let Some(slot) = self.models[model].get(tensor) {
            let _ = slot.digest.set(digest);
        }
    }

    /// Hashes every tensor that nobody has claimed, on the threads of the current rayon pool.
    ///
    /// # Errors
    /// A tensor cannot be read.
    pub fn complete(&self, models: &[Checkpoint]) -> Result<()> {
        self.complete_those(models, |_, _| true)
    }

    /// The same for the tensors that are asked for, by the model's number and their names.
    ///
    /// # Errors
    /// A tensor cannot be read.
    pub(crate) fn complete_those(
        &self,
        models: &[Checkpoint],
        asked: impl Fn(usize, &str) -> bool,
    ) -> Result<()> {
        let slots = self.models.iter().enumerate();
        let all =
            slots.flat_map(|(model, slots)| slots.keys().map(move |name| (model, name.as_str())));
        let open: Vec<(usize, &str)> =
            all.filter(|(model, name)| asked(*model, name) && self.claim(*model, name)).collect();
        open.into_par_iter().try_for_each(|(model, name)| {
            if let Some(tensor) = models[model].stored().get(name) {
                self.set(model, name, of_stored(tensor, |_| ()));
            }
            Ok(())
        })
    }

    /// The digests of a model, by tensor.
    pub fn of_model(&self, model: usize) -> BTreeMap<&str, Digest> {
        let slots = self.models[model].iter();
        slots.filter_map(|(name, slot)| Some((name.as_str(), *slot.digest.get()?))).collect()
    }

    /// Writes the digests of every fully hashed shard to the cache. The cache only saves time, so
    /// a failure to write it is no failure of the merge.
    pub fn save(&self, models: &[Checkpoint], cache: &Path) {
        for (i, model) in models.iter().enumerate() {
            let digests = self.of_model(i);
            for shard in model.shards() {
                let known: Option<BTreeMap<&str, Digest>> = shard
                    .tensors
                    .iter()
                    .map(|name| Some((in_file(shard, name), *digests.get(name.as_str())?)))
                    .collect();
                if let Some(known) = known {
                    let _ = write_cache(cache, shard, &known);
                }
            }
        }
    }
}

/// The digest of a stored tensor, read front to back; `read` is told how many bytes each step took.
pub(crate) fn of_stored(source: &dyn Source, read: impl Fn(u64)) -> Digest {
    const STEP: usize = 8 << 20;
    let mut hasher = Sha256::new();
    let spec = source.spec();
    let (bits, elements) = (spec.dtype.bitsize(), spec.elements());
    let step = STEP * 8 / bits;
    for (i, bytes) in source.stored().unwrap_or_default().chunks(STEP).enumerate() {
        let (start, end) = (i * step, i * step + bytes.len() * 8 / bits);
        // The disk brings the next step while this one is hashed.
        source.prefetch(end..(end + step).min(elements).max(end));
        hasher.update(bytes);
        source.release(start..end);
        read(bytes.len() as u64);
    }
    hasher.finalize().into()
}

/// The name a shard's file has for a tensor. The cache goes by it, since an adapter may be applied
/// under several references.
fn in_file<'a>(shard: &Shard, name: &'a str) -> &'a str {
    name.strip_prefix(&shard.prefix).unwrap_or(name)
}

/// The cache's file for a shard: named by the file's path and identity, so that a changed file has
/// another name.
fn cache_file(cache: &Path, shard: &Shard) -> Option<PathBuf> {
    let path = std::fs::canonicalize(shard.mapping.path()).ok()?;
    let identity = shard.mapping.identity();
    let key = format!("{}\n{}\n{}", path.display(), identity.size, identity.stamp);
    let name = hex(&Sha256::digest(key.as_bytes()).into());
    Some(cache.join("digests").join(format!("{name}.json")))
}

fn read_cache(cache: &Path, shard: &Shard) -> Option<BTreeMap<String, Digest>> {
    let text = std::fs::read(cache_file(cache, shard)?).ok()?;
    let map: BTreeMap<String, String> = serde_json::from_slice(&text).ok()?;
    map.into_iter().map(|(name, digest)| Some((name, unhex(&digest)?))).collect()
}

fn write_cache(
    cache: &Path,
    shard: &Shard,
    digests: &BTreeMap<&str, Digest>,
) -> std::io::Result<()> {
    let Some(file) = cache_file(cache, shard) else {
        return Ok(());
    };
    if file.exists() {
        return Ok(());
    }
    let map: Map<String, Value> = digests
        .iter()
        .map(|(name, digest)| ((*name).to_string(), Value::from(hex(digest))))
        .collect();
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Written aside and renamed, so that a reader never sees half of it.
    let aside = file.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&aside, Value::Object(map).to_string())?;
    std::fs::rename(&aside, &file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::Dtype;

    #[test]
    fn a_model_digest_does_not_depend_on_the_order() {
        let spec =
            |name: &str| TensorSpec { name: name.into(), dtype: Dtype::BF16, shape: vec![2, 3] };
        let (a, b) = (spec("a"), spec("b"));
        let (x, y) = ([1; 32], [2; 32]);
        assert_eq!(model_digest([(&a, &x), (&b, &y)]), model_digest([(&b, &y), (&a, &x)]));
        assert_ne!(model_digest([(&a, &x), (&b, &y)]), model_digest([(&a, &y), (&b, &x)]));
        assert_eq!(unhex(&hex(&x)), Some(x));
        assert_eq!(unhex("zz"), None);
    }
}
