//! What a range costs, judged by a histogram: squared error and Kullback-Leibler divergence.

use crate::Error;
use crate::simd::multiversion;

/// Values spread evenly from `lower` to `upper`, by cell, and how many.
#[derive(Debug, Clone, Copy)]
pub struct Cells<'a> {
    /// The lower ends.
    pub lower: &'a [f64],
    /// The upper ends.
    pub upper: &'a [f64],
    /// The numbers of values.
    pub weight: &'a [f64],
}

/// The sum of squared errors of rounding values to multiples of `scale` between `low * scale` and
/// `high * scale`.
///
/// # Errors
/// [`Error::ParameterLength`] if the cells differ in length.
pub fn rounding_error(cells: Cells<'_>, scale: f64, low: f64, high: f64) -> Result<f64, Error> {
    let expected = cells.lower.len();
    for (name, given) in [("upper", cells.upper.len()), ("weight", cells.weight.len())] {
        if given != expected {
            return Err(Error::ParameterLength {
                name,
                expected,
                given,
            });
        }
    }
    Ok(sum_of_cells(cells, scale, low, high))
}

multiversion! {
    fn sum_of_cells(cells: Cells<'_>, scale: f64, low: f64, high: f64) -> f64 = sum_of_cells_body;
}

/// Partial sums, whose order of addition is fixed.
const LANES: usize = 8;

#[inline(always)]
fn sum_of_cells_body(cells: Cells<'_>, scale: f64, low: f64, high: f64) -> f64 {
    let mut sums = [0.0; LANES];
    let (lower, lower_tail) = cells.lower.as_chunks::<LANES>();
    let (upper, upper_tail) = cells.upper.as_chunks::<LANES>();
    let (weight, weight_tail) = cells.weight.as_chunks::<LANES>();
    for ((a, b), n) in lower.iter().zip(upper).zip(weight) {
        for lane in 0..LANES {
            sums[lane] += n[lane] * cell_error(a[lane] / scale, b[lane] / scale, low, high);
        }
    }
    for (lane, sum) in sums.iter_mut().enumerate().take(weight_tail.len()) {
        let (a, b) = (lower_tail[lane] / scale, upper_tail[lane] / scale);
        *sum += weight_tail[lane] * cell_error(a, b, low, high);
    }
    sums.iter().sum::<f64>() * (scale * scale)
}

/// The mean of `(v - clamp(rint(v)))^2` for v from `a` to `b`.
///
/// With `r` the integer of `v`, the integral up to `v` is `r / 12 + (v - r)^3 / 3`, also where
/// `r` is clamped. Between two places with the same `r` the quotient is written out, because the
/// difference would lose all digits.
#[inline(always)]
fn cell_error(a: f64, b: f64, low: f64, high: f64) -> f64 {
    let (ra, rb) = (nearest(a, low, high), nearest(b, low, high));
    let (da, db) = (a - ra, b - rb);
    let within = (da * da + da * db + db * db) / 3.0;
    let across = ((rb - ra) / 12.0 + (db * db * db - da * da * da) / 3.0) / (b - a);
    if ra == rb { within } else { across }
}

/// The integer of `v` among `low..=high`; adding 2^52 + 2^51 rounds half to even.
#[inline(always)]
fn nearest(v: f64, low: f64, high: f64) -> f64 {
    const MAGIC: f64 = 6_755_399_441_055_744.0;
    let v = if v > low { v } else { low };
    let v = if v < high { v } else { high };
    (v + MAGIC) - MAGIC
}

/// The number of bins to keep so that what `levels` equal groups of them can say is closest to
/// what was counted, and the divergence there; see the definition page.
///
/// `counts` are magnitudes by bin, the last of which is not 0.
///
/// # Errors
/// [`Error::InvalidFormat`] if there is no level, [`Error::Empty`] if there is no count.
pub fn entropy_threshold(counts: &[u64], levels: usize) -> Result<(usize, f64), Error> {
    if levels == 0 {
        return Err(Error::InvalidFormat(
            "levels is 0; it must be at least 1".to_owned(),
        ));
    }
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return Err(Error::Empty);
    }
    let prefix = Prefix::new(counts);
    let mut best = (counts.len(), f64::INFINITY);
    // More levels than bins are not looked at.
    let mut sums = vec![0.0; levels.min(counts.len() + 1)];
    for kept in levels..=counts.len() {
        let divergence = prefix.divergence(counts, kept, &mut sums);
        // Of equal ones the widest, which clips least.
        if divergence <= best.1 {
            best = (kept, divergence);
        }
    }
    if best.1.is_infinite() {
        // Fewer bins than levels: each has a level of its own.
        best.1 = 0.0;
    }
    Ok(best)
}

/// Sums over the bins before each.
struct Prefix {
    /// Of counts.
    count: Vec<f64>,
    /// Of bins that are not empty.
    filled: Vec<f64>,
    /// Of `c ln c`.
    entropy: Vec<f64>,
}

impl Prefix {
    fn new(counts: &[u64]) -> Self {
        let mut prefix = Self {
            count: vec![0.0],
            filled: vec![0.0],
            entropy: vec![0.0],
        };
        let (mut count, mut filled, mut entropy) = (0_u64, 0.0, 0.0);
        for &c in counts {
            count += c;
            if c > 0 {
                filled += 1.0;
                entropy += c as f64 * ln(c as f64);
            }
            prefix.count.push(count as f64);
            prefix.filled.push(filled);
            prefix.entropy.push(entropy);
        }
        prefix
    }

