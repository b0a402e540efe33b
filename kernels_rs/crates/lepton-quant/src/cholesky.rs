//! The Cholesky factor of a large symmetric matrix.

use crate::panel::{F64_LANES, Lines, Rows, RowsMut, Tiles, add_products_f64, add_row_f64};
use crate::parallel::{Grain, run};
use crate::{Control, Error};

/// Columns factored together.
const BLOCK: usize = 128;

/// Rows handed to a thread at once.
const ROWS: usize = 48;

/// Replaces the lower triangle of the `n` by `n` matrix `a` (C order) by the factor `L` of
/// `a = L L^T`; what lies above the diagonal is neither read nor changed.
///
/// Every element is `(a_ij - l_i0 l_j0 - l_i1 l_j1 - ...) / l_jj`, subtracted in this order.
///
/// # Errors
/// [`Error::ShapeMismatch`] if `a` is not of `n * n` elements, [`Error::NotPositiveDefinite`],
/// [`Error::Interrupted`].
pub fn cholesky(a: &mut [f64], n: usize, control: &mut Control<'_>) -> Result<(), Error> {
    if a.len() != n * n {
        return Err(Error::ShapeMismatch {
            expected: vec![n, n],
            given: vec![a.len()],
        });
    }
    for first in (0..n).step_by(BLOCK) {
        let width = BLOCK.min(n - first);
        let (above, below) = a.split_at_mut((first + width) * n);
        let mut square = Square::of(above, n, first, width);
        square.factor(first)?;
        square.store(above, n, first);
        let block = &above[first * n..];
        // Negated, because sums are only added to.
        let tiles = Tiles::new(first, width, |k, j| -block[j * n + k]);
        let rows = Lines { data: below, n };
        let grain = Grain {
            items: ROWS,
            per_thread: 2 * ROWS,
        };
        let kernel = |(): &mut (), _: usize, rows: Lines<'_, f64>| {
            finish_rows(rows, first, &tiles, &square);
        };
        run(control, rows, &grain, || (), kernel, drop)?;
    }
    Ok(())
}

/// Factors the columns `first..first + width` of some rows below the diagonal block.
fn finish_rows(rows: Lines<'_, f64>, first: usize, tiles: &Tiles<f64, F64_LANES>, square: &Square) {
    let (n, width) = (rows.n, square.width);
    let count = rows.data.len() / n;
    // The columns to the left are read while those of the block are written.
    let mut block = vec![0.0; count * width];
    for (to, row) in block.chunks_exact_mut(width).zip(rows.data.chunks_exact(n)) {
        to.copy_from_slice(&row[first..first + width]);
    }
    let left = Rows {
        data: rows.data,
        stride: n,
    };
    let mut target = RowsMut {
        data: &mut block,
        stride: width,
        count,
    };
    add_products_f64(left, (tiles, 0), &mut target);
    for (row, to) in block
        .chunks_exact_mut(width)
        .zip(rows.data.chunks_exact_mut(n))
    {
        square.solve(row);
        to[first..first + width].copy_from_slice(row);
    }
}

/// The block on the diagonal, transposed, so that what one column takes from the others lies
/// together.
struct Square {
    /// `upper[k * width + j]` is `l_jk`.
    upper: Vec<f64>,
    width: usize,
}

impl Square {
    /// The block after all that the columns to its left take from it.
    fn of(above: &[f64], n: usize, first: usize, width: usize) -> Self {
        let block = &above[first * n..];
        let mut sums = vec![0.0; width * width];
        for (i, to) in sums.chunks_exact_mut(width).enumerate() {
            to.copy_from_slice(&block[i * n + first..i * n + first + width]);
        }
        let tiles = Tiles::new(first, width, |k, j| -block[j * n + k]);
        let rows = Rows {
            data: block,
            stride: n,
        };
        let mut target = RowsMut {
            data: &mut sums,
            stride: width,
            count: width,
        };
        add_products_f64(rows, (&tiles, 0), &mut target);
        let mut upper = vec![0.0; width * width];
        for j in 0..width {
            for k in 0..=j {
                upper[k * width + j] = sums[j * width + k];
            }
        }
        Self { upper, width }
    }

    fn factor(&mut self, first: usize) -> Result<(), Error> {
        let width = self.width;
        for k in 0..width {
            let (done, rest) = self.upper.split_at_mut((k + 1) * width);
            let row = &mut done[k * width + k..];
            let pivot = row[0];
            if !(pivot > 0.0 && pivot.is_finite()) {
                return Err(Error::NotPositiveDefinite {
                    pivot: first + k,
                    value: pivot,
                });
            }
            let root = pivot.sqrt();
            row[0] = root;
            for l in &mut row[1..] {
                *l /= root;
            }
            for j in k + 1..width {
                let to = &mut rest[(j - k - 1) * width + j..(j - k) * width];
                add_row_f64(to, -row[j - k], &row[j - k..]);
            }
        }
        Ok(())
    }

    fn store(&self, above: &mut [f64], n: usize, first: usize) {
        for j in 0..self.width {
            for k in 0..=j {
                above[(first + j) * n + first + k] = self.upper[k * self.width + j];
            }
        }
    }

    /// Turns what is left of a row into its part of the factor.
    fn solve(&self, row: &mut [f64]) {
        for k in 0..self.width {
            let upper = &self.upper[k * self.width + k..(k + 1) * self.width];
            let value = row[k] / upper[0];
            row[k] = value;
            add_row_f64(&mut row[k + 1..], -value, &upper[1..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(n: usize) -> Vec<f64> {
        let x: Vec<f64> = (0..n * n)
            .map(|i| ((i * 7919 % 1009) as f64 - 504.0) / 504.0)
            .collect();
        let mut a = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..n {
                let dot: f64 = (0..n).map(|k| x[i * n + k] * x[j * n + k]).sum();
                a[i * n + j] = dot + if i == j { 1.0 } else { 0.0 };
            }
        }
        a
    }

    #[test]
    fn blocks_and_threads_do_not_matter() {
        for n in [1, 5, 128, 300] {
            let a = matrix(n);
            let mut want = a.clone();
            for k in 0..n {
                want[k * n + k] = want[k * n + k].sqrt();
                for i in k + 1..n {
                    want[i * n + k] /= want[k * n + k];
                }
                for i in k + 1..n {
                    for j in k + 1..=i {
                        want[i * n + j] -= want[i * n + k] * want[j * n + k];
                    }
                }
            }
            for threads in [1, 3] {
                let mut got = a.clone();
                cholesky(&mut got, n, &mut Control::threads(threads)).expect("definite");
                assert_eq!(got, want);
            }
        }
    }

    #[test]
    fn a_negative_pivot_is_named() {
        let mut a = matrix(200);
        a[150 * 201] = -1.0;
        let result = cholesky(&mut a, 200, &mut Control::threads(1));
        assert!(matches!(
            result,
            Err(Error::NotPositiveDefinite { pivot: 150, .. })
        ));
    }
}
