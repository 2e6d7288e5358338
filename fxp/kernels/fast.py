"""The time loop with AVX2: a group of sequences in lock-step through one direction of one layer.

The sequences decide on their own; each row is fetched once for all of a group that want it at that precision. Their results do
not depend on the grouping. Sequences are in the order of falling length; rows of all arrays per step are concatenated.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fxp.kernels import control, rows, vector, wide
from fxp.kernels.build import helper, inlined, kernel
from fxp.kernels.vector import add32, load


class Controls(NamedTuple):
    """Controllers of a group: one kind, and addresses of everything else for each sequence."""

    kind: int
    counts: int  # int64 [G, 8]
    reals: int  # float32 [G, 4]
    plans: int  # int64 [G]: where the masks uint8 [steps, H] of step 0 are, or would be
    plan_steps: int  # int64 [G]: step after the last that has a mask
    fresh: int  # int64 [G]: 1 where the first step's mask is still to be set


class Group(NamedTuple):
    """State and workspace of a group, as addresses; H and R filled up with zeros to whole vectors."""

    count: int
    size: int  # H, filled up
    reach: int  # bytes of one sequence's activations at high precision
    low_reach: int  # and at low precision
    offsets: int  # int64 [G + 1]: rows of each sequence
    begins: int  # int64 [G]: step that its first processed row is
    h: int  # int8 [G, 64 * pairs]
    c: int  # float32 or int16 [G, H]
    low: int  # uint8 [G, H]
    words: int  # int32 [G, 4, hidden]
    source: int  # int8 [64 * pairs]: one step's x, filled up
    activations: int  # uint8 [G, reach]
    low_activations: int  # uint8 [G, low_reach]
    sums: int  # int32 [G, H, 8]
    z: int  # 4 bytes [4, H]
    order: int  # int32 [2 * (max(H, G) + 16)]
    table: int  # uint8 [256, 8]: the set bits of a byte, in order
    m: int  # int8 [64 * pairs]
    m_activations: int  # uint8 [bytes]
    m_sums: int  # int32 [R + 8]
    tally: int  # int64 [G, 2]: low element-steps, overflows; added to


class Record(NamedTuple):
    """Addresses of the features, and of where results go."""

    x: int  # int8 [rows, N]
    hidden: int  # int8 [rows, R]
    plan: int  # uint8 [rows, ceil(H / 8)]
    cell: int  # [rows, H], 0: not recorded
    accumulators: int  # int32 [rows, 2, 4H], 0: not recorded


load_rows, load_constants = vector.structure(rows.Rows), vector.structure(wide.Constants)
load_controls, load_group = vector.structure(Controls), vector.structure(Group)
# Where each begins in the parameters of a call.
CONSTANTS = 8 * len(rows.Rows._fields)
CONTROLS = CONSTANTS + 8 * len(wide.Constants._fields)
GROUP = CONTROLS + 8 * len(Controls._fields)
PARAMETERS = GROUP // 8 + len(Group._fields)


@helper
def recorded(x, hidden, plan, cell, accumulators):
    """Addresses of arrays; those of no rows are not written."""
    return Record(
        x.ctypes.data, hidden.ctypes.data, plan.ctypes.data, cell.ctypes.data if cell.shape[0] else 0,
        accumulators.ctypes.data if accumulators.shape[0] else 0,
    )  # fmt: skip


@helper
def prepare_step(shape, x, group, g):
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
def partition(flags, stride, count, order):
    """Numbers 0 to count - 1 into `order`, those with flag 0 first; returns how many those are. No branch is a coin toss."""
    first, last = np.int64(0), np.int64(count)
    for n in range(count):
        vector.store_word(order + 4 * first, n)
        vector.store_word(order + 4 * last - 4, n)
        flag = vector.load_byte(flags + n * stride)
        first += 1 - flag
        last -= flag
    return first


@inlined
def listed(order, count, table, bits, first, k):
    """Numbers k + n of the bits n that are set, to place `count` of a list; returns how many it has then."""
    vector.store(order + 4 * count, add32(vector.load_bytes(table + 8 * bits), vector.spread(np.int32(k))))
    return count + first


@inlined
def padded(order, count):
    """Repeats the last number of a list, so that one may look ahead."""
    if count:
        last = vector.load_word(order + 4 * count - 4)
        for n in range(4):
            vector.store_word(order + 4 * (count + n), last)


@inlined
def split(flags, hidden, high, low, table):
    """Numbers of elements with flag 0 and 1 into two lists; returns their lengths. Eight at a time, without a branch."""
    high_count, low_count = np.int64(0), np.int64(0)
    for k in range(0, hidden, 8):
        eight = vector.load_long(flags + k)
        bits, ones = vector.mask_of(eight), vector.ones_of(eight)
        count = min(np.int64(8), hidden - k)
        low_count = listed(low, low_count, table, bits, ones, k)
        high_count = listed(high, high_count, table, ((np.int64(1) << count) - 1) ^ bits, count - ones, k)
    padded(high, high_count)
    padded(low, low_count)
    return high_count, low_count


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


@helper
def project(shape, group, overflows):
    """Accumulators of the projection from the indices in `group.m`, into `group.m_sums`."""
    v = group.m_activations
    blocks = (shape.hidden + 15) // 16
    negative = vector.zero()
    for n in range((shape.hidden + 31) // 32):
        negative = add32(negative, rows.store_bytes(load(group.m + 32 * n), v + 64 * n))
    correction = vector.halves(vector.total32(negative), np.int32(0))
    w = shape.projection
    for p in range(0, shape.output, 4):
        a, b = rows.bytes_of_one(w, v, blocks)
        total = add32(vector.folded(a, b, vector.zero(), vector.zero()), correction)
        # Four of the eight lanes are results; the rest is overwritten or lies in the padding.
        vector.store(group.m_sums + 4 * p, rows.settled(total, shape, overflows))
        w += 64 * blocks


@helper
def store(shape, group, g, row, record, cell_bytes):
    """Plan, output, cell state and accumulators of one sequence's step."""
    hidden = shape.hidden
    flags = group.low + g * group.size
    plan_bytes = (hidden + 7) // 8
    count = np.int64(0)
    for byte in range(plan_bytes):
        eight = vector.load_long(flags + 8 * byte)
        vector.store_byte(record.plan + row * plan_bytes + byte, vector.mask_of(eight))
        count += vector.ones_of(eight)
    vector.store_long(group.tally + 16 * g, vector.load_long(group.tally + 16 * g) + count)
    vector.copy(record.hidden + row * shape.output, group.h + 64 * g * shape.h_pairs, shape.output)
    if record.cell:
        source = group.c + g * group.size * cell_bytes
        vector.copy(record.cell + row * hidden * cell_bytes, source, hidden * cell_bytes)
    if record.accumulators:
        target = record.accumulators + 32 * row * hidden
        source = group.sums + 32 * g * group.size
        for part in range(8):
            for k in range(hidden):
                vector.store_word(target + 4 * (part * hidden + k), vector.load_word(source + 32 * k + 4 * part))


