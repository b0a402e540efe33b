//! Two 4-bit integers to a byte, the first in the low half.

use crate::parallel::{Grain, Split, run};
use crate::simd::multiversion;
use crate::{Control, Error};

const GRAIN: Grain = Grain {
    items: 1 << 16,
    per_thread: 1 << 19,
};

/// Packs rows of `row` integers given by their bits: each has `offset` added modulo 16; a row of
/// odd length ends with a high half of 0.
///
/// # Errors
/// [`Error::ParameterLength`] if `out` does not have `rows * ceil(row / 2)` bytes,
/// [`Error::Interrupted`].
pub fn pack(
    codes: &[u8],
    row: usize,
    offset: u8,
    out: &mut [u8],
    control: &mut Control<'_>,
) -> Result<(), Error> {
    let rows = Rows::new(codes, row, out)?;
    let kernel = |(): &mut (), _: usize, piece: Rows<'_, '_>| {
        piece.each(|codes, packed| {
            let (pairs, last) = codes.as_chunks::<2>();
            pack_slice(pairs.as_flattened(), offset, packed);
            if let ([last], Some(byte)) = (last, packed.last_mut()) {
                *byte = last.wrapping_add(offset) & 0xf;
            }
        })
    };
    run(control, rows, &GRAIN, || (), kernel, |()| ())
}

/// The inverse of [`pack`]: `signed` extends the sign of the 4 bits after removing the offset.
///
/// # Errors
/// As for [`pack`], with the roles exchanged.
pub fn unpack(
    packed: &[u8],
    row: usize,
    offset: u8,
    signed: bool,
    out: &mut [u8],
    control: &mut Control<'_>,
) -> Result<(), Error> {
    let bytes = row.div_ceil(2);
    let rows = out.len().checked_div(row).unwrap_or(0);
    if rows * bytes != packed.len() || rows * row != out.len() {
        return Err(Error::ParameterLength {
            name: "packed",
            expected: rows * bytes,
            given: packed.len(),
        });
    }
    let rows = Unpacked { packed, row, out };
    let kernel = |(): &mut (), _: usize, piece: Unpacked<'_, '_>| {
        piece.each(|packed, codes| {
            unpack_slice(packed, offset, signed, codes);
        })
    };
    run(control, rows, &GRAIN, || (), kernel, |()| ())
}

multiversion! {
    /// Packs an even number of integers into the first bytes of `out`.
    pub(crate) fn pack_slice(codes: &[u8], offset: u8, out: &mut [u8]) = pack_slice_body;
}

#[inline(always)]
fn pack_slice_body(codes: &[u8], offset: u8, out: &mut [u8]) {
    for (out, [low, high]) in out.iter_mut().zip(codes.as_chunks::<2>().0) {
        *out = (low.wrapping_add(offset) & 0xf) | (high.wrapping_add(offset) << 4);
    }
}

multiversion! {
    fn unpack_slice(packed: &[u8], offset: u8, signed: bool, out: &mut [u8]) = unpack_slice_body;
}

#[inline(always)]
fn unpack_slice_body(packed: &[u8], offset: u8, signed: bool, out: &mut [u8]) {
    // Moving bit 3 to where subtraction carries it through the upper bits extends the sign.
    let sign = if signed { 8 } else { 0 };
    let half = |bits: u8| ((bits.wrapping_sub(offset) & 0xf) ^ sign).wrapping_sub(sign);
    let (pairs, last) = out.as_chunks_mut::<2>();
    for (pair, &byte) in pairs.iter_mut().zip(packed) {
        *pair = [half(byte), half(byte >> 4)];
    }
    if let ([last], Some(&byte)) = (last, packed.last()) {
        *last = half(byte);
    }
}

/// Rows to pack.
struct Rows<'a, 'b> {
    codes: &'a [u8],
    row: usize,
    out: &'b mut [u8],
}

impl<'a, 'b> Rows<'a, 'b> {
    fn new(codes: &'a [u8], row: usize, out: &'b mut [u8]) -> Result<Self, Error> {
        let rows = codes.len().checked_div(row).unwrap_or(0);
        let expected = rows * row.div_ceil(2);
        if rows * row != codes.len() || expected != out.len() {
            return Err(Error::ParameterLength {
                name: "out",
                expected,
                given: out.len(),
            });
        }
        // Rows of even length join without a gap.
        let row = if row.is_multiple_of(2) { 2 } else { row };
        Ok(Self { codes, row, out })
    }

    fn each(self, mut row: impl FnMut(&[u8], &mut [u8])) {
        if self.row == 2 {
            return row(self.codes, self.out);
        }
        let bytes = self.row.div_ceil(2);
        for (codes, out) in self.codes.chunks(self.row).zip(self.out.chunks_mut(bytes)) {
            row(codes, out);
        }
    }
}

impl Split for Rows<'_, '_> {
    fn len(&self) -> usize {
        self.codes.len().checked_div(self.row).unwrap_or(0)
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let row = self.row;
        let (codes, codes_tail) = self.codes.split_at(mid * row);
        let (out, out_tail) = self.out.split_at_mut(mid * row.div_ceil(2));
        let tail = Self {
            codes: codes_tail,
            row,
            out: out_tail,
        };
        (Self { codes, row, out }, tail)
    }
}

/// Rows to unpack.
struct Unpacked<'a, 'b> {
    packed: &'a [u8],
    row: usize,
    out: &'b mut [u8],
}

impl Unpacked<'_, '_> {
    fn each(self, mut row: impl FnMut(&[u8], &mut [u8])) {
        if self.row.is_multiple_of(2) {
            return row(self.packed, self.out);
        }
        let bytes = self.row.div_ceil(2);
        for (packed, out) in self.packed.chunks(bytes).zip(self.out.chunks_mut(self.row)) {
            row(packed, out);
        }
    }
}

impl Split for Unpacked<'_, '_> {
    fn len(&self) -> usize {
        self.out.len().checked_div(self.row).unwrap_or(0)
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let row = self.row;
        let (packed, packed_tail) = self.packed.split_at(mid * row.div_ceil(2));
        let (out, out_tail) = self.out.split_at_mut(mid * row);
        let tail = Self {
            packed: packed_tail,
            row,
            out: out_tail,
        };
        (Self { packed, row, out }, tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_the_first_integer_low() {
        let mut out = [0; 2];
        let codes = [1, 2, 0xf8];
        pack(&codes, 3, 0, &mut out, &mut Control::threads(1)).expect("fits");
        assert_eq!(out, [0x21, 0x08]);
        pack(&codes, 3, 8, &mut out, &mut Control::threads(1)).expect("fits");
        assert_eq!(out, [0xa9, 0x00]);
    }

    #[test]
    fn unpack_inverts_pack() {
        for row in [1_usize, 2, 3, 7, 64] {
            for (signed, offset) in [(true, 0), (true, 8), (false, 0)] {
                let low = if signed { 248_u8 } else { 0 };
                let codes: Vec<u8> = (0..9 * row)
                    .map(|i| low.wrapping_add(i as u8 % 16))
                    .collect();
                let mut packed = vec![0; 9 * row.div_ceil(2)];
                let control = &mut Control::threads(2);
                pack(&codes, row, offset, &mut packed, control).expect("fits");
                let mut back = vec![0; codes.len()];
                unpack(&packed, row, offset, signed, &mut back, control).expect("fits");
                assert_eq!(back, codes);
            }
        }
    }
}
