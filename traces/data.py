"""The data file: ragged sequences of features or tokens, with labels; in memory or read lazily."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from traces import schema, store
from traces.errors import InputError
from traces.fields import Node, conform, present
from traces.ragged import Ragged, check_ids, check_label_offsets, check_offsets, ids_of, offsets_of, position

SPEC = schema.SCHEMAS["data"]
_BLOCK = 1 << 16
"""Steps that are held at once when all of a file's are visited."""
_SCOPES = {"labels": "last", "step_labels": "step", "step_targets": "step", "label_values": "sequence"}
"""What the labels of each data set belong to."""


class Sequences(Ragged):
    """What data in memory and data in a file have in common."""

    name: str
    origin: str
    licence: str
    metric: str | None
    ids: np.ndarray
    label_offsets: np.ndarray | None
    """First label of each sequence where labels form a sequence for each, otherwise None: int64 [S + 1]."""
    groups: np.ndarray | None
    """Group of each sequence, such as its speaker: int32 [S], or None."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release the file, if there is one."""

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.sequence(number) for number in range(len(self)))

    @property
    def tokens(self) -> bool:
        """Whether the values are tokens rather than features."""
        raise NotImplementedError

    @property
    def features(self) -> int:
        """Features of a step, 0 for tokens."""
        raise NotImplementedError

    @property
    def scope(self) -> str | None:
        """What the labels belong to: "step"; "last", one label for a sequence; "sequence", any number of labels for a
        sequence; None without labels."""
        raise NotImplementedError

    @property
    def targets(self) -> int:
        """C where every step has C labels of 0 or 1, otherwise 0."""
        raise NotImplementedError

    @property
    def label_count(self) -> int:
        """Rows of labels in all sequences together."""
        if self.scope is None:
            return 0
        if self.label_offsets is not None:
            return int(self.label_offsets[-1])
        return self.total if self.scope == "step" else len(self)

    def _values(self, start: int, stop: int) -> np.ndarray:
        raise NotImplementedError

    def _labels(self, start: int, stop: int) -> np.ndarray:
        raise NotImplementedError

    def sequence(self, number: int) -> np.ndarray:
        """Values of a sequence by its position: float32 [time, F], or int32 [time] tokens."""
        number = position(number, len(self))
        return self._values(int(self.offsets[number]), int(self.offsets[number + 1]))

    def chunk(self, number: int, start: int, stop: int) -> np.ndarray:
        """Steps start to stop (exclusive, cut at the end) of a sequence, as `sequence` gives them."""
        number = position(number, len(self))
        first, last = int(self.offsets[number]), int(self.offsets[number + 1])
        if start < 0 or stop < start:
            raise InputError(f"steps {start} to {stop} are not a piece of a sequence")
        return self._values(min(first + start, last), min(first + stop, last))

    def sequence_labels(self, number: int) -> np.ndarray:
        """Labels of a sequence: int32 [time] or uint8 [time, C] if they belong to steps, int32 [1] if it has one, or
        int32 [labels]."""
        number = position(number, len(self))
        if self.scope is None:
            raise InputError(f"data {self.name!r} has no labels")
        if self.scope == "last":
            return self._labels(number, number + 1)
        bounds = self.offsets if self.label_offsets is None else self.label_offsets
        return self._labels(int(bounds[number]), int(bounds[number + 1]))

    def digest(self) -> str:
        """SHA-256 (hexadecimal) of values, labels, offsets, identities and groups; not of names and licence."""
        digest = store.Digest("data")
        digest.array("ids", "<i8", self.ids.shape, [self.ids])
        digest.array("offsets", "<i8", self.offsets.shape, [self.offsets])
        shape = (self.total,) if self.tokens else (self.total, self.features)
        digest.array("values", "<i4" if self.tokens else "<f4", shape, _blocks(self._values, self.total))
        if self.scope is not None:
            count, targets = self.label_count, self.targets
            shape = (count, targets) if targets else (count,)
            digest.array(
                f"labels {self.scope}", "|u1" if targets else "<i4", shape, _blocks(self._labels, count, targets)
            )
        for name, dtype in (("label_offsets", "<i8"), ("groups", "<i4")):
            values = getattr(self, name)
            if values is not None:
                digest.array(name, dtype, values.shape, [values])
        return digest.hex()


