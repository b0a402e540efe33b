//! The scale and the zero point of a block: from its range, or by the least squared error.

use crate::blocks::range;
use crate::long_search::search_long;
use crate::quantize::MAGIC;
use crate::simd::multiversion;
use crate::symmetric::symmetric_scale;
use crate::{BlockFormat, BlockScheme};

/// How the values of one block become integers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parameters {
    pub(crate) scale: f32,
    pub(crate) zero: i32,
    /// The limits of the integers relative to the zero point.
    pub(crate) low: f32,
    pub(crate) high: f32,
}

impl Parameters {
    /// Of a block without a range.
    pub(crate) const ONE: Self = Self {
        scale: 1.0,
        zero: 0,
        low: 0.0,
        high: 0.0,
    };

    #[inline(always)]
    pub(crate) fn of(min: f32, max: f32, format: &BlockFormat) -> Self {
        let half = 1_i32 << (format.bits - 1);
        let symmetric = |scale, low: i32| Self {
            scale,
            zero: 0,
            low: low as f32,
            high: (half - 1) as f32,
        };
        match format.scheme {
            BlockScheme::SignedMax => {
                let extreme = if max > -min { max } else { min };
                symmetric(signed_max_scale(extreme, half), -half)
            }
            BlockScheme::AbsMax => {
                let magnitude = if max > -min { max } else { -min };
                symmetric(symmetric_scale(magnitude, half - 1), 1 - half)
            }
            BlockScheme::Asymmetric => Self::asymmetric(min.min(0.0), max.max(0.0), 2 * half - 1),
        }
    }

    #[inline(always)]
    fn asymmetric(min: f32, max: f32, top: i32) -> Self {
        // In float64, because the width of the range may leave float32.
        let width = f64::from(max) - f64::from(min);
        let scale = match (width / f64::from(top)) as f32 {
            _ if width == 0.0 => 1.0,
            scale => scale.max(f32::MIN_POSITIVE),
        };
        let zero = (-min / scale + MAGIC)
            .to_bits()
            .wrapping_sub(MAGIC.to_bits());
        let zero = zero.cast_signed().min(top);
        Self {
            scale,
            zero,
            low: -zero as f32,
            high: (top - zero) as f32,
        }
    }
}

/// The scale that turns `extreme` into `-half`, of at least the smallest normal magnitude; 1 for a
/// block of zeros.
#[inline(always)]
fn signed_max_scale(extreme: f32, half: i32) -> f32 {
    if extreme == 0.0 {
        return 1.0;
    }
    let scale = extreme / -half as f32;
    scale.abs().max(f32::MIN_POSITIVE).copysign(scale)
}

/// Candidates for a scale, tried side by side.
const CANDIDATES: usize = 16;

/// Values whose errors are added up in float32.
pub(crate) const CHUNK: usize = 1024;

/// Values scaled at once, a part of a chunk.
pub(crate) const PIECE: usize = 64;

/// Independent sums of a chunk.
pub(crate) const LANES: usize = 16;

/// Values beyond which the best candidate may lie far below the range, so that a wide search comes
/// before the narrow one.
pub(crate) const SHORT: usize = 256;

/// Candidates as factors of the scale of the range.
#[derive(Clone, Copy)]
pub(crate) struct Candidates<const N: usize> {
    pub(crate) factor: [f32; N],
    pub(crate) reciprocal: [f32; N],
    pub(crate) low: [f32; N],
    pub(crate) high: [f32; N],
}

impl<const N: usize> Candidates<N> {
    /// What one candidate makes of a value: the reciprocal of its factor and its limits.
    #[inline(always)]
    pub(crate) fn one(&self, i: usize) -> (f32, f32, f32) {
        (self.reciprocal[i], self.low[i], self.high[i])
    }
}

impl Parameters {
    /// The parameters of least squared error near these, which are those of the range.
    #[inline(always)]
    fn search(self, x: &[f32], min: f32, max: f32, format: &BlockFormat) -> Self {
        if min == 0.0 && max == 0.0 {
            return self;
        }
        if x.len() > SHORT {
            return search_long(self, x, min, format);
        }
        let factors = match format.scheme {
            BlockScheme::Asymmetric => &NARROW_ASYMMETRIC,
            _ => &NARROW,
        };
        let all = self.candidates(1.0, min, format, factors);
        let best = least(squared_errors(x, self.scale, &all));
        let mut sums = Products::default();
        sums.add(x, self.scale, all.one(best));
        self.refined(&all, best, &sums, format)
    }

