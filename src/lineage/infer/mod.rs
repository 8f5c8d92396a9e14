//! Where a model came from, from weights alone: related or not, the tree of a family, the recipe of a
//! merge. The statistics are written out in `docs/infer.md`.

mod deltas;
mod distances;
mod explanation;
mod family_report;
mod forward;
mod kept;
mod low_rank;
mod masks;
mod recipe;
mod related;
mod report;
mod sample;
mod search;
mod setting;
mod squares;
mod stack;
mod tail;
mod tree;
mod units;
mod weights;

pub use explanation::{Explanation, Kind, Parent};
pub use forward::Check;
pub use low_rank::Change;
pub use related::{Relation, Test};
pub use report::Inferred;
pub use setting::{Estimate, Setting};
pub use stack::{Origin, Run};
pub use tree::{Edge, Evidence, Family, family, models};

use crate::error::{Error, Result, nearest};
use crate::model::Checkpoint;
use related::Tested;

/// What an inference may use.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The share of the rows that is read of each tensor, above 0 and up to 1.
    pub sample: f64,
    /// Memory to stay within, in bytes.
    pub memory: u64,
    /// Worker threads.
    pub threads: usize,
    /// The base among the candidates, where the user names it.
    pub base: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        let plan = crate::plan::Options::default();
        Self { sample: 1.0, memory: plan.memory, threads: plan.threads, base: None }
    }
}

impl Settings {
    /// What the rows that are held may take: the rest is for ranks, products and buffers.
    fn held(&self) -> u64 {
        self.memory.saturating_sub(crate::engine::FIXED_BYTES / 2) / 3
    }

    /// Runs `work` on as many threads as are allowed.
    fn on_threads<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(self.threads.max(1))
            .thread_name(|i| format!("infer-{i}"))
            .build()
            .map_err(|e| Error::internal(format!("cannot start threads: {e}")))?;
        pool.install(work)
    }

    fn check(&self) -> Result<()> {
        const LEAST: u64 = 64 << 20;
        if !(self.sample > 0.0 && self.sample <= 1.0) {
            return Err(Error::input("the share of the rows to read is out of range")
                .key("--sample")
                .expected("a number above 0, up to 1", self.sample));
        }
        if self.memory < LEAST {
            return Err(Error::input("the memory budget is too small")
                .key("--memory")
                .expected(format!("at least {LEAST} bytes"), self.memory)
                .hint("raise --memory; it does not depend on the size of the models"));
        }
        Ok(())
    }
}

/// Infers what `child` is made of.
///
/// # Errors
/// There are no candidates, the child is one of them, none has a tensor in common with it, or weights
/// cannot be read.
pub fn infer(
    child: &Checkpoint,
    candidates: &[Checkpoint],
    settings: &Settings,
) -> Result<Inferred> {
    settings.check()?;
    let base = checked(child, candidates, settings)?;
    settings.on_threads(|| {
        let all: Vec<&Checkpoint> = candidates.iter().collect();
        // The child and one candidate at a time.
        let deepest = all.iter().max_by_key(|candidate| candidate.tensors().count());
        let pair: Vec<&Checkpoint> = deepest.into_iter().copied().chain([child]).collect();
        let reach = related::reach(&pair, settings.held());
        let tested = Tested::read(child, reach)?;
        let relations = all
            .iter()
            .map(|candidate| related::relation(&tested, &Tested::read(candidate, reach)?))
            .collect::<Result<Vec<_>>>()?;
        let considered: Vec<usize> = (0..all.len())
            .filter(|at| relations[*at].related() != Some(false) && !relations[*at].suspected())
            .collect();
        let found = search::search(child, &all, &considered, base, settings)?;
        Ok(Inferred::new(child, candidates, relations, found))
    })
}

/// Checks what does not depend on weights, and finds the base among the candidates.
fn checked(
    child: &Checkpoint,
    candidates: &[Checkpoint],
    settings: &Settings,
) -> Result<Option<usize>> {
    if candidates.is_empty() {
        return Err(Error::input("there is no candidate to compare the model with")
            .model(&child.reference)
            .hint("name models it may be made of: --candidates a b c"));
    }
    let place = |model: &Checkpoint| {
        let folder = model.folder.canonicalize().unwrap_or_else(|_| model.folder.clone());
        let adapters: Vec<String> =
            model.adapters().iter().map(|adapter| adapter.reference.clone()).collect();
        (folder, adapters)
    };
    if let Some(same) = candidates.iter().find(|candidate| place(candidate) == place(child)) {
        return Err(Error::input("the model stands among its own candidates")
            .model(&child.reference)
            .fact("candidate", &same.reference)
            .hint("leave it out of --candidates"));
    }
    for (at, candidate) in candidates.iter().enumerate() {
        if candidates[..at].iter().any(|other| place(other) == place(candidate)) {
            return Err(Error::input("a candidate is named twice").model(&candidate.reference));
        }
        shares_tensors(child, candidate)?;
    }
    let Some(base) = &settings.base else { return Ok(None) };
    let names = || candidates.iter().map(|candidate| candidate.reference.as_str());
    match names().position(|name| name == base) {
        Some(at) => Ok(Some(at)),
        None => {
            let error = Error::input("the base is not among the candidates")
                .key("--base")
                .expected(names().collect::<Vec<_>>().join(", "), base);
            Err(match nearest(base, names()) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error.hint("name it with --candidates too"),
            })
        }
    }
}

/// Refuses a candidate none of whose tensors fits the child.
fn shares_tensors(child: &Checkpoint, candidate: &Checkpoint) -> Result<()> {
    let names = sample::Names::new(candidate);
    let mut differs = None;
    for (name, tensor) in child.tensors() {
        let Some(found) = names.find(name) else { continue };
        if found.spec().shape == tensor.spec().shape {
            return Ok(());
        }
        differs = differs.or(Some((name, tensor.spec().shape.clone(), found.spec().shape.clone())));
    }
    let error = Error::input("a candidate has no tensor of the model's shapes")
        .model(&candidate.reference)
        .fact("compared", &child.reference);
    Err(match differs {
        Some((name, own, other)) => {
            error.tensor(name).expected(format!("{own:?}"), format!("{other:?}"))
        }
        None => {
            let first = child.tensors().next().map_or("", |(name, _)| name);
            error.tensor(first).fact("found", "no tensor of any such name")
        }
    }
    .hint("a model is only made of models of its own width; leave the candidate out"))
}
