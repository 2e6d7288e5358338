"""Where the threads of a team wait for each other within a step (x86 only).

A count of arrivals that only grows: whoever arrives waits until all of its round have.
"""

from __future__ import annotations

import os
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from fxp.kernels.build import helper
from fxp.kernels.vector import LONG, operation, pointer_to

PATIENCE = 1000
GIVEN_UP = 1 << 62  # arrivals that let everybody pass


def _arrive(builder: Any, place: Any) -> Any:
    one = ir.Constant(LONG, 1)
    return builder.add(builder.atomic_rmw("add", pointer_to(builder, place, LONG), one, "seq_cst"), one)


def _arrivals(builder: Any, place: Any) -> Any:
    return builder.load_atomic(pointer_to(builder, place, LONG), "seq_cst", 8)


def _pause(builder: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])


arrive = operation(_arrive, types.int64, types.int64)
arrivals = operation(_arrivals, types.int64, types.int64)
pause = operation(_pause, types.void)

make_way = types.ExternalFunction("sched_yield", types.int32()) if os.name == "posix" else pause


@helper
def meet(place, team):
    """Returns when all `team` threads have called it as often as this one; place: address of an int64, at first 0."""
    number = arrive(place)
    everyone = min((number + team - 1) // team * team, GIVEN_UP)
    looks = 0
    while arrivals(place) < everyone:
        pause()
        looks += 1
        if looks > PATIENCE:
            make_way()
