//! Who is told how far a download is.

/// Told of downloads as they happen; may be called from several threads.
pub trait Watch: Sync {
    /// `bytes` are to come, of what `what` says in words.
    fn begin(&self, what: &str, bytes: u64);
    /// So many more are there.
    fn advance(&self, bytes: u64);
    /// All of them are, or never will be.
    fn end(&self);
}

/// Nobody.
pub struct Unwatched;

impl Watch for Unwatched {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}
