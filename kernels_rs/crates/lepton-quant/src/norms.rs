//! Sums of magnitudes and of squares by channel, in an order that does not depend on threads.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::array::Scratch;
use crate::parallel::{Grain, run};
use crate::simd::multiversion;
use crate::{AxisLayout, Control, Error, FloatArray};

const GRAIN: Grain = Grain {
    items: 1,
    per_thread: 2,
};

/// Values summed before their sums join the total, at least.
const BLOCK: usize = 1 << 16;

/// Blocks at most, so that their sums stay small beside the values.
const BLOCKS: usize = 64;

/// Sums of all blocks together, at most (unless one block alone has more).
const SUMS: usize = 1 << 20;

/// Independent partial sums of a run.
const LANES: usize = 8;

/// The sum of magnitudes, or of squares, of every channel, in float64.
///
/// # Errors
/// [`Error::Interrupted`].
pub fn power_sums(
    x: &FloatArray<'_>,
    layout: AxisLayout,
    squares: bool,
    control: &mut Control<'_>,
) -> Result<Vec<f64>, Error> {
    let blocks = x.len().div_ceil(BLOCK).min(BLOCKS);
    let blocks = blocks.min(SUMS / layout.channels.max(1)).max(1);
    let length = x.len().div_ceil(blocks).max(1);
    let parts = Mutex::new(vec![Vec::new(); blocks]);
    let kernel = |scratch: &mut Scratch, first: usize, piece: Range<usize>| {
        for block in first..first + piece.len() {
            let start = (block * length).min(x.len());
            let end = (start + length).min(x.len());
            let mut sums = vec![0.0; layout.channels];
            x.tiles(start, end - start, scratch, |offset, x| {
                add_tile(x, start + offset, layout, squares, &mut sums);
            });
            parts.lock().unwrap_or_else(PoisonError::into_inner)[block] = sums;
        }
    };
    run(control, 0..blocks, &GRAIN, Scratch::default, kernel, drop)?;
    let mut total = vec![0.0; layout.channels];
    for part in parts.into_inner().unwrap_or_else(PoisonError::into_inner) {
        for (total, part) in total.iter_mut().zip(part) {
            *total += part;
        }
    }
    Ok(total)
}

/// Columns whose sums stay in the first-level cache.
const COLUMNS: usize = 1024;

/// The L1 norm, or with `squares` the L2 norm, of every block of a matrix: sums in float64, the
/// result rounded to float32. Blocks at the ends may be smaller. `out` holds a row of blocks after
/// the other.
///
/// # Errors
/// [`Error::InvalidFormat`] unless `x` has two dimensions and the block a height and a width,
/// [`Error::ParameterLength`] if `out` has another length, [`Error::Interrupted`].
pub fn block_norms(
    x: &FloatArray<'_>,
    (height, width): (usize, usize),
    squares: bool,
    out: &mut [f32],
    control: &mut Control<'_>,
) -> Result<(), Error> {
    let (rows, columns) = matrix_of_blocks(x, (height, width), out.len())?;
    let across = columns.div_ceil(width);
    let grain = Grain {
        items: across.max(1),
        per_thread: BLOCK.div_ceil(height * width),
    };
    // Blocks side by side, whose columns are read together.
    let together = (COLUMNS / width).max(1);
    let kernel = |(scratch, sums): &mut (Scratch, Vec<f64>), start: usize, out: &mut [f32]| {
        for (i, norms) in out.chunks_mut(across).enumerate() {
            let first = (start / across + i) * height;
            for (j, norms) in norms.chunks_mut(together).enumerate() {
                let from = j * together * width;
                let n = (norms.len() * width).min(columns - from);
                sums.clear();
                sums.resize(norms.len(), 0.0);
                for row in first..rows.min(first + height) {
                    add_pieces(
                        x.tile(row * columns + from, n, scratch),
                        width,
                        squares,
                        sums,
                    );
                }
                finish(sums, squares, norms);
            }
        }
    };
    run(control, out, &grain, Default::default, kernel, drop)
}

/// Rows and columns of a matrix whose blocks are as many as there are outputs.
fn matrix_of_blocks(
    x: &FloatArray<'_>,
    (height, width): (usize, usize),
    given: usize,
) -> Result<(usize, usize), Error> {
    let (&[rows, columns], 1.., 1..) = (x.shape(), height, width) else {
        return Err(Error::InvalidFormat(format!(
            "blocks of {height} rows and {width} columns need a matrix, and at least one of each"
        )));
    };
    let expected = rows.div_ceil(height) * columns.div_ceil(width);
    if given != expected {
        return Err(Error::ParameterLength {
            name: "out",
            expected,
            given,
        });
    }
    Ok((rows, columns))
}

