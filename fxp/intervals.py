"""Intervals of differences between variants of a network, paired over sequences or over groups of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist

import numpy as np

LEVEL = 0.95  # of the two-sided intervals, and of one-sided bounds
DRAWS = 2000  # of the bootstrap
SEED = 0  # of the bootstrap: the same draws for every variant

EXACT_DEGREES = 100  # beyond them the expansion is exact to ten digits

def student_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's distribution.

    Parameters
    ----------
    probability : float, in (0, 1)
    degrees : int, at least 1
        Up to 100, the finite sum of its distribution (Abramowitz and Stegun, 26.7.3 and 26.7.4) is inverted by
        bisection; beyond, the expansion of Cornish and Fisher (26.7.5) is used.
    """
    if degrees <= EXACT_DEGREES:
        inside, low, high = abs(2 * probability - 1), 0.0, math.pi / 2
        while low < (middle := (low + high) / 2) < high:
            low, high = (middle, high) if _student_inside(middle, degrees) < inside else (low, middle)
        return math.copysign(math.sqrt(degrees) * math.tan(high), probability - 0.5)
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, 1))


def _student_inside(theta: float, degrees: int) -> float:
    """Probability of |t| < sqrt(degrees) * tan(theta)."""
    odd = degrees % 2
    sine, cosine = math.sin(theta), math.cos(theta)
    term = total = cosine if odd else 1.0
    for k in range(2 + odd, degrees, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    if not odd:
        return sine * total
    return 2 / math.pi * (theta + (sine * total if degrees > 1 else 0.0))


def standard_error(totals: np.ndarray, baseline: np.ndarray, weights: np.ndarray) -> float:
    """Of a difference of ratios (sum of totals over sum of weights), sequences being the independent units; at least
    two sequences.

    Parameters
    ----------
    totals, baseline : float64 [sequences], sums of the score
    weights : float64 [sequences], what was scored in each (steps)
    """
    count = len(totals)
    difference = (totals - baseline).sum() / weights.sum()
    residuals = (totals - baseline) - difference * weights
    return math.sqrt(count / (count - 1) * float((residuals**2).sum())) / float(weights.sum())


def paired_interval(totals: np.ndarray, baseline: np.ndarray, weights: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of a difference of ratios; None for fewer than two sequences. Arguments as for
    `standard_error`."""
    count = len(totals)
    if count < 2:
        return None
    difference = (totals - baseline).sum() / weights.sum()
    reach = student_quantile(0.5 + LEVEL / 2, count - 1) * standard_error(totals, baseline, weights)
    return float(difference - reach), float(difference + reach)


def undrawn(groups: np.ndarray) -> np.ndarray:
    """Weights of the data as it is: int64 [groups, sequences], 1 where a sequence is of the row's group."""
    return (np.unique(groups)[:, None] == groups).astype(np.int64)


def draws(groups: np.ndarray) -> Iterator[np.ndarray]:
    """Two-level bootstrap: as many groups as there are, with replacement, then sequences within each group drawn.

    Parameters
    ----------
    groups : int64 [sequences]

    Yields
    ------
    int64 [groups, sequences]
        How often each sequence was drawn with the k-th drawn group; a group that is drawn twice has two rows, each with
        its own draw of sequences. A group's row adds up to its number of sequences.
    """
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    generator = np.random.default_rng(SEED)
    for _ in range(DRAWS):
        weights = np.zeros((len(members), len(groups)), np.int64)
        for row, group in zip(weights, generator.integers(len(members), size=len(members)), strict=True):
            places = members[group]
            drawn = generator.integers(len(places), size=len(places)) if len(places) > 1 else [0]
            row[places] = np.bincount(drawn, minlength=len(places))
        yield weights


def bootstrap(statistic: Callable[[np.ndarray], float], groups: np.ndarray) -> np.ndarray | None:
    """A statistic over the draws, always the same ones: float64 [draws]; None for fewer than two groups.

    Parameters
    ----------
    statistic : function of (weights int64 [groups, sequences]); NaN where a draw defines no value
    groups : int64 [sequences]
    """
    if len(np.unique(groups)) < 2:
        return None
    return np.array([statistic(weights) for weights in draws(groups)])


def paired_differences(values: np.ndarray | None, baseline: np.ndarray | None) -> np.ndarray | None:
    """Sorted differences of what `bootstrap` gave for two variants, without draws that define no value; None if those
    are half of them or more."""
    if values is None or baseline is None:
        return None
    differences = values - baseline
    differences = np.sort(differences[np.isfinite(differences)])
    return differences if len(differences) > DRAWS // 2 else None
