//! Zero points that are no integers: scale and zero point of a block, fitted to its values.
//!
//! With integers given, the scale and the zero point of least squared error are those of a straight
//! line through the values; with the line given, the best integers are the nearest. Taking turns
//! lowers the error at every step, as Lloyd's algorithm does, from which this differs in that the
//! levels stay evenly spaced.

use crate::BlockFormat;
use crate::blocks::{Tile, range};
use crate::quantize::MAGIC;
use crate::simd::multiversion;

/// Blocks that are fitted side by side, so that no sum runs across a vector.
pub(crate) const LANES: usize = 16;

/// Values in a block, at most: the buffer beside [`LANES`] blocks stays in the cache.
pub(crate) const LONGEST: usize = 4096;

/// Values whose sums are float32.
const CHUNK: usize = 1024;

/// Shares of the range that the fits begin with.
const STARTS: [f32; 2] = [1.0, 0.9];

/// Fits from each start.
const ROUNDS: usize = 3;

/// One number for every block.
type Lanes<T> = [T; LANES];

/// `x` is about `(code - zero) * scale`.
#[derive(Clone, Copy, Default)]
struct Line {
    scale: f32,
    zero: f32,
}

impl Line {
    /// The line that turns the range into `0..=top`.
    fn of(min: f32, max: f32, top: f32) -> Self {
        // In float64, because the width of the range may leave float32.
        let width = f64::from(max) - f64::from(min);
        let scale = match (width / f64::from(top)) as f32 {
            // One value: its distance from the zero point is one unit.
            _ if width == 0.0 && min != 0.0 => min.abs(),
            _ if width == 0.0 => 1.0,
            scale => scale,
        };
        let scale = scale.max(f32::MIN_POSITIVE);
        Self {
            scale,
            zero: 0.0 - min / scale,
        }
    }
}

/// Quantizes consecutive blocks of up to [`LONGEST`] values; answers whether all are finite.
pub(crate) fn fitted_blocks(tile: &mut Tile<'_, f32>, format: &BlockFormat) -> bool {
    let mut clean = true;
    let mut buffer = Vec::new();
    let mut outputs = tile.scale.iter_mut().zip(&mut *tile.zero);
    // A last block with fewer values stands alone.
    let whole = tile.x.len() - tile.x.len() % format.size;
    let (x, codes) = (tile.x, &mut *tile.codes);
    let parts = [(0..whole, format.size), (whole..x.len(), x.len() - whole)];
    for (part, size) in parts.into_iter().filter(|(part, _)| !part.is_empty()) {
        let groups = x[part.clone()].chunks(LANES * size);
        for (x, codes) in groups.zip(codes[part].chunks_mut(LANES * size)) {
            let mut lines = [Line::default(); LANES];
            let lines = &mut lines[..x.len() / size];
            clean &= fit(x, size, format, &mut buffer, lines);
            write_codes(x, size, format, lines, codes);
            for (line, (scale, zero)) in lines.iter().zip(&mut outputs) {
                (*scale, *zero) = (line.scale, line.zero);
            }
        }
    }
    clean
}

/// The lines of blocks of `size` values; that of a block with NaN or infinities has the scale 0.
fn fit(
    x: &[f32],
    size: usize,
    format: &BlockFormat,
    buffer: &mut Vec<Lanes<f32>>,
    lines: &mut [Line],
) -> bool {
    let top = format.limits().1 as f32;
    let mut clean = true;
    for (x, line) in x.chunks_exact(size).zip(&mut *lines) {
        let (min, max) = range(x);
        let finite = min.is_finite() && max.is_finite();
        clean &= finite;
        *line = if finite {
            Line::of(min, max, top)
        } else {
            Line::default()
        };
    }
    if format.search {
        buffer.resize(size, [0.0; LANES]);
        search(x, top, buffer, lines);
    }
    clean
}

multiversion! {
    fn search(x: &[f32], top: f32, buffer: &mut [Lanes<f32>], lines: &mut [Line]) = search_body;
}

