//! A family's description and a config make an [`Architecture`].

mod attention;
mod blocks;

use super::architecture::{
    Architecture, Embedding, Head, Layer, Linear, LinearPart, Mixer, Mlp, Norm, Over, Positions,
};
use super::description::{Family, Leaf, NormPlace, Places};
use super::expression::{Scope, Value};
use crate::error::{Error, Result};
use serde_json::{Map, Value as Json};

/// More layers than any model has; a config that says so is refused before anything is made.
const MOST_LAYERS: usize = 10_000;
/// Likewise for other counts: the product of any three fits.
const MOST: f64 = (1_u64 << 20) as f64 * 16.0;

pub(super) struct Resolver<'a> {
    family: &'a Family,
    scope: Scope<'a>,
    /// What tensor names begin with.
    prefix: &'a str,
    /// What the names of the layer's tensors begin with.
    layer_prefix: String,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(family: &'a Family, config: &'a Map<String, Json>, prefix: &'a str) -> Self {
        let scope = Scope { config, defined: Default::default() };
        Self { family, scope, prefix, layer_prefix: String::new() }
    }

    fn value(&self, leaf: &Leaf) -> Value {
        leaf.0.value(&self.scope)
    }

    fn wrong(&self, what: &str, expected: &str, found: &Value) -> Error {
        Error::input("the config does not give a value that the model needs")
            .key(what)
            .expected(expected, format!("{found:?}"))
    }

    fn number(&self, what: &str, leaf: &Leaf) -> Result<Option<f64>> {
        match self.value(leaf) {
            Value::Absent => Ok(None),
            Value::Number(number) if number.is_finite() => Ok(Some(number)),
            other => Err(self.wrong(what, "a number", &other)),
        }
    }

    /// A leaf that may be left out: its number, or none.
    fn optional(&self, what: &str, leaf: &Option<Leaf>) -> Result<Option<f64>> {
        leaf.as_ref().map_or(Ok(None), |leaf| self.number(what, leaf))
    }

    fn factor(&self, what: &str, leaf: &Option<Leaf>) -> Result<f32> {
        Ok(self.optional(what, leaf)?.unwrap_or(1.0) as f32)
    }

    fn counted(&self, what: &str, value: &Value) -> Result<usize> {
        match value {
            Value::Number(n) if n.fract() == 0.0 && (1.0..MOST).contains(n) => Ok(*n as usize),
            other => Err(self.wrong(what, "a whole number above 0", other)),
        }
    }

    fn count(&self, what: &str, leaf: &Leaf) -> Result<usize> {
        self.counted(what, &self.value(leaf))
    }

    fn defined(&self, name: &str) -> Result<usize> {
        self.counted(name, self.scope.defined.get(name).unwrap_or(&Value::Absent))
    }

    fn flag(&self, what: &str, leaf: &Option<Leaf>, unsaid: bool) -> Result<bool> {
        match leaf.as_ref().map_or(Value::Absent, |leaf| self.value(leaf)) {
            Value::Absent => Ok(unsaid),
            Value::Flag(flag) => Ok(flag),
            other => Err(self.wrong(what, "true or false", &other)),
        }
    }

    fn text(&self, what: &str, leaf: &Leaf) -> Result<String> {
        match self.value(leaf) {
            Value::Text(text) => Ok(text),
            other => Err(self.wrong(what, "a name", &other)),
        }
    }

    pub(super) fn architecture(mut self) -> Result<Architecture> {
        for (name, leaf) in &self.family.define.0 {
            let value = self.value(leaf);
            self.scope.defined.insert(name.clone(), value);
        }
        for refusal in &self.family.refuse {
            if self.flag(&refusal.key, &Some(refusal.when.clone()), false)? {
                return Err(Error::input("the evaluator does not support this model yet")
                    .key(&refusal.key)
                    .fact("missing", &refusal.missing));
            }
        }
        let hidden = self.defined("hidden")?;
        let count = self.defined("layers")?;
        if count > MOST_LAYERS {
            return Err(Error::input("the config declares too many layers")
                .expected(format!("at most {MOST_LAYERS}"), count));
        }
        let context = match self.scope.defined.get("context") {
            None | Some(Value::Absent) => None,
            Some(value) => Some(self.counted("context", value)?),
        };
        let vocabulary = self.defined("vocabulary")?;
        let embedding = self.embedding(hidden)?;
        let head = self.head(hidden, embedding.width)?;
        let final_norm = self.norm(&self.family.final_norm, self.prefix, hidden, 1)?;
        let layers: Result<Vec<Layer>> =
            (0..count).map(|layer| self.layer(layer, hidden)).collect();
        let positions = embedding.positions.as_ref().map(|table| table.rows - table.offset);
        Ok(Architecture {
            hidden,
            vocabulary,
            context,
            positions,
            embedding,
            layers: layers?,
            final_norm,
            head,
        })
    }

    fn embedding(&self, hidden: usize) -> Result<Embedding> {
        let section = &self.family.embedding;
        let width = section.width.as_ref().map_or(Ok(hidden), |leaf| self.count("width", leaf))?;
        let name = |tensor: &str| format!("{}{tensor}", self.prefix);
        let positions = match &section.positions {
            Some(table) if self.flag("positions", &table.when, true)? => Some(Positions {
                tensor: name(&table.tensor),
                rows: self.count("positions", &table.count)? + table.offset,
                offset: table.offset,
            }),
            _ => None,
        };
        let projection = section.projection.as_ref().filter(|_| width != hidden);
        Ok(Embedding {
            tensor: name(&section.tensor),
            width,
            scale: self.factor("embedding scale", &section.scale)?,
            norm: self.norm(&section.norm, self.prefix, width, 1)?,
            positions,
            projection: projection
                .map(|tensor| linear(&[(name(tensor), hidden)], width, false, false)),
        })
    }

    fn head(&self, hidden: usize, width: usize) -> Result<Head> {
        let section = &self.family.head;
        let stem = section.tensor.strip_suffix(".weight").unwrap_or(&section.tensor);
        let bias = self.flag("head bias", &section.bias, false)?.then(|| format!("{stem}.bias"));
        let projection = section.projection.as_ref().filter(|_| width != hidden);
        let name = |tensor: &str| format!("{}{tensor}", self.prefix);
        Ok(Head {
            tensor: section.tensor.clone(),
            bias,
            width,
            scale: self.factor("logit scale", &section.scale)?,
            soft_cap: self.optional("logit soft-cap", &section.soft_cap)?.map(|cap| cap as f32),
            projection: projection
                .map(|tensor| linear(&[(name(tensor), width)], hidden, false, false)),
        })
    }

    /// Whether the head is the embedding, where it is not stored.
    pub(super) fn tied(&self) -> Result<bool> {
        self.flag("tie_word_embeddings", &Some(self.family.head.tied.clone()), false)
    }

    /// The norm of the first place whose condition holds.
    fn norm(
        &self,
        places: &Places,
        prefix: &str,
        width: usize,
        rows: usize,
    ) -> Result<Option<Norm>> {
        for place in &places.0 {
            if self.flag(&place.tensor, &place.when, true)? {
                return self.norm_at(place, prefix, width, rows).map(Some);
            }
        }
        Ok(None)
    }

    fn norm_at(&self, place: &NormPlace, prefix: &str, width: usize, rows: usize) -> Result<Norm> {
        let style = place.style.as_ref().unwrap_or(&self.family.norm);
        let name = format!("{prefix}{}", place.tensor);
        let (width, rows) = match place.over {
            Over::Head => (width, 1),
            Over::Heads => (width, rows),
            Over::All => (width * rows, 1),
        };
        let weights = if !self.flag("norm weight", &style.weight, true)? {
            Vec::new()
        } else if name.contains("{head}") {
            (0..rows)
                .map(|head| format!("{}.weight", name.replace("{head}", &head.to_string())))
                .collect()
        } else {
            vec![format!("{name}.weight")]
        };
        let eps = self.number("norm eps", &style.eps)?;
        Ok(Norm {
            kind: style.kind,
            eps: eps.ok_or_else(|| self.wrong("norm eps", "a number", &Value::Absent))?,
            weights,
            bias: self.flag("norm bias", &style.bias, false)?.then(|| format!("{name}.bias")),
            offset: style.offset,
            width,
            rows,
        })
    }

    fn layer(&mut self, number: usize, hidden: usize) -> Result<Layer> {
        self.scope.defined.insert("layer".to_string(), Value::Number(number as f64));
        for (name, leaf) in &self.family.define_layer.0 {
            let value = self.value(leaf);
            self.scope.defined.insert(name.clone(), value);
        }
        let section = &self.family.layer;
        self.layer_prefix =
            format!("{}{}", self.prefix, section.prefix.replace("{layer}", &number.to_string()));
        let norm = |places| self.norm(places, &self.layer_prefix, hidden, 1);
        let mixer = match (&section.attention, &section.state_space) {
            (Some(attention), None) => {
                Mixer::Attention(Box::new(self.attention(attention, hidden)?))
            }
            (None, Some(space)) => Mixer::StateSpace(Box::new(self.state_space(space, hidden)?)),
            _ => return Err(Error::internal("an architecture needs one kind of mixer")),
        };
        let experts = match &section.experts {
            Some(experts) if self.flag("experts", &experts.when, true)? => Some(experts),
            _ => None,
        };
        let mlp = match (experts, &section.mlp) {
            (Some(experts), _) => Some(Mlp::Experts(Box::new(self.experts(experts, hidden)?))),
            (None, Some(dense)) => Some(Mlp::Dense(self.dense(dense, hidden, None)?)),
            (None, None) => None,
        };
        Ok(Layer {
            parallel: self.flag("parallel residual", &section.parallel, false)?,
            residual_scale: self.factor("residual scale", &section.residual_scale)?,
            attention_input: norm(&section.norms.attention_input)?,
            attention_output: norm(&section.norms.attention_output)?,
            attention_sum: norm(&section.norms.attention_sum)?,
            mlp_input: norm(&section.norms.mlp_input)?,
            mlp_output: norm(&section.norms.mlp_output)?,
            mlp_sum: norm(&section.norms.mlp_sum)?,
            mixer,
            mlp,
        })
    }
}

/// A linear map from tensors named without `.weight`, with the outputs of each.
fn linear(parts: &[(String, usize)], inputs: usize, bias: bool, transposed: bool) -> Linear {
    let part = |(name, outputs): &(String, usize)| LinearPart {
        weight: format!("{name}.weight"),
        bias: bias.then(|| format!("{name}.bias")),
        outputs: *outputs,
    };
    Linear { parts: parts.iter().map(part).collect(), inputs, transposed }
}
