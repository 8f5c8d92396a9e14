//! The rows of a mixture's routers, from what its base makes of each expert's texts.
//!
//! Directions (`hidden`, `cheap_embed`) and random rows as in mergekit-moe, but for where
//! representations are taken: behind the norm that the router reads through, not before the layer, and
//! without padding. Ridge regression: `(XᵀX + λI)⁻¹XᵀY` over the tokens of all texts (arXiv 2603.29765).
//!
//! Forwards only, one layer at a time, by the same kernels as Gram matrices: threads, memory and
//! instruction sets do not show.

mod prompts;
mod rows;

use super::budget::{Sizes, forwards};
use super::output::Output;
use super::routing::Set;
use super::walk::{Walk, unheard};
use super::{Kind, Resources, Summary, compute_documents, length};
use crate::engine::random_stream;
use crate::error::Result;
use crate::eval::decoder::backward::Backward;
use crate::eval::statistics::Documents;
use crate::kernels::{normals, uniforms};
use crate::model::{
    Checkpoint, DocumentSettings, GateMode, PromptSource, Prompts, RouterSettings, Statistics,
};
pub use prompts::told;
use prompts::{Labelled, Role};
use rows::{Directions, Regression, Taken};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The version of everything that decides the bytes of a result.
const NUMERICS: u32 = 1;

/// Routers as a kind of statistics.
pub(super) struct Routers<'a> {
    settings: &'a RouterSettings,
    /// Whose each document is.
    roles: Vec<Role>,
    /// Tokens of each expert's texts.
    tokens: Vec<usize>,
}

