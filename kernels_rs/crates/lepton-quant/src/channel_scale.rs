//! Scales of least squared error without the integers: one for each row of values.

use crate::array::Scratch;
use crate::block_format::Pieces;
use crate::block_scale::{Parameters, find_parameters};
use crate::long_search::search_shared;
use crate::parallel::{Grain, run};
use crate::symmetric::BadChannels;
use crate::{AxisLayout, BlockFormat, BlockOutput, Control, Error, FloatArray, minmax};

/// Values in a row from which on the threads share its values instead of the rows.
const LONG: usize = 1 << 18;

const GRAIN_VALUES: usize = 1 << 16;
const VALUES_PER_THREAD: usize = 1 << 17;

/// Finds the scale and the zero point of each row of `format.size` values, in C order, as
/// [`crate::quantize_blocks`] does.
///
/// # Errors
/// [`Error::ParameterLength`] if `scale` and `zero_point` do not have one value for each row,
/// [`Error::NonFiniteRange`] if a row holds NaN or infinite values, [`Error::Interrupted`].
pub fn search_scales(
    x: &FloatArray<'_>,
    format: BlockFormat,
    scale: &mut [f32],
    zero_point: &mut [u16],
    control: &mut Control<'_>,
) -> Result<(), Error> {
    let rows = x.len() / format.size;
    check_one_each(
        rows,
        &[("scale", scale.len()), ("zero_point", zero_point.len())],
    )?;
    if format.size >= LONG {
        return row_by_row(x, &format, scale, zero_point, control);
    }
    let bad = BadChannels::default();
    let pieces = Pieces {
        out: BlockOutput {
            codes: &mut [],
            scale,
            zero_point,
        },
        count: rows,
        bytes: 0,
        blocks: 1,
    };
    let grain = Grain {
        items: (GRAIN_VALUES / format.size).max(1),
        per_thread: (VALUES_PER_THREAD / format.size).max(1),
    };
    let kernel = |scratch: &mut Scratch, first: usize, pieces: Pieces<'_, u16>| {
        let outputs = pieces.out.scale.iter_mut().zip(pieces.out.zero_point);
        for (row, (scale, zero)) in (first..).zip(outputs) {
            let x = x.tile(row * format.size, format.size, scratch);
            match find_parameters(x, &format) {
                Some(found) => (*scale, *zero) = (found.scale, found.zero as u16),
                None => bad.note(row),
            }
        }
    };
    run(control, pieces, &grain, Scratch::default, kernel, drop)?;
    bad.check(rows, "channels")
}

fn check_one_each(expected: usize, outputs: &[(&'static str, usize)]) -> Result<(), Error> {
    for &(name, given) in outputs {
        if given != expected {
            return Err(Error::ParameterLength {
                name,
                expected,
                given,
            });
        }
    }
    Ok(())
}

/// One row after the other, each by all threads.
fn row_by_row(
    x: &FloatArray<'_>,
    format: &BlockFormat,
    scale: &mut [f32],
    zero_point: &mut [u16],
    control: &mut Control<'_>,
) -> Result<(), Error> {
    let layout = AxisLayout {
        outer: 1,
        channels: scale.len(),
        inner: format.size,
    };
    let bad = BadChannels::default();
    let extents = minmax(x, layout, control)?;
    let outputs = scale.iter_mut().zip(zero_point);
    for (row, (extent, (scale, zero))) in extents.iter().zip(outputs).enumerate() {
        if !(extent.min.is_finite() && extent.max.is_finite()) {
            bad.note(row);
            continue;
        }
        let mut found = Parameters::of(extent.min, extent.max, format);
        if format.search && (extent.min, extent.max) != (0.0, 0.0) {
            let part = (x, row * format.size, format.size);
            found = search_shared(found, part, extent.min, format, control)?;
        }
        (*scale, *zero) = (found.scale, found.zero as u16);
    }
    bad.check(layout.channels, "channels")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockScheme, View, quantize_blocks};

    #[test]
    fn long_and_short_rows_are_those_of_quantize_blocks() {
        let x: Vec<f32> = (0..900_000_u32)
            .map(|i| (f64::from(i.wrapping_mul(2_654_435_761) >> 9) / 4e6 - 1.0).powi(5) as f32)
            .collect();
        for (rows, scheme) in [
            (1, BlockScheme::AbsMax),
            (3, BlockScheme::Asymmetric),
            (900, BlockScheme::SignedMax),
        ] {
            let n = x.len() / rows;
            let format = BlockFormat::new(4, n, scheme, None)
                .expect("valid")
                .with_search(true);
            let array = FloatArray::F32(View::from_slice(&x, &[rows, n]));
            let (mut codes, mut want) = (vec![0; x.len()], vec![0.0; rows]);
            let mut zero = vec![0_u8; rows];
            let out = BlockOutput {
                codes: &mut codes,
                scale: &mut want,
                zero_point: &mut zero,
            };
            quantize_blocks(&array, format, out, &mut Control::threads(1)).expect("finite");
            for threads in [1, 3] {
                let (mut scale, mut place) = (vec![0.0; rows], vec![0_u16; rows]);
                let control = &mut Control::threads(threads);
                search_scales(&array, format, &mut scale, &mut place, control).expect("finite");
                let zero = zero.iter().map(|&z| u16::from(z)).collect();
                assert_eq!((scale, place), (want.clone(), zero));
            }
        }
    }
}