@inlined
def row_of(group, g, backward, t):
    """Row of a sequence's t-th processed step in this call."""
    if backward:
        return vector.load_long(group.offsets + 8 * g + 8) - 1 - t
    return vector.load_long(group.offsets + 8 * g) + t


@helper
def enter(shape, controls, group, g, x):
    """The mask of a step whose own activations decide; x: address of its input indices."""
    control.entry_mask(
        control.counts_at(controls.counts + 64 * g), control.bytes_at(vector.load_long(controls.plans + 8 * g)),
        control.indices_at(x), control.indices_at(group.h + 64 * g * shape.h_pairs), shape.hidden,
        control.bytes_at(group.low + g * group.size),
    )  # fmt: skip


@inlined
def accumulate_step(shape, backward, t, active, controls, group, record):
    for g in range(active):
        x = record.x + row_of(group, g, backward, t) * shape.inputs
        if controls.kind == control.FORESEEN:
            enter(shape, controls, group, g, x)
        prepare_step(shape, x, group, g)
    if active == 1:
        accumulate_one(shape, group, 0, group.tally + 8)
    else:
        accumulate(shape, group, active, group.tally + 8)


@kernel
def accumulate_only(parameters, x, rounds):
    """The products of one step of all sequences with features x int8 [G, N], `rounds` times, without anything else (for
    measurements)."""
    place = parameters.ctypes.data
    shape, group = load_rows(place), load_group(place + GROUP)
    for g in range(group.count):
        prepare_step(shape, x.ctypes.data + g * shape.inputs, group, g)
    for _ in range(rounds):
        if group.count == 1:
            accumulate_one(shape, group, 0, group.tally + 8)
        else:
            accumulate(shape, group, group.count, group.tally + 8)


@kernel
def unit_only(parameters, top, rounds):
    """The multifunction unit of the first sequence's step, `rounds` times (for measurements; `float32` profile)."""
    place = parameters.ctypes.data
    shape, constants, group = load_rows(place), load_constants(place + CONSTANTS), load_group(place + GROUP)
    for _ in range(rounds):
        wide.unit_float(
            constants, shape.hidden, group.size, group.sums, group.low, group.z, group.c, group.h, np.float32(top)
        )


