//! How well rows of scores agree: divergence of their softmax, and which are the largest.

use std::cmp::Ordering;
use std::sync::{Mutex, PoisonError};

use crate::array::Scratch;
use crate::parallel::{Grain, run};
use crate::simd::multiversion;
use crate::threshold::ln;
use crate::{Array, Control, Error};

/// Independent partial sums of a row.
const LANES: usize = 8;

/// Values below which a further thread costs more than it gives.
const VALUES_PER_THREAD: usize = 1 << 15;

/// What one row says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowAgreement {
    /// The Kullback-Leibler divergence of the softmax of the actual row from that of the reference,
    /// in nats; NaN if a row holds NaN or +infinity, or nothing above -infinity.
    pub divergence: f64,
    /// Whether both rows have their largest value in the same place (of equal ones the first).
    pub same_top: bool,
    /// How many of the `k` largest of one row are among those of the other.
    pub shared: usize,
}

/// Compares two arrays row by row along the last axis.
///
/// # Errors
/// [`Error::ShapeMismatch`], [`Error::InvalidFormat`] if `k` is 0 or beyond the length of a row,
/// [`Error::Interrupted`].
pub fn row_agreement(
    reference: &Array<'_>,
    actual: &Array<'_>,
    k: usize,
    control: &mut Control<'_>,
) -> Result<Vec<RowAgreement>, Error> {
    if reference.shape() != actual.shape() {
        return Err(Error::ShapeMismatch {
            expected: reference.shape().to_vec(),
            given: actual.shape().to_vec(),
        });
    }
    let n = reference.shape().last().copied().unwrap_or(1);
    let rows: usize = reference.shape().iter().rev().skip(1).product();
    if k == 0 || k > n {
        return Err(Error::InvalidFormat(format!(
            "k is {k}; accepted are 1 to {n}, the length of a row"
        )));
    }
    let found = Mutex::new(vec![None; rows]);
    let grain = Grain {
        items: (VALUES_PER_THREAD / n).max(1),
        per_thread: (VALUES_PER_THREAD / n).max(1),
    };
    let kernel = |worker: &mut Worker, first: usize, piece: std::ops::Range<usize>| {
        let rows: Vec<_> = (first..first + ExactSizeIterator::len(&piece))
            .map(|row| worker.row(reference, actual, row * n, n, k))
            .collect();
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        for (to, row) in found[first..].iter_mut().zip(rows) {
            *to = Some(row);
        }
    };
    run(control, 0..rows, &grain, Worker::default, kernel, drop)?;
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(found.into_iter().flatten().collect())
}

/// What one thread keeps.
#[derive(Default)]
struct Worker {
    scratch: Scratch,
    buffer: Vec<f64>,
    rows: [Vec<f64>; 2],
    best: [Vec<(f64, usize)>; 2],
}

impl Worker {
    fn row(
        &mut self,
        reference: &Array<'_>,
        actual: &Array<'_>,
        start: usize,
        n: usize,
        k: usize,
    ) -> RowAgreement {
        self.buffer.resize(n, 0.0);
        for (array, row) in [reference, actual].into_iter().zip(&mut self.rows) {
            let tile = array.tile(start, &mut self.buffer, &mut self.scratch);
            tile.copy_to(row);
        }
        let mut tops = [0.0; 2];
        for ((row, best), top) in self.rows.iter().zip(&mut self.best).zip(&mut tops) {
            *top = if has_nan(row) {
                f64::NAN
            } else {
                largest(row, k, best);
                best[0].0
            };
        }
        let [r, a] = &self.rows;
        let [best_r, best_a] = &mut self.best;
        if !tops.iter().all(|top| top.is_finite()) {
            return RowAgreement {
                divergence: f64::NAN,
                same_top: false,
                shared: 0,
            };
        }
        let same_top = best_r[0].1 == best_a[0].1;
        best_r.sort_unstable_by_key(|&(_, place)| place);
        let is_in_r = |place| best_r.binary_search_by_key(&place, |&(_, at)| at).is_ok();
        RowAgreement {
            divergence: divergence(r, a, tops),
            same_top,
            shared: best_a.iter().filter(|(_, place)| is_in_r(*place)).count(),
        }
    }
}

