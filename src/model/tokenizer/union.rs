//! The union of several vocabularies: the base's ids kept, other tokens behind them.
//!
//! What holds of the result:
//! - every token of the base has its id, every token of every model is there;
//! - BPE: the base's merges come first, in their order, so that a text is cut as by the base, and
//!   then runs of these tokens may be joined to tokens of other models. Entries of the base that
//!   encoded to themselves still do;
//! - BPE: an entry of another model that encoded to itself there, but would be cut otherwise now
//!   because the merges rank pairs differently, gets a merge of its two parts at the end. Where it
//!   is cut into more parts than can be joined, it stays cut: such entries are counted;
//! - Unigram: pieces of the base keep their scores, others bring their own. Scores of two models are
//!   not on one scale, so texts may be cut differently; entries that no longer encode to themselves
//!   are counted.
//!
//! A text that the models cut differently cannot keep both ways.

use super::Tokenizer;
use super::encode::Encoder;
use super::file::{AddedToken, Kind, Model, Pieces, TokenizerFile};
use crate::error::{Error, Result, list};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Rounds of joining: a join can make the parts of another one.
const ROUNDS: usize = 4;

/// A united tokenizer, and what the user should know of it.
pub(crate) struct United {
    /// The tokenizer.
    pub(crate) file: TokenizerFile,
    /// Decisions and losses.
    pub(crate) warnings: Vec<String>,
}

/// Unites the base's tokenizer with others, given with their references.
///
/// # Errors
/// They are of different kinds, or spell tokens differently.
pub(crate) fn unite(base: (&str, &Tokenizer), others: &[(&str, &Tokenizer)]) -> Result<United> {
    let mut warnings = Vec::new();
    for other in others {
        check_alike(base, *other, &mut warnings)?;
    }
    let mut file = base.1.file.clone();
    let mut known = file.owned_vocabulary();
    let added = added(&file);
    if others.iter().all(|(_, other)| {
        other.vocabulary().keys().all(|token| known.contains_key(*token))
            && other.file.added.iter().all(|token| added.contains(token.content.as_str()))
    }) && others.iter().all(|(_, other)| other.file.model.merges == file.model.merges)
    {
        return Ok(United { file, warnings });
    }
    let mut next = known.values().max().map_or(0, |id| id + 1);
    // The ids of added tokens must not depend on how many entries follow them.
    file.pin_ids()?;
    let mut rescored = BTreeSet::new();
    let base_scores = scores(&base.1.file.model);
    for (reference, other) in others {
        let mut vocabulary: Vec<(&str, u32)> = other.vocabulary().into_iter().collect();
        vocabulary.sort_by_key(|(_, id)| *id);
        let scores = scores(&other.file.model);
        let mut lowest = lowest(&file.model);
        for (token, _) in vocabulary {
            if let Some((theirs, ours)) = scores.get(token).zip(base_scores.get(token))
                && theirs != ours
            {
                rescored.insert(token.to_string());
            }
            if known.contains_key(token) {
                continue;
            }
            known.insert(token.to_string(), next);
            match &mut file.model.pieces {
                Pieces::Ids(ids) => ids.push((token.to_string(), next)),
                Pieces::Scores(pieces) => {
                    let score = *scores.get(token).unwrap_or(&lowest);
                    lowest = lowest.min(score);
                    pieces.push((token.to_string(), score));
                }
            }
            next += 1;
        }
        add_added(&mut file, &known, reference, &other.file.added, &mut warnings);
        add_merges(&mut file.model, &other.file.model);
    }
    if !rescored.is_empty() {
        warnings.push(format!(
            "{} pieces have other scores in other models; the base's count: {}",
            rescored.len(),
            list(rescored.iter().map(String::as_str))
        ));
    }
    join_cut(&mut file, base, others, &mut warnings)?;
    Ok(United { file, warnings })
}

