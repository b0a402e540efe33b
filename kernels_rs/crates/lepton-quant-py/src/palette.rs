//! Palettes, and streams of bits.

use lepton_quant as quant;
use numpy::{PyArrayMethods, PyReadonlyArray1, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;
use quant::{BitFormat, BitOrder};

use crate::arrays::{float_array, output, readonly_slice, refuse_overlap};
use crate::border::detached;

/// The palette of at most `entries` values, ascending.
#[pyfunction]
#[pyo3(signature = (x, entries, threads))]
fn palette(
    py: Python<'_>,
    x: &Bound<'_, PyUntypedArray>,
    entries: usize,
    threads: Option<usize>,
) -> PyResult<Vec<f32>> {
    let input = float_array(x)?;
    detached(py, threads, |control| {
        quant::palette(&input, entries, control)
    })
}

/// Write the index of the nearest entry into the uint8 array `out`; the sum of squared errors.
#[pyfunction]
#[pyo3(signature = (x, palette, out, threads))]
fn palette_indices(
    py: Python<'_>,
    x: &Bound<'_, PyUntypedArray>,
    palette: PyReadonlyArray1<'_, f32>,
    out: &Bound<'_, PyUntypedArray>,
    threads: Option<usize>,
) -> PyResult<f64> {
    let input = float_array(x)?;
    refuse_overlap(x, out)?;
    refuse_overlap(palette.as_untyped(), out)?;
    let entries = readonly_slice(&palette)?;
    let out = output::<u8>(out, input.shape())?;
    detached(py, threads, |control| {
        quant::palette_indices(&input, entries, out, control)
    })
}

fn bit_format(bits: u32, offset: u8, high_first: bool) -> BitFormat {
    let order = if high_first {
        BitOrder::High
    } else {
        BitOrder::Low
    };
    BitFormat {
        bits,
        offset,
        order,
    }
}

/// Pack rows of integers (one to a byte of `codes`) into `out`.
#[pyfunction]
#[pyo3(signature = (codes, row, bits, offset, high_first, out, threads))]
#[expect(clippy::too_many_arguments, reason = "the signature of the kernel")]
fn pack_bits(
    py: Python<'_>,
    codes: PyReadonlyArray1<'_, u8>,
    row: usize,
    bits: u32,
    offset: u8,
    high_first: bool,
    out: &Bound<'_, PyUntypedArray>,
    threads: Option<usize>,
) -> PyResult<()> {
    refuse_overlap(codes.as_untyped(), out)?;
    let codes = readonly_slice(&codes)?;
    let out = output::<u8>(out, out.shape())?;
    let format = bit_format(bits, offset, high_first);
    detached(py, threads, |control| {
        quant::pack_bits(codes, row, format, out, control)
    })
}

/// Unpack rows of integers into `out`, one to a byte.
#[pyfunction]
#[pyo3(signature = (packed, row, bits, offset, signed, high_first, out, threads))]
#[expect(clippy::too_many_arguments, reason = "the signature of the kernel")]
fn unpack_bits(
    py: Python<'_>,
    packed: PyReadonlyArray1<'_, u8>,
    row: usize,
    bits: u32,
    offset: u8,
    signed: bool,
    high_first: bool,
    out: &Bound<'_, PyUntypedArray>,
    threads: Option<usize>,
) -> PyResult<()> {
    refuse_overlap(packed.as_untyped(), out)?;
    let packed = readonly_slice(&packed)?;
    let out = output::<u8>(out, out.shape())?;
    let format = bit_format(bits, offset, high_first);
    detached(py, threads, |control| {
        quant::unpack_bits(packed, row, format, signed, out, control)
    })
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(palette, module)?)?;
    module.add_function(wrap_pyfunction!(palette_indices, module)?)?;
    module.add_function(wrap_pyfunction!(pack_bits, module)?)?;
    module.add_function(wrap_pyfunction!(unpack_bits, module)?)
}
