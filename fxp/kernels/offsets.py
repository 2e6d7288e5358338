"""The choice of offset bits: coordinate descent over the bits of each row, against the samples themselves.

All sums are float64 in a fixed order, so the bits depend on nothing but the arguments.
"""

from __future__ import annotations

import numpy as np

from fxp.kernels.build import helper, kernel

LANES = 64  # partial sums side by side: what lets a compiler use vectors without reordering anything
LEAST = 1e-9  # part of the first error that a change has to gain, far above the rounding of the sums


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


@kernel
def moments(samples, weight, mean, spread):
    """Weighted mean and variance of every column.

    samples : int8 [T, K]; weight : float64 [B, T], sum 1 in a row; mean, spread : float64 [B, K], written
    """
    mean[:, :], spread[:, :] = 0.0, 0.0
    for row in range(weight.shape[0]):
        for t in range(samples.shape[0]):
            w = weight[row, t]
            for j in range(samples.shape[1]):
                value = np.float64(samples[t, j])
                mean[row, j] += w * value
                spread[row, j] += w * (value * value)
        for j in range(samples.shape[1]):
            spread[row, j] -= mean[row, j] * mean[row, j]


@kernel
def subtract(columns, low, step, error):
    """Take the low product of rows from `error`, float64 [B, T]. low : int8 [B, K]; step : float64 [B, K]."""
    for row in range(error.shape[0]):
        for j in range(columns.shape[0]):
            factor = step[row, j] * np.float64(low[row, j])
            for t in range(columns.shape[1]):
                error[row, t] -= factor * np.float64(columns[j, t])


@kernel
def descend(columns, weight, error, mean, spread, step, free, offset, sweeps, record):
    """Lower the weighted, centred squared error of rows bit by bit, columns from first to last in every sweep.

    A bit that is set adds `step * columns[j]` to the row's low product, so it takes as much from its error.

    columns : int8 [K, T], low indices of the activations; weight : float64 [B, T], of each row and sample, sum 1 in a row
    error : float64 [B, T], target minus low product; on return of the chosen bits
    mean, spread : float64 [B, K], weighted mean and variance of a column; step : float64 [B, K]
    free, offset : uint8 [B, K], which bits may change, and the bits; offset is written
    record : float64 [B, 3], written: error before, error after, weighted mean of the error left
    """
    inputs, samples = columns.shape
    weighted, partial = np.empty(samples), np.empty(LANES)
    for row in range(weight.shape[0]):
        total, squares = 0.0, 0.0
        for t in range(samples):
            weighted[t] = weight[row, t] * error[row, t]
            total += weighted[t]
            squares += weighted[t] * error[row, t]
        first = squares - total * total
        left = first
        for _ in range(sweeps):
            changed = False
            for j in range(inputs):
                if not free[row, j]:
                    continue
                change = step[row, j] if offset[row, j] == 0 else -step[row, j]
                slope = product(weighted, columns[j], partial) - total * mean[row, j]
                gain = change * (2.0 * slope - change * spread[row, j])
                if gain > LEAST * first:
                    for t in range(samples):
                        move = change * np.float64(columns[j, t])
                        weighted[t] -= weight[row, t] * move
                        error[row, t] -= move
                    total -= change * mean[row, j]
                    left -= gain
                    offset[row, j] ^= 1
                    changed = True
            if not changed:
                break
        record[row, 0], record[row, 1], record[row, 2] = first, left, total
