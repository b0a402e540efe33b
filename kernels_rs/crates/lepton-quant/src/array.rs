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
        let step = match self {
            _ if self.as_slice().is_some() => len,
            Self::F32(view) => view.tile_len(TILE),
            Self::F16(view) => view.tile_len(TILE),
            Self::Bf16(view) => view.tile_len(TILE),
        };
        for offset in (0..len).step_by(step.max(1)) {
            each(
                offset,
                self.tile(start + offset, step.min(len - offset), scratch),
            );
        }
    }

    /// The values `start..start + len`, where they can be read in place.
    pub(crate) fn in_place(&self, start: usize, len: usize) -> Option<&[f32]> {
        self.as_slice()?.get(start..start + len)
    }

    fn as_slice(&self) -> Option<&[f32]> {
        match self {
            Self::F32(view) => view.as_slice(),
            _ => None,
        }
    }

    /// The values `start..start + len` in C order, on the array's own memory or in a buffer.
    pub(crate) fn tile<'a>(
        &'a self,
        start: usize,
        len: usize,
        scratch: &'a mut Scratch,
    ) -> &'a [f32] {
        if let Some(slice) = self.as_slice() {
            return &slice[start..start + len];
        }
        scratch.f32.resize(len, 0.0);
        let wide = &mut scratch.f32[..];
        match self {
            Self::F32(view) => view.read(start, wide),
            Self::F16(view) => {
                let raw = raw_tile(view, start, len, f16::ZERO, &mut scratch.f16);
                raw.convert_to_f32_slice(wide);
            }
            Self::Bf16(view) => {
                let raw = raw_tile(view, start, len, bf16::ZERO, &mut scratch.bf16);
                widen_bf16(raw, wide);
            }
        }
        wide
    }
}

/// The elements `start..start + len` in C order, on the view's own memory or in `buffer`.
pub(crate) fn raw_tile<'a, T: Copy>(
    view: &'a View<'_, T>,
    start: usize,
    len: usize,
    fill: T,
    buffer: &'a mut Vec<T>,
) -> &'a [T] {
    if let Some(slice) = view.as_slice() {
        return &slice[start..start + len];
    }
    buffer.resize(len, fill);
    view.read(start, buffer);
    buffer
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

    /// The values `start..start + buffer.len()` in C order: on the array's own memory if that is
    /// possible, else in a buffer. Integers beyond 2^53 are rounded to nearest even.
    pub(crate) fn tile<'a>(
        &'a self,
        start: usize,
        buffer: &'a mut [f64],
        scratch: &'a mut Scratch,
    ) -> Tile<'a> {
        let len = buffer.len();
        match self {
            Self::Float(array) => return Tile::F32(array.tile(start, len, scratch)),
            Self::F64(view) => match view.as_slice() {
                Some(slice) => return Tile::F64(&slice[start..start + len]),
                None => view.read(start, buffer),
            },
            Self::I8(view) => convert(view, start, buffer, f64::from),
            Self::U8(view) => convert(view, start, buffer, f64::from),
            Self::I16(view) => convert(view, start, buffer, f64::from),
            Self::U16(view) => convert(view, start, buffer, f64::from),
            Self::I32(view) => convert(view, start, buffer, f64::from),
            Self::U32(view) => convert(view, start, buffer, f64::from),
            Self::I64(view) => convert(view, start, buffer, |v| v as f64),
            Self::U64(view) => convert(view, start, buffer, |v| v as f64),
        }
        Tile::F64(buffer)
    }
}

/// Consecutive values of an array.
pub(crate) enum Tile<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
}

impl Tile<'_> {
    pub(crate) fn copy_to(&self, out: &mut Vec<f64>) {
        out.clear();
        match self {
            Self::F32(values) => out.extend(values.iter().map(|&v| f64::from(v))),
            Self::F64(values) => out.extend_from_slice(values),
        }
    }

    pub(crate) fn to_f64(&self) -> Vec<f64> {
        match self {
            Self::F32(values) => values.iter().map(|&v| f64::from(v)).collect(),
            Self::F64(values) => values.to_vec(),
        }
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
