//! Palettes: the few values that stand for all with the least squared error (1-D k-means).

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::affine::check_len;
use crate::array::Scratch;
use crate::kmeans::{Points, cluster};
use crate::parallel::{Grain, run};
use crate::{Control, Error, FloatArray};

const GRAIN: Grain = Grain {
    items: 1 << 16,
    per_thread: 1 << 19,
};

/// Values up to which every distinct one is a point of its own.
const SORTED: usize = 1 << 16;

/// Bits of a sorted key that name a cell: sign, exponent and eleven bits of the mantissa, so that a
/// cell is 2^-11 of its values wide at most.
const CELL_BITS: u32 = 20;

const SHIFT: u32 = 32 - CELL_BITS;

/// The palette of at most `entries` values, in ascending order; fewer if there are not as many
/// distinct ones.
///
/// # Errors
/// [`Error::InvalidFormat`] if `entries` is not 1 to 256, [`Error::Empty`],
/// [`Error::NonFiniteRange`] if a value is NaN or infinite, [`Error::Interrupted`].
pub fn palette(
    x: &FloatArray<'_>,
    entries: usize,
    control: &mut Control<'_>,
) -> Result<Vec<f32>, Error> {
    if !(1..=256).contains(&entries) {
        let why = format!("a palette has 1 to 256 entries, not {entries}");
        return Err(Error::InvalidFormat(why));
    }
    if x.is_empty() {
        return Err(Error::Empty);
    }
    let points = if x.len() <= SORTED {
        sorted_points(x)
    } else {
        cell_points(x, control)?
    };
    points.check()?;
    let centers = cluster(&points.points, entries);
    let mut palette: Vec<f32> = centers.into_iter().map(|center| center as f32).collect();
    palette.dedup();
    Ok(palette)
}

/// A bit pattern whose order as an integer is that of the floats.
#[inline(always)]
fn key(x: f32) -> u32 {
    let bits = x.to_bits();
    if bits >> 31 == 1 {
        !bits
    } else {
        bits | 1 << 31
    }
}

#[inline(always)]
fn value(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 {
        key & !(1 << 31)
    } else {
        !key
    })
}

struct Found {
    points: Points,
    nonfinite: usize,
    total: usize,
    first: usize,
}

impl Found {
    fn check(&self) -> Result<(), Error> {
        if self.nonfinite == 0 {
            return Ok(());
        }
        Err(Error::NonFiniteRange {
            unit: "values",
            count: self.nonfinite,
            total: self.total,
            first: self.first,
        })
    }
}

fn sorted_points(x: &FloatArray<'_>) -> Found {
    let mut keys = Vec::with_capacity(x.len());
    let mut found = Found {
        points: Points::default(),
        nonfinite: 0,
        total: x.len(),
        first: usize::MAX,
    };
    x.tiles(0, x.len(), &mut Scratch::default(), |offset, x| {
        for (i, &x) in x.iter().enumerate() {
            if x.is_finite() {
                // Both zeros are one value.
                keys.push(key(x + 0.0));
            } else {
                found.nonfinite += 1;
                found.first = found.first.min(offset + i);
            }
        }
    });
    keys.sort_unstable();
    for run in keys.chunk_by(|a, b| a == b) {
        found
            .points
            .push(f64::from(value(run[0])), run.len() as f64);
    }
    found
}

/// Counts by cell. Where the lower bits of all values are 0 (float16, bfloat16), a cell holds one
/// value; else its values count as its middle.
fn cell_points(x: &FloatArray<'_>, control: &mut Control<'_>) -> Result<Found, Error> {
    let total = Mutex::new((vec![0_u32; 1 << CELL_BITS], 0_u32, 0, usize::MAX));
    let init = || {
        (
            Scratch::default(),
            vec![0_u32; 1 << CELL_BITS],
            0_u32,
            0,
            usize::MAX,
        )
    };
    let kernel =
        |state: &mut (Scratch, Vec<u32>, u32, usize, usize), start: usize, piece: Range<usize>| {
            let (scratch, counts, lower, nonfinite, first) = state;
            x.tiles(start, piece.len(), scratch, |offset, x| {
                for (i, &x) in x.iter().enumerate() {
                    if !x.is_finite() {
                        *nonfinite += 1;
                        *first = (*first).min(start + offset + i);
                        continue;
                    }
                    let key = key(x + 0.0);
                    *lower |= x.to_bits() & ((1 << SHIFT) - 1);
                    let count = &mut counts[(key >> SHIFT) as usize];
                    *count = count.saturating_add(1);
                }
            });
        };
    let finish = |(_, counts, lower, nonfinite, first): (Scratch, Vec<u32>, u32, usize, usize)| {
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        for (total, count) in total.0.iter_mut().zip(counts) {
            *total = total.saturating_add(count);
        }
        total.1 |= lower;
        total.2 += nonfinite;
        total.3 = total.3.min(first);
    };
    run(control, 0..x.len(), &GRAIN, init, kernel, finish)?;
    let (counts, lower, nonfinite, first) =
        total.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut points = Points::default();
    for (cell, &count) in (0_u32..).zip(&counts) {
        if count > 0 {
            points.push(cell_value(cell, lower == 0), f64::from(count));
        }
    }
    Ok(Found {
        points,
        nonfinite,
        total: x.len(),
        first,
    })
}

