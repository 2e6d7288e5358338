"""The time loop in plain compiled loops, for every machine and pair of widths.

One call runs a piece of one sequence through one direction of one layer. All arrays are prepared by `fxp.prepare`;
layouts: weights `[hidden, 4, inputs]` int8 (the four gate rows of an element together), per-row constants `[4,
hidden]`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fxp.kernels import control, unit
from fxp.kernels.build import helper, kernel
from fxp.kernels.control import pointer, pointer_before


class Weights(NamedTuple):
    """Indices of one direction of a layer; int8."""

    x_high: np.ndarray  # [H, 4, N]
    x_low: np.ndarray  # [H, 4, N]
    h_high: np.ndarray  # [H, 4, R]
    h_low: np.ndarray  # [H, 4, R]
    projection: np.ndarray  # [R, H]; [0, H] without a projection


class FloatUnit(NamedTuple):
    """Constants of the `float32` profile, index 0 high and 1 low precision; float32."""

    x_scale: np.ndarray  # [2, 4, H]
    h_scale: np.ndarray  # [2, 4, H]
    bias: np.ndarray  # [2, 4, H]
    output: np.ndarray  # [2]: step of h (unprojected, where there is a projection), step of the projected h
    projection: np.ndarray  # [R]
    peephole: np.ndarray  # [3, H] of i, f, o; [0, H] without peepholes


class FixedUnit(NamedTuple):
    """Constants of the `fixed` profile: multipliers and exponents as [.., 2] int64 pairs."""

    x_scale: np.ndarray  # [2, 4, H, 2]
    h_scale: np.ndarray  # [2, 4, H, 2]
    bias: np.ndarray  # [2, 4, H] int64
    output: np.ndarray  # [2]: of the first quantisation of h
    projection: np.ndarray  # [R, 2]
    peephole: np.ndarray  # [3, H, 2] of i, f, o; [0, H, 2] without peepholes
    table: np.ndarray  # [1025] int16


class Control(NamedTuple):
    """A controller as `accel.controllers.encode` gives it."""

    kind: int
    counts: np.ndarray
    reals: np.ndarray
    plan: np.ndarray
    first: int  # step of the plan's first row


class State(NamedTuple):
    """What a sequence carries from step to step; updated in place."""

    h: np.ndarray  # int8 [R]
    c: np.ndarray  # float32 or int16 [H]
    low: np.ndarray  # uint8 [H]: mask of the next step
    words: np.ndarray  # int32 [4, H]: the controller's


class Record(NamedTuple):
    """Where results go; arrays of no rows are not written. Rows are time positions."""

    hidden: np.ndarray  # int8 [T, R]
    plan: np.ndarray  # uint8 [T, ceil(H / 8)]
    cell: np.ndarray  # [T or 0, H]
    accumulators: np.ndarray  # int32 [T or 0, 2, 4H]
    counts: np.ndarray  # int64 [2]: low element-steps, overflows; added to


class Widths(NamedTuple):
    """Integers of the formats."""

    shift: int  # high - low
    top: int  # largest high index
    low_top: int  # largest low index
    accumulator_bits: int
    clamp: bool


@helper
def dot(weights, values):
    """Exact integer product of two int8 vectors (sizes up to 65,536 keep it in 32 bits)."""
    total = np.int32(0)
    for j in range(values.size):
        total = np.int32(total + np.int32(np.int32(weights[j]) * np.int32(values[j])))
    return total


@helper
def to_width(total, widths, counts):
    """A finished sum brought to the accumulator's width; an overflow is counted."""
    value = np.int64(total)
    half = np.int64(1) << np.int64(widths.accumulator_bits - 1)
    if value < -half or value >= half:
        counts[1] += 1
        if widths.clamp:
            return np.int32(-half if value < 0 else half - 1)
        value = ((value + half) & ((half << 1) - 1)) - half
    return np.int32(value)


@helper
def lower(values, widths, out):
    """Low indices of activations."""
    shift = np.int32(widths.shift)
    half = np.int32((1 << widths.shift) >> 1)
    for j in range(values.size):
        v = (np.int32(values[j]) + half) >> shift
        out[j] = np.int8(min(v, np.int32(widths.low_top)))


@helper
def accumulate(weights, widths, low, x, x_low, h, h_low, ax, ah, counts):
    """Both accumulators of all rows; `ax`, `ah` int32 [4, H]."""
    for k in range(low.size):
        for gate in range(4):
            if low[k]:
                sx, sh = dot(weights.x_low[k, gate], x_low), dot(weights.h_low[k, gate], h_low)
            else:
                sx, sh = dot(weights.x_high[k, gate], x), dot(weights.h_high[k, gate], h)
            ax[gate, k] = to_width(sx, widths, counts)
            ah[gate, k] = to_width(sh, widths, counts)


