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
        let rows = piece.len();
        let codes = &codes[first * shape.row..(first + rows) * shape.row];
        if shape.joined {
            return pack_row(codes, format, piece.out);
        }
        let out = piece.out.chunks_mut(shape.packed);
        for (row, out) in codes.chunks(shape.row).zip(out) {
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
        let rows = piece.len();
        let packed = &packed[first * shape.packed..(first + rows) * shape.packed];
        if shape.joined {
            return unpack_row(packed, format, signed, piece.out);
        }
        let out = piece.out.chunks_mut(shape.row);
        for (row, out) in packed.chunks(shape.packed).zip(out) {
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
    joined: bool,
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
        Ok(Self {
            row,
            packed,
            joined,
        })
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

/// Runs a body with the number of bits as a constant, which lets the compiler unroll it.
macro_rules! by_bits {
    ($bits:expr, $body:ident($($arg:expr),*)) => {
        match $bits {
            1 => $body::<1>($($arg),*),
            2 => $body::<2>($($arg),*),
            3 => $body::<3>($($arg),*),
            4 => $body::<4>($($arg),*),
            5 => $body::<5>($($arg),*),
            6 => $body::<6>($($arg),*),
            7 => $body::<7>($($arg),*),
            _ => $body::<8>($($arg),*),
        }
    };
}

fn pack_row(codes: &[u8], format: BitFormat, out: &mut [u8]) {
    by_bits!(format.bits, pack_eights(codes, format, out));
}

fn unpack_row(packed: &[u8], format: BitFormat, signed: bool, out: &mut [u8]) {
    by_bits!(format.bits, unpack_eights(packed, format, signed, out));
}

/// Eight integers fill as many bytes as each has bits.
fn pack_eights<const BITS: u32>(codes: &[u8], format: BitFormat, out: &mut [u8]) {
    let (eights, last) = codes.as_chunks::<8>();
    let (whole, tail) = out.split_at_mut(eights.len() * BITS as usize);
    for (codes, out) in eights.iter().zip(whole.chunks_exact_mut(BITS as usize)) {
        store::<BITS>(word_of::<BITS>(codes, format), format.order, out);
    }
    let mut padded = [0_u8.wrapping_sub(format.offset); 8];
    padded[..last.len()].copy_from_slice(last);
    store::<BITS>(word_of::<BITS>(&padded, format), format.order, tail);
}

#[inline(always)]
fn word_of<const BITS: u32>(codes: &[u8; 8], format: BitFormat) -> u64 {
    let mask = u8::MAX >> (8 - BITS);
    let mut word = 0;
    for (i, code) in (0..).zip(codes) {
        let code = code.wrapping_add(format.offset) & mask;
        word |= u64::from(code) << place(i, BITS, format.order);
    }
    word
}

fn unpack_eights<const BITS: u32>(packed: &[u8], format: BitFormat, signed: bool, out: &mut [u8]) {
    let (eights, last) = out.as_chunks_mut::<8>();
    let (whole, tail) = packed.split_at(eights.len() * BITS as usize);
    for (packed, out) in whole.chunks_exact(BITS as usize).zip(eights) {
        *out = eight_of::<BITS>(load::<BITS>(packed, format.order), format, signed);
    }
    let codes = eight_of::<BITS>(load::<BITS>(tail, format.order), format, signed);
    last.copy_from_slice(&codes[..last.len()]);
}

#[inline(always)]
fn eight_of<const BITS: u32>(word: u64, format: BitFormat, signed: bool) -> [u8; 8] {
    let mask = u8::MAX >> (8 - BITS);
    // Moving the sign bit to where subtraction carries it through the upper bits extends it.
    let sign = if signed { 1_u8 << (BITS - 1) } else { 0 };
    let mut codes = [0; 8];
    for (i, code) in (0..).zip(&mut codes) {
        let bits = (word >> place(i, BITS, format.order)) as u8;
        *code = ((bits.wrapping_sub(format.offset) & mask) ^ sign).wrapping_sub(sign);
    }
    codes
}

/// Where integer `i` of eight lies in a word of `8 * bits` bits.
#[inline(always)]
fn place(i: u32, bits: u32, order: BitOrder) -> u32 {
    match order {
        BitOrder::Low => i * bits,
        BitOrder::High => (7 - i) * bits,
    }
}

/// Writes the first bytes of eight integers, all but in the last of a row.
#[inline(always)]
fn store<const BITS: u32>(word: u64, order: BitOrder, out: &mut [u8]) {
    let bytes = match order {
        BitOrder::Low => word.to_le_bytes(),
        BitOrder::High => (word << (64 - 8 * BITS)).to_be_bytes(),
    };
    out.copy_from_slice(&bytes[..out.len()]);
}

#[inline(always)]
fn load<const BITS: u32>(packed: &[u8], order: BitOrder) -> u64 {
    let mut bytes = [0; 8];
    bytes[..packed.len()].copy_from_slice(packed);
    match order {
        BitOrder::Low => u64::from_le_bytes(bytes),
        BitOrder::High => u64::from_be_bytes(bytes) >> (64 - 8 * BITS),
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
