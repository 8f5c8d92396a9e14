//! Fits an adapter to a model: finds the tensor each part is for, checks shapes, and makes the
//! sources that apply it.

use super::Adapter;
use super::low_rank::{Factor, LowRank};
use super::magnitude::Magnitude;
use super::modules::{Module, Whole, shape};
use super::names::Saved;
use super::whole::{Added, Replaced};
use crate::error::{Error, Result};
use crate::model::checkpoint::Checkpoint;
use crate::model::shards::StoredTensor;
use crate::model::source::{Source, TensorSpec};
use crate::model::tied::{head_of, tied_to};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Model types whose linear layers are `Conv1D`, which stores weights as inputs × outputs
/// (transformers 5.23).
const CONV1D: [&str; 5] = ["gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp"];

/// The sources that stand for changed tensors, by name.
type Changed = BTreeMap<String, Arc<dyn Source>>;

/// Makes the sources of all tensors that the adapter changes.
///
/// # Errors
/// The model lacks a tensor or has it in another shape; the first difference is named.
pub(super) fn fit(
    adapter: &Adapter,
    model: &Checkpoint,
    wholes: BTreeMap<String, Whole>,
    modules: BTreeMap<String, Module>,
) -> Result<Changed> {
    let mut fit = Fit { adapter, model, changed: Changed::new(), weights: BTreeSet::new() };
    for (name, whole) in wholes {
        fit.replace(&name, whole)?;
    }
    for (name, module) in modules {
        fit.change(&name, module)?;
    }
    Ok(fit.changed)
}

struct Fit<'a> {
    adapter: &'a Adapter,
    model: &'a Checkpoint,
    changed: Changed,
    /// The weights that a product was added to.
    weights: BTreeSet<String>,
}

