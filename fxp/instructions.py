"""Which instruction sets this machine has that there are kernels for."""

from __future__ import annotations

import ctypes
import os
from functools import cache

from traces import InputError

_VNNI = {"avx2", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni"}
NEEDED = {"amx": {*_VNNI, "amx-tile", "amx-int8"}, "vnni": _VNNI, "avx2": {"avx2"}}
"""Sets with kernels of their own (`fxp.kernels.NAME`), best first, and what a processor must have for each."""


@cache
def machine() -> tuple[str, str, str]:
    """Triple, processor and features that Numba compiles for."""
    from numba.core.registry import cpu_target

    return cpu_target.target_context.codegen().magic_tuple()


@cache
def supported() -> tuple[str, ...]:
    """The sets of this machine, as Numba compiles for it, best first."""
    found = having(*machine())
    return found if "amx" not in found or _tiles_granted() else found[1:]


def require(name: str) -> None:
    """Raises InputError where this machine cannot run the kernels of a set."""
    if name not in supported():
        here = ", ".join(("fast", "portable", "reference", *supported()))
        raise InputError(f"engine is {name!r}: this machine lacks its instructions; engines that run here: {here}")


def having(triple: str, processor: str, features: str) -> tuple[str, ...]:
    """The sets of a machine that `machine` describes."""
    if not triple.startswith("x86_64"):
        return ()
    present = {feature[1:] for feature in features.split(",") if feature.startswith("+")}
    return tuple(name for name, needed in NEEDED.items() if needed <= present)


def _tiles_granted() -> bool:
    """Whether Linux lets this process use the tile registers, for which each process has to ask once."""
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    try:
        return ctypes.CDLL(None, use_errno=True).syscall(arch_prctl, request_permission, tile_data) == 0
    except (OSError, AttributeError):
        return False


def best() -> str | None:
    """The set that the engine `fast` uses; None: the portable loops, also wherever FXP_PORTABLE=1 is set."""
    if os.environ.get("FXP_PORTABLE", "0") not in ("", "0") or not supported():
        return None
    return supported()[0]
