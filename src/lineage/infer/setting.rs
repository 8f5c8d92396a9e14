//! A parameter over all tensors, in the words of recipes: a constant, a value a layer, values by name.

use std::collections::BTreeMap;

/// How many standard errors a value may lie from what the setting says, and what is allowed besides:
/// arithmetic in bf16 moves coefficients by some thousandths.
const ERRORS: f64 = 5.0;
const SLACK: f64 = 0.004;

/// An estimate with its standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}

/// A parameter's values in the shape of recipes.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// One value for all tensors.
    Constant(Estimate),
    /// A value for each layer; the first one holds outside the layers too.
    Layers(Vec<Estimate>),
    /// Values for the tensors whose names contain a word, the first that fits; and for the others.
    Named(Vec<(String, Setting)>, Box<Setting>),
}

/// A tensor's value, and where the tensor stands.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) name: String,
    pub(super) layer: Option<usize>,
    /// The name within the layer.
    pub(super) rest: String,
    pub(super) estimate: Estimate,
}

impl Estimate {
    /// The mean of several estimates, weighted by their errors.
    pub(super) fn mean<'a>(of: impl IntoIterator<Item = &'a Self>) -> Self {
        let (mut sum, mut weight) = (0.0, 0.0);
        for estimate in of {
            let share = 1.0 / (estimate.error * estimate.error).max(1e-18);
            sum += share * estimate.value;
            weight += share;
        }
        if weight > 0.0 {
            Self { value: sum / weight, error: weight.recip().sqrt() }
        } else {
            Self::default()
        }
    }

    fn fits(&self, value: f64) -> bool {
        (self.value - value).abs() <= ERRORS * self.error + SLACK
    }

    /// The value with as few decimals as its error allows.
    pub fn short(&self) -> f64 {
        let slack = (3.0 * self.error).max(0.003 * self.value.abs()).max(5e-4);
        for decimals in 0..6 {
            let scale = 10.0_f64.powi(decimals);
            let round = (self.value * scale).round() / scale;
            if (round - self.value).abs() <= slack && (round != 0.0 || self.value.abs() <= 1e-3) {
                return round;
            }
        }
        self.value
    }
}

impl Setting {
    /// The simplest setting that fits every tensor.
    pub(super) fn of(placed: &[Placed]) -> Self {
        if let Some(simple) = Self::simple(placed) {
            return simple;
        }
        // By the part of the layer, then by the tensor.
        let part = |placed: &Placed| match placed.layer {
            Some(_) => {
                let end = placed.rest[1..].find('.').map_or(placed.rest.len(), |at| at + 1);
                placed.rest[..end].to_string()
            }
            None => placed.name.clone(),
        };
        Self::grouped(placed, part).unwrap_or_else(|| {
            let whole = |placed: &Placed| match placed.layer {
                Some(_) => placed.rest.clone(),
                None => placed.name.clone(),
            };
            Self::grouped(placed, whole).unwrap_or_else(|| {
                // No rule: every tensor by its name.
                let all = Estimate::mean(placed.iter().map(|placed| &placed.estimate));
                let named = placed
                    .iter()
                    .map(|placed| (placed.name.clone(), Self::Constant(placed.estimate)));
                Self::Named(named.collect(), Box::new(Self::Constant(all)))
            })
        })
    }

    /// A constant or a value a layer, if that fits.
    fn simple(placed: &[Placed]) -> Option<Self> {
        let mean = Estimate::mean(placed.iter().map(|placed| &placed.estimate));
        if placed.iter().all(|placed| placed.estimate.fits(mean.value)) {
            return Some(Self::Constant(mean));
        }
        let mut layers: BTreeMap<usize, Vec<&Estimate>> = BTreeMap::new();
        for placed in placed {
            layers.entry(placed.layer.unwrap_or(0)).or_default().push(&placed.estimate);
        }
        let complete = layers.len() > 1 && layers.keys().copied().eq(0..layers.len());
        let means: Vec<Estimate> =
            layers.values().map(|of| Estimate::mean(of.iter().copied())).collect();
        let fits = |placed: &Placed| {
            let mean = means.get(placed.layer.unwrap_or(0));
            mean.is_some_and(|mean| placed.estimate.fits(mean.value))
        };
        (complete && placed.iter().all(fits)).then_some(Self::Layers(means))
    }

