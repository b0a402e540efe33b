//! What block quantization writes, and how its outputs are shared out.

use crate::parallel::Split;
use crate::{Error, Rounding};

/// How a block's scale and zero point follow from its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockScheme {
    /// The value of largest magnitude becomes `low`, so that the scale may be negative.
    SignedMax,
    /// The largest magnitude becomes `high`; `low` is not used.
    AbsMax,
    /// The range from the smallest to the largest value, widened to hold 0, becomes 0 to 2^bits-1.
    Asymmetric,
}

/// What to write.
#[derive(Debug, Clone, Copy)]
pub struct BlockFormat {
    /// Bits of an integer, 2 to 8 (to 16 for channels).
    pub(crate) bits: u32,
    /// Values in a block; the last block of a row may have fewer.
    pub(crate) size: usize,
    /// How scales are chosen.
    pub(crate) scheme: BlockScheme,
    /// Two 4-bit integers to a byte, after adding the offset modulo 16; the last block of a row is
    /// filled up with the integer of 0.
    pub(crate) packed: Option<u8>,
    /// Whether the scale is that of least squared error instead of that of the range.
    pub(crate) search: bool,
    /// How quotients become integers.
    pub(crate) rounding: Rounding,
}

impl BlockFormat {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`Error::InvalidFormat`]: bits other than 2 to 8, an empty block, or packing of anything but
    /// 4 bits in blocks of even size.
    pub fn new(
        bits: u32,
        size: usize,
        scheme: BlockScheme,
        packed: Option<u8>,
    ) -> Result<Self, Error> {
        Self::with_bits(bits, 8, size, scheme, packed)
    }

    /// For [`crate::search_scales`]: every channel of `size` values is a block, with up to 16 bits
    /// and without integers to write.
    ///
    /// # Errors
    /// [`Error::InvalidFormat`]: bits other than 2 to 16, or an empty channel.
    pub fn for_channels(bits: u32, size: usize, scheme: BlockScheme) -> Result<Self, Error> {
        Ok(Self::with_bits(bits, 16, size, scheme, None)?.with_search(true))
    }

    fn with_bits(
        bits: u32,
        most: u32,
        size: usize,
        scheme: BlockScheme,
        packed: Option<u8>,
    ) -> Result<Self, Error> {
        let why = if !(2..=most).contains(&bits) {
            format!("bits is {bits}; accepted are 2 to {most}")
        } else if size == 0 {
            "block_size is 0; it must be at least 1".to_owned()
        } else if packed.is_some() && bits != 4 {
            format!("only 4 bits can be packed, bits is {bits}")
        } else if packed.is_some() && !size.is_multiple_of(2) {
            format!("packing needs an even block_size, got {size}")
        } else {
            String::new()
        };
        if !why.is_empty() {
            return Err(Error::InvalidFormat(why));
        }
        Ok(Self {
            bits,
            size,
            scheme,
            packed,
            search: false,
            rounding: Rounding::HalfEven,
        })
    }

    /// The same with scales (and zero points) of least squared error.
    #[must_use]
    pub fn with_search(self, search: bool) -> Self {
        Self { search, ..self }
    }

    /// The same with another rule of rounding.
    #[must_use]
    pub fn with_rounding(self, rounding: Rounding) -> Self {
        Self { rounding, ..self }
    }

    /// The smallest and the largest integer.
    #[must_use]
    pub fn limits(&self) -> (i32, i32) {
        let half = 1 << (self.bits - 1);
        match self.scheme {
            BlockScheme::SignedMax => (-half, half - 1),
            BlockScheme::AbsMax => (1 - half, half - 1),
            BlockScheme::Asymmetric => (0, 2 * half - 1),
        }
    }

    /// Bytes of a row of `len` values.
    #[must_use]
    pub fn row_bytes(&self, len: usize) -> usize {
        match self.packed {
            Some(_) => len.div_ceil(self.size) * (self.size / 2),
            None => len,
        }
    }
}

/// Outputs, in C order over rows and blocks; zero points are integers (`u8`), or `f32`.
#[derive(Debug)]
pub struct BlockOutput<'a, Z = u8> {
    /// The bits of the integers, one to a byte or packed.
    pub codes: &'a mut [u8],
    /// One scale for each block.
    pub scale: &'a mut [f32],
    /// One zero point for each block; all 0 unless asymmetric.
    pub zero_point: &'a mut [Z],
}

pub(crate) fn check_lengths<Z>(
    out: &BlockOutput<'_, Z>,
    rows: usize,
    row: usize,
    format: &BlockFormat,
) -> Result<(), Error> {
    let blocks = rows * row.div_ceil(format.size);
    for (name, expected, given) in [
        ("codes", rows * format.row_bytes(row), out.codes.len()),
        ("scale", blocks, out.scale.len()),
        ("zero_point", blocks, out.zero_point.len()),
    ] {
        if expected != given {
            return Err(Error::ParameterLength {
                name,
                expected,
                given,
            });
        }
    }
    Ok(())
}

impl<Z> BlockOutput<'_, Z> {
    pub(crate) fn split(self, bytes: usize, blocks: usize) -> (Self, Self) {
        let (codes, codes_tail) = self.codes.split_at_mut(bytes);
        let (scale, scale_tail) = self.scale.split_at_mut(blocks);
        let (zero_point, zero_tail) = self.zero_point.split_at_mut(blocks);
        let head = BlockOutput {
            codes,
            scale,
            zero_point,
        };
        let tail = BlockOutput {
            codes: codes_tail,
            scale: scale_tail,
            zero_point: zero_tail,
        };
        (head, tail)
    }
}

/// Outputs of consecutive rows (or blocks, where rows do not matter).
pub(crate) struct Pieces<'a, Z = u8> {
    pub(crate) out: BlockOutput<'a, Z>,
    pub(crate) count: usize,
    pub(crate) bytes: usize,
    pub(crate) blocks: usize,
}

impl<Z: Send> Split for Pieces<'_, Z> {
    fn len(&self) -> usize {
        self.count
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let (bytes, blocks) = (self.bytes, self.blocks);
        let (head, tail) = self.out.split(mid * bytes, mid * blocks);
        let piece = |out, count| Pieces {
            out,
            count,
            bytes,
            blocks,
        };
        (piece(head, mid), piece(tail, self.count - mid))
    }
}
