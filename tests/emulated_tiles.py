"""The tile registers of AMX as plain loops over memory, for processors without them: a plugin for pytest (`-p emulated_tiles`).

With it, the kernels of `fxp.kernels.amx` run wherever those of VNNI do, but for the instructions themselves. There is one set of
registers for all threads. The code contains their address, so whatever Numba keeps of it must not outlive the process.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from fxp import instructions
from fxp.kernels import tiles
from fxp.kernels.vector import BYTE, LONG, WORD, operation, pointer_to

ROW = ir.VectorType(BYTE, 64)
_memory = np.zeros(9 * 1024, np.uint8)
REGISTERS = _memory.ctypes.data + -_memory.ctypes.data % 64  # eight of 16 rows of 64 bytes


def _address(builder, register, *parts):
    """Address in a register: rows, words and bytes, as pairs of an index and the size of one."""
    place = ir.Constant(LONG, REGISTERS + 1024 * register)
    for index, size in parts:
        place = builder.add(place, builder.mul(index, ir.Constant(LONG, size)))
    return place


def _copy(builder, target, source):
    row = builder.load(pointer_to(builder, source, ROW), align=1)
    builder.store(row, pointer_to(builder, target, ROW), align=1)


def _loaded(register):
    def generate(builder, place, stride):
        with cgutils.for_range(builder, ir.Constant(LONG, 16)) as loop:
            source = builder.add(place, builder.mul(loop.index, stride))
            _copy(builder, _address(builder, register, (loop.index, 64)), source)

    return operation(generate, types.void, types.int64, types.int64)


def _stored(register):
    def generate(builder, place, stride):
        with cgutils.for_range(builder, ir.Constant(LONG, 16)) as loop:
            target = builder.add(place, builder.mul(loop.index, stride))
            _copy(builder, target, _address(builder, register, (loop.index, 64)))

    return operation(generate, types.void, types.int64, types.int64)


def _cleared(register):
    def generate(builder):
        with cgutils.for_range(builder, ir.Constant(LONG, 16)) as loop:
            place = pointer_to(builder, _address(builder, register, (loop.index, 64)), ROW)
            builder.store(ir.Constant(ROW, [0] * 64), place, align=1)

    return operation(generate, types.void)


def _product(total, left, right):
    def generate(builder):
        sixteen = ir.Constant(LONG, 16)
        with (
            cgutils.for_range(builder, sixteen) as row,
            cgutils.for_range(builder, sixteen) as quad,
            cgutils.for_range(builder, sixteen) as column,
        ):
            place = pointer_to(builder, _address(builder, total, (row.index, 64), (column.index, 4)), WORD)
            result = builder.load(place)
            for n in range(4):
                byte = (ir.Constant(LONG, n), 1)
                factors = (
                    _address(builder, left, (row.index, 64), (quad.index, 4), byte),
                    _address(builder, right, (quad.index, 64), (column.index, 4), byte),
                )
                v, w = (builder.sext(builder.load(pointer_to(builder, factor, BYTE)), WORD) for factor in factors)
                result = builder.add(result, builder.mul(v, w))
            builder.store(result, place)

    return operation(generate, types.void)


tiles.configure = operation(lambda builder, place: None, types.void, types.int64)
tiles.release = operation(lambda builder: None, types.void)
for _n in range(4):
    setattr(tiles, f"zero_{_n}", _cleared(_n))
    setattr(tiles, f"store_{_n}", _stored(_n))
    setattr(tiles, f"load_{_n + 4}", _loaded(_n + 4))
for _numbers in ((0, 4, 5), (1, 4, 6), (2, 4, 7), (3, 4, 5)):
    setattr(tiles, "add_{}_{}{}".format(*_numbers), _product(*_numbers))

_found = ("amx", *(name for name in instructions.supported() if name != "amx"))
instructions.supported = lambda: _found
