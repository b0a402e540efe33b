"""The exceptions of this package."""


class KernelError(ValueError):
    """A value, a shape or an array that a kernel cannot take; the text says what it accepts."""


class KernelTypeError(KernelError, TypeError):
    """A dtype that a kernel does not read."""
