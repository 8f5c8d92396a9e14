//! Where each output tensor goes: shards, offsets, headers and the index.

use super::Job;
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// One output file of tensors.
#[derive(Clone, Debug)]
pub struct Shard {
    /// Its file name.
    pub file: String,
    /// The header, length prefix included: everything before the first tensor.
    pub header: Vec<u8>,
    /// Its size in bytes.
    pub size: u64,
}

/// Assigns the jobs to shards of at most `shard_size` bytes of tensors (a larger tensor gets a shard
/// of its own), sets their offsets, and returns the shards. `metadata` goes into every header.
pub(super) fn shards(
    jobs: &mut [Job],
    shard_size: u64,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<Shard>> {
    let mut count = 0;
    let mut filled = 0;
    for job in jobs.iter_mut() {
        let bytes = job.output.bytes() as u64;
        if count == 0 || (filled > 0 && filled + bytes > shard_size) {
            count += 1;
            filled = 0;
        }
        filled += bytes;
        job.shard = count - 1;
    }
    (0..count).map(|shard| lay_out(jobs, shard, count, metadata)).collect()
}

fn lay_out(
    jobs: &mut [Job],
    shard: usize,
    count: usize,
    metadata: &BTreeMap<String, String>,
) -> Result<Shard> {
    let mut order: Vec<usize> = (0..jobs.len()).filter(|i| jobs[*i].shard == shard).collect();
    // Wider elements first, so that every tensor is aligned to its own.
    order.sort_by_key(|i| std::cmp::Reverse(jobs[*i].output.dtype.bitsize()));
    let mut at = 0;
    let mut entries = BTreeMap::new();
    for i in &order {
        let job = &mut jobs[*i];
        let end = at + job.output.bytes() as u64;
        let entry = json!({
            "dtype": job.output.dtype.to_string(),
            "shape": job.output.shape,
            "data_offsets": [at, end],
        });
        if entries.insert(job.output.name.clone(), entry).is_some() {
            return Err(
                Error::internal("two output tensors have one name").tensor(&job.output.name)
            );
        }
        job.offset = at;
        at = end;
    }
    let header = header(&json!(metadata), entries);
    for i in order {
        jobs[i].offset += header.len() as u64;
    }
    Ok(Shard {
        file: match count {
            1 => "model.safetensors".to_string(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", shard + 1),
        },
        size: header.len() as u64 + at,
        header,
    })
}

/// The header of a safetensors file with its length prefix: sorted names, padded with spaces so that the data starts on a
/// page.
pub(crate) fn header(metadata: &Value, entries: BTreeMap<String, Value>) -> Vec<u8> {
    let mut map = Map::new();
    map.insert("__metadata__".to_string(), metadata.clone());
    map.extend(entries);
    let mut text = Value::Object(map).to_string().into_bytes();
    text.resize((text.len() + 8).next_multiple_of(4096) - 8, b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend(text);
    header
}

/// The text of `model.safetensors.index.json`, where there is more than one shard.
pub(crate) fn index(jobs: &[Job], shards: &[Shard]) -> Option<String> {
    if shards.len() < 2 {
        return None;
    }
    let total: u64 = jobs.iter().map(|job| job.output.bytes() as u64).sum();
    let map: BTreeMap<&str, &str> = jobs
        .iter()
        .map(|job| (job.output.name.as_str(), shards[job.shard].file.as_str()))
        .collect();
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    Some(format!("{index:#}\n"))
}
