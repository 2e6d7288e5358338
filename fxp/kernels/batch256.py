"""`fxp.kernels.batch` with AVX2: up to four sequences, whose eight accumulators take half of the registers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from fxp.kernels.batch import cleared, kernel_of, moved, number
from fxp.kernels.vector import SHORTS, WORDS, _folded, _maddubs, _maddwd, _twice, pointer_to

MOST = 4
BLOCK = 64
NARROW = 4  # blocks of nibbles whose sums fit 16 bits


def _load(builder: Any, place: Any) -> Any:
    return builder.load(pointer_to(builder, place, WORDS), align=1)


def _add(builder: Any, total: Any, value: Any) -> None:
    """Adds to a variable; int16 in pairs where it has words."""
    if value.type != total.type.pointee:
        value = _maddwd(builder, value, ir.Constant(SHORTS, [1] * 16))
    builder.store(builder.add(builder.load(total), value), total)


def _weights(builder: Any, w: Any, block: Any) -> list[Any]:
    place = builder.add(w, builder.mul(block, number(BLOCK)))
    return [_load(builder, moved(builder, place, offset)) for offset in (0, 32)]


def _activations(builder: Any, place: Any, block: Any) -> list[Any]:
    place = builder.add(place, builder.mul(block, number(32)))
    return [_twice(builder, moved(builder, place, offset)) for offset in (0, 16)]


def _part_of_bytes(builder: Any, w: Any, places: list[Any], blocks: Any) -> list[Any]:
    """Two vectors a sequence: the sums of gates i and f, and of g and o."""
    sums = cleared(builder, 2 * len(places), WORDS)
    with cgutils.for_range(builder, blocks) as loop:
        weights = _weights(builder, w, loop.index)
        for n, place in enumerate(places):
            signs, sizes = _activations(builder, place, loop.index)
            for total, row in zip(sums[2 * n : 2 * n + 2], weights, strict=True):
                _add(builder, total, _maddubs(builder, sizes, builder.xor(row, signs)))
    return [builder.load(total) for total in sums]


def _add_block_of_nibbles(builder: Any, w: Any, places: list[Any], block: Any, sums: list[Any]) -> None:
    weights = _weights(builder, w, block)
    low_halves = [builder.and_(t, ir.Constant(WORDS, [0x0F0F0F0F] * 8)) for t in weights]
    for n, place in enumerate(places):
        second, crossed = _activations(builder, place, block)
        for total, t, low in zip(sums[2 * n : 2 * n + 2], weights, low_halves, strict=True):
            _add(builder, total, builder.add(_maddubs(builder, t, second), _maddubs(builder, low, crossed)))


def _part_of_nibbles(builder: Any, w: Any, places: list[Any], blocks: Any) -> list[Any]:
    sums = cleared(builder, 2 * len(places), WORDS)
    fours = builder.udiv(blocks, number(NARROW))
    with cgutils.for_range(builder, fours) as loop:
        narrow = cleared(builder, len(sums), SHORTS)
        for n in range(NARROW):
            block = moved(builder, builder.mul(loop.index, number(NARROW)), n)
            _add_block_of_nibbles(builder, w, places, block, narrow)
        for total, part in zip(sums, narrow, strict=True):
            _add(builder, total, builder.load(part))
    narrow = cleared(builder, len(sums), SHORTS)
    with cgutils.for_range(builder, blocks, start=builder.mul(fours, number(NARROW))) as loop:
        _add_block_of_nibbles(builder, w, places, loop.index, narrow)
    for total, part in zip(sums, narrow, strict=True):
        _add(builder, total, builder.load(part))
    return [builder.load(total) for total in sums]


def _finish(nibbles: bool) -> Any:
    def finish(builder: Any, x: list[Any], h: list[Any], places: list[Any], terms: Any) -> list[Any]:
        out = []
        for n, place in enumerate(places):
            total = _folded(builder, *x[2 * n : 2 * n + 2], *h[2 * n : 2 * n + 2])
            common = _load(builder, moved(builder, place, -32))
            if nibbles:  # as `fxp.kernels.rows.from_nibbles`
                total = builder.ashr(builder.sub(total, _load(builder, terms)), ir.Constant(WORDS, [4] * 8))
                out.append(builder.sub(total, common))
            else:
                out.append(builder.add(total, common))
        return out

    return finish


byte_rows = kernel_of(MOST, BLOCK, _part_of_bytes, _finish(nibbles=False))
nibble_rows = kernel_of(MOST, BLOCK, _part_of_nibbles, _finish(nibbles=True))
