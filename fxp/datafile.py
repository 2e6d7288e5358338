"""Data from files: the project's own HDF5, or NumPy arrays."""

from __future__ import annotations

import itertools
import math
import os
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

import traces
from traces import InputError
from traces.data import Data, Sequences, targets_of, whole_numbers
from traces.store import MEMORY, MEMORY_RATIO

HEADER = 1000  # characters of the header of an array, which NumPy parses as Python; plain ones have 118
ARRAYS = ("values", "offsets", "labels", "label_offsets", "groups")


def read(path: str | os.PathLike[str]) -> Sequences:
    """Sequences of a data file.

    Parameters
    ----------
    path : path
        A data file (HDF5, opened and streamed); `.npy` with float32 [batch, time, features], [time, features] or int
        tokens [batch, time],
        [time]; `.npz` with `values` and `offsets` as in a data file (ragged), or `values` alone as in `.npy`;
        optionally `labels`, `label_offsets` and `groups` as `traces.Data` takes them, but labels [batch, time] or
        [batch, time, C] for one or C labels a step of a batch.

    Raises
    ------
    InputError
        Missing, damaged, of the wrong kind; arrays of objects are refused, nothing is unpickled.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".npy", ".npz"):
        return traces.open(path, kind="data")
    try:
        arrays = _archive(path) if suffix == ".npz" else {"values": _array(path)}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:
        raise InputError(
            f"{path}: not a readable NumPy file ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from None
    try:
        return _data(arrays, Path(path).stem)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _array(path: str | os.PathLike[str]) -> np.ndarray:
    with open(path, "rb") as file:
        _check_header(file, os.fstat(file.fileno()).st_size)
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False, max_header_size=HEADER)


def _archive(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of an archive that a data file has names for; nothing is unpacked to a disk."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        room = max(MEMORY, MEMORY_RATIO * os.path.getsize(path))
        for name in ARRAYS:
            if f"{name}.npy" not in archive.namelist():
                continue
            member = archive.getinfo(f"{name}.npy")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # The others are unpacked without a bound on memory.
                raise ValueError(f"compression {member.compress_type} of {name}; only deflate is read")
            room -= member.file_size
            if room < 0:
                raise ValueError(
                    f"unpacks to over {MEMORY_RATIO} times its size: write a data file with traces.DataWriter"
                )
            with archive.open(member) as file:
                _check_header(file, member.file_size)
            with archive.open(member) as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False, max_header_size=HEADER)
        others = sorted(set(archive.namelist()) - {f"{name}.npy" for name in ARRAYS})
        if arrays and others:
            raise ValueError(f"array {others[0].removesuffix('.npy')!r} is unknown; known are {', '.join(ARRAYS)}")
        if "values" not in arrays:
            raise ValueError(f"no array `values` (found {', '.join(archive.namelist()[:9]) or 'none'})")
    return arrays


def _check_header(file: IO[bytes], size: int) -> None:
    """ValueError unless the array that a header announces lies in a file of `size` bytes, and is no object."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version[0]}.{version[1]} of the format; 1.0 and 2.0 are read")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(file, max_header_size=HEADER)
    if dtype.hasobject:
        raise ValueError("holds Python objects, which are not loaded")
    if any(extent < 0 for extent in shape) or math.prod(shape) * dtype.itemsize > size - file.tell():
        raise ValueError(f"announces {dtype} {list(shape)}, more than the file holds")


def _data(arrays: dict[str, np.ndarray], name: str) -> Data:
    values, labels, groups = arrays["values"], arrays.get("labels"), arrays.get("groups")
    if values.dtype.kind not in "fiu":
        raise InputError(f"values are of type {values.dtype}, expected numbers")
    if labels is not None and labels.ndim == 0:
        raise InputError("labels are a single value, expected one a step or one a sequence")
    if groups is not None:
        groups = whole_numbers(groups, "groups")
    whole = values.dtype.kind in "iu"
    bounds = None if "label_offsets" not in arrays else _offsets(arrays["label_offsets"], "label_offsets")
    if "offsets" in arrays:
        offsets = _offsets(arrays["offsets"], "offsets")
        with np.errstate(over="ignore"):
            values = whole_numbers(values, "tokens") if whole and values.ndim == 1 else values.astype(np.float32)
        if labels is not None:
            labels = targets_of(labels) if labels.ndim == 2 else whole_numbers(labels, "labels")
        data = Data(values, offsets, labels, name=name, label_offsets=bounds, groups=groups)
        data.validate()
        return data
    batched = values.ndim == 3 or (whole and values.ndim == 2)
    if bounds is None:
        return Data.of(list(values) if batched else [values], labels, name=name, groups=groups)
    if labels is None or labels.ndim != 1 or len(bounds) < 2 or (bounds[1:] < bounds[:-1]).any() or bounds[0] < 0:
        raise InputError("label_offsets do not fit the labels")
    parts = [labels[start:stop] for start, stop in itertools.pairwise(bounds)]
    return Data.of(list(values) if batched else [values], parts, "sequence", name=name, groups=groups)


def _offsets(array: np.ndarray, what: str) -> np.ndarray:
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(f"{what} are {array.dtype} {list(array.shape)}, expected integers [sequences + 1]")
    return array.astype(np.int64)
