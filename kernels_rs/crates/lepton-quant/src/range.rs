//! Smallest and largest value, and largest magnitude, per tensor or per channel.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::array::Scratch;
use crate::parallel::{Grain, run};
use crate::simd::multiversion;
use crate::{AxisLayout, Control, Error, FloatArray};

const GRAIN: Grain = Grain {
    items: 1 << 16,
    per_thread: 1 << 18,
};

/// Independent accumulators per loop: enough to hide the latency of min/max at every vector width.
const LANES: usize = 64;

const ABS: u32 = 0x7fff_ffff;
const INFINITY: u32 = 0x7f80_0000;

/// The range of the values of one channel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extent {
    /// The smallest value; NaN if any value is NaN; a zero is +0.
    pub min: f32,
    /// The largest value; NaN if any value is NaN; a zero is +0.
    pub max: f32,
}

/// One channel's state. Magnitudes are compared as integers: as bits without the sign, larger
/// floats are larger integers and NaN are the largest, so no NaN test is needed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Running {
    pub(crate) min: f32,
    pub(crate) max: f32,
    pub(crate) magnitude: u32,
}

impl Running {
    const NONE: Self = Self {
        min: f32::INFINITY,
        max: f32::NEG_INFINITY,
        magnitude: 0,
    };

    fn merge(&mut self, other: Self) {
        self.min = lesser(self.min, other.min);
        self.max = greater(self.max, other.max);
        self.magnitude = self.magnitude.max(other.magnitude);
    }

    fn extent(self) -> Extent {
        if self.magnitude > INFINITY {
            return Extent {
                min: f32::NAN,
                max: f32::NAN,
            };
        }
        // Adding +0 turns -0 into +0, whichever came first.
        Extent {
            min: self.min + 0.0,
            max: self.max + 0.0,
        }
    }

    fn absmax(self) -> f32 {
        if self.magnitude > INFINITY {
            return f32::NAN;
        }
        f32::from_bits(self.magnitude)
    }
}

/// One min instruction; a NaN leaves `best` as it is.
#[inline(always)]
fn lesser(best: f32, x: f32) -> f32 {
    if x < best { x } else { best }
}

#[inline(always)]
fn greater(best: f32, x: f32) -> f32 {
    if x > best { x } else { best }
}

/// Smallest and largest value of every channel. NaN spreads to both; zeros come out as +0.
///
/// # Errors
/// [`Error::Empty`] if a channel has no value, [`Error::Interrupted`].
pub fn minmax(
    x: &FloatArray<'_>,
    layout: AxisLayout,
    control: &mut Control<'_>,
) -> Result<Vec<Extent>, Error> {
    let all = reduce(x, layout, control, extent_of, update_extents)?;
    Ok(all.into_iter().map(Running::extent).collect())
}

/// Largest magnitude of every channel; NaN if the channel holds one.
///
/// # Errors
/// [`Error::Empty`] if a channel has no value, [`Error::Interrupted`].
pub fn absmax(
    x: &FloatArray<'_>,
    layout: AxisLayout,
    control: &mut Control<'_>,
) -> Result<Vec<f32>, Error> {
    let all = reduce(x, layout, control, running_magnitude, update_magnitudes)?;
    Ok(all.into_iter().map(Running::absmax).collect())
}

/// The state of many channels, each part of its own so that a vector loop can run over channels.
struct Columns {
    min: Vec<f32>,
    max: Vec<f32>,
    magnitude: Vec<u32>,
}

impl Columns {
    fn new(n: usize) -> Self {
        Self {
            min: vec![Running::NONE.min; n],
            max: vec![Running::NONE.max; n],
            magnitude: vec![Running::NONE.magnitude; n],
        }
    }

    fn get(&self, i: usize) -> Running {
        Running {
            min: self.min[i],
            max: self.max[i],
            magnitude: self.magnitude[i],
        }
    }

