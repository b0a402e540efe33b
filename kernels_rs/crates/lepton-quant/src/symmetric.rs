//! Symmetric quantization that finds its own scales, while the values are still in the cache.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::affine::{Code, check_len};
use crate::array::Scratch;
use crate::near::{Factors, quantize_inside};
use crate::parallel::{Grain, Split, run};
use crate::quantize::{quantize_into, quantize_uniform};
use crate::range::{absmax, magnitude_of};
use crate::{
    Affine, AxisLayout, Control, Error, FloatArray, IntFormat, IntSlice, NanPolicy, Rounding,
};

/// Values of one channel that stay in the second-level cache between the two readings.
const LONGEST_ROW: usize = 1 << 17;

/// Values handed to a thread at once, in whole rows.
const GRAIN_VALUES: usize = 1 << 16;

/// Values below which a further thread costs more than it gives.
const VALUES_PER_THREAD: usize = 1 << 18;

/// The scale of a channel whose largest magnitude is known: `magnitude / high` in float32, at
/// least the smallest normal float32, and 1 for a channel of zeros.
#[must_use]
pub fn symmetric_scale(magnitude: f32, high: i32) -> f32 {
    if magnitude == 0.0 {
        return 1.0;
    }
    (magnitude / high as f32).max(f32::MIN_POSITIVE)
}

/// Quantizes every channel with the scale that its largest magnitude sets (see
/// [`symmetric_scale`]) and a zero point of 0; writes the scales too.
///
/// # Errors
/// [`Error::ShapeMismatch`] or [`Error::ParameterLength`] if an output has another length,
/// [`Error::Empty`] if a channel has no value, [`Error::NonFiniteRange`] if one holds NaN or
/// infinite values (its integers are 0 then), [`Error::Interrupted`].
pub fn quantize_symmetric(
    x: &FloatArray<'_>,
    layout: AxisLayout,
    format: IntFormat,
    out: IntSlice<'_>,
    scale: &mut [f32],
    control: &mut Control<'_>,
) -> Result<(), Error> {
    if scale.len() != layout.channels {
        return Err(Error::ParameterLength {
            name: "scale",
            expected: layout.channels,
            given: scale.len(),
        });
    }
    if layout.channels > 0 && layout.is_empty() {
        return Err(Error::Empty);
    }
    match out {
        IntSlice::I8(out) => into(x, layout, format, out, scale, control),
        IntSlice::U8(out) => into(x, layout, format, out, scale, control),
        IntSlice::I16(out) => into(x, layout, format, out, scale, control),
        IntSlice::U16(out) => into(x, layout, format, out, scale, control),
    }
}

fn into<Q: Code>(
    x: &FloatArray<'_>,
    layout: AxisLayout,
    format: IntFormat,
    out: &mut [Q],
    scale: &mut [f32],
    control: &mut Control<'_>,
) -> Result<(), Error> {
    check_len(x.shape(), out.len())?;
    let whole_rows = layout.outer == 1 && !layout.is_interleaved();
    if whole_rows && layout.inner <= LONGEST_ROW {
        return by_row(x, layout, format, out, scale, control);
    }
    // A channel lies apart or is long: its range takes a reading of its own.
    let bad = BadChannels::default();
    for (channel, (scale, magnitude)) in scale
        .iter_mut()
        .zip(absmax(x, layout, control)?)
        .enumerate()
    {
        *scale = bad.scale(channel, magnitude, format);
    }
    let zeros = vec![0; layout.channels];
    let affine = Affine::new(layout, scale, &zeros, format)?;
    bad.check(layout.channels, "channels")?;
    quantize_into(
        x,
        &affine,
        (format, Rounding::HalfEven),
        NanPolicy::ZeroPoint,
        out,
        control,
    )
}

/// Reads each row twice, the second time from the cache; the first time, where it can be read in
/// place, while the row before is computed.
fn by_row<Q: Code>(
    x: &FloatArray<'_>,
    layout: AxisLayout,
    format: IntFormat,
    out: &mut [Q],
    scale: &mut [f32],
    control: &mut Control<'_>,
) -> Result<(), Error> {
    let bad = BadChannels::default();
    let (inner, both_signs) = (layout.inner, format.low <= -format.high);
    let rows = Rows { out, inner, scale };
    let grain = Grain {
        items: (GRAIN_VALUES / inner.max(1)).max(1),
        per_thread: (VALUES_PER_THREAD / inner.max(1)).max(1),
    };
    // The magnitude of the row behind the last one goes from one piece to the next.
    let kernel = |state: &mut (Scratch, Ahead), first: usize, rows: Rows<'_, Q>| {
        let (scratch, ahead) = state;
        let rows = rows.out.chunks_mut(inner.max(1)).zip(rows.scale);
        for (row, (out, scale)) in (first..).zip(rows) {
            let start = row * inner;
            let magnitude = ahead.take(row).unwrap_or_else(|| {
                let mut magnitude = 0;
                x.tiles(start, inner, scratch, |_, x| {
                    magnitude = magnitude.max(magnitude_of(x));
                });
                magnitude
            });
            *scale = bad.scale(row, f32::from_bits(magnitude), format);
            if !f32::from_bits(magnitude).is_finite() {
                out.fill(Q::from_code(0));
                continue;
            }
            // No magnitude exceeds that of the largest integer.
            let factors = both_signs.then(|| Factors::of(*scale, format)).flatten();
            let next = x.in_place(start + inner, inner).unwrap_or(&[]);
            x.tiles(start, inner, scratch, |offset, values| {
                let out = &mut out[offset..offset + values.len()];
                // Where the next row can be read in place, so can this one, as a single tile.
                ahead.magnitude = match factors {
                    Some(factors) => quantize_inside(values, factors, *scale, format, out, next),
                    None => {
                        quantize_uniform(values, *scale, 0, format, out);
                        magnitude_of(next)
                    }
                };
            });
            ahead.row = (!next.is_empty()).then_some(row + 1);
        }
    };
    run(control, rows, &grain, Default::default, kernel, drop)?;
    bad.check(layout.channels, "channels")
}

