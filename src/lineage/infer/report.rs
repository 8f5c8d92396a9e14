//! What was inferred, for people and for programs.

use super::explanation::{Explanation, Kind, Parent};
use super::low_rank::Change;
use super::recipe::recipe;
use super::related::{Relation, Test};
use super::search::{self, Found};
use super::setting::Setting;
use super::stack::Run;
use crate::model::Checkpoint;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// What was inferred of one model.
pub struct Inferred {
    /// The model.
    pub model: String,
    /// The candidates as they were named.
    pub candidates: Vec<String>,
    /// How each of them is related to the model.
    pub relations: Vec<Relation>,
    /// What the model is made of.
    pub explanation: Explanation,
    /// The layers of a stack, from the first one on.
    pub runs: Vec<Run>,
    /// Changes of low rank.
    pub changes: Vec<Change>,
    /// A recipe that makes the model again.
    pub recipe: Option<String>,
    /// Tensors that were not looked at, with the reason.
    pub left_out: BTreeMap<String, String>,
    /// The share of the elements that was read.
    pub share: f64,
    /// The residual of the best linear fit, and of the nearest candidate alone, in roundings.
    pub rest: Option<(f64, f64)>,
    /// The nearest candidate.
    pub nearest: Option<usize>,
}

impl Inferred {
    pub(super) fn new(
        child: &Checkpoint,
        candidates: &[Checkpoint],
        relations: Vec<Relation>,
        found: Found,
    ) -> Self {
        let references: Vec<String> =
            candidates.iter().map(|candidate| candidate.reference.clone()).collect();
        let float = search::float(child);
        let recipe = recipe(&found.explanation, &found.runs, &references, float);
        Self {
            model: child.reference.clone(),
            candidates: references,
            relations,
            recipe,
            explanation: found.explanation,
            runs: found.runs,
            changes: found.changes,
            left_out: found.left_out,
            share: found.share,
            rest: found.rest,
            nearest: found.nearest,
        }
    }

    fn name(&self, at: usize) -> &str {
        self.candidates.get(at).map_or("", String::as_str)
    }

    /// The models that it is made of, the base included.
    pub fn parents(&self) -> Vec<&str> {
        self.explanation.models().into_iter().map(|at| self.name(at)).collect()
    }

    /// In one line.
    pub fn title(&self) -> String {
        let parents = self.parents().join(", ");
        match &self.explanation.kind {
            Kind::Copy => format!("a copy of {parents}"),
            Kind::Merge(method) => format!("a merge by {method} of {parents}"),
            Kind::Stack => format!("layers stacked of {parents}"),
            Kind::Lora { rank } => format!("{parents} with a change of rank {rank} (LoRA)"),
            Kind::FineTune => format!("a fine-tune; the nearest candidate is {parents}"),
            Kind::FineTuneOfMerge => format!("a merge of {parents}, trained on"),
            Kind::Unexplained => "not explained by the candidates".to_string(),
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "model     {}", self.model)?;
        let width = self.candidates.iter().map(String::len).max().unwrap_or(0);
        for (at, (name, relation)) in self.candidates.iter().zip(&self.relations).enumerate() {
            let label = if at == 0 { "related" } else { "" };
            writeln!(text, "{label:<9} {name:<width$}  {}", relation.words())?;
        }
        writeln!(text, "found     {}", self.title())?;
        for (key, value) in self.parameters() {
            writeln!(text, "  {key:<width$}  {value}", width = width + 10)?;
        }
        for run in &self.runs {
            let (name, layers) = (self.name(run.candidate), &run.layers);
            writeln!(text, "  layers {} to {} of {name}", layers.start, layers.end - 1)?;
        }
        for change in &self.changes {
            writeln!(text, "  rank {:<4} of {:<4} {}", change.rank, change.full, change.tensor)?;
        }
        let check = &self.explanation.check;
        if check.elements > 0 {
            writeln!(
                text,
                "checked   {:.4} % of {} elements equal, {:.4} % within the rounding",
                100.0 * check.share(),
                check.elements,
                100.0 * check.share_near()
            )?;
        }
        if let Some(explained) = self.explanation.drawn {
            writeln!(
                text,
                "checked   {:.2} % of the elements are sums of some of the parents' elements, times one factor each",
                100.0 * explained
            )?;
        }
        if let Some((rest, nearest)) = self.rest {
            writeln!(
                text,
                "residual  {rest:.2} roundings of the best linear fit; {nearest:.2} from {} alone",
                self.nearest.map_or("", |at| self.name(at))
            )?;
        }
        if self.share < 1.0 {
            writeln!(text, "read      {:.2} % of the elements", 100.0 * self.share)?;
        }
        if !self.explanation.same_map.is_empty() {
            writeln!(text, "the same  by {}", self.explanation.same_map.join(", "))?;
        }
        for note in &self.explanation.notes {
            writeln!(text, "note      {note}")?;
        }
        for (name, reason) in &self.left_out {
            writeln!(text, "left out  {name}: {reason}")?;
        }
        if let Some(recipe) = &self.recipe {
            writeln!(text, "\n{recipe}")?;
        }
        Ok(())
    }

    /// The parameters in words, by model and name.
    fn parameters(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for parent in &self.explanation.parents {
            for (key, setting) in &parent.parameters {
                all.push((format!("{} {key}", self.name(parent.candidate)), setting.text()));
            }
        }
        for (key, setting) in &self.explanation.shared {
            all.push(((*key).to_string(), setting.text()));
        }
        for (key, on) in &self.explanation.switches {
            all.push(((*key).to_string(), on.to_string()));
        }
        all
    }

