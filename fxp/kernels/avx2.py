"""The time loop with AVX2: products of a step by `fxp.kernels.rows`."""

from __future__ import annotations

import numpy as np

from fxp.kernels import rows, vector
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
from fxp.kernels.vector import add32, load

BYTES = 128  # bytes of the activations of 64 columns for rows of bytes
COLUMNS = rows.COLUMNS
TILES = False


@helper
def prepare(shape, x, group, g):
    """Activations of one sequence's step at both precisions; x: address of its features."""
    vector.copy(group.source, x, shape.inputs)
    high = group.activations + g * group.reach + 64
    low = group.low_activations + g * group.low_reach + 64
    low_bytes = 64 if shape.nibbles else 128
    x_sums = rows.expand(group.source, shape.x_pairs, high, low, shape)
    h = group.h + 64 * g * shape.h_pairs
    h_sums = rows.expand(h, shape.h_pairs, high + 128 * shape.x_pairs, low + low_bytes * shape.x_pairs, shape)
    vector.store(high - 32, vector.halves(np.int32(x_sums[0]), np.int32(h_sums[0])))
    vector.store(low - 32, vector.halves(np.int32(x_sums[1]), np.int32(h_sums[1])))


@inlined
def accumulate_one(shape, group, g, overflows):
    """All accumulators of one sequence: first the high elements, then the low ones."""
    order = group.order
    low_order = order + 4 * (group.size + 16)
    high_count, low_count = split(group.low + g * group.size, shape.hidden, order, low_order, group.table)
    v = group.activations + g * group.reach + 64
    out = group.sums + 32 * g * group.size
    byte_elements(shape, order, high_count, shape.high, shape.high_stride, v, out, overflows)
    v = group.low_activations + g * group.low_reach + 64
    if shape.nibbles:
        nibble_elements(shape, low_order, low_count, v, out, overflows)
    else:
        byte_elements(shape, low_order, low_count, shape.low, shape.low_stride, v, out, overflows)


@helper
def byte_elements(shape, order, count, base, stride, v, out, overflows):
    """One sequence's elements in a padded list, two by two, from rows of bytes at address base."""
    k, j = vector.load_word(order), vector.load_word(order + 4)
    for n in range(0, count, 2):
        next_k, next_j = vector.load_word(order + 4 * n + 8), vector.load_word(order + 4 * n + 12)
        one, two = rows.high_pair(
            base + k * stride, base + j * stride, v, (next_k - k) * stride, (next_j - j) * stride, shape
        )
        vector.store(out + 32 * k, rows.settled(one, shape, overflows))
        if k != j:
            vector.store(out + 32 * j, rows.settled(two, shape, overflows))
        k, j = next_k, next_j


@helper
def nibble_elements(shape, order, count, v, out, overflows):
    """The same from rows of nibbles."""
    base, stride = shape.low, shape.low_stride
    k, j = vector.load_word(order), vector.load_word(order + 4)
    for n in range(0, count, 2):
        next_k, next_j = vector.load_word(order + 4 * n + 8), vector.load_word(order + 4 * n + 12)
        one, two = rows.low_pair(
            base + k * stride, base + j * stride, v, (next_k - k) * stride, (next_j - j) * stride, shape
        )
        one = rows.from_nibbles(one, shape.low_terms + 32 * k, v)
        vector.store(out + 32 * k, rows.settled(one, shape, overflows))
        if k != j:
            two = rows.from_nibbles(two, shape.low_terms + 32 * j, v)
            vector.store(out + 32 * j, rows.settled(two, shape, overflows))
        k, j = next_k, next_j


@inlined
def settle(total, shape, group, place, overflows, g):
    vector.store(place + 32 * g * group.size, rows.settled(total, shape, overflows + 16 * g))


@inlined
def settle_bytes(total, v, shape, group, place, overflows, g):
    settle(add32(total, load(v - 32)), shape, group, place, overflows, g)


