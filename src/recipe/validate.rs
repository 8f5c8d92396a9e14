//! From the raw YAML to a checked [`Recipe`], with the methods' table in hand.

use super::methods::Methods;
use super::mixture::RawMixture;
use super::raw::{RawModel, RawModules, RawRecipe, RawSlice};
use super::sources::{At, Sources};
use super::statistics::{RawFisherData, RawGramData, RawStatistics, StatisticsInput, statistics};
use super::{
    Layout, Located, ModelInput, Module, Parameters, PostSettings, Recipe, Slice, SliceSource,
};
use crate::error::{Result, nearest};
use crate::model::{ChatTemplate, Float};
use std::path::Path;

/// What a slice looks like.
const SLICE: &str = "list a slice: `- sources: [{model: FOLDER, layer_range: [0, 4]}]`";

/// What a recipe's parts are checked against.
pub(super) struct Context<'a> {
    pub(super) sources: &'a Sources,
    file: &'a Path,
    pub(super) methods: Methods,
    pub(super) warnings: Vec<String>,
}

/// What a parameters block belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// One model: a model or a slice's source.
    Model,
    /// Whole tensors: a slice or the recipe.
    Tensor,
}

/// What a recipe asks for, of whichever kind it is.
struct Asked {
    methods: Methods,
    align_experts: bool,
    posts: Vec<PostSettings>,
    layout: Layout,
    base_model: Option<Located<String>>,
    parameters: Parameters,
    warnings: Vec<String>,
}

pub(super) fn recipe(file: &Path, sources: &Sources, raw: At<RawRecipe>) -> Result<Recipe> {
    let raw = sources.locate(raw);
    let at = raw.map(());
    let mut raw = raw.value;
    let mixture = raw.take_mixture();
    let asked = if mixture.is_given() {
        mixture_asked(sources, &at, &mut raw, mixture)?
    } else {
        merge_asked(file, sources, &at, &mut raw)?
    };
    let recipe = Recipe {
        file: file.to_path_buf(),
        name: raw.name.map(|name| stage_name(sources, name)).transpose()?,
        save: raw.save.map(|at| sources.locate(at)),
        at,
        methods: asked.methods,
        align_experts: asked.align_experts,
        posts: asked.posts,
        layout: asked.layout,
        base_model: asked.base_model,
        parameters: asked.parameters,
        dtype: raw.dtype.map(|dtype| float(sources, "dtype", dtype)).transpose()?,
        out_dtype: raw.out_dtype.map(|dtype| float(sources, "out_dtype", dtype)).transpose()?,
        tokenizer: super::tokenizer::settings(sources, raw.tokenizer_source, raw.tokenizer)?,
        chat_template: raw.chat_template.map(|text| chat_template(sources, text)).transpose()?,
        seed: raw.random_seed.map(|seed| seed.value),
        evaluate: raw.evaluate.map(|raw| super::evaluate::settings(sources, raw)).transpose()?,
        warnings: asked.warnings,
    };
    recipe.check_statistics()?;
    Ok(recipe)
}

/// A recipe that merges models.
fn merge_asked(
    file: &Path,
    sources: &Sources,
    at: &Located<()>,
    raw: &mut RawRecipe,
) -> Result<Asked> {
    let name = raw.merge_method.take().ok_or_else(|| {
        at.error("the key `merge_method` is missing")
            .key("merge_method")
            .hint("add `merge_method: linear`, or another; `cognate methods` lists them")
    })?;
    let (methods, name) = super::methods::methods(sources, name)?;
    let mut context = Context { sources, file, methods, warnings: Vec::new() };
    let parameters =
        context.parameters("parameters", std::mem::take(&mut raw.parameters), Level::Tensor)?;
    let layout = match raw.modules.take() {
        None => context.layout("", &name, raw.models.take(), raw.slices.take())?,
        Some(_) if raw.models.is_some() || raw.slices.is_some() => {
            return Err(name
                .error("a recipe has more than one of `models`, `slices` and `modules`")
                .key("modules")
                .hint("put the models or slices into the modules"));
        }
        Some(modules) => context.modules(sources.locate(modules))?,
    };
    let base_model =
        raw.base_model.take().map(|base| context.reference("base_model", base)).transpose()?;
    let posts = context.posts([
        ("subspace_boosting", raw.subspace_boosting.take()),
        ("svc", raw.svc.take()),
        ("lines", raw.lines.take()),
    ])?;
    Ok(Asked {
        methods: context.methods,
        align_experts: raw.align_experts.as_ref().is_some_and(|flag| flag.value),
        posts,
        layout,
        base_model,
        parameters,
        warnings: context.warnings,
    })
}

