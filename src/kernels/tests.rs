//! One oracle suite over every instruction set: each kernel against a plain loop.

use super::{Kernels, Stream};
use crate::model::Float;
use half::{bf16, f16};

const LENGTHS: [usize; 12] = [0, 1, 15, 16, 17, 63, 64, 65, 255, 257, 4096, 4099];

/// Values of every kind: normal, tiny, huge, equal, signed zeros.
fn values(length: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let draw = |i: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let unit = (state >> 40) as f32 / (1 << 24) as f32 - 0.5;
        match i % 11 {
            3 => 0.0,
            5 => -0.0,
            6 => 0.25 * unit.signum(),
            7 => unit * 1e-40,
            8 => unit * 1e30,
            _ => unit,
        }
    };
    (0..length).map(draw).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Philox4x32-10 as the paper writes it, one block at a time.
fn philox(stream: Stream, block: u64) -> [u32; 4] {
    let mut c = [block as u32, (block >> 32) as u32, stream.nonce[0], stream.nonce[1]];
    let mut key = stream.key;
    for _ in 0..10 {
        let p0 = 0xD251_1F53_u64 * u64::from(c[0]);
        let p1 = 0xCD9E_8D57_u64 * u64::from(c[2]);
        let high = |p: u64| (p >> 32) as u32;
        c = [high(p1) ^ c[1] ^ key[0], p1 as u32, high(p0) ^ c[3] ^ key[1], p0 as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    c
}

/// An element's number, as docs/architecture.md has it.
fn number(stream: Stream, element: usize) -> u32 {
    let (group, at) = (element as u64 / 128, element % 128);
    let (half, word, block) = (at / 64, at % 64 / 16, group * 16 + at as u64 % 16);
    let take = |block| philox(stream, block)[word] >> (16 * half) & 0xffff;
    take(block) << 16 | take((1 << 63) + block)
}

const STREAM: Stream = Stream { key: [7, 0xdead_beef], nonce: [3, 1 << 31] };

#[test]
fn this_processor_has_at_least_the_portable_kernels() {
    assert!(Kernels::all().count() >= 1);
}

#[test]
fn every_half_decodes_as_the_half_crate_says() {
    for kernels in Kernels::all() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let mut out = vec![0.0; 1 << 16];
        kernels.decode(Float::F16, &bytes, &[], &mut out);
        for (pattern, found) in (0..=u16::MAX).zip(&out) {
            let wanted = f16::from_bits(pattern).to_f32();
            let same = wanted.to_bits() == found.to_bits() || (wanted.is_nan() && found.is_nan());
            assert!(same, "{pattern:#x}: {found} for {wanted}");
        }
        kernels.decode(Float::BF16, &bytes, &[], &mut out);
        for (pattern, found) in (0..=u16::MAX).zip(&out) {
            assert_eq!(found.to_bits(), u32::from(pattern) << 16);
        }
    }
}

#[test]
fn halves_are_rounded_as_the_half_crate_does() {
    // Every f16 and bf16, what lies around it and half-way to the next, and random patterns.
    let mut inputs: Vec<f32> = Vec::new();
    for pattern in 0..=u16::MAX {
        for exact in [f16::from_bits(pattern).to_f32(), bf16::from_bits(pattern).to_f32()] {
            let around = [exact, f32::from_bits(exact.to_bits() ^ 1), exact * 1.000_488_3];
            let between = f32::from_bits(exact.to_bits() | 0x1000);
            let bf_between = f32::from_bits(exact.to_bits() | 0x8000);
            inputs.extend(around.into_iter().chain([between, bf_between]));
        }
    }
    let mut state = 1_u32;
    inputs.extend((0..200_000).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from_bits(state)
    }));
    inputs.extend([65_519.996, 65_520.0, 65_504.0, 5.96e-8, 2.98e-8, f32::MAX, f32::INFINITY]);
    for kernels in Kernels::all() {
        let mut bytes = vec![0; 2 * inputs.len()];
        kernels.encode(Float::F16, &inputs, &mut bytes);
        for (x, found) in inputs.iter().zip(bytes.as_chunks::<2>().0) {
            let wanted = if x.is_nan() { 0x7e00 } else { f16::from_f32(*x).to_bits() };
            assert_eq!(u16::from_le_bytes(*found), wanted, "{x:e}");
        }
        kernels.encode(Float::BF16, &inputs, &mut bytes);
        for (x, found) in inputs.iter().zip(bytes.as_chunks::<2>().0) {
            let wanted = if x.is_nan() { 0x7fc0 } else { bf16::from_f32(*x).to_bits() };
            assert_eq!(u16::from_le_bytes(*found), wanted, "{x:e}");
        }
        let mut bytes = vec![0; 4 * inputs.len()];
        kernels.encode(Float::F32, &inputs, &mut bytes);
        let mut back = vec![0.0; inputs.len()];
        kernels.decode(Float::F32, &bytes, &[], &mut back);
        for (x, found) in inputs.iter().zip(&back) {
            let wanted = if x.is_nan() { 0x7fc0_0000 } else { x.to_bits() };
            assert_eq!(found.to_bits(), wanted);
        }
    }
}

