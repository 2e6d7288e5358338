"""The time loop with AVX-512 and VNNI: products of a step by `fxp.kernels.rows512`."""

from __future__ import annotations

import numpy as np

from fxp.kernels import rows, rows512, vector
from fxp.kernels.build import helper, inlined, kernel
from fxp.kernels.group import (
    GROUP,
    gates_from_sums,
    load_group,
    load_rows,
    partition,
    row_of,
    split,
    steps_fixed,
    steps_float,
    summed,
)  # fmt: skip
from fxp.kernels.vector import add32, load, sub32
from fxp.kernels.vector512 import first_half, last_half

BYTES = 64  # bytes of the activations of 64 columns for rows of bytes
COLUMNS = rows512.COLUMNS
TILES = False


@inlined
def expand(source, pairs, high, low, shape):
    """Activations of both precisions from `64 * pairs` int8 at `source`; returns the sum that corrects rows of nibbles."""
    total = vector.zero()
    raised = vector.spread(np.int32(-2139062144))  # 128 in every byte
    for n in range(0, 64 * pairs, 64):
        first, last = load(source + n), load(source + n + 32)
        vector.store(high + n, vector.flip(first, raised))
        vector.store(high + n + 32, vector.flip(last, raised))
        first = vector.lower8(first, np.int32(shape.shift), np.int32(shape.low_top))
        last = vector.lower8(last, np.int32(shape.shift), np.int32(shape.low_top))
        if shape.nibbles:
            vector.store(low + n, last)
            vector.store(low + n + 32, vector.crossed8(first, last))
            total = add32(total, rows.sums_of_nibbles(first, last))
        else:
            vector.store(low + n, vector.flip(first, raised))
            vector.store(low + n + 32, vector.flip(last, raised))
    return vector.total32(total)


@helper
def prepare(shape, x, group, g):
    """Activations of one sequence's step at both precisions; x: address of its features."""
    vector.copy(group.source, x, shape.inputs)
    high = group.activations + g * group.reach + 64
    low = group.low_activations + g * group.low_reach + 64
    x_sum = expand(group.source, shape.x_pairs, high, low, shape)
    skip = 64 * shape.x_pairs
    h_sum = expand(group.h + 64 * g * shape.h_pairs, shape.h_pairs, high + skip, low + skip, shape)
    vector.store(low - 32, vector.halves(np.int32(x_sum), np.int32(h_sum)))


@inlined
def settle_bytes(total, terms, v, shape, out, overflows):
    vector.store(out, rows.settled(sub32(total, load(terms)), shape, overflows))


@inlined
def settle_nibbles(total, terms, v, shape, out, overflows):
    vector.store(out, rows.settled(rows.from_nibbles(total, terms, v), shape, overflows))


@helper
def elements(process, settle, shape, order, count, base, stride, terms, v, x_blocks, h_blocks, out, overflows):
    """One sequence's elements in a padded list, four at a time.

    process, settle : functions for rows of bytes or of nibbles; base, stride : address of the rows, bytes of an element's
    """
    h_start = 64 * shape.x_pairs
    for n in range(0, count, 4):
        a, b = vector.load_word(order + 4 * n), vector.load_word(order + 4 * n + 4)
        c, d = vector.load_word(order + 4 * n + 8), vector.load_word(order + 4 * n + 12)
        one, two = rows512.four_elements(
            process, base + a * stride, base + b * stride, base + c * stride, base + d * stride, v,
            x_blocks, h_blocks, h_start,
        )  # fmt: skip
        settle(first_half(one), terms + 32 * a, v, shape, out + 32 * a, overflows)
        if b != a:
            settle(last_half(one), terms + 32 * b, v, shape, out + 32 * b, overflows)
        if c != b:
            settle(first_half(two), terms + 32 * c, v, shape, out + 32 * c, overflows)
        if d != c:
            settle(last_half(two), terms + 32 * d, v, shape, out + 32 * d, overflows)


@inlined
def byte_elements(shape, order, count, base, stride, terms, v, out, overflows):
    elements(
        rows512.bytes_of_elements, settle_bytes, shape, order, count, base, stride, terms, v,
        shape.x_bytes, shape.h_bytes, out, overflows,
    )  # fmt: skip


@inlined
def nibble_elements(shape, order, count, base, stride, terms, v, out, overflows):
    elements(
        rows512.nibbles_of_elements, settle_nibbles, shape, order, count, base, stride, terms, v,
        shape.x_nibbles, shape.h_nibbles, out, overflows,
    )  # fmt: skip


