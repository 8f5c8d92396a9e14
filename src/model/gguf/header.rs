//! The header of a GGUF file: metadata, and where its tensors stand.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3. Read by
//! our own code, since candle's reader keeps the last of two entries of one name without a word,
//! and knows a tensor of a type it cannot decode by number only.

use super::types::BlockType;
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// The most entries of metadata and tensors; the largest models have some thousands.
const MAX_ENTRIES: u64 = 1 << 20;
/// The most dimensions a tensor can have (`GGML_MAX_DIMS`).
const MAX_RANK: u32 = 4;
/// How deep arrays of arrays may go.
const MAX_DEPTH: usize = 4;
/// Where tensors are aligned to unless `general.alignment` says otherwise.
const ALIGNMENT: u64 = 32;

/// A value of the metadata.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Integer(i128),
    Single(f32),
    Double(f64),
    Bool(bool),
    Text(&'a str),
    /// An array, of which only the length is kept.
    Array(u64),
}

/// A tensor as the header describes it.
#[derive(Clone, Debug)]
pub(super) struct Described {
    /// Its name, in llama.cpp's convention.
    pub(super) name: String,
    /// Outermost dimension first (the file says it the other way round).
    pub(super) shape: Vec<usize>,
    pub(super) block: &'static BlockType,
    /// Where its bytes stand in the file.
    pub(super) range: Range<usize>,
}

/// What a header says.
pub(super) struct Header<'a> {
    pub(super) metadata: BTreeMap<&'a str, Value<'a>>,
    /// In file order.
    pub(super) tensors: Vec<Described>,
}

impl<'a> Header<'a> {
    /// Reads the header of a file that is given whole.
    pub(super) fn parse(file: &'a [u8]) -> Result<Self> {
        let mut rest = Cursor { file, at: 0 };
        let (tensor_count, metadata_count) = start(&mut rest)?;
        let mut metadata = BTreeMap::new();
        for _ in 0..metadata_count {
            let key = rest.text()?;
            let kind = rest.u32()?;
            let value = rest.value(kind, 0).map_err(|e| e.key(key))?;
            if metadata.insert(key, value).is_some() {
                return Err(Error::input("the GGUF file has a key of metadata twice").key(key));
            }
        }
        let alignment = match metadata.get("general.alignment") {
            None => ALIGNMENT,
            Some(Value::Integer(n)) if (8..=1 << 20).contains(n) && n % 8 == 0 => *n as u64,
            Some(other) => {
                return Err(Error::input("the GGUF file has an alignment that is not valid")
                    .key("general.alignment")
                    .expected("a multiple of 8", format!("{other:?}")));
            }
        };
        let mut raw = Vec::new();
        let mut names = BTreeSet::new();
        for _ in 0..tensor_count {
            let tensor = Raw::read(&mut rest)?;
            if !names.insert(tensor.name) {
                return Err(Error::input("the GGUF file names a tensor twice").tensor(tensor.name));
            }
            raw.push(tensor);
        }
        let data = (rest.at as u64).next_multiple_of(alignment);
        let placed = raw.into_iter().map(|raw| {
            let name = raw.name;
            raw.place(file, data, alignment).map_err(|e| e.tensor(name))
        });
        let mut tensors = placed.collect::<Result<Vec<_>>>()?;
        tensors.sort_by(|a, b| {
            (a.range.start, a.range.end, &a.name).cmp(&(b.range.start, b.range.end, &b.name))
        });
        for pair in tensors.windows(2) {
            if pair[1].range.start < pair[0].range.end {
                return Err(Error::input("the GGUF file places a tensor over another")
                    .tensor(&pair[1].name)
                    .fact("over", &pair[0].name));
            }
        }
        Ok(Self { metadata, tensors })
    }
}

/// Checks the magic number and the version; the numbers of tensors and of metadata.
fn start(rest: &mut Cursor<'_>) -> Result<(u64, u64)> {
    if !rest.file.starts_with(b"GGUF") {
        return Err(Error::input("the file is not GGUF")
            .expected("GGUF as its first bytes", "others")
            .hint("the file is damaged, or the format of before August 2023, which is not read"));
    }
    rest.at = 4;
    match rest.u32()? {
        2 | 3 => {}
        big if matches!(big.swap_bytes(), 2 | 3) => {
            return Err(Error::input("the GGUF file is not little-endian"));
        }
        other => {
            return Err(Error::input("the GGUF file has an unknown version")
                .expected("version 2 or 3", other));
        }
    }
    let (tensors, metadata) = (rest.u64()?, rest.u64()?);
    if tensors.max(metadata) > MAX_ENTRIES {
        return Err(Error::input("the GGUF file claims too many entries")
            .expected(format!("at most {MAX_ENTRIES}"), tensors.max(metadata)));
    }
    Ok((tensors, metadata))
}

