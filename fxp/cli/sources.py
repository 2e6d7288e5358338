"""Files that the user names are checked in child processes with limits before a command opens them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from traces.child import Check

NUMPY = (".npy", ".npz")  # read by Python itself once their sizes are known to be in proportion
UNCHECKED = "FXP_UNCHECKED"


class Sources:
    """Inputs of a command, being checked while it imports what it needs; `wait` raises for a bad one.

    Parameters
    ----------
    paths : HDF5 files; those of NumPy are left to the reader
    reader, needs : how to read files of another kind, as `traces.child.Check` takes it
    """

    def __init__(self, *paths: Path, reader: str = "traces.child:examine", needs: Sequence[str] = ()):
        self._checks: list[Check] = []
        if not os.environ.get(UNCHECKED):
            from traces import child

            self._checks = [
                child.Check(path, reader, needs) for path in paths if path.suffix.lower() not in NUMPY
            ]

    def wait(self) -> None:
        """Wait for the verdicts.

        Raises
        ------
        InputError
            A file cannot be read, or is not a valid file of the project.
        """
        for check in self._checks:
            check.wait()
