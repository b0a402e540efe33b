//! Quantization in blocks along the last axis, each with its own scale, to few bits.

use crate::array::Scratch;
use crate::block_format::{BlockFormat, BlockOutput, Pieces, check_lengths};
use crate::block_scale::find_parameters_body;
use crate::nibbles::pack_slice;
use crate::parallel::{Grain, run};
use crate::quantize::{MAGIC, quantize_one};
use crate::rounding::Beside;
use crate::simd::multiversion;
use crate::symmetric::BadChannels;
use crate::{Control, Error, FloatArray, IntFormat, ZeroPoint};

/// Values handled at once: the integers wait in the first-level cache to be packed.
const TILE: usize = 4096;

const GRAIN_VALUES: usize = 1 << 16;
const VALUES_PER_THREAD: usize = 1 << 18;

/// Quantizes blocks along the last axis.
///
/// # Errors
/// [`Error::ParameterLength`] if an output has another length, [`Error::InvalidFormat`] if the format
/// has no such zero point, [`Error::NonFiniteRange`] if a block holds NaN or infinite values (its
/// integers are those of 0), [`Error::Interrupted`].
pub fn quantize_blocks<Z: ZeroPoint>(
    x: &FloatArray<'_>,
    format: BlockFormat,
    out: BlockOutput<'_, Z>,
    control: &mut Control<'_>,
) -> Result<(), Error> {
    let row = x.shape().last().copied().unwrap_or(1);
    let rows: usize = x.shape().iter().rev().skip(1).product();
    check_lengths(&out, rows, row, &format)?;
    Z::check(&format)?;
    // Without a partial block the rows do not matter: every block is a row of its own. So is it
    // if rows are empty, and then there is none.
    let row = if row.is_multiple_of(format.size) {
        format.size
    } else {
        row
    };
    let total = out.scale.len();
    let pieces = Pieces {
        out,
        count: x.len() / row,
        bytes: format.row_bytes(row),
        blocks: row.div_ceil(format.size),
    };
    let grain = Grain {
        items: (GRAIN_VALUES / row).max(1),
        per_thread: (VALUES_PER_THREAD / row).max(1),
    };
    let bad = BadChannels::default();
    let kernel = |worker: &mut Worker, first: usize, pieces: Pieces<'_, Z>| {
        worker.rows(x, (first, row), &format, pieces, |block| bad.note(block));
    };
    run(control, pieces, &grain, Worker::default, kernel, drop)?;
    bad.check(total, "blocks")
}

#[derive(Default)]
struct Worker {
    scratch: Scratch,
    codes: Vec<u8>,
    beside: Option<Box<Beside>>,
}

/// Values and outputs of consecutive blocks, and what a thread keeps for them.
pub struct Tile<'a, Z> {
    /// The values; the last block may have fewer.
    pub(crate) x: &'a [f32],
    /// The linear index of the first value.
    pub(crate) start: usize,
    pub(crate) codes: &'a mut [u8],
    pub(crate) scale: &'a mut [f32],
    pub(crate) zero: &'a mut [Z],
    beside: &'a mut Option<Box<Beside>>,
}

impl Worker {
    /// Quantizes whole rows of `row` values from row `first` on; `bad` is told of blocks that
    /// cannot be.
    fn rows<Z: ZeroPoint>(
        &mut self,
        x: &FloatArray<'_>,
        (first, row): (usize, usize),
        format: &BlockFormat,
        pieces: Pieces<'_, Z>,
        mut bad: impl FnMut(usize),
    ) {
        let blocks = pieces.blocks;
        // Rows of one block each are one long row.
        let (runs, length) = if row == format.size {
            (1, pieces.count * row)
        } else {
            (pieces.count, row)
        };
        let mut left = pieces.out;
        for i in 0..runs {
            let (now, rest) = left.split(format.row_bytes(length), length.div_ceil(format.size));
            left = rest;
            self.row(x, (first + i) * row, length, format, now, |block| {
                bad((first + i) * blocks + block);
            });
        }
    }

