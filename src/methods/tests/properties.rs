//! What must hold for any weights: copies merge to themselves, ends are ends, weight 0 removes.

use super::{Case, Memory, case};
use crate::engine::Lanes;
use crate::kernels::Kernels;
use crate::model::Float;
use proptest::prelude::*;

fn run(case: &Case, inputs: &[&Vec<f32>]) -> Vec<f32> {
    let inputs: Vec<Memory> = inputs.iter().map(|x| Memory::new(x, Float::F32)).collect();
    case.run(&inputs, Kernels::best(), Lanes::One)
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5 * (1.0 + b.abs()))
}

fn models() -> impl Strategy<Value = [Vec<f32>; 3]> {
    (1_usize..200).prop_flat_map(|length| {
        let model = || prop::collection::vec(-2.0_f32..2.0, length);
        [model(), model(), model()]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn copies_of_a_model_merge_to_it([x, _, _] in models(), weight in 0.1_f64..3.0) {
        let linear = case("linear", 3, None).each("weight", &[weight, 1.0, 0.5]);
        prop_assert!(close(&run(&linear, &[&x, &x, &x]), &x));
        for method in ["task_arithmetic", "ties", "dare_linear", "dare_ties"] {
            let case = case(method, 3, Some(0)).each("weight", &[weight, 1.0]);
            prop_assert!(close(&run(&case, &[&x, &x, &x]), &x), "{method}");
        }
        for method in ["nuslerp", "multislerp"] {
            for base in [None, Some(2)] {
                let models = 2 + usize::from(base.is_some());
                let case = case(method, models, base).each("weight", &[weight, 1.0]);
                prop_assert!(close(&run(&case, &vec![&x; models]), &x), "{method}");
            }
        }
        for method in ["karcher", "model_stock"] {
            prop_assert!(close(&run(&case(method, 3, Some(0)), &[&x, &x, &x]), &x), "{method}");
        }
        let nearswap = case("nearswap", 2, Some(0)).number("t", weight);
        let fusion = case("arcee_fusion", 2, Some(0));
        prop_assert!(close(&run(&nearswap, &[&x, &x]), &x) && close(&run(&fusion, &[&x, &x]), &x));
    }

    #[test]
    fn the_order_of_the_models_does_not_matter([x, y, z] in models(), weight in 0.1_f64..3.0) {
        for method in ["task_arithmetic", "ties"] {
            let there = case(method, 3, Some(0)).each("weight", &[weight, 1.0]);
            let back = case(method, 3, Some(0)).each("weight", &[1.0, weight]);
            let (there, back) = (run(&there, &[&x, &y, &z]), run(&back, &[&x, &z, &y]));
            prop_assert!(close(&there, &back), "{method}");
        }
    }

    #[test]
    fn the_order_of_vectors_does_not_matter([x, y, z] in models(), weight in 1.5_f64..3.0) {
        for (method, base) in [("nuslerp", Some(0)), ("multislerp", Some(0)), ("multislerp", None)] {
            let first = if base.is_some() { vec![] } else { vec![0.5] };
            let weighted = |a, b| [first.clone(), vec![a, b]].concat();
            let there = case(method, 3, base).each("weight", &weighted(weight, 1.0));
            let back = case(method, 3, base).each("weight", &weighted(1.0, weight));
            let (there, back) = (run(&there, &[&x, &y, &z]), run(&back, &[&x, &z, &y]));
            prop_assert!(close(&there, &back), "{method}");
        }
        for method in ["karcher", "model_stock"] {
            let case = case(method, 3, Some(0));
            let (there, back) = (run(&case, &[&x, &y, &z]), run(&case, &[&x, &z, &y]));
            prop_assert!(close(&there, &back), "{method}");
        }
    }

    #[test]
    fn weight_zero_removes_a_model([x, y, z] in models()) {
        for method in ["task_arithmetic", "ties", "dare_ties"] {
            let with = case(method, 3, Some(0)).each("weight", &[0.7, 0.0]);
            let without = case(method, 2, Some(0)).each("weight", &[0.7]);
            prop_assert!(close(&run(&with, &[&x, &y, &z]), &run(&without, &[&x, &y])), "{method}");
        }
        let with = case("multislerp", 3, None).each("weight", &[0.7, 0.4, 0.0]);
        let without = case("multislerp", 2, None).each("weight", &[0.7, 0.4]);
        prop_assert!(close(&run(&with, &[&x, &y, &z]), &run(&without, &[&x, &y])));
    }

    #[test]
    fn nuslerp_and_nearswap_end_at_their_models([x, y, _] in models()) {
        for flag in ["nuslerp_flatten", "nuslerp_row_wise"] {
            let nuslerp = |weights| {
                let case = case("nuslerp", 2, None).each("weight", weights).flag(flag, false);
                run(&case, &[&x, &y])
            };
            prop_assert!(close(&nuslerp(&[2.0, 0.0]), &x) && close(&nuslerp(&[0.0, 0.3]), &y));
        }
        let nearswap = |t| run(&case("nearswap", 2, Some(0)).number("t", t), &[&x, &y]);
        prop_assert_eq!(&nearswap(0.0), &x);
        prop_assert_eq!(&nearswap(-1.0), &x);
        prop_assert!(close(&nearswap(10.0), &y));
    }

    #[test]
    fn slerp_ends_at_its_models([x, y, _] in models()) {
        let at = |t| run(&case("slerp", 2, Some(0)).number("t", t), &[&x, &y]);
        prop_assert!(close(&at(0.0), &x) && close(&at(1.0), &y));
    }
}