@helper
def project(weights, widths, m, sums, counts):
    for p in range(sums.size):
        sums[p] = to_width(dot(weights.projection[p], m), widths, counts)


@helper
def pack(low, row, counts):
    """The mask as bits, little order; low elements are counted."""
    for byte in range(row.size):
        bits = np.uint8(0)
        for bit in range(min(8, low.size - 8 * byte)):
            value = low[8 * byte + bit]
            bits |= np.uint8(value << bit)
            counts[0] += value
        row[byte] = bits


@helper
def unit_float(constants, low, ax, ah, c, m):
    """Cell state and unprojected output (before quantisation) of all elements."""
    peepholes = constants.peephole.shape[0] > 0
    for k in range(low.size):
        p = 1 if low[k] else 0
        zi = (np.float32(ax[0, k]) * constants.x_scale[p, 0, k] + np.float32(ah[0, k]) * constants.h_scale[p, 0, k]) + constants.bias[p, 0, k]
        zf = (np.float32(ax[1, k]) * constants.x_scale[p, 1, k] + np.float32(ah[1, k]) * constants.h_scale[p, 1, k]) + constants.bias[p, 1, k]
        zg = (np.float32(ax[2, k]) * constants.x_scale[p, 2, k] + np.float32(ah[2, k]) * constants.h_scale[p, 2, k]) + constants.bias[p, 2, k]
        zo = (np.float32(ax[3, k]) * constants.x_scale[p, 3, k] + np.float32(ah[3, k]) * constants.h_scale[p, 3, k]) + constants.bias[p, 3, k]
        if peepholes:
            zi = zi + constants.peephole[0, k] * c[k]
            zf = zf + constants.peephole[1, k] * c[k]
        state = unit.sigmoid(zf) * c[k] + unit.sigmoid(zi) * unit.tanh(zg)
        c[k] = state
        if peepholes:
            zo = zo + constants.peephole[2, k] * state
        m[k] = unit.sigmoid(zo) * unit.tanh(state)


@helper
def preactivation_fixed(constants, p, gate, k, ax, ah):
    x = constants.x_scale[p, gate, k]
    h = constants.h_scale[p, gate, k]
    return unit.saturate16(unit.scaled(ax[gate, k], x[0], x[1]) + unit.scaled(ah[gate, k], h[0], h[1]) + constants.bias[p, gate, k])


@helper
def peephole_fixed(z, c, pair):
    return unit.saturate16(z + unit.scaled(c, pair[0], pair[1]))


@helper
def unit_fixed(constants, low, ax, ah, c, m):
    table = constants.table
    peepholes = constants.peephole.shape[0] > 0
    for k in range(low.size):
        p = 1 if low[k] else 0
        zi = preactivation_fixed(constants, p, 0, k, ax, ah)
        zf = preactivation_fixed(constants, p, 1, k, ax, ah)
        zo = preactivation_fixed(constants, p, 3, k, ax, ah)
        before = np.int64(c[k])
        if peepholes:
            zi = peephole_fixed(zi, before, constants.peephole[0, k])
            zf = peephole_fixed(zf, before, constants.peephole[1, k])
        i, f = unit.sigmoid_fixed(table, zi), unit.sigmoid_fixed(table, zf)
        g = unit.tanh_fixed(table, preactivation_fixed(constants, p, 2, k, ax, ah))
        state = unit.cell_fixed(f, before, i, g)
        c[k] = np.int16(state)
        if peepholes:
            zo = peephole_fixed(zo, state, constants.peephole[2, k])
        o = unit.sigmoid_fixed(table, zo)
        m[k] = np.int16((o * unit.tanh_fixed(table, state) + 16384) >> 15)


@helper
def store(record, position, low, c, ax, ah):
    pack(low, record.plan[position], record.counts)
    if record.cell.shape[0]:
        record.cell[position, :] = c
    if record.accumulators.shape[0]:
        record.accumulators[position, 0, :] = ax.reshape(ax.size)
        record.accumulators[position, 1, :] = ah.reshape(ah.size)


@helper
def enter(controller, state, x):
    """The mask of a step whose own activations decide."""
    if controller.kind == control.FORESEEN:
        control.entry_mask(
            pointer(controller.counts), pointer(controller.plan), pointer(x), pointer(state.h), state.low.size,
            pointer(state.low),
        )  # fmt: skip


