//! A read-only strided array, read in linear (C order) order.

use std::marker::PhantomData;

/// A borrowed strided array of `T`; strides are in bytes and may be zero or negative.
#[derive(Debug, Clone)]
pub struct View<'a, T> {
    base: *const T,
    shape: Vec<usize>,
    /// Dimensions of length 1 dropped and neighbours merged: (length, stride in bytes).
    dims: Vec<(usize, isize)>,
    len: usize,
    /// The whole array when it is contiguous and aligned.
    slice: Option<&'a [T]>,
    /// Lowest and one-past-highest byte address that the view can read.
    extent: (usize, usize),
    lifetime: PhantomData<&'a [T]>,
}

// SAFETY: a View only reads, like the `&[T]` that it stands for.
unsafe impl<T: Sync> Send for View<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for View<'_, T> {}

impl<'a, T: Copy> View<'a, T> {
    /// A view of a slice with a C-contiguous shape.
    ///
    /// # Panics
    /// If the shape does not have as many elements as the slice.
    #[must_use]
    pub fn from_slice(data: &'a [T], shape: &[usize]) -> Self {
        assert_eq!(data.len(), shape.iter().product::<usize>(), "shape");
        let mut strides = vec![0; shape.len()];
        let mut step = size_of::<T>();
        for (stride, &n) in strides.iter_mut().zip(shape).rev() {
            *stride = step.cast_signed();
            step *= n.max(1);
        }
        // SAFETY: the strides just computed stay within the slice.
        unsafe { Self::from_raw(data.as_ptr(), shape, &strides) }
    }

    /// A view from a pointer, a shape and strides in bytes. The pointer need not be aligned.
    ///
    /// # Safety
    /// For the lifetime `'a`, every element addressed by the shape and the strides must be
    /// readable, hold a valid `T`, and not be written.
    #[must_use]
    pub unsafe fn from_raw(base: *const T, shape: &[usize], strides: &[isize]) -> Self {
        let len = shape.iter().product();
        let dims = if len == 0 {
            Vec::new()
        } else {
            merge(shape, strides)
        };
        let item = size_of::<T>();
        let contiguous = match dims.as_slice() {
            [] => true,
            [(_, stride)] => *stride == item.cast_signed(),
            _ => false,
        };
        let slice = if len == 0 {
            Some(&[][..])
        } else if contiguous && base.is_aligned() {
            // SAFETY: contiguous, aligned, and readable by the caller's promise.
            Some(unsafe { std::slice::from_raw_parts(base, len) })
        } else {
            None
        };
        let (mut low, mut high) = (base.addr(), base.addr());
        for &(n, stride) in &dims {
            let reach = stride.unsigned_abs() * (n - 1);
            if stride < 0 {
                low -= reach;
            } else {
                high += reach;
            }
        }
        let extent = if len == 0 { (0, 0) } else { (low, high + item) };
        Self {
            base,
            shape: shape.to_vec(),
            dims,
            len,
            slice,
            extent,
            lifetime: PhantomData,
        }
    }

