//! The methods of angles and lengths: their cases, and what they do where there is no angle.

use super::{Case, Memory, case};
use crate::engine::{Lanes, NanPolicy, TensorIo};
use crate::error::Error;
use crate::kernels::Kernels;
use crate::model::{Float, Source};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("nuslerp", 2, None).each("weight", &[0.7, 0.4]),
        case("nuslerp", 3, Some(1)).each("weight", &[0.5, 1.0]),
        case("nuslerp", 2, None).each("weight", &[1.0, 0.5]).flag("nuslerp_flatten", false),
        case("nuslerp", 3, Some(0)).each("weight", &[1.0, -1.0]).flag("nuslerp_flatten", false),
        case("nuslerp", 2, None)
            .each("weight", &[0.3, 0.5])
            .flag("nuslerp_flatten", false)
            .flag("nuslerp_row_wise", true),
        case("nuslerp", 3, Some(2))
            .each("weight", &[1.5, -0.5])
            .flag("nuslerp_flatten", false)
            .flag("nuslerp_row_wise", true),
        case("multislerp", 3, None).each("weight", &[0.2, 0.5, 0.9]),
        case("multislerp", 4, Some(1)).each("weight", &[0.7, 1.0, 0.4]),
        case("multislerp", 3, Some(2))
            .each("weight", &[1.0, -0.3])
            .flag("normalize_weights", false),
        case("multislerp", 2, None).each("weight", &[1.0, 2.0]).number("eps", 0.01),
        case("multislerp", 2, Some(0)).each("weight", &[0.4]),
        case("karcher", 1, None),
        case("karcher", 2, Some(0)),
        case("karcher", 4, None),
        case("karcher", 3, None).number("max_iter", 1.0).number("tol", 1e-3),
        case("karcher", 5, None).number("max_iter", 0.0),
        case("model_stock", 3, Some(0)),
        case("model_stock", 4, Some(3)),
        case("model_stock", 3, Some(1)).flag("filter_wise", true),
        case("model_stock", 5, Some(0)).flag("filter_wise", true),
        case("nearswap", 2, Some(0)).number("t", 0.05),
        case("nearswap", 2, Some(1)).number("t", 1e-4),
        case("arcee_fusion", 2, Some(0)),
        case("arcee_fusion", 2, Some(1)),
    ]
}

/// Merges matrices of two rows.
fn run(case: &Case, inputs: &[&[f32]]) -> Vec<f32> {
    let inputs: Vec<Memory> =
        inputs.iter().map(|x| Memory::shaped(x, &[2, x.len() / 2], Float::F32)).collect();
    case.run(&inputs, Kernels::best(), Lanes::One)
}

fn close(found: &[f32], wanted: &[f32]) -> bool {
    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * (1.0 + b.abs());
    found.len() == wanted.len() && found.iter().zip(wanted).all(near)
}

const BASE: [f32; 4] = [0.5, -1.25, 0.1, 3.0];
const MODEL: [f32; 4] = [1.5, 2.0, -0.3, 0.7];

/// `x` times a factor, which is rounded: not exactly parallel.
fn times(factor: f32, x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| factor * x).collect()
}

fn rows(case: Case) -> Case {
    case.flag("nuslerp_flatten", false)
}

fn columns(case: Case) -> Case {
    rows(case).flag("nuslerp_row_wise", true)
}

#[test]
fn models_that_are_the_base_leave_it_as_it_is() {
    let nuslerp = case("nuslerp", 3, Some(0)).each("weight", &[0.3, 0.9]);
    for case in [
        nuslerp.clone(),
        rows(nuslerp.clone()),
        columns(nuslerp),
        case("multislerp", 3, Some(0)).each("weight", &[0.3, 0.9]),
        case("multislerp", 4, Some(0)).each("weight", &[0.3, 0.9, 0.1]),
        case("model_stock", 3, Some(0)),
        case("model_stock", 4, Some(0)).flag("filter_wise", true),
        case("nearswap", 2, Some(0)).number("t", 0.1),
        case("arcee_fusion", 2, Some(0)),
    ] {
        let copies = vec![&BASE[..]; case.models];
        assert_eq!(run(&case, &copies), BASE, "{}", case.method);
    }
}

