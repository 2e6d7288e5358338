"""Sequences of unequal length laid end to end: lengths, offsets and identities."""

from typing import Any

import numpy as np

from traces.errors import InputError


class Ragged:
    """What everything that holds sequences knows of their lengths."""

    offsets: np.ndarray
    """First step of each sequence among all steps, then their total: int64 [S + 1]."""

    @property
    def total(self) -> int:
        """Steps of all sequences together."""
        return int(self.offsets[-1])

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each sequence, int64 [S]."""
        return np.diff(self.offsets)


def offsets_of(lengths: Any) -> np.ndarray:
    """Offsets int64 [S + 1] from lengths [S]; InputError unless there is a sequence and none is empty."""
    lengths = np.asarray(lengths)
    if lengths.ndim != 1 or not lengths.size or lengths.dtype.kind not in "iu":
        raise InputError("lengths must be a list of integers, one a sequence, and not empty")
    offsets = np.zeros(lengths.size + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    check_offsets(offsets, None)
    return offsets


def ids_of(ids: Any, sequences: int) -> np.ndarray:
    """Identities int64 [S]: those given, checked, or 0 to S - 1."""
    if ids is None:
        return np.arange(sequences, dtype=np.int64)
    array = np.asarray(ids)
    if array.shape != (sequences,) or array.dtype.kind not in "iu":
        raise InputError(f"ids must be {sequences} integers, one a sequence")
    array = array.astype(np.int64)
    check_ids(array)
    return array


def check_offsets(offsets: np.ndarray, total: int | None) -> None:
    """InputError unless offsets run from 0 to `total` (any, if None) and no sequence is empty."""
    if len(offsets) < 2:
        raise InputError("offsets: there is no sequence")
    if offsets[0] != 0:
        raise InputError(f"offsets[0] is {offsets[0]}; it must be 0")
    # Compared, not subtracted: a difference of hostile values could overflow.
    flat = offsets[1:] <= offsets[:-1]
    if flat.any():
        raise InputError(f"offsets: sequence {int(np.argmax(flat))} is empty; offsets must increase")
    if total is not None and offsets[-1] != total:
        raise InputError(f"offsets end at {offsets[-1]}; there are {total} steps")


def check_label_offsets(offsets: np.ndarray, total: int) -> None:
    """InputError unless offsets run from 0 to `total` without decreasing; a sequence may have no label."""
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != total:
        raise InputError(f"label_offsets must run from 0 to {total}, the number of labels")
    down = offsets[1:] < offsets[:-1]
    if down.any():
        raise InputError(f"label_offsets decrease at sequence {int(np.argmax(down))}")


def check_ids(ids: np.ndarray) -> None:
    """InputError unless the identities are distinct."""
    ordered = np.sort(ids)
    same = ordered[1:] == ordered[:-1]
    if same.any():
        raise InputError(f"ids: {ordered[int(np.argmax(same))]} occurs more than once")


def position(sequence: Any, sequences: int) -> int:
    """A sequence's position as an int; InputError outside 0 to S - 1."""
    if not isinstance(sequence, (int, np.integer)) or not 0 <= sequence < sequences:
        raise InputError(f"sequence {sequence!r} does not exist; positions are 0 to {sequences - 1}")
    return int(sequence)
