"""Tiles of AMX inside compiled kernels: eight registers of 16 rows of 64 bytes.

LLVM neither allocates nor saves them: registers 0 to 7 are named by number, and a kernel that uses them configures them first and
releases them at its end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from fxp.kernels.vector import BYTE, operation, pointer_to

_VOID, _PLACE = ir.VoidType(), BYTE.as_pointer()

CONFIGURATION = np.zeros(64, np.uint8)
"""Palette 1; all eight registers have 16 rows of 64 bytes."""
CONFIGURATION[0] = 1
CONFIGURATION[16:32].view(np.uint16)[:] = 64
CONFIGURATION[48:56] = 16


def _call(builder: Any, name: str, *arguments: Any) -> None:
    kind = ir.FunctionType(_VOID, [argument.type for argument in arguments])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), arguments)


def _moved(name: str, register: int) -> Any:
    """Between a register and memory: address of the first row, bytes from one row to the next."""

    def generate(builder: Any, place: Any, stride: Any) -> None:
        _call(builder, name, ir.Constant(BYTE, register), pointer_to(builder, place, BYTE), stride)

    return operation(generate, types.void, types.int64, types.int64)


def _product(total: int, left: int, right: int) -> Any:
    """Adds the products of int8 rows of `left` by columns of `right` to int32 of `total`; wraps, never saturates."""
    registers = [ir.Constant(BYTE, register) for register in (total, left, right)]
    return operation(lambda b: _call(b, "tdpbssd", *registers), types.void)


def _cleared(register: int) -> Any:
    return operation(lambda b: _call(b, "tilezero", ir.Constant(BYTE, register)), types.void)


configure = operation(lambda b, place: _call(b, "ldtilecfg", pointer_to(b, place, BYTE)), types.void, types.int64)
release = operation(lambda b: _call(b, "tilerelease"), types.void)

zero_0, zero_1, zero_2, zero_3 = (_cleared(n) for n in range(4))
store_0, store_1, store_2, store_3 = (_moved("tilestored64", n) for n in range(4))
load_4, load_5, load_6, load_7 = (_moved("tileloadd64", n) for n in range(4, 8))
add_0_45, add_1_46, add_2_47, add_3_45 = _product(0, 4, 5), _product(1, 4, 6), _product(2, 4, 7), _product(3, 4, 5)
