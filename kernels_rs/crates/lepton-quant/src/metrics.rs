//! Parity metrics of two arrays in one pass, mergeable over batches and processes.

use std::sync::{Mutex, OnceLock, PoisonError};

use crate::array::Scratch;
use crate::parallel::{Grain, run};
use crate::simd::multiversion;
use crate::{Array, Control, Error};

/// Bins of the histogram of absolute errors between its lowest and its highest edge.
pub const HISTOGRAM_BINS: usize = 64;

/// Counters of the histogram: exact zeros, below the lowest edge, the bins, from the highest edge.
pub const HISTOGRAM_LEN: usize = HISTOGRAM_BINS + 3;

/// Values summed before their sum joins the total. It fixes the order of every addition, whatever
/// the number of threads.
const BLOCK: usize = 1 << 16;

/// Values converted to float64 at once; three such buffers fit the first-level cache.
const TILE: usize = 1024;

/// Independent partial sums in a block, also part of the fixed order.
const LANES: usize = 8;

const GRAIN: Grain = Grain {
    items: 1,
    per_thread: 4,
};

/// What the comparison of two arrays adds up; two of them merge by addition.
#[derive(Debug, Clone, PartialEq)]
pub struct ErrorSums {
    /// Positions seen.
    pub count: u64,
    /// Positions at which both sides are finite; only these enter the sums below.
    pub compared: u64,
    /// NaN in the reference.
    pub nan_reference: u64,
    /// NaN in the actual values.
    pub nan_actual: u64,
    /// Infinities in the reference.
    pub inf_reference: u64,
    /// Infinities in the actual values.
    pub inf_actual: u64,
    /// Positions with a NaN or an infinity at which the two sides are not the same (NaN is the
    /// same as NaN here).
    pub mismatched: u64,
    /// The largest absolute error.
    pub max_abs: f64,
    /// The sum of absolute errors.
    pub abs: f64,
    /// The sum of squared errors.
    pub squared: f64,
    /// The sum of squares of the reference.
    pub reference: f64,
    /// The sum of squares of the actual values.
    pub actual: f64,
    /// The sum of products of the two sides.
    pub dot: f64,
    /// Counts of absolute errors, see [`histogram_edges`].
    pub histogram: [u64; HISTOGRAM_LEN],
}

impl Default for ErrorSums {
    fn default() -> Self {
        Self {
            count: 0,
            compared: 0,
            nan_reference: 0,
            nan_actual: 0,
            inf_reference: 0,
            inf_actual: 0,
            mismatched: 0,
            max_abs: 0.0,
            abs: 0.0,
            squared: 0.0,
            reference: 0.0,
            actual: 0.0,
            dot: 0.0,
            histogram: [0; HISTOGRAM_LEN],
        }
    }
}

impl ErrorSums {
    /// Adds what `other` has seen.
    pub fn merge(&mut self, other: &Self) {
        self.merge_counts(other);
        self.add(&Sums {
            abs: other.abs,
            squared: other.squared,
            reference: other.reference,
            actual: other.actual,
            dot: other.dot,
        });
    }

    /// Everything that does not depend on the order of merging.
    fn merge_counts(&mut self, other: &Self) {
        self.count += other.count;
        self.compared += other.compared;
        self.nan_reference += other.nan_reference;
        self.nan_actual += other.nan_actual;
        self.inf_reference += other.inf_reference;
        self.inf_actual += other.inf_actual;
        self.mismatched += other.mismatched;
        self.max_abs = self.max_abs.max(other.max_abs);
        for (mine, theirs) in self.histogram.iter_mut().zip(&other.histogram) {
            *mine += theirs;
        }
    }

    fn add(&mut self, sums: &Sums) {
        self.abs += sums.abs;
        self.squared += sums.squared;
        self.reference += sums.reference;
        self.actual += sums.actual;
        self.dot += sums.dot;
    }

    /// Counts the positions with a NaN or an infinity.
    fn count_nonfinite(&mut self, reference: f64, actual: f64) {
        self.nan_reference += u64::from(reference.is_nan());
        self.nan_actual += u64::from(actual.is_nan());
        self.inf_reference += u64::from(reference.is_infinite());
        self.inf_actual += u64::from(actual.is_infinite());
        let same = reference == actual || (reference.is_nan() && actual.is_nan());
        self.mismatched += u64::from(!same);
    }
}

