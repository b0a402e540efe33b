//! Affine quantization: `q = saturate(round_half_even(x / scale) + zero_point)`.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::affine::{Emit, GRAIN, check_len};
use crate::array::Scratch;
use crate::near::{Factors, quantize_by_product};
use crate::parallel::run;
use crate::rounding::Beside;
use crate::simd::multiversion;
use crate::{Affine, Control, Error, FloatArray, IntFormat, IntSlice, NanPolicy, Rounding};

/// 2^23 + 2^22: adding it to a float32 of magnitude up to 2^22 rounds it half to even to an
/// integer, found in the low bits of the sum. It needs no rounding instruction, which baseline
/// x86-64 lacks.
pub(crate) const MAGIC: f32 = 12_582_912.0;

/// Quantizes `x` into `out`, to the integers of a format by a rule of rounding.
///
/// # Errors
/// [`Error::ShapeMismatch`] if `out` has another length, [`Error::NanInInput`] under
/// [`NanPolicy::Refuse`], [`Error::Interrupted`].
pub fn quantize(
    x: &FloatArray<'_>,
    affine: &Affine<'_>,
    format: (IntFormat, Rounding),
    nan: NanPolicy,
    out: IntSlice<'_>,
    control: &mut Control<'_>,
) -> Result<(), Error> {
    match out {
        IntSlice::I8(out) => quantize_into(x, affine, format, nan, out, control),
        IntSlice::U8(out) => quantize_into(x, affine, format, nan, out, control),
        IntSlice::I16(out) => quantize_into(x, affine, format, nan, out, control),
        IntSlice::U16(out) => quantize_into(x, affine, format, nan, out, control),
    }
}

/// Writes what `x` becomes by [`quantize`] and [`crate::dequantize`], in one pass.
///
/// # Errors
/// As [`quantize`].
pub fn fake_quantize(
    x: &FloatArray<'_>,
    affine: &Affine<'_>,
    format: (IntFormat, Rounding),
    nan: NanPolicy,
    out: &mut [f32],
    control: &mut Control<'_>,
) -> Result<(), Error> {
    quantize_into(x, affine, format, nan, out, control)
}

/// How many NaN were met, and the first.
struct NanCount {
    count: AtomicUsize,
    first: AtomicUsize,
}

impl NanCount {
    fn new() -> Self {
        Self {
            count: AtomicUsize::new(0),
            first: AtomicUsize::new(usize::MAX),
        }
    }

    /// Writes `code` wherever `x` is NaN and counts it; `start` is the linear index of `x[0]`.
    #[cold]
    fn repair<Q: Emit>(&self, start: usize, x: &[f32], code: impl Fn(usize) -> Q, out: &mut [Q]) {
        let mut count = 0;
        for (i, (out, x)) in out.iter_mut().zip(x).enumerate() {
            if x.is_nan() {
                if count == 0 {
                    self.first.fetch_min(start + i, Ordering::Relaxed);
                }
                count += 1;
                *out = code(i);
            }
        }
        self.count.fetch_add(count, Ordering::Relaxed);
    }

    fn check(self, policy: NanPolicy) -> Result<(), Error> {
        let count = self.count.into_inner();
        if count == 0 || policy == NanPolicy::ZeroPoint {
            return Ok(());
        }
        Err(Error::NanInInput {
            count,
            first: self.first.into_inner(),
        })
    }
}

pub(crate) fn quantize_into<Q: Emit>(
    x: &FloatArray<'_>,
    affine: &Affine<'_>,
    (format, rounding): (IntFormat, Rounding),
    nan: NanPolicy,
    out: &mut [Q],
    control: &mut Control<'_>,
) -> Result<(), Error> {
    check_len(x.shape(), out.len())?;
    if rounding != Rounding::HalfEven {
        return round_into(x, affine, (format, rounding), nan, out, control);
    }
    let periodic = affine.periodic();
    let nans = NanCount::new();
    let kernel = |scratch: &mut Scratch, start: usize, out: &mut [Q]| {
        x.tiles(start, out.len(), scratch, |offset, x| {
            let at = start + offset;
            let out = &mut out[offset..offset + x.len()];
            if let Some(periodic) = &periodic {
                periodic.runs(at, x.len(), |from, to, scale, zero| {
                    let (x, out) = (&x[from..to], &mut out[from..to]);
                    if quantize_varying(x, scale, zero, format, out) {
                        nans.repair(at + from, x, |i| Q::emit(zero[i], scale[i], zero[i]), out);
                    }
                });
            } else {
                affine.layout.runs(at, x.len(), |channel, from, to| {
                    let (x, out) = (&x[from..to], &mut out[from..to]);
                    let (scale, zero) = (affine.scale[channel], affine.zero_point[channel]);
                    if quantize_uniform(x, scale, zero, format, out) {
                        nans.repair(at + from, x, |_| Q::emit(zero, scale, zero), out);
                    }
                });
            }
        });
    };
    run(control, out, &GRAIN, Scratch::default, kernel, drop)?;
    nans.check(nan)
}

