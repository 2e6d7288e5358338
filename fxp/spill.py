"""Rows of a layer's outputs that are to be read again in another order: in memory if few, else in a temporary file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np

from traces import InputError

LIMIT = 16 << 20
"""Bytes that are kept in memory."""


class Spill:
    """int8 [time, width] of some sequences; a context manager.

    The file has no name in its folder (the system's for temporary files), so it is gone at the end, whatever ends this.

    Parameters
    ----------
    lengths : steps of each sequence, by its number
    width : columns

    Raises
    ------
    InputError
        No room for the temporary file (also from `write`).
    """

    def __init__(self, lengths: Mapping[int, int], width: int):
        self._width = width
        self._starts: dict[int, int] = {}
        total = 0
        for number, length in lengths.items():
            self._starts[number] = total
            total += length
        self._rows: np.ndarray | None = None
        self._file: Any = None
        if total * width <= LIMIT:
            self._rows = np.empty((total, width), np.int8)
        else:
            try:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
            except OSError as error:
                raise _unwritable(error) from None

    def write(self, number: int, start: int, rows: np.ndarray) -> None:
        """Keep rows of a sequence from step `start` on."""
        first = self._starts[number] + start
        if self._rows is not None:
            self._rows[first : first + len(rows)] = rows
            return
        content, done = np.ascontiguousarray(rows).tobytes(), 0
        try:
            while done < len(content):
                done += os.pwrite(self._file.fileno(), content[done:], first * self._width + done)
        except OSError as error:
            raise _unwritable(error) from None

    def read(self, number: int, start: int, stop: int) -> np.ndarray:
        """Rows of a sequence from `start` to `stop` (exclusive)."""
        first = self._starts[number] + start
        if self._rows is not None:
            return self._rows[first : first + stop - start]
        content = os.pread(self._file.fileno(), (stop - start) * self._width, first * self._width)
        return np.frombuffer(content, np.int8).reshape(stop - start, self._width)

    def close(self) -> None:
        """Let go of memory and file."""
        self._rows = None
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _unwritable(error: OSError) -> InputError:
    return InputError(
        f"a temporary file in {tempfile.gettempdir()} cannot be written ({error.strerror}): "
        f"free some room, or set TMPDIR to another folder"
    )
