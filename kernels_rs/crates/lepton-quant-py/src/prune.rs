//! Masks, norms by channel, and the products of 8-bit integers.

use lepton_quant as quant;
use numpy::{PyArrayMethods, PyReadonlyArray1, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;
use quant::{AxisLayout, Error};

use crate::arrays::{float_array, output, readonly_slice, refuse_overlap};
use crate::border::{detached, kernel_error};

/// The smallest magnitude kept of all arrays together, and how many of its ties are.
#[pyfunction]
#[pyo3(signature = (arrays, keep, threads))]
fn magnitude_cut(
    py: Python<'_>,
    arrays: Vec<Bound<'_, PyUntypedArray>>,
    keep: usize,
    threads: Option<usize>,
) -> PyResult<(f32, usize)> {
    let inputs = arrays
        .iter()
        .map(float_array)
        .collect::<PyResult<Vec<_>>>()?;
    let cut = detached(py, threads, |control| {
        quant::magnitude_cut(&inputs, keep, control)
    })?;
    Ok((cut.threshold, cut.ties))
}

/// The smallest magnitude kept of the values above 0, or with `negative` of those below it.
#[pyfunction]
#[pyo3(signature = (x, keep, negative, threads))]
fn side_cut(
    py: Python<'_>,
    x: &Bound<'_, PyUntypedArray>,
    keep: usize,
    negative: bool,
    threads: Option<usize>,
) -> PyResult<f32> {
    let input = [float_array(x)?];
    let side = if negative {
        quant::Side::Negative
    } else {
        quant::Side::Positive
    };
    let cut = detached(py, threads, |control| {
        quant::side_cut(&input, side, keep, control)
    })?;
    Ok(cut.threshold)
}

/// Write two order statistics of each row of `size` values into the float32 `out` of two columns.
#[pyfunction]
#[pyo3(signature = (x, size, rank, magnitudes, out, threads))]
fn row_limits(
    py: Python<'_>,
    x: &Bound<'_, PyUntypedArray>,
    size: usize,
    rank: usize,
    magnitudes: bool,
    out: &Bound<'_, PyUntypedArray>,
    threads: Option<usize>,
) -> PyResult<()> {
    let input = float_array(x)?;
    refuse_overlap(x, out)?;
    let limits = output::<f32>(out, out.shape())?.as_chunks_mut().0;
    detached(py, threads, |control| {
        quant::row_limits(&input, (size, rank), magnitudes, limits, control)
    })
}

/// Write which of the values of all arrays together are kept into one bool array for each.
#[pyfunction]
#[pyo3(signature = (arrays, keep, masks, threads))]
fn magnitude_masks(
    py: Python<'_>,
    arrays: Vec<Bound<'_, PyUntypedArray>>,
    keep: usize,
    masks: Vec<Bound<'_, PyUntypedArray>>,
    threads: Option<usize>,
) -> PyResult<()> {
    let mut inputs = Vec::with_capacity(arrays.len());
    let mut outputs = Vec::with_capacity(arrays.len());
    if arrays.len() != masks.len() {
        let why = format!(
            "there are {} arrays and {} masks",
            arrays.len(),
            masks.len()
        );
        return Err(kernel_error(Error::InvalidOutput(why)));
    }
    for (i, (x, mask)) in arrays.iter().zip(&masks).enumerate() {
        let mut others = masks[..i].iter().chain(&arrays);
        others.try_for_each(|other| refuse_overlap(other, mask))?;
        inputs.push(float_array(x)?);
        outputs.push(output::<u8>(mask, x.shape())?);
    }
    detached(py, threads, |control| {
        quant::magnitude_masks(&inputs, keep, &mut outputs, control)
    })
}

/// Write which values of `x` are among the `n` largest of every `m` into the array `out`.
#[pyfunction]
#[pyo3(signature = (x, n, m, out, threads))]
fn nm_mask(
    py: Python<'_>,
    x: &Bound<'_, PyUntypedArray>,
    n: usize,
    m: usize,
    out: &Bound<'_, PyUntypedArray>,
    threads: Option<usize>,
) -> PyResult<()> {
    let input = float_array(x)?;
    refuse_overlap(x, out)?;
    let out = output::<u8>(out, input.shape())?;
    detached(py, threads, |control| {
        quant::nm_mask(&input, n, m, out, control)
    })
}

/// The sums of magnitudes, or of squares, by channel.
#[pyfunction]
#[pyo3(signature = (x, axis, squares, threads))]
fn power_sums(
    py: Python<'_>,
    x: &Bound<'_, PyUntypedArray>,
    axis: Option<usize>,
    squares: bool,
    threads: Option<usize>,
) -> PyResult<Vec<f64>> {
    let input = float_array(x)?;
    let layout = AxisLayout::new(input.shape(), axis).map_err(kernel_error)?;
    detached(py, threads, |control| {
        quant::power_sums(&input, layout, squares, control)
    })
}

/// Write the L1 norms (with `squares` the L2 norms) of the blocks of a matrix into the float32 `out`.
#[pyfunction]
#[pyo3(signature = (x, height, width, squares, out, threads))]
fn block_norms(
    py: Python<'_>,
    x: &Bound<'_, PyUntypedArray>,
    height: usize,
    width: usize,
    squares: bool,
    out: &Bound<'_, PyUntypedArray>,
    threads: Option<usize>,
) -> PyResult<()> {
    let input = float_array(x)?;
    refuse_overlap(x, out)?;
    let out = output::<f32>(out, out.shape())?;
    detached(py, threads, |control| {
        quant::block_norms(&input, (height, width), squares, out, control)
    })
}

/// Write the products of rows of `a` and columns of `b`, each of `k` integers; the saturated pairs.
#[pyfunction]
#[pyo3(signature = (a, b, k, saturate, out, threads))]
fn matmul_u8s8(
    py: Python<'_>,
    a: PyReadonlyArray1<'_, u8>,
    b: PyReadonlyArray1<'_, i8>,
    k: usize,
    saturate: bool,
    out: &Bound<'_, PyUntypedArray>,
    threads: Option<usize>,
) -> PyResult<u64> {
    refuse_overlap(a.as_untyped(), out)?;
    refuse_overlap(b.as_untyped(), out)?;
    let (a, b) = (readonly_slice(&a)?, readonly_slice(&b)?);
    let out = output::<i32>(out, out.shape())?;
    detached(py, threads, |control| {
        quant::matmul_u8s8(a, b, k, saturate, out, control)
    })
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(magnitude_cut, module)?)?;
    module.add_function(wrap_pyfunction!(side_cut, module)?)?;
    module.add_function(wrap_pyfunction!(row_limits, module)?)?;
    module.add_function(wrap_pyfunction!(magnitude_masks, module)?)?;
    module.add_function(wrap_pyfunction!(nm_mask, module)?)?;
    module.add_function(wrap_pyfunction!(power_sums, module)?)?;
    module.add_function(wrap_pyfunction!(block_norms, module)?)?;
    module.add_function(wrap_pyfunction!(matmul_u8s8, module)?)
}
