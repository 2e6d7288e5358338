"""Data from files: the project's own HDF5, or NumPy arrays."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

import traces
from traces import InputError
from traces.data import Data, Sequences, whole_numbers


def read(path: str | os.PathLike[str]) -> Sequences:
    """Sequences of a data file.

    Parameters
    ----------
    path : path
        A data file (HDF5, opened and streamed); `.npy` with float32 [batch, time, features], [time, features] or int
        tokens [batch, time],
        [time]; `.npz` with `values` and `offsets` as in a data file (ragged), or `values` alone as in `.npy`;
        optionally `labels`.

    Raises
    ------
    InputError
        Missing, damaged, of the wrong kind; arrays of objects are refused, nothing is unpickled.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".npy", ".npz"):
        return traces.open(path, kind="data")
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {"values": loaded} if suffix == ".npy" else {name: loaded[name] for name in loaded.files}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:
        raise InputError(
            f"{path}: not a readable NumPy file ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from None
    if "values" not in arrays:
        raise InputError(f"{path}: no array `values` (found {', '.join(arrays) or 'none'})")
    try:
        return _data(arrays, Path(path).stem)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _data(arrays: dict[str, np.ndarray], name: str) -> Data:
    values, labels = arrays["values"], arrays.get("labels")
    if values.dtype.kind not in "fiu":
        raise InputError(f"values are of type {values.dtype}, expected numbers")
    if labels is not None and labels.ndim == 0:
        raise InputError("labels are a single value, expected one a step or one a sequence")
    whole = values.dtype.kind in "iu"
    if "offsets" in arrays:
        offsets = arrays["offsets"]
        if offsets.ndim != 1 or offsets.dtype.kind not in "iu":
            raise InputError(f"offsets are {offsets.dtype} {list(offsets.shape)}, expected integers [sequences + 1]")
        with np.errstate(over="ignore"):
            values = whole_numbers(values, "tokens") if whole and values.ndim == 1 else values.astype(np.float32)
        data = Data(
            values,
            offsets.astype(np.int64),
            None if labels is None else whole_numbers(labels, "labels"),
            name=name,
        )
        data.validate()
        return data
    batched = values.ndim == 3 or (whole and values.ndim == 2)
    return Data.of(list(values) if batched else [values], labels, name=name)
