//! The output's shards: threads queue blocks at any offset, writer threads bring them to the disk.
//!
//! Where the platform can, whole pages are written past the page cache (`O_DIRECT`). The output has
//! to be on the disk before the merge ends anyway; this way it costs no copy and pushes nothing out
//! of the cache, and the last sync has little left to do.

use super::Staging;
use super::blocks::{Block, Blocks, PAGE};
use super::digests::Digest;
use super::disk::{clones, copy, open_direct, read_at, reserve, write_at};
use crate::error::{Error, Result};
use crate::plan::Shard;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};

/// Threads that write. They wait for the disk, so they take little of the processor.
pub(super) const WRITERS: usize = 2;

/// Blocks that wait to be written; a thread that has another one waits, too.
const QUEUE: usize = 8;

/// A shorter run of whole pages is left to the page cache, which joins it with its neighbours.
const DIRECT_FROM: usize = 16 * PAGE;

/// Bytes written through the page cache before their write-back is started.
const FLUSH_EVERY: u64 = 128 << 20;

/// The shards of one output.
pub(super) struct ShardFiles<'a> {
    /// None where what is made is not kept.
    staging: Option<&'a Staging>,
    shards: Vec<ShardFile>,
    blocks: Blocks,
    /// Bytes left to the page cache.
    cached: AtomicU64,
    /// Tensors whose blocks are all queued, and perhaps not all written.
    queued: Mutex<Vec<Queued>>,
    /// The first failure of a writer.
    failure: OnceLock<Error>,
    /// Whether the file system can let two files share what they hold.
    clones: bool,
}

/// What every block of a tensor shares until it is written.
pub(super) type Unwritten = Arc<()>;

struct Queued {
    unwritten: Unwritten,
    tensor: String,
    digest: Digest,
}

struct ShardFile {
    path: PathBuf,
    file: File,
    /// The same file, open for writes past the page cache.
    direct: Option<File>,
    /// Whether such writes turned out to be refused.
    refused: AtomicBool,
    /// Whether copies by the kernel turned out to be refused.
    unshared: AtomicBool,
}

/// A block on its way to a shard.
pub(super) struct Write {
    shard: usize,
    block: Arc<Block>,
    unwritten: Unwritten,
}

/// Where blocks are handed to the writers. The writers end when it is dropped.
pub(super) struct Queue<'a> {
    files: &'a ShardFiles<'a>,
    sender: SyncSender<Write>,
}

impl<'a> ShardFiles<'a> {
    /// Creates the shards at their full size with their headers; those of an interrupted merge keep
    /// their bytes.
    pub(super) fn create(staging: &'a Staging, shards: &[Shard]) -> Result<Self> {
        let shards = shards.iter().map(|shard| ShardFile::create(staging, shard));
        Ok(Self {
            staging: Some(staging),
            shards: shards.collect::<Result<_>>()?,
            clones: clones(staging.folder()),
            ..Self::nowhere()
        })
    }

    /// No files at all: what is handed to the queue is made to be hashed, and thrown away.
    pub(super) fn nowhere() -> Self {
        Self {
            staging: None,
            shards: Vec::new(),
            blocks: Blocks::default(),
            cached: AtomicU64::new(0),
            queued: Mutex::default(),
            failure: OnceLock::new(),
            clones: false,
        }
    }

    /// A queue, and the end of it that [`ShardFiles::write_queued`] takes.
    pub(super) fn queue(&self) -> (Queue<'_>, Mutex<Receiver<Write>>) {
        let (sender, receiver) = sync_channel(QUEUE);
        (Queue { files: self, sender }, Mutex::new(receiver))
    }

    /// Writes what is queued until the queue is dropped. After a failure the rest is thrown away.
    pub(super) fn write_queued(&self, queued: &Mutex<Receiver<Write>>) {
        loop {
            let next = queued.lock().map(|queued| queued.recv());
            let Ok(Ok(Write { shard, block, unwritten })) = next else { return };
            if self.failure.get().is_none()
                && let Err(error) = self.write(shard, &block)
            {
                let _ = self.failure.set(error);
            }
            self.blocks.give_back(block);
            drop(unwritten);
            if let Err(error) = self.record() {
                let _ = self.failure.set(error);
            }
        }
    }

    /// Notes in the journal which tensors have been written.
    fn record(&self) -> Result<()> {
        self.written()?;
        let Ok(mut queued) = self.queued.lock() else {
            return Err(Error::internal("the list of queued tensors is poisoned"));
        };
        let written = queued.extract_if(.., |tensor| Arc::strong_count(&tensor.unwritten) == 1);
        for Queued { tensor, digest, .. } in written {
            self.staging.map_or(Ok(()), |staging| staging.record(&tensor, &digest))?;
        }
        Ok(())
    }

