//! The stages of a recipe file: several YAML documents, or a list under `stages`.
//!
//! A stage may use the output of another one by its name, as in the files of mergekit-multi. The
//! order in the file does not matter.

use super::parse::parse;
use super::raw::RawRecipe;
use super::sources::{At, Included, Sources};
use super::{Located, Recipe, include, overrides, validate};
use crate::error::{Error, Result, list};
use rustix::io::Errno;
use serde_json::Value;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// A recipe larger than this, with all that it includes, is refused unread.
pub(super) const MAX_BYTES: u64 = 1 << 20;

/// A checked recipe file.
#[derive(Clone, Debug)]
pub struct RecipeFile {
    /// The file it was read from.
    pub file: PathBuf,
    /// Its text, as written.
    pub text: String,
    /// The files it includes, in the order they are read.
    pub includes: Vec<Included>,
    /// What was overridden, as `KEY=VALUE`, in order.
    pub overrides: Vec<String>,
    /// The stages, each behind those it uses. The last one makes the output.
    pub stages: Vec<Recipe>,
}

impl RecipeFile {
    /// The folder it stands in, which paths in it are relative to.
    pub fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new(""))
    }

    /// Reads and checks the recipe in `file`, with overrides (`KEY=VALUE`, the last one holds).
    ///
    /// # Errors
    /// The file cannot be read, or the recipe is wrong; the error names key, file and line.
    pub fn open(file: &Path, overrides: &[String]) -> Result<Self> {
        Self::parse(file, read(file)?, overrides)
    }

    /// Checks a recipe's text; `file` names it in messages, and is where the paths of included files
    /// start from.
    ///
    /// # Errors
    /// The recipe is wrong, or a file that it includes is.
    pub fn parse(file: &Path, text: String, overrides: &[String]) -> Result<Self> {
        Self::of(file, Sources::new(file, text), overrides)
    }

    /// The recipe that a lineage records as its `recipe`: text, included files and overrides. `file` is
    /// the place in whose folder relative paths start; no file is opened.
    ///
    /// # Errors
    /// The recipe is wrong, or not all of it is recorded.
    pub(crate) fn recorded(file: &Path, recorded: &Value) -> Result<Self> {
        let text = |value: &Value| value.as_str().map(str::to_string);
        let list = |key: &str| recorded[key].as_array().map(Vec::as_slice).unwrap_or_default();
        let included = |entry: &Value| {
            Some(Included { path: text(&entry["path"])?, text: text(&entry["text"])? })
        };
        let recipe = text(&recorded["text"]);
        let includes: Option<Vec<Included>> = list("includes").iter().map(included).collect();
        let overrides: Option<Vec<String>> = list("overrides").iter().map(text).collect();
        let (Some(recipe), Some(includes), Some(overrides)) = (recipe, includes, overrides) else {
            return Err(Error::input("the lineage does not record its recipe").key("recipe"));
        };
        Self::of(file, Sources::recorded(file, recipe, includes), &overrides)
    }

    fn of(file: &Path, mut sources: Sources, overrides: &[String]) -> Result<Self> {
        let mut stages = Vec::new();
        for mut document in parse(&sources, 0)? {
            document.value = include::resolve(&mut sources, document.value, &[0])?;
            flatten(&sources, document, &mut stages)?;
        }
        if stages.is_empty() {
            return Err(Error::input("the recipe is empty")
                .file(file)
                .key("merge_method")
                .hint("begin with `merge_method: linear` and a list of `models`"));
        }
        for text in overrides {
            overrides::apply(&mut stages, text)?;
        }
        let stages = stages.into_iter().map(|raw| validate::recipe(file, &sources, raw));
        let stages = in_order(file, stages.collect::<Result<_>>()?)?;
        if let [before @ .., _] = &stages[..]
            && let Some(stage) = before.iter().find(|stage| stage.evaluate.is_some())
        {
            return Err(stage
                .error(&stage.at, "a stage that makes no output is to be evaluated")
                .key("evaluate")
                .fact("stage", stage.title())
                .hint("put `evaluate` into the stage that makes the output"));
        }
        let (text, includes) = sources.into_texts();
        let overrides = overrides.to_vec();
        Ok(Self { file: file.to_path_buf(), text, includes, overrides, stages })
    }

    /// The stage that makes the output.
    pub fn last(&self) -> &Recipe {
        &self.stages[self.stages.len() - 1]
    }
}

/// The text of a recipe file.
fn read(file: &Path) -> Result<String> {
    let failed = |e: &std::io::Error| Error::io("read the recipe", file, e);
    let metadata = std::fs::metadata(file).map_err(|e| match e.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => Error::input("the recipe does not exist")
            .file(file)
            .hint("the path is relative to the working directory"),
        _ if e.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            Error::input("the recipe is a link that leads back to itself")
                .file(file)
                .hint("name the file itself")
        }
        _ => failed(&e),
    })?;
    if !metadata.is_file() {
        return Err(Error::input("the recipe is not a file")
            .file(file)
            .hint("name a YAML file; `-` and pipes are not read"));
    }
    let large = |length: u64| {
        Error::input("the recipe is too large")
            .file(file)
            .expected(format!("at most {MAX_BYTES} bytes"), length)
            .hint("a recipe is a short text; name models by their folders")
    };
    if metadata.len() > MAX_BYTES {
        return Err(large(metadata.len()));
    }
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(|e| failed(&e))?;
    // The file may have grown since it was looked at.
    opened.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| failed(&e))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(large(bytes.len() as u64));
    }
    String::from_utf8(bytes).map_err(|e| {
        let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
        let own = good.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        let column = String::from_utf8_lossy(own).chars().count() as u64 + 1;
        Error::input("the recipe is not UTF-8 text")
            .fact("file", format!("{}:{line}:{column}", file.display()))
            .hint("save it as UTF-8; a file of weights is no recipe")
    })
}