    /// Quantizes `len` consecutive values, whole blocks but for the last.
    fn row<Z: ZeroPoint>(
        &mut self,
        x: &FloatArray<'_>,
        start: usize,
        len: usize,
        format: &BlockFormat,
        out: BlockOutput<'_, Z>,
        mut bad: impl FnMut(usize),
    ) {
        let step = (TILE / format.size).max(Z::SIDE_BY_SIDE) * format.size;
        let mut left = out;
        for offset in (0..len).step_by(step) {
            let n = step.min(len - offset);
            let blocks = n.div_ceil(format.size);
            let (now, rest) = left.split(format.row_bytes(n), blocks);
            left = rest;
            let x = x.tile(start + offset, n, &mut self.scratch);
            let mut tile = Tile {
                x,
                start: start + offset,
                codes: &mut [],
                scale: now.scale,
                zero: &mut *now.zero_point,
                beside: &mut self.beside,
            };
            let clean = if let Some(bias) = format.packed {
                self.codes.resize(blocks * format.size, 0);
                tile.codes = &mut self.codes[..n];
                let clean = Z::blocks(&mut tile, format);
                let filler = now.zero_point.last().map_or(0, |zero| zero.filler(format));
                self.codes[n..].fill(filler);
                pack_slice(&self.codes, bias, now.codes);
                clean
            } else {
                tile.codes = now.codes;
                Z::blocks(&mut tile, format)
            };
            if !clean {
                for (i, block) in x.chunks(format.size).enumerate() {
                    if block.iter().any(|x| !x.is_finite()) {
                        bad(offset / format.size + i);
                    }
                }
            }
        }
    }
}

impl Tile<'_, u8> {
    /// Rounds by another rule than half to even, scales and zero points being known.
    pub(crate) fn round_again(&mut self, format: &BlockFormat) {
        let beside = self.beside.get_or_insert_default();
        let (low, high) = format.limits();
        let limits = IntFormat { low, high };
        let parameters = self.scale.iter().zip(&*self.zero);
        let blocks = self
            .x
            .chunks(format.size)
            .zip(self.codes.chunks_mut(format.size));
        let mut start = self.start;
        for ((x, codes), (&scale, &zero)) in blocks.zip(parameters) {
            if x.iter().all(|x| x.is_finite()) {
                let one = (scale, i32::from(zero));
                beside.quantize_run((x, start), one, limits, format.rounding, codes);
            }
            start += x.len();
        }
    }
}

/// Quantizes consecutive blocks, to nearest even, with zero points that are integers; answers
/// whether all values are finite.
pub(crate) fn integer_blocks(tile: &mut Tile<'_, u8>, format: &BlockFormat) -> bool {
    blocks_of(tile.x, format, tile.codes, tile.scale, tile.zero)
}

multiversion! {
    fn blocks_of(
        x: &[f32], format: &BlockFormat, codes: &mut [u8], scale: &mut [f32], zero: &mut [u8],
    ) -> bool = blocks_of_body;
}

#[inline(always)]
fn blocks_of_body(
    x: &[f32],
    format: &BlockFormat,
    codes: &mut [u8],
    scale: &mut [f32],
    zero: &mut [u8],
) -> bool {
    // The usual sizes as constants let the compiler unroll the loops over a block.
    match format.size {
        32 => each_block(x, 32, format, codes, scale, zero),
        128 => each_block(x, 128, format, codes, scale, zero),
        size => each_block(x, size, format, codes, scale, zero),
    }
}

#[inline(always)]
fn each_block(
    x: &[f32],
    size: usize,
    format: &BlockFormat,
    codes: &mut [u8],
    scale: &mut [f32],
    zero: &mut [u8],
) -> bool {
    let mut clean = true;
    let mut outputs = scale.iter_mut().zip(zero);
    let whole = x.chunks_exact(size);
    let tail = whole.remainder();
    let (head_codes, tail_codes) = codes.split_at_mut(x.len() - tail.len());
    for ((x, codes), (scale, zero)) in whole
        .zip(head_codes.chunks_exact_mut(size))
        .zip(&mut outputs)
    {
        clean &= one_block(x, format, codes, scale, zero);
    }
    if let (false, Some((scale, zero))) = (tail.is_empty(), outputs.next()) {
        clean &= one_block(tail, format, tail_codes, scale, zero);
    }
    clean
}

