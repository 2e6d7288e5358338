"""Finished sequences of a long command, kept in a file beside its output, so that a killed one can go on.

The file is a list of blocks, each with its length and checksum, appended as work proceeds: a block that was being
written when the process ended is cut off on opening. The first one says what the work belongs to (digests of model and
data, controller, options); for other work the file is refused. Nothing of it is executed, and no block may unpack to
more than `LARGEST`.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

import numpy as np

from fxp.formats import Profile
from fxp.network import Network
from fxp.run import QUANTITIES
from traces import InputError
from traces.errors import one_line

MAGIC = b"fxp-lstm partial 1\n"
FULL = 1 << 20  # bytes of rows that are collected before they are written
SECONDS = 1.0  # between writes while sequences finish
LARGEST = 1 << 28  # bytes that a block may unpack to
_FRAME = struct.Struct("<II")  # bytes of the packed block, their CRC-32


class Journal:
    """The file of one command; a context manager. Another process that has it open is refused.

    Parameters
    ----------
    path : path
        Read and continued if it exists.
    key : dict
        What the work belongs to; JSON can express it.

    Attributes
    ----------
    note : str
        A line about damage that was cut off, or "".

    Raises
    ------
    InputError
        The file belongs to other work, is none of these files, is in use, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], key: Mapping[str, Any]):
        self.path = os.fspath(path)
        self.note = ""
        self._lock = threading.Lock()
        self._parts: list[Part] = []
        self._blocks: list[tuple[int, int, dict[str, Any], int]] = []  # place, size, head, first byte of the rest
        self._attempt = 0
        with _writing(self.path):
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._claim()
            with _writing(self.path):
                self._read(json.loads(json.dumps(dict(key))))
        except BaseException:
            os.close(self._file)
            raise

    def _claim(self) -> None:
        try:
            import fcntl
        except ImportError:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{self.path}: another process is working on it") from None

    def _read(self, key: dict[str, Any]) -> None:
        size = os.fstat(self._file).st_size
        begin = os.pread(self._file, len(MAGIC), 0)
        if begin != MAGIC and not MAGIC.startswith(begin):
            raise InputError(f"{self.path}: is not a file of partial work of this version; remove it to start anew")
        place = len(MAGIC)
        for head, rest, end in self._stored(size):
            if place == len(MAGIC):
                self._match(head, key)
            else:
                self._blocks.append((place, end - place, head, rest))
                self._attempt = max(self._attempt, int(head["attempt"]))
            place = end
        if place == len(MAGIC):
            if size > len(MAGIC):
                self.note = f"{self.path}: damaged from its beginning; all sequences are done again"
            os.ftruncate(self._file, 0)
            self._append(MAGIC + _packed(key))
        elif place < size:
            self.note = f"{self.path}: damaged or cut short at byte {place}; what came after is done again"
            os.ftruncate(self._file, place)
        os.lseek(self._file, 0, os.SEEK_END)
        self._attempt += 1

    def _stored(self, size: int) -> Iterator[tuple[dict[str, Any], int, int]]:
        """Head, first byte of the rest in the unpacked content, and end in the file, of every good block."""
        place = len(MAGIC)
        while place + _FRAME.size <= size:
            length, _ = _FRAME.unpack(os.pread(self._file, _FRAME.size, place))
            end = place + _FRAME.size + length
            content = self._content(place, end - place) if end <= size else None
            if content is None:
                return
            line, _, _ = content.partition(b"\n")
            try:
                head = json.loads(line)
                if not isinstance(head, dict) or (place > len(MAGIC) and not _shaped(head)):
                    return
            except (ValueError, RecursionError):
                return
            yield head, len(line) + 1, end
            place = end

    def _content(self, place: int, size: int) -> bytes | None:
        """A block unpacked; None if it is damaged."""
        block = os.pread(self._file, size, place)
        packed = block[_FRAME.size :]
        if len(block) < size or _FRAME.unpack(block[: _FRAME.size]) != (len(packed), zlib.crc32(packed)):
            return None
        try:
            return zlib.decompressobj().decompress(packed, LARGEST)
        except zlib.error:
            return None

    def _match(self, found: dict[str, Any], key: dict[str, Any]) -> None:
        for name in {**key, **found}:
            if found.get(name) != key.get(name):
                raise InputError(
                    f"{self.path}: belongs to other work ({name} is {_short(found.get(name))}, now "
                    f"{_short(key.get(name))}); give the command that began it, or remove the file to start anew"
                )

    def part(
        self, about: Mapping[str, Any], network: Network, offsets: np.ndarray, record: Sequence[str] | None
    ) -> Part:
        """The work on one variant of a network.

        Parameters
        ----------
        about : what tells it from the other variants
        offsets : int64 [sequences + 1]
        record : what is kept of every row besides the plan; None to keep no rows
        """
        text = json.dumps(dict(about), sort_keys=True)
        part = Part(self, text, network, offsets, record)
        try:
            part._load(block for block in self._blocks if block[2]["part"] == text)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise InputError(
                f"{self.path}: does not hold what it should ({one_line(error)}); remove the file to start anew"
            ) from None
        self._parts.append(part)
        return part

    def finished(self) -> list[tuple[str, int]]:
        """Variant and sequence of all that was finished before."""
        return sorted({(head["part"], int(done[0])) for _, _, head, _ in self._blocks for done in head["done"]})

    def _append(self, content: bytes) -> None:
        view = memoryview(content)
        with _writing(self.path):
            while view:
                view = view[os.write(self._file, view) :]

    def write(self, part: str, rows: list[Any], done: list[Any], arrays: list[np.ndarray]) -> None:
        """Append a block."""
        head = {"part": part, "attempt": self._attempt, "rows": rows, "done": done}
        with self._lock:
            self._append(_packed(head, arrays))

    def close(self) -> None:
        """Write what is still held, and close the file."""
        try:
            for part in self._parts:
                part.flush()
        finally:
            os.close(self._file)

    def remove(self) -> None:
        """Remove the file: the work is complete."""
        self._parts.clear()
        with suppress(OSError):
            os.unlink(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Part:
    """One variant of a network: a sink of an emulation that keeps what it gets until the sequence is finished.

    Attributes
    ----------
    done : dict of int to float64 [K]
        The finished sequences and their scores.
    """

    def __init__(
        self, journal: Journal, about: str, network: Network, offsets: np.ndarray, record: Sequence[str] | None
    ):
        self._journal, self._about, self._offsets = journal, about, offsets
        self._names = None if record is None else ["plan", *(name for name in QUANTITIES if name in record)]
        cell = "<f4" if network.formats.profile == Profile.FLOAT32 else "<i2"
        self._layout: list[dict[str, tuple[tuple[int, ...], str]]] = [
            {
                "plan": (((layer.hidden_size + 7) // 8,), "|u1"),
                "cell": ((layer.hidden_size,), cell),
                "hidden": ((layer.output_size,), "|i1"),
                "accumulators": ((2, 4 * layer.hidden_size), "<i4"),
            }
            for layer in network.layers
        ]
        self._sides = [layer.directions for layer in network.layers]
        self._counts = np.zeros((len(offsets) - 1, sum(self._sides), 2), np.int64)
        self.done: dict[int, np.ndarray] = {}
        self._attempts: dict[int, int] = {}
        self._blocks: list[tuple[int, int, dict[str, Any], int]] = []
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self._rows: list[Any] = []
        self._finished: list[Any] = []
        self._arrays: list[np.ndarray] = []
        self._ends: list[np.ndarray] = []
        self._size, self._since = 0, time.monotonic()

    # What the emulation gives

    def write(self, layer: int, direction: int, row: int, low: np.ndarray, **values: np.ndarray | None) -> None:
        """Take rows of a piece, as `traces.TraceWriter.write` does."""
        if self._names is None:
            return
        given: dict[str, Any] = {"plan": low, **values}
        most = max(1, FULL // self._row_bytes(layer))
        with self._lock:
            for start in range(0, len(low), most):
                rows = min(most, len(low) - start)
                self._rows.append([layer, direction, row + start, rows])
                # Pieces are views of arrays that the engine may fill again.
                self._arrays += [np.array(given[name][start : start + rows]) for name in self._names]
                self._size += rows * self._row_bytes(layer)
                if self._size >= FULL:
                    self._flush()

    def count(self, layer: int, direction: int, sequence: int, low: int, overflow: int) -> None:
        """Add to the counts of a sequence."""
        with self._lock:
            self._counts[sequence, sum(self._sides[:layer]) + direction] += (low, overflow)

    def finish(self, sequence: int, score: np.ndarray) -> None:
        """Say that a sequence is complete; `score` float64 [K] is what its sheet has of it."""
        with self._lock:
            self._finished.append([sequence, len(score)])
            self._ends += [np.asarray(score, "<f8"), self._counts[sequence].astype("<i8")]
            self._size += 8 * len(score)
            if self._size >= FULL or time.monotonic() - self._since >= SECONDS:
                self._flush()

    def flush(self) -> None:
        """Write what is held."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        if self._rows or self._finished:
            rows, finished, arrays = self._rows, self._finished, [*self._arrays, *self._ends]
            self._clear()
            self._journal.write(self._about, rows, finished, arrays)

    # What was kept

    def _load(self, blocks: Iterator[tuple[int, int, dict[str, Any], int]]) -> None:
        for block in blocks:
            self._blocks.append(block)
            _, _, head, _ = block
            if not head["done"]:
                continue
            content, at = self._open(block)
            for layer, _, _, rows in head["rows"]:
                at += rows * self._row_bytes(layer)
            for sequence, size in head["done"]:
                if not 0 <= sequence < len(self._counts):
                    raise ValueError(f"sequence {sequence}")
                score = np.frombuffer(content, "<f8", size, at)
                counts = np.frombuffer(content, "<i8", self._counts[0].size, at + 8 * size)
                at += 8 * size + counts.nbytes
                self.done[sequence] = score
                self._attempts[sequence] = head["attempt"]
                self._counts[sequence] = counts.reshape(self._counts[0].shape)

    def _open(self, block: tuple[int, int, dict[str, Any], int]) -> tuple[bytes, int]:
        place, size, _, rest = block
        content = self._journal._content(place, size)
        if content is None:
            raise ValueError("the file has changed")
        return content, rest

    def _row_bytes(self, layer: int) -> int:
        shapes = self._layout[layer]
        return sum(int(np.prod(shapes[n][0])) * np.dtype(shapes[n][1]).itemsize for n in self._names or ())

    def replay(self, sinks: Sequence[Any]) -> None:
        """Give rows and counts of the finished sequences to the sinks of an emulation."""
        places = [(layer, side) for layer, sides in enumerate(self._sides) for side in range(sides)]
        for sequence in self.done:
            for (layer, side), (low, overflow) in zip(places, self._counts[sequence].tolist(), strict=True):
                for sink in sinks:
                    sink.count(layer, side, sequence, low=low, overflow=overflow)
        for block in self._blocks if self._names is not None else ():
            content, at = self._open(block)
            for layer, side, row, rows in block[2]["rows"]:
                values = {}
                for name in self._names or ():
                    shape, kind = self._layout[layer][name]
                    values[name] = np.frombuffer(content, kind, rows * int(np.prod(shape)), at).reshape(rows, *shape)
                    at += values[name].nbytes
                sequence = int(np.searchsorted(self._offsets, row, side="right")) - 1
                # Rows of a sequence that was begun more than once count from where it was finished.
                if self._attempts.get(sequence) == block[2]["attempt"]:
                    low = values.pop("plan")
                    for sink in sinks:
                        sink.write(layer, side, row, low=low, **values)


class _writing:
    """Turns failures of the system into an InputError that names the file."""

    def __init__(self, path: str):
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError):
            reason = error.strerror or one_line(error)
            raise InputError(f"{self._path}: cannot be written: {reason}") from error


def _packed(head: Mapping[str, Any], arrays: Sequence[np.ndarray] = ()) -> bytes:
    packer = zlib.compressobj(1)
    pieces = [packer.compress(json.dumps(head).encode() + b"\n")]
    pieces += [packer.compress(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data) for array in arrays]
    content = b"".join([*pieces, packer.flush()])
    return _FRAME.pack(len(content), zlib.crc32(content)) + content


def _shaped(head: dict[str, Any]) -> bool:
    """Whether a head has the form that `Journal.write` gives it."""

    def numbers(rows: Any, size: int) -> bool:
        return isinstance(rows, list) and all(
            isinstance(row, list) and len(row) == size and all(type(n) is int and n >= 0 for n in row) for row in rows
        )

    return (
        isinstance(head.get("part"), str)
        and type(head.get("attempt")) is int
        and numbers(head.get("rows"), 4)
        and numbers(head.get("done"), 2)
    )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
