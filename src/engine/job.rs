//! Runs one job: the method's reductions, then its map over every chunk, written and hashed hot.

use super::digests::{Digest, Digests};
use super::staging::ShardFiles;
use super::tensor_io::{NanPolicy, TensorIo};
use super::{CHUNK, Lanes, Progress};
use crate::error::{Error, Result};
use crate::kernels::{Kernels, Stream};
use crate::methods::Map;
use crate::model::{Checkpoint, Float, Source};
use crate::plan::{Job, Plan};
use sha2::{Digest as _, Sha256};
use std::sync::Mutex;

/// What the jobs of a run share.
pub(super) struct Context<'a> {
    pub(super) plan: &'a Plan,
    pub(super) models: &'a [Checkpoint],
    pub(super) files: &'a ShardFiles,
    /// Digests of the inputs; none where they are not asked for.
    pub(super) digests: Option<&'a Digests>,
    pub(super) hash_outputs: bool,
    pub(super) kernels: Kernels,
    pub(super) nan: NanPolicy,
    pub(super) progress: &'a Progress,
    /// Output buffers for reuse.
    pub(super) buffers: Mutex<Vec<Vec<u8>>>,
}

/// Chunks whose pages are given back at a time.
const RELEASE_EVERY: usize = 8;

/// The bytes of one output chunk.
enum Bytes<'a> {
    Stored(&'a [u8]),
    Made(Vec<u8>),
}

impl Bytes<'_> {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Stored(bytes) => bytes,
            Self::Made(bytes) => bytes,
        }
    }
}

/// A running hash: of the output, or of an input that this job claimed.
struct Hash<'a> {
    input: Option<(usize, &'a dyn Source)>,
    state: Sha256,
}

