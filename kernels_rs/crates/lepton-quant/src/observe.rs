//! Histograms of values over bins whose width is a power of two.
//!
//! Width and place of the bins follow from the smallest and the largest value alone, and a wider
//! bin is the union of two narrower ones, so that the counts do not depend on the order in which
//! values, or parts of them, came together.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::array::Scratch;
use crate::parallel::{Grain, run};
use crate::range::extent_of;
use crate::value_bins::{Bins, Table, count_groups, lanes};
use crate::{Control, Error, FloatArray, Grid};

const GRAIN: Grain = Grain {
    items: 1 << 16,
    per_thread: 1 << 18,
};

/// The fewest and the most bins: the most so that an index fits 16 bits, the fewest so that the
/// width of a bin and its reciprocal are normal float32.
pub const VALUE_BINS: (usize, usize) = (16, 1 << 16);

const ABS: u32 = 0x7fff_ffff;
const INFINITY: u32 = 0x7f80_0000;

/// Counts of values; two of them merge, in any order, to the same.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueHistogram {
    /// Whether magnitudes are counted instead of values.
    pub magnitudes: bool,
    /// Finite values.
    pub count: u64,
    /// Values that are exactly 0 (also counted in their bin).
    pub zeros: u64,
    /// NaN.
    pub nan: u64,
    /// Positive infinities.
    pub positive_infinity: u64,
    /// Negative infinities.
    pub negative_infinity: u64,
    /// The smallest finite value (a zero is +0); +inf if there is none.
    pub min: f32,
    /// The largest finite value; -inf if there is none.
    pub max: f32,
    /// Where the bins lie; that of 0 if there is no finite value.
    pub grid: Grid,
    /// Finite values by bin.
    pub counts: Vec<u64>,
}

impl ValueHistogram {
    /// No values.
    ///
    /// # Errors
    /// [`Error::InvalidFormat`] if the number of bins lies outside of [`VALUE_BINS`].
    pub fn new(bins: usize, magnitudes: bool) -> Result<Self, Error> {
        let (least, most) = VALUE_BINS;
        if !(least..=most).contains(&bins) {
            let why = format!("bins is {bins}; accepted are {least} to {most}");
            return Err(Error::InvalidFormat(why));
        }
        Ok(Self {
            magnitudes,
            count: 0,
            zeros: 0,
            nan: 0,
            positive_infinity: 0,
            negative_infinity: 0,
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            grid: Grid::of(0.0, 0.0, bins),
            counts: vec![0; bins],
        })
    }

    /// The grid once the range reaches from `min` to `max`.
    fn grid_for(&self, min: f32, max: f32) -> Grid {
        let bins = self.counts.len();
        if self.magnitudes {
            return Grid::of(0.0, max.max(-min), bins);
        }
        Grid::of(min, max, bins)
    }

    /// Makes room for values from `min` to `max`.
    fn cover(&mut self, min: f32, max: f32) {
        self.min = self.min.min(min) + 0.0;
        self.max = self.max.max(max) + 0.0;
        let grid = self.grid_for(self.min, self.max);
        if grid != self.grid {
            let counts = std::mem::take(&mut self.counts);
            self.counts = vec![0; counts.len()];
            self.add_counts(self.grid, &counts, grid);
            self.grid = grid;
        }
    }

    fn add_counts(&mut self, from: Grid, counts: &[u64], to: Grid) {
        for (i, &count) in counts.iter().enumerate() {
            if count > 0 {
                self.counts[to.bin_of(from, i)] += count;
            }
        }
    }

    /// Adds what `other`, with as many bins of the same kind, has seen.
    ///
    /// # Panics
    /// If the numbers of bins differ.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(self.counts.len(), other.counts.len(), "bins");
        self.count += other.count;
        self.zeros += other.zeros;
        self.nan += other.nan;
        self.positive_infinity += other.positive_infinity;
        self.negative_infinity += other.negative_infinity;
        if other.count > 0 {
            self.cover(other.min, other.max);
            self.add_counts(other.grid, &other.counts, self.grid);
        }
    }
}

