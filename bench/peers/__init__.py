"""Other LSTMs, one adapter a rival.

`prepare(hidden, batch, steps)` gives functions by name that process one batch in one thread;
`version()` says of what.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

NAMES = ("torch_lstm", "onnx_runtime", "brevitas_lstm", "litert")


def find() -> tuple[dict[str, ModuleType], dict[str, str]]:
    """Adapters whose packages are installed, and why the others are not there."""
    found, missing = {}, {}
    for name in NAMES:
        try:
            found[name] = import_module(f"bench.peers.{name}")
        except ImportError as error:
            missing[name] = str(error)
    return found, missing