    /// The shape as given.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements in C order, when they already lie so.
    #[must_use]
    pub fn as_slice(&self) -> Option<&'a [T]> {
        self.slice
    }

    /// The half-open range of byte addresses that the view can read.
    #[must_use]
    pub fn extent(&self) -> (usize, usize) {
        self.extent
    }

    /// Copies the elements `start..start + out.len()` in C order.
    ///
    /// # Panics
    /// If the range reaches past the end.
    pub fn read(&self, start: usize, out: &mut [T]) {
        let end = start.checked_add(out.len());
        assert!(end.is_some_and(|end| end <= self.len), "read past the end");
        if out.is_empty() {
            return;
        }
        if let Some(slice) = self.slice {
            out.copy_from_slice(&slice[start..start + out.len()]);
            return;
        }
        let mut index = self.unravel(start);
        let last = self.dims.len().saturating_sub(1);
        let (inner, step) = self.dims.get(last).copied().unwrap_or((1, 0));
        let mut done = 0;
        while done < out.len() {
            let offset: isize = index
                .iter()
                .zip(&self.dims)
                .map(|(&i, &(_, stride))| i.cast_signed() * stride)
                .sum();
            let at = index.get(last).copied().unwrap_or(0);
            // SAFETY: `index` lies within the dimensions, so the address is one of the elements.
            let from = unsafe { self.base.byte_offset(offset) };
            let rows = match self.columns() {
                Some((n, _)) if at == 0 => (n - index[last - 1]).min((out.len() - done) / inner),
                _ => 0,
            };
            if let (2.., Some((_, row_step))) = (rows, self.columns()) {
                let rows = rows.min(BLOCK);
                let part = &mut out[done..done + rows * inner];
                // SAFETY: `rows` rows of `inner` elements each remain from `from` on.
                unsafe { transpose(from, (rows, row_step), (inner, step), part) };
                done += part.len();
                advance(&mut index[..last], &self.dims[..last], rows);
                continue;
            }
            let n = (inner - at).min(out.len() - done);
            // SAFETY: `n` elements remain in the innermost dimension from `at` on.
            unsafe { gather(from, step, &mut out[done..done + n]) };
            done += n;
            advance(&mut index, &self.dims, n);
        }
    }

    fn unravel(&self, mut linear: usize) -> Vec<usize> {
        let mut index = vec![0; self.dims.len()];
        for (i, &(n, _)) in index.iter_mut().zip(&self.dims).rev() {
            *i = linear % n;
            linear /= n;
        }
        index
    }

    /// The innermost dimension but one, if its elements lie closer together than those of the
    /// innermost, as in a transposed matrix: several rows are read at once then, because one cache
    /// line holds elements of many.
    fn columns(&self) -> Option<(usize, isize)> {
        let [.., rows, (_, step)] = self.dims.as_slice() else {
            return None;
        };
        (rows.1.unsigned_abs() < step.unsigned_abs()).then_some(*rows)
    }

    /// How many elements to read at once, at least `usual`: whole blocks of rows if that saves
    /// memory traffic.
    pub(crate) fn tile_len(&self, usual: usize) -> usize {
        const MOST: usize = 1 << 16;
        match (self.columns(), self.dims.last()) {
            (Some(_), Some(&(inner, _))) => (BLOCK * inner).clamp(usual, MOST),
            _ => usual,
        }
    }
}

/// Rows and columns transposed at once: a cache line of float32 each way.
const BLOCK: usize = 16;

/// Moves `n` elements ahead, where `n` at most fills the innermost dimension.
fn advance(index: &mut [usize], dims: &[(usize, isize)], n: usize) {
    let mut carry = n;
    for (i, &(len, _)) in index.iter_mut().zip(dims).rev() {
        *i += carry;
        if *i < len {
            return;
        }
        *i -= len;
        carry = 1;
    }
}

/// Copies `rows` (at most [`BLOCK`]) of `columns` elements, given by counts and steps in bytes,
/// reading down the rows. Blocks go through a buffer, because whole rows may share cache sets.
///
/// # Safety
/// The elements must be readable.
unsafe fn transpose<T: Copy>(
    from: *const T,
    rows: (usize, isize),
    columns: (usize, isize),
    out: &mut [T],
) {
    let Some(&fill) = out.first() else { return };
    let mut buffer = [[fill; BLOCK]; BLOCK];
    for first in (0..columns.0).step_by(BLOCK) {
        let width = BLOCK.min(columns.0 - first);
        for column in 0..width {
            let mut at = from.wrapping_byte_offset((first + column).cast_signed() * columns.1);
            for line in &mut buffer[..rows.0] {
                // SAFETY: readable by the caller's promise.
                line[column] = unsafe { at.read_unaligned() };
                at = at.wrapping_byte_offset(rows.1);
            }
        }
        for (row, line) in buffer[..rows.0].iter().enumerate() {
            let start = row * columns.0 + first;
            out[start..start + width].copy_from_slice(&line[..width]);
        }
    }
}

