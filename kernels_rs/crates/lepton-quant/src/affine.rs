//! The parameters of affine quantization, `q = x / scale + zero_point`, and its integers.

use crate::parallel::Grain;
use crate::{AxisLayout, Error, View};

pub(crate) const GRAIN: Grain = Grain {
    items: 1 << 16,
    per_thread: 1 << 18,
};

/// The integers that a quantized value may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntFormat {
    /// The smallest.
    pub low: i32,
    /// The largest.
    pub high: i32,
}

impl IntFormat {
    /// -128..=127.
    pub const INT8: Self = Self {
        low: -128,
        high: 127,
    };
    /// -127..=127: symmetric, so that negating a tensor negates its integers.
    pub const INT8_NARROW: Self = Self {
        low: -127,
        high: 127,
    };
    /// -32768..=32767.
    pub const INT16: Self = Self {
        low: -32_768,
        high: 32_767,
    };
    /// 0..=65535.
    pub const UINT16: Self = Self {
        low: 0,
        high: 65_535,
    };
    /// 0..=255.
    pub const UINT8: Self = Self { low: 0, high: 255 };
}

/// What becomes of a NaN, which no integer stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NanPolicy {
    /// The call fails with [`Error::NanInInput`] (the output is complete all the same).
    Refuse,
    /// It becomes the zero point, as if it had been 0.
    ZeroPoint,
}

/// Checked parameters of an affine mapping.
#[derive(Debug, Clone)]
pub struct Affine<'a> {
    pub(crate) layout: AxisLayout,
    pub(crate) scale: &'a [f32],
    pub(crate) zero_point: Vec<i32>,
}

impl<'a> Affine<'a> {
    /// Checks one scale and one zero point per channel of `layout`. A scale may be negative, as
    /// that of a signed maximum.
    ///
    /// # Errors
    /// [`Error::ParameterLength`], [`Error::InvalidScale`] or [`Error::ZeroPointOutOfRange`].
    pub fn new(
        layout: AxisLayout,
        scale: &'a [f32],
        zero_point: &[i64],
        format: IntFormat,
    ) -> Result<Self, Error> {
        for (name, given) in [("scale", scale.len()), ("zero_point", zero_point.len())] {
            if given != layout.channels {
                return Err(Error::ParameterLength {
                    name,
                    expected: layout.channels,
                    given,
                });
            }
        }
        let bad_scale = |s: &f32| !s.is_normal();
        if let Some(index) = scale.iter().position(bad_scale) {
            return Err(Error::InvalidScale {
                index,
                value: scale[index],
            });
        }
        let checked = |(index, &value): (usize, &i64)| match i32::try_from(value) {
            Ok(zero) if (format.low..=format.high).contains(&zero) => Ok(zero),
            _ => Err(Error::ZeroPointOutOfRange {
                index,
                value,
                low: format.low.into(),
                high: format.high.into(),
            }),
        };
        Ok(Self {
            layout,
            scale,
            zero_point: zero_point
                .iter()
                .enumerate()
                .map(checked)
                .collect::<Result<_, _>>()?,
        })
    }

    /// The parameters laid out beside the values of one period, for short runs.
    pub(crate) fn periodic(&self) -> Option<Periodic> {
        self.layout.is_interleaved().then(|| {
            let channels = self.layout.period();
            Periodic {
                scale: channels.iter().map(|&c| self.scale[c]).collect(),
                zero_point: channels.iter().map(|&c| self.zero_point[c]).collect(),
            }
        })
    }
}

pub(crate) struct Periodic {
    scale: Vec<f32>,
    zero_point: Vec<i32>,
}

impl Periodic {
    /// Calls `each(begin, end, scales, zero points)` over `start..start + len`, offsets relative
    /// to `start`.
    pub(crate) fn runs(
        &self,
        start: usize,
        len: usize,
        mut each: impl FnMut(usize, usize, &[f32], &[i32]),
    ) {
        let period = self.scale.len();
        let mut done = 0;
        while done < len {
            let phase = (start + done) % period;
            let n = (period - phase).min(len - done);
            each(
                done,
                done + n,
                &self.scale[phase..phase + n],
                &self.zero_point[phase..phase + n],
            );
            done += n;
        }
    }
}

/// A contiguous integer output.
#[derive(Debug)]
#[expect(missing_docs, reason = "each variant is named after its element type")]
pub enum IntSlice<'a> {
    I8(&'a mut [i8]),
    U8(&'a mut [u8]),
    I16(&'a mut [i16]),
    U16(&'a mut [u16]),
}

/// A strided integer input.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "each variant is named after its element type")]
pub enum IntArray<'a> {
    I8(View<'a, i8>),
    U8(View<'a, u8>),
    I16(View<'a, i16>),
    U16(View<'a, u16>),
    I32(View<'a, i32>),
}

impl IntArray<'_> {
    /// The shape.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::I8(view) => view.shape(),
            Self::U8(view) => view.shape(),
            Self::I16(view) => view.shape(),
            Self::U16(view) => view.shape(),
            Self::I32(view) => view.shape(),
        }
    }

    /// The zero points that the element type admits. A 32-bit accumulator has none but 0, as in
    /// ONNX, so that the difference cannot overflow.
    #[must_use]
    pub fn format(&self) -> IntFormat {
        let (low, high) = match self {
            Self::I8(_) => (-128, 127),
            Self::U8(_) => (0, 255),
            Self::I16(_) => (-32_768, 32_767),
            Self::U16(_) => (0, 65_535),
            Self::I32(_) => (0, 0),
        };
        IntFormat { low, high }
    }
}

/// What quantization writes: the integer, or the real value that it stands for.
pub(crate) trait Emit: Copy + Send + Sync {
    fn emit(code: i32, scale: f32, zero: i32) -> Self;
}

impl Emit for f32 {
    #[inline(always)]
    fn emit(code: i32, scale: f32, zero: i32) -> Self {
        code.wrapping_sub(zero) as f32 * scale
    }
}

/// An element type of quantized tensors.
pub(crate) trait Code: Emit + Default {
    fn from_code(code: i32) -> Self;
    fn code(self) -> i32;
}

macro_rules! codes {
    ($($t:ty),*) => {$(
        impl Emit for $t {
            #[inline(always)]
            fn emit(code: i32, _: f32, _: i32) -> Self {
                code as Self
            }
        }
        impl Code for $t {
            #[inline(always)]
            fn from_code(code: i32) -> Self {
                code as Self
            }
            #[inline(always)]
            fn code(self) -> i32 {
                i32::from(self)
            }
        }
    )*};
}
codes!(i8, u8, i16, u16, i32);

pub(crate) fn check_len(expected: &[usize], given: usize) -> Result<(), Error> {
    if expected.iter().product::<usize>() == given {
        return Ok(());
    }
    Err(Error::ShapeMismatch {
        expected: expected.to_vec(),
        given: vec![given],
    })
}
