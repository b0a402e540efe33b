//! Arrays whose element type is known when the program runs.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::View;
use crate::simd::multiversion;

/// Values handled at once when they must be copied: source and result stay in the first-level
/// cache.
const TILE: usize = 2048;

/// A strided array of floating-point values that float32 holds exactly.
#[derive(Debug, Clone)]
pub enum FloatArray<'a> {
    /// IEEE 754 binary32.
    F32(View<'a, f32>),
    /// IEEE 754 binary16.
    F16(View<'a, f16>),
    /// bfloat16.
    Bf16(View<'a, bf16>),
}

/// Buffers that one thread reuses between tiles.
#[derive(Default)]
pub(crate) struct Scratch {
    f16: Vec<f16>,
    bf16: Vec<bf16>,
    f32: Vec<f32>,
}

impl FloatArray<'_> {
    /// The shape.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::F32(view) => view.shape(),
            Self::F16(view) => view.shape(),
            Self::Bf16(view) => view.shape(),
        }
    }

    /// The number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::F32(view) => view.len(),
            Self::F16(view) => view.len(),
            Self::Bf16(view) => view.len(),
        }
    }

    /// Whether there is no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `each(offset, values)` over `start..start + len` in order: once, on the array's own
    /// memory, if that is possible, else on copies of a tile.
    pub(crate) fn tiles(
        &self,
        start: usize,
        len: usize,
        scratch: &mut Scratch,
        mut each: impl FnMut(usize, &[f32]),
    ) {
        if let Self::F32(view) = self
            && let Some(slice) = view.as_slice()
        {
            return each(0, &slice[start..start + len]);
        }
        scratch.f32.resize(TILE, 0.0);
        for offset in (0..len).step_by(TILE) {
            let n = TILE.min(len - offset);
            let wide = &mut scratch.f32[..n];
            match self {
                Self::F32(view) => view.read(start + offset, wide),
                Self::F16(view) => {
                    scratch.f16.resize(TILE, f16::ZERO);
                    let raw = &mut scratch.f16[..n];
                    view.read(start + offset, raw);
                    raw.convert_to_f32_slice(wide);
                }
                Self::Bf16(view) => {
                    scratch.bf16.resize(TILE, bf16::ZERO);
                    let raw = &mut scratch.bf16[..n];
                    view.read(start + offset, raw);
                    widen_bf16(raw, wide);
                }
            }
            each(offset, wide);
        }
    }
}

multiversion! {
    fn widen_bf16(from: &[bf16], to: &mut [f32]) = widen_bf16_body;
}

#[inline(always)]
fn widen_bf16_body(from: &[bf16], to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = f32::from_bits(u32::from(from.to_bits()) << 16);
    }
}

/// A strided array of any element type that the parity metrics read.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "each variant is named after its element type")]
pub enum Array<'a> {
    Float(FloatArray<'a>),
    F64(View<'a, f64>),
    I8(View<'a, i8>),
    U8(View<'a, u8>),
    I16(View<'a, i16>),
    U16(View<'a, u16>),
    I32(View<'a, i32>),
    U32(View<'a, u32>),
    I64(View<'a, i64>),
    U64(View<'a, u64>),
}

impl Array<'_> {
    /// The shape.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Float(array) => array.shape(),
            Self::F64(view) => view.shape(),
            Self::I8(view) => view.shape(),
            Self::U8(view) => view.shape(),
            Self::I16(view) => view.shape(),
            Self::U16(view) => view.shape(),
            Self::I32(view) => view.shape(),
            Self::U32(view) => view.shape(),
            Self::I64(view) => view.shape(),
            Self::U64(view) => view.shape(),
        }
    }

    /// Converts `start..start + out.len()` (C order) to float64; integers beyond 2^53 are rounded
    /// to nearest even.
    pub(crate) fn read_f64(&self, start: usize, out: &mut [f64], scratch: &mut Scratch) {
        match self {
            Self::Float(array) => array.tiles(start, out.len(), scratch, |offset, values| {
                widen(values, &mut out[offset..offset + values.len()]);
            }),
            Self::F64(view) => view.read(start, out),
            Self::I8(view) => convert(view, start, out, f64::from),
            Self::U8(view) => convert(view, start, out, f64::from),
            Self::I16(view) => convert(view, start, out, f64::from),
            Self::U16(view) => convert(view, start, out, f64::from),
            Self::I32(view) => convert(view, start, out, f64::from),
            Self::U32(view) => convert(view, start, out, f64::from),
            Self::I64(view) => convert(view, start, out, |v| v as f64),
            Self::U64(view) => convert(view, start, out, |v| v as f64),
        }
    }
}

multiversion! {
    fn widen(from: &[f32], to: &mut [f64]) = widen_body;
}

#[inline(always)]
fn widen_body(from: &[f32], to: &mut [f64]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = f64::from(from);
    }
}

fn convert<T: Copy + Default>(
    view: &View<'_, T>,
    start: usize,
    out: &mut [f64],
    to_f64: impl Fn(T) -> f64,
) {
    if let Some(slice) = view.as_slice() {
        for (to, &from) in out.iter_mut().zip(&slice[start..]) {
            *to = to_f64(from);
        }
        return;
    }
    let mut raw = [T::default(); 256];
    for (i, out) in out.chunks_mut(raw.len()).enumerate() {
        let raw = &mut raw[..out.len()];
        view.read(start + i * 256, raw);
        for (to, &from) in out.iter_mut().zip(raw.iter()) {
            *to = to_f64(from);
        }
    }
}
