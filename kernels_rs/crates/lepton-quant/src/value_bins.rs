//! The bins of values, found and counted in one go.

use std::hint::black_box;

use crate::Grid;
use crate::simd::{multiversion, prefetch_later};

/// Neighbouring values often share a bin; four counters for each spare one the wait for the other.
pub(crate) const LANES: usize = 4;

/// Values whose bins are found while those before them are counted.
pub(crate) const GROUP: usize = 32;

/// Values between one that is counted and one that is fetched from memory: those of a page.
const AHEAD: usize = 1024;

/// As many entries as an index of 16 bits can name, so that none needs a check; memory that is
/// never touched costs nothing. Counters of 32 bits are counted up faster than those of 16.
pub(crate) type Table = [[u32; LANES]; 1 << 16];

/// Where values go.
#[derive(Clone, Copy)]
pub(crate) struct Bins {
    /// The smallest and the largest value that the grid is made for.
    pub(crate) min: f32,
    pub(crate) max: f32,
    /// What may rid values of their sign.
    pub(crate) mask: u32,
    pub(crate) grid: Grid,
}

multiversion! {
    /// Counts values up to the first group with one that `bins` does not hold; answers how many, and
    /// how many of them are 0.
    pub(crate) fn count_groups(x: &[f32], bins: Bins, table: &mut Table) -> (usize, u32)
        = count_groups_body;
}

#[inline(always)]
fn count_groups_body(x: &[f32], bins: Bins, table: &mut Table) -> (usize, u32) {
    let mut zeros = 0_u32;
    let (groups, tail) = x.as_chunks::<GROUP>();
    // The processor finds the bins of a group while it counts those of the one before.
    let mut before: Option<[u16; GROUP]> = None;
    for (i, group) in groups.iter().enumerate() {
        prefetch_later(group, AHEAD);
        let mut index = [0; GROUP];
        let (beyond, has_zero) = find_bins(group, bins, &mut index);
        if let Some(found) = &before {
            count(found, table);
        }
        if beyond {
            return (i * GROUP, zeros);
        }
        if has_zero {
            zeros = zeros.wrapping_add(count_zeros(group));
        }
        before = Some(index);
    }
    if let Some(found) = &before {
        count(found, table);
    }
    let mut index = [0; GROUP];
    let (beyond, _) = find_bins(tail, bins, &mut index);
    if beyond {
        return (x.len() - tail.len(), zeros);
    }
    for &index in &index[..tail.len()] {
        add(&mut table[usize::from(index)][0]);
    }
    (x.len(), zeros.wrapping_add(count_zeros(tail)))
}

/// Counts the values of a group.
#[inline(always)]
fn count(found: &[u16; GROUP], table: &mut Table) {
    // Read from memory one by one, which costs less than taking a vector apart.
    for (i, &index) in black_box(found).iter().enumerate() {
        add(&mut table[usize::from(index)][i % LANES]);
    }
}

#[inline(always)]
fn add(count: &mut u32) {
    *count = count.wrapping_add(1);
}

fn count_zeros(x: &[f32]) -> u32 {
    x.iter().map(|&x| u32::from(x == 0.0)).sum()
}

/// Writes the bin of each value; answers whether one is NaN or lies outside of the bins, which mean
/// nothing then, and whether one is 0.
#[inline(always)]
fn find_bins(x: &[f32], bins: Bins, out: &mut [u16; GROUP]) -> (bool, bool) {
    let power = |exponent: i32| f32::from_bits(((127 + exponent) << 23).cast_unsigned());
    let (width, reciprocal) = (power(bins.grid.exponent), power(-bins.grid.exponent));
    let (mut beyond, mut has_zero) = (false, false);
    for (out, &x) in out.iter_mut().zip(x) {
        // A NaN becomes the smallest value.
        let within = if x > bins.min { x } else { bins.min };
        let within = if within < bins.max { within } else { bins.max };
        beyond |= within != x;
        has_zero |= x == 0.0;
        let x = f32::from_bits(within.to_bits() & bins.mask);
        // The product is exact, or so small that it is cut to 0 anyway.
        // SAFETY: x lies in the range of the grid, whose bins lie within 2^25 widths of 0, so that
        // the product fits; `as` would test every value for NaN and overflow.
        let place: i32 = unsafe { (x * reciprocal).to_int_unchecked() };
        // Compared with x itself, because a tiny negative product may have become -0.
        let place = place.wrapping_sub(i32::from(place as f32 * width > x));
        *out = place.wrapping_sub(bins.grid.first) as u16;
    }
    (beyond, has_zero)
}
