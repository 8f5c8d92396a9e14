//! The cases of the generic suite: a method, how many inputs, their parameters; and how a case is run.

use super::{geometry, matrices, reference, scored, sparse};
use crate::engine::{Lanes, ModelIo, NanPolicy};
use crate::error::Result;
use crate::kernels::{Kernels, Stream};
use crate::methods::*;
use crate::model::{Float, InputsAlong, Source, TensorSpec};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A tensor in memory, stored in one of the float types.
pub(super) struct Memory {
    pub(super) spec: TensorSpec,
    bytes: Vec<u8>,
    float: Float,
    /// Elements that were read.
    pub(super) read: AtomicUsize,
}

impl Memory {
    pub(super) fn new(values: &[f32], float: Float) -> Self {
        Self::shaped(values, &[values.len()], float)
    }

    pub(super) fn shaped(values: &[f32], shape: &[usize], float: Float) -> Self {
        let mut bytes = vec![0; values.len() * float.size()];
        Kernels::best().encode(float, values, &mut bytes);
        let spec = TensorSpec {
            name: "model.layers.0.mlp.up_proj.weight".to_string(),
            dtype: float.dtype(),
            shape: shape.to_vec(),
        };
        Self { spec, bytes, float, read: AtomicUsize::new(0) }
    }

    pub(super) fn copy(&self) -> Self {
        let (spec, bytes) = (self.spec.clone(), self.bytes.clone());
        Self { spec, bytes, float: self.float, read: AtomicUsize::new(0) }
    }

    pub(super) fn values(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.spec.elements()];
        self.read(0, &mut values).unwrap();
        values
    }
}

impl Source for Memory {
    fn spec(&self) -> &TensorSpec {
        &self.spec
    }

    fn read(&self, start: usize, out: &mut [f32]) -> Result<bool> {
        self.read.fetch_add(out.len(), Ordering::Relaxed);
        let size = self.float.size();
        let bytes = &self.bytes[start * size..(start + out.len()) * size];
        Ok(Kernels::best().decode(self.float, bytes, &[], out))
    }
}

/// One way to call a method: its inputs' number, the base's place, and parameters.
#[derive(Clone)]
pub(super) struct Case {
    pub(super) method: &'static str,
    pub(super) models: usize,
    pub(super) base: Option<usize>,
    pub(super) shared: Vec<(&'static str, Value)>,
    /// Values for each model that the parameter belongs to.
    pub(super) each: Vec<(&'static str, Vec<f64>)>,
    /// Whether inputs of linear maps lie along the rows of a matrix.
    pub(super) transposed: bool,
    /// Post-steps with their parameters.
    pub(super) posts: Vec<(&'static str, Vec<(&'static str, f64)>)>,
}

/// Where the layer of the suite's tensor stands in its stack.
const DEPTH: f64 = 0.75;

pub(super) fn case(method: &'static str, models: usize, base: Option<usize>) -> Case {
    let (shared, each, posts) = (Vec::new(), Vec::new(), Vec::new());
    Case { method, models, base, shared, each, transposed: false, posts }
}

/// At least one case a method; a method without one fails `every_method_has_a_case`.
pub(super) fn cases() -> Vec<Case> {
    let others = vec![
        case("linear", 3, None).each("weight", &[0.2, 0.5, 0.9]),
        case("linear", 2, None).each("weight", &[-0.5, 2.0]),
        case("linear", 2, Some(1)).each("weight", &[0.3, 0.1]).flag("normalize", false),
        case("slerp", 2, Some(0)).number("t", 0.3),
        case("slerp", 2, Some(1)).number("t", 0.8),
        case("slerp", 2, Some(0)).number("t", 1.5),
        case("slerp", 2, Some(0)).number("t", -0.25),
        case("task_arithmetic", 3, Some(2)).each("weight", &[0.6, -0.2]),
        case("task_arithmetic", 3, Some(1))
            .each("weight", &[0.6, 0.2])
            .flag("normalize", true)
            .number("lambda", 0.7),
        case("ties", 3, Some(0)).each("weight", &[1.0, 0.5]).each("density", &[0.3, 0.7]),
        case("ties", 4, Some(3))
            .each("weight", &[1.0, 0.5, -0.4])
            .each("density", &[0.5, 0.0, 1.0])
            .flag("normalize", false)
            .number("lambda", 1.3),
        case("ties", 3, Some(1))
            .each("weight", &[1.0, 0.5])
            .each("density", &[0.001, 0.999])
            .flag("rescale", true),
        case("ties", 3, Some(0)).each("weight", &[1.0, 0.5]).each("density", &[0.3, 0.7]).paper(),
        case("dare_linear", 3, Some(2)).each("weight", &[0.5, 0.5]).each("density", &[0.3, 0.8]),
        case("dare_linear", 3, Some(0)).each("weight", &[0.5, 0.5]).each("density", &[0.0, 1.0]),
        case("dare_linear", 2, Some(0)).each("weight", &[0.5]).each("density", &[0.4]).paper(),
        case("dare_ties", 3, Some(0))
            .each("weight", &[0.5, 1.5])
            .each("density", &[0.3, 0.8])
            .flag("normalize", true),
        case("dare_ties", 3, Some(0))
            .each("weight", &[0.5, 1.5])
            .each("density", &[0.4, 0.6])
            .flag("rescale", false),
        case("fisher", 3, None).each("weight", &[1.0, 0.5, 0.25]),
        case("fisher", 2, Some(1)).number("floor", 0.1),
        case("fisher", 1, None),
        case("regmean", 3, None).each("weight", &[1.0, 0.5, 0.25]),
        case("regmean", 2, Some(1)).number("reduce_non_diag", 1.0).transposed(),
        case("regmean", 3, None).each("weight", &[0.4, 0.0, 0.3]).number("reduce_non_diag", 0.0),
        case("regmean", 1, None),
        case("passthrough", 1, None),
        case("passthrough", 1, None).each("scale", &[-1.5]),
        case("task_arithmetic", 3, Some(1))
            .each("weight", &[0.6, 0.2])
            .then("lines", &[("alpha", 0.3), ("beta", 1.1)]),
        case("linear", 2, Some(0))
            .each("weight", &[0.6, 0.2])
            .then("lines", &[("alpha", 0.0), ("beta", 0.0)]),
    ];
    [others, geometry::cases(), sparse::cases(), scored::cases(), matrices::cases()].concat()
}

impl Case {
    pub(super) fn each(mut self, name: &'static str, values: &[f64]) -> Self {
        self.each.push((name, values.to_vec()));
        self
    }

