//! float32 to the 16-bit floats, rounded to nearest even, with a count of what was lost.

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

/// A 16-bit floating-point format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HalfFormat {
    /// IEEE 754 binary16.
    F16,
    /// bfloat16.
    Bf16,
}

/// What a cast lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CastCounts {
    /// Finite values beyond the largest finite result: infinite now, or that largest value if the
    /// cast saturates.
    pub overflow: u64,
    /// Values other than 0 that became 0.
    pub underflow: u64,
}

/// Writes the bits of `x` in a 16-bit format: rounded to nearest even, with gradual underflow;
/// infinities stay, NaN become quiet NaN of the same sign. With `saturate`, finite values stay
/// finite.
///
/// # Errors
/// [`Error::ShapeMismatch`] if `out` has another length, [`Error::Interrupted`].
pub fn cast_half(
    x: &FloatArray<'_>,
    format: HalfFormat,
    saturate: bool,
    out: &mut [u16],
    control: &mut Control<'_>,
) -> Result<CastCounts, Error> {
    check_len(x.shape(), out.len())?;
    let (overflow, underflow) = (AtomicU64::new(0), AtomicU64::new(0));
    let kernel = |scratch: &mut Scratch, start: usize, out: &mut [u16]| {
        x.tiles(start, out.len(), scratch, |offset, x| {
            let out = &mut out[offset..offset + x.len()];
            let (over, under) = match format {
                HalfFormat::F16 => narrow_f16(x, saturate, out),
                HalfFormat::Bf16 => narrow_bf16(x, saturate, out),
            };
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
    narrow(x, saturate, out, f16_bits, 0x7c00)
}

multiversion! {
    fn narrow_bf16(x: &[f32], saturate: bool, out: &mut [u16]) -> (u32, u32) = narrow_bf16_body;
}

#[inline(always)]
fn narrow_bf16_body(x: &[f32], saturate: bool, out: &mut [u16]) -> (u32, u32) {
    narrow(x, saturate, out, bf16_bits, 0x7f80)
}

/// `infinity` is also the number of finite magnitudes, so that the one below it is the largest.
#[inline(always)]
fn narrow(
    x: &[f32],
    saturate: bool,
    out: &mut [u16],
    bits_of: impl Fn(u32) -> u32,
    infinity: u32,
) -> (u32, u32) {
    let (mut overflow, mut underflow) = (0_u32, 0_u32);
    let limit = if saturate { infinity - 1 } else { infinity };
    for (out, x) in out.iter_mut().zip(x) {
        let magnitude = x.to_bits() & ABS;
        let sign = (x.to_bits() >> 16) & 0x8000;
        let bits = bits_of(magnitude);
        let over = (bits == infinity) & (magnitude < INFINITY);
        let under = (bits == 0) & (magnitude != 0);
        overflow = overflow.wrapping_add(u32::from(over));
        underflow = underflow.wrapping_add(u32::from(under));
        let bits = if over { limit } else { bits };
        *out = (bits | sign) as u16;
    }
    (overflow, underflow)
}

/// The binary16 bits of a magnitude given by its binary32 bits.
#[inline(always)]
fn f16_bits(magnitude: u32) -> u32 {
    const SMALLEST_NORMAL: u32 = (127 - 14) << 23;
    const REBIAS: u32 = (127 - 15) << 10;
    const HALF: u32 = 126 << 23;
    // Half a unit of the result less one, and one more if the result would be odd: ties to even.
    let rounded = magnitude
        .wrapping_add(0xfff)
        .wrapping_add((magnitude >> 13) & 1);
    let normal = (rounded >> 13).wrapping_sub(REBIAS).min(0x7c00);
    // Next to 0.5 the unit of binary32 is 2^-24, the smallest binary16: the addition rounds.
    let shifted = f32::from_bits(magnitude) + f32::from_bits(HALF);
    let subnormal = shifted.to_bits().wrapping_sub(HALF);
    let finite = if magnitude < SMALLEST_NORMAL {
        subnormal
    } else {
        normal
    };
    let nan = 0x7e00 | ((magnitude >> 13) & 0x3ff);
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

    fn cast(x: &[f32], format: HalfFormat, saturate: bool) -> (Vec<u16>, CastCounts) {
        let array = FloatArray::F32(View::from_slice(x, &[x.len()]));
        let mut out = vec![0; x.len()];
        let control = &mut Control::threads(2);
        let counts = cast_half(&array, format, saturate, &mut out, control).expect("cast");
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
        let (f16s, _) = cast(&x, HalfFormat::F16, false);
        let (bf16s, _) = cast(&x, HalfFormat::Bf16, false);
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
        let (bits, counts) = cast(&x, HalfFormat::F16, false);
        assert_eq!(bits, [0x7bff, 0x7c00, 0xfc00, 0x7c00, 0, 1, 0, 0]);
        let (overflow, underflow) = (2, 2);
        assert_eq!(
            counts,
            CastCounts {
                overflow,
                underflow
            }
        );
        let (bits, counts) = cast(&x, HalfFormat::F16, true);
        assert_eq!(bits[..4], [0x7bff, 0x7bff, 0xfbff, 0x7c00]);
        assert_eq!(counts.overflow, 2);
        let (bits, counts) = cast(&[f32::MAX, -f32::MAX], HalfFormat::Bf16, true);
        assert_eq!((bits, counts.overflow), (vec![0x7f7f, 0xff7f], 2));
    }
}
