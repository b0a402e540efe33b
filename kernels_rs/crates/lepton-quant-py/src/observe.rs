//! Streaming histograms of values and the search for thresholds.

use lepton_quant as quant;
use numpy::{PyReadonlyArray1, PyUntypedArray};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use quant::Cells;

use crate::arrays::{float_array, output, readonly_slice, refuse_overlap};
use crate::border::detached;

/// Count the values (or magnitudes) of `x` by bin into the uint64 array `out`; the rest by name.
#[pyfunction]
#[pyo3(signature = (x, bins, magnitudes, out, threads))]
fn value_histogram<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyUntypedArray>,
    bins: usize,
    magnitudes: bool,
    out: &Bound<'py, PyUntypedArray>,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyDict>> {
    let input = float_array(x)?;
    refuse_overlap(x, out)?;
    let out = output::<u64>(out, &[bins])?;
    let seen = detached(py, threads, |control| {
        quant::value_histogram(&input, bins, magnitudes, control)
    })?;
    out.copy_from_slice(&seen.counts);
    let result = PyDict::new(py);
    for (name, value) in [
        ("count", seen.count),
        ("zeros", seen.zeros),
        ("nan", seen.nan),
        ("positive_infinity", seen.positive_infinity),
        ("negative_infinity", seen.negative_infinity),
    ] {
        result.set_item(name, value)?;
    }
    result.set_item("low", seen.min)?;
    result.set_item("high", seen.max)?;
    result.set_item("exponent", seen.grid.exponent)?;
    result.set_item("first", seen.grid.first)?;
    Ok(result)
}

/// The sum of squared errors of rounding cells of values, for each candidate.
#[pyfunction]
#[pyo3(signature = (lower, upper, weight, candidates))]
fn rounding_error(
    py: Python<'_>,
    lower: PyReadonlyArray1<'_, f64>,
    upper: PyReadonlyArray1<'_, f64>,
    weight: PyReadonlyArray1<'_, f64>,
    candidates: Vec<(f64, f64, f64)>,
) -> PyResult<Vec<f64>> {
    let cells = Cells {
        lower: readonly_slice(&lower)?,
        upper: readonly_slice(&upper)?,
        weight: readonly_slice(&weight)?,
    };
    detached(py, Some(1), |_| {
        let error =
            |&(scale, low, high): &(f64, f64, f64)| quant::rounding_error(cells, scale, low, high);
        candidates.iter().map(error).collect()
    })
}

/// The number of bins to keep, and the divergence.
#[pyfunction]
#[pyo3(signature = (counts, levels))]
fn entropy_threshold(
    py: Python<'_>,
    counts: PyReadonlyArray1<'_, u64>,
    levels: usize,
) -> PyResult<(usize, f64)> {
    let counts = readonly_slice(&counts)?;
    detached(py, Some(1), |_| quant::entropy_threshold(counts, levels))
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(value_histogram, module)?)?;
    module.add_function(wrap_pyfunction!(rounding_error, module)?)?;
    module.add_function(wrap_pyfunction!(entropy_threshold, module)?)
}