    fn merge(&mut self, i: usize, other: Running) {
        let mut running = self.get(i);
        running.merge(other);
        self.min[i] = running.min;
        self.max[i] = running.max;
        self.magnitude[i] = running.magnitude;
    }
}

/// Minimum and maximum do not depend on the order of merging (NaN and the sign of zero are settled
/// at the end), so every thread keeps its own channels and they are merged as they come.
fn reduce(
    x: &FloatArray<'_>,
    layout: AxisLayout,
    control: &mut Control<'_>,
    of_run: impl Fn(&[f32]) -> Running + Sync,
    update: impl Fn(&[f32], &mut [f32], &mut [f32], &mut [u32]) + Sync,
) -> Result<Vec<Running>, Error> {
    if layout.channels > 0 && layout.is_empty() {
        return Err(Error::Empty);
    }
    // Short runs are reduced by their place in the period, and places by channel at the end.
    let places: Vec<usize> = if layout.is_interleaved() {
        layout.period()
    } else {
        (0..layout.channels).collect()
    };
    let total = Mutex::new(vec![Running::NONE; layout.channels]);
    let init = || (Scratch::default(), Columns::new(places.len()));
    let kernel = |state: &mut (Scratch, Columns), start: usize, piece: Range<usize>| {
        let (scratch, columns) = state;
        x.tiles(start, piece.len(), scratch, |offset, x| {
            if !layout.is_interleaved() {
                layout.runs(start + offset, x.len(), |channel, from, to| {
                    columns.merge(channel, of_run(&x[from..to]));
                });
                return;
            }
            let mut rest = x;
            let mut phase = (start + offset) % places.len();
            while !rest.is_empty() {
                let end = places.len().min(phase + rest.len());
                let (now, later) = rest.split_at(end - phase);
                update(
                    now,
                    &mut columns.min[phase..end],
                    &mut columns.max[phase..end],
                    &mut columns.magnitude[phase..end],
                );
                (rest, phase) = (later, 0);
            }
        });
    };
    let finish = |(_, columns): (Scratch, Columns)| {
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, &channel) in places.iter().enumerate() {
            total[channel].merge(columns.get(place));
        }
    };
    run(control, 0..x.len(), &GRAIN, init, kernel, finish)?;
    Ok(total.into_inner().unwrap_or_else(PoisonError::into_inner))
}

multiversion! {
    /// Value by value.
    fn update_extents(
        x: &[f32], min: &mut [f32], max: &mut [f32], magnitude: &mut [u32],
    ) = update_extents_body;
}

#[inline(always)]
fn update_extents_body(x: &[f32], min: &mut [f32], max: &mut [f32], magnitude: &mut [u32]) {
    for (((&x, min), max), magnitude) in x.iter().zip(min).zip(max).zip(magnitude) {
        *min = lesser(*min, x);
        *max = greater(*max, x);
        *magnitude = (*magnitude).max(x.to_bits() & ABS);
    }
}

multiversion! {
    /// Value by value, magnitudes alone.
    fn update_magnitudes(
        x: &[f32], min: &mut [f32], max: &mut [f32], magnitude: &mut [u32],
    ) = update_magnitudes_body;
}

#[inline(always)]
fn update_magnitudes_body(x: &[f32], _: &mut [f32], _: &mut [f32], magnitude: &mut [u32]) {
    for (&x, magnitude) in x.iter().zip(magnitude) {
        *magnitude = (*magnitude).max(x.to_bits() & ABS);
    }
}

fn running_magnitude(x: &[f32]) -> Running {
    Running {
        magnitude: magnitude_of(x),
        ..Running::NONE
    }
}

multiversion! {
    /// Smallest and largest value, leaving NaN out, and the bits of the largest magnitude.
    pub(crate) fn extent_of(x: &[f32]) -> Running = extent_of_body;
}

