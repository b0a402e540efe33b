//! The bits of smaller floats: quickly where all results are finite, else with care.

#[cfg(target_arch = "x86_64")]
use crate::simd::{Level, level};
use crate::simd::{multiversion, prefetch_nearby};

const ABS: u32 = 0x7fff_ffff;
const INFINITY: u32 = 0x7f80_0000;

/// Answers the overflows and the underflows; a tile has fewer than 2^32 values.
pub(crate) fn narrow_f16(x: &[f32], saturate: bool, out: &mut [u16]) -> (u32, u32) {
    #[cfg(target_arch = "x86_64")]
    if level() >= Level::Avx2 {
        // SAFETY: this level has AVX2 and F16C.
        return unsafe { by_instruction::narrow_f16(x, saturate, out) };
    }
    narrow_f16_by_bits(x, saturate, out)
}

/// The instruction that x86 processors have for float16.
#[cfg(target_arch = "x86_64")]
mod by_instruction {
    use std::arch::x86_64::{
        _MM_FROUND_TO_NEAREST_INT, _mm_storeu_si128, _mm256_cvtps_ph, _mm256_loadu_ps,
    };

    use super::{ABS, CHUNK, Lost, is_lost, most_lost, quick_bits};

    const LANES: usize = 8;

    /// The largest magnitude as bits, and how many became 0, by lane.
    struct Extremes {
        largest: [i32; LANES],
        underflow: [u32; LANES],
    }

    impl Extremes {
        #[inline(always)]
        fn see(&mut self, x: &[f32; LANES], lost: u32) {
            for (lane, x) in x.iter().enumerate() {
                let magnitude = x.to_bits() & ABS;
                self.largest[lane] = magnitude.cast_signed().max(self.largest[lane]);
                let small = u32::from(is_lost(magnitude, lost));
                self.underflow[lane] = self.underflow[lane].wrapping_add(small);
            }
        }

        #[inline(always)]
        fn and(&self, (largest, underflow): (u32, u32)) -> (u32, u32) {
            let most = self.largest.iter().fold(0, |a, &b| b.max(a));
            let few = self
                .underflow
                .iter()
                .fold(0, |a: u32, &b| a.wrapping_add(b));
            (
                largest.max(most.cast_unsigned()),
                underflow.wrapping_add(few),
            )
        }
    }

    #[target_feature(enable = "avx2,f16c")]
    pub(super) fn narrow_f16(x: &[f32], saturate: bool, out: &mut [u16]) -> (u32, u32) {
        let mut lost = Lost::default();
        for (x, out) in x.chunks(CHUNK).zip(out.chunks_mut(CHUNK)) {
            let mut seen = Extremes {
                largest: [0; LANES],
                underflow: [0; LANES],
            };
            let (whole, tail) = x.as_chunks::<LANES>();
            let (out_whole, out_tail) = out.as_chunks_mut::<LANES>();
            for (x, out) in whole.iter().zip(out_whole) {
                // SAFETY: there are eight values, and the instruction needs no alignment.
                let values = unsafe { _mm256_loadu_ps(x.as_ptr()) };
                // It rounds as the definition does.
                let bits = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(values);
                // SAFETY: as above, for eight results of two bytes.
                unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), bits) };
                seen.see(x, const { most_lost::<10, 15>() });
            }
            let seen = seen.and(quick_bits::<10, 15, _>(tail, out_tail));
            lost.settle::<10, 15, 0x7c00, _>(x, saturate, out, false, seen);
        }
        (lost.overflow, lost.underflow)
    }
}

multiversion! {
    fn narrow_f16_by_bits(x: &[f32], saturate: bool, out: &mut [u16]) -> (u32, u32)
        = narrow_f16_body;
}

#[inline(always)]
fn narrow_f16_body(x: &[f32], saturate: bool, out: &mut [u16]) -> (u32, u32) {
    small::<10, 15, 0x7c00, _>(x, saturate, out, false)
}

multiversion! {
    pub(crate) fn narrow_bf16(x: &[f32], saturate: bool, out: &mut [u16]) -> (u32, u32)
        = narrow_bf16_body;
}

#[inline(always)]
fn narrow_bf16_body(x: &[f32], saturate: bool, out: &mut [u16]) -> (u32, u32) {
    narrow(x, saturate, out, bf16_bits, 0x7f80, false)
}

multiversion! {
    pub(crate) fn narrow_e4m3fn(x: &[f32], saturate: bool, out: &mut [u8]) -> (u32, u32)
        = narrow_e4m3fn_body;
}

#[inline(always)]
fn narrow_e4m3fn_body(x: &[f32], saturate: bool, out: &mut [u8]) -> (u32, u32) {
    // 0x7f, where an infinity would be, is the only NaN.
    small::<3, 7, 0x7f, _>(x, saturate, out, true)
}

