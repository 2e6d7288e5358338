"""Writing a data file a sequence, or a piece of one, at a time."""

from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np

from traces import schema, store
from traces.data import SPEC, check_values, targets_of, whole_numbers
from traces.errors import InputError
from traces.fields import Node, present
from traces.ragged import ids_of, offsets_of
from traces.schema import MAX_SIZE


class DataWriter:
    """Writes a data file a sequence, or a piece of one, at a time; a context manager.

    The file appears at `path` when the block ends well; after an error nothing is left.

    Parameters
    ----------
    path : path
    features : int
        Features of a step, 0 for tokens.
    scope : {"step", "last", "sequence"}, optional
        What the labels belong to; None for data without labels.
    targets : int
        C, if every step has C labels of 0 or 1; otherwise 0.
    name, origin, licence, metric : str
    """

    def __init__(self, path: store.Pathlike, features: int, scope: str | None = None, *, targets: int = 0,
                 name: str = "", origin: str = "", licence: str = "", metric: str | None = None) -> None:  # fmt: skip
        if scope not in (None, "step", "last", "sequence"):
            raise InputError(f"scope is {scope!r}; it must be step, last, sequence or None")
        if not isinstance(targets, (int, np.integer)) or not 0 <= targets <= MAX_SIZE or (targets and scope != "step"):
            raise InputError(f"targets is {targets!r}; it must be 0 to {MAX_SIZE}, and 0 unless labels belong to steps")
        if not isinstance(features, (int, np.integer)) or not 0 <= features <= MAX_SIZE:
            raise InputError(f"features is {features!r}; it must be 0 (tokens) to {MAX_SIZE}")
        self._attributes = present({"name": name, "origin": origin, "licence": licence, "metric": metric})
        for attribute in SPEC.attributes:
            if attribute.name in self._attributes:
                attribute.accept(self._attributes[attribute.name], attribute.name)
        self._scope, self._targets = scope, int(targets)
        self._ids: list[int] = []
        self._groups: list[int] = []
        self._lengths: list[int] = []
        self._sequence_labels: list[np.ndarray] = []
        shape = (0,) if features == 0 else (0, features)
        self._dtype = np.dtype(np.int32 if features == 0 else np.float32)
        self._output = store.Output(path)
        try:
            with self._output.writing():
                file = self._output.file
                self._values = _growing(file, "tokens" if features == 0 else "features", shape, self._dtype)
                if scope == "step":
                    name, width = ("step_targets", (targets,)) if targets else ("step_labels", ())
                    self._step_labels = _growing(
                        file, name, (0, *width), np.dtype(np.uint8 if targets else np.int32)
                    )
        except BaseException:
            self._output.discard()
            raise

    def append(self, values: Any, labels: Any = None, id: int | None = None, group: int | None = None) -> None:
        """Start a new sequence with its first (or all) steps.

        Parameters
        ----------
        values : float32 [time, F] or int32 [time]
        labels : int32 [time], uint8 [time, C], int or int32 [any number], optional
            As `scope` and `targets` say; required if there is a scope.
        id : int, optional
            Identity; by default the sequence's position.
        group : int, optional
            Group, such as a speaker: of every sequence or of none.
        """
        values = self._checked(values)
        if (labels is None) != (self._scope is None):
            raise InputError(
                f"sequence {len(self._lengths)}: labels must be given if and only if there is a scope"
            )
        if self._scope == "last":
            label = np.asarray(labels)
            if label.size != 1 or label.dtype.kind not in "iu":
                raise InputError(f"sequence {len(self._lengths)}: its label must be one integer")
            self._sequence_labels.append(whole_numbers(label.reshape(1), "labels"))
        elif self._scope == "sequence":
            label = np.asarray(labels)
            if label.ndim != 1 or (label.size and label.dtype.kind not in "iu"):
                raise InputError(f"sequence {len(self._lengths)}: its labels must be a list of integers")
            self._sequence_labels.append(whole_numbers(label, "labels") if label.size else np.zeros(0, np.int32))
        if self._lengths and (group is None) != (not self._groups):
            raise InputError(f"sequence {len(self._lengths)}: every sequence has a group, or none has")
        if group is not None:
            self._groups.append(int(whole_numbers(np.asarray([group]), "groups")[0]))
        self._ids.append(len(self._lengths) if id is None else int(id))
        self._lengths.append(0)
        self._grow(values, labels if self._scope == "step" else None)

    def extend(self, values: Any, labels: Any = None) -> None:
        """Add further steps to the last sequence, with their labels if these belong to steps."""
        if not self._lengths:
            raise InputError("there is no sequence to extend; append one first")
        self._grow(self._checked(values), labels)

    def _checked(self, values: Any) -> np.ndarray:
        array = np.asarray(values)
        if array.ndim != self._values.ndim or array.shape[1:] != self._values.shape[1:] or not len(array):
            step = list(self._values.shape[1:])
            raise InputError(f"values have shape {list(array.shape)}; they must be steps of shape {step}")
        if array.dtype.kind not in ("iu" if self._dtype.kind == "i" else "f"):
            raise InputError(f"values hold {array.dtype}; they must hold {self._dtype}")
        array = array.astype(self._dtype, copy=False)
        check_values(array, sum(self._lengths))
        return array

    def _grow(self, values: np.ndarray, labels: Any) -> None:
        if self._scope == "step":
            labels = targets_of(labels) if self._targets else np.asarray(labels)
            if labels.shape != (len(values), *self._step_labels.shape[1:]) or labels.dtype.kind not in "iu":
                what = f"[{len(values)}, {self._targets}] of 0 or 1" if self._targets else f"{len(values)} integers"
                raise InputError(f"labels must be {what}, one a step")
        elif labels is not None:
            raise InputError("labels do not belong to steps here")
        with self._output.writing():
            _extend(self._values, values)
            if self._scope == "step":
                _extend(self._step_labels, labels.astype(self._step_labels.dtype))
        self._lengths[-1] += len(values)

    def close(self) -> None:
        """Complete the file and move it into place."""
        try:
            arrays = {"offsets": offsets_of(self._lengths), "ids": ids_of(self._ids, len(self._ids))}
            if self._scope == "last":
                arrays["labels"] = np.concatenate(self._sequence_labels)
            if self._scope == "sequence":
                arrays["label_values"] = np.concatenate(self._sequence_labels)
                counts = [len(labels) for labels in self._sequence_labels]
                arrays["label_offsets"] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
            if self._groups:
                arrays["groups"] = np.asarray(self._groups, np.int32)
            node = Node(self._attributes, arrays)
            written = {"step_targets": self._step_labels} if self._targets else {}
            with self._output.writing():
                store.label(self._output.file, schema.header("data", Node(arrays={**arrays, **written})))
                store.save(SPEC, node, self._output.file)
        except BaseException:
            self._output.discard()
            raise
        self._output.commit()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            self._output.discard()


def _growing(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype) -> h5py.Dataset:
    row = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
    chunks = (max(1, store.CHUNK // row // 4), *shape[1:])
    return file.create_dataset(
        name, shape, dtype, maxshape=(None, *shape[1:]), chunks=chunks, **store.COMPRESSION
    )


def _extend(dataset: h5py.Dataset, values: np.ndarray) -> None:
    end = dataset.shape[0]
    dataset.resize(end + len(values), axis=0)
    dataset[end:] = values
