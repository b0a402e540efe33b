//! `lepton_kernels._native`: the thin border between NumPy and `lepton-quant`.
//!
//! Arguments arrive normalised by the Python layer (axis not negative, parameters as contiguous
//! arrays, outputs allocated); what a wrong call could turn into undefined behaviour is checked
//! again here.

mod arrays;
mod blocks;
mod border;
mod floats;
mod layers;
mod observe;
mod palette;
mod prune;

use lepton_quant as quant;
use numpy::{PyArrayMethods, PyReadonlyArray1, PyUntypedArray};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use quant::{Affine, AxisLayout, IntFormat, NanPolicy, Rounding};

use arrays::{
    any_array, float_array, int_array, int_output, output, readonly_slice, refuse_overlap,
};
use border::{detached, kernel_error};

/// Quantize `x` into `out`, with `scale` and `zero_point` along `axis`.
#[pyfunction]
#[pyo3(signature = (x, scale, zero_point, axis, low, high, nan_is_zero, rounding, seed, out, threads))]
#[expect(clippy::too_many_arguments, reason = "the signature of the kernel")]
fn quantize(
    py: Python<'_>,
    x: &Bound<'_, PyUntypedArray>,
    scale: PyReadonlyArray1<'_, f32>,
    zero_point: PyReadonlyArray1<'_, i64>,
    axis: Option<usize>,
    low: i32,
    high: i32,
    nan_is_zero: bool,
    rounding: &str,
    seed: u64,
    out: &Bound<'_, PyUntypedArray>,
    threads: Option<usize>,
) -> PyResult<()> {
    let format = IntFormat { low, high };
    let input = float_array(x)?;
    refuse_overlap(scale.as_untyped(), out)?;
    refuse_overlap(zero_point.as_untyped(), out)?;
    let layout = AxisLayout::new(input.shape(), axis).map_err(kernel_error)?;
    let (scale, zero_point) = (readonly_slice(&scale)?, readonly_slice(&zero_point)?);
    let affine = Affine::new(layout, scale, zero_point, format).map_err(kernel_error)?;
    let nan = if nan_is_zero {
        NanPolicy::ZeroPoint
    } else {
        NanPolicy::Refuse
    };
    refuse_overlap(x, out)?;
    let rounding = rounding_rule(rounding, seed);
    let out = int_output(out, input.shape(), format)?;
    detached(py, threads, |control| {
        quant::quantize(&input, &affine, (format, rounding), nan, out, control)
    })
}

/// The rule of a name; the Python layer has checked it.
pub(crate) fn rounding_rule(name: &str, seed: u64) -> Rounding {
    match name {
        "half_away" => Rounding::HalfAway,
        "stochastic" => Rounding::Stochastic { seed },
        _ => Rounding::HalfEven,
    }
}

/// Quantize `x` into `out` with a scale per channel that its largest magnitude sets; write the scales.
#[pyfunction]
#[pyo3(signature = (x, axis, low, high, out, out_scale, threads))]
#[expect(clippy::too_many_arguments, reason = "the signature of the kernel")]
fn quantize_symmetric(
    py: Python<'_>,
    x: &Bound<'_, PyUntypedArray>,
    axis: Option<usize>,
    low: i32,
    high: i32,
    out: &Bound<'_, PyUntypedArray>,
    out_scale: &Bound<'_, PyUntypedArray>,
    threads: Option<usize>,
) -> PyResult<()> {
    let format = IntFormat { low, high };
    let input = float_array(x)?;
    let layout = AxisLayout::new(input.shape(), axis).map_err(kernel_error)?;
    refuse_overlap(x, out)?;
    refuse_overlap(x, out_scale)?;
    refuse_overlap(out, out_scale)?;
    let codes = int_output(out, input.shape(), format)?;
    let scale = output::<f32>(out_scale, &[layout.channels])?;
    detached(py, threads, |control| {
        quant::quantize_symmetric(&input, layout, format, codes, scale, control)
    })
}

/// Write `(q - zero_point) * scale` into the float32 array `out`.
#[pyfunction]
#[pyo3(signature = (q, scale, zero_point, axis, out, threads))]
fn dequantize(
    py: Python<'_>,
    q: &Bound<'_, PyUntypedArray>,
    scale: PyReadonlyArray1<'_, f32>,
    zero_point: PyReadonlyArray1<'_, i64>,
    axis: Option<usize>,
    out: &Bound<'_, PyUntypedArray>,
    threads: Option<usize>,
) -> PyResult<()> {
    let input = int_array(q)?;
    refuse_overlap(scale.as_untyped(), out)?;
    refuse_overlap(zero_point.as_untyped(), out)?;
    let layout = AxisLayout::new(input.shape(), axis).map_err(kernel_error)?;
    let (scale, zero_point) = (readonly_slice(&scale)?, readonly_slice(&zero_point)?);
    let affine = Affine::new(layout, scale, zero_point, input.format()).map_err(kernel_error)?;
    refuse_overlap(q, out)?;
    let out = output::<f32>(out, input.shape())?;
    detached(py, threads, |control| {
        quant::dequantize(&input, &affine, out, control)
    })
}