@kernel
def run_float(x, backward, step, weights, widths, constants, controller, state, record):
    """A piece of a sequence in the `float32` profile.

    x : int8 [T, N], time positions; backward : whether they are processed from the last to the first; step : index
    of the first
    processed step. `state` and `record` are written.
    """
    steps, hidden = x.shape[0], state.c.size
    x_low, h_low = np.empty(x.shape[1], np.int8), np.empty(state.h.size, np.int8)
    ax, ah = np.empty((4, hidden), np.int32), np.empty((4, hidden), np.int32)
    m, m_index = np.empty(hidden, np.float32), np.empty(hidden, np.int8)
    projected = weights.projection.shape[0] > 0
    sums = np.empty(weights.projection.shape[0], np.int32)
    top = np.float32(widths.top)
    for t in range(steps):
        position = steps - 1 - t if backward else t
        enter(controller, state, x[position])
        lower(x[position], widths, x_low)
        lower(state.h, widths, h_low)
        accumulate(weights, widths, state.low, x[position], x_low, state.h, h_low, ax, ah, record.counts)
        unit_float(constants, state.low, ax, ah, state.c, m)
        if projected:
            for k in range(hidden):
                m_index[k] = unit.to_index(m[k], constants.output[0], top)
            project(weights, widths, m_index, sums, record.counts)
            for p in range(sums.size):
                state.h[p] = unit.to_index(np.float32(sums[p]) * constants.projection[p], constants.output[1], top)
        else:
            for k in range(hidden):
                state.h[k] = unit.to_index(m[k], constants.output[0], top)
        record.hidden[position, :] = state.h
        store(record, position, state.low, state.c, ax, ah)
        if control.has_mask(controller.kind, step + t + 1, controller.first + controller.plan.shape[0]):
            control.next_mask_float(
                controller.kind, pointer(controller.counts), pointer(controller.reals), pointer(state.words),
                pointer_before(controller.plan, controller.first * hidden),
                pointer(state.c), pointer(state.h), hidden, step + t + 1, pointer(state.low),
            )  # fmt: skip
        else:
            state.low[:] = 0


@kernel
def run_fixed(x, backward, step, weights, widths, constants, controller, state, record):
    """A piece of a sequence in the `fixed` profile; arguments as for `run_float`."""
    steps, hidden = x.shape[0], state.c.size
    x_low, h_low = np.empty(x.shape[1], np.int8), np.empty(state.h.size, np.int8)
    ax, ah = np.empty((4, hidden), np.int32), np.empty((4, hidden), np.int32)
    m, m_index = np.empty(hidden, np.int16), np.empty(hidden, np.int8)
    projected = weights.projection.shape[0] > 0
    sums = np.empty(weights.projection.shape[0], np.int32)
    top = np.int64(widths.top)
    step_m = constants.output
    for t in range(steps):
        position = steps - 1 - t if backward else t
        enter(controller, state, x[position])
        lower(x[position], widths, x_low)
        lower(state.h, widths, h_low)
        accumulate(weights, widths, state.low, x[position], x_low, state.h, h_low, ax, ah, record.counts)
        unit_fixed(constants, state.low, ax, ah, state.c, m)
        if projected:
            for k in range(hidden):
                m_index[k] = unit.to_index_fixed(m[k], step_m[0], step_m[1], top)
            project(weights, widths, m_index, sums, record.counts)
            for p in range(sums.size):
                state.h[p] = unit.to_index_fixed(sums[p], constants.projection[p, 0], constants.projection[p, 1], top)
        else:
            for k in range(hidden):
                state.h[k] = unit.to_index_fixed(m[k], step_m[0], step_m[1], top)
        record.hidden[position, :] = state.h
        store(record, position, state.low, state.c, ax, ah)
        if control.has_mask(controller.kind, step + t + 1, controller.first + controller.plan.shape[0]):
            control.next_mask_fixed(
                controller.kind, pointer(controller.counts), pointer(controller.reals), pointer(state.words),
                pointer_before(controller.plan, controller.first * hidden),
                pointer(state.c), pointer(state.h), hidden, step + t + 1, pointer(state.low),
            )  # fmt: skip
        else:
            state.low[:] = 0


@kernel
def begin(controller, state, step):
    """The mask of the first step into `state.low`."""
    control.first_mask(
        controller.kind, pointer(controller.counts), pointer(controller.plan), state.low.size, step, pointer(state.low)
    )


@kernel
def quantise_input(x, input_scale, x_scale, top, out):
    """Indices of layer 0's features (`docs/numerics.md`, 3.1). x : float32 [T, N]; out : int8 [T, N]."""
    for t in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[t, j] = unit.to_index(x[t, j] / input_scale[j], x_scale, top)
