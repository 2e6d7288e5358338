"""The time loop with AVX2: products of a step by `fxp.kernels.rows`."""

from __future__ import annotations

import numpy as np

from fxp.kernels import batch256, rows, vector
from fxp.kernels.batch import many_sequences
from fxp.kernels.build import helper, inlined, kernel
from fxp.kernels.group import (
    GROUP,
    both_lists,
    gates_from_sums,
    load_group,
    load_rows,
    settle,
    steps_fixed,
    steps_float,
)  # fmt: skip

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
def store_bytes(total, terms, v, out):
    vector.store(out, total)


@inlined
def store_nibbles(total, terms, v, out):
    vector.store(out, rows.from_nibbles(total, terms, v))


@helper
def elements(pair, store, shape, order, count, base, stride, terms, v, out):
    """One sequence's elements in a padded list, two by two.

    pair, store : functions for rows of bytes or of nibbles; base, stride : address of the rows, bytes of an element's
    """
    k, j = vector.load_word(order), vector.load_word(order + 4)
    for n in range(0, count, 2):
        next_k, next_j = vector.load_word(order + 4 * n + 8), vector.load_word(order + 4 * n + 12)
        one, two = pair(base + k * stride, base + j * stride, v, (next_k - k) * stride, (next_j - j) * stride, shape)
        # The end of the list is its last element again.
        store(one, terms + 32 * k, v, out + 32 * k)
        store(two, terms + 32 * j, v, out + 32 * j)
        k, j = next_k, next_j


@inlined
def byte_elements(shape, order, count, base, stride, terms, v, out):
    elements(rows.high_pair, store_bytes, shape, order, count, base, stride, terms, v, out)


@inlined
def nibble_elements(shape, order, count, base, stride, terms, v, out):
    elements(rows.low_pair, store_nibbles, shape, order, count, base, stride, terms, v, out)


@inlined
def form(shape, backward, t, active, group, record, start, stop):
    """The sums of a step, of the elements from `start` to `stop`."""
    if active == 1:
        both_lists(byte_elements, nibble_elements, shape, group, start, stop, group.sums)
    else:
        many_sequences(batch256.byte_rows, batch256.nibble_rows, batch256.MOST, BYTES, shape, group, active, start, stop)


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