@inlined
def one_sequence(shape, group, overflows):
    """All accumulators of the only sequence: first the high elements, then the low ones."""
    order = group.order
    low_order = order + 4 * (group.size + 16)
    high_count, low_count = split(group.low, shape.hidden, order, low_order, group.table)
    v, low_v, out = group.activations + 64, group.low_activations + 64, group.sums
    byte_elements(shape, order, high_count, shape.high, shape.high_stride, shape.high_terms, v, out, overflows)
    low, stride, terms = shape.low, shape.low_stride, shape.low_terms
    if shape.nibbles:
        nibble_elements(shape, low_order, low_count, low, stride, terms, low_v, out, overflows)
    else:
        byte_elements(shape, low_order, low_count, low, stride, terms, low_v, out, overflows)


@helper
def element(two, four, settle, shape, group, w, terms, v, reach, x_blocks, h_blocks, place, overflows, start, stop):
    """One element's rows at address w for the sequences in `order` from `start` to `stop`.

    two, four, settle : functions for rows of bytes or of nibbles; reach : bytes of a sequence's activations
    """
    step, h_start = 32 * group.size, 64 * shape.x_pairs
    for n in range(start, stop, 4):
        a, b, c, d = sequences(group.order, n, stop)
        if c == b:
            first = rows512.two_sequences(two, w, v + a * reach, v + b * reach, x_blocks, h_blocks, h_start)
            last = first
        else:
            first, last = rows512.four_sequences(
                four, w, v + a * reach, v + b * reach, v + c * reach, v + d * reach, x_blocks, h_blocks, h_start
            )
        settle(first_half(first), terms, v + a * reach, shape, place + a * step, overflows + 16 * a)
        if b != a:
            settle(last_half(first), terms, v + b * reach, shape, place + b * step, overflows + 16 * b)
        if c != b:
            settle(first_half(last), terms, v + c * reach, shape, place + c * step, overflows + 16 * c)
        if d != c:
            settle(last_half(last), terms, v + d * reach, shape, place + d * step, overflows + 16 * d)


@inlined
def byte_element(shape, group, w, terms, v, reach, place, overflows, start, stop):
    element(
        rows512.bytes_of_two, rows512.bytes_of_four, settle_bytes, shape, group, w, terms, v, reach,
        shape.x_bytes, shape.h_bytes, place, overflows, start, stop,
    )  # fmt: skip


@inlined
def nibble_element(shape, group, w, terms, v, reach, place, overflows, start, stop):
    element(
        rows512.nibbles_of_two, rows512.nibbles_of_four, settle_nibbles, shape, group, w, terms, v, reach,
        shape.x_nibbles, shape.h_nibbles, place, overflows, start, stop,
    )  # fmt: skip


@inlined
def sequences(order, n, stop):
    """Four numbers of a list from the n-th on; beyond its end the last one again."""
    last = stop - 1
    return (
        vector.load_word(order + 4 * n), vector.load_word(order + 4 * min(n + 1, last)),
        vector.load_word(order + 4 * min(n + 2, last)), vector.load_word(order + 4 * min(n + 3, last)),
    )  # fmt: skip


@inlined
def many_sequences(shape, group, active, overflows):
    """All accumulators of the first `active` sequences; overflows: address of the first one's count, 16 bytes apart."""
    v, reach = group.activations + 64, group.reach
    low_v, low_reach = group.low_activations + 64, group.low_reach
    for k in range(shape.hidden):
        first = partition(group.low + k, group.size, active, group.order)
        place = group.sums + 32 * k
        w, terms = shape.high + k * shape.high_stride, shape.high_terms + 32 * k
        byte_element(shape, group, w, terms, v, reach, place, overflows, 0, first)
        w, terms = shape.low + k * shape.low_stride, shape.low_terms + 32 * k
        if shape.nibbles:
            nibble_element(shape, group, w, terms, low_v, low_reach, place, overflows, first, active)
        else:
            byte_element(shape, group, w, terms, low_v, low_reach, place, overflows, first, active)


@inlined
def products(shape, group, active, overflows):
    if active == 1:
        one_sequence(shape, group, overflows)
    else:
        many_sequences(shape, group, active, overflows)


@inlined
def form(shape, backward, t, active, group, record):
    """The sums of a step."""
    for g in range(active):
        prepare(shape, record.x + row_of(group, g, backward, t) * shape.inputs, group, g)
    products(shape, group, active, group.tally + 8)


@kernel
def run_float(parameters, backward, top, x, hidden, plan, cell, accumulators):
    steps_float(form, gates_from_sums, parameters, backward, top, x, hidden, plan, cell, accumulators)


@kernel
def run_fixed(parameters, backward, top, x, hidden, plan, cell, accumulators):
    steps_fixed(form, summed, parameters, backward, top, x, hidden, plan, cell, accumulators)


@kernel
def products_only(parameters, x, rounds):
    """The products of one step of all sequences with features x int8 [G, N], `rounds` times, without anything else (for
    measurements)."""
    place = parameters.ctypes.data
    shape, group = load_rows(place), load_group(place + GROUP)
    for g in range(group.count):
        prepare(shape, x.ctypes.data + g * shape.inputs, group, g)
    for _ in range(rounds):
        products(shape, group, group.count, group.tally + 8)
