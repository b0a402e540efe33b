//! The two kinds of zero points that blocks have.

use crate::blocks::{Tile, integer_blocks};
use crate::fit::{LANES, LONGEST, fitted_blocks};
use crate::quantize::MAGIC;
use crate::{BlockFormat, BlockScheme, Error, Rounding};

/// What stands for 0 in a block.
pub trait ZeroPoint: Copy + Default + Send + Sync {
    /// Blocks that are worked on side by side, at most.
    #[doc(hidden)]
    const SIDE_BY_SIDE: usize;

    /// Refuses a format that has no such zero point.
    #[doc(hidden)]
    fn check(format: &BlockFormat) -> Result<(), Error>;

    /// Quantizes consecutive blocks; answers whether all values are finite.
    #[doc(hidden)]
    fn blocks(tile: &mut Tile<'_, Self>, format: &BlockFormat) -> bool;

    /// The integer that stands for 0.
    #[doc(hidden)]
    fn filler(self, format: &BlockFormat) -> u8;
}

/// An integer of the block.
impl ZeroPoint for u8 {
    const SIDE_BY_SIDE: usize = 1;

    fn check(_: &BlockFormat) -> Result<(), Error> {
        Ok(())
    }

    fn blocks(tile: &mut Tile<'_, Self>, format: &BlockFormat) -> bool {
        let clean = integer_blocks(tile, format);
        if format.rounding != Rounding::HalfEven {
            tile.round_again(format);
        }
        clean
    }

    fn filler(self, _: &BlockFormat) -> u8 {
        self
    }
}

/// Any number, which a consumer subtracts as such.
impl ZeroPoint for f32 {
    const SIDE_BY_SIDE: usize = LANES;

    fn check(format: &BlockFormat) -> Result<(), Error> {
        let why = if format.scheme != BlockScheme::Asymmetric {
            "float zero points belong to the asymmetric scheme alone".to_owned()
        } else if format.rounding != Rounding::HalfEven {
            "with float zero points the only rounding is half to even".to_owned()
        } else if format.size > LONGEST {
            format!(
                "float zero points need blocks of up to {LONGEST} values, got {}",
                format.size
            )
        } else {
            return Ok(());
        };
        Err(Error::InvalidFormat(why))
    }

    fn blocks(tile: &mut Tile<'_, Self>, format: &BlockFormat) -> bool {
        fitted_blocks(tile, format)
    }

    fn filler(self, format: &BlockFormat) -> u8 {
        let (low, high) = format.limits();
        let zero = self.clamp(low as f32, high as f32);
        (zero + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()) as u8
    }
}
