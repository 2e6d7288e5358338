"""sigmoid and tanh of `docs/numerics.md`, section 5, over rows of binary32 in memory.

Each is one long chain of operations that wait for each other, so 32 values go through it side by side, as one LLVM vector:
four registers in lock-step keep the units busy where one would mostly wait. The operations are those of `fxp.kernels.unit`
in their order, single IEEE operations without fast-math flags; nothing is contracted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from fxp.kernels import unit
from fxp.kernels.build import inlined
from fxp.kernels.vector import BYTE, WORD, operation, pointer_to

LANES = 32
_REAL = ir.FloatType()


def _filled(value: Any, like: Any) -> ir.Constant:
    """A vector of one number, with the lanes of `like`: binary32 for a NumPy number, else 32 bits."""
    kind = WORD if isinstance(value, int) else _REAL
    number = value if isinstance(value, int) else float(value)
    return ir.Constant(ir.VectorType(kind, like.type.count), [number] * like.type.count)


def _as_words(builder: Any, v: Any) -> Any:
    return builder.bitcast(v, ir.VectorType(WORD, v.type.count))


def _negative(builder: Any, v: Any) -> Any:
    """-|v|."""
    return builder.bitcast(builder.or_(_as_words(builder, v), _filled(-(2**31), v)), v.type)


def _nearest(builder: Any, v: Any) -> Any:
    return builder.fsub(builder.fadd(v, _filled(unit.ROUND, v)), _filled(unit.ROUND, v))


def _exponential(builder: Any, x: Any) -> Any:
    """exp(x) for x <= 0."""
    lowest = _filled(unit.LOWEST, x)
    a = builder.select(builder.fcmp_ordered(">", x, lowest), x, lowest)
    moved = builder.fadd(builder.fmul(a, _filled(unit.LOG2E, x)), _filled(unit.ROUND, x))
    n = builder.fsub(moved, _filled(unit.ROUND, x))
    r = builder.fsub(a, builder.fmul(n, _filled(unit.LN2_HI, x)))
    r = builder.fsub(r, builder.fmul(n, _filled(unit.LN2_LO, x)))
    p = _filled(unit.E6, x)
    for coefficient in (unit.E5, unit.E4, unit.E3, unit.HALF, unit.ONE, unit.ONE):
        p = builder.fadd(builder.fmul(p, r), _filled(coefficient, x))
    # Times 2^n. The last bits of what was rounded are those of n, and p 2^n is a normal number: for n = -126, the least, p is above 1.
    shifted = builder.shl(_as_words(builder, moved), _filled(23, x))
    return builder.bitcast(builder.add(_as_words(builder, p), shifted), x.type)


def _sigmoid(builder: Any, z: Any) -> Any:
    one = _filled(unit.ONE, z)
    t = _exponential(builder, _negative(builder, z))
    above = builder.select(builder.fcmp_ordered(">=", z, _filled(unit.ZERO, z)), one, t)
    return builder.fdiv(above, builder.fadd(one, t))


def _tanh(builder: Any, z: Any) -> Any:
    one = _filled(unit.ONE, z)
    t = _exponential(builder, builder.fmul(_filled(unit.TWO, z), _negative(builder, z)))
    y = builder.fdiv(builder.fsub(one, t), builder.fadd(one, t))
    flipped = builder.bitcast(builder.xor(_as_words(builder, y), _filled(-(2**31), y)), y.type)
    return builder.select(builder.fcmp_ordered("<", z, _filled(unit.ZERO, z)), flipped, y)


def _load(builder: Any, place: Any, lanes: int) -> Any:
    return builder.load(pointer_to(builder, place, ir.VectorType(_REAL, lanes)), align=1)


def _store(builder: Any, place: Any, value: Any) -> None:
    builder.store(value, pointer_to(builder, place, value.type), align=1)


def _in_place(function: Callable[[Any, Any], Any], lanes: int) -> Any:
    def generate(builder: Any, place: Any) -> None:
        _store(builder, place, function(builder, _load(builder, place, lanes)))

    return operation(generate, types.void, types.int64)


sigmoid_32, sigmoid_8 = (_in_place(_sigmoid, lanes) for lanes in (LANES, 8))
tanh_32, tanh_8 = (_in_place(_tanh, lanes) for lanes in (LANES, 8))


@inlined
def sigmoids(place, stop):
    """In place, from address `place` to `stop`; a multiple of eight."""
    while stop - place >= 4 * LANES:
        sigmoid_32(place)
        place += 4 * LANES
    while place < stop:
        sigmoid_8(place)
        place += 32


@inlined
def tanhs(place, stop):
    """In place, as `sigmoids`."""
    while stop - place >= 4 * LANES:
        tanh_32(place)
        place += 4 * LANES
    while place < stop:
        tanh_8(place)
        place += 32


def _state(lanes: int) -> Any:
    def generate(builder: Any, c: Any, i: Any, f: Any, g: Any) -> None:
        kept = builder.fmul(_load(builder, f, lanes), _load(builder, c, lanes))
        _store(builder, c, builder.fadd(kept, builder.fmul(_load(builder, i, lanes), _load(builder, g, lanes))))

    return operation(generate, types.void, *[types.int64] * 4)


def _output(lanes: int) -> Any:
    def generate(builder: Any, c: Any, o: Any, m: Any, step: Any, top: Any) -> None:
        output = builder.fmul(_load(builder, o, lanes), _tanh(builder, _load(builder, c, lanes)))
        _store(builder, m, _index(builder, output, step, top))

    return operation(generate, types.void, *[types.int64] * 3, types.float32, types.float32)


def _spread(builder: Any, scalar: Any, like: Any) -> Any:
    first = builder.insert_element(ir.Constant(like.type, ir.Undefined), scalar, ir.Constant(WORD, 0))
    order = ir.Constant(ir.VectorType(WORD, like.type.count), [0] * like.type.count)
    return builder.shuffle_vector(first, ir.Constant(like.type, ir.Undefined), order)


def _index(builder: Any, v: Any, step: Any, top: Any) -> Any:
    """Indices int8: v / step within +-top, rounded."""
    most = _spread(builder, top, v)
    least = builder.bitcast(builder.xor(_as_words(builder, most), _filled(-(2**31), v)), v.type)
    v = builder.fdiv(v, _spread(builder, step, v))
    v = builder.select(builder.fcmp_ordered(">", v, least), v, least)
    v = builder.select(builder.fcmp_ordered("<", v, most), v, most)
    words = builder.fptosi(_nearest(builder, v), ir.VectorType(WORD, v.type.count))
    return builder.trunc(words, ir.VectorType(BYTE, v.type.count))


state_8 = _state(8)
"""c = f c + i g; addresses of c, i, f, g."""

output_32, output_8 = _output(LANES), _output(8)
"""Indices int8 of o tanh(c); addresses of c, o and the indices, their step, the largest one."""
