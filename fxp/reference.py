"""Reference engine: one layer and direction of one sequence, slowly, in plain Python.

Written from ``docs/numerics.md`` (the sections named below) and from nothing else; it shares no code with the
fast kernels. Integers are Python integers, every binary32 step is one operation on NumPy float32 scalars,
real numbers that must be exact are fractions or decimals.
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from accel.reference import Twin

F32 = np.float32
ZERO, ONE = F32(0), F32(1)
CELL_BITS = 11
"""Fraction bits of pre-activation and cell state in the ``fixed`` profile."""


# Integers (section 1)


def clip(value: Any, least: Any, most: Any) -> Any:
    """``least`` below, ``most`` above, the value itself between."""
    return least if value < least else most if value > most else value


def saturate(value: int, bits: int) -> int:
    """The value, or the nearest end of the signed range of ``bits`` bits."""
    return clip(value, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def low_activation(index: int, high: int, low: int) -> int:
    """Low index of an activation (section 3.2)."""
    shift = high - low
    if shift == 0:
        return index
    return min((index + 2 ** (shift - 1)) >> shift, 2 ** (low - 1) - 1)


def low_weight(index: int, offset: int, high: int, low: int) -> int:
    """Low index of a weight from its high index and offset bit (section 3.2)."""
    return (index >> (high - low)) + offset


@dataclass
class Accumulator:
    """Width and overflow rule of the accumulators, and the overflows met so far (section 4.1)."""

    bits: int
    rule: str
    overflows: int = 0

    def take(self, total: int) -> int:
        """The exact sum brought to the accumulator's width."""
        half = 2 ** (self.bits - 1)
        if -half <= total <= half - 1:
            return total
        self.overflows += 1
        if self.rule == "clamp":
            return saturate(total, self.bits)
        return (total + half) % 2**self.bits - half


def product(weights: Sequence[int], indices: Sequence[int]) -> int:
    """Exact integer sum of products."""
    return sum(w * v for w, v in zip(weights, indices, strict=True))


# Profile float32 (section 5)


def constant(bits: int) -> np.float32:
    """The binary32 number of a bit pattern."""
    return np.uint32(bits).view(np.float32)


LOG2E, LN2_HI, LN2_LO = constant(0x3FB8AA3B), constant(0x3F318000), constant(0xB95E8083)
SERIES = [
    constant(bits) for bits in (0x3AB60B61, 0x3C088889, 0x3D2AAAAB, 0x3E2AAAAB, 0x3F000000, 0x3F800000, 0x3F800000)
]
"""Coefficients E6 … E0."""


def exp_float(x: np.float32) -> np.float32:
    """Exponential of an argument <= 0 (section 5.2)."""
    a = max(x, F32(-87))
    n = round(float(a * LOG2E))
    r = (a - F32(n) * LN2_HI) - F32(n) * LN2_LO
    p = SERIES[0]
    for coefficient in SERIES[1:]:
        p = p * r + coefficient
    return p * F32(2.0**n)


def sigmoid_float(z: np.float32) -> np.float32:
    """Logistic function (section 5.3)."""
    t = exp_float(-abs(z))
    return ONE / (ONE + t) if z >= 0 else t / (ONE + t)


def tanh_float(z: np.float32) -> np.float32:
    """Hyperbolic tangent (section 5.3)."""
    t = exp_float(F32(-2) * abs(z))
    y = (ONE - t) / (ONE + t)
    return -y if z < 0 else y


def index_float(value: np.float32, scale: np.float32, top: int) -> int:
    """Index of a binary32 value: the quotient by its step, clipped, then rounded to nearest even."""
    # A quotient beyond binary32 is an infinity here and clips like any other large value.
    with np.errstate(over="ignore"):
        quotient = value / scale
    return round(float(clip(quotient, F32(-top), F32(top))))


def peepholes(layer: Any, direction: int) -> list[list[np.float32]] | None:
    """Peephole weights of the gates i, f and o (section 5.3), H each; None where the layer has none."""
    if getattr(layer, "peephole", None) is None:
        return None
    hidden = layer.hidden_size
    values = [F32(value) for value in layer.peephole[direction]]
    return [values[start : start + hidden] for start in (0, hidden, 2 * hidden)]


