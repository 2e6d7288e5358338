"""The time loop of the vector kernels: a group of sequences in lock-step through one direction of one layer.

The sequences decide on their own; each row is fetched once for all of a group that want it at that precision. Their results do
not depend on the grouping. Sequences are in the order of falling length; rows of all arrays per step are concatenated.

Threads may form a team: in each step every one of them has some elements of all sequences, from their products to their outputs, and
some whole sequences before and after that. They wait for each other in between.

How a step's products are formed is left to one module for each instruction set (`fxp.kernels.avx2`, `fxp.kernels.vnni`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fxp.kernels import control, meeting, rows, vector, wide
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
    m: int  # int8 [G, m_reach]: output indices before a projection; without one they are those in h
    m_reach: int
    m_activations: int  # uint8 [bytes]
    m_sums: int  # int32 [R + 8]
    tally: int  # int64 [G]: low element-steps; added to
    overflows: int  # int64 [G]: those this thread met; added to
    rank: int  # which thread of its team this one is
    team: int  # threads that share the work of each step
    meeting: int  # int64: where they wait for each other
    ahead: int  # steps whose x parts are formed at once (tiles only, as what follows)
    alone: int  # 1: there is but one sequence
    wanted: int  # precisions that any step asks for, as `fxp.kernels.amx` names them
    wide: int  # bytes of a column of sums: 16 H, filled up
    x_reach: int  # bytes from the sums of high precision to those of low precision
    h_reach: int
    x_high: int  # int8 [columns, 64 * pairs]
    x_low: int
    h_low: int  # int8 [G, 64 * pairs]
    x_sums: int  # int32 [2, columns, wide / 4]: high and low precision
    h_sums: int  # int32 [2, G, wide / 4]
    ring: int  # int8 [2, blocks, 2048]: low weights that have been unpacked
    configuration: int  # of the tiles


class Record(NamedTuple):
    """Addresses of the features, and of where results go."""

    x: int  # int8 [rows, N]
    hidden: int  # int8 [rows, R]
    plan: int  # uint8 [rows, ceil(H / 8)]
    cell: int  # [rows, H], 0: not recorded
    accumulators: int  # int32 [rows, 2, 4H], 0: not recorded


BLOCK = 64  # elements

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


@inlined
def all_here(group):
    """Waits for the other threads of the team."""
    if group.team > 1:
        meeting.meet(group.meeting, group.team)


@inlined
def share(count, unit, group):
    """First of this thread's things and the one after its last, from a multiple of `unit` on: about as many as the others have."""
    units = (count + unit - 1) // unit
    return unit * (units * group.rank // group.team), min(count, unit * (units * (group.rank + 1) // group.team))


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
def split(flags, start, stop, high, low, table):
    """Numbers of elements with flag 0 and 1 into two lists, those from `start`, a multiple of 8, to `stop`; returns their lengths.
    Eight at a time, without a branch."""
    high_count, low_count = np.int64(0), np.int64(0)
    for k in range(start, stop, 8):
        eight = vector.load_long(flags + k)
        bits, ones = vector.mask_of(eight), vector.ones_of(eight)
        count = min(np.int64(8), stop - k)
        low_count = listed(low, low_count, table, bits, ones, k)
        high_count = listed(high, high_count, table, ((np.int64(1) << count) - 1) ^ bits, count - ones, k)
    padded(high, high_count)
    padded(low, low_count)
    return high_count, low_count


@inlined
def both_lists(byte_elements, nibble_elements, shape, group, start, stop, out):
    """The sums of the only sequence's elements from `start` to `stop`: first the high elements, then the low ones.

    byte_elements, nibble_elements : functions of an instruction set, for a padded list of elements
    """
    order = group.order
    low_order = order + 4 * (group.size + 16)
    high_count, low_count = split(group.low, start, min(stop, shape.hidden), order, low_order, group.table)
    v, low_v = group.activations + 64, group.low_activations + 64
    byte_elements(shape, order, high_count, shape.high, shape.high_stride, shape.high_terms, v, out)
    low, stride, terms = shape.low, shape.low_stride, shape.low_terms
    if shape.nibbles:
        nibble_elements(shape, low_order, low_count, low, stride, terms, low_v, out)
    else:
        byte_elements(shape, low_order, low_count, low, stride, terms, low_v, out)


@helper
def project(shape, group, m, overflows):
    """Accumulators of the projection from the indices at address m, into `group.m_sums`."""
    v = group.m_activations
    blocks = (shape.hidden + 15) // 16
    negative = vector.zero()
    for n in range((shape.hidden + 31) // 32):
        negative = add32(negative, rows.store_bytes(load(m + 32 * n), v + 64 * n))
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
    vector.store_long(group.tally + 8 * g, vector.load_long(group.tally + 8 * g) + count)
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
def enter_all(prepare, shape, backward, t, active, controls, group, record):
    """The masks of a step that decides itself, of this thread's sequences; the activations of all.

    Each thread has activations of its own: to fetch what another processor has just written takes longer. The threads
    wait for each other where h is: a projection's is written before, by `leave`; otherwise it is there since the unit of the
    step before, and is overwritten by the unit of this one.
    """
    if controls.kind == control.FORESEEN:
        for g in range(group.rank, active, group.team):
            enter(shape, controls, group, g, record.x + row_of(group, g, backward, t) * shape.inputs)
    if shape.projected:
        all_here(group)
    for g in range(active):
        prepare(shape, record.x + row_of(group, g, backward, t) * shape.inputs, group, g)
    if not shape.projected:
        all_here(group)


@inlined
def settle(shape, group, g, t, start, stop):
    """Brings a sequence's sums of the elements from `start` to `stop` to the accumulator's width."""
    if shape.overflow:
        for k in range(start, stop):
            place = group.sums + 32 * (g * group.size + k)
            vector.store(place, rows.settled(load(place), shape, group.overflows + 8 * g))


@inlined
def gates_from_sums(shape, constants, group, g, t, record, start, stop):
    """A sequence's pre-activations from its sums (`float32` profile)."""
    settle(shape, group, g, t, start, stop)
    wide.gates_float(
        constants, start, stop, group.size, group.sums + 32 * g * group.size, group.low + g * group.size, group.z
    )


@inlined
def unit_float(gates, shape, constants, group, g, t, top, record, start, stop):
    """The multifunction unit for a sequence's elements from `start` to `stop`.

    gates : function of an instruction set that makes pre-activations of a sequence's sums
    """
    gates(shape, constants, group, g, t, record, start, stop)
    c, m = group.c + 4 * g * group.size, group.m + g * group.m_reach
    wide.states_float(constants, start, stop, group.size, group.z, c, m, np.float32(top))


@inlined
def unit_fixed(settle, shape, constants, group, g, t, top, record, start, stop):
    """The same in the `fixed` profile.

    settle : function of an instruction set that brings a sequence's sums into `group.sums`, and to their width
    """
    settle(shape, group, g, t, start, stop)
    sums, flags = group.sums + 32 * g * group.size, group.low + g * group.size
    c, m = group.c + 2 * g * group.size, group.m + g * group.m_reach
    wide.unit_fixed(constants, start, stop, group.size, shape.shift, sums, flags, group.z, c, m, np.float64(top))


def _mask_of(decide, cells_at):
    """The mask of a sequence's next step by a profile's controllers."""

    @inlined
    def next_mask(controls, g, words, c, h, hidden, step, low):
        decide(
            controls.kind, control.counts_at(controls.counts + 64 * g), control.reals_at(controls.reals + 16 * g),
            control.words_at(words), control.bytes_at(vector.load_long(controls.plans + 8 * g)),
            cells_at(c), control.indices_at(h), hidden, step, control.bytes_at(low),
        )  # fmt: skip

    return next_mask


mask_float = _mask_of(control.next_mask_float, control.reals_at)
mask_fixed = _mask_of(control.next_mask_fixed, control.shorts_at)


@inlined
def block_of(group, active, start, stop):
    """How many elements are formed before the unit has them: several sequences' sums should still be in the first-level cache."""
    return BLOCK if active > 1 and group.ahead == 0 else max(stop - start, 1)


@kernel
def unit_only(parameters, top, rounds):
    """The multifunction unit of the first sequence's step, `rounds` times (for measurements; `float32` profile)."""
    place = parameters.ctypes.data
    constants, group = load_constants(place + CONSTANTS), load_group(place + GROUP)
    for _ in range(rounds):
        wide.gates_float(constants, 0, group.size, group.size, group.sums, group.low, group.z)
        wide.states_float(constants, 0, group.size, group.size, group.z, group.c, group.h, np.float32(top))


@inlined
def still_active(group, active, t):
    while active and row_of(group, active, False, 0) - row_of(group, active - 1, False, 0) <= t:
        active -= 1
    return active


@helper
def first_masks(shape, controls, group):
    """Masks of the first step of sequences that have none yet."""
    for g in range(group.rank, group.count, group.team):
        if vector.load_long(controls.fresh + 8 * g):
            control.first_mask(
                controls.kind, control.counts_at(controls.counts + 64 * g),
                control.bytes_at(vector.load_long(controls.plans + 8 * g)), shape.hidden, 0,
                control.bytes_at(group.low + g * group.size),
            )  # fmt: skip


@inlined
def leave(shape, constants, controls, group, record, g, t, row, top, output, next_mask, cell_bytes):
    """What comes after the states of a sequence's step: the projection, the results, and the next step's mask."""
    h, c, low = group.h + 64 * g * shape.h_pairs, group.c + cell_bytes * g * group.size, group.low + g * group.size
    if shape.projected:
        project(shape, group, group.m + g * group.m_reach, group.overflows + 8 * g)
        output(constants, shape.output, group.m_sums, h, top)
    store(shape, group, g, row, record, cell_bytes)
    step = vector.load_long(group.begins + 8 * g) + t + 1
    if control.has_mask(controls.kind, step, vector.load_long(controls.plan_steps + 8 * g)):
        next_mask(controls, g, group.words + 16 * g * shape.hidden, c, h, shape.hidden, step, low)
    else:
        vector.clear(low, group.size)


@inlined
def steps(
    prepare, form, unit, part, output, next_mask, cell_bytes, parameters, backward, top, x, hidden, plan, cell,
    accumulators,
):  # fmt: skip
    """Process all rows, those of a sequence (time positions) from the last to the first if `backward`.

    prepare : function of an instruction set that prepares a sequence's activations of a step
    form : function of an instruction set that forms the sums of a step, for some elements
    unit, output, next_mask, cell_bytes : functions of a profile, and bytes of a cell state
    part : function of an instruction set that `unit` takes first
    parameters : int64 [PARAMETERS], the fields of Rows, Constants, Controls and Group; other arrays: see `Record`
    """
    place = parameters.ctypes.data
    shape, constants = load_rows(place), load_constants(place + CONSTANTS)
    controls, group = load_controls(place + CONTROLS), load_group(place + GROUP)
    record = recorded(x, hidden, plan, cell, accumulators)
    first_masks(shape, controls, group)
    start, stop = share(group.size, 16, group)
    active, t = group.count, np.int64(0)  # a literal would have every function that gets it compiled twice
    while True:
        active = still_active(group, active, t)
        if active == 0:
            break
        enter_all(prepare, shape, backward, t, active, controls, group, record)
        k, block = start, block_of(group, active, start, stop)
        while k < stop:
            end = min(k + block, stop)
            form(shape, backward, t, active, group, record, k, end)
            for g in range(active):
                unit(part, shape, constants, group, g, t, top, record, k, end)
            k = end
        all_here(group)
        for g in range(group.rank, active, group.team):
            row = row_of(group, g, backward, t)
            leave(shape, constants, controls, group, record, g, t, row, top, output, next_mask, cell_bytes)
        t += 1


@inlined
def steps_float(prepare, form, gates, parameters, backward, top, x, hidden, plan, cell, accumulators):
    """`steps` in the `float32` profile."""
    steps(
        prepare, form, unit_float, gates, wide.output_float, mask_float, 4, parameters, backward, top, x, hidden, plan,
        cell, accumulators,
    )  # fmt: skip


@inlined
def steps_fixed(prepare, form, settle, parameters, backward, top, x, hidden, plan, cell, accumulators):
    """`steps` in the `fixed` profile."""
    steps(
        prepare, form, unit_fixed, settle, wide.output_fixed, mask_fixed, 2, parameters, backward, top, x, hidden, plan,
        cell, accumulators,
    )  # fmt: skip
