"""The neuron that foresees how much the loss will feel a step: fitted in float, then rounded to integers."""

from __future__ import annotations

import math

import numpy as np

from accel.calibrated import Readout

RIDGE = 0.02  # of the mean variance of h: keeps the weights small where h says little
ROUNDS = 30  # of scoring; the fit hardly moves after ten
MOST = 50.0  # times its expectation that a single step may count
CHUNK = 8192  # steps that are held in float at a time


def fit(totals: np.ndarray, before: np.ndarray, unit: int) -> tuple[Readout, float]:
    """Log-linear regression of a step's squared change of the loss on the h indices before it.

    A generalised linear model with gamma variance and logarithmic link (McCullagh and Nelder, "Generalized Linear
    Models", 1989, chapter 8) by Fisher scoring, with a ridge: it predicts the expected change, where the regression of
    its logarithm would predict the expected logarithm, which a few large changes hardly move.

    Parameters
    ----------
    totals : float64 [steps], positive
    before : int8 [steps, R]
    unit : int
        Score units an octave.

    Returns
    -------
    Readout, float
        The neuron, and the square of the correlation of its logarithm with that of `totals`.
    """
    steps, size = before.shape
    silent = Readout((0,) * size, 0, 0), 0.0
    if steps < 2:
        return silent
    mean = before.mean(axis=0, dtype=np.float64)
    chunks = [slice(start, start + CHUNK) for start in range(0, steps, CHUNK)]
    gram = np.zeros((size, size))
    for chunk in chunks:
        centred = before[chunk] - mean
        gram += centred.T @ centred
    ridge = RIDGE * float(np.trace(gram)) / size
    if not ridge > 0:
        return silent
    inverse = np.linalg.inv(gram + ridge * np.eye(size))
    ratios, weights, base = totals / totals.mean(), np.zeros(size), 0.0
    predicted = np.zeros(steps)
    for _ in range(ROUNDS):
        residual = np.minimum(ratios * np.exp(-np.clip(predicted, -30, 30)), MOST) - 1
        slope = sum(((before[chunk] - mean).T @ residual[chunk] for chunk in chunks), np.zeros(size))
        weights = weights + inverse @ (slope - ridge * weights)
        base += float(residual.mean())
        predicted = base + np.concatenate([(before[chunk] - mean) @ weights for chunk in chunks])
    return _integers(unit / math.log(2) * weights, mean), _correlation(predicted, np.log(totals)) ** 2


def shift_of(weights: np.ndarray) -> int:
    """The shift (0 to 31) under which the largest weight comes nearest to 127 from below."""
    largest = float(np.abs(weights).max())
    return int(np.clip(math.floor(math.log2(127 / largest)), 0, 31)) if largest > 0 else 0


def _integers(weights: np.ndarray, mean: np.ndarray) -> Readout:
    shift = shift_of(weights)
    integers = np.clip(np.rint(weights * 2.0**shift), -127, 127).astype(int)
    bias = -int(np.clip(round(float(integers @ mean) / 2**shift), -(2**29), 2**29))
    return Readout(tuple(integers.tolist()), shift, bias)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm > 0 else 0.0
