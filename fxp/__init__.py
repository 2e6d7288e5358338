"""Bit-exact emulation of LSTM accelerators whose precision follows the cell state.

>>> import fxp, accel
>>> network = fxp.load("model.h5")
>>> run = fxp.emulate(network, inputs, controller=accel.Peak())
>>> run.low_share
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

for _name in ("traces", "accel"):
    _package = import_module(_name)
    if getattr(_package, "DISTRIBUTION", None) != "fxp-lstm":
        raise ImportError(
            f"the package {_name!r} at {getattr(_package, '__file__', None) or list(_package.__path__)} is "
            f"not the one of fxp-lstm but a "
            f"namesake: install fxp-lstm in a virtual environment of its own"
        )

# Names are imported when first used: `import fxp` and the command line start without Numba.
_HOME = {
    "Network": "network", "save": "network", "load": "network", "Formats": "formats",
    "from_torch": "export", "from_state_dict": "export", "from_onnx": "onnx_layers", "from_arrays": "arrays",
    "emulate": "emulator", "State": "emulator", "Run": "run",
    "evaluate": "evaluation", "calibrate": "calibration", "emulate_float": "evaluation",
    "check_precision": "precision", "fit_scales": "scales", "fit_rounding": "rounding", "finetune": "finetuning",
}  # fmt: skip

if TYPE_CHECKING:
    from fxp.arrays import from_arrays
    from fxp.calibration import calibrate
    from fxp.emulator import State, emulate
    from fxp.evaluation import emulate_float, evaluate
    from fxp.export import from_state_dict, from_torch
    from fxp.finetuning import finetune
    from fxp.formats import Formats
    from fxp.network import Network, load, save
    from fxp.onnx_layers import from_onnx
    from fxp.precision import check_precision
    from fxp.rounding import fit_rounding
    from fxp.run import Run
    from fxp.scales import fit_scales

__all__ = [
    "Formats", "Network", "Run", "State", "calibrate", "check_precision", "emulate", "emulate_float", "evaluate",
    "finetune", "fit_rounding", "fit_scales", "from_arrays", "from_onnx", "from_state_dict", "from_torch", "load",
    "save",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = globals()[name] = getattr(import_module(f"fxp.{_HOME[name]}"), name)
        return value
    raise AttributeError(f"module 'fxp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
