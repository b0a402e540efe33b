//! A fixed logarithmic histogram of absolute errors.

use std::sync::OnceLock;

/// Bins between the lowest and the highest edge.
pub const HISTOGRAM_BINS: usize = 64;

/// Counters: exact zeros, below the lowest edge, the bins, from the highest edge on.
pub const HISTOGRAM_LEN: usize = HISTOGRAM_BINS + 3;

/// The edges of the bins: `10^(-12 + k/4)` for `k` in `0..=64`, each the nearest float64. Bin `k`
/// counts errors from edge `k` up to, not including, edge `k + 1`.
#[must_use]
pub fn histogram_edges() -> &'static [f64; HISTOGRAM_BINS + 1] {
    static EDGES: OnceLock<[f64; HISTOGRAM_BINS + 1]> = OnceLock::new();
    EDGES.get_or_init(|| {
        const QUARTERS: [&str; 4] = [
            "1",
            "1.7782794100389228",
            "3.1622776601683795",
            "5.6234132519034908",
        ];
        std::array::from_fn(|k| {
            let exponent = (k / 4).cast_signed() - 12;
            let text = format!("{}e{exponent}", QUARTERS[k % 4]);
            text.parse().unwrap_or(f64::NAN)
        })
    })
}

/// Bits of a float64 below the two highest of its mantissa. What remains names a cell that spans
/// at most a fourth of an octave, so that it holds at most one edge.
const SHIFT: u32 = 50;

/// Everything up to this cell is cell 0; the next one begins at 2^-40, below the lowest edge.
const BEFORE: u64 = ((1023 - 40) << 2) - 1;

/// Cells, the last of which holds everything from 2^23.5 on, above the highest edge.
const CELLS: usize = 256;

/// Finds bins without a logarithm: errors are counted by cell and by which side of the cell's edge
/// they are on, and cells join their bin at the end.
pub(crate) struct Bins {
    /// The edge within each cell; NaN if there is none. In cell 0 it parts zero from the rest.
    edge: [f64; CELLS],
    /// The bin of either side of each cell.
    bin: [u8; 2 * CELLS],
}

/// Counts by cell and side. Neighbouring values often share a counter; four of each spare one the
/// wait for the other.
pub(crate) struct Counters([[u32; 2 * CELLS]; 4]);

impl Default for Counters {
    fn default() -> Self {
        Self([[0; 2 * CELLS]; 4])
    }
}

impl Bins {
    pub(crate) fn get() -> &'static Self {
        static BINS: OnceLock<Bins> = OnceLock::new();
        BINS.get_or_init(|| {
            let edges = histogram_edges();
            let low = |cell: usize| match cell {
                0 => 0.0,
                cell => f64::from_bits((BEFORE + cell as u64) << SHIFT),
            };
            let edge = std::array::from_fn(|cell| match cell {
                0 => f64::from_bits(1),
                cell => {
                    let inside = |edge: &&f64| **edge >= low(cell) && **edge < low(cell + 1);
                    edges.iter().find(inside).copied().unwrap_or(f64::NAN)
                }
            });
            let bin = std::array::from_fn(|i| match (i / 2, i % 2) {
                (0, side) => side as u8,
                (cell, 0) => 1 + edges.iter().filter(|&&e| e <= low(cell)).count() as u8,
                (cell, _) => 1 + edges.iter().filter(|&&e| e < low(cell + 1)).count() as u8,
            });
            Self { edge, bin }
        })
    }

    #[inline(always)]
    fn place(&self, error: f64) -> usize {
        let cell = (error.to_bits() >> SHIFT).saturating_sub(BEFORE);
        let cell = cell.min(CELLS as u64 - 1) as usize;
        2 * cell + usize::from(error >= self.edge[cell])
    }

    /// Counts errors, none of which is negative or NaN; at most 2^32 before a flush.
    pub(crate) fn count(&self, errors: &[f64], counters: &mut Counters) {
        let (chunks, tail) = errors.as_chunks::<4>();
        for chunk in chunks {
            for (part, &error) in counters.0.iter_mut().zip(chunk) {
                let count = &mut part[self.place(error)];
                *count = count.wrapping_add(1);
            }
        }
        for &error in tail {
            counters.0[0][self.place(error)] += 1;
        }
    }

    /// Moves the counts to their bins.
    pub(crate) fn flush(&self, counters: &mut Counters, to: &mut [u64; HISTOGRAM_LEN]) {
        for part in &mut counters.0 {
            for (count, &bin) in part.iter_mut().zip(&self.bin) {
                to[usize::from(bin)] += u64::from(*count);
                *count = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bin(error: f64) -> usize {
        let mut histogram = [0; HISTOGRAM_LEN];
        let mut counters = Counters::default();
        Bins::get().count(&[error], &mut counters);
        Bins::get().flush(&mut counters, &mut histogram);
        histogram.iter().position(|&n| n == 1).expect("counted")
    }

    #[test]
    fn every_edge_opens_its_own_bin() {
        for (k, &edge) in histogram_edges().iter().enumerate() {
            assert!((edge / 10_f64.powf(k as f64 / 4.0 - 12.0) - 1.0).abs() < 1e-14);
            assert_eq!(bin(edge), k + 2);
            assert_eq!(bin(edge.next_up()), k + 2);
            assert_eq!(bin(edge.next_down()), k + 1);
        }
        assert_eq!(bin(0.0), 0);
        assert_eq!(bin(f64::from_bits(1)), 1);
        assert_eq!(bin(f64::MAX), HISTOGRAM_LEN - 1);
        assert_eq!(bin(f64::INFINITY), HISTOGRAM_LEN - 1);
    }

    #[test]
    fn bins_are_monotonic() {
        let mut last = 0;
        for octave in -45_i32..30 {
            for part in 0..64 {
                let next = bin(f64::from(octave).exp2() * (1.0 + f64::from(part) / 64.0));
                assert!(next == last || next == last + 1 || last == 0);
                last = next;
            }
        }
    }
}
