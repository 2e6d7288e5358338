"""The quantiser in exact fractions, one value at a time, from `docs/numerics.md`, 2.1."""

from fractions import Fraction

import numpy as np


def step(alpha, bits):
    """alpha / 2^(bits - 1) as binary32 (exact unless subnormal; binary64 holds it, so it is rounded once)."""
    return np.float32(float(Fraction(float(alpha)) / 2 ** (bits - 1)))


def clip(value, least, most):
    return least if value < least else most if value > most else value


def quantise(value, q, high, low):
    """(index, offset bit) of one weight; Python's `round` of a fraction goes to the nearest, ties to even."""
    if q == 0:
        return 0, 0
    quotient = Fraction(float(Fraction(float(value)) / Fraction(float(q))))
    top, low_top, shift = 2 ** (high - 1) - 1, 2 ** (low - 1) - 1, high - low
    index = clip(round(quotient), -top, top)
    target = clip(round(quotient / 2**shift), -low_top - 1, low_top)
    upper = index // 2**shift
    return index, 0 if upper == low_top else clip(target - upper, 0, 1)


def weights(rows, high, low, granularity="row", gates=4):
    """Indices, offset bits and steps of a matrix, as lists."""
    alphas = [max((abs(float(v)) for v in row), default=0.0) for row in rows]
    size = len(rows) // gates
    if granularity == "tensor" or (granularity == "gate" and gates == 1):
        alphas = [max(alphas)] * len(rows)
    elif granularity == "gate":
        alphas = [max(alphas[r // size * size : (r // size + 1) * size]) for r in range(len(rows))]
    steps = [step(alpha, high) for alpha in alphas]
    pairs = [[quantise(v, q, high, low) for v in row] for row, q in zip(rows, steps, strict=True)]
    return [[p[0] for p in row] for row in pairs], [[p[1] for p in row] for row in pairs], steps