    /// What each parent has in the model: its weight (the middle one of several), for a stack its share of
    /// the layers. The base is a parent only where it is interpolated, copied or trained on.
    pub fn coefficients(&self) -> Vec<(&str, f64)> {
        let found = &self.explanation;
        let layers: usize = self.runs.iter().map(|run| run.layers.len()).sum();
        let of = |(at, parent): (usize, &Parent)| {
            let weight = || parent.parameters.get("weight").map(Setting::middle);
            let coefficient = match (&found.kind, found.shared.get("t").map(Setting::middle)) {
                (Kind::Stack, _) => {
                    let own = self.runs.iter().filter(|run| run.candidate == parent.candidate);
                    own.map(|run| run.layers.len()).sum::<usize>() as f64 / layers.max(1) as f64
                }
                (_, Some(t)) => [1.0 - t, t][at.min(1)],
                _ => weight().unwrap_or(1.0),
            };
            (self.name(parent.candidate), coefficient)
        };
        found.parents.iter().enumerate().map(of).collect()
    }

    /// The root mean square of what the explanation leaves, in roundings of the model's dtype: of the
    /// recipe, or of the best linear fit where the recipe draws masks or there is none. None where nothing
    /// was compared element by element.
    pub fn residual(&self) -> Option<f64> {
        let check = &self.explanation.check;
        let fit = self.rest.map(|(rest, _)| rest);
        if check.elements > 0 && self.explanation.kind != Kind::Stack {
            return Some(check.rms());
        }
        let exact = check.elements > 0 && check.equal == check.elements;
        if exact { Some(0.0) } else { fit }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let found = &self.explanation;
        let relations = self.candidates.iter().zip(&self.relations);
        let related: Vec<Value> = relations
            .map(|(name, relation)| {
                let mut value = json!({"path": name});
                relation.describe(&mut value);
                value
            })
            .collect();
        let parents = self.coefficients().into_iter().zip(&found.parents);
        let parents: Vec<Value> = parents
            .map(|((name, coefficient), parent)| {
                let settings: BTreeMap<_, _> =
                    parent.parameters.iter().map(|(key, value)| (*key, value.json())).collect();
                json!({"path": name, "coefficient": coefficient, "parameters": settings})
            })
            .collect();
        let shared: BTreeMap<_, _> =
            found.shared.iter().map(|(key, setting)| (*key, setting.json())).collect();
        let runs = self.runs.iter().map(|run| {
            json!({"path": self.name(run.candidate), "layer_range": [run.layers.start, run.layers.end]})
        });
        let changes = self
            .changes
            .iter()
            .map(|change| json!({"tensor": change.tensor, "rank": change.rank, "of": change.full}));
        let check = &found.check;
        json!({
            "model": self.model,
            "related": related,
            "parents": parents,
            "base": found.base.map(|base| self.name(base)),
            "method": found.kind.word(),
            "parameters": shared,
            "switches": found.switches,
            "slices": runs.collect::<Vec<_>>(),
            "rank": match found.kind { Kind::Lora { rank } => Some(rank), _ => None },
            "changes": changes.collect::<Vec<_>>(),
            "same_map": found.same_map,
            "notes": found.notes,
            "residual": self.residual(),
            "checked": (check.elements > 0).then(|| json!({
                "elements": check.elements,
                "equal": check.share(),
                "within_rounding": check.share_near(),
                "rms_in_roundings": check.rms(),
                "largest_difference": check.largest,
            })),
            "explained": found.drawn,
            "fit": self.rest.map(|(rest, nearest)| json!({
                "linear_in_roundings": rest,
                "nearest_in_roundings": nearest,
                "nearest": self.nearest.map(|at| self.name(at)),
            })),
            "read": self.share,
            "left_out": self.left_out,
            "recipe": self.recipe,
        })
    }
}

impl Relation {
    /// In words.
    pub(super) fn words(&self) -> String {
        let Some(p) = self.log10_p() else {
            return format!("not tested: {}", self.untested.as_deref().unwrap_or_default());
        };
        let p_value = |log: f64| match log {
            log if log > -4.0 => format!("p = {:.4}", 10.0_f64.powf(log)),
            log => format!("p = 1e{log:.0}"),
        };
        if let (true, Some(test)) = (self.suspected(), self.permuted) {
            return format!(
                "related, with hidden units permuted (suspected): {} as they stand, {} when matched by their weights",
                p_value(p),
                p_value(test.log10_p)
            );
        }
        match self.related() {
            Some(true) => {
                let z = self.aligned.or(self.any_layer).map_or(0.0, |test| test.z);
                format!("related       {} (z = {z:.1})", p_value(p))
            }
            _ => format!("not related   {}", p_value(p)),
        }
    }

    /// Adds what the tests say to a JSON object. `p_value` is that of the test that decides; where it is too
    /// small for a double, its logarithm still tells.
    pub(super) fn describe(&self, value: &mut Value) {
        let test = |test: &Test| {
            json!({
                "log10_p": test.log10_p,
                "z": test.z,
                "mean_cosine": test.cosine,
                "layers": test.layers,
            })
        };
        let suspected = self.permuted.filter(|_| self.suspected());
        let log10_p = suspected.map(|test| test.log10_p).or(self.log10_p());
        value["related"] = self.related().into();
        value["p_value"] = log10_p.map(|log| 10.0_f64.powf(log)).into();
        value["log10_p"] = log10_p.into();
        value["permuted_units_suspected"] = self.suspected().into();
        value["aligned"] = self.aligned.as_ref().map(test).into();
        value["any_layer"] = self.any_layer.as_ref().map(test).into();
        value["matched"] = self.permuted.as_ref().map(test).into();
        value["untested"] = self.untested.clone().into();
    }
}