#[test]
fn elementwise_kernels_round_each_operation_once() {
    for kernels in Kernels::all() {
        for length in LENGTHS {
            let (x, y) = (values(length, 1), values(length, 2));
            let with = |f: &dyn Fn(f32, f32) -> f32| {
                bits(&x.iter().zip(&y).map(|(x, y)| f(*x, *y)).collect::<Vec<_>>())
            };
            let mut out = y.clone();
            kernels.scale(0.3, &x, &mut out);
            assert_eq!(bits(&out), with(&|x, _| 0.3 * x));
            let mut out = y.clone();
            kernels.add_scaled(-0.7, &x, &mut out);
            assert_eq!(bits(&out), with(&|x, y| y + (-0.7 * x)));
            let mut out = y.clone();
            kernels.subtract(&x, &mut out);
            assert_eq!(bits(&out), with(&|x, y| y - x));
            let mut out = y.clone();
            kernels.multiply(1.1, &mut out);
            assert_eq!(bits(&out), with(&|_, y| y * 1.1));
            let mut out = y.clone();
            kernels.add_to_base(&x, 0.9, &mut out);
            assert_eq!(bits(&out), with(&|x, y| x + 0.9 * y));
        }
    }
}

#[test]
fn decoding_tells_of_a_nan_at_every_place() {
    for kernels in Kernels::all() {
        // The smallest and the largest NaN of each float type, and what is next to a NaN.
        for (float, nans, other) in [
            (Float::F32, [0x7f80_0001_u32, 0xffff_ffff], [0x7f80_0000, 0xff80_0000]),
            (Float::BF16, [0x7f81, 0xffff], [0x7f80, 0xff80]),
            (Float::F16, [0x7c01, 0xffff], [0x7c00, 0xfc00]),
        ] {
            let length = 67;
            let mut out = vec![0.0; length];
            let mut seen = |patterns: &[u32]| {
                let bytes = patterns.iter().flat_map(|p| p.to_le_bytes()[..float.size()].to_vec());
                let bytes: Vec<u8> = bytes.collect();
                kernels.decode(float, &bytes, &bytes, &mut out)
            };
            for place in 0..length {
                let mut patterns: Vec<u32> = (0..length).map(|i| other[i % 2]).collect();
                assert!(!seen(&patterns), "{float:?}");
                for nan in nans {
                    patterns[place] = nan;
                    assert!(seen(&patterns), "{float:?} {nan:#x} at {place}");
                }
            }
        }
    }
}

#[test]
fn reductions_are_right_and_the_same_everywhere() {
    for length in LENGTHS {
        let tame = |seed| -> Vec<f32> {
            values(length, seed).into_iter().map(|x| if x.abs() > 1.0 { 1.0 } else { x }).collect()
        };
        let (x, y) = (tame(4), tame(5));
        let keep = 3_000_000_000;
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let kept = x.iter().enumerate().filter(|(i, _)| number(STREAM, 128 + i) < keep);
        let wanted = [
            dot(&x, &x),
            dot(&x, &y),
            dot(&y, &y),
            x.iter().map(|x| f64::from(x.abs())).sum(),
            kept.map(|(_, x)| f64::from(x.abs())).sum(),
        ];
        let mut first: Option<[f64; 5]> = None;
        for kernels in Kernels::all() {
            let [xx, xy, yy] = kernels.gram(&x, &y);
            let [all, kept] = kernels.l1_and_kept(STREAM, 128, keep, &x);
            assert_eq!(all.to_bits(), kernels.l1(&x).to_bits());
            let found = [xx, xy, yy, all, kept];
            for (found, wanted) in found.iter().zip(&wanted) {
                assert!((found - wanted).abs() <= 1e-12 * (1.0 + wanted.abs()), "{length}");
            }
            let first = first.get_or_insert(found);
            assert_eq!(first.map(f64::to_bits), found.map(f64::to_bits), "{:?}", kernels.isa());
        }
    }
}

