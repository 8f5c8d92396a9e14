//! A plan's totals, and its printed and JSON forms.

use super::{Job, Model, Plan, Sidecar};
use crate::engine::hex;
use crate::model::{TensorSpec, config_value};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// What a plan reads, writes and takes, in bytes unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes of the input tensors that are used, each counted once.
    pub read: u64,
    /// Bytes of the output's tensors and headers.
    pub write: u64,
    /// Bytes of the sidecars.
    pub sidecars: u64,
    /// Anonymous memory of the run at most.
    pub memory: u64,
    /// Elements of all output tensors.
    pub parameters: u64,
}

impl Totals {
    /// Disk space the output takes.
    pub fn disk(&self) -> u64 {
        self.write + self.sidecars
    }
}

/// Bytes in words, in powers of 1000.
pub(crate) fn bytes(count: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        _ => format!("{value:.1} {}", units[unit]),
    }
}

impl Plan {
    /// The plan for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let _ = self.write_text(&mut text);
        text
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        let totals = &self.totals;
        writeln!(out, "models")?;
        for (i, model) in self.models.iter().enumerate() {
            let role = if i == self.donor { "  (config, names and sidecars)" } else { "" };
            writeln!(out, "  {}{role}", model.reference)?;
            if let Some(statistics) = &model.statistics {
                writeln!(out, "    {statistics}")?;
            }
        }
        let mut by_method: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
        for job in &self.jobs {
            let entry = by_method.entry(job.method.name).or_default();
            entry.0 += 1;
            entry.1 += job.output.bytes() as u64;
        }
        writeln!(out, "tensors")?;
        for (method, (count, size)) in by_method {
            writeln!(out, "  {method:<16} {count:>6} tensors  {:>10}", bytes(size))?;
        }
        let dropped: usize = self.models.iter().map(|model| model.dropped.len()).sum();
        if dropped > 0 {
            writeln!(out, "  not used         {dropped:>6} tensors")?;
            for model in &self.models {
                for (reason, names) in by_reason(&model.dropped) {
                    writeln!(
                        out,
                        "    {}: {} ({reason})",
                        model.reference,
                        crate::error::list(names)
                    )?;
                }
            }
        }
        for model in self.models.iter().filter(|model| !model.made_of.is_empty()) {
            let parts: BTreeSet<&str> =
                model.made_of.values().flatten().map(String::as_str).collect();
            let (weights, count) = (model.made_of.len(), parts.len());
            writeln!(out, "  made on reading  {weights:>6} tensors")?;
            let some = crate::error::first(1, model.made_of.keys().map(String::as_str));
            writeln!(out, "    {}: {some}, of {count} stored ones", model.reference)?;
        }
        writeln!(out, "reads    {}", bytes(totals.read))?;
        let files = self.shards.len();
        let plural = if files == 1 { "" } else { "s" };
        writeln!(
            out,
            "writes   {} in {files} shard{plural}, {} parameters",
            bytes(totals.write),
            totals.parameters
        )?;
        writeln!(out, "sidecars {} files, {}", self.sidecars.len(), bytes(totals.sidecars))?;
        writeln!(out, "disk     {}", bytes(totals.disk()))?;
        writeln!(
            out,
            "memory   {} at most, with {} thread{}",
            bytes(totals.memory),
            self.lanes,
            if self.lanes == 1 { "" } else { "s" }
        )?;
        if self.whole > 0 {
            writeln!(
                out,
                "matrices {} of it, for tensors that are taken whole",
                bytes(self.whole)
            )?;
        }
        for note in &self.vocabulary {
            writeln!(out, "tokens   {note}")?;
        }
        writeln!(out, "seed     {}", self.seed)?;
        for edit in &self.config_edits {
            writeln!(out, "config   {edit}")?;
        }
        for warning in &self.warnings {
            writeln!(out, "warning  {warning}")?;
        }
        Ok(())
    }

    /// For people: every output tensor whose name contains `pattern` (`*` stands for anything), with
    /// its parameters as resolved and the tensors it is made of. Empty where there is none.
    pub fn tensors_text(&self, pattern: &str) -> String {
        let mut text = String::new();
        for job in self.jobs.iter().filter(|job| matches(pattern, &job.output.name)) {
            let _ = self.write_job(&mut text, job);
        }
        text
    }

    fn write_job(&self, out: &mut String, job: &Job) -> std::fmt::Result {
        let TensorSpec { name, dtype, shape } = &job.output;
        writeln!(out, "{name}  {dtype} {shape:?}")?;
        write!(out, "  {}", job.method.name)?;
        write_values(out, &job.params.shared)?;
        for step in &job.posts {
            write!(out, "  then {}", step.post.name)?;
            write_values(out, &step.params.shared)?;
        }
        for (i, input) in job.inputs.iter().enumerate() {
            write!(out, "  {}", self.models[input.model].reference)?;
            if input.tensor != *name {
                write!(out, " {}", input.tensor)?;
            }
            if job.base == Some(i) {
                write!(out, " (base)")?;
            }
            match job.params.inputs.get(i) {
                Some(values) => write_values(out, values)?,
                None => writeln!(out)?,
            }
            for part in self.models[input.model].made_of.get(&input.tensor).into_iter().flatten() {
                writeln!(out, "    made of  {part}")?;
            }
        }
        Ok(())
    }

    /// What was decided about the vocabulary, with the files that follow from it; none where the
    /// recipe says nothing about it.
    pub(crate) fn vocabulary_json(&self) -> Option<Value> {
        if self.vocabulary_lineage.is_null() && self.files.is_empty() {
            return None;
        }
        let mut all = self.vocabulary_lineage.as_object().cloned().unwrap_or_default();
        let file = |(path, bytes): (&String, &Vec<u8>)| json!({"path": path, "sha256": hex(&Sha256::digest(bytes).into())});
        all.insert("notes".to_string(), json!(self.vocabulary));
        all.insert("files".to_string(), self.files.iter().map(file).collect());
        Some(Value::Object(all))
    }

    /// The whole plan as JSON.
    pub fn json(&self) -> Value {
        let totals = &self.totals;
        let model = |model: &Model| {
            let mut entry = json!({
                "model": model.reference,
                "made_of": model.made_of,
                "dropped": model.dropped,
            });
            if let Some(statistics) = &model.statistics {
                entry["statistics"] = statistics.clone().into();
            }
            entry
        };
        let mut plan = json!({
            "models": self.models.iter().map(model).collect::<Vec<_>>(),
            "donor": self.models[self.donor].reference,
            "jobs": self.jobs.iter().map(|job| self.job(job)).collect::<Vec<_>>(),
            "shards": self.shards.iter().map(|shard| json!({
                "file": shard.file,
                "size": shard.size,
            })).collect::<Vec<_>>(),
            "metadata": self.metadata,
            "config": config_value(&self.config),
            "config_edits": self.config_edits,
            "sidecars": self.sidecars.iter().map(|Sidecar { model, path }| json!({
                "model": self.models[*model].reference,
                "path": path,
            })).collect::<Vec<_>>(),
            "seed": self.seed,
            "threads": self.lanes,
            "totals": {
                "read_bytes": totals.read,
                "write_bytes": totals.write,
                "disk_bytes": totals.disk(),
                "memory_bytes": totals.memory,
                "parameters": totals.parameters,
            },
            "warnings": self.warnings,
        });
        if self.whole > 0 {
            plan["totals"]["whole_bytes"] = self.whole.into();
        }
        if let (Some(plan), Some(vocabulary)) = (plan.as_object_mut(), self.vocabulary_json()) {
            plan.insert("vocabulary".to_string(), vocabulary);
        }
        plan
    }

    fn job(&self, job: &Job) -> Value {
        let mut entry = json!({
            "tensor": job.output.name,
            "dtype": job.output.dtype.to_string(),
            "shape": job.output.shape,
            "method": job.method.name,
            "inputs": self.inputs_json(job),
            "base": job.base,
            "parameters": job.params,
            "shard": self.shards[job.shard].file,
            "offset": job.offset,
        });
        if !job.posts.is_empty() {
            entry["then"] = job.posts_json();
        }
        entry
    }

    /// The inputs of a job with their models' references.
    pub(crate) fn inputs_json(&self, job: &Job) -> Vec<Value> {
        let inputs = job.inputs.iter();
        inputs
            .map(|input| json!({"model": self.models[input.model].reference, "tensor": input.tensor}))
            .collect()
    }
}

/// ` name=value` for each, and the end of the line.
fn write_values(
    out: &mut String,
    values: &BTreeMap<&'static str, crate::methods::Value>,
) -> std::fmt::Result {
    for (name, value) in values {
        write!(out, "  {name}={value}")?;
    }
    writeln!(out)
}

/// Groups dropped tensors by their reason.
fn by_reason(dropped: &BTreeMap<String, String>) -> BTreeMap<&str, Vec<&str>> {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, reason) in dropped {
        reasons.entry(reason).or_default().push(name);
    }
    reasons
}

/// Whether a name contains the parts of a pattern, between its `*`, in this order.
fn matches(pattern: &str, name: &str) -> bool {
    let mut rest = name;
    pattern.split('*').all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn bytes_in_words() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_980_720), "2.0 MB");
        assert_eq!(bytes(999_960), "1.0 MB");
        assert_eq!(bytes(5_000_000_000), "5.0 GB");
    }
}
