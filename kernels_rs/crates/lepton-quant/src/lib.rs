//! Exact quantization kernels and parity metrics over strided arrays.
//!
//! Every kernel is exact to a written definition (`docs/reference/kernels.md`) and gives the same
//! result for every number of threads and every instruction set.

mod affine;
mod array;
mod bits;
mod block_format;
mod block_scale;
mod blocks;
mod cast;
mod compare;
mod dequantize;
mod error;
mod grid;
mod histogram;
mod kmeans;
mod layout;
mod matmul;
mod metrics;
mod nibbles;
mod norms;
mod observe;
mod palette;
mod parallel;
mod prune;
mod quantize;
mod range;
mod rounding;
mod select;
mod simd;
mod symmetric;
mod threshold;
mod view;

pub use affine::{Affine, IntArray, IntFormat, IntSlice, NanPolicy};
pub use array::{Array, FloatArray};
pub use bits::{BitFormat, BitOrder, pack_bits, unpack_bits};
pub use block_format::{BlockFormat, BlockOutput, BlockScheme};
pub use blocks::quantize_blocks;
pub use cast::{CastCounts, CastSlice, cast_float};
pub use dequantize::dequantize;
pub use error::Error;
pub use grid::Grid;
pub use histogram::{HISTOGRAM_BINS, HISTOGRAM_LEN, histogram_edges};
pub use layout::AxisLayout;
pub use matmul::{LONGEST_DOT, matmul_u8s8};
pub use metrics::{ErrorSums, error_sums};
pub use nibbles::{pack, unpack};
pub use norms::power_sums;
pub use observe::{VALUE_BINS, ValueHistogram, value_histogram};
pub use palette::{palette, palette_indices};
pub use parallel::{Control, available_threads};
pub use prune::{cut_mask, nm_mask};
pub use quantize::{fake_quantize, quantize};
pub use range::{Extent, absmax, minmax};
pub use rounding::Rounding;
pub use select::{Cut, magnitude_cut};
pub use simd::{Level, level};
pub use symmetric::{quantize_symmetric, symmetric_scale};
pub use threshold::{Cells, entropy_threshold, rounding_error};
pub use view::View;