@dataclass(frozen=True, eq=False)
class Data(Sequences):
    """Ragged sequences in memory.

    Parameters
    ----------
    values : float32 [T, F] or int32 [T]
        Features, or tokens for a model with an embedding, of all sequences one after the other.
    offsets : int64 [S + 1]
        First step of each sequence, then T.
    labels : int32 [T], int32 [S], uint8 [T, C] or int32 [Y], optional
        One a step, one a sequence, C of 0 or 1 a step, or (with `label_offsets`) any number for each sequence.
    ids : int64 [S]
        Distinct identities; 0 to S - 1 by default.
    metric, name, origin, licence : str
    label_offsets : int64 [S + 1], optional
        First label of each sequence, then Y; a sequence may have none.
    groups : int32 [S], optional
        Group of each sequence, such as its speaker.
    """

    values: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray | None = None
    ids: np.ndarray = None  # type: ignore[assignment]
    metric: str | None = None
    name: str = ""
    origin: str = ""
    licence: str = ""
    label_offsets: np.ndarray | None = None
    groups: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.ids is None:
            object.__setattr__(self, "ids", ids_of(None, max(0, len(self.offsets) - 1)))

    @classmethod
    def of(cls, sequences: Any, labels: Any = None, scope: str | None = None, **about: Any) -> "Data":
        """Data from a list of arrays, one a sequence.

        Parameters
        ----------
        sequences : list of float32 [time, F], or of int32 [time]
        labels : list of int, of int32 [time], of uint8 or bool [time, C], or of int32 [any number], optional
            For each sequence one value, a value a step, C values of 0 or 1 a step, or (with scope "sequence") a
            sequence of values.
        scope : {"step", "last", "sequence"}, optional
            What the labels belong to; needed for "sequence" only.
        **about
            `ids`, `groups`, `metric`, `name`, `origin`, `licence`.
        """
        arrays = [np.asarray(sequence) for sequence in sequences]
        if not arrays:
            raise InputError("there are no sequences")
        if any(array.ndim != arrays[0].ndim or array.ndim not in (1, 2) for array in arrays):
            raise InputError("sequences must be arrays of [time, features], or all of [time]")
        if len({array.shape[1:] for array in arrays}) > 1:
            raise InputError("sequences must all have the same number of features")
        values = np.concatenate(arrays)
        if values.ndim == 1:
            values = whole_numbers(values, "tokens")
        elif values.dtype.kind not in "fiu":
            raise InputError(f"sequences are of type {values.dtype}; they must hold numbers")
        else:
            with np.errstate(over="ignore"):
                values = values.astype(np.float32)
        offsets = offsets_of([len(array) for array in arrays])
        if labels is not None:
            labels, about["label_offsets"] = _joined(labels, scope, len(arrays))
        if about.get("groups") is not None:
            about["groups"] = whole_numbers(np.asarray(about["groups"]), "groups")
        if about.get("ids") is not None:
            about["ids"] = ids_of(about["ids"], len(arrays))
        data = cls(values, offsets, labels, **about)
        data.validate()
        if scope not in (None, data.scope) and not (scope in ("step", "last") and data.total == len(data)):
            raise InputError(f"scope is {scope!r}, but the labels belong to {data.scope!r}")
        return data

    @property
    def tokens(self) -> bool:
        """Whether the values are tokens rather than features."""
        return bool(self.values.dtype.kind in "iu")

    @property
    def features(self) -> int:
        """Features of a step, 0 for tokens."""
        return 0 if self.tokens else int(self.values.shape[1])

    @property
    def scope(self) -> str | None:
        """What the labels belong to: "step", "last", "sequence", or None without labels."""
        if self.labels is None:
            return None
        if self.label_offsets is not None:
            return "sequence"
        return "step" if len(self.labels) == self.total else "last"

    @property
    def targets(self) -> int:
        """C where every step has C labels of 0 or 1, otherwise 0."""
        return int(self.labels.shape[1]) if self.labels is not None and self.labels.ndim == 2 else 0

    def validate(self) -> None:
        """Check types, shapes and values; InputError names what is wrong."""
        conform(SPEC, self._node())
        check_offsets(self.offsets, len(self.values))
        check_ids(self.ids)
        for start, block in zip(range(0, self.total, _BLOCK), _blocks(self._values, self.total), strict=True):
            check_values(block, start)
        if self.labels is not None and self.label_offsets is not None:
            check_label_offsets(self.label_offsets, len(self.labels))
        if self.targets:
            assert self.labels is not None
            check_targets(self.labels, 0)

    def write(self, path: store.Pathlike) -> None:
        """Write the data file; InputError if the data is not valid or the path cannot be written."""
        self.validate()
        schema.write(path, "data", self._node())

    @classmethod
    def read(cls, path: store.Pathlike) -> "Data":
        """Read a data file into memory.

        Raises
        ------
        InputError
            The file cannot be read.
        FormatError
            It is not a valid data file.
        """
        with DataFile(path) as file:
            return file.read()

    def _values(self, start: int, stop: int) -> np.ndarray:
        return self.values[start:stop]

    def _labels(self, start: int, stop: int) -> np.ndarray:
        assert self.labels is not None
        return self.labels[start:stop]

    def _node(self) -> Node:
        for name in ("values", "offsets", "ids", "labels", "label_offsets", "groups"):
            value = getattr(self, name)
            if not isinstance(value, np.ndarray) and (value is not None or name in ("values", "offsets", "ids")):
                raise InputError(f"{name} must be a NumPy array")
        if self.labels is None and self.label_offsets is not None:
            raise InputError("label_offsets belong to labels, and there are none")
        steps, sequences = len(self.values), len(self.offsets) - 1
        if self.labels is not None and self.label_offsets is None:
            shape = self.labels.shape
            if shape not in ((steps,), (sequences,)) and not (len(shape) == 2 and shape[0] == steps and shape[1] > 0):
                raise InputError(f"labels have shape {list(shape)}; there must be one a step or one a sequence")
        label_names = [name for name, scope in _SCOPES.items() if scope == self.scope]
        attributes = {name: getattr(self, name) for name in ("name", "metric", "origin", "licence")}
        arrays = {
            "ids": self.ids,
            "offsets": self.offsets,
            "tokens" if self.tokens else "features": self.values,
            label_names[1 if self.targets else 0] if label_names else "labels": self.labels,
            "label_offsets": self.label_offsets,
            "groups": self.groups,
        }
        return Node(attributes=present(attributes), arrays=present(arrays))


