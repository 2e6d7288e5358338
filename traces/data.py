"""The data file: ragged sequences of features or tokens, with labels; in memory or read lazily."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from traces import schema, store
from traces.errors import InputError
from traces.fields import Node, conform, present
from traces.ragged import Ragged, check_ids, check_offsets, ids_of, offsets_of, position

SPEC = schema.SCHEMAS["data"]
_BLOCK = 1 << 16
"""Steps that are held at once when all of a file's are visited."""


class Sequences(Ragged):
    """What data in memory and data in a file have in common."""

    name: str
    origin: str
    licence: str
    metric: str | None
    ids: np.ndarray

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
        """What the labels belong to: "step", "last" (a sequence), or None without labels."""
        raise NotImplementedError

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
        """Labels of a sequence: int32 [time] if they belong to steps, otherwise int32 [1]."""
        number = position(number, len(self))
        if self.scope is None:
            raise InputError(f"data {self.name!r} has no labels")
        if self.scope == "last":
            return self._labels(number, number + 1)
        return self._labels(int(self.offsets[number]), int(self.offsets[number + 1]))

    def digest(self) -> str:
        """SHA-256 (hexadecimal) of values, labels, offsets and identities; not of names and licence."""
        digest = store.Digest("data")
        digest.array("ids", "<i8", self.ids.shape, [self.ids])
        digest.array("offsets", "<i8", self.offsets.shape, [self.offsets])
        shape = (self.total,) if self.tokens else (self.total, self.features)
        digest.array("values", "<i4" if self.tokens else "<f4", shape, _blocks(self._values, self.total))
        if self.scope is not None:
            count = self.total if self.scope == "step" else len(self)
            digest.array(f"labels {self.scope}", "<i4", (count,), _blocks(self._labels, count))
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
    labels : int32 [T] or int32 [S], optional
        One a step, or one a sequence.
    ids : int64 [S]
        Distinct identities; 0 to S - 1 by default.
    metric, name, origin, licence : str
    """

    values: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray | None = None
    ids: np.ndarray = None  # type: ignore[assignment]
    metric: str | None = None
    name: str = ""
    origin: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        if self.ids is None:
            object.__setattr__(self, "ids", ids_of(None, max(0, len(self.offsets) - 1)))

    @classmethod
    def of(cls, sequences: Any, labels: Any = None, **about: Any) -> "Data":
        """Data from a list of arrays, one a sequence.

        Parameters
        ----------
        sequences : list of float32 [time, F], or of int32 [time]
        labels : list of int, or of int32 [time], optional
            One value, or one array of a value a step, for each sequence.
        **about
            `ids`, `metric`, `name`, `origin`, `licence`.
        """
        arrays = [np.asarray(sequence) for sequence in sequences]
        if not arrays or any(array.ndim != arrays[0].ndim or array.ndim not in (1, 2) for array in arrays):
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
            parts = [np.atleast_1d(np.asarray(label)) for label in labels]
            labels = whole_numbers(np.concatenate(parts), "labels")
        if about.get("ids") is not None:
            about["ids"] = ids_of(about["ids"], len(arrays))
        data = cls(values, offsets, labels, **about)
        data.validate()
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
        """What the labels belong to: "step", "last" (a sequence), or None without labels."""
        if self.labels is None:
            return None
        return "step" if len(self.labels) == self.total else "last"

    def validate(self) -> None:
        """Check types, shapes and values; InputError names what is wrong."""
        conform(SPEC, self._node())
        check_offsets(self.offsets, len(self.values))
        check_ids(self.ids)
        for start, block in zip(range(0, self.total, _BLOCK), _blocks(self._values, self.total), strict=True):
            check_values(block, start)

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
        for name in ("values", "offsets", "ids"):
            if not isinstance(getattr(self, name), np.ndarray):
                raise InputError(f"{name} must be a NumPy array")
        if self.labels is not None and np.shape(self.labels) not in (
            (len(self.values),),
            (len(self.offsets) - 1,),
        ):
            raise InputError(
                f"labels have shape {list(np.shape(self.labels))}; there must be one a step or one a sequence"
            )
        attributes = {name: getattr(self, name) for name in ("name", "metric", "origin", "licence")}
        arrays = {
            "ids": self.ids,
            "offsets": self.offsets,
            "tokens" if self.tokens else "features": self.values,
            "step_labels" if self.scope == "step" else "labels": self.labels,
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
        if "labels" in arrays and "step_labels" in arrays:
            raise InputError("holds both labels and step_labels; one of them is allowed")
        self._stored = arrays["tokens"] if "tokens" in arrays else arrays["features"]
        self._stored_labels = arrays.get("step_labels", arrays.get("labels"))
        self._scope = "step" if "step_labels" in arrays else "last" if "labels" in arrays else None
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
        """What the labels belong to: "step", "last" (a sequence), or None without labels."""
        return self._scope

    @property
    def values(self) -> np.ndarray:
        """All values, read into memory."""
        return self._values(0, self.total)

    @property
    def labels(self) -> np.ndarray | None:
        """All labels, read into memory, or None."""
        if self._scope is None:
            return None
        return self._labels(0, self.total if self._scope == "step" else len(self))

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
        )

    def _values(self, start: int, stop: int) -> np.ndarray:
        with store.reading(self._path):
            values = self._stored[start:stop]
            check_values(values, start)
            return values

    def _labels(self, start: int, stop: int) -> np.ndarray:
        assert self._stored_labels is not None
        with store.reading(self._path):
            return self._stored_labels[start:stop]


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


def _blocks(get: Any, count: int) -> Iterator[np.ndarray]:
    return (get(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK))
