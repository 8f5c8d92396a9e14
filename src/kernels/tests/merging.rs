//! The kernels of single merge methods, against plain loops.

use super::super::{Kernels, Odds};
use super::{LENGTHS, STREAM, bits, number, values};

/// Values that stay small when they are multiplied.
fn tame(length: usize, seed: u64) -> Vec<f32> {
    values(length, seed).into_iter().map(|x| x.clamp(-2.0, 2.0)).collect()
}

#[test]
fn trimming_the_largest_is_the_complement_of_trimming() {
    for kernels in Kernels::all() {
        for length in LENGTHS {
            let x = values(length, 12);
            for ties in [0, 1, length / 2, length, usize::MAX] {
                let (mut kept, mut left) = (x.clone(), x.clone());
                kernels.trim(0.25_f32.to_bits(), ties, &mut kept);
                kernels.trim_largest(0.25_f32.to_bits(), ties, &mut left);
                for (i, x) in x.iter().enumerate() {
                    let large = x.abs() > 0.25 || (x.abs() == 0.25 && i < ties);
                    let wanted = if large { [x.to_bits(), 0] } else { [0, x.to_bits()] };
                    assert_eq!([kept[i].to_bits(), left[i].to_bits()], wanted);
                }
            }
            let mut out = x.clone();
            let mut mask = vec![u64::MAX; length.div_ceil(64)];
            kernels.mark_nonzero(&values(length, 13), &mut mask);
            kernels.multiply_kept(&mask, 1.0, &mut out);
            for ((out, x), mask) in out.iter().zip(&x).zip(values(length, 13)) {
                assert_eq!(out.to_bits(), if mask == 0.0 { 0 } else { x.to_bits() });
            }
        }
    }
}

#[test]
fn ranks_decide_how_often_an_element_is_kept() {
    let spread = |length: usize| -> Vec<f32> {
        values(length, 14).iter().map(|x| x.clamp(-1e15, 1e15)).map(|x| x * x.abs()).collect()
    };
    let coarse = |length: usize| -> Vec<f32> {
        values(length, 15).iter().map(|x| (x.clamp(-1.0, 1.0) * 16.0).round() / 256.0).collect()
    };
    for length in LENGTHS.into_iter().chain([2, 3, 256, 14_336]) {
        let infinite =
            || spread(length).into_iter().map(|x| if x > 0.4 { f32::INFINITY } else { x });
        let outlier =
            || coarse(length).into_iter().enumerate().map(|(i, x)| x + 1e6 * f32::from(i == 7));
        let lists = [spread(length), coarse(length), vec![0.5; length], vec![0.0; length]];
        for x in lists.into_iter().chain([infinite().collect(), outlier().collect()]) {
            let mut order: Vec<usize> = (0..length).collect();
            order.sort_by(|a, b| x[*a].abs().total_cmp(&x[*b].abs()).then(a.cmp(b)));
            let mut rank = vec![0; length];
            order.into_iter().enumerate().for_each(|(r, i)| rank[i] = r);
            for (start, lowest, highest) in
                [(0, 0.1, 0.9), (1 << 33, 0.35, 0.65), (777, 0.2, 0.2), (63, 0.001, 0.002)]
            {
                let p = |i: usize| {
                    let share = rank[i] as f64 / (length.max(2) - 1) as f64;
                    let share = if length == 1 { 0.5 } else { share };
                    lowest + (highest - lowest) * share
                };
                let kept = |i: usize| {
                    f64::from(number(STREAM, start + i)) < (p(i) * 2_f64.powi(32)).floor()
                };
                let odds = Odds { lowest, highest };
                for kernels in Kernels::all() {
                    let mut out = x.clone();
                    let mut mask = vec![u64::MAX; length.div_ceil(64)];
                    kernels.keep_by_rank(STREAM, start, odds, &x, &mut mask);
                    let bit = |i: usize| mask[i / 64] >> (i % 64) & 1 == 1;
                    assert!((0..length).all(|i| x[i] == 0.0 || bit(i) == kept(i)));
                    assert!((length..64 * mask.len()).all(|i| !bit(i)), "behind the row");
                    kernels.multiply_kept(&mask, 1.5, &mut out);
                    let [mut all, mut of_kept] = [0.0, 0.0];
                    for i in 0..length {
                        let wanted = if kept(i) { x[i] * 1.5 } else { 0.0 };
                        assert_eq!(out[i], wanted, "{i} of {length} from {start}");
                        all += f64::from(x[i].abs());
                        of_kept += if kept(i) { f64::from(x[i].abs()) } else { 0.0 };
                    }
                    let found = kernels.l1_of_kept(&mask, &x);
                    let near = |a: f64, b: f64| a == b || (a - b).abs() <= 1e-12 * b;
                    assert!(near(found[0], all) && near(found[1], of_kept));
                    assert_eq!(found[0], kernels.l1(&x));
                    kernels.multiply_kept(&mask, 0.0, &mut out);
                    assert!(out.iter().all(|x| x.to_bits() == 0));
                    let mut out = x.clone();
                    kernels.divide_by_rank(STREAM, start, odds, 1.5, &mut out);
                    for i in 0..length {
                        let wanted = if kept(i) { f64::from(x[i]) * 1.5 / p(i) } else { 0.0 };
                        let error = (f64::from(out[i]) - wanted).abs();
                        let same = f64::from(out[i]) == wanted;
                        assert!(same || error <= 2e-7 * wanted.abs() + 1e-44, "{i} of {length}");
                    }
                }
            }
        }
    }
}

