//! `adapter_config.json`: what a LoRA's tensors are to be multiplied with, and what kinds of adapter
//! are no plain LoRA and therefore refused.
//!
//! Format: <https://huggingface.co/docs/peft/package_reference/lora> (PEFT 0.21).

use crate::error::{Error, Result};
use regex_lite::{Regex, RegexBuilder};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The file.
pub(super) const FILE: &str = "adapter_config.json";
/// What decides the factors: of the keys of the file, those that [`Settings::scaling`] and the
/// direction and lengths of a product follow from; sorted.
pub(super) const FACTORS: [&str; 7] = [
    "alpha_pattern",
    "fan_in_fan_out",
    "lora_alpha",
    "r",
    "rank_pattern",
    "use_dora",
    "use_rslora",
];
/// A config larger than this is refused unread.
const MAX_BYTES: u64 = 16 << 20;
/// A pattern that compiles to more than this is refused.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// Settings of variants that are more than `W + scale·B·A`, with what they do.
const REFUSED: [(&str, &str); 10] = [
    ("alora_invocation_tokens", "the adapter acts only behind certain tokens"),
    ("arrow_config", "the adapter routes between several adapters"),
    ("kasa_config", "the adapter changes the base weights by their singular values"),
    ("layer_replication", "the adapter repeats layers of the base"),
    ("monteclora_config", "the adapter samples its weights"),
    ("target_parameters", "the adapter targets parameters instead of modules"),
    ("trainable_token_indices", "the adapter holds single rows of the embedding"),
    ("use_bdlora", "the adapter is block-diagonal"),
    ("use_qalora", "the adapter pools its inputs by groups"),
    ("velora_config", "the adapter projects its inputs"),
];

/// Values of `init_lora_weights` that leave the base weights as they are.
const PLAIN_STARTS: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];

/// The settings of a LoRA.
#[derive(Debug)]
pub(super) struct Settings {
    /// The file, for messages.
    pub(super) path: PathBuf,
    /// Its bytes, as they stand.
    pub(super) text: Vec<u8>,
    /// What the adapter was trained on, as far as it says so.
    pub(super) base: Option<String>,
    /// Whether the weights of `Conv1D` modules are stored transposed; decides for square ones.
    pub(super) fan_in_fan_out: bool,
    /// Whether magnitudes are stored (DoRA).
    pub(super) use_dora: bool,
    /// Whether the tied head follows the embedding.
    pub(super) ensure_weight_tying: bool,
    /// Names of the modules that are stored whole.
    pub(super) modules_to_save: Vec<String>,
    rank: u64,
    alpha: f64,
    rslora: bool,
    ranks: Patterns<u64>,
    alphas: Patterns<f64>,
}

/// Rank and factor of one module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scaling {
    /// The rank its factors must have.
    pub(super) rank: u64,
    /// What B·A is multiplied with: α/r, or α/√r with rsLoRA.
    pub(super) scale: f64,
}

impl Settings {
    /// Reads the config of the adapter in `folder`.
    ///
    /// # Errors
    /// It is missing or malformed, or describes an adapter that is no plain LoRA.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let metadata = match std::fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::input("the folder is no adapter")
                    .file(folder)
                    .expected(FILE, "no such file")
                    .hint("an adapter is a folder that PEFT's save_pretrained wrote"));
            }
            Err(e) => return Err(Error::io("open the adapter's config", &path, &e)),
        };
        if metadata.len() > MAX_BYTES {
            return Err(Error::input("the adapter's config is too large")
                .file(&path)
                .expected(format!("at most {MAX_BYTES} bytes"), metadata.len()));
        }
        let text =
            std::fs::read(&path).map_err(|e| Error::io("read the adapter's config", &path, &e))?;
        Self::parse(text, path)
    }

    fn parse(text: Vec<u8>, path: PathBuf) -> Result<Self> {
        let map: Map<String, Value> = serde_json::from_slice(&text).map_err(|e| {
            Error::input("the adapter's config is not a JSON object").file(&path).fact("reason", e)
        })?;
        let keys = Keys { map: &map, path: &path };
        keys.refuse_variants()?;
        let rank = keys.value("r", positive, "a whole number above 0")?.unwrap_or(8);
        let alpha = keys.value("lora_alpha", finite, "a number")?.unwrap_or(8.0);
        Ok(Self {
            base: map.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_string),
            fan_in_fan_out: keys.flag("fan_in_fan_out")?,
            use_dora: keys.flag("use_dora")?,
            ensure_weight_tying: keys.flag("ensure_weight_tying")?,
            modules_to_save: keys
                .value("modules_to_save", names, "a list of names")?
                .unwrap_or_default(),
            rslora: keys.flag("use_rslora")?,
            ranks: keys.patterns("rank_pattern", positive, "whole numbers above 0")?,
            alphas: keys.patterns("alpha_pattern", finite, "numbers")?,
            rank,
            alpha,
            text,
            path,
        })
    }

    /// Rank and factor of the module of this name (without the prefix `base_model.model.`).
    pub(super) fn scaling(&self, module: &str) -> Scaling {
        let rank = self.ranks.find(module).unwrap_or(self.rank);
        let alpha = self.alphas.find(module).unwrap_or(self.alpha);
        let divisor = if self.rslora { (rank as f64).sqrt() } else { rank as f64 };
        Scaling { rank, scale: alpha / divisor }
    }
}