/// Adds tokens that the recipe names and the vocabulary lacks; returns those that were added.
///
/// # Errors
/// The ids of the tokenizer have a hole where its kind cannot have one.
pub(crate) fn add_tokens<'a>(
    file: &mut TokenizerFile,
    tokens: impl Iterator<Item = &'a str>,
) -> Result<Vec<&'a str>> {
    let mut known: BTreeSet<String> = file.owned_vocabulary().into_keys().collect();
    let mut next = file.vocabulary().values().max().map_or(0, |id| id + 1);
    let mut added = Vec::new();
    for token in tokens {
        if known.insert(token.to_string()) {
            file.added.push(AddedToken::plain(token, next));
            added.push(token);
            next += 1;
        }
    }
    if !added.is_empty() {
        file.pin_ids()?;
    }
    Ok(added)
}

/// The texts of the added tokens.
fn added(file: &TokenizerFile) -> BTreeSet<&str> {
    file.added.iter().map(|token| token.content.as_str()).collect()
}

/// The lowest score of a model's pieces, 0 if none is below.
fn lowest(model: &Model) -> f64 {
    match &model.pieces {
        Pieces::Ids(_) => 0.0,
        Pieces::Scores(scores) => scores.iter().map(|(_, score)| *score).fold(0.0, f64::min),
    }
}

fn scores(model: &Model) -> BTreeMap<&str, f64> {
    match &model.pieces {
        Pieces::Ids(_) => BTreeMap::new(),
        Pieces::Scores(scores) => {
            scores.iter().map(|(token, score)| (token.as_str(), *score)).collect()
        }
    }
}

/// Two tokenizers can be united if they are of one kind and spell the same text alike.
fn check_alike(
    base: (&str, &Tokenizer),
    other: (&str, &Tokenizer),
    warnings: &mut Vec<String>,
) -> Result<()> {
    let (a, b) = (&base.1.file, &other.1.file);
    let refuse = |what: &str, expected: String, found: String| {
        Err(Error::input(what)
            .fact("model", other.0)
            .fact("base", base.0)
            .expected(expected, found)
            .hint("no union of the two cuts text as either did; take one vocabulary with `tokenizer_source: base` or a model"))
    };
    if a.model.kind != b.model.kind {
        return refuse(
            "the tokenizers are of different kinds",
            a.model.kind.name().to_string(),
            b.model.kind.name().to_string(),
        );
    }
    for key in ["continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"] {
        let value = |model: &Model| match model.rest.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => "none".to_string(),
            Some(Value::String(text)) if text.is_empty() => "none".to_string(),
            Some(value) => value.to_string(),
        };
        let (a, b) = (value(&a.model), value(&b.model));
        if a != b {
            return refuse(
                "the tokenizers spell tokens differently",
                format!("{key}: {a}"),
                format!("{key}: {b}"),
            );
        }
    }
    if spelling(a) != spelling(b) {
        return refuse(
            "the tokenizers spell tokens differently",
            spelling(a).to_string(),
            spelling(b).to_string(),
        );
    }
    let differ = ["normalizer", "pre_tokenizer", "decoder"].into_iter().filter(|key| {
        a.rest.get(*key).unwrap_or(&Value::Null) != b.rest.get(*key).unwrap_or(&Value::Null)
    });
    let mut differ: Vec<&str> = differ.collect();
    if a.model.rest.get("ignore_merges") != b.model.rest.get("ignore_merges") {
        differ.push("ignore_merges");
    }
    if a.model.rest.get("unk_token") != b.model.rest.get("unk_token") {
        differ.push("unk_token");
    }
    if !differ.is_empty() {
        warnings.push(format!(
            "the tokenizers of {} and {} differ in {}; the union has the first one's",
            base.0,
            other.0,
            differ.join(", ")
        ));
    }
    Ok(())
}

/// How text is spelt in tokens: bytes as characters, or spaces as `▁`.
fn spelling(file: &TokenizerFile) -> &'static str {
    let text = |key: &str| file.rest.get(key).map(Value::to_string).unwrap_or_default();
    let text = ["pre_tokenizer", "decoder", "normalizer"].map(text).concat();
    if text.contains("\"ByteLevel\"") {
        "bytes as characters (ByteLevel)"
    } else if text.contains("\"Metaspace\"") || text.contains('▁') {
        "spaces as ▁ (Metaspace)"
    } else {
        "plain text"
    }
}

