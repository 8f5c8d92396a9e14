//! Output blocks: memory laid out so that its whole pages can go to the disk as they are.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// What offsets, lengths and addresses of a write that passes the page cache are multiples of. The
/// largest logical block of common disks, and a page of memory on most machines.
pub(super) const PAGE: usize = 4096;

/// The bytes of one stretch of a shard. The address of its first byte and its offset in the shard
/// are the same distance from a page.
pub(super) struct Block {
    memory: Vec<u8>,
    start: usize,
    length: usize,
    offset: u64,
    copy_of: Option<Stretch>,
}

/// Where in a file the bytes of a block stand already.
pub(super) struct Stretch {
    pub(super) file: PathBuf,
    pub(super) offset: u64,
}

impl Block {
    /// Bytes of the shard from [`Block::offset`] on.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }

    /// The same, to be filled in.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }

    /// Says that the bytes stand in a file already.
    pub(super) fn set_copy_of(&mut self, stretch: Option<Stretch>) {
        self.copy_of = stretch;
    }

    /// Where the bytes stand already, if they do.
    pub(super) fn copy_of(&self) -> Option<&Stretch> {
        self.copy_of.as_ref()
    }

    /// Where the block goes in its shard.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }
}

/// Memory of blocks that nobody needs any more, kept for the next ones: fresh memory costs a page
/// fault for each page.
#[derive(Default)]
pub(super) struct Blocks(Mutex<Vec<Vec<u8>>>);

impl Blocks {
    /// A block of `length` bytes for this offset of a shard. What it holds is left over.
    pub(super) fn take(&self, offset: u64, length: usize) -> Block {
        let mut memory = self.0.lock().ok().and_then(|mut free| free.pop()).unwrap_or_default();
        let room = length + 2 * PAGE;
        if memory.len() < room {
            memory.resize(room, 0);
        }
        let start = memory.as_ptr().align_offset(PAGE) + (offset % PAGE as u64) as usize;
        Block { memory, start, length, offset, copy_of: None }
    }

    /// Takes the memory of a block back, once its last user is done with it.
    pub(super) fn give_back(&self, block: Arc<Block>) {
        if let (Some(block), Ok(mut free)) = (Arc::into_inner(block), self.0.lock()) {
            free.push(block.memory);
        }
    }
}
