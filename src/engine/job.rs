//! Runs one job: the method's reductions, then its map over every chunk, written and hashed hot.

use super::blocks::{Block, Stretch};
use super::digests::{Digest, Digests};
use super::shard_files::{Queue, Unwritten};

use super::{CHUNK, Lanes, NanPolicy, Progress, TensorIo};
use crate::error::{Error, Result};
use crate::kernels::{Kernels, Stream};
use crate::methods::{Map, Surveyed};
use crate::model::{Checkpoint, Float, Source};
use crate::plan::{Input, Job, Plan};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

/// What the jobs of a run share.
pub(super) struct Context<'a> {
    pub(super) plan: &'a Plan,
    pub(super) models: &'a [Checkpoint],
    pub(super) output: Queue<'a>,
    /// Digests of the inputs; none where they are not asked for.
    pub(super) digests: Option<&'a Digests>,
    pub(super) hash_outputs: bool,
    pub(super) kernels: Kernels,
    pub(super) nan: NanPolicy,
    pub(super) progress: &'a Progress,
}

/// Chunks whose pages are given back at a time.
const RELEASE_EVERY: usize = 8;

/// A running hash: of the output, or of an input that this job claimed.
struct Hash<'a> {
    input: Option<(usize, &'a dyn Source)>,
    /// Whether it is the output's as well, which is a copy of the input.
    shared: bool,
    state: Sha256,
}

/// The input whose stored bytes the output is, if it is such a copy.
fn copied(job: &Job, map: &Map, inputs: &[&dyn Source]) -> Option<usize> {
    let Map::Copy(input) = map else { return None };
    let source = inputs[*input];
    let same = source.spec().dtype == job.output.dtype && source.stored().is_some();
    (same && source.parts().len() == 1).then_some(*input)
}

