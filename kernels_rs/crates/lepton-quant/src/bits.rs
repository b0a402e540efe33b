//! Integers of 1 to 8 bits as a stream of bits, rows starting on a byte.

use crate::parallel::{Grain, Split, run};
use crate::{Control, Error};

/// Values shared out at once.
const GRAIN_VALUES: usize = 1 << 16;
const VALUES_PER_THREAD: usize = 1 << 19;

/// Which bits of a byte the first integer takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BitOrder {
    /// The lowest: integer `i` takes the bits from `i * bits` on of a little-endian stream.
    Low,
    /// The highest: the same of a big-endian stream.
    High,
}

/// How integers become bits.
#[derive(Debug, Clone, Copy)]
pub struct BitFormat {
    /// Bits of an integer, 1 to 8.
    pub bits: u32,
    /// Added to each integer, modulo its range.
    pub offset: u8,
    /// Which bits the first integer takes.
    pub order: BitOrder,
}

/// Packs rows of `row` integers, given by their lowest bits; the last byte of a row is filled up
/// with zeros.
///
/// # Errors
/// [`Error::InvalidFormat`] if `bits` is not 1 to 8, [`Error::ParameterLength`] if `out` does not have
/// `rows * ceil(row * bits / 8)` bytes, [`Error::Interrupted`].
pub fn pack_bits(
    codes: &[u8],
    row: usize,
    format: BitFormat,
    out: &mut [u8],
    control: &mut Control<'_>,
) -> Result<(), Error> {
    let shape = Rows::new(codes.len(), row, format.bits, out.len())?;
    let work = Chunks {
        out,
        size: shape.packed,
    };
    let kernel = |(): &mut (), first: usize, piece: Chunks<'_>| {
        for (i, out) in piece.out.chunks_mut(shape.packed).enumerate() {
            let at = (first + i) * shape.row;
            let row = &codes[at..at + shape.row];
            pack_row(row, format, out);
        }
    };
    run(control, work, &shape.grain(), || (), kernel, |()| ())
}

/// The inverse of [`pack_bits`]; `signed` extends the sign of the bits after removing the offset.
///
/// # Errors
/// As for [`pack_bits`], with the roles exchanged.
pub fn unpack_bits(
    packed: &[u8],
    row: usize,
    format: BitFormat,
    signed: bool,
    out: &mut [u8],
    control: &mut Control<'_>,
) -> Result<(), Error> {
    let shape = Rows::new(out.len(), row, format.bits, packed.len())?;
    let work = Chunks {
        out,
        size: shape.row,
    };
    let kernel = |(): &mut (), first: usize, piece: Chunks<'_>| {
        for (i, out) in piece.out.chunks_mut(shape.row).enumerate() {
            let at = (first + i) * shape.packed;
            let row = &packed[at..at + shape.packed];
            unpack_row(row, format, signed, out);
        }
    };
    run(control, work, &shape.grain(), || (), kernel, |()| ())
}

/// Lengths of a row. Rows that fill their bytes join without a gap, so that any cut at eight
/// integers serves.
struct Rows {
    row: usize,
    packed: usize,
}

impl Rows {
    fn new(codes: usize, row: usize, bits: u32, packed: usize) -> Result<Self, Error> {
        if !(1..=8).contains(&bits) {
            let why = format!("bits is {bits}; accepted are 1 to 8");
            return Err(Error::InvalidFormat(why));
        }
        let bytes = |integers: usize| (integers * bits as usize).div_ceil(8);
        let rows = codes.checked_div(row).unwrap_or(0);
        let expected = rows * bytes(row);
        if rows * row != codes || expected != packed {
            return Err(Error::ParameterLength {
                name: "packed",
                expected,
                given: packed,
            });
        }
        let joined = row.is_multiple_of(8) && row > 0;
        let row = if joined { 8 } else { row.max(1) };
        let packed = bytes(row);
        Ok(Self { row, packed })
    }

    fn grain(&self) -> Grain {
        Grain {
            items: (GRAIN_VALUES / self.row).max(1),
            per_thread: (VALUES_PER_THREAD / self.row).max(1),
        }
    }
}

/// Rows of an output.
struct Chunks<'a> {
    out: &'a mut [u8],
    size: usize,
}

impl Split for Chunks<'_> {
    fn len(&self) -> usize {
        self.out.len() / self.size
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let size = self.size;
        let (out, tail) = self.out.split_at_mut(mid * size);
        (Self { out, size }, Self { out: tail, size })
    }
}