/// A document is a stage, or holds a list of them and nothing else.
fn flatten(
    sources: &Sources,
    document: At<RawRecipe>,
    stages: &mut Vec<At<RawRecipe>>,
) -> Result<()> {
    let mut document = document;
    let Some(list) = document.value.stages.take() else {
        stages.push(document);
        return Ok(());
    };
    let list = sources.locate(list);
    let error = |at: &Located<()>, message: &str| at.error(message).key("stages");
    let at = list.map(());
    if !document.value.is_empty() {
        return Err(error(&at, "keys of a recipe stand beside `stages`")
            .hint("with `stages`, every other key belongs into one of its entries"));
    }
    if list.value.is_empty() {
        return Err(error(&at, "`stages` is empty"));
    }
    for stage in list.value {
        if stage.value.stages.is_some() {
            return Err(error(&sources.locate(stage).map(()), "`stages` stands within `stages`"));
        }
        stages.push(stage);
    }
    Ok(())
}

/// Sorts the stages so that each comes behind those it uses, and checks their names.
fn in_order(file: &Path, stages: Vec<Recipe>) -> Result<Vec<Recipe>> {
    if stages.len() == 1 {
        return Ok(stages);
    }
    let index = |name: &str| {
        stages.iter().position(|stage| stage.name.as_ref().is_some_and(|own| own.value == name))
    };
    for (i, stage) in stages.iter().enumerate() {
        if let Some(name) = &stage.name
            && index(&name.value) != Some(i)
        {
            return Err(stage
                .error(name, "two stages have one name")
                .key("name")
                .fact("found", &name.value));
        }
    }
    let uses: Vec<Vec<usize>> = stages
        .iter()
        .map(|stage| {
            let names = stage.references().into_iter();
            names.filter_map(|reference| index(stage_part(&reference.value))).collect()
        })
        .collect();
    let last = output(file, &stages, &uses)?;
    let mut order = Vec::new();
    let mut open = Vec::new();
    visit(last, &stages, &uses, &mut open, &mut order)?;
    if let Some(unused) = (0..stages.len()).find(|i| !order.contains(i)) {
        // What is kept on disk is of use by itself.
        let kept: Vec<usize> = (0..stages.len()).filter(|i| stages[*i].save.is_some()).collect();
        for i in &kept {
            visit(*i, &stages, &uses, &mut open, &mut order)?;
        }
        if let Some(unused) = (unused..stages.len()).find(|i| !order.contains(i)) {
            let stage = &stages[unused];
            return Err(stage
                .error(&stage.at, "no other stage uses a stage")
                .fact("stage", stage.title())
                .hint("name it as a model somewhere, give it `save: FOLDER`, or remove it"));
        }
        order.retain(|i| *i != last);
        order.push(last);
    }
    let mut stages: Vec<Option<Recipe>> = stages.into_iter().map(Some).collect();
    Ok(order.into_iter().filter_map(|i| stages[i].take()).collect())
}

/// The part of a model reference that may be the name of a stage: what stands before an adapter.
pub(crate) fn stage_part(reference: &str) -> &str {
    reference.split('+').next().unwrap_or(reference).trim()
}

/// The stage that makes the output: the one without a name, or else the one that no other uses.
fn output(file: &Path, stages: &[Recipe], uses: &[Vec<usize>]) -> Result<usize> {
    let unnamed: Vec<usize> = (0..stages.len()).filter(|i| stages[*i].name.is_none()).collect();
    match unnamed[..] {
        [one] => return Ok(one),
        [_, second, ..] => {
            let stage = &stages[second];
            return Err(stage
                .error(&stage.at, "two stages have no name")
                .key("name")
                .hint("only the stage that makes the output may go without a name"));
        }
        [] => {}
    }
    let ends: Vec<usize> = (0..stages.len())
        .filter(|i| stages[*i].save.is_none() && !uses.iter().any(|used| used.contains(i)))
        .collect();
    match ends[..] {
        [one] => Ok(one),
        [] => Err(Error::input("no stage makes the output: every one is used by another or saved")
            .file(file)
            .hint("leave out the `name` of the stage that makes the output")),
        _ => Err(Error::input("several stages could make the output")
            .file(file)
            .fact("stages", list(ends.iter().map(|i| stages[*i].title())))
            .hint("leave out the `name` of the stage that makes the output")),
    }
}

/// Depth first: the stages that `stage` uses, then itself.
fn visit(
    stage: usize,
    stages: &[Recipe],
    uses: &[Vec<usize>],
    open: &mut Vec<usize>,
    order: &mut Vec<usize>,
) -> Result<()> {
    if order.contains(&stage) {
        return Ok(());
    }
    if let Some(from) = open.iter().position(|other| *other == stage) {
        let circle = open[from..].iter().chain([&stage]).map(|i| stages[*i].title());
        let recipe = &stages[stage];
        return Err(recipe
            .error(&recipe.at, "the stages use each other in a circle")
            .fact("stages", circle.collect::<Vec<_>>().join(" → ")));
    }
    open.push(stage);
    for used in &uses[stage] {
        visit(*used, stages, uses, open, order)?;
    }
    open.pop();
    order.push(stage);
    Ok(())
}