impl Context<'_> {
    /// Runs a job and returns the output's digest, where it is asked for.
    pub(super) fn run(
        &self,
        job: &Job,
        lanes: Lanes,
        surveyed: Option<&Surveyed>,
    ) -> Result<Option<Digest>> {
        self.run_job(job, lanes, surveyed).map_err(|error| match error.get("tensor") {
            Some(_) => error,
            None => error.tensor(&job.output.name),
        })
    }

    /// The stored tensors a job reads.
    pub(super) fn sources(&self, job: &Job) -> Result<Vec<&dyn Source>> {
        let find = |input: &Input| {
            let tensor = self.models[input.model].tensor(&input.tensor);
            tensor.ok_or_else(|| Error::internal("a planned tensor is gone").tensor(&input.tensor))
        };
        job.inputs.iter().map(find).collect()
    }

    /// The inputs of a job as its method sees them, given its sources.
    pub(super) fn io<'a>(
        &self,
        job: &Job,
        inputs: &'a [&'a dyn Source],
        streams: &'a [Stream],
        lanes: Lanes,
    ) -> TensorIo<'a> {
        let (inputs, beside) = inputs.split_at(job.streamed());
        TensorIo::new(inputs, job.base, streams, self.kernels, lanes, self.nan)
            .with_beside(beside, job.inputs_along)
    }

    fn run_job(
        &self,
        job: &Job,
        lanes: Lanes,
        surveyed: Option<&Surveyed>,
    ) -> Result<Option<Digest>> {
        let sources = self.sources(job)?;
        let streams =
            job.inputs.iter().map(|input| stream(self.plan.seed, input.model, &job.random_key));
        let streams: Vec<Stream> = streams.collect();
        let io = self.io(job, &sources, &streams, lanes).with_survey(surveyed);
        let map = job.map(&io)?;
        let inputs = &sources[..job.streamed()];
        let copied = copied(job, &map, inputs);
        let known = copied.and_then(|input| self.known(&job.inputs[input], inputs[input]));
        let mut hashes = match known {
            Some(_) => Vec::new(),
            None => self.hashes(job, inputs, copied),
        };
        let unwritten = Unwritten::default();
        let mut made: Vec<Arc<Block>> = Vec::new();
        let mut hashed = 0..0;
        let mut next = 0;
        while next < io.chunks() || !made.is_empty() {
            let window = next..(next + lanes.window()).min(io.chunks());
            next = window.end;
            let done = std::mem::take(&mut made);
            let (written, ()) = lanes.both(
                || {
                    lanes.collect(window.clone(), |chunk| {
                        let block = Arc::new(self.chunk(job, &io, inputs, &map, chunk)?);
                        self.output.write(job.shard, Arc::clone(&block), &unwritten)?;
                        self.progress.advance(block.bytes().len() as u64);
                        Ok(block)
                    })
                },
                || hash(lanes, &mut hashes, &io, hashed.clone(), &done),
            );
            self.give_back(&io, inputs, hashed, done);
            made = written?;
            hashed = window;
        }
        let mut digest = known.filter(|_| self.hash_outputs);
        let set = |input: usize, value: Digest| {
            if let Some(digests) = self.digests {
                let part = inputs[input].parts().first().copied().unwrap_or_default();
                digests.set(job.inputs[input].model, part, value);
            }
        };
        for hash in hashes {
            let value: Digest = hash.state.finalize().into();
            match (hash.input, hash.shared) {
                (Some((input, _)), false) => set(input, value),
                (None, false) => digest = Some(value),
                // The output is the input's bytes.
                (input, true) => {
                    digest = digest.or(self.hash_outputs.then_some(value));
                    input.into_iter().for_each(|(input, _)| set(input, value));
                }
            }
        }
        if let Some(digest) = digest {
            self.output.record(unwritten, &job.output.name, digest);
        }
        Ok(digest)
    }

    /// The digest of a stored input, where the cache knows it.
    fn known(&self, input: &Input, source: &dyn Source) -> Option<Digest> {
        let parts = source.parts();
        self.digests?.known(input.model, parts.first()?)
    }

    /// The hashes this job computes: the output's, and those of inputs nobody has claimed. Where the output
    /// is a copy of the input `copied`, one hash serves both.
    fn hashes<'a>(
        &self,
        job: &Job,
        inputs: &[&'a dyn Source],
        copied: Option<usize>,
    ) -> Vec<Hash<'a>> {
        let mut hashes = Vec::new();
        if self.hash_outputs {
            hashes.push(Hash { input: None, shared: false, state: Sha256::new() });
        }
        if let Some(digests) = self.digests {
            for (i, source) in inputs.iter().enumerate() {
                // What is seen under a name may be stored under another.
                let parts = source.parts();
                let [part] = parts[..] else { continue };
                if source.stored().is_some() && digests.claim(job.inputs[i].model, part) {
                    let shared = copied == Some(i);
                    if shared {
                        hashes.clear();
                    }
                    hashes.push(Hash { input: Some((i, *source)), shared, state: Sha256::new() });
                }
            }
        }
        hashes
    }

    /// Makes a chunk of the output.
    fn chunk(
        &self,
        job: &Job,
        io: &TensorIo<'_>,
        inputs: &[&dyn Source],
        map: &Map,
        chunk: usize,
    ) -> Result<Block> {
        let bits = job.output.dtype.bitsize();
        let range = io.chunk_range(chunk);
        let (first, end) = (range.start * bits / 8, (range.end * bits).div_ceil(8));
        let stored = match map {
            Map::Copy(input) if inputs[*input].spec().dtype == job.output.dtype => {
                inputs[*input].stored()
            }
            _ => None,
        };
        let mut block = self.output.block(job.offset + first as u64, end - first);
        match (stored, job.output.float()) {
            (Some(stored), float) => {
                if float.is_some() {
                    io.map_chunk(map, chunk, |_, _| Ok(()))?;
                }
                block.bytes_mut().copy_from_slice(&stored[first..end]);
                if let Map::Copy(input) = map
                    && self.output.clones()
                    && let Some((file, start)) = inputs[*input].stored_at()
                {
                    let (file, offset) = (file.to_path_buf(), start + first as u64);
                    block.set_copy_of(Some(Stretch { file, offset }));
                }
            }
            (None, Some(float)) => self.encode(float, io, map, chunk, block.bytes_mut())?,
            (None, None) => {
                return Err(Error::internal("arithmetic was planned for a dtype that has none"));
            }
        }
        Ok(block)
    }

    /// Computes a chunk and encodes it tile by tile.
    fn encode(
        &self,
        float: Float,
        io: &TensorIo<'_>,
        map: &Map,
        chunk: usize,
        bytes: &mut [u8],
    ) -> Result<()> {
        let range = io.chunk_range(chunk);
        io.map_chunk(map, chunk, |start, values| {
            let at = (start - range.start) * float.size();
            let end = at + values.len() * float.size();
            self.kernels.encode(float, values, &mut bytes[at..end]);
            Ok(())
        })
    }

    /// Takes blocks back for reuse, and gives the inputs' pages back.
    fn give_back(
        &self,
        io: &TensorIo<'_>,
        inputs: &[&dyn Source],
        chunks: std::ops::Range<usize>,
        done: Vec<Arc<Block>>,
    ) {
        done.into_iter().for_each(|block| self.output.give_back(block));
        let group = |chunk: usize| chunk / RELEASE_EVERY;
        let last = chunks.end == io.chunks();
        if !chunks.is_empty() && (last || group(chunks.end) != group(chunks.start)) {
            let from = group(chunks.start) * RELEASE_EVERY * CHUNK;
            let to = if last { io.elements() } else { group(chunks.end) * RELEASE_EVERY * CHUNK };
            for input in inputs {
                input.release(from..to);
            }
        }
    }
}

/// Feeds the bytes of a run of chunks to the hashes.
fn hash(
    lanes: Lanes,
    hashes: &mut [Hash<'_>],
    io: &TensorIo<'_>,
    chunks: std::ops::Range<usize>,
    made: &[Arc<Block>],
) {
    if chunks.is_empty() {
        return;
    }
    let elements = io.chunk_range(chunks.start).start..io.chunk_range(chunks.end - 1).end;
    let feed = |hash: &mut Hash<'_>| match hash.input {
        None => made.iter().for_each(|block| hash.state.update(block.bytes())),
        Some((_, source)) => {
            let bits = source.spec().dtype.bitsize();
            let stored = source.stored().unwrap_or_default();
            hash.state
                .update(&stored[elements.start * bits / 8..(elements.end * bits).div_ceil(8)]);
        }
    };
    lanes.each(hashes, feed);
}

/// The random words of a model's tensor: Philox keyed by a SHA-256 over the seed, the model's place
/// in the recipe and the tensor's name.
pub(crate) fn stream(seed: u64, model: usize, tensor: &str) -> Stream {
    let mut hasher = Sha256::new();
    hasher.update(b"cognate philox4x32\0");
    hasher.update(seed.to_le_bytes());
    hasher.update((model as u64).to_le_bytes());
    hasher.update(tensor.as_bytes());
    let digest: Digest = hasher.finalize().into();
    let word =
        |i: usize| u32::from_le_bytes([digest[i], digest[i + 1], digest[i + 2], digest[i + 3]]);
    Stream { key: [word(0), word(4)], nonce: [word(8), word(12)] }
}
