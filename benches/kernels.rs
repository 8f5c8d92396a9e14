//! Kernels on tiles that stay in the first-level cache, on every instruction set.
//!
//! `cargo bench --bench kernels`

#![allow(missing_docs)] // criterion's macros make undocumented functions

use cognate::engine::TILE;
use cognate::kernels::{Kernels, Stream};
use cognate::model::Float;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

fn kernels(criterion: &mut Criterion) {
    let wave = |step: f32| (0..TILE).map(|i| (i as f32 * step).sin()).collect::<Vec<f32>>();
    let (x, y) = (wave(0.37), wave(0.73));
    let deltas = [x.clone(), y.clone(), wave(0.11)];
    let stream = Stream { key: [1, 2], nonce: [3, 4] };
    for kernels in Kernels::all() {
        let mut group = criterion.benchmark_group(kernels.isa().name());
        group.throughput(Throughput::Elements(TILE as u64));
        for float in [Float::BF16, Float::F16] {
            let mut bytes = vec![0; TILE * float.size()];
            group.bench_function(format!("encode {}", float.name()), |b| {
                b.iter(|| kernels.encode(float, black_box(&x), &mut bytes));
            });
            let mut out = vec![0.0; TILE];
            group.bench_function(format!("decode {}", float.name()), |b| {
                b.iter(|| kernels.decode(float, black_box(&bytes), &[], &mut out));
            });
        }
        let mut out = y.clone();
        group.bench_function("add_scaled", |b| {
            b.iter(|| kernels.add_scaled(0.5, black_box(&x), &mut out));
        });
        group.bench_function("gram", |b| b.iter(|| kernels.gram(black_box(&x), &y)));
        group.bench_function("drop_random", |b| {
            let mut out = x.clone();
            b.iter(|| kernels.drop_random(stream, 0, 1 << 31, 1.0, black_box(&mut out)));
        });
        group.bench_function("l1_and_kept", |b| {
            b.iter(|| kernels.l1_and_kept(stream, 0, 1 << 31, black_box(&x)));
        });
        let range = 0.5_f32.to_bits()..0.51_f32.to_bits();
        let mut bins = vec![0; 1 << 19];
        group.bench_function("count_magnitudes", |b| {
            b.iter(|| kernels.count_magnitudes(black_box(&x), range.clone(), 0, &mut bins));
        });
        group.bench_function("elect", |b| {
            b.iter(|| kernels.elect(black_box(&deltas), &y, Some(&[1.0; 3]), 1.0, &mut out));
        });
        group.finish();
    }
}

criterion_group!(benches, kernels);
criterion_main!(benches);