multiversion! {
    fn has_nan(row: &[f64]) -> bool = has_nan_body;
}

#[inline(always)]
fn has_nan_body(row: &[f64]) -> bool {
    row.iter().fold(false, |found, x| found | x.is_nan())
}

/// The `k` largest values and their places, the largest first, of equal ones the first.
fn largest(row: &[f64], k: usize, best: &mut Vec<(f64, usize)>) {
    best.clear();
    best.extend(row[..k].iter().copied().zip(0..));
    // The sort is stable, so that equal ones keep their order.
    best.sort_by(|(one, _), (other, _)| other.partial_cmp(one).unwrap_or(Ordering::Equal));
    let mut place = k;
    while let Some(next) = next_above(&row[place..], best[k - 1].0) {
        let at = place + next;
        let x = row[at];
        best.pop();
        let rank = best.partition_point(|&(other, _)| other >= x);
        best.insert(rank, (x, at));
        place = at + 1;
    }
}

multiversion! {
    /// The place of the first value above a limit.
    fn next_above(row: &[f64], limit: f64) -> Option<usize> = next_above_body;
}

#[inline(always)]
fn next_above_body(row: &[f64], limit: f64) -> Option<usize> {
    const STEP: usize = 32;
    let is_above = |x: &f64| *x > limit;
    // Whole steps without a branch; most hold nothing.
    let steps = row.chunks(STEP);
    for (i, step) in steps.enumerate() {
        if step.iter().fold(false, |found, x| found | is_above(x)) {
            let within = step.iter().position(is_above)?;
            return Some(i * STEP + within);
        }
    }
    None
}

/// The divergence of two rows whose largest values are known.
fn divergence(r: &[f64], a: &[f64], tops: [f64; 2]) -> f64 {
    let (z_r, z_a, cross) = exponentials(r, a, tops);
    let value = cross / z_r - ln(z_r) + ln(z_a);
    if value > 0.0 { value } else { 0.0 }
}

multiversion! {
    /// The sums of both rows' exponentials, and of the first's times the difference of the two.
    fn exponentials(r: &[f64], a: &[f64], tops: [f64; 2]) -> (f64, f64, f64) = exponentials_body;
}

#[inline(always)]
fn exponentials_body(r: &[f64], a: &[f64], tops: [f64; 2]) -> (f64, f64, f64) {
    let mut sums = [[0.0; LANES]; 3];
    let mut part = Part::default();
    for (r, a) in r.chunks(PART).zip(a.chunks(PART)) {
        part.fill(r, a, tops);
        part.add(r.len().div_ceil(LANES), &mut sums);
    }
    let [p, q, cross] = sums.map(|lanes| lanes.iter().sum());
    (p, q, cross)
}

/// Values whose exponentials are taken at once: long loops become vector loops.
const PART: usize = 128;

/// Exponentials of consecutive values of both rows, and the first times the difference of the two.
struct Part {
    p: [f64; PART],
    q: [f64; PART],
    cross: [f64; PART],
}

impl Default for Part {
    fn default() -> Self {
        Self {
            p: [0.0; PART],
            q: [0.0; PART],
            cross: [0.0; PART],
        }
    }
}

impl Part {
    #[inline(always)]
    fn fill(&mut self, r: &[f64], a: &[f64], tops: [f64; 2]) {
        let n = r.len();
        let outputs = self.p.iter_mut().zip(&mut self.q).zip(&mut self.cross);
        for ((r, a), ((p, q), cross)) in r.iter().zip(a).zip(outputs) {
            let (x, y) = (r - tops[0], a - tops[1]);
            (*p, *q) = (exp(x), exp(y));
            let product = *p * (x - y);
            *cross = if *p > 0.0 { product } else { 0.0 };
        }
        // What lies beyond the end has no share in either softmax.
        let beyond = n.next_multiple_of(LANES);
        for values in [&mut self.p, &mut self.q, &mut self.cross] {
            values[n..beyond].fill(0.0);
        }
    }