/// The edges of the histogram's bins: `10^(-12 + k/4)` for `k` in `0..=64`, each the nearest
/// float64. Bin `k` counts errors from edge `k` up to, not including, edge `k + 1`.
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

/// Compares two arrays of the same shape.
///
/// # Errors
/// [`Error::ShapeMismatch`], [`Error::Interrupted`].
pub fn error_sums(
    reference: &Array<'_>,
    actual: &Array<'_>,
    control: &mut Control<'_>,
) -> Result<ErrorSums, Error> {
    if reference.shape() != actual.shape() {
        return Err(Error::ShapeMismatch {
            expected: reference.shape().to_vec(),
            given: actual.shape().to_vec(),
        });
    }
    let len: usize = reference.shape().iter().product();
    let bins = BinTable::get();
    let mut blocks = vec![Sums::default(); len.div_ceil(BLOCK)];
    let total = Mutex::new(ErrorSums::default());
    let kernel = |worker: &mut Worker, first: usize, out: &mut [Sums]| {
        for (i, out) in out.iter_mut().enumerate() {
            let start = (first + i) * BLOCK;
            *out = worker.block(reference, actual, start, BLOCK.min(len - start), bins);
        }
    };
    let finish = |worker: Worker| {
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        total.merge_counts(&worker.counts());
    };
    run(
        control,
        blocks.as_mut_slice(),
        &GRAIN,
        Worker::new,
        kernel,
        finish,
    )?;
    let mut total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    for block in &blocks {
        total.add(block);
    }
    Ok(total)
}

/// The sums of one block, whose order of addition is fixed.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    abs: f64,
    squared: f64,
    reference: f64,
    actual: f64,
    dot: f64,
}

#[derive(Default)]
struct Lanes {
    max: [f64; LANES],
    abs: [f64; LANES],
    squared: [f64; LANES],
    reference: [f64; LANES],
    actual: [f64; LANES],
    dot: [f64; LANES],
}

impl Lanes {
    fn sums(&self) -> Sums {
        let sum = |lanes: &[f64; LANES]| lanes.iter().sum();
        Sums {
            abs: sum(&self.abs),
            squared: sum(&self.squared),
            reference: sum(&self.reference),
            actual: sum(&self.actual),
            dot: sum(&self.dot),
        }
    }
}

/// What one thread keeps.
struct Worker {
    scratch: Scratch,
    reference: Vec<f64>,
    actual: Vec<f64>,
    error: Vec<f64>,
    counts: ErrorSums,
    /// Neighbouring values often fall into one bin; separate counters spare each the wait for the
    /// one before.
    histogram: [[u64; HISTOGRAM_LEN]; 4],
}

impl Worker {
    fn new() -> Self {
        Self {
            scratch: Scratch::default(),
            reference: vec![0.0; TILE],
            actual: vec![0.0; TILE],
            error: vec![0.0; TILE],
            counts: ErrorSums::default(),
            histogram: [[0; HISTOGRAM_LEN]; 4],
        }
    }

    fn counts(&self) -> ErrorSums {
        let mut counts = self.counts.clone();
        for part in &self.histogram {
            for (sum, n) in counts.histogram.iter_mut().zip(part) {
                *sum += n;
            }
        }
        counts
    }

    fn block(
        &mut self,
        reference: &Array<'_>,
        actual: &Array<'_>,
        start: usize,
        len: usize,
        bins: &BinTable,
    ) -> Sums {
        let mut lanes = Lanes::default();
        for offset in (0..len).step_by(TILE) {
            let mut n = TILE.min(len - offset);
            let at = start + offset;
            reference.read_f64(at, &mut self.reference[..n], &mut self.scratch);
            actual.read_f64(at, &mut self.actual[..n], &mut self.scratch);
            self.counts.count += n as u64;
            if differences(
                &self.reference[..n],
                &self.actual[..n],
                &mut self.error[..n],
            ) {
                n = self.drop_nonfinite(n);
            }
            self.counts.compared += n as u64;
            let (r, a, d) = (&self.reference[..n], &self.actual[..n], &self.error[..n]);
            accumulate(r, a, d, &mut lanes);
            bins.count(d, &mut self.histogram);
        }
        let max = lanes.max.iter().copied().fold(0.0, f64::max);
        self.counts.max_abs = self.counts.max_abs.max(max);
        lanes.sums()
    }

