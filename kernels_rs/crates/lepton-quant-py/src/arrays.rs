//! NumPy arrays as views of the kernels, without a copy.

use half::{bf16, f16};
use lepton_quant::{Array, Error, FloatArray, IntArray, IntFormat, IntSlice, View};
use numpy::npyffi::flags::NPY_ARRAY_WRITEABLE;
use numpy::{
    Element, PyArrayDescrMethods, PyReadonlyArray1, PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::prelude::*;

use crate::border::kernel_error;

type Untyped<'py> = Bound<'py, PyUntypedArray>;

/// The element types known here, by NumPy's kind and item size.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    F16,
    F32,
    F64,
    Bf16,
    Int(usize),
    Uint(usize),
    Bool,
    Other,
}

fn kind(array: &Untyped<'_>) -> PyResult<Kind> {
    let dtype = array.dtype();
    if dtype.is_native_byteorder() == Some(false) {
        return Ok(Kind::Other);
    }
    Ok(match (dtype.kind(), dtype.itemsize()) {
        (b'f', 2) => Kind::F16,
        (b'f', 4) => Kind::F32,
        (b'f', 8) => Kind::F64,
        (b'i', size @ (1 | 2 | 4 | 8)) => Kind::Int(size),
        (b'u', size @ (1 | 2 | 4 | 8)) => Kind::Uint(size),
        (b'b', 1) => Kind::Bool,
        // ml_dtypes registers bfloat16 as an opaque type, known by its name.
        (_, 2) if dtype.str()?.to_cow()? == "bfloat16" => Kind::Bf16,
        _ => Kind::Other,
    })
}

fn unsupported(array: &Untyped<'_>, accepted: &'static str) -> PyErr {
    let given = array
        .dtype()
        .str()
        .map_or_else(|_| "unknown".to_owned(), |name| name.to_string());
    kernel_error(Error::UnsupportedDtype { given, accepted })
}

fn data(array: &Untyped<'_>) -> *mut u8 {
    // SAFETY: the pointer leads to a live array object, whose data pointer is always set.
    unsafe { (*array.as_array_ptr()).fields.data.cast() }
}

/// # Safety
/// The elements must be of type `T` in native byte order.
unsafe fn view<'a, T: Copy>(array: &'a Untyped<'_>) -> View<'a, T> {
    // SAFETY: NumPy guarantees that shape and strides stay within its buffer, which lives as long
    // as the array. Another Python thread may write to it during the call, which is as much an
    // error of the caller as it is with NumPy's own functions.
    unsafe { View::from_raw(data(array).cast::<T>(), array.shape(), array.strides()) }
}

/// A float32, float16 or bfloat16 array.
pub(crate) fn float_array<'a>(array: &'a Untyped<'_>) -> PyResult<FloatArray<'a>> {
    Ok(match kind(array)? {
        // SAFETY: the element type has just been checked.
        Kind::F32 => FloatArray::F32(unsafe { view(array) }),
        // SAFETY: as above.
        Kind::F16 => FloatArray::F16(unsafe { view::<f16>(array) }),
        // SAFETY: as above.
        Kind::Bf16 => FloatArray::Bf16(unsafe { view::<bf16>(array) }),
        _ => return Err(unsupported(array, "float32, float16, bfloat16")),
    })
}

/// Any real array.
pub(crate) fn any_array<'a>(array: &'a Untyped<'_>) -> PyResult<Array<'a>> {
    Ok(match kind(array)? {
        Kind::F32 | Kind::F16 | Kind::Bf16 => Array::Float(float_array(array)?),
        // SAFETY: the element type has just been checked.
        Kind::F64 => Array::F64(unsafe { view(array) }),
        // SAFETY: as above.
        Kind::Int(1) => Array::I8(unsafe { view(array) }),
        // SAFETY: as above.
        Kind::Int(2) => Array::I16(unsafe { view(array) }),
        // SAFETY: as above.
        Kind::Int(4) => Array::I32(unsafe { view(array) }),
        // SAFETY: as above.
        Kind::Int(8) => Array::I64(unsafe { view(array) }),
        // SAFETY: as above; NumPy's booleans are bytes.
        Kind::Uint(1) | Kind::Bool => Array::U8(unsafe { view(array) }),
        // SAFETY: as above.
        Kind::Uint(2) => Array::U16(unsafe { view(array) }),
        // SAFETY: as above.
        Kind::Uint(4) => Array::U32(unsafe { view(array) }),
        // SAFETY: as above.
        Kind::Uint(8) => Array::U64(unsafe { view(array) }),
        _ => {
            let accepted = "float16, bfloat16, float32, float64, integers and bool, native order";
            return Err(unsupported(array, accepted));
        }
    })
}

