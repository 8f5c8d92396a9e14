//! Runs a plan: reads chunks, applies the methods' maps, writes the staged output, digests both.

mod blocks;
mod digests;
mod disk;
mod job;
mod lanes;
mod model_io;
mod planned;
mod progress;
mod rows;
mod run;
mod shard_files;
mod staging;
mod tensor_io;
mod whole;

pub(crate) use digests::of_stored;
pub use digests::{Digest, DigestMode, Digests, hex, model_digest};
pub(crate) use job::stream as random_stream;
pub(crate) use lanes::Lanes;
pub use model_io::ModelIo;
pub(crate) use planned::PlannedTensor;
pub use progress::Progress;
pub(crate) use run::{Asked, recompute};
pub use run::{Outcome, RunOptions, run};
pub use staging::Staging;
pub(crate) use staging::{WrittenFile, sibling};
pub(crate) use tensor_io::NanPolicy;
pub use tensor_io::TensorIo;

use crate::methods::Reads;
use crate::plan::Job;

/// Elements of a chunk: the unit of work, of a write and of the order of sums. Part of the numerics.
pub const CHUNK: usize = 1 << 18;

/// Elements decoded and computed at a time within a chunk, so that a tile of every input and of the
/// output stays in the first-level cache. Part of the numerics.
pub const TILE: usize = 1 << 12;

/// The version of everything that decides output bytes. Bumped whenever the same recipe, inputs and
/// seed would give other bytes.
pub const NUMERICS: u32 = 4;

/// Memory a run takes besides its lanes: headers, plan, hashing and I/O buffers.
pub const FIXED_BYTES: u64 = 48 << 20;

/// Anonymous memory that one thread needs for a job.
pub(crate) fn lane_bytes(job: &Job) -> u64 {
    let inputs = job.streamed();
    let tiles = (inputs + 1) * TILE * 4;
    // Two output chunks (one is hashed while the next is made), and the bins of a counting pass.
    let chunks = 2 * CHUNK * job.output.dtype.bitsize().div_ceil(8);
    let Reads::Stream { bins, .. } = job.method.reads;
    // Where thresholds are searched: the bins, a sample of every input, and its patterns.
    let sample = if bins > 0 { (inputs + 1) * tensor_io::SAMPLE * 4 } else { 0 };
    let bins = inputs * (bins + 1) * 8;
    (tiles + chunks + sample + bins) as u64 + job.holds()
}
