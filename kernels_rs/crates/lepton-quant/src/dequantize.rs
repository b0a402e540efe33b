//! The inverse of affine quantization: `x = (q - zero_point) * scale`.

use crate::affine::{Code, GRAIN, check_len};
use crate::parallel::run;
use crate::simd::multiversion;
use crate::{Affine, Control, Error, IntArray, View};

/// Writes `(q - zero_point) * scale` into `out`, with one float32 rounding (two for 32-bit `q`).
///
/// # Errors
/// [`Error::ShapeMismatch`] if `out` has another length, [`Error::Interrupted`].
pub fn dequantize(
    q: &IntArray<'_>,
    affine: &Affine<'_>,
    out: &mut [f32],
    control: &mut Control<'_>,
) -> Result<(), Error> {
    check_len(q.shape(), out.len())?;
    match q {
        IntArray::I8(q) => dequantize_from(q, affine, out, control),
        IntArray::U8(q) => dequantize_from(q, affine, out, control),
        IntArray::I16(q) => dequantize_from(q, affine, out, control),
        IntArray::U16(q) => dequantize_from(q, affine, out, control),
        IntArray::I32(q) => dequantize_from(q, affine, out, control),
    }
}

fn dequantize_from<Q: Code>(
    q: &View<'_, Q>,
    affine: &Affine<'_>,
    out: &mut [f32],
    control: &mut Control<'_>,
) -> Result<(), Error> {
    const TILE: usize = 4096;
    let periodic = affine.periodic();
    let tile = |at: usize, q: &[Q], out: &mut [f32]| {
        if let Some(periodic) = &periodic {
            periodic.runs(at, q.len(), |from, to, scale, zero| {
                dequantize_varying(&q[from..to], scale, zero, &mut out[from..to]);
            });
        } else {
            affine.layout.runs(at, q.len(), |channel, from, to| {
                let (scale, zero) = (affine.scale[channel], affine.zero_point[channel]);
                dequantize_uniform(&q[from..to], scale, zero, &mut out[from..to]);
            });
        }
    };
    let kernel = |scratch: &mut Vec<Q>, start: usize, out: &mut [f32]| {
        if let Some(slice) = q.as_slice() {
            tile(start, &slice[start..start + out.len()], out);
            return;
        }
        scratch.resize(TILE, Q::default());
        for (i, out) in out.chunks_mut(TILE).enumerate() {
            let raw = &mut scratch[..out.len()];
            q.read(start + i * TILE, raw);
            tile(start + i * TILE, raw, out);
        }
    };
    run(control, out, &GRAIN, Vec::new, kernel, drop)
}

multiversion! {
    fn dequantize_uniform<Q: Code>(
        q: &[Q], scale: f32, zero: i32, out: &mut [f32],
    ) = dequantize_uniform_body;
}

#[inline(always)]
fn dequantize_uniform_body<Q: Code>(q: &[Q], scale: f32, zero: i32, out: &mut [f32]) {
    for (out, &q) in out.iter_mut().zip(q) {
        *out = q.code().wrapping_sub(zero) as f32 * scale;
    }
}

multiversion! {
    fn dequantize_varying<Q: Code>(
        q: &[Q], scale: &[f32], zero: &[i32], out: &mut [f32],
    ) = dequantize_varying_body;
}

#[inline(always)]
fn dequantize_varying_body<Q: Code>(q: &[Q], scale: &[f32], zero: &[i32], out: &mut [f32]) {
    for (((out, &q), &scale), &zero) in out.iter_mut().zip(q).zip(scale).zip(zero) {
        *out = q.code().wrapping_sub(zero) as f32 * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AxisLayout;

    #[test]
    fn maps_back_by_channel() {
        let q: Vec<i8> = (0..3 * 40 * 5).map(|i| (i % 251 - 125) as i8).collect();
        for axis in 0..3 {
            let shape = [3, 40, 5];
            let layout = AxisLayout::new(&shape, Some(axis)).expect("axis");
            let scale: Vec<f32> = (0..shape[axis]).map(|c| 0.5 - c as f32).collect();
            let zero: Vec<i64> = (0..shape[axis] as i64).collect();
            let array = IntArray::I8(View::from_slice(&q, &shape));
            let affine = Affine::new(layout, &scale, &zero, array.format());
            let mut out = vec![0.0; q.len()];
            let control = &mut Control::threads(1);
            dequantize(&array, &affine.expect("valid"), &mut out, control).expect("fits");
            for (i, (&q, &x)) in q.iter().zip(&out).enumerate() {
                let c = (i / layout.inner) % layout.channels;
                assert_eq!(x, (f32::from(q) - zero[c] as f32) * scale[c]);
            }
        }
    }
}
