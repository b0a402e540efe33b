//! Differences of two tiles and their sums, in a fixed order of addition.

use crate::array::Tile;
use crate::simd::multiversion;

/// Independent partial sums in a block, also part of the fixed order.
const LANES: usize = 8;

/// The sums of one block, whose order of addition is fixed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sums {
    pub(crate) abs: f64,
    pub(crate) squared: f64,
    pub(crate) reference: f64,
    pub(crate) actual: f64,
    pub(crate) dot: f64,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Lanes {
    pub(crate) max: [f64; LANES],
    /// The largest magnitude of the reference.
    pub(crate) top: [f64; LANES],
    abs: [f64; LANES],
    squared: [f64; LANES],
    reference: [f64; LANES],
    actual: [f64; LANES],
    dot: [f64; LANES],
}

impl Lanes {
    pub(crate) fn sums(&self) -> Sums {
        let sum = |lanes: &[f64; LANES]| lanes.iter().sum();
        Sums {
            abs: sum(&self.abs),
            squared: sum(&self.squared),
            reference: sum(&self.reference),
            actual: sum(&self.actual),
            dot: sum(&self.dot),
        }
    }
}

/// Adds up a tile; answers whether all differences are finite.
pub(crate) fn compare_tiles(
    r: &Tile<'_>,
    a: &Tile<'_>,
    error: &mut [f64],
    lanes: &mut Lanes,
) -> bool {
    match (r, a) {
        (Tile::F32(r), Tile::F32(a)) => compare(r, a, error, lanes),
        (Tile::F32(r), Tile::F64(a)) => compare(r, a, error, lanes),
        (Tile::F64(r), Tile::F32(a)) => compare(r, a, error, lanes),
        (Tile::F64(r), Tile::F64(a)) => compare(r, a, error, lanes),
    }
}

multiversion! {
    /// Writes absolute differences and adds to the lanes; answers whether all are finite.
    pub(crate) fn compare<R: Real, A: Real>(
        reference: &[R], actual: &[A], error: &mut [f64], lanes: &mut Lanes,
    ) -> bool = compare_body;
}

/// A value that float64 holds exactly.
pub(crate) trait Real: Copy {
    fn real(self) -> f64;
}

impl Real for f32 {
    #[inline(always)]
    fn real(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    #[inline(always)]
    fn real(self) -> f64 {
        self
    }
}

#[inline(always)]
fn compare_body<R: Real, A: Real>(
    reference: &[R],
    actual: &[A],
    error: &mut [f64],
    lanes: &mut Lanes,
) -> bool {
    let (r_chunks, r_tail) = reference.as_chunks::<LANES>();
    let (a_chunks, a_tail) = actual.as_chunks::<LANES>();
    let (d_chunks, d_tail) = error.as_chunks_mut::<LANES>();
    // Local, so that the sums stay in registers.
    let mut own = *lanes;
    for ((r, a), d) in r_chunks.iter().zip(a_chunks).zip(d_chunks) {
        *d = add_lanes(&r.map(Real::real), &a.map(Real::real), &mut own);
    }
    let mut tail = [[0.0; LANES]; 2];
    for (to, from) in tail[0].iter_mut().zip(r_tail) {
        *to = from.real();
    }
    for (to, from) in tail[1].iter_mut().zip(a_tail) {
        *to = from.real();
    }
    let d = add_lanes(&tail[0], &tail[1], &mut own);
    d_tail.copy_from_slice(&d[..d_tail.len()]);
    *lanes = own;
    // A NaN or an infinity stays in its sum for good.
    own.abs.iter().all(|sum| sum.is_finite())
}

#[inline(always)]
fn add_lanes(r: &[f64; LANES], a: &[f64; LANES], lanes: &mut Lanes) -> [f64; LANES] {
    let mut error = [0.0; LANES];
    for i in 0..LANES {
        let d = (r[i] - a[i]).abs();
        error[i] = d;
        lanes.max[i] = if d > lanes.max[i] { d } else { lanes.max[i] };
        let size = r[i].abs();
        lanes.top[i] = if size > lanes.top[i] {
            size
        } else {
            lanes.top[i]
        };
        lanes.abs[i] += d;
        lanes.squared[i] += d * d;
        lanes.reference[i] += r[i] * r[i];
        lanes.actual[i] += a[i] * a[i];
        lanes.dot[i] += r[i] * a[i];
    }
    error
}
