//! The tree of a family: who was made from whom, as far as weights tell.
//!
//! Merges are found first, each with its recipe. The others are joined by the shortest tree over squared
//! distances, which add up along paths where training goes on independently, and the tree is turned so
//! that norms grow and tails thin out from the root on. Both steps are repeated on tensors drawn with
//! replacement; the confidence of an edge is the share of repetitions that have it (Felsenstein 1985).

use super::Settings;
use super::distances::Distances;
use super::explanation::Kind;
use super::related::{self, Relation, Tested};
use super::sample::{Sample, Slab};
use super::search::{self, Found};
use crate::error::{Error, Result};
use crate::kernels::{Stream, uniforms};
use crate::model::Checkpoint;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Repetitions on tensors drawn with replacement.
const REPETITIONS: usize = 200;
/// What a change of kurtosis counts against a change of norm.
const TAILS: f64 = 0.25;
/// A model this much nearer to a merge than to its neighbour in the tree (in squared distance) was made
/// from the merge.
const NEARER: f64 = 0.5;

/// What an edge rests on.
#[derive(Clone, Debug, PartialEq)]
pub enum Evidence {
    /// The recipe of a merge that was found: its kind in a word.
    Recipe(&'static str),
    /// Distance and direction: the shares of the tensors whose norm grows, and whose kurtosis falls.
    Trained {
        /// The share of the tensors whose norm is larger in the child.
        norms: f64,
        /// The share of the tensors whose kurtosis is smaller in the child.
        tails: f64,
    },
}

/// A parent and a child, by their places among the models.
#[derive(Clone, Debug, PartialEq)]
pub struct Edge {
    /// The parent.
    pub parent: usize,
    /// The child.
    pub child: usize,
    /// What it rests on.
    pub evidence: Evidence,
    /// Of a recipe, the share of the elements that it explains; of a tree, the share of repetitions.
    pub confidence: f64,
}

/// What was inferred of a family.
pub struct Family {
    /// The models as they were named.
    pub models: Vec<String>,
    /// Each pair, the first place above the second, with its relation.
    pub relations: Vec<(usize, usize, Relation)>,
    /// Who was made from whom, by child and parent.
    pub edges: Vec<Edge>,
    /// Models without a parent among the others.
    pub roots: Vec<usize>,
    /// Remarks.
    pub notes: Vec<String>,
}

/// Infers the tree of these models.
///
/// # Errors
/// There are fewer than two models, or weights cannot be read.
pub fn family(models: &[Checkpoint], settings: &Settings) -> Result<Family> {
    settings.check()?;
    if models.len() < 2 {
        return Err(Error::input("a family needs at least two models")
            .fact("found", models.len())
            .hint("name several with --candidates, or a folder of models with --family"));
    }
    settings.on_threads(|| {
        let all: Vec<&Checkpoint> = models.iter().collect();
        let reach = related::reach(&all, settings.held());
        let tested =
            all.iter().map(|model| Tested::read(model, reach)).collect::<Result<Vec<_>>>()?;
        let mut relations = Vec::new();
        for a in 0..all.len() {
            for b in 0..a {
                relations.push((a, b, related::relation(&tested[a], &tested[b])?));
            }
        }
        drop(tested);
        let mut found = Family {
            models: models.iter().map(|model| model.reference.clone()).collect(),
            relations,
            edges: Vec::new(),
            roots: Vec::new(),
            notes: Vec::new(),
        };
        for members in found.components() {
            found.of_component(&all, &members, settings)?;
        }
        found.edges.sort_by_key(|edge| (edge.child, edge.parent));
        let children: BTreeSet<usize> = found.edges.iter().map(|edge| edge.child).collect();
        found.roots = (0..all.len()).filter(|at| !children.contains(at)).collect();
        Ok(found)
    })
}

/// The models in a folder: its folders that hold a `config.json`, and its GGUF files, by name.
///
/// # Errors
/// The folder cannot be read, or holds no model.
pub fn models(folder: &Path) -> Result<Vec<String>> {
    let unread = |e| Error::io("read the folder of a family", folder, &e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unread)? {
        let path = entry.map_err(unread)?.path();
        let gguf = path.extension().is_some_and(|end| end == "gguf");
        if gguf || path.join("config.json").is_file() {
            found.push(path.display().to_string());
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(Error::input("a folder holds no models")
            .key("--family")
            .file(folder)
            .hint("name the folder above the models' own folders"));
    }
    Ok(found)
}

impl Family {
    /// Models that are related directly or through others.
    fn components(&self) -> Vec<Vec<usize>> {
        let mut of: Vec<usize> = (0..self.models.len()).collect();
        for (a, b, relation) in &self.relations {
            let near = relation.related() != Some(false) && !relation.suspected();
            let (from, to) = (of[*a], of[*b]);
            if near && from != to {
                of.iter_mut().filter(|at| **at == from).for_each(|at| *at = to);
            }
        }
        let mut components: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        of.iter().enumerate().for_each(|(at, of)| components.entry(*of).or_default().push(at));
        components.into_values().filter(|members| members.len() > 1).collect()
    }

    fn of_component(
        &mut self,
        all: &[&Checkpoint],
        members: &[usize],
        settings: &Settings,
    ) -> Result<()> {
        let search = |child: usize,
                      left_out: &[(usize, Found)]|
         -> Result<Option<(usize, Found)>> {
            let is_out = |at: usize| at == child || left_out.iter().any(|(merge, _)| *merge == at);
            let others: Vec<usize> = members.iter().copied().filter(|at| !is_out(*at)).collect();
            let found = search::search(all[child], all, &others, None, settings)?;
            Ok(made(&found).then_some((child, found)))
        };
        // What is exact first: merges that are known stand beside their parents in no later search, where
        // nothing could tell them apart. What is found by elements may clear the view for others.
        let mut exact = Vec::new();
        for child in members {
            exact.extend(search(*child, &[])?.filter(|(_, found)| is_exact(found)));
        }
        let mut merges = self.settled(Vec::new(), exact);
        loop {
            let mut more = Vec::new();
            for child in members.iter().filter(|at| !merges.iter().any(|(merge, _)| merge == *at)) {
                more.extend(search(*child, &merges)?);
            }
            let known = merges.len();
            merges = self.settled(merges, more);
            if merges.len() == known {
                break;
            }
        }
        let merged: BTreeSet<usize> = merges.iter().map(|(child, _)| *child).collect();
        for (child, found) in &merges {
            let confidence = found.explanation.certainty();
            let evidence = Evidence::Recipe(found.explanation.kind.word());
            for parent in found.explanation.models() {
                let evidence = evidence.clone();
                self.edges.push(Edge { parent, child: *child, evidence, confidence });
            }
        }
        let shape = |at: usize| all[at].stacks.single().map_or(0, |(_, count)| count);
        let rest: Vec<usize> = members.iter().copied().filter(|at| !merged.contains(at)).collect();
        let Some(first) = rest.first() else { return Ok(()) };
        let (same, other): (Vec<usize>, Vec<usize>) =
            members.iter().partition(|at| shape(**at) == shape(*first));
        for at in other.iter().filter(|at| !merged.contains(at)) {
            self.notes.push(format!(
                "{} has another number of layers than the others, and is no stack of theirs",
                self.models[*at]
            ));
        }
        let models: Vec<&Checkpoint> = same.iter().map(|at| all[*at]).collect();
        let sample = Sample::read(all[*first], &models, settings.sample, settings.held())?;
        let nodes: Vec<usize> = (0..same.len()).filter(|at| !merged.contains(&same[*at])).collect();
        let known: Vec<(usize, Vec<usize>)> = merges
            .iter()
            .filter_map(|(child, found)| {
                let place = |at: &usize| same.iter().position(|other| other == at);
                let parents = found.explanation.models();
                Some((place(child)?, parents.iter().filter_map(place).collect()))
            })
            .collect();
        let measures = Measures::of(&sample, same.len());
        for mut edge in measures.edges(&nodes, &known) {
            (edge.parent, edge.child) = (same[edge.parent], same[edge.child]);
            self.edges.push(edge);
        }
        Ok(())
    }

    /// Of explanations that follow from each other, as each of three models on a line is a combination
    /// of the other two, those with the least coefficients; no model is its own ancestor.
    fn settled(
        &mut self,
        mut settled: Vec<(usize, Found)>,
        mut merges: Vec<(usize, Found)>,
    ) -> Vec<(usize, Found)> {
        merges.sort_by(|(_, a), (_, b)| a.explanation.size().total_cmp(&b.explanation.size()));
        for (child, found) in merges {
            let parents = found.explanation.models();
            let copy = found.explanation.kind == Kind::Copy;
            if parents.iter().any(|parent| descends(*parent, child, &settled)) {
                if copy {
                    self.notes.push(format!(
                        "{} holds the weights of {}; which was copied does not show",
                        self.models[child], self.models[parents[0]]
                    ));
                }
                continue;
            }
            settled.push((child, found));
        }
        settled
    }
}

/// Whether the explanation is one of how the model was made by arithmetic on others. A change of low
/// rank is a fine-tune, and has no direction of its own.
fn made(found: &Found) -> bool {
    match found.explanation.kind {
        Kind::Copy | Kind::Merge(_) => true,
        Kind::Stack => found.explanation.notes.is_empty(),
        _ => false,
    }
}

/// Whether every tensor is a combination of others, up to rounding.
fn is_exact(found: &Found) -> bool {
    !matches!(found.explanation.kind, Kind::Merge(method) if !["linear", "slerp", "task_arithmetic"].contains(&method))
}

/// Whether `model` was made from `ancestor`.
fn descends(model: usize, ancestor: usize, merges: &[(usize, Found)]) -> bool {
    model == ancestor
        || merges.iter().filter(|(child, _)| *child == model).any(|(_, found)| {
            found.explanation.models().iter().any(|parent| descends(*parent, ancestor, merges))
        })
}

/// What the tree is made from, tensor by tensor.
struct Measures {
    distances: Distances,
    /// For each tensor and model the squared norm, and the kurtosis.
    norms: Vec<Vec<f64>>,
    tails: Vec<Vec<f64>>,
}

/// The kurtosis of values about their mean; 0 where they do not vary.
fn kurtosis(values: &[f32]) -> f64 {
    let count = values.len().max(1) as f64;
    let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
    let (mut square, mut fourth) = (0.0, 0.0);
    for x in values {
        let x = (f64::from(*x) - mean) * (f64::from(*x) - mean);
        square += x;
        fourth += x * x;
    }
    if square > 0.0 { count * fourth / (square * square) } else { 0.0 }
}

impl Measures {
    fn of(sample: &Sample, models: usize) -> Self {
        let square = |x: &Vec<f32>| x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        let norms = |slab: &Slab| slab.of.iter().map(square).collect();
        let tails = |slab: &Slab| slab.of.iter().map(|x| kurtosis(x)).collect();
        Self {
            distances: Distances::of(sample, models).scaled(),
            norms: sample.slabs.iter().map(norms).collect(),
            tails: sample.slabs.iter().map(tails).collect(),
        }
    }

    /// The shares of these tensors whose norm is larger, and whose kurtosis is smaller, in `child`.
    fn votes(&self, tensors: &[usize], parent: usize, child: usize) -> (f64, f64) {
        let (mut norms, mut tails) = (0.0, 0.0);
        let vote = |x: f64, y: f64| match x.total_cmp(&y) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Less => 0.0,
        };
        for at in tensors {
            norms += vote(self.norms[*at][child], self.norms[*at][parent]);
            tails += vote(self.tails[*at][parent], self.tails[*at][child]);
        }
        let count = tensors.len().max(1) as f64;
        (norms / count, tails / count)
    }

    /// Parent and child of every edge, by these tensors.
    fn tree(
        &self,
        tensors: &[usize],
        nodes: &[usize],
        merges: &[(usize, Vec<usize>)],
    ) -> Vec<(usize, usize)> {
        let squares = self.distances.over(tensors.iter().copied());
        let square = |a: usize, b: usize| squares[a * self.distances.models + b];
        let joined = shortest(nodes, &square);
        let score = |root: usize| -> f64 {
            let turned = turned(&joined, root);
            let edge = |(parent, child): &(usize, usize)| {
                let (norms, tails) = self.votes(tensors, *parent, *child);
                (norms - 0.5) + TAILS * (tails - 0.5)
            };
            turned.iter().map(edge).sum()
        };
        let root = nodes.iter().copied().max_by(|a, b| score(*a).total_cmp(&score(*b)));
        let mut edges = root.map_or(Vec::new(), |root| turned(&joined, root));
        for edge in &mut edges {
            let nearer = merges
                .iter()
                .filter(|(_, parents)| !parents.contains(&edge.1))
                .map(|(merge, _)| (*merge, square(*merge, edge.1)))
                .min_by(|a, b| a.1.total_cmp(&b.1));
            if let Some((merge, distance)) = nearer
                && distance < NEARER * square(edge.0, edge.1)
            {
                edge.0 = merge;
            }
        }
        edges
    }

    /// The edges of all tensors, each with the share of repetitions that have it.
    fn edges(&self, nodes: &[usize], merges: &[(usize, Vec<usize>)]) -> Vec<Edge> {
        let count = self.norms.len();
        let all: Vec<usize> = (0..count).collect();
        let mut numbers = uniforms(Stream { key: [0x7265_6564, 0], nonce: [0, 0] }, 0);
        let mut seen: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        for _ in 0..REPETITIONS {
            let drawn = numbers.by_ref().take(count).map(|x| (x * count as f64) as usize);
            let drawn: Vec<usize> = drawn.collect();
            for edge in self.tree(&drawn, nodes, merges) {
                *seen.entry(edge).or_default() += 1;
            }
        }
        let edge = |(parent, child)| {
            let (norms, tails) = self.votes(&all, parent, child);
            let times = seen.get(&(parent, child)).copied().unwrap_or(0);
            let confidence = times as f64 / REPETITIONS as f64;
            Edge { parent, child, evidence: Evidence::Trained { norms, tails }, confidence }
        };
        self.tree(&all, nodes, merges).into_iter().map(edge).collect()
    }
}

/// The shortest tree over the nodes (Prim 1957).
fn shortest(nodes: &[usize], square: &impl Fn(usize, usize) -> f64) -> Vec<(usize, usize)> {
    let Some((first, rest)) = nodes.split_first() else { return Vec::new() };
    let mut inside = vec![*first];
    let mut left = rest.to_vec();
    let mut edges = Vec::new();
    while !left.is_empty() {
        let pairs = inside.iter().flat_map(|a| left.iter().map(move |b| (*a, *b)));
        let nearest = pairs.min_by(|x, y| square(x.0, x.1).total_cmp(&square(y.0, y.1)));
        let Some((a, b)) = nearest else { break };
        edges.push((a, b));
        inside.push(b);
        left.retain(|node| *node != b);
    }
    edges
}

/// A tree's edges as parent and child, seen from a root.
fn turned(edges: &[(usize, usize)], root: usize) -> Vec<(usize, usize)> {
    let mut turned = Vec::new();
    let mut open = vec![root];
    let mut left = edges.to_vec();
    while let Some(parent) = open.pop() {
        left.retain(|(a, b)| {
            let child = match (*a == parent, *b == parent) {
                (true, _) => *b,
                (_, true) => *a,
                _ => return true,
            };
            turned.push((parent, child));
            open.push(child);
            false
        });
    }
    turned
}