@helper
def byte_element(shape, group, w, v, reach, place, overflows, start, stop):
    """One element's byte rows at address w for the sequences in `order` from `start` to `stop`."""
    order = group.order
    x_blocks, h_blocks, h_start = shape.x_bytes, shape.h_bytes, 128 * shape.x_pairs
    n = start
    while stop - n >= 4:
        a, b = vector.load_word(order + 4 * n), vector.load_word(order + 4 * n + 4)
        c, d = vector.load_word(order + 4 * n + 8), vector.load_word(order + 4 * n + 12)
        at_a, at_b, at_c, at_d = v + a * reach, v + b * reach, v + c * reach, v + d * reach
        one, two, three, four = rows.element_of_four(
            rows.bytes_of_four, w, at_a, at_b, at_c, at_d, x_blocks, h_blocks, h_start
        )
        settle_bytes(one, at_a, shape, group, place, overflows, a)
        settle_bytes(two, at_b, shape, group, place, overflows, b)
        settle_bytes(three, at_c, shape, group, place, overflows, c)
        settle_bytes(four, at_d, shape, group, place, overflows, d)
        n += 4
    if stop - n >= 2:
        a, b = vector.load_word(order + 4 * n), vector.load_word(order + 4 * n + 4)
        at_a, at_b = v + a * reach, v + b * reach
        one, two = rows.element_of_two(rows.bytes_of_two, w, at_a, at_b, x_blocks, h_blocks, h_start)
        settle_bytes(one, at_a, shape, group, place, overflows, a)
        settle_bytes(two, at_b, shape, group, place, overflows, b)
        n += 2
    if n < stop:
        a = vector.load_word(order + 4 * n)
        at_a = v + a * reach
        one = rows.element_of_one(rows.bytes_of_one, w, at_a, x_blocks, h_blocks, h_start)
        settle_bytes(one, at_a, shape, group, place, overflows, a)


@inlined
def settle_nibbles(total, v, terms, shape, group, place, overflows, g):
    settle(rows.from_nibbles(total, terms, v), shape, group, place, overflows, g)


@helper
def nibble_element(shape, group, w, v, reach, terms, place, overflows, start, stop):
    """The same for nibble rows."""
    order = group.order
    x_blocks, h_blocks, h_start = shape.x_nibbles, shape.h_nibbles, 64 * shape.x_pairs
    n = start
    while stop - n >= 4:
        a, b = vector.load_word(order + 4 * n), vector.load_word(order + 4 * n + 4)
        c, d = vector.load_word(order + 4 * n + 8), vector.load_word(order + 4 * n + 12)
        at_a, at_b, at_c, at_d = v + a * reach, v + b * reach, v + c * reach, v + d * reach
        one, two, three, four = rows.element_of_four(
            rows.nibbles_of_four, w, at_a, at_b, at_c, at_d, x_blocks, h_blocks, h_start
        )
        settle_nibbles(one, at_a, terms, shape, group, place, overflows, a)
        settle_nibbles(two, at_b, terms, shape, group, place, overflows, b)
        settle_nibbles(three, at_c, terms, shape, group, place, overflows, c)
        settle_nibbles(four, at_d, terms, shape, group, place, overflows, d)
        n += 4
    if stop - n >= 2:
        a, b = vector.load_word(order + 4 * n), vector.load_word(order + 4 * n + 4)
        at_a, at_b = v + a * reach, v + b * reach
        one, two = rows.element_of_two(rows.nibbles_of_two, w, at_a, at_b, x_blocks, h_blocks, h_start)
        settle_nibbles(one, at_a, terms, shape, group, place, overflows, a)
        settle_nibbles(two, at_b, terms, shape, group, place, overflows, b)
        n += 2
    if n < stop:
        a = vector.load_word(order + 4 * n)
        at_a = v + a * reach
        one = rows.element_of_one(rows.nibbles_of_one, w, at_a, x_blocks, h_blocks, h_start)
        settle_nibbles(one, at_a, terms, shape, group, place, overflows, a)


@inlined
def accumulate(shape, group, active, overflows):
    """All accumulators of the first `active` sequences; overflows: address of the first one's count, 16 bytes apart."""
    v = group.activations + 64
    low_v, reach, low_reach = group.low_activations + 64, group.reach, group.low_reach
    for k in range(shape.hidden):
        first = partition(group.low + k, group.size, active, group.order)
        place = group.sums + 32 * k
        byte_element(shape, group, shape.high + k * shape.high_stride, v, reach, place, overflows, 0, first)
        if shape.nibbles:
            w, terms = shape.low + k * shape.low_stride, shape.low_terms + 32 * k
            nibble_element(shape, group, w, low_v, low_reach, terms, place, overflows, first, active)
        else:
            byte_element(shape, group, shape.low + k * shape.low_stride, low_v, low_reach, place, overflows, first, active)


@inlined
def products(shape, group, active, overflows):
    if active == 1:
        accumulate_one(shape, group, 0, overflows)
    else:
        accumulate(shape, group, active, overflows)


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