/// A recipe that makes a mixture of experts, or something of one.
fn mixture_asked(
    sources: &Sources,
    at: &Located<()>,
    raw: &mut RawRecipe,
    mixture: RawMixture,
) -> Result<Asked> {
    let of_merges = [
        ("merge_method", raw.merge_method.as_ref().map(At::place)),
        ("models", raw.models.as_ref().map(At::place)),
        ("slices", raw.slices.as_ref().map(At::place)),
        ("modules", raw.modules.as_ref().map(At::place)),
        ("parameters", raw.parameters.0.first().map(|(name, _)| name.place())),
        ("subspace_boosting", raw.subspace_boosting.as_ref().map(At::place)),
        ("svc", raw.svc.as_ref().map(At::place)),
        ("lines", raw.lines.as_ref().map(At::place)),
        ("align_experts", raw.align_experts.as_ref().map(At::place)),
    ];
    if let Some((key, place)) = of_merges.into_iter().find_map(|(key, at)| Some((key, at?))) {
        return Err(sources
            .locate(place)
            .error(format!(
                "`{key}` belongs to a merge, and the recipe is about a mixture of experts"
            ))
            .key(key)
            .hint("remove it, or make a stage of the merge and use its name as a model"));
    }
    let base =
        raw.base_model.take().map(|base| model_reference("base_model", sources.locate(base)));
    let (layout, base) = super::mixture::layout(sources, at, mixture, base.transpose()?)?;
    Ok(Asked {
        methods: Methods::none(),
        align_experts: false,
        posts: Vec::new(),
        layout,
        base_model: Some(base),
        parameters: Parameters::default(),
        warnings: Vec::new(),
    })
}

/// A model reference that is not empty.
pub(super) fn model_reference(key: &str, model: Located<String>) -> Result<Located<String>> {
    if model.value.trim().is_empty() {
        return Err(model
            .error("a model reference is empty")
            .key(key)
            .hint("name a folder, or a model of the Hub as `owner/name`"));
    }
    Ok(model)
}

/// A stage's name must be told from other model references and be fit for a folder's name.
fn stage_name(sources: &Sources, name: At<String>) -> Result<Located<String>> {
    let name = sources.locate(name);
    let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    if name.value.is_empty() || name.value.starts_with('.') || !name.value.chars().all(plain) {
        return Err(name
            .error("the name of a stage is not a plain word")
            .key("name")
            .expected("letters, digits, `-`, `_` and `.`", format!("{:?}", name.value)));
    }
    Ok(name)
}

fn float(sources: &Sources, key: &str, name: At<String>) -> Result<Float> {
    let name = sources.locate(name);
    Float::parse(&name.value).ok_or_else(|| {
        let names = ["float32", "float16", "bfloat16"];
        let wrong = name
            .error(format!("unknown dtype `{}`", name.value))
            .key(key)
            .fact("expected", format!("one of {}", names.join(", ")));
        match nearest(&name.value, names) {
            Some(near) => wrong.hint(format!("did you mean `{near}`?")),
            None => wrong.hint(format!("without `{key}` the dtype is the base model's")),
        }
    })
}

fn chat_template(sources: &Sources, text: At<String>) -> Result<ChatTemplate> {
    let text = sources.locate(text);
    let place = text.place();
    ChatTemplate::parse(&text.value).map_err(|e| e.fact("file", place))
}

