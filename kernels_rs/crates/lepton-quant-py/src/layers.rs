//! Rounding that minds a layer's outputs.

use lepton_quant as quant;
use numpy::{PyArrayMethods, PyReadonlyArray1, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;

use crate::arrays::{float_array, output, readonly_slice, refuse_overlap};
use crate::blocks::block_scheme;
use crate::border::{detached, kernel_error};

/// Add `x^T x` to the upper triangle of the float64 matrix `sum`.
#[pyfunction]
#[pyo3(signature = (x, sum, threads))]
fn add_gram(
    py: Python<'_>,
    x: &Bound<'_, PyUntypedArray>,
    sum: &Bound<'_, PyUntypedArray>,
    threads: Option<usize>,
) -> PyResult<()> {
    refuse_overlap(x, sum)?;
    let input = float_array(x)?;
    let sum = output::<f64>(sum, sum.shape())?;
    detached(py, threads, |control| quant::add_gram(&input, sum, control))
}

/// The sums of squares of the products of each row of `weight` with the samples in `x`.
#[pyfunction]
#[pyo3(signature = (weight, x, threads))]
fn product_norms(
    py: Python<'_>,
    weight: &Bound<'_, PyUntypedArray>,
    x: &Bound<'_, PyUntypedArray>,
    threads: Option<usize>,
) -> PyResult<Vec<f64>> {
    let (weight, x) = (float_array(weight)?, float_array(x)?);
    detached(py, threads, |control| {
        quant::product_norms(&weight, &x, control)
    })
}

/// Replace the lower triangle of the float64 matrix `a` by its Cholesky factor.
#[pyfunction]
#[pyo3(signature = (a, threads))]
fn cholesky(py: Python<'_>, a: &Bound<'_, PyUntypedArray>, threads: Option<usize>) -> PyResult<()> {
    let n = a.shape().first().copied().unwrap_or(0);
    let a = output::<f64>(a, a.shape())?;
    detached(py, threads, |control| quant::cholesky(a, n, control))
}

/// Quantize the rows of `weight`, minding the factor of the hessian in the reverse of `order`.
#[pyfunction]
#[pyo3(signature = (
    weight, factor, order, fixed_scales, bits, size, scheme, search, out, out_scale, out_zero, threads
))]
#[expect(clippy::too_many_arguments, reason = "the signature of the kernel")]
fn gptq(
    py: Python<'_>,
    weight: &Bound<'_, PyUntypedArray>,
    factor: PyReadonlyArray1<'_, f64>,
    order: PyReadonlyArray1<'_, i64>,
    fixed_scales: bool,
    bits: u32,
    size: usize,
    scheme: &str,
    search: bool,
    out: &Bound<'_, PyUntypedArray>,
    out_scale: &Bound<'_, PyUntypedArray>,
    out_zero: &Bound<'_, PyUntypedArray>,
    threads: Option<usize>,
) -> PyResult<()> {
    let format = quant::BlockFormat::new(bits, size, block_scheme(scheme), None)
        .map_err(kernel_error)?
        .with_search(search);
    let input = float_array(weight)?;
    let all = [weight, factor.as_untyped(), out, out_scale, out_zero];
    for (i, target) in all.iter().enumerate().skip(2) {
        for other in &all[..i] {
            refuse_overlap(other, target)?;
        }
    }
    let order: Vec<usize> = readonly_slice(&order)?
        .iter()
        .map(|&place| usize::try_from(place).unwrap_or(usize::MAX))
        .collect();
    let correction = quant::Correction {
        factor: readonly_slice(&factor)?,
        order: &order,
        fixed_scales,
    };
    let target = quant::BlockOutput {
        codes: output(out, out.shape())?,
        scale: output(out_scale, out_scale.shape())?,
        zero_point: output(out_zero, out_zero.shape())?,
    };
    detached(py, threads, |control| {
        quant::gptq(&input, correction, format, target, control)
    })
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(add_gram, module)?)?;
    module.add_function(wrap_pyfunction!(product_norms, module)?)?;
    module.add_function(wrap_pyfunction!(cholesky, module)?)?;
    module.add_function(wrap_pyfunction!(gptq, module)?)
}
