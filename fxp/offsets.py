"""The free bit of every weight: offset bits chosen so that low precision matches the float product on real activations.

A low index is the upper part of the high one, or that plus the offset bit. The bit is free, so it need not round to
nearest: for each row the bits are chosen to minimise the mean squared error of the low product, of low weights with low
activations, against the float product, steps counting as much as the loss feels the row; `low_bias` takes up the mean.
Nothing of the high path changes.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

import traces
from fxp import quantise
from fxp.formats import Formats
from fxp.kernels import offsets as kernels
from fxp.observation import Observation, Side
from fxp.sensitivity import Kept, magnitudes

SAMPLES = 10_000  # steps that the fit sees, evenly spaced over those observed
SWEEPS = 4  # over the bits of a row; later ones change little
ROWS = 64  # rows that are worked on together
RIDGE = 1e-3  # of the mean variance of an activation: keeps the start's least squares well posed


@dataclass(frozen=True)
class Fit:
    """Result for one direction of a layer.

    Attributes
    ----------
    wx_offset, wh_offset : uint8 [4H, N] and [4H, R]
    low_bias : float32 [4H]
    before, after : float64 [4H], weighted mean squared error of z around its mean on the samples
    changed : int, bits that differ from those given
    """

    wx_offset: np.ndarray
    wh_offset: np.ndarray
    low_bias: np.ndarray
    before: np.ndarray
    after: np.ndarray
    changed: int


class Problem:
    """The least-squares problem of one direction of a layer.

    Parameters
    ----------
    layer : traces.Layer
    direction : int
    formats : Formats
    side : Side
    steps : int array
        Which of its steps to use (`spread` chooses some).
    importance : float32 [T, 4H], optional
        How much the steps count for each row; without it, or where a row's is zero throughout, the square of the gate's
        slope at the target.

    Attributes
    ----------
    columns : int8 [N + R, T], low indices of the activations
    target : float32 [T, 4H], float pre-activation
    """

    def __init__(
        self,
        layer: traces.Layer,
        direction: int,
        formats: Formats,
        side: Side,
        steps: np.ndarray,
        importance: np.ndarray | None = None,
    ):
        self._importance = importance
        x_index, h_index = side.x_index[steps], side.h_index[steps]
        self._low = quantise.low_activations(np.concatenate([x_index, h_index], axis=1), formats)
        self.columns = np.ascontiguousarray(self._low.T)
        h = h_index * np.float32(layer.h_scale)
        self.bias = layer.bias[direction]
        self.target = side.x[steps] @ layer.wx_float[direction].T + h @ layer.wh_float[direction].T + self.bias
        index = np.concatenate([layer.wx_index[direction], layer.wh_index[direction]], axis=1).astype(np.int32)
        self.shifted = index >> formats.shift
        factor = 4.0**formats.shift
        x_step = layer.wx_scale[direction].astype(np.float64) * float(layer.x_scale) * factor
        h_step = layer.wh_scale[direction].astype(np.float64) * float(layer.h_scale) * factor
        parts = [(x_step, layer.input_size), (h_step, layer.output_size)]
        self.step = np.concatenate([np.repeat(s[:, None], n, axis=1) for s, n in parts], axis=1)
        self.free = ((self.shifted < formats.low_top) & (self.step > 0)).astype(np.uint8)

    def weights(self, rows: slice) -> np.ndarray:
        """Weight of every sample, float64 [rows, T], sum 1."""
        weight = self._slopes(rows)
        if self._importance is not None:
            given = self._importance[:, rows].T.astype(np.float64)
            weight = np.where(given.any(axis=1, keepdims=True), given, weight)
        total = weight.sum(axis=1, keepdims=True)
        return np.where(total > 0, weight, 1.0) / np.where(total > 0, total, weight.shape[1])

    def _slopes(self, rows: slice) -> np.ndarray:
        """Squared slope of the gates at the target."""
        z = self.target[:, rows].T.astype(np.float64)
        gate = np.arange(self.target.shape[1])[rows, None] // (self.target.shape[1] // 4)
        # Slopes of the logistic function and of tanh, both through tanh: nothing can overflow.
        t = np.tanh(np.where(gate == 2, z, z / 2))
        return (1 - t * t) ** 2

    def start(self) -> np.ndarray:
        """Bits to begin with, uint8 [4H, N + R]: least squares, rounded column by column.

        Each column's rounding error is made good by those that follow, as well as their correlations allow (the nearest
        plane of Babai, "On Lovász' lattice reduction and the nearest lattice point problem", 1986; for weights: Frantar
        et al., "GPTQ", 2022), those with the largest variance first. The rows of a gate share the weights of the
        samples, their mean, and so one matrix of second moments.
        """
        rows = self.target.shape[1]
        bits = np.zeros((rows, len(self.columns)), np.uint8)
        samples = self._low.astype(np.float32)
        for gate in range(4):
            span = slice(gate * rows // 4, (gate + 1) * rows // 4)
            bits[span] = self._start(span, samples)
        return bits

    def _start(self, span: slice, samples: np.ndarray) -> np.ndarray:
        weight = self.weights(span).mean(axis=0)
        target = (self.target[:, span] - self.bias[span]).astype(np.float64)
        target -= weight @ target
        mean = weight @ samples
        centred = (samples - mean.astype(np.float32)) * np.sqrt(weight).astype(np.float32)[:, None]
        moments = (centred.T @ centred).astype(np.float64)
        moments[np.diag_indices_from(moments)] += max(
            RIDGE * np.trace(moments) / len(moments), np.finfo(np.float32).tiny
        )
        order = np.argsort(-np.diag(moments), kind="stable")
        moments = moments[np.ix_(order, order)]
        cross = centred.T @ (target * np.sqrt(weight)[:, None]).astype(np.float32)
        free = np.linalg.solve(moments, cross[order].astype(np.float64))
        factor = np.linalg.cholesky(np.linalg.inv(moments)).T
        step, shifted = self.step[span].T[order], self.shifted[span].T[order]
        allowed = self.free[span].T[order]
        bits = np.zeros(shifted.shape, np.uint8)
        for j in range(len(order)):
            divisor = np.where(step[j] > 0, step[j], 1.0)
            bits[j] = np.clip(np.rint(free[j] / divisor) - shifted[j], 0, 1) * allowed[j]
            left = (free[j] - step[j] * (shifted[j] + bits[j])) / factor[j, j]
            free[j + 1 :] -= factor[j, j + 1 :, None] * left
        chosen = np.empty_like(bits)
        chosen[order] = bits
        return np.ascontiguousarray(chosen.T)

    def error(self, rows: slice, offset: np.ndarray) -> np.ndarray:
        """Target without bias, minus the low product under the bits `offset` [rows, N + R]: float64 [rows, T]."""
        error = np.ascontiguousarray((self.target[:, rows] - self.bias[rows]).T, np.float64)
        low = (self.shifted[rows] + offset).astype(np.int8)
        kernels.subtract(self.columns, low, self.step[rows], error)
        return error

    def variance(self, rows: slice, offset: np.ndarray) -> np.ndarray:
        """Weighted variance of the error under the bits `offset` [rows, N + R]: float64 [rows]."""
        error, weight = self.error(rows, offset), self.weights(rows)
        mean = (weight * error).sum(axis=1, keepdims=True)
        return np.asarray((weight * (error - mean) ** 2).sum(axis=1))

    def solve(self, rows: slice, offset: np.ndarray, sweeps: int) -> tuple[np.ndarray, np.ndarray]:
        """Better bits for some rows: uint8 [rows, N + R], and the record of `fxp.kernels.offsets.descend`."""
        weight, chosen = self.weights(rows), offset[rows].copy()
        error = self.error(rows, chosen)
        mean = np.empty((len(weight), len(self.columns)))
        spread = np.empty_like(mean)
        kernels.moments(self._low, weight, mean, spread)
        record = np.empty((len(weight), 3))
        kernels.descend(
            self.columns, weight, error, mean, spread, self.step[rows], self.free[rows], chosen, sweeps, record
        )  # fmt: skip
        return chosen, record


def spread(total: int, samples: int = SAMPLES) -> np.ndarray:
    """At most so many steps, evenly spread over all: ascending int64."""
    return np.linspace(0, total - 1, min(samples, total)).astype(np.int64)


def fit(
    layer: traces.Layer,
    direction: int,
    formats: Formats,
    side: Side,
    *,
    steps: np.ndarray | None = None,
    importance: np.ndarray | None = None,
    sweeps: int = SWEEPS,
    threads: int = 1,
    progress: Callable[[float], None] | None = None,
) -> Fit:
    """Fit the offset bits and the low bias of one direction of a layer.

    Coordinate descent from `Problem.start`, over the columns in their order, or from the bits given where that ends
    lower; deterministic, and the same for any number of threads, since rows do not depend on each other.
    """
    problem = Problem(layer, direction, formats, side, spread(len(side.x)) if steps is None else steps, importance)
    given = np.concatenate([layer.wx_offset[direction], layer.wh_offset[direction]], axis=1)
    start = problem.start()
    count = len(given)
    blocks = [slice(begin, min(begin + ROWS, count)) for begin in range(0, count, ROWS)]

    def one(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        bits, record = problem.solve(rows, start, sweeps)
        record[:, 0] = problem.variance(rows, given[rows])
        for row in np.flatnonzero(record[:, 1] > record[:, 0]):
            alone = slice(rows.start + int(row), rows.start + int(row) + 1)
            bits[row : row + 1], record[row : row + 1] = problem.solve(alone, given, sweeps)
        if progress is not None:
            progress((rows.stop - rows.start) / count)
        return bits, record

    with ThreadPoolExecutor(threads) as pool:
        solved = list(pool.map(one, blocks))
    offset = np.concatenate([bits for bits, _ in solved])
    record = np.concatenate([values for _, values in solved])
    return Fit(
        np.ascontiguousarray(offset[:, : layer.input_size]),
        np.ascontiguousarray(offset[:, layer.input_size :]),
        record[:, 2].astype(np.float32),
        record[:, 0],
        record[:, 1],
        int((offset != given).sum()),
    )


def fit_layers(
    layers: list[traces.Layer],
    observation: Observation,
    seed: int = 0,
    *,
    threads: int = 1,
    progress: Callable[[float], None] | None = None,
    kept: Kept | None = None,
) -> tuple[list[traces.Layer], list[dict[str, float]]]:
    """Layers with fitted bits, and a record for each: number of bits, bits changed, mean squared error of z.

    The steps of a row count with |dL/dz| (`fxp.sensitivity.magnitudes`, which takes the seed, and `kept`). With as many
    low as high bits there is nothing to fit.
    """
    formats = observation.network.formats
    if formats.shift == 0:
        return list(layers), []
    steps = spread(observation.steps)
    importance = magnitudes(observation, steps, seed, kept=kept)
    fitted, records = [], []
    for number, layer in enumerate(layers):
        fits = [
            fit(
                layer, d, formats, observation.side(number, d), steps=steps, importance=importance[number][d],
                threads=threads, progress=progress,
            )
            for d in range(layer.directions)
        ]  # fmt: skip
        fitted.append(
            replace(
                layer,
                wx_offset=np.stack([f.wx_offset for f in fits]),
                wh_offset=np.stack([f.wh_offset for f in fits]),
                low_bias=np.stack([f.low_bias for f in fits]),
            )
        )
        records.append(
            {
                "bits": int(layer.wx_offset.size + layer.wh_offset.size),
                "changed": sum(f.changed for f in fits),
                "error_before": float(np.mean([f.before for f in fits])),
                "error_after": float(np.mean([f.after for f in fits])),
            }
        )
    return fitted, records