multiversion! {
    pub(crate) fn narrow_e5m2(x: &[f32], saturate: bool, out: &mut [u8]) -> (u32, u32)
        = narrow_e5m2_body;
}

#[inline(always)]
fn narrow_e5m2_body(x: &[f32], saturate: bool, out: &mut [u8]) -> (u32, u32) {
    small::<2, 15, 0x7c, _>(x, saturate, out, true)
}

/// The bits of a format, the sign in the highest.
trait Bits: Copy {
    const WIDTH: u32;
    fn from_u32(bits: u32) -> Self;
}

impl Bits for u16 {
    const WIDTH: u32 = 16;
    #[inline(always)]
    fn from_u32(bits: u32) -> Self {
        bits as Self
    }
}

impl Bits for u8 {
    const WIDTH: u32 = 8;
    #[inline(always)]
    fn from_u32(bits: u32) -> Self {
        bits as Self
    }
}

/// Values cast before the extremes among them are looked at.
const CHUNK: usize = 512;

/// How many values ahead memory is read: a page, at whose end the processor reads no further.
const AHEAD: usize = 1024;

/// What chunks lost so far; a tile has fewer than 2^32 values.
#[derive(Default)]
struct Lost {
    overflow: u32,
    underflow: u32,
}

impl Lost {
    /// Takes in what the cast of a chunk lost, and casts it once more with care if a result is not
    /// finite.
    #[inline(always)]
    fn settle<const MANTISSA: u32, const BIAS: u32, const INF: u32, B: Bits>(
        &mut self,
        x: &[f32],
        saturate: bool,
        out: &mut [B],
        infinities: bool,
        (largest, mut under): (u32, u32),
    ) {
        let largest_finite = (INF - 1 + ((127 - BIAS) << MANTISSA)) << (23 - MANTISSA);
        if largest > largest_finite {
            let bits_of = small_bits::<MANTISSA, BIAS, INF>;
            let over;
            (over, under) = narrow(x, saturate, out, bits_of, INF, infinities);
            self.overflow = self.overflow.wrapping_add(over);
        }
        self.underflow = self.underflow.wrapping_add(under);
    }
}

/// The largest magnitude that becomes 0, half of the smallest result, as bits.
const fn most_lost<const MANTISSA: u32, const BIAS: u32>() -> u32 {
    (127 - BIAS - MANTISSA) << 23
}

/// Whether a magnitude is `lost` at most, but not 0.
#[inline(always)]
fn is_lost(magnitude: u32, lost: u32) -> bool {
    magnitude.wrapping_sub(1) < lost
}

#[inline(always)]
fn small<const MANTISSA: u32, const BIAS: u32, const INF: u32, B: Bits>(
    x: &[f32],
    saturate: bool,
    out: &mut [B],
    infinities: bool,
) -> (u32, u32) {
    let mut lost = Lost::default();
    let (whole, tail) = x.as_chunks::<CHUNK>();
    let (out_whole, out_tail) = out.as_chunks_mut::<CHUNK>();
    for (x, out) in whole.iter().zip(out_whole) {
        prefetch_nearby(x, AHEAD);
        let seen = quick_bits::<MANTISSA, BIAS, _>(x, out);
        lost.settle::<MANTISSA, BIAS, INF, _>(x, saturate, out, infinities, seen);
    }
    let seen = quick_bits::<MANTISSA, BIAS, _>(tail, out_tail);
    lost.settle::<MANTISSA, BIAS, INF, _>(tail, saturate, out_tail, infinities, seen);
    (lost.overflow, lost.underflow)
}

/// As [`small_bits`] and the sign, for values whose results are finite; answers the largest
/// magnitude as bits, and how many became 0.
#[inline(always)]
fn quick_bits<const MANTISSA: u32, const BIAS: u32, B: Bits>(
    x: &[f32],
    out: &mut [B],
) -> (u32, u32) {
    let (mut largest, mut underflow) = (0, 0_u32);
    for (out, x) in out.iter_mut().zip(x) {
        *out = B::from_u32(quick_code::<MANTISSA, BIAS>(x.to_bits(), B::WIDTH));
        let magnitude = x.to_bits() & ABS;
        // Processors without AVX-512 compare signed integers sooner.
        largest = magnitude.cast_signed().max(largest);
        let small = is_lost(magnitude, const { most_lost::<MANTISSA, BIAS>() });
        underflow = underflow.wrapping_add(u32::from(small));
    }
    (largest.cast_unsigned(), underflow)
}

