//! The output's vocabulary: its tokenizer, the models' embeddings seen in it, and the files that
//! follow.

mod files;

use super::rows::{Lexicon, Target, groups};
use crate::error::{Error, Result, list};
use crate::model::{
    Checkpoint, RemappedRows, Source, Stacks, TOKENIZER, Tokenizer, TokenizerFile, United,
    add_tokens, input_embedding, is_vocabulary_tensor, unite,
};
use crate::recipe::{Located, Recipe, TokenRow, TokenizerSettings, TokenizerSource};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

/// What becomes of the vocabulary. The default changes nothing.
#[derive(Default)]
pub struct Vocabulary {
    /// Rows of the donor's embedding, and of the output's, where the recipe decides on it.
    rows: Option<(usize, usize)>,
    /// Files to write, by path; those of the donor with these names are not copied.
    pub(super) files: BTreeMap<String, Vec<u8>>,
    /// Whether the donor's other tokenizer files are left behind.
    replaced: bool,
    /// The donor's token ids in the output's vocabulary, where they differ.
    moved: Option<BTreeMap<u32, u32>>,
    /// What was decided, in words.
    pub(super) notes: Vec<String>,
    /// What the user should look at.
    pub(super) warnings: Vec<String>,
    /// What the lineage records of it.
    pub(super) lineage: Value,
}

/// Where the output's tokenizer comes from.
struct Chosen {
    file: TokenizerFile,
    folder: PathBuf,
    /// The model, where it is one that is merged.
    model: Option<usize>,
    /// Whether `file` is no longer what the folder holds.
    edited: bool,
}

impl Vocabulary {
    /// Decides on the output's vocabulary and shows each model's embeddings in it. `donor` is the
    /// base or the first model; `find` gives the folder behind a reference.
    ///
    /// # Errors
    /// Vocabularies that differ without a word about it in the recipe; tokenizers that cannot be
    /// read or united; rows that no model has.
    pub fn resolve(
        recipe: &Recipe,
        models: Vec<Checkpoint>,
        donor: usize,
        find: impl Fn(&Located<String>) -> Result<PathBuf>,
    ) -> Result<(Vec<Checkpoint>, Self)> {
        let mut vocabulary = Self::default();
        let models = match &recipe.tokenizer {
            Some(settings) => vocabulary.unify(recipe, settings, models, donor, find)?,
            None => {
                same_vocabularies(recipe, &models, &mut vocabulary.warnings)?;
                models
            }
        };
        if let Some(template) = &recipe.chat_template {
            vocabulary.chat_template(template, &models, donor)?;
        }
        Ok((models, vocabulary))
    }

    fn unify(
        &mut self,
        recipe: &Recipe,
        settings: &TokenizerSettings,
        models: Vec<Checkpoint>,
        donor: usize,
        find: impl Fn(&Located<String>) -> Result<PathBuf>,
    ) -> Result<Vec<Checkpoint>> {
        named_models_are_merged(recipe, settings, &models)?;
        let mut tokenizers = self.tokenizers(&models, donor)?;
        let mut lexicons = Vec::new();
        for (model, tokenizer) in models.iter().zip(&mut tokenizers) {
            lexicons.push(self.lexicon(model, tokenizer)?);
        }
        let mut chosen = self.choose(recipe, settings, &models, &tokenizers, donor, find)?;
        let names = settings.tokens.iter().map(|setting| setting.token.value.as_str());
        let added = add_tokens(&mut chosen.file, names)?;
        if !added.is_empty() {
            chosen.edited = true;
            self.notes.push(format!("tokens that the recipe adds: {}", list(added)));
        }
        let ids = chosen.file.owned_vocabulary();
        let rows = self.count_rows(settings, &ids, &chosen, &lexicons);
        let target = Target {
            recipe,
            ids: &ids,
            rows,
            padded: settings.pad_to_multiple_of.is_some(),
            template: chosen.model,
            tokens: &settings.tokens,
        };
        let models = self.show(recipe, models, &lexicons, &target)?;
        if chosen.model != Some(donor) {
            let moved = lexicons[donor].ids.iter();
            let moved = moved.filter_map(|(token, id)| Some((*id, *ids.get(token)?)));
            self.moved = Some(moved.collect());
        }
        self.rows = Some((lexicons[donor].rows, rows));
        self.write_tokenizer(&chosen, &models[donor].folder)?;
        self.move_generation_ids(&models[donor].folder)?;
        let source = match &settings.source.value {
            TokenizerSource::Union => "union",
            TokenizerSource::Base => "base",
            TokenizerSource::Model(reference) => reference,
        };
        self.notes.insert(0, format!("{} tokens, {rows} rows, from {source}", ids.len()));
        self.lineage = json!({
            "source": source,
            "models": models.iter().map(|model| &model.reference).collect::<Vec<_>>(),
            "tokens": ids.len(),
            "rows": rows,
            "decided": settings.tokens.iter().map(|s| &s.token.value).collect::<Vec<_>>(),
            "pad_to_multiple_of": settings.pad_to_multiple_of.as_ref().map(|pad| pad.value),
        });
        Ok(models)
    }