/// Copies `out.len()` elements that lie `step` bytes apart.
///
/// # Safety
/// The elements must be readable.
unsafe fn gather<T: Copy>(from: *const T, step: isize, out: &mut [T]) {
    if step == size_of::<T>().cast_signed() {
        // SAFETY: readable by the caller's promise; bytes have no alignment and cannot overlap the
        // unique borrow `out`.
        unsafe {
            std::ptr::copy_nonoverlapping(
                from.cast::<u8>(),
                out.as_mut_ptr().cast::<u8>(),
                size_of_val(out),
            );
        }
        return;
    }
    let mut at = from;
    for value in out {
        // SAFETY: readable by the caller's promise.
        *value = unsafe { at.read_unaligned() };
        at = at.wrapping_byte_offset(step);
    }
}

fn merge(shape: &[usize], strides: &[isize]) -> Vec<(usize, isize)> {
    let mut dims: Vec<(usize, isize)> = Vec::with_capacity(shape.len());
    for (&n, &stride) in shape.iter().zip(strides) {
        if n == 1 {
            continue;
        }
        match dims.last_mut() {
            Some((outer, outer_stride)) if *outer_stride == stride * n.cast_signed() => {
                *outer *= n;
                *outer_stride = stride;
            }
            _ => dims.push((n, stride)),
        }
    }
    dims
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strided(data: &[i32], shape: &[usize], strides: &[isize], origin: usize) -> Vec<i32> {
        // SAFETY: the tests below address elements of `data` only.
        let view = unsafe { View::from_raw(data[origin..].as_ptr(), shape, strides) };
        let mut whole = vec![0; view.len()];
        view.read(0, &mut whole);
        for start in 0..view.len() {
            let mut part = vec![0; view.len() - start];
            view.read(start, &mut part);
            assert_eq!(part, whole[start..]);
        }
        whole
    }

    #[test]
    fn reads_any_strides_in_c_order() {
        let data: Vec<i32> = (0..24).collect();
        assert_eq!(strided(&data, &[2, 3], &[12, 4], 0), [0, 1, 2, 3, 4, 5]);
        assert_eq!(strided(&data, &[3, 2], &[4, 12], 0), [0, 3, 1, 4, 2, 5]);
        assert_eq!(strided(&data, &[3], &[-8], 4), [4, 2, 0]);
        assert_eq!(
            strided(&data, &[2, 3, 2], &[48, 4, 12], 0),
            [0, 3, 1, 4, 2, 5, 12, 15, 13, 16, 14, 17]
        );
        assert_eq!(strided(&data, &[2, 2], &[0, 4], 1), [1, 2, 1, 2]);
        assert_eq!(strided(&data, &[], &[], 7), [7]);
        assert_eq!(strided(&data, &[2, 0], &[4, 4], 0), [0; 0]);
        assert_eq!(
            strided(&data, &[2, 1, 2, 2], &[48, 99, -16, 8], 4),
            [4, 6, 0, 2, 16, 18, 12, 14]
        );
    }

    #[test]
    fn reads_large_transposed_arrays() {
        let data: Vec<i32> = (0..3 * 37 * 45).collect();
        let whole = strided(&data, &[3, 45, 37], &[37 * 45 * 4, 4, 45 * 4], 0);
        for (i, &value) in whole.iter().enumerate() {
            let (matrix, row, column) = (i / (37 * 45), i / 37 % 45, i % 37);
            assert_eq!(value as usize, matrix * 37 * 45 + column * 45 + row);
        }
    }

    #[test]
    fn reads_unaligned_data() {
        let bytes: Vec<u8> = (0..9).collect();
        // SAFETY: bytes 1..9 hold two u32; any bytes are a valid u32.
        let view = unsafe { View::from_raw(bytes[1..].as_ptr().cast::<u32>(), &[2], &[4]) };
        let mut out = [0; 2];
        view.read(0, &mut out);
        assert_eq!(out[0], u32::from_ne_bytes([1, 2, 3, 4]));
        assert_eq!(out[1], u32::from_ne_bytes([5, 6, 7, 8]));
    }
}
