//! Rounding that lets later weights make up for the errors of earlier ones (GPTQ).
//!
//! Frantar et al., "GPTQ: accurate post-training quantization for generative pre-trained transformers"
//! (2022, arXiv 2210.17323), in the form that needs no inverse: with the hessian `H = R R^T`, `R` upper
//! triangular, the error of a row `e` is `|e R|^2`, and the column that comes next cancels what the
//! ones before it have left in its own place. It is the same in exact arithmetic.

use std::ops::Range;

use crate::array::Scratch;
use crate::block_format::{Pieces, check_lengths};
use crate::block_scale::{Parameters, find_parameters};
use crate::gptq_plan::{Correction, Plan, Step, check};
use crate::panel::{F32_LANES, Rows, RowsMut, add_products_f32, add_row};
use crate::parallel::{Grain, run};
use crate::quantize::{MAGIC, quantize_one};
use crate::simd::multiversion;
use crate::symmetric::BadChannels;
use crate::{BlockFormat, BlockOutput, Control, Error, FloatArray};

/// Rows handed to a thread at once.
const ROWS: usize = 96;

/// Quantizes the rows of a matrix in blocks along its last axis.
///
/// # Errors
/// [`Error::ShapeMismatch`], [`Error::ParameterLength`] and [`Error::InvalidFormat`] if arguments do
/// not fit each other, [`Error::NonFiniteRange`] if a block holds NaN or infinite values (its row is
/// that of zeros), [`Error::Interrupted`].
pub fn gptq(
    weight: &FloatArray<'_>,
    correction: Correction<'_>,
    format: BlockFormat,
    out: BlockOutput<'_>,
    control: &mut Control<'_>,
) -> Result<(), Error> {
    let &[rows, n] = weight.shape() else {
        return Err(Error::InvalidFormat(format!(
            "the weight has {} dimensions; accepted are 2",
            weight.shape().len()
        )));
    };
    check(n, &correction, &format)?;
    check_lengths(&out, rows, n, &format)?;
    if weight.is_empty() {
        return Ok(());
    }
    let blocks = n.div_ceil(format.size);
    let plan = Plan::new(n, &correction, format);
    let pieces = Pieces {
        out,
        count: rows,
        bytes: n,
        blocks,
    };
    let grain = Grain {
        items: ROWS,
        per_thread: ROWS,
    };
    let bad = BadChannels::default();
    let kernel = |worker: &mut Worker, first: usize, pieces: Pieces<'_>| {
        worker.rows(weight, &plan, first, pieces, |block| bad.note(block));
    };
    run(control, pieces, &grain, Worker::default, kernel, drop)?;
    bad.check(rows * blocks, "blocks")
}

/// What one thread keeps.
#[derive(Default)]
struct Worker {
    scratch: Scratch,
    /// The weights, in the order of rounding.
    weight: Vec<f32>,
    /// What is lost of each weight, rows apart from each other.
    lost: Vec<f32>,
    /// What the columns of a step take over.
    sums: Vec<f32>,
    /// The parameters of each group, if they are fixed.
    fixed: Vec<Parameters>,
    buffer: Vec<f32>,
}

impl Worker {
    fn rows(
        &mut self,
        x: &FloatArray<'_>,
        plan: &Plan<'_>,
        first: usize,
        pieces: Pieces<'_>,
        mut bad: impl FnMut(usize),
    ) {
        let (n, count, size) = (plan.n, pieces.count, plan.format.size);
        let blocks = pieces.blocks;
        let mut out: Vec<BlockOutput<'_>> = Vec::with_capacity(count);
        let mut rest = pieces.out;
        self.weight.resize(count * n, 0.0);
        self.fixed.clear();
        for i in 0..count {
            let (row, tail) = rest.split(n, blocks);
            out.push(row);
            rest = tail;
            let x = x.tile((first + i) * n, n, &mut self.scratch);
            let weight = &mut self.weight[i * n..(i + 1) * n];
            for (to, &column) in weight.iter_mut().zip(plan.order) {
                *to = x[column];
            }
            for (block, x) in x.chunks(size).enumerate() {
                if x.iter().any(|x| !x.is_finite()) {
                    bad((first + i) * blocks + block);
                    weight.fill(0.0);
                }
                if plan.fixed_scales {
                    let found = find_parameters(x, &plan.format);
                    self.fixed.push(found.unwrap_or(Parameters::ONE));
                }
            }
        }
        // Rows a line apart from a power of two do not share the same lines of the cache.
        let stride = n.next_multiple_of(F32_LANES) + F32_LANES;
        self.lost.resize(count * stride, 0.0);
        for step in &plan.steps {
            self.step(plan, step, stride, &mut out);
        }
    }

