"""The time loop with AMX: products of many columns by tiles, of a single one by `fxp.kernels.rows512`.

A tile instruction forms 16 sums of 16 columns (sequences or steps) from 64 products each, sixteen times as fast as vectors do, so the
sums of both precisions are formed and each element's chosen afterwards.

- *The x parts* of the next steps of all sequences are formed at once: what they need is known, but for the masks.
- *The h parts* of several sequences are formed by tiles, too. One sequence has a single column, and reading the weights is what takes
  time: there each element's rows are read at the precision that it asks for.

Weights lie as the tiles read them (`fxp.packed`): 1 KiB holds 64 columns of four elements' rows, two of these one after the other
are a block. Low weights of up to 4 bits lie two in a byte and are unpacked while the high ones are multiplied: reading the weights
takes longer than multiplying.
"""

from __future__ import annotations

import numpy as np

from fxp.kernels import rows, rows512, tiles, unit512, vector, vector512, wide
from fxp.kernels.build import helper, inlined, kernel
from fxp.kernels.group import GROUP, both_lists, load_group, load_rows, row_of, steps_fixed, steps_float
from fxp.kernels.vector import load, sub32
from fxp.kernels.vnni import expand

BYTES = 64  # bytes of the activations of 64 columns for rows of bytes
COLUMNS = rows512.COLUMNS
TILES = True
BOTH, HIGH, LOW = 0, 1, 2  # precisions that a call wants
BLOCK = 2048  # bytes of the weights of eight elements and 64 columns
AHEAD = 2 * BLOCK  # by how much weights are fetched ahead of their use
RING = 8  # blocks of unpacked weights that are kept
NEAR = 4  # blocks up to which weights are still in the first-level cache for the next columns
NEARBY, FETCHED, PACKED, UNPACKED = 0, 1, 2, 3
"""Weights in the first-level cache; such as are fetched ahead; packed ones; such as are in the ring already."""


@inlined
def unpack(packed, ring, pair, first):
    """Sixteen lines of a pair of blocks of packed low weights into the ring."""
    source, target = packed + BLOCK * pair + 64 * first, ring + BLOCK * (2 * pair & RING - 1) + 64 * first
    for n in range(0, 1024, 64):
        both = vector512.load(source + n)
        vector512.store(target + n, vector512.first_nibbles(both))
        vector512.store(target + BLOCK + n, vector512.last_nibbles(both))


@inlined
def ready(weights, form, ring, block, blocks):
    """Address of a block of weights; those ahead are fetched, as loads of tiles wait for every line of their own, or unpacked."""
    if form == FETCHED:
        for n in range(0, BLOCK, 64):
            vector.prefetch(weights + AHEAD + BLOCK * block + n)
    elif form == PACKED and (block | 1) + 1 < blocks:
        unpack(weights, ring, (block >> 1) + 1, 16 * (block & 1))
    if form >= PACKED:
        return ring + BLOCK * (block & RING - 1)
    return weights + BLOCK * block


@inlined
def sixteen_columns(place, stride, blocks, weights, others, form, ring, out, wide):
    """Sums of two times eight elements' rows for 16 columns of `64 * blocks` int8 from address `place`, `stride` bytes apart."""
    others_ring = ring + RING * BLOCK
    if form == PACKED:
        for first in (0, 16):
            unpack(weights, ring, 0, first)
            unpack(others, others_ring, 0, first)
    tiles.zero_0()
    tiles.zero_1()
    tiles.zero_2()
    tiles.zero_3()
    for block in range(blocks):
        tiles.load_4(place, stride)
        source = ready(weights, form, ring, block, blocks)
        tiles.load_5(source, 64)
        tiles.add_0_45()
        tiles.load_6(source + 1024, 64)
        tiles.add_1_46()
        source = ready(others, form, others_ring, block, blocks)
        tiles.load_7(source, 64)
        tiles.add_2_47()
        tiles.load_5(source + 1024, 64)
        tiles.add_3_45()
        place += 64
    tiles.store_0(out, wide)
    tiles.store_1(out + 64, wide)
    tiles.store_2(out + 128, wide)
    tiles.store_3(out + 192, wide)


