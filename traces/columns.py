"""Rows of a trace on their way into a file, chunk by chunk."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import h5py
import numpy as np

from traces import store

OPEN = 64
"""Unfinished chunks of a plan that are kept in memory."""
REPEATING = 0.9
"""Part of a plan's bytes that equal those a step before, from which on a compressor looks for repetitions."""


class Column:
    """Rows of one data set and direction, collected to whole chunks before they are compressed.

    No row is written twice.
    """

    def __init__(self, dataset: h5py.Dataset, direction: int) -> None:
        self._dataset, self._direction = dataset, direction
        self._size = dataset.chunks[1] if dataset.chunks else dataset.shape[1]
        self._buffer = np.empty((0, *dataset.shape[2:]), dtype=dataset.dtype)
        self._first = self._held = 0

    def write(self, row: int, values: np.ndarray) -> None:
        done = 0
        while done < len(values):
            at = row + done
            if self._held and at != self._first + self._held:
                self.flush()
            if not self._held:
                self._first = at
            # The buffer ends where the chunk of its first row ends.
            room = self._size - self._first % self._size - self._held
            count = min(room, len(values) - done)
            if self._held + count > len(self._buffer):
                self._reserve(self._held + count)
            self._buffer[self._held : self._held + count] = values[done : done + count]
            self._held += count
            done += count
            if count == room:
                self.flush()

    def _reserve(self, rows: int) -> None:
        buffer = np.empty(
            (min(self._size, max(rows, 2 * self._held)), *self._buffer.shape[1:]), self._buffer.dtype
        )
        buffer[: self._held] = self._buffer[: self._held]
        self._buffer = buffer

    def flush(self) -> None:
        if self._held:
            self._dataset[self._direction, self._first : self._first + self._held] = self._buffer[
                : self._held
            ]
            self._held = 0


@dataclass
class _Part:
    """A chunk that is being filled: its rows, the spans of them that are there, and how many these are."""

    rows: np.ndarray
    spans: list[tuple[int, int]] = field(default_factory=list)
    count: int = 0


class PlanColumn(Column):
    """The same for a plan, where sequences fill several chunks side by side.

    A whole chunk is compressed here, once, and handed to the file as it is: left to itself, HDF5 would do so whenever
    one drops out of its cache, and would look for repetitions that are not there. What does not fit `OPEN` chunks is
    left to it.
    """

    def __init__(self, dataset: h5py.Dataset, direction: int) -> None:
        super().__init__(dataset, direction)
        self._total, self._width = dataset.shape[1:]
        self._parts: dict[int, _Part] = {}

    def write(self, row: int, values: np.ndarray) -> None:
        done = 0
        while done < len(values):
            first = (row + done) // self._size * self._size
            start = row + done - first
            stop = min(start + len(values) - done, self._size)
            part = self._parts.get(first)
            if part is None:
                if len(self._parts) == OPEN:
                    self._leave(next(iter(self._parts)))
                part = self._parts[first] = _Part(np.zeros((self._size, self._width), np.uint8))
            part.rows[start:stop] = values[done : done + stop - start]
            part.spans.append((start, stop))
            part.count += stop - start
            if part.count == min(self._size, self._total - first):
                self._dataset.id.write_direct_chunk((self._direction, first, 0), _deflated(part.rows))
                del self._parts[first]
            done += stop - start

    def _leave(self, first: int) -> None:
        part = self._parts.pop(first)
        for start, stop in part.spans:
            self._dataset[self._direction, first + start : first + stop] = part.rows[start:stop]

    def flush(self) -> None:
        for first in list(self._parts):
            self._leave(first)


def _deflated(rows: np.ndarray) -> bytes:
    """Rows uint8 [steps, bytes] as HDF5's filters shuffle and gzip would have them; single bytes are not shuffled.

    In bits that change at random there is nothing to be found but how often each byte occurs, and looking for more
    takes three times as long as that.
    """
    repeating = np.count_nonzero(rows[1:] == rows[:-1]) >= REPEATING * rows[1:].size
    strategy = zlib.Z_DEFAULT_STRATEGY if repeating else zlib.Z_RLE
    packer = zlib.compressobj(store.LEVEL, strategy=strategy)
    return packer.compress(rows.data) + packer.flush()
