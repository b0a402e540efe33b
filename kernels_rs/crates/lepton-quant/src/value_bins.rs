//! The bins of values, found and counted in one go.

use std::hint::black_box;

use crate::Grid;
use crate::simd::{multiversion, prefetch_later};

/// Values between one that is counted and one that is fetched from memory: those of a page.
const AHEAD: usize = 1024;

/// Counters for every index of 16 bits, so that none needs a check; memory that is never touched
/// costs nothing. Those of a bin lie together, [`lanes`] of them: neighbouring values often share
/// a bin, and spare one the wait for the other. Counters of 32 bits are counted up faster than
/// those of 16.
pub(crate) type Table = [u32; MOST_LANES << 16];

const MOST_LANES: usize = 4;

/// How many counters each bin has. Fewer keep more of the table in the processor's first cache;
/// what has AVX-512 does not count zeros one by one, which is where neighbours collide most.
pub(crate) fn lanes() -> usize {
    if is_wide() { WIDE_LANES } else { MOST_LANES }
}

const WIDE_LANES: usize = 2;

fn is_wide() -> bool {
    cfg!(target_arch = "x86_64") && crate::simd::level() == crate::simd::Level::Avx512
}

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

/// Counts values up to the first group with one that `bins` does not hold; answers how many, and
/// how many of them are 0. No counter grows by more than there are values.
pub(crate) fn count_groups(x: &[f32], bins: Bins, table: &mut Table) -> (usize, u32) {
    #[cfg(target_arch = "x86_64")]
    if is_wide() {
        // SAFETY: the level says that the processor has AVX-512 F, BW and VL.
        return unsafe { wide::count_groups(x, bins, table) };
    }
    count_all(x, bins, table)
}

multiversion! {
    // What has more is counted by `wide`.
    up to 256 bits:
    fn count_all(x: &[f32], bins: Bins, table: &mut Table) -> (usize, u32) = count_all_body;
}

#[inline(always)]
fn count_all_body(x: &[f32], bins: Bins, table: &mut Table) -> (usize, u32) {
    let keep = |group: &[f32; 32], index: &[u16; 32], found: &mut Found| {
        found.set(index);
        count_zeros(group)
    };
    let (counted, zeros, _) = count_groups_body::<32, MOST_LANES>(x, bins, table, keep);
    (counted, zeros)
}

/// Bins of a group that are yet to be counted, with room behind them for a whole vector.
struct Found {
    index: [u16; MOST_FOUND + 16],
    len: usize,
}

const MOST_FOUND: usize = 128;

impl Found {
    #[inline(always)]
    fn set<const GROUP: usize>(&mut self, index: &[u16; GROUP]) {
        self.index[..GROUP].copy_from_slice(index);
        self.len = GROUP;
    }
}

/// As [`count_groups`], by groups and counters of the given numbers. What `keep` does is asked for
/// groups with a 0: it sets what is to be counted of them, and answers how many are 0. The last
/// result is how many values of whole groups were left out.
#[inline(always)]
fn count_groups_body<const GROUP: usize, const LANES: usize>(
    x: &[f32],
    bins: Bins,
    table: &mut Table,
    keep: impl Fn(&[f32; GROUP], &[u16; GROUP], &mut Found) -> u32,
) -> (usize, u32, usize) {
    let table = table.as_chunks_mut::<LANES>().0;
    let (groups, tail) = x.as_chunks::<GROUP>();
    let (mut zeros, mut left_out) = (0_u32, 0);
    // The processor finds the bins of a group while it counts those of the one before.
    let mut before = Found {
        index: [0; MOST_FOUND + 16],
        len: 0,
    };
    for (i, group) in groups.iter().enumerate() {
        prefetch_later(group, AHEAD);
        let mut index = [0; GROUP];
        let (beyond, has_zero) = find_bins(group, bins, &mut index);
        count::<GROUP, LANES>(&before, table);
        if beyond {
            return (i * GROUP, zeros, left_out);
        }
        if has_zero {
            zeros = zeros.wrapping_add(keep(group, &index, &mut before));
            left_out += GROUP - before.len;
        } else {
            before.set(&index);
        }
    }
    count::<GROUP, LANES>(&before, table);
    let mut index = [0; GROUP];
    let (beyond, _) = find_bins(tail, bins, &mut index);
    if beyond {
        return (x.len() - tail.len(), zeros, left_out);
    }
    for &index in &index[..tail.len()] {
        add(&mut table[usize::from(index)][0]);
    }
    (x.len(), zeros.wrapping_add(count_zeros(tail)), left_out)
}

