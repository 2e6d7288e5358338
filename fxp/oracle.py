"""No controller: decisions that know the future.

Each single decision (an element in a step) is judged by the first-order change of the loss that it would cause,
|dL/dz · (z_low - z_high)|, with the gradients of `fxp.sensitivity` on the very data that is judged, future steps and
labels included. The decisions that cost least run low. No hardware can do that. It bounds what a causal rule could gain
only as far as single changes tell of many: where small errors add up over steps, a mask can lose less.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from accel.controllers import Schedule
from fxp.network import Network
from fxp.observation import LIMIT, Observation, in_order, subset
from fxp.sensitivity import impacts
from traces import InputError, plan
from traces.data import Sequences

UNIT = 512  # levels an octave
TOP = 2**16 - 1


class Impacts:
    """Levels of all decisions on a data set, on disk: log2 of the change of the loss in steps of 1/512.

    Parameters
    ----------
    network : Network
    data : sequences, labelled or not, as calibration takes them
        At most 65,536 steps are worked on at once (or one sequence).
    seed : int
        Of the random projection without labels.
    progress : called with finished steps

    Raises
    ------
    InputError
        Data that does not fit the network.
    """

    def __init__(
        self, network: Network, data: Sequences, seed: int = 0, threads: int = 1,
        progress: Callable[[int], None] | None = None,
    ):  # fmt: skip
        self.ids = np.asarray(data.ids)
        self.lengths = np.asarray(data.lengths)
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)
        total = int(self.offsets[-1])
        self._files, self._levels = [], []
        for layer in network.layers:
            shape = (layer.directions, total, layer.hidden_size)
            file = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the array)
            self._files.append(file)
            self._levels.append(np.memmap(file, np.uint16, "w+", shape=shape))
        self.counts = np.zeros(TOP + 1, np.int64)
        for members in _pieces(self.lengths):
            self._measure(network, data, members, seed, threads)
            if progress is not None:
                progress(int(self.lengths[members].sum()))
        self.layers = [_Layer(levels, self.offsets) for levels in self._levels]

    def _measure(self, network: Network, data: Sequences, members: list[int], seed: int, threads: int) -> None:
        part = subset(data, members)
        observation = Observation(network, part, threads)
        for impact in impacts(network.layers, observation, seed):
            levels = _levels(impact.values)
            self.counts += np.bincount(levels.reshape(-1), minlength=TOP + 1)
            start = 0
            for member in impact.members:
                number = members[member]
                length = int(self.lengths[number])
                rows = in_order(levels[start : start + length], impact.direction)
                first = int(self.offsets[number])
                self._levels[impact.layer][impact.direction, first : first + length] = rows
                start += length

    def level(self, low_share: float) -> int:
        """The level up to which decisions are low so that the share is nearest to the one wanted; -1: none."""
        reached = np.concatenate([[0], np.cumsum(self.counts)]) / self.counts.sum()
        return int(np.argmin(np.abs(reached - low_share))) - 1


def _levels(values: np.ndarray) -> np.ndarray:
    """Magnitudes as levels: 0 for zero, 1 to 65,535 for 2^-100 to 2^28."""
    magnitude = np.abs(values)
    with np.errstate(divide="ignore"):
        octaves = np.log2(magnitude, dtype=np.float32)
    levels = np.clip(np.rint((octaves + 100) * UNIT), 1, TOP)
    return np.where(magnitude > 0, levels, 0).astype(np.uint16)


def _pieces(lengths: np.ndarray) -> list[list[int]]:
    """Neighbouring sequences of at most `LIMIT` steps together."""
    pieces: list[list[int]] = [[]]
    steps = 0
    for number, length in enumerate(lengths):
        if pieces[-1] and steps + length > LIMIT:
            pieces.append([])
            steps = 0
        pieces[-1].append(number)
        steps += int(length)
    return pieces


class _Layer:
    """A layer of a plan."""

    def __init__(self, levels: np.ndarray, offsets: np.ndarray):
        self._levels, self._offsets = levels, offsets

    def at(self, level: int) -> SimpleNamespace:
        """The layer with all decisions up to a level low, with the accessors of a trace's layer."""
        levels, offsets = self._levels, self._offsets

        def low(row: int, direction: int = 0) -> np.ndarray:
            return np.asarray(levels[direction, offsets[row] : offsets[row + 1]] <= level)

        def packed(start: int, stop: int, direction: int = 0) -> np.ndarray:
            return plan.pack(np.asarray(levels[direction, start:stop] <= level))

        return SimpleNamespace(low=low, packed=packed, directions=len(levels), hidden_size=levels.shape[2])


class Oracle(Schedule):
    """The plan of the least harmful decisions at a low share.

    Parameters
    ----------
    impacts : Impacts
    low_share : float, 0 to 1
    """

    def __init__(self, impacts: Impacts, low_share: float):
        if not 0 <= low_share <= 1:
            raise InputError(f"Oracle: low_share is {low_share!r}, expected 0 to 1")
        level = impacts.level(low_share)
        layers = [layer.at(level) for layer in impacts.layers]
        super().__init__(SimpleNamespace(ids=impacts.ids, offsets=impacts.offsets, layers=layers))
        self.low_share = low_share

    @property
    def parameters(self) -> dict[str, Any]:
        return {"low_share": self.low_share, "causal": False}