    pub(super) fn with(mut self, name: &'static str, value: Value) -> Self {
        self.shared.push((name, value));
        self
    }

    pub(super) fn number(self, name: &'static str, value: f64) -> Self {
        self.with(name, Value::Number(value))
    }

    pub(super) fn flag(self, name: &'static str, value: bool) -> Self {
        self.with(name, Value::Bool(value))
    }

    /// The case with weights that are stored as inputs × outputs.
    pub(super) fn transposed(self) -> Self {
        Self { transposed: true, ..self }
    }

    /// The side of a tensor that the case's Gram matrices belong to, where it has any. They are kept
    /// small.
    pub(super) fn along(&self, shape: &[usize]) -> Option<InputsAlong> {
        let gram = self.method().statistics == Some(Statistics::Gram);
        match shape {
            [_, columns] if gram && !self.transposed && *columns <= 200 => {
                Some(InputsAlong::Columns)
            }
            [_, _] if gram => Some(InputsAlong::Rows),
            _ => None,
        }
    }

    /// The case with a post-step behind it.
    pub(super) fn then(mut self, post: &'static str, params: &[(&'static str, f64)]) -> Self {
        self.posts.push((post, params.to_vec()));
        self
    }

    pub(super) fn paper(self) -> Self {
        self.with("variant", Value::Text("paper".to_string()))
    }
}