class DataFile(Sequences):
    """An open data file whose values and labels are read as they are asked for; a context manager.

    Offsets and identities are in memory. The accessors are those of `Data`.
    """

    def __init__(self, path: store.Pathlike) -> None:
        self._path = path
        self._file = store.open_file(path)
        try:
            with store.reading(path):
                node = schema.check(self._file, "data")[1]
                self._open(node)
        except BaseException:
            self._file.close()
            raise

    def _open(self, node: Node) -> None:
        about = node.attributes
        self.name, self.metric = about["name"], about.get("metric")
        self.origin, self.licence = about["origin"], about["licence"]
        arrays = node.arrays
        if ("features" in arrays) == ("tokens" in arrays):
            raise InputError("must hold either features or tokens")
        kinds = [name for name in _SCOPES if name in arrays]
        if len(kinds) > 1:
            raise InputError(f"holds both {kinds[0]} and {kinds[1]}; one of them is allowed")
        if ("label_values" in arrays) != ("label_offsets" in arrays):
            raise InputError("must hold both label_values and label_offsets, or neither")
        self._stored = arrays["tokens"] if "tokens" in arrays else arrays["features"]
        self._stored_labels = arrays[kinds[0]] if kinds else None
        self._scope = _SCOPES[kinds[0]] if kinds else None
        optional = {name: arrays[name][()] if name in arrays else None for name in ("label_offsets", "groups")}
        self.label_offsets, self.groups = optional["label_offsets"], optional["groups"]
        if self.label_offsets is not None:
            check_label_offsets(self.label_offsets, arrays["label_values"].shape[0])
        self.ids, self.offsets = arrays["ids"][()], arrays["offsets"][()]
        check_offsets(self.offsets, self._stored.shape[0])
        check_ids(self.ids)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def tokens(self) -> bool:
        """Whether the values are tokens rather than features."""
        return self._stored.ndim == 1

    @property
    def features(self) -> int:
        """Features of a step, 0 for tokens."""
        return 0 if self.tokens else int(self._stored.shape[1])

    @property
    def scope(self) -> str | None:
        """What the labels belong to: "step", "last", "sequence", or None without labels."""
        return self._scope

    @property
    def targets(self) -> int:
        """C where every step has C labels of 0 or 1, otherwise 0."""
        stored = self._stored_labels
        return int(stored.shape[1]) if stored is not None and stored.ndim == 2 else 0

    @property
    def values(self) -> np.ndarray:
        """All values, read into memory."""
        return self._values(0, self.total)

    @property
    def labels(self) -> np.ndarray | None:
        """All labels, read into memory, or None."""
        if self._scope is None:
            return None
        return self._labels(0, self.label_count)

    def read(self) -> Data:
        """The whole content in memory."""
        return Data(
            self.values,
            self.offsets,
            self.labels,
            self.ids,
            self.metric,
            self.name,
            self.origin,
            self.licence,
            self.label_offsets,
            self.groups,
        )

    def _values(self, start: int, stop: int) -> np.ndarray:
        with store.reading(self._path):
            values = self._stored[start:stop]
            check_values(values, start)
            return values

    def _labels(self, start: int, stop: int) -> np.ndarray:
        assert self._stored_labels is not None
        with store.reading(self._path):
            labels = self._stored_labels[start:stop]
            if self.targets:
                check_targets(labels, start)
            return labels


