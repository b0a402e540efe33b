//! Quantization that rounds in another way than to nearest even: half away from zero, or at random.

use std::ops::Range;

use crate::IntFormat;
use crate::affine::{Affine, Emit, Periodic};
use crate::quantize::MAGIC;
use crate::simd::multiversion;

/// How a quotient becomes an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rounding {
    /// To nearest, ties to even.
    #[default]
    HalfEven,
    /// To nearest, ties away from zero.
    HalfAway,
    /// Up with the probability of the fraction, else down; the same for the same seed and index.
    Stochastic {
        /// What tells one series of random numbers from another.
        seed: u64,
    },
}

/// Values handled at once; the parameters and random words beside them stay in the first-level
/// cache.
const TILE: usize = 1024;

/// What one thread keeps beside the values.
pub(crate) struct Beside {
    scale: [f32; TILE],
    zero: [i32; TILE],
    words: [u32; TILE + LANES * WORDS],
    /// The channel that fills `scale` and `zero`.
    channel: usize,
}

impl Default for Beside {
    fn default() -> Self {
        Self {
            scale: [1.0; TILE],
            zero: [0; TILE],
            words: [0; TILE + LANES * WORDS],
            channel: usize::MAX,
        }
    }
}

impl Beside {
    /// Quantizes `x`, whose first value has the linear index `start`. A NaN gives an unspecified
    /// integer.
    pub(crate) fn quantize<Q: Emit>(
        &mut self,
        (x, start): (&[f32], usize),
        affine: &Affine<'_>,
        periodic: Option<&Periodic>,
        format: IntFormat,
        rounding: Rounding,
        out: &mut [Q],
    ) {
        if let Some(periodic) = periodic {
            periodic.runs(start, x.len(), |from, to, scale, zero| {
                for at in (from..to).step_by(TILE) {
                    let end = to.min(at + TILE);
                    let n = end - at;
                    self.channel = usize::MAX;
                    self.scale[..n].copy_from_slice(&scale[at - from..end - from]);
                    self.zero[..n].copy_from_slice(&zero[at - from..end - from]);
                    self.tile((x, start), at..end, format, rounding, out);
                }
            });
            return;
        }
        affine.layout.runs(start, x.len(), |channel, from, to| {
            if self.channel != channel {
                self.channel = channel;
                self.scale.fill(affine.scale[channel]);
                self.zero.fill(affine.zero_point[channel]);
            }
            for at in (from..to).step_by(TILE) {
                self.tile((x, start), at..to.min(at + TILE), format, rounding, out);
            }
        });
    }

    /// As [`Beside::quantize`], with one scale and zero point.
    pub(crate) fn quantize_run<Q: Emit>(
        &mut self,
        (x, start): (&[f32], usize),
        (scale, zero): (f32, i32),
        format: IntFormat,
        rounding: Rounding,
        out: &mut [Q],
    ) {
        self.channel = usize::MAX;
        let n = x.len().min(TILE);
        self.scale[..n].fill(scale);
        self.zero[..n].fill(zero);
        for at in (0..x.len()).step_by(TILE) {
            self.tile(
                (x, start),
                at..x.len().min(at + TILE),
                format,
                rounding,
                out,
            );
        }
    }

    fn tile<Q: Emit>(
        &mut self,
        (x, start): (&[f32], usize),
        range: Range<usize>,
        format: IntFormat,
        rounding: Rounding,
        out: &mut [Q],
    ) {
        let n = range.len();
        let (scale, zero) = (&self.scale[..n], &self.zero[..n]);
        let (x, out) = (&x[range.clone()], &mut out[range.clone()]);
        if let Rounding::Stochastic { seed } = rounding {
            let first = start + range.start;
            let words = random_words(seed, first, n, &mut self.words);
            at_random(x, scale, zero, words, format, out);
        } else {
            half_away(x, scale, zero, format, out);
        }
    }
}

