//! The values between two magnitudes, and the count of those above.

use crate::select::{ABS, INFINITY};
use crate::simd::multiversion;

/// What one thread has seen of the values around the threshold.
#[derive(Default)]
pub(crate) struct Window {
    /// Magnitudes above it.
    pub(crate) above: usize,
    /// The bits of those inside.
    pub(crate) inside: Vec<u32>,
    pub(crate) nan: bool,
}

impl Window {
    pub(crate) fn look(&mut self, x: &[f32], least: u32, most: u32, room: usize) {
        let (above, largest) = count_above(x, most);
        self.above += above as usize;
        self.nan |= largest > INFINITY;
        if self.inside.len() >= room {
            return;
        }
        let start = self.inside.len();
        self.inside.resize(start + x.len(), 0);
        let kept = gather(x, least, most, &mut self.inside[start..]);
        self.inside.truncate(start + kept);
    }
}

multiversion! {
    /// Answers how many magnitudes are larger than `most`, and the largest.
    fn count_above(x: &[f32], most: u32) -> (u32, u32) = count_above_body;
}

#[inline(always)]
fn count_above_body(x: &[f32], most: u32) -> (u32, u32) {
    let (mut above, mut largest) = (0_u32, 0);
    for x in x {
        let magnitude = x.to_bits() & ABS;
        above = above.wrapping_add(u32::from(magnitude > most));
        largest = magnitude.max(largest);
    }
    (above, largest)
}

multiversion! {
    /// Writes the magnitudes from `least` to `most`; answers how many.
    fn gather(x: &[f32], least: u32, most: u32, out: &mut [u32]) -> usize = gather_body;
}

#[inline(always)]
fn gather_body(x: &[f32], least: u32, most: u32, out: &mut [u32]) -> usize {
    let mut n = 0;
    let (groups, tail) = x.as_chunks::<GROUP>();
    for group in groups {
        n = gather_group(group, least, most, out, n);
    }
    // A NaN lies beyond every magnitude.
    let mut last = [f32::NAN; GROUP];
    last[..tail.len()].copy_from_slice(tail);
    gather_group(&last, least, most, out, n)
}

const GROUP: usize = 16;

/// Writes from place `n` on; answers the place behind.
#[inline(always)]
fn gather_group(
    group: &[f32; GROUP],
    least: u32,
    most: u32,
    out: &mut [u32],
    mut n: usize,
) -> usize {
    // Few values lie inside, so that most groups end here.
    let mut places = 0_u32;
    for (i, x) in group.iter().enumerate() {
        let inside = (x.to_bits() & ABS).wrapping_sub(least) <= most.wrapping_sub(least);
        places |= u32::from(inside) << i;
    }
    while places != 0 {
        let value = group[places.trailing_zeros() as usize];
        if let Some(out) = out.get_mut(n) {
            *out = value.to_bits() & ABS;
        }
        n += 1;
        places &= places.wrapping_sub(1);
    }
    n
}
