//! float32 to smaller floats, rounded to nearest even, with a count of what was lost.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::affine::check_len;
use crate::array::Scratch;
use crate::narrow::{narrow_bf16, narrow_e4m3fn, narrow_e5m2, narrow_f16};
use crate::parallel::{Grain, run};
use crate::{Control, Error, FloatArray};

const GRAIN: Grain = Grain {
    items: 1 << 16,
    per_thread: 1 << 18,
};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::View;
    use crate::narrow::samples;
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
    fn one_value_beyond_leaves_its_neighbours_exact() {
        let small: Vec<f32> = (0..1100_u32).map(|i| (i as f32 - 500.0) * 3e-5).collect();
        for beyond in [1e9, -f32::NAN, f32::INFINITY] {
            for place in [0, 511, 512, 1024, 1099] {
                let mut x = small.clone();
                x[place] = beyond;
                for saturate in [false, true] {
                    let (want, lost) = cast(&small, |out| CastSlice::F8E4m3fn(out), saturate);
                    let (got, now) = cast(&x, |out| CastSlice::F8E4m3fn(out), saturate);
                    assert_eq!(got[..place], want[..place]);
                    assert_eq!(got[place + 1..], want[place + 1..]);
                    let mine = u64::from(small[place] != 0.0 && want[place] & 0x7f == 0);
                    assert_eq!(now.underflow, lost.underflow - mine);
                    assert_eq!(now.overflow, u64::from(beyond == 1e9));
                }
            }
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
