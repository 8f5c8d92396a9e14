//! Rotary positions: the angle by which each pair of a head's elements turns from one position to
//! the next, with the scalings that stretch a model's context.
//!
//! Formulas: Su et al., *RoFormer* (2021); linear: Chen et al. 2023 (position interpolation);
//! dynamic: bloc97 and emozilla's NTK-aware scaling; yarn: Peng et al. 2023; longrope: Ding et al.
//! 2024; llama3: Meta's Llama 3.1. Defaults as in transformers 5.23.

use super::expression::Value;
use crate::error::{Error, Result};
use serde_json::{Map, Value as Json};
use std::f64::consts::TAU;

/// How heads are rotated.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rotary {
    /// How many elements of a head, from its first on, are rotated.
    pub(crate) dims: usize,
    /// Whether element 2i goes with 2i+1, and not i with i + dims/2.
    pub(crate) interleaved: bool,
    /// What cosine and sine are multiplied by.
    pub(crate) magnitude: f32,
    /// Radians a position, for each pair.
    frequencies: Vec<f32>,
    stretched: Stretched,
}

/// Frequencies that depend on the length of the sequence.
#[derive(Clone, Debug, PartialEq)]
enum Stretched {
    /// They do not.
    Never,
    /// Others for sequences longer than this.
    Beyond(usize, Vec<f32>),
    /// The base grows with the length beyond `context`.
    Dynamic { theta: f64, factor: f64, context: usize },
}

/// What a rotary embedding is made from.
pub(super) struct Parameters<'a> {
    pub(super) theta: f64,
    pub(super) dims: usize,
    pub(super) interleaved: bool,
    pub(super) scaling: &'a Value,
    /// `max_position_embeddings`.
    pub(super) context: Option<usize>,
    /// `original_max_position_embeddings` of the config's top level.
    pub(super) original: Option<usize>,
}

impl Rotary {
    /// The frequencies for a sequence of `length` positions.
    pub(crate) fn frequencies(&self, length: usize) -> std::borrow::Cow<'_, [f32]> {
        match &self.stretched {
            Stretched::Beyond(limit, long) if length > *limit => long.into(),
            Stretched::Dynamic { theta, factor, context } if length > *context => {
                let dims = self.dims as f64;
                let ratio = factor * length as f64 / *context as f64 - (factor - 1.0);
                let theta = theta * ratio.powf(dims / (dims - 2.0));
                plain(theta, self.dims).into()
            }
            _ => self.frequencies.as_slice().into(),
        }
    }

    /// The length beyond which frequencies depend on a sequence's length.
    pub(crate) fn stretches_beyond(&self) -> Option<usize> {
        match &self.stretched {
            Stretched::Never => None,
            Stretched::Beyond(limit, _) => Some(*limit),
            Stretched::Dynamic { context, .. } => Some(*context),
        }
    }

    pub(super) fn new(given: &Parameters<'_>) -> Result<Self> {
        let dims = given.dims;
        if dims == 0 || !dims.is_multiple_of(2) {
            return Err(Error::input("the rotary embedding covers an odd part of a head")
                .expected("an even number of elements", dims));
        }
        let frequencies = plain(given.theta, dims);
        let mut rotary = Self {
            dims,
            interleaved: given.interleaved,
            magnitude: 1.0,
            frequencies,
            stretched: Stretched::Never,
        };
        let empty = Map::new();
        let scaling = match given.scaling {
            Value::Object(map) => map,
            Value::Absent => &empty,
            other => {
                return Err(Error::input("the rotary scaling is no object")
                    .key("rope_scaling")
                    .fact("found", format!("{other:?}")));
            }
        };
        let scaling = Scaling { map: scaling, given };
        scaling.apply(&mut rotary)?;
        Ok(rotary)
    }
}

/// `theta^(-2i/dims)`, each operation rounded to f32 as PyTorch does.
fn plain(theta: f64, dims: usize) -> Vec<f32> {
    (0..dims / 2).map(|i| 1.0 / (theta as f32).powf((2 * i) as f32 / dims as f32)).collect()
}

struct Scaling<'a> {
    map: &'a Map<String, Json>,
    given: &'a Parameters<'a>,
}

/// Keys that any scaling may have; what they say is taken by the description's own expressions.
const ANY: [&str; 6] = [
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "original_max_position_embeddings",
    "factor",
];

