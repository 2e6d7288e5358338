"""What a plan says: where, when and for how long elements ran at low precision. Read in blocks, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from traces import plan

BLOCK = 1 << 20
"""Element-steps of a plan that are unpacked at once."""


@dataclass(frozen=True)
class Usage:
    """Low precision in one layer and direction of a trace.

    Attributes
    ----------
    layer, direction, steps : int
        Steps of all sequences together.
    element_low : int64 [H]
        Low steps of each element.
    position_low : int64 [longest]
        Low element-steps at each position of the sequences.
    position_rows : int64 [longest]
        Sequences that have the position.
    runs : int64 [2, longest + 1]
        Number of runs of each length in steps, of high (0) and low (1) precision. A run is a stretch of one precision
        of one element; it ends with its sequence.
    """

    layer: int
    direction: int
    steps: int
    element_low: np.ndarray
    position_low: np.ndarray
    position_rows: np.ndarray
    runs: np.ndarray

    @property
    def hidden(self) -> int:
        """Elements of the layer."""
        return len(self.element_low)

    @property
    def low_share(self) -> float:
        """Low element-steps over all."""
        return int(self.element_low.sum()) / (self.steps * self.hidden)

    @property
    def element_share(self) -> np.ndarray:
        """Low share of each element, float64 [H]."""
        return self.element_low / self.steps


def _blocks(trace: Any, layer: int, direction: int, start: int, stop: int) -> Any:
    """(first row, bool [rows, H]) of rows start to stop of the concatenated steps."""
    hidden = trace.layers[layer].hidden_size
    size = max(1, BLOCK // hidden)
    for row in range(start, stop, size):
        packed = trace.layers[layer].packed(row, min(row + size, stop), direction)
        yield row, plan.unpack(packed, hidden)


def usage(trace: Any, layer: int, direction: int = 0) -> Usage:
    """Count what the plan of one layer and direction says.

    Parameters
    ----------
    trace : open trace, or a run with its plan recorded
    """
    hidden, offsets = trace.layers[layer].hidden_size, np.asarray(trace.offsets)
    lengths, total = np.diff(offsets), int(offsets[-1])
    longest = int(lengths.max())
    element_low = np.zeros(hidden, np.int64)
    position_low = np.zeros(longest, np.int64)
    runs = np.zeros((2, longest + 1), np.int64)
    begun, value = np.zeros(hidden, np.int64), np.zeros(hidden, bool)
    for row, low in _blocks(trace, layer, direction, 0, total):
        element_low += low.sum(axis=0)
        rows = np.arange(row, row + len(low))
        first = offsets[np.searchsorted(offsets, rows, side="right") - 1]
        at = np.bincount(rows - first, weights=low.sum(axis=1), minlength=longest)
        position_low += at.astype(np.int64)
        change = np.empty(low.shape, bool)
        change[0] = low[0] != value
        change[1:] = low[1:] != low[:-1]
        change[rows == first] = True
        _end_runs(runs, begun, value, row, low, change)
    _count(runs, value, total - begun)
    present = np.cumsum(np.bincount(lengths, minlength=longest + 1)[::-1])[::-1][1:]
    return Usage(layer, direction, total, element_low, position_low, present, runs)


def _end_runs(
    runs: np.ndarray, begun: np.ndarray, value: np.ndarray, row: int, low: np.ndarray, change: np.ndarray
) -> None:
    """Count the runs that end within a block; `begun` and `value` of the open run of each element move on."""
    elements, steps = np.nonzero(change.T)
    if not len(elements):
        return
    fresh = np.concatenate([[True], elements[1:] != elements[:-1]])
    before = np.concatenate([[0], steps[:-1]])
    starts = np.where(fresh, begun[elements], row + before)
    values = np.where(fresh, value[elements], low[before, elements])
    _count(runs, values, row + steps - starts)
    last = np.concatenate([fresh[1:], [True]])
    begun[elements[last]] = row + steps[last]
    value[:] = low[-1]


def _count(runs: np.ndarray, low: np.ndarray, lengths: np.ndarray) -> None:
    for side in (0, 1):
        # The run before the first step of all has no length.
        runs[side] += np.bincount(lengths[low == side], minlength=runs.shape[1])
    runs[:, 0] = 0


@dataclass(frozen=True)
class Map:
    """Low share of blocks of elements and steps of one sequence.

    Attributes
    ----------
    low : float64 [blocks of elements, blocks of steps]
        Exact mean over each block; the last ones may be smaller.
    elements, steps : int
        Of the sequence.
    element_block, step_block : int
        Elements and steps that a block holds; 1 where nothing was merged.
    """

    low: np.ndarray
    elements: int
    steps: int
    element_block: int
    step_block: int
    low_share: float
    """Low element-steps over all."""


def precision_map(trace: Any, layer: int, direction: int, sequence: int, rows: int = 256, columns: int = 400) -> Map:
    """The precision of all elements of a sequence over time, merged to at most `rows` by `columns` blocks."""
    start, stop = int(trace.offsets[sequence]), int(trace.offsets[sequence + 1])
    hidden, steps = trace.layers[layer].hidden_size, stop - start
    tall, wide = -(-hidden // rows), -(-steps // columns)
    sums = np.zeros((-(-hidden // tall), -(-steps // wide)), np.int64)
    edges = np.arange(0, hidden, tall)
    for row, low in _blocks(trace, layer, direction, start, stop):
        blocks = np.add.reduceat(low, edges, axis=1, dtype=np.int64)
        np.add.at(sums.T, (np.arange(row, row + len(low)) - start) // wide, blocks)
    heights = np.minimum(tall, hidden - edges)
    widths = np.minimum(wide, steps - np.arange(0, steps, wide))
    return Map(sums / (heights[:, None] * widths), hidden, steps, tall, wide, int(sums.sum()) / (hidden * steps))


def spread_elements(used: Usage, count: int = 4) -> list[int]:
    """Elements at even ranks of low share, from the least to the most: examples that nobody picked."""
    order = np.argsort(used.element_low, kind="stable")
    ranks = np.linspace(0, used.hidden - 1, min(count, used.hidden)).round().astype(int)
    return sorted({int(order[rank]) for rank in ranks})
