//! Division by a scale, replaced by a product wherever both round to the same integer.
//!
//! A division takes several times as long as a product. Products with a factor a little above and
//! one a little below `1 / scale` enclose the rounded quotient. Rounding is monotonic: where both
//! products round to one integer, so does the quotient. Elsewhere, close to a tie, it is divided.

use crate::IntFormat;
use crate::affine::Emit;
use crate::quantize::{MAGIC, quantize_uniform_body};
use crate::simd::{has_fused_products, multiversion, prefetch_nearby};

/// Values that are divided together if one of them is close to a tie.
const CHUNK: usize = 128;

/// Values computed side by side: four registers of AVX2 for each of what is kept.
const LANES: usize = 32;

/// How many values ahead the next row is fetched: two pages, so that the end of one stops nothing.
const AHEAD: usize = 2048;

const ABS: u32 = 0x7fff_ffff;

/// Integers wider than this are close to a tie too often.
const MOST_STEPS: i32 = 1 << 9;

/// What encloses `1 / scale`.
#[derive(Clone, Copy)]
pub(crate) struct Factors {
    below: f32,
    above: f32,
}

impl Factors {
    /// The factors for a scale, where products are faster.
    pub(crate) fn of(scale: f32, format: IntFormat) -> Option<Self> {
        // Further off, the reciprocal or a factor would not be a normal number.
        let normal = (2.0_f32.powi(-100)..2.0_f32.powi(100)).contains(&scale.abs());
        if !normal || format.high - format.low >= MOST_STEPS || !has_fused_products() {
            return None;
        }
        // The quotient x / scale is rounded once, the reciprocal and each factor too: none by more
        // than 2^-24 of its size, together by less than the 2^-22 that factors differ from it.
        let reciprocal = 1.0 / scale;
        Some(Self {
            below: reciprocal * (1.0 - 2.0_f32.powi(-22)),
            above: reciprocal * (1.0 + 2.0_f32.powi(-22)),
        })
    }
}

multiversion! {
    /// As `quantize_uniform`.
    pub(crate) fn quantize_by_product<Q: Emit>(
        x: &[f32], factors: Factors, scale: f32, zero: i32, format: IntFormat, out: &mut [Q],
    ) -> bool = quantize_by_product_body;
}

#[inline(always)]
fn quantize_by_product_body<Q: Emit>(
    x: &[f32],
    factors: Factors,
    scale: f32,
    zero: i32,
    format: IntFormat,
    out: &mut [Q],
) -> bool {
    let low = MAGIC + (format.low - zero) as f32;
    let high = MAGIC + (format.high - zero) as f32;
    let shift = zero.wrapping_sub(MAGIC.to_bits().cast_signed());
    let mut any_nan = false;
    let (chunks, tail) = x.as_chunks::<CHUNK>();
    let (outs, out_tail) = out.as_chunks_mut::<CHUNK>();
    for (x, out) in chunks.iter().zip(outs) {
        let (mut differ, mut nan) = ([0; LANES], [0; LANES]);
        let outs = out.as_chunks_mut::<LANES>().0;
        for (x, out) in x.as_chunks::<LANES>().0.iter().zip(outs) {
            for lane in 0..LANES {
                let rounded = x[lane].mul_add(factors.above, MAGIC);
                let below = x[lane].mul_add(factors.below, MAGIC);
                differ[lane] |= rounded.to_bits() ^ below.to_bits();
                nan[lane] |= i32::from(x[lane].is_nan());
                let rounded = if rounded > low { rounded } else { low };
                let rounded = if rounded < high { rounded } else { high };
                let code = rounded.to_bits().cast_signed().wrapping_add(shift);
                out[lane] = Q::emit(code, scale, zero);
            }
        }
        any_nan |= nan.iter().fold(0, |all, one| all | one) != 0;
        if differ.iter().fold(0, |all, one| all | one) != 0 {
            quantize_uniform_body(x, scale, zero, format, out);
        }
    }
    quantize_uniform_body(tail, scale, zero, format, out_tail) | any_nan
}

multiversion! {
    // With registers of 512 bits, memory and computing overlap less.
    up to 256 bits:
    /// As `quantize_uniform` with a zero point of 0, for values of which none is NaN or beyond the
    /// limits. Answers the bits of the largest magnitude of `next`, as long as `x` or empty, which
    /// is read at the same time: memory brings it while the processor computes.
    pub(crate) fn quantize_inside<Q: Emit>(
        x: &[f32], factors: Factors, scale: f32, format: IntFormat, out: &mut [Q], next: &[f32],
    ) -> u32 = quantize_inside_body;
}