    #[inline(always)]
    fn add(&self, groups: usize, sums: &mut [[f64; LANES]; 3]) {
        for (values, sums) in [&self.p, &self.q, &self.cross].into_iter().zip(sums) {
            for group in &values.as_chunks::<LANES>().0[..groups] {
                for (sum, value) in sums.iter_mut().zip(group) {
                    *sum += value;
                }
            }
        }
    }
}

/// `1 / k!`.
const FACTORIALS: [f64; 14] = [
    1.0,
    1.0,
    1.0 / 2.0,
    1.0 / 6.0,
    1.0 / 24.0,
    1.0 / 120.0,
    1.0 / 720.0,
    1.0 / 5040.0,
    1.0 / 40320.0,
    1.0 / 362_880.0,
    1.0 / 3_628_800.0,
    1.0 / 39_916_800.0,
    1.0 / 479_001_600.0,
    1.0 / 6_227_020_800.0,
];

/// The exponential of a number up to 0, to about two units in the last place, the same on every
/// processor; 0 below -708.
#[inline(always)]
fn exp(x: f64) -> f64 {
    const MAGIC: f64 = 6_755_399_441_055_744.0;
    // The upper half of ln 2 ends in zeros, so that its multiples are exact.
    const LN_2_HIGH: f64 = f64::from_bits(0x3fe6_2e42_fee0_0000);
    const LN_2_LOW: f64 = f64::from_bits(0x3dea_39ef_3579_3c76);
    let inside = if x > -708.0 { x } else { -708.0 };
    let sum = inside * std::f64::consts::LOG2_E + MAGIC;
    let power = sum - MAGIC;
    let rest = (inside - power * LN_2_HIGH) - power * LN_2_LOW;
    let series = FACTORIALS
        .iter()
        .rev()
        .fold(0.0, |sum, term| sum * rest + term);
    let exponent = sum.to_bits().wrapping_sub(MAGIC.to_bits());
    let value = f64::from_bits(series.to_bits().wrapping_add(exponent << 52));
    if x > -708.0 { value } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FloatArray, View};

    #[test]
    fn the_exponential_is_one() {
        for i in 0..70_000 {
            let x = -f64::from(i) / 100.0;
            let error = (exp(x) / x.exp() - 1.0).abs();
            assert!(error < 6e-16, "{x} {error}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f64::NEG_INFINITY), 0.0);
    }

    #[test]
    fn the_first_of_equal_ones_comes_first() {
        let mut row: Vec<f64> = (0..100).map(|i| f64::from(i * 37 % 50)).collect();
        (row[3], row[4], row[70]) = (-0.0, 0.0, f64::NEG_INFINITY);
        let mut best = Vec::new();
        for k in [1, 2, 10, 99, 100] {
            largest(&row, k, &mut best);
            let mut want: Vec<(f64, usize)> = row.iter().copied().zip(0..).collect();
            want.sort_by(|one, other| other.0.partial_cmp(&one.0).expect("no NaN"));
            assert_eq!(best, want[..k]);
        }
    }

    #[test]
    fn rows_are_compared() {
        let nan = f32::NAN;
        let masked = f32::NEG_INFINITY;
        let r = [
            1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 1.0, nan, 0.0, masked, 1.0, 2.0,
        ];
        let a = [
            1.0, 3.0, 2.0, 0.0, 0.0, 0.0, 1.0, 2.0, 0.0, masked, 1.0, 2.0,
        ];
        let array = |x| Array::Float(FloatArray::F32(View::from_slice(x, &[4, 3])));
        let control = &mut Control::threads(1);
        let rows = row_agreement(&array(&r), &array(&a), 2, control).expect("fits");
        let z = 1.0 + (-1.0_f64).exp() + (-2.0_f64).exp();
        let want = (1.0 - (-1.0_f64).exp()) / z;
        assert!((rows[0].divergence - want).abs() < 1e-15);
        assert_eq!((rows[0].same_top, rows[0].shared), (false, 2));
        let same = RowAgreement {
            divergence: 0.0,
            same_top: true,
            shared: 2,
        };
        assert_eq!((rows[1], rows[3]), (same, same));
        assert!(rows[2].divergence.is_nan() && rows[2].shared == 0);
        assert!(row_agreement(&array(&r), &array(&a), 4, control).is_err());
    }
}
