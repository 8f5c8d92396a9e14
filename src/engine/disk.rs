//! What the platform offers for large files: room reserved ahead, writes past the page cache, copies
//! that the kernel makes, access at an offset.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

/// File systems that copy within themselves without moving the bytes through memory: by sharing blocks
/// (Btrfs, XFS, bcachefs, OCFS2, ZFS), or on the server (NFS, CIFS). Numbers: `statfs(2)`.
#[cfg(target_os = "linux")]
const CLONING: [i64; 8] = [
    0x9123_683e,
    0x5846_5342,
    0xca45_1a4e,
    0x7461_636f,
    0x2fc1_2fc1,
    0x6969,
    0xff53_4d42,
    0xfe53_4d42,
];

/// Whether the folder lies on such a file system.
pub(super) fn clones(folder: &Path) -> bool {
    #[cfg(target_os = "linux")]
    {
        #[allow(clippy::unnecessary_cast, reason = "its type is the platform's")]
        rustix::fs::statfs(folder).is_ok_and(|found| CLONING.contains(&(found.f_type as i64)))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = folder;
        false
    }
}

/// Has the kernel copy a stretch of one file into another.
pub(super) fn copy(
    from: &Path,
    mut start: u64,
    to: &File,
    mut offset: u64,
    length: usize,
) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        let from = File::open(from)?;
        let mut left = length;
        while left > 0 {
            let done =
                rustix::fs::copy_file_range(&from, Some(&mut start), to, Some(&mut offset), left)?;
            if done == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= done;
        }
        Ok(())
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (from, &mut start, to, &mut offset, length);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Reserves the disk's room, so that a full disk shows before the work and files lie in one piece.
pub(super) fn reserve(file: &File, size: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{FallocateFlags, fallocate};
        match fallocate(file, FallocateFlags::empty(), 0, size) {
            // Not every file system can; writing finds out there.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let _ = (file, size);
    Ok(())
}

/// Opens a file for writes past the page cache, where the platform and the file system can.
pub(super) fn open_direct(path: &Path) -> Option<File> {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        OpenOptions::new().write(true).custom_flags(flags).open(path).ok()
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = path;
        None
    }
}

/// Writes all bytes at an offset.
#[cfg(unix)]
pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

/// Fills the bytes with what stands at an offset.
#[cfg(unix)]
pub(super) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}
