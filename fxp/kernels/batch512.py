"""One element's rows for up to eight sequences with AVX-512 and VNNI: exact sums, to memory.

The weights lie as in `fxp.kernels.rows512`. A block's two vectors are loaded once and multiplied with the activations of each
sequence, so that a sequence costs a broadcast and two products a block (twice that for nibbles). There is one kernel for each number of
sequences, and the accumulators of all of them are registers.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from fxp.kernels.build import helper
from fxp.kernels.vector import BYTE, LONG, WORD, WORDS, _broadcast, _shuffle, _undefined, operation, pointer_to
from fxp.kernels.vector512 import LINE, _dot, _gates_added, _load, _pairs_added, _twice, either, lines, store, zero

MOST = 8  # sequences
BLOCK = 128  # bytes


def _filled(value: int) -> ir.Constant:
    return ir.Constant(LINE, [value] * 16)


def _part(builder: Any, nibbles: bool, w: Any, activations: list[Any], blocks: Any) -> list[Any]:
    """Sums of one part of the rows, two words' lanes a gate: two vectors a sequence, gates i and f, then g and o."""
    sums = [cgutils.alloca_once_value(builder, _filled(0)) for _ in range(2 * len(activations))]
    for total in sums:
        builder.store(_filled(0), total)
    with cgutils.for_range(builder, blocks) as loop:
        place = builder.add(w, builder.mul(loop.index, ir.Constant(LONG, BLOCK)))
        at = builder.mul(loop.index, ir.Constant(LONG, 64 if nibbles else 32))
        weights = [_load(builder, builder.add(place, ir.Constant(LONG, n))) for n in (0, 64)]
        for half in range(2 if nibbles else 1):
            for n, v in enumerate(activations):
                x = _twice(builder, builder.add(builder.add(v, at), ir.Constant(LONG, 32 * half)))
                for gates in range(2):
                    total = sums[2 * n + gates]
                    factors = (weights[gates], x) if nibbles else (x, weights[gates])
                    builder.store(_dot(builder, builder.load(total), *factors), total)
            weights = [builder.and_(v, _filled(0x0F0F0F0F)) for v in weights]
    return [builder.load(total) for total in sums]


def _element(count: int, nibbles: bool) -> Any:
    def generate(
        builder: Any, chosen: Any, w: Any, x_blocks: Any, h_blocks: Any, h_start: Any, v: Any, reach: Any, terms: Any,
        out: Any, step: Any,
    ) -> Any:
        numbers, one = [], ir.Constant(LONG, 1)
        for _ in range(count):
            numbers.append(builder.cttz(chosen, ir.Constant(ir.IntType(1), 1)))
            chosen = builder.and_(chosen, builder.sub(chosen, one))
        places = [builder.add(v, builder.mul(number, reach)) for number in numbers]
        x = _part(builder, nibbles, w, places, x_blocks)
        x = [_gates_added(builder, *x[n : n + 2]) for n in range(0, len(x), 2)]
        w = builder.add(w, builder.mul(x_blocks, ir.Constant(LONG, BLOCK)))
        h = _part(builder, nibbles, w, [builder.add(place, h_start) for place in places], h_blocks)
        h = [_gates_added(builder, *h[n : n + 2]) for n in range(0, len(h), 2)]
        half = builder.load(pointer_to(builder, terms, WORDS), align=1)
        excess = _shuffle(builder, half, _undefined(WORDS), list(range(8)) * 2)
        for n in range(0, count, 2):
            other = min(n + 1, count - 1)
            total = builder.sub(_pairs_added(builder, x[n], h[n], x[other], h[other]), excess)
            if nibbles:
                total = builder.ashr(total, _filled(4))
            for part, k in enumerate(range(n, min(n + 2, count))):
                words = _shuffle(builder, total, _undefined(LINE), list(range(8 * part, 8 * part + 8)))
                if nibbles:
                    before = builder.sub(places[k], ir.Constant(LONG, 32))
                    words = builder.sub(words, builder.load(pointer_to(builder, before, WORDS), align=1))
                place = builder.add(out, builder.mul(numbers[k], step))
                builder.store(words, pointer_to(builder, place, WORDS), align=1)
        return chosen

    return operation(generate, types.int64, *[types.int64] * 10)


def _kernel(count: int, nibbles: bool) -> Any:
    generated = _element(count, nibbles)

    @helper
    def element(chosen, w, x_blocks, h_blocks, h_start, v, reach, terms, out, step):
        return generated(chosen, w, x_blocks, h_blocks, h_start, v, reach, terms, out, step)

    return element


def _any(nibbles: bool) -> Any:
    one, two, three, four, five, six, seven, eight = (_kernel(count, nibbles) for count in range(1, MOST + 1))

    @helper
    def element(count, chosen, w, x_blocks, h_blocks, h_start, v, reach, terms, out, step):
        if count == 8:
            return eight(chosen, w, x_blocks, h_blocks, h_start, v, reach, terms, out, step)
        if count == 7:
            return seven(chosen, w, x_blocks, h_blocks, h_start, v, reach, terms, out, step)
        if count == 6:
            return six(chosen, w, x_blocks, h_blocks, h_start, v, reach, terms, out, step)
        if count == 5:
            return five(chosen, w, x_blocks, h_blocks, h_start, v, reach, terms, out, step)
        if count == 4:
            return four(chosen, w, x_blocks, h_blocks, h_start, v, reach, terms, out, step)
        if count == 3:
            return three(chosen, w, x_blocks, h_blocks, h_start, v, reach, terms, out, step)
        if count == 2:
            return two(chosen, w, x_blocks, h_blocks, h_start, v, reach, terms, out, step)
        return one(chosen, w, x_blocks, h_blocks, h_start, v, reach, terms, out, step)

    return element


bytes_of_element, nibbles_of_element = _any(False), _any(True)


def _marked(builder: Any, place: Any, number: Any) -> Any:
    flags = builder.load(pointer_to(builder, place, ir.VectorType(BYTE, 16)), align=1)
    shift = _broadcast(builder, builder.trunc(number, WORD), LINE)
    return builder.shl(builder.zext(flags, LINE), shift)


marked = operation(_marked, lines, types.int64, types.int64)
ones = operation(lambda b, v: b.ctpop(v), types.int64, types.int64)


@helper
def columns(flags, stride, count, size, out):
    """The flags of `count` sequences as the bits of a word an element."""
    for k in range(0, size, 16):
        word = zero()
        for g in range(count):
            word = either(word, marked(flags + g * stride + k, g))
        store(out + 4 * k, word)
