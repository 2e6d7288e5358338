"""The time loop with AVX-512 and VNNI: products of a step by `fxp.kernels.rows512`."""

from __future__ import annotations

import numpy as np

from fxp.kernels import batch512, rows, rows512, vector
from fxp.kernels.batch import many_sequences
from fxp.kernels.build import helper, inlined, kernel
from fxp.kernels.group import (
    GROUP,
    gates_from_sums,
    load_group,
    load_rows,
    settle,
    split,
    steps_fixed,
    steps_float,
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
def store_bytes(total, terms, v, out):
    vector.store(out, sub32(total, load(terms)))


@inlined
def store_nibbles(total, terms, v, out):
    vector.store(out, rows.from_nibbles(total, terms, v))


@helper
def elements(process, store, shape, back, order, count, base, stride, terms, v, x_blocks, h_blocks, out):
    """One sequence's elements in a padded list, four at a time.

    process, store : functions for rows of bytes or of nibbles; base, stride : address of the rows, bytes of an element's
    back : from the last element to the first
    """
    h_start = 64 * shape.x_pairs
    n, step = ((count - 1) & ~3, -4) if back else (0, 4)
    for _ in range(0, count, 4):
        a, b = vector.load_word(order + 4 * n), vector.load_word(order + 4 * n + 4)
        c, d = vector.load_word(order + 4 * n + 8), vector.load_word(order + 4 * n + 12)
        one, two = rows512.four_elements(
            process, base + a * stride, base + b * stride, base + c * stride, base + d * stride, v,
            x_blocks, h_blocks, h_start,
        )  # fmt: skip
        # The end of the list is its last element again.
        store(first_half(one), terms + 32 * a, v, out + 32 * a)
        store(last_half(one), terms + 32 * b, v, out + 32 * b)
        store(first_half(two), terms + 32 * c, v, out + 32 * c)
        store(last_half(two), terms + 32 * d, v, out + 32 * d)
        n += step


@inlined
def byte_elements(shape, back, order, count, base, stride, terms, v, out):
    elements(
        rows512.bytes_of_elements, store_bytes, shape, back, order, count, base, stride, terms, v,
        shape.x_bytes, shape.h_bytes, out,
    )  # fmt: skip


@inlined
def nibble_elements(shape, back, order, count, base, stride, terms, v, out):
    elements(
        rows512.nibbles_of_elements, store_nibbles, shape, back, order, count, base, stride, terms, v,
        shape.x_nibbles, shape.h_nibbles, out,
    )  # fmt: skip


@inlined
def one_sequence(shape, group, back, start, stop):
    """The sums of the only sequence, of the elements from `start` to `stop`: first the high elements, then the low ones, or the other way round.

    back : in every other step, as the rows that were read last are still in the second-level cache
    """
    order = group.order
    low_order = order + 4 * (group.size + 16)
    high_count, low_count = split(group.low, start, min(stop, shape.hidden), order, low_order, group.table)
    v, low_v, out = group.activations + 64, group.low_activations + 64, group.sums
    low, stride, terms = shape.low, shape.low_stride, shape.low_terms
    for part in range(2):
        if part == back:
            byte_elements(shape, back, order, high_count, shape.high, shape.high_stride, shape.high_terms, v, out)
        elif shape.nibbles:
            nibble_elements(shape, back, low_order, low_count, low, stride, terms, low_v, out)
        else:
            byte_elements(shape, back, low_order, low_count, low, stride, terms, low_v, out)


@inlined
def form(shape, backward, t, active, group, record, start, stop):
    """The sums of a step, of the elements from `start` to `stop`."""
    if active == 1:
        one_sequence(shape, group, t & 1, start, stop)
    else:
        many_sequences(batch512.byte_rows, batch512.nibble_rows, batch512.MOST, BYTES, shape, group, active, start, stop)


@kernel
def run_float(parameters, backward, top, x, hidden, plan, cell, accumulators):
    steps_float(prepare, form, gates_from_sums, parameters, backward, top, x, hidden, plan, cell, accumulators)


@kernel
def run_fixed(parameters, backward, top, x, hidden, plan, cell, accumulators):
    steps_fixed(prepare, form, settle, parameters, backward, top, x, hidden, plan, cell, accumulators)


@kernel
def products_only(parameters, x, rounds):
    """The products of one step of all sequences with features x int8 [G, N], `rounds` times, without anything else (for
    measurements)."""
    place = parameters.ctypes.data
    shape, group = load_rows(place), load_group(place + GROUP)
    for g in range(group.count):
        prepare(shape, x.ctypes.data + g * shape.inputs, group, g)
    for n in range(rounds):
        form(shape, False, n, group.count, group, None, 0, group.size)
