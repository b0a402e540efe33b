//! Palettes: the few values that stand for all with the least squared error (1-D k-means).

use std::sync::{Mutex, PoisonError};

use crate::affine::check_len;
use crate::array::Scratch;
use crate::cells::{cell_points, key, value};
use crate::kmeans::{Points, cluster};
use crate::parallel::{Grain, run};
use crate::{Control, Error, FloatArray};

pub(crate) const GRAIN: Grain = Grain {
    items: 1 << 16,
    per_thread: 1 << 19,
};

/// Values up to which every distinct one is a point of its own.
const SORTED: usize = 1 << 16;

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

/// The points that a palette is made for, and what cannot be one.
pub(crate) struct Found {
    pub(crate) points: Points,
    pub(crate) nonfinite: usize,
    pub(crate) total: usize,
    pub(crate) first: usize,
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
    let lookup = Lookup::new(palette, x.len());
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
    /// By the upper bits of the key; empty where few values would not pay for it.
    first: Vec<u8>,
    /// Half way to the next entry; infinite after the last.
    middle: Vec<f64>,
}

/// Bits of a key that the table is indexed by: few, to keep it in the second-level cache.
const LOOKUP_BITS: u32 = 16;

/// Values from which filling the table takes less time than halving the palette for each.
const LOOKUP_PAYS: usize = 1 << 14;

impl Lookup {
    fn new(palette: &[f32], values: usize) -> Self {
        let mut middle: Vec<f64> = palette
            .windows(2)
            .map(|pair| (f64::from(pair[0]) + f64::from(pair[1])) / 2.0)
            .collect();
        middle.push(f64::INFINITY);
        if values < LOOKUP_PAYS {
            let first = Vec::new();
            return Self { first, middle };
        }
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
        let Some(&first) = self.first.get((key(x) >> (32 - LOOKUP_BITS)) as usize) else {
            return self.middle.partition_point(|&middle| middle < f64::from(x));
        };
        let mut index = usize::from(first);
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
    fn few_values_take_the_same_entries_as_many() {
        let mut x = noise(60_000);
        x.extend([0.0, -0.0, f32::MAX, f32::MIN, f32::from_bits(1)]);
        let array = FloatArray::F32(View::from_slice(&x, &[x.len()]));
        for entries in [1, 2, 7, 256] {
            let mut table = palette(&array, entries, &mut Control::threads(1)).expect("finite");
            if entries == 2 {
                table = vec![-1.0, 1.0]; // 0 lies half way
            }
            let many = Lookup::new(&table, LOOKUP_PAYS);
            let few = Lookup::new(&table, LOOKUP_PAYS - 1);
            assert!(few.first.is_empty() && !many.first.is_empty());
            assert!(x.iter().all(|&x| few.index(x) == many.index(x)));
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
