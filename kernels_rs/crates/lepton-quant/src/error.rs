//! The one error type of the crate.

use std::fmt;

/// Why a kernel refused its arguments or stopped.
#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    /// Two arrays that must agree in shape do not.
    ShapeMismatch {
        /// What the shape was expected to equal.
        expected: Vec<usize>,
        /// The shape that was given.
        given: Vec<usize>,
    },
    /// A per-channel parameter has the wrong number of entries.
    ParameterLength {
        /// The name of the parameter.
        name: &'static str,
        /// The number of channels.
        expected: usize,
        /// The number of entries given.
        given: usize,
    },
    /// A scale is not a normal, finite float32.
    InvalidScale {
        /// The channel.
        index: usize,
        /// The scale given.
        value: f32,
    },
    /// A zero point does not fit the integer format.
    ZeroPointOutOfRange {
        /// The channel.
        index: usize,
        /// The zero point given.
        value: i64,
        /// The smallest accepted value.
        low: i64,
        /// The largest accepted value.
        high: i64,
    },
    /// The input holds NaN and the policy is to refuse them.
    NanInInput {
        /// The number of NaN values.
        count: usize,
        /// The smallest linear (C order) index that holds one.
        first: usize,
    },
    /// A NaN among values to be ranked by magnitude.
    NanInMagnitudes {
        /// The number of NaN values.
        count: usize,
        /// The smallest linear (C order) index that holds one, counted through all arrays.
        first: usize,
    },
    /// Channels or blocks hold NaN or infinite values, so that they have no scale.
    NonFiniteRange {
        /// "channels" or "blocks".
        unit: &'static str,
        /// The number of such channels or blocks.
        count: usize,
        /// The number of all.
        total: usize,
        /// The first such channel or block.
        first: usize,
    },
    /// A reduction over no values has no result.
    Empty,
    /// The axis lies outside the array.
    AxisOutOfRange {
        /// The axis given.
        axis: usize,
        /// The number of dimensions.
        ndim: usize,
    },
    /// An element type that this kernel does not read.
    UnsupportedDtype {
        /// The type given.
        given: String,
        /// The types accepted.
        accepted: &'static str,
    },
    /// A matrix has no Cholesky factor.
    NotPositiveDefinite {
        /// The place on the diagonal at which the factorization stopped.
        pivot: usize,
        /// What was left there.
        value: f64,
    },
    /// A combination of numbers that describes no format.
    InvalidFormat(String),
    /// An output buffer that cannot be written as asked.
    InvalidOutput(String),
    /// The caller asked to stop (for example by Ctrl-C); outputs are incomplete.
    Interrupted,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShapeMismatch { expected, given } => {
                write!(f, "shapes differ: expected {expected:?}, got {given:?}")
            }
            Self::ParameterLength {
                name,
                expected,
                given,
            } => write!(
                f,
                "{name} has {given} entries but the axis has {expected} channels; \
                 give one entry per channel"
            ),
            Self::InvalidScale { index, value } => write!(
                f,
                "scale[{index}] is {value:e}; a scale must be finite and of magnitude {:e} or more (zero, \
                 denormal, infinite and NaN scales are refused)",
                f32::MIN_POSITIVE
            ),
            Self::ZeroPointOutOfRange {
                index,
                value,
                low,
                high,
            } => write!(
                f,
                "zero_point[{index}] is {value}; accepted are {low} to {high}"
            ),
            Self::NanInInput { count, first } => write!(
                f,
                "the input holds {count} NaN, the first at linear index {first}; repair the \
                 input, or pass nan=\"zero_point\" to quantize NaN as zero"
            ),
            Self::NanInMagnitudes { count, first } => write!(
                f,
                "{count} values are NaN, the first at linear index {first}, and have no place among \
                 magnitudes; repair them first"
            ),
            Self::NonFiniteRange {
                unit,
                count,
                total,
                first,
            } => write!(
                f,
                "{count} of {total} {unit} hold NaN or infinite values (the first has index \
                 {first}), for which no scale exists; repair the values first"
            ),
            Self::Empty => write!(
                f,
                "the reduction runs over no values; give at least one value per result"
            ),
            Self::AxisOutOfRange { axis, ndim } => {
                write!(f, "axis {axis} is out of range for {ndim} dimensions")
            }
            Self::UnsupportedDtype { given, accepted } => {
                write!(
                    f,
                    "dtype {given} is not supported here; accepted: {accepted}"
                )
            }
            Self::NotPositiveDefinite { pivot, value } => write!(
                f,
                "the matrix is not positive definite: {value:e} is left on the diagonal after \
                 {pivot} columns; raise damp, or give more samples than inputs"
            ),
            Self::InvalidFormat(why) => f.write_str(why),
            Self::InvalidOutput(why) => write!(f, "out cannot be used: {why}"),
            Self::Interrupted => write!(f, "interrupted"),
        }
    }
}

impl std::error::Error for Error {}
