"""512-bit vectors inside compiled kernels: `lines` (integers; a cache line each), for AVX-512 with VNNI.

As in `fxp.kernels.vector`, memory is reached by address. Only `dot` is an instruction of its own, everything else is plain LLVM.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from fxp.kernels.vector import BYTE, WORD, _instruction, _shuffle, _undefined, operation, pointer_to, register, words

LINE = ir.VectorType(WORD, 16)


class Lines(types.Type):
    """A vector of integers, kept as 16 x 32 bits."""

    def __init__(self) -> None:
        super().__init__(name="words512")


register(Lines, LINE)
lines = Lines()


def _load(builder: Any, place: Any) -> Any:
    return builder.load(pointer_to(builder, place, LINE), align=1)


def _twice(builder: Any, place: Any) -> Any:
    half = builder.load(pointer_to(builder, place, ir.VectorType(WORD, 8)), align=1)
    return _shuffle(builder, half, _undefined(half.type), list(range(8)) * 2)


load = operation(_load, lines, types.int64)
twice = operation(_twice, lines, types.int64)
"""32 bytes at the address, in both halves."""

store = operation(
    lambda b, place, v: b.store(v, pointer_to(b, place, LINE), align=1) and None, types.void, types.int64, lines
)

zero = operation(lambda b: ir.Constant(LINE, [0] * 16), lines)
nibbles = operation(lambda b: ir.Constant(LINE, [0x0F0F0F0F] * 16), lines)
both = operation(lambda b, v, w: b.and_(v, w), lines, lines, lines)
add32 = operation(lambda b, v, w: b.add(v, w), lines, lines, lines)


def _from_nibbles(shift: int) -> Any:
    def generate(builder: Any, v: Any) -> Any:
        nibbles = builder.and_(builder.lshr(v, ir.Constant(LINE, [shift] * 16)), ir.Constant(LINE, [0x0F0F0F0F] * 16))
        eight = ir.Constant(ir.VectorType(BYTE, 64), [8] * 64)
        return builder.bitcast(builder.sub(builder.bitcast(nibbles, eight.type), eight), LINE)

    return operation(generate, lines, lines)


first_nibbles, last_nibbles = _from_nibbles(0), _from_nibbles(4)
"""The lower, or upper, halves of all bytes less 8."""

_dot = _instruction("llvm.x86.avx512.vpdpbusd.512", LINE, LINE, LINE, LINE)
dot = operation(_dot, lines, lines, lines, lines)
"""The first plus, in each word, four products of uint8 (second) by int8 (third); wraps, never saturates."""


def _added(builder: Any, v: Any, w: Any, first: list[int], last: list[int]) -> Any:
    return builder.add(_shuffle(builder, v, w, first), _shuffle(builder, v, w, last))


def _quarters(order: list[int]) -> list[int]:
    return [quarter + n for quarter in range(0, 16, 4) for n in order]


def _gates_added(builder: Any, v: Any, w: Any) -> Any:
    """The first sums of two vectors' lanes: what `_pairs_added` takes."""
    return _added(builder, v, w, _quarters([0, 16, 1, 17]), _quarters([2, 18, 3, 19]))


def _pairs_added(builder: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Four words of each."""
    ab, cd = (
        _added(builder, v, w, _quarters([0, 1, 16, 17]), _quarters([2, 3, 18, 19])) for v, w in ((a, b), (c, d))
    )
    evens = [4 * quarter + n for quarter in (0, 2, 4, 6) for n in range(4)]
    total = _added(builder, ab, cd, evens, [n + 4 for n in evens])
    order = [8 * (n // 8) + 2 * (n // 4 % 2) + k for n in range(0, 16, 4) for k in (0, 4, 1, 5)]
    return _shuffle(builder, total, _undefined(LINE), order)


def _folded(builder: Any, *v: Any) -> Any:
    """Sums of the halves of four pairs of vectors: four words a pair, those of the first vector's first half, of its last
    half, then of the second vector's."""
    return _pairs_added(builder, *(_gates_added(builder, v[n], v[n + 1]) for n in range(0, 8, 2)))


folded = operation(_folded, lines, *[lines] * 8)


def _last_half_from(quarter: int) -> Any:
    order = [16] * 4 + [4 * quarter + n for n in range(4)]
    return operation(lambda b, v: _shuffle(b, v, ir.Constant(LINE, [0] * 16), order), words, lines)


element_0, element_1, element_2, element_3 = (_last_half_from(n) for n in range(4))
"""A quarter as the last half of eight words, whose first half is zero."""

first_half = operation(lambda b, v: _shuffle(b, v, _undefined(LINE), list(range(8))), words, lines)
last_half = operation(lambda b, v: _shuffle(b, v, _undefined(LINE), list(range(8, 16))), words, lines)