#[test]
fn zeros_merge_to_zeros() {
    let nuslerp = case("nuslerp", 2, None).each("weight", &[0.3, 0.9]);
    let multislerp = case("multislerp", 3, None).each("weight", &[0.3, 0.9, 0.1]);
    let karcher = case("karcher", 3, None);
    for case in [nuslerp.clone(), rows(nuslerp.clone()), columns(nuslerp), multislerp, karcher] {
        assert_eq!(run(&case, &vec![&[0.0; 4][..]; case.models]), [0.0; 4], "{}", case.method);
    }
}

#[test]
fn a_vector_of_zeros_has_no_direction() {
    let zero = [0.0; 4];
    // At right angles: half-way is √½.
    let nuslerp = case("nuslerp", 2, None).each("weight", &[1.0, 1.0]);
    for case in [nuslerp.clone(), rows(nuslerp.clone()), columns(nuslerp)] {
        assert!(close(&run(&case, &[&zero, &MODEL]), &times(0.5_f32.sqrt(), &MODEL)));
    }
    // The direction is the other's, the length the mean.
    let multislerp = case("multislerp", 2, None).each("weight", &[1.0, 3.0]);
    assert!(close(&run(&multislerp, &[&zero, &MODEL]), &times(0.75, &MODEL)));
    let karcher = case("karcher", 2, None);
    assert!(close(&run(&karcher, &[&zero, &MODEL]), &times(0.5, &MODEL)));
}

#[test]
fn opposite_vectors_are_interpolated_linearly_by_nuslerp() {
    let opposite = times(-3.3, &MODEL);
    let nuslerp = case("nuslerp", 2, None).each("weight", &[3.0, 1.0]);
    let wanted = times(0.75 - 3.3 * 0.25, &MODEL);
    for case in [nuslerp.clone(), rows(nuslerp.clone()), columns(nuslerp)] {
        assert!(close(&run(&case, &[&MODEL, &opposite]), &wanted));
    }
}

#[test]
fn weights_of_nuslerp_that_cancel_mean_half_way() {
    let nuslerp = case("nuslerp", 2, None);
    let cancelling = nuslerp.clone().each("weight", &[1.0, -1.0]);
    let half = nuslerp.each("weight", &[1.0, 1.0]);
    assert_eq!(run(&cancelling, &[&BASE, &MODEL]), run(&half, &[&BASE, &MODEL]));
}

#[test]
fn opposite_vectors_have_the_first_as_their_karcher_mean() {
    let karcher = case("karcher", 2, None);
    let opposite = times(-3.0, &MODEL);
    assert!(close(&run(&karcher, &[&MODEL, &opposite]), &times(2.0, &MODEL)));
    let twice = case("karcher", 3, None);
    let found = run(&twice, &[&opposite, &MODEL, &MODEL]);
    assert!(close(&found, &times(5.0 / 3.0, &MODEL)), "{found:?}");
}

#[test]
fn model_stock_keeps_the_base_where_the_models_are_opposed() {
    let away = |factor: f32| -> Vec<f32> {
        BASE.iter().zip(&MODEL).map(|(base, x)| base + factor * x).collect()
    };
    for filter_wise in [false, true] {
        let two = case("model_stock", 3, Some(0)).flag("filter_wise", filter_wise);
        let found = run(&two, &[&BASE, &away(1.0), &away(-1.0)]);
        assert!(close(&found, &BASE), "{found:?}");
        // All in one direction: their mean.
        let found = run(&two, &[&BASE, &away(1.0), &away(2.0)]);
        assert!(close(&found, &away(1.5)), "{found:?}");
    }
}

#[test]
fn one_vector_has_one_row_and_one_column() {
    let whole = case("nuslerp", 2, None).each("weight", &[1.0, 0.6]);
    let inputs = [BASE, MODEL].map(|x| Memory::new(&x, Float::F32));
    let run = |case: &Case| case.run(&inputs, Kernels::best(), Lanes::One);
    assert_eq!(run(&whole), run(&rows(whole.clone())));
    assert_eq!(run(&whole), run(&columns(whole.clone())));
}

/// What a case that is refused says.
fn refusal(case: &Case, inputs: &[&[f32]]) -> Error {
    let inputs: Vec<Memory> = inputs.iter().map(|x| Memory::new(x, Float::F32)).collect();
    let sources: Vec<&dyn Source> = inputs.iter().map(|input| input as &dyn Source).collect();
    let kernels = Kernels::best();
    let io = TensorIo::new(&sources, case.base, &[], kernels, Lanes::One, NanPolicy::Refuse);
    (case.method().prepare)(&io, &case.params()).err().unwrap()
}