#[inline(always)]
fn search_body(x: &[f32], top: f32, buffer: &mut [Lanes<f32>], lines: &mut [Line]) {
    // In units of the range's scale, from its zero point: 0 to `top`, block beside block.
    for (lane, (x, line)) in x.chunks_exact(buffer.len()).zip(&*lines).enumerate() {
        for (to, x) in buffer.iter_mut().zip(x) {
            to[lane] = x / line.scale + line.zero;
        }
    }
    let total = totals(buffer, |y, sums: &mut [Lanes<f32>; 1]| {
        for l in 0..LANES {
            sums[0][l] += y[l];
        }
    })[0];
    let mut best = Fit::new(STARTS[0], top);
    let mut least = [f64::INFINITY; LANES];
    for start in STARTS {
        let mut fit = Fit::new(start, top);
        for _ in 0..ROUNDS {
            fit.improve(buffer, top, &total);
        }
        let error = fit.error(buffer, top);
        for l in 0..LANES {
            if error[l] < least[l] {
                least[l] = error[l];
                (best.slope[l], best.offset[l]) = (fit.slope[l], fit.offset[l]);
            }
        }
    }
    for (l, line) in lines.iter_mut().enumerate().filter(|(_, l)| l.scale > 0.0) {
        let scale = line.scale * best.slope[l];
        *line = Line {
            scale: if scale > f32::MIN_POSITIVE {
                scale
            } else {
                f32::MIN_POSITIVE
            },
            zero: (line.zero - best.offset[l]) / best.slope[l],
        };
    }
}

/// The sums over all rows, by float32 in order within [`CHUNK`] rows and float64 beyond.
#[inline(always)]
fn totals<const N: usize>(
    rows: &[Lanes<f32>],
    add: impl Fn(&Lanes<f32>, &mut [Lanes<f32>; N]),
) -> [Lanes<f64>; N] {
    let mut total = [[0.0; LANES]; N];
    for chunk in rows.chunks(CHUNK) {
        let mut sums = [[0.0; LANES]; N];
        for row in chunk {
            add(row, &mut sums);
        }
        for (total, sums) in total.iter_mut().zip(sums) {
            for l in 0..LANES {
                total[l] += f64::from(sums[l]);
            }
        }
    }
    total
}

/// `y` is about `slope * code + offset`, and the code of `y` about `gain * y + shift`.
struct Fit {
    slope: Lanes<f32>,
    offset: Lanes<f32>,
    gain: Lanes<f32>,
    shift: Lanes<f32>,
}

impl Fit {
    /// A share of the range around its middle.
    #[inline(always)]
    fn new(share: f32, top: f32) -> Self {
        let (offset, gain) = (top / 2.0 * (1.0 - share), 1.0 / share);
        Self {
            slope: [share; LANES],
            offset: [offset; LANES],
            gain: [gain; LANES],
            shift: [-(offset * gain); LANES],
        }
    }

    #[inline(always)]
    fn code(&self, y: &Lanes<f32>, l: usize, top: f32) -> f32 {
        integer(y[l] * self.gain[l] + self.shift[l], top)
    }

    /// The line of least squared error for the present integers, `total` being the sum of values.
    #[inline(always)]
    fn improve(&mut self, rows: &[Lanes<f32>], top: f32, total: &Lanes<f64>) {
        let [code, square, cross] = totals(rows, |y, sums: &mut [Lanes<f32>; 3]| {
            for l in 0..LANES {
                let code = self.code(y, l, top);
                sums[0][l] += code;
                sums[1][l] += code * code;
                sums[2][l] += code * y[l];
            }
        });
        let n = rows.len() as f64;
        for l in 0..LANES {
            let spread = n * square[l] - code[l] * code[l];
            let slope = (n * cross[l] - code[l] * total[l]) / spread;
            // Integers that are all the same say nothing of the slope.
            let sound = (spread > 0.0) & (slope > 0.0);
            let offset = (total[l] - slope * code[l]) / n;
            let (slope, offset) = (slope as f32, offset as f32);
            let gain = 1.0 / slope;
            self.slope[l] = if sound { slope } else { self.slope[l] };
            self.offset[l] = if sound { offset } else { self.offset[l] };
            self.gain[l] = if sound { gain } else { self.gain[l] };
            self.shift[l] = if sound {
                -(offset * gain)
            } else {
                self.shift[l]
            };
        }
    }

