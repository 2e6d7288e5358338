"""Heads and metrics of users, from a Python file or an installed package: loaded only when asked for by name."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import accel
import fxp
import traces
from traces import InputError

GROUPS = {"metric": "fxp_lstm.metrics", "head": "fxp_lstm.heads"}
"""Entry points under which installed packages offer them."""
_OWN = tuple(os.path.join(os.path.abspath(package.__path__[0]), "") for package in (fxp, accel, traces))
_LIBRARY = os.path.join(os.path.dirname(os.__file__), "")


def load(reference: str, what: str) -> Any:
    """An object of a user.

    Parameters
    ----------
    reference : str
        `file.py:Name`, `package.module:Name`, or the name of an installed entry point of the group `fxp_lstm.metrics`
        or `fxp_lstm.heads`. A class is called without arguments.
    what : {"metric", "head"}

    Raises
    ------
    InputError
        Nothing of that name, or an error in the user's code, with its file and line.
    """
    source, separator, name = reference.rpartition(":")
    with running(None, f"{what} {reference}"):
        if separator and source and name.isidentifier():
            module = _file(Path(source), what) if source.endswith(".py") else _module(source, what)
            if not hasattr(module, name):
                raise InputError(f"--{what} {reference}: {source} has no {name}")
            found = getattr(module, name)
        else:
            found = _entry_point(reference, what)
        return found() if isinstance(found, type) else found


def _file(path: Path, what: str) -> ModuleType:
    if not path.is_file():
        raise InputError(f"--{what} {path}: no such file")
    spec = importlib.util.spec_from_file_location(f"fxp_user_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and the like look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _module(name: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise InputError(f"--{what} {name}: there is no such module (a file is named with its .py)") from None
        raise


def _entry_point(name: str, what: str) -> Any:
    offered = {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUPS[what])}
    if name not in offered:
        known = f" (installed: {', '.join(sorted(offered))})" if offered else ""
        raise InputError(f"--{what} {name}: unknown{known}; give file.py:Name or package.module:Name")
    return offered[name].load()


@contextmanager
def running(owner: Any, what: str) -> Iterator[None]:
    """Report an error inside a user's code as the user's, with file and line; errors of the project's own code pass.

    Parameters
    ----------
    owner : the object whose code runs, or None while it is loaded
    what : how the message begins
    """
    if owner is not None and type(owner).__module__.startswith("fxp."):
        yield
        return
    try:
        yield
    except (Exception, SystemExit) as error:
        place = _place(error)
        if place is None and isinstance(error, InputError):
            raise
        where = "" if place is None else f"{place}: "
        raise InputError(f"{where}in {what}: {type(error).__name__}: {error}") from error


def _place(error: BaseException) -> str | None:
    """File and line in the user's code: the last frame that belongs neither to this project nor to a library, or the
    last one of a library."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _own(frame.filename)]
    frames = [frame for frame in frames if not _library(frame.filename)] or frames
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None


def _own(file: str) -> bool:
    return os.path.abspath(file).startswith(_OWN)


def _library(file: str) -> bool:
    path = os.path.abspath(file)
    return file.startswith("<") or path.startswith(_LIBRARY) or f"{os.sep}site-packages{os.sep}" in path
