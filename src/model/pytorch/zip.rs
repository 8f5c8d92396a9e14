//! The entries of a zip archive that are stored as they are.
//!
//! Format: PKWARE's APPNOTE 6.3.10, §4.3. Read by our own code: all that is needed is where entries
//! stand, and the `zip` crate first makes room for as many entries as the file claims to have, up
//! to one a byte of the file.

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::ops::Range;

/// A central directory larger than this is refused; that of a model takes some 100 bytes a tensor.
const MAX_DIRECTORY_BYTES: usize = 64 << 20;

/// An archive given whole.
pub(super) struct Archive<'a> {
    bytes: &'a [u8],
    entries: BTreeMap<&'a str, Entry>,
}

/// What the central directory says of an entry.
struct Entry {
    flags: u16,
    method: u16,
    /// Bytes as stored, and unpacked.
    sizes: (u64, u64),
    /// Where the local header stands.
    header: u64,
}

impl<'a> Archive<'a> {
    /// Reads the central directory.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self> {
        let (count, range) = directory(bytes)?;
        let mut rest = &bytes[range];
        let mut entries = BTreeMap::new();
        for _ in 0..count {
            let (name, entry, after) = entry(rest).ok_or_else(|| damaged("central directory"))?;
            if entries.insert(name, entry).is_some() {
                return Err(Error::input("the PyTorch file has an entry twice").fact("entry", name));
            }
            rest = after;
        }
        Ok(Self { bytes, entries })
    }

    /// The names of the entries, sorted.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.entries.keys().copied()
    }

    /// Where the bytes of an entry stand; None if there is no such entry.
    pub(super) fn stored(&self, name: &str) -> Result<Option<Range<usize>>> {
        let Some(entry) = self.entries.get(name) else { return Ok(None) };
        // Bit 0: encrypted.
        if entry.method != 0 || entry.flags & 1 != 0 || entry.sizes.0 != entry.sizes.1 {
            return Err(Error::input("an entry of the PyTorch file is compressed or encrypted")
                .fact("entry", name)
                .expected("method 0 (stored)", format!("method {}", entry.method))
                .hint("torch.save does not compress; save the model again"));
        }
        let range = self.data(name, entry).ok_or_else(|| damaged("entry").fact("entry", name))?;
        Ok(Some(range))
    }

    /// The data behind the local header, whose name and extra field may have other lengths than
    /// those of the directory.
    fn data(&self, name: &str, entry: &Entry) -> Option<Range<usize>> {
        let at = usize::try_from(entry.header).ok()?;
        let header = self.bytes.get(at..)?;
        if !header.starts_with(b"PK\x03\x04") {
            return None;
        }
        let (name_length, extra) = (u16_at(header, 26)?, u16_at(header, 28)?);
        if header.get(30..)?.get(..name_length.into())? != name.as_bytes() {
            return None;
        }
        let start = at + 30 + usize::from(name_length) + usize::from(extra);
        let end = start.checked_add(usize::try_from(entry.sizes.0).ok()?)?;
        (end <= self.bytes.len()).then_some(start..end)
    }
}

/// The number of entries and where the central directory stands.
fn directory(bytes: &[u8]) -> Result<(u64, Range<usize>)> {
    let end = end_record(bytes).ok_or_else(|| not_zip(bytes))?;
    let (count, size, offset) = sizes(bytes, end).ok_or_else(|| damaged("end record"))?;
    let place = || {
        let (size, start) = (usize::try_from(size).ok()?, usize::try_from(offset).ok()?);
        start.checked_add(size).filter(|end| *end <= bytes.len()).map(|end| start..end)
    };
    let range = place().ok_or_else(|| damaged("end record"))?;
    if range.len() > MAX_DIRECTORY_BYTES {
        return Err(Error::input("the PyTorch file has too large a directory")
            .expected(format!("at most {MAX_DIRECTORY_BYTES} bytes"), range.len()));
    }
    Ok((count, range))
}

/// Where the end record stands, which has 22 bytes and a comment of up to 2^16 - 1.
fn end_record(bytes: &[u8]) -> Option<usize> {
    let last = bytes.len().checked_sub(22)?;
    (last.saturating_sub(0xffff)..=last).rev().find(|at| {
        let record = &bytes[*at..];
        record.starts_with(b"PK\x05\x06")
            && u16_at(record, 20).is_some_and(|comment| record.len() == 22 + usize::from(comment))
    })
}

/// Number of entries, size and offset of the central directory. Where one does not fit the record,
/// all are taken from the one for 64 bits, to which a locator in front of the record points.
fn sizes(bytes: &[u8], end: usize) -> Option<(u64, u64, u64)> {
    let record = &bytes[end..];
    let (count, size, offset) = (u16_at(record, 10)?, u32_at(record, 12)?, u32_at(record, 16)?);
    if count != u16::MAX && size != u32::MAX && offset != u32::MAX {
        return Some((count.into(), size.into(), offset.into()));
    }
    let locator = &bytes[end.checked_sub(20)?..end];
    let at = usize::try_from(u64_at(locator, 8)?).ok()?;
    let wide = bytes.get(at..)?;
    let known = locator.starts_with(b"PK\x06\x07") && wide.starts_with(b"PK\x06\x06");
    known.then_some(())?;
    Some((u64_at(wide, 32)?, u64_at(wide, 40)?, u64_at(wide, 48)?))
}

/// The entry at the start of these bytes of the directory, and what follows it.
fn entry(bytes: &[u8]) -> Option<(&str, Entry, &[u8])> {
    if !bytes.starts_with(b"PK\x01\x02") {
        return None;
    }
    let length = |at| u16_at(bytes, at).map(usize::from);
    let (name, rest) = bytes.get(46..)?.split_at_checked(length(28)?)?;
    let (mut extra, rest) = rest.split_at_checked(length(30)?)?;
    let (_comment, rest) = rest.split_at_checked(length(32)?)?;
    let narrow = [24, 20, 42].map(|at| u32_at(bytes, at));
    // Unpacked size, stored size and offset; those that do not fit stand in an extra field of id 1.
    let mut numbers = [u64::from(narrow[0]?), u64::from(narrow[1]?), u64::from(narrow[2]?)];
    while let (Some(id), Some(length)) = (u16_at(extra, 0), u16_at(extra, 2)) {
        let (field, after) = extra.get(4..)?.split_at_checked(length.into())?;
        if id == 1 {
            let wide = numbers.iter_mut().filter(|number| **number == u64::from(u32::MAX));
            for (i, number) in wide.enumerate() {
                *number = u64_at(field, 8 * i)?;
            }
        }
        extra = after;
    }
    let [unpacked, stored, header] = numbers;
    let (flags, method) = (u16_at(bytes, 8)?, u16_at(bytes, 10)?);
    let entry = Entry { flags, method, sizes: (stored, unpacked), header };
    Some((std::str::from_utf8(name).ok()?, entry, rest))
}

fn damaged(part: &'static str) -> Error {
    Error::input("the PyTorch file is a damaged zip archive")
        .fact("part", part)
        .hint("fetch the file again")
}

fn not_zip(bytes: &[u8]) -> Error {
    let error = Error::input("the PyTorch file is not a whole zip archive");
    if bytes.starts_with(b"PK") {
        return error.hint("the file is truncated; fetch it again");
    }
    if bytes.starts_with(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19") {
        return Error::input(
            "the PyTorch file has the format from before PyTorch 1.6, which is not read",
        )
        .hint("load it with torch.load(weights_only=True) and save it again, best as safetensors");
    }
    error.hint("a file of torch.save since PyTorch 1.6 is expected")
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
