"""The accelerator: precision controllers (the hardware's tracking logic) and the model of cycles, energy and area."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

DISTRIBUTION = "fxp-lstm"

# Names are imported when first used, so that a controller costs neither Numba nor pydantic.
_HOME = {
    "Static": "controllers", "Random": "controllers", "Peak": "controllers", "Delta": "controllers", "Schedule": "controllers",
    "Controller": "controllers", "Site": "controllers",
    "estimate": "estimates", "Estimate": "estimates", "Machine": "machine", "machines": "machine",
    "reproduce": "reproduction", "baselines": "alternatives", "sensitivity": "sensitivities",
}  # fmt: skip

if TYPE_CHECKING:
    from accel.controllers import Controller, Delta, Peak, Random, Schedule, Site, Static

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f"accel.{_HOME[name]}"), name)
        # A function may share its name with its module, which the import has just bound in its place.
        globals()[name] = value
        return value
    raise AttributeError(f"module 'accel' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