#[test]
fn directions_that_cancel_out_have_no_mean_on_a_sphere() {
    let (opposite, zero) = (times(-3.3, &MODEL), [0.0; 4]);
    let two = case("multislerp", 2, None).each("weight", &[1.0, 1.0]);
    let found = run(&two, &[&MODEL, &opposite]);
    assert!(close(&found, &times(0.5 - 3.3 / 2.0, &MODEL)), "{found:?}");
    let three = case("multislerp", 3, None).each("weight", &[1.0, 1.0, 0.0]);
    for third in [&BASE, &zero] {
        let error = refusal(&three, &[&MODEL, &opposite, third]);
        assert_eq!(error.exit_code(), 2);
        insta::assert_snapshot!("multislerp_cancels", error.to_string());
    }
}

#[test]
fn parameters_that_no_range_tells_of_are_checked() {
    let check = |case: &Case| (case.method().check)(&case.params());
    let multislerp = |weights| case("multislerp", 2, None).each("weight", weights);
    assert!(check(&multislerp(&[1.0, -1.0])).unwrap_err().contains("sum to 0"));
    assert!(check(&multislerp(&[1.0, -1.0]).flag("normalize_weights", false)).is_ok());
    assert!(check(&multislerp(&[1.0, 1.0])).is_ok());
    assert!(check(&case("multislerp", 2, Some(0)).each("weight", &[0.0])).is_ok());
    let karcher = |steps| case("karcher", 2, None).number("max_iter", steps);
    assert!(check(&karcher(2.5)).unwrap_err().contains("2.5"));
    assert!(check(&karcher(25.0)).is_ok());
}

/// Row by row, a method holds a row; column by column, sums for all columns.
#[test]
fn memory_follows_what_the_vectors_are() {
    let nuslerp = case("nuslerp", 2, None).each("weight", &[1.0, 1.0]);
    let holds = |case: &Case| (case.method().holds)(&case.params(), 2, &[1000, 300]);
    assert_eq!(holds(&nuslerp), 0);
    assert_eq!(holds(&rows(nuslerp.clone())), 3 * 4 * 300);
    assert!(holds(&columns(nuslerp)) >= (2 * 24 + 2 * 4 + 8) * 300);
    assert_eq!(holds(&case("model_stock", 3, Some(0))), 0);
    assert!(holds(&case("arcee_fusion", 2, Some(0))) >= 1000 * 4 + 3 * 4 * 300);
}

/// One row stands out; elements of it that differ most are taken, and no others.
#[test]
fn arcee_fusion_takes_what_stands_out() {
    let base: Vec<f32> = (0..200).map(|i| (i % 7) as f32 / 10.0).collect();
    let mut tuned: Vec<f32> = base.iter().map(|x| x + 1e-4).collect();
    for i in 0..100 {
        tuned[i] = base[i] + if i % 2 == 0 { 1e-4 } else { -1e-4 };
    }
    tuned[40] = 5.0;
    tuned[140] = 1.0;
    let fused = run(&case("arcee_fusion", 2, Some(1)), &[&tuned, &base]);
    // All of the second row but one element differ by a constant, to which a softmax is blind.
    assert_eq!((fused[40], fused[140]), (5.0, 1.0));
    let taken = fused.iter().zip(&base).filter(|(fused, base)| fused != base).count();
    assert!((2..=12).contains(&taken), "{taken}");
}

/// The differences are 1, 2, 3 and 5 times one value: the median is 2 of it, the quartiles 1 and 3,
/// and the threshold is 5, whatever the divergence is and however it rounds.
#[test]
fn what_is_equal_to_the_threshold_stands_out() {
    let length = 100;
    let multiple = |i: usize| match i {
        0..35 => 1.0,
        35..70 => 2.0,
        70..95 => 3.0,
        _ => 5.0,
    };
    for scale in (1..200).map(|scale| scale as f32 / 4096.0) {
        let base: Vec<f32> = (0..length).map(|i| (i % 8) as f32 / 4.0).collect();
        let tuned: Vec<f32> =
            base.iter().enumerate().map(|(i, x)| x + scale * multiple(i)).collect();
        let inputs = [tuned, base.clone()].map(|x| Memory::new(&x, Float::F32));
        let fusion = case("arcee_fusion", 2, Some(1));
        let fused = fusion.run(&inputs, Kernels::best(), Lanes::One);
        let taken = (0..length).filter(|i| fused[*i] != base[*i]);
        assert_eq!(taken.collect::<Vec<_>>(), (95..100).collect::<Vec<_>>(), "{scale}");
    }
}
