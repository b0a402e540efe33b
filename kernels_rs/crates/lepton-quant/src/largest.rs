//! The mask of the largest magnitudes, in one reading if a sample has shown where to look.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::affine::check_len;
use crate::array::Scratch;
use crate::parallel::{Grain, run};
use crate::prune::cut_mask;
use crate::select::{
    ABS, Cut, INFINITY, LARGE, bracket, cut_by_digits, cut_within, magnitude_cut, refuse_nan,
};
use crate::simd::{multiversion, prefetch};
use crate::{Control, Error, FloatArray, Side};

const GRAIN: Grain = Grain {
    items: 1 << 16,
    per_thread: 1 << 18,
};

/// Writes 1 for the `keep` values of largest magnitude of all arrays together and 0 elsewhere, into
/// one mask for each array. Of equal magnitudes the first in the order of the arrays are kept.
///
/// # Errors
/// [`Error::ShapeMismatch`] if a mask has another length than its array, and as
/// [`magnitude_cut`](crate::magnitude_cut).
///
/// # Panics
/// If there are more arrays than masks, or fewer.
pub fn magnitude_masks(
    arrays: &[FloatArray<'_>],
    keep: usize,
    masks: &mut [&mut [u8]],
    control: &mut Control<'_>,
) -> Result<(), Error> {
    assert_eq!(arrays.len(), masks.len(), "a mask for each array");
    for (x, mask) in arrays.iter().zip(&*masks) {
        check_len(x.shape(), mask.len())?;
    }
    let total: usize = arrays.iter().map(FloatArray::len).sum();
    let mut cut = if (1..=total).contains(&keep) && total >= LARGE {
        if masks_by_sample(arrays, keep, total, masks, control)? {
            return Ok(());
        }
        cut_by_digits(arrays, Side::Both, keep, control)?
    } else {
        magnitude_cut(arrays, keep, control)?
    };
    for (x, mask) in arrays.iter().zip(masks) {
        cut.ties = cut_mask(x, cut, mask, control)?;
    }
    Ok(())
}

/// Decides all values outside of two magnitudes of a sample at once, and those between them when
/// all are known. The sample only says where to look: the masks are exact, and the answer is false
/// if the threshold lies elsewhere or too many values lie there.
fn masks_by_sample(
    arrays: &[FloatArray<'_>],
    keep: usize,
    total: usize,
    masks: &mut [&mut [u8]],
    control: &mut Control<'_>,
) -> Result<bool, Error> {
    let (least, most) = bracket(arrays, Side::Both, keep, total);
    if arrays.iter().any(|x| u32::try_from(x.len()).is_err()) {
        return Ok(false);
    }
    // A magnitude and its place take eight bytes, the mask of 16 values sixteen.
    let (room, taken) = (total / 16, AtomicUsize::new(0));
    let (mut above, mut largest) = (0, 0);
    let mut between = Vec::with_capacity(arrays.len());
    for (x, mask) in arrays.iter().zip(&mut *masks) {
        let found = Mutex::new(Found::default());
        let kernel = |state: &mut (Scratch, Found), start: usize, mask: &mut [u8]| {
            let (scratch, found) = state;
            if taken.load(Ordering::Relaxed) > room {
                return;
            }
            let before = found.inside.len();
            x.tiles(start, mask.len(), scratch, |offset, x| {
                let mask = &mut mask[offset..offset + x.len()];
                mark(x, (least, most), start + offset, mask, found);
            });
            taken.fetch_add(found.inside.len() - before, Ordering::Relaxed);
        };
        let finish = |(_, part): (Scratch, Found)| {
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            found.merge(part);
        };
        run(
            control,
            &mut **mask,
            &GRAIN,
            Default::default,
            kernel,
            finish,
        )?;
        let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        above += found.above;
        largest = found.largest.max(largest);
        between.push(found);
    }
    if largest > INFINITY {
        refuse_nan(arrays, control)?;
    }
    if taken.into_inner() > room {
        return Ok(false);
    }
    let inside = between.iter().flat_map(|found| &found.inside);
    let mut inside: Vec<u32> = inside.map(|&(magnitude, _)| magnitude).collect();
    let Some(mut cut) = cut_within(&mut inside, above, keep) else {
        return Ok(false);
    };
    for (found, mask) in between.iter().zip(masks) {
        cut.ties = found.decide(cut, mask);
    }
    Ok(true)
}

/// What one thread has seen of an array.
#[derive(Default)]
struct Found {
    /// Values above the window.
    above: usize,
    /// The bits of the largest magnitude.
    largest: u32,
    /// Those in the window: their bits, and where they stand.
    inside: Vec<(u32, u32)>,
}

impl Found {
    /// Keeps the values whose rank is odd; the first has the place `first`.
    fn note(&mut self, ranks: &[u8; GROUP], x: &[f32], first: usize) {
        let (words, _) = ranks.as_chunks::<8>();
        for (i, word) in words.iter().enumerate() {
            let mut bytes = u64::from_le_bytes(*word) & u64::from_le_bytes([1; 8]);
            while bytes != 0 {
                let i = 8 * i + bytes.trailing_zeros() as usize / 8;
                self.inside.push((x[i].to_bits() & ABS, (first + i) as u32));
                bytes &= bytes.wrapping_sub(1);
            }
        }
    }

    fn merge(&mut self, other: Self) {
        self.above += other.above;
        self.largest = self.largest.max(other.largest);
        self.inside.extend(other.inside);
    }

    /// Writes the mask of the values in the window; answers the ties left for the next array.
    fn decide(&self, cut: Cut, mask: &mut [u8]) -> usize {
        let threshold = cut.threshold.to_bits();
        let mut ties = Vec::new();
        for &(magnitude, place) in &self.inside {
            mask[place as usize] = u8::from(magnitude > threshold);
            if magnitude == threshold {
                ties.push(place);
            }
        }
        // Threads hand in their values in no particular order.
        ties.sort_unstable();
        let kept = cut.ties.min(ties.len());
        for &place in &ties[..kept] {
            mask[place as usize] = 1;
        }
        cut.ties - kept
    }
}

/// Values ranked before the ranks are looked at.
const CHUNK: usize = 256;

/// How many values ahead memory is read: a page, at whose end the processor reads no further.
const AHEAD: usize = 1024;

/// Ranks looked at together.
const GROUP: usize = 32;

multiversion! {
    /// Writes 1 for a magnitude above a window and 0 elsewhere, and adds what lies in the window or
    /// above it; the first value has the place `start`.
    fn mark(x: &[f32], window: (u32, u32), start: usize, out: &mut [u8], found: &mut Found)
        = mark_body;
}

#[inline(always)]
fn mark_body(
    x: &[f32],
    (least, most): (u32, u32),
    start: usize,
    out: &mut [u8],
    found: &mut Found,
) {
    let mut later = x.get(AHEAD..).unwrap_or(&[]).chunks(CHUNK);
    for (i, (x, out)) in x.chunks(CHUNK).zip(out.chunks_mut(CHUNK)).enumerate() {
        later.next().into_iter().for_each(prefetch);
        let (above, largest) = rank(x, least, most, out);
        found.above += above as usize;
        found.largest = found.largest.max(largest);
        let start = start + i * CHUNK;
        let (groups, tail) = out.as_chunks_mut::<GROUP>();
        for (j, group) in groups.iter_mut().enumerate() {
            let (mut ranks, mut any) = ([0; GROUP], 0);
            for (out, rank) in group.iter_mut().zip(&mut ranks) {
                *rank = *out;
                any |= *out;
                *out >>= 1;
            }
            // Few values lie inside, so that most groups end here.
            if any & 1 != 0 {
                found.note(&ranks, &x[j * GROUP..], start + j * GROUP);
            }
        }
        let whole = x.len() - tail.len();
        let mut ranks = [0; GROUP];
        ranks[..tail.len()].copy_from_slice(tail);
        found.note(&ranks, &x[whole..], start + whole);
        tail.iter_mut().for_each(|rank| *rank >>= 1);
    }
}

/// Writes 2 for a magnitude above `most`, 1 from `least` on, and 0 below; answers how many lie
/// above, and the largest.
#[inline(always)]
fn rank(x: &[f32], least: u32, most: u32, out: &mut [u8]) -> (u32, u32) {
    // Magnitudes fit a signed integer, which more processors compare than an unsigned one.
    let (below, most) = (least.cast_signed().wrapping_sub(1), most.cast_signed());
    let (mut above, mut largest) = (0_u32, 0);
    for (out, x) in out.iter_mut().zip(x) {
        let magnitude = (x.to_bits() & ABS).cast_signed();
        let is_above = u32::from(magnitude > most);
        *out = is_above.wrapping_add(u32::from(magnitude > below)) as u8;
        above = above.wrapping_add(is_above);
        largest = magnitude.max(largest);
    }
    (above, largest.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::View;

    /// The places by falling magnitude, equal ones in order.
    fn ranking(x: &[f32]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..x.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(x[i].to_bits() & ABS));
        order
    }

    #[test]
    fn one_reading_equals_the_definition() {
        let n = 1_500_001_u32;
        let spread = |i: u32| (i.wrapping_mul(2_654_435_761) >> 9) as f32 - 4e6;
        let coarse = |i: u32| (spread(i) / 4e4).round();
        let cases: [(Vec<f32>, bool); 4] = [
            ((0..n).map(spread).collect(), true),
            ((0..n).map(coarse).collect(), true),
            // The sample sees another part of the values than the whole.
            (
                (0..n)
                    .map(|i| if i % 366 < 16 { 1.0 } else { spread(i) })
                    .collect(),
                true,
            ),
            (vec![2.5; n as usize], false),
        ];
        for (x, one_reading) in &cases {
            let parts: Vec<&[f32]> = vec![&x[..700_003], &x[700_003..700_005], &x[700_005..]];
            let arrays: Vec<_> = parts
                .iter()
                .map(|x| FloatArray::F32(View::from_slice(x, &[x.len()])))
                .collect();
            let ranking = ranking(x);
            for keep in [0, 1, 700, 750_000, 1_500_000, 1_500_001] {
                let mut want = vec![0; x.len()];
                ranking[..keep].iter().for_each(|&i| want[i] = 1);
                for threads in [1, 3] {
                    let control = &mut Control::threads(threads);
                    let mut mask = vec![9; x.len()];
                    let (first, rest) = mask.split_at_mut(700_003);
                    let (second, third) = rest.split_at_mut(2);
                    let mut masks = [first, second, third];
                    magnitude_masks(&arrays, keep, &mut masks, control).expect("no NaN");
                    if keep == 750_000 {
                        let found = masks_by_sample(&arrays, keep, x.len(), &mut masks, control);
                        assert_eq!(found, Ok(*one_reading));
                    }
                    magnitude_masks(&arrays, keep, &mut masks, control).expect("no NaN");
                    assert!(mask == want, "{keep} {threads}");
                }
            }
        }
    }

    #[test]
    fn nan_is_refused_in_one_reading() {
        let mut x: Vec<f32> = (0..1_200_000_u32).map(|i| (i % 1009) as f32).collect();
        (x[7], x[900_000]) = (f32::INFINITY, -f32::NAN);
        let array = [FloatArray::F32(View::from_slice(&x, &[x.len()]))];
        let mut mask = vec![0; x.len()];
        let result = magnitude_masks(&array, 9, &mut [&mut mask], &mut Control::threads(2));
        let (count, first) = (1, 900_000);
        assert_eq!(result, Err(Error::NanInMagnitudes { count, first }));
    }
}
