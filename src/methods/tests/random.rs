//! What methods that draw at random do in distribution.

use super::{Memory, case};
use crate::engine::Lanes;
use crate::kernels::Kernels;
use crate::model::Float;

/// Deltas of many sizes, so that what is kept of them tells.
fn spread(length: usize) -> Vec<f32> {
    let size =
        |i: usize| (1.0 + (i % 97) as f32 / 32.0) * if i.is_multiple_of(3) { -1.0 } else { 1.0 };
    (0..length).map(size).collect()
}

#[test]
fn random_methods_keep_the_expectation_of_each_model() {
    // Over many elements, regression of the output on each model's delta gives its weight: for sums, and
    // for elected signs where models never disagree.
    let length = 1 << 19;
    let base = Memory::new(&vec![0.0; length], Float::F32);
    let one = spread(length);
    let two: Vec<f32> = one.iter().enumerate().map(|(i, x)| x * [0.25, 2.0][i / 3 % 2]).collect();
    for (first, second) in [(&one, &two), (&two, &one)] {
        let inputs =
            [base.values(), first.clone(), second.clone()].map(|x| Memory::new(&x, Float::F32));
        for method in ["dare_linear", "dare_ties", "della_linear", "della"] {
            let linear = method.ends_with("linear");
            for paper in [false, true] {
                let case = case(method, 3, Some(0))
                    .each("weight", &[0.5, 0.25])
                    .each("density", &[0.6, 0.4])
                    .flag("normalize", false);
                let case = if paper { case.paper() } else { case };
                let out = case.run(&inputs, Kernels::best(), Lanes::One);
                let mean = |a: &[f32], b: &[f32]| {
                    let each = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
                    each.sum::<f64>() / length as f64
                };
                let (aa, ab, bb) = (mean(first, first), mean(first, second), mean(second, second));
                let (ao, bo) = (mean(first, &out), mean(second, &out));
                let determinant = aa * bb - ab * ab;
                let found = [(ao * bb - bo * ab) / determinant, (bo * aa - ao * ab) / determinant];
                for (found, wanted) in found.iter().zip([0.5, 0.25]) {
                    // DELLA restores the L1 norm, of which large elements get more than their share.
                    let within = if method.starts_with("della") && !paper { 0.06 } else { 0.006 };
                    let error = (found - wanted).abs();
                    assert!(error < within, "{method} paper {paper} linear {linear}: {found}");
                }
            }
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