#[test]
fn elections_before_weighing_follow_the_plain_sum() {
    for kernels in Kernels::all() {
        for length in LENGTHS {
            let deltas = [values(length, 8), values(length, 9), values(length, 10)];
            let base = values(length, 11);
            let weights = [0.5, 0.2, 0.3];
            for least in [1e-6, 0.4] {
                let mut out = vec![0.0; length];
                kernels.elect_then_weigh(&deltas, &base, &weights, least, &mut out);
                for i in 0..length {
                    let sum = deltas[0][i] + deltas[1][i] + deltas[2][i];
                    let (mut merged, mut divisor) = (0.0, 0.0_f32);
                    for (delta, weight) in deltas.iter().zip(weights) {
                        if if sum >= 0.0 { delta[i] > 0.0 } else { delta[i] < 0.0 } {
                            merged += delta[i] * weight;
                            divisor += weight;
                        }
                    }
                    let wanted: f32 = base[i] + merged / divisor.max(least);
                    assert_eq!(out[i].to_bits(), wanted.to_bits(), "{i} of {length}");
                }
            }
        }
    }
}

#[test]
fn variances_are_those_of_the_population() {
    for kernels in Kernels::all() {
        for length in LENGTHS {
            let mut deltas = [values(length, 8), values(length, 9), values(length, 10)];
            if let [first, ..] = &mut *deltas[0] {
                *first = f32::INFINITY;
            }
            let mut out = vec![0.0; length];
            kernels.variance(&deltas, &mut out);
            for i in 0..length {
                let each = deltas.each_ref().map(|delta| f64::from(delta[i]));
                let mean = (each[0] + each[1] + each[2]) / 3.0;
                let squares = each.map(|x| (x - mean) * (x - mean));
                let wanted = ((squares[0] + squares[1] + squares[2]) / 3.0) as f32;
                let wanted = if i == 0 { f32::INFINITY } else { wanted };
                assert_eq!(out[i].to_bits(), wanted.to_bits(), "{i} of {length}");
            }
            let same = [deltas[1].clone(), deltas[1].clone(), deltas[1].clone()];
            kernels.variance(&same, &mut out);
            assert!(out.iter().all(|x| *x == 0.0), "copies do not vary");
        }
    }
}

