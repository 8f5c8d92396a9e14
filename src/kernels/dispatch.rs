//! Picks the instruction set. The only place with target-feature `unsafe`.
#![allow(unsafe_code)]

use super::neural::{self, Activation};
use super::random::Stream;
use super::rank::{self, Odds};
use super::symmetric::Sweep;
use super::{
    balance, combine, convert, divergence, elect, gradient, low_rank, magnitude, mask, mean,
    overlap, product, reduce, sparsify, spread, symmetric,
};
use crate::model::Float;
use std::ops::Range;
use std::sync::OnceLock;

/// An instruction set that kernels are compiled for.
///
/// On aarch64 the portable body is the NEON one, since NEON is part of the baseline there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// What every processor of the target has (SSE2 on x86-64, NEON on aarch64).
    Portable,
    /// AVX2.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
}

impl Isa {
    /// All of them, in ascending order.
    pub const ALL: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    /// The name used in `COGNATE_ISA` and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    fn available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return match self {
            Self::Portable => true,
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
        };
        #[cfg(not(target_arch = "x86_64"))]
        return self == Self::Portable;
    }
}

/// The kernels of one instruction set. A value exists only if the processor has that set.
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    isa: Isa,
}

impl Kernels {
    /// The kernels of `isa`, if this processor has it.
    pub fn new(isa: Isa) -> Option<Self> {
        isa.available().then_some(Self { isa })
    }

    /// The best instruction set of this processor, or the one that the environment variable
    /// `COGNATE_ISA` names, if the processor has it. All give the same bits.
    pub fn best() -> Self {
        static BEST: OnceLock<Kernels> = OnceLock::new();
        *BEST.get_or_init(|| {
            let wanted = std::env::var("COGNATE_ISA").ok();
            let named = Isa::ALL.into_iter().find(|isa| Some(isa.name()) == wanted.as_deref());
            let ladder = Isa::ALL.into_iter().rev();
            named
                .into_iter()
                .chain(ladder)
                .find_map(Self::new)
                .unwrap_or(Self { isa: Isa::Portable })
        })
    }

    /// Every set of kernels this processor can run.
    pub fn all() -> impl Iterator<Item = Self> {
        Isa::ALL.into_iter().filter_map(Self::new)
    }

    /// The instruction set.
    pub fn isa(self) -> Isa {
        self.isa
    }
}

/// Asks for the cache line of a byte that will be read soon.
#[inline(always)]
pub(super) fn prefetch(line: &u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch changes nothing but the caches, and the address is that of a
        // reference; SSE, which it is part of, is in the baseline of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(line).cast()) };
    }
    let _ = line;
}

macro_rules! kernels {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $body:path;)*) => {
        impl Kernels {$(
            $(#[$doc])*
            pub fn $name(self, $($arg: $ty),*) $(-> $ret)? {
                #[cfg(target_arch = "x86_64")]
                {
                    #[target_feature(enable = "avx2")]
                    fn avx2($($arg: $ty),*) $(-> $ret)? {
                        $body($($arg),*)
                    }
                    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                    fn avx512($($arg: $ty),*) $(-> $ret)? {
                        $body($($arg),*)
                    }
                    match self.isa {
                        // SAFETY: `Kernels::new` made this value only after the processor
                        // reported AVX-512 F, BW, DQ and VL.
                        Isa::Avx512 => return unsafe { avx512($($arg),*) },
                        // SAFETY: likewise for AVX2.
                        Isa::Avx2 => return unsafe { avx2($($arg),*) },
                        Isa::Portable => {}
                    }
                }
                $body($($arg),*)
            }
        )*}
    };
}