#[inline(always)]
fn count<const GROUP: usize, const LANES: usize>(found: &Found, table: &mut [[u32; LANES]]) {
    if found.len == GROUP {
        // Read from memory one by one, which costs less than taking a vector apart.
        for (i, &index) in black_box(&found.index)[..GROUP].iter().enumerate() {
            add(&mut table[usize::from(index)][i % LANES]);
        }
        return;
    }
    let (whole, rest) = found.index[..found.len].as_chunks::<LANES>();
    for some in whole {
        for (lane, &index) in some.iter().enumerate() {
            add(&mut table[usize::from(index)][lane]);
        }
    }
    for &index in rest {
        add(&mut table[usize::from(index)][0]);
    }
}

/// Large groups without their zeros, of which ReLU leaves many: all in one bin, each would wait
/// for the one before.
#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::{
        _CMP_NEQ_UQ, _mm256_loadu_si256, _mm256_storeu_si256, _mm512_cmp_ps_mask,
        _mm512_cvtepi32_epi16, _mm512_cvtepu16_epi32, _mm512_loadu_ps, _mm512_maskz_compress_epi32,
        _mm512_setzero_ps,
    };

    use super::{Bins, Found, MOST_FOUND, Table, WIDE_LANES, count_groups_body};

    #[target_feature(enable = "avx2,f16c,fma,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn count_groups(x: &[f32], bins: Bins, table: &mut Table) -> (usize, u32) {
        let keep = |group: &_, index: &_, found: &mut _| without_zeros(group, index, found);
        let (counted, zeros, left_out) =
            count_groups_body::<MOST_FOUND, WIDE_LANES>(x, bins, table, keep);
        if left_out > 0 {
            let of_zero = 0_i32.wrapping_sub(bins.grid.first) as u16;
            let counter = &mut table[WIDE_LANES * usize::from(of_zero)];
            *counter = counter.wrapping_add(left_out as u32);
        }
        (counted, zeros)
    }

    /// Sets the bins of the values that are not 0; answers how many are.
    #[target_feature(enable = "avx2,f16c,fma,avx512f,avx512bw,avx512dq,avx512vl")]
    fn without_zeros(
        group: &[f32; MOST_FOUND],
        index: &[u16; MOST_FOUND],
        found: &mut Found,
    ) -> u32 {
        let mut len = 0;
        let parts = group.as_chunks::<16>().0.iter();
        for (group, index) in parts.zip(index.as_chunks::<16>().0) {
            // SAFETY: there are sixteen values, and the instruction needs no alignment.
            let values = unsafe { _mm512_loadu_ps(group.as_ptr()) };
            let kept = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(values, _mm512_setzero_ps());
            // SAFETY: as above, for sixteen of two bytes.
            let bins = unsafe { _mm256_loadu_si256(index.as_ptr().cast()) };
            let bins = _mm512_maskz_compress_epi32(kept, _mm512_cvtepu16_epi32(bins));
            let (bins, room) = (_mm512_cvtepi32_epi16(bins), &mut found.index[len..len + 16]);
            // SAFETY: as above, and there is room for sixteen.
            unsafe { _mm256_storeu_si256(room.as_mut_ptr().cast(), bins) };
            len += kept.count_ones() as usize;
        }
        found.len = len;
        (MOST_FOUND - len) as u32
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
fn find_bins(x: &[f32], bins: Bins, out: &mut [u16]) -> (bool, bool) {
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