fn add_added(
    file: &mut TokenizerFile,
    known: &BTreeMap<String, u32>,
    reference: &str,
    added: &[AddedToken],
    warnings: &mut Vec<String>,
) {
    let mut differ = BTreeSet::new();
    let mut places: BTreeMap<String, usize> =
        file.added.iter().enumerate().map(|(at, token)| (token.content.clone(), at)).collect();
    for token in added {
        match places.get(&token.content).and_then(|at| file.added.get(*at)) {
            Some(ours) if !ours.same_settings(token) => {
                differ.insert(token.content.as_str());
            }
            Some(_) => {}
            None => {
                let id = known.get(&token.content).copied().unwrap_or(token.id);
                places.insert(token.content.clone(), file.added.len());
                file.added.push(AddedToken { id, ..token.clone() });
            }
        }
    }
    file.added.sort_by_key(|token| token.id);
    if !differ.is_empty() {
        warnings.push(format!(
            "{reference} adds tokens with other settings than an earlier model, whose settings count: {}",
            list(differ)
        ));
    }
}

/// Adds the other's merges behind those that are there.
fn add_merges(model: &mut Model, other: &Model) {
    let known: BTreeSet<(&str, &str)> =
        model.merges.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let new: Vec<(String, String)> = other
        .merges
        .iter()
        .filter(|(a, b)| !known.contains(&(a.as_str(), b.as_str())))
        .cloned()
        .collect();
    model.merges.extend(new);
}

/// Finds the entries that encoded to themselves and no longer do; BPE's get a merge of their own
/// where that is possible.
fn join_cut(
    file: &mut TokenizerFile,
    base: (&str, &Tokenizer),
    others: &[(&str, &Tokenizer)],
    warnings: &mut Vec<String>,
) -> Result<()> {
    let mut wanted: Vec<Vec<String>> = Vec::new();
    for (reference, tokenizer) in std::iter::once(&base).chain(others) {
        let encoder =
            Encoder::new(&tokenizer.file.model).map_err(|e| e.fact("model", reference))?;
        let added = added(&tokenizer.file);
        let entries = tokenizer.file.model.ids().into_iter().map(|(token, _)| token);
        let entries = entries.filter(|token| !added.contains(token));
        let whole = entries.filter(|token| encoder.whole(token)).map(str::to_string);
        wanted.push(whole.collect());
    }
    let mut joined = 0;
    let mut cut: Vec<Vec<String>> = Vec::new();
    for round in 0..=ROUNDS {
        let encoder = Encoder::new(&file.model)?;
        let is_cut = |token: &String| !encoder.whole(token);
        cut =
            wanted.iter().map(|all| all.iter().filter(|t| is_cut(t)).cloned().collect()).collect();
        if file.model.kind != Kind::Bpe || round == ROUNDS {
            break;
        }
        let mut merges: BTreeSet<(String, String)> = file.model.merges.iter().cloned().collect();
        let mut new: Vec<(String, String)> = Vec::new();
        for token in cut.iter().flatten() {
            let Some(parts) = encoder.tokens(token) else { continue };
            if let [a, b] = &parts[..]
                && format!("{a}{b}") == *token
            {
                let pair = (a.clone(), b.clone());
                if merges.insert(pair.clone()) {
                    new.push(pair);
                }
            }
        }
        if new.is_empty() {
            break;
        }
        joined += new.len();
        file.model.merges.extend(new);
    }
    if joined > 0 {
        warnings.push(format!(
            "the merges of the tokenizers rank some pairs differently; {joined} merges were added so that entries still encode to themselves"
        ));
    }
    for ((reference, _), cut) in std::iter::once(&base).chain(others).zip(&cut) {
        if !cut.is_empty() {
            warnings.push(format!(
                "{} entries of the vocabulary of {reference} are cut into several tokens by the union, because the models' rules contradict each other: {}",
                cut.len(),
                list(cut.iter().map(String::as_str))
            ));
        }
    }
    Ok(())
}