kernels! {
    /// Decodes little-endian stored floats; `bytes` holds exactly `out.len()` elements. Exact.
    /// `next` is what will be decoded next: its cache lines are asked for. Whether any value is NaN.
    fn decode(float: Float, bytes: &[u8], next: &[u8], out: &mut [f32]) -> bool = convert::decode;
    /// Encodes to little-endian stored floats, rounding to nearest even; a NaN becomes the
    /// positive quiet NaN without payload. `bytes` has room for exactly `values.len()` elements.
    fn encode(float: Float, values: &[f32], bytes: &mut [u8]) = convert::encode;
    /// `out = weight · x`.
    fn scale(weight: f32, x: &[f32], out: &mut [f32]) = combine::scale;
    /// `out += weight · x`, one rounding for the product and one for the sum.
    fn add_scaled(weight: f32, x: &[f32], out: &mut [f32]) = combine::add_scaled;
    /// `x -= base`: turns weights into a task vector.
    fn subtract(base: &[f32], x: &mut [f32]) = combine::subtract;
    /// `x *= weight`.
    fn multiply(weight: f32, x: &mut [f32]) = combine::multiply;
    /// `out = base + weight · out`.
    fn add_to_base(base: &[f32], weight: f32, out: &mut [f32]) = combine::add_to_base;
    /// `out[j] += scale · Σ_k weights[k] · rows[k·stride + j]`: the sum in f32, in the order of k.
    fn add_product(weights: &[f32], rows: &[f32], stride: usize, scale: f32, out: &mut [f32]) = low_rank::add_product;
    /// `[Σ a·a, Σ a·b, Σ b·b]` in f64: 16 lanes by position, then a fixed tree.
    fn gram(a: &[f32], b: &[f32]) -> [f64; 3] = reduce::gram;
    /// Adds the inner products of `k` vectors to `sums`: the upper triangle of their Gram matrix by rows,
    /// `k·(k+1)/2` values. Each as in [`Kernels::gram`].
    fn add_gram(vectors: &[Vec<f32>], sums: &mut [f64]) = reduce::add_gram;
    /// `sums += a·b`, element by element in f64.
    fn add_products(a: &[f32], b: &[f32], sums: &mut [f64]) = reduce::add_products;
    /// The Kullback-Leibler divergence `Σ p·ln(p/q)` of `p = softmax(x) + room` from
    /// `q = softmax(base) + room`, in f64, 0 where a row has infinities; sums as in [`Kernels::gram`].
    fn divergence(room: f64, x: &[f32], base: &[f32]) -> f64 = divergence::divergence;
    /// `out = w·x + (1 - w)·base` with `w = t / max(|base - x|, 1e-6)`, cut to 0 and 1, element by
    /// element in f32.
    fn swap_near(t: f32, base: &[f32], x: &[f32], out: &mut [f32]) = combine::swap_near;
    /// `Σ |x|` in f64: 16 lanes by position, then a fixed tree.
    fn l1(x: &[f32]) -> f64 = reduce::l1;
    /// Counts magnitudes: those whose f32 pattern lies in `range` go to the bin
    /// `(pattern - range.start) >> shift`; returns how many lie above the range.
    fn count_magnitudes(x: &[f32], range: Range<u32>, shift: u32, bins: &mut [u64]) -> u64 = magnitude::count;
    /// How many magnitudes have exactly this f32 pattern.
    fn count_equal(x: &[f32], pattern: u32) -> u64 = magnitude::count_equal;
    /// Zeroes what lies below the threshold: keeps magnitudes above `pattern`, and of those equal
    /// to it the first `ties` positions of the slice.
    fn trim(pattern: u32, ties: usize, x: &mut [f32]) = sparsify::trim;
    /// The complement of [`Kernels::trim`]: zeroes what that keeps, and keeps the rest.
    fn trim_largest(pattern: u32, ties: usize, x: &mut [f32]) = sparsify::trim_largest;
    /// Bernoulli mask: keeps element `start + i` iff its random number is below `keep`, times
    /// `rescale`; zeroes the rest. `start` is a multiple of 128.
    fn drop_random(stream: Stream, start: usize, keep: u32, rescale: f32, x: &mut [f32]) = sparsify::drop_random;
    /// `Σ |x|` over all elements, and over those that [`Kernels::drop_random`] keeps; both in f64 as
    /// in [`Kernels::l1`].
    fn l1_and_kept(stream: Stream, start: usize, keep: u32, x: &[f32]) -> [f64; 2] = sparsify::l1_and_kept;
    /// Decides which elements of a row, the first of which is element `start` of its tensor, are kept at
    /// random by the rank of their magnitude: element `start + i` iff its random number is below its
    /// probability, counted in 2^-32 and rounded down. Equal magnitudes rank by index. Bit `i % 64` of
    /// word `i / 64` of `mask` becomes 1 where element `i` is kept, all others 0; which it is for an
    /// element that is 0 may differ from that.
    fn keep_by_rank(stream: Stream, start: usize, odds: Odds, x: &[f32], mask: &mut [u64]) = rank::keep_by_rank;
    /// The mask of the elements that are not 0, as [`Kernels::keep_by_rank`] makes them.
    fn mark_nonzero(x: &[f32], mask: &mut [u64]) = mask::mark_nonzero;
    /// Multiplies what a mask keeps (bit `i % 64` of word `i / 64`: element `i`), and zeroes the rest; zeroes all where
    /// `factor` is 0.
    fn multiply_kept(mask: &[u64], factor: f32, x: &mut [f32]) = mask::multiply_kept;
    /// `Σ |x|` over all elements, and over those that a mask keeps; both in f64 as in [`Kernels::l1`].
    fn l1_of_kept(mask: &[u64], x: &[f32]) -> [f64; 2] = mask::l1_of_kept;
    /// Multiplies what [`Kernels::keep_by_rank`] keeps by `factor` and divides it by its probability;
    /// zeroes the rest.
    fn divide_by_rank(stream: Stream, start: usize, odds: Odds, factor: f64, x: &mut [f32]) = rank::divide_by_rank;
    /// Elects the sign of the summed weighted deltas per element and merges the deltas that agree:
    /// `out = base + lambda · Σ agreeing / divisor`, where the divisor is the sum of the agreeing
    /// weights (1 where that is 0) or, without `weights`, 1.
    fn elect(deltas: &[Vec<f32>], base: &[f32], weights: Option<&[f32]>, lambda: f32, out: &mut [f32]) = elect::elect;
    /// Elects the sign of the summed deltas per element and merges those that agree by their weights:
    /// `out = base + Σ agreeing weight · delta / divisor`, where the divisor is the sum of the agreeing
    /// weights, or `least` if that is greater. In f32, in the order of the models.
    fn elect_then_weigh(deltas: &[Vec<f32>], base: &[f32], weights: &[f32], least: f32, out: &mut [f32]) = elect::elect_then_weigh;
    /// The population variance of each element over the models: in f64 in the order of the models,
    /// rounded once; what is no number (of infinities) is infinite.
    fn variance(deltas: &[Vec<f32>], out: &mut [f32]) = spread::variance;
    /// For each model, adds how many elements it changes by more than `epsilon` that another model
    /// changes too, and how many that no other does, to `counts` (two a model).
    fn count_overlaps(deltas: &[Vec<f32>], epsilon: f32, counts: &mut [u64]) = overlap::count_overlaps;
    /// `out = base + Σ`, over the deltas above `epsilon` in magnitude: the delta times its model's
    /// factor where it is the only one, divided by their number where it is not.
    fn merge_overlaps(deltas: &[Vec<f32>], base: &[f32], epsilon: f32, factors: &[f32], out: &mut [f32]) = overlap::merge_overlaps;
    /// `out = base + lambda · Σ deltas` where for at least `needed` models `|delta|` is at least the
    /// model's limit times `|Σ deltas - delta|`; elsewhere the base. In f32, in the order of the models.
    fn merge_agreed(deltas: &[Vec<f32>], base: &[f32], limits: &[f32], needed: f32, lambda: f32, out: &mut [f32]) = overlap::merge_agreed;
    /// The least and the greatest product `a·b`; infinities that surround everything if there is none.
    fn product_extent(a: &[f32], b: &[f32]) -> [f32; 2] = balance::product_extent;
    /// `Σ e^((a·b - least) · scale)` in f64 as in [`Kernels::l1`], of exponentials in f32.
    fn exp_sum(a: &[f32], b: &[f32], least: f32, scale: f32) -> f64 = balance::exp_sum;
    /// `out += weight · e^((a·b - least) · scale)`, in f32.
    fn add_exp(a: &[f32], b: &[f32], least: f32, scale: f32, weight: f32, out: &mut [f32]) = balance::add_exp;
    /// `out = base + lambda · Σ scores · (weight · deltas) / Σ scores`, in f32 in the order of the
    /// models; the base where the divisor is 0.
    fn merge_scored(deltas: &[Vec<f32>], scores: &[Vec<f32>], base: &[f32], weights: &[f32], lambda: f32, out: &mut [f32]) = balance::merge_scored;
    /// Applies an activation function to each element.
    fn activate(activation: Activation, x: &mut [f32]) = neural::activate;
    /// `x = σ(x)`.
    fn sigmoid(x: &mut [f32]) = neural::sigmoid;
    /// `x = ln(1 + e^x)`.
    fn softplus(x: &mut [f32]) = neural::softplus;
    /// `x = cap · tanh(x / cap)`.
    fn soft_cap(cap: f32, x: &mut [f32]) = neural::soft_cap;
    /// `x *= by`, element by element.
    fn times(by: &[f32], x: &mut [f32]) = neural::times;
    /// `x += other`, element by element.
    fn plus(other: &[f32], x: &mut [f32]) = neural::plus;
    /// `Σ a·b` in f32: 16 lanes by position, folded in f64.
    fn dot(a: &[f32], b: &[f32]) -> f32 = neural::dot;
    /// `x · weight / √(mean(x²) + eps)`; sums in 16 lanes of f32, folded in f64.
    fn rms_norm(eps: f64, weight: &[f32], x: &mut [f32]) = neural::rms_norm;
    /// `(x - mean(x)) · weight / √(variance(x) + eps)`; sums as in [`Kernels::rms_norm`].
    fn layer_norm(eps: f64, weight: &[f32], x: &mut [f32]) = neural::layer_norm;
    /// `x = e^x / Σ e^x`; the sum as in [`Kernels::rms_norm`].
    fn softmax(x: &mut [f32]) = neural::softmax;
    /// The maximum, and `Σ e^(x - maximum)`; the sum as in [`Kernels::rms_norm`].
    fn max_and_exp_sum(x: &[f32]) -> (f32, f64) = neural::max_and_exp_sum;
    /// Whether every element is a finite number.
    fn all_finite(x: &[f32]) -> bool = neural::all_finite;
    /// Rotates the pairs (`first[i]`, `second[i]`) by angles given by cosine and sine.
    fn rotate(cos: &[f32], sin: &[f32], first: &mut [f32], second: &mut [f32]) = neural::rotate;
    /// One step of a diagonal state space: `state = e^(step·decay) · state + step·input·x`; returns
    /// `Σ state · output`, in f32 in the order of the elements.
    fn scan(decay: &[f32], input: &[f32], step: f32, x: f32, output: &[f32], state: &mut [f32]) -> f32 = neural::scan;
    /// `tile += a·b` for a tile of [`super::TILE_ROWS`] × [`super::TILE_COLUMNS`]: `a` holds a column
    /// of the tile's rows for each step of the inner dimension, `b` a row of its columns. Each sum in
    /// f32, in the order of the steps.
    fn add_tile(a: &[f32], b: &[f32], tile: &mut [f32]) = product::add_tile;
    /// The same in f64, for a tile of [`super::TILE_ROWS_F64`] × [`super::TILE_COLUMNS_F64`].
    fn add_tile_f64(a: &[f64], b: &[f64], tile: &mut [f64]) = product::add_tile_f64;
    /// A row of a symmetric matrix, with its own elements of three vectors v, w, x behind it: takes
    /// `vᵢ·w + wᵢ·v` off the row, adds `xᵢ·row` to `sums`, and returns `Σ row·x` (16 lanes by position,
    /// then a fixed tree).
    fn reduce_row(row: &mut [f64], own: [f64; 3], vectors: [&[f64]; 3], sums: &mut [f64]) -> f64 = symmetric::reduce_row;
    /// Turns neighbouring places of the [`super::PANEL`] vectors of a panel by pairs (cosine, sine).
    fn turn(sweeps: &[Sweep], turns: &[[f64; 2]], panel: &mut [f64]) = symmetric::turn;
    /// Applies the reflections `1 − factor·v·vᵀ` to the [`super::PANEL`] vectors of a panel, the last
    /// first; their axes v stand right of the diagonal of a square matrix.
    fn reflect(matrix: &[f64], factors: &[f64], panel: &mut [f64]) = symmetric::reflect;
    /// `gradient *= f'(x)` for an activation function.
    fn activate_gradient(activation: Activation, x: &[f32], gradient: &mut [f32]) = gradient::activate;
    /// The gradient before a softmax from that behind it; `y` is its output.
    fn softmax_gradient(y: &[f32], gradient: &mut [f32]) = gradient::softmax;
    /// `gradient *= y·(1 - y)`, where `y` is the sigmoid's output.
    fn sigmoid_gradient(y: &[f32], gradient: &mut [f32]) = gradient::sigmoid;
    /// `gradient *= 1 - (y / cap)²`, where `y` is the output of [`Kernels::soft_cap`].
    fn soft_cap_gradient(cap: f32, y: &[f32], gradient: &mut [f32]) = gradient::soft_cap;
    /// The gradient before [`Kernels::rms_norm`] from that behind it; adds the weights' own.
    fn rms_norm_gradient(eps: f64, weight: &[f32], x: &[f32], gradient: &mut [f32], weight_gradient: &mut [f32]) = gradient::rms_norm;
    /// The gradient before [`Kernels::layer_norm`] from that behind it; adds the weights' own.
    fn layer_norm_gradient(eps: f64, weight: &[f32], x: &[f32], gradient: &mut [f32], weight_gradient: &mut [f32]) = gradient::layer_norm;
    /// `out = Σ wₘ·fₘ·xₘ / Σ wₘ·fₘ` for each element, in f64 in the order of the models and rounded
    /// once; `fₘ` is `importance`, or `floor` where that is greater. Where the divisor is 0:
    /// `Σ wₘ·xₘ / Σ wₘ`.
    fn weighted_means(weights: &[f64], floor: f32, values: &[Vec<f32>], importance: &[Vec<f32>], out: &mut [f32]) = mean::weighted_means;
}
