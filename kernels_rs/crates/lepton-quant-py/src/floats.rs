//! Kernels whose results are floating-point numbers: casts and simulated quantization.

use lepton_quant as quant;
use numpy::{PyArrayMethods, PyReadonlyArray1, PyUntypedArray};
use pyo3::prelude::*;
use quant::{Affine, AxisLayout, CastSlice, Error, IntFormat, NanPolicy};

use crate::arrays::{float_array, output, readonly_slice, refuse_overlap};
use crate::border::{detached, kernel_error};
use crate::rounding_rule;

/// Write the bits of `x` in a smaller format into the uint16 or uint8 array `out`; overflows,
/// underflows.
#[pyfunction]
#[pyo3(signature = (x, dtype, saturate, out, threads))]
fn cast_float(
    py: Python<'_>,
    x: &Bound<'_, PyUntypedArray>,
    dtype: &str,
    saturate: bool,
    out: &Bound<'_, PyUntypedArray>,
    threads: Option<usize>,
) -> PyResult<(u64, u64)> {
    let input = float_array(x)?;
    refuse_overlap(x, out)?;
    let shape = input.shape();
    let out = match dtype {
        "float16" => CastSlice::F16(output(out, shape)?),
        "bfloat16" => CastSlice::Bf16(output(out, shape)?),
        "float8_e4m3fn" => CastSlice::F8E4m3fn(output(out, shape)?),
        "float8_e5m2" => CastSlice::F8E5m2(output(out, shape)?),
        other => {
            return Err(kernel_error(Error::UnsupportedDtype {
                given: other.to_owned(),
                accepted: "float16, bfloat16, float8_e4m3fn, float8_e5m2",
            }));
        }
    };
    let counts = detached(py, threads, |control| {
        quant::cast_float(&input, saturate, out, control)
    })?;
    Ok((counts.overflow, counts.underflow))
}

/// Write what `x` becomes by quantizing and dequantizing into the float32 array `out`.
#[pyfunction]
#[pyo3(signature = (x, scale, zero_point, axis, low, high, nan_is_zero, rounding, seed, out, threads))]
#[expect(clippy::too_many_arguments, reason = "the signature of the kernel")]
fn fake_quantize(
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
    let format = (format, rounding_rule(rounding, seed));
    let out = output::<f32>(out, input.shape())?;
    detached(py, threads, |control| {
        quant::fake_quantize(&input, &affine, format, nan, out, control)
    })
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(cast_float, module)?)?;
    module.add_function(wrap_pyfunction!(fake_quantize, module)?)
}
