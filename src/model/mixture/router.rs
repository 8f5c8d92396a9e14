//! A router put together from rows of others.

use crate::error::{Error, Result};
use crate::model::{Source, TensorSpec};
use std::sync::{Arc, OnceLock};

/// A row of a router.
#[derive(Clone)]
pub(crate) struct RouterRow {
    source: Arc<dyn Source>,
    row: usize,
    /// Whether the row gets the length of the measure times this; else it is scaled as all the others.
    resized: Option<f64>,
}

impl RouterRow {
    /// A row as it stands, or scaled with all the others.
    pub(super) fn plain(source: &Arc<dyn Source>, row: usize) -> Self {
        Self { source: Arc::clone(source), row, resized: None }
    }

    /// A row that gets the mean length of the measure, times `scale`.
    pub(super) fn resized(source: &Arc<dyn Source>, row: usize, scale: f64) -> Self {
        Self { source: Arc::clone(source), row, resized: Some(scale) }
    }

    fn width(&self) -> usize {
        self.source.spec().shape.get(1).copied().unwrap_or(0)
    }

    fn length(&self) -> Result<f64> {
        let mut values = vec![0.0; self.width()];
        self.source.read(self.row * self.width(), &mut values)?;
        let square: f64 = values.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        if square.is_finite() {
            return Ok(square.sqrt());
        }
        Err(Error::input("a router has numbers that are not finite")
            .tensor(&self.source.spec().name)
            .fact("row", self.row))
    }
}

/// Rows one after the other.
pub(crate) struct RouterRows {
    spec: TensorSpec,
    rows: Vec<RouterRow>,
    /// The rows whose mean length is the measure; none if rows stay as they are.
    measure: Option<Vec<RouterRow>>,
    /// The factors of the rows, found when they are first needed.
    factors: OnceLock<Vec<f32>>,
}

fn mean_length(rows: &[RouterRow]) -> Result<f64> {
    let lengths: Result<Vec<f64>> = rows.iter().map(RouterRow::length).collect();
    Ok(lengths?.iter().sum::<f64>() / rows.len().max(1) as f64)
}

impl RouterRows {
    /// The router `name` of these rows, of which there is one at least.
    pub(super) fn new(name: &str, rows: Vec<RouterRow>, measure: Option<Vec<RouterRow>>) -> Self {
        let first = rows.first();
        let width = first.map_or(0, RouterRow::width);
        let dtype = first.map_or(safetensors::Dtype::F32, |row| row.source.spec().dtype);
        let spec = TensorSpec { name: name.to_string(), dtype, shape: vec![rows.len(), width] };
        Self { spec, rows, measure, factors: OnceLock::new() }
    }

    fn factors(&self) -> Result<&[f32]> {
        if let Some(factors) = self.factors.get() {
            return Ok(factors);
        }
        let found = match &self.measure {
            None => vec![1.0; self.rows.len()],
            Some(measure) => {
                let wanted = mean_length(measure)?;
                let (own, others): (Vec<_>, Vec<_>) =
                    self.rows.iter().cloned().partition(|row| row.resized.is_none());
                // Where rows join, those that were there stay as they are.
                let common = match others.is_empty() {
                    true => wanted / mean_length(&own)?,
                    false => 1.0,
                };
                let factor = |row: &RouterRow| -> Result<f32> {
                    let factor = match row.resized {
                        None => common,
                        Some(scale) => scale * wanted / row.length()?,
                    };
                    Ok(if factor.is_finite() { factor as f32 } else { 1.0 })
                };
                self.rows.iter().map(factor).collect::<Result<_>>()?
            }
        };
        Ok(self.factors.get_or_init(|| found))
    }
}

impl Source for RouterRows {
    fn spec(&self) -> &TensorSpec {
        &self.spec
    }

    fn read(&self, start: usize, out: &mut [f32]) -> Result<bool> {
        let width = self.spec.shape[1].max(1);
        let factors = self.factors()?;
        let (mut nan, mut from) = (false, 0);
        while from < out.len() {
            let (row, column) = ((start + from) / width, (start + from) % width);
            let to = (from + width - column).min(out.len());
            let (Some(of), Some(factor)) = (self.rows.get(row), factors.get(row)) else {
                return Err(
                    Error::internal("a router was read past its end").tensor(&self.spec.name)
                );
            };
            let out = &mut out[from..to];
            nan |= of.source.read(of.row * width + column, out)?;
            out.iter_mut().for_each(|x| *x *= factor);
            from = to;
        }
        Ok(nan)
    }

    fn parts(&self) -> Vec<&str> {
        let mut parts: Vec<&str> = Vec::new();
        for part in self.rows.iter().flat_map(|row| row.source.parts()) {
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
        parts
    }

    fn scratch(&self) -> u64 {
        8 * self.spec.shape[1] as u64
    }
}