@inlined
def still_active(group, active, t):
    while active and row_of(group, active, False, 0) - row_of(group, active - 1, False, 0) <= t:
        active -= 1
    return active


@helper
def first_masks(shape, controls, group):
    """Masks of the first step of sequences that have none yet."""
    for g in range(group.count):
        if vector.load_long(controls.fresh + 8 * g):
            control.first_mask(
                controls.kind, control.counts_at(controls.counts + 64 * g),
                control.bytes_at(vector.load_long(controls.plans + 8 * g)), shape.hidden, 0,
                control.bytes_at(group.low + g * group.size),
            )  # fmt: skip


@kernel
def run_float(parameters, backward, top, x, hidden, plan, cell, accumulators):
    """Process all rows in the `float32` profile, those of a sequence (time positions) from the last to the first if
    `backward`.

    parameters : int64 [PARAMETERS], the fields of Rows, Constants, Controls and Group; other arrays: see `Record`
    """
    place = parameters.ctypes.data
    shape, constants = load_rows(place), load_constants(place + CONSTANTS)
    controls, group = load_controls(place + CONTROLS), load_group(place + GROUP)
    record = recorded(x, hidden, plan, cell, accumulators)
    first_masks(shape, controls, group)
    limit = np.float32(top)
    active, t = group.count, 0
    while True:
        active = still_active(group, active, t)
        if active == 0:
            break
        accumulate_step(shape, backward, t, active, controls, group, record)
        for g in range(active):
            h, c, low = group.h + 64 * g * shape.h_pairs, group.c + 4 * g * group.size, group.low + g * group.size
            m = group.m if shape.projected else h
            wide.unit_float(constants, shape.hidden, group.size, group.sums + 32 * g * group.size, low, group.z, c, m, limit)
            if shape.projected:
                project(shape, group, group.tally + 16 * g + 8)
                wide.output_float(constants, shape.output, group.m_sums, h, limit)
            store(shape, group, g, row_of(group, g, backward, t), record, 4)
            step = vector.load_long(group.begins + 8 * g) + t + 1
            if not control.has_mask(controls.kind, step, vector.load_long(controls.plan_steps + 8 * g)):
                vector.clear(low, group.size)
            else:
                control.next_mask_float(
                    controls.kind, control.counts_at(controls.counts + 64 * g), control.reals_at(controls.reals + 16 * g),
                    control.words_at(group.words + 16 * g * shape.hidden),
                    control.bytes_at(vector.load_long(controls.plans + 8 * g)),
                    control.reals_at(c), control.indices_at(h), shape.hidden, step, control.bytes_at(low),
                )  # fmt: skip
        t += 1


@kernel
def run_fixed(parameters, backward, top, x, hidden, plan, cell, accumulators):
    """Process all rows in the `fixed` profile; arguments as for `run_float`."""
    place = parameters.ctypes.data
    shape, constants = load_rows(place), load_constants(place + CONSTANTS)
    controls, group = load_controls(place + CONTROLS), load_group(place + GROUP)
    record = recorded(x, hidden, plan, cell, accumulators)
    first_masks(shape, controls, group)
    limit = np.float64(top)
    active, t = group.count, 0
    while True:
        active = still_active(group, active, t)
        if active == 0:
            break
        accumulate_step(shape, backward, t, active, controls, group, record)
        for g in range(active):
            h, c, low = group.h + 64 * g * shape.h_pairs, group.c + 2 * g * group.size, group.low + g * group.size
            m = group.m if shape.projected else h
            sums = group.sums + 32 * g * group.size
            wide.unit_fixed(constants, shape.hidden, group.size, shape.shift, sums, low, group.z, c, m, limit)
            if shape.projected:
                project(shape, group, group.tally + 16 * g + 8)
                wide.output_fixed(constants, shape.output, group.m_sums, h, limit)
            store(shape, group, g, row_of(group, g, backward, t), record, 2)
            step = vector.load_long(group.begins + 8 * g) + t + 1
            if not control.has_mask(controls.kind, step, vector.load_long(controls.plan_steps + 8 * g)):
                vector.clear(low, group.size)
            else:
                control.next_mask_fixed(
                    controls.kind, control.counts_at(controls.counts + 64 * g), control.reals_at(controls.reals + 16 * g),
                    control.words_at(group.words + 16 * g * shape.hidden),
                    control.bytes_at(vector.load_long(controls.plans + 8 * g)),
                    control.shorts_at(c), control.indices_at(h), shape.hidden, step, control.bytes_at(low),
                )  # fmt: skip
        t += 1
