"""Exact bounds on a rate from counts: what ``n`` samples can support, and no more.

The one-sided bound of Clopper and Pearson (1934) inverts the binomial distribution: the upper
bound for ``k`` events in ``n`` trials is the rate at which ``k`` or fewer would be seen with
probability ``1 - confidence``. It never covers less than it says, for any ``n``.
"""

from __future__ import annotations

import math

DEFAULT_CONFIDENCE = 0.95

_TINY = 1e-300
_EPSILON = 1e-16
_MAX_TERMS = 1_000_000


def binomial_upper(k: int, n: int, confidence: float = DEFAULT_CONFIDENCE) -> float:
    """Return the exact one-sided upper bound on a rate, after ``k`` events in ``n`` trials.

    Args:
        k: Events seen, ``0 <= k <= n``.
        n: Independent trials; with none, nothing is known and the bound is 1.
        confidence: Probability that the bound holds, between 0 and 1, both excluded.

    Returns:
        A rate between 0 and 1.

    Raises:
        ValueError: An argument is out of range.
    """
    if not 0 <= k <= n:
        msg = f"k must lie between 0 and n, but k={k}, n={n}"
        raise ValueError(msg)
    if not 0.0 < confidence < 1.0:
        msg = f"confidence must lie between 0 and 1, but is {confidence}"
        raise ValueError(msg)
    if k == n:
        return 1.0
    if k == 0:
        return -math.expm1(math.log1p(-confidence) / n)
    # P(X <= k) = 1 - I_p(k + 1, n - k), so the bound is where I_p reaches the confidence.
    low, high = k / n, 1.0
    while True:
        middle = 0.5 * (low + high)
        if middle in (low, high):
            return high
        if regularized_beta(middle, k + 1, n - k) < confidence:
            low = middle
        else:
            high = middle


def samples_needed(rate: float, confidence: float = DEFAULT_CONFIDENCE) -> int:
    """Return how many trials without an event bound a rate by *rate*.

    Args:
        rate: The bound to reach, between 0 and 1, both excluded.
        confidence: As for :func:`binomial_upper`.

    Raises:
        ValueError: An argument is out of range.
    """
    if not 0.0 < rate < 1.0 or not 0.0 < confidence < 1.0:
        msg = f"rate and confidence must lie between 0 and 1, but are {rate} and {confidence}"
        raise ValueError(msg)
    n = max(1, math.ceil(math.log1p(-confidence) / math.log1p(-rate)) - 1)
    while binomial_upper(0, n, confidence) > rate:
        n += 1
    return n


def describe_bound(
    k: int, n: int, confidence: float = DEFAULT_CONFIDENCE, event: str = "changed"
) -> str:
    """Return the bound in words: ``"0 of 600 changed: under 0.5 % at 95 %"``.

    The percentage is rounded up to two significant digits, so that the sentence stays true.
    """
    upper = binomial_upper(k, n, confidence)
    return f"{k} of {n} {event}: under {percent(upper, up=True)} at {100 * confidence:g} %"


def percent(rate: float, *, up: bool = False) -> str:
    """Return *rate* as a percentage with two significant digits.

    Args:
        rate: A share between 0 and 1.
        up: Whether to round up instead of to the nearest.
    """
    value = 100.0 * rate
    if value == 0 or not math.isfinite(value):
        return f"{value:g} %"
    digits = 1 - math.floor(math.log10(abs(value)))
    scale = 10.0**digits
    # A hair less than the value, so that 0.5 computed as 0.50000000000001 is not raised to 0.51.
    value = math.ceil(value * scale * (1 - 1e-9)) / scale if up else round(value * scale) / scale
    return (
        f"{value:.{max(0, digits)}f}".rstrip("0").rstrip(".") + " %"
        if digits > 0
        else (f"{value:.0f} %")
    )


def regularized_beta(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function ``I_x(a, b)``.

    Continued fraction of DLMF 8.17.22, evaluated by the modified Lentz method and reflected
    (DLMF 8.17.4) to the side on which it converges quickly.

    Args:
        x: Between 0 and 1.
        a: Positive.
        b: Positive.
    """
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - regularized_beta(1.0 - x, b, a)
    log_front = (
        math.lgamma(a + b)
        - math.lgamma(a)
        - math.lgamma(b)
        + a * math.log(x)
        + b * math.log1p(-x)
        - math.log(a)
    )
    return math.exp(log_front) * _beta_fraction(x, a, b)


def _beta_fraction(x: float, a: float, b: float) -> float:
    c = 1.0
    d = 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1.0))
    value = d
    for m in range(1, _MAX_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        d = 1.0 / _away_from_zero(1.0 + even * d)
        c = _away_from_zero(1.0 + even / c)
        value *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        d = 1.0 / _away_from_zero(1.0 + odd * d)
        c = _away_from_zero(1.0 + odd / c)
        value *= d * c
        if abs(d * c - 1.0) < 10 * _EPSILON:
            break
    return value


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


__all__ = [
    "DEFAULT_CONFIDENCE",
    "binomial_upper",
    "describe_bound",
    "percent",
    "regularized_beta",
    "samples_needed",
]
