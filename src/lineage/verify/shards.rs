//! The shards of a folder that is verified: opened as far as they can be, and their tensors hashed.

use super::recorded::RecordedFile;
use super::{Verification, What};
use crate::engine::{Digest, Progress, hex, of_stored};
use crate::error::{Error, Result};
use crate::model::{
    Mapping, Shard, Source, StoredTensor, TensorSpec, header_bytes, open_beside, parse_header,
    parse_header_alone,
};
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};
use std::path::Path;
use std::sync::Arc;

/// A shard as it lies there.
pub(super) struct FoundShard {
    /// Its file name.
    pub(super) name: String,
    /// The tensors that lie in it, in file order.
    pub(super) tensors: Vec<FoundTensor>,
    /// The names of tensors that would lie beyond its end.
    pub(super) beyond: Vec<String>,
    /// Whether it ends where its header says.
    pub(super) whole: bool,
    shard: Arc<Shard>,
}

/// A tensor in it.
pub(super) struct FoundTensor {
    pub(super) spec: TensorSpec,
    stored: StoredTensor,
}

impl FoundShard {
    /// Opens a file, and notes what differs from its record; none if its header cannot be read.
    pub(super) fn open(
        folder: &Path,
        name: &str,
        recorded: Option<&RecordedFile>,
        found: &mut Verification,
    ) -> Option<Self> {
        let path = folder.join(name);
        let opened = Mapping::open(&path).and_then(|mapping| {
            compare(name, &mapping, recorded, found);
            match open_beside(&path, parse_header, "") {
                Ok(opened) => Ok((opened, true)),
                Err(e) => Ok((open_beside(&path, parse_header_alone, "").map_err(|_| e)?, false)),
            }
        });
        let ((shard, stored), whole) = match opened {
            Ok(opened) => opened,
            Err(e) => {
                found.differ(name, None, What::Unreadable, None, Some(reason(&e)));
                return None;
            }
        };
        let end = shard.mapping.bytes().len();
        let (inside, beyond): (Vec<StoredTensor>, Vec<StoredTensor>) =
            stored.into_iter().partition(|tensor| tensor.range().end <= end);
        let spec = |stored: StoredTensor| FoundTensor { spec: stored.spec().clone(), stored };
        Some(Self {
            name: name.to_string(),
            tensors: inside.into_iter().map(spec).collect(),
            beyond: beyond.into_iter().map(|tensor| tensor.spec().name.clone()).collect(),
            whole,
            shard,
        })
    }

    /// The bytes of its tensors.
    pub(super) fn bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.spec.bytes() as u64).sum()
    }

    /// Checks that nobody wrote to it meanwhile.
    pub(super) fn unchanged(&self) -> Result<()> {
        self.shard.mapping.unchanged()
    }
}

/// An error in a line.
fn reason(e: &Error) -> String {
    match e.get("reason") {
        Some(reason) => format!("{}: {reason}", e.message()),
        None => e.message().to_string(),
    }
}

/// Holds the length and the header of a file against what is recorded.
fn compare(
    name: &str,
    mapping: &Mapping,
    recorded: Option<&RecordedFile>,
    found: &mut Verification,
) {
    // One that is not recorded is noted with the other such files.
    let Some(recorded) = recorded else { return };
    let bytes = mapping.bytes();
    let length = bytes.len() as u64;
    if let Some(size) = recorded.size.filter(|size| *size != length) {
        let what = if length < size { What::Short } else { What::Long };
        let (expected, is) = (format!("{size} bytes"), format!("{length} bytes"));
        found.differ(name, None, what, Some(expected), Some(is));
    }
    if let Some(expected) = &recorded.header_sha256 {
        let header = hex(&Sha256::digest(header_bytes(bytes)).into());
        if header != *expected {
            found.differ(name, None, What::Header, Some(expected.clone()), Some(header));
        }
    }
}

/// The digests of all tensors, shard by shard, on the threads of the current rayon pool.
pub(super) fn digests(shards: &[FoundShard], progress: &Progress) -> Vec<Vec<Digest>> {
    let of = |tensor: &FoundTensor| of_stored(&tensor.stored, |bytes| progress.advance(bytes));
    shards.par_iter().map(|shard| shard.tensors.par_iter().map(of).collect()).collect()
}
