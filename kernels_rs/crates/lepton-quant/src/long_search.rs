//! The search for a scale of least squared error in blocks of many values.
//!
//! The values are walked through by chunks, candidate by candidate; a chunk can be summed by any
//! thread, because its sums join the total in order.

use std::convert::Infallible;

use crate::array::Scratch;
use crate::block_scale::{
    CHUNK, Candidates, LANES, PIECE, Parameters, Products, halve, integer, scaled,
};
use crate::parallel::{Grain, run};
use crate::simd::multiversion;
use crate::{BlockFormat, Control, Error, FloatArray};

/// Candidates of each of the two searches.
const CANDIDATES: usize = 8;

type Many = Candidates<CANDIDATES>;

/// Factors from the range itself down to a twelfth.
const WIDE: [f32; CANDIDATES] = [1.0, 0.7, 0.49, 0.343, 0.24, 0.168, 0.118, 0.082];

/// Factors around the best of them, as far as the next.
const NARROW: [f32; CANDIDATES] = [1.0, 0.95, 0.9, 0.85, 0.8, 1.05, 1.1, 1.15];

/// What a search needs to know of all values.
trait Sums {
    type Error;

    /// The squared errors of every candidate, in units of the square of the scale.
    fn errors(&mut self, scale: f32, all: &Many) -> Result<[f64; CANDIDATES], Self::Error>;

    /// The products with the integers of one candidate.
    fn products(&mut self, scale: f32, one: (f32, f32, f32)) -> Result<Products, Self::Error>;
}

fn search<S: Sums>(
    range: Parameters,
    min: f32,
    format: &BlockFormat,
    mut sums: S,
) -> Result<Parameters, S::Error> {
    let wide = range.candidates(1.0, min, format, &WIDE);
    let middle = wide.factor[first_least(&sums.errors(range.scale, &wide)?)];
    let narrow = range.candidates(middle, min, format, &NARROW);
    let best = first_least(&sums.errors(range.scale, &narrow)?);
    let products = sums.products(range.scale, narrow.one(best))?;
    Ok(range.refined(&narrow, best, &products, format))
}

fn first_least(errors: &[f64; CANDIDATES]) -> usize {
    let mut best = 0;
    for (i, error) in errors.iter().enumerate() {
        if *error < errors[best] {
            best = i;
        }
    }
    best
}

/// The parameters of least squared error near `range`, those of the range of `x`.
pub(crate) fn search_long(
    range: Parameters,
    x: &[f32],
    min: f32,
    format: &BlockFormat,
) -> Parameters {
    let Ok(found) = search(range, min, format, x);
    found
}

impl Sums for &[f32] {
    type Error = Infallible;

    fn errors(&mut self, scale: f32, all: &Many) -> Result<[f64; CANDIDATES], Infallible> {
        let mut total = [0.0; CANDIDATES];
        for chunk in self.chunks(CHUNK) {
            add(&mut total, &chunk_errors(chunk, scale, all));
        }
        Ok(total)
    }

    fn products(&mut self, scale: f32, one: (f32, f32, f32)) -> Result<Products, Infallible> {
        let mut total = Products::default();
        for chunk in self.chunks(CHUNK) {
            add_products(&mut total, chunk, scale, one);
        }
        Ok(total)
    }
}

/// As [`search_long`], for the values `start..start + len` of an array, by several threads.
///
/// # Errors
/// [`Error::Interrupted`].
pub(crate) fn search_shared(
    range: Parameters,
    (x, start, len): (&FloatArray<'_>, usize, usize),
    min: f32,
    format: &BlockFormat,
    control: &mut Control<'_>,
) -> Result<Parameters, Error> {
    let sums = Shared {
        x,
        start,
        len,
        control,
    };
    search(range, min, format, sums)
}

struct Shared<'a, 'b> {
    x: &'a FloatArray<'a>,
    start: usize,
    len: usize,
    control: &'a mut Control<'b>,
}

/// In chunks.
const GRAIN: Grain = Grain {
    items: 64,
    per_thread: 128,
};

impl Shared<'_, '_> {
    /// What `of` says of every chunk.
    fn chunks<T: Clone + Default + Send>(
        &mut self,
        of: impl Fn(&[f32]) -> T + Sync,
    ) -> Result<Vec<T>, Error> {
        let mut found = vec![T::default(); self.len.div_ceil(CHUNK)];
        let (x, begin, end) = (self.x, self.start, self.start + self.len);
        let kernel = |scratch: &mut Scratch, first: usize, found: &mut [T]| {
            for (i, found) in found.iter_mut().enumerate() {
                let start = begin + (first + i) * CHUNK;
                *found = of(x.tile(start, CHUNK.min(end - start), scratch));
            }
        };
        let found_all = found.as_mut_slice();
        run(
            self.control,
            found_all,
            &GRAIN,
            Scratch::default,
            kernel,
            drop,
        )?;
        Ok(found)
    }
}

impl Sums for Shared<'_, '_> {
    type Error = Error;

    fn errors(&mut self, scale: f32, all: &Many) -> Result<[f64; CANDIDATES], Error> {
        let mut total = [0.0; CANDIDATES];
        for sums in self.chunks(|x| chunk_errors(x, scale, all))? {
            add(&mut total, &sums);
        }
        Ok(total)
    }

    fn products(&mut self, scale: f32, one: (f32, f32, f32)) -> Result<Products, Error> {
        let of = |x: &[f32]| {
            let mut sums = Products::default();
            add_products(&mut sums, x, scale, one);
            (sums.cross, sums.square)
        };
        let mut total = Products::default();
        for (cross, square) in self.chunks(of)? {
            total.cross += cross;
            total.square += square;
        }
        Ok(total)
    }
}

fn add(total: &mut [f64; CANDIDATES], sums: &[f32; CANDIDATES]) {
    for (total, &sum) in total.iter_mut().zip(sums) {
        *total += f64::from(sum);
    }
}

multiversion! {
    /// The squared errors of up to [`CHUNK`] values, each the sum of sixteen.
    fn chunk_errors(x: &[f32], scale: f32, all: &Many) -> [f32; CANDIDATES] = chunk_errors_body;
}

#[inline(always)]
fn chunk_errors_body(x: &[f32], scale: f32, all: &Many) -> [f32; CANDIDATES] {
    let mut sums = [[0.0; LANES]; CANDIDATES];
    for piece in x.chunks(PIECE) {
        // Zeros beyond the end have no error.
        let mut buffer = [0.0; PIECE];
        scaled(piece, scale, &mut buffer);
        for (i, sums) in sums.iter_mut().enumerate() {
            let ((reciprocal, low, high), factor) = (all.one(i), all.factor[i]);
            let mut own = *sums;
            for x in buffer.as_chunks::<LANES>().0 {
                for l in 0..LANES {
                    let code = integer(x[l] * reciprocal, low, high);
                    let error = x[l] - code * factor;
                    own[l] += error * error;
                }
            }
            *sums = own;
        }
    }
    sums.map(halve)
}

multiversion! {
    fn add_products(total: &mut Products, x: &[f32], scale: f32, one: (f32, f32, f32)) -> ()
        = add_products_body;
}

#[inline(always)]
fn add_products_body(total: &mut Products, x: &[f32], scale: f32, one: (f32, f32, f32)) {
    total.add(x, scale, one);
}
