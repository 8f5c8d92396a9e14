//! Datasets of the Hub: `org/name`, a configuration and a split → Parquet files in the cache.
//!
//! The Hub keeps every dataset as Parquet too, in the branch `refs/convert/parquet`, with one folder
//! a configuration and one below it a split (<https://huggingface.co/docs/dataset-viewer/parquet>).
//! So no dataset's own files or scripts need to be understood.

use super::cache::RepoCache;
use super::client::{About, Client};
use super::download::Download;
use super::listing::Listing;
use super::needed::is_plain;
use super::reference::HubReference;
use super::settings::Settings;
use super::watch::Watch;
use super::{Remote, fetch_all};
use crate::error::{Error, Result, list};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// The branch of the Parquet files.
const PARQUET: &str = "refs/convert/parquet";

/// The configuration of a dataset that has one only.
const DEFAULT: &str = "default";

/// The Parquet files of a split of the dataset `reference`, in order: from the cache if `settings`
/// say offline, from the Hub otherwise, where only what the cache lacks is fetched.
///
/// # Errors
/// There is no such dataset, configuration or split; the Hub refuses it or cannot be reached.
pub fn dataset_files(
    reference: &HubReference,
    name: Option<&str>,
    split: &str,
    settings: &Settings,
    watch: &dyn Watch,
) -> Result<Vec<PathBuf>> {
    let reference = reference.clone().of_dataset(PARQUET);
    let cache = RepoCache::new(&settings.cache, &reference);
    if settings.offline {
        let absent = |what: &str| {
            Error::input(what.to_string())
                .fact("dataset", &reference.repo)
                .fact("split", split)
                .fact("cache", cache.folder().display())
                .hint("HF_HUB_OFFLINE is set; unset it to fetch the dataset, or fetch it before")
        };
        let commit =
            cache.commit().ok_or_else(|| absent("the dataset is not in the Hub's cache"))?;
        let files = choose(&cache.paths(&commit), name, split)
            .map_err(|_| absent("the Hub's cache does not hold the split"))?;
        return Ok(files.iter().map(|file| cache.snapshot(&commit).join(file)).collect());
    }
    let client = Client::new(settings);
    let listing = Listing::fetch(&client, &reference)?;
    let about = About { reference: &reference, file: None };
    let files = choose(&listing.paths, name, split).map_err(|e| about.error(e))?;
    let commit = listing.commit.clone();
    let remote: Vec<Remote> =
        files.iter().map(|path| listing.file(&client, &reference, path)).collect::<Result<_>>()?;
    let download =
        Download { client: &client, cache: &cache, reference: &reference, commit: &commit, watch };
    fetch_all(&download, remote.iter())?;
    cache.set_commit(&commit)?;
    Ok(files.iter().map(|file| cache.snapshot(&commit).join(file)).collect())
}

/// The files of a split among the paths of the branch.
fn choose(paths: &BTreeSet<String>, name: Option<&str>, split: &str) -> Result<Vec<String>> {
    // Of a large dataset the branch holds a part, whose folders are called so.
    let parts = paths.iter().filter(|path| is_plain(path) && path.ends_with(".parquet"));
    let parts = parts.filter_map(|path| {
        let (name, rest) = path.split_once('/')?;
        let (folder, _) = rest.split_once('/')?;
        Some((name, folder, path))
    });
    let parts: Vec<(&str, &str, &String)> = parts.collect();
    let names: BTreeSet<&str> = parts.iter().map(|(name, ..)| *name).collect();
    let name = match name {
        Some(name) => name,
        None if names.contains(DEFAULT) => DEFAULT,
        None => match names.iter().next() {
            Some(only) if names.len() == 1 => only,
            _ => {
                return Err(Error::input("the dataset has several configurations")
                    .key("dataset_name")
                    .expected(format!("one of {}", list(names)), "none"));
            }
        },
    };
    if !names.contains(name) {
        return Err(Error::input("the dataset has no such configuration")
            .key("dataset_name")
            .expected(format!("one of {}", list(names)), name));
    }
    let of_name = || parts.iter().filter(|(found, ..)| *found == name);
    if of_name().any(|(_, folder, _)| folder.strip_prefix("partial-") == Some(split)) {
        return Err(Error::input("the Hub keeps only a part of the split as Parquet")
            .fact("split", split)
            .hint("fetch the dataset's own files, and name them with `dataset_path: json` and `data_files`"));
    }
    let files: Vec<String> = of_name()
        .filter(|(_, folder, _)| *folder == split)
        .map(|(.., path)| path.to_string())
        .collect();
    if files.is_empty() {
        let splits: BTreeSet<&str> = of_name().map(|(_, folder, _)| *folder).collect();
        return Err(Error::input("the dataset has no such split")
            .expected(format!("one of {}", list(splits)), split));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_split() {
        let paths = |paths: &[&str]| paths.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        let two = paths(&[
            "a/test/0000.parquet",
            "a/test/0001.parquet",
            "a/train/0000.parquet",
            "b/test/0000.parquet",
            "b/partial-train/0000.parquet",
            "../x/test/0000.parquet",
        ]);
        let found = |paths: &BTreeSet<String>, name, split| {
            choose(paths, name, split).map_err(|e| e.message().to_string())
        };
        let of_a = ["a/test/0000.parquet", "a/test/0001.parquet"].map(String::from).to_vec();
        assert_eq!(found(&two, Some("a"), "test"), Ok(of_a));
        assert_eq!(found(&two, None, "test"), Err("the dataset has several configurations".into()));
        assert_eq!(
            found(&two, Some("c"), "test"),
            Err("the dataset has no such configuration".into())
        );
        assert_eq!(found(&two, Some("a"), "dev"), Err("the dataset has no such split".into()));
        assert!(found(&two, Some("b"), "train").is_err_and(|e| e.contains("only a part")));
        let one = paths(&["plain_text/test/0000.parquet"]);
        assert_eq!(found(&one, None, "test").map(|files| files.len()), Ok(1));
    }
}