    /// Removes the positions at which a side is not finite; answers how many remain.
    #[cold]
    fn drop_nonfinite(&mut self, n: usize) -> usize {
        let mut kept = 0;
        for i in 0..n {
            let (reference, actual) = (self.reference[i], self.actual[i]);
            if reference.is_finite() && actual.is_finite() {
                self.reference[kept] = reference;
                self.actual[kept] = actual;
                self.error[kept] = self.error[i];
                kept += 1;
            } else {
                self.counts.count_nonfinite(reference, actual);
            }
        }
        kept
    }
}

multiversion! {
    /// Absolute differences; answers whether one of them is not finite.
    fn differences(reference: &[f64], actual: &[f64], out: &mut [f64]) -> bool = differences_body;
}

#[inline(always)]
fn differences_body(reference: &[f64], actual: &[f64], out: &mut [f64]) -> bool {
    let mut bad = 0;
    for ((out, r), a) in out.iter_mut().zip(reference).zip(actual) {
        let d = (r - a).abs();
        bad |= u64::from(!d.is_finite());
        *out = d;
    }
    bad != 0
}

multiversion! {
    fn accumulate(
        reference: &[f64], actual: &[f64], error: &[f64], lanes: &mut Lanes,
    ) = accumulate_body;
}

#[inline(always)]
fn accumulate_body(reference: &[f64], actual: &[f64], error: &[f64], lanes: &mut Lanes) {
    let (r_chunks, r_tail) = reference.as_chunks::<LANES>();
    let (a_chunks, a_tail) = actual.as_chunks::<LANES>();
    let (d_chunks, d_tail) = error.as_chunks::<LANES>();
    for ((r, a), d) in r_chunks.iter().zip(a_chunks).zip(d_chunks) {
        add_lanes(r, a, d, lanes);
    }
    let mut tail = [[0.0; LANES]; 3];
    tail[0][..r_tail.len()].copy_from_slice(r_tail);
    tail[1][..a_tail.len()].copy_from_slice(a_tail);
    tail[2][..d_tail.len()].copy_from_slice(d_tail);
    add_lanes(&tail[0], &tail[1], &tail[2], lanes);
}

#[inline(always)]
fn add_lanes(r: &[f64; LANES], a: &[f64; LANES], d: &[f64; LANES], lanes: &mut Lanes) {
    for i in 0..LANES {
        lanes.max[i] = if d[i] > lanes.max[i] {
            d[i]
        } else {
            lanes.max[i]
        };
        lanes.abs[i] += d[i];
        lanes.squared[i] += d[i] * d[i];
        lanes.reference[i] += r[i] * r[i];
        lanes.actual[i] += a[i] * a[i];
        lanes.dot[i] += r[i] * a[i];
    }
}

/// Finds the bin of an error without a logarithm: the exponent and two bits of the mantissa name a
/// cell that holds at most one edge, and one comparison settles on which side of it the error is.
struct BinTable {
    slot: [u8; CELLS],
    /// The upper edge of each slot; NaN for the last, which has none.
    upper: [f64; HISTOGRAM_LEN],
}

/// The cell of 2^-40, below the lowest edge.
const FIRST_CELL: u64 = (1023 - 40) << 2;
/// Up to the cell of 2^14, above the highest edge.
const CELLS: usize = 54 * 4 + 1;
const BELOW: usize = 1;