    fn write(&self, shard: usize, block: &Block) -> Result<()> {
        let shard = &self.shards[shard];
        let cached =
            shard.write_block(block).map_err(|e| Error::io("write a shard", &shard.path, &e))?;
        let before = self.cached.fetch_add(cached, Ordering::Relaxed);
        if before / FLUSH_EVERY != (before + cached) / FLUSH_EVERY {
            // So that the disk works while the merge does. An error comes up again at the last sync.
            let _ = shard.file.sync_data();
        }
        Ok(())
    }

    /// Reads bytes of a shard back.
    pub(super) fn read(&self, shard: usize, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let ShardFile { path, file, .. } = &self.shards[shard];
        read_at(file, bytes, offset).map_err(|e| Error::io("read a staged shard", path, &e))
    }

    /// Syncs every shard, once the writers have ended.
    ///
    /// # Errors
    /// This or an earlier write failed.
    pub(super) fn sync(&self) -> Result<()> {
        self.record()?;
        for ShardFile { path, file, .. } in &self.shards {
            file.sync_all().map_err(|e| Error::io("sync a shard", path, &e))?;
        }
        Ok(())
    }

    /// The failure of a writer, if there was one.
    pub(super) fn written(&self) -> Result<()> {
        self.failure.get().map_or(Ok(()), |error| Err(error.clone()))
    }
}

impl Queue<'_> {
    /// A block of `length` bytes for this offset of a shard.
    pub(super) fn block(&self, offset: u64, length: usize) -> Block {
        self.files.blocks.take(offset, length)
    }

    /// Whether it helps to know where the bytes of a block stand already.
    pub(super) fn clones(&self) -> bool {
        self.files.clones
    }

    /// Hands a block to the writers; waits while they have enough of them.
    ///
    /// # Errors
    /// A writer failed.
    pub(super) fn write(&self, shard: usize, block: Arc<Block>, of: &Unwritten) -> Result<()> {
        if self.files.staging.is_none() {
            return Ok(());
        }
        self.files.written()?;
        self.sender
            .send(Write { shard, block, unwritten: Arc::clone(of) })
            .map_err(|_| Error::internal("the threads that write have ended"))
    }

    /// Notes a tensor in the journal once the last of its blocks is written.
    pub(super) fn record(&self, unwritten: Unwritten, tensor: &str, digest: Digest) {
        if let Ok(mut queued) = self.files.queued.lock() {
            queued.push(Queued { unwritten, tensor: tensor.to_string(), digest });
        }
    }

    /// Takes the memory of a block back that its maker has done with.
    pub(super) fn give_back(&self, block: Arc<Block>) {
        self.files.blocks.give_back(block);
    }

    /// The shards, to read what is there already.
    pub(super) fn files(&self) -> &ShardFiles<'_> {
        self.files
    }
}

impl ShardFile {
    fn create(staging: &Staging, shard: &Shard) -> Result<Self> {
        let path = staging.folder().join(&shard.file);
        let failed = |e: io::Error| Error::io("create a shard", &path, &e);
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        let file = options.open(&path).map_err(failed)?;
        file.set_len(shard.size).map_err(failed)?;
        reserve(&file, shard.size).map_err(failed)?;
        write_at(&file, &shard.header, 0).map_err(failed)?;
        let direct = open_direct(&path);
        let [refused, unshared] = [const { AtomicBool::new(false) }; 2];
        Ok(Self { path, file, direct, refused, unshared })
    }

    /// Writes a block; what of it stands in another file already is copied by the kernel, in whole pages,
    /// where these lie alike in both files. Returns how many bytes went through the page cache.
    fn write_block(&self, block: &Block) -> io::Result<u64> {
        let (offset, bytes) = (block.offset(), block.bytes());
        let Some(from) = block.copy_of().filter(|from| alike(from.offset, offset)) else {
            return self.write(offset, bytes);
        };
        let before = (offset.next_multiple_of(PAGE as u64) - offset) as usize;
        let whole = bytes.len().saturating_sub(before) / PAGE * PAGE;
        if whole < DIRECT_FROM || self.unshared.load(Ordering::Relaxed) {
            return self.write(offset, bytes);
        }
        let skipped = before as u64;
        if copy(&from.file, from.offset + skipped, &self.file, offset + skipped, whole).is_err() {
            // Another file system, or one that does not do this after all: nothing is lost.
            self.unshared.store(true, Ordering::Relaxed);
            return self.write(offset, bytes);
        }
        let last = before + whole;
        write_at(&self.file, &bytes[..before], offset)?;
        write_at(&self.file, &bytes[last..], offset + last as u64)?;
        Ok((before + bytes.len() - last) as u64)
    }

