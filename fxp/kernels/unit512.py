"""Pre-activations of sixteen elements at a time, for AVX-512: the operations of `fxp.kernels.wide` in their order, so the same bits.

They go from memory to memory, so that sums need not be brought into another order first. The sums of sixteen elements are 256
bytes: *by gates*, 16 words of gate i, then of f, g and o; or *by elements*, the four words of element 0, then those of elements 4, 8,
12, 1, 5 and so on: that takes eight shuffles to put into order.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from fxp.kernels.build import helper
from fxp.kernels.vector import BYTE, LONG, _shuffle, operation, pointer_to
from fxp.kernels.vector512 import LINE

REALS = ir.VectorType(ir.FloatType(), 16)
GATES = ((0, 0), (1, 1), (2, 3), (3, 2))
"""Each gate (i, f, g, o), and its row of the workspace."""


def _at(builder: Any, place: Any, offset: Any, kind: Any) -> Any:
    if isinstance(offset, int):
        offset = ir.Constant(LONG, offset)
    return builder.load(pointer_to(builder, builder.add(place, offset), kind), align=1)


def _by_elements(builder: Any, place: Any) -> list[Any]:
    """The sums of each gate."""

    def pairs(start: int, width: int) -> list[int]:
        order = []
        for quarter in range(0, 16, 4):
            for n in range(start, start + 2 // width):
                order += [quarter + n * width + k for k in range(width)] + [16 + quarter + n * width + k for k in range(width)]
        return order

    a, b, c, d = (_at(builder, place, 64 * n, LINE) for n in range(4))
    (low, high), (low_last, high_last) = (
        [_shuffle(builder, v, w, pairs(start, 1)) for start in (0, 2)] for v, w in ((a, b), (c, d))
    )
    return [
        _shuffle(builder, v, w, pairs(start, 2)) for v, w in ((low, low_last), (high, high_last)) for start in (0, 1)
    ]


def _gates(by_elements: bool) -> Any:
    def generate(
        builder: Any, flags: Any, x: Any, x_reach: Any, h: Any, h_reach: Any, kx: Any, kh: Any, bias: Any, row: Any, z: Any
    ) -> None:
        marks = _at(builder, flags, 0, ir.VectorType(BYTE, 16))
        low = builder.icmp_unsigned("!=", marks, ir.Constant(marks.type, [0] * 16))
        reach = builder.shl(row, ir.Constant(LONG, 2))  # from the constants of high precision to those of low precision

        def either(place: Any, reach: Any, offset: Any, kind: Any) -> Any:
            high = _at(builder, place, offset, kind)
            return builder.select(low, _at(builder, builder.add(place, reach), offset, kind), high)

        h_sums = _by_elements(builder, h) if by_elements else [either(h, h_reach, 64 * gate, LINE) for gate, _ in GATES]
        for gate, target in GATES:
            offset = builder.mul(row, ir.Constant(LONG, gate))
            a = builder.fmul(
                builder.sitofp(either(x, x_reach, 64 * gate, LINE), REALS), either(kx, reach, offset, REALS)
            )
            b = builder.fmul(builder.sitofp(h_sums[gate], REALS), either(kh, reach, offset, REALS))
            total = builder.fadd(builder.fadd(a, b), either(bias, reach, offset, REALS))
            place = builder.add(z, builder.mul(row, ir.Constant(LONG, target)))
            builder.store(total, pointer_to(builder, place, REALS), align=1)

    return operation(generate, types.void, *[types.int64] * 10)


by_gates, by_elements = _gates(False), _gates(True)
"""Rows of z at 16 elements. Addresses of the flags; of the sums of x, and bytes from high to low ones; the same of h (by elements:
already chosen); of the constants; bytes of a row of z and of the constants; z."""


@helper
def gates_of_many(constants, hidden, row, flags, x, x_reach, h, h_reach, z):
    """Pre-activations as `fxp.kernels.wide.gates_float` from sums by gates."""
    for k in range(0, hidden, 16):
        by_gates(
            flags + k, x + 16 * k, x_reach, h + 16 * k, h_reach, constants.x_scale + 4 * k, constants.h_scale + 4 * k,
            constants.bias + 4 * k, row, z + 4 * k,
        )  # fmt: skip


@helper
def gates_of_one(constants, hidden, row, flags, x, x_reach, h, z):
    """The same with the sums of the h parts by elements, each at its precision."""
    for k in range(0, hidden, 16):
        by_elements(
            flags + k, x + 16 * k, x_reach, h + 16 * k, 0, constants.x_scale + 4 * k, constants.h_scale + 4 * k,
            constants.bias + 4 * k, row, z + 4 * k,
        )  # fmt: skip