    #[inline(always)]
    fn error(&self, rows: &[Lanes<f32>], top: f32) -> Lanes<f64> {
        totals(rows, |y, sums: &mut [Lanes<f32>; 1]| {
            for l in 0..LANES {
                let lost = y[l] - (self.code(y, l, top) * self.slope[l] + self.offset[l]);
                sums[0][l] += lost * lost;
            }
        })[0]
    }
}

/// The integer nearest to `y` among `0..=top`, ties to even.
#[inline(always)]
fn integer(y: f32, top: f32) -> f32 {
    (limited(y, top) + MAGIC) - MAGIC
}

#[inline(always)]
fn limited(y: f32, top: f32) -> f32 {
    let y = if y > 0.0 { y } else { 0.0 };
    if y < top { y } else { top }
}

multiversion! {
    fn write_codes(
        x: &[f32], size: usize, format: &BlockFormat, lines: &mut [Line], codes: &mut [u8],
    ) = write_codes_body;
}

#[inline(always)]
fn write_codes_body(
    x: &[f32],
    size: usize,
    format: &BlockFormat,
    lines: &mut [Line],
    codes: &mut [u8],
) {
    let top = format.limits().1 as f32;
    for ((x, line), codes) in x
        .chunks_exact(size)
        .zip(lines)
        .zip(codes.chunks_exact_mut(size))
    {
        if line.scale == 0.0 {
            codes.fill(0);
            *line = Line {
                scale: 1.0,
                zero: 0.0,
            };
            continue;
        }
        for (code, x) in codes.iter_mut().zip(x) {
            let y = limited(x / line.scale + line.zero, top);
            *code = (y + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockOutput, BlockScheme, Control, FloatArray, View, quantize_blocks};

    fn quantize(x: &[f32], size: usize, search: bool, threads: usize) -> (Vec<u8>, Vec<Line>) {
        let format = BlockFormat::new(4, size, BlockScheme::Asymmetric, None)
            .expect("valid")
            .with_search(search);
        let blocks = x.len().div_ceil(size);
        let (mut codes, mut scale) = (vec![0; x.len()], vec![0.0; blocks]);
        let mut zero_point = vec![0.0_f32; blocks];
        let out = BlockOutput {
            codes: &mut codes,
            scale: &mut scale,
            zero_point: &mut zero_point,
        };
        let array = FloatArray::F32(View::from_slice(x, &[x.len()]));
        quantize_blocks(&array, format, out, &mut Control::threads(threads)).expect("finite");
        let lines = scale.iter().zip(zero_point);
        let lines = lines.map(|(&scale, zero)| Line { scale, zero }).collect();
        (codes, lines)
    }

    fn error(x: &[f32], size: usize, (codes, lines): &(Vec<u8>, Vec<Line>)) -> f64 {
        let values = x.iter().zip(codes).enumerate();
        values
            .map(|(i, (x, &code))| {
                let Line { scale, zero } = lines[i / size];
                f64::from(x - (f32::from(code) - zero) * scale).powi(2)
            })
            .sum()
    }

    #[test]
    fn a_fit_lowers_the_error_and_threads_do_not_matter() {
        let noise = |i: u32| f64::from(i.wrapping_mul(2_654_435_761) >> 8) / 8_388_608.0 - 1.0;
        for size in [7, 32, 1500] {
            let x: Vec<f32> = (0..600_011)
                .map(|i| noise(i).powi(5) as f32 + 3.0)
                .collect();
            let (plain, found) = (quantize(&x, size, false, 1), quantize(&x, size, true, 1));
            assert!(error(&x, size, &found) < error(&x, size, &plain));
            assert_eq!(quantize(&x, size, true, 3).0, found.0);
        }
    }

    #[test]
    fn blocks_of_one_value_are_exact() {
        for value in [0.0, -3.0, 1e-30, 5e37] {
            for search in [false, true] {
                let (codes, lines) = quantize(&[value; 8], 8, search, 1);
                let Line { scale, zero } = lines[0];
                assert_eq!((f32::from(codes[0]) - zero) * scale, value);
            }
        }
    }
}