class FloatUnit:
    """Multifunction unit of the ``float32`` profile for one layer and direction."""

    cell_type = np.float32

    def __init__(self, model: Any, layer: Any, direction: int) -> None:
        two_shifts = F32(4.0 ** (model.high - model.low))
        self.top = 2 ** (model.high - 1) - 1
        self.h_scale = F32(layer.h_scale)
        kx = [F32(scale) * F32(layer.x_scale) for scale in layer.wx_scale[direction]]
        kh = [F32(scale) * self.h_scale for scale in layer.wh_scale[direction]]
        bias = [F32(value) for value in layer.bias[direction]]
        low_bias = [F32(value) for value in layer.low_bias[direction]]
        self.rows = {
            False: list(zip(kx, kh, bias, strict=True)),
            True: [
                (x * two_shifts, h * two_shifts, b + extra)
                for x, h, b, extra in zip(kx, kh, bias, low_bias, strict=True)
            ],
        }
        self.peephole = peepholes(layer, direction)
        if layer.projected:
            self.m_scale = F32(layer.m_scale)
            self.kp = [F32(scale) * self.m_scale for scale in layer.wp_scale[direction]]

    def pre_activation(self, row: int, low: bool, ax: int, ah: int) -> np.float32:
        kx, kh, bias = self.rows[low][row]
        return (F32(ax) * kx + F32(ah) * kh) + bias

    def cell(self, k: int, z: Sequence[np.float32], c: np.float32) -> tuple[np.float32, np.float32]:
        """New cell state and the unquantised output of element k, from four pre-activations and the old cell state."""
        zi, zf, zg, zo = z
        if self.peephole is not None:
            pi, pf, po = (part[k] for part in self.peephole)
            zi, zf = zi + pi * c, zf + pf * c
        c = sigmoid_float(zf) * c + sigmoid_float(zi) * tanh_float(zg)
        if self.peephole is not None:
            zo = zo + po * c
        return c, sigmoid_float(zo) * tanh_float(c)

    def output(self, m: np.float32) -> int:
        return index_float(m, self.h_scale, self.top)

    def unprojected(self, m: np.float32) -> int:
        return index_float(m, self.m_scale, self.top)

    def projected(self, p: int, ap: int) -> int:
        return index_float(F32(ap) * self.kp[p], self.h_scale, self.top)


# Profile fixed (section 6)


def multiplier(scale: np.float32, fraction: int) -> tuple[int, int]:
    """Integer m in [2^14, 2^15) and exponent e with m / 2^e nearest to scale · 2^fraction (section 6.1)."""
    if scale == 0:
        return 0, 0
    mantissa, exponent = math.frexp(float(scale))
    m = round(mantissa * 2.0**15)
    e = 15 - exponent - fraction
    return (2**14, e - 1) if m == 2**15 else (m, e)


def signed_multiplier(value: np.float32) -> tuple[int, int]:
    """The multiplier of a value of either sign: that of its magnitude, m with its sign (section 6.5)."""
    m, e = multiplier(abs(value), 0)
    return (-m if value < 0 else m), e


def scaled(a: int, m: int, e: int) -> int:
    """a · m / 2^e rounded to nearest, ties upward, saturated to 32 bits (section 6.1)."""
    return saturate(math.floor(a * m / Fraction(2) ** e + Fraction(1, 2)), 32)


def bias_fixed(bias: np.float32) -> int:
    """A bias with 11 fraction bits, ties to even, saturated to 32 bits (section 6.1)."""
    return saturate(round(Fraction(float(bias)) * 2**CELL_BITS), 32)


@cache
def tanh_table() -> tuple[int, ...]:
    """The 1,025 entries of section 6.3: tanh over [−8, 8] in steps of 1/64, with 15 fraction bits."""
    entries = []
    with decimal.localcontext() as context:
        context.prec = 50
        for j in range(1025):
            power = (decimal.Decimal(2 * (j - 512)) / 64).exp()
            exact = 32768 * (power - 1) / (power + 1)
            nearest = int(exact.to_integral_value(decimal.ROUND_HALF_EVEN))
            entries.append(clip(nearest, -32767, 32767))
    return tuple(entries)


def interpolate(position: int, bits: int) -> int:
    """Linear interpolation in the table at ``position`` with ``bits`` fraction bits (section 6.4)."""
    table = tanh_table()
    j = position >> bits
    d = position - j * 2**bits
    return table[j] + (((table[j + 1] - table[j]) * d + 2 ** (bits - 1)) >> bits)


def tanh_fixed(z: int) -> int:
    """tanh of z with 11 fraction bits, with 15 fraction bits (section 6.4)."""
    return interpolate(clip(z, -16384, 16383) + 16384, 5)