    /// KL(P || Q), where P are the first `kept` counts with all the others added to the last of
    /// them, and Q their sums by group, without the others, spread evenly over the bins of the
    /// group that P fills.
    fn divergence(&self, counts: &[u64], kept: usize, sums: &mut [f64]) -> f64 {
        let levels = sums.len();
        let total = self.count[counts.len()];
        let inside = self.count[kept];
        let clipped = total - inside;
        let last = counts[kept - 1] as f64;
        let mut entropy = self.entropy[kept - 1];
        if last + clipped > 0.0 {
            entropy += (last + clipped) * ln(last + clipped);
        }
        let newly_filled = if last == 0.0 && clipped > 0.0 {
            1.0
        } else {
            0.0
        };
        let mut weights = [0.0; GROUPS];
        let mut cross = 0.0;
        let mut from = 0;
        for first in (0..levels).step_by(GROUPS) {
            let n = GROUPS.min(levels - first);
            let means = &mut sums[first..first + n];
            for (i, (mean, weight)) in means.iter_mut().zip(&mut weights).enumerate() {
                let to = (first + i + 1) * kept / levels;
                let sum = self.count[to] - self.count[from];
                let filled = self.filled[to] - self.filled[from];
                from = to;
                let is_last = first + i + 1 == levels;
                *weight = if is_last { sum + clipped } else { sum };
                let filled = if is_last {
                    filled + newly_filled
                } else {
                    filled
                };
                // What has no weight adds nothing, whatever its logarithm.
                *mean = if *weight > 0.0 { sum / filled } else { 1.0 };
            }
            if means.contains(&0.0) {
                // Values are clipped to a level that has none of its own.
                return f64::INFINITY;
            }
            cross += weighted_logs(means, &weights[..n]);
        }
        (entropy - cross) / total - ln(total) + ln(inside)
    }
}

/// Groups whose logarithms are taken at once.
const GROUPS: usize = 128;

multiversion! {
    /// The sum of `weight * ln(value)`.
    fn weighted_logs(value: &[f64], weight: &[f64]) -> f64 = weighted_logs_body;
}

#[inline(always)]
fn weighted_logs_body(value: &[f64], weight: &[f64]) -> f64 {
    let mut sums = [0.0; LANES];
    let (values, values_tail) = value.as_chunks::<LANES>();
    let (weights, weights_tail) = weight.as_chunks::<LANES>();
    for (value, weight) in values.iter().zip(weights) {
        for lane in 0..LANES {
            sums[lane] += weight[lane] * ln(value[lane]);
        }
    }
    for ((sum, value), weight) in sums.iter_mut().zip(values_tail).zip(weights_tail) {
        *sum += weight * ln(*value);
    }
    sums.iter().sum()
}

/// `1 / (2 k + 1)`, the series of the inverse hyperbolic tangent.
const ARTANH: [f64; 11] = [
    1.0,
    1.0 / 3.0,
    1.0 / 5.0,
    1.0 / 7.0,
    1.0 / 9.0,
    1.0 / 11.0,
    1.0 / 13.0,
    1.0 / 15.0,
    1.0 / 17.0,
    1.0 / 19.0,
    1.0 / 21.0,
];

/// The natural logarithm of a positive normal number, to about two units in the last place, the
/// same on every processor (libraries choose theirs by the processor).
///
/// With `x = 2^e m` and `m` around 1, `ln m = 2 artanh((m - 1) / (m + 1))`.
#[inline(always)]
pub(crate) fn ln(x: f64) -> f64 {
    const SQRT_HALF: u64 = 0x3fe6_a09e_667f_3bcd;
    let bits = x.to_bits().wrapping_sub(SQRT_HALF);
    let exponent = (bits.cast_signed() >> 52) as i32;
    let mantissa = (bits & ((1 << 52) - 1)).wrapping_add(SQRT_HALF);
    let m = f64::from_bits(mantissa);
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let series = ARTANH.iter().rev().fold(0.0, |sum, term| sum * z + term);
    f64::from(exponent) * std::f64::consts::LN_2 + 2.0 * s * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_one() {
        for i in 1..20_000 {
            for x in [f64::from(i), f64::from(i) / 7.0, f64::from(i) * 1e12] {
                let error = (ln(x) - x.ln()).abs();
                assert!(error <= 1e-15 * x.ln().abs().max(1.0), "{x} {error}");
            }
        }
        assert_eq!(ln(1.0), 0.0);
    }

    #[test]
    fn the_mean_error_is_that_of_many_points() {
        for (a, b) in [(-3.2, 9.7), (0.1, 0.2), (0.4, 0.6), (7.0, 30.0), (2.3, 2.3)] {
            let n = 200_000;
            let points = (0..n).map(|i| a + (b - a) * (f64::from(i) + 0.5) / f64::from(n));
            let error = |v: f64| (v - v.round_ties_even().clamp(-2.0, 8.0)).powi(2);
            let mean = points.map(error).sum::<f64>() / f64::from(n);
            let got = cell_error(a, b, -2.0, 8.0);
            assert!(
                (got - mean).abs() < 1e-6 * (1.0 + mean),
                "{a} {b} {got} {mean}"
            );
        }
    }

    #[test]
    fn an_outlier_is_clipped() {
        let bell = |bin: i32| (1e6 * (-f64::from(bin * bin) / 5e4).exp()) as u64;
        let mut counts: Vec<u64> = (0..2048).map(bell).collect();
        counts[2047] = 1;
        let (kept, divergence) = entropy_threshold(&counts, 128).expect("valid");
        assert!((400..900).contains(&kept), "{kept}");
        assert!(divergence < 1e-3);
        assert_eq!(entropy_threshold(&counts[..100], 128), Ok((100, 0.0)));
        assert_eq!(
            entropy_threshold(&counts[..100], usize::MAX),
            Ok((100, 0.0))
        );
        assert_eq!(entropy_threshold(&[0; 8], 4), Err(Error::Empty));
    }
}
