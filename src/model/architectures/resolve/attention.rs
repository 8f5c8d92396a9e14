//! Attention, with its positions.

use super::super::architecture::{Alibi, Attention};
use super::super::description::{AttentionSection, Projections};
use super::super::expression::Value;
use super::super::rotary::{Parameters, Rotary};
use super::{Resolver, linear};
use crate::error::{Error, Result};

impl Resolver<'_> {
    pub(super) fn attention(&self, section: &AttentionSection, hidden: usize) -> Result<Attention> {
        let (heads, kv_heads, head) =
            (self.defined("heads")?, self.defined("kv_heads")?, self.defined("head")?);
        if heads % kv_heads != 0 {
            return Err(Error::input("the heads of queries cannot be shared out to those of keys")
                .expected(format!("a multiple of {kv_heads} heads"), heads));
        }
        let bias = self.flag("attention bias", &section.bias, false)?;
        let name = |tensor: &str| format!("{}{tensor}", self.layer_prefix);
        let (queries, keys) = (heads * head, kv_heads * head);
        let parts = match &section.projections {
            Projections::Separate([q, k, v]) => {
                vec![(name(q), queries), (name(k), keys), (name(v), keys)]
            }
            Projections::Concatenated(one) | Projections::Grouped(one) => {
                vec![(name(one), queries + 2 * keys)]
            }
        };
        let output_bias = self.flag("attention output bias", &section.output_bias, bias)?;
        let window = section.window.as_ref().map_or(Value::Absent, |leaf| self.value(leaf));
        let window = match window {
            Value::Absent => None,
            window => Some(self.counted("sliding window", &window)?),
        };
        let scale = self.optional("attention scale", &section.scale)?;
        Ok(Attention {
            heads,
            kv_heads,
            head,
            projections: linear(&parts, hidden, bias, section.transposed),
            grouped: matches!(section.projections, Projections::Grouped(_)),
            output: linear(
                &[(name(&section.output), hidden)],
                queries,
                output_bias,
                section.transposed,
            ),
            scale: scale.unwrap_or_else(|| (head as f64).powf(-0.5)) as f32,
            soft_cap: self.optional("attention soft-cap", &section.soft_cap)?.map(|cap| cap as f32),
            window,
            query_norm: self.norm(&section.query_norm, &self.layer_prefix, head, heads)?,
            key_norm: self.norm(&section.key_norm, &self.layer_prefix, head, kv_heads)?,
            clip: self.optional("clip_qkv", &section.clip)?.map(|clip| clip as f32),
            rotary: self.rotary(head)?,
            alibi: self.alibi(heads)?,
        })
    }

    fn rotary(&self, head: usize) -> Result<Option<Rotary>> {
        let Some(section) = &self.family.rotary else { return Ok(None) };
        if !self.flag("rotary", &section.when, true)? {
            return Ok(None);
        }
        let dims = self.number("rotary dimensions", &section.dims)?.unwrap_or(head as f64);
        let theta = self.number("rope_theta", &section.theta)?.unwrap_or(10_000.0);
        if !(0.0..=head as f64).contains(&dims) {
            return Err(Error::input("the rotary embedding is wider than a head")
                .expected(format!("at most {head}"), dims));
        }
        let length = |name: &str| match self.scope.defined.get(name) {
            Some(Value::Number(length)) => Some(*length as usize),
            _ => None,
        };
        let scaling = self.value(&section.scaling);
        Rotary::new(&Parameters {
            theta,
            dims: dims as usize,
            interleaved: section.interleaved,
            scaling: &scaling,
            context: length("context"),
            original: length("original_context"),
        })
        .map(Some)
    }

    fn alibi(&self, heads: usize) -> Result<Option<Alibi>> {
        let Some(section) = &self.family.alibi else { return Ok(None) };
        if !self.flag("alibi", &section.when, true)? {
            return Ok(None);
        }
        let greatest = self.optional("alibi", &section.greatest)?.unwrap_or(8.0);
        let scale = self.factor("alibi scale", &section.scale)?;
        let power = if heads.is_power_of_two() { heads } else { heads.next_power_of_two() / 2 };
        // The heads beyond a power of two take every other slope of twice as many heads.
        let slope = |i: usize| {
            let exponent = if i < power {
                (i + 1) as f64 / power as f64
            } else {
                (2 * (i - power) + 1) as f64 / (2 * power) as f64
            };
            (-greatest * exponent).exp2() as f32
        };
        let slopes =
            (0..heads).map(slope).map(|slope| if section.rounded { slope } else { slope * scale });
        Ok(Some(Alibi { slopes: slopes.collect(), rounded: section.rounded.then_some(scale) }))
    }
}
