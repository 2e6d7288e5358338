"""One element's rows for several sequences at once: exact sums, to memory.

A block of the rows is loaded once and multiplied with the activations of each sequence. There is one kernel for each number of
sequences up to a most, and the accumulators of all of them are registers. Which sequences they are is said by the bits of a word.

An instruction set adds how a part's products are formed and how their sums are finished (`fxp.kernels.batch256`, `batch512`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from fxp.kernels import vector
from fxp.kernels.build import helper, inlined
from fxp.kernels.vector import BYTE, LONG, WORD, operation, pointer_to

_MARKS = ir.VectorType(WORD, 16)


def number(value: int) -> ir.Constant:
    return ir.Constant(LONG, value)


def moved(builder: Any, place: Any, offset: int) -> Any:
    return builder.add(place, number(offset))


def cleared(builder: Any, count: int, kind: Any) -> list[Any]:
    """Variables that are zero; they become registers."""
    variables = [cgutils.alloca_once(builder, kind) for _ in range(count)]
    for variable in variables:
        builder.store(ir.Constant(kind, [0] * kind.count), variable)
    return variables


def _sums(
    builder: Any, count: int, block: int, part: Callable[..., Any], finish: Callable[..., Any], chosen: Any, w: Any,
    x_blocks: Any, h_blocks: Any, h_start: Any, v: Any, reach: Any, terms: Any, out: Any, step: Any,
) -> Any:  # fmt: skip
    """Code for one number of sequences; see `kernel_of`."""
    sequences = []
    for _ in range(count):
        sequences.append(builder.cttz(chosen, ir.Constant(ir.IntType(1), 1)))
        chosen = builder.and_(chosen, builder.sub(chosen, number(1)))
    places = [builder.add(v, builder.mul(g, reach)) for g in sequences]
    x = part(builder, w, places, x_blocks)
    w = builder.add(w, builder.mul(x_blocks, number(block)))
    h = part(builder, w, [builder.add(place, h_start) for place in places], h_blocks)
    for g, total in zip(sequences, finish(builder, x, h, places, terms), strict=True):
        target = builder.add(out, builder.mul(g, step))
        builder.store(total, pointer_to(builder, target, total.type), align=1)
    return chosen


def _function(module: Any, count: int, block: int, part: Callable[..., Any], finish: Callable[..., Any]) -> Any:
    """`_sums` as a function of its own, which has all registers for itself."""
    kind = ir.FunctionType(LONG, [LONG] * 10)
    function = ir.Function(module, kind, module.get_unique_name(f"rows_of_{count}"))
    function.linkage = "internal"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret(_sums(builder, count, block, part, finish, *function.args))
    return function


def kernel_of(most: int, block: int, part: Callable[..., Any], finish: Callable[..., Any]) -> Any:
    """A kernel for up to `most` sequences, whose first argument is how many.

    Parameters
    ----------
    block : bytes of a block of the rows
    part : from (builder, address of rows, addresses of activations, blocks) to the sums of one part of the rows
    finish : from (builder, sums of x parts, of h parts, addresses of activations, of the element's terms) to the eight sums
        of each sequence, an LLVM vector

    Returns
    -------
    Function of (count, chosen, w, x_blocks, h_blocks, h_start, v, reach, terms, out, step): for the first `count` sequences whose
    bits are set in `chosen`, the eight sums of the element with rows at address w to address out + g * step;
    activations at v + g * reach, those of the h part h_start further on. Returns the bits that are left.
    """

    def generate(builder: Any, count: Any, *arguments: Any) -> Any:
        end = builder.append_basic_block()
        cases = [builder.append_basic_block() for _ in range(most)]
        switch = builder.switch(count, cases[-1])
        left = []
        for n, case in enumerate(cases, 1):
            switch.add_case(number(n), case)
            builder.position_at_end(case)
            left.append(builder.call(_function(builder.module, n, block, part, finish), arguments))
            builder.branch(end)
        builder.position_at_end(end)
        result = builder.phi(LONG)
        for value, case in zip(left, cases, strict=True):
            result.add_incoming(value, case)
        return result

    sums = operation(generate, types.int64, *[types.int64] * 11)

    @helper
    def kernel(count, chosen, w, x_blocks, h_blocks, h_start, v, reach, terms, out, step):
        return sums(count, chosen, w, x_blocks, h_blocks, h_start, v, reach, terms, out, step)

    return kernel


def _marked(builder: Any, word: Any, flags: Any, sequence: Any) -> None:
    """Adds sixteen flags to words at the place of a sequence's bit."""
    marks = builder.zext(builder.load(pointer_to(builder, flags, ir.VectorType(BYTE, 16)), align=1), _MARKS)
    shift = vector._broadcast(builder, builder.trunc(sequence, WORD), _MARKS)
    place = pointer_to(builder, word, _MARKS)
    builder.store(builder.or_(builder.load(place, align=1), builder.shl(marks, shift)), place, align=1)


marked = operation(_marked, types.void, *[types.int64] * 3)
set_bits = operation(lambda b, v: b.ctpop(v), types.int64, types.int64)


@helper
def columns(flags, stride, count, start, stop, out):
    """The flags of `count` sequences as the bits of a word an element, sixteen elements at a time."""
    for k in range(start, stop, 16):
        vector.clear(out + 4 * k, 64)
        for g in range(count):
            marked(out + 4 * k, flags + g * stride + k, g)


@inlined
def rows_of(kernel, most, group, chosen, w, x_blocks, h_blocks, h_start, v, reach, terms, out):
    """One element's rows for all sequences whose bits are set, the last two pieces alike."""
    count = set_bits(chosen)
    while count:
        now = min(count if count <= most else (count + 1) >> 1, most)
        chosen = kernel(now, chosen, w, x_blocks, h_blocks, h_start, v, reach, terms, out, 32 * group.size)
        count -= now


@inlined
def many_sequences(byte_kernel, nibble_kernel, most, width, shape, group, active, start, stop):
    """The sums of the elements from `start` to `stop` for the first `active` sequences.

    width : bytes of the activations of 64 columns for rows of bytes
    """
    v, reach = group.activations + 64, group.reach
    low_v, low_reach = group.low_activations + 64, group.low_reach
    h_start = width * shape.x_pairs
    columns(group.low, group.size, active, start, stop, group.order)
    everyone = (np.int64(1) << active) - 1
    for k in range(start, min(stop, shape.hidden)):
        low = vector.load_word(group.order + 4 * k)
        out = group.sums + 32 * k
        w, terms = shape.high + k * shape.high_stride, shape.high_terms + 32 * k
        rows_of(
            byte_kernel, most, group, everyone ^ low, w, shape.x_bytes, shape.h_bytes, h_start, v, reach, terms, out
        )
        w, terms = shape.low + k * shape.low_stride, shape.low_terms + 32 * k
        if shape.nibbles:
            rows_of(
                nibble_kernel, most, group, low, w, shape.x_nibbles, shape.h_nibbles, 64 * shape.x_pairs,
                low_v, low_reach, terms, out,
            )  # fmt: skip
        else:
            rows_of(
                byte_kernel, most, group, low, w, shape.x_bytes, shape.h_bytes, h_start, low_v, low_reach, terms, out
            )
