//! The values on one side of 0, for their largest magnitude is the end of a range.

use crate::select::CHUNK;
use crate::simd::multiversion;

/// Which values are ranked by their magnitude; the others count as zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// All.
    Both,
    /// Those above 0.
    Positive,
    /// Those below 0.
    Negative,
}

impl Side {
    /// The values with zeros for the other side, in a buffer if need be. NaN stay.
    pub(crate) fn of<'a>(self, x: &'a [f32], buffer: &'a mut [f32; CHUNK]) -> &'a [f32] {
        if self == Self::Both {
            return x;
        }
        let buffer = &mut buffer[..x.len()];
        one_side(x, self == Self::Negative, buffer);
        buffer
    }
}

multiversion! {
    fn one_side(x: &[f32], negative: bool, out: &mut [f32]) = one_side_body;
}

#[inline(always)]
fn one_side_body(x: &[f32], negative: bool, out: &mut [f32]) {
    // Comparisons that a NaN fails.
    for (out, &x) in out.iter_mut().zip(x) {
        let other = if negative { x >= 0.0 } else { x <= 0.0 };
        *out = if other { 0.0 } else { x };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Control, Error, FloatArray, View, side_cut};

    #[test]
    fn a_side_counts_the_other_as_zeros() {
        let n = 1_500_000_u32;
        let x: Vec<f32> = (0..n)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 9) as f32 - 2e6)
            .collect();
        for (size, keep) in [(n, 7), (n, 900_000), (n, 1_500_000), (900_000, 20)] {
            let x = &x[..size as usize];
            let array = FloatArray::F32(View::from_slice(x, &[x.len()]));
            let arrays = std::slice::from_ref(&array);
            let mut order = x.to_vec();
            order.sort_unstable_by(f32::total_cmp);
            let control = &mut Control::threads(2);
            let mut of = |side| {
                side_cut(arrays, side, keep, control)
                    .expect("no NaN")
                    .threshold
            };
            assert_eq!(of(Side::Positive), order[x.len() - keep].max(0.0));
            assert_eq!(of(Side::Negative), (-order[keep - 1]).max(0.0));
        }
        let array = FloatArray::F32(View::from_slice(&[1.0, f32::NAN, -f32::NAN], &[3]));
        for side in [Side::Positive, Side::Negative] {
            let control = &mut Control::threads(1);
            assert_eq!(
                side_cut(std::slice::from_ref(&array), side, 1, control),
                Err(Error::NanInMagnitudes { count: 2, first: 1 })
            );
        }
    }
}