multiversion! {
    /// Adds the sums of pieces of `width` values to one sum each.
    fn add_pieces(x: &[f32], width: usize, squares: bool, sums: &mut [f64]) = add_pieces_body;
}

#[inline(always)]
fn add_pieces_body(x: &[f32], width: usize, squares: bool, sums: &mut [f64]) {
    match width {
        1 => add_each_body(x, squares, sums),
        2 => add_short::<2>(x, squares, sums),
        4 => add_short::<4>(x, squares, sums),
        8 => add_short::<8>(x, squares, sums),
        _ => add_long(x, width, squares, sums),
    }
}

/// As [`sum_of`] for as many values as there are lanes at most, which then are one sum in order.
#[inline(always)]
fn add_short<const N: usize>(x: &[f32], squares: bool, sums: &mut [f64]) {
    let (pieces, tail) = x.as_chunks::<N>();
    let (whole, last) = sums.split_at_mut(pieces.len());
    for (sum, x) in whole.iter_mut().zip(pieces) {
        let mut total = power(x[0], squares);
        for &x in &x[1..] {
            total += power(x, squares);
        }
        *sum += total;
    }
    add_long(tail, N, squares, last);
}

#[inline(always)]
fn add_long(x: &[f32], width: usize, squares: bool, sums: &mut [f64]) {
    for (sum, x) in sums.iter_mut().zip(x.chunks(width)) {
        *sum += sum_of_body(x, squares);
    }
}

multiversion! {
    fn finish(sums: &[f64], squares: bool, norms: &mut [f32]) = finish_body;
}

#[inline(always)]
fn finish_body(sums: &[f64], squares: bool, norms: &mut [f32]) {
    for (norm, &sum) in norms.iter_mut().zip(sums) {
        *norm = if squares { sum.sqrt() } else { sum } as f32;
    }
}

fn add_tile(x: &[f32], start: usize, layout: AxisLayout, squares: bool, sums: &mut [f64]) {
    if layout.inner == 1 && layout.channels > 1 {
        let mut rest = x;
        let mut channel = start % layout.channels;
        while !rest.is_empty() {
            let end = layout.channels.min(channel + rest.len());
            let (now, later) = rest.split_at(end - channel);
            add_each(now, squares, &mut sums[channel..end]);
            (rest, channel) = (later, 0);
        }
        return;
    }
    layout.runs(start, x.len(), |channel, from, to| {
        sums[channel] += sum_of(&x[from..to], squares);
    });
}

#[inline(always)]
fn power(x: f32, squares: bool) -> f64 {
    let x = f64::from(x);
    if squares { x * x } else { x.abs() }
}

multiversion! {
    fn add_each(x: &[f32], squares: bool, sums: &mut [f64]) = add_each_body;
}

#[inline(always)]
fn add_each_body(x: &[f32], squares: bool, sums: &mut [f64]) {
    for (sum, &x) in sums.iter_mut().zip(x) {
        *sum += power(x, squares);
    }
}

multiversion! {
    fn sum_of(x: &[f32], squares: bool) -> f64 = sum_of_body;
}

#[inline(always)]
fn sum_of_body(x: &[f32], squares: bool) -> f64 {
    let mut sums = [0.0; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += power(x, squares);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(tail) {
        *sum += power(x, squares);
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::View;

    #[test]
    fn every_axis_and_thread_count_agrees() {
        let x: Vec<f32> = (0..300_000_i32).map(|i| (i % 1001 - 500) as f32).collect();
        let shape = [30, 100, 100];
        let array = FloatArray::F32(View::from_slice(&x, &shape));
        for axis in [None, Some(0), Some(1), Some(2)] {
            let layout = AxisLayout::new(&shape, axis).expect("axis");
            for squares in [false, true] {
                let mut want = vec![0.0; layout.channels];
                for (i, &x) in x.iter().enumerate() {
                    want[i / layout.inner % layout.channels] += power(x, squares);
                }
                for threads in [1, 3] {
                    let control = &mut Control::threads(threads);
                    let got = power_sums(&array, layout, squares, control).expect("sums");
                    // Integers add up exactly in any order.
                    assert_eq!(got, want);
                }
            }
        }
    }
}
