//! The output's files in `lineage.json`, and the digest that the manifest has of itself.
//!
//! Every byte of an output is covered by a digest: of a shard, the header by one of its own and the
//! rest by those of its tensors, between which there are no gaps; every other file by one of the whole;
//! `lineage.json` by the digest in its last line.

use crate::engine::{WrittenFile, hex};
use crate::plan::Plan;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// Notes the files of an output, and of every tensor the file that it stands in. `written` are the files
/// but for the shards.
pub(crate) fn record_files(
    manifest: &mut Value,
    plan: &Plan,
    written: &BTreeMap<String, WrittenFile>,
) {
    let shards = plan.shards.iter().map(|shard| {
        let header = hex(&Sha256::digest(&shard.header).into());
        let entry = json!({"path": shard.file, "size": shard.size, "header_sha256": header});
        (shard.file.clone(), entry)
    });
    let written = written.iter().map(|(path, file)| (path.clone(), entry(path, *file)));
    let files: BTreeMap<String, Value> = shards.chain(written).collect();
    let output = &mut manifest["output"];
    output["files"] = files.into_values().collect();
    if let Some(tensors) = output["tensors"].as_array_mut() {
        for (tensor, job) in tensors.iter_mut().zip(&plan.jobs) {
            tensor["file"] = plan.shards[job.shard].file.clone().into();
        }
    }
}

fn entry(path: &str, file: WrittenFile) -> Value {
    json!({"path": path, "size": file.size, "sha256": hex(&file.sha256)})
}

/// Notes a file that was written again, where the manifest has a list of files.
pub(super) fn record_file(manifest: &mut Value, path: &str, bytes: &[u8]) {
    let Some(files) = manifest["output"]["files"].as_array_mut() else { return };
    let sha256 = Sha256::digest(bytes).into();
    let new = entry(path, WrittenFile { size: bytes.len() as u64, sha256 });
    match files.binary_search_by(|file| file["path"].as_str().unwrap_or_default().cmp(path)) {
        Ok(at) => files[at] = new,
        Err(at) => files.insert(at, new),
    }
}

/// What stands around the digest at the end of a manifest.
const BEFORE: &str = ",\n  \"digest\": \"";
const BEHIND: &str = "\"\n}\n";
/// The end of a manifest without its digest.
const END: &str = "\n}\n";

/// The text of `lineage.json`: the manifest, and in its last line the SHA-256 of the text without that
/// line (and without the comma before it). The manifest has no `digest` of its own yet.
pub(crate) fn text(manifest: &Value) -> String {
    let body = format!("{manifest:#}\n");
    let digest = hex(&Sha256::digest(body.as_bytes()).into());
    let open = body.strip_suffix(END).unwrap_or(&body);
    format!("{open}{BEFORE}{digest}{BEHIND}")
}

/// The manifest in the text of a `lineage.json`, without the digest of itself; none if it is none.
pub(crate) fn parse(text: &[u8]) -> Option<Map<String, Value>> {
    let mut manifest: Map<String, Value> = serde_json::from_slice(text).ok()?;
    manifest.shift_remove("digest");
    Some(manifest)
}

/// What the text of a `lineage.json` says against the digest in its last line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seal {
    /// The digest is that of the rest.
    Intact,
    /// There is no such line.
    Missing,
    /// The line gives another digest than the rest has.
    Broken {
        /// What the line says.
        recorded: String,
        /// What the rest has.
        found: String,
    },
}

/// Holds a manifest's text against its digest.
pub(crate) fn seal(text: &[u8]) -> Seal {
    let Some((body, recorded)) = split(text) else { return Seal::Missing };
    let mut hasher = Sha256::new();
    hasher.update(body);
    hasher.update(END);
    let found = hex(&hasher.finalize().into());
    match recorded[..] == *found.as_bytes() {
        true => Seal::Intact,
        false => Seal::Broken { recorded: String::from_utf8_lossy(recorded).into_owned(), found },
    }
}

/// The text before the digest, and the digest.
fn split(text: &[u8]) -> Option<(&[u8], &[u8; 64])> {
    let text = text.strip_suffix(BEHIND.as_bytes())?;
    let (text, digest) = text.split_last_chunk::<64>()?;
    Some((text.strip_suffix(BEFORE.as_bytes())?, digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_knows_when_it_was_changed() {
        let manifest = json!({"schema": "a", "output": {"files": []}});
        let sealed = text(&manifest);
        assert_eq!(seal(sealed.as_bytes()), Seal::Intact);
        assert_eq!(parse(sealed.as_bytes()).map(Value::from), Some(manifest));
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut bytes = sealed.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                assert_ne!(seal(&bytes), Seal::Intact, "byte {at}, bit {bit}");
            }
        }
        assert_eq!(seal(b"{\n  \"schema\": \"a\"\n}\n"), Seal::Missing);
    }

    #[test]
    fn a_file_is_noted_in_order_and_once() {
        let mut manifest = json!({"output": {"files": [{"path": "a"}, {"path": "c"}]}});
        record_file(&mut manifest, "b", b"1");
        record_file(&mut manifest, "b", b"22");
        let files = manifest["output"]["files"].as_array().unwrap();
        let paths: Vec<&str> = files.iter().filter_map(|file| file["path"].as_str()).collect();
        assert_eq!(paths, ["a", "b", "c"]);
        assert_eq!(files[1]["size"], 2);
    }
}