multiversion! {
    fn half_away<Q: Emit>(
        x: &[f32], scale: &[f32], zero: &[i32], format: IntFormat, out: &mut [Q],
    ) = half_away_body;
}

#[inline(always)]
fn half_away_body<Q: Emit>(
    x: &[f32],
    scale: &[f32],
    zero: &[i32],
    format: IntFormat,
    out: &mut [Q],
) {
    for (((out, &x), &scale), &zero) in out.iter_mut().zip(x).zip(scale).zip(zero) {
        let y = limited(x / scale, zero, format);
        let (code, even) = nearest(y);
        // Ties are the only values whose two roundings differ, and their distance is exact.
        let up = i32::from(y - even == 0.5 && y > 0.0);
        let down = i32::from(y - even == -0.5 && y < 0.0);
        let code = code.wrapping_add(up.wrapping_sub(down));
        *out = Q::emit(code.wrapping_add(zero), scale, zero);
    }
}

multiversion! {
    fn at_random<Q: Emit>(
        x: &[f32], scale: &[f32], zero: &[i32], words: &[u32], format: IntFormat, out: &mut [Q],
    ) = at_random_body;
}

#[inline(always)]
fn at_random_body<Q: Emit>(
    x: &[f32],
    scale: &[f32],
    zero: &[i32],
    words: &[u32],
    format: IntFormat,
    out: &mut [Q],
) {
    let parameters = scale.iter().zip(zero).zip(words);
    for ((out, &x), ((&scale, &zero), &word)) in out.iter_mut().zip(x).zip(parameters) {
        let y = limited(x / scale, zero, format);
        let (code, near) = nearest(y);
        let below = i32::from(near > y);
        let floor = if near > y { near - 1.0 } else { near };
        // 24 bits, which float32 holds, in 0..1.
        let dice = (word >> 8).cast_signed() as f32 * (1.0 / 16_777_216.0);
        let up = i32::from(dice < y - floor);
        let code = code.wrapping_add(up.wrapping_sub(below));
        *out = Q::emit(code.wrapping_add(zero), scale, zero);
    }
}

/// The quotient within the limits, which are integers relative to the zero point.
#[inline(always)]
fn limited(y: f32, zero: i32, format: IntFormat) -> f32 {
    let low = format.low.wrapping_sub(zero) as f32;
    let high = format.high.wrapping_sub(zero) as f32;
    let y = if y > low { y } else { low };
    if y < high { y } else { high }
}

/// The nearest integer, ties to even, as such and as a float.
#[inline(always)]
fn nearest(y: f32) -> (i32, f32) {
    let sum = y + MAGIC;
    let code = sum.to_bits().wrapping_sub(MAGIC.to_bits()).cast_signed();
    (code, sum - MAGIC)
}

/// Words of one block of the generator.
const WORDS: usize = 4;

/// Blocks computed side by side.
const LANES: usize = 16;

/// The random words of the linear indices `first..first + n`: word `i % 4` of block `i / 4`.
fn random_words(
    seed: u64,
    first: usize,
    n: usize,
    buffer: &mut [u32; TILE + LANES * WORDS],
) -> &[u32] {
    let skip = first % WORDS;
    fill_words(
        seed,
        (first / WORDS) as u64,
        &mut buffer[..(skip + n).next_multiple_of(LANES * WORDS)],
    );
    &buffer[skip..skip + n]
}

multiversion! {
    fn fill_words(seed: u64, block: u64, out: &mut [u32]) = fill_words_body;
}

#[inline(always)]
fn fill_words_body(seed: u64, block: u64, out: &mut [u32]) {
    let (chunks, _) = out.as_chunks_mut::<{ LANES * WORDS }>();
    for (i, out) in chunks.iter_mut().enumerate() {
        let first = block.wrapping_add((i * LANES) as u64);
        let number: [u64; LANES] = std::array::from_fn(|lane| first.wrapping_add(lane as u64));
        let (low, high) = (number.map(|n| n as u32), number.map(|n| (n >> 32) as u32));
        let mut counter = [low, high, [0; LANES], [0; LANES]];
        philox(&mut counter, [seed as u32, (seed >> 32) as u32]);
        for lane in 0..LANES {
            for word in 0..WORDS {
                out[lane * WORDS + word] = counter[word][lane];
            }
        }
    }
}

/// Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011): a block of
/// words that is a function of the counter and the key alone.
#[inline(always)]
fn philox(counter: &mut [[u32; LANES]; WORDS], key: [u32; 2]) {
    let (mut k0, mut k1) = (key[0], key[1]);
    let [c0, c1, c2, c3] = counter;
    for _ in 0..10 {
        for lane in 0..LANES {
            let first = u64::from(c0[lane]).wrapping_mul(0xd251_1f53);
            let second = u64::from(c2[lane]).wrapping_mul(0xcd9e_8d57);
            c0[lane] = (second >> 32) as u32 ^ c1[lane] ^ k0;
            c1[lane] = second as u32;
            c2[lane] = (first >> 32) as u32 ^ c3[lane] ^ k1;
            c3[lane] = first as u32;
        }
        k0 = k0.wrapping_add(0x9e37_79b9);
        k1 = k1.wrapping_add(0xbb67_ae85);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AxisLayout, Control, FloatArray, IntSlice, NanPolicy, View, quantize};

    /// The known answers that come with Random123.
    #[test]
    fn the_generator_is_philox() {
        for (counter, key, want) in [
            (
                [0; 4],
                [0; 2],
                [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8],
            ),
            (
                [u32::MAX; 4],
                [u32::MAX; 2],
                [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
            ),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            let mut lanes = counter.map(|word| [word; LANES]);
            philox(&mut lanes, key);
            assert_eq!(lanes.map(|lane| lane[3]), want);
        }
    }

    #[test]
    fn words_do_not_depend_on_where_a_tile_begins() {
        let mut buffer = [0; TILE + LANES * WORDS];
        let all = random_words(7, 1000, 900, &mut buffer).to_vec();
        for (from, to) in [(0, 900), (1, 3), (5, 700), (899, 900)] {
            let part = random_words(7, 1000 + from, to - from, &mut buffer);
            assert_eq!(part, &all[from..to]);
        }
        assert_ne!(random_words(8, 1000, 900, &mut buffer), &all[..]);
    }

    fn int8(x: &[f32], rounding: Rounding, threads: usize) -> Vec<i8> {
        let array = FloatArray::F32(View::from_slice(x, &[x.len()]));
        let layout = AxisLayout::new(&[x.len()], None).expect("no axis");
        let affine = Affine::new(layout, &[1.0], &[0], IntFormat::INT8).expect("valid");
        let mut out = vec![0; x.len()];
        quantize(
            &array,
            &affine,
            (IntFormat::INT8, rounding),
            NanPolicy::Refuse,
            IntSlice::I8(&mut out),
            &mut Control::threads(threads),
        )
        .expect("quantize");
        out
    }

    #[test]
    fn ties_go_away_from_zero() {
        let x = [
            0.5,
            1.5,
            -0.5,
            -2.5,
            126.5,
            127.5,
            0.499_999_97,
            -128.5,
            3.2,
        ];
        let want = [1, 2, -1, -3, 127, 127, 0, -128, 3];
        assert_eq!(int8(&x, Rounding::HalfAway, 1), want);
    }

    #[test]
    fn the_mean_is_kept_and_threads_do_not_matter() {
        let rounding = Rounding::Stochastic { seed: 3 };
        let x = vec![-2.3; 1_000_000];
        let one = int8(&x, rounding, 1);
        assert_eq!(int8(&x, rounding, 3), one);
        let sum: i32 = one.iter().map(|&q| i32::from(q)).sum();
        assert!((f64::from(sum) / 1e6 + 2.3).abs() < 3e-3);
        assert!(one.iter().all(|q| [-3, -2].contains(q)));
        assert_eq!(int8(&[-3.0, 300.0, 0.0], rounding, 1), [-3, 127, 0]);
    }
}
