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
        let place = place >> (self.exponent - finer.exponent);
        usize::try_from(place - i64::from(self.first)).unwrap_or(usize::MAX)
    }
}
