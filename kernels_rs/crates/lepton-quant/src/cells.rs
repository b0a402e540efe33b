//! Many values as few points: cells of values that lie close together, each at its mean.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::array::Scratch;
use crate::kmeans::Points;
use crate::palette::{Found, GRAIN};
use crate::parallel::run;
use crate::{Control, Error, FloatArray};

/// Bits of a key below those that name a cell: sign, exponent and eleven bits of the mantissa do, so
/// that a cell is 2^-11 of its values wide at most.
const SHIFT: u32 = 12;

/// Cells at most.
const CELLS: usize = 1 << (32 - SHIFT);

/// Points below which smaller cells are tried.
const FEW: usize = 4096;

/// Bits of a cell that count its values; the others add up where they lie in it.
const COUNT_BITS: u32 = 26;

/// Values until a cell may be full.
const FULL: usize = 1 << (COUNT_BITS - 1);

/// A bit pattern whose order as an integer is that of the floats.
#[inline(always)]
pub(crate) fn key(x: f32) -> u32 {
    let bits = x.to_bits();
    if bits >> 31 == 1 {
        !bits
    } else {
        bits | 1 << 31
    }
}

#[inline(always)]
pub(crate) fn value(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 {
        key & !(1 << 31)
    } else {
        !key
    })
}

/// Which keys share a cell: from `first`, a multiple of 2^[`SHIFT`], on those that differ in `shift`
/// lower bits alone. So sign and exponent are one, and values lie evenly.
#[derive(Clone, Copy)]
struct Cut {
    first: u32,
    shift: u32,
    cells: usize,
}

impl Cut {
    const ALL: Self = Self {
        first: 0,
        shift: SHIFT,
        cells: CELLS,
    };

    /// Cells as small as there is room for between two of [`Cut::ALL`].
    fn between(first: usize, last: usize) -> Self {
        let count = last - first + 1;
        let mut shift = SHIFT;
        while shift > 0 && count << (SHIFT - shift + 1) <= CELLS {
            shift -= 1;
        }
        Self {
            first: (first as u32) << SHIFT,
            shift,
            cells: count << (SHIFT - shift),
        }
    }

    fn mask(self) -> u32 {
        (1 << self.shift) - 1
    }

    /// The value at a mean distance in keys from the start of a cell.
    fn value(self, cell: usize, distance: f64) -> f64 {
        let start = self.first + ((cell as u32) << self.shift);
        let from = f64::from(value(start));
        if self.shift == 0 {
            return from;
        }
        let step = (f64::from(value(start | self.mask())) - from) / f64::from(self.mask());
        from + distance * step
    }
}

/// What lies in a cell: the number of values, and the sum of their distances from its start in keys.
#[derive(Clone, Copy, Default)]
struct Cell {
    count: u64,
    distance: u64,
}

/// What one thread keeps: both numbers of a cell in one word.
struct Counter {
    scratch: Scratch,
    packed: Vec<u64>,
    pending: usize,
    nonfinite: usize,
    first: usize,
}

impl Counter {
    fn new(cells: usize) -> Self {
        Self {
            scratch: Scratch::default(),
            packed: vec![0; cells],
            pending: 0,
            nonfinite: 0,
            first: usize::MAX,
        }
    }

    fn add(&mut self, x: &FloatArray<'_>, piece: Range<usize>, cut: Cut) {
        let start = piece.start;
        let packed = &mut self.packed[..];
        let (nonfinite, first) = (&mut self.nonfinite, &mut self.first);
        x.tiles(start, piece.len(), &mut self.scratch, |offset, x| {
            for (i, &x) in x.iter().enumerate() {
                if !x.is_finite() {
                    *nonfinite += 1;
                    *first = (*first).min(start + offset + i);
                    continue;
                }
                // Both zeros are one value.
                let key = key(x + 0.0).wrapping_sub(cut.first);
                let distance = u64::from(key & cut.mask());
                let cell = &mut packed[(key >> cut.shift) as usize];
                *cell = cell.wrapping_add(1 | distance << COUNT_BITS);
            }
        });
    }

    fn flush(&mut self, cells: &Mutex<Vec<Cell>>) {
        let mut cells = cells.lock().unwrap_or_else(PoisonError::into_inner);
        for (cell, packed) in cells.iter_mut().zip(&mut self.packed) {
            cell.count += *packed & ((1 << COUNT_BITS) - 1);
            cell.distance += *packed >> COUNT_BITS;
            *packed = 0;
        }
        self.pending = 0;
    }
}