    fn step(&mut self, plan: &Plan<'_>, step: &Step, stride: usize, out: &mut [BlockOutput<'_>]) {
        self.sums.clear();
        self.sums.resize(out.len() * step.width, 0.0);
        let lost = Rows {
            data: &self.lost,
            stride,
        };
        let mut sums = RowsMut {
            data: &mut self.sums,
            stride: step.width,
            count: out.len(),
        };
        add_products_f32(lost, (&step.before, 0), &mut sums);
        let groups = self.fixed.len() / out.len();
        for (i, out) in out.iter_mut().enumerate() {
            let mut row = Row {
                weight: &self.weight[i * plan.n..(i + 1) * plan.n],
                lost: &mut self.lost[i * stride..i * stride + plan.n],
                sums: &mut self.sums[i * step.width..(i + 1) * step.width],
                fixed: &self.fixed[i * groups..(i + 1) * groups],
                buffer: &mut self.buffer,
                out,
            };
            round_step(&mut row, plan, step);
        }
    }
}

struct Row<'a, 'b> {
    weight: &'a [f32],
    lost: &'a mut [f32],
    sums: &'a mut [f32],
    fixed: &'a [Parameters],
    buffer: &'a mut Vec<f32>,
    out: &'a mut BlockOutput<'b>,
}