    /// Settings by a part of the name, if a simple one fits each part. What most tensors have stands
    /// last, without a name.
    fn grouped(placed: &[Placed], part: impl Fn(&Placed) -> String) -> Option<Self> {
        let mut groups: BTreeMap<String, Vec<Placed>> = BTreeMap::new();
        for placed in placed {
            groups.entry(part(placed)).or_default().push(placed.clone());
        }
        let mut named: Vec<(String, usize, Self)> = groups
            .into_iter()
            .map(|(word, group)| Some((word, group.len(), Self::simple(&group)?)))
            .collect::<Option<_>>()?;
        // The commonest constant is what the others have.
        let agreeing = |constant: &Self| {
            named
                .iter()
                .filter(|(_, _, other)| constant.same(other))
                .map(|(_, n, _)| n)
                .sum::<usize>()
        };
        let common = named.iter().map(|(_, _, s)| s).max_by_key(|s| agreeing(s)).cloned()?;
        named.retain(|(_, _, setting)| !common.same(setting));
        let named = named.into_iter().map(|(word, _, setting)| (word, setting)).collect();
        Some(Self::Named(named, Box::new(common)))
    }

    fn same(&self, other: &Self) -> bool {
        let near = |a: &Estimate, b: &Estimate| {
            (a.value - b.value).abs() <= ERRORS * (a.error + b.error) + SLACK
        };
        match (self, other) {
            (Self::Constant(a), Self::Constant(b)) => near(a, b),
            (Self::Layers(a), Self::Layers(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| near(a, b))
            }
            _ => false,
        }
    }

    /// The value at a tensor.
    pub(super) fn at(&self, name: &str, layer: Option<usize>) -> Estimate {
        match self {
            Self::Constant(estimate) => *estimate,
            Self::Layers(layers) => layers.get(layer.unwrap_or(0)).copied().unwrap_or_default(),
            Self::Named(named, others) => {
                let found = named.iter().find(|(word, _)| name.contains(word.as_str()));
                found.map_or(&**others, |(_, setting)| setting).at(name, layer)
            }
        }
    }

    /// The mean of its values.
    pub(super) fn middle(&self) -> f64 {
        match self {
            Self::Constant(estimate) => estimate.value,
            Self::Layers(layers) => {
                layers.iter().map(|x| x.value).sum::<f64>() / layers.len().max(1) as f64
            }
            Self::Named(_, others) => others.middle(),
        }
    }

    /// The same with every value as [`Estimate::short`] has it.
    pub(super) fn shortened(&self) -> Self {
        let short = |estimate: &Estimate| Estimate { value: estimate.short(), ..*estimate };
        match self {
            Self::Constant(estimate) => Self::Constant(short(estimate)),
            Self::Layers(layers) => Self::Layers(layers.iter().map(short).collect()),
            Self::Named(named, others) => Self::Named(
                named.iter().map(|(word, setting)| (word.clone(), setting.shortened())).collect(),
                Box::new(others.shortened()),
            ),
        }
    }

    /// As a value of a recipe, in YAML's flow style.
    pub fn yaml(&self) -> String {
        match self {
            Self::Constant(estimate) => number(estimate.value),
            Self::Layers(layers) => {
                let values: Vec<String> = layers.iter().map(|x| number(x.value)).collect();
                format!("[{}]", values.join(", "))
            }
            Self::Named(named, others) => {
                let mut entries: Vec<String> = named
                    .iter()
                    .map(|(word, setting)| {
                        format!("{{filter: {}, value: {}}}", quoted(word), setting.yaml())
                    })
                    .collect();
                entries.push(format!("{{value: {}}}", others.yaml()));
                format!("[{}]", entries.join(", "))
            }
        }
    }

    /// Every value with its name, layer and error, as JSON.
    pub(super) fn json(&self) -> serde_json::Value {
        let one = |e: &Estimate| serde_json::json!({"value": e.value, "error": e.error});
        match self {
            Self::Constant(estimate) => one(estimate),
            Self::Layers(layers) => {
                serde_json::json!({"layers": layers.iter().map(one).collect::<Vec<_>>()})
            }
            Self::Named(named, others) => {
                let named: Vec<_> = named
                    .iter()
                    .map(|(word, setting)| serde_json::json!({"filter": word, "value": setting.json()}))
                    .collect();
                serde_json::json!({"named": named, "others": others.json()})
            }
        }
    }

    /// In words: the value with its error, or the least and the greatest.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Constant(e) => format!("{:.4} ± {:.4}", e.value, e.error),
            Self::Layers(layers) => {
                let values: Vec<String> =
                    layers.iter().map(|x| format!("{:.3}", x.value)).collect();
                format!("[{}] by layer", values.join(", "))
            }
            Self::Named(named, others) => {
                let mut parts: Vec<String> = named
                    .iter()
                    .map(|(word, setting)| format!("{word}: {}", setting.text()))
                    .collect();
                parts.push(format!("others: {}", others.text()));
                parts.join("; ")
            }
        }
    }
}

/// A number as YAML has it, without needless digits.
pub(super) fn number(value: f64) -> String {
    let rounded = (value * 1e6).round() / 1e6;
    format!("{}", if rounded == 0.0 { 0.0 } else { rounded })
}

/// A text as YAML has it between quotes.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