#[test]
fn overlaps_are_counted_and_merged() {
    for kernels in Kernels::all() {
        for length in LENGTHS {
            let deltas = [tame(length, 8), tame(length, 9), tame(length, 10)];
            let base = tame(length, 11);
            let (epsilon, factors) = (0.1, [1.1, 0.9, 1.3]);
            let changing = |i: usize| deltas.iter().filter(|d| d[i].abs() > epsilon).count();
            let mut counts = [5; 6];
            kernels.count_overlaps(&deltas, epsilon, &mut counts);
            let mut out = vec![0.0; length];
            kernels.merge_overlaps(&deltas, &base, epsilon, &factors, &mut out);
            let mut wanted = [5; 6];
            for i in 0..length {
                let mut sum = 0.0;
                for (m, delta) in deltas.iter().enumerate().filter(|(_, d)| d[i].abs() > epsilon) {
                    let models = changing(i);
                    wanted[2 * m + usize::from(models == 1)] += 1;
                    sum +=
                        if models == 1 { delta[i] * factors[m] } else { delta[i] / models as f32 };
                }
                assert_eq!(out[i].to_bits(), (base[i] + sum).to_bits(), "{i} of {length}");
            }
            assert_eq!(counts, wanted);
        }
    }
}

#[test]
fn agreement_is_counted_by_model() {
    for kernels in Kernels::all() {
        for length in LENGTHS {
            let deltas = [tame(length, 8), tame(length, 9), tame(length, 10)];
            let base = tame(length, 11);
            let limits = [0.2, 0.6, 0.4];
            for needed in [0.0, 1.0, 2.0, 4.0] {
                let mut out = vec![0.0; length];
                kernels.merge_agreed(&deltas, &base, &limits, needed, 0.7, &mut out);
                for i in 0..length {
                    let sum = 0.0 + deltas[0][i] + deltas[1][i] + deltas[2][i];
                    let needs =
                        |(d, limit): &(&Vec<f32>, &f32)| d[i].abs() >= **limit * (sum - d[i]).abs();
                    let models = deltas.iter().zip(&limits).filter(needs).count() as f32;
                    let wanted = base[i] + if models >= needed { 0.7 * sum } else { 0.0 };
                    assert_eq!(out[i].to_bits(), wanted.to_bits(), "{i} of {length}");
                }
            }
        }
    }
}

#[test]
fn competing_scores_are_sums_of_exponentials() {
    for length in LENGTHS {
        let (a, b) = (tame(length, 16), tame(length, 17));
        let products = a.iter().zip(&b).map(|(a, b)| a * b);
        let least = products.clone().fold(f32::INFINITY, f32::min);
        let greatest = products.clone().fold(f32::NEG_INFINITY, f32::max);
        let exponents: Vec<f64> =
            products.map(|product| (f64::from(product - least.min(1.0)) * 0.75).exp()).collect();
        let mut first: Option<(u64, Vec<u32>)> = None;
        for kernels in Kernels::all() {
            assert_eq!(kernels.product_extent(&a, &b), [least, greatest]);
            let sum = kernels.exp_sum(&a, &b, least.min(1.0), 0.75);
            let wanted: f64 = exponents.iter().sum();
            assert!((sum - wanted).abs() <= 1e-6 * wanted, "{sum} for {wanted}");
            let mut out = vec![1.0; length];
            kernels.add_exp(&a, &b, least.min(1.0), 0.75, 2.0, &mut out);
            for (out, exponent) in out.iter().zip(&exponents) {
                assert!((f64::from(*out) - 1.0 - 2.0 * exponent).abs() <= 1e-6 * exponent + 1e-6);
            }
            let found = (sum.to_bits(), bits(&out));
            assert_eq!(first.get_or_insert_with(|| found.clone()), &found, "{:?}", kernels.isa());
            let scores = [out.clone(), vec![0.0; length]];
            let deltas = [a.clone(), b.clone()];
            let mut merged = vec![0.0; length];
            kernels.merge_scored(&deltas, &scores, &b, &[0.5, 9.0], 2.0, &mut merged);
            for i in 0..length {
                let sum = 0.0 + out[i] * (0.5 * a[i]) + 0.0 * (9.0 * b[i]);
                assert_eq!(merged[i], b[i] + 2.0 * (sum / (0.0 + out[i] + 0.0)));
            }
            let none = [vec![0.0; length], vec![0.0; length]];
            kernels.merge_scored(&deltas, &none, &b, &[0.5, 9.0], 2.0, &mut merged);
            assert_eq!(bits(&merged), bits(&b.iter().map(|x| x + 0.0).collect::<Vec<_>>()));
        }
    }
}