/// A quantized array.
pub(crate) fn int_array<'a>(array: &'a Untyped<'_>) -> PyResult<IntArray<'a>> {
    Ok(match kind(array)? {
        // SAFETY: the element type has just been checked.
        Kind::Int(1) => IntArray::I8(unsafe { view(array) }),
        // SAFETY: as above.
        Kind::Uint(1) => IntArray::U8(unsafe { view(array) }),
        // SAFETY: as above.
        Kind::Int(2) => IntArray::I16(unsafe { view(array) }),
        // SAFETY: as above.
        Kind::Uint(2) => IntArray::U16(unsafe { view(array) }),
        // SAFETY: as above.
        Kind::Int(4) => IntArray::I32(unsafe { view(array) }),
        _ => return Err(unsupported(array, "int8, uint8, int16, uint16, int32")),
    })
}

fn invalid_output(why: String) -> PyErr {
    kernel_error(Error::InvalidOutput(why))
}

/// The elements of a writable C-contiguous array of the given shape.
#[expect(
    clippy::mut_from_ref,
    reason = "the array owns its memory, the reference only keeps it"
)]
pub(crate) fn output<'a, T: Element>(
    array: &'a Untyped<'_>,
    shape: &[usize],
) -> PyResult<&'a mut [T]> {
    let wanted = T::get_dtype(array.py());
    if !array.dtype().is_equiv_to(&wanted) {
        let given = array.dtype().str()?.to_string();
        let why = format!("it has dtype {given}, needed is {}", wanted.str()?);
        return Err(invalid_output(why));
    }
    if array.shape() != shape {
        let why = format!("it has shape {:?}, needed is {shape:?}", array.shape());
        return Err(invalid_output(why));
    }
    if !array.is_c_contiguous() || !array.is_aligned() {
        return Err(invalid_output("it is not C-contiguous and aligned".into()));
    }
    // SAFETY: the pointer leads to a live array object.
    let flags = unsafe { (*array.as_array_ptr()).fields.flags };
    if flags & NPY_ARRAY_WRITEABLE == 0 {
        return Err(invalid_output("it is read-only".into()));
    }
    if array.len() == 0 {
        return Ok(&mut []);
    }
    // SAFETY: type, alignment, contiguity, length and writability have been checked, and the
    // callers refuse outputs that overlap another argument.
    Ok(unsafe { std::slice::from_raw_parts_mut(data(array).cast::<T>(), array.len()) })
}

/// An output of int8, uint8, int16 or uint16 that holds all integers of the format.
pub(crate) fn int_output<'a>(
    array: &'a Untyped<'_>,
    shape: &[usize],
    format: IntFormat,
) -> PyResult<IntSlice<'a>> {
    let fits = |limits: IntFormat| limits.low <= format.low && format.high <= limits.high;
    let given = kind(array)?;
    Ok(match given {
        Kind::Int(1) if fits(IntFormat::INT8) => IntSlice::I8(output(array, shape)?),
        Kind::Uint(1) if fits(IntFormat::UINT8) => IntSlice::U8(output(array, shape)?),
        Kind::Int(2) if fits(IntFormat::INT16) => IntSlice::I16(output(array, shape)?),
        Kind::Uint(2) if fits(IntFormat::UINT16) => IntSlice::U16(output(array, shape)?),
        _ => {
            let why = format!(
                "it has dtype {}, which is not an integer type that holds {} to {}",
                array.dtype().str()?,
                format.low,
                format.high
            );
            return Err(invalid_output(why));
        }
    })
}

/// A parameter's values.
pub(crate) fn readonly_slice<'a, T: Element>(
    array: &'a PyReadonlyArray1<'_, T>,
) -> PyResult<&'a [T]> {
    let why = || invalid_output("a parameter is not contiguous".into());
    array.as_slice().map_err(|_| why())
}

/// Refuses two arrays whose memory bounds overlap.
pub(crate) fn refuse_overlap(a: &Untyped<'_>, b: &Untyped<'_>) -> PyResult<()> {
    let (a, b) = (extent(a), extent(b));
    if a.0 < b.1 && b.0 < a.1 {
        return Err(invalid_output(
            "it shares memory with another argument".into(),
        ));
    }
    Ok(())
}

/// The half-open range of byte addresses that an array can reach.
fn extent(array: &Untyped<'_>) -> (usize, usize) {
    if array.len() == 0 {
        return (0, 0);
    }
    let (mut low, mut high) = (data(array).addr(), data(array).addr());
    for (&n, &stride) in array.shape().iter().zip(array.strides()) {
        let reach = stride.unsigned_abs() * (n - 1);
        if stride < 0 {
            low -= reach;
        } else {
            high += reach;
        }
    }
    (low, high + array.dtype().itemsize())
}