/// Counts the values of an array.
///
/// # Errors
/// [`Error::InvalidFormat`] as for [`ValueHistogram::new`], [`Error::Interrupted`].
pub fn value_histogram(
    x: &FloatArray<'_>,
    bins: usize,
    magnitudes: bool,
    control: &mut Control<'_>,
) -> Result<ValueHistogram, Error> {
    let empty = ValueHistogram::new(bins, magnitudes)?;
    let total = Mutex::new(empty.clone());
    let kernel = |state: &mut (Scratch, Counter), start: usize, piece: Range<usize>| {
        let (scratch, counter) = state;
        x.tiles(start, piece.len(), scratch, |_, x| counter.add(x));
    };
    let finish = |(_, mut counter): (Scratch, Counter)| {
        counter.flush();
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        total.merge(&counter.total);
    };
    let init = || (Scratch::default(), Counter::new(empty.clone()));
    run(control, 0..x.len(), &GRAIN, init, kernel, finish)?;
    Ok(total.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Values after which the counters may be full.
const CHUNK: usize = 8192;

/// What one thread keeps.
struct Counter {
    total: ValueHistogram,
    /// Counts since the last flush.
    table: Box<Table>,
    /// The most that a counter of the table can hold by now.
    pending: usize,
    /// Finite values of a tile that has others too.
    finite: Vec<f32>,
}

impl Counter {
    fn new(total: ValueHistogram) -> Self {
        let table = vec![0; size_of::<Table>() / size_of::<u32>()].into_boxed_slice();
        // A slice of exactly this length always converts.
        let table = table.try_into().unwrap_or_else(|_| unreachable!());
        Self {
            total,
            table,
            pending: 0,
            finite: Vec::new(),
        }
    }

    fn add(&mut self, x: &[f32]) {
        for x in x.chunks(CHUNK) {
            let counted = self.count(x);
            if counted < x.len() {
                self.add_beyond(&x[counted..]);
            }
        }
    }

    /// Counts values of which some are not finite or lie beyond those seen so far.
    #[cold]
    fn add_beyond(&mut self, x: &[f32]) {
        let extent = extent_of(x);
        if extent.magnitude >= INFINITY {
            return self.add_finite(x);
        }
        // Before the bins move.
        self.flush();
        self.total.cover(extent.min, extent.max);
        self.count(x);
    }

    #[cold]
    fn add_finite(&mut self, x: &[f32]) {
        for &x in x.iter().filter(|x| !x.is_finite()) {
            self.total.nan += u64::from(x.is_nan());
            self.total.positive_infinity += u64::from(x == f32::INFINITY);
            self.total.negative_infinity += u64::from(x == f32::NEG_INFINITY);
        }
        let mut finite = std::mem::take(&mut self.finite);
        finite.clear();
        finite.extend(x.iter().filter(|x| x.is_finite()));
        self.add(&finite);
        self.finite = finite;
    }

    /// Counts at most [`CHUNK`] values, up to the first group with one that is NaN or not between
    /// the smallest and the largest seen so far; answers how many.
    fn count(&mut self, x: &[f32]) -> usize {
        if self.total.min > self.total.max {
            return 0;
        }
        if self.pending + CHUNK > u32::MAX as usize {
            self.flush();
        }
        self.pending += CHUNK;
        let bins = Bins {
            min: self.total.min,
            max: self.total.max,
            mask: if self.total.magnitudes { ABS } else { !0 },
            grid: self.total.grid,
        };
        let (counted, zeros) = count_groups(x, bins, &mut self.table);
        self.total.count += counted as u64;
        self.total.zeros += u64::from(zeros);
        counted
    }

    fn flush(&mut self) {
        let bins = self.table.chunks_exact_mut(lanes());
        for (count, counters) in self.total.counts.iter_mut().zip(bins) {
            *count += counters.iter().map(|&n| u64::from(n)).sum::<u64>();
            counters.fill(0);
        }
        self.pending = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::View;

    fn histogram(x: &[f32], bins: usize, magnitudes: bool, threads: usize) -> ValueHistogram {
        let array = FloatArray::F32(View::from_slice(x, &[x.len()]));
        value_histogram(&array, bins, magnitudes, &mut Control::threads(threads)).expect("valid")
    }

    fn by_definition(x: &[f32], bins: usize, magnitudes: bool) -> (Grid, Vec<u64>) {
        let seen: Vec<f32> = x
            .iter()
            .filter(|x| x.is_finite())
            .map(|&x| if magnitudes { x.abs() } else { x })
            .collect();
        let start = if magnitudes { 0.0 } else { f32::INFINITY };
        let min = seen.iter().copied().fold(start, f32::min);
        let max = seen.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let grid = Grid::of(min, max, bins);
        let mut counts = vec![0; bins];
        for x in seen {
            let place = (f64::from(x) / f64::from(grid.exponent).exp2()).floor() as i32;
            counts[(place - grid.first) as usize] += 1;
        }
        (grid, counts)
    }

    fn samples() -> Vec<f32> {
        (0..700_001_u32)
            .map(|i| {
                let unit = (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 16_777_216.0 - 0.4;
                unit * unit * unit * (1.0 + i as f32 / 1000.0)
            })
            .collect()
    }

    #[test]
    fn equals_the_definition_for_every_thread_count() {
        let x = samples();
        for bins in [16, 100, 2048, 65536] {
            for magnitudes in [false, true] {
                let (grid, counts) = by_definition(&x, bins, magnitudes);
                for threads in 1..4 {
                    let got = histogram(&x, bins, magnitudes, threads);
                    assert_eq!(got.grid, grid);
                    assert_eq!(got.counts, counts);
                    assert_eq!(got.count, x.len() as u64);
                }
            }
        }
    }

    #[test]
    fn zeros_are_counted_in_their_bin() {
        let x: Vec<f32> = samples()
            .into_iter()
            .enumerate()
            .map(|(i, x)| match i / 10_000 % 4 {
                0 => x.max(0.0),
                1 => -0.0,
                2 if i % 97 == 0 => 0.0,
                3 if i % 301 == 0 => f32::NAN,
                _ => x,
            })
            .collect();
        let zeros = x.iter().filter(|&&x| x == 0.0).count() as u64;
        for magnitudes in [false, true] {
            let (grid, counts) = by_definition(&x, 2048, magnitudes);
            let got = histogram(&x, 2048, magnitudes, 1);
            assert_eq!((got.grid, got.counts, got.zeros), (grid, counts, zeros));
            let short = histogram(&x[..1_001], 2048, magnitudes, 1);
            assert_eq!(short.counts, by_definition(&x[..1_001], 2048, magnitudes).1);
        }
    }

    #[test]
    fn parts_merge_in_any_order() {
        let x = samples();
        let whole = histogram(&x, 2048, false, 1);
        let mut parts: Vec<_> = x.chunks(9_999).collect();
        for _ in 0..3 {
            parts.rotate_left(23);
            let mut sum = ValueHistogram::new(2048, false).expect("valid");
            for part in &parts {
                sum.merge(&histogram(part, 2048, false, 1));
            }
            assert_eq!(sum, whole);
        }
    }

    #[test]
    fn extremes_have_bins() {
        let tiny = f32::from_bits(1);
        for x in [
            vec![f32::MAX, -f32::MAX, tiny, -tiny, 0.0, -0.0],
            vec![tiny, -tiny],
            vec![1000.0, 1000.0_f32.next_up()],
            vec![-7.5],
            vec![0.0],
            vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -2.0, 3.0],
            vec![f32::NAN],
            vec![],
        ] {
            for bins in [16, 2048] {
                let got = histogram(&x, bins, false, 1);
                if got.count > 0 {
                    assert_eq!((got.grid, got.counts), by_definition(&x, bins, false));
                }
                let other = got.nan + got.positive_infinity + got.negative_infinity;
                assert_eq!(got.count + other, x.len() as u64);
            }
        }
        assert_eq!(histogram(&[0.0, -0.0, 1.0], 16, true, 1).zeros, 2);
        assert!(ValueHistogram::new(15, false).is_err());
    }

    #[test]
    fn many_equal_values_fit_the_counters() {
        let x = vec![0.25; 1_000_000];
        assert_eq!(histogram(&x, 64, false, 1).counts[0], 1_000_000);
    }
}