def sigmoid_fixed(z: int) -> int:
    """Logistic function of z with 11 fraction bits, with 15 fraction bits (section 6.4)."""
    return (32768 + interpolate(z + 32768, 6)) >> 1


class FixedUnit:
    """Multifunction unit of the ``fixed`` profile for one layer and direction."""

    cell_type = np.int16

    def __init__(self, model: Any, layer: Any, direction: int) -> None:
        two_shifts = 2 * (model.high - model.low)
        self.top = 2 ** (model.high - 1) - 1
        h_scale = F32(layer.h_scale)
        x = [multiplier(F32(s) * F32(layer.x_scale), CELL_BITS) for s in layer.wx_scale[direction]]
        h = [multiplier(F32(s) * h_scale, CELL_BITS) for s in layer.wh_scale[direction]]
        bias = [F32(value) for value in layer.bias[direction]]
        low_bias = [b + F32(extra) for b, extra in zip(bias, layer.low_bias[direction], strict=True)]
        self.rows = {
            False: [(x[r], h[r], bias_fixed(bias[r])) for r in range(len(bias))],
            True: [
                ((x[r][0], x[r][1] - two_shifts), (h[r][0], h[r][1] - two_shifts), bias_fixed(low_bias[r]))
                for r in range(len(bias))
            ],
        }
        weights = peepholes(layer, direction)
        self.peephole = None
        if weights is not None:
            self.peephole = [[signed_multiplier(p) for p in part] for part in weights]
        if layer.projected:
            m_scale = F32(layer.m_scale)
            self.to_m = multiplier(F32(2.0**-15) / m_scale, 0)
            self.to_p = [multiplier(F32(s) * m_scale / h_scale, 0) for s in layer.wp_scale[direction]]
        else:
            self.to_h = multiplier(F32(2.0**-15) / h_scale, 0)

    def pre_activation(self, row: int, low: bool, ax: int, ah: int) -> int:
        x, h, bias = self.rows[low][row]
        return saturate(scaled(ax, *x) + scaled(ah, *h) + bias, 16)

    def cell(self, k: int, z: Sequence[int], c: int) -> tuple[int, int]:
        """New cell state and the unquantised output of element k, from four pre-activations and the old cell state."""
        zi, zf, zg, zo = z
        if self.peephole is not None:
            pi, pf, po = (part[k] for part in self.peephole)
            zi, zf = saturate(zi + scaled(c, *pi), 16), saturate(zf + scaled(c, *pf), 16)
        i, f, g = sigmoid_fixed(zi), sigmoid_fixed(zf), tanh_fixed(zg)
        c = saturate((f * c + ((i * g + 8) >> 4) + 2**14) >> 15, 16)
        if self.peephole is not None:
            zo = saturate(zo + scaled(c, *po), 16)
        return c, (sigmoid_fixed(zo) * tanh_fixed(c) + 2**14) >> 15

    def output(self, m: int) -> int:
        return clip(scaled(m, *self.to_h), -self.top, self.top)

    def unprojected(self, m: int) -> int:
        return clip(scaled(m, *self.to_m), -self.top, self.top)

    def projected(self, p: int, ap: int) -> int:
        return clip(scaled(ap, *self.to_p[p]), -self.top, self.top)


# Layers (sections 3, 4 and 8)


def quantise_input(layer: Any, x: np.ndarray, high: int) -> list[list[int]]:
    """High indices of the features of one sequence (section 3.1).

    Parameters
    ----------
    layer : traces.Layer
        Layer 0 of the model: gives ``input_scale`` [N] and ``x_scale``.
    x : float32 [time, N]
        Finite features.
    high : int
        Bits of the high precision.
    """
    top = 2 ** (high - 1) - 1
    x_scale = F32(layer.x_scale)
    rows = []
    for features in x:
        row = []
        for feature, input_scale in zip(features, layer.input_scale, strict=True):
            # As in index_float: an infinite quotient is defined and clips.
            with np.errstate(over="ignore"):
                u = F32(feature) / F32(input_scale)
            row.append(index_float(u, x_scale, top))
        rows.append(row)
    return rows