fn cell_value(cell: u32, exact: bool) -> f64 {
    let ends = [cell << SHIFT, cell << SHIFT | ((1 << SHIFT) - 1)].map(value);
    // The end nearer to 0 has the lower bits 0.
    let near = if ends[0].abs() < ends[1].abs() {
        ends[0]
    } else {
        ends[1]
    };
    if exact {
        return f64::from(near);
    }
    (f64::from(ends[0]) + f64::from(ends[1])) / 2.0
}

/// Writes the index of the nearest entry of an ascending palette, of two equally near ones the
/// lower; answers the sum of squared errors, whose order of addition is fixed.
///
/// # Errors
/// [`Error::ShapeMismatch`] if `out` has another length, [`Error::InvalidFormat`] if the palette is
/// empty, too long or not ascending, [`Error::Interrupted`].
pub fn palette_indices(
    x: &FloatArray<'_>,
    palette: &[f32],
    out: &mut [u8],
    control: &mut Control<'_>,
) -> Result<f64, Error> {
    check_len(x.shape(), out.len())?;
    if !(1..=256).contains(&palette.len()) || !palette.is_sorted_by(|a, b| a < b) {
        let why = "a palette has 1 to 256 entries in ascending order".to_owned();
        return Err(Error::InvalidFormat(why));
    }
    let lookup = Lookup::new(palette);
    let sums = Mutex::new(vec![0.0; x.len().div_ceil(GRAIN.items)]);
    let kernel = |scratch: &mut Scratch, start: usize, out: &mut [u8]| {
        let mut sum = 0.0;
        x.tiles(start, out.len(), scratch, |offset, x| {
            for (out, &x) in out[offset..].iter_mut().zip(x) {
                let index = lookup.index(x);
                let error = f64::from(x) - f64::from(palette[index]);
                sum += error * error;
                *out = index as u8;
            }
        });
        sums.lock().unwrap_or_else(PoisonError::into_inner)[start / GRAIN.items] = sum;
    };
    run(control, out, &GRAIN, Scratch::default, kernel, drop)?;
    Ok(sums
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
        .sum())
}

/// Finds the nearest entry from the cell of a value: that of the cell's lower end, then on.
struct Lookup {
    /// By the upper bits of the key.
    first: Vec<u8>,
    /// Half way to the next entry; infinite after the last.
    middle: Vec<f64>,
}

/// Bits of a key that the table is indexed by: few, to keep it in the second-level cache.
const LOOKUP_BITS: u32 = 16;

impl Lookup {
    fn new(palette: &[f32]) -> Self {
        let mut middle: Vec<f64> = palette
            .windows(2)
            .map(|pair| (f64::from(pair[0]) + f64::from(pair[1])) / 2.0)
            .collect();
        middle.push(f64::INFINITY);
        let low = |cell: u32| {
            let low = f64::from(value(cell << (32 - LOOKUP_BITS)));
            // Keys of NaN lie beyond the infinities.
            if low.is_nan() { 0.0 } else { low }
        };
        let below = |x: f64| middle.partition_point(|&m| m < x) as u8;
        let first = (0..1 << LOOKUP_BITS).map(|cell| below(low(cell))).collect();
        Self { first, middle }
    }

    #[inline(always)]
    fn index(&self, x: f32) -> usize {
        let mut index = usize::from(self.first[(key(x) >> (32 - LOOKUP_BITS)) as usize]);
        while f64::from(x) > self.middle[index] {
            index += 1;
        }
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::View;

    fn noise(n: u32) -> Vec<f32> {
        (0..n)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 1e6 - 8.0)
            .map(|x| x * x * x)
            .collect()
    }

    #[test]
    fn keys_keep_the_order() {
        let mut x = noise(1000);
        x.sort_by(f32::total_cmp);
        assert!(x.iter().map(|&x| key(x)).is_sorted());
        assert!(x.iter().all(|&x| value(key(x)).to_bits() == x.to_bits()));
    }

    #[test]
    fn indices_are_the_nearest() {
        let x = noise(200_000);
        let array = FloatArray::F32(View::from_slice(&x, &[x.len()]));
        for entries in [1, 2, 7, 256] {
            let control = &mut Control::threads(1);
            let table = palette(&array, entries, control).expect("finite");
            assert_eq!(table.len(), entries);
            let mut index = vec![0; x.len()];
            let one = palette_indices(&array, &table, &mut index, control).expect("fits");
            let mut sum = 0.0;
            for (&x, &i) in x.iter().zip(&index) {
                let error = |entry: &f32| (f64::from(x) - f64::from(*entry)).abs();
                let least = table.iter().map(error).fold(f64::INFINITY, f64::min);
                assert_eq!(error(&table[usize::from(i)]), least);
                sum += least * least;
            }
            assert!((one / sum - 1.0).abs() < 1e-12);
            let control = &mut Control::threads(3);
            assert_eq!(palette(&array, entries, control).as_ref(), Ok(&table));
            let mut other = vec![0; x.len()];
            let more = palette_indices(&array, &table, &mut other, control);
            assert_eq!((more, other), (Ok(one), index));
        }
    }

    #[test]
    fn bad_values_are_named() {
        for n in [10, 100_000] {
            let mut x = noise(n);
            (x[3], x[7]) = (f32::NAN, f32::INFINITY);
            let array = FloatArray::F32(View::from_slice(&x, &[x.len()]));
            let result = palette(&array, 4, &mut Control::threads(2));
            let (unit, total) = ("values", n as usize);
            let want = Error::NonFiniteRange {
                unit,
                count: 2,
                total,
                first: 3,
            };
            assert_eq!(result, Err(want));
        }
    }
}
