//! Products of samples: what GPTQ and its kin know of a layer's inputs.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::array::Scratch;
use crate::panel::{F32_LANES, Lines, Rows, RowsMut, Tiles, add_products_f32};
use crate::parallel::{Grain, Split, run};
use crate::{Control, Error, FloatArray};

/// Samples whose products are added up in float32.
const CHUNK: usize = 256;

const GRAIN: Grain = Grain {
    items: 48,
    per_thread: 96,
};

/// Samples multiplied with all rows at once.
const COLUMNS: usize = 128;

/// Adds `x^T x` to the upper triangle of `sum` (`n` by `n`), for `x` of shape (samples, `n`).
///
/// # Errors
/// [`Error::ShapeMismatch`] if `sum` is not of `n * n` elements, [`Error::Interrupted`].
pub fn add_gram(
    x: &FloatArray<'_>,
    sum: &mut [f64],
    control: &mut Control<'_>,
) -> Result<(), Error> {
    let (samples, n) = matrix(x)?;
    if sum.len() != n * n {
        return Err(Error::ShapeMismatch {
            expected: vec![n, n],
            given: vec![sum.len()],
        });
    }
    let mut scratch = Scratch::default();
    for start in (0..samples).step_by(CHUNK) {
        if n == 0 {
            break;
        }
        let count = CHUNK.min(samples - start);
        let part = x.tile(start * n, count * n, &mut scratch);
        let tiles = Tiles::new(count, n, |sample, j| part[sample * n + j]);
        let rows = Lines { data: &mut *sum, n };
        let kernel = |buffers: &mut [Vec<f32>; 2], first: usize, rows: Lines<'_, f64>| {
            add_rows(rows, first, part, &tiles, buffers);
        };
        run(control, rows, &GRAIN, Default::default, kernel, drop)?;
    }
    Ok(())
}

/// Adds the products of the columns from `first` on with all that do not come before, of samples that
/// stand in `part` and, by column, in `tiles`.
fn add_rows(
    rows: Lines<'_, f64>,
    first: usize,
    part: &[f32],
    tiles: &Tiles<f32, F32_LANES>,
    [left, products]: &mut [Vec<f32>; 2],
) {
    let (n, height) = (rows.n, rows.len());
    let count = part.len() / n;
    left.clear();
    for i in first..first + height {
        left.extend((0..count).map(|sample| part[sample * n + i]));
    }
    let tile = first / F32_LANES;
    let width = n - tile * F32_LANES;
    multiply((left, count), (tiles, tile), (width, height), products);
    let sums = rows.data.chunks_exact_mut(n);
    for (i, (sums, products)) in sums.zip(products.chunks_exact(width)).enumerate() {
        let row = first + i;
        let products = &products[row - tile * F32_LANES..];
        for (sum, &product) in sums[row..].iter_mut().zip(products) {
            *sum += f64::from(product);
        }
    }
}

/// The products of rows (`stride` values apart) and the tiles from one on: `width` columns in
/// `height` rows.
fn multiply(
    (data, stride): (&[f32], usize),
    tiles: (&Tiles<f32, F32_LANES>, usize),
    (width, height): (usize, usize),
    products: &mut Vec<f32>,
) {
    products.clear();
    products.resize(height * width, 0.0);
    let mut out = RowsMut {
        data: products,
        stride: width,
        count: height,
    };
    add_products_f32(Rows { data, stride }, tiles, &mut out);
}

/// For every row of `weight`, the sum of the squares of its products with all samples in `x`.
///
/// # Errors
/// [`Error::ShapeMismatch`] if the last axes differ, [`Error::Interrupted`].
pub fn product_norms(
    weight: &FloatArray<'_>,
    x: &FloatArray<'_>,
    control: &mut Control<'_>,
) -> Result<Vec<f64>, Error> {
    let ((rows, n), (samples, width)) = (matrix(weight)?, matrix(x)?);
    if n != width {
        return Err(Error::ShapeMismatch {
            expected: vec![samples, n],
            given: vec![samples, width],
        });
    }
    let norms = Mutex::new(vec![0.0_f64; rows]);
    let mut scratch = Scratch::default();
    for start in (0..samples).step_by(COLUMNS) {
        let count = COLUMNS.min(samples - start);
        let part = x.tile(start * n, count * n, &mut scratch);
        let tiles = Tiles::new(n, count, |k, sample| part[sample * n + k]);
        let kernel = |state: &mut (Scratch, Vec<f32>), first: usize, piece: Range<usize>| {
            let height = ExactSizeIterator::len(&piece);
            let (scratch, products) = state;
            let left = weight.tile(first * n, height * n, scratch);
            multiply((left, n), (&tiles, 0), (count, height), products);
            let mut norms = norms.lock().unwrap_or_else(PoisonError::into_inner);
            for (norm, row) in norms[first..].iter_mut().zip(products.chunks_exact(count)) {
                for &product in row {
                    *norm += f64::from(product) * f64::from(product);
                }
            }
        };
        run(control, 0..rows, &GRAIN, Default::default, kernel, drop)?;
    }
    Ok(norms.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn matrix(x: &FloatArray<'_>) -> Result<(usize, usize), Error> {
    let &[rows, n] = x.shape() else {
        return Err(Error::InvalidFormat(format!(
            "an array has {} dimensions; accepted are 2",
            x.shape().len()
        )));
    };
    Ok((rows, n))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::View;

    fn integers(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i * 7919 % 17) as f32 - 8.0).collect()
    }

    /// Integers add up exactly in any order.
    #[test]
    fn sums_are_those_of_all_samples() {
        let (samples, n) = (300, 201);
        let x = integers(samples * n);
        let array = FloatArray::F32(View::from_slice(&x, &[samples, n]));
        let mut want = vec![0.0; n * n];
        for row in x.chunks_exact(n) {
            for i in 0..n {
                for j in i..n {
                    want[i * n + j] += f64::from(row[i] * row[j]);
                }
            }
        }
        for threads in [1, 3] {
            let mut sum = vec![0.0; n * n];
            add_gram(&array, &mut sum, &mut Control::threads(threads)).expect("fits");
            assert_eq!(sum, want);
        }
        let w = integers(250 * n);
        let weight = FloatArray::F32(View::from_slice(&w, &[250, n]));
        let norms = product_norms(&weight, &array, &mut Control::threads(2)).expect("fits");
        for (norm, w) in norms.iter().zip(w.chunks_exact(n)) {
            let dot = |x: &[f32]| f64::from(w.iter().zip(x).map(|(w, x)| w * x).sum::<f32>());
            assert_eq!(
                *norm,
                x.chunks_exact(n).map(|x| dot(x).powi(2)).sum::<f64>()
            );
        }
    }
}