@helper
def multiply(place, blocks, columns, weights, packed, hidden, ring, out, wide):
    """Sums int32 of all rows for `columns` columns, filled up to sixteen: `wide` bytes a column, four words an element.

    packed : the weights are low ones, two in a byte
    """
    stride, size = 64 * blocks, BLOCK * blocks
    form = again = FETCHED
    if packed:
        size = BLOCK * ((blocks + 1) >> 1)
        form = again = PACKED
        if blocks <= RING:
            again = UNPACKED
    elif blocks <= NEAR:
        again = NEARBY
    for _ in range(0, hidden, 16):
        for column in range(0, columns, 16):
            sixteen_columns(
                place + column * stride, stride, blocks, weights, weights + size, again if column else form, ring,
                out + column * wide, wide,
            )  # fmt: skip
        weights += 2 * size
        out += 256


@helper
def lowered(source, size, target, shape):
    """Low indices of `size` int8, a multiple of 32."""
    for n in range(0, size, 32):
        values = vector.lower8(load(source + n), np.int32(shape.shift), np.int32(shape.low_top))
        vector.store(target + n, values)


@helper
def x_parts(shape, backward, t, active, group, record):
    """Sums of the x parts of both precisions for all steps from t on that are formed at once."""
    size = 64 * shape.x_pairs
    for g in range(active):
        steps = min(group.ahead, vector.load_long(group.offsets + 8 * g + 8) - vector.load_long(group.offsets + 8 * g) - t)
        for s in range(steps):
            place = group.x_high + (g * group.ahead + s) * size
            vector.copy(place, record.x + row_of(group, g, backward, t + s) * shape.inputs, shape.inputs)
    multiply_x(shape, active, group)


@inlined
def multiply_x(shape, active, group):
    columns, blocks = active * group.ahead, shape.x_pairs
    out, wide = group.x_sums, group.wide
    if group.wanted != LOW:
        multiply(group.x_high, blocks, columns, shape.x_tiles, False, shape.hidden, group.ring, out, wide)
    if group.wanted != HIGH:
        lowered(group.x_high, columns * 64 * blocks, group.x_low, shape)
        out, packed = out + group.x_reach, shape.nibbles != 0
        multiply(group.x_low, blocks, columns, shape.low_x_tiles, packed, shape.hidden, group.ring, out, wide)


@inlined
def h_parts(shape, active, group):
    """Sums of the h parts of both precisions, each if an element asks for it."""
    low, blocks, out, wide = np.int64(0), shape.h_pairs, group.h_sums, group.wide
    for g in range(active):
        flags = group.low + g * group.size
        for n in range(0, shape.hidden, 8):
            low += vector.ones_of(vector.load_long(flags + n))
    if low < active * shape.hidden:
        multiply(group.h, blocks, active, shape.h_tiles, False, shape.hidden, group.ring, out, wide)
    if low:
        lowered(group.h, active * 64 * blocks, group.h_low, shape)
        out, packed = out + group.h_reach, shape.nibbles != 0
        multiply(group.h_low, blocks, active, shape.low_h_tiles, packed, shape.hidden, group.ring, out, wide)


@inlined
def x_place(group, g, t):
    """Address of the sums of a sequence's x parts in its t-th processed step, at high precision."""
    return group.x_sums + (g * group.ahead + t % group.ahead) * group.wide


@inlined
def gates(shape, constants, group, g, t, record, start, stop):
    """A sequence's pre-activations."""
    flags, row = group.low + g * group.size, 4 * group.size
    if shape.overflow != 0 or record.accumulators != 0:
        settle(shape, group, g, t, start, stop)
        wide.gates_float(constants, start, stop, group.size, group.sums + 32 * g * group.size, flags, group.z)
    elif group.alone:
        unit512.gates_of_one(
            constants, shape.hidden, row, flags, x_place(group, 0, t), group.x_reach, group.h_sums, group.z
        )
    else:
        unit512.gates_of_many(
            constants, shape.hidden, row, flags, x_place(group, g, t), group.x_reach, group.h_sums + g * group.wide,
            group.h_reach, group.z,
        )  # fmt: skip


@helper
def settle(shape, group, g, t, start, stop):
    """A sequence's accumulators in `group.sums`, element by element."""
    flags, x, out = group.low + g * group.size, x_place(group, g, t), group.sums + 32 * g * group.size
    for k in range(start, min(stop, shape.hidden)):
        low, sixteen, place = vector.load_byte(flags + k), 256 * (k >> 4), out + 32 * k
        x_part = x + low * group.x_reach + sixteen + 4 * (k & 15)
        if group.alone:
            h_part, apart = group.h_sums + element_place(k), np.int64(4)
        else:
            h_part, apart = group.h_sums + g * group.wide + low * group.h_reach + sixteen + 4 * (k & 15), np.int64(64)
        for gate in range(4):
            vector.store_word(place + 4 * gate, vector.load_word(x_part + 64 * gate))
            vector.store_word(place + 16 + 4 * gate, vector.load_word(h_part + apart * gate))
        vector.store(place, rows.settled(load(place), shape, group.overflows + 8 * g))