/// Computes the rows of all routers, and writes them to the file `out` (an earlier one is replaced if the
/// second value says so): for each layer a float32 tensor of experts × hidden, and of 1 × hidden for the
/// gate of the shared expert. `progress` is told in words how far it is.
///
/// # Errors
/// The model is of a family that is not covered, texts cannot be read, the memory is too small, or the
/// file cannot be written; it is not there then.
pub fn compute(
    checkpoint: &Checkpoint,
    settings: &RouterSettings,
    resources: &Resources,
    out: (&Path, bool),
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Summary<()>> {
    let model = Backward::open(checkpoint)?;
    let length = length(&model, &settings.documents);
    let labelled = if settings.mode.is_random() {
        Labelled { documents: Documents::none(), roles: Vec::new() }
    } else {
        let prompts = settings.experts.iter().chain(&settings.shared);
        prompts::read(prompts, checkpoint, &settings.documents, length)?
    };
    let mut tokens = vec![0; settings.experts.len() + 1];
    for (role, document) in labelled.roles.iter().zip(&labelled.documents.tokens) {
        tokens[role.expert] += document.len();
    }
    tokens.truncate(settings.experts.len());
    let kind = Routers { settings, roles: labelled.roles, tokens };
    compute_documents(&kind, checkpoint, (labelled.documents, length), resources, out, progress)
}

/// The positive texts of the routed experts, as sets for a routing report: those of expert `i` under
/// `names[i]`, as expert `first + i` of the mixture whose tokenizer is beside `checkpoint`.
///
/// # Errors
/// A file cannot be read, or a text has no tokens.
pub fn sets(
    checkpoint: &Checkpoint,
    settings: &RouterSettings,
    names: &[String],
    first: usize,
) -> Result<Vec<Set>> {
    let length = length(&Backward::open(checkpoint)?, &settings.documents);
    let own = settings.experts.iter();
    let positive: Vec<Prompts> =
        own.map(|prompts| Prompts { negative: Vec::new(), ..prompts.clone() }).collect();
    let labelled = prompts::read(positive.iter(), checkpoint, &settings.documents, length)?;
    let set = |(i, name): (usize, &String)| Set {
        name: name.clone(),
        expert: Some(first + i),
        tokens: labelled
            .roles
            .iter()
            .zip(&labelled.documents.tokens)
            .filter(|(role, _)| role.expert == i)
            .map(|(_, tokens)| tokens.clone())
            .collect(),
    };
    let sets = names.iter().enumerate().map(set);
    Ok(sets.filter(|set| !set.tokens.is_empty()).collect())
}

/// The texts of files as sets for a routing report, each under its name.
///
/// # Errors
/// A file cannot be read, or a text has no tokens.
pub fn sets_of_files(
    checkpoint: &Checkpoint,
    files: &[(String, PathBuf)],
    settings: &DocumentSettings,
) -> Result<Vec<Set>> {
    let length = length(&Backward::open(checkpoint)?, settings);
    let set = |(name, path): &(String, PathBuf)| {
        let file = PromptSource::File { file: String::new(), path: path.clone() };
        let prompts = Prompts { positive: vec![file], negative: Vec::new() };
        let read = prompts::read(std::iter::once(&prompts), checkpoint, settings, length)?;
        let mut tokens = read.documents.tokens;
        tokens.truncate(settings.samples.unwrap_or(usize::MAX));
        Ok(Set { name: name.clone(), expert: None, tokens })
    };
    files.iter().map(set).collect()
}

impl<'a> Routers<'a> {
    /// What it takes is known without the texts.
    pub(super) fn planned(settings: &'a RouterSettings) -> Self {
        Self { settings, roles: Vec::new(), tokens: Vec::new() }
    }

    fn put_random(&self, walk: &Walk<'_>, output: &mut Output) -> Result<()> {
        let hidden = walk.model.hidden();
        for (name, shape) in self.settings.shapes(walk.model.layers(), hidden) {
            let elements = shape.iter().product();
            let stream = random_stream(self.settings.seed, 0, &name);
            let values: Vec<f32> = match self.settings.mode {
                GateMode::UniformRandom => {
                    let bound = (1.0 / hidden as f64).sqrt();
                    let within = |u: f64| ((2.0 * u - 1.0) * bound * self.settings.scale) as f32;
                    uniforms(stream, 0).map(within).take(elements).collect()
                }
                _ => {
                    let scaled = |z: f64| (z * self.settings.scale) as f32;
                    normals(stream, 0).map(scaled).take(elements).collect()
                }
            };
            output.put(&name, &values)?;
        }
        Ok(())
    }

    /// The experts whose rows are directions: all, or only the shared one beside a regression.
    fn put(
        &self,
        number: usize,
        directions: &Directions,
        regression: Option<Regression>,
        output: &mut Output,
    ) -> Result<()> {
        let (settings, routed) = (self.settings, self.settings.experts.len());
        let rows = match regression {
            Some(regression) => regression.rows(settings.ridge, settings.scale)?,
            None => directions.rows(0..routed, settings.scale),
        };
        output.put(&RouterSettings::rows(number), &rows)?;
        if settings.shared.is_some() {
            let row = directions.rows(routed..routed + 1, 1.0);
            output.put(&RouterSettings::shared_row(number), &row)?;
        }
        Ok(())
    }

    fn directions(&self, hidden: usize) -> Directions {
        let experts = self.settings.experts.len() + 1;
        Directions::new(Taken::of(self.settings.mode), experts, hidden)
    }
}

impl Kind for Routers<'_> {
    type Found = ();
    const KIND: Statistics = Statistics::Routers;
    const NUMERICS: u32 = NUMERICS;
    const PREDICTS: bool = false;

    fn documents(&self) -> &DocumentSettings {
        &self.settings.documents
    }

    fn sizes(&self, model: &Backward<'_>, length: usize) -> Result<Sizes> {
        let sums = match self.settings.mode {
            // The sum in f64, a text's own in f32, and the factors of the system.
            GateMode::Ridge => 28 * (model.hidden() as u64).pow(2),
            _ => 32 * (model.hidden() * (self.settings.experts.len() + 1)) as u64,
        };
        if self.settings.mode.is_random() {
            return Ok(Sizes { fixed: sums, document: 0, thread: 0, ends: 0, kept: 3 });
        }
        forwards(model, length, sums)
    }

    fn tensors(&self, model: &Backward<'_>) -> Result<BTreeMap<String, Vec<usize>>> {
        Ok(self.settings.shapes(model.layers(), model.hidden()).into_iter().collect())
    }

    fn metadata(&self, _: &Backward<'_>) -> Result<BTreeMap<String, String>> {
        let mode = ("gate_mode".to_string(), self.settings.mode.name().to_string());
        Ok(BTreeMap::from([mode]))
    }

    fn run(
        &self,
        walk: &Walk<'_>,
        output: &mut Output,
        progress: &(dyn Fn(&str) + Sync),
    ) -> Result<()> {
        let (model, mode) = (walk.model, self.settings.mode);
        if mode.is_random() {
            return self.put_random(walk, output);
        }
        let weights = model.weights(&model.embedding_names(), false)?;
        let mut before = walk.embedded(&weights, unheard)?;
        drop(weights);
        if mode == GateMode::CheapEmbed {
            let mut directions = self.directions(model.hidden());
            for (document, role) in self.roles.iter().enumerate() {
                directions.add(*role, &before.get(document)?)?;
            }
            return (0..model.layers()).try_for_each(|n| self.put(n, &directions, None, output));
        }
        for number in 0..model.layers() {
            progress(&format!("layer {number}"));
            let input = model.router_input(number)?;
            let weights = model.weights(&model.layer_names(number)?, false)?;
            let weights = weights.listening(std::iter::once(input));
            let mut directions = self.directions(model.hidden());
            let mut regression = (mode == GateMode::Ridge)
                .then(|| Regression::new(self.tokens.clone(), model.hidden()));
            let mut roles = self.roles.iter();
            before = walk.behind(number, &weights, &before, |heard| {
                let Some(role) = roles.next() else { return Ok(()) };
                for (_, rows) in heard.heard() {
                    match regression.as_mut().filter(|_| role.expert < self.tokens.len()) {
                        Some(regression) => regression.add(*role, &rows)?,
                        None => directions.add(*role, &rows)?,
                    }
                }
                Ok(())
            })?;
            self.put(number, &directions, regression, output)?;
        }
        Ok(())
    }
}
