"""The time loop with AVX2: a group of sequences in lock-step through one direction of one layer.

The sequences decide on their own; each row is fetched once for all of a group that want it at that precision. Their results do
not depend on the grouping. Sequences are in the order of falling length; rows of all arrays per step are concatenated.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fxp.kernels import control, rows, vector, wide
from fxp.kernels.build import inlined, kernel
from fxp.kernels.vector import address, load


class Controls(NamedTuple):
    """Controllers of a group: one kind, everything else for each sequence."""

    kind: int
    counts: np.ndarray  # int64 [G, 8]
    reals: np.ndarray  # float32 [G, 4]
    plans: np.ndarray  # int64 [G]: address of uint8 [steps, H]
    plan_steps: np.ndarray  # int64 [G]


class Group(NamedTuple):
    """State and workspace of a group; H and R padded with zeros to whole vectors."""

    offsets: np.ndarray  # int64 [G + 1]: rows of each sequence
    begins: np.ndarray  # int64 [G]: step that the first row is
    h: np.ndarray  # int8 [G, 64 * pairs]
    c: np.ndarray  # float32 or int16 [G, H]
    low: np.ndarray  # uint8 [G, H]
    words: np.ndarray  # int32 [G, 4, hidden]
    source: np.ndarray  # int8 [64 * pairs]: one step's x, filled up
    activations: np.ndarray  # uint8 [G, bytes]
    sums: np.ndarray  # int32 [G, H, 8]
    order: np.ndarray  # int32 [max(H, G) + 8]
    m: np.ndarray  # int8 [64 * pairs]
    m_activations: np.ndarray  # uint8 [bytes]
    m_sums: np.ndarray  # int32 [R]


class Record(NamedTuple):
    """Where results go; arrays of no rows are not written."""

    hidden: np.ndarray  # int8 [rows, R]
    plan: np.ndarray  # uint8 [rows, ceil(H / 8)]
    cell: np.ndarray  # [rows or 0, H]
    accumulators: np.ndarray  # int32 [rows or 0, 2, 4H]
    counts: np.ndarray  # int64 [G, 2]: low element-steps, overflows; added to


@inlined
def prepare_step(shape, x, row, group, g):
    """Activations of one sequence's step at both precisions."""
    for j in range(shape.inputs):
        group.source[j] = x[row, j]
    high = address(group.activations) + g * group.activations.shape[1] + 64
    low = high + rows.low_start(shape)
    low_pair = 64 if shape.nibbles else 128
    x_sums = rows.expand(address(group.source), shape.x_pairs, high, low, shape)
    h_sums = rows.expand(
        address(group.h) + g * group.h.shape[1],
        shape.h_pairs,
        high + 128 * shape.x_pairs,
        low + low_pair * shape.x_pairs,
        shape,
    )
    vector.store(high - 32, vector.halves(x_sums[0], h_sums[0]))
    vector.store(low - 32, vector.halves(np.int32(x_sums[1]), np.int32(h_sums[1])))


@inlined
def accumulate_one(shape, group, g, overflows):
    """All accumulators of one sequence: first the high elements, then the low ones, so that no branch is a coin toss."""
    hidden = shape.hidden
    order, low = group.order, group.low
    first, last = 0, hidden
    for k in range(hidden):
        order[first] = k
        order[last - 1] = k
        is_low = np.int64(low[g, k])
        first += 1 - is_low
        last -= is_low
    v = address(group.activations) + g * group.activations.shape[1] + 64
    out = address(group.sums) + g * group.sums.shape[1] * 32
    stride = 128 * (shape.x_blocks + shape.h_blocks)
    base = address(shape.high)
    for n in range(first):
        k = np.int64(order[n])
        total = rows.high_element(base + k * stride, v, shape)
        vector.store(out + 32 * k, rows.settled(total, shape, overflows))
    v += rows.low_start(shape)
    base = address(shape.low)
    if shape.nibbles:
        stride = 128 * (shape.x_pairs + shape.h_pairs)
        terms = address(shape.low_terms)
        for n in range(first, hidden):
            k = np.int64(order[n])
            total = rows.low_element(base + k * stride, v, terms + 32 * k, shape)
            vector.store(out + 32 * k, rows.settled(total, shape, overflows))
    else:
        for n in range(first, hidden):
            k = np.int64(order[n])
            total = rows.high_element(base + k * stride, v, shape)
            vector.store(out + 32 * k, rows.settled(total, shape, overflows))


