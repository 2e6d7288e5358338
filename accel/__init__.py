"""The accelerator: precision controllers (the hardware's tracking logic) and the model of cycles, energy and area."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

DISTRIBUTION = "fxp-lstm"

# Names are imported when first used, so that a controller costs neither Numba nor pydantic.
_HOME = {
    "Static": "controllers", "Random": "controllers", "Peak": "controllers", "Delta": "controllers",
    "Schedule": "controllers", "Calibrated": "calibrated", "Readout": "calibrated",
    "ElementReadout": "calibrated",
    "Controller": "controllers", "Site": "controllers",
    "estimate": "estimates", "Estimate": "estimates", "Machine": "machine", "machines": "machine",
    "reproduce": "reproduction", "baselines": "alternatives", "sensitivity": "sensitivities",
}  # fmt: skip

if TYPE_CHECKING:
    from accel.alternatives import baselines as baselines
    from accel.calibrated import Calibrated as Calibrated
    from accel.calibrated import ElementReadout as ElementReadout
    from accel.calibrated import Readout as Readout
    from accel.controllers import Controller as Controller
    from accel.controllers import Delta as Delta
    from accel.controllers import Peak as Peak
    from accel.controllers import Random as Random
    from accel.controllers import Schedule as Schedule
    from accel.controllers import Site as Site
    from accel.controllers import Static as Static
    from accel.estimates import Estimate as Estimate
    from accel.estimates import estimate as estimate
    from accel.machine import Machine as Machine
    from accel.machine import machines as machines
    from accel.reproduction import reproduce as reproduce
    from accel.sensitivities import sensitivity as sensitivity

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        try:
            value = getattr(import_module(f"accel.{_HOME[name]}"), name)
        except ImportError as error:
            if "controller" not in str(error):
                raise
            raise ImportError(
                f"{error}; the controllers of this checkout are not compiled: leave it to use the installed package, "
                f"or install it in place (pip install -e .)"
            ) from error
        # A function may share its name with its module, which the import has just bound in its place.
        globals()[name] = value
        return value
    raise AttributeError(f"module 'accel' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
