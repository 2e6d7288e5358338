"""The networks that come with the package: where their files are."""

from __future__ import annotations

from pathlib import Path

from traces import InputError

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Names of the bundled networks."""
    return sorted(model.parent.name for model in _FOLDER.glob("*/model.h5"))


def path(name: str, file: str = "model.h5") -> Path:
    """Place of a bundled file.

    Parameters
    ----------
    name : a bundled network, such as "kjv"
    file : "model.h5", "data.h5" (held out), "calibration.h5", or another that the network has

    Raises
    ------
    InputError
        The network or its file is not bundled.
    """
    if name not in names():
        raise InputError(f"network {name!r} is not bundled; there are: {', '.join(names())}")
    found = _FOLDER / name / file
    if Path(file).name != file or not found.is_file():
        files = sorted(p.name for p in (_FOLDER / name).glob("*.h5"))
        raise InputError(f"network {name!r} has no file {file!r}; there are: {', '.join(files)}")
    return found
