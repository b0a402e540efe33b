//! Blocks along the last axis, and packing of 4-bit integers.

use lepton_quant as quant;
use numpy::{
    Element, PyArrayDescrMethods, PyArrayMethods, PyReadonlyArray1, PyUntypedArray,
    PyUntypedArrayMethods,
};
use pyo3::prelude::*;

use crate::arrays::{float_array, output, readonly_slice, refuse_overlap};
use crate::border::{detached, kernel_error};
use crate::rounding_rule;

/// The scheme of a name; the Python layer has checked it.
pub(crate) fn block_scheme(name: &str) -> quant::BlockScheme {
    match name {
        "signed_max" => quant::BlockScheme::SignedMax,
        "absmax" => quant::BlockScheme::AbsMax,
        _ => quant::BlockScheme::Asymmetric,
    }
}

/// Quantize blocks along the last axis; write the bits of the integers, scales and zero points, which
/// are float32 or uint8 as `out_zero` is.
#[pyfunction]
#[pyo3(signature = (
    x, bits, size, scheme, search, rounding, seed, packed, out, out_scale, out_zero, threads
))]
#[expect(clippy::too_many_arguments, reason = "the signature of the kernel")]
fn quantize_blocks(
    py: Python<'_>,
    x: &Bound<'_, PyUntypedArray>,
    bits: u32,
    size: usize,
    scheme: &str,
    search: bool,
    rounding: &str,
    seed: u64,
    packed: Option<u8>,
    out: &Bound<'_, PyUntypedArray>,
    out_scale: &Bound<'_, PyUntypedArray>,
    out_zero: &Bound<'_, PyUntypedArray>,
    threads: Option<usize>,
) -> PyResult<()> {
    let format = quant::BlockFormat::new(bits, size, block_scheme(scheme), packed)
        .map_err(kernel_error)?
        .with_search(search)
        .with_rounding(rounding_rule(rounding, seed));
    let input = float_array(x)?;
    let all = [x, out, out_scale, out_zero];
    for (i, target) in all.iter().enumerate().skip(1) {
        for other in &all[..i] {
            refuse_overlap(other, target)?;
        }
    }
    if out_zero.dtype().kind() == b'f' {
        let target = block_output::<f32>(out, out_scale, out_zero)?;
        return detached(py, threads, |control| {
            quant::quantize_blocks(&input, format, target, control)
        });
    }
    let target = block_output::<u8>(out, out_scale, out_zero)?;
    detached(py, threads, |control| {
        quant::quantize_blocks(&input, format, target, control)
    })
}

fn block_output<'a, Z: Element>(
    out: &'a Bound<'_, PyUntypedArray>,
    out_scale: &'a Bound<'_, PyUntypedArray>,
    out_zero: &'a Bound<'_, PyUntypedArray>,
) -> PyResult<quant::BlockOutput<'a, Z>> {
    Ok(quant::BlockOutput {
        codes: output(out, out.shape())?,
        scale: output(out_scale, out_scale.shape())?,
        zero_point: output(out_zero, out_zero.shape())?,
    })
}

/// Write scales and zero points of least squared error of rows of `size` values.
#[pyfunction]
#[pyo3(signature = (x, bits, size, scheme, out_scale, out_zero, threads))]
#[expect(clippy::too_many_arguments, reason = "the signature of the kernel")]
fn search_scales(
    py: Python<'_>,
    x: &Bound<'_, PyUntypedArray>,
    bits: u32,
    size: usize,
    scheme: &str,
    out_scale: &Bound<'_, PyUntypedArray>,
    out_zero: &Bound<'_, PyUntypedArray>,
    threads: Option<usize>,
) -> PyResult<()> {
    let format =
        quant::BlockFormat::for_channels(bits, size, block_scheme(scheme)).map_err(kernel_error)?;
    let input = float_array(x)?;
    refuse_overlap(x, out_scale)?;
    refuse_overlap(x, out_zero)?;
    refuse_overlap(out_scale, out_zero)?;
    let scale = output(out_scale, out_scale.shape())?;
    let zero = output(out_zero, out_zero.shape())?;
    detached(py, threads, |control| {
        quant::search_scales(&input, format, scale, zero, control)
    })
}

/// Pack rows of 4-bit integers (one to a byte of `codes`) into `out`.
#[pyfunction]
#[pyo3(signature = (codes, row, offset, out, threads))]
fn pack_int4(
    py: Python<'_>,
    codes: PyReadonlyArray1<'_, u8>,
    row: usize,
    offset: u8,
    out: &Bound<'_, PyUntypedArray>,
    threads: Option<usize>,
) -> PyResult<()> {
    refuse_overlap(codes.as_untyped(), out)?;
    let codes = readonly_slice(&codes)?;
    let out = output::<u8>(out, out.shape())?;
    detached(py, threads, |control| {
        quant::pack(codes, row, offset, out, control)
    })
}

/// Unpack rows of 4-bit integers into `out`, one to a byte.
#[pyfunction]
#[pyo3(signature = (packed, row, offset, signed, out, threads))]
fn unpack_int4(
    py: Python<'_>,
    packed: PyReadonlyArray1<'_, u8>,
    row: usize,
    offset: u8,
    signed: bool,
    out: &Bound<'_, PyUntypedArray>,
    threads: Option<usize>,
) -> PyResult<()> {
    refuse_overlap(packed.as_untyped(), out)?;
    let packed = readonly_slice(&packed)?;
    let out = output::<u8>(out, out.shape())?;
    detached(py, threads, |control| {
        quant::unpack(packed, row, offset, signed, out, control)
    })
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(quantize_blocks, module)?)?;
    module.add_function(wrap_pyfunction!(search_scales, module)?)?;
    module.add_function(wrap_pyfunction!(pack_int4, module)?)?;
    module.add_function(wrap_pyfunction!(unpack_int4, module)?)
}
