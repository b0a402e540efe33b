//! How the channels of an axis lie in the linear (C order) index space.

use crate::Error;

/// The array seen as `[outer, channels, inner]` around one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AxisLayout {
    /// The product of the dimensions before the axis.
    pub outer: usize,
    /// The length of the axis; 1 for a whole-tensor parameter.
    pub channels: usize,
    /// The product of the dimensions after the axis.
    pub inner: usize,
}

impl AxisLayout {
    /// The layout of `shape` around `axis`; `None` makes the whole tensor one channel.
    ///
    /// # Errors
    /// [`Error::AxisOutOfRange`] if the axis does not exist.
    pub fn new(shape: &[usize], axis: Option<usize>) -> Result<Self, Error> {
        let Some(axis) = axis else {
            return Ok(Self {
                outer: 1,
                channels: 1,
                inner: shape.iter().product(),
            });
        };
        if axis >= shape.len() {
            return Err(Error::AxisOutOfRange {
                axis,
                ndim: shape.len(),
            });
        }
        Ok(Self {
            outer: shape[..axis].iter().product(),
            channels: shape[axis],
            inner: shape[axis + 1..].iter().product(),
        })
    }

    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.outer * self.channels * self.inner
    }

    /// Whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Splits `start..start + len` into runs of one channel: calls `run(channel, begin, end)` with
    /// offsets relative to `start`.
    pub(crate) fn runs(&self, start: usize, len: usize, mut run: impl FnMut(usize, usize, usize)) {
        let mut done = 0;
        let mut row = start / self.inner.max(1);
        let mut left = self.inner - start % self.inner.max(1);
        while done < len {
            let n = left.min(len - done);
            run(row % self.channels, done, done + n);
            done += n;
            row += 1;
            left = self.inner;
        }
    }

    /// Whether runs of one channel are too short for a vector loop, so that kernels should walk
    /// the parameters of a whole period beside the values instead.
    pub(crate) fn is_interleaved(&self) -> bool {
        const SHORT_RUN: usize = 32;
        self.channels > 1 && self.inner < SHORT_RUN
    }

    /// The channel of every element of one period, repeated until it is worth a vector loop.
    pub(crate) fn period(&self) -> Vec<usize> {
        const LONG_ENOUGH: usize = 1024;
        let once = self.channels * self.inner;
        let times = LONG_ENOUGH.div_ceil(once.max(1));
        (0..once * times).map(|i| (i % once) / self.inner).collect()
    }
}
