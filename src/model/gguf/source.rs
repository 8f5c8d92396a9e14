//! A tensor of a GGUF file, seen as Hugging Face stores it.

use super::types::{BlockType, Coding, decode};
use crate::error::{Error, Result};
use crate::model::{Source, StoredTensor, TensorSpec};
use std::ops::Range;
use std::path::Path;

/// Elements that are decoded at once.
const PIECE: usize = 1 << 12;

/// A tensor that is decoded, and put back into the order it had before the conversion, as it is
/// read.
pub(super) struct GgufTensor {
    /// Name, dtype and shape as seen.
    pub(super) spec: TensorSpec,
    /// The bytes in the file.
    pub(super) stored: StoredTensor,
    pub(super) block: &'static BlockType,
    /// Rows of a head, where rows were reordered.
    pub(super) head: Option<usize>,
    /// Whether 1 was added to the elements.
    pub(super) plus_one: bool,
}

impl GgufTensor {
    /// The elements of a row.
    fn row(&self) -> usize {
        self.spec.shape.get(1..).unwrap_or_default().iter().product::<usize>().max(1)
    }

    /// Where in the file's order row `row` stands. The conversion took the two halves of a head's
    /// rows in turn: the rows 0, h/2, 1, h/2 + 1, … of a head of h rows.
    fn stored_row(head: usize, row: usize) -> usize {
        let (first, within) = (row / head * head, row % head);
        let half = head / 2;
        first + within % half * 2 + within / half
    }

    /// Decodes elements in the file's order.
    fn decode(&self, start: usize, out: &mut [f32]) -> Result<()> {
        let dtype = match self.block.coding {
            Coding::Plain(_) => return self.stored.read(start, out).map(|_| ()),
            Coding::Quantised(dtype) => dtype,
        };
        let bytes = self.stored.stored().unwrap_or_default();
        let mut start = start;
        for piece in out.chunks_mut(PIECE) {
            let size = self.block.elements;
            let blocks = start / size..(start + piece.len()).div_ceil(size);
            let bytes = bytes
                .get(blocks.start * self.block.bytes..blocks.end * self.block.bytes)
                .ok_or_else(|| {
                Error::internal("a read past the end of a tensor").tensor(&self.spec.name)
            })?;
            let values = decode(dtype, bytes, blocks.len() * size)?;
            let skipped = start % size;
            piece.copy_from_slice(&values[skipped..skipped + piece.len()]);
            start += piece.len();
        }
        Ok(())
    }

    /// The same by rows, in the order they are seen in.
    fn decode_reordered(&self, head: usize, start: usize, out: &mut [f32]) -> Result<()> {
        let row = self.row();
        let mut at = start;
        let mut rest = out;
        while !rest.is_empty() {
            let column = at % row;
            let (piece, after) = rest.split_at_mut((row - column).min(rest.len()));
            self.decode(Self::stored_row(head, at / row) * row + column, piece)?;
            at += piece.len();
            rest = after;
        }
        Ok(())
    }

    /// The elements of the stored tensor behind an element range: bytes where it is quantised;
    /// whole heads where rows are reordered.
    fn behind(&self, elements: Range<usize>) -> Range<usize> {
        let unit = self.head.map_or(1, |head| head * self.row());
        let elements = elements.start / unit * unit..elements.end.next_multiple_of(unit);
        match self.block.coding {
            Coding::Plain(_) => elements,
            Coding::Quantised(_) => {
                let BlockType { elements: size, bytes, .. } = self.block;
                elements.start / size * bytes..elements.end.div_ceil(*size) * bytes
            }
        }
    }
}

impl Source for GgufTensor {
    fn spec(&self) -> &TensorSpec {
        &self.spec
    }

    fn read(&self, start: usize, out: &mut [f32]) -> Result<bool> {
        self.spec.check_read(start, out.len())?;
        match self.head {
            Some(head) => self.decode_reordered(head, start, out)?,
            None => self.decode(start, out)?,
        }
        if self.plus_one {
            out.iter_mut().for_each(|value| *value -= 1.0);
        }
        Ok(out.iter().any(|value| value.is_nan()))
    }

    fn stored(&self) -> Option<&[u8]> {
        let as_seen = matches!(self.block.coding, Coding::Plain(_));
        (as_seen && self.head.is_none() && !self.plus_one).then(|| self.stored.stored()).flatten()
    }

    fn parts(&self) -> Vec<&str> {
        vec![&self.stored.spec().name]
    }

    fn origin(&self) -> Option<&Path> {
        self.stored.origin()
    }

    fn prefetch(&self, elements: Range<usize>) {
        self.stored.prefetch(self.behind(elements));
    }

    fn release(&self, elements: Range<usize>) {
        self.stored.release(self.behind(elements));
    }
}