    /// Every model's tokenizer; a model without one is taken to have the base's.
    fn tokenizers(&mut self, models: &[Checkpoint], donor: usize) -> Result<Vec<Tokenizer>> {
        let base = Tokenizer::open(&models[donor].folder)?.ok_or_else(|| {
            Error::input("the base model has no tokenizer")
                .file(&models[donor].folder.join(TOKENIZER))
                .hint("leave `tokenizer` and `tokenizer_source` out, or copy the tokenizer into the model's folder")
        })?;
        let mut all = Vec::new();
        for (i, model) in models.iter().enumerate() {
            if i == donor {
                all.push(base.clone());
                continue;
            }
            all.push(match Tokenizer::open(&model.folder)? {
                Some(tokenizer) => tokenizer,
                None => {
                    self.warnings.push(format!(
                        "{} has no tokenizer; it is taken to have that of {}",
                        model.reference, models[donor].reference
                    ));
                    base.clone()
                }
            });
        }
        Ok(all)
    }

    /// A model's tokens as far as it has rows for them.
    fn lexicon(&mut self, model: &Checkpoint, tokenizer: &mut Tokenizer) -> Result<Lexicon> {
        let names: Vec<&str> = model.tensors().map(|(name, _)| name).collect();
        let embedding = input_embedding(names.iter().copied());
        let rows = embedding
            .and_then(|name| model.tensor(name))
            .and_then(|tensor| tensor.spec().shape.first().copied())
            .ok_or_else(|| {
                Error::input("a model has no embedding that is known by name")
                    .file(&model.folder)
                    .hint(
                        "without `tokenizer` and `tokenizer_source` its tensors merge as they are",
                    )
            })?;
        let beyond = tokenizer.file.strip(u32::try_from(rows).unwrap_or(u32::MAX));
        if !beyond.is_empty() {
            self.warnings.push(format!(
                "{} has no rows for these tokens of its tokenizer, which are left out: {}",
                model.reference,
                list(beyond.iter().map(String::as_str))
            ));
            tokenizer.from_beside = true;
        }
        let ids = tokenizer.file.owned_vocabulary();
        Ok(Lexicon { reference: model.reference.clone(), ids, rows })
    }

    fn choose(
        &mut self,
        recipe: &Recipe,
        settings: &TokenizerSettings,
        models: &[Checkpoint],
        tokenizers: &[Tokenizer],
        donor: usize,
        find: impl Fn(&Located<String>) -> Result<PathBuf>,
    ) -> Result<Chosen> {
        let taken = |model: usize| Chosen {
            file: tokenizers[model].file.clone(),
            folder: tokenizers[model].folder.clone(),
            model: Some(model),
            edited: tokenizers[model].from_beside,
        };
        match &settings.source.value {
            TokenizerSource::Base => Ok(taken(donor)),
            TokenizerSource::Union => {
                let name = |i: usize| (models[i].reference.as_str(), &tokenizers[i]);
                let others: Vec<_> = (0..models.len()).filter(|i| *i != donor).map(name).collect();
                let United { file, warnings } =
                    unite(name(donor), &others).map_err(|e| at(recipe, &settings.source, e))?;
                self.warnings.extend(warnings);
                let mut chosen = taken(donor);
                let before = &chosen.file;
                chosen.edited |= before.added != file.added
                    || before.vocabulary().len() != file.vocabulary().len()
                    || before.model.merges.len() != file.model.merges.len();
                Ok(Chosen { file, ..chosen })
            }
            TokenizerSource::Model(reference) => {
                if let Some(model) = models.iter().position(|m| m.reference == *reference) {
                    return Ok(taken(model));
                }
                let folder = find(&settings.source.map(reference.clone()))?;
                let tokenizer = Tokenizer::open(&folder)?.ok_or_else(|| {
                    recipe
                        .error(&settings.source, "the tokenizer's folder holds no tokenizer")
                        .key("tokenizer")
                        .expected(folder.join(TOKENIZER).display(), "none")
                })?;
                let edited = tokenizer.from_beside;
                Ok(Chosen { file: tokenizer.file, folder, model: None, edited })
            }
        }
    }

    /// Rows of the output's embedding: enough for every token; those of the tokenizer's model if it
    /// has more, unless the recipe says how to pad.
    fn count_rows(
        &mut self,
        settings: &TokenizerSettings,
        ids: &BTreeMap<String, u32>,
        chosen: &Chosen,
        lexicons: &[Lexicon],
    ) -> usize {
        let needed = ids.values().max().map_or(0, |id| *id as usize + 1);
        let template = chosen.model.map_or(0, |model| lexicons[model].rows);
        match &settings.pad_to_multiple_of {
            Some(multiple) => {
                let rows = needed.next_multiple_of(multiple.value as usize);
                if rows < template {
                    self.notes.push(format!(
                        "rows without a token are dropped, as pad_to_multiple_of asks: {template} → {rows}"
                    ));
                }
                rows
            }
            None => needed.max(template),
        }
    }

