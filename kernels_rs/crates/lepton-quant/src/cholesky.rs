//! The Cholesky factor of a large symmetric matrix.

use nalgebra::{Cholesky, DMatrix, Dyn};

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
/// Blocks on the diagonal are factored by nalgebra's `Cholesky`; what they take from and give to
/// other blocks are products, which may run on several threads.
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

    /// Replaces the block by its factor, which subtracts from each column those to its left in
    /// order, as everywhere here.
    fn factor(&mut self, first: usize) -> Result<(), Error> {
        let width = self.width;
        // nalgebra keeps columns: the lower triangle of what it sees is the upper one of the rows.
        let block = DMatrix::from_column_slice(width, width, &self.upper);
        let factor = factor_of(&block, width).ok_or_else(|| not_definite(&block, first))?;
        self.upper.copy_from_slice(factor.l_dirty().as_slice());
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

/// The factor of the leading `k` rows and columns, if it exists and is finite.
fn factor_of(block: &DMatrix<f64>, k: usize) -> Option<Cholesky<f64, Dyn>> {
    let factor = Cholesky::new(block.view((0, 0), (k, k)).into_owned())?;
    let finite = factor.l_dirty().diagonal().iter().all(|l| l.is_finite());
    finite.then_some(factor)
}

/// Says which pivot ends the factor of a block, and its value.
fn not_definite(block: &DMatrix<f64>, first: usize) -> Error {
    // Leading columns have a factor up to the pivot and none beyond.
    let counts: Vec<usize> = (1..=block.nrows()).collect();
    let k = counts.partition_point(|&k| factor_of(block, k).is_some());
    let row = block.view((k, 0), (1, k)).transpose();
    let taken = factor_of(block, k).and_then(|factor| factor.l().solve_lower_triangular(&row));
    Error::NotPositiveDefinite {
        pivot: first + k,
        value: block[(k, k)] - taken.map_or(0.0, |row| row.norm_squared()),
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
        for (at, value) in [
            (150, -1.0),
            (150, f64::NAN),
            (150, f64::INFINITY),
            (0, -1.0),
            (128, 0.0),
        ] {
            let mut a = matrix(200);
            a[at * 201] = value;
            let result = cholesky(&mut a, 200, &mut Control::threads(1));
            let Err(Error::NotPositiveDefinite { pivot, value: got }) = result else {
                panic!("{value} has no factor");
            };
            assert_eq!(pivot, at);
            // Columns to the left take from it.
            assert_eq!(got.is_finite(), value.is_finite());
            assert!(got <= value || got.is_nan());
        }
    }
}