impl Case {
    pub(super) fn method(&self) -> &'static Method {
        Method::named(self.method).unwrap()
    }

    pub(super) fn params(&self) -> Params {
        let mut params = Params { inputs: vec![BTreeMap::new(); self.models], ..Params::default() };
        for param in self.method().params {
            let given = self.shared.iter().find(|(name, _)| *name == param.name);
            let value = given.map(|(_, value)| value.clone()).or(param.default_value());
            if param.scope == Scope::Shared {
                params.shared.insert(param.name, value.expect("a required parameter"));
                continue;
            }
            let each = self.each.iter().find(|(name, _)| *name == param.name);
            let takes = |i: &usize| param.scope == Scope::Input || self.base != Some(*i);
            for (k, i) in (0..self.models).filter(takes).enumerate() {
                let value =
                    each.map(|(_, values)| Value::Number(values[k])).or(param.default_value());
                if let Some(value) = value {
                    params.inputs[i].insert(param.name, value);
                }
            }
        }
        params
    }

    pub(super) fn steps(&self) -> Vec<Step> {
        let step = |(name, given): &(&'static str, Vec<(&'static str, f64)>)| {
            let post = Post::named(name).unwrap();
            let mut params = Params::default();
            for param in post.params {
                let given = given.iter().find(|(name, _)| *name == param.name);
                let value = given.map(|(_, x)| Value::Number(*x)).or(param.default_value());
                params.shared.insert(param.name, value.expect("a required parameter"));
            }
            let weights = self.params().inputs;
            let left_out = |i: usize| weights[i].get("weight") == Some(&Value::Number(0.0));
            let tasks = (0..self.models).filter(|i| self.base != Some(*i) && !left_out(*i));
            Step { post, params, tasks: tasks.collect(), depth: Some(DEPTH) }
        };
        self.posts.iter().map(step).collect()
    }

    pub(super) fn run(&self, inputs: &[Memory], kernels: Kernels, lanes: Lanes) -> Vec<f32> {
        self.run_model(&[inputs], kernels, lanes).remove(0)
    }

    /// Runs the method on each tensor of a model, with a survey of the whole model where it asks
    /// for one.
    pub(super) fn run_model(
        &self,
        tensors: &[&[Memory]],
        kernels: Kernels,
        lanes: Lanes,
    ) -> Vec<Vec<f32>> {
        let sources: Vec<Vec<&dyn Source>> = tensors
            .iter()
            .map(|inputs| inputs.iter().map(|input| input as &dyn Source).collect())
            .collect();
        let streams: Vec<Stream> = (0..self.models).map(stream).collect();
        let params = self.params();
        let along = self.along(&tensors[0][0].spec.shape);
        let streamed = along.map(|_| self.models);
        fn io_of<'a>(
            sources: &'a [&'a dyn Source],
            streamed: Option<usize>,
            new: impl Fn(&'a [&'a dyn Source]) -> TensorIo<'a>,
            along: Option<InputsAlong>,
        ) -> TensorIo<'a> {
            let (inputs, beside) = sources.split_at(streamed.unwrap_or(sources.len()));
            new(inputs).with_beside(beside, along)
        }
        let io = |sources| {
            let new = |inputs| {
                TensorIo::new(inputs, self.base, &streams, kernels, lanes, NanPolicy::Refuse)
            };
            io_of(sources, streamed, new, along)
        };
        let mut surveyed: Vec<Option<Surveyed>> = tensors.iter().map(|_| None).collect();
        if let Some(survey) = (self.method().survey)(&params) {
            let models: Vec<usize> = (0..self.models).collect();
            let parts = tensors.iter().map(|_| Part { models: models.clone(), params: &params });
            let model = ModelIo::new(sources.iter().map(|sources| io(sources)).collect());
            let found = (survey.make)(&model, &parts.collect::<Vec<_>>()).unwrap();
            surveyed = found.into_iter().map(Some).collect();
        }
        let mut all = Vec::new();
        for ((inputs, sources), surveyed) in tensors.iter().zip(&sources).zip(&surveyed) {
            let io = io(sources).with_survey(surveyed.as_ref());
            all.push(self.made(&io, inputs[0].spec.elements()).unwrap());
        }
        all
    }

    /// The output of a method that needs no survey, or its error.
    pub(super) fn try_run(&self, inputs: &[Memory]) -> Result<Vec<f32>> {
        let sources: Vec<&dyn Source> = inputs.iter().map(|input| input as &dyn Source).collect();
        let streams: Vec<Stream> = (0..self.models).map(stream).collect();
        let (kernels, nan) = (Kernels::best(), NanPolicy::Refuse);
        let io = TensorIo::new(&sources, self.base, &streams, kernels, Lanes::One, nan);
        self.made(&io, inputs[0].spec.elements())
    }

    /// The method's map with the post-steps behind it, applied to every chunk.
    fn made(&self, io: &TensorIo<'_>, elements: usize) -> Result<Vec<f32>> {
        let map = (self.method().prepare)(io, &self.params())?;
        let mut steps = self.steps().into_iter();
        let map = steps.try_fold(map, |map, step| (step.post.prepare)(io, map, &step))?;
        let mut out = vec![0.0; elements];
        for chunk in 0..io.chunks() {
            io.map_chunk(&map, chunk, |start, values| {
                out[start..start + values.len()].copy_from_slice(values);
                Ok(())
            })?;
        }
        Ok(out)
    }
}

/// The random numbers of a model.
pub(super) fn stream(model: usize) -> Stream {
    Stream { key: [11, model as u32], nonce: [5, 6] }
}

pub(super) fn assert_close(case: &Case, found: &[f32], inputs: &[Memory]) {
    let values: Vec<Vec<f32>> = inputs.iter().map(Memory::values).collect();
    let wanted = reference::run(case, &values, &inputs[0].spec.shape);
    let open = wanted.iter().filter(|wanted| wanted.is_nan()).count();
    assert!(open * 50 <= wanted.len(), "{}: {open} of {} are open", case.method, wanted.len());
    for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
        if wanted.is_nan() {
            continue;
        }
        let error = (f64::from(*found) - wanted).abs();
        assert!(
            error <= 2e-6 * (1.0 + wanted.abs()),
            "{} at {i}: {found} for {wanted}",
            case.method
        );
    }
}