@dataclass
class LayerResult:
    """What one layer and direction made of one sequence; arrays in the order of time positions.

    Attributes
    ----------
    low : bool [time, H]
        True where the element's step ran at low precision.
    cell : float32 or int16 [time, H]
        Cell state; int16 with 11 fraction bits in the ``fixed`` profile.
    hidden : int8 [time, R]
        Output indices.
    accumulators : int32 [time, 2, 4H]
        x part and h part of every gate row.
    overflow : int
        Sums that left the range of their accumulator, the projection's included.
    state : dict
        After the last processed step: ``h`` (R ints), ``c`` (H np.float32 or ints), ``mask`` (H bools, True
        low, of the step that would follow).
    """

    low: np.ndarray
    cell: np.ndarray
    hidden: np.ndarray
    accumulators: np.ndarray
    overflow: int
    state: dict[str, list]


Matrix = list[list[int]]


def both_precisions(index: np.ndarray, offset: np.ndarray, high: int, low: int) -> dict[bool, Matrix]:
    """Rows of a stored weight matrix as high (False) and low (True) indices."""
    rows = [[int(value) for value in row] for row in index]
    return {
        False: rows,
        True: [
            [low_weight(value, int(bit), high, low) for value, bit in zip(row, bits, strict=True)]
            for row, bits in zip(rows, offset, strict=True)
        ],
    }


def run_layer(
    model: Any,
    index: int,
    direction: int,
    x: Sequence[Sequence[int]],
    controller: Twin,
    state: dict | None = None,
) -> LayerResult:
    """Run one layer and direction over one sequence, or over a piece of it (section 4).

    Parameters
    ----------
    model : traces.Model
        Quantised model: ``high``, ``low``, ``profile``, ``accumulator_bits``, ``overflow`` and ``layers``.
    index, direction : int
        Layer from 0; 0 forward, 1 backward.
    x : int [time, N]
        High indices of the inputs in the order of time positions.
    controller : Twin
        Twin of the controller, already restored when ``state`` is given.
    state : dict, optional
        ``h``, ``c`` and ``mask`` as in ``LayerResult.state``, to continue a stream.
    """
    layer = model.layers[index]
    high, low = model.high, model.low
    hidden, size = layer.hidden_size, layer.output_size
    unit: Any = (FixedUnit if model.profile == "fixed" else FloatUnit)(model, layer, direction)
    wx = both_precisions(layer.wx_index[direction], layer.wx_offset[direction], high, low)
    wh = both_precisions(layer.wh_index[direction], layer.wh_offset[direction], high, low)
    wp = [[int(value) for value in row] for row in layer.wp_index[direction]] if layer.projected else []
    accumulator = Accumulator(model.accumulator_bits, model.overflow)

    if state is None:
        h = [0] * size
        c = [0 if model.profile == "fixed" else ZERO] * hidden
        mask = controller.first()
    else:
        h, mask = [int(v) for v in state["h"]], [bool(v) for v in state["mask"]]
        c = [int(v) if model.profile == "fixed" else F32(v) for v in state["c"]]

    steps = len(x)
    result = LayerResult(
        low=np.zeros((steps, hidden), bool),
        cell=np.zeros((steps, hidden), unit.cell_type),
        hidden=np.zeros((steps, size), np.int8),
        accumulators=np.zeros((steps, 2, 4 * hidden), np.int32),
        overflow=0,
        state={},
    )
    for step in range(steps):
        position = steps - 1 - step if direction else step
        inputs = {False: [int(v) for v in x[position]]}
        outputs = {False: h}
        mask = controller.enter(mask, inputs[False], h)
        for source in (inputs, outputs):
            source[True] = [low_activation(value, high, low) for value in source[False]]
        new_c, m = [], []
        for k in range(hidden):
            is_low = mask[k]
            z = []
            for row in (k, hidden + k, 2 * hidden + k, 3 * hidden + k):
                ax = accumulator.take(product(wx[is_low][row], inputs[is_low]))
                ah = accumulator.take(product(wh[is_low][row], outputs[is_low]))
                result.accumulators[position, :, row] = ax, ah
                z.append(unit.pre_activation(row, is_low, ax, ah))
            cell, unquantised = unit.cell(k, z, c[k])
            new_c.append(cell)
            m.append(unquantised)
        if layer.projected:
            u = [unit.unprojected(value) for value in m]
            h = [unit.projected(p, accumulator.take(product(wp[p], u))) for p in range(size)]
        else:
            h = [unit.output(value) for value in m]
        c = new_c
        result.low[position], result.cell[position], result.hidden[position] = mask, c, h
        mask = controller.step(c, h)
    result.overflow = accumulator.overflows
    result.state = {"h": h, "c": c, "mask": mask}
    return result
