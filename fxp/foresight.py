"""Element readouts: a row of weights for every element of the cell state that foresees, from a few columns of a step's
own activations, how much the loss will feel low precision there; fitted in float, then rounded to integers."""

from __future__ import annotations

import math

import numpy as np

from accel.calibrated import ElementReadout
from fxp.readout import shift_of

SAMPLES = 16_384  # steps that the fit sees
SEARCHED = 8192  # of them, while columns are chosen
SHARE, MOST_SHARE = 8, 4  # one column of so many is read, and at most
LANES = 128  # columns that accel/presets/epur-dyn.yaml multiplies at a time
RIDGE = 0.1  # of the mean variance of an activation
ROUNDS, SEARCH_ROUNDS = 20, 6  # of scoring
MOST = 50.0  # times its expectation that a single step may count


def columns_of(inputs: int, outputs: int) -> int:
    """Columns that element readouts of a layer read by default.

    An eighth, made up to whole groups of `LANES` columns, which take no more time, but not beyond a quarter, since
    each product takes energy: 1/32 to 1/16 of the products of the gates.
    """
    least = max(1, (inputs + outputs) // SHARE)
    return max(least, min(-(-least // LANES) * LANES, (inputs + outputs) // MOST_SHARE))


def fit(
    squares: np.ndarray, x: np.ndarray, h: np.ndarray, columns: int, unit: int
) -> tuple[ElementReadout, float]:
    """Log-linear regressions of every element's squared change of the loss on a step's activations.

    As `fxp.readout.fit` (gamma variance, logarithmic link, ridge), for all elements at once. Columns are chosen by
    halving: of those left, the half stays without which the fit would lose most, by the second-order estimate w^2 /
    [inverse Hessian]_jj (Hassibi and Stork, "Second order derivatives for network pruning: optimal brain surgeon",
    1993), summed over the elements in proportion to the root of their mean squared change. Where there are no more
    inputs than columns, it is also tried to keep them all; the fit counts under whose foresight the cheaper half of
    the decisions would cost less on these steps.

    Parameters
    ----------
    squares : float32 [steps, H]
    x, h : int8 [steps, N] and [steps, R], input indices of the steps and h indices before them
    columns : int
        How many of the N + R columns are read.
    unit : int
        Score units an octave.

    Returns
    -------
    ElementReadout, float
        And the share of the gamma deviance around each element's mean that it explains on these steps.
    """
    steps, hidden = squares.shape
    activations = np.concatenate([x, h], axis=1).astype(np.float32)
    mean = activations.mean(axis=0, dtype=np.float64).astype(np.float32)
    spread = (activations - mean).std(axis=0, dtype=np.float64)
    level = squares.mean(axis=0, dtype=np.float64)
    live = np.flatnonzero(level > 0)
    kept = np.flatnonzero(spread > 0)
    if steps < 2 or not kept.size or not live.size:
        return ElementReadout((), (), ((),) * hidden, (0,) * hidden, 0), 0.0
    # Steps without any effect would drive a logarithm to minus infinity.
    ratios = np.maximum(squares[:, live] / level[live], 1e-12).astype(np.float32)
    part = np.linspace(0, steps - 1, min(SEARCHED, steps)).astype(np.int64)
    inputs = x.shape[1]
    best = None
    for always in (0, inputs) if inputs <= columns < kept.size else (0,):
        chosen = _chosen(activations[part] - mean, ratios[part], np.sqrt(level[live]), kept, columns, always)
        centred = activations[:, chosen] - mean[chosen]
        weights, base, _ = _regressions(centred, ratios, ROUNDS)
        predicted = base + centred @ weights
        cost = _cost(ratios, predicted, level[live])
        if best is None or cost < best[0]:
            best = cost, chosen, weights, base, predicted
    assert best is not None
    _, kept, weights, base, predicted = best
    explained = 1 - _deviance(ratios, predicted) / _deviance(ratios, np.zeros_like(base))
    per_octave = unit / math.log(2)
    scaled = weights.T.astype(np.float64) * per_octave
    shift = shift_of(scaled)
    integers = np.zeros((hidden, kept.size), np.int64)
    integers[live] = np.clip(np.rint(scaled * 2.0**shift), -127, 127)
    bias = np.zeros(hidden)
    bias[live] = base * per_octave
    bias -= integers @ mean[kept].astype(np.float64) / 2.0**shift
    bias = np.clip(np.rint(bias), -(2**29), 2**29).astype(np.int64)
    return ElementReadout(
        tuple(int(j) for j in kept if j < inputs),
        tuple(int(j) - inputs for j in kept if j >= inputs),
        tuple(map(tuple, integers.tolist())),
        tuple(int(value) for value in bias),
        shift,
    ), explained


def _chosen(
    centred: np.ndarray, ratios: np.ndarray, importance: np.ndarray, kept: np.ndarray, columns: int, always: int
) -> np.ndarray:
    """Columns to read, of those in `kept`; the first `always` of all columns are not given up."""
    while kept.size > columns:
        weights, _, inverse = _regressions(centred[:, kept], ratios, SEARCH_ROUNDS)
        value = np.where(kept < always, np.inf, (weights.astype(np.float64) ** 2 @ importance) / np.diag(inverse))
        count = max(columns, (kept.size + 1) // 2)
        kept = np.sort(kept[np.argsort(-value, kind="stable")[:count]])
    return kept


def _cost(ratios: np.ndarray, predicted: np.ndarray, level: np.ndarray) -> float:
    """Squared change of the loss by the half of the decisions that are foreseen to cost least, over that by all."""
    foreseen = predicted + np.log(level).astype(np.float32)
    squares = ratios * level
    return float(squares[foreseen <= np.median(foreseen)].sum() / squares.sum())


def _regressions(
    centred: np.ndarray, ratios: np.ndarray, rounds: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights float32 [columns, H] and constants [H] by Fisher scoring, and the inverse of the information matrix."""
    gram = (centred.T @ centred).astype(np.float64)
    ridge = max(RIDGE * float(np.trace(gram)) / len(gram), float(np.finfo(np.float32).tiny))
    inverse = np.linalg.inv(gram + ridge * np.eye(len(gram))).astype(np.float32)
    weights = np.zeros((len(gram), ratios.shape[1]), np.float32)
    base = np.zeros(ratios.shape[1], np.float32)
    predicted = np.zeros_like(ratios)
    for _ in range(rounds):
        residual = np.minimum(ratios * np.exp(-np.clip(predicted, -30, 30)), MOST) - 1
        weights += inverse @ (centred.T @ residual - np.float32(ridge) * weights)
        base += residual.mean(axis=0)
        predicted = base + centred @ weights
    return weights, base, inverse


def _deviance(ratios: np.ndarray, predicted: np.ndarray) -> float:
    """Half the mean gamma deviance, up to what does not depend on the prediction's fit."""
    with np.errstate(over="ignore"):
        excess = ratios * np.exp(-np.clip(predicted, -30, 30))
    return float((excess - np.log(ratios) + predicted - 1).mean(dtype=np.float64))