#[test]
fn magnitudes_are_counted_by_pattern() {
    let pattern = |x: &f32| x.abs().to_bits();
    for kernels in Kernels::all() {
        for length in LENGTHS {
            let x = values(length, 6);
            for (range, shift) in [
                (0..1 << 31, 15),
                (0.25_f32.to_bits()..0.25_f32.to_bits() + 1, 0),
                (0.1_f32.to_bits()..0.3_f32.to_bits(), 8),
                (0..1, 0),
            ] {
                let mut bins = vec![0; ((range.end - range.start) >> shift) as usize + 1];
                let mut wanted = bins.clone();
                let above = kernels.count_magnitudes(&x, range.clone(), shift, &mut bins);
                for p in x.iter().map(pattern).filter(|p| range.contains(p)) {
                    wanted[((p - range.start) >> shift) as usize] += 1;
                }
                assert_eq!(bins, wanted);
                assert_eq!(above, x.iter().filter(|x| pattern(x) >= range.end).count() as u64);
            }
            let quarter = 0.25_f32.to_bits();
            let equal = x.iter().filter(|x| pattern(x) == quarter).count() as u64;
            assert_eq!(kernels.count_equal(&x, quarter), equal);
        }
    }
}

#[test]
fn sparsifying_keeps_what_it_says() {
    for kernels in Kernels::all() {
        for length in LENGTHS {
            let x = values(length, 7);
            let threshold = 0.25_f32.to_bits();
            for ties in [0, 1, length / 2, length, usize::MAX] {
                let mut out = x.clone();
                kernels.trim(threshold, ties, &mut out);
                for (i, (x, out)) in x.iter().zip(&out).enumerate() {
                    let keep = x.abs() > 0.25 || (x.abs() == 0.25 && i < ties);
                    assert_eq!(out.to_bits(), if keep { x.to_bits() } else { 0 });
                }
            }
            // The last two limits are the number of an element and the one after it.
            let own = number(STREAM, (1 << 40) + length / 2);
            let limits = [(0, 0), (128, u32::MAX), (1 << 40, 1 << 31)];
            for (start, keep) in limits.into_iter().chain([(1 << 40, own), (1 << 40, own + 1)]) {
                let mut out = x.clone();
                kernels.drop_random(STREAM, start, keep, 2.5, &mut out);
                for (i, (x, out)) in x.iter().zip(&out).enumerate() {
                    let wanted = if number(STREAM, start + i) < keep { x * 2.5 } else { 0.0 };
                    assert_eq!(out.to_bits(), wanted.to_bits());
                }
            }
        }
    }
}

#[test]
fn elections_follow_the_sign_of_the_sum() {
    for kernels in Kernels::all() {
        for length in LENGTHS {
            let deltas = [values(length, 8), values(length, 9), values(length, 10)];
            let base = values(length, 11);
            let weights = [0.5, -1.0, 2.0];
            for weights in [None, Some(&weights[..])] {
                let mut out = vec![0.0; length];
                kernels.elect(&deltas, &base, weights, 0.8, &mut out);
                for i in 0..length {
                    let sum = deltas[0][i] + deltas[1][i] + deltas[2][i];
                    let agrees = |d: f32| if sum >= 0.0 { d > 0.0 } else { d < 0.0 };
                    let (mut merged, mut divisor) = (0.0, 0.0);
                    for (m, delta) in deltas.iter().enumerate().filter(|(_, d)| agrees(d[i])) {
                        merged += delta[i];
                        divisor += weights.map_or(0.0, |weights| weights[m]);
                    }
                    let divisor = if divisor == 0.0 { 1.0 } else { divisor };
                    let wanted: f32 = base[i] + 0.8 * (merged / divisor);
                    assert_eq!(out[i].to_bits(), wanted.to_bits(), "{i} of {length}");
                }
            }
        }
    }
}