/// Write the smallest and the largest value of each channel.
#[pyfunction]
#[pyo3(signature = (x, axis, out_min, out_max, threads))]
fn minmax(
    py: Python<'_>,
    x: &Bound<'_, PyUntypedArray>,
    axis: Option<usize>,
    out_min: &Bound<'_, PyUntypedArray>,
    out_max: &Bound<'_, PyUntypedArray>,
    threads: Option<usize>,
) -> PyResult<()> {
    let input = float_array(x)?;
    let layout = AxisLayout::new(input.shape(), axis).map_err(kernel_error)?;
    refuse_overlap(x, out_min)?;
    refuse_overlap(x, out_max)?;
    refuse_overlap(out_min, out_max)?;
    let out_min = output::<f32>(out_min, &[layout.channels])?;
    let out_max = output::<f32>(out_max, &[layout.channels])?;
    let extents = detached(py, threads, |control| {
        quant::minmax(&input, layout, control)
    })?;
    for ((min, max), extent) in out_min.iter_mut().zip(out_max).zip(extents) {
        (*min, *max) = (extent.min, extent.max);
    }
    Ok(())
}

/// Write the largest magnitude of each channel.
#[pyfunction]
#[pyo3(signature = (x, axis, out, threads))]
fn absmax(
    py: Python<'_>,
    x: &Bound<'_, PyUntypedArray>,
    axis: Option<usize>,
    out: &Bound<'_, PyUntypedArray>,
    threads: Option<usize>,
) -> PyResult<()> {
    let input = float_array(x)?;
    let layout = AxisLayout::new(input.shape(), axis).map_err(kernel_error)?;
    refuse_overlap(x, out)?;
    let out = output::<f32>(out, &[layout.channels])?;
    let magnitudes = detached(py, threads, |control| {
        quant::absmax(&input, layout, control)
    })?;
    out.copy_from_slice(&magnitudes);
    Ok(())
}

/// Compare two arrays of the same shape in one pass; the sums by name.
#[pyfunction]
#[pyo3(signature = (reference, actual, threads))]
fn error_sums<'py>(
    py: Python<'py>,
    reference: &Bound<'py, PyUntypedArray>,
    actual: &Bound<'py, PyUntypedArray>,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyDict>> {
    let (r, a) = (any_array(reference)?, any_array(actual)?);
    let sums = detached(py, threads, |control| quant::error_sums(&r, &a, control))?;
    let result = PyDict::new(py);
    for (name, value) in [
        ("count", sums.count),
        ("compared", sums.compared),
        ("nan_reference", sums.nan_reference),
        ("nan_actual", sums.nan_actual),
        ("inf_reference", sums.inf_reference),
        ("inf_actual", sums.inf_actual),
        ("nonfinite_mismatched", sums.mismatched),
    ] {
        result.set_item(name, value)?;
    }
    for (name, value) in [
        ("max_abs", sums.max_abs),
        ("reference_max", sums.reference_max),
        ("abs_sum", sums.abs),
        ("squared_sum", sums.squared),
        ("reference_sum", sums.reference),
        ("actual_sum", sums.actual),
        ("dot_sum", sums.dot),
    ] {
        result.set_item(name, value)?;
    }
    result.set_item("histogram", sums.histogram.to_vec())?;
    Ok(result)
}

/// What every row of scores says: divergences, whether the largest agree, how many of `k` do.
#[pyfunction]
#[pyo3(signature = (reference, actual, k, threads))]
fn row_agreement(
    py: Python<'_>,
    reference: &Bound<'_, PyUntypedArray>,
    actual: &Bound<'_, PyUntypedArray>,
    k: usize,
    threads: Option<usize>,
) -> PyResult<(Vec<f64>, Vec<bool>, Vec<usize>)> {
    let (r, a) = (any_array(reference)?, any_array(actual)?);
    let rows = detached(py, threads, |control| {
        quant::row_agreement(&r, &a, k, control)
    })?;
    Ok((
        rows.iter().map(|row| row.divergence).collect(),
        rows.iter().map(|row| row.same_top).collect(),
        rows.iter().map(|row| row.shared).collect(),
    ))
}

/// The 65 edges of the 64 bins of the histogram of absolute errors.
#[pyfunction]
fn histogram_edges() -> Vec<f64> {
    quant::histogram_edges().to_vec()
}

/// The number of threads used when `threads` is None: CPU affinity and, on Linux, cgroup quota.
#[pyfunction]
fn available_threads() -> usize {
    quant::available_threads()
}

/// The instruction set in use: "baseline", "avx2" or "avx512".
#[pyfunction]
fn simd_level() -> &'static str {
    match quant::level() {
        quant::Level::Baseline => "baseline",
        quant::Level::Avx2 => "avx2",
        quant::Level::Avx512 => "avx512",
    }
}

/// The native part of lepton_kernels.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(quantize, module)?)?;
    module.add_function(wrap_pyfunction!(quantize_symmetric, module)?)?;
    module.add_function(wrap_pyfunction!(dequantize, module)?)?;
    module.add_function(wrap_pyfunction!(minmax, module)?)?;
    module.add_function(wrap_pyfunction!(absmax, module)?)?;
    module.add_function(wrap_pyfunction!(error_sums, module)?)?;
    module.add_function(wrap_pyfunction!(row_agreement, module)?)?;
    module.add_function(wrap_pyfunction!(histogram_edges, module)?)?;
    module.add_function(wrap_pyfunction!(available_threads, module)?)?;
    module.add_function(wrap_pyfunction!(simd_level, module)?)?;
    blocks::register(module)?;
    floats::register(module)?;
    layers::register(module)?;
    observe::register(module)?;
    prune::register(module)?;
    palette::register(module)
}
