"""The files that the stages exchange: models, data, traces and estimates, in HDF5."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from traces.errors import FormatError, InputError

DISTRIBUTION = "fxp-lstm"
"""Marks these modules as this distribution's: the import names are not unique on package indexes."""

# Names are imported when first used, so that a command line that fails early does not wait for HDF5.
_HOME = {
    "Data": "data",
    "DataFile": "data",
    "DataWriter": "data_writer",
    "Estimate": "estimate",
    "Head": "model",
    "Layer": "model",
    "Model": "model",
    "Trace": "trace",
    "TraceLayer": "trace",
    "TraceWriter": "trace_writer",
    "open": "opening",
}

if TYPE_CHECKING:
    from traces.data import Data, DataFile
    from traces.data_writer import DataWriter
    from traces.estimate import Estimate
    from traces.model import Head, Layer, Model
    from traces.opening import open
    from traces.trace import Trace, TraceLayer
    from traces.trace_writer import TraceWriter

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


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"traces.{_HOME[name]}"), name)
    try:
        # Modules such as traces.schema, without naming them in an import of their own.
        return import_module(f"traces.{name}")
    except ModuleNotFoundError:
        raise AttributeError(f"module 'traces' has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
