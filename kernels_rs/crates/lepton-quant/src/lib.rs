//! Exact quantization kernels and parity metrics over strided arrays.
//!
//! Every kernel is exact to a written definition (`docs/reference/kernels.md`) and gives the same
//! result for every number of threads and every instruction set.

mod affine;
mod array;
mod block_format;
mod blocks;
mod cast;
mod dequantize;
mod error;
mod histogram;
mod layout;
mod metrics;
mod nibbles;
mod observe;
mod parallel;
mod quantize;
mod range;
mod simd;
mod symmetric;
mod threshold;
mod view;

pub use affine::{Affine, IntArray, IntFormat, IntSlice, NanPolicy};
pub use array::{Array, FloatArray};
pub use block_format::{BlockFormat, BlockOutput, BlockScheme};
pub use blocks::quantize_blocks;
pub use cast::{CastCounts, HalfFormat, cast_half};
pub use dequantize::dequantize;
pub use error::Error;
pub use histogram::{HISTOGRAM_BINS, HISTOGRAM_LEN, histogram_edges};
pub use layout::AxisLayout;
pub use metrics::{ErrorSums, error_sums};
pub use nibbles::{pack, unpack};
pub use observe::{Grid, VALUE_BINS, ValueHistogram, value_histogram};
pub use parallel::{Control, available_threads};
pub use quantize::quantize;
pub use range::{Extent, absmax, minmax};
pub use simd::{Level, level};
pub use symmetric::{quantize_symmetric, symmetric_scale};
pub use threshold::{Cells, entropy_threshold, rounding_error};
pub use view::View;
