//! float32 to smaller floats, rounded to nearest even, with a count of what was lost.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::affine::check_len;
use crate::array::Scratch;
use crate::parallel::{Grain, run};
use crate::simd::multiversion;
use crate::{Control, Error, FloatArray};

const GRAIN: Grain = Grain {
    items: 1 << 16,
    per_thread: 1 << 18,
};

const ABS: u32 = 0x7fff_ffff;
const INFINITY: u32 = 0x7f80_0000;

/// Where the bits of a cast go, by format.
#[derive(Debug)]
pub enum CastSlice<'a> {
    /// IEEE 754 binary16.
    F16(&'a mut [u16]),
    /// bfloat16.
    Bf16(&'a mut [u16]),
    /// Eight bits, four of them exponent, without infinities: the format E4M3 of OCP FP8.
    F8E4m3fn(&'a mut [u8]),
    /// Eight bits, five of them exponent: the format E5M2 of OCP FP8.
    F8E5m2(&'a mut [u8]),
}

/// What a cast lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CastCounts {
    /// Finite values beyond the largest finite result: infinite (or NaN) now, or that largest value
    /// if the cast saturates.
    pub overflow: u64,
    /// Values other than 0 that became 0.
    pub underflow: u64,
}

/// Writes the bits of `x` in a smaller format: rounded to nearest even, with gradual underflow; NaN
/// become quiet NaN of the same sign. With `saturate`, finite values stay finite.
///
/// Infinities stay in 16 bits. In 8 bits they follow ONNX Cast: with `saturate` they become the
/// largest finite value, without it they stay (E5M2) or become NaN (E4M3FN, as overflows do).
///
/// # Errors
/// [`Error::ShapeMismatch`] if `out` has another length, [`Error::Interrupted`].
pub fn cast_float(
    x: &FloatArray<'_>,
    saturate: bool,
    out: CastSlice<'_>,
    control: &mut Control<'_>,
) -> Result<CastCounts, Error> {
    match out {
        CastSlice::F16(out) => cast_tiles(x, out, control, |x, out| narrow_f16(x, saturate, out)),
        CastSlice::Bf16(out) => cast_tiles(x, out, control, |x, out| narrow_bf16(x, saturate, out)),
        CastSlice::F8E4m3fn(out) => {
            cast_tiles(x, out, control, |x, out| narrow_e4m3fn(x, saturate, out))
        }
        CastSlice::F8E5m2(out) => {
            cast_tiles(x, out, control, |x, out| narrow_e5m2(x, saturate, out))
        }
    }
}

fn cast_tiles<B: Send>(
    x: &FloatArray<'_>,
    out: &mut [B],
    control: &mut Control<'_>,
    narrow: impl Fn(&[f32], &mut [B]) -> (u32, u32) + Sync,
) -> Result<CastCounts, Error> {
    check_len(x.shape(), out.len())?;
    let (overflow, underflow) = (AtomicU64::new(0), AtomicU64::new(0));
    let kernel = |scratch: &mut Scratch, start: usize, out: &mut [B]| {
        x.tiles(start, out.len(), scratch, |offset, x| {
            let (over, under) = narrow(x, &mut out[offset..offset + x.len()]);
            overflow.fetch_add(over.into(), Ordering::Relaxed);
            underflow.fetch_add(under.into(), Ordering::Relaxed);
        });
    };
    run(control, out, &GRAIN, Scratch::default, kernel, drop)?;
    Ok(CastCounts {
        overflow: overflow.into_inner(),
        underflow: underflow.into_inner(),
    })
}

multiversion! {
    /// Answers the overflows and the underflows; a tile has fewer than 2^32 values.
    fn narrow_f16(x: &[f32], saturate: bool, out: &mut [u16]) -> (u32, u32) = narrow_f16_body;
}

#[inline(always)]
fn narrow_f16_body(x: &[f32], saturate: bool, out: &mut [u16]) -> (u32, u32) {
    narrow(
        x,
        saturate,
        out,
        small_bits::<10, 15, 0x7c00>,
        0x7c00,
        false,
    )
}

multiversion! {
    fn narrow_bf16(x: &[f32], saturate: bool, out: &mut [u16]) -> (u32, u32) = narrow_bf16_body;
}

#[inline(always)]
fn narrow_bf16_body(x: &[f32], saturate: bool, out: &mut [u16]) -> (u32, u32) {
    narrow(x, saturate, out, bf16_bits, 0x7f80, false)
}

multiversion! {
    fn narrow_e4m3fn(x: &[f32], saturate: bool, out: &mut [u8]) -> (u32, u32) = narrow_e4m3fn_body;
}

#[inline(always)]
fn narrow_e4m3fn_body(x: &[f32], saturate: bool, out: &mut [u8]) -> (u32, u32) {
    // 0x7f, where an infinity would be, is the only NaN.
    narrow(x, saturate, out, small_bits::<3, 7, 0x7f>, 0x7f, true)
}

multiversion! {
    fn narrow_e5m2(x: &[f32], saturate: bool, out: &mut [u8]) -> (u32, u32) = narrow_e5m2_body;
}

#[inline(always)]
fn narrow_e5m2_body(x: &[f32], saturate: bool, out: &mut [u8]) -> (u32, u32) {
    narrow(x, saturate, out, small_bits::<2, 15, 0x7c>, 0x7c, true)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::View;
    use half::{bf16, f16};

    fn cast<B: Clone + Default>(
        x: &[f32],
        format: impl for<'a> Fn(&'a mut [B]) -> CastSlice<'a>,
        saturate: bool,
    ) -> (Vec<B>, CastCounts) {
        let array = FloatArray::F32(View::from_slice(x, &[x.len()]));
        let mut out = vec![B::default(); x.len()];
        let control = &mut Control::threads(2);
        let counts = cast_float(&array, saturate, format(&mut out), control).expect("cast");
        (out, counts)
    }

    /// Every exponent with mantissas around every rounding boundary, and odd ones besides.
    fn samples() -> Vec<f32> {
        let steps = (0..=u32::MAX >> 12).flat_map(|high| {
            let base = high << 12;
            [base, base + 1, base.wrapping_sub(1), base ^ 0x5a5]
        });
        steps.map(f32::from_bits).collect()
    }

    #[test]
    fn equals_the_half_crate() {
        let x = samples();
        let (f16s, _) = cast(&x, |out| CastSlice::F16(out), false);
        let (bf16s, _) = cast(&x, |out| CastSlice::Bf16(out), false);
        for ((&x, &a), &b) in x.iter().zip(&f16s).zip(&bf16s) {
            if x.is_nan() {
                assert!(f16::from_bits(a).is_nan() && bf16::from_bits(b).is_nan());
                continue;
            }
            assert_eq!(a, f16::from_f32(x).to_bits(), "{x:e}");
            assert_eq!(b, bf16::from_f32(x).to_bits(), "{x:e}");
        }
    }

    #[test]
    fn counts_what_is_lost() {
        let x = [
            65519.9,
            65520.0,
            -1e9,
            f32::INFINITY,
            2e-8,
            3e-8,
            1e-40,
            0.0,
        ];
        let (bits, counts) = cast(&x, |out| CastSlice::F16(out), false);
        assert_eq!(bits, [0x7bff, 0x7c00, 0xfc00, 0x7c00, 0, 1, 0, 0]);
        let (overflow, underflow) = (2, 2);
        assert_eq!(
            counts,
            CastCounts {
                overflow,
                underflow
            }
        );
        let (bits, counts) = cast(&x, |out| CastSlice::F16(out), true);
        assert_eq!(bits[..4], [0x7bff, 0x7bff, 0xfbff, 0x7c00]);
        assert_eq!(counts.overflow, 2);
        let (bits, counts) = cast(&[f32::MAX, -f32::MAX], |out| CastSlice::Bf16(out), true);
        assert_eq!((bits, counts.overflow), (vec![0x7f7f, 0xff7f], 2));
    }

    #[test]
    fn eight_bits_follow_their_formats() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let x = [
            448.0, 464.0, 464.1, -inf, nan, 0.001, 0.0009, 0.015_625, 0.0,
        ];
        let e4m3fn = |saturate| cast(&x, |out| CastSlice::F8E4m3fn(out), saturate);
        let (bits, counts) = e4m3fn(false);
        assert_eq!(bits, [0x7e, 0x7e, 0x7f, 0xff, 0x7f, 1, 0, 8, 0]);
        assert_eq!((counts.overflow, counts.underflow), (1, 1));
        assert_eq!(e4m3fn(true).0[..5], [0x7e, 0x7e, 0x7e, 0xfe, 0x7f]);
        let x = [57344.0, 61440.0, -inf, nan, 7.7e-6, 7.6e-6, 1.0];
        let e5m2 = |saturate| cast(&x, |out| CastSlice::F8E5m2(out), saturate);
        assert_eq!(e5m2(false).0, [0x7b, 0x7c, 0xfc, 0x7e, 1, 0, 0x3c]);
        assert_eq!(e5m2(true).0[..4], [0x7b, 0x7b, 0xfb, 0x7e]);
    }
}
