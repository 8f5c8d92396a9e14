//! Which files of a repository a merge needs.

use crate::error::{Error, Result, list};
use crate::model::weights::FORMATS;
use crate::model::{is_weight_file, parse_index, sidecars};
use std::collections::BTreeSet;

/// What an adapter of PEFT consists of.
const ADAPTER_CONFIG: &str = "adapter_config.json";
const ADAPTER_WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// What a model says of its own origin, which the lineage of a merge records.
const DECLARATIONS: [&str; 4] =
    ["README.md", "lineage.json", "mergekit_config.yml", "mergekit_moe_config.yml"];

/// The files a merge needs, as far as names tell.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Needed {
    /// Config, tokenizer and other files beside the weights, sorted.
    pub(super) beside: Vec<String>,
    /// The index that names the shards.
    pub(super) index: Option<String>,
    /// Weights that no index names, sorted.
    pub(super) weights: Vec<String>,
}

impl Needed {
    /// Chooses among the paths of a repository. Safetensors come before pickles, an index before
    /// a single file, as when a folder is opened.
    pub(super) fn of(paths: &BTreeSet<String>) -> Self {
        let has = |name: &str| paths.contains(name);
        let mut needed = Self::default();
        for path in paths.iter().filter(|path| is_plain(path)) {
            let own = ["config.json", ADAPTER_CONFIG].contains(&path.as_str())
                || DECLARATIONS.contains(&path.as_str());
            if own || sidecars::belongs(path) {
                needed.beside.push(path.clone());
            }
        }
        if has(ADAPTER_CONFIG) {
            needed
                .weights
                .extend(ADAPTER_WEIGHTS.iter().find(|name| has(name)).map(|name| name.to_string()));
        }
        for format in &FORMATS {
            let own =
                |path: &&String| format.is_shard(path) && !path.contains('/') && is_plain(path);
            let adapter = |path: &&String| ADAPTER_WEIGHTS.contains(&path.as_str());
            let shards = paths.iter().filter(own).filter(|path| !adapter(path));
            let shards: BTreeSet<String> = shards.cloned().collect();
            if has(format.index) {
                needed.index = Some(format.index.to_string());
            } else if has(format.single) {
                needed.weights.push(format.single.to_string());
            } else if shards.len() == 1 || format.numbered_set(&shards) {
                needed.weights.extend(shards);
            } else {
                continue;
            }
            break;
        }
        needed.weights.sort();
        needed
    }

    /// Whether there is no weight to merge.
    pub(super) fn is_empty(&self) -> bool {
        self.index.is_none() && self.weights.is_empty()
    }
}

/// The shards that an index names, all of which must be among `paths`.
pub(super) fn shards(index: &[u8], paths: &BTreeSet<String>) -> Result<Vec<String>> {
    let named: BTreeSet<String> = parse_index(index)?.into_values().collect();
    let missing = || named.iter().filter(|file| !paths.contains(*file)).map(String::as_str);
    if missing().next().is_some() {
        return Err(Error::input("the index names shards that are not there")
            .fact("missing", list(missing())));
    }
    Ok(named.into_iter().collect())
}

/// The files of weights among the paths, for a message.
pub(super) fn weights_among(paths: &BTreeSet<String>) -> String {
    match list(paths.iter().filter(|path| is_weight_file(path)).map(String::as_str)) {
        found if found.is_empty() => "none".to_string(),
        found => found,
    }
}

/// Whether a path of the server's stays below the folder it is put into.
pub(super) fn is_plain(path: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part != "." && part != "..";
    path.len() <= 255
        && path.split('/').all(part)
        && !path.contains(|c: char| c.is_control() || c == '\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(paths: &[&str]) -> Needed {
        Needed::of(&paths.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_sharded_model() {
        let needed = of(&[
            ".gitattributes",
            "README.md",
            "config.json",
            "consolidated.safetensors",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "original/consolidated.00.pth",
            "onnx/model.onnx",
            "pytorch_model.bin",
            "tokenizer.json",
            "1_Pooling/config.json",
            "training_args.bin",
            "figures/plot.png",
            "LICENSE",
        ]);
        assert_eq!(
            needed.beside,
            ["1_Pooling/config.json", "LICENSE", "README.md", "config.json", "tokenizer.json"]
        );
        assert_eq!(needed.index.as_deref(), Some("model.safetensors.index.json"));
        assert!(needed.weights.is_empty() && !needed.is_empty());
    }

    #[test]
    fn one_file_of_weights() {
        let weights = |paths: &[&str]| of(paths).weights.join(" ");
        assert_eq!(weights(&["model.safetensors", "pytorch_model.bin"]), "model.safetensors");
        assert_eq!(weights(&["other.safetensors", "pytorch_model.bin"]), "other.safetensors");
        assert_eq!(weights(&["pytorch_model.bin", "tf_model.h5"]), "pytorch_model.bin");
        let set = "m-00001-of-00002.safetensors m-00002-of-00002.safetensors";
        assert_eq!(weights(&set.split(' ').collect::<Vec<_>>()), set);
        assert!(of(&["a.safetensors", "b.safetensors", "model.gguf"]).is_empty());
        let pickled = of(&["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"]);
        assert_eq!(pickled.index.as_deref(), Some("pytorch_model.bin.index.json"));
    }

    #[test]
    fn an_adapter() {
        let needed = of(&["adapter_config.json", "adapter_model.bin", "adapter_model.safetensors"]);
        assert_eq!(needed.beside, ["adapter_config.json"]);
        assert_eq!(needed.weights, ["adapter_model.safetensors"]);
    }

    #[test]
    fn paths_that_leave_the_folder_are_never_needed() {
        let needed = of(&["1_Pooling/..", "1_Pooling/../../x", "LICENSE\\..\\x", "/LICENSE"]);
        assert_eq!(needed, Needed::default());
    }

    #[test]
    fn shards_must_be_there() {
        let paths = ["a.safetensors".to_string()].into();
        let found = shards(br#"{"weight_map": {"x": "a.safetensors"}}"#, &paths).unwrap();
        assert_eq!(found, ["a.safetensors"]);
        let error = shards(br#"{"weight_map": {"x": "b.safetensors"}}"#, &paths).unwrap_err();
        assert_eq!(error.get("missing"), Some("b.safetensors"));
        assert!(shards(br#"{"weight_map": {"x": "../b"}}"#, &paths).is_err());
    }
}