/// Eight integers fill as many bytes as each has bits.
#[inline(always)]
fn pack_row(codes: &[u8], format: BitFormat, out: &mut [u8]) {
    let BitFormat {
        bits,
        offset,
        order,
    } = format;
    let mask = u64::from(u8::MAX >> (8 - bits));
    for (codes, out) in codes.chunks(8).zip(out.chunks_mut(bits as usize)) {
        let mut word = 0_u64;
        for (i, &code) in (0_u32..).zip(codes) {
            let code = u64::from(code.wrapping_add(offset)) & mask;
            word |= code << place(i, bits, order);
        }
        store(word, bits, order, out);
    }
}

fn unpack_row(packed: &[u8], format: BitFormat, signed: bool, out: &mut [u8]) {
    let BitFormat {
        bits,
        offset,
        order,
    } = format;
    let mask = u8::MAX >> (8 - bits);
    // Moving the sign bit to where subtraction carries it through the upper bits extends it.
    let sign = if signed { 1_u8 << (bits - 1) } else { 0 };
    for (packed, out) in packed.chunks(bits as usize).zip(out.chunks_mut(8)) {
        let word = load(packed, bits, order);
        for (i, out) in (0_u32..).zip(out) {
            let code = (word >> place(i, bits, order)) as u8;
            *out = ((code.wrapping_sub(offset) & mask) ^ sign).wrapping_sub(sign);
        }
    }
}

/// Where integer `i` of eight lies in a word of `8 * bits` bits.
#[inline(always)]
fn place(i: u32, bits: u32, order: BitOrder) -> u32 {
    match order {
        BitOrder::Low => i * bits,
        BitOrder::High => (7 - i) * bits,
    }
}

#[inline(always)]
fn store(word: u64, bits: u32, order: BitOrder, out: &mut [u8]) {
    match order {
        BitOrder::Low => {
            let bytes = word.to_le_bytes();
            let n = out.len();
            out.copy_from_slice(&bytes[..n]);
        }
        BitOrder::High => {
            let bytes = (word << (64 - 8 * bits)).to_be_bytes();
            let n = out.len();
            out.copy_from_slice(&bytes[..n]);
        }
    }
}

#[inline(always)]
fn load(packed: &[u8], bits: u32, order: BitOrder) -> u64 {
    let mut bytes = [0; 8];
    bytes[..packed.len()].copy_from_slice(packed);
    match order {
        BitOrder::Low => u64::from_le_bytes(bytes),
        BitOrder::High => u64::from_be_bytes(bytes) >> (64 - 8 * bits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(bits: u32, offset: u8, order: BitOrder) -> BitFormat {
        BitFormat {
            bits,
            offset,
            order,
        }
    }

    #[test]
    fn three_bits_cross_bytes() {
        let codes = [1, 2, 3, 4, 5, 6, 7, 0, 7];
        let control = &mut Control::threads(1);
        let mut out = [0; 4];
        pack_bits(&codes, 9, format(3, 0, BitOrder::Low), &mut out, control).expect("fits");
        assert_eq!(out, [0b1101_0001, 0b0101_1000, 0b0001_1111, 0b111]);
        pack_bits(&codes, 9, format(3, 0, BitOrder::High), &mut out, control).expect("fits");
        assert_eq!(out, [0b0010_1001, 0b1100_1011, 0b1011_1000, 0b1110_0000]);
    }

    #[test]
    fn unpack_inverts_pack() {
        let control = &mut Control::threads(3);
        for bits in 1..=8_u32 {
            for (row, rows) in [(1_usize, 5_usize), (8, 200_000), (13, 70_000), (64, 3)] {
                let codes: Vec<u8> = (0..row * rows)
                    .map(|i| ((i * 7919) >> 3) as u8 & (u8::MAX >> (8 - bits)))
                    .collect();
                for order in [BitOrder::Low, BitOrder::High] {
                    let mut packed = vec![0; rows * (row * bits as usize).div_ceil(8)];
                    pack_bits(&codes, row, format(bits, 3, order), &mut packed, control)
                        .expect("fits");
                    let mut back = vec![0; codes.len()];
                    unpack_bits(
                        &packed,
                        row,
                        format(bits, 3, order),
                        false,
                        &mut back,
                        control,
                    )
                    .expect("fits");
                    assert_eq!(back, codes);
                }
            }
        }
    }
}