#[inline(always)]
fn extent_of_body(x: &[f32]) -> Running {
    let mut min = [f32::INFINITY; LANES];
    let mut max = [f32::NEG_INFINITY; LANES];
    let mut magnitude = [0_i32; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            let x = chunk[lane];
            min[lane] = lesser(min[lane], x);
            max[lane] = greater(max[lane], x);
            magnitude[lane] = magnitude[lane].max((x.to_bits() & ABS).cast_signed());
        }
    }
    for (lane, &x) in tail.iter().enumerate() {
        min[lane] = lesser(min[lane], x);
        max[lane] = greater(max[lane], x);
        magnitude[lane] = magnitude[lane].max((x.to_bits() & ABS).cast_signed());
    }
    Running {
        min: min.into_iter().fold(f32::INFINITY, lesser),
        max: max.into_iter().fold(f32::NEG_INFINITY, greater),
        magnitude: magnitude.into_iter().fold(0, i32::max).cast_unsigned(),
    }
}

multiversion! {
    /// The bits of the largest magnitude.
    pub(crate) fn magnitude_of(x: &[f32]) -> u32 = magnitude_of_body;
}

#[inline(always)]
fn magnitude_of_body(x: &[f32]) -> u32 {
    let mut magnitude = [0_i32; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            magnitude[lane] = magnitude[lane].max((chunk[lane].to_bits() & ABS).cast_signed());
        }
    }
    let rest = tail.iter().map(|x| (x.to_bits() & ABS).cast_signed());
    magnitude
        .into_iter()
        .chain(rest)
        .fold(0, i32::max)
        .cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::View;

    fn check(
        x: &[f32],
        shape: &[usize],
        axis: Option<usize>,
        threads: usize,
    ) -> (Vec<Extent>, Vec<f32>) {
        let array = FloatArray::F32(View::from_slice(x, shape));
        let layout = AxisLayout::new(shape, axis).expect("axis");
        let control = &mut Control::threads(threads);
        let extents = minmax(&array, layout, control).expect("minmax");
        let magnitudes = absmax(&array, layout, control).expect("absmax");
        (extents, magnitudes)
    }

    #[test]
    fn finds_the_range_of_every_channel() {
        let x: Vec<f32> = (0..600_000_i32)
            .map(|i| ((i % 10_007 * 7919) % 100_003 - 50_000) as f32)
            .collect();
        for (shape, axis) in [
            (vec![600_000], None),
            (vec![3, 200_000], Some(0)),
            (vec![200_000, 3], Some(1)),
            (vec![10, 6, 10_000], Some(1)),
            (vec![10_000, 6, 10], Some(1)),
        ] {
            let layout = AxisLayout::new(&shape, axis).expect("axis");
            for threads in [1, 3] {
                let (extents, magnitudes) = check(&x, &shape, axis, threads);
                for channel in 0..layout.channels {
                    let mine: Vec<f32> = x
                        .iter()
                        .enumerate()
                        .filter(|(i, _)| (i / layout.inner) % layout.channels == channel)
                        .map(|(_, &x)| x)
                        .collect();
                    let min = mine.iter().copied().fold(f32::INFINITY, f32::min);
                    let max = mine.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    assert_eq!(extents[channel], Extent { min, max });
                    assert_eq!(magnitudes[channel], max.max(-min));
                }
            }
        }
    }

    #[test]
    fn nan_spreads_and_zero_is_positive() {
        let (extents, magnitudes) = check(&[1.0, f32::NAN, -0.0, 0.0], &[2, 2], Some(0), 1);
        assert!(extents[0].min.is_nan() && extents[0].max.is_nan() && magnitudes[0].is_nan());
        assert_eq!(extents[1].min.to_bits(), 0);
        assert_eq!(extents[1].max.to_bits(), 0);
        let layout = AxisLayout::new(&[0, 2], Some(1)).expect("axis");
        let empty = FloatArray::F32(View::from_slice(&[], &[0, 2]));
        assert_eq!(
            minmax(&empty, layout, &mut Control::threads(1)),
            Err(Error::Empty)
        );
    }
}
