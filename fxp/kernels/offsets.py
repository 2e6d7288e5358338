"""The choice of offset bits: coordinate descent over the bits of each row, against the samples themselves.

All sums are float64 in a fixed order, so the bits depend on nothing but the arguments. Most columns gain nothing, which binary32 can
tell: sums of four columns at a time, and a bound of what their rounding may have done.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from fxp.kernels import vector
from fxp.kernels.build import helper, kernel
from fxp.kernels.vector import BYTE, WORD, operation, pointer_to

LANES = 64  # partial sums side by side: what lets a compiler use vectors without reordering anything
LEAST = 1e-9  # part of the first error that a change has to gain, far above the rounding of the sums
FOUR = 4  # columns side by side
NARROW = 16  # lanes of binary32
SIXTEEN = ir.VectorType(ir.FloatType(), NARROW)


class Sixteen(types.Type):
    """16 x binary32."""

    def __init__(self) -> None:
        super().__init__(name="reals512")


sixteen = Sixteen()
vector.register(Sixteen, SIXTEEN)


def _add_product(builder: Any, total: Any, v: Any, place: Any) -> Any:
    values = builder.load(pointer_to(builder, place, ir.VectorType(BYTE, NARROW)), align=1)
    values = builder.sitofp(builder.sext(values, ir.VectorType(WORD, NARROW)), SIXTEEN)
    return builder.fadd(total, builder.fmul(v, values))


def _total(builder: Any, v: Any) -> Any:
    total = builder.extract_element(v, ir.Constant(WORD, 0))
    for lane in range(1, NARROW):
        total = builder.fadd(total, builder.extract_element(v, ir.Constant(WORD, lane)))
    return total


zero = operation(lambda b: ir.Constant(SIXTEEN, [0.0] * NARROW), sixteen)
load = operation(lambda b, place: b.load(pointer_to(b, place, SIXTEEN), align=1), sixteen, types.int64)
add_product = operation(_add_product, sixteen, sixteen, sixteen, types.int64)
"""The first plus the products of the second and sixteen int8 at the address, lane by lane."""

total_of = operation(_total, types.float32, sixteen)
"""Sum of the lanes, from the first to the last."""


@helper
def product(weighted, column, partial):
    """Sum of weighted[t] * column[t]."""
    for n in range(LANES):
        partial[n] = 0.0
    whole = column.size // LANES * LANES
    for start in range(0, whole, LANES):
        for n in range(LANES):
            partial[n] += weighted[start + n] * np.float64(column[start + n])
    total = 0.0
    for n in range(LANES):
        total += partial[n]
    for t in range(whole, column.size):
        total += weighted[t] * np.float64(column[t])
    return total


@helper
def narrow_products(weighted, columns, first, sums):
    """Sums in binary32 of weighted[t] * columns[first + n, t] over t, for four n.

    weighted : float32 [T]; columns : int8 [K, T]; sums : float32 [4], written; beyond the last column, of the last one
    """
    samples, last = weighted.size, columns.shape[0] - 1
    whole = samples // NARROW * NARROW
    v = weighted.ctypes.data
    w, x = columns[first].ctypes.data, columns[min(first + 1, last)].ctypes.data
    y, z = columns[min(first + 2, last)].ctypes.data, columns[min(first + 3, last)].ctypes.data
    a, b, c, d = zero(), zero(), zero(), zero()
    for t in range(0, whole, NARROW):
        values = load(v + 4 * t)
        a, b = add_product(a, values, w + t), add_product(b, values, x + t)
        c, d = add_product(c, values, y + t), add_product(d, values, z + t)
    sums[0], sums[1], sums[2], sums[3] = total_of(a), total_of(b), total_of(c), total_of(d)
    for n in range(FOUR):
        column = columns[min(first + n, last)]
        for t in range(whole, samples):
            sums[n] += weighted[t] * np.float32(column[t])


@helper
def weigh(weight, error, weighted, narrow):
    """Weighted error of a row, written in both formats; returns its sum and the weighted sum of squares."""
    total, squares = 0.0, 0.0
    for t in range(error.size):
        weighted[t] = weight[t] * error[t]
        narrow[t] = np.float32(weighted[t])
        total += weighted[t]
        squares += weighted[t] * error[t]
    return total, squares


@helper
def magnitude(weighted):
    """Sum of |weighted[t]|."""
    total = 0.0
    for t in range(weighted.size):
        total += abs(weighted[t])
    return total


@kernel
def moments(samples, weight, mean, spread):
    """Weighted mean and variance of every column.

    samples : int8 [T, K]; weight : float64 [B, T], sum 1 in a row; mean, spread : float64 [B, K], written
    """
    mean[:, :], spread[:, :] = 0.0, 0.0
    steps, inputs = samples.shape
    whole = steps // FOUR * FOUR
    for row in range(weight.shape[0]):
        for t in range(0, whole, FOUR):
            a, b, c, d = weight[row, t], weight[row, t + 1], weight[row, t + 2], weight[row, t + 3]
            for j in range(inputs):
                v, w = np.float64(samples[t, j]), np.float64(samples[t + 1, j])
                x, y = np.float64(samples[t + 2, j]), np.float64(samples[t + 3, j])
                mean[row, j] = (((mean[row, j] + a * v) + b * w) + c * x) + d * y
                spread[row, j] = (((spread[row, j] + a * (v * v)) + b * (w * w)) + c * (x * x)) + d * (y * y)
        for t in range(whole, steps):
            a = weight[row, t]
            for j in range(inputs):
                v = np.float64(samples[t, j])
                mean[row, j] += a * v
                spread[row, j] += a * (v * v)
        for j in range(inputs):
            spread[row, j] -= mean[row, j] * mean[row, j]


@kernel
def subtract(columns, low, step, error):
    """Take the low product of rows from `error`, float64 [B, T], column by column. low : int8 [B, K]; step : float64 [B, K]."""
    inputs, samples = columns.shape
    for row in range(error.shape[0]):
        left = error[row]
        for j in range(0, inputs // FOUR * FOUR, FOUR):
            a, b = step[row, j] * np.float64(low[row, j]), step[row, j + 1] * np.float64(low[row, j + 1])
            c, d = step[row, j + 2] * np.float64(low[row, j + 2]), step[row, j + 3] * np.float64(low[row, j + 3])
            for t in range(samples):
                value = left[t] - a * np.float64(columns[j, t])
                value -= b * np.float64(columns[j + 1, t])
                value -= c * np.float64(columns[j + 2, t])
                left[t] = value - d * np.float64(columns[j + 3, t])
        for j in range(inputs // FOUR * FOUR, inputs):
            a = step[row, j] * np.float64(low[row, j])
            for t in range(samples):
                left[t] -= a * np.float64(columns[j, t])


@kernel
def descend(columns, weight, error, mean, spread, step, free, offset, sweeps, record):
    """Lower the weighted, centred squared error of rows bit by bit, columns from first to last in every sweep.

    A bit that is set adds `step * columns[j]` to the row's low product, so it takes as much from its error.

    columns : int8 [K, T], low indices of the activations; weight : float64 [B, T], of each row and sample, sum 1 in a row
    error : float64 [B, T], target minus low product, under the bits given
    mean, spread : float64 [B, K], weighted mean and variance of a column; step : float64 [B, K]
    free, offset : uint8 [B, K], which bits may change, and the bits; offset is written
    record : float64 [B, 3], written: error before, error after, weighted mean of the error left
    """
    inputs, samples = columns.shape
    weighted, narrow = np.empty(samples), np.empty(samples, np.float32)
    partial, sums = np.empty(LANES), np.empty(FOUR, np.float32)
    largest = np.int32(0)
    for j in range(inputs):
        for t in range(samples):
            largest = max(largest, abs(np.int32(columns[j, t])))
    # Of a sum in binary32, relative to that of the magnitudes: each of its terms passes through at most so many roundings.
    rounding = (samples / NARROW + 2 * NARROW + 2) * 2.0**-24 * largest * 1.01
    for row in range(weight.shape[0]):
        total, squares = weigh(weight[row], error[row], weighted, narrow)
        first = squares - total * total
        left = first
        for _ in range(sweeps):
            changed, reach = False, magnitude(weighted)
            start, known = np.int64(0), np.int64(0)  # the sums are of columns from `start` up to `known`
            for j in range(inputs):
                if not free[row, j]:
                    continue
                if j >= known:
                    narrow_products(narrow, columns, j, sums)
                    start, known = j, j + FOUR
                change = step[row, j] if offset[row, j] == 0 else -step[row, j]
                slope = np.float64(sums[j - start]) - total * mean[row, j]
                gain = change * (2.0 * slope - change * spread[row, j])
                if gain + 2.0 * abs(change) * rounding * reach < 0.0:
                    continue
                slope = product(weighted, columns[j], partial) - total * mean[row, j]
                gain = change * (2.0 * slope - change * spread[row, j])
                if gain > LEAST * first:
                    for t in range(samples):
                        weighted[t] -= weight[row, t] * (change * np.float64(columns[j, t]))
                        narrow[t] = np.float32(weighted[t])
                    total -= change * mean[row, j]
                    left -= gain
                    reach += abs(change) * largest
                    offset[row, j] ^= 1
                    changed, known = True, j + 1
            if not changed:
                break
        record[row, 0], record[row, 1], record[row, 2] = first, left, total
