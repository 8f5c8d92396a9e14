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
        for method in ["task_arithmetic", "ties", "dare_linear", "dare_ties", "breadcrumbs", "della"] {
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
    fn copies_of_a_fine_tune_merge_to_it([x, y, _] in models(), weight in 0.1_f64..3.0) {
        // Whatever is elected, shared out or interpolated, among copies of one model there is nothing to
        // choose. Weights that are divided by their sum may be any.
        for method in ["breadcrumbs", "breadcrumbs_ties", "della", "della_linear", "dare_linear",
            "dare_ties", "ties", "task_arithmetic"]
        {
            let case = case(method, 3, Some(0)).each("weight", &[weight, 1.0]).flag("normalize", true);
            prop_assert!(close(&run(&case, &[&x, &y, &y]), &y), "{method}");
        }
        for method in ["sce", "ram", "ramplus_tl"] {
            prop_assert!(close(&run(&case(method, 3, Some(0)), &[&x, &y, &y]), &y), "{method}");
        }
        let pcb = case("pcb", 3, Some(0)).number("density", 1.0);
        prop_assert!(close(&run(&pcb, &[&x, &y, &y]), &y));
        let consensus = case("consensus", 3, Some(0)).each("weight", &[0.5, 0.5]);
        prop_assert!(close(&run(&consensus, &[&x, &y, &y]), &y));
        // Steps that scale nothing: a layer factor of 1.
        let lines = case("task_arithmetic", 3, Some(0))
            .each("weight", &[0.5, 0.5])
            .then("lines", &[("alpha", 1.0), ("beta", 0.0)]);
        prop_assert!(close(&run(&lines, &[&x, &y, &y]), &y));
    }

    #[test]
    fn copies_of_sparse_fine_tunes_merge_to_one_of_them([x, y, _] in models(), density in 0.05_f64..1.0) {
        for method in ["ties", "breadcrumbs", "breadcrumbs_ties"] {
            let one = case(method, 2, Some(0)).each("weight", &[1.0]).each("density", &[density]);
            let two = case(method, 3, Some(0))
                .each("weight", &[0.4, 0.6])
                .each("density", &[density, density]);
            prop_assert!(close(&run(&two, &[&x, &y, &y]), &run(&one, &[&x, &y])), "{method}");
        }
        // Scores are those of any number of copies; only the gain counts them.
        let pcb = case("pcb", 3, Some(0)).number("density", density);
        let merged = run(&pcb, &[&x, &y, &y]);
        let mut elements = merged.iter().zip(&y).zip(&x);
        let kept_or_not = elements.all(|((out, y), x)| close(&[*out], &[*y]) || out == x);
        prop_assert!(kept_or_not);
    }

    #[test]
    fn copies_of_a_task_matrix_merge_as_one(
        [x, y] in [prop::collection::vec(-2.0_f32..2.0, 24), prop::collection::vec(-2.0_f32..2.0, 24)]
    ) {
        // iso_c makes even a single task vector's singular values equal, so that copies merge to what one
        // becomes. iso_cts and tsv_m share the directions out among the models, and wudi's ρ keeps some of
        // the sum, so that they do not (docs/methods.md says so of each).
        let [x, y] = [x, y].map(|x| Memory::shaped(&x, &[4, 6], Float::F32));
        let merged = |case: Case, inputs: &[Memory]| case.run(inputs, Kernels::best(), Lanes::One);
        let two = case("iso_c", 3, Some(0)).each("weight", &[0.25, 0.75]);
        let two = merged(two, &[x.copy(), y.copy(), y.copy()]);
        let one = merged(case("iso_c", 2, Some(0)), &[x, y]);
        prop_assert!(two.iter().zip(&one).all(|(a, b)| (a - b).abs() < 1e-3), "{two:?} for {one:?}");
    }

    #[test]
    fn models_without_weights_may_come_in_any_order([x, y, z] in models(), density in 0.05_f64..1.0) {
        for method in ["sce", "ram", "ramplus_tl", "consensus"] {
            let case = case(method, 3, Some(0));
            let (there, back) = (run(&case, &[&x, &y, &z]), run(&case, &[&x, &z, &y]));
            prop_assert!(close(&there, &back), "{method}");
        }
        let pcb = case("pcb", 3, Some(0)).number("density", density);
        prop_assert!(close(&run(&pcb, &[&x, &y, &z]), &run(&pcb, &[&x, &z, &y])));
    }

    #[test]
    fn the_order_of_the_models_does_not_matter(
        [x, y, z] in models(), weight in 0.1_f64..3.0, densities in [0.05_f64..1.0, 0.05_f64..1.0]
    ) {
        // What the random methods draw belongs to a model's place, so that order matters to them where they
        // drop anything; at density 1 it does not.
        for (method, [a, b]) in [
            ("task_arithmetic", densities),
            ("ties", densities),
            ("breadcrumbs", densities),
            ("breadcrumbs_ties", densities),
            ("dare_linear", [1.0; 2]),
            ("dare_ties", [1.0; 2]),
            ("della", [1.0; 2]),
            ("della_linear", [1.0; 2]),
        ] {
            let there = case(method, 3, Some(0)).each("weight", &[weight, 1.0]).each("density", &[a, b]);
            let back = case(method, 3, Some(0)).each("weight", &[1.0, weight]).each("density", &[b, a]);
            let (there, back) = (run(&there, &[&x, &y, &z]), run(&back, &[&x, &z, &y]));
            prop_assert!(close(&there, &back), "{method}");
        }
        let consensus = |weights: &[f64]| case("consensus", 3, Some(0)).each("weight", weights);
        let there = run(&consensus(&[weight, 1.0]), &[&x, &y, &z]);
        prop_assert!(close(&there, &run(&consensus(&[1.0, weight]), &[&x, &z, &y])));
        let linear = |weights: &[f64]| case("linear", 3, None).each("weight", weights);
        let there = run(&linear(&[weight, 1.0, 0.3]), &[&x, &y, &z]);
        prop_assert!(close(&there, &run(&linear(&[0.3, weight, 1.0]), &[&z, &x, &y])));
        // Each model's information goes with it.
        let fisher = |weights: &[f64]| case("fisher", 3, None).each("weight", weights);
        let information: Vec<Vec<f32>> =
            [&y, &z, &x].map(|of| of.iter().map(|x| x.abs() + 0.1).collect()).to_vec();
        let [i, j, k] = [&information[0], &information[1], &information[2]];
        let there = run(&fisher(&[weight, 1.0, 0.3]), &[&x, &y, &z, i, j, k]);
        prop_assert!(close(&there, &run(&fisher(&[0.3, weight, 1.0]), &[&z, &x, &y, k, i, j])));
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
    fn the_order_of_matrices_does_not_matter(
        all in [0; 3].map(|_| prop::collection::vec(-2.0_f32..2.0, 24)), weight in 0.5_f64..2.0
    ) {
        let [x, y, z] = all.map(|x| Memory::shaped(&x, &[4, 6], Float::F32));
        let far = |a: &[f32], b: &[f32]| a.iter().zip(b).any(|(a, b)| (a - b).abs() > 1e-3);
        for method in ["iso_c", "iso_cts", "tsv_m", "wudi"] {
            let weighted = |weights: &[f64]| case(method, 3, Some(0)).each("weight", weights);
            let there = weighted(&[weight, 1.0]).run(
                &[x.copy(), y.copy(), z.copy()], Kernels::best(), Lanes::One);
            let back = weighted(&[1.0, weight]).run(
                &[x.copy(), z.copy(), y.copy()], Kernels::best(), Lanes::One);
            prop_assert!(!far(&there, &back), "{method}: {there:?} and {back:?}");
            // And weight 0 leaves a model out.
            let with = weighted(&[weight, 0.0]).run(
                &[x.copy(), y.copy(), z.copy()], Kernels::best(), Lanes::One);
            let without = case(method, 2, Some(0)).each("weight", &[weight]);
            let without = without.run(&[x.copy(), y.copy()], Kernels::best(), Lanes::One);
            prop_assert_eq!(with, without, "{}", method);
        }
    }

    #[test]
    fn weight_zero_removes_a_model([x, y, z] in models(), density in 0.05_f64..1.0) {
        for method in ["task_arithmetic", "ties", "dare_linear", "dare_ties", "breadcrumbs",
            "breadcrumbs_ties"]
        {
            let with = case(method, 3, Some(0)).each("weight", &[0.7, 0.0]);
            let with = with.each("density", &[density, density]);
            let without = case(method, 2, Some(0)).each("weight", &[0.7]).each("density", &[density]);
            prop_assert!(close(&run(&with, &[&x, &y, &z]), &run(&without, &[&x, &y])), "{method}");
        }
        for method in ["della", "della_linear"] {
            let density = 0.2 + 0.6 * density;
            let with = case(method, 3, Some(0)).each("weight", &[0.7, 0.0]);
            let with = with.each("density", &[density, density]);
            let without = case(method, 2, Some(0)).each("weight", &[0.7]).each("density", &[density]);
            prop_assert!(close(&run(&with, &[&x, &y, &z]), &run(&without, &[&x, &y])), "{method}");
        }
        let with = case("consensus", 3, Some(0)).each("weight", &[0.7, 0.0]);
        let without = case("consensus", 2, Some(0)).each("weight", &[0.7]);
        prop_assert!(close(&run(&with, &[&x, &y, &z]), &run(&without, &[&x, &y])));
        let with = case("pcb", 3, Some(0)).each("weight", &[0.7, 0.0]).number("density", density);
        let without = case("pcb", 2, Some(0)).each("weight", &[0.7]).number("density", density);
        prop_assert_eq!(run(&with, &[&x, &y, &z]), run(&without, &[&x, &y]));
        for method in ["multislerp", "linear"] {
            let with = case(method, 3, None).each("weight", &[0.7, 0.4, 0.0]);
            let without = case(method, 2, None).each("weight", &[0.7, 0.4]);
            prop_assert!(close(&run(&with, &[&x, &y, &z]), &run(&without, &[&x, &y])), "{method}");
        }
        let ones = vec![1.0; x.len()];
        let with = case("fisher", 3, None).each("weight", &[0.7, 0.4, 0.0]);
        let without = case("fisher", 2, None).each("weight", &[0.7, 0.4]);
        let with = run(&with, &[&x, &y, &z, &ones, &ones, &ones]);
        prop_assert!(close(&with, &run(&without, &[&x, &y, &ones, &ones])));
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
