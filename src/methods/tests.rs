//! The generic suite: every row of [`METHODS`] against a slow f64 reference, on every instruction
//! set, at several thread counts, on odd lengths, each dtype and adversarial values.

mod case;
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
use crate::engine::Lanes;
use crate::kernels::Kernels;
use crate::model::Float;
use case::{Case, Memory, assert_close, case, cases, stream};
use inputs::inputs;
use std::collections::BTreeMap;

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
