//! The factors a thread used last, decoded.
//!
//! A tensor is read some thousand elements at a time, and each read needs the same columns of a
//! factor again. A thread keeps what it decoded last, for the inputs of a merge that are read in turn:
//! at most [`THREAD_BYTES`], however many tensors there are. A factor of more than [`LARGEST`]
//! elements is decoded in parts, anew for each read.

use crate::error::Result;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Elements of a factor that is kept, at most.
pub(super) const LARGEST: usize = 1 << 18;
/// Elements a thread keeps, at most.
const KEPT_ELEMENTS: usize = 1 << 20;
/// Bytes a thread keeps, at most.
pub(crate) const THREAD_BYTES: u64 = 4 * KEPT_ELEMENTS as u64;

/// What tells one factor from all others of the process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(u64);

impl Id {
    /// One that no other factor has.
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

thread_local! {
    /// The one used last stands last.
    static KEPT: RefCell<Vec<(Id, Rc<[f32]>)>> = const { RefCell::new(Vec::new()) };
}

/// The decoded factor: kept from before, or made and kept.
pub(super) fn decoded(id: Id, make: impl FnOnce() -> Result<Vec<f32>>) -> Result<Rc<[f32]>> {
    let kept = KEPT.with_borrow_mut(|kept| {
        let at = kept.iter().position(|(other, _)| *other == id)?;
        kept[at..].rotate_left(1);
        kept.last().map(|(_, factor)| Rc::clone(factor))
    });
    if let Some(kept) = kept {
        return Ok(kept);
    }
    let made: Rc<[f32]> = make()?.into();
    KEPT.with_borrow_mut(|kept| {
        while kept.iter().map(|(_, factor)| factor.len()).sum::<usize>() + made.len()
            > KEPT_ELEMENTS
            && !kept.is_empty()
        {
            kept.remove(0);
        }
        kept.push((id, Rc::clone(&made)));
    });
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_few_are_kept() {
        const FIT: usize = KEPT_ELEMENTS / LARGEST;
        let ids: Vec<Id> = (0..=FIT).map(|_| Id::new()).collect();
        let made = |id: Id| {
            let mut made = false;
            let factor = decoded(id, || {
                made = true;
                Ok(vec![id.0 as f32; LARGEST])
            });
            assert_eq!(factor.unwrap()[0], id.0 as f32);
            made
        };
        assert!(ids[..FIT].iter().all(|id| made(*id)));
        assert!(!made(ids[0]));
        assert!(made(ids[FIT]));
        assert!(!made(ids[0]), "used since");
        assert!(made(ids[1]), "the longest unused makes room");
    }
}
