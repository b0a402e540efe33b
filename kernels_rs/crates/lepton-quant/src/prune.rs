//! Masks of what to keep: the largest magnitudes, exactly as many as asked.

use std::sync::{Mutex, PoisonError};

use crate::affine::check_len;
use crate::array::Scratch;
use crate::parallel::{Grain, run};
use crate::select::refuse_nan;
use crate::simd::multiversion;
use crate::{Control, Cut, Error, FloatArray};

const GRAIN: Grain = Grain {
    items: BLOCK,
    per_thread: 1 << 18,
};

/// Values whose ties are counted together.
const BLOCK: usize = 1 << 16;

const ABS: u32 = 0x7fff_ffff;
const INFINITY: u32 = 0x7f80_0000;

/// Writes 1 where a value is kept and 0 elsewhere, in the order of the arrays; answers how many ties
/// of the cut are left for the next array.
///
/// # Errors
/// [`Error::ShapeMismatch`] if `out` has another length, [`Error::Interrupted`].
pub(crate) fn cut_mask(
    x: &FloatArray<'_>,
    cut: Cut,
    out: &mut [u8],
    control: &mut Control<'_>,
) -> Result<usize, Error> {
    check_len(x.shape(), out.len())?;
    let threshold = cut.threshold.to_bits() & ABS;
    let found = Mutex::new(vec![0_usize; x.len().div_ceil(BLOCK)]);
    let kernel = |scratch: &mut Scratch, start: usize, out: &mut [u8]| {
        let mut ties = 0;
        x.tiles(start, out.len(), scratch, |offset, x| {
            ties += keep_from(x, threshold, &mut out[offset..offset + x.len()]) as usize;
        });
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        found[start / BLOCK] = ties;
    };
    run(control, &mut *out, &GRAIN, Scratch::default, kernel, drop)?;
    // Ties beyond the last that is kept, in the order of the array.
    let mut left = cut.ties;
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut scratch = Scratch::default();
    for (block, &ties) in found.iter().enumerate() {
        if ties > left {
            let start = block * BLOCK;
            let out = &mut out[start..x.len().min(start + BLOCK)];
            x.tiles(start, out.len(), &mut scratch, |offset, x| {
                for (out, x) in out[offset..].iter_mut().zip(x) {
                    if x.to_bits() & ABS == threshold {
                        *out = u8::from(left > 0);
                        left = left.saturating_sub(1);
                    }
                }
            });
        } else {
            left -= ties;
        }
    }
    Ok(left)
}

multiversion! {
    /// Keeps what is not below the threshold; answers how many values equal it.
    fn keep_from(x: &[f32], threshold: u32, out: &mut [u8]) -> u32 = keep_from_body;
}

#[inline(always)]
fn keep_from_body(x: &[f32], threshold: u32, out: &mut [u8]) -> u32 {
    let mut ties = 0_u32;
    for (out, x) in out.iter_mut().zip(x) {
        let magnitude = x.to_bits() & ABS;
        *out = u8::from(magnitude >= threshold);
        ties = ties.wrapping_add(u32::from(magnitude == threshold));
    }
    ties
}

/// Keeps the `n` largest magnitudes of every `m` consecutive values, of equal ones the first; writes
/// 1 where a value is kept.
///
/// # Errors
/// [`Error::InvalidFormat`] if `m` is not 1 to 64, `n` is beyond `m`, or `m` does not divide the last
/// axis, [`Error::ShapeMismatch`], [`Error::NanInMagnitudes`], [`Error::Interrupted`].
pub fn nm_mask(
    x: &FloatArray<'_>,
    n: usize,
    m: usize,
    out: &mut [u8],
    control: &mut Control<'_>,
) -> Result<(), Error> {
    check_len(x.shape(), out.len())?;
    let row = x.shape().last().copied().unwrap_or(1);
    if !(1..=64).contains(&m) || n > m || !row.is_multiple_of(m) {
        return Err(Error::InvalidFormat(format!(
            "cannot keep {n} of every {m} in rows of {row} values: m must be 1 to 64 and divide the \
             rows, n at most m"
        )));
    }
    let grain = Grain {
        items: (BLOCK / (4 * m)).max(1) * 4 * m,
        ..GRAIN
    };
    let nan = Mutex::new(false);
    let kernel = |scratch: &mut Scratch, start: usize, out: &mut [u8]| {
        // Whole groups at once: a tile of the array's own might end within one.
        let step = (4096 / m).max(1) * m;
        for offset in (0..out.len()).step_by(step) {
            let len = step.min(out.len() - offset);
            let x = x.tile(start + offset, len, scratch);
            if keep_groups(x, n, m, &mut out[offset..offset + len]) {
                *nan.lock().unwrap_or_else(PoisonError::into_inner) = true;
            }
        }
    };
    run(control, out, &grain, Scratch::default, kernel, drop)?;
    if nan.into_inner().unwrap_or_else(PoisonError::into_inner) {
        refuse_nan(std::slice::from_ref(x), control)?;
    }
    Ok(())
}

multiversion! {
    /// Answers whether there is a NaN.
    fn keep_groups(x: &[f32], n: usize, m: usize, out: &mut [u8]) -> bool = keep_groups_body;
}