/// A row whose largest magnitude is known before it is its turn.
#[derive(Default)]
struct Ahead {
    row: Option<usize>,
    magnitude: u32,
}

impl Ahead {
    fn take(&mut self, row: usize) -> Option<u32> {
        (self.row.take() == Some(row)).then_some(self.magnitude)
    }
}

/// The channels without a scale.
pub(crate) struct BadChannels {
    count: AtomicUsize,
    first: AtomicUsize,
}

impl Default for BadChannels {
    fn default() -> Self {
        Self {
            count: AtomicUsize::new(0),
            first: AtomicUsize::new(usize::MAX),
        }
    }
}

impl BadChannels {
    /// The scale, or 1 with a note if the magnitude is not finite.
    fn scale(&self, channel: usize, magnitude: f32, format: IntFormat) -> f32 {
        if magnitude.is_finite() {
            return symmetric_scale(magnitude, format.high);
        }
        self.note(channel);
        1.0
    }

    pub(crate) fn note(&self, channel: usize) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.first.fetch_min(channel, Ordering::Relaxed);
    }

    pub(crate) fn check(self, total: usize, unit: &'static str) -> Result<(), Error> {
        match self.count.into_inner() {
            0 => Ok(()),
            count => Err(Error::NonFiniteRange {
                unit,
                count,
                total,
                first: self.first.into_inner(),
            }),
        }
    }
}

/// Outputs of consecutive channels.
struct Rows<'a, Q> {
    out: &'a mut [Q],
    inner: usize,
    scale: &'a mut [f32],
}

impl<Q: Send> Split for Rows<'_, Q> {
    fn len(&self) -> usize {
        self.scale.len()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let inner = self.inner;
        let (out, out_tail) = self.out.split_at_mut(mid * inner);
        let (scale, scale_tail) = self.scale.split_at_mut(mid);
        let tail = Self {
            out: out_tail,
            inner,
            scale: scale_tail,
        };
        (Self { out, inner, scale }, tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::View;

    fn check(shape: &[usize], axis: Option<usize>, threads: usize) {
        let len: usize = shape.iter().product();
        let x: Vec<f32> = (0..len as u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 9).cast_signed() as f32 - 4e6)
            .collect();
        let array = FloatArray::F32(View::from_slice(&x, shape));
        let layout = AxisLayout::new(shape, axis).expect("axis");
        let control = &mut Control::threads(threads);
        let format = IntFormat::INT8_NARROW;
        let (mut out, mut scale) = (vec![0_i8; len], vec![0.0; layout.channels]);
        let target = IntSlice::I8(&mut out);
        quantize_symmetric(&array, layout, format, target, &mut scale, control).expect("fits");
        let magnitude = absmax(&array, layout, control).expect("absmax");
        let want: Vec<f32> = magnitude.iter().map(|&m| symmetric_scale(m, 127)).collect();
        assert_eq!(scale, want);
        let zeros = vec![0; layout.channels];
        let affine = Affine::new(layout, &scale, &zeros, format).expect("valid");
        let mut codes = vec![0_i8; len];
        let target = IntSlice::I8(&mut codes);
        let format = (format, Rounding::HalfEven);
        crate::quantize(&array, &affine, format, NanPolicy::Refuse, target, control)
            .expect("quantize");
        assert_eq!(out, codes);
    }

    #[test]
    fn equals_range_then_quantize() {
        for threads in [1, 3] {
            check(&[700, 900], Some(0), threads);
            check(&[3, 200_000], Some(0), threads);
            check(&[700, 900], Some(1), threads);
            check(&[4, 5, 100], Some(1), threads);
            check(&[100_000], None, threads);
            check(&[300_000], None, threads);
        }
    }

    #[test]
    fn names_the_channels_without_a_scale() {
        let x = [1.0, f32::INFINITY, 1.0, 1.0];
        let array = FloatArray::F32(View::from_slice(&x, &[2, 2]));
        for axis in [0, 1] {
            let layout = AxisLayout::new(&[2, 2], Some(axis)).expect("axis");
            let (mut out, mut scale) = ([5_i8; 4], [0.0; 2]);
            let result = quantize_symmetric(
                &array,
                layout,
                IntFormat::INT8,
                IntSlice::I8(&mut out),
                &mut scale,
                &mut Control::threads(1),
            );
            assert_eq!(
                result,
                Err(Error::NonFiniteRange {
                    unit: "channels",
                    count: 1,
                    total: 2,
                    first: axis
                })
            );
        }
    }

    #[test]
    fn scales_stay_normal() {
        assert_eq!(symmetric_scale(0.0, 127), 1.0);
        assert_eq!(symmetric_scale(1e-44, 127), f32::MIN_POSITIVE);
        assert_eq!(symmetric_scale(127.0, 127), 1.0);
    }
}
