//! The dtype that a `config.json` names.

use super::super::source::Float;
use super::Config;

impl Config {
    /// The dtype of the weights, where it is named and is one that arithmetic reads and writes.
    pub fn dtype(&self) -> Option<Float> {
        let keys = ["dtype", "torch_dtype"];
        let mut names = self.objects().flat_map(|(_, object)| keys.map(|key| object.get(key)));
        names.find_map(|name| {
            let name = name?.as_str()?;
            Float::parse(name.strip_prefix("torch.").unwrap_or(name))
        })
    }
}
