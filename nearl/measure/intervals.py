"""95 % intervals of the figures in `nearl.measure.evaluate`. None shrinks to a point where every image is correct."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import stats
from scipy.optimize import brentq

LEVEL = 0.95
Z = stats.norm.ppf((1 + LEVEL) / 2)


def student(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and half the width of Student's interval; None with a single value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None
    return mean, float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5)


def wilson(correct: int, n: int) -> list[float]:
    """The score interval of ``correct`` out of ``n`` > 0 (Wilson 1927)."""
    return list(_wilson(correct, n))


def share(mean: float, n: int) -> list[float]:
    """Wilson's interval of the mean of ``n`` > 0 values in 0..1, taken for a proportion, than which no such values vary
    more (our choice: wide rather than short)."""
    middle = (mean + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(max(mean * (1 - mean), 0) / n + Z**2 / (4 * n**2))
    return [float(max(middle - half, 0.0)), float(min(middle + half, 1.0))]


@lru_cache(maxsize=4096)  # scipy computes a p-value as well, which takes far longer
def _wilson(correct: int, n: int) -> tuple[float, float]:
    found = stats.binomtest(correct, n).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def auroc(value: float, counts: Sequence[int]) -> list[float]:
    """An interval of Wilson's type: the values t with |value - t| <= z sqrt(V(t)), V of Hanley and McNeil with both
    m - 1 and n - 1 replaced by (m + n) / 2 - 1 (Newcombe 2006, method 5).

    ``counts``: images of each class, all > 0. For the macro mean V is the mean over the classes of one-against-rest,
    which the variance of the mean cannot exceed (our choice: wide rather than short).
    """
    m = np.asarray(counts, dtype=float)
    n = m.sum() - m
    half = m.sum() / 2 - 1

    def excess(t: float) -> float:
        spread = t * (1 - t) * (1 + half * (1 - t) / (2 - t) + half * t / (1 + t)) * np.mean(1 / (m * n))
        return (value - t) ** 2 - Z**2 * spread

    tiny = 1e-9  # the interval never ends at the estimate, which is a second root at 0 and at 1
    return [
        float(brentq(excess, 0.0, value - tiny)) if value > tiny else 0.0,
        float(brentq(excess, value + tiny, 1.0)) if value < 1 - tiny else 1.0,
    ]


def of_mean(values: Sequence[float], intervals: Sequence[Sequence[float]]) -> list[float]:
    """The interval of the mean of independent ``values`` from the interval of each: on each side the root of the summed
    squared distances to the ends, over their number (MOVER, Zou and Donner 2008)."""
    values, (low, high) = np.asarray(values, dtype=float), np.asarray(intervals, dtype=float).T
    reach = [np.sqrt(((values - end) ** 2).sum()) / len(values) for end in (low, high)]
    return [float(values.mean() - reach[0]), float(values.mean() + reach[1])]


def paired(both: int, first: int, second: int, neither: int) -> list[float]:
    """The interval of (second - first) / n, a difference of two proportions of the same n > 0 images: those correct
    only the second time less those correct only the first time (Newcombe 1998, method 10)."""
    n = both + first + second + neither
    (p, q) = (both + second) / n, (both + first) / n
    (p_low, p_high), (q_low, q_high) = wilson(both + second, n), wilson(both + first, n)
    product = both * neither - first * second
    product = max(product - n / 2, 0) if product > 0 else product
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    phi = product / margins**0.5 if margins else 0.0

    def reach(a: float, b: float) -> float:
        return np.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))

    return [float(p - q - reach(p - p_low, q_high - q)), float(p - q + reach(p_high - p, q - q_low))]


def difference(first: float, second: float, one: Sequence[float], two: Sequence[float]) -> list[float]:
    """The interval of ``first`` - ``second``, of different images, from the interval of each (MOVER, as `of_mean`)."""
    return [
        float(first - second - np.hypot(first - one[0], two[1] - second)),
        float(first - second + np.hypot(one[1] - first, second - two[0])),
    ]