impl BinTable {
    fn get() -> &'static Self {
        static TABLE: OnceLock<BinTable> = OnceLock::new();
        TABLE.get_or_init(|| {
            let edges = histogram_edges();
            let slot = std::array::from_fn(|cell| {
                let low = f64::from_bits((FIRST_CELL + cell as u64) << 50);
                let passed = edges.iter().filter(|&&edge| edge <= low).count();
                (BELOW + passed) as u8
            });
            let upper = std::array::from_fn(|slot| match slot {
                0 => f64::NAN,
                slot => edges.get(slot - BELOW).copied().unwrap_or(f64::NAN),
            });
            Self { slot, upper }
        })
    }

    #[inline(always)]
    fn slot(&self, error: f64) -> usize {
        let cell = (error.to_bits() >> 50).clamp(FIRST_CELL, FIRST_CELL + CELLS as u64 - 1);
        let slot = usize::from(self.slot[(cell - FIRST_CELL) as usize]);
        let slot = slot + usize::from(error >= self.upper[slot]);
        if error == 0.0 { 0 } else { slot }
    }

    fn count(&self, errors: &[f64], histogram: &mut [[u64; HISTOGRAM_LEN]; 4]) {
        let (chunks, tail) = errors.as_chunks::<4>();
        for chunk in chunks {
            for (part, &error) in histogram.iter_mut().zip(chunk) {
                part[self.slot(error)] += 1;
            }
        }
        for &error in tail {
            histogram[0][self.slot(error)] += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FloatArray, View};

    fn f32s(data: &[f32]) -> Array<'_> {
        Array::Float(FloatArray::F32(View::from_slice(data, &[data.len()])))
    }

    fn noise(n: u32, seed: u32) -> Vec<f32> {
        (0..n)
            .map(|i| {
                let bits = i.wrapping_mul(2_654_435_761).wrapping_add(seed);
                (bits >> 7).cast_signed() as f32 * 1e-5 - 100.0
            })
            .collect()
    }

    #[test]
    fn every_edge_opens_its_own_bin() {
        let table = BinTable::get();
        for (k, &edge) in histogram_edges().iter().enumerate() {
            assert!((edge / 10_f64.powf(k as f64 / 4.0 - 12.0) - 1.0).abs() < 1e-14);
            assert_eq!(table.slot(edge), k + 2);
            assert_eq!(table.slot(edge.next_down()), k + 1);
        }
        assert_eq!(table.slot(0.0), 0);
        assert_eq!(table.slot(f64::from_bits(1)), BELOW);
        assert_eq!(table.slot(f64::INFINITY), HISTOGRAM_LEN - 1);
        assert_eq!(table.slot(f64::MAX), HISTOGRAM_LEN - 1);
    }

    #[test]
    fn sums_are_the_same_for_every_thread_count() {
        let (r, a) = (noise(500_001, 1), noise(500_001, 77));
        let one = error_sums(&f32s(&r), &f32s(&a), &mut Control::threads(1)).expect("one");
        for threads in 2..5 {
            let more = error_sums(&f32s(&r), &f32s(&a), &mut Control::threads(threads));
            assert_eq!(more.expect("more"), one);
        }
        let abs: f64 = r
            .iter()
            .zip(&a)
            .map(|(r, a)| f64::from(*r) - f64::from(*a))
            .map(f64::abs)
            .sum();
        assert!((one.abs / abs - 1.0).abs() < 1e-12);
        assert_eq!(one.histogram.iter().sum::<u64>(), one.compared);
    }

    #[test]
    fn nonfinite_positions_are_counted_and_left_out() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        let r = [1.0, nan, inf, 2.0, nan, inf, 3.0];
        let a = [1.5, nan, inf, nan, 0.0, -inf, 3.0];
        let sums = error_sums(&f32s(&r), &f32s(&a), &mut Control::threads(1)).expect("sums");
        assert_eq!((sums.count, sums.compared, sums.mismatched), (7, 2, 3));
        assert_eq!((sums.nan_reference, sums.nan_actual), (2, 2));
        assert_eq!((sums.inf_reference, sums.inf_actual), (2, 2));
        assert_eq!(
            (sums.max_abs, sums.abs, sums.squared, sums.dot),
            (0.5, 0.5, 0.25, 10.5)
        );
    }

    #[test]
    fn merging_adds_up() {
        let (r, a) = (noise(1000, 5), noise(1000, 9));
        let control = &mut Control::threads(1);
        let whole = error_sums(&f32s(&r), &f32s(&a), control).expect("whole");
        let mut sum = error_sums(&f32s(&r[..300]), &f32s(&a[..300]), control).expect("part");
        sum.merge(&error_sums(&f32s(&r[300..]), &f32s(&a[300..]), control).expect("part"));
        assert_eq!((sum.count, sum.histogram), (whole.count, whole.histogram));
        assert!((sum.squared / whole.squared - 1.0).abs() < 1e-12);
    }
}