multiversion! {
    fn round_step(row: &mut Row<'_, '_>, plan: &Plan<'_>, step: &Step) = round_step_body;
}

#[inline(always)]
fn round_step_body(row: &mut Row<'_, '_>, plan: &Plan<'_>, step: &Step) {
    let size = plan.format.size;
    let limits = plan.format.limits();
    for j in 0..step.width {
        let place = step.first + j;
        let column = plan.order[place];
        let group = column / size;
        let found = if plan.fixed_scales {
            Some(row.fixed[group])
        } else if place.is_multiple_of(size) {
            let end = plan.n.min(place + size);
            Some(corrected(row, step, place..end, &plan.format))
        } else {
            None
        };
        if let Some(found) = found {
            (row.out.scale[group], row.out.zero_point[group]) = (found.scale, found.zero as u8);
        }
        let (scale, zero) = (row.out.scale[group], i32::from(row.out.zero_point[group]));
        let (low, high) = ((limits.0 - zero) as f32, (limits.1 - zero) as f32);
        let others = &step.square[j * step.width + j..(j + 1) * step.width];
        let target = row.weight[place] + row.sums[j] / others[0];
        let shift = 0_i32.wrapping_sub(MAGIC.to_bits().cast_signed());
        let code = quantize_one(target, scale, low, high, shift);
        row.out.codes[column] = code.wrapping_add(zero) as u8;
        let lost = row.weight[place] - code as f32 * scale;
        row.lost[place] = lost;
        add_row(&mut row.sums[j + 1..], lost, &others[1..]);
    }
}

/// The parameters of a group of weights that make up for what the columns before have lost.
fn corrected(
    row: &mut Row<'_, '_>,
    step: &Step,
    places: Range<usize>,
    format: &BlockFormat,
) -> Parameters {
    let weight = &row.weight[places.clone()];
    // Before the first column nothing is lost.
    if places.start == 0 {
        return find_parameters(weight, format).unwrap_or(Parameters::ONE);
    }
    let first = places.start - step.first;
    let n = places.len();
    row.buffer.clear();
    row.buffer.extend_from_slice(&row.sums[first..first + n]);
    for i in 0..n {
        let at = (first + i) * step.width + first + i;
        let others = &step.square[at..at + n - i];
        let value = row.buffer[i] / others[0];
        row.buffer[i] = value;
        take_row(&mut row.buffer[i + 1..], value, &others[1..]);
    }
    for (to, weight) in row.buffer.iter_mut().zip(weight) {
        *to += weight;
    }
    find_parameters(row.buffer, format).unwrap_or(Parameters::ONE)
}

multiversion! {
    fn take_row(to: &mut [f32], factor: f32, row: &[f32]) = take_row_body;
}

#[inline(always)]
fn take_row_body(to: &mut [f32], factor: f32, row: &[f32]) {
    add_row(to, -factor, row);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockScheme, View, cholesky, quantize_blocks};

    fn noise(n: usize, seed: usize) -> Vec<f32> {
        (0..n)
            .map(|i| {
                let bits = ((i + seed) as u32).wrapping_mul(2_654_435_761) >> 8;
                (f64::from(bits) / 8_388_608.0 - 1.0) as f32
            })
            .collect()
    }

    /// A hessian of inputs that resemble their neighbours, and its factor in the reverse order.
    fn hessian(n: usize) -> (Vec<f64>, Vec<f64>) {
        let near = |i: usize, j: usize| 0.9_f64.powi(i.abs_diff(j) as i32);
        let h: Vec<f64> = (0..n * n).map(|at| near(at / n, at % n)).collect();
        let mut factor: Vec<f64> = h.iter().rev().copied().collect();
        cholesky(&mut factor, n, &mut Control::threads(1)).expect("definite");
        (h, factor)
    }

    fn run_kernel(
        w: &[f32],
        n: usize,
        factor: &[f64],
        fixed: bool,
        threads: usize,
    ) -> (Vec<u8>, Vec<f32>) {
        let rows = w.len() / n;
        let format = BlockFormat::new(4, 32, BlockScheme::SignedMax, None).expect("valid");
        let blocks = n.div_ceil(32);
        let (mut codes, mut scale) = (vec![0; w.len()], vec![0.0; rows * blocks]);
        let mut zero_point = vec![0; rows * blocks];
        let order: Vec<usize> = (0..n).collect();
        let correction = Correction {
            factor,
            order: &order,
            fixed_scales: fixed,
        };
        let out = BlockOutput {
            codes: &mut codes,
            scale: &mut scale,
            zero_point: &mut zero_point,
        };
        let array = FloatArray::F32(View::from_slice(w, &[rows, n]));
        let control = &mut Control::threads(threads);
        gptq(&array, correction, format, out, control).expect("finite");
        (codes, scale)
    }

    fn error(w: &[f32], n: usize, codes: &[u8], scale: &[f32], h: &[f64]) -> f64 {
        let blocks = n.div_ceil(32);
        let mut total = 0.0;
        for (r, w) in w.chunks_exact(n).enumerate() {
            let e: Vec<f64> = (0..n)
                .map(|j| {
                    let code = f32::from(codes[r * n + j].cast_signed());
                    f64::from(w[j] - code * scale[r * blocks + j / 32])
                })
                .collect();
            for i in 0..n {
                total += (0..n).map(|j| e[i] * h[i * n + j] * e[j]).sum::<f64>();
            }
        }
        total
    }

    #[test]
    fn later_weights_make_up_for_earlier_ones() {
        let n = 200;
        let w = noise(300 * n, 5);
        let (h, factor) = hessian(n);
        let format = BlockFormat::new(4, 32, BlockScheme::SignedMax, None).expect("valid");
        let blocks = n.div_ceil(32);
        let (mut codes, mut scale) = (vec![0; w.len()], vec![0.0; 300 * blocks]);
        let mut zero_point = vec![0; 300 * blocks];
        let out = BlockOutput {
            codes: &mut codes,
            scale: &mut scale,
            zero_point: &mut zero_point,
        };
        let array = FloatArray::F32(View::from_slice(&w, &[300, n]));
        quantize_blocks(&array, format, out, &mut Control::threads(1)).expect("finite");
        let nearest = error(&w, n, &codes, &scale, &h);
        for fixed in [false, true] {
            let (codes, scale) = run_kernel(&w, n, &factor, fixed, 1);
            assert_eq!(
                run_kernel(&w, n, &factor, fixed, 3),
                (codes.clone(), scale.clone())
            );
            let found = error(&w, n, &codes, &scale, &h);
            assert!(found < 0.5 * nearest, "{found} {nearest}");
        }
    }

    #[test]
    fn without_correlation_it_is_rounding_to_nearest() {
        let n = 70;
        let w = noise(4 * n, 9);
        let mut factor = vec![0.0; n * n];
        (0..n).for_each(|i| factor[i * n + i] = 1.0 + i as f64);
        let (codes, scale) = run_kernel(&w, n, &factor, false, 1);
        for (j, &code) in codes.iter().enumerate() {
            let (row, column) = (j / n, j % n);
            let scale = scale[row * n.div_ceil(32) + column / 32];
            let want = (w[j] / scale).round_ties_even().clamp(-8.0, 7.0);
            assert_eq!(f32::from(code.cast_signed()), want);
        }
    }
}