/// Values by regular expressions over module names; the first that matches decides.
#[derive(Debug)]
struct Patterns<T>(Vec<(Regex, T)>);

impl<T: Copy> Patterns<T> {
    fn find(&self, module: &str) -> Option<T> {
        self.0.iter().find(|(pattern, _)| pattern.is_match(module)).map(|(_, value)| *value)
    }
}

/// The pattern as PEFT (`get_pattern_key`) reads a key: it fits a module's whole name, or an end of
/// it that begins behind a dot.
fn pattern(key: &str) -> Result<Regex, regex_lite::Error> {
    RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{key})$")).size_limit(MAX_PATTERN_BYTES).build()
}

/// The top level of the config, with the file for messages.
struct Keys<'a> {
    map: &'a Map<String, Value>,
    path: &'a Path,
}

impl Keys<'_> {
    /// The value of a key, where it is there and not null.
    fn value<T>(
        &self,
        key: &str,
        read: impl Fn(&Value) -> Option<T>,
        expected: &str,
    ) -> Result<Option<T>> {
        let Some(value) = self.map.get(key).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        read(value).map(Some).ok_or_else(|| self.error(key, expected, value))
    }

    fn flag(&self, key: &str) -> Result<bool> {
        Ok(self.value(key, Value::as_bool, "true or false")?.unwrap_or(false))
    }

    fn patterns<T>(
        &self,
        key: &str,
        read: impl Fn(&Value) -> Option<T>,
        expected: &str,
    ) -> Result<Patterns<T>> {
        let map = self.value(key, |value| value.as_object().cloned(), "a map")?;
        let entries = map.unwrap_or_default().into_iter().map(|(module, value)| {
            let number = read(&value)
                .ok_or_else(|| self.error(key, expected, &value).fact("module", &module))?;
            let pattern = pattern(&module).map_err(|e| {
                Error::input("a pattern of the adapter's config cannot be read")
                    .file(self.path)
                    .key(key)
                    .fact("pattern", &module)
                    .fact("reason", e)
                    .hint("look-around and back-references of Python's patterns are not supported")
            })?;
            Ok((pattern, number))
        });
        entries.collect::<Result<_>>().map(Patterns)
    }

    fn error(&self, key: &str, expected: &str, found: &Value) -> Error {
        Error::input("a value of the adapter's config is of the wrong kind")
            .file(self.path)
            .key(key)
            .expected(expected, found)
    }

    /// Refuses what is no LoRA, and LoRAs that are more than `W + scale·B·A`.
    fn refuse_variants(&self) -> Result<()> {
        let kind = self.map.get("peft_type").and_then(Value::as_str).unwrap_or("nothing");
        if kind != "LORA" {
            return Err(Error::input("an adapter of this type cannot be applied")
                .file(self.path)
                .key("peft_type")
                .expected("LORA", kind)
                .hint("merge it into its base with PEFT first, and name the merged model"));
        }
        let merge_first = "merge it into its base with PEFT first, where PEFT can";
        for (key, what) in REFUSED {
            if self.map.get(key).is_some_and(truthy) {
                return Err(Error::input(format!("a LoRA of this kind cannot be applied: {what}"))
                    .file(self.path)
                    .key(key)
                    .hint(merge_first));
            }
        }
        let start = self.map.get("init_lora_weights").and_then(Value::as_str);
        if let Some(start) = start.filter(|start| !PLAIN_STARTS.contains(start)) {
            return Err(Error::input("the adapter's start changed the base weights")
                .file(self.path)
                .key("init_lora_weights")
                .expected(format!("true, false, {}", PLAIN_STARTS.join(", ")), start)
                .hint("convert it with PEFT: save_pretrained(…, path_initial_model_for_weight_conversion=…)"));
        }
        Ok(())
    }
}