/// The cells that are not empty, at the means of their values. Sums of integers do not depend on the
/// order of the threads, and are exact where a cell holds one value alone, as those of float16 and
/// bfloat16 do.
pub(crate) fn cell_points(x: &FloatArray<'_>, control: &mut Control<'_>) -> Result<Found, Error> {
    let (cells, nonfinite, first) = count_cells(x, Cut::ALL, control)?;
    let mut points = points_of(&cells, Cut::ALL);
    let ends = (
        cells.iter().position(|cell| cell.count > 0),
        cells.iter().rposition(|cell| cell.count > 0),
    );
    if let (FloatArray::F32(_), (Some(low), Some(high)), 0) = (x, ends, nonfinite) {
        let cut = Cut::between(low, high);
        // Values in a narrow range, far from 0.
        if points.len() <= FEW && cut.shift < SHIFT {
            points = points_of(&count_cells(x, cut, control)?.0, cut);
        }
    }
    Ok(Found {
        points,
        nonfinite,
        total: x.len(),
        first,
    })
}

/// The cells, the number of values that are not finite, and the place of the first of them.
fn count_cells(
    x: &FloatArray<'_>,
    cut: Cut,
    control: &mut Control<'_>,
) -> Result<(Vec<Cell>, usize, usize), Error> {
    let cells = Mutex::new(vec![Cell::default(); cut.cells]);
    let beyond = Mutex::new((0, usize::MAX));
    let kernel = |counter: &mut Counter, start: usize, piece: Range<usize>| {
        let len = ExactSizeIterator::len(&piece);
        if counter.pending + len > FULL {
            counter.flush(&cells);
        }
        counter.pending += len;
        counter.add(x, start..start + len, cut);
    };
    let finish = |mut counter: Counter| {
        counter.flush(&cells);
        let mut beyond = beyond.lock().unwrap_or_else(PoisonError::into_inner);
        beyond.0 += counter.nonfinite;
        beyond.1 = counter.first.min(beyond.1);
    };
    let init = || Counter::new(cut.cells);
    run(control, 0..x.len(), &GRAIN, init, kernel, finish)?;
    let (nonfinite, first) = beyond.into_inner().unwrap_or_else(PoisonError::into_inner);
    let cells = cells.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok((cells, nonfinite, first))
}

fn points_of(cells: &[Cell], cut: Cut) -> Points {
    let mut points = Points::default();
    for (i, cell) in cells.iter().enumerate().filter(|(_, cell)| cell.count > 0) {
        let count = cell.count as f64;
        points.push(cut.value(i, cell.distance as f64 / count), count);
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{View, palette};

    #[test]
    fn keys_keep_the_order() {
        let mut x: Vec<f32> = (0..1000_u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 1e6 - 8.0)
            .collect();
        x.sort_by(f32::total_cmp);
        assert!(x.iter().map(|&x| key(x)).is_sorted());
        assert!(x.iter().all(|&x| value(key(x)).to_bits() == x.to_bits()));
    }

    fn palette_of(values: &[f32], threads: usize) -> Vec<f32> {
        let x: Vec<f32> = values.iter().copied().cycle().take(300_001).collect();
        let array = FloatArray::F32(View::from_slice(&x, &[x.len()]));
        palette(&array, 16, &mut Control::threads(threads)).expect("finite")
    }

    #[test]
    fn few_values_are_exact_among_many() {
        let tiny = f32::from_bits(1);
        for values in [
            vec![0.1],
            vec![-0.0131, 0.0, 0.0131],
            vec![f32::MIN, -1e-30, 0.0, 1e-30, 0.3, f32::MAX],
            vec![1.0, 1.0_f32.next_up(), 1.0_f32.next_up().next_up(), 1.01],
            vec![(-7.0_f32).next_down(), -7.0],
            vec![-tiny, 0.0, tiny],
        ] {
            for threads in [1, 3] {
                assert_eq!(palette_of(&values, threads), values);
            }
        }
    }

    #[test]
    fn a_cell_takes_as_many_values_as_there_are() {
        let mut counter = Counter::new(1);
        let cells = Mutex::new(vec![Cell::default()]);
        // The most that one word holds between two flushes.
        let mask = u64::from(Cut::ALL.mask());
        counter.packed[0] = FULL as u64 + ((FULL as u64 * mask) << COUNT_BITS);
        counter.flush(&cells);
        let cell = cells.lock().expect("one thread")[0];
        assert_eq!(cell.count, FULL as u64);
        assert_eq!(cell.distance, FULL as u64 * mask);
    }
}
