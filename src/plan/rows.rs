//! Which row of which model makes which row of the output's embedding, from vocabularies alone.
//!
//! The rules for a token are those of mergekit 0.1.5 (`tokenizer/embed.py`). A model that has the
//! token gives its own row. For the others: what the recipe says; else the row of the only model
//! that has it; else the base's, if it has it; else the mean of all that have it. With `force`, what
//! the recipe says is for every model.
//!
//! Rows without a token (padding) are kept where the model has them. With `pad_to_multiple_of` they
//! are the mean of the other rows, as in mergekit.

use crate::error::Result;
use crate::model::{Checkpoint, Missing, NONE, Place, Rows, input_embedding, module_of};
use crate::recipe::{Layout, Located, Recipe, Slice, TokenKey, TokenRow, TokenSetting};
use std::collections::{BTreeMap, BTreeSet};

/// Models whose embeddings are merged with each other.
pub(super) struct Members {
    /// The models.
    pub(super) members: Vec<usize>,
    /// The base, where it is one of them.
    pub(super) base: Option<usize>,
}

/// The groups that embeddings and heads are merged in: all models; or, for slices, those of the
/// first slice for what stands before the layers and those of the last for what stands behind.
///
/// Of modules, the one that holds the embeddings decides.
pub(super) fn groups(recipe: &Recipe, models: &[Checkpoint]) -> Vec<(Members, Option<Place>)> {
    let mut layout = &recipe.layout;
    if let Layout::Modules(modules) = layout {
        let names: Vec<&str> = modules.iter().map(|module| module.name.value.as_str()).collect();
        let embedding = models.iter().find_map(|model| {
            input_embedding(model.tensors().map(|(name, _)| name).collect::<Vec<_>>().into_iter())
        });
        let holder = embedding.and_then(|name| module_of(&names, name)).unwrap_or(0);
        layout = &modules[holder].layout;
    }
    let find = |reference: &Located<String>| {
        models.iter().position(|model| model.reference == reference.value)
    };
    match layout {
        Layout::Modules(_) => Vec::new(),
        Layout::Mixture(_) | Layout::Surgery(_) => {
            let base = recipe.base_model.as_ref().and_then(find);
            vec![(Members { members: (0..models.len()).collect(), base }, None)]
        }
        Layout::Models(inputs) => {
            let mut members: Vec<usize> =
                inputs.iter().filter_map(|input| find(&input.model)).collect();
            let base = recipe.base_model.as_ref().and_then(find);
            members.extend(base.filter(|base| !members.contains(base)));
            vec![(Members { members, base }, None)]
        }
        Layout::Slices(slices) => {
            let ends = [(slices.first(), Place::Before), (slices.last(), Place::Behind)];
            let group = |(slice, place): (Option<&Slice>, Place)| {
                let slice = slice?;
                let members: Vec<usize> =
                    slice.sources.iter().filter_map(|source| find(&source.model)).collect();
                let base = slice.base_model.as_ref().or(recipe.base_model.as_ref());
                let base = base.and_then(find).filter(|base| members.contains(base));
                Some((Members { members, base }, Some(place)))
            };
            ends.into_iter().filter_map(group).collect()
        }
    }
}

/// A model as far as its vocabulary goes.
pub(super) struct Lexicon {
    /// How the recipe refers to it.
    pub(super) reference: String,
    /// Its tokens with their ids, all below `rows`.
    pub(super) ids: BTreeMap<String, u32>,
    /// Rows of its embedding.
    pub(super) rows: usize,
}

/// The output's vocabulary.
pub(super) struct Target<'a> {
    pub(super) recipe: &'a Recipe,
    /// Its tokens with their ids.
    pub(super) ids: &'a BTreeMap<String, u32>,
    /// Rows of its embedding.
    pub(super) rows: usize,
    /// Whether rows without a token are averages.
    pub(super) padded: bool,
    /// The model whose tokenizer the output has.
    pub(super) template: Option<usize>,
    pub(super) tokens: &'a [TokenSetting],
}

