"""The files that the stages exchange: models, data, traces and estimates, in HDF5."""

from typing import Literal, overload

from traces import schema, store
from traces.data import Data, DataFile
from traces.data_writer import DataWriter
from traces.errors import FormatError, InputError
from traces.estimate import Estimate
from traces.model import Head, Layer, Model
from traces.trace import Trace, TraceLayer
from traces.trace_writer import TraceWriter

DISTRIBUTION = "fxp-lstm"
"""Marks these modules as this distribution's: the import names are not unique on package indexes."""

__all__ = [
    "DISTRIBUTION",
    "Data",
    "DataFile",
    "DataWriter",
    "Estimate",
    "FormatError",
    "Head",
    "InputError",
    "Layer",
    "Model",
    "Trace",
    "TraceLayer",
    "TraceWriter",
    "open",
]


@overload
def open(path: store.Pathlike, kind: Literal["model"]) -> Model: ...
@overload
def open(path: store.Pathlike, kind: Literal["data"]) -> DataFile: ...
@overload
def open(path: store.Pathlike, kind: Literal["estimate"]) -> Estimate: ...
@overload
def open(path: store.Pathlike, kind: Literal["trace"]) -> Trace: ...
@overload
def open(path: store.Pathlike) -> Trace | DataFile | Model | Estimate: ...
def open(path: store.Pathlike, kind: str | None = None) -> Trace | DataFile | Model | Estimate:
    """Open a file of any kind.

    Traces and data are returned open, to be read as they are asked for: use them in a `with` block. Models
    and estimates are read into memory.

    Parameters
    ----------
    path : path
    kind : {"model", "data", "trace", "estimate"}, optional
        The kind that is needed; any by default.

    Raises
    ------
    InputError
        The file cannot be read, or `kind` is unknown.
    FormatError
        It is damaged, of another kind, of a newer version, or not valid.
    """
    if kind not in (None, *schema.SCHEMAS):
        raise InputError(f"kind is {kind!r}; it must be one of {', '.join(schema.SCHEMAS)}")
    if kind is None:
        with store.open_file(path) as file, store.reading(path):
            kind = schema.kind_of(file)
    if kind == "model":
        return Model.read(path)
    if kind == "estimate":
        return Estimate.read(path)
    return DataFile(path) if kind == "data" else Trace(path)