    /// Shows each model's embeddings and heads in the output's vocabulary.
    fn show(
        &mut self,
        recipe: &Recipe,
        models: Vec<Checkpoint>,
        lexicons: &[Lexicon],
        target: &Target<'_>,
    ) -> Result<Vec<Checkpoint>> {
        let mut warnings = BTreeSet::new();
        let mut replaced = vec![BTreeMap::new(); models.len()];
        for (group, part) in groups(recipe, &models) {
            let rows =
                Arc::new(target.table(lexicons, &group.members, group.base, &mut warnings)?);
            for (at, member) in group.members.iter().enumerate() {
                let model = &models[*member];
                if rows.unchanged(at, lexicons[*member].rows) {
                    continue;
                }
                for (name, tensor) in model.tensors() {
                    let stack = model.stacks.single().map(|(stack, _)| stack).unwrap_or_default();
                    let here = part.is_none_or(|part| Stacks::place(stack, name) == part);
                    if !here || !is_vocabulary_tensor(name) {
                        continue;
                    }
                    let found = tensor.spec().shape.first().copied();
                    if found != Some(lexicons[*member].rows) {
                        return Err(Error::input("a tensor that should have a row for each token has another number of rows")
                            .file(&model.folder)
                            .tensor(name)
                            .expected(format!("{} rows", lexicons[*member].rows), format!("{:?}", tensor.spec().shape)));
                    }
                    let sources: Arc<[Option<Arc<dyn Source>>]> =
                        group.members.iter().map(|m| models[*m].shared_or_tied(name)).collect();
                    let shown = RemappedRows::new(Arc::clone(&rows), sources, at)
                        .map_err(|e| e.fact("model", &model.reference))?;
                    replaced[*member].insert(name.to_string(), Arc::new(shown) as Arc<dyn Source>);
                }
            }
        }
        self.warnings.extend(warnings);
        let shown = models.into_iter().zip(replaced);
        Ok(shown.map(|(model, replaced)| model.with_tensors(replaced)).collect())
    }
}

/// Without a word in the recipe, models with tokenizers must have the same vocabulary.
fn same_vocabularies(
    recipe: &Recipe,
    models: &[Checkpoint],
    warnings: &mut Vec<String>,
) -> Result<()> {
    let mut first: Option<(&Checkpoint, Vec<u8>)> = None;
    for model in models {
        let path = model.folder.join(TOKENIZER);
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let Some((other, known)) = &first else {
            first = Some((model, bytes));
            continue;
        };
        if *known == bytes {
            continue;
        }
        let (a, b) = match (Tokenizer::open(&other.folder), Tokenizer::open(&model.folder)) {
            (Ok(Some(a)), Ok(Some(b))) => (a, b),
            (Err(e), _) | (_, Err(e)) => {
                // Nothing is made of the tokenizers, so one that is not understood stops nothing.
                warnings.push(format!(
                    "the vocabularies of {} and {} were not compared: {}",
                    other.reference,
                    model.reference,
                    e.message()
                ));
                continue;
            }
            _ => continue,
        };
        if let Some((expected, found)) = a.difference(&b) {
            let message = "the models have different vocabularies";
            return Err(super::compatible::at(recipe, model, message)
                .key("tokenizer_source")
                .expected(format!("{expected} ({})", other.reference), format!("{found} ({})", model.reference))
                .hint("say whose the output has: `tokenizer_source: union` for all tokens, `base` for the base's, or a model; rows are then merged by token"));
        }
    }
    Ok(())
}

/// Every model that a token's row is to come from is one that is merged.
fn named_models_are_merged(
    recipe: &Recipe,
    settings: &TokenizerSettings,
    models: &[Checkpoint],
) -> Result<()> {
    for setting in &settings.tokens {
        let (TokenRow::Model(reference) | TokenRow::ModelToken(reference, _)) = (match &setting.row
        {
            Some(row) => row,
            None => continue,
        }) else {
            continue;
        };
        if models.iter().all(|model| model.reference != reference.value) {
            return Err(recipe
                .error(reference, "a token's row comes from a model that is not merged")
                .key(format!("tokenizer.tokens.{}", setting.token.value))
                .fact("model", &reference.value)
                .expected(
                    "one of the models of the recipe",
                    list(models.iter().map(|model| model.reference.as_str())),
                ));
        }
    }
    Ok(())
}

/// An error with the place of a key of the recipe.
fn at<T>(recipe: &Recipe, place: &Located<T>, error: Error) -> Error {
    let located = recipe.error(place, String::new());
    match located.get("file") {
        Some(file) => error.fact("file", file),
        None => error,
    }
}