/// A tensor's entry as it stands there.
struct Raw<'a> {
    name: &'a str,
    /// Innermost dimension first.
    shape: Vec<u64>,
    kind: u32,
    offset: u64,
}

impl<'a> Raw<'a> {
    fn read(rest: &mut Cursor<'a>) -> Result<Self> {
        let name = rest.text()?;
        let rank = rest.u32()?;
        if rank > MAX_RANK {
            return Err(Error::input("a tensor of the GGUF file has too many dimensions")
                .tensor(name)
                .expected(format!("at most {MAX_RANK}"), rank));
        }
        let shape = (0..rank).map(|_| rest.u64()).collect::<Result<_>>()?;
        Ok(Self { name, shape, kind: rest.u32()?, offset: rest.u64()? })
    }

    /// Checks the tensor against the file it is in, whose data start at `data`.
    fn place(self, file: &[u8], data: u64, alignment: u64) -> Result<Described> {
        let block = BlockType::find(self.kind)?;
        let overflow = || {
            Error::input("the shape of a tensor overflows")
                .fact("shape", format!("{:?}", self.shape))
        };
        let mut shape = Vec::new();
        let mut elements = 1_usize;
        for dimension in self.shape.iter().rev() {
            let dimension = usize::try_from(*dimension).map_err(|_| overflow())?;
            elements = elements.checked_mul(dimension).ok_or_else(overflow)?;
            shape.push(dimension);
        }
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(block.elements) {
            return Err(Error::input("the rows of a tensor are not made of whole blocks")
                .fact("type", block.name)
                .expected(format!("a multiple of {}", block.elements), row));
        }
        if !self.offset.is_multiple_of(alignment) {
            return Err(Error::input("a tensor of the GGUF file is not aligned")
                .expected(format!("a multiple of {alignment}"), self.offset));
        }
        let length = (elements / block.elements).checked_mul(block.bytes).ok_or_else(overflow)?;
        let start = data.checked_add(self.offset).and_then(|start| usize::try_from(start).ok());
        let end = start.and_then(|start| start.checked_add(length));
        match (start, end) {
            (Some(start), Some(end)) if end <= file.len() => {
                Ok(Described { name: self.name.to_string(), shape, block, range: start..end })
            }
            _ => Err(Error::input("a tensor's data ends behind the end of its file")
                .fact("found", format!("{} bytes", file.len()))
                .hint("the file is truncated or damaged; fetch it again")),
        }
    }
}

/// What is left of a header.
struct Cursor<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let end = usize::try_from(length).ok().and_then(|length| self.at.checked_add(length));
        let taken = end.and_then(|end| self.file.get(self.at..end)).ok_or_else(|| {
            Error::input("the header of the GGUF file ends too early")
                .hint("the file is truncated or damaged; fetch it again")
        })?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N as u64)?.first_chunk().copied();
        bytes.ok_or_else(|| Error::internal("a short read of a GGUF header"))
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<&'a str> {
        let length = self.u64()?;
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes)
            .map_err(|_| Error::input("a name or text of the GGUF file is not UTF-8"))
    }

    /// A value of one of the thirteen kinds.
    fn value(&mut self, kind: u32, depth: usize) -> Result<Value<'a>> {
        Ok(match kind {
            0 => Value::Integer(self.array::<1>()?[0].into()),
            1 => Value::Integer(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Integer(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Integer(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Integer(self.u32()?.into()),
            5 => Value::Integer(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Single(f32::from_le_bytes(self.array()?)),
            7 => Value::Bool(self.array::<1>()?[0] != 0),
            // Texts of the metadata (a chat template) need not be proper: llama.cpp does not check.
            8 => {
                let length = self.u64()?;
                Value::Text(std::str::from_utf8(self.take(length)?).unwrap_or_default())
            }
            9 => self.list(depth)?,
            10 => Value::Integer(self.u64()?.into()),
            11 => Value::Integer(i64::from_le_bytes(self.array()?).into()),
            12 => Value::Double(f64::from_le_bytes(self.array()?)),
            other => {
                return Err(Error::input("the GGUF file has a value of unknown kind")
                    .expected("0 to 12", other));
            }
        })
    }

    /// Passes over an array.
    fn list(&mut self, depth: usize) -> Result<Value<'a>> {
        let (kind, length) = (self.u32()?, self.u64()?);
        // Bytes of an element; those of texts and arrays are not known beforehand.
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            _ => 0,
        };
        match kind {
            _ if size > 0 => _ = self.take(length.saturating_mul(size))?,
            9 if depth >= MAX_DEPTH => {
                return Err(Error::input("the GGUF file nests arrays too deeply")
                    .expected(format!("at most {MAX_DEPTH} levels"), "more"));
            }
            // Every element takes bytes of the file, so that the loop ends with them.
            _ => {
                for _ in 0..length {
                    self.value(kind, depth + 1)?;
                }
            }
        }
        Ok(Value::Array(length))
    }
}
