//! The k-th largest magnitude, exact, in one reading if a sample has shown where to look.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::array::Scratch;
use crate::parallel::{Grain, run};
use crate::select_window::Window;
use crate::simd::multiversion;
use crate::{Control, Error, FloatArray, Side};

const GRAIN: Grain = Grain {
    items: 1 << 16,
    per_thread: 1 << 18,
};

pub(crate) const ABS: u32 = 0x7fff_ffff;
pub(crate) const INFINITY: u32 = 0x7f80_0000;

/// What is kept: all magnitudes above a value, and some that equal it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cut {
    /// The smallest magnitude that is kept; infinite if nothing is.
    pub threshold: f32,
    /// How many of the values of this magnitude are kept, the first in the order of the arrays.
    pub ties: usize,
}

/// Bits of a magnitude decided by each reading, 31 in all.
const DIGITS: [u32; 3] = [11, 10, 10];

/// The cut that keeps exactly `keep` values of all arrays together.
///
/// Magnitudes compare as the integers that their bits are.
///
/// # Errors
/// [`Error::InvalidFormat`] if there are fewer values, [`Error::NanInMagnitudes`] (the index counts
/// through all arrays), [`Error::Interrupted`].
pub fn magnitude_cut(
    arrays: &[FloatArray<'_>],
    keep: usize,
    control: &mut Control<'_>,
) -> Result<Cut, Error> {
    side_cut(arrays, Side::Both, keep, control)
}

/// As [`magnitude_cut`], with zeros in place of the values of the other side: the threshold is that
/// of the `keep` largest values if it is above 0, or of the `keep` smallest if they are below 0.
///
/// # Errors
/// As [`magnitude_cut`].
pub fn side_cut(
    arrays: &[FloatArray<'_>],
    side: Side,
    keep: usize,
    control: &mut Control<'_>,
) -> Result<Cut, Error> {
    let total: usize = arrays.iter().map(FloatArray::len).sum();
    if keep > total {
        return Err(Error::InvalidFormat(format!(
            "{keep} values are to be kept, but there are {total}"
        )));
    }
    if keep == 0 {
        refuse_nan(arrays, control)?;
        return Ok(Cut {
            threshold: f32::INFINITY,
            ties: 0,
        });
    }
    if let Some(cut) = cut_by_sample(arrays, side, keep, total, control)? {
        return Ok(cut);
    }
    cut_by_digits(arrays, side, keep, control)
}

/// A radix selection: each reading decides the next bits of the threshold.
pub(crate) fn cut_by_digits(
    arrays: &[FloatArray<'_>],
    side: Side,
    keep: usize,
    control: &mut Control<'_>,
) -> Result<Cut, Error> {
    // Of the values that begin with `prefix`, the `left` largest are kept.
    let (mut prefix, mut left, mut shift) = (0_u32, keep, 31);
    for digit in DIGITS {
        let counts = count_digits(arrays, side, (prefix, shift, digit), control)?;
        if shift == 31 {
            let nan: usize = counts[(INFINITY >> (31 - digit)) as usize..].iter().sum();
            // Infinities share this digit with NaN.
            if nan > 0 {
                refuse_nan(arrays, control)?;
            }
        }
        shift -= digit;
        let mut value = counts.len() - 1;
        while counts[value] < left {
            left -= counts[value];
            value -= 1;
        }
        prefix |= (value as u32) << shift;
    }
    Ok(Cut {
        threshold: f32::from_bits(prefix),
        ties: left,
    })
}

/// Values below which a sample does not pay.
pub(crate) const LARGE: usize = 1 << 20;

/// A sample is this many stretches of neighbours.
const STRETCHES: usize = 4096;
const STRETCH: usize = 16;

/// Looks for the threshold between two magnitudes of a sample. The sample only says where to look:
/// what is found is exact, and there is no answer if the threshold lies elsewhere.
fn cut_by_sample(
    arrays: &[FloatArray<'_>],
    side: Side,
    keep: usize,
    total: usize,
    control: &mut Control<'_>,
) -> Result<Option<Cut>, Error> {
    if total < LARGE {
        return Ok(None);
    }
    let (least, most) = bracket(arrays, side, keep, total);
    let room = total / 8;
    let found = Mutex::new((0_usize, false, Vec::new()));
    for x in arrays {
        let kernel = |state: &mut (Scratch, Window), start: usize, piece: Range<usize>| {
            let (scratch, window) = state;
            let mut buffer = [0.0; CHUNK];
            x.tiles(start, piece.len(), scratch, |_, x| {
                for x in x.chunks(CHUNK) {
                    window.look(side.of(x, &mut buffer), least, most, room);
                }
            });
        };
        let finish = |(_, window): (Scratch, Window)| {
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            found.0 += window.above;
            found.1 |= window.nan;
            found.2.extend(window.inside);
        };
        let init = || (Scratch::default(), Window::default());
        run(control, 0..x.len(), &GRAIN, init, kernel, finish)?;
    }
    let (above, nan, mut inside) = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    if nan {
        refuse_nan(arrays, control)?;
    }
    // Too many ties: some were left out, and the count of the rest is no use.
    if inside.len() >= room {
        return Ok(None);
    }
    Ok(cut_within(&mut inside, above, keep))
}

/// The cut, if the threshold is among the magnitudes `inside` a window, whose bits are reordered;
/// `above` it are as many others.
pub(crate) fn cut_within(inside: &mut [u32], above: usize, keep: usize) -> Option<Cut> {
    if keep <= above || keep > above + inside.len() {
        return None;
    }
    let left = keep - above;
    let (larger, &mut threshold, _) = inside.select_nth_unstable_by(left - 1, |a, b| b.cmp(a));
    let beyond = larger.iter().filter(|&&m| m > threshold).count();
    Some(Cut {
        threshold: f32::from_bits(threshold),
        ties: left - beyond,
    })
}

/// Two magnitudes (as bits) between which the threshold is likely to lie.
pub(crate) fn bracket(
    arrays: &[FloatArray<'_>],
    side: Side,
    keep: usize,
    total: usize,
) -> (u32, u32) {
    let mut sample = Vec::with_capacity(STRETCHES * STRETCH);
    let (mut scratch, mut buffer) = (Scratch::default(), [0.0; CHUNK]);
    for x in arrays {
        let stretches = (STRETCHES as f64 * (x.len() as f64 / total as f64)).ceil() as usize;
        for i in 0..stretches {
            let start = (x.len() as f64 * (i as f64 / stretches as f64)) as usize;
            let len = STRETCH.min(x.len() - start);
            let tile = side.of(x.tile(start, len, &mut scratch), &mut buffer);
            sample.extend(tile.iter().map(|x| x.to_bits() & ABS));
        }
    }
    let n = sample.len();
    let rank = (n as f64 * (keep as f64 / total as f64)) as usize;
    // Three standard deviations of a share of one half.
    let margin = (1.5 * (n as f64).sqrt()) as usize;
    let mut of_rank = |rank: usize| *sample.select_nth_unstable_by(rank, |a, b| b.cmp(a)).1;
    let most = if rank > margin {
        of_rank(rank - margin)
    } else {
        INFINITY
    };
    let least = if rank + margin < n {
        of_rank(rank + margin)
    } else {
        0
    };
    (least, most)
}

pub(crate) fn refuse_nan(
    arrays: &[FloatArray<'_>],
    control: &mut Control<'_>,
) -> Result<(), Error> {
    let mut before = 0;
    let found = Mutex::new((0, usize::MAX));
    for x in arrays {
        let kernel = |scratch: &mut Scratch, start: usize, piece: Range<usize>| {
            x.tiles(start, piece.len(), scratch, |offset, x| {
                for (i, _) in x.iter().enumerate().filter(|(_, x)| x.is_nan()) {
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    found.0 += 1;
                    found.1 = found.1.min(before + start + offset + i);
                }
            });
        };
        run(control, 0..x.len(), &GRAIN, Scratch::default, kernel, drop)?;
        before += x.len();
    }
    match found.into_inner().unwrap_or_else(PoisonError::into_inner) {
        (0, _) => Ok(()),
        (count, first) => Err(Error::NanInMagnitudes { count, first }),
    }
}

/// Counts by the `digit` bits below bit `shift`, of the magnitudes whose bits above are `prefix`.
fn count_digits(
    arrays: &[FloatArray<'_>],
    side: Side,
    (prefix, shift, digit): (u32, u32, u32),
    control: &mut Control<'_>,
) -> Result<Vec<usize>, Error> {
    let total = Mutex::new(vec![0_usize; 1 << digit]);
    for x in arrays {
        let init = || (Scratch::default(), Digits::new());
        let kernel = |state: &mut (Scratch, Digits), start: usize, piece: Range<usize>| {
            let (scratch, digits) = state;
            let mut buffer = [0.0; CHUNK];
            x.tiles(start, piece.len(), scratch, |_, x| {
                for x in x.chunks(CHUNK) {
                    digits.count(side.of(x, &mut buffer), prefix, shift, digit);
                }
            });
        };
        let finish = |(_, mut digits): (Scratch, Digits)| {
            digits.flush();
            let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
            for (value, count) in total.iter_mut().enumerate() {
                *count += digits.total[value];
            }
        };
        run(control, 0..x.len(), &GRAIN, init, kernel, finish)?;
    }
    Ok(total.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Values whose digits are found at once.
pub(crate) const CHUNK: usize = 1024;

/// The digit of values with another prefix.
const OTHER: usize = 1 << 11;

/// Counters by digit, four of each so that equal neighbours need not wait; the last for the rest.
struct Digits {
    counts: Box<[[u32; 4]; 1 << 12]>,
    total: Vec<usize>,
    pending: usize,
}

impl Digits {
    fn new() -> Self {
        Self {
            counts: Box::new([[0; 4]; 1 << 12]),
            total: vec![0; OTHER],
            pending: 0,
        }
    }

    fn flush(&mut self) {
        for (total, counts) in self.total.iter_mut().zip(&mut self.counts[..]) {
            *total += counts.iter().map(|&n| n as usize).sum::<usize>();
            *counts = [0; 4];
        }
        self.pending = 0;
    }

    fn count(&mut self, x: &[f32], prefix: u32, shift: u32, digit: u32) {
        if self.pending > u32::MAX as usize - CHUNK {
            self.flush();
        }
        self.pending += x.len();
        let mut found = [0_u16; CHUNK];
        let found = &mut found[..x.len()];
        find_digits(x, prefix, shift, digit, found);
        let (chunks, tail) = found.as_chunks::<4>();
        for chunk in chunks {
            for (lane, &value) in chunk.iter().enumerate() {
                let count = &mut self.counts[usize::from(value) & 0xfff][lane];
                *count = count.wrapping_add(1);
            }
        }
        for &value in tail {
            let count = &mut self.counts[usize::from(value) & 0xfff][0];
            *count = count.wrapping_add(1);
        }
    }
}

multiversion! {
    fn find_digits(x: &[f32], prefix: u32, shift: u32, digit: u32, out: &mut [u16])
        = find_digits_body;
}

#[inline(always)]
fn find_digits_body(x: &[f32], prefix: u32, shift: u32, digit: u32, out: &mut [u16]) {
    // Shifts by 31 at most: the sign is gone.
    let mask = (1_u32 << digit) - 1;
    for (out, x) in out.iter_mut().zip(x) {
        let magnitude = x.to_bits() & ABS;
        let value = (magnitude >> (shift - digit)) & mask;
        let same = (magnitude ^ prefix) >> shift == 0;
        *out = if same { value as u16 } else { OTHER as u16 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::View;

    #[test]
    fn both_ways_agree() {
        let n = 1_500_000_u32;
        let spread = |i: u32| (i.wrapping_mul(2_654_435_761) >> 9) as f32 - 4e6;
        let cases: [Vec<f32>; 4] = [
            (0..n).map(spread).collect(),
            (0..n).map(|i| i as f32).collect(),
            (0..n)
                .map(|i| if i % 3 == 0 { spread(i) } else { 0.0 })
                .collect(),
            vec![2.5; n as usize],
        ];
        for x in &cases {
            let arrays = [FloatArray::F32(View::from_slice(x, &[x.len()]))];
            for keep in [1, 700, 500_000, 750_000, 1_499_999, 1_500_000] {
                let control = &mut Control::threads(2);
                let digits = cut_by_digits(&arrays, Side::Both, keep, control).expect("no NaN");
                let cut = cut_by_sample(&arrays, Side::Both, keep, x.len(), control);
                if let Some(cut) = cut.expect("no NaN") {
                    assert_eq!(cut, digits);
                }
                assert_eq!(magnitude_cut(&arrays, keep, control), Ok(digits));
            }
        }
        let arrays = [FloatArray::F32(View::from_slice(&cases[0], &[n as usize]))];
        let control = &mut Control::threads(1);
        let cut = cut_by_sample(&arrays, Side::Both, 750_000, n as usize, control);
        assert!(
            cut.expect("no NaN").is_some(),
            "an even spread needs one reading"
        );
    }
}
