//! Products of matrices in which every element is one sum in a fixed order.
//!
//! An element starts from what it holds and takes its products one after the other, by ascending
//! index, each product rounded before it is added. Vector loops run over the elements and never
//! within a sum, so that the result depends neither on the instruction set nor on threads or blocks,
//! and a few lines of NumPy give the same bits.

use std::ops::{Add, Mul};

use crate::parallel::Split;
use crate::simd::multiversion;

/// Rows whose sums stay in registers together.
const ROWS: usize = 6;

/// Indices of a sum that are walked for all tiles before the next; a tile of them fits the
/// first-level cache.
const DEPTH: usize = 256;

/// Elements of a tile in one row: a cache line.
pub(crate) const F32_LANES: usize = 16;
pub(crate) const F64_LANES: usize = 8;

/// Columns of the second factor, laid out for the loops: tile by tile, each with all of its rows.
pub(crate) struct Tiles<T, const L: usize> {
    data: Vec<[T; L]>,
    depth: usize,
    width: usize,
}

impl<T: Copy + Default, const L: usize> Tiles<T, L> {
    /// `width` columns of `depth` rows, `element(row, column)`.
    pub(crate) fn new(depth: usize, width: usize, element: impl Fn(usize, usize) -> T) -> Self {
        let mut data = vec![[T::default(); L]; depth * width.div_ceil(L)];
        for (t, tile) in data.chunks_exact_mut(depth.max(1)).enumerate() {
            let columns = L.min(width - t * L);
            for (row, to) in tile.iter_mut().enumerate() {
                for (lane, to) in to[..columns].iter_mut().enumerate() {
                    *to = element(row, t * L + lane);
                }
            }
        }
        Self { data, depth, width }
    }
}

/// A matrix of which rows are read, `stride` elements apart.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a, T> {
    pub(crate) data: &'a [T],
    pub(crate) stride: usize,
}

/// A matrix of which rows are changed, beginning at `data[0]`.
pub(crate) struct RowsMut<'a, T> {
    pub(crate) data: &'a mut [T],
    pub(crate) stride: usize,
    pub(crate) count: usize,
}

/// Whole rows of a matrix with `n` columns, which threads share.
pub(crate) struct Lines<'a, T> {
    pub(crate) data: &'a mut [T],
    pub(crate) n: usize,
}

impl<T: Send> Split for Lines<'_, T> {
    fn len(&self) -> usize {
        self.data.len() / self.n
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let n = self.n;
        let (head, tail) = self.data.split_at_mut(mid * n);
        (Self { data: head, n }, Self { data: tail, n })
    }
}

macro_rules! add_products {
    ($name:ident, $kernel:ident, $t:ty, $lanes:expr) => {
        /// Adds to `out` (from its first column on) the product of the first `depth` columns of
        /// `rows` and the tiles from `first_tile` on.
        pub(crate) fn $name(
            rows: Rows<'_, $t>,
            (tiles, first_tile): (&Tiles<$t, { $lanes }>, usize),
            out: &mut RowsMut<'_, $t>,
        ) {
            for from in (0..tiles.depth).step_by(DEPTH) {
                let to = tiles.depth.min(from + DEPTH);
                let all = tiles.data.chunks_exact(tiles.depth);
                for (t, tile) in all.enumerate().skip(first_tile) {
                    let column = (t - first_tile) * $lanes;
                    let width = $lanes.min(tiles.width - t * $lanes);
                    for first in (0..out.count).step_by(ROWS) {
                        let n = ROWS.min(out.count - first);
                        // A row beyond the last is one more copy of it, computed in vain.
                        let row = |i: usize| {
                            let start = (first + i.min(n - 1)) * rows.stride;
                            &rows.data[start + from..start + to]
                        };
                        let mut sums = [[0.0; $lanes]; ROWS];
                        for (i, sums) in sums.iter_mut().enumerate().take(n) {
                            let at = (first + i) * out.stride + column;
                            sums[..width].copy_from_slice(&out.data[at..at + width]);
                        }
                        $kernel(std::array::from_fn(row), &tile[from..to], &mut sums);
                        for (i, sums) in sums.iter().enumerate().take(n) {
                            let at = (first + i) * out.stride + column;
                            out.data[at..at + width].copy_from_slice(&sums[..width]);
                        }
                    }
                }
            }
        }

        multiversion! {
            fn $kernel(
                rows: [&[$t]; ROWS], tile: &[[$t; $lanes]], sums: &mut [[$t; $lanes]; ROWS],
            ) = six_rows;
        }
    };
}
add_products!(add_products_f32, six_rows_f32, f32, F32_LANES);
add_products!(add_products_f64, six_rows_f64, f64, F64_LANES);

#[inline(always)]
fn six_rows<T, const L: usize>(rows: [&[T]; ROWS], tile: &[[T; L]], sums: &mut [[T; L]; ROWS])
where
    T: Copy + Add<Output = T> + Mul<Output = T>,
{
    let [a, b, c, d, e, f] = rows;
    // By name and not in a loop over rows, or the compiler keeps the sums in memory.
    let [mut s0, mut s1, mut s2, mut s3, mut s4, mut s5] = *sums;
    let factors = a.iter().zip(b).zip(c).zip(d).zip(e).zip(f);
    for (tile, (((((&a, &b), &c), &d), &e), &f)) in tile.iter().zip(factors) {
        add_tile(&mut s0, a, tile);
        add_tile(&mut s1, b, tile);
        add_tile(&mut s2, c, tile);
        add_tile(&mut s3, d, tile);
        add_tile(&mut s4, e, tile);
        add_tile(&mut s5, f, tile);
    }
    *sums = [s0, s1, s2, s3, s4, s5];
}

#[inline(always)]
fn add_tile<T, const L: usize>(sums: &mut [T; L], factor: T, tile: &[T; L])
where
    T: Copy + Add<Output = T> + Mul<Output = T>,
{
    for i in 0..L {
        sums[i] = sums[i] + factor * tile[i];
    }
}

multiversion! {
    /// `to += factor * row`.
    pub(crate) fn add_row_f64(to: &mut [f64], factor: f64, row: &[f64]) = add_row;
}

#[inline(always)]
pub(crate) fn add_row<T>(to: &mut [T], factor: T, row: &[T])
where
    T: Copy + Add<Output = T> + Mul<Output = T>,
{
    for (to, &x) in to.iter_mut().zip(row) {
        *to = *to + factor * x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_one_sum_in_order() {
        for (m, k, n) in [(1, 1, 1), (6, 16, 16), (7, 1100, 37), (13, 5, 3), (3, 0, 4)] {
            let a: Vec<f32> = (0..m * k)
                .map(|i| ((i * 7919 % 101) as f32 - 50.0) / 7.0)
                .collect();
            let b: Vec<f32> = (0..k * n)
                .map(|i| ((i * 104_729 % 97) as f32 - 48.0) / 3.0)
                .collect();
            let mut out: Vec<f32> = (0..m * n).map(|i| i as f32).collect();
            let mut want = out.clone();
            for i in 0..m {
                for j in 0..n {
                    for l in 0..k {
                        want[i * n + j] += a[i * k + l] * b[l * n + j];
                    }
                }
            }
            let tiles = Tiles::new(k, n, |row, column| b[row * n + column]);
            let rows = Rows {
                data: &a,
                stride: k,
            };
            let mut target = RowsMut {
                data: &mut out,
                stride: n,
                count: m,
            };
            add_products_f32(rows, (&tiles, 0), &mut target);
            assert_eq!(out, want);
        }
    }
}
