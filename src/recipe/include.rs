//! `include`: other files, whose keys hold where a recipe is silent.
//!
//! An included file is read as though its keys stood in the recipe: models that it names are looked
//! up from the recipe's folder, so that one name means one model in all files. Only the paths of
//! further files are relative to the file that includes them.

use super::Located;
use super::parse::parse;
use super::raw::RawRecipe;
use super::sources::{At, Source, Sources};
use super::stages::MAX_BYTES;
use crate::error::{Error, Result};
use std::io::Read;
use std::path::{Component, Path};

/// Files may include each other this deep.
const MAX_DEPTH: usize = 8;
/// A recipe may include this many files, each counted as often as it is included.
const MAX_FILES: usize = 64;

/// A document with the keys of what it includes. `chain` holds the numbers of the files that lead to
/// it, from the recipe to its own.
///
/// # Errors
/// A file cannot be included, or is no recipe.
pub(super) fn resolve(
    sources: &mut Sources,
    mut document: RawRecipe,
    chain: &[usize],
) -> Result<RawRecipe> {
    if let Some(stages) = &mut document.stages {
        for stage in &mut stages.value {
            stage.value = resolve(sources, std::mem::take(&mut stage.value), chain)?;
        }
    }
    let Some(include) = document.include.take() else {
        return Ok(document);
    };
    let mut defaults = RawRecipe::default();
    for path in include.located(sources) {
        defaults = included(sources, &path, chain)?.over(defaults);
    }
    Ok(document.over(defaults))
}

/// The document in an included file, with the keys of what it includes in turn.
fn included(sources: &mut Sources, path: &Located<String>, chain: &[usize]) -> Result<RawRecipe> {
    let number = read(sources, path, chain)?;
    let mut documents = parse(sources, number).map_err(|e| from(path, e))?.into_iter();
    let Some(At { value: document, .. }) = documents.next() else {
        return Err(refused(path, "an included file is empty"));
    };
    if documents.next().is_some() {
        return Err(refused(path, "an included file holds several documents")
            .hint("only the recipe itself may hold several; include one file for each of them"));
    }
    resolve(sources, document, &[chain, &[number]].concat())
}

/// Reads an included file, and says its number.
fn read(sources: &mut Sources, path: &Located<String>, chain: &[usize]) -> Result<usize> {
    if path.value.trim().is_empty() {
        return Err(refused(path, "the path of an included file is empty"));
    }
    let includer = sources.get(*chain.last().unwrap_or(&0));
    let file = includer.path.parent().unwrap_or(Path::new("")).join(&path.value);
    let name = beside(&includer.name, &path.value);
    if let Some(recorded) = sources.text_on_record(&name) {
        let text = recorded.ok_or_else(|| refused(path, "an included file is not on record"))?;
        check_chain(sources, path, &name, chain, |other| other.name == name)?;
        return Ok(sources.add(&file, name, text));
    }
    let metadata = std::fs::metadata(&file).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => refused(path, "an included file does not exist")
            .fact("tried", file.display())
            .hint("paths are relative to the file that includes"),
        _ => from(path, Error::io("read an included file", &file, &e)),
    })?;
    if !metadata.is_file() {
        return Err(refused(path, "what a recipe includes is not a file"));
    }
    let real = std::fs::canonicalize(&file).unwrap_or_else(|_| file.clone());
    check_chain(sources, path, &name, chain, |other| other.real == real)?;
    let left = MAX_BYTES.saturating_sub(sources.bytes());
    let mut bytes = Vec::new();
    std::fs::File::open(&file)
        .and_then(|open| open.take(left + 1).read_to_end(&mut bytes))
        .map_err(|e| from(path, Error::io("read an included file", &file, &e)))?;
    if bytes.len() as u64 > left {
        let size = metadata.len().max(left + 1);
        return Err(refused(path, "a recipe and what it includes are too large")
            .expected(format!("at most {MAX_BYTES} bytes in all, {left} left"), size));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| refused(path, "an included file is not UTF-8 text"))?;
    Ok(sources.add(&file, name, text))
}

/// Refuses what includes itself, and too many files; `same` says whether a file is the one called `name`.
fn check_chain(
    sources: &Sources,
    path: &Located<String>,
    name: &str,
    chain: &[usize],
    same: impl Fn(&Source) -> bool,
) -> Result<()> {
    let way = || {
        let names = chain.iter().map(|number| sources.get(*number).name.as_str());
        names.chain([name]).collect::<Vec<_>>().join(" → ")
    };
    if chain.iter().any(|number| same(sources.get(*number))) {
        return Err(refused(path, "files include each other in a circle").fact("files", way()));
    }
    if chain.len() > MAX_DEPTH {
        let deep = refused(path, format!("files include each other more than {MAX_DEPTH} deep"));
        return Err(deep.fact("files", way()));
    }
    if sources.count() > MAX_FILES {
        return Err(refused(path, format!("a recipe includes more than {MAX_FILES} files")));
    }
    Ok(())
}

/// An error about an included file as a whole, where it is included.
fn refused(path: &Located<String>, message: impl Into<String>) -> Error {
    path.error(message).key("include").fact("included", &path.value)
}

/// The same where the error is in that file.
fn from(path: &Located<String>, error: Error) -> Error {
    error.fact("included", format!("by {}", path.place()))
}

/// The path of a file included by another, both from the recipe's folder.
fn beside(includer: &str, path: &str) -> String {
    let joined = Path::new(includer).parent().unwrap_or(Path::new("")).join(path);
    let plain = joined.components().filter(|part| *part != Component::CurDir);
    plain.collect::<std::path::PathBuf>().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::beside;

    #[test]
    fn paths_are_taken_from_the_recipe() {
        assert_eq!(beside("recipe.yml", "a.yml"), "a.yml");
        assert_eq!(beside("recipe.yml", "./presets/a.yml"), "presets/a.yml");
        assert_eq!(beside("presets/a.yml", "b.yml"), "presets/b.yml");
        assert_eq!(beside("presets/a.yml", "../b.yml"), "presets/../b.yml");
        assert_eq!(beside("presets/a.yml", "/b.yml"), "/b.yml");
    }
}
