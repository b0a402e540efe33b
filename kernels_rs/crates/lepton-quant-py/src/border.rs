//! Where the GIL is released, signals are heard, and errors become Python exceptions.

use std::panic::{AssertUnwindSafe, catch_unwind};

use lepton_quant::{Control, Error};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

mod python {
    pyo3::import_exception!(lepton_kernels.errors, KernelError);
    pyo3::import_exception!(lepton_kernels.errors, KernelTypeError);
}

/// The one conversion of kernel errors to Python.
pub(crate) fn kernel_error(error: Error) -> PyErr {
    match error {
        Error::UnsupportedDtype { .. } => python::KernelTypeError::new_err(error.to_string()),
        error => python::KernelError::new_err(error.to_string()),
    }
}

/// Runs `work` without the GIL. A pending signal (Ctrl-C) stops it and its exception is raised; a
/// panic, which would be a defect of a kernel, becomes a RuntimeError.
pub(crate) fn detached<T: Send>(
    py: Python<'_>,
    threads: Option<usize>,
    work: impl FnOnce(&mut Control<'_>) -> Result<T, Error> + Send,
) -> PyResult<T> {
    if threads == Some(0) {
        return Err(PyValueError::new_err("threads must be at least 1"));
    }
    let (result, signal) = py.detach(|| {
        let mut signal = None;
        let mut poll = || {
            signal = Python::attach(|py| py.check_signals()).err();
            signal.is_some()
        };
        let mut control = Control::new(threads, Some(&mut poll));
        let result = catch_unwind(AssertUnwindSafe(|| work(&mut control)));
        (result, signal)
    });
    match (result, signal) {
        (_, Some(signal)) => Err(signal),
        (Ok(result), None) => result.map_err(kernel_error),
        (Err(_), None) => Err(PyRuntimeError::new_err(
            "a lepton_kernels kernel failed internally; please report the call that led here",
        )),
    }
}