#[inline(always)]
fn one_block(
    x: &[f32],
    format: &BlockFormat,
    codes: &mut [u8],
    scale: &mut f32,
    zero: &mut u8,
) -> bool {
    let Some(parameters) = find_parameters_body(x, format) else {
        codes.fill(0);
        (*scale, *zero) = (1.0, 0);
        return false;
    };
    let (low, high, step) = (parameters.low, parameters.high, parameters.scale);
    let shift = parameters.zero.wrapping_sub(MAGIC.to_bits().cast_signed());
    for (code, &x) in codes.iter_mut().zip(x) {
        *code = quantize_one(x, step, low, high, shift) as u8;
    }
    (*scale, *zero) = (step, parameters.zero as u8);
    true
}

/// Smallest and largest value. As integers whose order is that of the floats, because the compiler
/// may reorder a reduction of integers; NaN come out beyond the infinities.
#[inline(always)]
pub(crate) fn range(x: &[f32]) -> (f32, f32) {
    let key = |x: &f32| {
        let bits = x.to_bits().cast_signed();
        bits ^ ((bits >> 31) & 0x7fff_ffff)
    };
    let value = |key: i32| f32::from_bits((key ^ ((key >> 31) & 0x7fff_ffff)).cast_unsigned());
    let (mut min, mut max) = (i32::MAX, i32::MIN);
    for x in x {
        min = min.min(key(x));
        max = max.max(key(x));
    }
    (value(min), value(max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockScheme, View};

    fn quantize(
        x: &[f32],
        shape: &[usize],
        scheme: BlockScheme,
        packed: Option<u8>,
        threads: usize,
    ) -> (Vec<u8>, Vec<f32>, Vec<u8>) {
        let format = BlockFormat::new(4, 4, scheme, packed).expect("valid");
        let array = FloatArray::F32(View::from_slice(x, shape));
        let row = shape[shape.len() - 1];
        let rows = x.len() / row;
        let blocks = rows * row.div_ceil(4);
        let mut codes = vec![0; rows * format.row_bytes(row)];
        let (mut scale, mut zero_point) = (vec![0.0; blocks], vec![0; blocks]);
        let out = BlockOutput {
            codes: &mut codes,
            scale: &mut scale,
            zero_point: &mut zero_point,
        };
        quantize_blocks(&array, format, out, &mut Control::threads(threads)).expect("finite");
        (codes, scale, zero_point)
    }

    #[test]
    fn signed_max_reaches_low() {
        let x = [1.0, -2.0, 8.0, 0.5, 0.0, 0.0];
        let (codes, scale, _) = quantize(&x, &[1, 6], BlockScheme::SignedMax, None, 1);
        assert_eq!(
            codes.iter().map(|&c| c.cast_signed()).collect::<Vec<_>>(),
            [-1, 2, -8, 0, 0, 0]
        );
        assert_eq!(scale, [-1.0, 1.0]);
        let (codes, ..) = quantize(&x, &[1, 6], BlockScheme::SignedMax, Some(8), 1);
        assert_eq!(codes, [0xa7, 0x80, 0x88, 0x88]);
    }

    #[test]
    fn asymmetric_holds_zero() {
        let x = [3.0, 6.0, 4.5, 15.0, -30.0, -2.0, -4.0, -6.0];
        let (codes, scale, zero) = quantize(&x, &[2, 4], BlockScheme::Asymmetric, None, 1);
        assert_eq!(
            (codes, scale, zero),
            (
                vec![3, 6, 4, 15, 0, 14, 13, 12],
                vec![1.0, 2.0],
                vec![0, 15]
            )
        );
    }

    #[test]
    fn threads_do_not_matter() {
        let x: Vec<f32> = (0..1_200_000_u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 9).cast_signed() as f32 - 4e6)
            .collect();
        for shape in [[1000, 1200], [800, 1500], [1200, 1000]] {
            for row in [shape, [shape[0] * shape[1] / 6, 6]] {
                for scheme in [
                    BlockScheme::SignedMax,
                    BlockScheme::AbsMax,
                    BlockScheme::Asymmetric,
                ] {
                    let one = quantize(&x, &row, scheme, Some(0), 1);
                    assert_eq!(quantize(&x, &row, scheme, Some(0), 3), one);
                }
            }
        }
    }
}
