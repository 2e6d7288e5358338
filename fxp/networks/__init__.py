"""Networks to try the accelerator on: what there is, where the files are, how those that are not bundled are made."""

from __future__ import annotations

import os
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import traces
from fxp.networks import fetch
from fxp.networks.registry import ENTRIES, Entry
from traces import InputError

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Names of the networks."""
    return sorted(ENTRIES)


def entry(name: str) -> Entry:
    """What is known of a network; InputError for another name."""
    if name not in ENTRIES:
        raise InputError(f"network {name!r} is unknown; there are: {', '.join(names())}")
    return ENTRIES[name]


def path(name: str, file: str = "model.h5") -> Path:
    """Place of a file of a network: bundled, or in the cache once it was built.

    Parameters
    ----------
    name : a network, such as "kjv"
    file : "model.h5", "data.h5" (held out), "calibration.h5", or another that the network has

    Raises
    ------
    InputError
        There is no such network or file, or it has to be built first.
    """
    known = entry(name)
    if file not in known.files:
        raise InputError(f"network {name!r} has no file {file!r}; it has: {', '.join(sorted(known.files))}")
    for place in (_bundled(known, file), fetch.cache() / "networks" / name / file):
        if place.is_file():
            return place
    raise InputError(f"{file} of network {name!r} is not bundled: fxp networks build {name}")


def build(name: str, folder: Path | None = None, again: bool = False) -> dict[str, Path]:
    """All files of a network in one folder.

    Parameters
    ----------
    name : str
    folder : path, optional
        By default in the cache ($XDG_CACHE_HOME or ~/.cache). Files that are there and hold what they should are kept.
    again : bool
        Make every file anew.

    Returns
    -------
    dict of file name to path

    Raises
    ------
    InputError
        A package cannot be fetched, the folder cannot be written, or a file that was made has another content than the
        registry says.
    """
    known = entry(name)
    folder = fetch.cache() / "networks" / name if folder is None else Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made a folder ({error.strerror})") from None
    built = {}
    for file in known.files:
        built[file] = folder / file
        if again or not _holds(known, file, built[file]):
            _make(known, file, built[file])
    return built


def _bundled(known: Entry, file: str) -> Path:
    return _FOLDER / known.borrowed.get(file, known.name) / file


def _make(known: Entry, file: str, destination: Path) -> None:
    if file in known.made:
        module, function = known.made[file].split(":")
        content: Any = getattr(import_module(module), function)()
        expected = known.digests.get(file)
        if expected is not None and content.digest() != expected:
            raise InputError(
                f"{file} of network {known.name!r} was made, but differs from what its results were measured with "
                f"(digest {content.digest()}, expected {expected})"
            )
        content.write(destination)
        return
    aside = destination.with_name(f".{file}.{os.getpid()}.tmp")
    try:
        shutil.copyfile(_bundled(known, file), aside)
        os.replace(aside, destination)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise InputError(f"{destination}: cannot be written: {error.strerror}") from None


def _holds(known: Entry, file: str, place: Path) -> bool:
    """Whether a file is there with the content that it should have."""
    if not place.is_file():
        return False
    if file not in known.made:
        return place.read_bytes() == _bundled(known, file).read_bytes()
    expected = known.digests.get(file)
    try:
        content: Any = traces.open(place)
        return expected is None or content.digest() == expected
    except InputError:
        return False