@inlined
def accumulate(shape, group, active, overflows):
    """All accumulators of the first `active` sequences; overflows: address of the first one's count, 16 bytes apart."""
    hidden = shape.hidden
    order, low = group.order, group.low
    v = address(group.activations) + 64
    reach = group.activations.shape[1]
    out = address(group.sums)
    span = group.sums.shape[1] * 32
    high_stride = 128 * (shape.x_blocks + shape.h_blocks)
    low_stride = 128 * (shape.x_pairs + shape.h_pairs) if shape.nibbles else high_stride
    start = v + rows.low_start(shape)
    for k in range(hidden):
        first, last = 0, active
        for g in range(active):
            order[first] = g
            order[last - 1] = g
            is_low = np.int64(low[g, k])
            first += 1 - is_low
            last -= is_low
        w = address(shape.high) + k * high_stride
        place = out + 32 * k
        for n in range(0, first - 1, 2):
            a, b = np.int64(order[n]), np.int64(order[n + 1])
            one, two = rows.high_element_of_two(w, v + a * reach, v + b * reach, shape)
            vector.store(place + a * span, rows.settled(one, shape, overflows + 16 * a))
            vector.store(place + b * span, rows.settled(two, shape, overflows + 16 * b))
        if first & 1:
            a = np.int64(order[first - 1])
            vector.store(place + a * span, rows.settled(rows.high_element(w, v + a * reach, shape), shape, overflows + 16 * a))
        w = address(shape.low) + k * low_stride
        terms = address(shape.low_terms) + 32 * k
        if shape.nibbles:
            for n in range(first, active - 1, 2):
                a, b = np.int64(order[n]), np.int64(order[n + 1])
                one, two = rows.low_element_of_two(w, start + a * reach, start + b * reach, terms, shape)
                vector.store(place + a * span, rows.settled(one, shape, overflows + 16 * a))
                vector.store(place + b * span, rows.settled(two, shape, overflows + 16 * b))
            if (active - first) & 1:
                a = np.int64(order[active - 1])
                total = rows.low_element(w, start + a * reach, terms, shape)
                vector.store(place + a * span, rows.settled(total, shape, overflows + 16 * a))
        else:
            for n in range(first, active):
                a = np.int64(order[n])
                total = rows.high_element(w, start + a * reach, shape)
                vector.store(place + a * span, rows.settled(total, shape, overflows + 16 * a))