/// Whether Python would take the value for true.
fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

fn positive(value: &Value) -> Option<u64> {
    value.as_u64().filter(|value| *value > 0)
}

fn finite(value: &Value) -> Option<f64> {
    value.as_f64().filter(|value| value.is_finite())
}

/// A list of strings; PEFT takes a single string for a list of one.
fn names(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(name) => Some(vec![name.clone()]),
        Value::Array(names) => names.iter().map(|name| name.as_str().map(str::to_string)).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(config: Value) -> Result<Settings> {
        Settings::parse(config.to_string().into_bytes(), PathBuf::from(FILE))
    }

    #[test]
    fn patterns_match_as_in_peft() {
        let settings = parse(json!({
            "peft_type": "LORA", "r": 8, "lora_alpha": 16,
            "rank_pattern": {"q_proj": 4, "^model\\.layers\\.1\\.mlp\\.up_proj": 2, "layers.[23].*": 6},
            "alpha_pattern": {"self_attn.q_proj|v_proj": 1},
        }))
        .unwrap();
        let found = |module: &str| {
            let Scaling { rank, scale } = settings.scaling(module);
            (rank, scale)
        };
        assert_eq!(found("model.layers.0.self_attn.q_proj"), (4, 0.25));
        assert_eq!(found("q_proj"), (4, 4.0));
        assert_eq!(found("model.layers.0.self_attn.my_q_proj"), (8, 2.0));
        assert_eq!(found("model.layers.0.self_attn.v_proj"), (8, 0.125));
        assert_eq!(found("model.layers.1.mlp.up_proj"), (2, 8.0));
        assert_eq!(found("model.layers.11.mlp.up_proj"), (8, 2.0));
        assert_eq!(found("model.layers.2.mlp.up_proj"), (6, 16.0 / 6.0));
        let square_root = parse(json!({
            "peft_type": "LORA", "r": 16, "lora_alpha": 2.5, "use_rslora": true,
        }));
        assert_eq!(square_root.unwrap().scaling("x").scale, 2.5 / 4.0);
    }

    #[test]
    fn other_adapters_are_refused_by_name() {
        let message = |config: Value| parse(config).unwrap_err().to_string();
        let ia3 = message(json!({"peft_type": "IA3"}));
        assert_eq!(
            ia3,
            "an adapter of this type cannot be applied\n  file      adapter_config.json\n  key       peft_type\n  expected  LORA\n  found     IA3\nhint: merge it into its base with PEFT first, and name the merged model"
        );
        assert!(message(json!({})).contains("found     nothing"));
        for (key, what) in REFUSED {
            let refused = message(json!({"peft_type": "LORA", key: [1]}));
            assert!(refused.contains(what) && refused.contains(key), "{refused}");
        }
        let pissa = message(json!({"peft_type": "LORA", "init_lora_weights": "pissa_niter_4"}));
        assert!(pissa.starts_with("the adapter's start changed the base weights"), "{pissa}");
        for (key, value) in [
            ("r", json!(0)),
            ("r", json!(-1)),
            ("lora_alpha", json!("x")),
            ("use_rslora", json!(1)),
            ("rank_pattern", json!([])),
            ("rank_pattern", json!({"a": 0.5})),
        ] {
            let wrong = message(json!({"peft_type": "LORA", key: value}));
            assert!(wrong.starts_with("a value of the adapter's config is of the wrong kind"));
            assert!(wrong.contains(key), "{wrong}");
        }
        let behind = message(json!({"peft_type": "LORA", "alpha_pattern": {"(?<=a)b": 1}}));
        assert!(behind.starts_with("a pattern of the adapter's config cannot be read"), "{behind}");
        assert!(parse(json!({"peft_type": "LORA", "init_lora_weights": true})).is_ok());
    }
}