impl Context<'_> {
    /// Runs a job and returns the output's digest, where it is asked for.
    pub(super) fn run(&self, job: &Job, lanes: Lanes) -> Result<Option<Digest>> {
        self.run_job(job, lanes).map_err(|error| match error.get("tensor") {
            Some(_) => error,
            None => error.tensor(&job.output.name),
        })
    }

    fn run_job(&self, job: &Job, lanes: Lanes) -> Result<Option<Digest>> {
        let mut inputs: Vec<&dyn Source> = Vec::new();
        for input in &job.inputs {
            let tensor = self.models[input.model].tensor(&input.tensor);
            inputs.push(tensor.ok_or_else(|| {
                Error::internal("a planned tensor is gone").tensor(&input.tensor)
            })?);
        }
        let streams: Vec<Stream> = job
            .inputs
            .iter()
            .map(|input| stream(self.plan.seed, input.model, &job.random_key))
            .collect();
        let io = TensorIo::new(&inputs, job.base, &streams, self.kernels, lanes, self.nan);
        let map = (job.method.prepare)(&io, &job.params)?;
        let mut hashes = self.hashes(job, &inputs);
        let mut made: Vec<Bytes<'_>> = Vec::new();
        let mut hashed = 0..0;
        let mut next = 0;
        while next < io.chunks() || !made.is_empty() {
            let window = next..(next + lanes.window()).min(io.chunks());
            next = window.end;
            let done = std::mem::take(&mut made);
            let (written, ()) = lanes.both(
                || {
                    lanes
                        .collect(window.clone(), |chunk| self.chunk(job, &io, &inputs, &map, chunk))
                },
                || hash(lanes, &mut hashes, &io, hashed.clone(), &done),
            );
            self.give_back(&io, &inputs, hashed, done);
            made = written?;
            hashed = window;
        }
        let mut digest = None;
        for hash in hashes {
            let value: Digest = hash.state.finalize().into();
            match (hash.input, self.digests) {
                (Some((i, _)), Some(digests)) => {
                    digests.set(job.inputs[i].model, &job.inputs[i].tensor, value)
                }
                _ => digest = Some(value),
            }
        }
        Ok(digest)
    }

    /// The hashes this job computes: the output's, and those of inputs nobody has claimed.
    fn hashes<'a>(&self, job: &Job, inputs: &[&'a dyn Source]) -> Vec<Hash<'a>> {
        let mut hashes = Vec::new();
        if self.hash_outputs {
            hashes.push(Hash { input: None, state: Sha256::new() });
        }
        if let Some(digests) = self.digests {
            for (i, source) in inputs.iter().enumerate() {
                let input = &job.inputs[i];
                if source.stored().is_some() && digests.claim(input.model, &input.tensor) {
                    hashes.push(Hash { input: Some((i, *source)), state: Sha256::new() });
                }
            }
        }
        hashes
    }

    /// Makes a chunk of the output and writes it.
    fn chunk<'a>(
        &self,
        job: &Job,
        io: &TensorIo<'a>,
        inputs: &[&'a dyn Source],
        map: &Map,
        chunk: usize,
    ) -> Result<Bytes<'a>> {
        let bits = job.output.dtype.bitsize();
        let range = io.chunk_range(chunk);
        let first = range.start * bits / 8;
        let bytes = match map {
            Map::Copy(input)
                if inputs[*input].spec().dtype == job.output.dtype
                    && inputs[*input].stored().is_some() =>
            {
                if job.output.float().is_some() {
                    io.read_chunk(chunk, |start, tiles| {
                        self.check_nan(io, inputs, start, tiles).map(drop)
                    })?;
                }
                let stored = inputs[*input].stored().unwrap_or_default();
                Bytes::Stored(&stored[first..(range.end * bits).div_ceil(8)])
            }
            map => Bytes::Made(self.compute(job, io, inputs, map, chunk)?),
        };
        self.files.write(job.shard, job.offset + first as u64, bytes.as_slice())?;
        self.progress.advance(bytes.as_slice().len() as u64);
        Ok(bytes)
    }

    /// Decodes, maps and encodes a chunk tile by tile.
    fn compute(
        &self,
        job: &Job,
        io: &TensorIo<'_>,
        inputs: &[&dyn Source],
        map: &Map,
        chunk: usize,
    ) -> Result<Vec<u8>> {
        let float: Float = job.output.float().ok_or_else(|| {
            Error::internal("arithmetic was planned for a dtype that has none")
                .tensor(&job.output.name)
        })?;
        let range = io.chunk_range(chunk);
        let mut bytes =
            self.buffers.lock().map(|mut pool| pool.pop()).ok().flatten().unwrap_or_default();
        bytes.resize(range.len() * float.size(), 0);
        let mut out = vec![0.0; super::TILE.min(range.len())];
        io.read_chunk(chunk, |start, tiles| {
            let length = tiles.first().map_or(0, Vec::len);
            let out = &mut out[..length];
            let nans = self.check_nan(io, inputs, start, tiles)?;
            match map {
                Map::Copy(input) => out.copy_from_slice(&tiles[*input]),
                Map::Elements(map) => map(start, tiles, out),
            }
            for element in nans {
                out[element] = f32::NAN;
            }
            let at = (start - range.start) * float.size();
            self.kernels.encode(float, out, &mut bytes[at..at + length * float.size()]);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Finds NaN in the inputs: refused by name, or returned as the elements that become NaN.
    fn check_nan(
        &self,
        io: &TensorIo<'_>,
        inputs: &[&dyn Source],
        start: usize,
        tiles: &[Vec<f32>],
    ) -> Result<Vec<usize>> {
        let mut found = Vec::new();
        for (source, tile) in inputs.iter().zip(tiles) {
            if !io.kernels().has_nan(tile) {
                continue;
            }
            let nans = tile.iter().enumerate().filter(|(_, x)| x.is_nan()).map(|(i, _)| i);
            match self.nan {
                NanPolicy::Keep => found.extend(nans),
                NanPolicy::Refuse => {
                    return Err(self.nan_error(*source, start + nans.min().unwrap_or(0)));
                }
            }
        }
        Ok(found)
    }

    fn nan_error(&self, source: &dyn Source, element: usize) -> Error {
        let name = &source.spec().name;
        let holder = self.models.iter().find(|model| {
            let stored = model.tensor(name).and_then(Source::stored).map(<[u8]>::as_ptr);
            stored.is_some() && stored == source.stored().map(<[u8]>::as_ptr)
        });
        let error = Error::input("an input holds a NaN").tensor(name).fact("element", element);
        let error = match holder {
            Some(model) => error.fact("model", &model.reference),
            None => error,
        };
        error.hint("the checkpoint is damaged or its training diverged; --allow-nan merges it all the same")
    }

    /// Takes buffers back for reuse, and gives the inputs' pages back.
    fn give_back(
        &self,
        io: &TensorIo<'_>,
        inputs: &[&dyn Source],
        chunks: std::ops::Range<usize>,
        done: Vec<Bytes<'_>>,
    ) {
        if let Ok(mut pool) = self.buffers.lock() {
            pool.extend(done.into_iter().filter_map(|bytes| match bytes {
                Bytes::Made(buffer) => Some(buffer),
                Bytes::Stored(_) => None,
            }));
        }
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
    made: &[Bytes<'_>],
) {
    if chunks.is_empty() {
        return;
    }
    let elements = io.chunk_range(chunks.start).start..io.chunk_range(chunks.end - 1).end;
    let feed = |hash: &mut Hash<'_>| match hash.input {
        None => made.iter().for_each(|bytes| hash.state.update(bytes.as_slice())),
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
fn stream(seed: u64, model: usize, tensor: &str) -> Stream {
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