impl Fit<'_> {
    /// Puts a tensor of the adapter in the place of the model's.
    fn replace(&mut self, name: &str, whole: Whole) -> Result<()> {
        let Whole { tensor, saved } = whole;
        let base = self.target(name, &tensor)?;
        let spec = base.spec().clone();
        if self.changed.contains_key(&spec.name) {
            return Err(self.twice(&tensor, &spec));
        }
        let settings = &self.adapter.settings;
        let of_module = saved == Saved::Module
            || settings.modules_to_save.iter().any(|module| is_module(name, module));
        if of_module && !settings.ensure_weight_tying {
            self.check_shared(&spec.name, &tensor)?;
        }
        if spec.shape != tensor.spec().shape {
            let error = self.mismatch(&tensor, &spec, shape(&spec), shape(tensor.spec()));
            return Err(if spec.shape.len() == 2 && spec.shape[1..] == tensor.spec().shape[1..] {
                error.hint(
                    "the vocabulary was resized for the training; resize the base model likewise",
                )
            } else {
                error
            });
        }
        if spec.dtype != tensor.spec().dtype
            && (spec.float().is_none() || tensor.spec().float().is_none())
        {
            return Err(self.mismatch(&tensor, &spec, spec.dtype, tensor.spec().dtype));
        }
        self.put(Arc::new(Replaced::new(spec, tensor)));
        Ok(())
    }

    /// Adds a module's product to its weight, and its bias to its bias.
    fn change(&mut self, name: &str, module: Module) -> Result<()> {
        let base = self.target(&format!("{name}.weight"), &module.a)?;
        let spec = base.spec().clone();
        if !self.weights.insert(spec.name.clone()) {
            return Err(self.twice(&module.a, &spec));
        }
        self.check_shared(&spec.name, &module.a)?;
        if spec.float().is_none() {
            return Err(self.mismatch(&module.a, &spec, "F32, F16 or BF16", spec.dtype));
        }
        let scaling = self.adapter.settings.scaling(name);
        let scale = scaling.scale as f32;
        let Some((rows, columns)) = matrix(&spec) else {
            let expected = "a matrix or the weight of a convolution";
            return Err(self.mismatch(&module.a, &spec, expected, shape(&spec)));
        };
        let (a, b) = (&module.a.spec().shape, &module.b.spec().shape);
        let rank = a.first().copied().unwrap_or(0);
        if rank as u64 != scaling.rank {
            return Err(self
                .adapter
                .error("the adapter's rank is not the one its config gives", &module.a)
                .fact("config", self.adapter.settings.path.display())
                .expected(format!("rank {}", scaling.rank), shape(module.a.spec()))
                .hint("r and rank_pattern of adapter_config.json give the rank"));
        }
        // As stored, A is rank × inputs, and B is outputs × rank.
        let plain = !module.embedding && {
            let wanted: Vec<usize> = [rank].iter().chain(&spec.shape[1..]).copied().collect();
            let ones = vec![1; spec.shape.len() - 2];
            *a == wanted && b.len() == spec.shape.len() && b[..2] == [rows, rank] && b[2..] == ones
        };
        let turned = spec.shape.len() == 2 && *a == [rank, rows] && *b == [columns, rank];
        let conv1d = self.adapter.settings.fan_in_fan_out
            || self.model.config.model_type().is_some_and(|kind| CONV1D.contains(&kind));
        // Shapes tell how the weight lies, unless it is square.
        let by_row = match (plain, turned) {
            (true, true) => !conv1d,
            (plain, turned) if plain || turned => plain,
            _ => {
                let product = if module.embedding {
                    format!("{:?} by {:?}", [rank, rows], [columns, rank])
                } else if spec.shape.len() == 2 {
                    format!("A {:?} and B {:?}", [rank, columns], [rows, rank])
                } else {
                    format!("A of {:?} behind the rank and B {:?}", &spec.shape[1..], [rows, rank])
                };
                return Err(self.mismatch(
                    &module.a,
                    &spec,
                    product,
                    format!("A {a:?} and B {b:?}"),
                ));
            }
        };
        let magnitude = module.magnitude.map(|lengths| {
            let wanted = if by_row { rows } else { columns };
            if lengths.spec().elements() != wanted {
                return Err(self.mismatch(
                    &lengths,
                    &spec,
                    format!("{wanted} lengths"),
                    shape(lengths.spec()),
                ));
            }
            Ok(Magnitude::new(lengths, by_row, rows, columns))
        });
        let (left, right) = if by_row {
            (Factor::by_element(module.b, rank, rows), Factor::by_rank(module.a, rank, columns))
        } else {
            (Factor::by_rank(module.a, rank, rows), Factor::by_element(module.b, rank, columns))
        };
        let weight = LowRank::new(base, left, right, scale, magnitude.transpose()?);
        self.put(Arc::new(weight));
        match module.bias {
            Some(bias) => self.add_bias(&format!("{name}.bias"), bias, scale),
            None => Ok(()),
        }
    }

    fn add_bias(&mut self, name: &str, bias: StoredTensor, scale: f32) -> Result<()> {
        let base = self.target(name, &bias)?;
        let spec = base.spec().clone();
        if spec.shape != bias.spec().shape || spec.float().is_none() {
            return Err(self.mismatch(&bias, &spec, shape(&spec), shape(bias.spec())));
        }
        self.put(Arc::new(Added::new(base, bias, scale)));
        Ok(())
    }

    fn put(&mut self, source: Arc<dyn Source>) {
        self.changed.insert(source.spec().name.clone(), source);
    }

    /// The model's tensor that the adapter knows as `name`, with what has been changed about it.
    fn target(&self, name: &str, part: &StoredTensor) -> Result<Arc<dyn Source>> {
        if let Some(found) = self.find(name) {
            let source = self.changed.get(found).or_else(|| self.model.shared(found));
            return source.cloned().ok_or_else(|| Error::internal("a target is gone").tensor(name));
        }
        let stored = |name: &str| self.model.shared(name).is_some();
        if self.model.config.tied() != Some(false)
            && let Some(embedding) = tied_to(name, stored)
        {
            return Err(self
                .adapter
                .error("the adapter changes an output head that shares the embedding", part)
                .fact("head", name)
                .fact("embedding", embedding)
                .fact("model", &self.model.reference)
                .hint("the model stores no head of its own; untie it first, or merge the adapter with PEFT"));
        }
        let error = self
            .adapter
            .error("the adapter changes a tensor that the model does not have", part)
            .fact("target", name)
            .fact("model", &self.model.reference);
        Err(match &self.adapter.settings.base {
            Some(base) => error.hint(format!("the adapter was trained on {base}")),
            None => error,
        })
    }

    /// The name the model has for `name`: the same, or, since checkpoints are saved with and without
    /// the name of the base model before those of its modules (`transformer.`, `model.`), with one
    /// word less or more before it.
    fn find(&self, name: &str) -> Option<&str> {
        let own = |name: &str| self.model.shared(name).map(|tensor| tensor.spec().name.as_str());
        if let Some(found) = own(name) {
            return Some(found);
        }
        let mut names = self.model.tensors().map(|(name, _)| name);
        if let Some((word, rest)) = name.split_once('.')
            && let Some(found) = own(rest)
        {
            let taken = |other: &str| other.strip_prefix(word).is_some_and(|o| o.starts_with('.'));
            return (!names.any(taken)).then_some(found);
        }
        let longer = |other: &&str| {
            let word = other.strip_suffix(name).and_then(|word| word.strip_suffix('.'));
            word.is_some_and(|word| !word.contains('.'))
        };
        let mut found = names.filter(longer);
        found.next().filter(|_| found.next().is_none())
    }

    /// Refuses a change to an embedding that a head shares: whether the head was to follow it cannot
    /// be told, and PEFT's own answer depends on how it is merged.
    fn check_shared(&self, embedding: &str, part: &StoredTensor) -> Result<()> {
        if self.model.config.tied() == Some(false) {
            return Ok(());
        }
        match head_of(embedding, |name| self.model.shared(name).is_some()) {
            None => Ok(()),
            Some(head) => Err(self
                .adapter
                .error("the adapter changes an embedding that the output head shares", part)
                .fact("embedding", embedding)
                .fact("head", head)
                .fact("model", &self.model.reference)
                .hint("the head was not trained with it; untie the model first, so that it keeps its own")),
        }
    }

    /// Two names of the adapter that are one tensor of the model.
    fn twice(&self, part: &StoredTensor, target: &TensorSpec) -> Error {
        self.adapter
            .error("two tensors of the adapter are for one place", part)
            .fact("target", &target.name)
            .fact("model", &self.model.reference)
    }

    fn mismatch(
        &self,
        part: &StoredTensor,
        target: &TensorSpec,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> Error {
        self.adapter
            .error("the adapter does not fit a tensor of the model", part)
            .fact("target", &target.name)
            .fact("model", &self.model.reference)
            .expected(expected, found)
    }
}

/// Whether a tensor is of a module that `modules_to_save` names: its path, or an end of it.
fn is_module(tensor: &str, module: &str) -> bool {
    let within = tensor.rsplit_once('.').map_or("", |(path, _)| path);
    within == module || within.strip_suffix(module).is_some_and(|rest| rest.ends_with('.'))
}

/// A weight as a matrix: its first dimension by all that follow.
fn matrix(spec: &TensorSpec) -> Option<(usize, usize)> {
    let (rows, rest) = spec.shape.split_first()?;
    let columns = rest.iter().product();
    (!rest.is_empty() && *rows > 0 && columns > 0).then_some((*rows, columns))
}
