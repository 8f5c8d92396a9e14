//! The generic suite: every row of [`METHODS`] against a slow f64 reference, on every instruction
//! set, at several thread counts, on odd lengths, each dtype and adversarial values.

mod geometry;
mod inputs;
mod jacobi;
mod matrices;
mod properties;
mod reference;
mod regmean;
mod scored;
mod sparse;

use super::*;
use crate::engine::{Lanes, ModelIo, NanPolicy};
use crate::error::Result;
use crate::kernels::{Kernels, Stream};
use crate::model::{Float, InputsAlong, Source, TensorSpec};
use inputs::inputs;
use std::collections::BTreeMap;

/// A tensor in memory, stored in one of the float types.
struct Memory {
    spec: TensorSpec,
    bytes: Vec<u8>,
    float: Float,
}

impl Memory {
    fn new(values: &[f32], float: Float) -> Self {
        Self::shaped(values, &[values.len()], float)
    }

    fn shaped(values: &[f32], shape: &[usize], float: Float) -> Self {
        let mut bytes = vec![0; values.len() * float.size()];
        Kernels::best().encode(float, values, &mut bytes);
        let spec = TensorSpec {
            name: "model.layers.0.mlp.up_proj.weight".to_string(),
            dtype: float.dtype(),
            shape: shape.to_vec(),
        };
        Self { spec, bytes, float }
    }

    fn values(&self) -> Vec<f32> {
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
        let size = self.float.size();
        let bytes = &self.bytes[start * size..(start + out.len()) * size];
        Ok(Kernels::best().decode(self.float, bytes, &[], out))
    }
}

/// One way to call a method: its inputs' number, the base's place, and parameters.
#[derive(Clone)]
struct Case {
    method: &'static str,
    models: usize,
    base: Option<usize>,
    shared: Vec<(&'static str, Value)>,
    /// Values for each model that the parameter belongs to.
    each: Vec<(&'static str, Vec<f64>)>,
    /// Whether inputs of linear maps lie along the rows of a matrix.
    transposed: bool,
    /// Post-steps with their parameters.
    posts: Vec<(&'static str, Vec<(&'static str, f64)>)>,
}

/// Where the layer of the suite's tensor stands in its stack.
const DEPTH: f64 = 0.75;

fn case(method: &'static str, models: usize, base: Option<usize>) -> Case {
    let (shared, each, posts) = (Vec::new(), Vec::new(), Vec::new());
    Case { method, models, base, shared, each, transposed: false, posts }
}

/// At least one case a method; a method without one fails `every_method_has_a_case`.
fn cases() -> Vec<Case> {
    let others = vec![
        case("linear", 3, None).each("weight", &[0.2, 0.5, 0.9]),
        case("linear", 2, None).each("weight", &[-0.5, 2.0]),
        case("linear", 2, Some(1)).each("weight", &[0.3, 0.1]).flag("normalize", false),
        case("slerp", 2, Some(0)).number("t", 0.3),
        case("slerp", 2, Some(1)).number("t", 0.8),
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
    fn each(mut self, name: &'static str, values: &[f64]) -> Self {
        self.each.push((name, values.to_vec()));
        self
    }

    fn with(mut self, name: &'static str, value: Value) -> Self {
        self.shared.push((name, value));
        self
    }

    fn number(self, name: &'static str, value: f64) -> Self {
        self.with(name, Value::Number(value))
    }

    fn flag(self, name: &'static str, value: bool) -> Self {
        self.with(name, Value::Bool(value))
    }

    /// The case with weights that are stored as inputs × outputs.
    fn transposed(self) -> Self {
        Self { transposed: true, ..self }
    }

    /// The side of a tensor that the case's Gram matrices belong to, where it has any. They are kept
    /// small.
    fn along(&self, shape: &[usize]) -> Option<InputsAlong> {
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
    fn then(mut self, post: &'static str, params: &[(&'static str, f64)]) -> Self {
        self.posts.push((post, params.to_vec()));
        self
    }

    fn paper(self) -> Self {
        self.with("variant", Value::Text("paper".to_string()))
    }
}

impl Case {
    fn method(&self) -> &'static Method {
        Method::named(self.method).unwrap()
    }

