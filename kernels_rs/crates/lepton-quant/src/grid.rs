//! Bins whose width is a power of two.

/// Where bins lie: bin `i` holds `(first + i) * 2^exponent <= x < (first + i + 1) * 2^exponent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// The width of a bin is 2 to this.
    pub exponent: i32,
    /// The place of the first bin in widths from 0.
    pub first: i32,
}

impl Grid {
    /// The grid of a range: the narrowest bins of which `bins` hold it, but not narrower than the
    /// unit in the last place of the largest magnitude and than 2^-126. The first holds `min`.
    #[must_use]
    pub fn of(min: f32, max: f32, bins: usize) -> Self {
        let magnitude = min.abs().max(max.abs()).max(f32::MIN_POSITIVE);
        let top = (magnitude.to_bits() >> 23).cast_signed() - 127;
        let mut exponent = (top - 23).max(-126);
        loop {
            // A float32 times a power of two is exact in float64.
            let reciprocal = f64::from(-exponent).exp2();
            let low = (f64::from(min) * reciprocal).floor();
            let high = (f64::from(max) * reciprocal).floor();
            if high - low < bins as f64 {
                return Self {
                    exponent,
                    first: low as i32,
                };
            }
            exponent += 1;
        }
    }

    /// The bin of this grid that holds bin `i` of a finer one.
    pub(crate) fn bin_of(self, finer: Self, i: usize) -> usize {
        let place = i64::from(finer.first) + i as i64;
        // Bins of zeros alone are 2^-126 wide, so that a grid may be wider than i64 has bits.
        let place = place >> (self.exponent - finer.exponent).min(63);
        usize::try_from(place - i64::from(self.first)).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_of_zeros_alone_go_into_any_other() {
        let zeros = Grid::of(0.0, 0.0, 2048);
        for (min, max) in [(0.0, 1.0), (-1.0, 1.0), (0.0, f32::MAX), (f32::MIN, 0.0)] {
            let wide = Grid::of(min, max, 2048);
            assert!(wide.exponent - zeros.exponent > 63);
            let zero = usize::try_from(-wide.first).expect("holds 0");
            assert_eq!(wide.bin_of(zeros, 0), zero);
            assert_eq!(wide.bin_of(zeros, 2047), zero);
        }
    }
}