#[inline(always)]
fn quantize_inside_body<Q: Emit>(
    x: &[f32],
    factors: Factors,
    scale: f32,
    format: IntFormat,
    out: &mut [Q],
    next: &[f32],
) -> u32 {
    if next.is_empty() {
        for (x, out) in x.chunks(CHUNK).zip(out.chunks_mut(CHUNK)) {
            inside(x, factors, scale, format, out);
        }
        return 0;
    }
    let mut magnitude = [0_i32; LANES];
    let (chunks, tail) = x.as_chunks::<CHUNK>();
    let (outs, out_tail) = out.as_chunks_mut::<CHUNK>();
    let (nexts, next_tail) = next.as_chunks::<CHUNK>();
    for ((x, out), next) in chunks.iter().zip(outs).zip(nexts) {
        let mut differ = [0; LANES];
        let parts = x.as_chunks::<LANES>().0.iter();
        let outs = out.as_chunks_mut::<LANES>().0;
        for ((x, out), next) in parts.zip(outs).zip(next.as_chunks::<LANES>().0) {
            prefetch_nearby(next, AHEAD);
            for lane in 0..LANES {
                let seen = (next[lane].to_bits() & ABS).cast_signed();
                magnitude[lane] = magnitude[lane].max(seen);
                let rounded = x[lane].mul_add(factors.above, MAGIC).to_bits();
                differ[lane] |= rounded ^ x[lane].mul_add(factors.below, MAGIC).to_bits();
                let code = rounded.wrapping_sub(MAGIC.to_bits()).cast_signed();
                out[lane] = Q::emit(code, scale, 0);
            }
        }
        if differ.iter().fold(0, |all, one| all | one) != 0 {
            quantize_uniform_body(x, scale, 0, format, out);
        }
    }
    inside(tail, factors, scale, format, out_tail);
    let rest = next_tail.iter().map(|x| (x.to_bits() & ABS).cast_signed());
    let most = magnitude.into_iter().chain(rest).fold(0, i32::max);
    most.cast_unsigned()
}

/// Quantizes values, by division if one is close to a tie.
#[inline(always)]
fn inside<Q: Emit>(x: &[f32], factors: Factors, scale: f32, format: IntFormat, out: &mut [Q]) {
    let mut differ = 0;
    for (out, &x) in out.iter_mut().zip(x) {
        let rounded = x.mul_add(factors.above, MAGIC).to_bits();
        differ |= rounded ^ x.mul_add(factors.below, MAGIC).to_bits();
        let code = rounded.wrapping_sub(MAGIC.to_bits()).cast_signed();
        *out = Q::emit(code, scale, 0);
    }
    if differ != 0 {
        quantize_uniform_body(x, scale, 0, format, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ties of a scale and their neighbours, extremes, and values in between.
    fn values(scale: f32) -> Vec<f32> {
        let mut found = vec![f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, f32::NAN, 1e-45];
        for half in -700_i32..700 {
            let tie = half as f32 * 0.5 * scale;
            let mut near = [tie; 9];
            for step in 1..5 {
                near[4 + step] = near[3 + step].next_up();
                near[4 - step] = near[5 - step].next_down();
            }
            found.extend(near);
        }
        found.extend((1..3000_i32).map(|i| {
            let unit = i.wrapping_mul(-1_640_531_527) as f32 / 2.0_f32.powi(31);
            unit * scale * 200.0
        }));
        found
    }

    #[test]
    fn equals_the_division() {
        for scale in [1.0, 0.37, -3.3e-5, 7.7e20, 1e-29, 0.1, 1.0_f32.next_down()] {
            let x = values(scale);
            for (format, zero) in [
                (IntFormat::INT8, 0),
                (IntFormat::INT8_NARROW, 0),
                (IntFormat::UINT8, 200),
                (IntFormat { low: -2, high: 1 }, 1),
            ] {
                let (mut by_product, mut divided) = (vec![0_i32; x.len()], vec![0; x.len()]);
                let Some(factors) = Factors::of(scale, format) else {
                    assert!(!has_fused_products());
                    continue;
                };
                let (a, b) = (&mut by_product, &mut divided);
                assert!(quantize_by_product(&x, factors, scale, zero, format, a));
                assert!(quantize_uniform_body(&x, scale, zero, format, b));
                assert_eq!(by_product, divided, "{scale} {format:?}");
                let inside = |&&x: &&f32| (x / scale).abs() < format.high as f32 - 0.5;
                let x: Vec<f32> = x.iter().filter(inside).copied().collect();
                let (mut a, mut b) = (vec![0_i8; x.len()], vec![0; x.len()]);
                if zero == 0 {
                    quantize_uniform_body(&x, scale, 0, format, &mut b);
                    let none = quantize_inside(&x, factors, scale, format, &mut a, &[]);
                    assert_eq!((&a, none), (&b, 0));
                    a.fill(0);
                    let next: Vec<f32> = x.iter().rev().map(|x| -x).collect();
                    let seen = quantize_inside(&x, factors, scale, format, &mut a, &next);
                    assert_eq!(a, b);
                    assert_eq!(seen, crate::range::magnitude_of(&next));
                }
            }
        }
    }

    #[test]
    fn wide_integers_and_extreme_scales_are_divided() {
        assert!(Factors::of(1.0, IntFormat::INT16).is_none());
        assert!(Factors::of(1e-35, IntFormat::INT8).is_none());
        assert!(Factors::of(1e35, IntFormat::INT8).is_none());
    }
}
