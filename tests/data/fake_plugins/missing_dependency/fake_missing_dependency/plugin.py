"""Needs a package that is not installed."""

import a_package_that_is_nowhere  # noqa: F401