/// As [`quantize_into`], by another rule than half to even.
fn round_into<Q: Emit>(
    x: &FloatArray<'_>,
    affine: &Affine<'_>,
    (format, rounding): (IntFormat, Rounding),
    nan: NanPolicy,
    out: &mut [Q],
    control: &mut Control<'_>,
) -> Result<(), Error> {
    let periodic = affine.periodic();
    let nans = NanCount::new();
    let kernel = |state: &mut (Scratch, Box<Beside>), start: usize, out: &mut [Q]| {
        let (scratch, beside) = state;
        x.tiles(start, out.len(), scratch, |offset, x| {
            let at = start + offset;
            let out = &mut out[offset..offset + x.len()];
            beside.quantize((x, at), affine, periodic.as_ref(), format, rounding, out);
            if x.iter().any(|x| x.is_nan()) {
                let layout = affine.layout;
                let channel = |i: usize| (at + i) / layout.inner % layout.channels;
                let code = |i| {
                    let (scale, zero) = (affine.scale[channel(i)], affine.zero_point[channel(i)]);
                    Q::emit(zero, scale, zero)
                };
                nans.repair(at, x, code, out);
            }
        });
    };
    run(control, out, &GRAIN, Default::default, kernel, drop)?;
    nans.check(nan)
}

/// Quantizes with one scale; answers whether there was a NaN (whose output is unspecified).
pub(crate) fn quantize_uniform<Q: Emit>(
    x: &[f32],
    scale: f32,
    zero: i32,
    format: IntFormat,
    out: &mut [Q],
) -> bool {
    match Factors::of(scale, format) {
        Some(factors) => quantize_by_product(x, factors, scale, zero, format, out),
        None => quantize_by_division(x, scale, zero, format, out),
    }
}

multiversion! {
    fn quantize_by_division<Q: Emit>(
        x: &[f32], scale: f32, zero: i32, format: IntFormat, out: &mut [Q],
    ) -> bool = quantize_uniform_body;
}

#[inline(always)]
pub(crate) fn quantize_uniform_body<Q: Emit>(
    x: &[f32],
    scale: f32,
    zero: i32,
    format: IntFormat,
    out: &mut [Q],
) -> bool {
    let low = (format.low - zero) as f32;
    let high = (format.high - zero) as f32;
    let shift = zero.wrapping_sub(MAGIC.to_bits().cast_signed());
    let mut nan = 0;
    for (out, &x) in out.iter_mut().zip(x) {
        nan |= i32::from(x.is_nan());
        *out = Q::emit(quantize_one(x, scale, low, high, shift), scale, zero);
    }
    nan != 0
}

multiversion! {
    /// As `quantize_uniform`, with one scale and zero point per value.
    fn quantize_varying<Q: Emit>(
        x: &[f32], scale: &[f32], zero: &[i32], format: IntFormat, out: &mut [Q],
    ) -> bool = quantize_varying_body;
}

#[inline(always)]
fn quantize_varying_body<Q: Emit>(
    x: &[f32],
    scale: &[f32],
    zero: &[i32],
    format: IntFormat,
    out: &mut [Q],
) -> bool {
    let mut nan = 0;
    for (((out, &x), &scale), &zero) in out.iter_mut().zip(x).zip(scale).zip(zero) {
        nan |= i32::from(x.is_nan());
        let low = format.low.wrapping_sub(zero) as f32;
        let high = format.high.wrapping_sub(zero) as f32;
        let shift = zero.wrapping_sub(MAGIC.to_bits().cast_signed());
        *out = Q::emit(quantize_one(x, scale, low, high, shift), scale, zero);
    }
    nan != 0
}