impl Target<'_> {
    /// The table for some of the models, the base among them at `base`.
    ///
    /// # Errors
    /// The recipe takes a row from a model that does not have it, or that is not merged here.
    pub(super) fn table(
        &self,
        models: &[Lexicon],
        members: &[usize],
        base: Option<usize>,
        warnings: &mut BTreeSet<String>,
    ) -> Result<Rows> {
        let mut own = vec![vec![NONE; self.rows]; members.len()];
        let mut missing = vec![Missing::Zero; self.rows];
        let mut named = vec![false; self.rows];
        let mut nowhere = Vec::new();
        let settings: BTreeMap<&str, &TokenSetting> =
            self.tokens.iter().map(|setting| (setting.token.value.as_str(), setting)).collect();
        let base = base.and_then(|base| members.iter().position(|member| *member == base));
        for (token, id) in self.ids {
            let id = *id as usize;
            named[id] = true;
            let mut have = Vec::new();
            for (at, member) in members.iter().enumerate() {
                if let Some(row) = models[*member].ids.get(token) {
                    own[at][id] = *row;
                    have.push((at, *row));
                }
            }
            let setting = settings.get(token.as_str()).copied();
            let force = setting.is_some_and(|setting| setting.force);
            if have.len() == members.len() && !force {
                continue;
            }
            let row = |(member, row): (usize, u32)| Missing::Row { member: member as u32, row };
            missing[id] = match (setting.and_then(|s| Some((s, s.row.as_ref()?))), &have[..]) {
                (Some((setting, wanted)), _) => {
                    self.wanted(&setting.token, wanted, models, members)?
                }
                (None, []) => {
                    nowhere.push(token.as_str());
                    Missing::Zero
                }
                (None, [only]) => row(*only),
                (None, _) => {
                    let of_base = have.iter().find(|(at, _)| Some(*at) == base);
                    of_base.map_or(Missing::Mean, |found| row(*found))
                }
            };
            if force {
                own.iter_mut().for_each(|own| own[id] = NONE);
            }
        }
        if !nowhere.is_empty() {
            warnings.insert(format!(
                "no model has these tokens, whose rows are zero: {}",
                crate::error::list(nowhere)
            ));
        }
        self.padding(models, members, &named, &mut own, &mut missing);
        Ok(Rows { own, missing })
    }

    /// Rows without a token.
    fn padding(
        &self,
        models: &[Lexicon],
        members: &[usize],
        named: &[bool],
        own: &mut [Vec<u32>],
        missing: &mut [Missing],
    ) {
        let tokens_of =
            |member: usize| models[member].ids.values().copied().collect::<BTreeSet<u32>>();
        let template = members.iter().position(|member| Some(*member) == self.template);
        let template = template.map(|at| (at, tokens_of(members[at])));
        let unnamed: Vec<usize> = (0..self.rows).filter(|row| !named[*row]).collect();
        for row in &unnamed {
            missing[*row] = match &template {
                Some((at, tokens))
                    if !self.padded
                        && *row < models[members[*at]].rows
                        && !tokens.contains(&(*row as u32)) =>
                {
                    Missing::Row { member: *at as u32, row: *row as u32 }
                }
                _ => Missing::Average,
            };
        }
        if self.padded {
            return;
        }
        for (own, member) in own.iter_mut().zip(members) {
            let tokens = tokens_of(*member);
            for row in &unnamed {
                if *row < models[*member].rows && !tokens.contains(&(*row as u32)) {
                    own[*row] = *row as u32;
                }
            }
        }
    }

    /// The row that the recipe names for a token.
    fn wanted(
        &self,
        token: &Located<String>,
        wanted: &TokenRow,
        models: &[Lexicon],
        members: &[usize],
    ) -> Result<Missing> {
        let (reference, key) = match wanted {
            TokenRow::Zero => return Ok(Missing::Zero),
            TokenRow::Model(model) => (model, TokenKey::Text(token.value.clone())),
            TokenRow::ModelToken(model, key) => (model, key.clone()),
        };
        let error = |message: &str| {
            self.recipe
                .error(reference, message)
                .key(format!("tokenizer.tokens.{}", token.value))
                .fact("model", &reference.value)
        };
        let member = members.iter().position(|at| models[*at].reference == reference.value);
        let member = member.ok_or_else(|| {
            error("a token's row comes from a model that is not merged").expected(
                "one of the models whose embeddings are merged",
                crate::error::list(members.iter().map(|at| models[*at].reference.as_str())),
            )
        })?;
        let lexicon = &models[members[member]];
        let row = match key {
            TokenKey::Id(id) if (id as usize) < lexicon.rows => id,
            TokenKey::Id(id) => {
                return Err(error("a token id is behind the last row of the model")
                    .expected(format!("an id below {}", lexicon.rows), id));
            }
            TokenKey::Text(text) => *lexicon.ids.get(&text).ok_or_else(|| {
                let error =
                    error("a model lacks the token that its row is asked for").fact("token", &text);
                error.hint("name another token of the model with {kind: model_token, model, token}")
            })?,
        };
        Ok(Missing::Row { member: member as u32, row })
    }
}
