//! What all rows of a matrix share when they are rounded by GPTQ.

use crate::panel::{F32_LANES, Tiles};
use crate::{BlockFormat, Error};

/// Columns whose errors reach each other at once, and the others in one product.
const BLOCK: usize = 128;

/// Which columns come first, and what they owe each other.
#[derive(Debug, Clone, Copy)]
pub struct Correction<'a> {
    /// The lower Cholesky factor of the hessian whose rows and columns are in the *reverse* of
    /// `order`, so that the hessian in `order` is the product of an upper triangle and its
    /// transpose.
    pub factor: &'a [f64],
    /// The columns in the order in which they are rounded.
    pub order: &'a [usize],
    /// Scales follow from the weights as given, and not from those that make up for the groups
    /// before. Needed unless columns are in their own order.
    pub fixed_scales: bool,
}

/// Refuses arguments that do not fit each other.
pub(crate) fn check(
    n: usize,
    correction: &Correction<'_>,
    format: &BlockFormat,
) -> Result<(), Error> {
    if correction.factor.len() != n * n {
        return Err(Error::ShapeMismatch {
            expected: vec![n, n],
            given: vec![correction.factor.len()],
        });
    }
    let mut seen = vec![false; n];
    for &column in correction.order {
        if let Some(seen) = seen.get_mut(column) {
            *seen = true;
        }
    }
    if correction.order.len() != n || seen.contains(&false) {
        return Err(Error::InvalidFormat(
            "the order is not one of all columns".to_owned(),
        ));
    }
    if !correction.fixed_scales && !correction.order.is_sorted() {
        return Err(Error::InvalidFormat(
            "columns in another order need scales that are fixed before".to_owned(),
        ));
    }
    if format.packed.is_some() {
        return Err(Error::InvalidFormat(
            "packing comes after this kernel".to_owned(),
        ));
    }
    Ok(())
}

/// What all rows share.
pub(crate) struct Plan<'a> {
    pub(crate) n: usize,
    pub(crate) order: &'a [usize],
    pub(crate) format: BlockFormat,
    pub(crate) fixed_scales: bool,
    pub(crate) steps: Vec<Step>,
}

/// Consecutive columns.
pub(crate) struct Step {
    pub(crate) first: usize,
    pub(crate) width: usize,
    /// What they take over from the columns before.
    pub(crate) before: Tiles<f32, F32_LANES>,
    /// What they take over from each other, `width` by `width`.
    pub(crate) square: Vec<f32>,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(n: usize, correction: &Correction<'a>, format: BlockFormat) -> Self {
        // A group whose scale follows from corrected weights lies in one step.
        let width = if correction.fixed_scales || format.size >= n {
            BLOCK
        } else {
            format.size * (BLOCK / format.size).max(1)
        };
        let upper = |i: usize, j: usize| correction.factor[(n - 1 - i) * n + n - 1 - j] as f32;
        let step = |first: usize| {
            let width = width.min(n - first);
            let mut square = vec![0.0; width * width];
            for i in 0..width {
                for j in i..width {
                    square[i * width + j] = upper(first + i, first + j);
                }
            }
            Step {
                first,
                width,
                before: Tiles::new(first, width, |k, j| upper(k, first + j)),
                square,
            }
        };
        Self {
            n,
            order: correction.order,
            format,
            fixed_scales: correction.fixed_scales,
            steps: (0..n).step_by(width).map(step).collect(),
        }
    }
}