/// Clamping before rounding gives the same integer as after it, because the limits are integers
/// and rounding is monotonic; it keeps the value where [`MAGIC`] works. `low` and `high` are
/// relative to the zero point, which `shift` adds while it removes the bits of [`MAGIC`].
#[inline(always)]
pub(crate) fn quantize_one(x: f32, scale: f32, low: f32, high: f32, shift: i32) -> i32 {
    let y = x / scale;
    // Written so that each line is one min/max instruction; f32::max would add a NaN test.
    let y = if y > low { y } else { low };
    let y = if y < high { y } else { high };
    (y + MAGIC).to_bits().cast_signed().wrapping_add(shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AxisLayout, View};

    fn int8(x: &[f32], scale: f32, zero: i64, format: IntFormat, threads: usize) -> Vec<i8> {
        let array = FloatArray::F32(View::from_slice(x, &[x.len()]));
        let layout = AxisLayout::new(&[x.len()], None).expect("no axis");
        let (scale, zero) = ([scale], [zero]);
        let affine = Affine::new(layout, &scale, &zero, format).expect("valid");
        let mut out = vec![0; x.len()];
        quantize(
            &array,
            &affine,
            (format, Rounding::HalfEven),
            NanPolicy::ZeroPoint,
            IntSlice::I8(&mut out),
            &mut Control::threads(threads),
        )
        .expect("quantize");
        out
    }

    #[test]
    fn ties_go_to_even_and_the_ends_saturate() {
        let x = [
            0.5,
            1.5,
            2.5,
            -0.5,
            -1.5,
            126.5,
            127.5,
            -127.5,
            -128.5,
            1e30,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            -0.0,
            1e-40,
            0.499_999_97,
        ];
        let want = [
            0, 2, 2, 0, -2, 126, 127, -128, -128, 127, 127, -128, 0, 0, 0, 0,
        ];
        assert_eq!(int8(&x, 1.0, 0, IntFormat::INT8, 1), want);
        assert_eq!(int8(&[-200.0], 1.0, 0, IntFormat::INT8_NARROW, 1), [-127]);
        assert_eq!(
            int8(&[f32::NAN, 300.0], 1.0, -7, IntFormat::INT8, 1),
            [-7, 127]
        );
    }

    #[test]
    fn equals_the_definition_for_every_thread_count() {
        let x: Vec<f32> = (0..1_000_003_i32)
            .map(|i| (i.wrapping_mul(-1_640_531_527) >> 8) as f32 * 1e-5)
            .collect();
        let want: Vec<i8> = x
            .iter()
            .map(|&x| ((x / 0.37).round_ties_even() + 3.0).clamp(-128.0, 127.0) as i8)
            .collect();
        for threads in 1..4 {
            assert_eq!(int8(&x, 0.37, 3, IntFormat::INT8, threads), want);
        }
    }

    #[test]
    fn refuses_bad_parameters() {
        let layout = AxisLayout::new(&[4], None).expect("no axis");
        let bad = [0.0, -0.0, -1e-40, 1e-40, f32::INFINITY, f32::NAN];
        for scale in bad {
            assert!(matches!(
                Affine::new(layout, &[scale], &[0], IntFormat::INT8),
                Err(Error::InvalidScale { index: 0, .. })
            ));
        }
        assert!(Affine::new(layout, &[1.0], &[128], IntFormat::INT8).is_err());
        assert!(Affine::new(layout, &[1.0, 1.0], &[0], IntFormat::INT8).is_err());
    }

    #[test]
    fn counts_nan() {
        let x = [1.0, f32::NAN, 2.0, f32::NAN];
        let array = FloatArray::F32(View::from_slice(&x, &[2, 2]));
        let layout = AxisLayout::new(&[2, 2], Some(1)).expect("axis");
        let affine = Affine::new(layout, &[1.0, 2.0], &[0, 5], IntFormat::UINT8).expect("valid");
        let mut out = [9; 4];
        let result = quantize(
            &array,
            &affine,
            (IntFormat::UINT8, Rounding::HalfEven),
            NanPolicy::Refuse,
            IntSlice::U8(&mut out),
            &mut Control::threads(1),
        );
        assert_eq!(result, Err(Error::NanInInput { count: 2, first: 1 }));
        assert_eq!(out, [1, 5, 2, 5]);
    }
}
