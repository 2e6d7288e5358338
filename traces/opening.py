"""Opening a file of any kind, checked by a child process first if its origin is unknown."""

from typing import Literal, overload

from traces import child, schema, store
from traces.data import DataFile
from traces.errors import InputError
from traces.estimate import Estimate
from traces.model import Model
from traces.trace import Trace


@overload
def open(path: store.Pathlike, kind: Literal["model"], *, checked: bool = False) -> Model: ...
@overload
def open(path: store.Pathlike, kind: Literal["data"], *, checked: bool = False) -> DataFile: ...
@overload
def open(path: store.Pathlike, kind: Literal["estimate"], *, checked: bool = False) -> Estimate: ...
@overload
def open(path: store.Pathlike, kind: Literal["trace"], *, checked: bool = False) -> Trace: ...
@overload
def open(path: store.Pathlike, *, checked: bool = False) -> Trace | DataFile | Model | Estimate: ...
def open(
    path: store.Pathlike, kind: str | None = None, *, checked: bool = False
) -> Trace | DataFile | Model | Estimate:
    """Open a file of any kind.

    Traces and data are returned open, to be read as they are asked for: use them in a `with` block. Models
    and estimates are read into memory.

    Parameters
    ----------
    path : path
    kind : {"model", "data", "trace", "estimate"}, optional
        The kind that is needed; any by default.
    checked : bool
        Whether a child process with limits reads the file first: the HDF5 library can crash, or loop without
        end, on a damaged file. For files that you did not write (docs/security.md).

    Raises
    ------
    InputError
        The file cannot be read, or `kind` is unknown.
    FormatError
        It is damaged, of another kind, of a newer version, or not valid.
    """
    if kind not in (None, *schema.SCHEMAS):
        raise InputError(f"kind is {kind!r}; it must be one of {', '.join(schema.SCHEMAS)}")
    if checked:
        child.Check(path).wait()
    if kind is None:
        with store.open_file(path) as file, store.reading(path):
            kind = schema.kind_of(file)
    if kind == "model":
        return Model.read(path)
    if kind == "estimate":
        return Estimate.read(path)
    return DataFile(path) if kind == "data" else Trace(path)