/// Next to the power of two added, the unit of binary32 is that of the result: the addition rounds.
#[inline(always)]
fn quick_code<const MANTISSA: u32, const BIAS: u32>(x: u32, width: u32) -> u32 {
    let shift = 23 - MANTISSA;
    let smallest_normal = (127 + 1 - BIAS) << 23;
    let magnitude = x & ABS;
    let exponent = (magnitude & INFINITY).max(smallest_normal);
    let power = exponent.wrapping_add(shift << 23);
    let rounded = f32::from_bits(magnitude) + f32::from_bits(power);
    let units = rounded.to_bits().wrapping_sub(power);
    let code = units.wrapping_add(exponent.wrapping_sub(smallest_normal) >> shift);
    code | ((x >> 31) << (width - 1))
}

/// `infinity` is also the number of finite magnitudes, so that the one below it is the largest;
/// `infinities` says whether they saturate too.
#[inline(always)]
fn narrow<B: Bits>(
    x: &[f32],
    saturate: bool,
    out: &mut [B],
    bits_of: impl Fn(u32) -> u32,
    infinity: u32,
    infinities: bool,
) -> (u32, u32) {
    let (mut overflow, mut underflow) = (0_u32, 0_u32);
    let limit = if saturate { infinity - 1 } else { infinity };
    let least_kept = if infinities { INFINITY + 1 } else { INFINITY };
    for (out, x) in out.iter_mut().zip(x) {
        let magnitude = x.to_bits() & ABS;
        let sign = (x.to_bits() >> 31) << (B::WIDTH - 1);
        let bits = bits_of(magnitude);
        let over = (bits == infinity) & (magnitude < INFINITY);
        let under = (bits == 0) & (magnitude != 0);
        overflow = overflow.wrapping_add(u32::from(over));
        underflow = underflow.wrapping_add(u32::from(under));
        let cut = (bits == infinity) & (magnitude < least_kept);
        let bits = if cut { limit } else { bits };
        *out = B::from_u32(bits | sign);
    }
    (overflow, underflow)
}

/// The bits of a magnitude, given by its binary32 bits, in a format of `MANTISSA` bits after the
/// point and of the given exponent bias; `INF` is the first code beyond the finite ones.
#[inline(always)]
fn small_bits<const MANTISSA: u32, const BIAS: u32, const INF: u32>(magnitude: u32) -> u32 {
    let shift = 23 - MANTISSA;
    let smallest_normal = (127 + 1 - BIAS) << 23;
    let rebias = (127 - BIAS) << MANTISSA;
    // Half a unit of the result less one, and one more if the result would be odd: ties to even.
    let rounded = magnitude
        .wrapping_add((1 << (shift - 1)) - 1)
        .wrapping_add((magnitude >> shift) & 1);
    let normal = (rounded >> shift).wrapping_sub(rebias).min(INF);
    // Next to this number the unit of binary32 is the smallest result: the addition rounds.
    let coarse = (127 + 1 + 23 - BIAS - MANTISSA) << 23;
    let shifted = f32::from_bits(magnitude) + f32::from_bits(coarse);
    let subnormal = shifted.to_bits().wrapping_sub(coarse);
    let finite = if magnitude < smallest_normal {
        subnormal
    } else {
        normal
    };
    let quiet = 1 << (MANTISSA - 1);
    let nan = INF | quiet | ((magnitude >> shift) & ((1 << MANTISSA) - 1));
    if magnitude > INFINITY { nan } else { finite }
}

/// The bfloat16 bits of a magnitude given by its binary32 bits.
#[inline(always)]
fn bf16_bits(magnitude: u32) -> u32 {
    let rounded = magnitude
        .wrapping_add(0x7fff)
        .wrapping_add((magnitude >> 16) & 1);
    let nan = (magnitude >> 16) | 0x40;
    if magnitude > INFINITY {
        nan
    } else {
        rounded >> 16
    }
}

/// Every exponent with mantissas around every rounding boundary, and odd ones besides.
#[cfg(test)]
pub(crate) fn samples() -> Vec<f32> {
    let steps = (0..=u32::MAX >> 12).flat_map(|high| {
        let base = high << 12;
        [base, base + 1, base.wrapping_sub(1), base ^ 0x5a5]
    });
    steps.map(f32::from_bits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_codes_equal_careful_ones() {
        fn check<const MANTISSA: u32, const BIAS: u32, const INF: u32>(width: u32) {
            for x in samples() {
                let magnitude = x.to_bits() & ABS;
                let careful = small_bits::<MANTISSA, BIAS, INF>(magnitude);
                if careful < INF {
                    let quick = quick_code::<MANTISSA, BIAS>(x.to_bits(), width);
                    assert_eq!(quick, careful | (x.to_bits() >> 31) << (width - 1), "{x:e}");
                }
            }
        }
        check::<10, 15, 0x7c00>(16);
        check::<3, 7, 0x7f>(8);
        check::<2, 15, 0x7c>(8);
    }
}
