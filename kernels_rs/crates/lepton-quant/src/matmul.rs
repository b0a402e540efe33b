//! The integer products of CPUs without VNNI, whose 16-bit sums of pairs may saturate.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::parallel::{Grain, run};
use crate::simd::multiversion;
use crate::{Control, Error};

/// The longest sum of products of 8-bit integers that int32 is sure to hold.
pub const LONGEST_DOT: usize = i32::MAX as usize / (255 * 128);

/// Products below which a further thread costs more than it gives.
const PRODUCTS_PER_THREAD: usize = 1 << 20;

/// Multiplies `a`, rows of `k` unsigned integers, by `b`, the columns of the other factor, each of
/// `k` signed integers. Neighbouring products are added in pairs (an odd last one stays alone); with
/// `saturate`, the sum of a pair is cut to 16 bits, as `vpmaddubsw` does.
///
/// Answers the number of pairs whose sum does not fit 16 bits, whether they were cut or not.
///
/// # Errors
/// [`Error::InvalidFormat`] if `k` is beyond [`LONGEST_DOT`], [`Error::ParameterLength`] if `out` has
/// another length than rows times columns, [`Error::Interrupted`].
pub fn matmul_u8s8(
    a: &[u8],
    b: &[i8],
    k: usize,
    saturate: bool,
    out: &mut [i32],
    control: &mut Control<'_>,
) -> Result<u64, Error> {
    if k > LONGEST_DOT {
        return Err(Error::InvalidFormat(format!(
            "the sums have {k} products; at most {LONGEST_DOT} are sure to fit int32"
        )));
    }
    if k == 0 {
        out.fill(0);
        return Ok(0);
    }
    let (rows, columns) = (a.len() / k, b.len() / k);
    if rows * columns != out.len() {
        return Err(Error::ParameterLength {
            name: "out",
            expected: rows * columns,
            given: out.len(),
        });
    }
    let columns_of_pairs: Vec<Pairs> = b.chunks_exact(k).map(Pairs::of).collect();
    let saturated = AtomicU64::new(0);
    let grain = Grain {
        items: columns.max(1),
        per_thread: (PRODUCTS_PER_THREAD / k).max(1),
    };
    let kernel = |row: &mut Pairs, start: usize, out: &mut [i32]| {
        for (i, out) in out.chunks_mut(columns).enumerate() {
            let at = start / columns + i;
            row.fill(&a[at * k..(at + 1) * k]);
            for (out, column) in out.iter_mut().zip(&columns_of_pairs) {
                let (sum, over) = dot(row, column, saturate);
                *out = sum;
                saturated.fetch_add(over.into(), Ordering::Relaxed);
            }
        }
    };
    run(control, out, &grain, Pairs::default, kernel, drop)?;
    Ok(saturated.into_inner())
}

/// Integers of even and of odd place, widened, so that a vector loop can add pairs.
#[derive(Default)]
struct Pairs {
    even: Vec<i16>,
    odd: Vec<i16>,
}

impl Pairs {
    fn of<T: Copy + Into<i16>>(values: &[T]) -> Self {
        let mut pairs = Self::default();
        pairs.fill(values);
        pairs
    }

    fn fill<T: Copy + Into<i16>>(&mut self, values: &[T]) {
        let (pairs, last) = values.as_chunks::<2>();
        self.even.clear();
        self.odd.clear();
        self.even.extend(pairs.iter().map(|pair| pair[0].into()));
        self.odd.extend(pairs.iter().map(|pair| pair[1].into()));
        self.even.extend(last.iter().map(|&v| v.into()));
        self.odd.extend(last.iter().map(|_| 0));
    }
}

multiversion! {
    /// The sum, and the number of pairs that 16 bits cannot hold.
    fn dot(a: &Pairs, b: &Pairs, saturate: bool) -> (i32, u32) = dot_body;
}

#[inline(always)]
fn dot_body(a: &Pairs, b: &Pairs, saturate: bool) -> (i32, u32) {
    let product = |x: i16, y: i16| i32::from(x).wrapping_mul(i32::from(y));
    let (low, high) = (i32::from(i16::MIN), i32::from(i16::MAX));
    let (mut exact, mut cut, mut over) = (0_i32, 0_i32, 0_u32);
    let even = a.even.iter().zip(&b.even);
    for ((&a0, &b0), (&a1, &b1)) in even.zip(a.odd.iter().zip(&b.odd)) {
        let pair = product(a0, b0).wrapping_add(product(a1, b1));
        let clamped = pair.max(low).min(high);
        exact = exact.wrapping_add(pair);
        cut = cut.wrapping_add(clamped);
        over = over.wrapping_add(u32::from(clamped != pair));
    }
    (if saturate { cut } else { exact }, over)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_saturate() {
        let (a, b) = ([255, 255, 1, 255, 255], [127, 127, -1, -128, -128]);
        let mut out = [0];
        let control = &mut Control::threads(1);
        let over = matmul_u8s8(&a, &b, 5, true, &mut out, control).expect("fits");
        assert_eq!((out[0], over), (32767 - 32641 - 32640, 1));
        let over = matmul_u8s8(&a, &b, 5, false, &mut out, control).expect("fits");
        assert_eq!((out[0], over), (64770 - 32641 - 32640, 1));
    }

    #[test]
    fn threads_do_not_matter() {
        let (m, n, k) = (70, 50, 999);
        let a: Vec<u8> = (0..m * k).map(|i| (i * 7919 % 251) as u8).collect();
        let b: Vec<i8> = (0..n * k)
            .map(|i| (i * 104_729 % 255) as u8 as i8)
            .collect();
        let compute = |threads: usize| {
            let mut out = vec![0; m * n];
            let control = &mut Control::threads(threads);
            let over = matmul_u8s8(&a, &b, k, true, &mut out, control).expect("fits");
            (out, over)
        };
        let one = compute(1);
        assert!(one.1 > 0);
        assert_eq!(compute(3), one);
        let long = vec![0; LONGEST_DOT + 1];
        let result = matmul_u8s8(
            &long,
            &[],
            long.len(),
            true,
            &mut [],
            &mut Control::threads(1),
        );
        assert!(matches!(result, Err(Error::InvalidFormat(_))));
    }
}
