//! Exact order statistics of many rows that fit a cache: limits that clip their tails.

use crate::array::Scratch;
use crate::parallel::{Grain, run};
use crate::select::{ABS, INFINITY};
use crate::simd::multiversion;
use crate::symmetric::BadChannels;
use crate::{Control, Error, FloatArray};

const GRAIN_VALUES: usize = 1 << 16;
const VALUES_PER_THREAD: usize = 1 << 17;

/// Of each row of `size` values, in C order, number `size + 1 - rank` and number `rank` in ascending
/// order; with `magnitudes` 0 and number `rank` of the magnitudes.
///
/// # Errors
/// [`Error::InvalidFormat`] if there is no such number, [`Error::ParameterLength`] if `limits` are
/// not one pair for each row, [`Error::NonFiniteRange`] if a row holds NaN, [`Error::Interrupted`].
pub fn row_limits(
    x: &FloatArray<'_>,
    (size, rank): (usize, usize),
    magnitudes: bool,
    limits: &mut [[f32; 2]],
    control: &mut Control<'_>,
) -> Result<(), Error> {
    let least = if magnitudes { 1 } else { size / 2 + 1 };
    if !(least..=size).contains(&rank) {
        return Err(Error::InvalidFormat(format!(
            "rank is {rank}; accepted are {least} to {size}"
        )));
    }
    let rows = x.len() / size;
    if limits.len() != rows {
        return Err(Error::ParameterLength {
            name: "limits",
            expected: rows,
            given: limits.len(),
        });
    }
    let bad = BadChannels::default();
    let grain = Grain {
        items: (GRAIN_VALUES / size).max(1),
        per_thread: (VALUES_PER_THREAD / size).max(1),
    };
    let kernel = |state: &mut (Scratch, Vec<i32>), first: usize, limits: &mut [[f32; 2]]| {
        let (scratch, keys) = state;
        keys.resize(size, 0);
        for (row, limits) in (first..).zip(limits) {
            let x = x.tile(row * size, size, scratch);
            if keys_of(x, magnitudes, keys) > INFINITY.cast_signed() {
                bad.note(row);
                continue;
            }
            *limits = pair(keys, rank, magnitudes);
        }
    };
    run(control, limits, &grain, Default::default, kernel, drop)?;
    bad.check(rows, "channels")
}

/// The values of the two ranks; `keys` are reordered.
fn pair(keys: &mut [i32], rank: usize, magnitudes: bool) -> [f32; 2] {
    let lower = keys.len() - rank;
    let (below, &mut high, _) = keys.select_nth_unstable(rank - 1);
    if magnitudes {
        return [0.0, value(high)];
    }
    let low = if lower < below.len() {
        *below.select_nth_unstable(lower).1
    } else {
        high
    };
    [value(low), value(high)]
}

/// Integers in the order of the values; a negative float is the larger the smaller its bits are.
#[inline(always)]
fn key(bits: i32) -> i32 {
    bits ^ ((bits >> 31).cast_unsigned() >> 1).cast_signed()
}

fn value(found: i32) -> f32 {
    f32::from_bits(key(found).cast_unsigned())
}

multiversion! {
    /// Writes the keys of values or magnitudes; answers the largest magnitude as bits.
    fn keys_of(x: &[f32], magnitudes: bool, keys: &mut [i32]) -> i32 = keys_of_body;
}

#[inline(always)]
fn keys_of_body(x: &[f32], magnitudes: bool, keys: &mut [i32]) -> i32 {
    let mut largest = 0;
    for (to, x) in keys.iter_mut().zip(x) {
        let magnitude = (x.to_bits() & ABS).cast_signed();
        largest = magnitude.max(largest);
        *to = if magnitudes {
            magnitude
        } else {
            key(x.to_bits().cast_signed())
        };
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::View;

    #[test]
    fn rows_have_the_limits_of_their_sorted_values() {
        let x: Vec<f32> = (0..300_000_u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 9) as f32 / 64.0 - 6e4)
            .collect();
        for (size, rank) in [(1, 1), (2, 2), (3, 2), (300, 151), (300, 300)] {
            let rows = x.len() / size;
            let array = FloatArray::F32(View::from_slice(&x, &[rows, size]));
            for (magnitudes, rank) in [(false, rank), (true, rank), (true, 1)] {
                let mut limits = vec![[f32::NAN; 2]; rows];
                let control = &mut Control::threads(3);
                row_limits(&array, (size, rank), magnitudes, &mut limits, control).expect("finite");
                for (row, limits) in x.chunks(size).zip(limits) {
                    let mut order = row.to_vec();
                    if magnitudes {
                        order.iter_mut().for_each(|x| *x = x.abs());
                    }
                    order.sort_unstable_by(f32::total_cmp);
                    let low = if magnitudes { 0.0 } else { order[size - rank] };
                    assert_eq!(limits, [low, order[rank - 1]]);
                }
            }
        }
    }

    #[test]
    fn nan_and_ranks_that_do_not_exist_are_refused() {
        let x = [1.0, 2.0, -f32::NAN, 3.0];
        let array = FloatArray::F32(View::from_slice(&x, &[2, 2]));
        let mut limits = [[0.0; 2]; 2];
        let control = &mut Control::threads(1);
        let found = row_limits(&array, (2, 2), false, &mut limits, control);
        assert!(matches!(
            found,
            Err(Error::NonFiniteRange {
                first: 1,
                count: 1,
                ..
            })
        ));
        for (size, rank) in [(2, 3), (2, 1), (2, 0), (0, 0)] {
            let magnitudes = rank == 0;
            let found = row_limits(&array, (size, rank), magnitudes, &mut limits, control);
            assert!(matches!(found, Err(Error::InvalidFormat(_))));
        }
        let found = row_limits(&array, (4, 4), false, &mut limits, control);
        assert!(matches!(found, Err(Error::ParameterLength { .. })));
    }
}
