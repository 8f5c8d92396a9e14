//! `cognate inspect`

use super::{print, print_json};
use clap::Args as ClapArgs;
use cognate::engine::{Digest, Digests, Progress, hex, model_digest};
use cognate::model::hub::Want;
use cognate::model::{Checkpoint, Finder, Source};
use cognate::{Fetch, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

#[derive(ClapArgs)]
pub(crate) struct Args {
    /// The model: a folder, a GGUF file, a name on the Hub; `+ADAPTER` for one with a LoRA adapter
    model: String,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Compute SHA-256 digests of the tensors and the model
    #[arg(long)]
    digests: bool,
    /// Print JSON (with every tensor)
    #[arg(long)]
    json: bool,
}

/// What is shown of a checkpoint.
struct Report<'a> {
    model: &'a Checkpoint,
    /// Digests by tensor; empty unless asked for.
    digests: BTreeMap<&'a str, Digest>,
    /// Elements of the tensors a merge sees.
    parameters: u64,
    /// Bytes of the tensors the files store.
    bytes: u64,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        // Only digests need weights.
        let want = if self.digests { Want::Everything } else { Want::Headers };
        let fetch = Fetch { want, watch: &Progress::stderr() };
        let models = [Finder::new(Path::new(""), Some(fetch)).open(&self.model)?];
        let cache = super::cache_folder();
        let digests = Digests::new(&models, cache.as_deref().filter(|_| self.digests));
        if self.digests {
            digests.complete(&models)?;
        }
        let stored = models[0].stored().values().map(Source::spec);
        let report = Report {
            model: &models[0],
            digests: digests.of_model(0),
            parameters: models[0].tensors().map(|(_, t)| t.spec().elements() as u64).sum(),
            bytes: stored.map(|spec| spec.bytes() as u64).sum(),
        };
        if self.json {
            return print_json(&report.json());
        }
        let mut text = String::new();
        let _ = report.write(&mut text, self.tensors);
        print(&text)
    }
}

impl Report<'_> {
    /// The model's digest, where all its tensors' are known.
    fn digest(&self) -> Option<String> {
        let tensors = self.model.stored();
        let pairs = tensors
            .iter()
            .map(|(name, tensor)| Some((tensor.spec(), self.digests.get(name.as_str())?)));
        let pairs: Option<Vec<_>> = pairs.collect();
        Some(hex(&model_digest(pairs?)))
    }

    fn write(&self, text: &mut String, tensors: bool) -> std::fmt::Result {
        let model = self.model;
        writeln!(text, "model         {}", model.reference)?;
        if let Some(hub) = &model.hub {
            writeln!(text, "commit        {}", hub.commit)?;
        }
        if let Some(scheme) = model.quantisation() {
            writeln!(text, "quantised     {scheme}")?;
        }
        writeln!(text, "architecture  {}", model.config.architecture().unwrap_or("unknown"))?;
        match model.stacks.single() {
            Ok((stack, count)) => writeln!(text, "layers        {count} ({stack})")?,
            Err(e) => writeln!(text, "layers        {}", e.get("stacks").unwrap_or("none"))?,
        }
        writeln!(text, "parameters    {}", self.parameters)?;
        let (count, files) = (model.stored().len(), model.shards().len());
        let plural = if files == 1 { "" } else { "s" };
        writeln!(text, "tensors       {count} in {files} file{plural}, {} bytes", self.bytes)?;
        let mut by_dtype: BTreeMap<String, (usize, u64)> = BTreeMap::new();
        for spec in model.stored().values().map(Source::spec) {
            let entry = by_dtype.entry(spec.dtype.to_string()).or_default();
            entry.0 += 1;
            entry.1 += spec.elements() as u64;
        }
        for (dtype, (count, elements)) in by_dtype {
            writeln!(text, "  {dtype:<12}{count} tensors, {elements} elements")?;
        }
        if let Some(digest) = self.digest() {
            writeln!(text, "digest        {digest}")?;
        }
        if !tensors {
            return Ok(());
        }
        for (name, tensor) in model.stored() {
            let spec = tensor.spec();
            let digest = self.digests.get(name.as_str()).map(hex).unwrap_or_default();
            writeln!(
                text,
                "{}",
                format!("{name}  {}  {:?}  {digest}", spec.dtype, spec.shape).trim_end()
            )?;
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let model = self.model;
        let tensors = model.stored().iter().map(|(name, tensor)| {
            let spec = tensor.spec();
            let entry = json!({
                "dtype": spec.dtype.to_string(),
                "shape": spec.shape,
                "file": tensor.shard().file,
                "sha256": self.digests.get(name.as_str()).map(hex),
            });
            (name.clone(), entry)
        });
        let tensors: Map<String, Value> = tensors.collect();
        json!({
            "model": model.reference,
            "commit": model.hub.as_ref().map(|hub| &hub.commit),
            "quantisation": model.quantisation(),
            "architecture": model.config.architecture(),
            "model_type": model.config.model_type(),
            "layers": model.stacks.single().ok().map(|(_, count)| count),
            "tied": model.config.tied(),
            "parameters": self.parameters,
            "bytes": self.bytes,
            "digest": self.digest(),
            "files": model.shards().iter().map(|shard| &shard.file).collect::<Vec<_>>(),
            "tensors": tensors,
        })
    }
}
