//! `evaluate`: what the finished merge is asked, what it is compared with, and what it has to reach.

use super::raw::{self, RawList};
use super::sources::{At, Sources};
use super::{Located, defaults};
use crate::error::Result;
use crate::eval::gate::Gate;
use schemars::JsonSchema;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// The checked settings of an evaluation. Whether its tasks exist is not looked up here.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluate {
    /// Tasks, groups and tags by name, and files of tasks.
    pub tasks: Vec<Located<String>>,
    /// Folders whose tasks are known by name, besides the built-in ones.
    pub folders: Vec<Located<String>>,
    /// What the merge is compared with.
    pub compare: Rivals,
    /// The base among these, where it is not the recipe's.
    pub base: Option<Located<String>>,
    /// The first so many items of each task; all if none.
    pub limit: Option<usize>,
    /// Examples before each item, instead of what the tasks say.
    pub fewshot: Option<usize>,
    /// Whether prompts are rendered with each model's chat template.
    pub chat_template: bool,
    /// Whether each example is a question and its answer there; so if none.
    pub multiturn: Option<bool>,
    /// Stands before each task's description.
    pub system: Option<String>,
    /// What the merge has to reach.
    pub gates: Vec<Located<Gate>>,
}

/// What a merge is compared with.
#[derive(Clone, Debug, PartialEq)]
pub enum Rivals {
    /// Nothing.
    None,
    /// The models it was made of, and its base.
    Parents,
    /// These models.
    Models(Vec<Located<String>>),
}

/// The evaluation of the finished merge.
#[derive(serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Evaluate")]
pub(super) struct RawEvaluate {
    /// Tasks, groups or tags by name, or task files (`.yml`, `.yaml`).
    tasks: Option<At<RawList>>,
    /// A folder, or a list of folders, whose tasks are known by name.
    tasks_dir: Option<At<RawList>>,
    /// What the merge is compared with: `parents`, `none`, or models.
    compare: Option<At<RawList>>,
    /// The model that the others descend from, where the recipe has no `base_model`.
    #[schemars(length(min = 1))]
    base: Option<At<String>>,
    /// Evaluate the first so many items of each task.
    #[schemars(range(min = 1))]
    pub(super) limit: Option<At<u64>>,
    /// Examples before each item, instead of what the tasks say.
    num_fewshot: Option<At<u64>>,
    /// Render prompts with each model's chat template.
    apply_chat_template: Option<At<bool>>,
    /// With a chat template, each example is a question and its answer (the default), not all one
    /// message.
    fewshot_as_multiturn: Option<At<bool>>,
    /// Stands before each task's description.
    system_instruction: Option<At<String>>,
    /// What the merge has to reach, by figure: `arc_easy.acc: ">= best_parent - 0.01"`.
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    gate: Option<RawGates>,
}

impl RawEvaluate {
    /// These keys and gates, and those of `below` where they are silent.
    pub(super) fn over(self, below: Self) -> Self {
        let gate = match (self.gate, below.gate) {
            (Some(own), Some(below)) => {
                Some(RawGates(defaults::entries(own.0, below.0, |own, _| own)))
            }
            (own, below) => own.or(below),
        };
        Self {
            tasks: self.tasks.or(below.tasks),
            tasks_dir: self.tasks_dir.or(below.tasks_dir),
            compare: self.compare.or(below.compare),
            base: self.base.or(below.base),
            limit: self.limit.or(below.limit),
            num_fewshot: self.num_fewshot.or(below.num_fewshot),
            apply_chat_template: self.apply_chat_template.or(below.apply_chat_template),
            fewshot_as_multiturn: self.fewshot_as_multiturn.or(below.fewshot_as_multiturn),
            system_instruction: self.system_instruction.or(below.system_instruction),
            gate,
        }
    }
}

/// Figures with their conditions, in the order of the file.
struct RawGates(Vec<(At<String>, At<String>)>);

impl<'de> Deserialize<'de> for RawGates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawGates;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of figures to conditions")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawGates, A::Error> {
                raw::entries(map).map(RawGates)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Checks what can be checked without tasks and models.
pub(super) fn settings(sources: &Sources, raw: At<RawEvaluate>) -> Result<Evaluate> {
    let raw = sources.locate(raw);
    let at = raw.map(());
    let raw = raw.value;
    let tasks = raw.tasks.map(|tasks| tasks.located(sources)).unwrap_or_default();
    if tasks.is_empty() || tasks.iter().any(|task| task.value.trim().is_empty()) {
        return Err(at.error("there is no task to evaluate").key("evaluate.tasks").hint(
            "name tasks, for example `tasks: [arc_easy]`; `cognate tasks` lists the built-in ones",
        ));
    }
    let count = |key: &str, least: u64, number: Option<At<u64>>| {
        let number = number.map(|number| sources.locate(number));
        match &number {
            Some(number) if number.value < least || number.value > u64::from(u32::MAX) => {
                Err(number
                    .error("a number of items is out of range")
                    .key(format!("evaluate.{key}"))
                    .expected(format!("{least} or more"), number.value))
            }
            _ => Ok(number.map(|number| number.value as usize)),
        }
    };
    let compare = raw.compare.map(|compare| compare.located(sources)).unwrap_or_default();
    let words: Vec<&str> = compare.iter().map(|word| word.value.as_str()).collect();
    let compare = match words[..] {
        [] | ["parents"] => Rivals::Parents,
        ["none"] => Rivals::None,
        _ => Rivals::Models(compare),
    };
    if let Rivals::Models(models) = &compare
        && let Some(word) =
            models.iter().find(|word| ["parents", "none", ""].contains(&&*word.value))
    {
        return Err(word
            .error("what a merge is compared with is not clear")
            .key("evaluate.compare")
            .expected(
                "`parents`, `none`, or a list of models",
                format!("`{}` in a list", word.value),
            ));
    }
    let gates = raw.gate.map(|gates| gates.0).unwrap_or_default();
    let gates = gates.into_iter().map(|(figure, condition)| {
        let (figure, condition) = (sources.locate(figure), sources.locate(condition));
        let gate = Gate::parse(&figure.value, &condition.value);
        gate.map(|gate| figure.map(gate)).map_err(|e| condition.at(e))
    });
    Ok(Evaluate {
        tasks,
        folders: raw.tasks_dir.map(|folders| folders.located(sources)).unwrap_or_default(),
        compare,
        base: raw.base.map(|base| sources.locate(base)),
        limit: count("limit", 1, raw.limit)?,
        fewshot: count("num_fewshot", 0, raw.num_fewshot)?,
        chat_template: raw.apply_chat_template.is_some_and(|apply| apply.value),
        multiturn: raw.fewshot_as_multiturn.map(|multiturn| multiturn.value),
        system: raw.system_instruction.map(|text| text.value),
        gates: gates.collect::<Result<_>>()?,
    })
}
