"""The float network: for comparison and for ranges of calibration only, never on the bit-exact path.

All sequences advance together as one batch, so that each step is a matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

BATCH = 64  # sequences that advance together


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return (0.5 * (1 + np.tanh(0.5 * z))).astype(np.float32)


def _direction(
    wx: np.ndarray, wh: np.ndarray, bias: np.ndarray, projection: np.ndarray | None, peephole: np.ndarray | None,
    x: np.ndarray,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(h, c) of every step of a padded batch x [batch, time, features]."""
    hidden = wh.shape[0] // 4
    h = np.zeros((x.shape[0], wh.shape[1]), np.float32)
    c = np.zeros((x.shape[0], hidden), np.float32)
    for t in range(x.shape[1]):
        z = x[:, t] @ wx.T + h @ wh.T + bias
        if peephole is not None:
            z[:, : 2 * hidden] += peephole[: 2 * hidden] * np.concatenate([c, c], axis=1)
        i, f = _sigmoid(z[:, :hidden]), _sigmoid(z[:, hidden : 2 * hidden])
        c = f * c + i * np.tanh(z[:, 2 * hidden : 3 * hidden])
        if peephole is not None:
            z[:, 3 * hidden :] += peephole[2 * hidden :] * c
        h = _sigmoid(z[:, 3 * hidden :]) * np.tanh(c)
        if projection is not None:
            h = h @ projection.T
        yield h, c


def _run(layer: Any, x: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """Outputs [time, D*R] and cell states [direction][time, H] of each sequence."""
    output, hidden = layer.wh.shape[2], layer.wh.shape[1] // 4
    directions = layer.wx.shape[0]
    outputs = [np.empty((len(v), directions * output), np.float32) for v in x]
    cells = [[np.empty((len(v), hidden), np.float32) for _ in range(directions)] for v in x]
    order = np.argsort([-len(v) for v in x], kind="stable")
    for first in range(0, len(order), BATCH):
        members = order[first : first + BATCH]
        for direction in range(directions):
            padded = np.zeros((len(members), len(x[members[0]]), x[0].shape[1]), np.float32)
            for row, member in enumerate(members):
                padded[row, : len(x[member])] = x[member][::-1] if direction else x[member]
            projection, peephole = (
                None if part is None else part[direction] for part in (layer.projection, layer.peephole)
            )
            steps = _direction(
                layer.wx[direction], layer.wh[direction], layer.bias[direction], projection, peephole, padded
            )
            for t, (h, c) in enumerate(steps):
                for row, member in enumerate(members):
                    length = len(x[member])
                    if t >= length:
                        break
                    position = length - 1 - t if direction else t
                    outputs[member][position, direction * output : (direction + 1) * output] = h[row]
                    cells[member][direction][position] = c[row]
    return outputs, cells


def layer_outputs(layers: Sequence[Any], inputs: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """Output of every layer in float.

    Parameters
    ----------
    layers : objects with wx, wh, bias, projection, peephole as in `fxp.quantise.FloatLayer`
    inputs : list of float32 [time, features]

    Returns
    -------
    One list a layer, of float32 [time, directions * output] a sequence.
    """
    results, x = [], list(inputs)
    for layer in layers:
        x, _ = _run(layer, x)
        results.append(x)
    return results


def run(layers: Sequence[Any], inputs: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[list[list[np.ndarray]]]]:
    """Outputs of the last layer, and cell states [layer][sequence][direction] float32 [time, hidden]."""
    states, x = [], list(inputs)
    for layer in layers:
        x, cells = _run(layer, x)
        states.append(cells)
    return x, states
