"""Weights that are bundled rounded to float16, for networks whose model file would be large."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from traces import InputError

FILE = "weights.npz"


def read(folder: Path) -> dict[str, np.ndarray]:
    """State dict of a network, float32, each value one of float16."""
    path = folder / FILE
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key].astype(np.float32) for key in stored.files}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


def rounded(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The values as float16, which `write` stores and every evaluation reads."""
    return {key: np.asarray(value).astype(np.float16) for key, value in state.items()}


def write(state: Mapping[str, np.ndarray], folder: Path) -> None:
    """Store weights rounded to float16, aside first and then into place."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / "weights.partial.npz"
    np.savez_compressed(aside, **rounded(state))  # type: ignore[arg-type]
    os.replace(aside, folder / FILE)