def whole_numbers(values: np.ndarray, what: str) -> np.ndarray:
    """Integers as int32; InputError for anything else, which a conversion would truncate or wrap."""
    if values.dtype.kind not in "iu":
        raise InputError(f"{what} are of type {values.dtype}; they must be integers")
    wide = np.iinfo(np.int32)
    if values.size and (int(values.min()) < wide.min or int(values.max()) > wide.max):
        raise InputError(f"{what} lie outside the range of int32")
    return values.astype(np.int32)


def check_values(values: np.ndarray, first: int) -> None:
    """InputError unless features are finite and tokens not negative; `first` is the step of values[0]."""
    bad = (
        values < 0
        if values.dtype.kind in "iu"
        else ~np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    )
    if bad.any():
        step = first + int(np.argmax(bad))
        what = "negative token" if values.dtype.kind in "iu" else "value that is not finite"
        raise InputError(f"step {step} of the data holds a {what}")


def check_targets(labels: np.ndarray, first: int) -> None:
    """InputError unless labels [steps, C] are 0 or 1; `first` is the step of labels[0]."""
    bad = (labels > 1).any(axis=1)
    if bad.any():
        raise InputError(f"step {first + int(np.argmax(bad))} of the data has a label that is neither 0 nor 1")


def targets_of(labels: Any) -> np.ndarray:
    """Labels [steps, C] as uint8; InputError for what is neither 0 nor 1."""
    array = np.asarray(labels)
    if array.ndim != 2 or array.dtype.kind not in "iub" or not array.shape[1]:
        raise InputError(f"labels of shape {list(array.shape)} of {array.dtype}; expected integers or bool [time, C]")
    if array.size and (int(array.min()) < 0 or int(array.max()) > 1):
        raise InputError("several labels a step must be 0 or 1 each")
    return array.astype(np.uint8)


def _joined(labels: Any, scope: str | None, sequences: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels of all sequences, and their offsets if they form a sequence for each."""
    parts = [np.atleast_1d(np.asarray(label)) for label in labels]
    if not parts or len({part.shape[1:] for part in parts}) > 1:
        raise InputError("labels must all be of one kind, one entry for each sequence")
    if parts[0].ndim > 1:
        return targets_of(np.concatenate(parts)), None
    if scope != "sequence":
        return whole_numbers(np.concatenate(parts), "labels"), None
    if len(parts) != sequences:
        raise InputError(f"there are {len(parts)} label sequences for {sequences} sequences")
    # An empty list has no integer type of its own.
    filled = [part if part.size else np.zeros(0, np.int32) for part in parts]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in filled])]).astype(np.int64)
    return whole_numbers(np.concatenate(filled), "labels"), offsets


def _blocks(get: Any, count: int, width: int = 0) -> Iterator[np.ndarray]:
    block = max(1, _BLOCK // max(1, width))
    return (get(start, min(start + block, count)) for start in range(0, count, block))