@inlined
def project(shape, group, overflows):
    """Accumulators of the projection from the indices in `group.m`, into `group.m_sums`."""
    v = address(group.m_activations)
    negative = np.int32(0)
    for n in range((shape.hidden + 31) // 32):
        negative += rows.store_bytes(load(address(group.m) + 32 * n), v + 64 * n)
    correction = vector.halves(np.int32(negative), np.int32(0))
    blocks = (shape.hidden + 31) // 32
    w = address(shape.projection)
    nothing = vector.zero()
    for p in range(0, shape.output, 4):
        a, b, c, d = rows.byte_rows(w, v, blocks)
        total = vector.add32(vector.sums(a, b, c, d, nothing, nothing, nothing, nothing), correction)
        # Four of the eight lanes are results; the rest is overwritten or lies in the padding.
        vector.store(address(group.m_sums) + 4 * p, rows.settled(total, shape, overflows))
        w += 128 * blocks


@inlined
def store(shape, group, g, row, record):
    """Plan, cell state and accumulators of one sequence's step."""
    hidden = shape.hidden
    low = address(group.low) + g * group.low.shape[1]
    plan = address(record.plan) + row * record.plan.shape[1]
    count = 0
    for byte in range(record.plan.shape[1]):
        flags = vector.load_long(low + 8 * byte)
        # Eight bytes of 0 or 1 to bits, and to their number, by one multiplication each: no two products meet.
        vector.store_byte(plan + byte, ((flags * np.int64(0x0102040810204080)) >> 56) & 255)
        count += (flags * np.int64(0x0101010101010101)) >> 56
    record.counts[g, 0] += count
    for p in range(shape.output):
        record.hidden[row, p] = group.h[g, p]
    if record.cell.shape[0]:
        for k in range(hidden):
            record.cell[row, k] = group.c[g, k]
    if record.accumulators.shape[0]:
        for part in range(2):
            for gate in range(4):
                for k in range(hidden):
                    record.accumulators[row, part, gate * hidden + k] = group.sums[g, k, 4 * part + gate]


@inlined
def accumulate_step(shape, x, backward, t, active, group, record):
    for g in range(active):
        prepare_step(shape, x, group.offsets[g + 1] - 1 - t if backward else group.offsets[g] + t, group, g)
    if active == 1:
        accumulate_one(shape, group, 0, address(record.counts) + 8)
    else:
        accumulate(shape, group, active, address(record.counts) + 8)


@inlined
def still_active(group, active, t):
    while active and group.offsets[active] - group.offsets[active - 1] <= t:
        active -= 1
    return active


@kernel
def run_float(x, backward, shape, constants, top, controls, group, record):
    """Process all rows in the `float32` profile. x : int8 [rows, N]; rows of a sequence are time positions, processed from the
    last to the first if `backward`. `group` and `record` are written."""
    projected = shape.projection.size > 0
    limit = np.float32(top)
    active, t = group.c.shape[0], 0
    while True:
        active = still_active(group, active, t)
        if active == 0:
            break
        accumulate_step(shape, x, backward, t, active, group, record)
        for g in range(active):
            h = address(group.h) + g * group.h.shape[1]
            m = address(group.m) if projected else h
            wide.unit_float(constants, shape.hidden, group, g, m, limit)
            if projected:
                project(shape, group, address(record.counts) + 16 * g + 8)
                wide.output_float(constants, shape.output, address(group.m_sums), h, limit)
            store(shape, group, g, group.offsets[g + 1] - 1 - t if backward else group.offsets[g] + t, record)
            step = group.begins[g] + t + 1
            # A schedule has no mask beyond its last step, and none is needed there.
            if not (controls.kind == 2 and step >= controls.plan_steps[g]):
                control.next_mask_float(
                    controls.kind, control.counts_at(address(controls.counts) + 64 * g),
                    control.reals_at(address(controls.reals) + 16 * g),
                    control.words_at(address(group.words) + 16 * g * shape.hidden), control.bytes_at(controls.plans[g]),
                    control.reals_at(address(group.c) + 4 * g * group.c.shape[1]), control.indices_at(h), shape.hidden, step,
                    control.bytes_at(address(group.low) + g * group.low.shape[1]),
                )  # fmt: skip
        t += 1


@kernel
def run_fixed(x, backward, shape, constants, top, controls, group, record):
    """Process all rows in the `fixed` profile; arguments as for `run_float`."""
    projected = shape.projection.size > 0
    limit = np.float64(top)
    active, t = group.c.shape[0], 0
    while True:
        active = still_active(group, active, t)
        if active == 0:
            break
        accumulate_step(shape, x, backward, t, active, group, record)
        for g in range(active):
            h = address(group.h) + g * group.h.shape[1]
            m = address(group.m) if projected else h
            wide.unit_fixed(constants, shape.hidden, shape.shift, group, g, m, limit)
            if projected:
                project(shape, group, address(record.counts) + 16 * g + 8)
                wide.output_fixed(constants, shape.output, address(group.m_sums), h, limit)
            store(shape, group, g, group.offsets[g + 1] - 1 - t if backward else group.offsets[g] + t, record)
            step = group.begins[g] + t + 1
            if not (controls.kind == 2 and step >= controls.plan_steps[g]):
                control.next_mask_fixed(
                    controls.kind, control.counts_at(address(controls.counts) + 64 * g),
                    control.reals_at(address(controls.reals) + 16 * g),
                    control.words_at(address(group.words) + 16 * g * shape.hidden), control.bytes_at(controls.plans[g]),
                    control.shorts_at(address(group.c) + 2 * g * group.c.shape[1]), control.indices_at(h), shape.hidden, step,
                    control.bytes_at(address(group.low) + g * group.low.shape[1]),
                )  # fmt: skip
        t += 1