# One sequence


@inlined
def element_place(k):
    """Where the sums of an element's h part lie, by elements (`fxp.kernels.unit512`)."""
    return 256 * (k >> 4) + 64 * (k & 3) + 16 * (k >> 2 & 3)


@inlined
def store_bytes(total, terms, v, out):
    vector.store_last(out, sub32(total, load(terms)))


@inlined
def store_nibbles(total, terms, v, out):
    vector.store_last(out, rows.from_nibbles(total, terms, v))


@helper
def elements(process, store, order, count, base, stride, terms, v, blocks, out):
    """h parts of the elements in a padded list, four at a time.

    process, store : functions for rows of bytes or of nibbles; base, stride : address of the rows, bytes of an element's
    """
    for n in range(0, count, 4):
        a, b = vector.load_word(order + 4 * n), vector.load_word(order + 4 * n + 4)
        c, d = vector.load_word(order + 4 * n + 8), vector.load_word(order + 4 * n + 12)
        e, f, g, h, i, j, k, m = process(
            base + a * stride, base + b * stride, base + c * stride, base + d * stride, v, blocks
        )
        total = vector512.folded(e, f, g, h, i, j, k, m)
        store(vector512.element_0(total), terms + 32 * a, v, out + element_place(a))
        store(vector512.element_1(total), terms + 32 * b, v, out + element_place(b))
        store(vector512.element_2(total), terms + 32 * c, v, out + element_place(c))
        store(vector512.element_3(total), terms + 32 * d, v, out + element_place(d))


@inlined
def byte_elements(shape, order, count, base, stride, terms, v, out):
    elements(rows512.bytes_of_elements, store_bytes, order, count, base, stride, terms, v, shape.h_bytes, out)


@inlined
def nibble_elements(shape, order, count, base, stride, terms, v, out):
    elements(rows512.nibbles_of_elements, store_nibbles, order, count, base, stride, terms, v, shape.h_nibbles, out)


@inlined
def one_sequence(shape, group):
    """h parts of the only sequence by elements: first the high elements, then the low ones."""
    v, low_v = group.activations + 64, group.low_activations + 64
    total = expand(group.h, shape.h_pairs, v, low_v, shape)
    vector.store(low_v - 32, vector.halves(np.int32(0), np.int32(total)))
    both_lists(byte_elements, nibble_elements, shape, group, 0, group.size, group.h_sums)


@inlined
def prepare(shape, x, group, g):
    """Nothing: that is part of `form`, for several steps at once."""


@inlined
def form(shape, backward, t, active, group, record, start, stop):
    """The sums of a step: x parts by gates at both precisions, h parts too, or by elements where `group.alone`."""
    if t % group.ahead == 0:
        x_parts(shape, backward, t, active, group, record)
    if group.alone:
        one_sequence(shape, group)
    else:
        h_parts(shape, active, group)


@kernel
def run_float(parameters, backward, top, x, hidden, plan, cell, accumulators):
    tiles.configure(load_group(parameters.ctypes.data + GROUP).configuration)
    steps_float(prepare, form, gates, parameters, backward, top, x, hidden, plan, cell, accumulators)
    tiles.release()


@kernel
def run_fixed(parameters, backward, top, x, hidden, plan, cell, accumulators):
    tiles.configure(load_group(parameters.ctypes.data + GROUP).configuration)
    steps_fixed(prepare, form, settle, parameters, backward, top, x, hidden, plan, cell, accumulators)
    tiles.release()


@kernel
def products_only(parameters, x, rounds):
    """The products of one step of all sequences with features x int8 [G, N], `rounds` times, without anything else (for
    measurements)."""
    place = parameters.ctypes.data
    shape, group = load_rows(place), load_group(place + GROUP)
    tiles.configure(group.configuration)
    for column in range(group.count * group.ahead):
        target = group.x_high + column * 64 * shape.x_pairs
        vector.copy(target, x.ctypes.data + column // group.ahead * shape.inputs, shape.inputs)
    for t in range(rounds):
        if t % group.ahead == 0:
            multiply_x(shape, group.count, group)
        if group.alone:
            one_sequence(shape, group)
        else:
            h_parts(shape, group.count, group)
    for g in range(group.count):
        settle(shape, group, g, 0, 0, group.size)
    tiles.release()