#[inline(always)]
fn keep_groups_body(x: &[f32], n: usize, m: usize, out: &mut [u8]) -> bool {
    let largest = x.iter().fold(0, |most, x| (x.to_bits() & ABS).max(most));
    if m == 4 {
        keep_of_four(x, n as u32, out);
    } else {
        for (x, out) in x.chunks_exact(m).zip(out.chunks_exact_mut(m)) {
            for i in 0..m {
                let key = |x: &f32| x.to_bits() & ABS;
                let mine = key(&x[i]);
                let before = x[..i].iter().filter(|x| key(x) >= mine).count();
                let after = x[i + 1..].iter().filter(|x| key(x) > mine).count();
                out[i] = u8::from(before + after < n);
            }
        }
    }
    largest > INFINITY
}

/// Groups of four, many at once: six comparisons give every value its rank.
#[inline(always)]
fn keep_of_four(x: &[f32], n: u32, out: &mut [u8]) {
    const GROUPS: usize = 16;
    let (chunks, tail) = x.as_chunks::<{ 4 * GROUPS }>();
    let (out_chunks, out_tail) = out.as_chunks_mut::<{ 4 * GROUPS }>();
    for (x, out) in chunks.iter().zip(out_chunks) {
        keep_in_chunk(x, n, out);
    }
    let (mut padded, mut kept) = ([0.0; 4 * GROUPS], [0; 4 * GROUPS]);
    padded[..tail.len()].copy_from_slice(tail);
    keep_in_chunk(&padded, n, &mut kept);
    out_tail.copy_from_slice(&kept[..tail.len()]);
}

#[inline(always)]
fn keep_in_chunk<const LEN: usize>(x: &[f32; LEN], n: u32, out: &mut [u8; LEN]) {
    for (x, out) in x.as_chunks::<4>().0.iter().zip(out.as_chunks_mut::<4>().0) {
        let k = x.map(|x| x.to_bits() & ABS);
        let mut rank = [0_u32; 4];
        for i in 0..4 {
            for j in i + 1..4 {
                // Of equal ones the first ranks higher.
                let later = u32::from(k[j] > k[i]);
                rank[i] = rank[i].wrapping_add(later);
                rank[j] = rank[j].wrapping_add(1 - later);
            }
        }
        *out = rank.map(|rank| u8::from(rank < n));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{View, magnitude_cut, magnitude_masks};

    fn values(n: u32) -> Vec<f32> {
        (0..n)
            .map(|i| ((i.wrapping_mul(2_654_435_761) >> 12) as f32 - 5e5) / 7.0)
            .map(|x| if x.abs() < 3e4 { 100.0 } else { x })
            .collect()
    }

    #[test]
    fn keeps_exactly_as_many() {
        let x = values(400_003);
        let mut sorted: Vec<f32> = x.iter().map(|x| x.abs()).collect();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let (first, second) = x.split_at(150_001);
        let arrays = [first, second].map(|x| FloatArray::F32(View::from_slice(x, &[x.len()])));
        for keep in [0, 1, 2, 1000, 200_000, 330_000, 400_002, 400_003] {
            for threads in [1, 3] {
                let control = &mut Control::threads(threads);
                let cut = magnitude_cut(&arrays, keep, control).expect("no NaN");
                if keep > 0 {
                    assert_eq!(cut.threshold, sorted[keep - 1]);
                }
                let mut mask = vec![9; x.len()];
                let (mask_first, mask_second) = mask.split_at_mut(first.len());
                let masks = &mut [mask_first, mask_second];
                magnitude_masks(&arrays, keep, masks, control).expect("fits");
                assert_eq!(mask.iter().map(|&m| usize::from(m)).sum::<usize>(), keep);
                let tied = x
                    .iter()
                    .zip(&mask)
                    .filter(|(x, _)| x.abs() == cut.threshold);
                let kept: Vec<u8> = tied.map(|(_, &kept)| kept).collect();
                assert!(kept.is_sorted_by(|a, b| a >= b));
            }
        }
    }

    #[test]
    fn nan_is_refused() {
        let mut x = values(100);
        (x[7], x[9]) = (f32::INFINITY, f32::NAN);
        let array = FloatArray::F32(View::from_slice(&x, &[100]));
        let control = &mut Control::threads(1);
        let want = Err(Error::NanInMagnitudes { count: 1, first: 9 });
        assert_eq!(
            magnitude_cut(std::slice::from_ref(&array), 3, control),
            want
        );
        assert!(nm_mask(&array, 2, 4, &mut [0; 100], control).is_err());
    }

    #[test]
    fn groups_keep_n() {
        let x = [1.0, -3.0, 3.0, 2.0, 0.0, 0.0, 0.0, 0.0];
        let array = FloatArray::F32(View::from_slice(&x, &[8]));
        let mut out = [9; 8];
        let control = &mut Control::threads(1);
        nm_mask(&array, 2, 4, &mut out, control).expect("fits");
        assert_eq!(out, [0, 1, 1, 0, 1, 1, 0, 0]);
        nm_mask(&array, 3, 8, &mut out, control).expect("fits");
        assert_eq!(out, [0, 1, 1, 1, 0, 0, 0, 0]);
        assert!(nm_mask(&array, 2, 3, &mut out, control).is_err());
    }
}