#[test]
fn products_of_many_vectors_are_right_and_the_same_everywhere() {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    for length in LENGTHS {
        for count in 0..7 {
            let tame = |x: f32| if x.abs() > 1.0 { 1.0 } else { x };
            let vector = |seed| values(length, seed).into_iter().map(tame).collect();
            let vectors: Vec<Vec<f32>> = (20..20 + count).map(vector).collect();
            let mut wanted = Vec::new();
            for (i, a) in vectors.iter().enumerate() {
                wanted.extend(vectors[i..].iter().map(|b| 1.0 + dot(a, b)));
            }
            let mut first: Option<Vec<f64>> = None;
            for kernels in Kernels::all() {
                let mut sums = vec![1.0; wanted.len()];
                kernels.add_gram(&vectors, &mut sums);
                for (found, wanted) in sums.iter().zip(&wanted) {
                    assert!((found - wanted).abs() <= 1e-12 * wanted.abs(), "{count} of {length}");
                }
                if let [a, b] = &vectors[..] {
                    let gram = kernels.gram(a, b).map(|product| 1.0 + product);
                    assert_eq!(sums, gram);
                }
                assert_eq!(first.get_or_insert(sums.clone()), &sums, "{:?}", kernels.isa());
            }
        }
    }
}

#[test]
fn products_by_element_are_added_in_f64() {
    for kernels in Kernels::all() {
        for length in LENGTHS {
            let (a, b) = (values(length, 30), values(length, 31));
            let mut sums = vec![0.5; length];
            kernels.add_products(&a, &b, &mut sums);
            for ((a, b), sum) in a.iter().zip(&b).zip(sums) {
                assert_eq!(sum, 0.5 + f64::from(*a) * f64::from(*b));
            }
        }
    }
}

#[test]
fn near_elements_are_swapped_and_far_ones_approached() {
    for kernels in Kernels::all() {
        for length in LENGTHS {
            let (base, x) = (values(length, 32), values(length, 33));
            for t in [0.0, -1.0, 1e-7, 0.1, 1e30] {
                let mut out = vec![9.0; length];
                kernels.swap_near(t, &base, &x, &mut out);
                for ((base, x), out) in base.iter().zip(&x).zip(&out) {
                    let weight = (t / (base - x).abs().max(1e-6)).clamp(0.0, 1.0);
                    assert_eq!(out.to_bits(), (weight * x + (1.0 - weight) * base).to_bits());
                }
            }
        }
    }
    let mut out = [0.0; 3];
    let (base, x) = ([0.0, 1.0, 2.0], [0.5, 0.0, 2.0]);
    Kernels::best().swap_near(0.5, &base, &x, &mut out);
    assert_eq!(out, [0.5, 0.5, 2.0]);
}

#[test]
fn divergences_are_right_and_the_same_everywhere() {
    let softmax = |x: &[f32], room: f64| -> Vec<f64> {
        let exps: Vec<f64> = x.iter().map(|x| f64::from(*x).exp()).collect();
        let sum: f64 = exps.iter().sum();
        exps.into_iter().map(|e| e / sum + room).collect()
    };
    for length in LENGTHS.into_iter().filter(|length| *length > 0) {
        // From logits far apart to such that differ in their last bits.
        for (spread, distance) in [(90.0, 90.0), (1.0, 1.0), (0.05, 1e-3), (0.05, 1e-6)] {
            let tame = |x: f32| if x.abs() > 1.0 { 0.3 } else { x };
            let of = |seed, by: f32| values(length, seed).into_iter().map(move |x| by * tame(x));
            let base: Vec<f32> = of(34, spread).collect();
            let x: Vec<f32> = base.iter().zip(of(35, distance)).map(|(b, d)| b + d).collect();
            let (p, q) = (softmax(&x, 1e-8), softmax(&base, 1e-8));
            let term = |(p, q): (&f64, &f64)| p * ((p - q) / q).ln_1p() - (p - q);
            let wanted: f64 = p.iter().zip(&q).map(term).sum();
            let plain: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
            assert!((plain - wanted).abs() <= 1e-13 * (1.0 + wanted), "{plain} for {wanted}");
            let mut first = None;
            for kernels in Kernels::all() {
                let found = kernels.divergence(1e-8, &x, &base);
                assert!((found - wanted).abs() <= 1e-8 * wanted + 1e-30, "{found} for {wanted}");
                assert_eq!(found.to_bits(), *first.get_or_insert(found.to_bits()));
                assert_eq!(kernels.divergence(1e-8, &x, &x), 0.0);
            }
        }
    }
}