    /// Writes bytes at an offset; returns how many went through the page cache.
    ///
    /// A page is either written whole and past the cache, or in parts and through it, never both:
    /// the parts belong to different tensors, whose middles are elsewhere.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<u64> {
        let before = (offset.next_multiple_of(PAGE as u64) - offset) as usize;
        let whole = bytes.len().saturating_sub(before) / PAGE * PAGE;
        let direct = self.direct.as_ref().filter(|_| !self.refused.load(Ordering::Relaxed));
        let (Some(direct), true) = (direct, whole >= DIRECT_FROM) else {
            write_at(&self.file, bytes, offset)?;
            return Ok(bytes.len() as u64);
        };
        let (first, rest) = bytes.split_at(before);
        let (middle, last) = rest.split_at(whole);
        match write_at(direct, middle, offset + before as u64) {
            // The file system wants a coarser alignment, or does not do this after all.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                self.refused.store(true, Ordering::Relaxed);
                return self.write(offset, bytes);
            }
            written => written?,
        }
        write_at(&self.file, first, offset)?;
        write_at(&self.file, last, offset + (before + whole) as u64)?;
        Ok((first.len() + last.len()) as u64)
    }
}

/// Whether two offsets are the same distance from a page.
fn alike(a: u64, b: u64) -> bool {
    a % PAGE as u64 == b % PAGE as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stretches of a file in an order of their own, short and long, that share pages.
    fn stretches(size: usize) -> Vec<std::ops::Range<usize>> {
        let lengths = [1, 3 * DIRECT_FROM + 17, PAGE, 5, DIRECT_FROM, PAGE - 1, 2 * DIRECT_FROM];
        let mut stretches = Vec::new();
        let mut at = 0;
        for length in lengths.into_iter().cycle() {
            if at == size {
                break;
            }
            stretches.push(at..(at + length).min(size));
            at = (at + length).min(size);
        }
        stretches.sort_by_key(|stretch| stretch.start % 7);
        stretches
    }

    #[test]
    fn whole_pages_and_parts_of_pages_come_together() {
        let folder = tempfile::tempdir().unwrap();
        let size = 40 * DIRECT_FROM + 123;
        let wanted: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        for refused in [false, true] {
            let path = folder.path().join(format!("shard-{refused}"));
            let file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
            file.set_len(size as u64).unwrap();
            reserve(&file, size as u64).unwrap();
            let direct = open_direct(&path);
            let unshared = AtomicBool::new(false);
            let shard =
                ShardFile { path, file, direct, refused: AtomicBool::new(refused), unshared };
            let blocks = Blocks::default();
            let mut cached = 0;
            for stretch in stretches(size) {
                let mut block = blocks.take(stretch.start as u64, stretch.len());
                block.bytes_mut().copy_from_slice(&wanted[stretch]);
                cached += shard.write(block.offset(), block.bytes()).unwrap();
                blocks.give_back(Arc::new(block));
            }
            assert!(!refused || cached == size as u64);
            assert!(std::fs::read(&shard.path).unwrap() == wanted, "refused: {refused}");
        }
    }

    #[test]
    fn what_stands_in_another_file_is_copied_from_there() {
        let folder = tempfile::tempdir().unwrap();
        let size = 6 * DIRECT_FROM + 123;
        let stored: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let path = folder.path().join("input");
        std::fs::write(&path, &stored).unwrap();
        // Pages lie alike, or not; the file is there, or not.
        for (start, offset, there) in
            [(100, 100, true), (100, PAGE as u64 + 100, true), (7, 9, true), (0, 0, false)]
        {
            let length = 4 * DIRECT_FROM + 11;
            let out = folder.path().join("shard");
            let file = File::options()
                .create(true)
                .truncate(true)
                .read(true)
                .write(true)
                .open(&out)
                .unwrap();
            file.set_len(offset + length as u64).unwrap();
            let [refused, unshared] = [const { AtomicBool::new(false) }; 2];
            let shard = ShardFile { path: out, file, direct: None, refused, unshared };
            let mut block = Blocks::default().take(offset, length);
            let wanted = &stored[start as usize..start as usize + length];
            block.bytes_mut().copy_from_slice(wanted);
            let file = if there { path.clone() } else { folder.path().join("gone") };
            block.set_copy_of(Some(super::super::blocks::Stretch { file, offset: start }));
            let cached = shard.write_block(&block).unwrap();
            let copied = there && start % 4096 == offset % 4096;
            assert_eq!(cached < length as u64, copied, "{start} {offset}");
            assert_eq!(shard.unshared.load(Ordering::Relaxed), !there);
            assert!(std::fs::read(&shard.path).unwrap()[offset as usize..] == *wanted);
        }
    }

    #[test]
    fn a_tensor_is_journalled_once_its_blocks_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let staging = Staging::begin(&folder.path().join("out"), "mark", false).unwrap();
        let shard = Shard { file: "shard".into(), size: 4096, header: Vec::new() };
        let files = ShardFiles::create(&staging, &[shard]).unwrap();
        let journal = || std::fs::read_to_string(staging.folder().join(".journal")).unwrap();
        let (queue, queued) = files.queue();
        let unwritten = Unwritten::default();
        let block = Arc::new(queue.block(0, 8));
        queue.write(0, block, &unwritten).unwrap();
        queue.record(unwritten, "tensor", [7; 32]);
        files.record().unwrap();
        assert_eq!(journal(), "mark\n");
        drop(queue);
        files.write_queued(&queued);
        assert!(journal().ends_with(" \"tensor\"\n"), "{}", journal());
    }
}
