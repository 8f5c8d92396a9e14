//! The generic suite: every row of [`METHODS`] against a slow f64 reference, on every instruction
//! set, at several thread counts, on odd lengths, each dtype and adversarial values.

mod case;
mod geometry;
mod inputs;
mod jacobi;
mod matrices;
mod properties;
mod random;
mod reference;
mod regmean;
mod scored;
mod sparse;

use super::*;
use crate::engine::Lanes;
use crate::kernels::Kernels;
use crate::model::Float;
use case::{Case, Memory, assert_close, case, cases, stream};
use inputs::inputs;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

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
fn every_method_is_measured() {
    let table = include_str!("notes/measured.md");
    let names = METHODS.iter().map(|method| method.name).chain(POSTS.iter().map(|post| post.name));
    for name in names {
        let row = |line: &&str| {
            line.starts_with(&format!("| [`{name}`](../merge-configs/methods/{name}.yml) |"))
        };
        let row = table.lines().find(row);
        let figures = row
            .iter()
            .flat_map(|row| row.split('|'))
            .filter_map(|cell| cell.trim().parse::<f64>().ok());
        assert_eq!(figures.count(), 3, "the measured table lacks {name}");
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
fn whole_models_are_merged_as_if_they_were_one_tensor() {
    // Three tensors as one model are their concatenation.
    let lengths = [4097, 1, 300_001];
    let ties = case("ties", 3, Some(0)).each("weight", &[1.0, 0.5]).each("density", &[0.2, 0.6]);
    let pcb = case("pcb", 4, Some(0)).each("weight", &[1.0, 0.5, 0.0]).number("density", 0.2);
    let ram = case("ramplus_tl", 3, Some(0)).number("alpha", 10.0).number("epsilon", 0.05);
    for case in [ties, pcb, ram] {
        let joined = inputs(case.models, &[lengths.iter().sum()], Float::BF16);
        let wanted = case.run(&joined, Kernels::best(), Lanes::One);
        let mut start = 0;
        let parts: Vec<Vec<Memory>> = lengths
            .iter()
            .map(|length| {
                let range = start..start + length;
                start += length;
                let cut = |whole: &Memory| {
                    let mut values = whole.values()[range.clone()].to_vec();
                    // Tensors that differ in size, so that it matters over what is counted.
                    let large = if range.start == 0 { 4.0 } else { 1.0 };
                    values.iter_mut().for_each(|x| *x *= large);
                    Memory::new(&values, Float::BF16)
                };
                joined.iter().map(cut).collect()
            })
            .collect();
        let whole = |m: usize| {
            let values = parts.iter().flat_map(|part| part[m].values()).collect::<Vec<f32>>();
            Memory::new(&values, Float::BF16)
        };
        let joined: Vec<Memory> = (0..case.models).map(whole).collect();
        let whole = case.run(&joined, Kernels::best(), Lanes::One);
        assert!(whole.iter().zip(&wanted).any(|(a, b)| a != b), "the sizes differ");
        let parts: Vec<&[Memory]> = parts.iter().map(Vec::as_slice).collect();
        // Sums go tensor by tensor, so that the last bit of an exponential's factor may differ.
        let differing = |found: &[f32]| {
            let far = |(a, b): &(&f32, &f32)| (**a - **b).abs() > 1e-6 * (1.0 + b.abs());
            found.iter().zip(&whole).filter(far).count()
        };
        let paper = case.clone().paper();
        let found = paper.run_model(&parts, Kernels::best(), Lanes::One).concat();
        assert!(differing(&found) <= 2, "{}: {}", case.method, differing(&found));
        let threads = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let again =
            threads.install(|| paper.run_model(&parts, Kernels::best(), Lanes::Pool).concat());
        assert!(same_bits(&again, &found), "{}", case.method);
        let per_tensor = case.run_model(&parts, Kernels::best(), Lanes::One).concat();
        assert!(differing(&per_tensor) > 100, "{}", case.method);
    }
}

#[test]
fn inputs_are_read_once_a_declared_pass() {
    // Methods that search thresholds count twice where a tensor is too small for a sample, and look for the
    // place of ties: in chunks, and in the chunk that they end in. Norms that a case has restored are one more.
    let most = |case: &Case, elements: usize, sampled: bool| {
        let Reads::Stream { passes, bins } = case.method().reads;
        let searches = usize::from(bins > 0) * (1 + usize::from(!sampled));
        let chunks = usize::from(bins > 0) * 2 * case.models;
        let rescales = case.shared.contains(&("rescale", Value::Bool(true)));
        // RegMean reads weights again for inputs that no text has.
        let unseen = usize::from(case.method == "regmean");
        let all = passes + searches + unseen + usize::from(rescales);
        all * elements + chunks * elements.min(crate::engine::CHUNK)
    };
    let mut reached: BTreeMap<&str, bool> = BTreeMap::new();
    let read = |inputs: &[Memory]| {
        let inputs = inputs.iter().map(|input| input.read.load(Ordering::Relaxed));
        inputs.max().unwrap_or(0)
    };
    // Steps behind a method declare nothing of their own.
    for case in cases().iter().filter(|case| case.posts.is_empty()) {
        for shape in shapes(case, 65_557, [13, 4999], [29, 2001]) {
            let inputs = case.inputs(&shape, Float::BF16);
            case.run(&inputs, Kernels::best(), Lanes::One);
            let elements: usize = shape.iter().product();
            // Methods on whole matrices read the base beside each model that they take.
            let whole = (case.method().whole)(1, (2, 2)) > 0;
            let counts = |i: &usize| !(whole && case.base == Some(*i));
            let counted = (0..case.models).filter(counts).map(|i| read(&inputs[i..=i]));
            let found = counted.max().unwrap_or(0);
            let most = most(case, elements, false);
            assert!(found <= most, "{}: {found} elements for {most} at most", case.method);
            let Reads::Stream { passes, .. } = case.method().reads;
            *reached.entry(case.method).or_default() |= found > (passes - 1) * elements;
        }
    }
    let unreached: Vec<_> = reached.iter().filter(|(_, reached)| !**reached).collect();
    assert!(unreached.is_empty(), "more passes are declared than made: {unreached:?}");
    // And large tensors, of which a sample is read besides.
    let (length, sample) = ((1 << 20) + 77, 1 << 18);
    for method in ["ties", "breadcrumbs", "sce", "pcb"] {
        let case = cases().into_iter().find(|case| case.method == method).unwrap();
        let inputs = case.inputs(&[length], Float::BF16);
        case.run(&inputs, Kernels::best(), Lanes::One);
        let (found, most) = (read(&inputs), most(&case, length, true) + sample);
        assert!(found <= most, "{method}: {found} elements for {most} at most");
    }
}

#[test]
fn copies_of_one_model_merge_to_it_by_every_method() {
    // These change even a single model, by what their parameters mean: weights that are not made to
    // sum to one, a scale, and an `eps` that is part of a length (multislerp's cos ε of 1 - 5·10⁻⁵).
    let scales = |case: &Case| {
        let given = |name, value| case.shared.contains(&(name, value));
        case.method == "linear" && given("normalize", Value::Bool(false))
            || case.method == "multislerp" && given("eps", Value::Number(0.01))
            || case.each.iter().any(|(name, _)| *name == "scale")
    };
    for case in cases().iter().filter(|case| !scales(case)) {
        for shape in [&[257][..], &[7, 31]] {
            let mut inputs = case.inputs(shape, Float::F32);
            let model = inputs[0].values();
            for input in &mut inputs[..case.models] {
                *input = Memory::shaped(&model, shape, Float::F32);
            }
            let found = case.run(&inputs, Kernels::best(), Lanes::One);
            for (found, wanted) in found.iter().zip(&model) {
                let error = (found - wanted).abs();
                assert!(
                    error <= 1e-5 * (1.0 + wanted.abs()),
                    "{}: {found} for {wanted}",
                    case.method
                );
            }
        }
    }
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
fn parameters_are_never_rounded_to_the_dtype() {
    // In bf16 these weights are 0.333984375 and 1.0078125, this density 0.30078125, this t 0.10009765625.
    let (third, one) = (1.0 / 3.0, 1.0055);
    let cases = [
        case("linear", 2, None).each("weight", &[third, one]).flag("normalize", false),
        case("task_arithmetic", 3, Some(0)).each("weight", &[third, one]).number("lambda", one),
        case("ties", 3, Some(0)).each("weight", &[third, one]).each("density", &[0.3003, 0.3003]),
        case("slerp", 2, Some(0)).number("t", 0.10003),
        case("nuslerp", 2, None).each("weight", &[third, one]),
        case("multislerp", 2, None).each("weight", &[third, one]),
        case("pcb", 3, Some(0)).each("weight", &[third, one]).number("lambda", one),
        case("consensus", 3, Some(0)).each("weight", &[third, one]),
    ];
    for case in cases {
        // The outputs are f32, whatever the inputs are stored in, so that the reference tells.
        let inputs = case.inputs(&[4097], Float::BF16);
        let found = case.run(&inputs, Kernels::best(), Lanes::One);
        assert_close(&case, &found, &inputs);
        let mut rounded = case.clone();
        let bf16 = |x: f64| f64::from(half::bf16::from_f64(x).to_f32());
        for (_, value) in &mut rounded.shared {
            if let Value::Number(x) = value {
                *x = bf16(*x);
            }
        }
        rounded.each.iter_mut().flat_map(|(_, all)| all).for_each(|x| *x = bf16(*x));
        let other = rounded.run(&inputs, Kernels::best(), Lanes::One);
        let far = |(a, b): &(&f32, &f32)| (**a - **b).abs() > 1e-5 * (1.0 + b.abs());
        assert!(found.iter().zip(&other).any(|pair| far(&pair)), "{} would not tell", case.method);
    }
}
