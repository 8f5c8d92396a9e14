//! The hidden states of all slices between two layers: in memory, or in a temporary file.

use super::tensors::{matrix, with_elements};
use crate::error::{Error, Result};
use candle_core::Tensor;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Mutex;

/// Elements that are turned into bytes at a time.
const PIECE: usize = 1 << 16;

/// Hidden states by the number of their slice.
pub(in crate::eval) enum Hidden {
    /// All of them, changed in place.
    Memory(Vec<Tensor>),
    /// One slice after the other in a file, which vanishes with this value.
    Disk {
        file: Mutex<File>,
        /// First byte and rows of each slice.
        places: Vec<(u64, usize)>,
        width: usize,
    },
}

impl Hidden {
    /// Room for slices of these many rows: in memory if they take no more than `most` bytes there.
    pub(in crate::eval) fn new(rows: &[usize], width: usize, most: u64) -> Result<Self> {
        let total = rows.iter().sum::<usize>() as u64 * width as u64 * 4;
        if total <= most {
            return Ok(Self::Memory(Vec::with_capacity(rows.len())));
        }
        let folder = std::env::temp_dir();
        let failed = |e| Error::io("make a temporary file for hidden states", &folder, &e);
        let file = tempfile::tempfile_in(&folder).map_err(failed)?;
        file.set_len(total).map_err(failed)?;
        let mut end = 0;
        let place = |rows: &usize| {
            let first = end;
            end += *rows as u64 * width as u64 * 4;
            (first, *rows)
        };
        let places = rows.iter().map(place).collect();
        Ok(Self::Disk { file: Mutex::new(file), places, width })
    }

    /// The hidden states of a slice; changes show once they are put back.
    pub(in crate::eval) fn get(&self, slice: usize) -> Result<Tensor> {
        match self {
            Self::Memory(all) => all.get(slice).cloned().ok_or_else(lost),
            Self::Disk { file, places, width } => {
                let (first, rows) = *places.get(slice).ok_or_else(lost)?;
                let mut values = Vec::with_capacity(rows * width);
                let mut bytes = vec![0; PIECE * 4];
                let mut file = file.lock().map_err(|_| lost())?;
                file.seek(SeekFrom::Start(first)).map_err(|e| disk(&e))?;
                while values.len() < rows * width {
                    let count = PIECE.min(rows * width - values.len());
                    let bytes = &mut bytes[..count * 4];
                    file.read_exact(bytes).map_err(|e| disk(&e))?;
                    let (words, _) = bytes.as_chunks::<4>();
                    values.extend(words.iter().map(|word| f32::from_le_bytes(*word)));
                }
                matrix(values, *width)
            }
        }
    }

    /// Puts the hidden states of a slice back; the first time in the order of the slices.
    pub(in crate::eval) fn put(&mut self, slice: usize, x: Tensor) -> Result<()> {
        match self {
            Self::Memory(all) if slice == all.len() => all.push(x),
            Self::Memory(_) => {}
            Self::Disk { .. } => self.put_back(slice, &x)?,
        }
        Ok(())
    }

    /// Puts changed hidden states back; those in memory were changed in place.
    pub(in crate::eval) fn put_back(&self, slice: usize, x: &Tensor) -> Result<()> {
        let Self::Disk { file, places, .. } = self else { return Ok(()) };
        let (first, _) = *places.get(slice).ok_or_else(lost)?;
        with_elements(x, |values| {
            let mut file = file.lock().map_err(|_| lost())?;
            file.seek(SeekFrom::Start(first)).map_err(|e| disk(&e))?;
            for piece in values.chunks(PIECE) {
                let bytes: Vec<u8> = piece.iter().flat_map(|x| x.to_le_bytes()).collect();
                file.write_all(&bytes).map_err(|e| disk(&e))?;
            }
            Ok(())
        })?
    }
}

fn lost() -> Error {
    Error::internal("hidden states of a slice that is not there")
}

fn disk(error: &std::io::Error) -> Error {
    Error::io("keep hidden states in a temporary file", Path::new("(temporary file)"), error)
}