    /// The scale of least error for the integers of a candidate.
    #[inline(always)]
    pub(crate) fn refined<const N: usize>(
        self,
        all: &Candidates<N>,
        best: usize,
        sums: &Products,
        format: &BlockFormat,
    ) -> Self {
        let (low, high) = (all.low[best], all.high[best]);
        let factor = if sums.square > 0.0 {
            (sums.cross / sums.square) as f32
        } else {
            all.factor[best]
        };
        let scale = self.scale * factor;
        Self {
            scale: scale.abs().max(f32::MIN_POSITIVE).copysign(scale),
            zero: if format.scheme == BlockScheme::Asymmetric {
                -low as i32
            } else {
                0
            },
            low,
            high,
        }
    }

    /// Candidates whose factors are multiplied by `middle`; the least value places the zero point.
    #[inline(always)]
    pub(crate) fn candidates<const N: usize>(
        self,
        middle: f32,
        min: f32,
        format: &BlockFormat,
        factors: &[f32; N],
    ) -> Candidates<N> {
        let top = (self.high - self.low).round_ties_even();
        // The zero point before it is rounded, seen from the middle of the integers.
        let place = -min.min(0.0) / self.scale - top / 2.0;
        let mut all = Candidates {
            factor: [1.0; N],
            reciprocal: [1.0; N],
            low: [self.low; N],
            high: [self.high; N],
        };
        for (i, factor) in factors.iter().enumerate() {
            let factor = middle * factor;
            all.factor[i] = factor;
            all.reciprocal[i] = 1.0 / factor;
            if format.scheme == BlockScheme::Asymmetric {
                let zero = place * all.reciprocal[i] + top / 2.0;
                let zero = if zero > 0.0 { zero } else { 0.0 };
                let zero = if zero < top { zero } else { top };
                let zero = (zero + MAGIC) - MAGIC;
                all.low[i] = -zero;
                all.high[i] = top - zero;
            }
        }
        all
    }
}

/// Factors around the best one. Beyond 1 no value is clipped, but one integer stays unused and the
/// others may lie better.
const NARROW: [f32; CANDIDATES] = [
    1.0, 0.975, 0.95, 0.925, 0.9, 0.875, 0.85, 0.825, 0.8, 0.775, 0.75, 1.025, 1.05, 1.075, 1.1,
    1.125,
];

/// The same where the zero point gives way too.
const NARROW_ASYMMETRIC: [f32; CANDIDATES] = [
    1.0, 0.98, 0.96, 0.94, 0.92, 0.9, 0.88, 0.86, 0.84, 0.82, 0.8, 1.02, 1.04, 1.06, 1.08, 1.1,
];

multiversion! {
    /// The parameters of a block by itself; None if a value is NaN or infinite.
    pub(crate) fn find_parameters(x: &[f32], format: &BlockFormat) -> Option<Parameters>
        = find_parameters_body;
}

#[inline(always)]
pub(crate) fn find_parameters_body(x: &[f32], format: &BlockFormat) -> Option<Parameters> {
    let (min, max) = range(x);
    if !(min.is_finite() && max.is_finite()) {
        return None;
    }
    let parameters = Parameters::of(min, max, format);
    Some(if format.search {
        parameters.search(x, min, max, format)
    } else {
        parameters
    })
}

/// The place of the least, of equal ones the first: the two halves are compared place by place
/// until one is left, which a vector loop does faster than a walk.
#[inline(always)]
pub(crate) fn least<const N: usize>(errors: [f32; N]) -> usize {
    let mut value = errors;
    let mut place: [i32; N] = std::array::from_fn(|i| i as i32);
    let mut n = N / 2;
    while n > 0 {
        for i in 0..n {
            let (v, p) = (value[i + n], place[i + n]);
            let better = (v < value[i]) | ((v == value[i]) & (p < place[i]));
            value[i] = if better { v } else { value[i] };
            place[i] = if better { p } else { place[i] };
        }
        n /= 2;
    }
    place[0] as usize
}

/// The values in units of the scale of the range, so that no square leaves float32.
#[inline(always)]
pub(crate) fn scaled<'a>(x: &[f32], scale: f32, buffer: &'a mut [f32; PIECE]) -> &'a [f32] {
    let buffer = &mut buffer[..x.len()];
    for (to, x) in buffer.iter_mut().zip(x) {
        *to = x / scale;
    }
    buffer
}