impl Context<'_> {
    fn reference(&self, key: &str, model: At<String>) -> Result<Located<String>> {
        model_reference(key, self.sources.locate(model))
    }

    /// What a model at `path` says of its statistics.
    fn statistics(
        &self,
        path: &str,
        fisher: Option<At<RawStatistics<RawFisherData>>>,
        gram: Option<At<RawStatistics<RawGramData>>>,
    ) -> Result<Option<Located<StatisticsInput>>> {
        let (sources, methods) = (self.sources, &self.methods);
        let fisher = fisher.map(|raw| statistics(sources, methods, path, raw)).transpose()?;
        let gram = gram.map(|raw| statistics(sources, methods, path, raw)).transpose()?;
        match (fisher, gram) {
            (Some(_), Some(gram)) => Err(gram
                .error("a model has statistics of two kinds")
                .key(format!("{path}.gram"))
                .hint("a recipe's methods read one kind: use two stages")),
            (fisher, gram) => Ok(fisher.or(gram)),
        }
    }

    /// Models or slices, of a recipe (`path` is empty) or of a module.
    fn layout(
        &mut self,
        path: &str,
        at: &Located<()>,
        models: Option<At<Vec<RawModel>>>,
        slices: Option<At<Vec<RawSlice>>>,
    ) -> Result<Layout> {
        match (models, slices) {
            (Some(models), None) => {
                let models = self.sources.locate(models);
                if models.value.is_empty() {
                    return Err(models
                        .error("`models` is empty")
                        .key(format!("{path}models"))
                        .hint("list a model: `- model: FOLDER`"));
                }
                let mut inputs = Vec::new();
                for (i, input) in models.value.into_iter().enumerate() {
                    let path = format!("{path}models[{i}]");
                    inputs.push(ModelInput {
                        model: self.reference(&format!("{path}.model"), input.model)?,
                        statistics: self.statistics(&path, input.fisher, input.gram)?,
                        parameters: self.parameters(
                            &format!("{path}.parameters"),
                            input.parameters,
                            Level::Model,
                        )?,
                    });
                }
                Ok(Layout::Models(inputs))
            }
            (None, Some(slices)) => {
                let slices = self.sources.locate(slices);
                if slices.value.is_empty() {
                    return Err(slices
                        .error("`slices` is empty")
                        .key(format!("{path}slices"))
                        .hint(SLICE));
                }
                let slices = slices.value.into_iter().enumerate();
                let slices =
                    slices.map(|(i, slice)| self.slice(&format!("{path}slices[{i}]"), slice));
                Ok(Layout::Slices(slices.collect::<Result<_>>()?))
            }
            _ => {
                let whose = if path.is_empty() { "recipe" } else { "module" };
                Err(at
                    .error(format!("a {whose} needs either `models` or `slices`"))
                    .key(format!("{path}models"))
                    .hint("`models` merges whole models, `slices` ranges of their layers"))
            }
        }
    }

    fn modules(&mut self, raw: Located<RawModules>) -> Result<Layout> {
        let at = raw.map(());
        let mut modules = Vec::new();
        for (name, module) in raw.value.0 {
            let name = self.sources.locate(name);
            let path = format!("modules.{}.", name.value);
            let layout = self.layout(&path, &name.map(()), module.models, module.slices)?;
            let parameters =
                self.parameters(&format!("{path}parameters"), module.parameters, Level::Tensor)?;
            modules.push(Module { name, layout, parameters });
        }
        if modules.is_empty() {
            return Err(at
                .error("`modules` is empty")
                .key("modules")
                .hint("write `default: {models: […]}`, or use `models` itself"));
        }
        Ok(Layout::Modules(modules))
    }

    fn slice(&mut self, path: &str, raw: RawSlice) -> Result<Slice> {
        let sources = self.sources.locate(raw.sources);
        if sources.value.is_empty() {
            return Err(sources
                .error("a slice has no sources")
                .key(format!("{path}.sources"))
                .hint(SLICE));
        }
        if raw.residual_weight.is_some() {
            self.warnings
                .push(format!("{path}.residual_weight has no effect (nor has it in mergekit)"));
        }
        let mut found: Vec<SliceSource> = Vec::new();
        for (i, source) in sources.value.into_iter().enumerate() {
            let path = format!("{path}.sources[{i}]");
            let layers = self.sources.locate(source.layer_range);
            let range = match layers.value[..] {
                [start, end] if 0 <= start && start < end => start as usize..end as usize,
                [start, end] if start >= 0 && end >= 0 => {
                    return Err(layers
                        .error("a layer range is empty or reversed")
                        .key(format!("{path}.layer_range"))
                        .expected("[start, end] with start < end", format!("[{start}, {end}]"))
                        .hint(match start == end {
                            true => format!(
                                "the end is not included: write [{start}, {}] for layer {start}",
                                end.saturating_add(1)
                            ),
                            false => format!("write [{end}, {start}]"),
                        }));
                }
                _ => {
                    return Err(layers
                        .error("a layer range is not two layer numbers")
                        .key(format!("{path}.layer_range"))
                        .expected("[start, end]", format!("{:?}", layers.value))
                        .hint("layers are counted from 0 and the end is not included: [0, 4] are the first four"));
                }
            };
            found.push(SliceSource {
                model: self.reference(&format!("{path}.model"), source.model)?,
                layers: layers.map(range),
                statistics: self.statistics(&path, source.fisher, source.gram)?,
                parameters: self.parameters(
                    &format!("{path}.parameters"),
                    source.parameters,
                    Level::Model,
                )?,
            });
        }
        if let Some(odd) =
            found.iter().find(|s| s.layers.value.len() != found[0].layers.value.len())
        {
            let (start, length) = (odd.layers.value.start, found[0].layers.value.len());
            return Err(odd
                .layers
                .error("the sources of a slice have different numbers of layers")
                .key(format!("{path}.sources"))
                .expected(length, odd.layers.value.len())
                .hint(format!(
                    "write [{start}, {}], or change the first source",
                    start.saturating_add(length)
                )));
        }
        let base_model =
            raw.base_model.map(|base| self.reference(&format!("{path}.base_model"), base));
        Ok(Slice {
            sources: found,
            base_model: base_model.transpose()?,
            parameters: self.parameters(
                &format!("{path}.parameters"),
                raw.parameters,
                Level::Tensor,
            )?,
        })
    }

    /// The line of something, for a warning.
    pub(super) fn line<T>(&self, at: &Located<T>) -> String {
        match at.line {
            0 => "an override".to_string(),
            line if *at.file == *self.file => format!("line {line}"),
            line => format!("{}:{line}", at.file.display()),
        }
    }
}
