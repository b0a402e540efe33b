//! Parity metrics of two arrays in one pass, mergeable over batches and processes.

use std::sync::{Mutex, PoisonError};

use crate::array::Scratch;
use crate::compare::{Lanes, Sums, compare, compare_tiles};
use crate::histogram::{Bins, Counters};
use crate::parallel::{Grain, run};
use crate::{Array, Control, Error, HISTOGRAM_LEN};

/// Values summed before their sum joins the total. It fixes the order of every addition, whatever
/// the number of threads.
const BLOCK: usize = 1 << 16;

/// Values compared at once; the buffers fit the first-level cache.
const TILE: usize = 1024;

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
    /// The largest magnitude of the reference among the compared positions.
    pub reference_max: f64,
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
    /// Counts of absolute errors, see [`crate::histogram_edges`].
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
            reference_max: 0.0,
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
        self.reference_max = self.reference_max.max(other.reference_max);
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
    let bins = Bins::get();
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
        total.merge_counts(&worker.counts);
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

/// What one thread keeps.
struct Worker {
    scratch: [Scratch; 2],
    reference: Vec<f64>,
    actual: Vec<f64>,
    error: Vec<f64>,
    counts: ErrorSums,
    histogram: Counters,
}

impl Worker {
    fn new() -> Self {
        Self {
            scratch: Default::default(),
            reference: vec![0.0; TILE],
            actual: vec![0.0; TILE],
            error: vec![0.0; TILE],
            counts: ErrorSums::default(),
            histogram: Counters::default(),
        }
    }

    fn block(
        &mut self,
        reference: &Array<'_>,
        actual: &Array<'_>,
        start: usize,
        len: usize,
        bins: &Bins,
    ) -> Sums {
        let mut lanes = Lanes::default();
        for offset in (0..len).step_by(TILE) {
            let n = TILE.min(len - offset);
            let at = start + offset;
            let [first, second] = &mut self.scratch;
            let r = reference.tile(at, &mut self.reference[..n], first);
            let a = actual.tile(at, &mut self.actual[..n], second);
            let error = &mut self.error[..n];
            self.counts.count += n as u64;
            let before = lanes;
            let kept = if compare_tiles(&r, &a, error, &mut lanes) {
                n
            } else {
                // Rare: begin the tile again without the positions that are not finite.
                lanes = before;
                let (r, a) = (r.to_f64(), a.to_f64());
                self.counts.compare_finite(r, a, error, &mut lanes)
            };
            self.counts.compared += kept as u64;
            bins.count(&error[..kept], &mut self.histogram);
        }
        bins.flush(&mut self.histogram, &mut self.counts.histogram);
        let max = lanes.max.iter().copied().fold(0.0, f64::max);
        self.counts.max_abs = self.counts.max_abs.max(max);
        let top = lanes.top.iter().copied().fold(0.0, f64::max);
        self.counts.reference_max = self.counts.reference_max.max(top);
        lanes.sums()
    }
}

impl ErrorSums {
    /// Compares the positions at which both sides are finite, counts the others, and answers how
    /// many were compared.
    #[cold]
    fn compare_finite(
        &mut self,
        mut reference: Vec<f64>,
        mut actual: Vec<f64>,
        error: &mut [f64],
        lanes: &mut Lanes,
    ) -> usize {
        let mut kept = 0;
        for i in 0..reference.len() {
            let (r, a) = (reference[i], actual[i]);
            if r.is_finite() && a.is_finite() {
                reference[kept] = r;
                actual[kept] = a;
                kept += 1;
            } else {
                self.count_nonfinite(r, a);
            }
        }
        // float64 values may still differ by more than float64 holds: that error is infinite.
        compare(
            &reference[..kept],
            &actual[..kept],
            &mut error[..kept],
            lanes,
        );
        kept
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