impl Scaling<'_> {
    fn number(&self, key: &'static str) -> Option<f64> {
        match Value::of(self.map.get(key)) {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }

    fn required(&self, key: &'static str) -> Result<f64> {
        self.number(key).ok_or_else(|| {
            Error::input("the rotary scaling lacks a number").key(format!("rope_scaling.{key}"))
        })
    }

    fn factors(&self, key: &'static str) -> Result<Vec<f64>> {
        let list = match Value::of(self.map.get(key)) {
            Value::List(list) => list,
            _ => Vec::new(),
        };
        let number = |entry: &Json| match Value::of(Some(entry)) {
            Value::Number(number) => Some(number),
            _ => None,
        };
        let factors: Option<Vec<f64>> = list.iter().map(number).collect();
        let pairs = self.given.dims / 2;
        factors.filter(|factors| factors.len() == pairs).ok_or_else(|| {
            Error::input("the rotary scaling lacks factors, one for each pair of a head's elements")
                .key(format!("rope_scaling.{key}"))
                .expected(format!("{pairs} numbers"), list.len())
        })
    }

    /// The context the model was trained with before it was stretched.
    fn original(&self) -> Result<f64> {
        let float = |length: Option<usize>| length.map(|length| length as f64);
        let own = self.number("original_max_position_embeddings");
        // What the top level says comes first, as in transformers.
        let found = float(self.given.original).or(own).or(float(self.given.context));
        found.ok_or_else(|| {
            Error::input("the rotary scaling does not say what context it stretches")
                .key("rope_scaling.original_max_position_embeddings")
        })
    }

    /// How much longer the context has become.
    fn ratio(&self, original: f64) -> Result<f64> {
        match (self.number("factor"), self.given.context) {
            (Some(factor), _) => Ok(factor),
            (None, Some(context)) => Ok(context as f64 / original),
            (None, None) => self.required("factor"),
        }
    }

    fn only(&self, known: &[&str]) -> Result<()> {
        let unknown = self.map.iter().find(|(key, value)| {
            !value.is_null() && !ANY.contains(&key.as_str()) && !known.contains(&key.as_str())
        });
        match unknown {
            None => Ok(()),
            Some((key, value)) => {
                Err(Error::input("the rotary scaling has a key that is not known")
                    .key(format!("rope_scaling.{key}"))
                    .fact("value", value))
            }
        }
    }

    fn apply(&self, rotary: &mut Rotary) -> Result<()> {
        let kind = self.map.get("rope_type").or_else(|| self.map.get("type"));
        let kind = kind.and_then(Json::as_str).unwrap_or("default");
        match kind {
            "default" => self.only(&[]),
            "linear" => {
                self.only(&[])?;
                let factor = self.required("factor")? as f32;
                rotary.frequencies.iter_mut().for_each(|f| *f /= factor);
                Ok(())
            }
            "dynamic" => {
                self.only(&["alpha"])?;
                let context = self.given.context.ok_or_else(|| {
                    Error::input("dynamic rotary scaling needs the length of the context")
                        .key("max_position_embeddings")
                })?;
                rotary.stretched = Stretched::Dynamic {
                    theta: self.given.theta,
                    factor: self.required("factor")?,
                    context,
                };
                Ok(())
            }
            "llama3" => {
                self.only(&["low_freq_factor", "high_freq_factor"])?;
                self.llama3(rotary)
            }
            "yarn" => {
                let known = [
                    "attention_factor",
                    "beta_fast",
                    "beta_slow",
                    "mscale",
                    "mscale_all_dim",
                    "truncate",
                ];
                self.only(&known)?;
                self.yarn(rotary)
            }
            // The name Phi-3's first configs gave it.
            "longrope" | "su" => {
                self.only(&["short_factor", "long_factor", "attention_factor"])?;
                self.longrope(rotary)
            }
            other => Err(Error::input("this rotary scaling is not supported")
                .key("rope_scaling.rope_type")
                .expected("default, dynamic, linear, llama3, longrope or yarn", other)),
        }
    }

    fn llama3(&self, rotary: &mut Rotary) -> Result<()> {
        let factor = self.required("factor")?;
        let low = self.required("low_freq_factor")?;
        let high = self.required("high_freq_factor")?;
        let original = self.original()?;
        for frequency in &mut rotary.frequencies {
            let exact = f64::from(*frequency);
            let turns = original * exact / TAU;
            let scaled = if turns > high {
                exact
            } else if turns < low {
                exact / factor
            } else {
                let smooth = (turns - low) / (high - low);
                (1.0 - smooth) * exact / factor + smooth * exact
            };
            *frequency = scaled as f32;
        }
        Ok(())
    }

    fn yarn(&self, rotary: &mut Rotary) -> Result<()> {
        let (dims, theta) = (rotary.dims as f64, self.given.theta);
        let original = self.original()?;
        let factor = self.ratio(original)?;
        let scale = |weight: f64| {
            if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 }
        };
        let nonzero = |key| self.number(key).filter(|number| *number != 0.0);
        rotary.magnitude =
            match (self.number("attention_factor"), nonzero("mscale"), nonzero("mscale_all_dim")) {
                (Some(given), ..) => given as f32,
                (None, Some(one), Some(all)) => (scale(one) / scale(all)) as f32,
                _ => scale(1.0) as f32,
            };
        // The pair that turns this often in the original context.
        let pair = |turns: f64| dims * (original / (turns * TAU)).ln() / (2.0 * theta.ln());
        let mut low = pair(nonzero("beta_fast").unwrap_or(32.0));
        let mut high = pair(nonzero("beta_slow").unwrap_or(1.0));
        if self.map.get("truncate").and_then(Json::as_bool).unwrap_or(true) {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(dims - 1.0));
        if low == high {
            high += 0.001;
        }
        for (i, frequency) in rotary.frequencies.iter_mut().enumerate() {
            let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            let exact = f64::from(*frequency);
            *frequency = (exact / factor * ramp + exact * (1.0 - ramp)) as f32;
        }
        Ok(())
    }

    fn longrope(&self, rotary: &mut Rotary) -> Result<()> {
        let original = self.original()?;
        let factor = self.ratio(original)?;
        rotary.magnitude = match self.number("attention_factor") {
            Some(given) => given as f32,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + factor.ln() / original.ln()).sqrt() as f32,
        };
        let divided = |factors: Vec<f64>| -> Vec<f32> {
            let pairs = rotary.frequencies.iter().zip(factors);
            pairs.map(|(frequency, factor)| frequency / factor as f32).collect()
        };
        let long = divided(self.factors("long_factor")?);
        let short = divided(self.factors("short_factor")?);
        rotary.frequencies = short;
        rotary.stretched = Stretched::Beyond(original as usize, long);
        Ok(())
    }
}
