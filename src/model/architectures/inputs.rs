//! What goes into a model's linear maps: several may read the same.

use super::{Architecture, Dense, Layer, Linear, Mixer, Mlp};

/// The input of one linear map, or of several that read the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MapInput {
    /// Its elements for a token.
    pub(crate) width: usize,
    /// The weights that it is multiplied with; the first of them names it.
    pub(crate) weights: Vec<MapWeight>,
}

/// A weight of a linear map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MapWeight {
    /// The tensor.
    pub(crate) name: String,
    /// Whether it is stored as inputs × outputs.
    pub(crate) transposed: bool,
}

impl MapInput {
    fn of<'a>(maps: impl IntoIterator<Item = &'a Linear>) -> Self {
        let mut input = Self { width: 0, weights: Vec::new() };
        for map in maps {
            input.width = map.inputs;
            let weight =
                |name: &String| MapWeight { name: name.clone(), transposed: map.transposed };
            input.weights.extend(map.parts.iter().map(|part| weight(&part.weight)));
        }
        input
    }

    /// What it is known by: its first weight.
    pub(crate) fn name(&self) -> &str {
        self.weights.first().map_or("", |weight| &weight.name)
    }
}

impl Layer {
    /// What goes into the layer's linear maps; nothing is said of a state space.
    pub(crate) fn inputs(&self) -> Vec<MapInput> {
        let mut all = Vec::new();
        let inner = |of: &Dense| MapInput::of([&of.down]);
        // What reads the same as the attention's projections, in a parallel layer without a norm of
        // the MLP's own.
        let shares = self.parallel && self.mlp_input.is_none();
        let of_mlp: Vec<&Linear> = match &self.mlp {
            None => Vec::new(),
            Some(Mlp::Dense(of)) => vec![&of.up],
            Some(Mlp::Experts(of)) => std::iter::once(&of.router)
                .chain(of.shared.as_ref().map(|shared| &shared.up))
                .chain(&of.shared_gate)
                .collect(),
        };
        let mut own = of_mlp.as_slice();
        if let Mixer::Attention(attention) = &self.mixer {
            let with = if shares { std::mem::take(&mut own) } else { &[] };
            let maps = std::iter::once(&attention.projections).chain(with.iter().copied());
            all.push(MapInput::of(maps));
            all.push(MapInput::of([&attention.output]));
        }
        if !own.is_empty() {
            all.push(MapInput::of(own.iter().copied()));
        }
        match &self.mlp {
            None => {}
            Some(Mlp::Dense(of)) => all.push(inner(of)),
            Some(Mlp::Experts(of)) => {
                for expert in &of.experts {
                    all.push(MapInput::of([&expert.up]));
                    all.push(inner(expert));
                }
                all.extend(of.shared.as_ref().map(inner));
            }
        }
        all
    }
}

impl Architecture {
    /// What goes into the linear maps before the first layer.
    pub(crate) fn first_inputs(&self) -> Vec<MapInput> {
        self.embedding.projection.iter().map(|map| MapInput::of([map])).collect()
    }

    /// What goes into the linear maps behind the last layer, and into the head if a tensor of its own is
    /// `stored` for it.
    pub(crate) fn last_inputs(&self, stored: impl Fn(&str) -> bool) -> Vec<MapInput> {
        let name = &self.head.tensor;
        let own = stored(name) && *name != format!("{}.weight", self.embedding.tensor);
        let weights = vec![MapWeight { name: name.clone(), transposed: false }];
        let head = own.then_some(MapInput { width: self.head.width, weights });
        self.head.projection.iter().map(|map| MapInput::of([map])).chain(head).collect()
    }

    /// What goes into all of its linear maps.
    pub(crate) fn inputs(&self, stored: impl Fn(&str) -> bool) -> Vec<MapInput> {
        let layers = self.layers.iter().flat_map(Layer::inputs);
        self.first_inputs().into_iter().chain(layers).chain(self.last_inputs(stored)).collect()
    }
}