    fn params(&self) -> Params {
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

    fn steps(&self) -> Vec<Step> {
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

    fn run(&self, inputs: &[Memory], kernels: Kernels, lanes: Lanes) -> Vec<f32> {
        self.run_model(&[inputs], kernels, lanes).remove(0)
    }

    /// Runs the method on each tensor of a model, with a survey of the whole model where it asks
    /// for one.
    fn run_model(&self, tensors: &[&[Memory]], kernels: Kernels, lanes: Lanes) -> Vec<Vec<f32>> {
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
        let mut surveyed = vec![Vec::new(); tensors.len()];
        if (self.method().trims_model)(&params) {
            let parts = tensors.iter().map(|_| Part {
                models: (1..self.models).collect(),
                densities: params.each("density"),
            });
            let model = ModelIo::new(sources.iter().map(|sources| io(sources)).collect());
            surveyed = model_thresholds(&model, &parts.collect::<Vec<_>>()).unwrap();
        }
        let mut all = Vec::new();
        for ((inputs, sources), thresholds) in tensors.iter().zip(&sources).zip(&surveyed) {
            let io = io(sources).with_thresholds(Some(thresholds));
            all.push(self.made(&io, inputs[0].spec.elements()).unwrap());
        }
        all
    }

    /// The output of a method that needs no survey, or its error.
    fn try_run(&self, inputs: &[Memory]) -> Result<Vec<f32>> {
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
fn stream(model: usize) -> Stream {
    Stream { key: [11, model as u32], nonce: [5, 6] }
}

fn assert_close(case: &Case, found: &[f32], inputs: &[Memory]) {
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

#[test]
fn every_method_of_mergekit_is_here() {
    // Those of its 0.1.5, by its registry.
    for name in [
        "arcee_fusion",
        "breadcrumbs",
        "breadcrumbs_ties",
        "dare_linear",
        "dare_ties",
        "della",
        "della_linear",
        "karcher",
        "linear",
        "model_stock",
        "multislerp",
        "nearswap",
        "nuslerp",
        "passthrough",
        "ram",
        "ramplus_tl",
        "sce",
        "slerp",
        "task_arithmetic",
        "ties",
    ] {
        assert!(Method::named(name).is_some(), "{name}");
    }
    assert_eq!(Method::unknown("tise").1, "did you mean `ties`?");
}

#[test]
fn every_method_has_a_case() {
    for method in &METHODS {
        assert!(cases().iter().any(|case| case.method == method.name), "{}", method.name);
        assert!(!method.notes.trim().is_empty(), "{} has no notes", method.name);
    }
    for post in &POSTS {
        let has = |case: &Case| case.posts.iter().any(|(name, _)| *name == post.name);
        assert!(cases().iter().any(has), "{}", post.name);
        assert!(!post.notes.trim().is_empty(), "{} has no notes", post.name);
    }
}

#[test]
fn methods_follow_their_references_on_odd_lengths_and_dtypes() {
    for case in &cases() {
        for length in [1, 2, 17, 63, 65, 4095, 4097] {
            for float in [Float::F32, Float::F16, Float::BF16] {
                let inputs = case.inputs(&[length], float);
                assert_close(case, &case.run(&inputs, Kernels::best(), Lanes::One), &inputs);
            }
        }
    }
}

#[test]
fn methods_follow_their_references_on_matrices() {
    for case in &cases() {
        for shape in [&[1, 17][..], &[17, 1], &[3, 65], &[64, 63], &[3, 4099], &[5, 3, 7]] {
            let inputs = case.inputs(shape, Float::F32);
            assert_close(case, &case.run(&inputs, Kernels::best(), Lanes::One), &inputs);
        }
    }
}

fn same_bits(found: &[f32], wanted: &[f32]) -> bool {
    found.iter().zip(wanted).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// A tensor of `length` elements, and, where rows or matrices are something to the case's method, a
/// matrix: of few rows for what takes matrices apart, which takes long for many.
fn shapes(case: &Case, length: usize, rows: [usize; 2], matrix: [usize; 2]) -> Vec<Vec<usize>> {
    let whole = case.steps().iter().any(|step| (step.post.whole)(1, (2, 2)) > 0)
        || (case.method().whole)(1, (2, 2)) > 0;
    let by_rows = (case.method().holds)(&case.params(), case.models, &[2, 2]) > 0;
    let second = if whole { Some(matrix.to_vec()) } else { by_rows.then(|| rows.to_vec()) };
    [vec![length]].into_iter().chain(second).collect()
}

#[test]
fn methods_give_the_same_bits_on_every_instruction_set() {
    for case in &cases() {
        for shape in shapes(case, 65_557, [13, 4999], [29, 2001]) {
            let inputs = case.inputs(&shape, Float::BF16);
            let wanted = case.run(&inputs, Kernels::best(), Lanes::One);
            assert_close(case, &wanted, &inputs);
            for kernels in Kernels::all() {
                let found = case.run(&inputs, kernels, Lanes::One);
                assert!(same_bits(&found, &wanted), "{} {:?}", case.method, kernels);
            }
        }
    }
}

#[test]
fn methods_give_the_same_bits_at_every_thread_count() {
    // Longer than two chunks, and rows that lie across the ends of chunks.
    let length = 2 * crate::engine::CHUNK + 4097;
    for case in &cases() {
        for shape in shapes(case, length, [107, 4999], [29, 18_493]) {
            let inputs = case.inputs(&shape, Float::BF16);
            let wanted = case.run(&inputs, Kernels::best(), Lanes::One);
            for threads in [1, 2, 3, 8] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let found = pool.install(|| case.run(&inputs, Kernels::best(), Lanes::Pool));
                assert!(same_bits(&found, &wanted), "{} at {threads} threads", case.method);
            }
        }
    }
}

#[test]
fn thresholds_are_exact_where_a_sample_brackets_them() {
    // Long enough to be sampled; rows that differ in size mislead the sample of the second case.
    let length = (1 << 20) + 77;
    let counting = |case: &&Case| matches!(case.method().reads, Reads::Stream { bins: 1.., .. });
    let trims = |case: &&Case| case.method != "pcb" || case.shared.is_empty();
    // The references sort, which takes a while: two cases of each method are enough.
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut first = |case: &&Case| {
        let count = seen.entry(case.method).or_default();
        *count += 1;
        *count <= 2
    };
    let all = cases();
    for case in all.iter().filter(counting).filter(trims).filter(|case| first(case)) {
        let inputs = case.inputs(&[length], Float::BF16);
        assert_close(case, &case.run(&inputs, Kernels::best(), Lanes::One), &inputs);
        let uneven: Vec<Memory> = inputs
            .iter()
            .enumerate()
            .map(|(m, input)| {
                let mut values = input.values();
                let large = |(i, x): (usize, &mut f32)| {
                    // Large only where no sampled run of 256 in 1024 begins.
                    if i % 1024 > 300 && Some(m) != case.base {
                        *x *= 2.0;
                    }
                };
                values.iter_mut().enumerate().for_each(large);
                Memory::new(&values, Float::F32)
            })
            .collect();
        assert_close(case, &case.run(&uneven, Kernels::best(), Lanes::One), &uneven);
    }
}

#[test]
fn ties_as_in_the_paper_trims_over_the_whole_model() {
    // Trimming three tensors as one model is trimming their concatenation.
    let lengths = [4097, 1, 300_001];
    let ties = case("ties", 3, Some(0)).each("weight", &[1.0, 0.5]).each("density", &[0.2, 0.6]);
    let joined = inputs(3, &[lengths.iter().sum()], Float::BF16);
    let wanted = ties.run(&joined, Kernels::best(), Lanes::One);
    let mut start = 0;
    let parts: Vec<Vec<Memory>> = lengths
        .iter()
        .map(|length| {
            let range = start..start + length;
            start += length;
            let cut = |whole: &Memory| Memory::new(&whole.values()[range.clone()], Float::BF16);
            joined.iter().map(cut).collect()
        })
        .collect();
    let parts: Vec<&[Memory]> = parts.iter().map(Vec::as_slice).collect();
    let found = ties.clone().paper().run_model(&parts, Kernels::best(), Lanes::One).concat();
    let differing = found.iter().zip(&wanted).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    assert_eq!(differing, 0);
    let per_tensor = ties.run_model(&parts, Kernels::best(), Lanes::One).concat();
    assert!(per_tensor.iter().zip(&wanted).any(|(a, b)| a.to_bits() != b.to_bits()));
}

#[test]
fn tensors_without_elements_are_no_trouble() {
    for case in &cases() {
        let inputs = case.inputs(&[0], Float::BF16);
        assert!(case.run(&inputs, Kernels::best(), Lanes::One).is_empty());
        assert!(case.run(&inputs, Kernels::best(), Lanes::Pool).is_empty());
    }
}

#[test]
fn infinities_follow_ieee_and_agree_everywhere() {
    for case in &cases() {
        let mut inputs = case.inputs(&[4097], Float::F32);
        for (m, input) in inputs.iter_mut().enumerate() {
            let mut values = input.values();
            values[100 + m] = f32::INFINITY;
            values[200] = f32::INFINITY;
            values[300] = if m == 0 { f32::INFINITY } else { f32::NEG_INFINITY };
            *input = Memory::new(&values, Float::F32);
        }
        let mut first: Option<Vec<u8>> = None;
        for kernels in Kernels::all() {
            let found = case.run(&inputs, kernels, Lanes::One);
            let mut bytes = vec![0; 4 * found.len()];
            kernels.encode(Float::F32, &found, &mut bytes);
            assert_eq!(first.get_or_insert(bytes.clone()), &bytes, "{}", case.method);
        }
    }
}

#[test]
fn dare_keeps_its_share_and_restores_the_norm() {
    let length = 1 << 20;
    let base = Memory::new(&vec![0.0; length], Float::F32);
    let tuned = Memory::new(&vec![0.5; length], Float::F32);
    let inputs = [tuned, base];
    for density in [0.1, 0.5, 0.9] {
        let dare =
            case("dare_linear", 2, Some(1)).each("weight", &[1.0]).each("density", &[density]);
        let out = dare.run(&inputs, Kernels::best(), Lanes::One);
        let kept = out.iter().filter(|x| **x != 0.0).count() as f64;
        let deviation = (density * (1.0 - density) * length as f64).sqrt();
        assert!((kept - density * length as f64).abs() < 5.0 * deviation, "{kept} kept");
        let norm: f64 = out.iter().map(|x| f64::from(x.abs())).sum();
        assert!((norm / (0.5 * length as f64) - 1.0).abs() < 1e-6);
        let paper = dare.paper().run(&inputs, Kernels::best(), Lanes::One);
        let exactly = (0.5 / density) as f32;
        assert!(paper.iter().all(|x| *x == 0.0 || (x - exactly).abs() <= 1e-6 * exactly));
    }
}
