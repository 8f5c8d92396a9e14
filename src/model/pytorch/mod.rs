//! PyTorch's files of weights (`pytorch_model.bin`), without running what they say.
//!
//! A file of `torch.save` since 1.6 is a zip archive: `NAME/data.pkl` is a pickle of a dictionary of
//! tensors, which refer to storages; the bytes of storage `K` are the entry `NAME/data/K`. The
//! entries are not compressed, so that a tensor is a range of the file, as in safetensors.
//! Format: <https://docs.pytorch.org/docs/stable/notes/serialization.html>.

mod pickle;
mod state_dict;
mod zip;

pub use state_dict::{PickledTensor, parse_pickle};

use super::shards::Placed;
use super::source::TensorSpec;
use crate::error::{Error, Result};
use std::ops::Range;
use zip::Archive;

/// Finds the tensors of a `torch.save` file that is given whole; returns them in file order.
/// Tensors may share bytes.
///
/// # Errors
/// The file is not such an archive, its pickle asks for something else than a dictionary of
/// tensors, or a tensor is not a plain range of its storage.
pub fn parse_pytorch(bytes: &[u8]) -> Result<Vec<Placed>> {
    let archive = Archive::open(bytes)?;
    let mut pickles = archive.names().filter_map(|name| name.strip_suffix("data.pkl"));
    let (Some(root), None) = (pickles.next(), pickles.next()) else {
        return Err(Error::input("the archive is not one of torch.save")
            .expected("one entry data.pkl", "none, or more than one"));
    };
    if let Some(order) = archive.stored(&format!("{root}byteorder"))?
        && bytes[order.clone()] != *b"little"
    {
        return Err(Error::input("the PyTorch file is not little-endian")
            .expected("little", String::from_utf8_lossy(&bytes[order])));
    }
    let pickle = archive.stored(&format!("{root}data.pkl"))?.unwrap_or_default();
    let mut placed = Vec::new();
    for tensor in parse_pickle(&bytes[pickle])? {
        let storage = archive.stored(&format!("{root}data/{}", tensor.storage))?;
        let range = place(&tensor, storage).map_err(|e| e.tensor(tensor.name))?;
        let PickledTensor { name, dtype, shape, .. } = tensor;
        placed.push((TensorSpec { name: name.to_string(), dtype, shape }, range));
    }
    placed
        .sort_by(|(a, at), (b, bt)| (at.start, at.end, &a.name).cmp(&(bt.start, bt.end, &b.name)));
    Ok(placed)
}

/// Where the bytes of a tensor stand, given where those of its storage do.
fn place(tensor: &PickledTensor<'_>, storage: Option<Range<usize>>) -> Result<Range<usize>> {
    let storage = storage.ok_or_else(|| {
        Error::input("the PyTorch file lacks the storage of a tensor")
            .expected(format!("an entry data/{}", tensor.storage), "none")
    })?;
    let overflow = || {
        Error::input("the shape of a tensor overflows").fact("shape", format!("{:?}", tensor.shape))
    };
    let bits = tensor.dtype.bitsize();
    let mut elements = 1_usize;
    for dimension in &tensor.shape {
        elements = elements.checked_mul(*dimension).ok_or_else(overflow)?;
    }
    if elements > 0 {
        let mut stride = 1_usize;
        for (dimension, found) in tensor.shape.iter().zip(&tensor.strides).rev() {
            if *dimension > 1 && *found != stride {
                return Err(Error::input("the elements of a tensor do not stand in order")
                    .fact("shape", format!("{:?}", tensor.shape))
                    .fact("strides", format!("{:?}", tensor.strides))
                    .hint("save the model again with contiguous tensors, best as safetensors"));
            }
            stride = stride.checked_mul(*dimension).ok_or_else(overflow)?;
        }
    }
    // Every dtype here takes whole bytes.
    let size = |elements: usize| elements.checked_mul(bits / 8).ok_or_else(overflow);
    let (first, length) = (size(tensor.offset)?, size(elements)?);
    let end = first.checked_add(length).ok_or_else(overflow)?;
    if end > storage.len() {
        return Err(Error::input("a tensor ends behind the end of its storage")
            .expected(format!("at most {} bytes", storage.len()), end)
            .hint("the file is damaged; fetch it again"));
    }
    Ok(storage.start + first..storage.start + end)
}