/// The sum of squared errors of every candidate, in units of the square of the scale.
#[inline(always)]
fn squared_errors(x: &[f32], scale: f32, all: &Candidates<CANDIDATES>) -> [f32; CANDIDATES] {
    let mut sums = [0.0; CANDIDATES];
    for piece in x.chunks(PIECE) {
        add_errors(scaled(piece, scale, &mut [0.0; PIECE]), all, &mut sums);
    }
    sums
}

#[inline(always)]
fn add_errors(x: &[f32], all: &Candidates<CANDIDATES>, sums: &mut [f32; CANDIDATES]) {
    let Candidates {
        factor,
        reciprocal,
        low,
        high,
    } = *all;
    // Local, so that the sums stay in registers.
    let mut own = *sums;
    for &x in x {
        for i in 0..CANDIDATES {
            let code = integer(x * reciprocal[i], low[i], high[i]);
            let error = x - code * factor[i];
            own[i] += error * error;
        }
    }
    *sums = own;
}

/// Sums over the values with their integers, and over the squares of the integers.
#[derive(Default)]
pub(crate) struct Products {
    pub(crate) cross: f64,
    pub(crate) square: f64,
}

impl Products {
    /// Adds up to [`CHUNK`] values, which `one` makes integers.
    #[inline(always)]
    pub(crate) fn add(&mut self, x: &[f32], scale: f32, one: (f32, f32, f32)) {
        let (reciprocal, low, high) = one;
        let mut cross = [0.0; LANES];
        let mut square = [0.0; LANES];
        for piece in x.chunks(PIECE) {
            // Zeros beyond the end add nothing.
            let mut buffer = [0.0; PIECE];
            scaled(piece, scale, &mut buffer);
            let groups = piece.len().div_ceil(LANES);
            for x in &buffer.as_chunks::<LANES>().0[..groups] {
                for i in 0..LANES {
                    let code = integer(x[i] * reciprocal, low, high);
                    cross[i] += x[i] * code;
                    square[i] += code * code;
                }
            }
        }
        self.cross += f64::from(halve(cross));
        self.square += f64::from(halve(square));
    }
}

/// The sum of sixteen numbers: the upper half is added to the lower one until one is left.
#[inline(always)]
pub(crate) fn halve(mut sums: [f32; LANES]) -> f32 {
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            sums[i] += sums[i + n];
        }
        n /= 2;
    }
    sums[0]
}

/// The integer of `y` among `low..=high`, ties to even.
#[inline(always)]
pub(crate) fn integer(y: f32, low: f32, high: f32) -> f32 {
    let y = if y > low { y } else { low };
    let y = if y < high { y } else { high };
    (y + MAGIC) - MAGIC
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(x: &[f32], p: &Parameters) -> f64 {
        x.iter()
            .map(|&x| {
                let code = (x / p.scale).clamp(p.low, p.high).round_ties_even();
                f64::from(x - code * p.scale).powi(2)
            })
            .sum()
    }

    #[test]
    fn a_search_lowers_the_error() {
        let schemes = [
            BlockScheme::SignedMax,
            BlockScheme::AbsMax,
            BlockScheme::Asymmetric,
        ];
        let noise = |i: u32| {
            let bits = i.wrapping_mul(2_654_435_761) >> 8;
            (f64::from(bits) / 8_388_608.0 - 1.0).powi(9) as f32
        };
        for (scheme, size) in schemes
            .iter()
            .flat_map(|s| [7, 32, 255, 5000].map(|n| (*s, n)))
        {
            for bits in [2, 4, 8] {
                for magnitude in [1.0, 1e-30, 1e30] {
                    let x: Vec<f32> = (0..size).map(|i| noise(i) * magnitude).collect();
                    let format = BlockFormat::new(bits, x.len(), scheme, None).expect("valid");
                    let (min, max) = range(&x);
                    let plain = Parameters::of(min, max, &format);
                    let found = plain.search(&x, min, max, &format);
                    let (before, after) = (error(&x, &plain), error(&x, &found));
                    assert!(after <= before * (1.0 + 1e-6), "{scheme:?} {size} {bits}");
                    if bits == 4 && size == 5000 {
                        assert!(after < before);
                    }
                }
            }
        }
    }
}
